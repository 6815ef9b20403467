//! Where a request comes from, and which request a proxy asks about.
//!
//! Guarantees: `X-Forwarded-*` counts only from a proxy that is configured as trusted; a path that a
//! server and a proxy could read differently is not taken for a public one.

use std::net::{IpAddr, SocketAddr};

use axum::http::request::Parts;
use ipnet::IpNet;
use serde::Deserialize;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The request behind a proxy's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin<'r> {
    /// The host that the browser asked for, if a trusted proxy says so.
    pub(super) host: Option<&'r str>,
    /// The path that the browser asked for, if a trusted proxy says so.
    pub(super) path: Option<&'r str>,
}

/// The request that a trusted proxy asks about.
pub(super) fn of<'r>(request: &'r Parts, trusted: &[IpNet]) -> Origin<'r> {
    if !is_trusted(request, trusted) {
        let (host, path) = (None, None);
        return Origin { host, path };
    }
    let header = |name: &str| {
        let mut values = request.headers.get_all(name).iter();
        let value = values.next()?.to_str().ok();
        // two of them: nobody knows which one the proxy wrote
        value.filter(|_| values.next().is_none())
    };
    Origin {
        host: header("x-forwarded-host"),
        path: header("x-forwarded-uri"),
    }
}

fn is_trusted(request: &Parts, trusted: &[IpNet]) -> bool {
    let peer = request.extensions.get::<Peer>();
    peer.is_some_and(|Peer(address)| contains(trusted, address.ip()))
}

fn contains(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// A path that needs no token: exact, or everything below it where it ends in `*`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct PublicPath(String);

impl PublicPath {
    /// From the configuration.
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Whether a request for this path and query needs no token.
    pub(super) fn covers(&self, target: &str) -> bool {
        let path = target.split(['?', '#']).next().unwrap_or_default();
        if !is_plain(path) {
            return false;
        }
        match self.0.strip_suffix('*') {
            Some(beginning) => path.starts_with(beginning),
            None => path == self.0,
        }
    }
}

/// Whether every server reads the path alike: no dots to go up, nothing encoded, no empty segment.
fn is_plain(path: &str) -> bool {
    let is_usual = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b';');
    path.starts_with('/')
        && path.bytes().all(is_usual)
        && !path.contains("//")
        && path
            .split('/')
            .all(|segment| segment != "." && segment != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_path_covers_itself_or_what_is_below() {
        assert!(PublicPath::new("/health").covers("/health"));
        assert!(PublicPath::new("/health").covers("/health?verbose"));
        assert!(!PublicPath::new("/health").covers("/health/x"));
        assert!(PublicPath::new("/assets/*").covers("/assets/app.css"));
        assert!(!PublicPath::new("/assets/*").covers("/assetsx"));
    }

    #[test]
    fn a_path_that_could_be_read_in_two_ways_is_not_public() {
        let everything = PublicPath::new("/assets/*");
        for path in [
            "/assets/../admin",
            "/assets/./x",
            "/assets//x",
            "/assets/%2e%2e/admin",
            "/assets/..%2fadmin",
            "/assets/..\\admin",
            "/assets/..;/admin",
            "/assets/ x",
            "assets/x",
        ] {
            assert!(!everything.covers(path), "{path}");
        }
    }
}
