"""What was measured: contests, their sides, a value a round.

Guarantees: a ratio compares values of one round, which ran in turns; what was not measured says why.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median


@dataclass
class Side:
    """Somebody who takes part, and a value for each round."""

    name: str
    # "tenantry", "peer" or "floor"
    kind: str = "peer"
    note: str = ""
    values: list[float] = field(default_factory=list)
    # why there are no values
    missing: str = ""

    @property
    def median(self) -> float:
        return median(self.values)


@dataclass
class Aim:
    """How many times as good as a peer one of our sides should be."""

    ours: str
    peer: str
    factor: float


@dataclass
class Contest:
    """One measurement of all sides."""

    key: str
    title: str
    # "ms", where less is better, or something a second, where more is
    unit: str
    about: str
    sides: list[Side]
    aims: list[Aim] = field(default_factory=list)

    @property
    def less_is_better(self) -> bool:
        return self.unit == "ms"

    def measured(self, kind: str | None = None) -> list[Side]:
        return [side for side in self.sides if side.values and kind in (None, side.kind)]

    def ratios(self, ours: Side, other: Side) -> list[float]:
        """How many times as good as the other our side was, round by round."""
        pairs = zip(ours.values, other.values)
        return [(b / a) if self.less_is_better else (a / b) for a, b in pairs]

    def aim(self, ours: Side, other: Side) -> float | None:
        return next((aim.factor for aim in self.aims if (aim.ours, aim.peer) == (ours.name, other.name)), None)


def number(value: float) -> str:
    """A figure with three digits or so."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def in_turns(sides: list, turn: int) -> list:
    """The sides in the order of a turn: there and back, so that nobody always comes after the same one."""
    return sides if turn % 2 == 0 else sides[::-1]


def seconds_of(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started
