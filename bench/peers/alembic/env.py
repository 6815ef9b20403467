"""Alembic's environment for one tenant's database: the URL is given by the caller, or by the environment.

psycopg: the faster of the drivers for this.
"""

import os

from alembic import context
from sqlalchemy import create_engine, pool

url = context.config.attributes.get("url") or os.environ["DATABASE_URL"]
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"), poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, version_table=context.config.get_main_option("version_table"))
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
