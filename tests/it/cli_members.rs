//! `tenantry members` and `doctor`, as an ordinary user of Postgres runs them.

use serde_json::Value;

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::new_org,
    cluster::execute,
    events,
    people::{self, Belongs, new_id},
    process::tenantry,
};

/// Runs a command of the deployment: exit code, standard output, standard error.
async fn run(app: &App, blueprint: &TinyBlueprint, arguments: &[&str]) -> (i32, String, String) {
    let mut command = tenantry();
    command
        .args(arguments)
        .envs(app.deployment.variables.iter().cloned())
        .env("TENANTRY__BLUEPRINT__DIRECTORY", blueprint.path());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_named_by_id_or_address_and_nobody_by_nothing() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let (org, phone, ada) = (new_org(), new_id("user"), new_id("user"));
    app.accepts(&[&events::created(&org, "Acme")]).await;
    for (user, email) in [(&phone, ""), (&ada, "ada@acme.example")] {
        let belongs = Belongs {
            id: &new_id("om"),
            org: &org,
            user,
            role: "member",
        };
        app.accepts(&[
            &people::user("created", user, email, ("", ""), 1),
            &people::membership("created", belongs, "active", 1),
        ])
        .await;
    }
    let mut invitation = people::accepted(&new_id("invitation"), (&org, "cy@acme.example"), "", 1);
    invitation["event"] = "invitation.created".into();
    invitation["data"]["state"] = "pending".into();
    app.accepts(&[&invitation]).await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;

    let (code, _, stderr) = run(&app, &blueprint, &["members", "remove", &org, ""]).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[member_unknown]"), "{stderr}");
    let address = "ADA@acme.example";
    let itself = ["members", "remove", &org, &ada, "--as", address];
    let (code, _, stderr) = run(&app, &blueprint, &itself).await;
    assert_eq!(code, 1);
    assert!(stderr.contains("[member_is_yourself]"), "{stderr}");
    let (code, stdout, _) = run(&app, &blueprint, &["members", "remove", &org, address]).await;
    assert_eq!((code, stdout.trim()), (0, &*ada));

    let (code, stdout, _) = run(&app, &blueprint, &["members", "ls", &org, "--json"]).await;
    assert_eq!(code, 0);
    let listed: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let mut statuses: Vec<_> = listed
        .iter()
        .map(|one| one["status"].as_str().unwrap())
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["active", "invited", "removed"]);
    let assigned = ["members", "assign", &org, &phone, "a\nb"];
    let (code, _, stderr) = run(&app, &blueprint, &assigned).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("[member_text_invalid]"), "{stderr}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_of_tenants_on_a_cluster_that_nobody_configured() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let org = new_org();
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    let elsewhere = "update tenants set cluster = 'west'";
    execute(&app.deployment.control_url, elsewhere).await;
    let (code, stdout, _) = run(&app, &blueprint, &["doctor"]).await;
    let told = "1 tenants are on cluster west, which is not configured";
    assert!(code == 1 && stdout.contains(told), "{stdout}");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_has_no_complaint_about_the_rights_that_the_readme_gives() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let (_, stdout, _) = run(&app, &blueprint, &["doctor", "--json"]).await;
    let checks: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let of_cluster = checks.iter().filter(|check| check["name"] == "cluster");
    for check in of_cluster {
        assert_ne!(check["verdict"], "FAIL", "{check}");
    }
    app.stop().await;
}
