//! Events that name what nobody has described yet: they wait, are settled, ask the provider, or say why not.

use tenantry::webhooks::SourceKind;

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, wait_until},
    events,
    people::{self, Belongs, new_id},
    provider::{API_KEY, Provider},
};

const EVENTS: &str = "select string_agg(concat_ws(' ', event_type, state, waiting_for), ', ' order by id) from webhook_events";

async fn app(blueprint: &TinyBlueprint, settings: &[(&str, &str)]) -> App {
    let mut deployment = Deployment::new().await;
    for (name, value) in settings {
        deployment.set(name, value);
    }
    App::of(deployment, blueprint.source()).await
}

fn member<'a>(id: &'a str, org: &'a str, user: &'a str) -> Belongs<'a> {
    let role = "member";
    Belongs {
        id,
        org,
        user,
        role,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_membership_may_come_before_its_organization_and_its_user() {
    let blueprint = TinyBlueprint::new();
    let app = app(&blueprint, &[]).await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    let belongs = member(&id, &org, &user);
    app.accepts(&[&people::membership("created", belongs, "active", 1)])
        .await;
    app.is_idle().await;
    assert_eq!(
        app.ask::<String>(EVENTS).await,
        format!("organization_membership.created waiting {{organization:{org},user:{user}}}")
    );
    app.accepts(&[&people::user(
        "created",
        &user,
        "a@b.example",
        ("A", "B"),
        1,
    )])
    .await;
    app.is_idle().await;
    assert_eq!(
        app.ask::<String>(EVENTS).await,
        format!(
            "organization_membership.created waiting {{organization:{org}}}, user.created processed"
        )
    );
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    assert_eq!(
        app.ask::<String>(EVENTS).await,
        "organization_membership.created processed, user.created processed, organization.created processed"
    );
    let asked = "select count(*) from jobs where kind = 'fetch_parent' and state = 'available'";
    assert_eq!(
        app.ask::<i64>(asked).await,
        0,
        "nobody needs to be asked any more"
    );
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_waits_for_nobody_and_ends_the_wait_of_others() {
    let blueprint = TinyBlueprint::new();
    let app = app(&blueprint, &[]).await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    let belongs = member(&id, &org, &user);
    app.accepts(&[
        &people::membership("deleted", belongs, "active", 3),
        &people::membership("created", member(&new_id("om"), &org, &user), "active", 1),
    ])
    .await;
    app.is_idle().await;
    assert!(app.ask::<String>(EVENTS).await.starts_with(
        "organization_membership.deleted processed, organization_membership.created waiting"
    ));
    app.accepts(&[
        &people::user("deleted", &user, "a@b.example", ("", ""), 4),
        &events::deleted(&org, "Acme", 5),
    ])
    .await;
    app.is_idle().await;
    let waiting = "select count(*) from webhook_events where state = 'waiting'";
    assert_eq!(app.ask::<i64>(waiting).await, 0);
    assert!(app.tenant(&org).find().await.is_none());
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_comes_is_asked_of_the_provider() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = app(
        &blueprint,
        &[
            ("WORKOS_API_KEY", API_KEY),
            ("TENANTRY__SOURCES__WORKOS__API_URL", provider.url()),
            ("TENANTRY__IDENTITY__PARENT_WAIT_S", "0"),
        ],
    )
    .await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    provider.has_organization(&org, "Acme", "2026-11-16T09:00:00.000Z");
    provider.has_user(&user, "ada@acme.example");
    provider.fail_next("GET", "/user_management/users", 503, 1);
    provider.rate_limit_next("GET", "/organizations", "1", 1);
    app.accepts(&[&people::membership(
        "created",
        member(&id, &org, &user),
        "active",
        1,
    )])
    .await;
    app.tenant(&org).is_ready().await;
    app.is_idle().await;
    let settled = "organization_membership.created processed";
    wait_until("the event is settled", async || {
        app.ask::<String>(EVENTS).await == settled
    })
    .await;
    let member = "select concat_ws(' ', status, email) from members";
    assert_eq!(app.ask::<String>(member).await, "active ada@acme.example");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_a_dead_letter_until_it_comes_after_all() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = app(
        &blueprint,
        &[
            ("WORKOS_API_KEY", API_KEY),
            ("TENANTRY__SOURCES__WORKOS__API_URL", provider.url()),
            ("TENANTRY__IDENTITY__PARENT_WAIT_S", "0"),
        ],
    )
    .await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.accepts(&[&people::membership(
        "created",
        member(&id, &org, &user),
        "active",
        1,
    )])
    .await;
    app.is_idle().await;
    let reason = "select state || ' ' || reason from webhook_events order by id desc limit 1";
    wait_until("the event is a dead letter", async || {
        app.ask::<String>(reason).await
            == format!(
                "failed parent_missing: user:{user} did not come, and the provider does not know it"
            )
    })
    .await;
    let member = "select concat_ws(' ', status, display_name) from members";
    assert_eq!(
        app.ask::<String>(member).await,
        format!("active {user}"),
        "the member counts all the same"
    );
    app.accepts(&[&people::user(
        "created",
        &user,
        "ada@acme.example",
        ("Ada", ""),
        1,
    )])
    .await;
    app.is_idle().await;
    let states = "select string_agg(state, ' ' order by id) from webhook_events";
    assert_eq!(
        app.ask::<String>(states).await,
        "processed processed processed"
    );
    assert_eq!(app.ask::<String>(member).await, "active Ada");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_the_reason_says_so() {
    let blueprint = TinyBlueprint::new();
    let app = app(&blueprint, &[("TENANTRY__IDENTITY__PARENT_WAIT_S", "0")]).await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    app.accepts(&[&people::membership(
        "created",
        member(&id, &org, &user),
        "active",
        1,
    )])
    .await;
    let reason = "select coalesce(reason, '') from webhook_events";
    wait_until("the event is a dead letter", async || {
        app.ask::<String>(reason)
            .await
            .ends_with("did not come, and source workos has no api_key to ask with")
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_are_processed_a_few_at_a_time() {
    let blueprint = TinyBlueprint::new();
    let app = App::listening(Deployment::new().await, blueprint.source()).await;
    app.replica.migrate().await.unwrap();
    for _ in 0..20 {
        let mut event = events::created(&new_org(), "Acme");
        event["data"]["metadata"]["note"] = "x".repeat(1_000_000).into();
        app.accepts(&[&event]).await;
    }
    let context = app.replica.job_context();
    let mut batches = Vec::new();
    loop {
        match tenantry::jobs::process_batch(&context).await.unwrap() {
            0 => break,
            events => batches.push(events),
        }
    }
    assert_eq!(batches, [8, 8, 4]);
    let processed = "select count(*) from webhook_events where state = 'processed'";
    assert_eq!(app.ask::<i64>(processed).await, 20);
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_being_recorded_while_its_parent_is_given_up_is_given_up_as_well() {
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set("TENANTRY__IDENTITY__PARENT_WAIT_S", "0");
    let slow = deployment.with_fault("process_event.committing=stall:1500");
    let app = App::listening(deployment, blueprint.source()).await;
    app.replica.migrate().await.unwrap();
    let slow = App::listening(slow, blueprint.source()).await;
    let (org, user) = (new_org(), new_id("user"));
    let ids = [new_id("om"), new_id("om")];
    let [one, other] =
        [0, 1].map(|at| people::membership("created", member(&ids[at], &org, &user), "active", 1));
    app.accepts(&[&one]).await;
    let context = app.replica.job_context();
    assert_eq!(tenantry::jobs::process_batch(&context).await.unwrap(), 1);
    app.accepts(&[&other]).await;
    let context = slow.replica.job_context();
    let recording = tenantry::jobs::process_batch(&context);
    let giving_up = async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        app.replica.work();
    };
    assert_eq!(tokio::join!(recording, giving_up).0.unwrap(), 1);
    let states = "select string_agg(distinct state, ' ') from webhook_events";
    wait_until("both are dead letters", async || {
        app.ask::<String>(states).await == "failed"
    })
    .await;
    slow.stop().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_limits_the_rate_costs_no_attempt() {
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let app = app(
        &blueprint,
        &[
            ("WORKOS_API_KEY", API_KEY),
            ("TENANTRY__SOURCES__WORKOS__API_URL", provider.url()),
            ("TENANTRY__IDENTITY__PARENT_WAIT_S", "0"),
            ("TENANTRY__QUEUE__MAX_ATTEMPTS", "1"),
        ],
    )
    .await;
    let (org, user, id) = (new_org(), new_id("user"), new_id("om"));
    provider.has_user(&user, "ada@acme.example");
    provider.rate_limit_next("GET", "/user_management/users", "1", 2);
    app.accepts(&[&events::created(&org, "Acme")]).await;
    app.accepts(&[&people::membership(
        "created",
        member(&id, &org, &user),
        "active",
        1,
    )])
    .await;
    app.is_idle().await;
    let email = "select coalesce(max(email), '') from members";
    wait_until("the user is known", async || {
        app.ask::<String>(email).await == "ada@acme.example"
    })
    .await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_date_that_is_far_ahead_does_not_win_for_ever() {
    let blueprint = TinyBlueprint::new();
    let app = app(&blueprint, &[]).await;
    let user = new_id("user");
    let mut ahead = people::user("updated", &user, "old@b.example", ("", ""), 1);
    ahead["data"]["updated_at"] = "2199-01-01T00:00:00.000Z".into();
    app.accepts(&[&ahead]).await;
    app.is_idle().await;
    let mut later = people::user("updated", &user, "new@b.example", ("", ""), 1);
    let in_a_minute = crate::support::app::now() + chrono::TimeDelta::minutes(1);
    later["data"]["updated_at"] = in_a_minute.to_rfc3339().into();
    app.accepts(&[&later]).await;
    app.is_idle().await;
    assert_eq!(
        app.ask::<String>("select email from users").await,
        "new@b.example"
    );
    app.stop().await;
}
