"""A webhook service in FastAPI: an idempotency table, a queue in Postgres, a worker that runs Alembic."""

import sys
from pathlib import Path

from .. import deliveries, processes, work
from ..postgres import Postgres
from ..processes import Service
from .alembic import write_project
from .readiness import Readiness

DIRECTORY = work.BENCH / "peers" / "webhook_service"


class FastApi:
    """The API in `api_processes` processes, and where tenants are wanted a worker."""

    def __init__(self, postgres: Postgres, directory: Path, name: str, api_processes: int = 1, has_worker: bool = True):
        self.postgres, self.directory = postgres, directory
        self.name, self.api_processes, self.has_worker = name, api_processes, has_worker
        self.port = processes.free_port()
        self.control = postgres.make_login(name)
        postgres.execute(f"set role {name}; {(DIRECTORY / 'tables.sql').read_text()}", name)
        self.environment = {
            "DATABASE_URL": self.control,
            "WORKOS_WEBHOOK_SECRET": deliveries.SECRET,
            "ALEMBIC_INI": str(write_project(directory / f"{name}_alembic")),
            "SEED_DIRECTORY": str(work.BLUEPRINT),
            "CONNECTIONS": str(32 // api_processes),
        }
        self.runs = 0
        self.services = []
        self.readiness = None

    def start(self) -> None:
        if self.has_worker:
            worker = self.serve([sys.executable, str(DIRECTORY / "worker.py")], f"{self.name}_worker.log")
            worker.wait_until(lambda: "ready" in worker.log.read_text())
        uvicorn = [sys.executable, "-m", "uvicorn", "api:app", "--app-dir", str(DIRECTORY), "--host", "127.0.0.1"]
        fast = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
        api = self.serve(
            [*uvicorn, "--port", str(self.port), "--workers", str(self.api_processes), *fast], f"{self.name}_api.log"
        )
        api.wait_until(lambda: processes.answers(self.port, "/healthz"))
        self.readiness = Readiness(self.port, self.control)

    def serve(self, command: list[str], log: str) -> Service:
        service = Service(processes.with_parent(command), self.environment, self.directory, log)
        self.services.append(service)
        return service

    def stop(self) -> None:
        if self.readiness:
            self.readiness.close()
        for service in reversed(self.services):
            service.stop()

    def make_one(self) -> float:
        self.runs += 1
        return self.readiness.make(f"{self.name}{self.runs}", range(1))

    def make_many(self, count: int) -> float:
        self.runs += 1
        return self.readiness.make(f"{self.name}{self.runs}", range(count))

    def recorded(self) -> int:
        """How many events it has."""
        return self.readiness.control.execute("select count(*) from webhook_idempotency").fetchone()[0]

    def drop_tenants(self) -> None:
        self.postgres.drop(self.postgres.databases("tenant_"))
