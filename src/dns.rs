//! Cluster DNS: Service discovery by name, as the Kubernetes DNS specification (schema version 1.1.0) has it.
//!
//! ```text
//! cluster::Cluster ──changes──> follow ──publishes──> records::Index
//!                                                          │ load, without a lock
//! sockets ──message──> server ──question──> wire ──name──> answer (pure) ──plain data──> wire ──reply──> sockets
//!                       │  └──asked a moment ago──> prepared ──────────────────────────────reply──────────┘
//!                       └──names of others──> cache, forward ──> the host's resolvers
//! ```
//!
//! * [`zone`]: which names are ours. [`records`]: what the objects mean, as an index. [`answer`]: answers, rules D1-D9.
//! * [`follow`]: keeps the index and the zone's ranges in step.
//! * [`wire`]: messages. [`server`]: sockets. [`forward`]: everybody else's names, with a cache.
//! * [`metrics`]: counters, with their names. [`events`]: each question, for onlookers. [`lookup`]: a Pod's look-up, step by
//!   step.
//!
//! A change is in the answers as soon as the informer cache has delivered it. Records about the cluster live 5 seconds
//! with the clients. `docs/dns.md` tells people what is answered, and what is left out compared with CoreDNS: Pod names for
//! addresses without a Pod (`pods insecure`), say, which would answer for Pods that are gone.

pub mod answer;
mod cache;
pub mod events;
#[cfg(test)]
mod fixtures;
pub mod follow;
pub mod forward;
mod health;
pub mod lookup;
pub mod metrics;
mod prepared;
pub mod records;
pub mod server;
pub mod wire;
pub mod zone;

use std::future::Future;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;

use tokio::sync::watch;

pub use cache::{Key, Said};
pub use events::{Event, Events, Facts, Reader, Source};
pub use forward::{ForwardConfig, Forwarder, RESOLV_CONF, Within};
pub use metrics::{Metrics, Reading};
pub use records::Index;
pub use server::{Responder, Server, ServerConfig};
pub use wire::{Transport, domain};
pub use zone::Zone;

use crate::cluster::Cluster;

/// The parts of cluster DNS, wired.
pub struct Dns {
    pub zone: Arc<Zone>,
    pub index: Arc<Index>,
    pub metrics: Arc<Metrics>,
    pub forwarder: Arc<Forwarder>,
    /// Answers messages, wherever they come from.
    pub responder: Arc<Responder>,
    complete: watch::Sender<bool>,
}

impl Dns {
    pub fn new(zone: Zone, forward: ForwardConfig) -> Self {
        let (zone, index, metrics) = (Arc::new(zone), Arc::<Index>::default(), Arc::<Metrics>::default());
        let forwarder = Arc::new(Forwarder::new(forward, Arc::clone(&metrics)));
        let responder =
            Responder::new(Arc::clone(&zone), Arc::clone(&index), Arc::clone(&forwarder), Arc::clone(&metrics));
        Self { zone, index, metrics, forwarder, responder: Arc::new(responder), complete: watch::Sender::default() }
    }

    /// The task that keeps the answers in step with the cluster; run it once.
    pub fn follow(&self, cluster: &Cluster) -> impl Future<Output = ()> + Send + use<> {
        follow::follow(cluster, Arc::clone(&self.zone), Arc::clone(&self.index), self.complete.clone())
    }

    /// Every metric: its name, its labels and what it says.
    pub fn visit_metrics(&self, see: impl FnMut(&'static str, &[(&'static str, &str)], Reading)) {
        self.metrics.visit(&self.forwarder.upstreams(), see);
    }

    /// A server on bound sockets; there can be several.
    pub fn server(&self, config: ServerConfig, udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> Server {
        Server::new(config, Arc::clone(&self.responder), udp, tcp)
    }

    /// Whether everything that existed at the start is in the answers: then DNS is ready.
    pub fn complete(&self) -> watch::Receiver<bool> {
        self.complete.subscribe()
    }
}
