//! How many connections there are: all together, and from one address.
//!
//! Guarantees: beyond the first limit connections wait to be accepted, beyond the second they are
//! refused; a connection that ended is counted no more; an address without connections costs nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::origin;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 4096;

type Counts = Mutex<HashMap<IpAddr, u32>>;

/// The connections of a process.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    slots: Arc<Semaphore>,
    /// From one address; 0 for any number.
    per_address: u32,
    /// Proxies, behind which many stand.
    exempt: Arc<[IpNet]>,
    counts: Arc<Counts>,
}

/// A connection's place, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _slot: OwnedSemaphorePermit,
    counted: Option<(Arc<Counts>, IpAddr)>,
}

impl Connections {
    pub(super) fn new(per_address: u32, exempt: Arc<[IpNet]>) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(CONNECTIONS)),
            per_address,
            exempt,
            counts: Arc::default(),
        }
    }

    /// Waits until there may be another connection; `None` never happens.
    pub(super) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.slots).acquire_owned().await.ok()
    }

    /// A place for a connection from this address; `None` if it has as many as it may.
    pub(super) fn place(&self, slot: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        if self.per_address == 0 || origin::contains(&self.exempt, address) {
            return Some(Place {
                _slot: slot,
                counted: None,
            });
        }
        let site = origin::site(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(site).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Place {
            _slot: slot,
            counted: Some((Arc::clone(&self.counts), site)),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((counts, site)) = &self.counted else {
            return;
        };
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(site) {
            *count -= 1;
            if *count == 0 {
                counts.remove(site);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_so_many_and_gets_them_back() {
        let proxies: Arc<[IpNet]> = ["10.0.0.0/8".parse().unwrap()].into();
        let connections = Connections::new(2, proxies);
        let from = async |address: &str| {
            let slot = connections.slot().await.unwrap();
            connections.place(slot, address.parse().unwrap())
        };
        let first = from("192.0.2.1").await;
        let second = from("::ffff:192.0.2.1").await;
        assert!(first.is_some() && second.is_some());
        assert!(from("192.0.2.1").await.is_none());
        assert!(from("192.0.2.2").await.is_some());
        drop(first);
        assert!(from("192.0.2.1").await.is_some());
        let many = [from("10.1.1.1").await, from("10.1.1.1").await];
        assert!(many.iter().all(Option::is_some) && from("10.1.1.1").await.is_some());
        drop(second);
        assert!(connections.counts.lock().unwrap().is_empty());
    }
}
