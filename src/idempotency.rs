//! Idempotency keys: a request that is sent again does nothing again, and is answered as the first time.
//!
//! Guarantees: the key, what the request changed and the saved answer are one transaction: there is no
//! moment at which the change is made and the answer unknown. Of requests with one key, on any number of
//! replicas, one is carried out; the others wait for it and get its answer. Only successes are saved:
//! an error rolls the key back with everything else, and the request may be sent again. A key is kept
//! for its time at least.
//!
//! Does not: know what a request means, nor keep an answer's headers, nor delete keys by itself: that is
//! [`retention`](crate::retention)'s.

use std::time::Duration;

use serde_json::Value;
use sqlx::{FromRow, PgConnection};

use crate::{db, secrets};

const MAX_LENGTH: usize = 255;

/// What is to be done about a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Carry it out, then [`finish`].
    Fresh,
    /// It was carried out: answer so.
    Replay {
        /// HTTP status of the answer.
        status: u16,
        /// The answer.
        body: Value,
    },
    /// It was carried out, and whoever asked first still waits for a better answer than this one: [`conclude`].
    Open {
        /// The answer as of the change.
        body: Value,
    },
}

/// Why a request with a key is not carried out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the idempotency key cannot be looked up")]
    Sql(#[from] sqlx::Error),
    /// The key was used for something else.
    #[error("this idempotency key was used for another request")]
    Reused,
    /// The first request with the key is still being carried out.
    #[error("another request with this idempotency key is being carried out")]
    InUse,
    /// The request has no key, and needs one.
    #[error("this request needs an idempotency key")]
    Missing,
    /// The text is no key.
    #[error(
        "an idempotency key is 1 to {MAX_LENGTH} visible ASCII characters, bare or in double quotes"
    )]
    Invalid,
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::Reused => "idempotency_key_reused",
            Self::InUse => "idempotency_key_in_use",
            Self::Missing => "idempotency_key_missing",
            Self::Invalid => "idempotency_key_invalid",
        }
    }
}

/// Reads the header: a string of RFC 8941 (in double quotes), or the bare characters.
pub fn parse_key(header: &[u8]) -> Result<String, Error> {
    let text = str::from_utf8(header).map_err(|_| Error::Invalid)?;
    let text = text.trim_matches(' ');
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted).ok_or(Error::Invalid)?,
        None => text.to_owned(),
    };
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.is_empty() || key.len() > MAX_LENGTH || !is_visible {
        return Err(Error::Invalid);
    }
    Ok(key)
}

/// What stands before the closing quote, which is the last character.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(key),
            '\\' => key.push(rest.next().filter(|c| matches!(c, '"' | '\\'))?),
            other => key.push(other),
        }
    }
}

/// The same request has the same one, however its JSON is written.
///
/// `target` is the path with its query.
pub fn fingerprint(method: &str, target: &str, body: &Value) -> [u8; 32] {
    // the keys of an object are sorted: its map is one
    secrets::sha256(format!("{method} {target}\n{body}").as_bytes())
}

#[derive(FromRow)]
struct Saved {
    fingerprint: Vec<u8>,
    status: Option<i32>,
    body: Option<Value>,
}

/// Takes the key for this transaction, or finds what was answered.
///
/// Waits up to 5 s for another transaction that has the key. It is to be the first thing that the
/// transaction does, so that whoever waits here holds nothing that the other one needs.
pub async fn begin(
    tx: &mut PgConnection,
    principal: &str,
    key: &str,
    fingerprint: &[u8; 32],
) -> Result<Begun, Error> {
    // one statement, because every request with a key pays for it
    let taken = sqlx::query(
        "with patience as (
             select current_setting('lock_timeout') as usual,
                    set_config('lock_timeout', '5s', true)
         )
         insert into idempotency_keys (principal, key, fingerprint)
         select $1, $2, $3
         from patience
         on conflict do nothing
         -- the wait for a key is no limit for what the request itself waits for
         returning set_config('lock_timeout', (select usual from patience), true)",
    )
    .bind(principal)
    .bind(key)
    .bind(fingerprint.as_slice())
    .execute(&mut *tx)
    .await
    .map_err(waited_in_vain)?;
    if taken.rows_affected() == 1 {
        return Ok(Begun::Fresh);
    }
    sqlx::query("set local lock_timeout to default")
        .execute(&mut *tx)
        .await?;
    find_begun(tx, principal, key, fingerprint).await
}

/// What another transaction made of the key.
async fn find_begun(
    tx: &mut PgConnection,
    principal: &str,
    key: &str,
    fingerprint: &[u8; 32],
) -> Result<Begun, Error> {
    let saved: Option<Saved> = sqlx::query_as(
        "select fingerprint, status, body
         from idempotency_keys
         where principal = $1
           and key = $2",
    )
    .bind(principal)
    .bind(key)
    .fetch_optional(tx)
    .await?;
    // gone again between the two statements: it was too old to be kept, see `prune`
    let saved = saved.ok_or(Error::InUse)?;
    if saved.fingerprint != fingerprint {
        return Err(Error::Reused);
    }
    let status = saved.status.and_then(|status| u16::try_from(status).ok());
    match (status, saved.body) {
        (Some(status), Some(body)) => Ok(Begun::Replay { status, body }),
        (None, Some(body)) => Ok(Begun::Open { body }),
        (_, None) => Err(Error::InUse),
    }
}

