//! Step 3, `create_role`: the tenant's login role, with the password that its row has had from the start.

use super::{StepContext, StepError};
use crate::{
    secrets,
    tenant_db::{self, Ident, roles},
    tenants,
};

pub(super) async fn run(cx: &StepContext<'_>) -> Result<(), StepError> {
    let (cluster, tenant) = (cx.cluster().await?, cx.tenant().await);
    let ident = |text: &str| Ident::new(text).map_err(tenant_db::Error::from);
    let (name, database) = (ident(&tenant.username)?, ident(&tenant.database)?);
    let sealed = cx
        .provisioner
        .db
        .run(async |connection| tenants::find_credential(connection, tenant.id).await)
        .await?;
    let password = cx
        .provisioner
        .keyring
        .open(tenant.id.0, &sealed.unwrap_or_default())?;
    let role = roles::TenantRole {
        tenant: tenant.id.0,
        name: &name,
        database: &database,
        verifier: &secrets::scram_verifier(&password)?,
        connection_limit: cx.provisioner.names.connection_limit,
    };
    cluster
        .run_as(
            &cx.tag,
            || cx.lease.is_held(),
            async |connection| roles::ensure_tenant_role(connection, cluster, &role).await,
        )
        .await?;
    Ok(())
}
