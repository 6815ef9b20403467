//! Who reaches whose members: twenty organizations, every member route, every kind of caller, every cell asserted.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tenantry::{
    api_keys::Scope,
    http::{self, Access},
};

use crate::support::{
    Api, App, Deployment, TinyBlueprint,
    app::{Answer, new_org},
    events,
    people::{self, Belongs, new_id},
    tokens,
};

const ORGANIZATIONS: usize = 20;

/// Origin of a page with a sign-up form.
const PAGE: &str = "https://app.example.com";

/// Who calls, as seen from the organization in the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Admin,
    Member,
    Removed,
    Invited,
    Stranger,
    WithoutOrganization,
    Anonymous,
    KeyWithoutScope,
    KeyThatReads,
    KeyThatWrites,
    Forger,
    FormKey,
    StatusToken,
}

const KINDS: [Kind; 13] = [
    Kind::Admin,
    Kind::Member,
    Kind::Removed,
    Kind::Invited,
    Kind::Stranger,
    Kind::WithoutOrganization,
    Kind::Anonymous,
    Kind::KeyWithoutScope,
    Kind::KeyThatReads,
    Kind::KeyThatWrites,
    Kind::Forger,
    Kind::FormKey,
    Kind::StatusToken,
];

impl Kind {
    /// Whether the caller comes from an organization.
    const fn has_home(self) -> bool {
        matches!(
            self,
            Self::Admin | Self::Member | Self::Removed | Self::Invited | Self::Stranger
        )
    }
}

/// An organization and its people.
struct Home {
    org: String,
    admin: String,
    member: String,
    removed: String,
    invited: String,
}

/// Twenty of them, in one deployment.
struct Town {
    app: App,
    homes: Vec<Home>,
    keys: BTreeMap<&'static str, String>,
    _blueprint: TinyBlueprint,
}

impl Town {
    async fn build() -> Self {
        let mut deployment = Deployment::new().await;
        deployment.trust_tokens();
        // more requests than anybody makes in a minute
        deployment.set("TENANTRY__LIMITS__PER_ADDRESS_PER_MINUTE", "0");
        deployment.set("TENANTRY__LIMITS__PER_PRINCIPAL_PER_MINUTE", "0");
        let blueprint = TinyBlueprint::new();
        let app = App::of(deployment, blueprint.source()).await;
        let mut homes = Vec::new();
        for _ in 0..ORGANIZATIONS {
            homes.push(Home::found(&app).await);
        }
        for home in &homes {
            app.tenant(&home.org).is_ready().await;
        }
        app.is_idle().await;
        let mut keys = BTreeMap::new();
        for (name, scopes) in [
            ("none", vec![Scope::TenantsRead, Scope::AuditRead]),
            ("reads", vec![Scope::MembersRead]),
            ("writes", vec![Scope::MembersRead, Scope::MembersWrite]),
        ] {
            keys.insert(name, app.key(&scopes).await);
        }
        keys.insert("form", app.form_key(&[PAGE]).await);
        Self {
            app,
            homes,
            keys,
            _blueprint: blueprint,
        }
    }

    fn caller(&self, kind: Kind, home: &Home) -> Api {
        let user = |user: &str| self.app.as_bearer(&tokens::token(user, &home.org));
        match kind {
            Kind::Admin => user(&home.admin),
            Kind::Member => user(&home.member),
            Kind::Removed => user(&home.removed),
            Kind::Invited => user(&home.invited),
            Kind::Stranger => user("user_stranger"),
            Kind::WithoutOrganization => {
                let claims = json!({ "sub": home.admin });
                self.app.as_bearer(&tokens::sign(&claims))
            }
            Kind::Anonymous => self.app.api(),
            Kind::KeyWithoutScope => self.app.as_bearer(&self.keys["none"]),
            Kind::KeyThatReads => self.app.as_bearer(&self.keys["reads"]),
            Kind::KeyThatWrites => self.app.as_bearer(&self.keys["writes"]),
            Kind::Forger => {
                let token = tokens::token(&home.admin, &home.org);
                let (signed, signature) = token.rsplit_once('.').unwrap();
                let first = if signature.starts_with('A') { 'B' } else { 'A' };
                self.app
                    .as_bearer(&format!("{signed}.{first}{}", &signature[1..]))
            }
            Kind::FormKey => self
                .app
                .as_bearer(&self.keys["form"])
                .header("origin", PAGE),
            Kind::StatusToken => self.app.as_bearer(&format!("rst_{}", "a".repeat(43))),
        }
    }

