"""Runs the revisions in the database that DATABASE_URL names."""

import os

from alembic import context
from sqlalchemy import create_engine, pool

# SQLAlchemy goes by the driver's name
URL = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)


def run() -> None:
    engine = create_engine(URL, poolclass=pool.NullPool)
    with engine.connect() as connection:
        # each revision commits by itself: one that fails leaves those before it
        context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


run()
