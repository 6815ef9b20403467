//! An organization whose people are managed, by events and at the desk.

use serde_json::{Value, json};
use tenantry::{
    actions::MemberDesk,
    audit::Actor,
    members::{self, Error, Member, Organization, Promise, Status},
};
use uuid::Uuid;

use super::{
    App, Deployment, TinyBlueprint,
    app::new_org,
    events,
    people::{self, Belongs, new_id},
    provider::{API_KEY, Provider},
};

/// An organization with its tenant, and the desk at which its members are managed.
pub struct Team {
    pub app: App,
    pub org: String,
    pub desk: MemberDesk,
    /// Name of the source that the organization is of.
    source: &'static str,
    _blueprint: TinyBlueprint,
}

impl Team {
    /// A deployment whose provider cannot be called.
    pub async fn alone() -> Self {
        Self::of(Deployment::new().await).await
    }

    /// A deployment whose provider can be called, and knows the organization.
    pub async fn at(provider: &Provider) -> Self {
        let mut deployment = Deployment::new().await;
        deployment.set("WORKOS_API_KEY", API_KEY);
        deployment.set("TENANTRY__SOURCES__WORKOS__API_URL", provider.url());
        let team = Self::of(deployment).await;
        provider.has_organization(&team.org, "Acme", "2026-11-16T09:00:00.000Z");
        team
    }

    /// The same at Clerk, where a first membership tells of the organization as well: that of the administrator Ada.
    pub async fn at_clerk(provider: &Provider) -> (Self, String) {
        let mut deployment = Deployment::new().await;
        let secret = "whsec_dGVzdF9vZl90ZW5hbnRyeV8wMTIzNDU2Nzg5";
        deployment.set("CLERK_WEBHOOK_SECRET", secret);
        deployment.set("CLERK_SECRET_KEY", API_KEY);
        deployment.set("TENANTRY__SOURCES__CLERK__API_URL", provider.url());
        let blueprint = TinyBlueprint::with_people();
        let app = App::of(deployment, blueprint.source()).await;
        let team = Self {
            desk: MemberDesk::new(&app.deployment.config()),
            org: new_org(),
            app,
            source: "clerk",
            _blueprint: blueprint,
        };
        provider.has_organization(&team.org, "Acme", "2026-11-16T09:00:00.000Z");
        let ada = team.has_at(provider, "Ada", "admin").await;
        (team, ada)
    }

    /// A user whom the provider knows, with a membership of this role; returns the user's id.
    pub async fn has_at(&self, provider: &Provider, name: &str, role: &str) -> String {
        let user = new_id("user");
        let email = format!("{}@acme.example", name.to_lowercase());
        provider.has_user(&user, &email);
        let membership = provider.has_membership(&self.org, &user, role, "active");
        if self.source == "workos" {
            let told = people::user("created", &user, &email, (name, "Doe"), 1);
            self.app.accepts(&[&told]).await;
        }
        self.hears_membership("created", &provider.membership(&membership))
            .await;
        user
    }

    /// The provider tells of a membership as it is.
    pub async fn hears_membership(&self, kind: &str, object: &Value) {
        let name = match self.source {
            "workos" => "organization_membership",
            _ => "organizationMembership",
        };
        self.hears(&format!("{name}.{kind}"), object).await;
    }

    /// An event of the provider's about one of its objects arrives.
    pub async fn hears(&self, event: &str, object: &Value) {
        if self.source == "workos" {
            let mut told = object.clone();
            // a webhook does not embed the user, as the API's list does
            told.as_object_mut().unwrap().remove("user");
            let event = json!({
                "object": "event",
                "id": new_id("event"),
                "event": event,
                "data": told,
                "created_at": told["updated_at"],
            });
            self.app.accepts(&[&event]).await;
        } else {
            let event = json!({ "object": "event", "type": event, "data": object, "timestamp": object["updated_at"] });
            let answer = self.app.deliver_clerk(event.to_string().as_bytes()).await;
            assert_eq!(answer.status, 200);
        }
        self.app.is_idle().await;
    }

    pub async fn of(deployment: Deployment) -> Self {
        let blueprint = TinyBlueprint::with_people();
        let app = App::of(deployment, blueprint.source()).await;
        let org = new_org();
        app.accepts(&[&events::created(&org, "Acme")]).await;
        app.tenant(&org).is_ready().await;
        let desk = MemberDesk::new(&app.deployment.config());
        Self {
            app,
            org,
            desk,
            source: "workos",
            _blueprint: blueprint,
        }
    }