    /// Everything that is kept of an organization's people.
    async fn state_of(&self, home: &Home) -> String {
        self.app
            .ask(&format!(
                "select md5(coalesce(string_agg(line, '|' order by line), ''))
                 from (
                     select memberships::text as line from memberships where org_id = '{0}'
                     union all
                     select invitations::text from invitations where org_id = '{0}'
                     union all
                     select staff_assignments::text from staff_assignments where org_id = '{0}'
                     union all
                     select audit_log::text from audit_log where org_id = '{0}'
                 ) as everything",
                home.org
            ))
            .await
    }
}

impl Home {
    async fn found(app: &App) -> Self {
        let home = Self {
            org: new_org(),
            admin: new_id("user"),
            member: new_id("user"),
            removed: new_id("user"),
            invited: new_id("user"),
        };
        app.accepts(&[&events::created(&home.org, "Home")]).await;
        for (user, role, status) in [
            (&home.admin, "admin", "active"),
            // somebody who makes it possible that the first is removed
            (&new_id("user"), "admin", "active"),
            (&home.member, "member", "active"),
            (&home.removed, "admin", "inactive"),
            (&home.invited, "admin", "pending"),
        ] {
            let email = format!("{user}@example.com");
            let belongs = Belongs {
                id: &new_id("om"),
                org: &home.org,
                user,
                role,
            };
            app.accepts(&[
                &people::user("created", user, &email, ("A", "B"), 1),
                &people::membership("created", belongs, status, 1),
            ])
            .await;
        }
        home
    }
}

/// A member route, with what it needs of the organization that it is about.
struct Errand {
    method: &'static str,
    path: String,
    body: Option<Value>,
    scope: Scope,
}

/// Every route for which administrators are let in, about this organization.
fn errands(home: &Home) -> Vec<Errand> {
    let errand = |(method, path, access): (&'static str, &str, Access)| {
        let Access::KeyOrAdmin(scope) = access else {
            return None;
        };
        let body = match (method, path.rsplit('/').next().unwrap()) {
            ("PATCH", _) => Some(json!({ "role": "member" })),
            ("POST", "invitations") => Some(json!({ "email": "new@example.com" })),
            ("POST", "staff-assignments") => {
                Some(json!({ "user_id": home.member, "customer_id": "c1" }))
            }
            _ => None,
        };
        let invitation = "00000000-0000-7000-8000-000000000000";
        let id = if path.contains("invitations") {
            invitation
        } else {
            &home.member
        };
        let path = path
            .replace("{org}", &home.org)
            .replace("{user}", &home.member)
            .replace("{id}", id)
            .replace("{customer}", "c1");
        assert!(
            !path.contains('{'),
            "{path} needs something that this test does not know"
        );
        Some(Errand {
            method,
            path,
            body,
            scope,
        })
    };
    http::access_table()
        .into_iter()
        .filter_map(errand)
        .collect()
}

async fn run(caller: &Api, errand: &Errand) -> Answer {
    caller
        .call(errand.method, &errand.path, errand.body.as_ref())
        .await
}

/// What a caller who may not is told; `None` for one who may.
fn refusal(kind: Kind, errand: &Errand, is_own: bool) -> Option<(u16, &'static str)> {
    match (kind, is_own) {
        (Kind::Anonymous, _) => Some((401, "credentials_missing")),
        (Kind::Forger, _) => Some((401, "token_refused")),
        (Kind::FormKey, _) => Some((403, "form_key_refused")),
        (Kind::StatusToken, _) => Some((401, "status_token_refused")),
        (Kind::KeyWithoutScope, _) => Some((403, "scope_missing")),
        (Kind::KeyThatReads, _) if errand.scope == Scope::MembersWrite => {
            Some((403, "scope_missing"))
        }
        (Kind::KeyThatReads | Kind::KeyThatWrites, _) | (Kind::Admin, true) => None,
        (Kind::WithoutOrganization, _) | (_, false) => Some((404, "organization_unknown")),
        (Kind::Member, true) => Some((403, "admin_required")),
        (Kind::Removed, true) => Some((403, "member_removed")),
        (Kind::Invited, true) => Some((403, "member_invited")),
        (Kind::Stranger, true) => Some((403, "not_a_member")),
    }
}

