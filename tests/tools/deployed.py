"""What compose.yaml and the Dockerfile would run, without Docker: the same files, users, variables and commands;
and that the binary understands the settings of the systemd unit and of the Kubernetes manifests.

    python3 tests/tools/deployed.py target/debug/tenantry

Reads all of it out of these files, so that it cannot differ from them. Needs root (it becomes the users of the
images), the server binaries of Postgres and PyYAML. What it cannot show: that the images build.
"""

import contextlib
import os
import pwd
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
# continued lines are one instruction
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
SERVICE = DOCKERFILE.split("AS tenantry\n")[1].split("\nFROM ")[0]


def instruction(name):
    return re.search(rf"^{name} (.*)$", SERVICE, re.MULTILINE).group(1)


def command(text):
    return yaml.safe_load(text)


def check(what, holds):
    print(("ok   " if holds else "FAIL ") + what, flush=True)
    if not holds:
        sys.exit(1)


def as_user(uid, arguments, **options):
    prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    return subprocess.Popen([*prefix, *arguments], **options)


@contextlib.contextmanager
def postgres(directory):
    """A server as the image of Postgres runs one: a password by TCP, none by the socket."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: float(it.parent.name))
    account = pwd.getpwnam("postgres")
    data = directory / "postgres"
    data.mkdir()
    os.chown(data, account.pw_uid, account.pw_gid)
    password = directory / "secrets/postgres_password"
    os.chown(password, account.pw_uid, account.pw_gid)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*arguments, environment=None):
        as_postgres = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", *arguments]
        subprocess.run(as_postgres, check=True, cwd=data, env=environment, stdout=subprocess.DEVNULL)

    initdb = ["--auth-local=trust", "--auth-host=scram-sha-256", "--username=postgres", f"--pwfile={password}"]
    run(binaries / "initdb", "--pgdata", data / "data", *initdb)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
    control = [binaries / "pg_ctl", "--pgdata", data / "data", "--log", data / "log", "--wait"]
    run(*control, "start", "--options", options)
    try:
        yield port, run, data, account
    finally:
        # a check stops it as well
        if (data / "data/postmaster.pid").exists():
            run(*control, "stop", "--mode=immediate")


def make_secrets(directory):
    """The service `secrets`, twice: the second time changes nothing."""
    files = directory / "secrets"
    files.mkdir(mode=0o700)
    script = [*COMPOSE["secrets"]["entrypoint"][:-1], ROOT / "deploy/compose/make-secrets.sh"]
    made = []
    for _ in range(2):
        subprocess.run(script, check=True, env={"SECRETS": str(files), "PATH": os.environ["PATH"]})
        made.append({path.name: path.read_text() for path in files.iterdir()})
    check("secrets are made once", made[0] == made[1] and len(made[0]) == 6)
    modes = {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in files.iterdir()}
    ours = ["database_url", "keys", "webhook_secret"]
    check("each is readable by its user alone", all(modes[name] == (1001, 0o400) for name in ours))
    check("Postgres' are Postgres'", all(modes[it] == (999, 0o400) for it in ["postgres_password", "tenantry_password"]))
    return files


def service(directory, files):
    """User, working directory and variables of the container."""
    uid = int(instruction("USER").split(":")[0])
    work = directory / "etc"
    work.mkdir()
    shutil.copytree(ROOT / "examples/crm", work / "blueprint")
    variables = dict(pair.split("=", 1) for pair in shlex.split(instruction("ENV")))
    variables |= COMPOSE["tenantry"]["environment"]
    variables["TENANTRY__TENANTS__BASE_DOMAIN"] = "localhost"
    variables = {name: value.replace("/secrets/", f"{files}/") for name, value in variables.items()}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    check("the image listens on every address", variables["TENANTRY__SERVER__LISTEN"] == "0.0.0.0:8420")
    variables["TENANTRY__SERVER__LISTEN"] = listen
    variables["PATH"] = f"{directory}/bin:/usr/bin"
    return uid, work, variables, listen


def main(binary):
    directory = Path(tempfile.mkdtemp(prefix="tenantry-postgres-deployed-"))
    directory.chmod(0o755)
    try:
        (directory / "bin").mkdir()
        shutil.copy(binary, directory / "bin/tenantry")
        deployed(directory)
    finally:
        shutil.rmtree(directory)


def understood(directory, files):
    """The settings that the unit and the manifests give, with secrets where they say that secrets are."""
    shutil.copy(files / "webhook_secret", files / "workos_webhook_secret")
    check_config = [directory / "bin/tenantry", "config", "check"]
    unit = (ROOT / "deploy/systemd/tenantry.service").read_text()
    variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", unit, re.MULTILINE))
    variables = {name: value.replace("%d", str(files)) for name, value in variables.items()}
    ran = subprocess.run(check_config, env=variables, cwd=directory)
    check("the unit's settings are understood", ran.returncode == 0 and len(variables) >= 4)
    shown = re.findall(r"^LoadCredential=(\w+):", unit, re.MULTILINE)
    check("and each of its credentials is used", all(f"%d/{name}\n" in unit for name in shown))
    mounts = yaml.safe_load((ROOT / "deploy/kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]
    mounts = {it["name"]: it["mountPath"] for it in mounts["containers"][0]["volumeMounts"]}
    settings = (ROOT / "deploy/kubernetes/tenantry.toml").read_text()
    settings = settings.replace(f"{mounts['secrets']}/", f"{files}/")
    (directory / "kubernetes.toml").write_text(settings)
    ran = subprocess.run([*check_config, "--config", directory / "kubernetes.toml"], env={}, cwd=directory)
    check("the manifests' settings are understood", ran.returncode == 0)
    (files / "workos_webhook_secret").unlink()


def deployed(directory):
    files = make_secrets(directory)
    understood(directory, files)
    with postgres(directory) as (port, run, data, account):
        password = files / "tenantry_password"
        os.chown(password, account.pw_uid, account.pw_gid)
        shutil.copy(ROOT / "deploy/compose/control-user.sh", data / "control-user.sh")
        environment = {"PGHOST": str(data), "PGPORT": str(port), "PATH": os.environ["PATH"]}
        run("bash", data / "control-user.sh", environment=environment | {"TENANTRY_PASSWORD_FILE": str(password)})
        url = files / "database_url"
        url.write_text(url.read_text().replace("@postgres:5432/", f"@127.0.0.1:{port}/"))
        serve(directory, files, run, data)


def serve(directory, files, run, data):
    uid, work, variables, listen = service(directory, files)

    def tenantry(*arguments):
        ran = as_user(uid, ["tenantry", *arguments], env=variables, cwd=work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return ran.communicate(timeout=90)[0].decode(), ran.returncode

    def until(code, *arguments):
        end = time.monotonic() + 60
        while tenantry(*arguments)[1] != code and time.monotonic() < end:
            time.sleep(0.2)
        return tenantry(*arguments)[1] == code

    alive = command(instruction("HEALTHCHECK").split("CMD ")[1])[1:]
    ready = COMPOSE["tenantry"]["healthcheck"]["test"][2:]
    check("an instance that is not there is unhealthy: 1", tenantry(*alive)[1] == 1)
    begun = time.monotonic()
    start = [*command(instruction("ENTRYPOINT")), *command(instruction("CMD"))]
    with (directory / "log").open("wb") as log:
        replica = as_user(uid, start, env=variables, cwd=work, stdout=log, stderr=log)
    try:
        check("it becomes ready", until(0, *ready))
        trigger = COMPOSE["first-tenant"]["command"]
        trigger = [word.replace("tenantry:8420", listen) for word in trigger]
        said, code = tenantry(*trigger)
        took = time.monotonic() - begun
        check(f"the first tenant is ready {took:.1f} s after the start", code == 0 and "is ready" in said and took < 60)
        check("the second `up` makes no second tenant", tenantry(*trigger)[1] == 0)
        tenants = tenantry("tenants", "ls", "--json")[0]
        check("there is one tenant", tenants.count('"org_first"') == 1)
        check("doctor has no complaint", tenantry("doctor")[1] == 0)
        run(*stop_postgres(data))
        check("without Postgres it is not ready: 1", until(1, *ready))
        check("and alive: 0", tenantry(*alive)[1] == 0)
        replica.terminate()
        check("it ends by itself", replica.wait(timeout=40) == 0)
        owned = [path for path in directory.rglob("*") if path.stat().st_uid == uid and path.parent != files]
        check("it wrote no file", owned == [])
        log = (directory / "log").read_text()
        kept = [path.read_text() for path in files.iterdir() if path.name != "complete"]
        check("no secret is in its log", not any(secret in log for secret in kept))
    except SystemExit:
        print((directory / "log").read_text()[-4000:])
        raise
    finally:
        replica.kill()
        replica.wait()


def stop_postgres(data):
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: float(it.parent.name))
    return [binaries / "pg_ctl", "--pgdata", data / "data", "--wait", "stop", "--mode=fast"]


if __name__ == "__main__":
    main(sys.argv[1])
