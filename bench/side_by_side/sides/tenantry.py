"""tenantry, as a user runs it: `tenantry serve` with its environment, and the commands of its fleet."""

import base64
import secrets
import shutil
import subprocess
from pathlib import Path

from .. import deliveries, processes, work
from ..postgres import Postgres
from ..processes import Failed, Service
from .readiness import Readiness


def has_command(program: Path, name: str) -> bool:
    """Whether this tenantry has a command."""
    done = subprocess.run([program, name, "--help"], capture_output=True)
    return done.returncode == 0


def version(program: Path) -> str:
    return processes.run([str(program), "--version"]).strip()


class Tenantry:
    """A replica with a control database of its own; `pool` is how many databases it keeps ready, if it can."""

    def __init__(
        self,
        program: Path,
        postgres: Postgres,
        directory: Path,
        prefix: str,
        pool: int,
        roles: str = "api,worker",
        blueprint: Path = work.BLUEPRINT,
    ):
        self.program, self.postgres, self.prefix, self.pool, self.roles = program, postgres, prefix, pool, roles
        self.directory = directory / prefix
        self.blueprint = self.directory / "blueprint"
        shutil.copytree(blueprint, self.blueprint)
        self.port = processes.free_port()
        self.control = postgres.make_login(prefix, "createdb createrole")
        self.environment = {
            "DATABASE_URL": self.control,
            "WORKOS_WEBHOOK_SECRET": deliveries.SECRET,
            "TENANTRY__SECRETS__KEYS": f"bench:{base64.b64encode(secrets.token_bytes(32)).decode()}",
            "TENANTRY__SERVER__LISTEN": f"127.0.0.1:{self.port}",
            "TENANTRY__TENANTS__PREFIX": f"{prefix}_",
            "TENANTRY__BLUEPRINT__DIRECTORY": str(self.blueprint),
            "TENANTRY__LOG__LEVEL": "warn",
        }
        if has_command(program, "pool"):
            self.environment["TENANTRY__POOL__SIZE"] = str(pool)
        self.runs = 0
        self.service = self.readiness = None

    def start(self) -> None:
        command = processes.with_parent([str(self.program), "serve", "--roles", self.roles])
        self.service = Service(command, self.environment, self.directory, "serve.log")
        self.service.wait_until(lambda: processes.answers(self.port, "/readyz"))
        self.readiness = Readiness(self.port, self.control)
        if "worker" in self.roles:
            self.service.wait_until(self.has_template)
            self.settle()

    def stop(self) -> None:
        if self.readiness:
            self.readiness.close()
            self.readiness = None
        if self.service:
            self.service.stop()

    def has_template(self) -> bool:
        query = "select count(*) from pg_database where starts_with(datname, %s) and datistemplate"
        return self.readiness.control.execute(query, (f"{self.prefix}_",)).fetchone()[0] > 0

    def settle(self) -> None:
        """Waits until the pool is full again: what happens between two tenants is not measured."""
        if self.pool:
            query = "select count(*) filter (where state = 'ready'), count(*) filter (where state <> 'ready') from pool_databases"
            self.service.wait_until(lambda: self.readiness.control.execute(query).fetchone() == (self.pool, 0))

    def make_one(self) -> float:
        self.runs += 1
        missed = self.misses()
        taken = self.readiness.make(f"{self.prefix}{self.runs}", range(1))
        if self.misses() != missed:
            raise Failed("a tenant was cloned although the pool was full")
        self.settle()
        return taken

    def misses(self) -> list[str]:
        """How often the pool was empty, as the metrics have it; with no pool nobody asks it."""
        if not self.pool:
            return []
        return [
            line
            for line in processes.get(self.port, "/metrics").splitlines()
            if line.startswith("tenantry_pool_misses_total")
        ]

    def make_many(self, count: int) -> float:
        self.runs += 1
        taken = self.readiness.make(f"{self.prefix}{self.runs}", range(count))
        self.settle()
        return taken

    def drop_tenants(self) -> None:
        """Their databases, and not the pool's; what the control database knows of them stays."""
        self.postgres.drop(self.databases())

    def databases(self) -> list[str]:
        """Databases of tenants that are there."""
        there = set(self.postgres.databases(f"{self.prefix}_"))
        tenants = self.readiness.control.execute("select database from public.tenants where initialize")
        return [name for (name,) in tenants if name in there]

    def recorded(self) -> int:
        """How many events it has."""
        return self.readiness.control.execute("select count(*) from webhook_events").fetchone()[0]

    def release(self, number: int) -> None:
        """The blueprint gets its next migration; replicas read it anew."""
        script = work.release("tenantry", number)
        written = self.directory / "written.sql"
        written.write_text(script.text)
        # whole or not at all
        written.rename(self.blueprint / "migrations" / f"{script.name}.sql")

    def migrate(self) -> str:
        """Brings every tenant to the blueprint."""
        return processes.run([str(self.program), "fleet", "migrate"], self.environment, self.directory)
