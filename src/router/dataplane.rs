//! The running router: its threads, and the handle that the rest of the program holds.

use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;

use super::flow::{Flow, FlowId, Millis};
use super::gate::Held;
use super::log::FlowLog;
use super::pipeline::{Limits, Pipeline};
use super::ports::PortInfo;
use super::stats::Stats;
use super::worker::{Command, Done, Worker};
use super::{PortId, PortSpec, Ports};
use crate::config::Network;
use crate::plan::Plan;
use crate::sys::tun::Tun;

/// How to run the data plane.
#[derive(Clone, Debug)]
pub struct RouterConfig {
    /// The address plan; the MTU of all devices is in it.
    pub network: Network,
    pub limits: Limits,
    /// Threads that move packets. A device is read by one of them, so its packets keep their order.
    pub threads: usize,
    /// How long a thread stays awake after the last packet. Zero sleeps at once.
    pub linger: Duration,
    /// Records that the flow log keeps; 0 switches it off.
    pub flow_log: usize,
}

impl RouterConfig {
    pub const LINGER: Duration = Duration::from_micros(50);
    /// Two threads serve the two directions of busy connections (measured: a fifth more requests per second than
    /// one); more would take time from the programs that talk.
    pub const THREADS: usize = 2;

    pub fn new(network: Network) -> Self {
        let limits = Limits { mtu: network.mtu, ..Limits::default() };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            network,
            limits,
            threads: cores.min(Self::THREADS),
            linger: Self::LINGER,
            flow_log: crate::config::FLOW_LOG,
        }
    }
}

/// What all threads share. The lock is held for a decision, never for a system call.
pub(super) struct Shared {
    pub pipeline: Mutex<Pipeline<SmallRng>>,
    pub linger: Duration,
    started: Instant,
    /// Takes first packets of flows to the world.
    pub world: OnceLock<mpsc::Sender<Held>>,
}

impl Shared {
    pub fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// Counts packets that a device took in one frame, or did not take.
    pub fn left(&self, packets: usize, written: bool) {
        if packets > 1 || !written {
            self.pipeline.lock().count_left(packets as u64, written);
        }
    }
}

/// The packet router. Dropping it stops its threads and closes its devices.
pub struct Router {
    pub(super) shared: Arc<Shared>,
    workers: Mutex<Vec<Worker>>,
    /// For packets that do not come from a device.
    pub(super) devices: RwLock<FxHashMap<PortId, Arc<Tun>>>,
    last_port: AtomicU32,
    flow_log: Option<Arc<FlowLog>>,
}

impl Router {
    /// Starts the threads. Until a plan is applied, Service addresses are unknown and Pods reach each other only.
    ///
    /// # Errors
    /// When a thread, an epoll instance or an eventfd cannot be had.
    pub fn start(config: RouterConfig) -> io::Result<Arc<Self>> {
        let plan = Arc::new(Plan::empty(&config.network));
        let mut pipeline = Pipeline::new(plan, config.limits, SmallRng::from_os_rng());
        let flow_log = (config.flow_log > 0).then(|| {
            let (log, recorder) = FlowLog::new(config.flow_log);
            pipeline.record(recorder);
            log
        });
        let shared = Arc::new(Shared {
            pipeline: Mutex::new(pipeline),
            linger: config.linger,
            started: Instant::now(),
            world: OnceLock::new(),
        });
        let workers = (0..config.threads.max(1)).map(|index| Worker::start(index, &shared));
        let workers = workers.collect::<io::Result<Vec<_>>>()?;
        Ok(Arc::new(Self {
            shared,
            workers: Mutex::new(workers),
            devices: RwLock::default(),
            last_port: AtomicU32::new(0),
            flow_log,
        }))
    }

    /// Puts a plan into force: every packet that is decided after this returns follows it.
    pub fn apply(&self, plan: Arc<Plan>) {
        let before = self.shared.pipeline.lock().set_plan(plan);
        // Outside of the lock: a large plan takes its time.
        drop(before);
    }

    /// The plan in force.
    pub fn plan(&self) -> Arc<Plan> {
        Arc::clone(self.shared.pipeline.lock().plan())
    }

