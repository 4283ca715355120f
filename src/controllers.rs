//! The controllers: ordinary API clients that read the shared cache and write through the API.
//!
//! Each controller is a queue of keys and a reconcile function. Watch events add keys; the function looks at the
//! present state behind a key, compares it with what should be, and writes the difference. It never acts on the event
//! itself, so a lost or repeated event does no harm, and it sleeps when there is nothing to do.
//!
//! ```text
//!   cluster cache ──changes──> index (who is concerned?) ──keys──> queue ──> reconcile ──writes──> API
//! ```
//!
//! | Controller | Keeps right | Rules |
//! |---|---|---|
//! | `slices` | EndpointSlices of Services with a selector | ES1-ES24 |
//! | `endpoints` | legacy Endpoints of the same | EP1-EP9 |
//! | `mirroring` | EndpointSlices of hand-made Endpoints | EM1-EM6 |
//! | `namespaces` | ServiceAccount and root certificate of each namespace | PD4, PD7 |
//! | `namespace_deletion` | namespaces that are being deleted: empties and finalizes them | ES20 |
//! | `scheduler` | nodes for Pods | PD6, DP4 |
//! | `custom_resources` | definitions that are being deleted: their objects go first | |
//! | `event_expiry` | Events whose time is over | |
//! | `garbage` | dependents of deleted owners | ES19 |
//! | `disruption` | status of PodDisruptionBudgets | |
//! | `node_life` | conditions of lost nodes, taints, Pods that these drive away | PD1 |
//! | `workloads` | Pods of ReplicaSets, ReplicationControllers, Deployments, StatefulSets, DaemonSets, Jobs, CronJobs | DP1-DP3 |
//! | `load_balancer` | addresses of Services of type LoadBalancer | V2, W2 |
//! | `pod_gc` | Pods whose node does not exist any more: removes them | |
//! | `claims` | a volume for each PersistentVolumeClaim | |
//! | `volume_offers` | status of PersistentVolumes made by hand | |
//! | `claim_protection` | PersistentVolumeClaims that are being deleted: they go after the Pods that use them | |
//! | `ip_addresses` | an IPAddress for each Service address | SC5-SC7 |
//! | `service_cidrs` | ServiceCIDRs: the cluster's own, readiness, deletion | SC1, SC3, SC4 |
//! | `bootstrap` | system namespaces, `default/kubernetes`, `kube-system/kube-dns` | K1, K2, EM7 |
//!
//! What a controller decides stands in a pure function in a file of its own (`*_plan`, `slice_packing`, `placement`,
//! `garbage_graph`), which the table tests call directly.

mod bootstrap;
mod claim_protection;
mod claims;
mod custom_resources;
mod disruption;
mod disruption_plan;
pub(crate) mod endpoint_model;
mod endpoints;
mod endpoints_plan;
mod event_expiry;
mod garbage;
mod garbage_graph;
mod ip_addresses;
mod load_balancer;
mod load_balancer_plan;
mod mirror_plan;
mod mirroring;
mod namespace_deletion;
mod namespaces;
mod node_life;
mod node_life_plan;
mod placement;
mod placement_affinity;
mod placement_resources;
mod pod_gc;
mod queue;
mod runner;
mod scheduler;
mod service_cidrs;
pub(crate) mod service_pods;
mod slice_book;
mod slice_packing;
pub(crate) mod slice_plan;
mod slice_writer;
mod slices;
mod volume_offers;
mod workloads;
mod zone_shares;

use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use kube::core::ApiResource;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use bootstrap::{SYSTEM_NAMESPACES, bootstrap};
pub use load_balancer_plan::LOAD_BALANCER_CLASS;
pub use namespaces::{DEFAULT_SERVICE_ACCOUNT, ROOT_CA_CONFIG_MAP, ROOT_CA_KEY, wait_for_default_account};
pub use runner::Error;

use crate::cluster::Cluster;
use crate::config::{Controller, Network, NodeTimes, Selection};

/// A kind that the API serves.
#[derive(Clone, Debug)]
struct Kind {
    resource: ApiResource,
    namespaced: bool,
    /// Whether the API serves the kind now.
    served: bool,
}

/// The kinds that are or were served, in a list that only grows: a place in it stays true while custom kinds come and go.
#[derive(Debug, Default)]
struct Kinds(RwLock<Vec<Kind>>);

impl Kinds {
    fn at(&self, place: usize) -> Kind {
        self.0.read()[place].clone()
    }

    fn place_of(&self, group: &str, kind: &str) -> Option<usize> {
        self.0.read().iter().position(|known| known.resource.group == group && known.resource.kind == kind)
    }

    /// Marks a kind as no longer served.
    fn withdraw(&self, place: usize) {
        self.0.write()[place].served = false;
    }

