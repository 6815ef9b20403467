"""The Python packages that a list pins, in a directory of the user's cache.

Guarantees: a directory that is named on stdout is complete; the same list is installed once.
Does not: touch the packages of the system or of the project.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INSTALL = (
    "install",
    "--quiet",
    "--disable-pip-version-check",
    "--no-warn-conflicts",
    "--root-user-action=ignore",
)


def directory(requirements: Path) -> Path:
    """Where the packages of this list are, for this Python; installs them where they are not."""
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tenantry-bench"
    wanted = cache / key
    if not wanted.exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(f"installing {requirements.name} into {wanted}", file=sys.stderr)
        begun = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=cache))
        try:
            install(requirements, begun)
            begun.rename(wanted)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return wanted


def install(requirements: Path, target: Path) -> None:
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True).returncode:
        sys.exit("pip is needed, on Debian: apt-get install python3-pip")
    command = [*pip, *INSTALL, "--target", str(target), "--requirement", str(requirements)]
    # stdout is for the directory's name
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit(f"pip cannot install {requirements}")


if __name__ == "__main__":
    print(directory(Path(sys.argv[1])))
