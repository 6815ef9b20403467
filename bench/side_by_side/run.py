"""A run: its sizes, its Postgres, its scratch directory, and everything that has to be stopped when it ends."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .postgres import Postgres
from .sizes import Sizes


@dataclass
class Run:
    """What every measurement gets."""

    program: Path
    sizes: Sizes
    directory: Path
    postgres: Postgres
    stack: ExitStack = field(default_factory=ExitStack)
    started: float = field(default_factory=time.monotonic)

    @contextmanager
    def part(self) -> Iterator[None]:
        """A part of the run: what was started in it is stopped at its end."""
        with self.stack:
            yield

    def keep(self, side) -> None:
        """Starts a side; it is stopped with the part that it belongs to, also when it did not start."""
        self.stack.callback(side.stop)
        side.start()

    def say(self, text: str) -> None:
        """Progress, for whoever waits."""
        print(f"[{time.monotonic() - self.started:5.0f} s] {text}", file=sys.stderr, flush=True)
