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

#[derive(Clone)]
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

    /// The part of the memory that is about these clients.
    pub(super) fn of_clients(&self, wanted: impl Fn(IpAddr) -> bool) -> Self {
        let clients = self.clients.iter().filter(|((_, client), _)| wanted(*client));
        Self { clients: clients.map(|(key, memory)| (*key, memory.clone())).collect(), limit: self.limit }
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
        if let Some(memory) = self.clients.get_mut(&key) {
            memory.retain(|entry| entry.until > now);
            for entry in memory.iter_mut() {
                if let Some(endpoint) = service.candidate(candidates, entry.endpoint) {
                    entry.until = until;
                    return Some(Choice { endpoint, sticky: true });
                }
            }
        } else if self.clients.len() >= self.limit {
            self.make_room(now);
        }
        let endpoint = indices[rng.random_range(0..indices.len())];
        self.clients
            .entry(key)
            .or_default()
            .push(Remembered { endpoint: service.endpoints()[endpoint as usize].addr, until });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Network;
    use crate::plan::{Compiler, Protocol, Scope};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;
    use serde_json::json;

    #[test]
    fn memory_of_clients_is_bounded_and_forgets_the_oldest_first() {
        let mut compiler = Compiler::new(&Network::default());
        let service = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": {"clusterIP": "10.96.0.11",
            "sessionAffinity": "ClientIP", "ports": [{"name": "", "port": 80}]}});
        let slice = json!({"metadata": {"namespace": "default", "name": "web",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4", "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["10.244.1.2"]}, {"addresses": ["10.244.1.3"]}]});
        compiler.service_applied(&serde_json::from_value(service).expect("a Service"));
        compiler.slice_applied(&serde_json::from_value(slice).expect("an EndpointSlice"));
        let plan = compiler.plan();
        let vip = plan.vip(IpAddr::from([10, 96, 0, 11]), Protocol::Tcp, 80).expect("the VIP");
        let candidates = vip.service.candidates(Scope::Cluster, "n1", None);
        let (mut affinity, mut rng) = (Affinity::new(80), SmallRng::seed_from_u64(3));
        let mut choose = |affinity: &mut Affinity, client: u32, now: Millis| {
            let client = IpAddr::from((0x0af4_0000 + client).to_be_bytes());
            affinity.choose(&vip.service, candidates, client, &mut rng, now).expect("a choice").sticky
        };
        for client in 0..1000 {
            assert!(!choose(&mut affinity, client, client.into()));
            assert!(affinity.clients.len() <= 80);
        }
        assert!(choose(&mut affinity, 999, 1000));
        assert!(choose(&mut affinity, 940, 1000));
        assert!(!choose(&mut affinity, 0, 1000));
    }
}
