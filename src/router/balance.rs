//! Choosing an endpoint: uniformly at random (rule E8), or the one that this client had before (rules A1-A8).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::Rng;
use rustc_hash::FxHashMap;

use super::flow::Millis;
use crate::plan::{Candidates, ServicePort, ServicePortId};

/// Which endpoints a client had, per Service port. One table for all doors of the port and all policies (A1, A6).
pub struct Affinity {
    clients: FxHashMap<(ServicePortId, IpAddr), Vec<Remembered>>,
    limit: usize,
}

struct Remembered {
    endpoint: SocketAddr,
    until: Millis,
}

/// What was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the Service port's endpoints.
    pub endpoint: u32,
    /// It was remembered.
    pub sticky: bool,
}

impl Affinity {
    /// A memory of at most `limit` clients.
    pub fn new(limit: usize) -> Self {
        Self { clients: FxHashMap::default(), limit: limit.max(1) }
    }

    /// Chooses one of the candidates for a new flow of `client`; `None` when there are none.
    pub fn choose(
        &mut self,
        service: &ServicePort,
        candidates: Candidates<'_>,
        client: IpAddr,
        rng: &mut impl Rng,
        now: Millis,
    ) -> Option<Choice> {
        let indices = candidates.indices;
        if indices.is_empty() {
            return None;
        }
        let Some(timeout) = service.affinity else {
            return Some(Choice { endpoint: indices[rng.random_range(0..indices.len())], sticky: false });
        };
        let until = now + millis(timeout);
        let key = (service.id, client);
        let endpoint_of = |index: u32| service.endpoints()[index as usize].addr;
        if let Some(memory) = self.clients.get_mut(&key) {
            memory.retain(|entry| entry.until > now);
            for entry in memory.iter_mut() {
                if let Some(&endpoint) = indices.iter().find(|&&index| endpoint_of(index) == entry.endpoint) {
                    entry.until = until;
                    return Some(Choice { endpoint, sticky: true });
                }
            }
        } else if self.clients.len() >= self.limit {
            self.make_room(now);
        }
        let endpoint = indices[rng.random_range(0..indices.len())];
        self.clients.entry(key).or_default().push(Remembered { endpoint: endpoint_of(endpoint), until });
        Some(Choice { endpoint, sticky: false })
    }

    /// Forgets what has timed out, and an eighth of the rest when that frees nothing: the cost is spread over the
    /// insertions until the next time.
    fn make_room(&mut self, now: Millis) {
        self.clients.retain(|_, memory| memory.iter().any(|entry| entry.until > now));
        if self.clients.len() >= self.limit {
            let mut ends: Vec<Millis> = self.clients.values().map(|memory| newest(memory)).collect();
            let at = ends.len() / 8;
            let cut = *ends.select_nth_unstable(at).1;
            self.clients.retain(|_, memory| newest(memory) > cut);
        }
    }
}

fn newest(memory: &[Remembered]) -> Millis {
    memory.iter().map(|entry| entry.until).max().unwrap_or(0)
}

fn millis(duration: Duration) -> Millis {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2)
}
