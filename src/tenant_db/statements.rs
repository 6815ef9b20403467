//! Statements that an operator gives for a tenant's database, and their rows as text.
//!
//! Guarantees: without leave to write nothing is written, and the rights are those of the application
//! group; with it, all statements are one transaction with the owner's rights; the number of rows kept is bounded.
//!
//! Does not: keep an operator who may write from writing. What is read only here guards against mistakes.

use std::time::Duration;

use futures_util::StreamExt;
use sqlx::{AssertSqlSafe, Column, Either, PgConnection, Row, TypeInfo, ValueRef, postgres::PgRow};

use super::{Cluster, Error};

/// What statements may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only look, with the rights of the application group.
    Read,
    /// Change what they like, with the owner's rights.
    Write,
}

/// What statements gave.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Names of the columns of the last statement; none where it gave no rows.
    pub columns: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<Value>>,
    /// Whether there were more rows than were to be kept.
    pub is_cut: bool,
    /// Rows that the last statement changed or gave.
    pub affected: u64,
}

/// A value as the server writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// None.
    Null,
    /// What JSON has a word for: a number, true, false, or JSON itself.
    Json(String),
    /// Text.
    Text(String),
}

/// Bounds every statement of the session, and half as long every wait for a lock.
pub async fn bound(connection: &mut PgConnection, limit: Duration) -> Result<(), Error> {
    sqlx::query(
        "select set_config('statement_timeout', $1, false), set_config('lock_timeout', $2, false)",
    )
    .bind(limit.as_millis().to_string())
    .bind((limit.as_millis() / 2).max(1).to_string())
    .execute(connection)
    .await
    .map_err(Error::sql("bounding the session's statements"))?;
    Ok(())
}

/// Runs the statements in one transaction.
pub async fn run(
    connection: &mut PgConnection,
    cluster: &Cluster,
    sql: &str,
    access: Access,
    most_rows: usize,
) -> Result<Given, Error> {
    let (role, end) = match access {
        Access::Read => (&cluster.app, "rollback"),
        Access::Write => (&cluster.owner, "commit"),
    };
    // of the session, and committed: statements that end the transaction and go on may do no more
    execute(connection, format!("set role {role}")).await?;
    if access == Access::Read {
        let read_only = "set session characteristics as transaction read only";
        execute(connection, read_only.to_owned()).await?;
    }
    execute(connection, "begin".to_owned()).await?;
    let given = fetch(connection, sql, most_rows)
        .await
        .map_err(Error::sql("running the statements"))?;
    execute(connection, end.to_owned()).await?;
    Ok(given)
}

async fn execute(connection: &mut PgConnection, sql: String) -> Result<(), Error> {
    let doing = Error::sql(sql.clone());
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(doing)?;
    Ok(())
}

async fn fetch(connection: &mut PgConnection, sql: &str, most_rows: usize) -> sqlx::Result<Given> {
    // the simple protocol: several statements, and every value as text
    let mut results = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_many(connection);
    // of several statements the last one counts, also where it gives no rows
    let (mut last, mut current) = (Given::default(), Given::default());
    while let Some(result) = results.next().await {
        match result? {
            Either::Left(done) => {
                last = std::mem::take(&mut current);
                last.affected = done.rows_affected();
            }
            Either::Right(row) => {
                if current.columns.is_empty() {
                    let columns = row.columns().iter();
                    current.columns = columns.map(|it| it.name().to_owned()).collect();
                }
                if current.rows.len() < most_rows {
                    current.rows.push(read(&row)?);
                } else {
                    current.is_cut = true;
                }
            }
        }
    }
    Ok(last)
}

fn read(row: &PgRow) -> sqlx::Result<Vec<Value>> {
    let read = |column: usize| {
        let raw = row.try_get_raw(column)?;
        if raw.is_null() {
            return Ok(Value::Null);
        }
        let kind = raw.type_info().name().to_uppercase();
        let text = raw.as_str().map_err(sqlx::Error::Decode)?.to_owned();
        Ok(match kind.as_str() {
            "INT2" | "INT4" | "INT8" | "JSON" | "JSONB" => Value::Json(text),
            "BOOL" => Value::Json(if text == "t" { "true" } else { "false" }.to_owned()),
            _ => Value::Text(text),
        })
    };
    (0..row.len()).map(read).collect()
}
