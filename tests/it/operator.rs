//! What an operator does about tenants and their hosts.

use sqlx::PgConnection;
use tenantry::{
    actions::{self, Refusal},
    tenants::{self, HostError, Tenant},
};

use crate::support::{
    App, Deployment, TinyBlueprint,
    app::{new_org, operator, wait_until},
    events,
};

/// A deployment whose tenants are told of their people.
struct House {
    app: App,
    _blueprint: TinyBlueprint,
}

impl House {
    async fn new() -> Self {
        let blueprint = TinyBlueprint::with_people();
        let app = App::of(Deployment::new().await, blueprint.source()).await;
        Self {
            app,
            _blueprint: blueprint,
        }
    }

    async fn tenant(&self, name: &str) -> Tenant {
        let org = new_org();
        self.app.accepts(&[&events::created(&org, name)]).await;
        let tenant = self.app.tenant(&org).is_ready().await;
        self.app.is_idle().await;
        tenant
    }

    async fn suspend(&self, tenant: &Tenant) -> Result<(), Refusal> {
        let suspend = async |tx: &mut _| actions::suspend_tenant(tx, tenant, &operator()).await;
        self.app.replica.db.transaction(suspend).await
    }

    async fn resume(&self, tenant: &Tenant) -> Result<(), Refusal> {
        let resume = async |tx: &mut _| actions::resume_tenant(tx, tenant, 25, &operator()).await;
        let resumed = self.app.replica.db.transaction(resume).await;
        self.app.replica.waker.wake();
        resumed
    }

    async fn add(&self, tenant: &Tenant, host: &str) -> Result<bool, HostError> {
        let add = async |tx: &mut _| tenants::add_host(tx, tenant.id, host).await;
        self.app.replica.db.transaction(add).await
    }

    async fn at(&self, host: &str) -> Option<String> {
        let find = async |connection: &mut _| tenants::find_by_host(connection, host).await;
        let found = self.app.replica.db.run(find).await.unwrap();
        found.map(|tenant| tenant.org_id)
    }

