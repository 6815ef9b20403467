"""Alembic over a fleet: a pool of processes, each with the programmatic interface.

    fleet.py INI REVISION PROCESSES < urls

Guarantees: exit code 0 only when every database was brought to the revision.
"""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from alembic import command
from alembic.config import Config


def upgrade(ini: str, revision: str, url: str) -> None:
    config = Config(ini)
    config.attributes["url"] = url
    command.upgrade(config, revision)


def main() -> None:
    ini, revision, processes = sys.argv[1:]
    urls = sys.stdin.read().split()
    with ProcessPoolExecutor(int(processes), multiprocessing.get_context("spawn")) as pool:
        # raises what the first failure was
        list(pool.map(partial(upgrade, ini, revision), urls))


if __name__ == "__main__":
    main()
