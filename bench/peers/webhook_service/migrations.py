"""Alembic in a process of its own: its context is global, so that two databases at once in one process break."""

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import settings


def warm_up() -> None:
    """Imports in a fresh process what every migration needs."""
    import psycopg  # noqa: F401
    import sqlalchemy.dialects.postgresql.psycopg  # noqa: F401


def upgrade(url: str, revision: str) -> str:
    """Brings a database to a revision; returns the newest one."""
    config = Config(settings.ALEMBIC_INI)
    config.attributes["url"] = url
    command.upgrade(config, revision)
    return ScriptDirectory.from_config(config).get_current_head() or ""
