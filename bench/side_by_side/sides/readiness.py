"""Webhooks in, and a look at the control database until the tenants are ready: the same for every service."""

import time
from collections.abc import Callable

import psycopg

from .. import deliveries
from ..deliveries import Sender
from ..processes import Failed

READY = "select count(*) from public.tenants where initialize and starts_with(org_id, %s)"
LIMIT_S = 300
# whoever looks all the time takes the processors of those who work
POLL_S = 0.005
CONNECTIONS = 32


class Readiness:
    """A service's webhook and its control database."""

    def __init__(self, port: int, control: str):
        self.port = port
        self.control = psycopg.connect(control, autocommit=True)

    def make(self, run: str, numbers: range) -> float:
        """Seconds from the first event of these organizations until all their tenants are ready."""
        requests = [deliveries.created(run, number) for number in numbers]
        # connected before the clock starts, and anew: services close what is idle
        sender = Sender(self.port, min(CONNECTIONS, len(numbers)))
        started = time.perf_counter()
        sender.deliver(requests)
        self.wait_until(lambda: self.count(deliveries.organizations(run)) >= len(numbers))
        taken = time.perf_counter() - started
        sender.close()
        return taken

    def count(self, organizations: str) -> int:
        return self.control.execute(READY, (organizations,)).fetchone()[0]

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        started = time.perf_counter()
        while not is_so():
            if time.perf_counter() - started > LIMIT_S:
                raise Failed(f"not ready after {LIMIT_S} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        self.control.close()
