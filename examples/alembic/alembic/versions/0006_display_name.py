"""One name instead of two: the rows move with it."""

import sqlalchemy as sa
from alembic import op

revision = "0006_display_name"
down_revision = "0005_task_indexes"


def upgrade() -> None:
    op.add_column("users", sa.Column("display_name", sa.Text))
    op.execute("update users set display_name = trim(first_name || ' ' || last_name)")
    op.alter_column("users", "display_name", nullable=False, server_default="")
    op.drop_column("users", "first_name")
    op.drop_column("users", "last_name")
