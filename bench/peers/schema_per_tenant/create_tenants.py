"""Creates tenants, one for each name on stdin, and answers with the seconds that each took.

The process stays, as a worker of such a project would: what is imported once is not measured.
"""

import os
import sys
import time
from pathlib import Path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

import django  # noqa: E402

django.setup()

from customers.models import Client, Domain  # noqa: E402
from django.db import connection, transaction  # noqa: E402
from django_tenants.utils import tenant_context  # noqa: E402

SEEDS = [path.read_text() for path in sorted(Path(os.environ["SEED_DIRECTORY"]).glob("seed/**/*.sql"))]
CHECKS = [path.read_text() for path in sorted(Path(os.environ["SEED_DIRECTORY"]).glob("verify/**/*.sql"))]
PARAMETERS = """
    select set_config('tenantry.tenant_id', %s, true), set_config('tenantry.tenant_url', %s, true),
           set_config('tenantry.organization_id', %s, true), set_config('tenantry.organization_name', %s, true),
           set_config('tenantry.source', 'workos', true)
"""


def create(name: str) -> None:
    client = Client(schema_name=name, name=name, org_id=f"org_{name}")
    # makes the schema and runs the migrations in it
    client.save(verbosity=0)
    domain = f"{name}.example.com"
    Domain.objects.create(domain=domain, tenant=client, is_primary=True)
    with tenant_context(client), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(PARAMETERS, [str(client.pk), domain, client.org_id, name])
        for script in SEEDS:
            cursor.execute(script)
        for script in CHECKS:
            cursor.execute(script)
            problem = cursor.fetchone()
            if problem:
                raise RuntimeError(problem)
    client.initialize = True
    client.save(verbosity=0)


for line in sys.stdin:
    started = time.perf_counter()
    create(line.strip())
    print(time.perf_counter() - started, flush=True)
