//! What the tasks of the node agents share.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use parking_lot::Mutex;

use super::cgroups::Cgroups;
use super::ipam::Ipam;
use super::registry::Registry;
use super::resolv::ResolvConf;
use super::volumes::{Claims, References};
use crate::cluster::Cluster;
use crate::config::{DualAddr, Network};
use crate::images::Images;
use crate::router::Ports;
use crate::sys::netns::NetNs;
use crate::sys::process::Spawner;

/// Takes the events that the agents report about Pods.
pub trait EventSink: Send + Sync {
    /// `type_` is `Normal` or `Warning`; reasons and messages are the kubelet's.
    fn event(&self, pod: &Pod, type_: &str, reason: &str, message: &str);
}

/// Knows when packets follow the objects.
pub trait DataPlane: Send + Sync {
    /// Waits until everything that follows from what is written now is in the packets.
    fn settled(&self) -> BoxFuture<'static, ()>;
}

/// Delays that tests shorten.
#[derive(Clone, Debug)]
pub struct Timings {
    /// The first delay of CrashLoopBackOff (rule PS9).
    pub backoff_base: Duration,
    pub backoff_limit: Duration,
    /// A run of this length makes the next start the first again.
    pub backoff_reset: Duration,
    /// How long an image that is not found is `ErrImagePull` before it is `ImagePullBackOff`.
    pub image_look: Duration,
    /// The first delay before a refused write, or a sandbox that could not be made, is tried again; it doubles.
    pub retry: Duration,
    /// How long SIGTERM waits, at most, until new flows go elsewhere.
    pub unroute: Duration,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_secs(10),
            backoff_limit: Duration::from_secs(300),
            backoff_reset: Duration::from_secs(600),
            image_look: Duration::from_secs(2),
            retry: Duration::from_millis(200),
            unroute: Duration::from_secs(1),
        }
    }
}

/// One for all nodes.
pub struct Shared {
    pub client: Client,
    pub cluster: Cluster,
    pub network: Network,
    pub ports: Arc<dyn Ports>,
    pub data_plane: Arc<dyn DataPlane>,
    pub events: Arc<dyn EventSink>,
    pub timings: Timings,
    pub spawner: Spawner,
    pub registry: Registry,
    pub images: Images,
    pub claims: Claims,
    pub cgroups: Cgroups,
    /// That limits can't be kept was told.
    pub unlimited: AtomicBool,
    /// Whom to tell when a ConfigMap or Secret changes.
    pub references: Arc<References>,
    /// A folder per Pod, named by its uid.
    pub pods_dir: PathBuf,
    /// Bytes of the file system below that folder, which each node reports as its own.
    pub storage: u64,
    /// The machine's resolver configuration, which nodes have as theirs.
    pub resolv_conf: ResolvConf,
}

/// One for each node.
pub struct NodeContext {
    pub shared: Arc<Shared>,
    pub name: String,
    pub addresses: DualAddr,
    /// Where kubelet probes come from and hostNetwork Pods run.
    pub ns: NetNs,
    pub ipam: Mutex<Ipam>,
}

impl NodeContext {
    pub fn address_texts(&self) -> Vec<String> {
        self.addresses.both().map(|a| a.to_string()).to_vec()
    }
}
