"""A revision of Alembic over many databases: what `tenantry fleet migrate` adds to the user's own program.

Both sides run the same command, `alembic upgrade`, for the same project (`examples/alembic`), as many at once.
"""

import json
import shutil
import sys
from pathlib import Path

from . import processes, work
from .figures import Aim, Contest, Side, in_turns, seconds_of
from .processes import Failed
from .run import Run
from .sides.by_hand import together
from .sides.tenantry import Tenantry

PROJECT = work.BENCH.parent / "examples" / "alembic"
NEWEST = "0008_comments"
TENANTRY, HAND = "tenantry fleet migrate", "alembic upgrade by hand, 4 at once"
REVISION = '''"""Release {number}."""

from alembic import op

revision = "{this}"
down_revision = "{before}"


def upgrade() -> None:
    op.execute("create table release_{number} (id bigint primary key, task_id bigint references tasks (id))")
    op.execute("alter table tasks add column release_{number} text")
'''


def name_of(release: int) -> str:
    return f"{8 + release:04}_release_{release}" if release else NEWEST


def write_release(project: Path, number: int) -> None:
    text = REVISION.format(number=number, this=name_of(number), before=name_of(number - 1))
    written = project / "written.py"
    written.write_text(text)
    # whole or not at all
    written.rename(project / "alembic" / "versions" / f"{name_of(number)}.py")


class ByHand:
    """Databases at the newest revision, and a command for each."""

    def __init__(self, run: Run):
        self.project = run.directory / "alembic_by_hand"
        shutil.copytree(PROJECT, self.project)
        owner = run.postgres.make_login("revised")
        self.migrate_one(owner)
        names = [f"revised_{number:04}" for number in range(run.sizes.revised)]
        run.postgres.clone("revised", names, "revised")
        self.urls = [f"{owner.rpartition('/')[0]}/{name}" for name in names]

    def migrate_one(self, url: str) -> None:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        processes.run(command, {"DATABASE_URL": url}, self.project)

    def release(self, number: int) -> None:
        write_release(self.project, number)

    def migrate(self) -> None:
        together(self.urls, self.migrate_one)


class ByTenantry:
    """Tenants whose blueprint is the same project."""

    def __init__(self, run: Run):
        blueprint = run.directory / "revised_blueprint"
        shutil.copytree(PROJECT, blueprint)
        settings = blueprint / "blueprint.toml"
        python = f"python = {json.dumps([sys.executable])}"
        settings.write_text(settings.read_text().replace('python = ["python3"]', python))
        self.tenantry = Tenantry(run.program, run.postgres, run.directory, "revising", 0, blueprint=blueprint)
        run.keep(self.tenantry)
        self.tenantry.make_many(run.sizes.revised)
        self.urls = [run.postgres.url(name) for name in self.tenantry.databases()]

    def release(self, number: int) -> None:
        write_release(self.tenantry.blueprint, number)

    def migrate(self) -> None:
        self.tenantry.migrate()


def measure(run: Run) -> Contest:
    """A revision for everybody, in turns."""
    count = run.sizes.revised
    run.say(f"{count} databases of an Alembic project, twice")
    keepers: list[tuple[Side, ByTenantry | ByHand]] = [
        (Side(TENANTRY, "tenantry"), ByTenantry(run)),
        (Side(HAND, "floor"), ByHand(run)),
    ]
    for round_ in range(run.sizes.rounds):
        for side, keeper in in_turns(keepers, round_):
            run.say(f"Alembic, round {round_ + 1}: {side.name}")
            keeper.release(round_ + 1)
            run.postgres.checkpoint()
            side.values.append(count / seconds_of(keeper.migrate))
            if not has_release(run, keeper.urls, round_ + 1):
                raise Failed(f"{side.name} did not migrate its databases")
    about = (
        "One revision of the user's own Alembic project (`examples/alembic`), a process per database, as many at once. "
        "Databases a second. What tenantry adds: a template, a role for the program, the comparison with the template, and "
        "a record of each."
    )
    sides = [side for side, _ in keepers]
    # at most 1.1 times as long
    return Contest(
        "fleet_alembic", f"A revision of Alembic over {count} databases", "databases/s", about, sides, [Aim(TENANTRY, HAND, 0.91)]
    )


def has_release(run: Run, urls: list[str], number: int) -> bool:
    query, values = "select to_regclass(%s) is not null", (f"release_{number}",)
    return all(run.postgres.rows_at(url, query, values) == [(True,)] for url in (urls[0], urls[-1]))
