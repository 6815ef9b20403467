//! Which tenants' databases have drifted from their blueprint, and how.
//!
//! Guarantees: every database is compared with the template that it comes from, or was migrated to; those
//! that have drifted alike are one group; nothing is written anywhere.
//!
//! Does not: repair. That takes somebody who knows why it is so.

use std::collections::BTreeMap;

use serde::Serialize;
use sqlx::PgConnection;

use super::{Named, Reach, Unreached, reach::Failed};
use crate::{
    provisioning::template::{self, TemplateRecord},
    tenant_db::{fingerprint, structure},
    tenants::Tenant,
};

/// How many differences of a group are listed at most.
const MOST_TOLD: usize = 50;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Drift {
    /// Tenants whose database matches its blueprint.
    pub alike: usize,
    /// Those whose database does not, by how it is; the largest group first.
    pub drifted: Vec<Group>,
    /// Those that could not be checked.
    pub unreached: Vec<Unreached>,
}

/// Tenants whose databases have drifted alike.
#[derive(Debug, Serialize)]
pub struct Group {
    /// Their cluster.
    pub cluster: String,
    /// The blueprint that they should be like.
    pub blueprint_hash: String,
    /// Its schema version.
    pub version: String,
    /// Fingerprint of the template.
    pub expected: String,
    /// Fingerprint of the databases.
    pub found: String,
    /// What is different, the most telling first; empty where it cannot be read any more.
    pub differences: Vec<String>,
    /// How many differences there are.
    pub difference_count: usize,
    /// The tenants.
    pub tenants: Vec<Named>,
}

/// Cluster, blueprint and fingerprint.
type Key = (String, String, String);

/// A fingerprint, and the major version of the server that words the structure so.
type Found = (String, Option<i32>);

/// The tenants by what their databases are like: cluster, blueprint, fingerprint.
type Alike<'a> = BTreeMap<(String, String, Found), Vec<&'a Tenant>>;

/// Looks at the tenants' databases; `told` hears of each that was looked at.
pub async fn find(
    reach: &Reach<'_>,
    tenants: &[Tenant],
    mut told: impl FnMut(),
) -> sqlx::Result<Drift> {
    let (mut alike, mut unreached) = (Alike::new(), Vec::new());
    let take = async |_: &Tenant, connection: &mut PgConnection| {
        let fingerprint = fingerprint::of(connection).await?;
        Ok((fingerprint, fingerprint::server_major(connection)))
    };
    reach
        .each(tenants, take, |tenant, taken| {
            told();
            match taken {
                Ok(found) => alike.entry(key(tenant, found)).or_default().push(tenant),
                Err(failed) => unreached.push(failed),
            }
        })
        .await;
    judge(reach, &alike, unreached).await
}

fn key(tenant: &Tenant, found: Found) -> (String, String, Found) {
    let cluster = tenant.cluster.clone().unwrap_or_default();
    let hash = tenant.blueprint_hash.clone().unwrap_or_default();
    (cluster, hash, found)
}

/// Compares what was found with what is on record of the templates.
async fn judge(
    reach: &Reach<'_>,
    alike: &Alike<'_>,
    unreached: Vec<Unreached>,
) -> sqlx::Result<Drift> {
    let mut drift = Drift {
        alike: 0,
        drifted: Vec::new(),
        unreached,
    };
    for ((cluster, hash, (found, server)), tenants) in alike {
        let find = async |connection: &mut _| template::find(connection, cluster, hash).await;
        // an older version of tenantry took another fingerprint, and an older server words it otherwise
        let is_of_server = |record: &TemplateRecord| record.server_major == *server;
        let record = reach.db.run(find).await?.filter(is_of_server);
        let comparable = record.and_then(|record| Some((record.version, record.fingerprint?)));
        let Some((version, expected)) = comparable else {
            let unknown = Failed::TemplateUnknown(hash.clone());
            let unknown = tenants.iter().map(|tenant| unknown.of(tenant));
            drift.unreached.extend(unknown);
            continue;
        };
        if *found == expected {
            drift.alike += tenants.len();
            continue;
        }
        let of_template = (cluster.clone(), hash.clone(), expected);
        let differences = explain(reach, &of_template, tenants[0]).await?;
        let (cluster, blueprint_hash, expected) = of_template;
        drift.drifted.push(Group {
            cluster,
            blueprint_hash,
            version,
            expected,
            found: found.clone(),
            difference_count: differences.len(),
            differences: differences.into_iter().take(MOST_TOLD).collect(),
            tenants: tenants.iter().map(|tenant| Named::from(*tenant)).collect(),
        });
    }
    drift
        .drifted
        .sort_by_key(|group| std::cmp::Reverse(group.tenants.len()));
    Ok(drift)
}

/// What is different in one tenant's database, as far as it can be told.
async fn explain(
    reach: &Reach<'_>,
    of_template: &Key,
    tenant: &Tenant,
) -> sqlx::Result<Vec<String>> {
    let (cluster, hash, _) = of_template;
    let find = async |connection: &mut _| template::find_structure(connection, cluster, hash).await;
    let expected = reach.db.run(find).await?;
    let (Some(expected), Some(actual)) = (expected, read(reach, tenant).await) else {
        return Ok(Vec::new());
    };
    Ok(structure::differences(&expected, &actual))
}

/// The structure of a tenant's database; `None` when it cannot be read any more.
async fn read(reach: &Reach<'_>, tenant: &Tenant) -> Option<Vec<String>> {
    let mut lines = None;
    let read = async |_: &Tenant, connection: &mut PgConnection| {
        Ok(fingerprint::structure(connection).await?)
    };
    let tenants = std::slice::from_ref(tenant);
    reach
        .each(tenants, read, |_, found| lines = found.ok())
        .await;
    lines
}
