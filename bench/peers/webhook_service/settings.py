"""What the service is told by its environment."""

import os

DATABASE_URL = os.environ["DATABASE_URL"]
SECRET = os.environ["WORKOS_WEBHOOK_SECRET"].encode()
# an Alembic project, and the SQL that a new database gets after it
ALEMBIC_INI = os.environ.get("ALEMBIC_INI", "")
SEED_DIRECTORY = os.environ.get("SEED_DIRECTORY", "")
# connections of one API process: more than it has would mean a handshake per request
CONNECTIONS = int(os.environ.get("CONNECTIONS", "16"))

TOLERANCE_S = 300
LEASE_S = 30
MAX_ATTEMPTS = 3
JOBS_AT_ONCE = 4
MIGRATION_PROCESSES = 2


def tenant_url(database: str) -> str:
    return f"{DATABASE_URL.rpartition('/')[0]}/{database}"
