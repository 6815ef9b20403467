//! Step 5, `sync_members`: the tenant's database is told of its members; and the job that does it ever after.
//!
//! Guarantees: a ready tenant has the people who were members when it became ready, but for those whose
//! own script failed; each member is told in a transaction of its own, so that one who fails does not
//! keep the others out; scripts run with the rights of the application, so that none changes the
//! schema; values reach them as settings, set as parameters; what was told is recorded afterwards, and
//! that something is about to be told before: after a crash in between it is told again.
//!
//! Does not: undo. Scripts are written to bear being run again.

use std::{collections::HashSet, time::Duration};

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{Provisioner, StepContext, StepError, seed};
use crate::{
    blueprint::{SqlFile, SyncScripts},
    causes::chain,
    db,
    members::{self, Status, Told, Unsynced},
    queue::{self, Claim, worker::Lease},
    shutdown::Tasks,
    tenant_db::{self, roles},
    tenants::{self, Tenant, TenantId, TenantState},
};

/// Members between two records: what a crash makes to be told again at most.
const PAGE: i64 = 100;

/// Failures that are named in an error; the rest is counted.
const NAMED: usize = 3;

/// Where a test can make the telling fail: after the scripts, before the record.
pub(super) const TOLD: &str = "sync_members.told";

/// How a job that ran to its end ended.
#[derive(Debug)]
pub enum Synced {
    /// Everybody is synced; the job was completed in the transaction that saw it.
    Completed,
    /// The tenant is not ready, or its blueprint tells nobody.
    NothingToDo,
    /// A shutdown came between two pages.
    Draining,
}

/// A member whose script failed.
struct Failed {
    user_id: String,
    digest: String,
    cause: String,
}

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let Some(hash) = cx.blueprint.sync_hash() else {
        return Ok(());
    };
    let failed = tell_all(cx, &hash, || false).await?;
    if !failed.is_empty() {
        // they do not keep the tenant from its other people: activation rouses the job, which has
        // attempts, backoff and a dead letter of its own
        let (tenant, error) = (cx.id().await, not_synced(&failed));
        tracing::warn!(
            tenant.id = %tenant,
            error.code = error.code(),
            error = chain(&error),
            "members are not synced yet; the tenant becomes ready without them"
        );
    }
    Ok(())
}

/// Tells a ready tenant's database of its members, and completes the job when there is nobody left.
pub async fn sync_members(
    provisioner: &Provisioner,
    (claim, lease): (&Claim, &Lease),
    tasks: &Tasks,
    id: TenantId,
) -> Result<Synced, StepError> {
    let find = async |connection: &mut PgConnection| tenants::find(connection, id).await;
    let tenant = provisioner.db.run(find).await?;
    // one that is not ready yet is told by its plan
    let Some(tenant) = tenant.filter(|tenant| tenant.state == TenantState::Ready) else {
        return Ok(Synced::NothingToDo);
    };
    let cx = StepContext::new(provisioner, (claim, lease), tenant)?;
    let Some(hash) = cx.blueprint.sync_hash() else {
        return Ok(Synced::NothingToDo);
    };
    let mut prepared = false;
    let mut failed = Vec::new();
    while !settle(&cx, &hash, &failed).await? {
        if !prepared {
            cx.refuse_foreign_database().await?;
            cx.cluster().await?.end_stale_sessions(&cx.tag).await?;
            prepared = true;
        }
        failed = tell_all(&cx, &hash, || tasks.is_draining()).await?;
        if tasks.is_draining() {
            return Ok(Synced::Draining);
        }
    }
    Ok(Synced::Completed)
}

/// Completes the job if everybody is synced; fails if only those are left who failed just now.
///
/// The job's row is locked first: whoever rouses the job after that rouses it after its end.
async fn settle(cx: &StepContext<'_>, hash: &str, failed: &[Failed]) -> Result<bool, StepError> {
    let tenant = cx.tenant().await;
    let limit = i64::try_from(failed.len()).unwrap_or(i64::MAX - 1) + 1;
    let look = async |tx: &mut PgConnection| {
        queue::assert_held(tx, cx.claim).await?;
        let left = members::unsynced(tx, tenant.key(), cx.terms(hash), "", limit).await?;
        if left.is_empty() {
            queue::complete(tx, cx.claim).await?;
        }
        Ok::<_, StepError>(left)
    };
    let left = cx.provisioner.db.transaction(look).await?;
    let has_failed = |member: &Unsynced| {
        failed
            .iter()
            .any(|failed| failed.user_id == member.user_id && failed.digest == member.digest)
    };
    match left.as_slice() {
        [] => Ok(true),
        left if left.iter().all(has_failed) => Err(not_synced(failed)),
        _ => Ok(false),
    }
}