    pub fn stats(&self) -> Stats {
        self.shared.pipeline.lock().stats()
    }

    /// The flow log, unless it is switched off.
    pub fn flow_log(&self) -> Option<&Arc<FlowLog>> {
        self.flow_log.as_ref()
    }

    /// A copy of the pipeline for trying packets of a client with these addresses ([`Pipeline::scratch`]), and the time in it.
    pub fn scratch(&self, client: &[IpAddr]) -> (Pipeline<SmallRng>, Millis) {
        (self.shared.pipeline.lock().scratch(client), self.shared.now())
    }

    /// Looks at up to `limit` flows, in no order. Packets wait meanwhile, so keep `limit` and `view` small.
    pub fn flows<T>(&self, limit: usize, view: impl FnMut(&Flow) -> T) -> Vec<T> {
        self.shared.pipeline.lock().flows().iter().take(limit).map(view).collect()
    }

    /// Shows the flows of `budget` places of the table from `start`; returns where to go on, or `None` at the end. Packets
    /// wait meanwhile.
    pub fn visit_flows(&self, start: usize, budget: usize, see: impl FnMut(FlowId, &Flow)) -> Option<usize> {
        self.shared.pipeline.lock().flows().visit(start, budget, see)
    }

    /// Whether all threads still move packets.
    pub fn is_healthy(&self) -> bool {
        let workers = self.workers.lock();
        !workers.is_empty() && workers.iter().all(Worker::is_alive)
    }

    /// Stops the threads and closes all devices. Further calls have no effect.
    pub fn shutdown(&self) {
        // Dropping a worker stops and joins it.
        self.workers.lock().clear();
        self.devices.write().clear();
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl Ports for Router {
    fn attach(&self, spec: PortSpec) -> io::Result<PortId> {
        let workers = self.workers.lock();
        if workers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the router has been shut down"));
        }
        let id = PortId(self.last_port.fetch_add(1, Ordering::Relaxed) + 1);
        let port = PortInfo {
            id,
            name: spec.name.into(),
            uid: spec.uid.into(),
            kind: spec.kind,
            node: spec.node.into(),
            addresses: spec.addresses.into(),
        };
        self.shared.pipeline.lock().attach(port).map_err(|(addr, owner)| taken(addr, &owner))?;
        let device = Arc::new(spec.device);
        self.devices.write().insert(id, Arc::clone(&device));
        let reader = id.0 as usize % workers.len();
        let result = workers.iter().enumerate().try_for_each(|(index, worker)| {
            worker.command(|done| Command::Attach { id, device: Arc::clone(&device), read: index == reader, done })
        });
        drop(workers);
        if let Err(e) = result {
            self.detach(id);
            return Err(e);
        }
        Ok(id)
    }

    fn detach(&self, port: PortId) {
        // A worker that is gone has closed its devices.
        let all = |make: fn(PortId, Done) -> Command| {
            self.workers.lock().iter().for_each(|worker| drop(worker.command(|done| make(port, done))));
        };
        all(|id, done| Command::Drain { id, done });
        self.shared.pipeline.lock().detach(port);
        let device = self.devices.write().remove(&port);
        all(|id, done| Command::Detach { id, done });
        // The last one: closing a device takes the kernel some ten milliseconds, in which a thread above would move no
        // packets.
        drop(device);
    }
}

fn taken(addr: IpAddr, owner: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AddrInUse, format!("address {addr} already belongs to {owner}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_follows_plans_and_stops_more_than_once() {
        let network = Network::default();
        let config = RouterConfig { threads: 2, ..RouterConfig::new(network.clone()) };
        let router = Router::start(config).expect("threads");
        assert_eq!((router.plan().epoch, router.stats()), (0, Stats::default()));
        let mut plan = Plan::empty(&network);
        plan.epoch = 7;
        router.apply(Arc::new(plan));
        assert_eq!((router.plan().epoch, router.stats().epoch), (7, 7));
        router.detach(PortId(99));
        assert!(router.flows(10, |flow| flow.created).is_empty());
        assert!(router.is_healthy());
        router.shutdown();
        assert!(!router.is_healthy());
        router.shutdown();
    }
}