    /// The place of a kind, which gets one if it has none.
    fn add(&self, kind: &Kind) -> usize {
        if let Some(place) = self.place_of(&kind.resource.group, &kind.resource.kind) {
            self.0.write()[place] = kind.clone();
            return place;
        }
        let mut all = self.0.write();
        all.push(kind.clone());
        all.len() - 1
    }
}

/// The kinds of the API as they are now, and a sign when they change.
#[derive(Clone)]
struct Served(watch::Receiver<Vec<(ApiResource, bool)>>);

impl Served {
    fn now(&self) -> Vec<Kind> {
        let resources = self.0.borrow().clone();
        resources.into_iter().map(|(resource, namespaced)| Kind { resource, namespaced, served: true }).collect()
    }

    /// The kinds after the next change; `None` when there will be none.
    async fn next(&mut self) -> Option<Vec<Kind>> {
        self.0.changed().await.ok()?;
        self.0.mark_unchanged();
        Some(self.now())
    }
}

/// What the controllers need.
pub struct ControllersConfig {
    pub client: Client,
    pub cluster: Cluster,
    pub network: Network,
    /// The cluster's certificate authority, for the ConfigMap `kube-root-ca.crt` of each namespace.
    pub root_ca_pem: String,
    /// Where the node agents keep the folders of claims.
    pub claims_folder: PathBuf,
    pub node_times: NodeTimes,
    pub selection: Selection,
    /// Every kind that the API serves with list, watch, get, patch, delete and deletecollection; `true` if its
    /// objects live in namespaces.
    pub resources: watch::Receiver<Vec<(ApiResource, bool)>>,
}

/// All controllers of the cluster.
pub struct Controllers;

impl Controllers {
    /// Starts the controllers that are selected; they end when their tasks are aborted or the set is dropped. [`bootstrap`] should have
    /// run before, so that the first Services of users do not race the system's for addresses.
    pub fn start(config: ControllersConfig, tasks: &mut JoinSet<()>) {
        let ControllersConfig {
            client,
            cluster,
            network,
            root_ca_pem,
            claims_folder,
            node_times,
            selection,
            resources,
        } = config;
        let served = Served(resources);

        let queue_of = |controller| selection.has(controller).then(|| Arc::new(queue::Queue::new()));
        let slice_queue = queue_of(Controller::EndpointSlice);
        let endpoints_queue = queue_of(Controller::Endpoints);
        let queues = slice_queue.iter().chain(&endpoints_queue).cloned().collect();
        let service_pods = service_pods::ServicePods::start(&cluster, queues, tasks);
        if let Some(queue) = slice_queue {
            slices::SliceController::start(&client, &cluster, &service_pods, queue, tasks);
        }
        if let Some(queue) = endpoints_queue {
            endpoints::EndpointsController::start(&client, &cluster, &service_pods, queue, tasks);
        }
        if selection.has(Controller::EndpointSliceMirroring) {
            mirroring::MirroringController::start(&client, &cluster, tasks);
        }

        if selection.has(Controller::Scheduler) {
            scheduler::Scheduler::start(&client, &cluster, tasks);
        }
        if selection.has(Controller::NodeLifecycle) {
            node_life::NodeLife::start(&client, &cluster, node_times.monitor_grace, tasks);
        }
        if selection.has(Controller::PodGarbageCollector) {
            pod_gc::PodGc::start(&client, &cluster, node_times.absence, tasks);
        }
        workloads::start(&client, &cluster, &selection, tasks);
        if selection.has(Controller::Disruption) {
            disruption::DisruptionController::start(&client, &cluster, tasks);
        }
        if selection.has(Controller::ServiceLoadBalancer) {
            load_balancer::LoadBalancerController::start(&client, &cluster, &network, tasks);
        }
        if selection.has(Controller::PersistentVolumeBinder) {
            claims::ClaimController::start(&client, &cluster, claims_folder, tasks);
            volume_offers::VolumeOffers::start(&client, tasks);
        }
        if selection.has(Controller::PersistentVolumeClaimProtection) {
            claim_protection::ClaimProtection::start(&client, &cluster, tasks);
        }
        namespaces::NamespaceController::start(&client, &cluster, root_ca_pem, tasks);
        service_cidrs::ServiceCidrController::start(&client, &cluster, &network, tasks);
        ip_addresses::IpAddressController::start(&client, &cluster, tasks);
        bootstrap::SystemObjects::start(&client, &cluster, &network, tasks);
        event_expiry::EventExpiry::start(&client, event_expiry::LIFE, tasks);

        let emptied = Arc::new(queue::Queue::new());
        garbage::GarbageCollector::start(&client, &served, Arc::clone(&emptied), tasks);
        namespace_deletion::NamespaceDeletion::start(&client, &cluster, &served, emptied, tasks);
        custom_resources::CustomResources::start(&client, served, tasks);
    }
}

#[cfg(test)]
mod tests;
