"""How much is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Rounds, tenants, seconds and databases of a run."""

    name: str
    rounds: int
    # tenants of one round, one after the other, of each side
    tenants: int
    at_once: int
    warm_up: int
    pool: int
    seconds: float
    # databases of a fleet; of the slow peers only so many, and what counts is the rate
    fleet: int
    alembic_loop: int
    dbmate: int
    schemas: int
    # databases of an Alembic project
    revised: int


DEFAULT = Sizes("default", 3, 10, 100, 15, 20, 5.0, 500, 30, 100, 100, 100)
QUICK = Sizes("quick", 3, 4, 30, 3, 10, 2.0, 100, 8, 20, 20, 20)
SMOKE = Sizes("smoke", 1, 3, 3, 0, 2, 0.3, 5, 2, 3, 3, 3)
