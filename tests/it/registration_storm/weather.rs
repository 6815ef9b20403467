//! Two replicas that die again and again.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::MissedTickBehavior;

use crate::support::{Deployment, process::Process};

/// So often one of the replicas is killed.
const CALM: Duration = Duration::from_secs(2);

/// Where one replica lives after the other.
struct Place {
    address: SocketAddr,
    /// Which one it is, of all that there were.
    replica: u64,
}

/// Both places, and how often somebody died there.
pub struct Weather {
    places: [Mutex<Place>; 2],
    kills: AtomicU64,
}

impl Weather {
    pub fn over(processes: &[Process; 2]) -> Self {
        let place = |at: usize, replica| {
            Mutex::new(Place {
                address: processes[at].address,
                replica,
            })
        };
        Self {
            places: [place(0, 0), place(1, 1)],
            kills: AtomicU64::new(0),
        }
    }

    /// Where to ask at this place, and who will answer.
    pub fn at(&self, place: usize) -> (SocketAddr, u64) {
        let place = self.places[place].lock().unwrap();
        (place.address, place.replica)
    }

    pub fn kills(&self) -> u64 {
        self.kills.load(Ordering::Relaxed)
    }

    /// Kills one of them again and again, now and then both, each time starting another one, until it is over.
    ///
    /// The next one dies when all are ready again: on a slow machine the pauses are longer, so that there is work
    /// to be interrupted.
    pub async fn rage(
        &self,
        deployment: &Deployment,
        mut processes: [Process; 2],
        is_over: &AtomicBool,
        seed: u64,
    ) -> [Process; 2] {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut calm = tokio::time::interval(CALM);
        calm.set_missed_tick_behavior(MissedTickBehavior::Delay);
        calm.tick().await;
        loop {
            calm.tick().await;
            if is_over.load(Ordering::Relaxed) {
                return processes;
            }
            let dying = if rng.random_ratio(1, 8) {
                vec![0, 1]
            } else {
                vec![usize::from(rng.random::<bool>())]
            };
            for at in &dying {
                processes[*at].kill();
            }
            for at in &dying {
                let kills = self.kills.fetch_add(1, Ordering::Relaxed) + 1;
                processes[*at] = Process::start(deployment, "").await;
                *self.places[*at].lock().unwrap() = Place {
                    address: processes[*at].address,
                    replica: kills + 1,
                };
            }
            for at in dying {
                processes[at].is_ready().await;
            }
        }
    }
}