    pub fn organization(&self) -> Organization<'_> {
        Organization {
            source: self.source,
            org_id: &self.org,
            admin_role: "admin",
        }
    }

    /// A user with a membership of this role; returns the user's id.
    pub async fn has(&self, name: &str, role: &str) -> String {
        let (user, membership) = (new_id("user"), new_id("om"));
        self.joins((&user, &membership), name, role).await;
        user
    }

    pub async fn joins(&self, (user, membership): (&str, &str), name: &str, role: &str) {
        let belongs = Belongs {
            id: membership,
            org: &self.org,
            user,
            role,
        };
        let email = format!("{}@acme.example", name.to_lowercase());
        self.app
            .accepts(&[
                &people::user("created", user, &email, (name, "Doe"), 1),
                &people::membership("created", belongs, "active", 1),
            ])
            .await;
        self.app.is_idle().await;
    }

    pub async fn members(&self) -> Vec<Member> {
        let of = self.organization();
        let list = async |connection: &mut _| members::list(connection, of).await;
        self.app.replica.db.run(list).await.unwrap()
    }

    pub async fn status(&self, user: &str) -> Status {
        let members = self.members().await;
        let member = members.iter().find(|member| member.user_id == user);
        member.unwrap().status
    }

    /// `active admin 2` and so on.
    pub async fn counts(&self) -> Vec<String> {
        let of = self.organization();
        let count = async |connection: &mut _| members::count(connection, of).await;
        let counts = self.app.replica.db.run(count).await.unwrap();
        let line = |count: &members::Count| {
            let role = count.role.as_deref().unwrap_or("-");
            format!("{} {role} {}", count.status.name(), count.members)
        };
        counts.iter().map(line).collect()
    }

    pub async fn remove(&self, user: &str, by: &str) -> Result<u64, Error> {
        let actor = Actor::User(by.to_owned());
        let of = self.organization();
        let remove = async |tx: &mut _| self.desk.remove(tx, of, user, &actor).await;
        self.app.replica.db.transaction(remove).await
    }

    pub async fn restore(&self, user: &str, by: &str) -> Result<(), Error> {
        let actor = Actor::User(by.to_owned());
        let of = self.organization();
        let restore = async |tx: &mut _| self.desk.restore(tx, of, user, &actor).await;
        self.app.replica.db.transaction(restore).await
    }

    pub async fn invite(&self, email: &str) -> Result<Uuid, Error> {
        let promise = Promise {
            email,
            role: Some("member"),
            customer_id: Some("customer_7"),
        };
        let actor = Actor::Operator("ops".to_owned());
        let of = self.organization();
        let invite = async |tx: &mut _| self.desk.invite(tx, of, promise, &actor).await;
        self.app.replica.db.transaction(invite).await
    }

    pub async fn set_role(&self, user: &str, role: &str, by: &str) -> Result<bool, Error> {
        let (of, actor) = (self.organization(), Actor::User(by.to_owned()));
        let set = async |tx: &mut _| self.desk.set_role(tx, of, (user, role), &actor).await;
        self.app.replica.db.transaction(set).await
    }

    pub async fn revoke(&self, invitation: Uuid) -> Result<(), Error> {
        let (of, actor) = (self.organization(), Actor::Operator("ops".to_owned()));
        let revoke = async |tx: &mut _| self.desk.revoke(tx, of, invitation, &actor).await;
        self.app.replica.db.transaction(revoke).await
    }

    pub async fn resend(&self, invitation: Uuid) -> Result<(), Error> {
        let (of, actor) = (self.organization(), Actor::Operator("ops".to_owned()));
        let resend = async |tx: &mut _| self.desk.resend(tx, of, invitation, &actor).await;
        self.app.replica.db.transaction(resend).await
    }

    pub async fn role(&self, user: &str) -> String {
        let members = self.members().await;
        let member = members.iter().find(|member| member.user_id == user);
        member.unwrap().role.clone().unwrap_or_default()
    }

    /// The state of the one invitation of this id.
    pub async fn state(&self, invitation: Uuid) -> String {
        let of = self.organization();
        let find =
            async |connection: &mut _| members::find_invitation(connection, of, invitation).await;
        self.app.replica.db.run(find).await.unwrap().state
    }

    pub async fn assign(&self, user: &str, customer: &str) -> Result<bool, Error> {
        let (of, actor) = (self.organization(), Actor::Operator("ops".to_owned()));
        let assign = async |tx: &mut _| members::assign(tx, of, user, customer, &actor).await;
        self.app.replica.db.transaction(assign).await
    }

    pub async fn assignments(&self) -> i64 {
        self.app.ask("select count(*) from staff_assignments").await
    }
}
