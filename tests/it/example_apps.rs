//! The example applications behind a real proxy: each user sees the people of their own tenant, however many
//! tenants there are and however few pools.
//!
//! They need what `.ci/run proxies` installs and builds: `TENANTRY_TEST_FASTAPI` is the directory of the Python
//! packages, `TENANTRY_TEST_AXUM` the binary.

use std::{
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use futures_util::future::join_all;
use tenantry::{
    api_keys::{self, NewKey, Scopes},
    provisioning::BlueprintSource,
};
use tokio::net::TcpStream;

use crate::support::{
    App, Deployment,
    app::{new_org, operator, wait_until},
    events,
    people::{self, Belongs, new_id},
    proxy::{Kind, Proxy, Wire, free_address},
    tokens,
};

const TENANTS: usize = 20;
const POOLS: usize = 4;
const POOL_SIZE: usize = 2;

/// A tenant with one person in it.
struct Household {
    org: String,
    user: String,
    name: String,
}

/// Many tenants, and a key for the application.
struct Town {
    app: App,
    wire: Wire,
    key: String,
    households: Vec<Household>,
}

impl Town {
    async fn build() -> Self {
        let mut deployment = Deployment::new().await;
        deployment.trust_tokens();
        deployment.set("TENANTRY__ACCESS__TRUSTED_PROXIES", "127.0.0.1/32");
        deployment.set("TENANTRY__ACCESS__PUBLIC_PATHS", "/healthz");
        let app = App::of(deployment, BlueprintSource::Bundled).await;
        let new = NewKey {
            name: "application".to_owned(),
            scopes: Scopes::parse("tenants:connect").into_iter().collect(),
            origins: Vec::new(),
            expires_at: None,
        };
        let made = app
            .replica
            .db
            .transaction(async |tx| api_keys::create(tx, &new, &operator()).await);
        let (_, key) = made.await.unwrap();
        let mut this = Self {
            wire: Wire::to(app.address).await,
            app,
            key: secrecy::ExposeSecret::expose_secret(&key).to_owned(),
            households: Vec::new(),
        };
        for number in 0..TENANTS {
            let household = Household {
                org: new_org(),
                user: new_id("user"),
                name: format!("Person {number}"),
            };
            this.move_in(&household).await;
            this.households.push(household);
        }
        for household in &this.households {
            this.app.tenant(&household.org).is_ready().await;
        }
        this.app.is_idle().await;
        this
    }

    async fn move_in(&self, household: &Household) {
        let Household { org, user, name } = household;
        let names = name.split_once(' ').unwrap();
        let belongs = Belongs {
            id: &new_id("om"),
            org,
            user,
            role: "member",
        };
        let organization = events::created(org, name);
        let user = people::user("created", user, "somebody@example.com", names, 1);
        let membership = people::membership("created", belongs, "active", 1);
        self.app.accepts(&[&organization, &user, &membership]).await;
    }

    /// The application, started with the settings that both have.
    async fn run(&self, command: &mut Command) -> Running {
        let address = free_address();
        let child = command
            .env("PORT", address.port().to_string())
            .env("TENANTRY_URL", format!("http://{}", self.wire.address))
            .env("TENANTRY_KEY", &self.key)
            .env("POOLS", POOLS.to_string())
            .env("POOL_SIZE", POOL_SIZE.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let running = Running { child, address };
        wait_until("the application listens", async || {
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        running
    }

    /// Everything that is expected of such an application, behind a proxy.
    async fn is_served_by(&self, command: &mut Command) {
        for kind in Kind::installed() {
            let running = self.run(command).await;
            let proxy = Proxy::start(kind, self.app.address, running.address).await;
            self.wire.heard();
            self.a_pool_is_made_once(&proxy).await;
            for _ in 0..3 {
                join_all(
                    self.households
                        .iter()
                        .map(|it| self.sees_their_own(&proxy, it)),
                )
                .await;
            }
            let health = proxy.get("app.test", "/healthz", "").await;
            assert_eq!(health.body()["status"], "ok", "{kind:?} {health:?}");
            let pools = health.body()["pools"].as_u64().unwrap();
            assert!((1..=POOLS as u64).contains(&pools), "{kind:?} {health:?}");
            self.the_oldest_are_closed().await;
            self.nobody_chooses_a_tenant(&proxy).await;
            let past = Proxy::past(running.address, "/people").await;
            assert_eq!(past.status, 403, "{past:?}");
        }
    }

    async fn sees_their_own(&self, proxy: &Proxy, household: &Household) {
        let token = tokens::token(&household.user, &household.org);
        let reply = proxy
            .get(
                "app.test",
                "/people",
                &format!("Authorization: Bearer {token}"),
            )
            .await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let body = reply.body();
        let people = body.as_array().unwrap();
        assert_eq!(people.len(), 1, "{body}");
        assert_eq!(people[0]["name"], household.name);
        assert_eq!(people[0]["id"], household.user);
    }

    async fn a_pool_is_made_once(&self, proxy: &Proxy) {
        let first = &self.households[0];
        join_all((0..10).map(|_| self.sees_their_own(proxy, first))).await;
        let (heard, _) = self.wire.heard();
        assert_eq!(heard.matches("get /v1/tenants/").count(), 1, "{heard}");
    }

    async fn the_oldest_are_closed(&self) {
        let prefix = &self.app.deployment.prefix;
        // the product's own sessions in tenants' databases are another role's
        let open = format!(
            "select count(distinct usename) from pg_stat_activity where starts_with(usename, '{prefix}')"
        );
        wait_until("only the latest tenants have connections", async || {
            self.app.ask::<i64>(&open).await <= i64::try_from(POOLS).unwrap()
        })
        .await;
    }

    async fn nobody_chooses_a_tenant(&self, proxy: &Proxy) {
        let [own, other] = [&self.households[1], &self.households[2]];
        let foreign = self.app.tenant(&other.org).find().await.unwrap();
        let token = tokens::token(&own.user, &own.org);
        let headers = format!(
            "X-Tenant-Id: {0}\nX_Tenant_Id: {0}\nX-Tenant-Database: {1}\nX_Tenant_Database: {1}\nAuthorization: Bearer {token}",
            foreign.id, foreign.database
        );
        let reply = proxy.get("app.test", "/people", &headers).await;
        assert_eq!(reply.body()[0]["name"], own.name, "{reply:?}");
    }
}

/// A running application; killed when dropped.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `.ci/run proxies` has prepared, if it has.
fn prepared(variable: &str) -> Option<std::ffi::OsString> {
    let prepared = std::env::var_os(variable);
    if prepared.is_none() {
        println!("skipped: {variable} is not set; .ci/run proxies prepares it");
    }
    prepared
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_application_shows_everybody_their_own_people() {
    let Some(packages) = prepared("TENANTRY_TEST_FASTAPI") else {
        return;
    };
    let town = Town::build().await;
    let mut command = Command::new("python3");
    command
        .arg("examples/app-fastapi/app.py")
        .env("PYTHONPATH", packages);
    town.is_served_by(&mut command).await;
    town.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_application_shows_everybody_their_own_people() {
    let Some(program) = prepared("TENANTRY_TEST_AXUM") else {
        return;
    };
    let town = Town::build().await;
    town.is_served_by(&mut Command::new(program)).await;
    town.app.stop().await;
}
