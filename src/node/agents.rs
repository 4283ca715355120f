//! All nodes of the cluster: start, the way of news to the Pods' tasks, logs and exec, and the end.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{info, warn};

use super::cgroups::Cgroups;
use super::context::{DataPlane, EventSink, NodeContext, Shared, Timings};
use super::ipam::Ipam;
use super::log_reader::{self, LogOptions};
use super::machine;
use super::netif;
use super::register::{node_object, register, retire};
use super::registry::Registry;
use super::resolv::ResolvConf;
use super::sync::{News, Worker};
use super::volumes::{Claims, Kind};
use crate::cluster::{Change, Cluster, ObjectKey, Subscription};
use crate::config::{CLAIMS_FOLDER, DualAddr, Network, node_name};
use crate::images::Images;
use crate::router::{PortId, PortKind, PortSpec, Ports};
use crate::sys::netns::NetNs;
use crate::sys::process::Spawner;

/// What the agents are made of.
pub struct AgentsConfig {
    /// How many nodes there are.
    pub nodes: u16,
    /// How long a node is waited for after its last heartbeat, which the Lease of a stopped node tells.
    pub monitor_grace: Duration,
    pub network: Network,
    /// The agents keep the folders `pods` and `volumes` in it, and nothing else.
    pub data_dir: PathBuf,
    pub client: Client,
    pub cluster: Cluster,
    pub ports: Arc<dyn Ports>,
    pub data_plane: Arc<dyn DataPlane>,
    pub events: Arc<dyn EventSink>,
    pub timings: Timings,
    pub images: Images,
}

/// Why the agents could not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("folder {path}: {source}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("thread for starting processes: {0}")]
    Spawner(#[source] io::Error),
    #[error("network namespace of node {node}: {source}; `vipyard doctor` tells what this machine lacks")]
    Namespace { node: String, source: io::Error },
    #[error("network device of node {node}: {source}; `vipyard doctor` tells what this machine lacks")]
    Device { node: String, source: io::Error },
    #[error("connect node {node} to the router: {source}")]
    Attach { node: String, source: io::Error },
}

/// Why there is no log. The messages are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error("pods {0:?} not found on any node")]
    NoPod(String),
    #[error("container {container} is not valid for pod {pod}")]
    NoContainer { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { container: String, pod: String, reason: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { container: String, pod: String },
}

/// The agents of all nodes. Cheap to clone; ends with [`Agents::shutdown`].
#[derive(Clone)]
pub struct Agents {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) nodes: HashMap<String, Place>,
    pub(super) monitor_grace: Duration,
    pub(super) workers: Mutex<HashMap<String, Hand>>,
    tracker: TaskTracker,
    /// Open until the Pods of an earlier run are known; empty when the API tells how they and the nodes are now.
    adopting: TaskTracker,
    tasks: Mutex<JoinSet<()>>,
    registered: watch::Receiver<usize>,
}

/// A node and whether it has power.
pub(super) struct Place {
    pub(super) index: u16,
    pub(super) context: Arc<NodeContext>,
    /// `None` without power. Held while the power is switched.
    pub(super) port: tokio::sync::Mutex<Option<PortId>>,
    pub(super) on: AtomicBool,
    /// The tasks of the node's Pods.
    pub(super) tasks: TaskTracker,
}

/// A Pod's task as others know it.
pub(super) struct Hand {
    pub(super) node: String,
    pub(super) news: mpsc::UnboundedSender<News>,
}

/// What is waited for at the end, beyond the containers' time.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// Between two tries to write what the API refuses.
const LONGEST_DELAY: Duration = Duration::from_secs(10);

