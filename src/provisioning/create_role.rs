//! Step 3, `create_role`: the tenant's login role, with the password that its row has had from the start.
//! Undone when nobody can log in any more and the role is gone; where it has rights inside the database, it goes
//! right after that.

use super::{StepContext, StepError, UndoContext, is_marked};
use crate::{
    secrets,
    tenant_db::{
        self, Cluster, Ident, databases,
        roles::{self, RoleEnd},
    },
};

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (cluster, tenant) = (cx.cluster().await?, cx.tenant().await);
    let ident = |text: &str| Ident::new(text).map_err(tenant_db::Error::from);
    let (name, database) = (ident(&tenant.username)?, ident(&tenant.database)?);
    let role = roles::TenantRole {
        tenant: tenant.id.0,
        name: &name,
        database: &database,
        verifier: &secrets::scram_verifier(cx.password().await?)?,
        connection_limit: cx.provisioner.names.connection_limit,
    };
    let ensure = cluster.run_as(
        &cx.tag,
        || cx.lease.is_held(),
        async |connection| roles::ensure_tenant_role(connection, cluster, &role).await,
    );
    // the steps after this one need a session in the database, and the server takes its time to open one
    let (ensured, ()) = tokio::join!(ensure, cx.open_early());
    Ok(ensured?)
}

/// Drops the role, if it is this tenant's.
pub(super) async fn undo(cx: &UndoContext<'_>) -> Result<(), StepError> {
    let Some(cluster) = cx.cluster()? else {
        return Ok(());
    };
    match drop_role(cx, cluster).await {
        // somebody gave it rights inside the database: they go with that, which is next, and then the role
        Err(StepError::Cluster(error)) if error.sqlstate().as_deref() == Some("2BP01") => Ok(()),
        result => result,
    }
}

/// Drops the role, if it is this tenant's and nothing hangs on it.
pub(super) async fn drop_role(cx: &UndoContext<'_>, cluster: &Cluster) -> Result<(), StepError> {
    let (database, role) = cx.names()?;
    let drop = async |connection: &mut sqlx::PgConnection| {
        let facts = databases::find(connection, database.as_str()).await?;
        let is_ours = facts.is_some_and(|facts| is_marked(&facts, cluster, &cx.tenant));
        let own = is_ours.then_some(&database);
        roles::drop_tenant_role(connection, cx.tenant.id.0, &role, own).await
    };
    if let RoleEnd::Foreign(found) = cx.run_on(cluster, drop).await? {
        cx.left_alone("role", &role, &found);
    }
    Ok(())
}
