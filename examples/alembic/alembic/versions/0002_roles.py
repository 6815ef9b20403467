"""What people may do."""

import sqlalchemy as sa
from alembic import op

revision = "0002_roles"
down_revision = "0001_users"


def upgrade() -> None:
    op.create_table(
        "roles",
        sa.Column("slug", sa.Text, primary_key=True),
        sa.Column("title", sa.Text, nullable=False),
    )
    op.add_column("users", sa.Column("role", sa.Text, sa.ForeignKey("roles.slug")))
