//! Lists a page at a time: where a page begins is the sort key of the last row before it.
//!
//! Guarantees: whoever follows the cursors sees every row that was there when they began, once,
//! whatever is added meanwhile; a cursor of another list, or none at all, is refused and never guessed at.
//!
//! Does not: count. A total would be a scan, and out of date when it arrives.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Serialize, de::DeserializeOwned};

/// Rows of a page where the request does not say.
pub const DEFAULT_LIMIT: u32 = 50;

/// Rows of the largest page that a request may ask for.
pub const MAX_LIMIT: u32 = 200;

/// Why a page cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database does not answer, or refuses.
    #[error("the list cannot be read")]
    Sql(#[from] sqlx::Error),
    /// The text is no cursor of this list.
    #[error("the cursor is none that this list gave")]
    CursorInvalid,
    /// The page would be empty or too large.
    #[error("the limit {0} is not between 1 and {MAX_LIMIT}")]
    LimitInvalid(u32),
}

impl Error {
    /// Stable code, explained in docs/errors.md.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Sql(_) => "control_database_unavailable",
            Self::CursorInvalid => "cursor_invalid",
            Self::LimitInvalid(_) => "limit_invalid",
        }
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub data: Vec<T>,
    /// Where the next page begins; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// The same page with its rows as they are shown.
    pub fn map<R>(self, show: impl FnMut(T) -> R) -> Page<R> {
        Page {
            data: self.data.into_iter().map(show).collect(),
            next_cursor: self.next_cursor,
        }
    }
}

/// Which page of a list is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    cursor: Option<String>,
    limit: u32,
}

impl Asked {
    /// The page that a request asks for: a cursor that an earlier page gave, and 1 to 200 rows.
    pub fn read(cursor: Option<String>, limit: Option<u32>) -> Result<Self, Error> {
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(Error::LimitInvalid(limit));
        }
        Ok(Self { cursor, limit })
    }

    /// The first page, of any length.
    pub const fn first(limit: u32) -> Self {
        Self {
            cursor: None,
            limit,
        }
    }

    /// The sort key after which the page of this list begins; `None` for the first page.
    pub(crate) fn after<K: DeserializeOwned>(&self, list: &str) -> Result<Option<K>, Error> {
        let Some(cursor) = &self.cursor else {
            return Ok(None);
        };
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok();
        let read = bytes.and_then(|bytes| serde_json::from_slice::<(String, K)>(&bytes).ok());
        match read {
            Some((of, key)) if of == list => Ok(Some(key)),
            _ => Err(Error::CursorInvalid),
        }
    }

    /// How many rows to fetch: one more than the page has, which tells whether there is another page.
    pub(crate) fn fetch_limit(&self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// The page of the fetched rows; `key` is the sort key of a row.
    pub(crate) fn page<T, K: Serialize>(
        &self,
        list: &str,
        mut rows: Vec<T>,
        key: impl Fn(&T) -> K,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let is_last = rows.len() <= limit;
        rows.truncate(limit);
        let more_after = rows.last().filter(|_| !is_last);
        Page {
            next_cursor: more_after.map(|row| write(list, &key(row))),
            data: rows,
        }
    }
}

fn write(list: &str, key: &impl Serialize) -> String {
    let text = serde_json::json!([list, key]).to_string();
    URL_SAFE_NO_PAD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cursor: Option<&str>, limit: u32) -> Asked {
        Asked::read(cursor.map(str::to_owned), Some(limit)).unwrap()
    }

    #[test]
    fn the_next_page_begins_after_the_last_row_of_this_one() {
        let page = asked(None, 2).page("numbers", vec![9, 7, 5], |row| *row);
        assert_eq!(page.data, [9, 7]);
        let next = asked(page.next_cursor.as_deref(), 2);
        assert_eq!(next.after::<i64>("numbers").unwrap(), Some(7));
        assert_eq!(next.page("numbers", vec![5], |row| *row).next_cursor, None);
    }

    #[test]
    fn a_full_last_page_leads_nowhere() {
        let page = asked(None, 2).page("numbers", vec![9, 7], |row| *row);
        assert_eq!((page.data.len(), page.next_cursor), (2, None));
    }

    #[test]
    fn no_other_text_is_a_cursor() {
        let page = asked(None, 1).page("numbers", vec![9, 7], |row| *row);
        let of_another_list = page.next_cursor.unwrap();
        let of_another_key = write("letters", &"a");
        for text in ["", "9", "!", "bm9uZQ", &of_another_list, &of_another_key] {
            let read = asked(Some(text), 1).after::<i64>("letters");
            assert_eq!(read.unwrap_err().code(), "cursor_invalid", "{text}");
        }
    }

    #[test]
    fn a_page_has_1_to_200_rows() {
        assert!(Asked::read(None, Some(200)).is_ok());
        for limit in [0, 201] {
            let refused = Asked::read(None, Some(limit)).unwrap_err();
            assert_eq!(refused.code(), "limit_invalid");
        }
    }
}