    /// Who changed a tenant's state into what, in order.
    async fn states(&self, tenant: &Tenant) -> String {
        self.app
            .ask(&format!(
                "select string_agg(actor_kind || ' ' || (after ->> 'state'), ', ' order by id)
                 from audit_log
                 where target = '{}' and action = 'tenant.changed' and after ? 'state'",
                tenant.id
            ))
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_told_of_its_people_when_it_is_resumed() {
    let house = House::new().await;
    let acme = house.tenant("Acme").await;
    let of_acme = house.app.tenant(&acme.org_id);
    let people = "select count(*) from people";
    house.suspend(&acme).await.unwrap();
    let again = house.suspend(&acme).await.unwrap_err();
    assert_eq!(again.code(), "tenant_wrong_state");
    assert!(again.to_string().contains("is suspended, not ready"));

    house
        .app
        .accepts(&[
            &events::user("user_1", ("Ada", "Lovelace")),
            &events::member(&acme.org_id, "user_1", "admin", 1),
            &events::updated(&acme.org_id, "Acme Inc", 2),
        ])
        .await;
    house.app.is_idle().await;
    assert_eq!(of_acme.is_in("suspended").await.name, "Acme Inc");
    assert_eq!(
        of_acme.ask::<i64>(people).await,
        0,
        "nobody is told meanwhile"
    );

    house.resume(&acme).await.unwrap();
    of_acme.is_ready().await;
    house.app.is_idle().await;
    assert_eq!(of_acme.ask::<i64>(people).await, 1);
    let again = house.resume(&acme).await.unwrap_err();
    assert_eq!(again.code(), "tenant_wrong_state");
    let states = house.states(&acme).await;
    assert!(
        states.ends_with("operator suspended, operator ready"),
        "{states}"
    );
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_of_a_deleted_organization_stays_suspended() {
    let house = House::new().await;
    let (acme, bolt) = (house.tenant("Acme").await, house.tenant("Bolt").await);
    house.suspend(&acme).await.unwrap();
    house
        .app
        .accepts(&[
            &events::deleted(&acme.org_id, "Acme", 5),
            &events::deleted(&bolt.org_id, "Bolt", 5),
        ])
        .await;
    house.app.is_idle().await;
    for tenant in [&acme, &bolt] {
        house.app.tenant(&tenant.org_id).is_in("suspended").await;
        let refused = house.resume(tenant).await.unwrap_err();
        assert_eq!(refused.code(), "organization_deleted");
        house.app.tenant(&tenant.org_id).is_in("suspended").await;
    }
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumption_and_the_deletion_of_the_organization_in_one_instant_leave_nothing_routed() {
    let house = House::new().await;
    let acme = house.tenant("Acme").await;
    house.suspend(&acme).await.unwrap();
    // the deletion is recorded and not committed while the resumption begins
    let url = &house.app.deployment.control_url;
    let deletion = format!(
        "update organizations set deleted_at = now() where org_id = '{0}';
         update tenants set state = 'suspended' where org_id = '{0}' and state in ('pending', 'provisioning', 'ready', 'failed')",
        acme.org_id
    );
    let commit = async {
        let mut session = <PgConnection as sqlx::Connection>::connect(url)
            .await
            .unwrap();
        let begin = sqlx::AssertSqlSafe(format!("begin; {deletion}"));
        sqlx::raw_sql(begin).execute(&mut session).await.unwrap();
        wait_until("the resumption waits", async || {
            let waiting = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%for share%')";
            house.app.ask::<bool>(waiting).await
        })
        .await;
        sqlx::raw_sql("commit").execute(&mut session).await.unwrap();
    };
    let (resumed, ()) = tokio::join!(
        async {
            // so that it comes second
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            house.resume(&acme).await
        },
        commit
    );
    assert_eq!(resumed.unwrap_err().code(), "organization_deleted");
    house.app.tenant(&acme.org_id).is_in("suspended").await;
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_leads_to_one_tenant_however_it_is_written() {
    let house = House::new().await;
    let (acme, bolt) = (house.tenant("Acme").await, house.tenant("Bolt").await);
    assert!(house.add(&acme, "CRM.Acme.example:443").await.unwrap());
    assert!(
        !house.add(&acme, "crm.acme.example.").await.unwrap(),
        "it has it already"
    );
    for host in [
        "crm.acme.example",
        "CRM.ACME.EXAMPLE.",
        "crm.acme.example:8443",
        &acme.url,
    ] {
        assert_eq!(house.at(host).await.as_ref(), Some(&acme.org_id), "{host}");
    }
    assert_eq!(house.at("acme.example").await, None);
    assert_eq!(house.at("not a host").await, None);
    let code =
        async |tenant: &Tenant, host: &str| house.add(tenant, host).await.unwrap_err().code();
    assert_eq!(code(&bolt, "crm.acme.example").await, "host_taken");
    assert_eq!(code(&bolt, &acme.url).await, "host_taken");
    assert_eq!(code(&bolt, &bolt.url).await, "host_taken");
    assert_eq!(code(&bolt, "127.0.0.1").await, "host_invalid");

    let remove = async |tenant: &Tenant| {
        let remove =
            async |tx: &mut _| tenants::remove_host(tx, tenant.id, "crm.Acme.example").await;
        house.app.replica.db.transaction(remove).await.unwrap()
    };
    assert!(!remove(&bolt).await, "not another tenant's");
    assert!(remove(&acme).await);
    assert_eq!(house.at("crm.acme.example").await, None);
    let audit = format!(
        "select string_agg(concat_ws(' ', action, target, source, (org_id = '{}')::text), ', ' order by id)
         from audit_log where target_kind = 'tenant_host'",
        acme.org_id
    );
    assert_eq!(
        house.app.ask::<String>(&audit).await,
        "tenant_host.created crm.acme.example workos true, tenant_host.deleted crm.acme.example workos true"
    );
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tenants_that_want_a_host_in_one_instant_one_gets_it() {
    let house = House::new().await;
    let (acme, bolt) = (house.tenant("Acme").await, house.tenant("Bolt").await);
    for n in 0..20 {
        let host = format!("crm{n}.example.com");
        let (one, other) = tokio::join!(house.add(&acme, &host), house.add(&bolt, &host));
        let got = [one, other].map(|added| added.map_err(|error| error.code()));
        assert!(
            got.contains(&Ok(true)) && got.contains(&Err("host_taken")),
            "{got:?}"
        );
    }
    house.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_host_is_nobodys_own_also_in_the_same_instant() {
    let house = House::new().await;
    let acme = house.tenant("Acme").await;
    assert!(house.add(&acme, "bolt.localhost").await.unwrap());
    let bolt = house.tenant("Bolt").await;
    assert_ne!(bolt.url, "bolt.localhost", "it belongs to Acme");

    // the host is being given to Acme, and not committed, when Cork begins
    let app = &house.app;
    let org = new_org();
    let (given, is_given) = tokio::sync::oneshot::channel();
    let give = app.replica.db.transaction(async |tx| {
        tenants::add_host(tx, acme.id, "cork.localhost").await?;
        given.send(()).unwrap();
        wait_until("Cork's tenant waits", async || {
            let waiting = "select exists (select from pg_stat_activity where wait_event = 'advisory' and datname = current_database())";
            app.ask::<bool>(waiting).await
        })
        .await;
        Ok::<_, HostError>(())
    });
    let begin = async {
        is_given.await.unwrap();
        app.accepts(&[&events::created(&org, "Cork")]).await;
        app.tenant(&org).is_ready().await
    };
    let (given, cork) = tokio::join!(give, begin);
    given.unwrap();
    assert!(cork.url.starts_with("cork-"), "{}", cork.url);
    assert_eq!(house.at("cork.localhost").await, Some(acme.org_id));
    house.app.stop().await;
}