fn waited_in_vain(error: sqlx::Error) -> Error {
    // lock_not_available
    if db::sqlstate(&error).as_deref() == Some("55P03") {
        Error::InUse
    } else {
        Error::Sql(error)
    }
}

/// Saves the answer, in the transaction in which [`begin`] took the key.
pub async fn finish(
    tx: &mut PgConnection,
    principal: &str,
    key: &str,
    status: u16,
    body: &Value,
) -> sqlx::Result<()> {
    sqlx::query(
        "update idempotency_keys
         set status = $3,
             body = $4
         where principal = $1
           and key = $2",
    )
    .bind(principal)
    .bind(key)
    .bind(i32::from(status))
    .bind(body)
    .execute(tx)
    .await?;
    Ok(())
}

/// Saves the answer as of the change, in the transaction in which [`begin`] took the key, and leaves open
/// whether a better one follows: whoever asks first after that, [`conclude`]s.
pub async fn leave_open(
    tx: &mut PgConnection,
    principal: &str,
    key: &str,
    body: &Value,
) -> sqlx::Result<()> {
    sqlx::query(
        "update idempotency_keys
         set body = $3
         where principal = $1
           and key = $2",
    )
    .bind(principal)
    .bind(key)
    .bind(body)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives this answer for good, unless another request was faster: then it returns that one's.
pub async fn conclude(
    connection: &mut PgConnection,
    (principal, key): (&str, &str),
    (status, body): (u16, Value),
) -> sqlx::Result<(u16, Value)> {
    let concluded = sqlx::query(
        "update idempotency_keys
         set status = $3,
             body = $4
         where principal = $1
           and key = $2
           and status is null",
    )
    .bind(principal)
    .bind(key)
    .bind(i32::from(status))
    .bind(&body)
    .execute(&mut *connection)
    .await?;
    if concluded.rows_affected() == 1 {
        return Ok((status, body));
    }
    let found = find_answer(connection, principal, key).await?;
    Ok(found.unwrap_or((status, body)))
}

/// The answer for good; none where the key was too old to be kept.
async fn find_answer(
    connection: &mut PgConnection,
    principal: &str,
    key: &str,
) -> sqlx::Result<Option<(u16, Value)>> {
    let found: Option<(i32, Value)> = sqlx::query_as(
        "select status, body
         from idempotency_keys
         where principal = $1
           and key = $2
           and status is not null",
    )
    .bind(principal)
    .bind(key)
    .fetch_optional(connection)
    .await?;
    Ok(found.map(|(status, body)| (u16::try_from(status).unwrap_or_default(), body)))
}

/// How many keys are older than `age`.
pub async fn count_old(connection: &mut PgConnection, age: Duration) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "select count(*)
         from idempotency_keys
         where created_at < now() - make_interval(secs => $1)",
    )
    .bind(age.as_secs_f64())
    .fetch_one(connection)
    .await
}

/// Deletes at most `limit` of them, the oldest first; returns how many.
pub async fn prune(connection: &mut PgConnection, age: Duration, limit: i64) -> sqlx::Result<u64> {
    let deleted = sqlx::query(
        "with old as (
             select principal, key
             from idempotency_keys
             where created_at < now() - make_interval(secs => $1)
             order by created_at
             limit $2
             -- another replica deletes what it has locked
             for update skip locked
         )
         delete from idempotency_keys
         using old
         where idempotency_keys.principal = old.principal
           and idempotency_keys.key = old.key",
    )
    .bind(age.as_secs_f64())
    .bind(limit)
    .execute(connection)
    .await?;
    Ok(deleted.rows_affected())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_is_visible_ascii_bare_or_quoted() {
        let longest = "k".repeat(MAX_LENGTH);
        for (header, key) in [
            ("8e03978e-40d5", "8e03978e-40d5"),
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (" a ", "a"),
            (&longest, &longest),
        ] {
            assert_eq!(parse_key(header.as_bytes()).unwrap(), key);
        }
        let too_long = "k".repeat(MAX_LENGTH + 1);
        for header in [
            "", "\"\"", "\"a", "\"", "\"a\"b", r#""\a""#, "a b", "\"a b\"", "a\tb", "zoë",
            &too_long,
        ] {
            let refused = parse_key(header.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), "idempotency_key_invalid", "{header}");
        }
        assert!(parse_key(b"\xff").is_err());
    }

    #[test]
    fn a_fingerprint_is_of_the_meaning_not_of_the_letters() {
        let body = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let print = |text| fingerprint("POST", "/v1/a?b=c", &body(text));
        assert_eq!(
            print(r#"{"a":1,"b":[2]}"#),
            print(r#"{ "b": [2], "a": 1 }"#)
        );
        assert_ne!(print(r#"{"a":1}"#), print(r#"{"a":2}"#));
        assert_ne!(print("{}"), fingerprint("PUT", "/v1/a?b=c", &json!({})));
        assert_ne!(print("{}"), fingerprint("POST", "/v1/a", &json!({})));
    }
}