impl Agents {
    /// Makes the nodes' networks, registers the nodes and begins to run their Pods. Leftovers of an earlier vipyard
    /// with the same data folder are removed.
    ///
    /// # Errors
    /// A [`NodeError`]; then nothing is left behind.
    pub async fn start(config: AgentsConfig) -> Result<Self, NodeError> {
        let pods_dir = std::path::absolute(config.data_dir.join("pods"))
            .and_then(|path| fresh_folder(&path).map(|()| path))
            .map_err(|source| NodeError::Folder { path: config.data_dir.join("pods"), source })?;
        let claims = Claims::open(config.data_dir.join(CLAIMS_FOLDER))
            .map_err(|source| NodeError::Folder { path: config.data_dir.join(CLAIMS_FOLDER), source })?;
        let shared = Arc::new(Shared {
            client: config.client,
            cluster: config.cluster,
            network: config.network,
            ports: config.ports,
            data_plane: config.data_plane,
            events: config.events,
            timings: config.timings,
            spawner: Spawner::start().map_err(NodeError::Spawner)?,
            images: config.images,
            claims,
            cgroups: Cgroups::open(),
            unlimited: AtomicBool::new(false),
            references: Arc::default(),
            registry: Registry::default(),
            storage: machine::storage_bytes(&pods_dir),
            pods_dir,
            resolv_conf: ResolvConf::parse(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        });
        let mut nodes = HashMap::new();
        for index in 1..=config.nodes {
            match make_node(&shared, index) {
                Ok((node, port)) => {
                    let place = Place {
                        index,
                        context: Arc::new(node),
                        port: tokio::sync::Mutex::new(Some(port)),
                        on: AtomicBool::new(true),
                        tasks: TaskTracker::new(),
                    };
                    nodes.insert(place.context.name.clone(), place);
                }
                Err(e) => {
                    let ports = nodes.into_values().filter_map(|place: Place| place.port.into_inner());
                    ports.for_each(|port| shared.ports.detach(port));
                    return Err(e);
                }
            }
        }
        let (registered_tx, registered) = watch::channel(0);
        let agents = Self {
            inner: Arc::new(Inner {
                shared,
                nodes,
                monitor_grace: config.monitor_grace,
                workers: Mutex::default(),
                tracker: TaskTracker::new(),
                adopting: TaskTracker::new(),
                tasks: Mutex::default(),
                registered,
            }),
        };
        let mut tasks = agents.inner.tasks.lock();
        let registered_tx = Arc::new(registered_tx);
        for index in 1..=config.nodes {
            tasks.spawn(keep_registering(Arc::clone(&agents.inner.shared), index, Arc::clone(&registered_tx)));
        }
        tasks.spawn(keep_retiring(Arc::clone(&agents.inner.shared), config.nodes, agents.inner.adopting.token()));
        tasks.spawn(Arc::clone(&agents.inner).dispatch());
        tasks.spawn(Arc::clone(&agents.inner).follow_images());
        let shared = &agents.inner.shared;
        tasks.spawn(tell(Arc::clone(shared), Kind::ConfigMap, shared.cluster.config_maps.subscribe()));
        tasks.spawn(tell(Arc::clone(shared), Kind::Secret, shared.cluster.secrets.subscribe()));
        tasks.spawn(keep_claims(Arc::clone(shared)));
        drop(tasks);
        Ok(agents)
    }

    /// Waits until all nodes are Ready in the API and those that are no more have left it, and until the status of Pods
    /// from an earlier run, whose processes are gone, tells of the present one.
    pub async fn ready(&self) {
        let all = self.inner.nodes.len();
        // An error means that registration was stopped: then nobody is served by waiting.
        let _ = self.inner.registered.clone().wait_for(|count| *count >= all).await;
        self.inner.adopting.wait().await;
    }

    /// The log of a container, in pieces. Following, it goes on until the container's end.
    ///
    /// # Errors
    /// A [`LogError`].
    pub fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: LogOptions,
    ) -> Result<impl Stream<Item = Bytes> + Send + use<>, LogError> {
        let key = ObjectKey::new(namespace, pod);
        let registry = &self.inner.shared.registry;
        let names = || (container.to_owned(), pod.to_owned());
        let Some(entry) = registry.get(&key, container) else {
            let (container, pod) = names();
            return Err(match registry.has_pod(&key) {
                true => LogError::NoContainer { container, pod },
                false => LogError::NoPod(pod),
            });
        };
        let log = if options.previous { entry.previous } else { entry.log };
        let Some(log) = log else {
            let (container, pod) = names();
            return Err(match (options.previous, entry.waiting) {
                (true, _) => LogError::NoPrevious { container, pod },
                (false, reason) => {
                    LogError::Waiting { container, pod, reason: reason.unwrap_or_else(|| "ContainerCreating".into()) }
                }
            });
        };
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(log_reader::read(log, options, sender));
        Ok(ReceiverStream::new(receiver))
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.inner.shared.registry
    }