fn not_synced(failed: &[Failed]) -> StepError {
    let name = |failed: &Failed| format!("{}: {}", failed.user_id, failed.cause);
    let mut named: Vec<String> = failed.iter().take(NAMED).map(name).collect();
    if failed.len() > NAMED {
        named.push(format!("and {} more", failed.len() - NAMED));
    }
    StepError::MembersNotSynced {
        failed: named.join("; "),
    }
}

/// Goes once through everybody who is unsynced; returns who could not be told of.
async fn tell_all(
    cx: &StepContext<'_>,
    hash: &str,
    is_to_stop: impl Fn() -> bool,
) -> Result<Vec<Failed>, StepError> {
    let tenant = cx.tenant().await;
    let (mut failed, mut after) = (Vec::new(), String::new());
    while !is_to_stop() {
        let look = async |connection: &mut PgConnection| {
            members::unsynced(connection, tenant.key(), cx.terms(hash), &after, PAGE).await
        };
        let page = cx.provisioner.db.run(look).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(&last.user_id);
        failed.append(&mut tell_page(cx, &tenant, &page).await?);
    }
    Ok(failed)
}

async fn tell_page(
    cx: &StepContext<'_>,
    tenant: &Tenant,
    page: &[Unsynced],
) -> Result<Vec<Failed>, StepError> {
    let Some(scripts) = &cx.blueprint.sync else {
        return Ok(Vec::new());
    };
    cx.check_lease()?;
    let db = &cx.provisioner.db;
    db.transaction(async |tx| {
        queue::assert_held(tx, cx.claim).await?;
        Ok::<_, StepError>(members::mark_unknown(tx, tenant.key(), page).await?)
    })
    .await?;
    let organization_name = seed::organization_name(cx, tenant).await?;
    let teller = Teller {
        cx,
        tenant,
        organization_name,
        app: cx.cluster().await?.app.to_string(),
        scripts,
    };
    let limit = cx.blueprint.settings.members.sync_timeout_ms;
    let limit = Duration::from_millis(limit.into());
    let telling = cx.in_tenant(async |connection| teller.tell_page(connection, page).await);
    let Ok(told) = tokio::time::timeout(limit, telling).await else {
        let step = "sync_members";
        return Err(StepError::TimedOut { step, limit });
    };
    let (told, failed) = told?;
    cx.provisioner.faults.hit(TOLD).await?;
    db.transaction(async |tx| {
        queue::assert_held(tx, cx.claim).await?;
        members::mark_synced(tx, tenant.key(), &told).await?;
        let failures = failed.iter().map(|it| (&*it.user_id, &*it.cause)).unzip();
        Ok::<_, StepError>(members::note_failures(tx, tenant.key(), failures).await?)
    })
    .await?;
    Ok(failed)
}

/// What telling one page needs.
struct Teller<'a> {
    cx: &'a StepContext<'a>,
    tenant: &'a Tenant,
    organization_name: String,
    /// The application's group, quoted.
    app: String,
    scripts: &'a SyncScripts,
}

