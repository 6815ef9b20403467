"""Alembic over a fleet: in a pool of processes, and as the command in a loop."""

import sys
from collections.abc import Iterable
from pathlib import Path

from .. import processes, work
from ..work import Script

DIRECTORY = work.BENCH / "peers" / "alembic"
# one a processor; more only take memory
PROCESSES = 2
REVISION = '''"""{name}"""

from alembic import op

revision = {number!r}
down_revision = {before!r}

SQL = {text!r}


def upgrade() -> None:
    # as it is: no parameters, several statements
    op.get_bind().exec_driver_sql(SQL, execution_options={{"no_parameters": True}})
'''


def write_revisions(versions: Path, scripts: Iterable[Script]) -> None:
    """Adds revisions that run these scripts, each after the one with the number before."""
    for script in scripts:
        before = int(script.number) - 1
        text = REVISION.format(
            name=script.name, number=script.number, before=f"{before:04}" if before else None, text=script.text
        )
        (versions / f"{script.name}.py").write_text(text)


def write_project(directory: Path, version_table: str = "alembic_version") -> Path:
    """An Alembic project with the blueprint's migrations; returns its configuration file."""
    versions = directory / "versions"
    versions.mkdir(parents=True)
    (directory / "env.py").write_text((DIRECTORY / "env.py").read_text())
    write_revisions(versions, work.migrations())
    ini = directory / "alembic.ini"
    ini.write_text(f"[alembic]\nscript_location = {directory}\nversion_table = {version_table}\n")
    return ini


class Fleet:
    """A project with a ledger of its own in each database."""

    def __init__(self, directory: Path, name: str):
        self.name = name
        self.directory = directory / name
        self.ini = write_project(self.directory, name)
        newest = work.migrations()[-1].number
        self.ledger = (
            f"create table {name} (version_num varchar(32) primary key); insert into {name} values ('{newest}');"
        )

    def release(self, number: int) -> None:
        write_revisions(self.directory / "versions", [work.release(self.name, number)])


class Pool(Fleet):
    """Alembic's programmatic interface in a pool of processes: the fastest way that there is."""

    def migrate(self, urls: list[str]) -> None:
        command = [sys.executable, str(DIRECTORY / "fleet.py"), str(self.ini), "head", str(PROCESSES)]
        processes.run(command, stdin="\n".join(urls))


class Loop(Fleet):
    """`alembic upgrade head` for one database after the other, as a shell script has it."""

    def migrate(self, urls: list[str]) -> None:
        command = [sys.executable, "-m", "alembic", "--config", str(self.ini), "upgrade", "head"]
        for url in urls:
            processes.run(command, {"DATABASE_URL": url})
