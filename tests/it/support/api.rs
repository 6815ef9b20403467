//! The API as a client calls it.

use std::net::SocketAddr;

use secrecy::ExposeSecret;
use serde_json::Value;
use tenantry::api_keys::{self, NewKey, Scope};

use super::{
    App,
    app::{Answer, bytes, exchange, operator},
};

/// A client of the API, with what it says in every request.
#[derive(Debug, Clone)]
pub struct Api {
    address: SocketAddr,
    headers: Vec<(&'static str, String)>,
}

impl App {
    /// A client that shows no credentials.
    pub fn api(&self) -> Api {
        Api {
            address: self.address,
            headers: Vec::new(),
        }
    }

    /// The text of a new API key with these scopes.
    pub async fn key(&self, scopes: &[Scope]) -> String {
        self.makes(scopes, &[]).await
    }

    /// The text of a new form key for pages of these origins.
    pub async fn form_key(&self, origins: &[&str]) -> String {
        self.makes(&[Scope::RegistrationsSubmit], origins).await
    }

    async fn makes(&self, scopes: &[Scope], origins: &[&str]) -> String {
        let new = NewKey {
            name: "test".to_owned(),
            scopes: scopes.iter().copied().collect(),
            origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
            expires_at: None,
        };
        let made = self
            .replica
            .db
            .transaction(async |tx| api_keys::create(tx, &new, &operator()).await)
            .await;
        made.unwrap().1.expose_secret().to_owned()
    }

    /// A client with an API key or a token.
    pub fn as_bearer(&self, credentials: &str) -> Api {
        self.api()
            .header("authorization", &format!("Bearer {credentials}"))
    }
}

impl Api {
    /// The same client with one more header.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, None).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call("POST", path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, Some(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, Some(body)).await
    }

    /// Any request; a body is JSON.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let mut headers = self.headers.clone();
        let mut sent = Vec::new();
        if let Some(body) = body {
            headers.push(("content-type", "application/json".to_owned()));
            sent = serde_json::to_vec(body).unwrap();
        }
        exchange(self.address, method, path, &headers, bytes(sent))
            .await
            .unwrap()
    }
}