    pub(super) fn spawner(&self) -> &Spawner {
        &self.inner.shared.spawner
    }

    /// The network namespace of a node, by name.
    pub fn node_ns(&self, node: &str) -> Option<&NetNs> {
        self.inner.nodes.get(node).map(|place| &place.context.ns)
    }

    /// Ends everything: containers get SIGTERM and, after `grace` at the latest, SIGKILL; devices are detached and the
    /// folder is removed. The objects stay in the API as they are.
    pub async fn shutdown(&self, grace: Duration) {
        let inner = &self.inner;
        inner.tasks.lock().abort_all();
        for worker in inner.workers.lock().values() {
            let _ = worker.news.send(News::Shutdown(grace));
        }
        inner.tracker.close();
        if tokio::time::timeout(grace + LAST_WRITES, inner.tracker.wait()).await.is_err() {
            warn!("some pods did not end in time; their processes end with this one");
        }
        for place in inner.nodes.values() {
            if let Some(port) = place.port.lock().await.take() {
                inner.shared.ports.detach(port);
            }
        }
        if let Err(e) = fs::remove_dir_all(&inner.shared.pods_dir) {
            warn!(folder = %inner.shared.pods_dir.display(), error = %e, "folder of pods not removed");
        }
    }
}

impl Inner {
    /// Takes the news of Pods to their tasks. Pods that have an address from an earlier run come first, so that no new
    /// Pod is given what one of them has.
    async fn dispatch(self: Arc<Self>) {
        let mut changes = self.shared.cluster.pods.subscribe();
        let mut early = Some(Vec::new());
        while let Some(change) = changes.recv().await {
            match (change, &mut early) {
                (Change::Applied { old: None, new }, Some(early)) => early.push(new),
                (Change::Applied { old, new }, _) => {
                    if let Some(old) = old.filter(|old| old.uid() != new.uid()) {
                        self.gone(&old);
                    }
                    self.applied(new, None);
                }
                (Change::Deleted(pod), Some(early)) => early.retain(|known| known.uid() != pod.uid()),
                (Change::Deleted(pod), None) => self.gone(&pod),
                (Change::Synced, _) => {
                    let mut pods = early.take().unwrap_or_default();
                    pods.sort_by_key(|pod| pod.status.as_ref().is_none_or(|status| status.pod_ip.is_none()));
                    pods.into_iter().for_each(|pod| self.applied(pod, Some(self.adopting.token())));
                    self.adopting.close();
                }
                (Change::Marked(_), _) => {}
            }
        }
    }

    pub(super) fn applied(&self, pod: Arc<Pod>, adopting: Option<TaskTrackerToken>) {
        let name = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default();
        let (Some(place), Some(uid)) = (self.nodes.get(name), pod.uid()) else { return };
        let mut workers = self.workers.lock();
        // Asked under the lock under which a node is stopped.
        if !place.on.load(Ordering::Relaxed) {
            return;
        }
        if let Some(worker) = workers.get(&uid) {
            let _ = worker.news.send(News::Object(pod));
            return;
        }
        let containers = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
        self.shared.registry.add(&ObjectKey::of(&*pod), &uid, containers.map(|container| container.name.as_str()));
        let (sender, queue) = mpsc::unbounded_channel();
        workers.insert(uid, Hand { node: name.to_owned(), news: sender.clone() });
        let worker = Worker::new(Arc::clone(&place.context), pod, sender, queue);
        self.tracker.spawn(place.tasks.track_future(worker.run(adopting)));
    }

