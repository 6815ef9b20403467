//! Where a request comes from, and which request a proxy asks about.
//!
//! Guarantees: `X-Forwarded-*` counts only from a proxy that is configured as trusted; a path that a
//! server and a proxy could read differently is not taken for a public one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, request::Parts},
};
use ipnet::IpNet;
use serde::Deserialize;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The request behind a proxy's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin<'r> {
    /// The host that the browser asked for, if a trusted proxy says so.
    pub(super) host: Forwarded<'r>,
    /// The path that the browser asked for, if a trusted proxy says so.
    pub(super) path: Forwarded<'r>,
}

/// What a trusted proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forwarded<'r> {
    /// Nothing, or it is not trusted.
    Nothing,
    /// This.
    Said(&'r str),
    /// More than one thing, or none that can be read: nobody knows which part the proxy wrote.
    Unclear,
}

/// The request that a trusted proxy asks about.
pub(super) fn of<'r>(request: &'r Parts, trusted: &[IpNet]) -> Origin<'r> {
    if !is_trusted(request, trusted) {
        let (host, path) = (Forwarded::Nothing, Forwarded::Nothing);
        return Origin { host, path };
    }
    let header = |name: &str| {
        let mut values = request.headers.get_all(name).iter();
        match (values.next().map(HeaderValue::to_str), values.next()) {
            (None, _) => Forwarded::Nothing,
            (Some(Ok(value)), None) => Forwarded::Said(value),
            _ => Forwarded::Unclear,
        }
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

pub(super) fn contains(trusted: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|net| net.contains(&address))
}

/// The address that a request comes from: the peer's, or the one that trusted proxies name.
pub(super) fn address(request: &Request, trusted: &[IpNet]) -> IpAddr {
    let peer = request.extensions().get::<Peer>();
    // a request without a peer is not from a connection: tests only
    let peer = peer.map_or(Ipv4Addr::UNSPECIFIED.into(), |Peer(address)| address.ip());
    if !contains(trusted, peer) {
        return peer;
    }
    forwarded_for(request.headers(), trusted).unwrap_or(peer)
}

/// The last address that is not a trusted proxy's own; what stands before it anybody can write.
fn forwarded_for(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let values: Option<Vec<_>> = headers
        .get_all("x-forwarded-for")
        .iter()
        .map(|value| value.to_str().ok())
        .collect();
    for hop in values?.iter().rev().flat_map(|value| value.rsplit(',')) {
        let address = parse_hop(hop.trim())?;
        if !contains(trusted, address) {
            return Some(address);
        }
    }
    None
}

/// An address, as some proxies write it also with its port.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse().map(|address: SocketAddr| address.ip());
    hop.parse().or_else(|_| with_port()).ok()
}

/// The address that limits count under: of IPv6 the network, since its holder has 2^64 addresses.
pub(super) fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
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
        let path = target.split('?').next().unwrap_or_default();
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
    let is_usual =
        |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\' | b';' | b'#');
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
    fn an_address_is_what_trusted_proxies_say() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
        let from = |peer: &str, forwarded: &[&str]| {
            let mut request = Request::new(axum::body::Body::empty());
            let peer = SocketAddr::new(peer.parse().unwrap(), 1);
            request.extensions_mut().insert(Peer(peer));
            for value in forwarded {
                let value = value.parse().unwrap();
                request.headers_mut().append("x-forwarded-for", value);
            }
            address(&request, &trusted).to_string()
        };
        assert_eq!(from("192.0.2.1", &["192.0.2.9"]), "192.0.2.1");
        assert_eq!(from("10.0.0.1", &["192.0.2.9"]), "192.0.2.9");
        assert_eq!(
            from("10.0.0.1", &["6.6.6.6, 192.0.2.9, 10.0.0.2"]),
            "192.0.2.9"
        );
        assert_eq!(
            from("10.0.0.1", &["6.6.6.6", "192.0.2.9:99", "10.0.0.2"]),
            "192.0.2.9"
        );
        assert_eq!(from("10.0.0.1", &["[2001:db8::1]:99"]), "2001:db8::1");
        assert_eq!(from("10.0.0.1", &["192.0.2.9, unknown"]), "10.0.0.1");
        assert_eq!(from("10.0.0.1", &["10.0.0.2"]), "10.0.0.1");
        assert_eq!(from("10.0.0.1", &[]), "10.0.0.1");
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
            "/assets/x#/../admin",
            "assets/x",
        ] {
            assert!(!everything.covers(path), "{path}");
        }
    }
}
