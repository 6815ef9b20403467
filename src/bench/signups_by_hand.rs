//! A registration made by hand: the rows of the product's one transaction and nothing else.
//!
//! The same rows in the same tables, with the same triggers: idempotency key with its answer, organization,
//! tenant, registration with its first event, job. Without: HTTP, the form's checks, looking whether it is
//! there already, locks, a password and a token that nobody guesses. The statements stand here once more, and not
//! by calls of the product's functions, so that whatever the product does in excess shows in the ratio.

use serde_json::{Value, json};
use sqlx::{PgConnection, types::Json};
use uuid::Uuid;

use super::{
    Error,
    signups::{SOURCE, SignUp},
};

/// As long as a sealed password.
const CREDENTIAL: [u8; 64] = [7; 64];

/// As long as a status token.
const TOKEN: &str = "rst_0000000000000000000000000000000000000000000";

/// Makes the rows of one registration; `answer` is what the product answers.
pub(super) async fn register(
    connection: &mut PgConnection,
    who: &SignUp,
    answer: &Value,
) -> Result<(), Error> {
    let doing = Error::sql("registering by hand");
    let made = async {
        sqlx::query("begin").execute(&mut *connection).await?;
        let (id, tenant) = (Uuid::now_v7(), Uuid::now_v7());
        insert_key(connection, who, &answered(answer, id)).await?;
        insert_tenant(connection, who, (id, tenant)).await?;
        insert_registration(connection, who, (id, tenant)).await?;
        insert_job(connection, (id, tenant)).await?;
        sqlx::query("commit").execute(&mut *connection).await?;
        Ok(())
    };
    made.await.map_err(doing)
}

fn answered(answer: &Value, id: Uuid) -> Value {
    let mut answer = answer.clone();
    answer["id"] = json!(id);
    answer
}

async fn insert_key(
    connection: &mut PgConnection,
    who: &SignUp,
    answer: &Value,
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into idempotency_keys (principal, key, fingerprint, status, body)
         values ('key:by-hand', $1, $2, 202, $3)",
    )
    .bind(&who.name)
    .bind([7_u8; 32].as_slice())
    .bind(answer)
    .execute(connection)
    .await?;
    Ok(())
}

/// The tenant, after its organization.
async fn insert_tenant(
    connection: &mut PgConnection,
    who: &SignUp,
    (id, tenant): (Uuid, Uuid),
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into organizations (source, org_id, content, updated_at, digest)
         values ($1, $2, $3, now(), '')",
    )
    .bind(SOURCE)
    .bind(organization(id))
    .bind(Json(json!({"name": who.name})))
    .execute(&mut *connection)
    .await?;
    let database = format!("t_{}", tenant.simple());
    sqlx::query(
        "insert into tenants
             (id, org_id, initialize, name, url, database, read_only_database, username, alembic_version,
              source, credential, requested_at, host_skeleton)
         values ($1, $2, false, $3, $4, $5, $5, $5, '', $6, $7, now(), $4)",
    )
    .bind(tenant)
    .bind(organization(id))
    .bind(&who.name)
    .bind(format!("{}.localhost", who.slug))
    .bind(database)
    .bind(SOURCE)
    .bind(CREDENTIAL.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_registration(
    connection: &mut PgConnection,
    who: &SignUp,
    (id, tenant): (Uuid, Uuid),
) -> sqlx::Result<()> {
    sqlx::query(
        "insert into registrations
             (id, source, external_id, name, email, given_name, family_name, email_key, organization_key,
              name_key, made_by, credential, at_provider, waits_for_user, tenant_id, is_tenant_ours, may_take, deadline_at)
         values ($1, $2, $1::text, $3, $4, 'Ada', 'Lovelace', $4, 'name:' || $3,
                 $3, 'key:by-hand', $5, false, false, $6, true, interval '60 s', now() + interval '60 s')",
    )
    .bind(id)
    .bind(SOURCE)
    .bind(&who.name)
    .bind(&who.email)
    .bind(TOKEN)
    .bind(tenant)
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_job(connection: &mut PgConnection, (id, tenant): (Uuid, Uuid)) -> sqlx::Result<()> {
    sqlx::query(
        "insert into jobs (kind, payload, concurrency_key, unique_key, max_attempts)
         values ('provision_tenant', $1, $2, $3, 20)",
    )
    .bind(Json(json!({"kind": "provision_tenant", "tenant": tenant})))
    .bind(format!("{SOURCE}:{}", organization(id)))
    .bind(format!("provision:{tenant}"))
    .execute(connection)
    .await?;
    Ok(())
}

fn organization(registration: Uuid) -> String {
    format!("reg_{}", registration.simple())
}

/// The row that a status is read from, and the tenant that it names.
pub(super) async fn find(connection: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    let found: Option<Looked> = sqlx::query_as(
        "select registrations.name, email, registrations.credential, registrations.state, step, steps_done,
                registrations.created_at, deadline_at, tenant_id, tenants.url
         from registrations
         left join tenants on tenants.id = registrations.tenant_id
         where registrations.id = $1",
    )
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(Error::sql("looking at a registration by hand"))?;
    found.map(|_| ()).ok_or(Error::Answer)
}

/// What a status tells.
#[derive(Debug, sqlx::FromRow)]
#[expect(
    dead_code,
    reason = "read as whoever looks reads it, and not looked at"
)]
struct Looked {
    name: String,
    email: String,
    credential: String,
    state: String,
    step: Option<String>,
    steps_done: i32,
    created_at: chrono::DateTime<chrono::Utc>,
    deadline_at: chrono::DateTime<chrono::Utc>,
    tenant_id: Option<Uuid>,
    url: Option<String>,
}
