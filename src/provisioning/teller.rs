//! Telling a tenant's database of members: the session's side of the step `sync_members`.
//!
//! Guarantees: each member is a transaction of its own, with the rights of the application and the
//! member's values as settings; nothing is committed by an attempt that lost its claim; the error of a
//! script is the member's own as long as the session answers, and names no e-mail address.
//!
//! Does not: record who was told. `sync_members` does.

use std::{collections::HashSet, time::Instant};

use futures_util::TryStreamExt;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{StepContext, StepError, seed, sync_members::Failed};
use crate::{
    blueprint::{SqlFile, SyncScripts},
    causes::chain,
    db,
    members::{Status, Told, Unsynced},
    tenant_db::{self, roles},
    tenants::Tenant,
};

/// What telling one page needs.
pub(super) struct Teller<'a> {
    pub(super) cx: &'a StepContext<'a>,
    pub(super) tenant: &'a Tenant,
    pub(super) organization_name: String,
    /// The application's group, quoted.
    pub(super) app: String,
    pub(super) scripts: &'a SyncScripts,
}

impl Teller<'_> {
    /// Tells of one after the other until the time is over; returns who was told of, and who could not be.
    pub(super) async fn tell_page<'m>(
        &'m self,
        connection: &mut PgConnection,
        page: &'m [Unsynced],
        until: Instant,
    ) -> Result<(Vec<Told<'m>>, Vec<Failed>), StepError> {
        let known = match &self.scripts.roles {
            Some(file) => Some(self.known_roles(connection, file, page).await?),
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
            if Instant::now() >= until {
                break;
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

    /// The slugs of these members that the database knows. Only those are kept: the tenant's own role may write
    /// any number of others.
    async fn known_roles(
        &self,
        connection: &mut PgConnection,
        file: &SqlFile,
        page: &[Unsynced],
    ) -> Result<HashSet<String>, StepError> {
        let failed = |source| StepError::file("roles_query_failed", file, source);
        self.begin(connection, "begin read only").await?;
        let asked: HashSet<&str> = page.iter().filter_map(|it| it.role.as_deref()).collect();
        let mut known = HashSet::new();
        let mut rows = sqlx::query(AssertSqlSafe(file.sql.clone())).fetch(&mut *connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let slug: Option<String> = row.try_get(0).map_err(failed)?;
            known.extend(slug.filter(|slug| asked.contains(slug.as_str())));
        }
        drop(rows);
        sqlx::query("rollback")
            .execute(connection)
            .await
            .map_err(failed)?;
        Ok(known)
    }

    /// A transaction with the rights of the application and the tenant's values.
    async fn begin(
        &self,
        connection: &mut PgConnection,
        begin: &'static str,
    ) -> Result<(), StepError> {
        let doing = "beginning to tell of members";
        let statement = format!("{begin}; set local role {}", self.app);
        let entered = sqlx::raw_sql(AssertSqlSafe(statement.clone()))
            .execute(&mut *connection)
            .await;
        match entered {
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
            entered => {
                entered.map_err(tenant_db::Error::sql(doing))?;
            }
        }
        seed::set_values(connection, self.tenant, &self.organization_name)
            .await
            .map_err(tenant_db::Error::sql(doing))?;
        Ok(())
    }
}

/// What a script may ask for, besides what a seed may. Unknown values are the empty string.
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
