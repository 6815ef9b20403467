"""django-tenants: one database with a schema per tenant."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .. import processes, work
from ..postgres import Postgres
from ..processes import Service
from ..work import Script

DIRECTORY = work.BENCH / "peers" / "schema_per_tenant"
MIGRATION = '''"""{name}"""

from django.db import migrations

SQL = {text!r}


class Migration(migrations.Migration):
    dependencies = {dependencies!r}
    operations = [migrations.RunSQL(SQL, migrations.RunSQL.noop)]
'''


class Django:
    """A project with its database, and a process that creates tenants in it."""

    def __init__(self, postgres: Postgres, directory: Path, name: str):
        self.name = name
        self.directory = directory / name
        self.migrations = self.directory / "crm_migrations"
        self.migrations.mkdir(parents=True)
        (self.migrations / "__init__.py").touch()
        self.write(work.migrations())
        # schemas are made by whoever may create in the database: its owner
        self.environment = {
            "DATABASE_URL": postgres.make_login(name),
            "SEED_DIRECTORY": str(work.BLUEPRINT),
            "PYTHONPATH": f"{DIRECTORY}:{self.directory}:{os.environ['PYTHONPATH']}",
        }
        self.tenants = 0
        self.service = None

    def write(self, scripts: Iterable[Script]) -> None:
        for script in scripts:
            before = sorted(path.stem for path in self.migrations.glob("0*.py"))[-1:]
            text = MIGRATION.format(name=script.name, text=script.text, dependencies=[("crm", it) for it in before])
            (self.migrations / f"{script.name}.py").write_text(text)

    def start(self) -> None:
        self.manage("migrate_schemas", "--shared", "--verbosity=0")
        command = processes.with_parent([sys.executable, str(DIRECTORY / "create_tenants.py")])
        self.service = Service(command, self.environment, self.directory, "create.answers")

    def stop(self) -> None:
        if self.service:
            self.service.stop()

    def make_one(self) -> float:
        self.tenants += 1
        return float(self.service.ask(f"t_{self.tenants}"))

    def release(self, number: int) -> None:
        self.write([work.release("django", number)])

    def migrate(self) -> None:
        """Brings every schema to the newest migration, in two processes."""
        self.manage("migrate_schemas", "--tenant", "--executor=multiprocessing", "--verbosity=0")

    def manage(self, *arguments: str) -> None:
        processes.run([sys.executable, str(DIRECTORY / "manage.py"), *arguments], self.environment, self.directory)
