//! Registrations, as a sign-up form asks for them.

use serde_json::{Value, json};
use tenantry::{
    api_keys::Scope,
    provisioning::{BlueprintSource, PLAN},
    webhooks::SourceKind,
};

use crate::support::{
    App, Deployment, Provider,
    api::Api,
    app::{Answer, bytes, exchange, wait_for, wait_until},
    cluster::hold,
    events,
    tiny::TinyBlueprint,
};

/// What a form sends.
fn form(name: &str, email: &str) -> Value {
    json!({"organization": {"name": name}, "user": {"email": email}})
}

/// A client that may register, with this idempotency key.
async fn client(app: &App, key: &str) -> Api {
    let text = app.key(&[Scope::RegistrationsWrite]).await;
    app.as_bearer(&text).header("idempotency-key", key)
}

async fn register(app: &App, key: &str, body: &Value) -> Answer {
    client(app, key).await.post("/v1/registrations", body).await
}

/// What an operator sees of a registration.
async fn look(app: &App, id: &str) -> Value {
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    let found = operator.get(&format!("/v1/registrations/{id}")).await;
    assert_eq!(found.status, 200, "{found:?}");
    found.body
}

/// Waits until a registration is in this state.
async fn is(app: &App, id: &str, state: &str) -> Value {
    wait_for(&format!("the registration is {state}"), async || {
        let found = look(app, id).await;
        (found["state"] == state).then_some(found)
    })
    .await
}

