//! The sign-up page of `examples/signup` in a real browser, at an origin of its own, before a real replica.
//!
//! They need what `.ci/run signup` installs: Chromium and `ChromeDriver`. Every complaint in the browser's console,
//! such as a violation of the page's policy, fails the test.

use serde_json::json;
use tenantry::{provisioning::BlueprintSource, webhooks::SourceKind};

use crate::support::{
    App, Deployment, Provider, TinyBlueprint,
    app::{wait_for, wait_until},
    browser::{Browser, ENTER, Site, TAB},
    cluster::execute,
    events,
    process::Process,
    proxy::{Wire, free_address},
};

const REGISTRATIONS: &str = "select count(*) from registrations";
const KEYS: &str = "select string_agg(key, ' ') from idempotency_keys";

/// The page, for a replica at this address that has a form key for the page.
async fn page(app: &App, api: &str) -> Site {
    let mut site = Site::new().await;
    let key = app.form_key(&[&site.origin]).await;
    let configured = [("http://127.0.0.1:8420", api), ("tnt_…", &key)];
    site.serve("examples/signup", &configured, api);
    site
}

fn url(app: &App) -> String {
    format!("http://{}", app.address)
}

/// What somebody writes into the form.
async fn fill_in(browser: &Browser, organization: &str, email: &str) {
    browser.fill_in("#organization", organization).await;
    browser.fill_in("#email", email).await;
}

/// Waits until the page links to this workspace.
async fn lands_at(browser: &Browser, host: &str) {
    browser.shows("Your workspace is ready").await;
    let link = "return document.querySelector('#workspace').href";
    assert_eq!(browser.run(link).await, format!("https://{host}/"));
}

/// The key of the form that was sent.
async fn key_of(browser: &Browser) -> String {
    let kept = "return JSON.parse(sessionStorage.getItem('tenantry-signup')).key";
    browser.run(kept).await.as_str().unwrap().to_owned()
}

/// Waits until the page keeps the answer for a reload.
async fn is_accepted(browser: &Browser) {
    let kept = "return sessionStorage.getItem('tenantry-signup') ?? ''";
    wait_until("the page has its answer", async || {
        browser.run(kept).await.as_str().unwrap().contains("rst_")
    })
    .await;
}

