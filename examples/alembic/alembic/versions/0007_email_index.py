"""Looking people up by address, built without blocking writers."""

import sqlalchemy as sa
from alembic import op

revision = "0007_email_index"
down_revision = "0006_display_name"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # what a build that was broken off left is no index
        op.execute("drop index concurrently if exists users_by_email")
        op.create_index("users_by_email", "users", [sa.text("lower(email)")], postgresql_concurrently=True)