/// A replica whose WorkOS can be called.
async fn at(provider: &Provider, blueprint: &TinyBlueprint) -> App {
    let mut deployment = Deployment::new().await;
    deployment.set("WORKOS_API_KEY", crate::support::provider::API_KEY);
    deployment.set("TENANTRY__SOURCES__WORKOS__API_URL", provider.url());
    App::of(deployment, blueprint.source()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_up_becomes_a_ready_tenant_that_can_be_followed() {
    let app = App::start().await;
    let answer = register(&app, "first", &form("Acme Corp", "ada@acme.example")).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.body["id"].as_str().unwrap();
    assert_eq!(
        answer.header("location"),
        Some(&*format!("/v1/registrations/{id}"))
    );
    assert_eq!(answer.retry_after.as_deref(), Some("1"));
    assert_eq!(answer.body["state"], "accepted");
    assert_eq!(answer.body["progress"]["of"], PLAN.len());

    let ready = is(&app, id, "ready").await;
    assert_eq!(
        ready["progress"],
        json!({"step": null, "done": 7, "of": 7, "percentage": 100})
    );
    assert_eq!(ready["tenant"]["url"], "acme-corp.localhost");
    assert_eq!(ready["is_delayed"], false);
    let kinds = "select string_agg(kind, ' ' order by number) from registration_events where kind <> 'step'";
    assert_eq!(app.ask::<String>(kinds).await, "accepted ready");
    let gaps = "select count(*) from registration_events join registrations on id = registration_id
                where number > last_event";
    assert_eq!(app.ask::<i64>(gaps).await, 0);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_answered_with_the_same_bytes() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let api = client(&app, "once").await;
    let acme = form("Acme", "ada@acme.example");
    let first = api.post("/v1/registrations", &acme).await;
    is(&app, first.body["id"].as_str().unwrap(), "ready").await;

    // written otherwise, and with another preference: the same request
    let same = json!({"user": {"email": "ada@acme.example"}, "organization": {"name": "Acme"}});
    let again = api
        .clone()
        .header("prefer", "wait=5")
        .post("/v1/registrations", &same)
        .await;
    assert_eq!((again.status, &again.text), (202, &first.text));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(again.header("location"), first.header("location"));

    let other = api
        .post("/v1/registrations", &form("Acme 2", "ada@acme.example"))
        .await;
    assert_eq!(other.refusal(), (422, "idempotency_key_reused"));
    let text = app.key(&[Scope::RegistrationsWrite]).await;
    let keyless = app.as_bearer(&text).post("/v1/registrations", &acme).await;
    assert_eq!(keyless.refusal(), (400, "idempotency_key_missing"));
    assert_eq!(
        app.ask::<i64>("select count(*) from registrations").await,
        1
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_answered_when_the_tenant_is_ready_and_all_of_them_alike() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let api = client(&app, "waits").await.header("prefer", "wait=20");
    let acme = form("Acme", "ada@acme.example");
    let (one, two) = tokio::join!(
        api.post("/v1/registrations", &acme),
        api.post("/v1/registrations", &acme)
    );
    for answer in [&one, &two] {
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(answer.header("preference-applied"), Some("wait=20"));
        assert_eq!(answer.body["tenant"]["url"], "acme.localhost");
    }
    assert_eq!(one.text, two.text);
    let later = api.post("/v1/registrations", &acme).await;
    assert_eq!((later.status, &later.text), (201, &one.text));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_somebody_else_got_stands_for_those_who_wait() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await.with_fault("seed.before=hold");
    let app = App::of(deployment, blueprint.source()).await;
    let api = client(&app, "waits").await;
    let acme = form("Acme", "ada@acme.example");
    let waiting = api.clone().header("prefer", "wait=20");
    let impatient = async {
        let recorded = "select count(*) from registrations";
        wait_until("it is recorded", async || {
            app.ask::<i64>(recorded).await == 1
        })
        .await;
        api.post("/v1/registrations", &acme).await
    };
    let (patient, impatient) = tokio::join!(waiting.post("/v1/registrations", &acme), impatient);
    app.replica.provisioner.faults.release("seed.before");
    assert_eq!((impatient.status, patient.status), (202, 202));
    assert_eq!(impatient.body, patient.body);
    assert_eq!(patient.header("idempotency-replayed"), Some("true"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_changes_nothing() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let api = client(&app, "gone").await;
    let acme = form("Acme", "ada@acme.example");
    let waiting = api.clone().header("prefer", "wait=30");
    {
        let asked = waiting.post("/v1/registrations", &acme);
        tokio::pin!(asked);
        let recorded = "select count(*) from registrations";
        tokio::select! {
            answer = &mut asked => panic!("answered {answer:?}"),
            () = wait_until("it is recorded", async || app.ask::<i64>(recorded).await == 1) => {}
        }
    }
    let id: String = app.ask("select id::text from registrations").await;
    is(&app, &id, "ready").await;
    let again = waiting.post("/v1/registrations", &acme).await;
    assert_eq!((again.status, again.body["id"].as_str()), (201, Some(&*id)));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_registration_of_the_same_person_and_organization_is_the_first() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let tabs = (0..8).map(|tab| {
        let app = &app;
        async move {
            let body = form(
                "Acme  Corp",
                if tab % 2 == 0 {
                    "Ada@acme.example"
                } else {
                    "ada@ACME.example"
                },
            );
            register(app, &format!("tab {tab}").replace(' ', "-"), &body).await
        }
    });
    let answers = futures_util::future::join_all(tabs).await;
    for answer in &answers {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.body["id"], answers[0].body["id"]);
        assert_eq!(answer.body["status_token"], answers[0].body["status_token"]);
    }
    is(&app, answers[0].body["id"].as_str().unwrap(), "ready").await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    let again = register(&app, "later", &form("аcme corp", "ada@acme.example")).await;
    assert_eq!(again.status, 201, "{again:?}");
    assert_eq!(again.body["id"], answers[0].body["id"]);
    // another person, or another organization, is another one
    let bob = register(&app, "bob", &form("Acme Corp", "bob@acme.example")).await;
    let two = register(&app, "two", &form("Acme Two", "ada@acme.example")).await;
    for other in [bob, two] {
        assert_eq!(other.status, 202);
        assert_ne!(other.body["id"], answers[0].body["id"]);
    }
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_form_is_told_at_once_and_nothing_is_kept() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let bad = json!({"organization": {"name": "", "slug": "WWW"}, "user": {"email": "ada"}, "source": "nobody"});
    let refused = register(&app, "bad", &bad).await;
    assert_eq!(refused.refusal(), (422, "registration_invalid"));
    let errors = refused.body["errors"].as_array().unwrap();
    let pointers: Vec<_> = errors
        .iter()
        .map(|error| error["pointer"].as_str().unwrap())
        .collect();
    assert_eq!(
        pointers,
        ["#/organization/name", "#/organization/slug", "#/user/email"]
    );
    let unknown = json!({"organization": {"name": "Acme"}, "user": {"email": "ada@acme.example"}, "source": "nobody"});
    let refused = register(&app, "bad", &unknown).await;
    assert_eq!(refused.body["errors"][0]["code"], "source_unknown");
    // the key was not used up
    let good = register(&app, "bad", &form("Acme", "ada@acme.example")).await;
    assert_eq!(good.status, 202);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slug_is_given_once_and_so_is_one_that_looks_like_it() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let with_slug = |slug: &str, email: &str| json!({"organization": {"name": "Acme", "slug": slug}, "user": {"email": email}});
    let acme = register(&app, "acme", &with_slug("paypal", "ada@acme.example")).await;
    assert_eq!(acme.status, 202);
    let ready = is(&app, acme.body["id"].as_str().unwrap(), "ready").await;
    assert_eq!(ready["tenant"]["url"], "paypal.localhost");
    for (key, taken) in [("a", "paypal"), ("b", "paypa1")] {
        let refused = register(&app, key, &with_slug(taken, "eve@evil.example")).await;
        assert_eq!(refused.refusal(), (409, "slug_taken"));
        let suggested: Vec<_> = refused.body["suggestions"].as_array().unwrap().clone();
        assert_eq!(suggested.len(), 3);
        let offered = suggested[0].as_str().unwrap();
        let other = register(
            &app,
            &format!("{key}2"),
            &with_slug(offered, &format!("{key}@evil.example")),
        )
        .await;
        assert_eq!(other.status, 202, "{offered}");
    }
    // a name that leads to the same slug gets another host
    let other = register(&app, "name", &form("PayPa1", "mallory@evil.example")).await;
    let other = is(&app, other.body["id"].as_str().unwrap(), "ready").await;
    assert!(
        other["tenant"]["url"]
            .as_str()
            .unwrap()
            .starts_with("paypa1-"),
        "{other}"
    );
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_belongs_to_a_ready_tenant_is_told_so() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let mut ada = events::user("user_ada", ("Ada", "Lovelace"));
    ada["data"]["email"] = "ada@acme.example".into();
    app.accepts(&[
        &events::created("org_acme", "Acme"),
        &ada,
        &events::member("org_acme", "user_ada", "admin", 1),
    ])
    .await;
    app.tenant("org_acme").is_ready().await;
    app.is_idle().await;
    let refused = register(&app, "again", &form("Acme", "ADA@acme.example")).await;
    assert_eq!(refused.refusal(), (409, "already_signed_up"));
    assert_eq!(refused.body["url"], "acme.localhost");
    assert_eq!(
        app.ask::<i64>("select count(*) from registrations").await,
        0
    );
    app.stop().await;
}

/// `organization.created` with an external id.
fn created_as(org: &str, name: &str, external_id: &str) -> Value {
    let mut event = events::created(org, name);
    event["data"]["external_id"] = external_id.into();
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_event_and_the_registration_are_one_tenant_whichever_is_first() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let of = |external_id: &str| json!({"organization": {"name": "Acme", "external_id": external_id}, "user": {"email": "ada@acme.example"}});
    // the registration first, recognised by the client's id
    let first = register(&app, "a", &of("acme-1")).await;
    app.accepts(&[&created_as("org_1", "Acme", "acme-1")]).await;
    // the event first
    app.accepts(&[&created_as("org_2", "Acme", "acme-2")]).await;
    app.tenant("org_2").is_ready().await;
    let second = register(&app, "b", &of("acme-2")).await;
    assert_eq!(second.status, 201, "it is ready");
    // recognised by the registration's own id
    let third = register(&app, "c", &form("Globex", "gus@globex.example")).await;
    let own = third.body["organization"]["external_id"].as_str().unwrap();
    assert_eq!(own, third.body["id"]);
    app.accepts(&[&created_as("org_3", "Globex", own)]).await;
    for (answer, org) in [(&first, "org_1"), (&second, "org_2"), (&third, "org_3")] {
        let ready = is(&app, answer.body["id"].as_str().unwrap(), "ready").await;
        let linked = async || {
            look(&app, answer.body["id"].as_str().unwrap()).await["organization"]["id"] == org
        };
        wait_until("it is linked", linked).await;
        assert_eq!(
            app.tenant(org).is_ready().await.url,
            ready["tenant"]["url"].as_str().unwrap()
        );
    }
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 3);
    assert_eq!(
        app.ask::<i64>("select count(*) from organizations").await,
        3
    );
    // somebody else with the same id joins nothing
    let mut eve = of("acme-1");
    eve["user"]["email"] = "eve@evil.example".into();
    let refused = register(&app, "e", &eve).await;
    assert_eq!(refused.refusal(), (409, "external_id_registered"));
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_while_the_tenant_is_linked_in_the_middle_of_the_plan_is_in_its_database() {
    let blueprint = TinyBlueprint::with_people();
    let deployment = Deployment::new().await;
    let app = App::of(
        deployment.with_fault("verify.before=hold"),
        blueprint.source(),
    )
    .await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    let faults = app.replica.provisioner.faults.clone();
    wait_until("members were told of", async || {
        faults.was_hit("verify.before")
    })
    .await;
    app.accepts(&[
        &events::user("user_ada", ("Ada", "Lovelace")),
        &events::member("org_acme", "user_ada", "admin", 0),
        &created_as("org_acme", "Acme", id),
    ])
    .await;
    app.events_are_processed().await;
    faults.release("verify.before");
    is(&app, id, "ready").await;
    app.is_idle().await;
    let people = "select count(*) from people";
    assert_eq!(app.tenant("org_acme").ask::<i64>(people).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_tenant_that_is_being_made_is_invited_before_it_counts_as_ready() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await.with_fault("seed.before=hold");
    deployment.set("WORKOS_API_KEY", crate::support::provider::API_KEY);
    deployment.set("TENANTRY__SOURCES__WORKOS__API_URL", provider.url());
    let app = App::of(deployment, blueprint.source()).await;
    provider.has_organization("org_acme", "Acme", "2026-11-16T09:00:00.000Z");
    app.accepts(&[&created_as("org_acme", "Acme", "acme-1")])
        .await;
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is being made", async || faults.was_hit("seed.before")).await;
    let mut body = form("Acme", "ada@acme.example");
    body["organization"]["external_id"] = "acme-1".into();
    let answer = register(&app, "acme", &body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    faults.release("seed.before");
    is(&app, answer.body["id"].as_str().unwrap(), "ready").await;
    let asked = "select count(*) from invitations where email = 'ada@acme.example'";
    assert_eq!(app.ask::<i64>(asked).await, 1, "when it is ready");
    app.is_idle().await;
    assert_eq!(provider.invitations().len(), 1);
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_a_member_before_the_tenant_was_linked_is_in_its_database() {
    let blueprint = TinyBlueprint::with_people();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    is(&app, id, "ready").await;
    app.accepts(&[
        &events::user("user_ada", ("Ada", "Lovelace")),
        &events::member("org_acme", "user_ada", "admin", 0),
    ])
    .await;
    app.is_idle().await;
    app.accepts(&[&created_as("org_acme", "Acme", id)]).await;
    app.is_idle().await;
    let people = "select count(*) from people";
    assert_eq!(app.tenant("org_acme").ask::<i64>(people).await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_linked_between_two_attempts_is_verified_as_what_it_was_seeded_as() {
    // the built-in blueprint verifies the organization's id
    let app = App::of(
        Deployment::new()
            .await
            .with_fault("verify.before=hold;verify.after_effect=error"),
        BlueprintSource::Bundled,
    )
    .await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is seeded", async || faults.was_hit("verify.before")).await;
    app.accepts(&[&created_as("org_acme", "Acme", id)]).await;
    app.events_are_processed().await;
    faults.release("verify.before");
    is(&app, id, "ready").await;
    app.is_idle().await;
    assert_eq!(app.tenant("org_acme").is_ready().await.org_id, "org_acme");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_was_deleted_can_be_registered_anew() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await.with_fault("seed.before=hold");
    let app = App::of(deployment, blueprint.source()).await;
    let acme = form("Acme", "ada@acme.example");
    let first = register(&app, "first", &acme).await;
    let id = first.body["id"].as_str().unwrap();
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is being made", async || faults.was_hit("seed.before")).await;
    app.accepts(&[
        &created_as("org_1", "Acme", id),
        &events::deleted("org_1", "Acme", 5),
    ])
    .await;
    app.events_are_processed().await;
    faults.release("seed.before");
    let failed = is(&app, id, "failed").await;
    assert_eq!(failed["problem"]["code"], "organization_deleted");
    let second = register(&app, "second", &acme).await;
    assert_eq!(second.status, 202, "{second:?}");
    assert_ne!(second.body["id"], first.body["id"]);
    is(&app, second.body["id"].as_str().unwrap(), "ready").await;
    // what is left of the first can be given up
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    let given_up = operator.delete(first.header("location").unwrap()).await;
    assert_eq!(given_up.status, 202, "{given_up:?}");
    is(&app, id, "abandoned").await;
    app.is_idle().await;
    assert_eq!(app.deployment.tenant_databases().await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_comes_while_its_registration_is_given_up_gets_a_tenant_of_its_own() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await.with_fault("seed.before=hold");
    let app = App::of(deployment, blueprint.source()).await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    let faults = app.replica.provisioner.faults.clone();
    wait_until("it is being made", async || faults.was_hit("seed.before")).await;
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    assert_eq!(
        operator
            .delete(answer.header("location").unwrap())
            .await
            .status,
        202
    );
    app.accepts(&[&created_as("org_acme", "Acme", id)]).await;
    app.events_are_processed().await;
    faults.release("seed.before");
    is(&app, id, "abandoned").await;
    app.tenant("org_acme").is_ready().await;
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_leaves_out_makes_no_other_organization_of_it() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let with = |name: &str, slug: &str| json!({"organization": {"name": name, "slug": slug}, "user": {"email": "ada@acme.example"}});
    let first = register(&app, "a", &form("Acme", "ada@acme.example")).await;
    let same = register(&app, "b", &with("Acme", "acme-eu")).await;
    assert_eq!(same.body["id"], first.body["id"]);
    let mut named = with("Umbrella", "umbrella");
    let umbrella = register(&app, "e", &named).await;
    named["organization"]["external_id"] = "umbrella-1".into();
    let same = register(&app, "f", &named).await;
    assert_eq!(same.body["id"], umbrella.body["id"]);
    let eu = register(&app, "c", &with("Globex", "globex-eu")).await;
    let us = register(&app, "d", &with("Globex", "globex-us")).await;
    assert_ne!(eu.body["id"], us.body["id"]);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_learns_nothing_of_what_others_registered() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let page = "https://app.example.com";
    let key = app.form_key(&[page]).await;
    let submit = async |idempotency_key: &str, body: &Value| {
        let api = app.as_bearer(&key).header("origin", page);
        let api = api.header("idempotency-key", idempotency_key);
        api.post("/v1/registrations", body).await
    };
    let mut acme = form("Acme", "ada@acme.example");
    acme["user"]["given_name"] = "Ada".into();
    register(&app, "acme", &acme).await;
    let refused = submit("eve", &acme).await;
    assert_eq!(refused.refusal(), (409, "registered_elsewhere"));
    assert!(
        !refused.text.contains("rst_") && !refused.text.contains("Ada"),
        "{}",
        refused.text
    );
    acme["user"]["email"] = "bob@acme.example".into();
    let own = submit("bob", &acme).await;
    assert_eq!(own.status, 202, "{own:?}");
    let again = submit("bob2", &form("Acme", "bob@acme.example")).await;
    assert_eq!(again.body["id"], own.body["id"]);
    assert!(again.body["user"]["given_name"].is_null(), "{}", again.text);
    // the status token shows the status
    let token = own.body["status_token"].as_str().unwrap();
    let path = own.body["links"]["self"].as_str().unwrap();
    assert_eq!(app.as_bearer(token).get(path).await.status, 200);
    acme["organization"]["external_id"] = "acme-1".into();
    let named = submit("named", &acme).await;
    assert_eq!(named.body["errors"][0]["code"], "not_from_a_form");
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_provider_first_then_here() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = at(&provider, &blueprint).await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    assert_eq!(answer.body["progress"]["of"], 9);
    let ready = is(&app, answer.body["id"].as_str().unwrap(), "ready").await;
    app.is_idle().await;
    let organizations = provider.organizations();
    assert_eq!(organizations.len(), 1);
    assert_eq!(organizations[0]["external_id"], answer.body["id"]);
    assert_eq!(ready["organization"]["id"], organizations[0]["id"]);
    let invited = provider.invitations();
    assert_eq!(invited.len(), 1);
    assert_eq!(invited[0]["email"], "ada@acme.example");
    let steps = app
        .tenant(organizations[0]["id"].as_str().unwrap())
        .steps()
        .await;
    assert_eq!(steps[..3], ["create_organization", "invite_user", "place"]);
    // its webhook comes late
    let org = organizations[0]["id"].as_str().unwrap();
    app.accepts(&[&created_as(
        org,
        "Acme",
        answer.body["id"].as_str().unwrap(),
    )])
    .await;
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 1);
    assert_eq!(
        app.ask::<i64>("select count(*) from organizations").await,
        1
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_provider_that_is_lost_makes_no_second_organization() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = at(&provider, &blueprint).await;
    provider.cut_after_next("POST", "/organizations", 1);
    provider.cut_after_next("POST", "/user_management/invitations", 1);
    // one delay alone may be over before anybody looks
    provider.fail_next("GET", "/organizations/external_id", 503, 3);
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    let waits = wait_for("it says why it waits", async || {
        let found = look(&app, id).await;
        // the reason is there a moment before the job is put back
        found["waiting"]["next_attempt_at"]
            .is_string()
            .then_some(found)
    })
    .await;
    assert_eq!(waits["waiting"]["code"], "provider_unavailable", "{waits}");
    is(&app, id, "ready").await;
    app.is_idle().await;
    assert_eq!(provider.organizations().len(), 1);
    assert_eq!(provider.invitations().len(), 1);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_refuses_fails_and_is_tried_again_when_somebody_asks_again() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = at(&provider, &blueprint).await;
    provider.fail_next("POST", "/organizations", 422, 1);
    let acme = form("Acme", "ada@acme.example");
    let answer = register(&app, "acme", &acme).await;
    let id = answer.body["id"].as_str().unwrap();
    let failed = is(&app, id, "failed").await;
    assert_eq!(failed["problem"]["code"], "provider_refused", "{failed}");
    let again = register(&app, "again", &acme).await;
    assert_eq!((again.status, &again.body["id"]), (202, &answer.body["id"]));
    assert_eq!(again.body["state"], "accepted");
    is(&app, id, "ready").await;
    assert_eq!(provider.organizations().len(), 1);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_registration_leaves_nothing_here_and_at_the_provider() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await.with_fault("seed.before=hold");
    // the attempt that is held keeps its claim on a busy machine, too
    deployment.set("TENANTRY__QUEUE__LEASE_MS", "30000");
    deployment.set("WORKOS_API_KEY", crate::support::provider::API_KEY);
    deployment.set("TENANTRY__SOURCES__WORKOS__API_URL", provider.url());
    let app = App::of(deployment, blueprint.source()).await;
    let api = client(&app, "acme").await;
    let answer = api
        .post("/v1/registrations", &form("Acme", "ada@acme.example"))
        .await;
    let path = answer.header("location").unwrap().to_owned();
    let seeding = "select count(*) from provisioning_steps where step = 'seed'";
    wait_until("it is being seeded", async || {
        app.ask::<i64>(seeding).await == 1
    })
    .await;
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    let abandoned = operator.delete(&path).await;
    assert_eq!(
        (abandoned.status, &abandoned.body["state"]),
        (202, &"abandoning".into()),
        "{abandoned:?}"
    );
    app.replica.provisioner.faults.release("seed.before");
    let id = answer.body["id"].as_str().unwrap();
    is(&app, id, "abandoned").await;
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 0);
    assert_eq!(app.deployment.tenant_databases().await, 0);
    assert_eq!(app.deployment.tenant_roles().await, 0);
    assert_eq!(provider.organizations().len(), 0);
    let audit = "select count(*) from audit_log where target_kind = 'registration' and after ->> 'state' = 'abandoned'";
    assert_eq!(app.ask::<i64>(audit).await, 1);
    // the same person may begin anew; the provider's late word brings nothing back
    let org: String = app.ask("select org_id from registrations").await;
    app.accepts(&[&events::updated(&org, "Acme", 5)]).await;
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 0);
    let anew = register(&app, "anew", &form("Acme", "ada@acme.example")).await;
    assert_eq!(anew.status, 202);
    assert_ne!(anew.body["id"], answer.body["id"]);
    is(&app, anew.body["id"].as_str().unwrap(), "ready").await;
    let ready = format!("/v1/registrations/{}", anew.body["id"].as_str().unwrap());
    assert_eq!(
        operator.delete(&ready).await.refusal(),
        (409, "registration_ready")
    );
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_registration_did_not_make_is_not_given_up_with_it() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await.with_fault("seed.before=error");
    deployment.set("TENANTRY__QUEUE__MAX_ATTEMPTS", "1");
    let app = App::of(deployment, blueprint.source()).await;
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    let give_up = async |answer: &Answer| operator.delete(answer.header("location").unwrap()).await;
    let of = |external_id: &str, email: &str| json!({"organization": {"name": "Acme", "external_id": external_id}, "user": {"email": email}});

    // the provider has the organization by now: its tenant is not the registration's alone
    let linked = register(&app, "a", &of("acme-1", "ada@acme.example")).await;
    let id = linked.body["id"].as_str().unwrap();
    is(&app, id, "failed").await;
    app.accepts(&[&created_as("org_1", "Acme", "acme-1")]).await;
    let has_it = async || look(&app, id).await["organization"]["id"] == "org_1";
    wait_until("it is linked", has_it).await;
    assert_eq!(
        give_up(&linked).await.refusal(),
        (409, "organization_lives")
    );

    // the tenant was there before the registration, and stays
    app.accepts(&[&created_as("org_2", "Globex", "acme-2")])
        .await;
    app.tenant("org_2").is_ready().await;
    let joined = of("acme-2", "gus@globex.example");
    let joined = register(&app, "b", &joined).await;
    assert_eq!(
        give_up(&joined).await.refusal(),
        (409, "registration_ready")
    );

    // what only the registration made goes, also after it failed
    let alone = register(&app, "c", &form("Initech", "ian@initech.example")).await;
    let id = alone.body["id"].as_str().unwrap();
    is(&app, id, "ready").await;
    assert_eq!(give_up(&alone).await.refusal(), (409, "registration_ready"));
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 3);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_says_so_and_goes_on() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await.with_fault("seed.before=hold");
    deployment.set("TENANTRY__REGISTRATIONS__DEADLINE_S", "1");
    let app = App::of(deployment, blueprint.source()).await;
    app.replica.tidy();
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    wait_until("it is delayed", async || {
        look(&app, id).await["is_delayed"] == true
    })
    .await;
    let metrics = crate::support::app::get(app.address, "/metrics").await;
    assert!(
        metrics.contains("tenantry_registrations_delayed_total 1"),
        "{metrics}"
    );
    app.replica.provisioner.faults.release("seed.before");
    let ready = is(&app, id, "ready").await;
    assert_eq!(ready["is_delayed"], false);
    let kinds = "select string_agg(kind, ' ' order by number) from registration_events where kind <> 'step'";
    assert_eq!(app.ask::<String>(kinds).await, "accepted delayed ready");
    app.stop().await;
}

/// All events of a stream, with the last number that was seen before.
async fn stream(app: &App, path: &str, last: Option<&str>) -> Vec<(String, Value)> {
    let key = app.key(&[Scope::Admin]).await;
    let mut headers = vec![("authorization", format!("Bearer {key}"))];
    headers.extend(last.map(|last| ("last-event-id", last.to_owned())));
    let answer = exchange(app.address, "GET", path, &headers, bytes(Vec::new())).await;
    let text = answer.unwrap().text;
    let field = |block: &str, name: &str| {
        let line = block
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map(str::to_owned)
    };
    text.split("\n\n")
        .filter_map(|block| {
            let data: Value = serde_json::from_str(&field(block, "data")?).unwrap();
            Some((
                format!("{} {}", field(block, "id")?, field(block, "event")?),
                data,
            ))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_streamed_and_replayed_from_where_a_browser_was() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await;
    let app = App::of(deployment.clone(), blueprint.source()).await;
    let other = App::of(deployment, blueprint.source()).await;
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let path = answer.body["links"]["events"].as_str().unwrap();
    // on the other replica, while it happens
    let all = stream(&other, path, None).await;
    let names: Vec<_> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names[0], "1 accepted");
    let last = names.last().unwrap();
    assert!(last.ends_with(" ready"), "{names:?}");
    let (_, ready) = all.last().unwrap();
    assert_eq!(ready["tenant"]["url"], "acme.localhost");
    let done: Vec<_> = all
        .iter()
        .map(|(_, data)| data["steps_done"].as_i64().unwrap())
        .collect();
    assert!(done.is_sorted(), "{done:?}");
    // again, from the third on
    let rest = stream(&app, path, Some("3")).await;
    assert_eq!(rest, all[3..]);
    let number = last.split(' ').next().unwrap();
    let end = app.as_bearer(&app.key(&[Scope::Admin]).await);
    assert_eq!(
        end.header("last-event-id", number).get(path).await.status,
        204
    );
    // a number from nowhere is no number
    assert_eq!(stream(&app, path, Some("999")).await.len(), all.len());
    app.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_tenant_in_the_instant_in_which_it_becomes_ready_sees_it_ready() {
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new()
        .await
        .with_fault("activate.before=stall:60000");
    let app = App::of(deployment, blueprint.source()).await;
    app.accepts(&[&created_as("org_1", "Acme", "acme-1")]).await;
    let verified =
        "select count(*) from provisioning_steps where step = 'verify' and state = 'done'";
    wait_until("all but the last step is done", async || {
        app.ask::<i64>(verified).await == 1
    })
    .await;
    // as the last step does it
    let becomes_ready = "update tenants set state = 'ready', initialize = true, ready_at = now()";
    let mut ready = hold(&app.deployment.control_url, becomes_ready).await;
    let body = json!({"organization": {"name": "Acme", "external_id": "acme-1"}, "user": {"email": "ada@acme.example"}});
    let mut joins = Box::pin(register(&app, "a", &body));
    let waits = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let answer = tokio::select! {
        answer = &mut joins => answer,
        () = wait_until("the registration waits", async || app.ask::<i64>(waits).await == 1) => {
            ready.commit().await;
            joins.as_mut().await
        }
    };
    assert_eq!(
        (answer.status, &answer.body["state"]),
        (201, &json!("ready")),
        "{answer:?}"
    );
    drop(joins);
    app.vanish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_is_seen_by_its_key_and_by_operators_only() {
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let api = client(&app, "acme").await;
    let answer = api
        .post("/v1/registrations", &form("Acme", "ada@acme.example"))
        .await;
    let path = answer.header("location").unwrap().to_owned();
    assert_eq!(api.get(&path).await.status, 200);
    let stranger = client(&app, "other").await;
    assert_eq!(
        stranger.get(&path).await.refusal(),
        (404, "registration_unknown")
    );
    assert_eq!(
        stranger.get(&format!("{path}/events")).await.refusal(),
        (404, "registration_unknown")
    );
    assert_eq!(
        stranger.delete(&path).await.refusal(),
        (404, "registration_unknown")
    );
    let reader = app.as_bearer(&app.key(&[Scope::TenantsRead]).await);
    assert_eq!(reader.get(&path).await.status, 200);
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_the_provider_tells_of_while_it_is_given_up_gets_no_tenant() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = at(&provider, &blueprint).await;
    // it is made at the provider, and its answer is lost
    provider.cut_after_next("POST", "/organizations", 1);
    let answer = register(&app, "acme", &form("Acme", "ada@acme.example")).await;
    let id = answer.body["id"].as_str().unwrap();
    wait_until("the provider has it", async || {
        !provider.organizations().is_empty()
    })
    .await;
    let org = provider.organizations()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let operator = app.as_bearer(&app.key(&[Scope::Admin]).await);
    let given_up = operator.delete(answer.header("location").unwrap()).await;
    assert_eq!(given_up.status, 202, "{given_up:?}");
    app.accepts(&[&created_as(&org, "Acme", id)]).await;
    is(&app, id, "abandoned").await;
    app.is_idle().await;
    assert_eq!(app.ask::<i64>("select count(*) from tenants").await, 0);
    assert_eq!(app.deployment.tenant_databases().await, 0);
    assert_eq!(provider.organizations().len(), 0);
    app.stop().await;
}
