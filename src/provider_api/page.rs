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

/// Reads every page of a list.
pub(super) async fn read_all(
    api: Api,
    connection: &Connection,
    mut call: Call,
) -> Result<Vec<Value>, Error> {
    let unreadable = |call: &Call, problem: &str| Error::Unreadable {
        doing: call.doing.clone(),
        problem: problem.to_owned(),
        request: String::new(),
    };
    let mut items = Vec::new();
    let mut last: Option<Next> = None;
    for _ in 0..MAX_PAGES {
        let body = connection.exchange(&call).await?.body;
        let page = match api {
            Api::Workos => workos::page(body),
            Api::Clerk => clerk::page(body, items.len()),
        };
        let page = page.map_err(|problem| unreadable(&call, problem))?;
        items.extend(page.items);
        let Some(next) = page.next else {
            return Ok(items);
        };
        if last.as_ref() == Some(&next) {
            return Err(unreadable(&call, "the page leads to itself"));
        }
        call.set(next.name, next.value.clone());
        last = Some(next);
    }
    Err(unreadable(&call, "the list does not end"))
}
