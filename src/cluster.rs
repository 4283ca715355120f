//! The shared informer cache: one typed copy of each object, fed by one watch per kind.
//!
//! Controllers, node agents, DNS, the plan compiler and the dashboard read from here and subscribe here,
//! as client-go's shared informers do, so that an event is decoded once for all of them.

mod informer;
mod reflector;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Namespace, Node, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Api, Client};
use tokio::task::JoinSet;

pub use informer::{Change, Informer, Mark, ObjectKey, Progress, Subscription, Writer};

/// The label by which an EndpointSlice belongs to a Service (rule S4).
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The informers of every kind that a part of the cluster reads.
#[derive(Clone)]
pub struct Cluster {
    pub namespaces: Informer<Namespace>,
    pub nodes: Informer<Node>,
    pub pods: Informer<Pod>,
    pub services: Informer<Service>,
    pub endpoints: Informer<Endpoints>,
    pub slices: Informer<EndpointSlice>,
    pub service_cidrs: Informer<ServiceCIDR>,
    pub config_maps: Informer<ConfigMap>,
    pub secrets: Informer<Secret>,
    pub service_accounts: Informer<ServiceAccount>,
    pub claims: Informer<PersistentVolumeClaim>,
}

/// The writing ends of a [`Cluster`]: tests hold them to play the API server.
pub struct Writers {
    pub namespaces: Writer<Namespace>,
    pub nodes: Writer<Node>,
    pub pods: Writer<Pod>,
    pub services: Writer<Service>,
    pub endpoints: Writer<Endpoints>,
    pub slices: Writer<EndpointSlice>,
    pub service_cidrs: Writer<ServiceCIDR>,
    pub config_maps: Writer<ConfigMap>,
    pub secrets: Writer<Secret>,
    pub service_accounts: Writer<ServiceAccount>,
    pub claims: Writer<PersistentVolumeClaim>,
}

impl Cluster {
    /// An empty cache and the ends that fill it.
    pub fn new() -> (Self, Writers) {
        let (namespaces, namespaces_w) = Informer::new();
        let (nodes, nodes_w) = Informer::new();
        let (pods, pods_w) = Informer::new();
        let (services, services_w) = Informer::new();
        let (endpoints, endpoints_w) = Informer::new();
        let (slices, slices_w) = Informer::new();
        let (service_cidrs, service_cidrs_w) = Informer::new();
        let (config_maps, config_maps_w) = Informer::new();
        let (secrets, secrets_w) = Informer::new();
        let (service_accounts, service_accounts_w) = Informer::new();
        let (claims, claims_w) = Informer::new();
        (
            Self {
                namespaces,
                nodes,
                pods,
                services,
                endpoints,
                slices,
                service_cidrs,
                config_maps,
                secrets,
                service_accounts,
                claims,
            },
            Writers {
                namespaces: namespaces_w,
                nodes: nodes_w,
                pods: pods_w,
                services: services_w,
                endpoints: endpoints_w,
                slices: slices_w,
                service_cidrs: service_cidrs_w,
                config_maps: config_maps_w,
                secrets: secrets_w,
                service_accounts: service_accounts_w,
                claims: claims_w,
            },
        )
    }
}

/// The ranges of a ServiceCIDR, at most one of each family; without what is none.
pub fn service_ranges(cidr: &ServiceCIDR) -> Vec<IpNet> {
    let cidrs = cidr.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| cidr.parse::<IpNet>().ok()).map(|net| net.trunc()).collect()
}

impl Writers {
    /// Starts one watch per kind; each task ends when it is aborted or the set is dropped.
    pub fn run(self, client: &Client, tasks: &mut JoinSet<()>) {
        let all = client.clone();
        tasks.spawn(self.namespaces.run(Api::all(all.clone())));
        tasks.spawn(self.nodes.run(Api::all(all.clone())));
        tasks.spawn(self.pods.run(Api::all(all.clone())));
        tasks.spawn(self.services.run(Api::all(all.clone())));
        tasks.spawn(self.endpoints.run(Api::all(all.clone())));
        tasks.spawn(self.slices.run(Api::all(all.clone())));
        tasks.spawn(self.service_cidrs.run(Api::all(all.clone())));
        tasks.spawn(self.config_maps.run(Api::all(all.clone())));
        tasks.spawn(self.secrets.run(Api::all(all.clone())));
        tasks.spawn(self.service_accounts.run(Api::all(all.clone())));
        tasks.spawn(self.claims.run(Api::all(all)));
    }
}
