//! `tenantry tenants suspend|resume|hosts`, `jobs`, `events replay` and `audit`, as an operator types them.

use serde_json::Value;

use crate::support::{App, Deployment, TinyBlueprint, app::new_org, events, process::tenantry};

/// Runs a command of the deployment: exit code, standard output, standard error.
pub async fn run(app: &App, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tenantry();
    command
        .args(arguments)
        .env("USER", "ada")
        .envs(app.deployment.variables.iter().cloned());
    if let Some(file) = &app.deployment.file {
        command.arg("--config").arg(file);
    }
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout).trim().to_owned(),
        text(output.stderr),
    )
}

pub async fn json(app: &App, arguments: &[&str]) -> Vec<Value> {
    let (code, stdout, stderr) = run(app, arguments).await;
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_suspended_given_a_host_and_resumed() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let tenant = app.tenant(&org).is_ready().await;
    let id = tenant.id.to_string();

    let (code, stdout, stderr) = run(&app, &["tenants", "suspend", &org]).await;
    assert_eq!((code, stdout), (0, id.clone()), "{stderr}");
    let (code, _, stderr) = run(&app, &["tenants", "suspend", &org]).await;
    assert_eq!(code, 1);
    assert!(
        stderr.contains("is suspended, not ready [tenant_wrong_state]"),
        "{stderr}"
    );
    let host = ["tenants", "hosts", "add", &org, "CRM.acme.example"];
    let (code, stdout, _) = run(&app, &host).await;
    assert_eq!((code, &*stdout), (0, "crm.acme.example"));
    let (code, stdout, _) = run(&app, &["tenants", "resume", "crm.acme.example"]).await;
    assert_eq!(
        (code, stdout),
        (0, id),
        "a tenant is named by any of its hosts"
    );
    let (_, stdout, _) = run(&app, &["tenants", "hosts", "ls", &org]).await;
    assert_eq!(stdout, "crm.acme.example");
    let taken = ["tenants", "hosts", "add", &org, &tenant.url];
    let (code, _, stderr) = run(&app, &taken).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[host_taken]"), "{stderr}");
    let remove = ["tenants", "hosts", "rm", &org, "crm.acme.example"];
    assert_eq!(run(&app, &remove).await.0, 0);
    assert_eq!(run(&app, &remove).await.0, 1, "it is gone");
    assert_eq!(run(&app, &["tenants", "connection", &org]).await.0, 0);

    let by_ada = ["audit", "ls", "--actor", "ada", "--json"];
    let actions: Vec<String> = json(&app, &by_ada)
        .await
        .iter()
        .map(|entry| entry["action"].as_str().unwrap().to_owned())
        .collect();
    let expected = [
        "credential.revealed",
        "tenant_host.deleted",
        "tenant.changed",
        "tenant_host.created",
        "tenant.changed",
    ];
    assert_eq!(actions, expected);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_and_events_are_found_cancelled_and_put_back_to_work() {
    let blueprint = TinyBlueprint::new();
    let app = App::listening(Deployment::new().await, blueprint.source()).await;
    app.replica.migrate().await.unwrap();
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    let waiting = json(&app, &["jobs", "ls", "--state", "available", "--json"]).await;
    let id = waiting[0]["id"].to_string();
    let (code, stdout, _) = run(&app, &["jobs", "cancel", &id]).await;
    assert_eq!((code, &stdout), (0, &id));
    let (code, _, stderr) = run(&app, &["jobs", "cancel", &id]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[job_wrong_state]"), "{stderr}");
    let (_, stdout, _) = run(&app, &["jobs", "get", &id]).await;
    assert!(stdout.contains("cancelled"), "{stdout}");
    assert_eq!(run(&app, &["jobs", "get", "0"]).await.0, 1);

    let failed = [
        "events",
        "ls",
        "--type",
        "organization.created",
        "--state",
        "failed",
        "--json",
    ];
    let event = json(&app, &failed).await[0]["id"].to_string();
    let (code, stdout, _) = run(&app, &["events", "replay", &event]).await;
    assert_eq!((code, &stdout), (0, &event));
    let (code, _, stderr) = run(&app, &["events", "replay", &event]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[event_is_pending]"), "{stderr}");
    app.replica.build_templates().await.unwrap();
    app.replica.work();
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let of_tenant = [
        "jobs",
        "ls",
        "--tenant",
        &org,
        "--kind",
        "provision_tenant",
        "--json",
    ];
    assert_eq!(json(&app, &of_tenant).await.len(), 1);
    let (code, _, _) = run(&app, &["jobs", "retry", &id]).await;
    assert_eq!(
        code, 0,
        "an event that is done is done once: its job does nothing"
    );
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    let (_, stdout, _) = run(&app, &["jobs", "ls"]).await;
    assert!(stdout.starts_with("ID"), "{stdout}");
    app.stop().await;
}
