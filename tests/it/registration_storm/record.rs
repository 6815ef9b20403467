//! What the clients of a storm asked and were told, in the order in which they saw it.

use std::sync::Mutex;

use serde_json::Value;
use tenantry::registrations::State;

use crate::support::app::Answer;

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// `POST /v1/registrations` with an idempotency key.
    Register { key: String, body: String },
    /// `GET /v1/registrations/{id}`.
    Look { registration: String },
}

/// How far a registration is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    pub registration: String,
    pub state: State,
    /// Steps that are done.
    pub done: i64,
    /// Its tenant, when it is ready.
    pub tenant: Option<String>,
}

/// What a client sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It asks: from here on it may happen.
    Invoke(Request),
    /// It is registered.
    Registered {
        status: u16,
        /// The answer to the byte.
        text: String,
        is_replay: bool,
        view: View,
    },
    /// So far it is.
    Looked(View),
    /// It did not happen.
    Fail { status: u16, code: String },
    /// It may have happened: the server is in trouble.
    Trouble { status: u16, has_retry_after: bool },
    /// It may have happened: the connection ended.
    Broken,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The client, which does one thing at a time.
    pub client: u64,
    /// The replica that it asks; one that comes after another one's death is another one.
    pub replica: u64,
    pub seen: Seen,
}

/// Where all clients write down what they see.
#[derive(Default)]
pub struct Record(Mutex<Vec<Entry>>);

impl Record {
    pub fn write(&self, client: u64, replica: u64, seen: Seen) {
        self.0.lock().unwrap().push(Entry {
            client,
            replica,
            seen,
        });
    }

    pub fn history(self) -> Vec<Entry> {
        self.0.into_inner().unwrap()
    }
}

impl Seen {
    /// What an answer to this request says.
    pub fn of(request: &Request, answer: Answer) -> Self {
        match (answer.status, request) {
            (200..=202, Request::Register { .. }) => Self::Registered {
                status: answer.status,
                is_replay: answer.header("idempotency-replayed").is_some(),
                view: View::of(&answer.body),
                text: answer.text,
            },
            (200..=202, Request::Look { .. }) => Self::Looked(View::of(&answer.body)),
            (status @ 500.., _) => Self::Trouble {
                status,
                has_retry_after: answer.retry_after.is_some(),
            },
            (status, _) => Self::Fail {
                status,
                code: answer.refusal().1.to_owned(),
            },
        }
    }
}

impl View {
    fn of(body: &Value) -> Self {
        Self {
            registration: body["id"].as_str().unwrap().to_owned(),
            state: serde_json::from_value(body["state"].clone()).unwrap(),
            done: body["progress"]["done"].as_i64().unwrap(),
            tenant: body["tenant"]["id"].as_str().map(str::to_owned),
        }
    }
}
