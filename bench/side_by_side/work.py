"""The work that is the same for every side: the worked blueprint of `examples/crm`, and the release after it.

Guarantees: every side runs these very files. A side may wrap them in its own format; nothing is rewritten.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
BLUEPRINT = BENCH.parent / "examples" / "crm"


@dataclass(frozen=True)
class Script:
    """An SQL file: its name without ending, and its text."""

    name: str
    text: str

    @property
    def number(self) -> str:
        """What a migration's name begins with."""
        return self.name.split("_")[0]


@cache
def scripts(directory: str) -> tuple[Script, ...]:
    """The files of a directory of the blueprint, in order."""
    return tuple(Script(path.stem, path.read_text()) for path in sorted((BLUEPRINT / directory).glob("*.sql")))


def migrations() -> tuple[Script, ...]:
    """What makes the 20 tables."""
    return scripts("migrations")


def release(label: str, number: int) -> Script:
    """The migration of the n-th release after the blueprint; `label` keeps those of two sides apart in one database."""
    text = (BENCH / "next_release.sql").read_text().replace("{release}", f"{label}_{number}")
    return Script(f"{len(migrations()) + number:04}_release_{number}", text)


def parameters(organization: str, name: str, tenant: str) -> str:
    """The statement that tells the seeds for whom they are; it holds until the end of the transaction."""
    values = {
        "tenant_id": tenant,
        "tenant_url": f"{tenant}.localhost",
        "organization_id": organization,
        "organization_name": name,
        "source": "workos",
    }
    settings = (f"set_config('tenantry.{key}', '{value}', true)" for key, value in values.items())
    return f"select {', '.join(settings)}"
