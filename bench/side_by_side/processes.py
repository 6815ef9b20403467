"""Processes of a run: commands that end, and services that are stopped.

Guarantees: a process does not outlive the harness, not even when that is killed; a failure shows the last
lines of what the process said.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

START_LIMIT_S = 90
STOP_LIMIT_S = 30
RUN_LIMIT_S = 600
# what a process gets of the user's environment: nothing that would change a figure
KEPT = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")


class Failed(Exception):
    """A process that did not do what it was started for."""


def with_parent(command: list[str], signal_name: str = "TERM") -> list[str]:
    """The command, signalled by the kernel when whoever started it dies."""
    return [*os_program("setpriv"), f"--pdeathsig={signal_name}", "--", *command]


def os_program(name: str) -> list[str]:
    found = shutil.which(name)
    if not found:
        raise Failed(f"{name} is needed (util-linux)")
    return [found]


def environment_with(more: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name in KEPT} | more


def run(
    command: list[str], environment: dict[str, str] | None = None, directory: Path | None = None, stdin: str = ""
) -> str:
    """Runs a command to its end and returns what it wrote to stdout."""
    try:
        done = subprocess.run(
            with_parent(command),
            env=environment_with(environment or {}),
            cwd=directory,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{' '.join(command[:6])} … takes longer than {RUN_LIMIT_S} s") from error
    if done.returncode:
        raise Failed(
            f"{' '.join(command[:6])} … ended with {done.returncode}:\n{last_lines(done.stdout + done.stderr)}"
        )
    return done.stdout


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-15:])


class Service:
    """A process that runs until it is stopped, with its log in a file."""

    def __init__(self, command: list[str], environment: dict[str, str], directory: Path, log: str):
        self.log = directory / log
        with self.log.open("a") as log_file:
            self.process = subprocess.Popen(
                command,
                env=environment_with(environment),
                cwd=directory,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if log.endswith(".answers") else log_file,
                stderr=log_file,
                text=True,
                # a group of its own: Ctrl-C is for the harness, which stops the services in order
                start_new_session=True,
            )

    def wait_until(self, is_ready) -> None:
        """Waits until `is_ready()`; an error when the process ends before, or takes too long."""
        started = time.monotonic()
        while not is_ready():
            ended = self.process.poll() is not None
            if ended or time.monotonic() - started > START_LIMIT_S:
                raise Failed(
                    f"{self.log.name}: {'ended' if ended else 'not ready in time'}\n{last_lines(self.log.read_text())}"
                )
            time.sleep(0.02)

    def ask(self, line: str) -> str:
        """Writes a line and reads the line that answers it."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise Failed(f"{self.log.name}: ended\n{last_lines(self.log.read_text())}")
        return answer.strip()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends the process in order, and whatever is left of its group at once."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_LIMIT_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def answers(port: int, path: str) -> bool:
    """Whether a service answers 200 on a path."""
    try:
        get(port, path)
    except OSError:
        return False
    return True


def get(port: int, path: str) -> str:
    """What a service answers on a path."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()
