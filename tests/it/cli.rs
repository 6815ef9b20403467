//! The program as its user meets it: arguments in, text and exit code out.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{app::wait_until, process::tenantry};

/// A directory that the unprivileged server of a private cluster can pass through.
pub fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Exit code, standard output, standard error.
pub fn outcome(command: &mut Command) -> (i32, String, String) {
    let output = run(command);
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// `tenantry dev` on a directory of the test.
pub fn dev(data: &Path) -> Command {
    let mut command = tenantry();
    command
        .arg("dev")
        .env("TENANTRY_DEV_DIR", data)
        .args(["--port", "0"]);
    command
}

/// Processes whose arguments name the directory.
fn processes_of(directory: &Path) -> Vec<String> {
    let name = directory.to_str().unwrap();
    let arguments = |entry: fs::DirEntry| {
        let text = text(&fs::read(entry.path().join("cmdline")).ok()?).replace('\0', " ");
        text.contains(name).then_some(text)
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| arguments(entry.ok()?))
        .collect()
}

/// A running `dev`, ready for commands from other terminals.
pub struct Dev(Child);

impl Dev {
    pub async fn start(data: &Path) -> Self {
        let child = dev(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let dev = Self(child);
        let ready = || {
            let listed = outcome(
                tenantry()
                    .env("TENANTRY_DEV_DIR", data)
                    .args(["tenants", "ls", "--state", "ready", "--json"]),
            );
            listed.0 == 0 && listed.1.contains("\"ready\"")
        };
        wait_until("the first tenant of `dev` is ready", async || ready()).await;
        dev
    }

    pub async fn ends_after(mut self, signal: Signal) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
        let child = std::sync::Mutex::new(&mut self.0);
        wait_until("`dev` ends", async || {
            child.lock().unwrap().try_wait().unwrap().is_some()
        })
        .await;
        self.0.wait().unwrap().code()
    }
}

#[test]
fn dev_makes_a_ready_tenant_with_one_command_and_keeps_its_data() {
    let data = directory();
    for (fresh, expected) in [(false, 1), (false, 2), (true, 1)] {
        let mut command = dev(data.path());
        command
            .args(["--once", "--json"])
            .args(fresh.then_some("--fresh"));
        let (code, stdout, stderr) = outcome(&mut command);
        assert_eq!(code, 0, "{stderr}");
        let story: Value =
            serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"));
        assert_eq!(story["tenant"]["state"], "ready");
        assert_eq!(story["tenant"]["initialize"], true);
        assert!(story["total_ms"].as_f64().unwrap() > 0.0);
        let steps: Vec<&str> = story["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            steps,
            [
                "place",
                "create_database",
                "create_role",
                "seed",
                "sync_members",
                "verify",
                "activate"
            ]
        );
        assert!(
            story["steps"]
                .as_array()
                .unwrap()
                .iter()
                .all(|step| step["duration_ms"].as_f64().unwrap() >= 0.0)
        );
        // a first tenant has the plain host name, a second one of that name an id in it
        let is_first = story["tenant"]["url"] == "acme.localhost";
        assert_eq!(is_first, expected == 1, "{}", story["tenant"]["url"]);
    }
    assert!(
        processes_of(data.path()).is_empty(),
        "{:?}",
        processes_of(data.path())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_terminal_needs_no_configuration() {
    let data = directory();
    let dev = Dev::start(data.path()).await;
    let command = |arguments: &[&str]| {
        outcome(
            tenantry()
                .env("TENANTRY_DEV_DIR", data.path())
                .args(arguments),
        )
    };

    let (code, stdout, stderr) = command(&["trigger", "organization.created", "--name", "Globex"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("globex.localhost is ready"), "{stdout}");
    assert!(
        stderr.contains("<-- 200 {\"status\":\"accepted\"}"),
        "{stderr}"
    );

    let (code, stdout, _) = command(&["tenants", "get", "globex.localhost", "--json"]);
    assert_eq!(code, 0);
    let tenant: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(tenant["tenant"]["name"], "Globex");

    let (code, stdout, _) = command(&["tenants", "connection", "globex.localhost"]);
    assert_eq!(code, 0);
    let stages: i64 =
        crate::support::cluster::ask(stdout.trim(), "select count(*) from stages").await;
    assert!(stages > 0);

    let (code, stdout, _) = command(&["events", "ls"]);
    assert_eq!(
        (code, stdout.matches("processed").count()),
        (0, 2),
        "{stdout}"
    );
    assert_eq!(command(&["health", "--ready"]).0, 0);
    let (code, stdout, _) = command(&["doctor"]);
    assert_eq!((code, stdout.contains("FAIL")), (0, false), "{stdout}");
    assert_eq!(command(&["tenants", "get", "nobody"]).0, 1);
    assert_eq!(
        command(&["tenants", "retry", "globex.localhost"]).0,
        1,
        "it is not failed"
    );

    let (code, _, stderr) = outcome(&mut super::cli::dev(data.path()));
    assert_eq!(code, 1);
    assert!(
        stderr.contains("is in use by process") && stderr.contains("hint:"),
        "{stderr}"
    );

    assert_eq!(dev.ends_after(Signal::TERM).await, Some(0));
    assert!(
        processes_of(data.path()).is_empty(),
        "{:?}",
        processes_of(data.path())
    );
    let (code, _, stderr) = command(&["tenants", "ls"]);
    assert_eq!(code, 64, "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_leaves_nothing_running_however_it_ends() {
    for signal in [Signal::INT, Signal::HUP, Signal::KILL] {
        let data = directory();
        let dev = Dev::start(data.path()).await;
        let code = dev.ends_after(signal).await;
        assert_eq!(code, (signal != Signal::KILL).then_some(0), "{signal:?}");
        wait_until("no process is left", async || {
            processes_of(data.path()).is_empty()
        })
        .await;
    }
}

#[test]
fn a_port_that_is_taken_is_said_with_its_fix() {
    let data = directory();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, _, stderr) = outcome(
        tenantry()
            .env("TENANTRY_DEV_DIR", data.path())
            .args(["dev", "--port", &port]),
    );
    assert_eq!(code, 1);
    assert!(
        stderr.contains("cannot listen on 127.0.0.1:")
            && stderr.contains("hint: ")
            && stderr.contains("--port"),
        "{stderr}"
    );
    assert!(processes_of(data.path()).is_empty());
}

#[test]
fn init_writes_a_blueprint_that_works_and_an_edited_migration_is_refused() {
    let (project, data) = (directory(), directory());
    let (code, stdout, stderr) = outcome(tenantry().current_dir(project.path()).arg("init"));
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("tenantry.toml") && stdout.contains("blueprint.toml"),
        "{stdout}"
    );
    assert_eq!(
        fs::metadata(project.path().join("tenantry.toml"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o600
    );
    assert_eq!(
        outcome(tenantry().current_dir(project.path()).arg("init")).0,
        1,
        "never overwrites"
    );

    let once = || {
        outcome(
            dev(data.path())
                .current_dir(project.path())
                .args(["--once", "--json"]),
        )
    };
    let (code, stdout, stderr) = once();
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("\"ready\""));

    let migrations = project.path().join("blueprint/migrations");
    let mut files: Vec<_> = fs::read_dir(&migrations)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let edited = format!(
        "{}\n-- a thought that came later\n",
        fs::read_to_string(&files[0]).unwrap()
    );
    fs::write(&files[0], edited).unwrap();
    let (code, _, stderr) = once();
    assert_eq!(code, 64, "{stderr}");
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(
        stderr.contains(name) && stderr.contains("hint:"),
        "{stderr}"
    );
}

#[test]
fn the_verifier_is_there_for_anybody_with_a_vector() {
    let file = fs::read_to_string("tests/fixtures/vectors.workos.json").unwrap();
    let vectors: Value = serde_json::from_str(&file).unwrap();
    let body_file = tempfile::NamedTempFile::new().unwrap();
    let mut tried = 0;
    for vector in vectors["vectors"].as_array().unwrap() {
        let secrets = match &vector["secret"] {
            Value::Array(several) => several
                .iter()
                .map(|secret| secret.as_str().unwrap())
                .collect(),
            one => vec![one.as_str().unwrap()],
        };
        fs::write(body_file.path(), vector["body"].as_str().unwrap()).unwrap();
        let mut command = tenantry();
        command
            .args(["webhook", "verify", "--source", "workos", "--body-file"])
            .arg(body_file.path());
        command.args([
            "--now",
            &vector["now_ms"].to_string(),
            "--tolerance",
            &vector["tolerance_s"].to_string(),
        ]);
        command.args(secrets.iter().flat_map(|secret| ["--secret", secret]));
        for (name, value) in vector["headers"].as_object().unwrap() {
            command.args(["--header", &format!("{name}: {}", value.as_str().unwrap())]);
        }
        let (code, stdout, _) = outcome(&mut command);
        let expected = if vector["expect"] == "accept" {
            (0, "accepted")
        } else {
            (1, "refused: ")
        };
        assert!(
            code == expected.0 && stdout.starts_with(expected.1),
            "{}: {code} {stdout}",
            vector["id"]
        );
        tried += 1;
    }
    assert!(tried > 20, "only {tried} vectors");
}

#[test]
fn a_signature_made_here_is_accepted_here() {
    let body = tempfile::NamedTempFile::new().unwrap();
    fs::write(body.path(), "{}").unwrap();
    let common = |verb: &str| {
        let mut command = tenantry();
        command
            .args([
                "webhook",
                verb,
                "--source",
                "workos",
                "--secret",
                "whsec_x",
                "--now",
                "2026-11-20T12:00:00Z",
                "--body-file",
            ])
            .arg(body.path());
        command
    };
    let (code, header, _) = outcome(&mut common("sign"));
    assert_eq!(code, 0);
    assert_eq!(
        outcome(common("verify").args(["--header", header.trim()])).0,
        0
    );
    fs::write(body.path(), "{ }").unwrap();
    assert_eq!(
        outcome(common("verify").args(["--header", header.trim()])).0,
        1
    );
}

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    let project = directory();
    let check = |toml: &str| {
        fs::write(project.path().join("tenantry.toml"), toml).unwrap();
        outcome(
            tenantry()
                .current_dir(project.path())
                .args(["config", "check"]),
        )
    };
    let cases = [
        (
            "[server]\nlisen = \"x\"\n",
            "tenantry.toml:2:1: there is no setting server.lisen; did you mean server.listen?",
        ),
        (
            "[queue]\nconcurrency = \"four\"\n",
            "tenantry.toml:2:15: queue.concurrency must be integer, not string",
        ),
        (
            "[tenants]\nprefix = \"Tn-\"\n",
            "tenants.prefix = \"Tn-\" cannot be used",
        ),
        (
            "[[clusters]]\nname = \"a\"\n[[clusters]]\nname = \"a\"\n",
            "clusters.name = \"a\" cannot be used: it takes a name that no other cluster has",
        ),
        ("[server\n", "is not valid TOML: "),
        (
            "[sources.workos]\nkind = \"workos\"\nsecrets = [\"a\"]\ntolerance = 3\n",
            "unknown field `tolerance`",
        ),
    ];
    for (toml, expected) in cases {
        let (code, _, stderr) = check(toml);
        assert_eq!(code, 64, "{toml}");
        assert!(
            stderr.contains(expected) && stderr.contains("hint: "),
            "{toml}: {stderr}"
        );
    }
    let (code, stdout, _) = check("[sources.workos]\nkind = \"workos\"\nsecrets = [\"whsec_1\"]\n");
    assert_eq!(
        (code, stdout.as_str()),
        (0, "ok: 1 source(s) routed, listening on 127.0.0.1:8420\n")
    );
}

#[test]
fn the_configuration_is_printed_without_its_secrets() {
    let mut command = tenantry();
    command
        .env("DATABASE_URL", "postgresql://u:hunter2@h/db")
        .env("WORKOS_WEBHOOK_SECRET", "whsec_hunter2");
    command
        .env("TENANTRY__SECRETS__KEYS", "k1:hunter2")
        .env("TENANTRY__QUEUE__LEASE_MS", "5000");
    let (code, stdout, _) = outcome(command.args(["config", "print"]));
    assert_eq!(code, 0);
    assert!(
        stdout.contains("database.url = postgresql://u:***@h/db")
            && stdout.contains("queue.lease_ms = 5000"),
        "{stdout}"
    );
    assert!(!stdout.contains("hunter2"), "{stdout}");
    let (_, stdout, _) = outcome(tenantry().args(["config", "print", "--default"]));
    assert_eq!(stdout.trim(), tenantry::config::DEFAULT_TOML.trim());
}

#[test]
fn every_failure_has_a_code_and_a_hint() {
    let cases: [(&[&str], i32); 5] = [
        (&["serve"], 64),
        (&["nonsense"], 64),
        (&["tenants", "ls", "--state", "happy"], 64),
        (&["health", "--url", "http://127.0.0.1:9"], 1),
        (&["trigger", "organization.created"], 64),
    ];
    for (arguments, expected) in cases {
        let (code, stdout, stderr) = outcome(
            tenantry()
                .env("TENANTRY_DEV_DIR", "/nonexistent")
                .args(arguments),
        );
        assert_eq!(code, expected, "{arguments:?}: {stderr}");
        assert!(
            stdout.is_empty(),
            "{arguments:?}: data on a failure: {stdout}"
        );
        assert!(stderr.contains("error: "), "{arguments:?}: {stderr}");
    }
    assert_eq!(outcome(tenantry().arg("--help")).0, 0);
    assert!(
        outcome(tenantry().args(["completion", "bash"]))
            .1
            .contains("_tenantry")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_waits_for_a_database_that_is_away() {
    // nobody listens there
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = listener.local_addr().unwrap().port();
    drop(listener);
    let mut serve = tenantry()
        .arg("serve")
        .env(
            "DATABASE_URL",
            format!("postgresql://u:p@127.0.0.1:{away}/db"),
        )
        .env(
            "TENANTRY__SECRETS__KEYS",
            "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        )
        .env("TENANTRY__BLUEPRINT__DIRECTORY", "examples/crm")
        .env("TENANTRY__SERVER__LISTEN", "127.0.0.1:0")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(serve.try_wait().unwrap().is_none(), "it must wait, not end");
    kill_process(Pid::from_child(&serve), Signal::TERM).unwrap();
    assert!(serve.wait().unwrap().success());
}
