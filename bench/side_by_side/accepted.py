"""New events that a service accepts: verified, recorded and queued, with the commit awaited."""

from . import deliveries
from .deliveries import Sender
from .figures import Aim, Contest, Side, in_turns
from .processes import Failed
from .run import Run
from .sides.fastapi import FastApi
from .sides.tenantry import Tenantry

TENANTRY, FASTAPI = "tenantry", "FastAPI"
CONNECTIONS = 32
API_PROCESSES = 2
# more than anybody accepts
MOST_A_SECOND = 20_000


def measure(run: Run) -> Contest:
    """Both at once are there, one at a time is asked; nobody works on what was queued."""
    services = {
        TENANTRY: Tenantry(run.program, run.postgres, run.directory, "door", 0, "api"),
        FASTAPI: FastApi(run.postgres, run.directory, "fastapi_door", API_PROCESSES, has_worker=False),
    }
    for service in services.values():
        run.keep(service)
    sides = [
        Side(TENANTRY, "tenantry", "one process"),
        Side(FASTAPI, "peer", f"{API_PROCESSES} processes, with an idempotency table"),
    ]
    for round_ in range(run.sizes.rounds):
        for side in in_turns(sides, round_):
            run.say(f"accepted events, round {round_ + 1}: {side.name}")
            service, name = services[side.name], f"{side.name.lower()}{round_}"
            deliver(service, f"warm{name}", run.sizes.seconds / 5)
            run.postgres.checkpoint()
            side.values.append(deliver(service, name, run.sizes.seconds))
    about = (
        f"Signed `organization.created` events, each of another organization, over {CONNECTIONS} kept connections for "
        f"{run.sizes.seconds:g} s; answered 2xx after the commit. No worker runs. The sender shares the machine."
    )
    return Contest("accepted", "New events accepted", "events/s", about, sides, [Aim(TENANTRY, FASTAPI, 10)])


def deliver(service: Tenantry | FastApi, name: str, seconds: float) -> float:
    """Events accepted a second; an error unless each of them is in the service's table."""
    requests = [deliveries.created(name, number) for number in range(int(MOST_A_SECOND * seconds))]
    before = service.recorded()
    sender = Sender(service.port, CONNECTIONS)
    answered, taken = sender.deliver(requests, seconds)
    sender.close()
    if service.recorded() - before != answered:
        raise Failed(f"{answered} events were accepted, and others recorded")
    return answered / taken
