"""Where a run was measured, and with what."""

import os
import platform
import time
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from . import processes
from .run import Run
from .sides import tenantry

PACKAGES = ("alembic", "asyncpg", "Django", "django-tenants", "fastapi", "psycopg", "SQLAlchemy", "uvicorn", "uvloop")
# others that use more than this of the machine disturb the figures
QUIET = 0.05
LOOK_S = 2.0


@dataclass
class Machine:
    """A machine, and what else it did before the run."""

    size: str
    at: str
    processor: str
    processors: int
    memory_gib: float
    system: str
    postgres: str
    # the file system that has the databases
    storage: str
    busy: float
    programs: dict[str, str]

    def describe(self) -> str:
        text = (
            f"Measured at {self.at}: {self.processors} processors ({self.processor}), {self.memory_gib:.0f} GiB, "
            f"{self.system}; {self.postgres}, on {self.storage}. Servers, clients and Postgres share the machine."
        )
        if self.storage == "tmpfs":
            text += (
                "\n\n**The databases were in memory**: no commit and no new file waited for a disk. What is compared is work, "
                "on all sides; on a disk every time is longer, most of all that of `create database`, which makes 300 files."
            )
        if self.size != "default":
            text += f"\n\n**A {self.size} run**: small numbers, and not what the project shows."
        if self.busy > QUIET:
            text += f"\n\n**The machine was not quiet**: others used {self.busy:.0%} of it before the run."
        return f"{text}\n"

    def versions(self) -> str:
        return "## Versions\n\n" + " · ".join(f"{name} {version}" for name, version in self.programs.items()) + "\n"


def look(run: Run) -> Machine:
    """Looks, while nothing of the run does anything."""
    cpu = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    programs = {
        "tenantry": tenantry.version(run.program).removeprefix("tenantry "),
        "Python": platform.python_version(),
    }
    programs |= {name: metadata.version(name) for name in PACKAGES}
    programs["dbmate"] = processes.run(["dbmate", "--version"]).split()[-1]
    return Machine(
        size=run.sizes.name,
        at=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        processor=cpu[0] if cpu else platform.machine(),
        processors=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        system=f"Linux {platform.release().split('-')[0]}",
        postgres=run.postgres.describe(),
        storage=file_system(run.directory),
        busy=busy(),
        programs=programs,
    )


def file_system(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    mounts = (line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    inside = [(len(at), kind) for at, kind in mounts if directory.resolve().is_relative_to(at)]
    return max(inside)[1]


def busy() -> float:
    """How much of the machine is used."""
    before = jiffies()
    time.sleep(LOOK_S)
    used, total = (after - begun for after, begun in zip(jiffies(), before))
    return used / total


def jiffies() -> tuple[int, int]:
    fields = [int(value) for value in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)
