"""What a run leaves: a document, a chart for each contest, and every value as JSON.

Guarantees: figures that were not reached, and sides that were not measured, are there and say so.
"""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median

from . import plot
from .figures import Contest, Side, number
from .machine import Machine

PREFACE = """# Benchmarks

tenantry and what people do instead, on one machine and one Postgres, in one run, taking turns. `bench/run` measures it
and writes this document; [bench/README.md](../bench/README.md) says how, and how far to trust it. Times of another machine
are others: what carries over is the ratio.
"""
SIDES = """## The sides

Every side makes, or migrates, the 20 tables of `examples/crm` with the same SQL files: 8 migrations, seeds, verify queries.

- **tenantry**: `tenantry serve` and its commands with default settings, and the pool as each table says. More than the
  others it makes a login role for each tenant, checks its rights, and compares each database with the template.
- **FastAPI + Alembic**: SQLAlchemy over asyncpg in the webhook, an idempotency table, a queue in Postgres with leases, a
  worker that creates the database, runs Alembic in a pool of 2 processes, seeds and verifies. One login role for all.
- **django-tenants**: a schema per tenant in one database. It has no database and no role per tenant.
- **Alembic**, **dbmate**: one migration over many databases.
- **By hand**: the statements from a script that knows what to do. It keeps no record and does not go on after a crash:
  the floor, not a peer.

Revisions of Alembic and migrations of Django run the SQL as it is. What it costs to render DDL from Python, as most projects
do, is not in their figures.
"""


def write(contests: list[Contest], machine: Machine, output: Path) -> None:
    """Writes `benchmarks.md` and the directory `benchmarks` beside it."""
    charts = output / "benchmarks"
    charts.mkdir(parents=True, exist_ok=True)
    parts = [PREFACE, machine.describe(), *(section(contest) for contest in contests), SIDES, machine.versions()]
    (output / "benchmarks.md").write_text("\n".join(parts))
    for contest in contests:
        (charts / f"{contest.key}.svg").write_text(plot.draw(contest))
    values = {"machine": asdict(machine), "contests": [asdict(contest) for contest in contests]}
    (charts / "values.json").write_text(json.dumps(values, indent=1) + "\n")


def section(contest: Contest) -> str:
    """A contest as its chart and its table."""
    ours = contest.measured("tenantry")
    unit = contest.unit
    columns = ["", unit, "least to most", *(f"{side.name} is" if len(ours) > 1 else "tenantry is" for side in ours)]
    lines = [
        f"## {contest.title}",
        "",
        contest.about,
        "",
        f"![{contest.title}](benchmarks/{contest.key}.svg)",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|" + "---:|" * (len(columns) - 1),
        *(table_row(contest, side, ours) for side in contest.sides),
        "",
        *aims(contest),
    ]
    return "\n".join(lines)


def table_row(contest: Contest, side: Side, ours: list[Side]) -> str:
    name = f"{side.name} ({side.note})" if side.note else side.name
    if not side.values:
        return f"| {name} | not measured: {side.missing} | |" + " |" * len(ours)
    spread = f"{number(min(side.values))} – {number(max(side.values))}"
    cells = [name, f"**{number(side.median)}**" if side.kind == "tenantry" else number(side.median), spread]
    for our in ours:
        cells.append("" if side is our or side.kind == "tenantry" else times(contest.ratios(our, side)))
    return "| " + " | ".join(cells) + " |"


def times(ratios: list[float]) -> str:
    """How many times as good, and the spread of the rounds."""
    return f"{number(median(ratios))} × ({number(min(ratios))} – {number(max(ratios))})"


def aims(contest: Contest) -> list[str]:
    """Whether what the project aims at was reached, both ways."""
    lines = []
    for aim in contest.aims:
        by_name = {side.name: side for side in contest.measured()}
        if aim.ours in by_name and aim.peer in by_name:
            ratio = median(contest.ratios(by_name[aim.ours], by_name[aim.peer]))
            verdict = "reached" if ratio >= aim.factor else "**not reached**"
            lines.append(f"- {aim.ours} against {aim.peer}: aim {aim.factor:g} ×, {verdict}.")
    return [*lines, ""] if lines else []
