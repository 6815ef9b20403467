"""The Postgres of a run: a private cluster with stock, durable settings.

Guarantees: it listens on the loopback only, and nothing of it is left when the run ends; commits wait for the disk.
Does not: measure dropping. While databases are dropped, `fsync` is off, and it is on again before anything else happens.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psycopg
from psycopg import sql

from . import processes
from .processes import Failed, Service

ACCOUNT = "postgres"


def programs() -> Path:
    """The directory of the newest server binaries that are installed."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda it: int(it.parts[-3]))
    found = installed[-1] if installed else shutil.which("initdb")
    if not found:
        raise Failed("the server binaries of Postgres are needed, on Debian: apt-get install postgresql")
    return Path(found).parent


class Postgres:
    """A running cluster, with connections as its superuser."""

    def __init__(self, directory: Path):
        self.directory = directory / "postgres"
        self.port = processes.free_port()
        self.password = secrets.token_urlsafe(16)
        self.service = None
        self.create()

    def create(self) -> None:
        self.directory.mkdir()
        password = self.directory / "password"
        password.write_text(self.password)
        if os.geteuid() == 0:
            account = pwd.getpwnam(ACCOUNT)
            for path in (self.directory, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        data = self.directory / "data"
        initdb = [str(programs() / "initdb"), "-D", str(data), "-U", "postgres", "--encoding=UTF8", "--locale=C.UTF-8"]
        self.run_as_account([*initdb, "--auth=scram-sha-256", f"--pwfile={password}"])
        password.unlink()
        with (data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"port = {self.port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\nmax_connections = 300\n"
            )

    def account(self) -> list[str]:
        """How to become the account that Postgres runs as: it refuses to run as root."""
        if os.geteuid() != 0:
            return [*processes.os_program("setpriv"), "--pdeathsig=QUIT", "--"]
        user = ["--reuid", ACCOUNT, "--regid", ACCOUNT, "--clear-groups", "--pdeathsig=QUIT", "--"]
        return [*processes.os_program("setpriv"), *user]

    def run_as_account(self, command: list[str]) -> None:
        done = subprocess.run([*self.account(), *command], cwd=self.directory, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"{Path(command[0]).name}:\n{processes.last_lines(done.stderr)}")

    def start(self) -> None:
        """Starts the server and waits until it accepts connections."""
        command = [*self.account(), str(programs() / "postgres"), "-D", str(self.directory / "data")]
        self.service = Service(command, {}, self.directory, "postgres.log")
        self.service.wait_until(self.accepts)

    def accepts(self) -> bool:
        try:
            self.connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        if self.service:
            self.service.stop(signal.SIGQUIT)

    def url(self, database: str, user: str = "postgres", password: str | None = None) -> str:
        """How a client reaches a database."""
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def connect(self, database: str) -> psycopg.Connection:
        """A connection as superuser, each statement its own transaction."""
        return psycopg.connect(self.url(database), autocommit=True)

    def execute(self, statement: str, database: str = "postgres") -> None:
        with self.connect(database) as connection:
            connection.execute(statement)

    def rows(self, query: str, values: tuple = (), database: str = "postgres") -> list[tuple]:
        return self.rows_at(self.url(database), query, values)

    def make_login(self, name: str, rights: str = "createdb") -> str:
        """A login role with a database of its name; returns the URL of that database."""
        password = secrets.token_urlsafe(16)
        self.execute(f"create role {name} login {rights} password '{password}'")
        self.execute(f"create database {name} owner {name}")
        return self.url(name, name, password)

    def rows_at(self, url: str, query: str, values: tuple) -> list[tuple]:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()

    def clone(self, template: str, names: list[str], owner: str) -> None:
        """Databases that are copies of another one."""
        with self.connect("postgres") as connection:
            for name in names:
                connection.execute(f"create database {name} template {template} owner {owner}")

    def databases(self, prefix: str) -> list[str]:
        """The databases whose names begin so, without templates."""
        query = "select datname from pg_database where starts_with(datname, %s) and not datistemplate order by 1"
        return [name for (name,) in self.rows(query, (prefix,))]

    def drop(self, databases: list[str]) -> None:
        """Drops databases."""
        self.set_fsync("off")
        try:
            with self.connect("postgres") as connection:
                for name in databases:
                    connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))
        finally:
            self.set_fsync("on")
        self.checkpoint()

    def set_fsync(self, to: str) -> None:
        self.execute(f"alter system set fsync = {to}")
        self.execute("select pg_reload_conf()")
        while self.rows("select current_setting('fsync')") != [(to,)]:
            time.sleep(0.005)

    def checkpoint(self) -> None:
        """So that nobody pays for what somebody before wrote."""
        self.execute("checkpoint")

    def describe(self) -> str:
        """The version, and what makes a commit durable."""
        names = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")
        version, *settings = (self.rows("select current_setting(%s)", (name,))[0][0] for name in names)
        return f"Postgres {version.split()[0]}: " + ", ".join(
            f"{name} {value}" for name, value in zip(names[1:], settings)
        )
