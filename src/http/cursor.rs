//! Where the next page of a list begins, as a text that only its list understands.
//!
//! Guarantees: a cursor of another list, or none at all, is refused and never guessed at.

use axum::http::StatusCode;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

use super::Problem;

/// Rows of a page where the request does not say, and of the largest one.
const LIMITS: (u32, u32) = (50, 200);

/// A page of a list.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Page<T: utoipa::ToSchema> {
    /// The rows.
    data: Vec<T>,
    /// Where the next page begins; null on the last one.
    next_cursor: Option<String>,
}

/// Which page of which list is asked for.
#[derive(Debug)]
pub(super) struct Asked<K> {
    list: &'static str,
    /// The sort key after which the page begins; `None` for the first one.
    pub(super) after: Option<K>,
    limit: u32,
}

impl<K: Serialize + DeserializeOwned> Asked<K> {
    /// The page that a request asks for.
    pub(super) fn read(
        list: &'static str,
        cursor: Option<&str>,
        limit: Option<u32>,
    ) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(LIMITS.0);
        if !(1..=LIMITS.1).contains(&limit) {
            return Err(Problem::new(
                StatusCode::BAD_REQUEST,
                "limit_invalid",
                format!("the limit {limit} is not between 1 and {}", LIMITS.1),
                "ask for fewer rows, and follow next_cursor",
            ));
        }
        let after = cursor.map(|cursor| parse(list, cursor)).transpose()?;
        Ok(Self { list, after, limit })
    }

    /// How many rows to fetch: one more than the page has, which tells whether there is another page.
    pub(super) fn fetch_limit(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// The page of the fetched rows; `key` is the sort key of a row.
    pub(super) fn page<T: utoipa::ToSchema>(
        &self,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let last = rows.last().filter(|_| !is_last);
        let write =
            |row| URL_SAFE_NO_PAD.encode(serde_json::json!([self.list, key(row)]).to_string());
        Page {
            next_cursor: last.map(write),
            data: rows,
        }
    }
}

fn parse<K: DeserializeOwned>(list: &str, cursor: &str) -> Result<K, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
    match bytes.and_then(|bytes| serde_json::from_slice::<(String, K)>(&bytes).ok()) {
        Some((of, key)) if of == list => Ok(key),
        _ => Err(Problem::new(
            StatusCode::BAD_REQUEST,
            "cursor_invalid",
            "the cursor is none that this list gave",
            "begin again without a cursor",
        )),
    }
}
