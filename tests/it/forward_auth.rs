//! Forward-auth and tenant resolution: who is let in, where, and how soon a change counts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenantry::{api_keys::Scope, tenants::Tenant};

use crate::support::{
    Api, App, Deployment, TinyBlueprint,
    app::{Answer, new_org, wait_for},
    cluster::execute,
    events,
    people::{self, Belongs, new_id},
    tokens,
};

const VERIFY: &str = "/v1/auth/verify";

/// An organization with a ready tenant and one member.
struct Office {
    app: App,
    org: String,
    user: String,
    membership: String,
    blueprint: TinyBlueprint,
}

impl Office {
    async fn open() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(configure: impl FnOnce(&mut Deployment)) -> Self {
        let mut deployment = Deployment::new().await;
        deployment.trust_tokens();
        // longer than any wait here: what counts sooner was heard, not forgotten by time
        deployment.set("TENANTRY__ACCESS__REMEMBER_S", "60");
        configure(&mut deployment);
        let blueprint = TinyBlueprint::new();
        blueprint.write(
            "blueprint.toml",
            "[roles]\nclerk = [\"letters:read\", \"letters:write\"]\n",
        );
        let app = App::of(deployment, blueprint.source()).await;
        let this = Self {
            app,
            org: new_org(),
            user: new_id("user"),
            membership: new_id("om"),
            blueprint,
        };
        this.app
            .accepts(&[&events::created(&this.org, "Acme")])
            .await;
        this.app.tenant(&this.org).is_ready().await;
        this.says("clerk", "active", 1).await;
        this
    }

    /// The provider says what the user is.
    async fn says(&self, role: &str, status: &str, minute: u32) {
        let user = people::user(
            "created",
            &self.user,
            "ada@example.com",
            ("Ada", "L"),
            minute,
        );
        let belongs = Belongs {
            id: &self.membership,
            org: &self.org,
            user: &self.user,
            role,
        };
        let membership = people::membership("updated", belongs, status, minute);
        self.app.accepts(&[&user, &membership]).await;
        self.app.is_idle().await;
    }

    fn visitor(&self) -> Api {
        self.app.as_bearer(&tokens::token(&self.user, &self.org))
    }

    async fn verify(&self) -> Answer {
        self.visitor().get(VERIFY).await
    }

    async fn tenant(&self) -> Tenant {
        self.app.tenant(&self.org).find().await.unwrap()
    }

    /// Changes rows behind the program's back, as another replica would.
    async fn execute(&self, sql: &str) {
        execute(&self.app.deployment.control_url, sql).await;
    }

