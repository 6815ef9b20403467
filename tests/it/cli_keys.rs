//! `tenantry keys`, and the first key of `dev`.

use chrono::TimeDelta;
use serde_json::Value;
use tenantry::{
    api_keys::{ApiKeys, Scope},
    db::Db,
    shutdown::Tasks,
};

use crate::{
    cli::{dev, directory, outcome},
    support::{Deployment, app::now, process::tenantry},
};

/// Runs a command against the deployment: exit code, standard output, standard error.
async fn run(deployment: &Deployment, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tenantry();
    command
        .args(arguments)
        .env("USER", "grace")
        .envs(deployment.variables.iter().cloned());
    tokio::task::spawn_blocking(move || outcome(&mut command))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_shown_once_rotated_and_revoked() {
    let deployment = Deployment::new().await;
    let (code, _, stderr) = run(&deployment, &["keys", "ls"]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("hint: start `tenantry serve`"), "{stderr}");
    let db = Db::new(&deployment.config().database.url, 4).unwrap();
    db.migrate().await.unwrap();
    let keys = ApiKeys::new(&db, &Tasks::new());
    let (code, stdout, stderr) = run(&deployment, &["keys", "ls"]).await;
    assert_eq!((code, &*stdout), (0, ""));
    assert!(stderr.contains("tenantry keys create"), "{stderr}");

    let create =
        "keys create --name ci --scope tenants:read --scope members:*,audit:read --expires 90d";
    let arguments: Vec<_> = create.split(' ').collect();
    let (code, stdout, stderr) = run(&deployment, &arguments).await;
    assert_eq!(code, 0, "{stderr}");
    let first = stdout.trim_end();
    assert!(
        stderr.contains("only time") && !stderr.contains(first),
        "{stderr}"
    );
    let key = keys.authenticate(first, now()).await.unwrap();
    assert_eq!(
        key.scopes.to_string(),
        "tenants:read members:read members:write audit:read"
    );
    let life = key.expires_at.unwrap() - key.created_at;
    assert!(
        (life - TimeDelta::days(90)).abs() < TimeDelta::minutes(1),
        "{life}"
    );
    let id = key.id.clone();

    let (code, stdout, stderr) =
        run(&deployment, &["keys", "rotate", &id, "--overlap", "15m"]).await;
    assert_eq!(code, 0, "{stderr}");
    let second = stdout.trim_end();
    assert!(stderr.contains("the old text works until"), "{stderr}");
    keys.forget(&id);
    for text in [first, second] {
        assert_eq!(keys.authenticate(text, now()).await.unwrap().id, id);
    }
    let (code, stdout, _) = run(&deployment, &["keys", "ls"]).await;
    assert_eq!(code, 0);
    assert!(
        stdout.contains(&id) && stdout.contains("rotating") && stdout.contains("grace"),
        "{stdout}"
    );
    assert!(!stdout.contains(&first[13..45]) && !stdout.contains(&second[13..45]));

    // who pastes the whole key does not see it again
    for _ in 0..2 {
        let (code, stdout, stderr) = run(&deployment, &["keys", "revoke", first]).await;
        assert_eq!((code, stdout.trim_end()), (0, &*id), "{stderr}");
        assert!(!stderr.contains(&first[13..45]), "{stderr}");
    }
    keys.forget(&id);
    assert!(keys.authenticate(second, now()).await.is_err());
    let (code, stdout, _) = run(&deployment, &["keys", "ls", "--json"]).await;
    assert_eq!(code, 0);
    let listed: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    assert_eq!(listed[0]["id"], *id);
    assert!(listed[0]["revoked_at"].is_string());
    let (_, stdout, _) = run(&deployment, &["audit", "ls"]).await;
    assert_eq!(stdout.matches("operator grace").count(), 3, "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_key_is_made_for_its_origins_and_listed_with_them() {
    let deployment = Deployment::new().await;
    let db = Db::new(&deployment.config().database.url, 4).unwrap();
    db.migrate().await.unwrap();
    let create = "keys create --name signup --form --origin https://app.example.com --origin http://localhost:3000";
    let arguments: Vec<_> = create.split(' ').collect();
    let (code, stdout, stderr) = run(&deployment, &arguments).await;
    assert_eq!(code, 0, "{stderr}");
    let origins = "https://app.example.com http://localhost:3000";
    assert!(
        stderr.contains("form key") && stderr.contains(origins),
        "{stderr}"
    );
    let keys = ApiKeys::new(&db, &Tasks::new());
    let key = keys.authenticate(stdout.trim_end(), now()).await.unwrap();
    assert_eq!(key.scopes.to_string(), "registrations:submit");
    assert!(key.is_for_pages_of(b"http://localhost:3000"));

    let (_, stdout, _) = run(&deployment, &["keys", "ls"]).await;
    assert!(
        stdout.contains("ORIGINS") && stdout.contains(origins),
        "{stdout}"
    );
    let (_, stdout, _) = run(&deployment, &["keys", "ls", "--json"]).await;
    let listed: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let expected = ["https://app.example.com", "http://localhost:3000"];
    assert_eq!(listed[0]["origins"], serde_json::json!(expected));

    let page = "--origin https://app.example.com";
    for (rest, expected) in [
        ("--form".to_owned(), "--origin"),
        (format!("--scope admin {page}"), "--form"),
        (format!("--scope admin --form {page}"), "--form"),
        (
            "--scope registrations:submit".to_owned(),
            "[api_key_origins_missing]",
        ),
        (format!("--form {page}/signup"), "[api_key_origin_invalid]"),
    ] {
        let create = format!("keys create --name signup {rest}");
        let arguments: Vec<_> = create.split(' ').collect();
        let (code, stdout, stderr) = run(&deployment, &arguments).await;
        assert_eq!((code, &*stdout), (64, ""), "{rest}: {stderr}");
        assert!(stderr.contains(expected), "{rest}: {stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_hint_and_without_the_text() {
    let deployment = Deployment::new().await;
    let db = Db::new(&deployment.config().database.url, 4).unwrap();
    db.migrate().await.unwrap();
    let create = ["keys", "create", "--name", "ci", "--json", "--scope"];
    let (code, stdout, _) = run(&deployment, &[&create[..], &["tenants:*"]].concat()).await;
    assert_eq!(code, 0);
    let made: Value = serde_json::from_str(&stdout).unwrap();
    let text = made["text"].as_str().unwrap();
    let id = made["key"]["id"].as_str().unwrap();
    let scopes = made["key"]["scopes"].as_array().unwrap();
    assert_eq!(scopes.len(), 2, "without tenants:connect: {scopes:?}");
    assert_eq!(made["key"].get("hash"), None);

    let of_ci = |rest: &str| format!("create --name ci {rest}");
    for (arguments, exit, expected) in [
        (of_ci(""), 64, "--scope"),
        (of_ci("--scope *"), 64, "tenants:* (without connect)"),
        (
            of_ci("--scope admin --expires 0s"),
            64,
            "[api_key_expiry_passed]",
        ),
        (of_ci("--scope admin --expires soon"), 64, "such as 30s"),
        (
            "create --name= --scope admin".to_owned(),
            64,
            "[api_key_name_invalid]",
        ),
        (format!("rotate {id} --overlap 1w"), 64, "such as 30s"),
        ("rotate 00000000".to_owned(), 1, "[api_key_unknown]"),
        ("revoke 00000000".to_owned(), 1, "[api_key_unknown]"),
    ] {
        let arguments: Vec<_> = arguments.split_whitespace().collect();
        let arguments = [&["keys"], &arguments[..]].concat();
        let (code, stdout, stderr) = run(&deployment, &arguments).await;
        assert_eq!((code, &*stdout), (exit, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
    assert_eq!(run(&deployment, &["keys", "revoke", id]).await.0, 0);
    let (code, _, stderr) = run(&deployment, &["keys", "rotate", text]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("[api_key_revoked]") && stderr.contains("hint: "),
        "{stderr}"
    );
    assert!(!stderr.contains(&text[13..45]), "{stderr}");
    let (code, stdout, _) = run(&deployment, &["keys", "create", "--help"]).await;
    assert_eq!(code, 0);
    assert!(
        stdout.contains("does not include tenants:connect"),
        "{stdout}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_makes_a_first_key_and_shows_it_once() {
    let data = directory();
    let once = async |json: bool| {
        let mut command = dev(data.path());
        command.arg("--once").args(json.then_some("--json"));
        let run = tokio::task::spawn_blocking(move || outcome(&mut command));
        let (code, stdout, stderr) = run.await.unwrap();
        assert_eq!(code, 0, "{stderr}");
        stdout
    };
    // nobody would see it
    assert!(!once(true).await.contains("tnt_"));
    let first = once(false).await;
    let shown: Vec<_> = first
        .split_whitespace()
        .filter(|it| it.starts_with("tnt_"))
        .collect();
    assert_eq!(shown.len(), 1, "{first}");
    let text = tenantry::api_keys::ApiKeyText::parse(shown[0]).unwrap();
    assert!(
        first.contains("shown this once") && first.contains("tenantry keys create"),
        "{first}"
    );
    let later = once(false).await;
    assert!(
        !later.contains("tnt_") && later.contains("tenantry keys create"),
        "{later}"
    );

    let dev = super::cli::Dev::start(data.path()).await;
    let (_, stdout, stderr) = outcome(
        tenantry()
            .env("TENANTRY_DEV_DIR", data.path())
            .args(["keys", "ls", "--json"]),
    );
    let listed: Vec<Value> = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stderr}"));
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (&listed[0]["id"], &listed[0]["name"]),
        (&text.id().into(), &"dev".into())
    );
    let scopes = [Scope::TenantsConnect, Scope::Admin].map(Scope::name);
    assert_eq!(listed[0]["scopes"], serde_json::json!(scopes));
    assert_eq!(dev.ends_after(rustix::process::Signal::TERM).await, Some(0));
}
