"""A fleet whose server gets a new major version, by docs/operations.md: nobody is accused of drift for it, and all goes on.

    python3 tests/tools/server_upgrade.py target/debug/tenantry <old> <new>

where <old> and <new> are directories with all programs of a version of Postgres, pg_upgrade among them.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TENANTRY, OLD, NEW = (Path(argument).resolve() for argument in sys.argv[1:4])
NOBODY = 65534

# what a dump that is restored, as an upgrade does it, may name or word otherwise than the migration did
EVERYTHING = (ROOT / "tests/fixtures/server_upgrade.sql").read_text()


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def check(what, holds, found=""):
    print(("ok   " if holds else "FAIL ") + what, found if not holds else "", flush=True)
    if not holds:
        sys.exit(1)


class Server:
    """A server of either version, on the same port."""

    def __init__(self, directory):
        self.directory = directory
        self.port = free_port()
        directory.mkdir()
        if os.getuid() == 0:
            os.chown(directory, NOBODY, NOBODY)

    def run(self, *arguments):
        root = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.getuid() == 0 else []
        done = subprocess.run([*root, *map(str, arguments)], cwd=self.directory, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def must(self, *arguments):
        code, said = self.run(*arguments)
        if code != 0:
            sys.exit(f"{' '.join(map(str, arguments))}\n{said}")

    def data(self, version):
        return self.directory / version.parent.name

    def initdb(self, version):
        self.must(version / "initdb", "--pgdata", self.data(version), "--username=postgres", "--auth=trust",
                  "--encoding=UTF8", "--locale=C.UTF-8", *(["--no-data-checksums"] if version == NEW else []))

    @contextlib.contextmanager
    def running(self, version):
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.directory} -c fsync=off"
        control = [version / "pg_ctl", "--pgdata", self.data(version), "--wait", "--log", self.directory / "log"]
        self.must(*control, "start", "--options", options)
        try:
            yield
        finally:
            self.must(*control, "stop", "--mode=fast")

    def upgrade(self, *arguments):
        return self.run(NEW / "pg_upgrade", "--old-bindir", OLD, "--new-bindir", NEW, "--old-datadir", self.data(OLD),
                        "--new-datadir", self.data(NEW), "--username=postgres", "--socketdir", self.directory, *arguments)

    def sql(self, user, text, database="postgres"):
        url = f"postgresql://{user}@127.0.0.1:{self.port}/{database}"
        return subprocess.run([NEW / "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", url],
                              input=text, capture_output=True, text=True, check=True).stdout


class Deployment:
    """What an operator runs."""

    def __init__(self, directory, server):
        self.directory = directory
        self.port = free_port()
        self.environment = {
            **os.environ,
            "DATABASE_URL": f"postgresql://tenantry:x@127.0.0.1:{server.port}/tenantry",
            "WORKOS_WEBHOOK_SECRET": "whsec_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4",
            "TENANTRY__POOL__SIZE": "2",
            "TENANTRY__SERVER__LISTEN": f"127.0.0.1:{self.port}",
        }
        directory.mkdir()
        self.must("init")

    def run(self, *arguments):
        return subprocess.run([TENANTRY, *arguments], cwd=self.directory, env=self.environment, capture_output=True, text=True, check=False)

    def must(self, *arguments):
        done = self.run(*arguments)
        if done.returncode != 0:
            sys.exit(f"tenantry {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def migration(self, name, sql):
        (self.directory / "blueprint/migrations" / name).write_text(sql)

    @contextlib.contextmanager
    def serving(self):
        with (self.directory / "log").open("a") as log:
            replica = subprocess.Popen([TENANTRY, "serve"], cwd=self.directory, env=self.environment, stdout=log, stderr=log)
        try:
            for _ in range(300):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz")
                    break
                time.sleep(0.1)
            yield
        finally:
            replica.terminate()
            replica.wait(30)

    def makes_a_tenant(self):
        url = f"http://127.0.0.1:{self.port}"
        said = self.must("trigger", "organization.created", "--url", url)
        check("a new tenant is ready", " is ready after " in said, said)

    def drift(self):
        drift = json.loads(self.run("fleet", "drift", "--json").stdout)
        accused = [difference for group in drift["drifted"] for difference in group["differences"]]
        return drift["alike"], accused, sorted({tenant["code"] for tenant in drift["unreached"]})


def statements():
    """What docs/operations.md has for psql: before the upgrade, and after it."""
    text = (ROOT / "docs/operations.md").read_text().split("### A new major version of Postgres")[1]
    return re.findall(r"```sql\n(.*?)```", text, re.DOTALL)[:2]


IN_THE_WAY = "create table next ()"


def leave_a_run_unfinished(server, deployment):
    """A run to a version that is not the newest one, which one tenant cannot go along with for the moment."""
    deployment.migration("0903_next.sql", "create table next (id int not null);")
    deployment.migration("0904_last.sql", "create table last (state varchar(9) check (state in ('a', 'b')));")
    database = json.loads(deployment.must("tenants", "ls", "--json"))[0]["database"]
    server.sql("postgres", IN_THE_WAY, database)
    with deployment.serving():
        said = deployment.run("fleet", "migrate", "--to", "0903_next").stdout
    check("a fleet run is left unfinished", "2 done, 1 failed" in said, said)
    return database


def before(server, deployment):
    with server.running(OLD):
        server.sql("postgres", "create role tenantry login createdb createrole password 'x';\ncreate database tenantry owner tenantry;")
        deployment.migration("0901_everything.sql", EVERYTHING)
        with deployment.serving():
            for _ in range(2):
                deployment.makes_a_tenant()
        deployment.migration("0902_later.sql", "create table later (id int not null);")
        with deployment.serving():
            deployment.makes_a_tenant()
        found = deployment.drift()
        check("all are like their blueprints before", found == (3, [], []), found)
        in_the_way = leave_a_run_unfinished(server, deployment)
    server.initdb(NEW)
    code, said = server.upgrade("--check")
    check("pg_upgrade refuses databases that are closed", code != 0 and "must allow connections" in said, said)
    return in_the_way


def upgraded(server, deployment):
    with server.running(OLD):
        deployment.must("pool", "drain")
        server.sql("tenantry", statements()[0])
    code, said = server.upgrade()
    check("the server is upgraded", code == 0, said)


def after(server, deployment, in_the_way):
    with server.running(NEW):
        said = deployment.run("doctor").stdout
        _, version = server.run(OLD / "postgres", "--version")
        came_from_15 = int(re.search(r" (\d+)", version).group(1)) < 16
        check("doctor says whether rights were lost", ("may not administer" in said) == came_from_15, said)
        server.sql("postgres", statements()[1])
        said = deployment.run("doctor").stdout
        check("doctor finds all rights", "may not administer" not in said and "FAIL" not in said, said)
        # told from the version of its server, as its template is not built anew before a replica starts
        found = deployment.drift()
        check("nobody is accused before a replica has started", found == (0, [], ["template_unknown"]), found)
        with deployment.serving():
            deployment.makes_a_tenant()
            found = deployment.drift()
            check("who has the present blueprint is like it", found == (1, [], ["template_unknown"]), found)
            server.sql("postgres", "drop table next", in_the_way)
            deployment.must("fleet", "retry", "--failed")
            said = deployment.must("fleet", "status", "--wait")
            check("the run goes on", "3 done, 0 failed" in said, said)
            said = deployment.must("fleet", "migrate")
            check("the fleet is migrated", "4 done, 0 failed" in said, said)
            found = deployment.drift()
            check("all are like their blueprint after", found == (4, [], []), found)
            deployment.makes_a_tenant()


def main():
    directory = Path(tempfile.mkdtemp(prefix="tenantry-server-upgrade-"))
    directory.chmod(0o755)
    try:
        server = Server(directory / "server")
        server.initdb(OLD)
        deployment = Deployment(directory / "deployment", server)
        in_the_way = before(server, deployment)
        upgraded(server, deployment)
        after(server, deployment, in_the_way)
    finally:
        shutil.rmtree(directory)


main()
