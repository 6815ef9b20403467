//! Migrators that are programs of their own: what they get, what they may not keep, and that they end with us.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;
use tenantry::provisioning::{
    BlueprintSource,
    migrators::child::{self, Program},
    template::TemplateRecord,
};

use crate::support::{
    Deployment, Migrations,
    app::{wait_for, wait_until},
    process::Process,
};

/// A blueprint whose migrator is a script of the test; names with a dot are no part of it.
struct Scripted {
    directory: TempDir,
}

impl Scripted {
    fn new(script: &str) -> Self {
        let this = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        this.configure("");
        this.put("verify/01_none.sql", "select 'never' where false");
        this.put("db/migrate.sh", script);
        this
    }

    /// The version is always the same: what is tested here is the program.
    fn configure(&self, top: &str) {
        let rest = "migrator = \"command\"\n[command]\nargv = [\"/bin/sh\", \"db/migrate.sh\", \"two words; $HOME\"]\nfiles = [\"db\"]\nversion_query = \"select 'v1'\"";
        self.put("blueprint.toml", &format!("{top}\n{rest}"));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn source(&self) -> BlueprintSource {
        BlueprintSource::Directory(self.directory.path().to_owned())
    }

    /// Every process that the script noted, once there are so many.
    async fn processes(&self, count: usize) -> Vec<Pid> {
        wait_for("the script notes its processes", async || {
            let noted = self.read(".pids");
            let noted: Vec<_> = noted
                .lines()
                .filter_map(|line| Pid::from_raw(line.parse().ok()?))
                .collect();
            (noted.len() == count).then_some(noted)
        })
        .await
    }
}

fn is_alive(pid: Pid) -> bool {
    // one that ended and that nobody waited for yet is not alive
    let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let is_zombie =
        state.is_ok_and(|state| state.rsplit(')').next().unwrap_or("").starts_with(" Z"));
    test_kill_process(pid).is_ok() && !is_zombie
}

async fn all_are_gone(pids: &[Pid]) {
    wait_until("the whole group is gone", async || {
        !pids.iter().any(|pid| is_alive(*pid))
    })
    .await;
}

/// The value of a variable that `env` wrote.
fn variable<'a>(seen: &'a str, name: &str) -> Option<&'a str> {
    seen.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gets_its_database_in_the_environment_and_nothing_that_is_ours() {
    let blueprint = Scripted::new(
        "env > .seen; pwd > .where; printf '%s' \"$1\" > .argument; [ -z \"$(cat)\" ]",
    );
    let acme = Migrations::of(blueprint.source()).await;
    acme.migrate().await.unwrap();
    let seen = blueprint.read(".seen");
    let names: BTreeSet<&str> = seen
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        .collect();
    // PWD, SHLVL and _ are what shells make themselves
    let expected = [
        "DATABASE_URL",
        "HOME",
        "LANG",
        "OLDPWD",
        "PATH",
        "PGAPPNAME",
        "PGDATABASE",
        "PGHOST",
        "PGPASSWORD",
        "PGPORT",
        "PGSSLMODE",
        "PGUSER",
        "PWD",
        "SHLVL",
        "TENANTRY_DIRECTION",
        "TENANTRY_TENANT_ID",
        "TENANTRY_TENANT_NAME",
        "TZ",
        "_",
    ];
    let strange: Vec<_> = names
        .iter()
        .filter(|name| !expected.contains(name))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    let tenant = acme.tenant().await;
    assert_eq!(
        variable(&seen, "TENANTRY_TENANT_ID").unwrap(),
        tenant.id.to_string()
    );
    assert_eq!(
        variable(&seen, "TENANTRY_TENANT_NAME").unwrap(),
        "Acme \"& Sons\""
    );
    assert_eq!(variable(&seen, "TENANTRY_DIRECTION").unwrap(), "up");
    assert_eq!(variable(&seen, "PGDATABASE").unwrap(), tenant.database);
    assert_eq!(
        blueprint.read(".argument"),
        "two words; $HOME",
        "no shell reads the command line"
    );
    assert_eq!(
        Path::new(blueprint.read(".where").trim()),
        blueprint.path("").canonicalize().unwrap()
    );

    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_logs_in_as_a_member_of_the_owner_role_and_of_nothing_else() {
    let blueprint = Scripted::new("env > .seen");
    let acme = Migrations::of(blueprint.source()).await;
    acme.migrate().await.unwrap();
    let seen = blueprint.read(".seen");
    let mut session = PgConnection::connect(variable(&seen, "DATABASE_URL").unwrap())
        .await
        .unwrap();
    let (user, role, superuser, lock, statement): (String, String, bool, String, String) = sqlx::query_as(
        "select session_user::text, current_user::text, rolsuper or rolcreatedb or rolcreaterole,
                current_setting('lock_timeout'), current_setting('statement_timeout')
         from pg_roles where rolname = session_user",
    )
    .fetch_one(&mut session)
    .await
    .unwrap();
    let prefix = &acme.app.deployment.prefix;
    assert_eq!(
        (user, role),
        (format!("{prefix}migrator"), format!("{prefix}owner"))
    );
    assert_eq!((superuser, &*lock, &*statement), (false, "2s", "30s"));
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_keys_are_rotated_replicas_with_either_log_in_alike() {
    let blueprint = Scripted::new("env > .seen");
    let old = Migrations::of(blueprint.source()).await;
    let key = |id, byte| format!("{id}:{}", STANDARD.encode([byte; 32]));
    // the old one is that of every deployment
    let both = format!("{},{}", key("new", 8), key("test", 7));
    let both = old.with_keys(&both).await;
    let new = old.with_keys(&key("new", 8)).await;
    let url_of = async |replica: &Migrations| {
        replica.migrate().await.unwrap();
        let seen = blueprint.read(".seen");
        variable(&seen, "DATABASE_URL").unwrap().to_owned()
    };
    let logs_in = async |url: &str| PgConnection::connect(url).await.is_ok();

    let with_old = url_of(&old).await;
    assert_eq!(url_of(&both).await, with_old);
    assert!(logs_in(&with_old).await, "a program may be about to");

    // nobody has the old key alone any more
    let with_new = url_of(&new).await;
    assert_ne!(with_new, with_old);
    assert_eq!(url_of(&both).await, with_new);
    assert!(logs_in(&with_new).await && !logs_in(&with_old).await);
    for replica in [both, new, old] {
        replica.app.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_is_handed_on_where_it_is_named() {
    let blueprint = Scripted::new("env > .seen");
    let settings = blueprint.read("blueprint.toml");
    blueprint.put(
        "blueprint.toml",
        &format!("{settings}\nenvironment = [\"CARGO_MANIFEST_DIR\", \"NO_SUCH\"]"),
    );
    let acme = Migrations::of(blueprint.source()).await;
    acme.migrate().await.unwrap();
    let seen = blueprint.read(".seen");
    let handed = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    assert_eq!(variable(&seen, "CARGO_MANIFEST_DIR"), handed.to_str());
    assert_eq!(variable(&seen, "NO_SUCH"), None);
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_longer_than_what_is_kept_of_it_is_refused() {
    let blueprint = Scripted::new("true");
    let acme = Migrations::of(blueprint.source()).await;
    let long = blueprint
        .read("blueprint.toml")
        .replace("select 'v1'", "select repeat('v', 51)");
    blueprint.put("blueprint.toml", &long);
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migrator_version_unreadable");
    assert!(error.to_string().contains("left(…, 50)"), "{error}");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_fails_is_quoted_without_its_password() {
    let blueprint = Scripted::new("");
    let acme = Migrations::of(blueprint.source()).await;
    blueprint.put(
        "db/migrate.sh",
        "env > .seen; echo first >&2; i=0; while [ $i -lt 9000 ]; do echo chatter chatter >&2; i=$((i+1)); done; echo \"cannot use $DATABASE_URL\" >&2; exit 3",
    );
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migrator_failed");
    assert!(!error.is_retryable());
    let told = error.to_string();
    assert!(
        told.contains("exit code 3") && told.contains("cannot use postgresql://"),
        "{told}"
    );
    assert!(
        told.contains(":***@") && !told.contains("first") && told.len() < 2000,
        "{told}"
    );
    let seen = blueprint.read(".seen");
    assert!(!told.contains(variable(&seen, "PGPASSWORD").unwrap()));

    blueprint.put("db/migrate.sh", "exit 75");
    assert!(
        acme.migrate().await.unwrap_err().is_retryable(),
        "a failure of the moment"
    );
    blueprint.put("db/migrate.sh", "kill -9 $$");
    assert!(
        acme.migrate().await.unwrap_err().is_retryable(),
        "whoever was killed did not decide to fail"
    );
    blueprint.put("db/migrate.sh", "printf 'a\\0b' >&2; exit 255");
    let error = acme.migrate().await.unwrap_err();
    assert!(!error.is_retryable(), "what PHP and Perl end with");
    let told = error.to_string();
    assert!(told.contains("a\u{fffd}b"), "{told:?}");
    blueprint.put(
        "blueprint.toml",
        &blueprint.read("blueprint.toml").replace("/bin/sh", "exit"),
    );
    let told = acme.migrate().await.unwrap_err().to_string();
    assert!(
        told.contains("exit code 127") || told.contains("not found"),
        "a builtin of the shell is no program: {told}"
    );
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_long_output_the_end_is_kept() {
    let many = "i=0; while [ $i -lt 30000 ]; do echo chatter; i=$((i+1)); done";
    let ended = child::run(Program {
        argv: [
            "/bin/sh",
            "-c",
            &format!("{many}; echo last; echo least >&2"),
        ]
        .map(str::to_owned)
        .to_vec(),
        directory: Path::new("/"),
        environment: Vec::new(),
        secret: "never said",
    })
    .await
    .unwrap();
    assert_eq!((ended.code, &*ended.errors), (0, "least\n"));
    let kept = ended.output.strip_suffix("last\nleast\n").unwrap();
    assert_eq!(kept.len() + "last\n".len(), 64 * 1024);
}

async fn said(script: &str, secret: &str) -> String {
    let ended = child::run(Program {
        argv: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        directory: Path::new("/"),
        environment: Vec::new(),
        secret,
    });
    ended.await.unwrap().output
}

/// By the bound of what is kept, wherever it falls, and by the end of the program.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_cut_in_two_is_not_kept_either() {
    let secret = "correct-horse";
    let is_seen = |output: &str| {
        let parts = secret.as_bytes().windows(4);
        parts
            .map(|part| str::from_utf8(part).unwrap())
            .any(|part| output.contains(part))
    };
    for kept_from in 0..30 {
        let zeros = 64 * 1024 - secret.len() - 15 + kept_from;
        let script = format!("printf '%015d%s%0{zeros}d' 0 {secret} 0");
        let output = said(&script, secret).await;
        assert!(output.len() > 65_000, "{}", output.len());
        assert!(!is_seen(&output), "{kept_from}: {output:.40}");
    }
    let output = said("printf 'password=corre'", secret).await;
    assert_eq!(output, "password=");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_is_in_no_command_line() {
    let blueprint = Scripted::new("");
    let acme = Migrations::of(blueprint.source()).await;
    blueprint.put(
        "db/migrate.sh",
        "env > .seen; echo $$ > .pids; while [ ! -e .go ]; do sleep 0.05; done",
    );
    let look = async {
        blueprint.processes(1).await;
        let seen = blueprint.read(".seen");
        let password = variable(&seen, "PGPASSWORD").unwrap();
        let lines: Vec<String> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("cmdline")).ok())
            .collect();
        let ours = lines.iter().filter(|line| line.contains("db/migrate.sh"));
        // those of the tests beside this one are as good, and so is a child before it is `sleep`
        assert!(
            ours.count() >= 3,
            "the guard, who waits for the pipe, and the program"
        );
        assert!(!lines.iter().any(|line| line.contains(password)));
        blueprint.put(".go", "");
    };
    let (done, ()) = tokio::join!(acme.migrate(), look);
    done.unwrap();
    acme.app.stop().await;
}

const STAYS: &str =
    "sleep 1000 & echo $! >> .pids; echo $$ >> .pids; trap '' TERM INT HUP; wait; sleep 1000";

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    let blueprint = Scripted::new("");
    let acme = Migrations::of(blueprint.source()).await;
    blueprint.configure("migrate_timeout_ms = 1500");
    blueprint.put("db/migrate.sh", STAYS);
    let error = acme.migrate().await.unwrap_err();
    assert_eq!(error.code(), "migrator_timed_out");
    assert!(error.is_retryable());
    all_are_gone(&blueprint.processes(2).await).await;
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_leaves_running_ends_with_it() {
    let blueprint = Scripted::new("");
    let acme = Migrations::of(blueprint.source()).await;
    blueprint.put("db/migrate.sh", "sleep 1000 & echo $! > .pids");
    acme.migrate().await.unwrap();
    all_are_gone(&blueprint.processes(1).await).await;
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_when_we_are_killed() {
    let blueprint = Scripted::new(STAYS);
    let mut deployment = Deployment::new().await;
    deployment.set_blueprint(&blueprint.path(""));
    let mut process = Process::start(&deployment, "").await;
    let pids = blueprint.processes(2).await;
    assert!(pids.iter().all(|pid| is_alive(*pid)));
    process.kill();
    process.is_killed().await;
    all_are_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_at_its_version_starts_nothing() {
    let blueprint = Scripted::new("echo x >> .runs");
    let acme = Migrations::of(blueprint.source()).await;
    assert_eq!(blueprint.read(".runs"), "x\n", "once, in the template");
    let current = blueprint.source().load().unwrap();
    let there = acme.template_of(&current).await.unwrap();
    let done = acme.migrate_to(&current, Some(&there)).await.unwrap();
    assert_eq!((&*done.from, &*done.to, done.applied), ("v1", "v1", 0));
    assert_eq!(blueprint.read(".runs"), "x\n");

    // its word is not taken for it
    let other = TemplateRecord {
        version: "v2".to_owned(),
        ..there
    };
    let error = acme.migrate_to(&current, Some(&other)).await.unwrap_err();
    assert_eq!(error.code(), "migrator_version_unreadable");
    assert_eq!(blueprint.read(".runs"), "x\nx\n");
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_dead_program_left_is_ended_first() {
    let blueprint = Scripted::new("env > .seen");
    let acme = Migrations::of(blueprint.source()).await;
    acme.migrate().await.unwrap();
    let seen = blueprint.read(".seen");
    let mut left = PgConnection::connect(variable(&seen, "DATABASE_URL").unwrap())
        .await
        .unwrap();
    sqlx::raw_sql("begin; create table half (id int)")
        .execute(&mut left)
        .await
        .unwrap();
    acme.migrate().await.unwrap();
    assert!(left.ping().await.is_err(), "it was ended");
    acme.is_left().await;
    acme.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_whose_program_fails_is_not_built() {
    let blueprint = Scripted::new("echo no database today >&2; exit 1");
    let app =
        crate::support::App::without_template(Deployment::new().await, blueprint.source()).await;
    let org = crate::support::app::new_org();
    app.accepts(&[&crate::support::events::created(&org, "Acme")])
        .await;
    let failure = app.tenant(&org).fails().await;
    assert_eq!(
        (&*failure.step, &*failure.code),
        ("create_database", "migrator_failed")
    );
    assert!(
        failure.cause.contains("no database today"),
        "{}",
        failure.cause
    );
    let left = format!(
        "select count(*) from pg_database where starts_with(datname, '{}')",
        app.deployment.prefix
    );
    // the replica tries as well when it starts: that may be after the tenant has
    wait_until("nothing is left", async || app.ask::<i64>(&left).await == 0).await;
    app.stop().await;
}

/// Kills what a failed test may have left; the guard does the same a moment later.
impl Drop for Scripted {
    fn drop(&mut self) {
        for line in self.read(".pids").lines() {
            if let Some(pid) = line.parse().ok().and_then(Pid::from_raw)
                && std::thread::panicking()
            {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
