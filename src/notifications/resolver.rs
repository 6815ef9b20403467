//! Names → addresses that may be connected to.
//!
//! Guarantees: the addresses that are judged are the ones that are connected to, because the client asks
//! nobody else; of a name with public and other addresses only the public ones are used.
//!
//! Does not: see hosts that are addresses already; the client asks nobody about those, so the sender does.

use std::net::SocketAddr;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::addresses;

/// The host has no address that may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("{0} has no public address")]
pub(super) struct NotPublic(pub(super) String);

/// The system's resolver, and what is left of its answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolver {
    pub(super) allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let may = |address: &SocketAddr| allow_private || addresses::is_public(address.ip());
            let allowed: Vec<SocketAddr> = found.iter().copied().filter(may).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(NotPublic(name.as_str().to_owned()).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
