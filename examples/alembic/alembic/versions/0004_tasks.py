"""The work."""

import sqlalchemy as sa
from alembic import op

revision = "0004_tasks"
down_revision = "0003_projects"


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("project_id", sa.BigInteger, sa.ForeignKey("projects.id", ondelete="CASCADE"), nullable=False),
        sa.Column("assignee_id", sa.BigInteger, sa.ForeignKey("users.id")),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False, server_default="open"),
        sa.CheckConstraint("state in ('open', 'doing', 'done')", name="tasks_state"),
    )
