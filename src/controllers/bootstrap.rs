//! The objects that a cluster has from the start: system namespaces, `default/kubernetes` (K1, K2, EM7) and
//! `kube-system/kube-dns`, each Service with the Endpoints and slices that name the control plane's address.
//!
//! The same code makes them at the first start, repairs them at the next, and restores them when somebody deletes or
//! alters them while the cluster runs.

use std::fmt;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::info;

use super::endpoint_model::{SERVICE_NAME_LABEL, SKIP_MIRROR_LABEL};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_already_exists, is_invalid, is_not_found, run};
use crate::cluster::{Change, Cluster, Informer};
use crate::config::{CLUSTER_API_PORT, DNS_PORT, Network};

/// Namespaces that every cluster has.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Creates the system objects that are missing and repairs those that are wrong. Safe to call at every start.
pub async fn bootstrap(client: Client, network: &Network) -> Result<(), Error> {
    for part in Part::ALL {
        part.ensure(&client, network).await?;
    }
    Ok(())
}

/// A group of system objects that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    Namespaces,
    Kubernetes,
    Dns,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces",
            Self::Kubernetes => "default/kubernetes",
            Self::Dns => "kube-system/kube-dns",
        })
    }
}

impl Part {
    const ALL: [Self; 3] = [Self::Namespaces, Self::Kubernetes, Self::Dns];

    /// The part that an object of a Service kind belongs to. Slices are named after their Service.
    fn of(namespace: &str, name: &str) -> Option<Self> {
        match (namespace, name) {
            ("default", "kubernetes") => Some(Self::Kubernetes),
            ("kube-system", "kube-dns" | "kube-dns-ipv4" | "kube-dns-ipv6") => Some(Self::Dns),
            _ => None,
        }
    }

    async fn ensure(self, client: &Client, network: &Network) -> Result<(), Error> {
        match self {
            Self::Namespaces => {
                for name in SYSTEM_NAMESPACES {
                    ensure_namespace(client, name).await?;
                }
            }
            Self::Kubernetes => {
                ensure::<Service>(client, "default", "kubernetes", kubernetes_service(network)).await?;
                ensure::<Endpoints>(client, "default", "kubernetes", kubernetes_endpoints(network)).await?;
                ensure::<EndpointSlice>(client, "default", "kubernetes", kubernetes_slice(network)).await?;
            }
            Self::Dns => {
                ensure::<Service>(client, "kube-system", "kube-dns", dns_service(network)).await?;
                ensure::<Endpoints>(client, "kube-system", "kube-dns", dns_endpoints(network)).await?;
                for (name, slice) in dns_slices(network) {
                    ensure::<EndpointSlice>(client, "kube-system", name, slice).await?;
                }
            }
        }
        Ok(())
    }
}

/// K1.
fn kubernetes_service(network: &Network) -> Value {
    let vip = network.api_vip().v4;
    json!({
        "metadata": {"labels": {"component": "apiserver", "provider": "kubernetes"}},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip,
            "clusterIPs": [vip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": CLUSTER_API_PORT}],
            "sessionAffinity": "None",
        },
    })
}

/// K2; the label keeps the mirroring controller away (EM7).
fn kubernetes_endpoints(network: &Network) -> Value {
    json!({
        "metadata": {"labels": {SKIP_MIRROR_LABEL: "true"}},
        "subsets": [{
            "addresses": [{"ip": network.control_plane().v4}],
            "ports": [{"name": "https", "port": CLUSTER_API_PORT, "protocol": "TCP"}],
        }],
    })
}

/// EM7: no managed-by label, so no controller touches it.
fn kubernetes_slice(network: &Network) -> Value {
    json!({
        "metadata": {"labels": {SERVICE_NAME_LABEL: "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [network.control_plane().v4], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": CLUSTER_API_PORT, "protocol": "TCP"}],
    })
}

fn dns_service(network: &Network) -> Value {
    let vip = network.dns_vip();
    json!({
        "metadata": {"labels": {
            "k8s-app": "kube-dns",
            "kubernetes.io/cluster-service": "true",
            "kubernetes.io/name": "CoreDNS",
        }},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip.v4,
            "clusterIPs": vip.both(),
            "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "PreferDualStack",
            "ports": [
                {"name": "dns", "protocol": "UDP", "port": 53, "targetPort": DNS_PORT},
                {"name": "dns-tcp", "protocol": "TCP", "port": 53, "targetPort": DNS_PORT},
            ],
            "sessionAffinity": "None",
        },
    })
}