    /// Waits for what the next answer is, much shorter than anything is remembered.
    async fn answers(&self, status: u16) -> Answer {
        let changed = Instant::now();
        let answer = wait_for("the change counts", async || {
            Some(self.verify().await).filter(|answer| answer.status == status)
        })
        .await;
        // by time alone it would have been a minute
        assert!(changed.elapsed() < Duration::from_secs(45));
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_let_in_and_the_headers_say_who_and_where() {
    let office = Office::open().await;
    let answer = office.verify().await;
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    let tenant = office.tenant().await;
    let told = |name| answer.header(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(told("x-tenant-id"), tenant.id.to_string());
    assert_eq!(told("x-tenant-url"), tenant.url);
    assert_eq!(told("x-tenant-database"), tenant.database);
    assert_eq!(told("x-tenant-schema-version"), tenant.alembic_version);
    assert_eq!(told("x-user-id"), office.user);
    assert_eq!(told("x-user-email"), "ada@example.com");
    assert_eq!(told("x-user-role"), "clerk");
    assert_eq!(told("x-user-permissions"), "letters:read,letters:write");
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_token_nobody_is_let_in() {
    let office = Office::open().await;
    let nobody = office.app.api().get(VERIFY).await;
    assert_eq!(nobody.refusal(), (401, "credentials_missing"));
    assert!(
        nobody
            .header("www-authenticate")
            .unwrap()
            .starts_with("Bearer")
    );
    let id = nobody.header("x-request-id").unwrap();
    assert_eq!(nobody.body["request_id"], id);
    let forged = office
        .app
        .as_bearer("eyJhbGciOiJub25lIn0.e30.")
        .get(VERIFY)
        .await;
    assert_eq!(forged.status, 401, "{:?}", forged.body);
    let twice = office
        .visitor()
        .header("authorization", "Bearer x")
        .get(VERIFY)
        .await;
    assert_eq!(twice.refusal(), (401, "credentials_malformed"));
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_is_as_good_as_the_header() {
    let office = Office::open().await;
    let token = tokens::token(&office.user, &office.org);
    let browser = office
        .app
        .api()
        .header("cookie", &format!("a=b; __session={token}; c=d"));
    assert_eq!(browser.get(VERIFY).await.status, 200);
    let other = office
        .app
        .api()
        .header("cookie", &format!("session={token}"));
    assert_eq!(other.get(VERIFY).await.status, 401);
    // only for forward-auth: elsewhere a cookie would let other sites act
    assert_eq!(browser.get("/v1/tenants/resolve").await.status, 401);
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_active_member_is_told_why() {
    let office = Office::open().await;
    let stranger = office
        .app
        .as_bearer(&tokens::token("user_nobody", &office.org));
    assert_eq!(stranger.get(VERIFY).await.refusal(), (403, "not_a_member"));
    let homeless = office
        .app
        .as_bearer(&tokens::sign(&json!({ "sub": office.user })));
    assert_eq!(
        homeless.get(VERIFY).await.refusal(),
        (403, "no_organization")
    );
    // the word of the provider counts at once, though the standing is remembered
    assert_eq!(office.verify().await.status, 200);
    office.says("clerk", "inactive", 2).await;
    let removed = office.answers(403).await;
    assert_eq!(removed.refusal(), (403, "member_removed"));
    office.says("clerk", "active", 3).await;
    office.answers(200).await;
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_permission_must_be_there() {
    let office = Office::open().await;
    let visitor = office.visitor();
    let required = format!("{VERIFY}?require=letters:read,letters:write");
    assert_eq!(visitor.get(&required).await.status, 200);
    let missing = visitor.get("/v1/auth/verify?require=letters:burn").await;
    assert_eq!(missing.refusal(), (403, "permission_missing"));
    // a claim does not help: the blueprint's role is what it is, and the provider is asked first
    let claims = json!({ "sub": office.user, "org_id": office.org, "role": "admin", "permissions": ["letters:burn"] });
    let claimed = office.app.as_bearer(&tokens::sign(&claims));
    let refused = claimed.get("/v1/auth/verify?require=letters:burn").await;
    assert_eq!(refused.refusal(), (403, "permission_missing"));
    // with the role that the member has, the provider's word in the token counts: nobody else has told of it
    let claims = json!({ "sub": office.user, "org_id": office.org, "role": "clerk", "permissions": ["letters:burn"] });
    let claimed = office.app.as_bearer(&tokens::sign(&claims));
    assert_eq!(
        claimed
            .get("/v1/auth/verify?require=letters:burn")
            .await
            .status,
        200
    );
    assert_eq!(
        visitor.get("/v1/auth/verify?unknown=1").await.refusal(),
        (400, "parameter_invalid")
    );
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_not_ready_says_what_it_is() {
    let office = Office::open().await;
    for (state, status, code) in [
        ("provisioning", 503, "tenant_not_ready"),
        ("failed", 503, "tenant_failed"),
        ("suspended", 423, "tenant_suspended"),
        ("deleted", 403, "tenant_deleted"),
    ] {
        office
            .execute(&format!("update tenants set state = '{state}'"))
            .await;
        let answer = wait_for("the state counts", async || {
            Some(office.verify().await).filter(|answer| answer.body["code"] == code)
        })
        .await;
        assert_eq!(answer.status, status, "{state}");
        if status == 503 {
            assert!(answer.retry_after.is_some(), "{state}");
        }
        if status != 403 {
            assert_eq!(answer.header("x-tenant-state"), Some(state));
        }
    }
    office.execute("update tenants set state = 'ready'").await;
    office.answers(200).await;
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_visit_before_any_event_is_not_yet() {
    let office = Office::open().await;
    let early = office.app.as_bearer(&tokens::token("user_new", "org_new"));
    let answer = early.get(VERIFY).await;
    assert_eq!(answer.refusal(), (503, "tenant_not_ready"));
    assert_eq!(answer.header("x-tenant-state"), Some("pending"));
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_counts_from_a_trusted_proxy_and_must_be_the_tenants() {
    let office = Office::with(|deployment| {
        deployment.set("TENANTRY__ACCESS__TRUSTED_PROXIES", "127.0.0.0/8");
    })
    .await;
    let other = new_org();
    office
        .app
        .accepts(&[&events::created(&other, "Other")])
        .await;
    let foreign = office.app.tenant(&other).is_ready().await.url;
    let own = office.tenant().await.url;
    let at = async |host: &str| {
        office
            .visitor()
            .header("x-forwarded-host", host)
            .get(VERIFY)
            .await
    };
    assert_eq!(at(&own).await.status, 200);
    assert_eq!(
        at(&format!("{}:8443", own.to_uppercase())).await.status,
        200
    );
    assert_eq!(at("app.example.com").await.status, 200);
    assert_eq!(at(&foreign).await.refusal(), (403, "tenant_host_mismatch"));
    assert_eq!(
        at(&format!("{foreign}.")).await.refusal(),
        (403, "tenant_host_mismatch")
    );
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_header_from_outside_is_believed() {
    let office = Office::with(|deployment| {
        deployment.set("TENANTRY__ACCESS__PUBLIC_PATHS", "/assets/*");
    })
    .await;
    // nobody is trusted here: the header does not make a path public
    let outside = office
        .app
        .api()
        .header("x-forwarded-uri", "/assets/app.css");
    assert_eq!(outside.get(VERIFY).await.status, 401);
    let stranger = office
        .app
        .as_bearer(&tokens::token("user_nobody", &office.org))
        .header("x-user-id", &office.user)
        .header("x-tenant-id", &office.tenant().await.id.to_string());
    assert_eq!(stranger.get(VERIFY).await.status, 403);
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_path_needs_no_token() {
    let office = Office::with(|deployment| {
        deployment.set("TENANTRY__ACCESS__TRUSTED_PROXIES", "127.0.0.1/32");
        deployment.set("TENANTRY__ACCESS__PUBLIC_PATHS", "/assets/*");
    })
    .await;
    let at = async |path: &str| {
        let browser = office.app.api().header("x-forwarded-uri", path);
        browser.get(VERIFY).await
    };
    let public = at("/assets/app.css?v=2").await;
    assert_eq!(public.status, 200);
    assert!(public.header("x-user-id").is_none());
    for path in ["/", "/assets", "/assets/../admin", "/assets/%2e%2e/admin"] {
        assert_eq!(at(path).await.status, 401, "{path}");
    }
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_resolves_their_own_tenant_only() {
    let office = Office::open().await;
    let own = office.visitor().get("/v1/tenants/resolve").await;
    assert_eq!(own.status, 200, "{:?}", own.body);
    assert_eq!(own.body["org_id"], office.org);
    assert_eq!(own.header("x-tenant-id"), own.body["id"].as_str());
    let other = new_org();
    office
        .app
        .accepts(&[&events::created(&other, "Other")])
        .await;
    let foreign = office.app.tenant(&other).is_ready().await.url;
    let path = format!("/v1/tenants/resolve?host={foreign}");
    let refused = office.visitor().get(&path).await;
    assert_eq!(refused.refusal(), (403, "tenant_host_mismatch"));
    assert_eq!(refused.body["org_id"], Value::Null);
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_table_of_routes_is_behind_its_rules() {
    let office = Office::open().await;
    for (method, path, access) in tenantry::http::access_table() {
        use tenantry::http::Access;
        let path = path.replace(['{', '}'], "");
        let answer = office.app.api().call(method, &path, None).await;
        match access {
            Access::Key(_)
            | Access::KeyOrUser(_)
            | Access::KeyOrAdmin(_)
            | Access::Registrant
            | Access::RegistrationReader => {
                assert_eq!(
                    answer.refusal(),
                    (401, "credentials_missing"),
                    "{method} {path}"
                );
            }
            Access::ForwardAuth => assert_eq!(answer.status, 401, "{method} {path}"),
            Access::Signature => assert!([400, 404].contains(&answer.status), "{method} {path}"),
            Access::Public | Access::Visitor => assert!(
                [200, 308].contains(&answer.status) || path == "/docs/*file",
                "{method} {path}"
            ),
        }
    }
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_cannot_be_read_is_nobodys() {
    let office = Office::with(|deployment| {
        deployment.set("TENANTRY__ACCESS__TRUSTED_PROXIES", "127.0.0.0/8");
    })
    .await;
    let own = office.tenant().await.url;
    for hosts in [
        vec![own.as_str(), own.as_str()],
        vec!["a b"],
        vec!["a.example.com, b.example.com"],
    ] {
        let mut visitor = office.visitor();
        for host in &hosts {
            visitor = visitor.header("x-forwarded-host", host);
        }
        let refused = visitor.get(VERIFY).await;
        assert_eq!(
            refused.refusal(),
            (403, "tenant_host_mismatch"),
            "{hosts:?}"
        );
    }
    // who asks for a host wants to know of that host
    let elsewhere = office
        .visitor()
        .get("/v1/tenants/resolve?host=app.example.com")
        .await;
    assert_eq!(elsewhere.refusal(), (403, "tenant_host_mismatch"));
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_schemes_of_others_do_not_stand_in_the_way() {
    let office = Office::open().await;
    let token = tokens::token(&office.user, &office.org);
    let cookie = format!("name=zoë; __session={token}");
    let browser = office.app.api().header("cookie", &cookie);
    assert_eq!(browser.get(VERIFY).await.status, 200);
    let basic = browser.header("authorization", "Basic YTpi");
    assert_eq!(basic.get(VERIFY).await.status, 200);
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_acts_as_a_user_is_named_and_changes_nothing() {
    let office = Office::open().await;
    office.says("admin", "active", 2).await;
    let claims = json!({ "sub": office.user, "org_id": office.org, "act": { "sub": "support@vendor.example" } });
    let support = office.app.as_bearer(&tokens::sign(&claims));
    office.answers(200).await;
    let seen = support.get(VERIFY).await;
    assert_eq!(seen.header("x-user-actor"), Some("support@vendor.example"));
    let base = format!("/v1/organizations/{}", office.org);
    assert_eq!(support.get(&format!("{base}/members")).await.status, 200);
    let assign = json!({ "user_id": office.user, "customer_id": "c1" });
    let refused = support
        .post(&format!("{base}/staff-assignments"), &assign)
        .await;
    assert_eq!(refused.refusal(), (403, "impersonation_is_read_only"));
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_is_no_text_is_a_problem_like_any_other() {
    let office = Office::open().await;
    let answer = office.visitor().get("/v1/organizations/%ff/members").await;
    assert_eq!(answer.refusal(), (400, "parameter_invalid"));
    office.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_given_taken_or_changed_counts_at_once_at_another_replica() {
    let office = Office::open().await;
    let other = App::listening(office.app.deployment.clone(), office.blueprint.source()).await;
    let key = office
        .app
        .key(&[Scope::TenantsRead, Scope::TenantsWrite])
        .await;
    let (here, there) = (office.app.as_bearer(&key), other.as_bearer(&key));
    let tenant = office.tenant().await;
    let resolves = async |host: &str, status: u16| {
        let changed = Instant::now();
        let path = format!("/v1/tenants/resolve?host={host}");
        wait_for("the host counts", async || {
            Some(there.get(&path).await).filter(|answer| answer.status == status)
        })
        .await;
        // by time alone it would have been a minute
        assert!(changed.elapsed() < Duration::from_secs(45));
    };
    let path = format!("/v1/tenants/{}/hosts/crm.acme.example", tenant.id);
    resolves("crm.acme.example", 404).await;
    assert_eq!(here.put(&path, &json!({})).await.status, 200);
    resolves("crm.acme.example", 200).await;
    assert_eq!(here.delete(&path).await.status, 200);
    resolves("crm.acme.example", 404).await;

    resolves(&tenant.url, 200).await;
    resolves("moved.example", 404).await;
    office
        .execute("update tenants set url = 'moved.example'")
        .await;
    resolves("moved.example", 200).await;
    resolves(&tenant.url, 404).await;
    other.stop().await;
    office.app.stop().await;
}
