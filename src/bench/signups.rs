//! Who signs up: people that nobody knows, each for an organization of their own.

use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    Error,
    sender::{Request, Sender},
    server::Server,
    visitors,
};
use crate::api_keys::Scope;

const PATH: &str = "/v1/registrations";

/// Where tenants get their organizations from: a provider that cannot be called.
pub(super) const SOURCE: &str = "workos";

/// Somebody who signs up.
#[derive(Debug, Clone)]
pub(super) struct SignUp {
    /// Name of the organization; also the idempotency key.
    pub name: String,
    /// First label of its host.
    pub slug: String,
    /// Their address.
    pub email: String,
}

impl SignUp {
    /// `run` and `number` make it unlike any other.
    pub(super) fn new(run: &str, number: u64) -> Self {
        Self {
            name: format!("Sign-up {run} {number}"),
            slug: format!("sign-up-{run}-{number}"),
            email: format!("ada.{number}@{run}.example.com"),
        }
    }

    /// What its organizations' names begin with.
    pub(super) fn names_of(run: &str) -> String {
        format!("Sign-up {run} ")
    }

    /// What the form sends, with the API key of the application behind it.
    pub(super) fn request(&self, key: &str) -> Request {
        let Self { name, email, .. } = self;
        let form = json!({
            "organization": {"name": name},
            "user": {"email": email, "given_name": "Ada", "family_name": "Lovelace"},
            "source": SOURCE,
        });
        let idempotency_key = name.replace(' ', "-");
        Request::post(PATH, (key, &idempotency_key), &form.to_string())
    }
}

/// A registration that was accepted.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Accepted {
    /// Its id.
    pub id: Uuid,
    /// Whoever has it may read the status.
    pub status_token: String,
}

impl Accepted {
    /// Path of its status.
    pub(super) fn path(&self) -> String {
        format!("{PATH}/{}", self.id)
    }
}

/// A key with which an application signs people up.
pub(super) async fn make_key(server: &Server) -> Result<String, Error> {
    visitors::make_key(server, Scope::RegistrationsWrite).await
}

/// Signs somebody up.
pub(super) async fn sign_up(
    sender: &mut Sender,
    key: &str,
    who: &SignUp,
) -> Result<Accepted, Error> {
    let answer = answer(sender, key, who).await?;
    Accepted::deserialize(answer).map_err(|_| Error::Answer)
}

/// The same, with the whole answer.
pub(super) async fn answer(sender: &mut Sender, key: &str, who: &SignUp) -> Result<Value, Error> {
    let answer = sender.ask_for(&who.request(key)).await?;
    serde_json::from_slice(answer).map_err(|_| Error::Answer)
}