/// Waits until the console has what the browser itself says of a request; nothing else may be in it.
async fn console_tells_of(browser: &Browser, what: &str) {
    let told = wait_for(&format!("the console tells of {what}"), async || {
        let told = browser.console().await;
        (!told.is_empty()).then_some(told)
    })
    .await;
    for (source, message) in told {
        assert!(
            source == "network" && message.contains(what),
            "{source} {message}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_signs_up_without_a_mouse_sees_progress_and_lands_in_their_workspace() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut deployment = Deployment::new().await.with_fault("seed.before=stall:4000");
    deployment.set("TENANTRY__REGISTRATIONS__DEADLINE_S", "1");
    let app = App::of(deployment, BlueprintSource::Bundled).await;
    app.replica.tidy();
    let site = page(&app, &url(&app)).await;
    browser.open(&site.origin).await;
    browser.shows("Create your workspace").await;
    browser.picture("form").await;

    browser.type_keys(TAB).await;
    for text in ["Acme Corp", "", "ada@acme.example", "Ada", "Lovelace"] {
        browser.type_keys(&format!("{text}{TAB}")).await;
    }
    browser.type_keys(ENTER).await;
    browser.shows("Setting up Acme Corp").await;
    browser
        .shows("Step 4 of 7: adding what you start with")
        .await;
    browser.shows("This is taking longer than usual").await;
    browser.picture("delayed").await;
    let done = "return document.querySelector('progress').position * 7";
    assert_eq!(browser.run(done).await, 3);

    lands_at(&browser, "acme-corp.localhost").await;
    browser.picture("ready").await;
    let who: String = app
        .ask("select concat_ws(' ', given_name, family_name, email) from registrations")
        .await;
    assert_eq!(who, "Ada Lovelace ada@acme.example");
    // whoever comes back to the page still finds the way
    browser.reload().await;
    lands_at(&browser, "acme-corp.localhost").await;
    browser.click("#over").await;
    browser.shows("Create your workspace").await;
    let left =
        "return sessionStorage.length + document.querySelector('#organization').value.length";
    assert_eq!(browser.run(left).await, 0);
    assert_eq!(app.ask::<i64>(REGISTRATIONS).await, 1);
    browser.close().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_double_click_and_reloads_at_any_moment_are_one_registration() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await.with_fault("seed.before=stall:3000");
    let app = App::of(deployment, blueprint.source()).await;
    let wire = Wire::to(app.address).await;
    let site = page(&app, &format!("http://{}", wire.address)).await;
    browser.open(&site.origin).await;
    fill_in(&browser, "Acme", "ada@acme.example").await;

    // nobody answers, and the page is loaded again while it waits
    wire.block().await;
    browser.double_click("#submit").await;
    browser.shows("Setting up Acme").await;
    let key = key_of(&browser).await;
    browser.reload().await;
    browser.shows("Setting up Acme").await;
    wire.cut().await;
    wire.mend().await;
    is_accepted(&browser).await;
    // and again, in the middle
    browser.shows("Step 4 of 7").await;
    browser.reload().await;
    browser.shows("Step 4 of 7").await;
    lands_at(&browser, "acme.localhost").await;
    assert_eq!(app.ask::<i64>(REGISTRATIONS).await, 1);
    assert_eq!(app.ask::<String>(KEYS).await, key);
    console_tells_of(&browser, "net::ERR_").await;
    browser.close().await;
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed_is_replaced_and_the_page_goes_on() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let mut deployment = Deployment::new().await;
    let blueprint = BlueprintSource::Bundled;
    // it only makes the form key
    let desk = App::listening(deployment.clone(), blueprint).await;
    desk.replica.migrate().await.unwrap();
    let address = free_address();
    deployment.set("TENANTRY__SERVER__LISTEN", &address.to_string());
    let site = page(&desk, &format!("http://{address}")).await;
    browser.open(&site.origin).await;
    fill_in(&browser, "Acme", "ada@acme.example").await;
    browser.click("#submit").await;
    browser.shows("No connection. Trying again").await;
    let key = key_of(&browser).await;
    browser.picture("away").await;

    let mut first = Process::start(&deployment, "seed.before=kill").await;
    is_accepted(&browser).await;
    first.is_killed().await;
    browser.shows("No connection. Trying again").await;
    let second = Process::start(&deployment, "").await;
    lands_at(&browser, "acme.localhost").await;
    assert_eq!(desk.ask::<i64>(REGISTRATIONS).await, 1);
    assert_eq!(desk.ask::<String>(KEYS).await, key);
    console_tells_of(&browser, "net::ERR_").await;
    browser.close().await;
    drop(second);
    desk.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_at_its_field_and_can_be_put_right() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let mut gus = events::user("user_gus", ("Gus", "Globex"));
    gus["data"]["email"] = "gus@globex.example".into();
    app.accepts(&[
        &events::created("org_globex", "Globex"),
        &gus,
        &events::member("org_globex", "user_gus", "admin", 1),
    ])
    .await;
    app.tenant("org_globex").is_ready().await;
    app.is_idle().await;
    let site = page(&app, &url(&app)).await;
    browser.open(&site.origin).await;

    // each problem at its field, the first one has the focus
    fill_in(&browser, "Acme", "ada@acme").await;
    browser.fill_in("#slug", "www").await;
    browser.click("#submit").await;
    browser.shows("Workspace address is reserved").await;
    browser.shows("E-mail is no e-mail address").await;
    browser.picture("errors").await;
    let wrong = "return [...document.querySelectorAll('[aria-invalid=true]')].map(it => [it.id, it.getAttribute('aria-describedby')])";
    let expected = json!([["slug", "slug-hint slug-error"], ["email", "email-error"]]);
    assert_eq!(browser.run(wrong).await, expected);
    let focus = "return document.activeElement.id";
    assert_eq!(browser.run(focus).await, "slug");
    console_tells_of(&browser, "status of 422").await;

    // whatever is changed is not wrong any more; a taken address leads to free ones
    browser.fill_in("#email", "ada@acme.example").await;
    browser.fill_in("#slug", "globex").await;
    assert_eq!(browser.run(wrong).await, json!([]));
    browser.click("#submit").await;
    browser.shows("Workspace address is taken").await;
    browser.picture("taken").await;
    console_tells_of(&browser, "status of 409").await;
    browser.click("#suggestions button").await;
    let offered = browser
        .run("return document.querySelector('#slug').value")
        .await;
    assert_eq!(offered, "globex-hq");
    assert_eq!(browser.run(focus).await, "submit");
    browser.click("#submit").await;
    lands_at(&browser, "globex-hq.localhost").await;

    // whoever has a workspace is told so, and not where
    browser.click("#over").await;
    fill_in(&browser, "Globex", "gus@globex.example").await;
    browser.click("#submit").await;
    browser.shows("You already have a workspace").await;
    browser.picture("member").await;
    assert!(!browser.text().await.contains("globex.localhost"));
    console_tells_of(&browser, "status of 409").await;
    assert_eq!(app.ask::<i64>(REGISTRATIONS).await, 1);
    browser.close().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_told_to_wait_waits_and_gets_in() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    // a tenth at once, and the next one in 6 s
    deployment.set("TENANTRY__LIMITS__PER_FORM_KEY_PER_MINUTE", "10");
    let app = App::of(deployment, blueprint.source()).await;
    let site = page(&app, &url(&app)).await;
    browser.open(&site.origin).await;
    fill_in(&browser, "Acme", "ada@acme").await;
    browser.click("#submit").await;
    browser.shows("E-mail is no e-mail address").await;
    console_tells_of(&browser, "status of 422").await;
    browser.fill_in("#email", "ada@acme.example").await;
    browser.click("#submit").await;
    browser.shows("Many people are signing up right now").await;
    lands_at(&browser, "acme.localhost").await;
    let told = browser.console().await;
    let times = told
        .iter()
        .filter(|(_, message)| message.contains("status of 429"));
    assert_eq!((times.count(), told.len()), (1, 1), "{told:?}");
    browser.close().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_can_be_tried_again_from_the_page() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let provider = Provider::start(SourceKind::Workos).await;
    let blueprint = TinyBlueprint::new();
    let mut deployment = Deployment::new().await;
    deployment.set("WORKOS_API_KEY", crate::support::provider::API_KEY);
    deployment.set("TENANTRY__SOURCES__WORKOS__API_URL", provider.url());
    let app = App::of(deployment, blueprint.source()).await;
    provider.fail_next("POST", "/organizations", 422, 1);
    let site = page(&app, &url(&app)).await;
    browser.open(&site.origin).await;
    fill_in(&browser, "Acme", "ada@acme.example").await;
    browser.click("#submit").await;
    browser.shows("Something went wrong").await;
    browser.shows("(provider_refused)").await;
    browser.picture("failed").await;
    browser.click("#again").await;
    lands_at(&browser, "acme.localhost").await;
    assert_eq!(app.ask::<i64>(REGISTRATIONS).await, 1);
    assert_eq!(provider.organizations().len(), 1);
    browser.close().await;
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_event_comes_through_the_status_is_asked() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let blueprint = TinyBlueprint::new();
    let deployment = Deployment::new().await.with_fault("seed.before=stall:9000");
    let app = App::of(deployment, blueprint.source()).await;
    let site = page(&app, &url(&app)).await;
    browser.command("Network.enable", &json!({})).await;
    let blocked = json!({"urls": ["*/events?*"]});
    browser.command("Network.setBlockedURLs", &blocked).await;
    browser.open(&site.origin).await;
    fill_in(&browser, "Acme", "ada@acme.example").await;
    browser.click("#submit").await;
    browser.shows("Step 4 of 7").await;
    lands_at(&browser, "acme.localhost").await;
    let asked = "return performance.getEntriesByType('resource').filter(it => /registrations\\/[^/]+$/.test(it.name)).length";
    assert!(browser.run(asked).await.as_u64() > Some(2));
    // a registration that is not known any more is over
    execute(
        &app.deployment.control_url,
        "truncate registrations cascade",
    )
    .await;
    browser.reload().await;
    browser.shows("We cannot find this sign-up any more").await;
    console_tells_of(&browser, "status of 404").await;
    browser.close().await;
    app.is_idle().await;
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documents_snippet_does_the_least_of_it() {
    let Some(browser) = Browser::start().await else {
        return;
    };
    let document = std::fs::read_to_string("docs/registrations.md").unwrap();
    let (_, snippet) = document.split_once("```html\n").unwrap();
    let (snippet, _) = snippet.split_once("```").unwrap();
    let (form, script) = snippet.split_once("<script type=\"module\">").unwrap();
    let (script, _) = script.split_once("</script>").unwrap();
    let blueprint = TinyBlueprint::new();
    let app = App::of(Deployment::new().await, blueprint.source()).await;
    let mut site = Site::new().await;
    let key = app.form_key(&[&site.origin]).await;
    let script = script
        .replace("https://tenantry.example.com", &url(&app))
        .replace("tnt_…", &key);
    let directory = tempfile::tempdir().unwrap();
    let page = format!(
        "<!doctype html><meta charset=utf-8><link rel=icon href='data:,'>{form}<script type=module src=snippet.js></script>"
    );
    std::fs::write(directory.path().join("index.html"), page).unwrap();
    std::fs::write(directory.path().join("snippet.js"), script).unwrap();
    site.serve(directory.path().to_str().unwrap(), &[], &url(&app));

    browser.open(&site.origin).await;
    browser.fill_in("[name=name]", "Acme").await;
    browser.fill_in("[name=email]", "ada@acme").await;
    browser.click("button").await;
    browser.shows("is no e-mail address").await;
    console_tells_of(&browser, "status of 422").await;
    browser.fill_in("[name=email]", "ada@acme.example").await;
    browser.click("button").await;
    browser.shows("acme.localhost").await;
    let key = app.ask::<String>(KEYS).await;
    // again, and after a reload: the same request
    browser.click("button").await;
    browser.shows("acme.localhost").await;
    browser.reload().await;
    browser.fill_in("[name=name]", "Acme").await;
    browser.fill_in("[name=email]", "ada@acme.example").await;
    browser.click("button").await;
    browser.shows("acme.localhost").await;
    let link = "return document.querySelector('[role=status] a').href";
    assert_eq!(browser.run(link).await, "https://acme.localhost/");
    assert_eq!(app.ask::<i64>(REGISTRATIONS).await, 1);
    assert_eq!(app.ask::<String>(KEYS).await, key);
    browser.close().await;
    app.stop().await;
}