    /// As [`Self::applied`], for the Pods of one node.
    pub(super) fn applied_on(&self, pod: Arc<Pod>, node: &str) {
        if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node) {
            self.applied(pod, None);
        }
    }

    /// Has Pods that wait for an image look again when the map of images changes.
    async fn follow_images(self: Arc<Self>) {
        let mut changes = self.shared.images.changes();
        while changes.changed().await.is_ok() {
            for worker in self.workers.lock().values() {
                let _ = worker.news.send(News::Images);
            }
        }
    }

    fn gone(&self, pod: &Pod) {
        let worker = pod.uid().and_then(|uid| self.workers.lock().remove(&uid));
        if let Some(worker) = worker {
            let _ = worker.news.send(News::Gone);
        }
    }
}

/// Tells the Pods that refer to an object of its changes.
async fn tell<K>(shared: Arc<Shared>, kind: Kind, mut changes: Subscription<K>)
where
    K: kube::Resource<DynamicType = ()> + Send + Sync + 'static,
{
    while let Some(change) = changes.recv().await {
        if let Change::Applied { new: object, .. } | Change::Deleted(object) = change {
            shared.references.changed(kind, ObjectKey::of(&*object));
        }
    }
}

/// Tells Pods of their claims, and removes what deleted ones kept.
async fn keep_claims(shared: Arc<Shared>) {
    let mut changes = shared.cluster.claims.subscribe();
    while let Some(change) = changes.recv().await {
        let owned = Arc::clone(&shared);
        let removal = match change {
            Change::Applied { new, .. } => {
                shared.references.changed(Kind::Claim, ObjectKey::of(&*new));
                continue;
            }
            Change::Deleted(old) => tokio::task::spawn_blocking(move || owned.claims.remove(&old)),
            Change::Synced => tokio::task::spawn_blocking(move || owned.claims.remove_orphans(&owned.cluster.claims)),
            Change::Marked(_) => continue,
        };
        // One after the other; a panic in one is not the next one's matter.
        let _ = removal.await;
    }
}

/// Registers a node, again and again until the API takes it.
async fn keep_registering(shared: Arc<Shared>, index: u16, registered: Arc<watch::Sender<usize>>) {
    let mut delay = shared.timings.retry;
    let node = node_object(index, &shared.network, shared.storage, Timestamp::now());
    while let Err(e) = register(&shared.client, node.clone()).await {
        warn!(node = node_name(index), error = %e, "node not registered, trying again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
    info!(node = node_name(index), "node registered");
    registered.send_modify(|count| *count += 1);
}

/// Removes the nodes that this run does not have, again and again until the API takes it.
async fn keep_retiring(shared: Arc<Shared>, nodes: u16, _adopting: TaskTrackerToken) {
    let mut delay = shared.timings.retry;
    while let Err(e) = retire(&shared.client, nodes).await {
        warn!(error = %e, "nodes of an earlier run not removed, trying again");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LONGEST_DELAY);
    }
}

fn make_node(shared: &Arc<Shared>, index: u16) -> Result<(NodeContext, PortId), NodeError> {
    let name = node_name(index);
    let addresses = shared.network.node_addr(index);
    let ns = NetNs::create().map_err(|source| NodeError::Namespace { node: name.clone(), source })?;
    netif::relax(&ns);
    let port = attach_node(shared, &name, addresses, &ns)?;
    netif::send_out_node_ports(&ns, "eth0", &addresses.both());
    let (v4, v6) = shared.network.node_pod_cidrs(index);
    let ipam = Mutex::new(Ipam::new(v4, v6));
    Ok((NodeContext { shared: Arc::clone(shared), name, addresses, ns, ipam }, port))
}

/// Connects a node's namespace to the router.
pub(super) fn attach_node(shared: &Shared, name: &str, addresses: DualAddr, ns: &NetNs) -> Result<PortId, NodeError> {
    let node = || name.to_owned();
    let device = netif::create(ns, "eth0", &addresses.both(), shared.network.mtu)
        .map_err(|source| NodeError::Device { node: node(), source })?;
    let port = shared.ports.attach(PortSpec {
        name: node(),
        uid: String::new(),
        kind: PortKind::Node,
        node: node(),
        addresses: addresses.both().to_vec(),
        device,
    });
    port.map_err(|source| NodeError::Attach { node: node(), source })
}

/// Logs may hold secrets, so the folder is for its owner alone.
fn fresh_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}
