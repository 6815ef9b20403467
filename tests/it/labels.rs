//! Labels: given by operators, and what fleet commands select by.

use serde_json::{Value, json};
use tenantry::api_keys::Scope;

use crate::{
    cli_operator::{json as listed, run},
    support::{App, Deployment, TinyBlueprint, app::new_org, events},
};

async fn two_tenants() -> (App, [String; 2], TinyBlueprint) {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let orgs = [new_org(), new_org()];
    for org in &orgs {
        app.accepts(&[&events::created(org, "Acme")]).await;
        app.tenant(org).is_ready().await;
    }
    app.is_idle().await;
    (app, orgs, blueprint)
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_are_given_taken_shown_and_audited() {
    let (app, [org, _], _blueprint) = two_tenants().await;
    let label =
        async |changes: &[&str]| run(&app, &[&["tenants", "label", &org], changes].concat()).await;
    let (code, _, stderr) = label(&["tier=free", "ring=canary"]).await;
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("ring=canary tier=free"), "{stderr}");
    assert_eq!(label(&["tier=paid", "ring-", "never.there-"]).await.0, 0);
    let (_, shown, _) = run(&app, &["tenants", "get", &org, "--json"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["tenant"]["labels"], json!({ "tier": "paid" }));
    // what is so already is no change
    assert_eq!(label(&["tier=paid"]).await.0, 0);
    let changes = [
        "audit",
        "ls",
        "--actor",
        "ada",
        "--action",
        "tenant.changed",
        "--json",
    ];
    let changes = listed(&app, &changes).await;
    let labels: Vec<&Value> = changes
        .iter()
        .map(|entry| &entry["after"]["labels"])
        .collect();
    assert_eq!(
        labels,
        [
            &json!({ "tier": "paid" }),
            &json!({ "ring": "canary", "tier": "free" })
        ]
    );

    for wrong in [
        &["Tier=x"][..],
        &["tier"],
        &["=x"],
        &["a=1", "a=2"],
        &["a b-"],
        &["k=\n"],
    ] {
        let (code, _, stderr) = label(wrong).await;
        assert_eq!(code, 64, "{wrong:?}: {stderr}");
        assert!(stderr.contains("hint:"), "{stderr}");
    }
    let kept: String = app
        .ask("select string_agg(labels::text, ' ' order by created_at) from tenants")
        .await;
    assert_eq!(kept, r#"{"tier": "paid"} {}"#);
    app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_command_is_about_those_that_have_all_the_labels() {
    let (app, [one, other], _blueprint) = two_tenants().await;
    for (org, labels) in [
        (&one, ["tier=free", "ring=1"]),
        (&other, ["tier=free", "ring=2"]),
    ] {
        let both = [&["tenants", "label", org.as_str()][..], &labels].concat();
        assert_eq!(run(&app, &both).await.0, 0);
    }
    let selected = async |select: &[&str]| {
        let all = [&["fleet", "drift", "--json"], select].concat();
        let (code, stdout, stderr) = run(&app, &all).await;
        assert_eq!(code, 0, "{stderr}");
        serde_json::from_str::<Value>(&stdout).unwrap()["alike"].clone()
    };
    assert_eq!(selected(&["--select", "tier=free"]).await, 2);
    assert_eq!(
        selected(&["--select", "tier=free", "--select", "ring=2"]).await,
        1
    );
    assert_eq!(
        selected(&[
            "--select",
            "tier=free",
            "--tenant",
            &one,
            "--select",
            "ring=2"
        ])
        .await,
        0
    );
    assert_eq!(selected(&["--select", "tier=paid"]).await, 0);
    let unclear = ["fleet", "drift", "--select", "ring=1", "--select", "ring=2"];
    assert_eq!(run(&app, &unclear).await.0, 64);
    let (code, _, stderr) = run(&app, &["fleet", "drift", "--select", "ring"]).await;
    assert_eq!(code, 64);
    assert!(stderr.contains("key=value"), "{stderr}");
    assert_eq!(
        run(&app, &["fleet", "drift", "--tenant", "nobody"]).await.0,
        1
    );
    app.deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_label_over_http_all_at_once_or_some() {
    let (app, [org, _], _blueprint) = two_tenants().await;
    let tenant = app.tenant(&org).find().await.unwrap();
    let path = format!("/v1/tenants/{}/labels", tenant.id);
    let write = app.as_bearer(&app.key(&[Scope::TenantsWrite]).await);
    let read = app.as_bearer(&app.key(&[Scope::TenantsRead]).await);
    let put = write
        .put(&path, &json!({ "tier": "free", "ring": "1" }))
        .await;
    assert_eq!(
        (put.status, &put.body["labels"]),
        (200, &json!({ "tier": "free", "ring": "1" }))
    );
    let patched = write
        .patch(
            &path,
            &json!({ "tier": "paid", "ring": null, "gone": null }),
        )
        .await;
    assert_eq!(
        (patched.status, &patched.body["labels"]),
        (200, &json!({ "tier": "paid" }))
    );
    let shown = read.get(&format!("/v1/tenants/{}", tenant.id)).await;
    assert_eq!(shown.body["labels"], json!({ "tier": "paid" }));

    let refused = read.put(&path, &json!({})).await;
    assert_eq!(refused.refusal(), (403, "scope_missing"));
    let many: Value = (0..65)
        .map(|at| (format!("k{at}"), json!("v")))
        .collect::<serde_json::Map<_, _>>()
        .into();
    for wrong in [
        json!({ "Tier": "x" }),
        json!({ "k": "v".repeat(256) }),
        many,
    ] {
        assert_eq!(
            write.put(&path, &wrong).await.refusal(),
            (400, "label_invalid")
        );
        assert_eq!(
            write.patch(&path, &wrong).await.refusal(),
            (400, "label_invalid")
        );
    }
    for wrong in [json!({ "k": 1 }), json!({ "k": null })] {
        assert_eq!(
            write.put(&path, &wrong).await.refusal(),
            (400, "parameter_invalid")
        );
    }
    let nobody = "/v1/tenants/00000000-0000-0000-0000-000000000000/labels";
    assert_eq!(
        write.put(nobody, &json!({})).await.refusal(),
        (404, "tenant_unknown")
    );
    let cleared = write.put(&path, &json!({})).await;
    assert_eq!((cleared.status, &cleared.body["labels"]), (200, &json!({})));
    app.deployment.discard().await;
}