/// Sends everybody who may not on every errand about an organization; returns how many were refused as they should be.
async fn refuse(town: &Town, target: &Home) -> usize {
    let mut cells = 0;
    for errand in errands(target) {
        for kind in KINDS {
            for home in &town.homes {
                let is_own = home.org == target.org;
                // where the caller does not depend on a home, once is enough
                if !is_own && !kind.has_home() {
                    continue;
                }
                let Some(expected) = refusal(kind, &errand, is_own) else {
                    continue;
                };
                let answer = run(&town.caller(kind, home), &errand).await;
                let cell = format!("{kind:?} (own: {is_own}) {} {}", errand.method, errand.path);
                assert_eq!(answer.refusal(), expected, "{cell}");
                cells += 1;
            }
        }
    }
    cells
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reaches_members_that_are_not_theirs() {
    let town = Town::build().await;
    let mut before = Vec::new();
    for home in &town.homes {
        before.push(town.state_of(home).await);
    }
    let cells = join_all(town.homes.iter().map(|target| refuse(&town, target))).await;
    let cells: usize = cells.into_iter().sum();
    let routes = errands(&town.homes[0]).len();
    assert!(routes >= 14, "only {routes} member routes");
    assert!(
        cells >= ORGANIZATIONS * (ORGANIZATIONS - 1) * routes * 5,
        "only {cells} cells"
    );
    for (home, before) in town.homes.iter().zip(before) {
        assert_eq!(
            town.state_of(home).await,
            before,
            "a refused request changed something"
        );
    }
    town.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_of_others_looks_like_one_that_does_not_exist() {
    let town = Town::build().await;
    let (own, foreign) = (&town.homes[0], &town.homes[1]);
    let admin = town.caller(Kind::Admin, own);
    for errand in errands(foreign) {
        let mut theirs = run(&admin, &errand).await;
        let path = errand.path.replace(&foreign.org, "org_that_is_not");
        let mut missing = run(&admin, &Errand { path, ..errand }).await;
        for answer in [&mut missing, &mut theirs] {
            answer.body["request_id"] = Value::Null;
        }
        assert_eq!((missing.status, missing.body), (theirs.status, theirs.body));
    }
    town.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_gets_through() {
    let town = Town::build().await;
    for kind in [Kind::Admin, Kind::KeyThatReads, Kind::KeyThatWrites] {
        // each kind has a home of its own: what one does must not stand in the way of the next
        let home = &town.homes[kind as usize];
        for errand in errands(home) {
            if refusal(kind, &errand, true).is_some() {
                continue;
            }
            let answer = run(&town.caller(kind, home), &errand).await;
            let cell = format!("{kind:?} {} {}", errand.method, errand.path);
            assert!(
                ![401, 403, 500, 503].contains(&answer.status),
                "{cell}: {:?}",
                answer.body
            );
            assert_ne!(answer.body["code"], "organization_unknown", "{cell}");
        }
    }
    town.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ids_of_other_organizations_are_unknown_in_ones_own() {
    let town = Town::build().await;
    let (own, foreign) = (&town.homes[0], &town.homes[1]);
    let before = town.state_of(foreign).await;
    let admin = town.caller(Kind::Admin, own);
    for errand in errands(foreign) {
        if !errand.path.contains(&foreign.member) {
            continue;
        }
        let path = errand.path.replace(&foreign.org, &own.org);
        let answer = run(&admin, &Errand { path, ..errand }).await;
        assert_eq!(answer.status, 404, "{:?}", answer.body);
    }
    let assign = json!({ "user_id": foreign.member, "customer_id": "c1" });
    let path = format!("/v1/organizations/{}/staff-assignments", own.org);
    assert_eq!(
        admin.post(&path, &assign).await.refusal(),
        (404, "member_unknown")
    );
    assert_eq!(town.state_of(foreign).await, before);
    town.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_the_right_changes_nothing_from_that_moment_on() {
    let town = Town::build().await;
    let writer = town.app.as_bearer(&town.keys["writes"]);
    for home in &town.homes {
        let admin = town.caller(Kind::Admin, home);
        let base = format!("/v1/organizations/{}", home.org);
        // what is remembered says that they may
        assert_eq!(admin.get(&format!("{base}/members")).await.status, 200);
        let removed = writer
            .delete(&format!("{base}/members/{}", home.admin))
            .await;
        assert_eq!(removed.status, 200, "{:?}", removed.body);
        let assign = json!({ "user_id": home.member, "customer_id": "c1" });
        let refused = admin
            .post(&format!("{base}/staff-assignments"), &assign)
            .await;
        assert_eq!(refused.refusal(), (403, "member_removed"));
    }
    town.app.stop().await;
}
