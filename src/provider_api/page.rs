//! Lists that come in pages.
//!
//! Guarantees that reading one ends: a page that leads back to itself is refused, and so is a list without end.

use serde_json::Value;

use super::{
    Api, clerk,
    error::Error,
    exchange::{Call, Connection},
    workos,
};

/// More than 50 000 entries of one organization are not believed.
const MAX_PAGES: usize = 1000;

/// One page of a list.
#[derive(Debug)]
pub(super) struct Page {
    /// The objects on it.
    pub(super) items: Vec<Value>,
    /// Where the next page is; `None` on the last one.
    pub(super) next: Option<Next>,
}

/// What to ask for the next page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// The pair's name in the query.
    pub(super) name: &'static str,
    /// Its value.
    pub(super) value: String,
}

/// A list that is read page by page.
pub(super) struct Pages<'a> {
    api: Api,
    connection: &'a Connection,
    call: Call,
    last: Option<Next>,
    is_over: bool,
    read: usize,
    items: usize,
}

impl<'a> Pages<'a> {
    /// A list of which nothing is read yet.
    pub(super) const fn new(api: Api, connection: &'a Connection, call: Call) -> Self {
        Self {
            api,
            connection,
            call,
            last: None,
            is_over: false,
            read: 0,
            items: 0,
        }
    }

    /// The next page; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Value>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        if self.read == MAX_PAGES {
            return Err(self.unreadable("the list does not end"));
        }
        let body = self.connection.exchange(&self.call).await?.body;
        let page = match self.api {
            Api::Workos => workos::page(body),
            Api::Clerk => clerk::page(body, self.items),
        };
        let page = page.map_err(|problem| self.unreadable(problem))?;
        self.read += 1;
        self.items += page.items.len();
        match page.next {
            None => self.is_over = true,
            Some(next) if self.last.as_ref() == Some(&next) => {
                return Err(self.unreadable("the page leads to itself"));
            }
            Some(next) => {
                self.call.set(next.name, next.value.clone());
                self.last = Some(next);
            }
        }
        Ok(Some(page.items))
    }

    fn unreadable(&self, problem: &str) -> Error {
        Error::Unreadable {
            doing: self.call.doing.clone(),
            problem: problem.to_owned(),
            request: String::new(),
        }
    }
}

/// Reads every page of a list.
pub(super) async fn read_all(
    api: Api,
    connection: &Connection,
    call: Call,
) -> Result<Vec<Value>, Error> {
    let mut pages = Pages::new(api, connection, call);
    let mut items = Vec::new();
    while let Some(page) = pages.next().await? {
        items.extend(page);
    }
    Ok(items)
}
