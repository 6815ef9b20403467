//! The tenants of targets, and what their clusters say of their databases.
//!
//! Guarantees: one query for all tenants, and one more per cluster; a cluster that could not be asked is not asked again
//! for each of its tenants, and holds up no others.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use uuid::Uuid;

use super::{held::Held, work::Slot};
use crate::{
    provisioning::StepError,
    tenant_db::{
        self, Cluster,
        databases::{self, Facts, Mark},
    },
    tenants::{self, Tenant, TenantId},
};

/// How long a cluster may take to say which of its databases are there.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// A tenant, and what its cluster says of its database.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) tenant: Tenant,
    /// Or why the cluster could not be asked.
    database: Result<Found, Arc<tenant_db::Error>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Ours {
        /// Major version of the server.
        server: i32,
        /// What it says of itself.
        mark: Mark,
    },
    Gone,
    Foreign(String),
}

/// Clusters that could not be asked, and why.
pub(super) type Away = BTreeMap<String, Arc<tenant_db::Error>>;

/// The tenants of these targets and their databases: one query for all, and one more per cluster, but for those
/// that are `away` already.
pub(super) async fn find(
    slot: &Slot<'_>,
    held: &[Held],
    away: &mut Away,
) -> Result<BTreeMap<Uuid, Subject>, StepError> {
    let ids: Vec<TenantId> = held.iter().map(|held| held.tenant).collect();
    let tenants = slot
        .provisioner
        .db
        .run(async |connection| tenants::find_all(connection, &ids).await)
        .await?;
    let clusters = &slot.provisioner.clusters;
    let asked = clusters
        .iter()
        .filter(|cluster| !away.contains_key(&cluster.name));
    let answers = join_all(asked.map(async |cluster| {
        let names: Vec<&str> = tenants
            .iter()
            .filter(|tenant| tenant.cluster.as_ref() == Some(&cluster.name))
            .map(|tenant| &*tenant.database)
            .collect();
        (&*cluster.name, ask(cluster, &names).await)
    }))
    .await;
    let mut facts = BTreeMap::new();
    for (name, answer) in answers {
        match answer {
            Ok(found) => drop(facts.insert(name, found)),
            Err(error) => drop(away.insert(name.to_owned(), Arc::new(error))),
        }
    }
    let subject = |tenant: Tenant| {
        let name = tenant.cluster.as_deref().unwrap_or_default();
        let database = match (clusters.get(name), facts.get(name), away.get(name)) {
            (Ok(cluster), Some(facts), _) => Ok(look(&tenant, facts, cluster)),
            (_, _, Some(error)) => Err(Arc::clone(error)),
            (Err(unknown), ..) => Err(Arc::new(unknown)),
            // nobody's database is there
            (Ok(_), None, None) => Ok(Found::Gone),
        };
        (tenant.id.0, Subject { tenant, database })
    };
    Ok(tenants.into_iter().map(subject).collect())
}

/// What the cluster says of these databases. Tenants of other clusters wait for it.
async fn ask(cluster: &Cluster, names: &[&str]) -> Result<Vec<Facts>, tenant_db::Error> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let find = async |connection: &mut _| databases::find_all(connection, names).await;
    let ask = async {
        match cluster.run(find).await {
            // by a connection that was open before the server started anew: the next one is new as well
            Err(error) if !error.is_silence() => cluster.run(find).await,
            answer => answer,
        }
    };
    match tokio::time::timeout(ANSWER_WITHIN, ask).await {
        Ok(answer) => answer,
        Err(_) => Err(tenant_db::Error::sql("looking for databases")(
            sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()),
        )),
    }
}

fn look(tenant: &Tenant, facts: &[Facts], cluster: &Cluster) -> Found {
    let Some(facts) = facts.iter().find(|facts| facts.name == tenant.database) else {
        return Found::Gone;
    };
    match facts.mark(&cluster.owner) {
        Some(mark) if mark.tenant == tenant.id.0 => Found::Ours {
            server: facts.server_major,
            mark: Mark {
                // after a `drop database` that was broken off it is good for nothing
                like: mark.like.filter(|_| facts.usable),
                ..mark
            },
        },
        _ => Found::Foreign(facts.describe()),
    }
}

impl Subject {
    /// Whether the tenant's row and its database's mark both name the blueprint with this hash: it was like that when
    /// it was last looked into.
    pub(super) fn is_on_record(&self, hash: &str) -> bool {
        let like = self.mark().and_then(|mark| mark.like.as_deref());
        like == Some(hash) && self.tenant.blueprint_hash.as_deref() == Some(hash)
    }

    /// What the database says of itself, if it was found.
    pub(super) fn mark(&self) -> Option<&Mark> {
        match &self.database {
            Ok(Found::Ours { mark, .. }) => Some(mark),
            Ok(Found::Gone | Found::Foreign(_)) | Err(_) => None,
        }
    }

    /// Major version of the server that has the database, if it was found.
    pub(super) fn server_major(&self) -> Option<i32> {
        match self.database {
            Ok(Found::Ours { server, .. }) => Some(server),
            Ok(Found::Gone | Found::Foreign(_)) | Err(_) => None,
        }
    }

    /// Fails where somebody else's database has the tenant's name, or nobody could say.
    pub(super) fn refuse_foreign(&self) -> Result<(), StepError> {
        match &self.database {
            Ok(Found::Foreign(found)) => {
                Err(StepError::Cluster(tenant_db::Error::ForeignDatabase {
                    name: self.tenant.database.clone(),
                    found: found.clone(),
                }))
            }
            // one that is gone says so when it is connected to
            Ok(Found::Ours { .. } | Found::Gone) => Ok(()),
            Err(error) => Err(StepError::Cluster(tenant_db::Error::NotAsked {
                cluster: self.tenant.cluster.clone().unwrap_or_default(),
                source: Arc::clone(error),
            })),
        }
    }
}
