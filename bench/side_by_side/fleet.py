"""One additive migration over many databases, and the same command once more with nothing to do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from . import work
from .figures import Aim, Contest, Side, in_turns, seconds_of
from .processes import Failed
from .run import Run
from .sides import alembic, by_hand, dbmate
from .sides.django import Django
from .sides.tenantry import Tenantry, has_command

TENANTRY, POOL, LOOP = "tenantry fleet migrate", "Alembic, a pool of 2 processes", "alembic upgrade, in a loop"
DBMATE, DJANGO, HAND = "dbmate, in a loop", "django-tenants, 2 processes", "by hand, 4 connections"
AIMS = [Aim(TENANTRY, POOL, 2.5), Aim(TENANTRY, LOOP, 30), Aim(TENANTRY, DJANGO, 7)]


@dataclass
class Keeper:
    """Somebody who keeps a fleet: how many databases, how it gets a release, and the command."""

    side: Side
    count: int
    release: Callable[[int], None]
    migrate: Callable[[], None]
    # whether a release is really there
    has_release: Callable[[int], bool]


class Fleet:
    """Databases at the blueprint's version: tenantry's tenants, schemas, and those that the other tools share."""

    def __init__(self, run: Run):
        self.run = run
        self.keepers = []
        self.missing = "" if has_command(run.program, "fleet") else "this tenantry has no fleet command"
        if not self.missing:
            self.add_tenantry()
        self.add_tools()
        self.add_django()

    def add_tenantry(self) -> None:
        count = self.run.sizes.fleet
        tenantry = Tenantry(self.run.program, self.run.postgres, self.run.directory, "fleet", 0)
        self.run.keep(tenantry)
        self.run.say(f"{count} tenants of tenantry")
        tenantry.make_many(count)
        databases = [self.run.postgres.url(name) for name in tenantry.databases()]
        side = Side(TENANTRY, "tenantry")
        check = self.check_of("tenantry", databases)
        self.keepers.append(Keeper(side, count, tenantry.release, tenantry.migrate, check))

    def add_tools(self) -> None:
        sizes, directory = self.run.sizes, self.run.directory
        tools = [
            (POOL, alembic.Pool(directory, "alembic_pool"), sizes.fleet),
            (LOOP, alembic.Loop(directory, "alembic_loop"), sizes.alembic_loop),
            (DBMATE, dbmate.Loop(directory), sizes.dbmate),
            (HAND, by_hand.Fleet(), sizes.fleet),
        ]
        self.run.say(f"{sizes.fleet} databases for the other tools")
        urls = self.make_databases("".join(tool.ledger for _, tool, _ in tools))
        for name, tool, count in tools:
            side = Side(name, "floor" if name == HAND else "peer", self.subset(count))
            mine = urls[:count]
            check = self.check_of(tool.name, mine)
            self.keepers.append(Keeper(side, count, tool.release, partial(tool.migrate, mine), check))

    def add_django(self) -> None:
        count = self.run.sizes.schemas
        project = Django(self.run.postgres, self.run.directory, "schemas")
        self.run.keep(project)
        self.run.say(f"{count} schemas of django-tenants")
        for _ in range(count):
            project.make_one()

        def has_release(number: int) -> bool:
            query = "select count(*) from pg_tables where tablename = %s"
            return self.run.postgres.rows(query, (f"deal_moves_django_{number}",), project.name) == [(count,)]

        self.keepers.append(
            Keeper(Side(DJANGO, "peer", self.subset(count)), count, project.release, project.migrate, has_release)
        )

    def make_databases(self, ledgers: str) -> list[str]:
        """Databases with the blueprint's tables and every tool's ledger; they belong to a role without special rights."""
        postgres, names = self.run.postgres, [f"kept_{number:04}" for number in range(self.run.sizes.fleet)]
        owner = postgres.make_login("kept")
        with postgres.connect("kept") as connection:
            connection.execute("set role kept")
            for script in (*work.migrations(), *work.scripts("seed/shared")):
                connection.execute(script.text)
            connection.execute(ledgers)
        postgres.clone("kept", names, "kept")
        return [f"{owner.rpartition('/')[0]}/{name}" for name in names]

    def subset(self, count: int) -> str:
        return "" if count == self.run.sizes.fleet else f"measured over {count}"

    def check_of(self, label: str, urls: list[str]) -> Callable[[int], bool]:
        """Whether the first and the last of these databases have a release."""

        def has_release(number: int) -> bool:
            query = "select to_regclass(%s) is not null"
            values = (f"deal_moves_{label}_{number}",)
            return all(self.run.postgres.rows_at(url, query, values) == [(True,)] for url in (urls[0], urls[-1]))

        return has_release

    def measure(self) -> list[Contest]:
        """A release for everybody, in turns; after each, the same command with nothing to do."""
        idle = {keeper.side.name: Side(keeper.side.name, keeper.side.kind, keeper.side.note) for keeper in self.keepers}
        for round_ in range(self.run.sizes.rounds):
            for keeper in in_turns(self.keepers, round_):
                self.run.say(f"fleet, round {round_ + 1}: {keeper.side.name}")
                keeper.release(round_ + 1)
                self.run.postgres.checkpoint()
                keeper.side.values.append(keeper.count / seconds_of(keeper.migrate))
                if not keeper.has_release(round_ + 1):
                    raise Failed(f"{keeper.side.name} did not migrate its databases")
                if keeper.side.kind != "floor":
                    idle[keeper.side.name].values.append(keeper.count / seconds_of(keeper.migrate))
        missing = [Side(TENANTRY, "tenantry", missing=self.missing)] if self.missing else []
        sides = missing + [keeper.side for keeper in self.keepers]
        count = self.run.sizes.fleet
        about = (
            "A release with one additive migration: a column with a check and an index, and a table with foreign keys and "
            "an index. Databases a second, of the whole command from start to exit. tenantry's makes a new template first, "
            "and compares every database with it."
        )
        nothing = "The same command once more. The others ask every database what it is on; tenantry takes the word of the tenant's row and of its cluster, which must agree, and records a result for each tenant."
        idle_sides = missing + [side for side in idle.values() if side.kind != "floor"]
        return [
            Contest("fleet", f"One migration over {count} databases", "databases/s", about, sides, AIMS),
            Contest("fleet_idle", f"Nothing to do in {count} databases", "databases/s", nothing, idle_sides),
        ]