impl Teller<'_> {
    async fn tell_page<'m>(
        &'m self,
        connection: &mut PgConnection,
        page: &'m [Unsynced],
    ) -> Result<(Vec<Told<'m>>, Vec<Failed>), StepError> {
        let known = match &self.scripts.roles {
            Some(file) => Some(self.known_roles(connection, file).await?),
            None => None,
        };
        let (mut told, mut failed) = (Vec::new(), Vec::new());
        for member in page {
            let (role, note) = self.role(member, known.as_ref());
            match self.tell(connection, member, role).await? {
                Ok(()) => told.push(Told { member, role, note }),
                Err(cause) => failed.push(Failed {
                    user_id: member.user_id.clone(),
                    digest: member.digest.clone(),
                    cause,
                }),
            }
        }
        Ok((told, failed))
    }

    /// The role as the database gets it, and what there is to say of that.
    fn role<'m>(
        &'m self,
        member: &'m Unsynced,
        known: Option<&HashSet<String>>,
    ) -> (&'m str, Option<String>) {
        let default = self.cx.blueprint.settings.members.default_role.as_str();
        let Some(role) = &member.role else {
            return (default, None);
        };
        if member.status != Status::Active || known.is_none_or(|known| known.contains(role)) {
            return (role, None);
        }
        tracing::info!(
            tenant.id = %self.tenant.id,
            user.id = member.user_id,
            role,
            synced_as = default,
            "a member's role is unknown to the tenant's database"
        );
        let note = format!("role {role:?} is unknown here; synced as {default:?}");
        (default, Some(note))
    }

    /// One member, one transaction. The inner error is the member's own: the session is as good as before.
    async fn tell(
        &self,
        connection: &mut PgConnection,
        member: &Unsynced,
        role: &str,
    ) -> Result<Result<(), String>, StepError> {
        let file = match member.status {
            Status::Active => &self.scripts.member,
            Status::Removed | Status::Invited => &self.scripts.removed,
        };
        self.begin(connection, "begin").await?;
        let in_session = tenant_db::Error::sql("setting a member's values");
        set_member(connection, member, role)
            .await
            .map_err(in_session)?;
        let script = sqlx::raw_sql(AssertSqlSafe(file.sql.clone()));
        let ended = match script.execute(&mut *connection).await {
            Ok(_) => {
                // checked once more as late as can be: after a long stop the commit must not happen
                self.cx.check_lease()?;
                sqlx::query("commit").execute(&mut *connection).await
            }
            Err(error) => Err(error),
        };
        let Err(error) = ended else { return Ok(Ok(())) };
        // a server that is away cannot be told to roll back either: that is nobody's own failure
        sqlx::query("rollback")
            .execute(connection)
            .await
            .map_err(tenant_db::Error::sql("telling of a member"))?;
        let cause = chain(&StepError::file("member_sync_failed", file, error));
        Ok(Err(without_email(cause, member)))
    }

    /// The slugs that the database knows.
    async fn known_roles(
        &self,
        connection: &mut PgConnection,
        file: &SqlFile,
    ) -> Result<HashSet<String>, StepError> {
        let failed = |source| StepError::file("roles_query_failed", file, source);
        self.begin(connection, "begin read only").await?;
        let rows = sqlx::query(AssertSqlSafe(file.sql.clone()))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let slugs = rows.iter().map(|row| row.try_get::<Option<String>, _>(0));
        let slugs: HashSet<String> = slugs
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()
            .map_err(failed)?;
        sqlx::query("rollback")
            .execute(connection)
            .await
            .map_err(failed)?;
        Ok(slugs)
    }

    /// A transaction with the rights of the application and the tenant's values.
    async fn begin(
        &self,
        connection: &mut PgConnection,
        begin: &'static str,
    ) -> Result<(), StepError> {
        let doing = "beginning to tell of members";
        let statement = format!("{begin}; set local role {}", self.app);
        let begun = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut *connection)
            .await;
        match begun {
            // tenants were made here before there was anything to tell: we are no member of the group yet
            Err(error) if db::sqlstate(&error).as_deref() == Some("42501") => {
                let cluster = self.cx.cluster().await?;
                cluster
                    .run(async |connection| roles::ensure_shared(connection, cluster).await)
                    .await?;
                sqlx::raw_sql(AssertSqlSafe(format!("rollback; {statement}")))
                    .execute(&mut *connection)
                    .await
                    .map_err(tenant_db::Error::sql(doing))?;
            }
            begun => {
                begun.map_err(tenant_db::Error::sql(doing))?;
            }
        }
        seed::set_values(connection, self.tenant, &self.organization_name)
            .await
            .map_err(tenant_db::Error::sql(doing))?;
        Ok(())
    }
}

/// What a script may ask for, beside what a seed may. What is not known is the empty string.
async fn set_member(
    connection: &mut PgConnection,
    member: &Unsynced,
    role: &str,
) -> sqlx::Result<()> {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    sqlx::query(
        "select set_config('tenantry.user_id', $1, true),
                set_config('tenantry.membership_id', $2, true),
                set_config('tenantry.role', $3, true),
                set_config('tenantry.email', $4, true),
                set_config('tenantry.display_name', $5, true),
                set_config('tenantry.first_name', $6, true),
                set_config('tenantry.last_name', $7, true),
                set_config('tenantry.external_id', $8, true),
                set_config('tenantry.customer_id', $9, true)",
    )
    .bind(&member.user_id)
    .bind(text(&member.membership_id))
    .bind(role)
    .bind(text(&member.email))
    .bind(&member.display_name)
    .bind(text(&member.first_name))
    .bind(text(&member.last_name))
    .bind(text(&member.external_id))
    .bind(text(&member.customer_id))
    .execute(connection)
    .await?;
    Ok(())
}

/// The server may quote what it was given; errors are kept and shown to whoever operates.
fn without_email(mut cause: String, member: &Unsynced) -> String {
    if let Some(email) = member.email.as_deref().filter(|email| !email.is_empty()) {
        cause = cause.replace(email, "<e-mail>");
        cause = cause.replace(&email.to_lowercase(), "<e-mail>");
    }
    cause
}
