//! Recorded bodies of both providers, in every order of the scenarios that are written down.

use std::{collections::BTreeMap, path::Path};

use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tenantry::{
    identity::{self, Heard},
    webhooks::SourceKind::{self, Clerk, Workos},
};

use super::{control_database, read, seed};
use crate::support::{App, Deployment, TinyBlueprint, app::now};

/// More orders than this are not tried one by one, but so many of them.
const MOST_ORDERS: usize = 1_000;

/// Each scenario and its end: organizations with status and role of their members.
const ENDS: [(SourceKind, &str, &str); 11] = [
    (
        Workos,
        "happy_path",
        "Brightwater Logistics: active admin, active member",
    ),
    (
        Workos,
        "invitation_flow_reversed",
        "Brightwater Logistics: active member",
    ),
    (
        Workos,
        "membership_before_org",
        "Brightwater Logistics: active admin",
    ),
    (Workos, "duplicate_org_created", "Brightwater Logistics"),
    (Workos, "stale_update_after_new", "Brightwater Freight"),
    (
        Workos,
        "delete_then_late_create",
        "Brightwater Freight (deleted)",
    ),
    (
        Workos,
        "role_change_then_stale_activation",
        "Brightwater Logistics: active dispatcher",
    ),
    (
        Workos,
        "membership_delete_then_late_update",
        "Brightwater Logistics: removed dispatcher",
    ),
    (
        Clerk,
        "removed",
        "Brightwater Logistics: removed dispatcher",
    ),
    (
        Clerk,
        "membership_before_org",
        "Brightwater Logistics: active admin",
    ),
    (Clerk, "deleted", "Brightwater Freight (deleted)"),
];

fn fixture(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/webhooks");
    let text = std::fs::read_to_string(folder.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The recorded bodies of a scenario, in the order that is written down.
fn bodies(kind: SourceKind, scenario: &str) -> Vec<Value> {
    let listed = &fixture("scenarios.json")[kind.name()][scenario];
    let files: Vec<String> = match scenario {
        // of these only the end is written down
        "delete_then_late_create" => ["organization.deleted", "organization.created"]
            .map(str::to_owned)
            .to_vec(),
        "role_change_then_stale_activation" => [
            "organization.created",
            "organization_membership.updated.role_changed",
            "organization_membership.updated.activated",
        ]
        .map(str::to_owned)
        .to_vec(),
        _ => serde_json::from_value(listed.clone()).unwrap(),
    };
    let body = |file: &String| fixture(&format!("{}/{file}.json", kind.name()));
    files.iter().map(body).collect()
}

/// Every order of so many things, or very many of them.
fn orders(count: usize, rng: &mut StdRng) -> Vec<Vec<usize>> {
    if (1..=count).product::<usize>() > MOST_ORDERS {
        let mut listed: Vec<usize> = (0..count).collect();
        let again = (0..MOST_ORDERS).map(|_| {
            let order = listed.clone();
            listed.shuffle(rng);
            order
        });
        return again.collect();
    }
    let mut orders: Vec<Vec<usize>> = vec![Vec::new()];
    for at in 0..count {
        let longer = |order: &Vec<usize>| {
            let places = 0..=order.len();
            let order = order.clone();
            places.map(move |place| {
                let mut order = order.clone();
                order.insert(place, at);
                order
            })
        };
        orders = orders.iter().flat_map(longer).collect();
    }
    orders
}

/// How each source ends.
async fn ends(connection: &mut PgConnection) -> BTreeMap<String, String> {
    let ends: Vec<(String, String)> = sqlx::query_as(
        "select source,
                string_agg(concat(
                    name,
                    case when deleted_at is not null then ' (deleted)' end,
                    (
                        select ': ' || string_agg(status || ' ' || role, ', ' order by status, role)
                        from members
                        where members.source = organizations.source
                          and members.org_id = organizations.org_id
                    )
                ), ' and ')
         from organizations
         group by source",
    )
    .fetch_all(connection)
    .await
    .unwrap();
    ends.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_a_scenario_ends_as_it_is_written_down() {
    let deployment = control_database().await;
    let mut connection = PgConnection::connect(&deployment.control_url)
        .await
        .unwrap();
    let mut rng = StdRng::seed_from_u64(seed());
    for (kind, scenario, end) in ENDS {
        let bodies = bodies(kind, scenario);
        let said = bodies
            .iter()
            .map(|body| read(kind, &serde_json::to_vec(body).unwrap()));
        let said: Vec<_> = said.collect();
        let orders = orders(said.len(), &mut rng);
        let mut tx = connection.begin().await.unwrap();
        // each order is told by a source of its own, all of them at the same pace
        for step in 0..said.len() {
            let heard = orders.iter().enumerate().map(|(source, order)| Heard {
                source: format!("s{source}"),
                event: Some(1),
                received_at: now(),
                said: said[order[step]].clone(),
            });
            identity::record(&mut tx, &heard.collect::<Vec<_>>())
                .await
                .unwrap();
        }
        let ends = ends(&mut tx).await;
        tx.rollback().await.unwrap();
        assert_eq!(ends.len(), orders.len());
        for (source, order) in orders.iter().enumerate() {
            let found = &ends[&format!("s{source}")];
            assert_eq!(found, end, "{} {scenario} in order {order:?}", kind.name());
        }
    }
    connection.close().await.unwrap();
    deployment.discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_and_its_people_are_ready_whichever_of_them_comes_first() {
    for is_reversed in [false, true] {
        let blueprint = TinyBlueprint::new();
        let app = App::of(Deployment::new().await, blueprint.source()).await;
        let mut events = bodies(Workos, "happy_path");
        if is_reversed {
            events.reverse();
        }
        app.accepts(&events.iter().collect::<Vec<_>>()).await;
        let org = fixture("workos/organization.created.json")["data"]["id"].clone();
        app.tenant(org.as_str().unwrap()).is_ready().await;
        let received = "select count(*) from webhook_events where state = 'received'";
        crate::support::app::wait_until("every event was processed", async || {
            app.ask::<i64>(received).await == 0
        })
        .await;
        let members = "select string_agg(status || ' ' || role, ', ' order by role) from members";
        assert_eq!(
            app.ask::<String>(members).await,
            "active admin, active member"
        );
        // nothing describes the administrator: that is what the only open event waits for
        let waiting =
            "select string_agg(event_type, ' ') from webhook_events where state = 'waiting'";
        assert_eq!(
            app.ask::<String>(waiting).await,
            "organization_membership.created"
        );
        assert_eq!(app.deployment.tenant_databases().await, 1);
        let deployment = app.deployment.clone();
        app.stop().await;
        deployment.discard().await;
    }
}
