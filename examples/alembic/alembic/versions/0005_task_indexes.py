"""Lists of tasks are asked for by project and by person."""

import sqlalchemy as sa
from alembic import op

revision = "0005_task_indexes"
down_revision = "0004_tasks"


def upgrade() -> None:
    op.create_index("tasks_by_project", "tasks", ["project_id", "state"])
    op.create_index("tasks_by_assignee", "tasks", ["assignee_id"], postgresql_where=sa.text("state <> 'done'"))
