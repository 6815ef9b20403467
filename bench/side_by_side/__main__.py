"""The command: measures what it is told to, writes the document, leaves nothing else.

Guarantees: whatever way it ends, short of a kill, its processes, databases and files are gone; killed, its processes are.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from . import accepted, machine, programs, report
from .figures import Contest
from .fleet import Fleet
from .postgres import Postgres
from .processes import Failed
from .ready import Ready
from .run import Run
from .sizes import DEFAULT, QUICK, SMOKE
from .work import BENCH

CONTESTS = ("ready", "at_once", "accepted", "fleet", "fleet_alembic")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description="tenantry and what people do instead, side by side.")
    program = BENCH.parent / "target" / "release" / "tenantry"
    parser.add_argument(
        "--tenantry",
        type=Path,
        default=program,
        metavar="FILE",
        help="a release build [default: target/release/tenantry]",
    )
    parser.add_argument("--out", type=Path, metavar="DIRECTORY", help="where benchmarks.md goes [default: docs]")
    parser.add_argument("--only", choices=CONTESTS, action="append", help="one of the measurements; may be repeated")
    how_much = parser.add_mutually_exclusive_group()
    how_much.add_argument(
        "--quick", action="store_const", dest="sizes", const=QUICK, help="small numbers, some minutes"
    )
    how_much.add_argument(
        "--smoke",
        action="store_const",
        dest="sizes",
        const=SMOKE,
        help="only whether every side works; writes nothing unless --out is given",
    )
    parser.set_defaults(sizes=DEFAULT)
    return parser.parse_args()


def measure(run: Run, only: list[str]) -> list[Contest]:
    """The wanted measurements; the sides of one are gone before the next begins."""
    contests = []
    if {"ready", "at_once"} & set(only):
        with run.part():
            ready = Ready(run)
            contests += [ready.one_at_a_time()] if "ready" in only else []
            contests += [ready.at_once()] if "at_once" in only else []
    if "accepted" in only:
        with run.part():
            contests.append(accepted.measure(run))
    if "fleet" in only:
        with run.part():
            contests += Fleet(run).measure()
    if "fleet_alembic" in only:
        with run.part():
            contests.append(programs.measure(run))
    return contests


def end(number: int, _) -> None:
    """A request to end: what was started is stopped, which a second request does not disturb."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    options = arguments()
    if not options.tenantry.is_file():
        sys.exit(f"there is no {options.tenantry}: cargo build --release, or --tenantry FILE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    with ExitStack() as stack:
        # Postgres runs as another user, who has to reach its directory
        directory = Path(tempfile.mkdtemp(prefix="tenantry-side-by-side-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        directory.chmod(0o755)
        postgres = Postgres(directory)
        stack.callback(postgres.stop)
        postgres.start()
        run = Run(options.tenantry.resolve(), options.sizes, directory, postgres)
        seen = machine.look(run)
        contests = measure(run, options.only or list(CONTESTS))
        output = options.out or (directory if options.sizes is SMOKE else BENCH.parent / "docs")
        report.write(contests, seen, output)
        run.say(f"done: {output / 'benchmarks.md'}" if output != directory else "done: every side works")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"bench/run: {error}")