fn dns_ports() -> Value {
    json!([
        {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
        {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
    ])
}

fn dns_endpoints(network: &Network) -> Value {
    json!({
        "metadata": {"labels": {"k8s-app": "kube-dns", SKIP_MIRROR_LABEL: "true"}},
        "subsets": [{"addresses": [{"ip": network.control_plane().v4}], "ports": dns_ports()}],
    })
}

fn dns_slices(network: &Network) -> [(&'static str, Value); 2] {
    let at = network.control_plane();
    let slice = |family: &str, address: Value| {
        json!({
            "metadata": {"labels": {"k8s-app": "kube-dns", SERVICE_NAME_LABEL: "kube-dns"}},
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
            "ports": dns_ports(),
        })
    };
    [("kube-dns-ipv4", slice("IPv4", json!(at.v4))), ("kube-dns-ipv6", slice("IPv6", json!(at.v6)))]
}

async fn ensure_namespace(client: &Client, name: &str) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(client.clone());
    let failed = |e| Error::api(format!("create namespace {name}"))(e);
    if api.get_opt(name).await.map_err(failed)?.is_some() {
        return Ok(());
    }
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(name.to_owned());
    match api.create(&PostParams::default(), &namespace).await {
        Ok(_) => Ok(()),
        Err(e) if is_already_exists(&e) => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

/// Makes the object carry everything that `wanted` says; what else it carries (defaults, metadata) stays. An object
/// whose fixed fields are wrong, as when the cluster's address ranges were changed, is replaced by a new one.
async fn ensure<K>(client: &Client, namespace: &str, name: &str, mut wanted: Value) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let what = format!("{} {namespace}/{name}", K::kind(&()));
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    wanted["metadata"]["name"] = json!(name);
    wanted["metadata"]["namespace"] = json!(namespace);
    wanted["apiVersion"] = json!(K::api_version(&()));
    wanted["kind"] = json!(K::kind(&()));
    let typed = |value: &Value| K::deserialize(value).map_err(|source| Error::Encode { what: what.clone(), source });

    let found = api.get_opt(name).await.map_err(|e| Error::api(format!("read {what}"))(e))?;
    if let Some(found) = found {
        let before = serde_json::to_value(&found).map_err(|source| Error::Encode { what: what.clone(), source })?;
        let mut after = before.clone();
        json_patch::merge(&mut after, &wanted);
        if after == before {
            return Ok(());
        }
        match api.replace(name, &PostParams::default(), &typed(&after)?).await {
            Ok(_) => {
                info!(object = what, "system object repaired");
                return Ok(());
            }
            Err(e) if is_invalid(&e) => match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => {}
                Err(e) if is_not_found(&e) => {}
                Err(e) => return Err(Error::api(format!("replace {what}"))(e)),
            },
            Err(e) => return Err(Error::api(format!("repair {what}"))(e)),
        }
    }
    match api.create(&PostParams::default(), &typed(&wanted)?).await {
        Ok(_) => {
            info!(object = what, "system object created");
            Ok(())
        }
        Err(e) => Err(Error::api(format!("create {what}"))(e)),
    }
}

/// Restores system objects while the cluster runs (K1).
pub(super) struct SystemObjects {
    client: Client,
    network: Network,
}

impl SystemObjects {
    pub(super) fn start(client: &Client, cluster: &Cluster, network: &Network, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let system_objects = Arc::new(Self { client: client.clone(), network: network.clone() });
        tasks.spawn(follow(cluster.services.clone(), Arc::clone(&queue)));
        tasks.spawn(follow(cluster.endpoints.clone(), Arc::clone(&queue)));
        tasks.spawn(follow(cluster.slices.clone(), Arc::clone(&queue)));
        let mut namespaces = cluster.namespaces.subscribe();
        let of_namespaces = Arc::clone(&queue);
        tasks.spawn(async move {
            while let Some(change) = namespaces.recv().await {
                if let Change::Deleted(old) = change
                    && SYSTEM_NAMESPACES.contains(&&*old.name_any())
                {
                    of_namespaces.add(Part::Namespaces);
                }
            }
        });
        tasks.spawn(run("system-objects", system_objects, queue, 1));
    }
}

impl Reconcile for SystemObjects {
    type Key = Part;

    async fn reconcile(&self, part: &Part) -> Result<Action, Error> {
        part.ensure(&self.client, &self.network).await.map(|()| Action::Done)
    }
}

async fn follow<K: Resource>(informer: Informer<K>, queue: Arc<Queue<Part>>) {
    let mut changes = informer.subscribe();
    while let Some(change) = changes.recv().await {
        if let Change::Applied { new: object, .. } | Change::Deleted(object) = change
            && let Some(part) = Part::of(&object.namespace().unwrap_or_default(), &object.name_any())
        {
            queue.add(part);
        }
    }
}
