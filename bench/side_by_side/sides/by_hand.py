"""A tenant, and a fleet, by hand: the statements and nothing else.

Guarantees: a tenant by hand is a database of its own with its login role, seeded and checked.
Does not: receive an event, keep a queue, or know what was done before.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import psycopg

from .. import work
from ..postgres import Postgres

TEMPLATE = "hand_template"
HANDS = 4
PASSWORD = "of_the_bench"


def together(items: Iterable, act: Callable) -> float:
    """Seconds that some hands take for all items, each with one at a time."""
    with ThreadPoolExecutor(HANDS) as hands:
        # the threads are there before the clock starts
        list(hands.map(lambda _: time.sleep(0.01), range(HANDS)))
        started = time.perf_counter()
        list(hands.map(act, items))
        return time.perf_counter() - started


class Tenants:
    """Tenants that are clones of a template made beforehand."""

    def __init__(self, postgres: Postgres):
        self.postgres = postgres
        self.numbers = itertools.count(1)
        self.maintenance = None

    def start(self) -> None:
        self.maintenance = self.postgres.connect("postgres")
        self.maintenance.execute("create role hand_owner; create role hand_app")
        self.maintenance.execute(f"create database {TEMPLATE} owner hand_owner")
        with self.postgres.connect(TEMPLATE) as connection:
            connection.execute("set role hand_owner")
            for script in (*work.migrations(), *work.scripts("seed/shared")):
                connection.execute(script.text)
            connection.execute("grant select, insert, update, delete on all tables in schema public to hand_app")
        self.maintenance.execute(f"alter database {TEMPLATE} is_template true")

    def stop(self) -> None:
        if self.maintenance:
            self.maintenance.close()

    def make_one(self) -> float:
        started = time.perf_counter()
        self.make(self.maintenance)
        return time.perf_counter() - started

    def make_many(self, count: int) -> float:
        connections = [self.postgres.connect("postgres") for _ in range(HANDS)]
        free = list(connections)

        def make(_: int) -> None:
            maintenance = free.pop()
            self.make(maintenance)
            free.append(maintenance)

        taken = together(range(count), make)
        for connection in connections:
            connection.close()
        return taken

    def make(self, maintenance: psycopg.Connection) -> None:
        name = f"hand_{next(self.numbers)}"
        maintenance.execute(f"create database {name} template {TEMPLATE} owner hand_owner")
        maintenance.execute(
            f"""revoke all on database {name} from public;
                create role {name} login password '{PASSWORD}' connection limit 50;
                grant hand_app to {name};
                grant connect on database {name} to {name}"""
        )
        with self.postgres.connect(name) as connection:
            connection.execute("begin; set local role hand_owner")
            connection.execute(work.parameters(f"org_{name}", "By hand", name))
            for script in work.scripts("seed/tenant"):
                connection.execute(script.text)
            for script in work.scripts("verify"):
                if problem := connection.execute(script.text).fetchone():
                    raise AssertionError(problem)
            connection.execute("commit")
        # its role can log in
        psycopg.connect(self.postgres.url(name, name, PASSWORD)).close()

    def drop_tenants(self) -> None:
        self.postgres.drop(self.postgres.databases("hand_"))


class Fleet:
    """Connect, one transaction, next: by some hands at once."""

    name = "by_hand"
    ledger = ""

    def __init__(self):
        self.script = None

    def release(self, number: int) -> None:
        self.script = work.release(self.name, number)

    def migrate(self, urls: list[str]) -> None:
        together(urls, self.migrate_one)

    def migrate_one(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"begin; {self.script.text} commit")
