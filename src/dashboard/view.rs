//! The shape of the map on the wire, and how cluster objects become it. `web/src/model/types.ts` says the same in
//! TypeScript; `web/src/model/fixture.json` is read by the tests of both sides, so that they can't drift apart.
//!
//! Conventions: names are camelCase, an empty list or missing text is left out of the JSON, lists have a fixed order
//! so that equal things are equal text. What ten thousand endpoints have in common is said once: an endpoint that is
//! ready says nothing of its conditions, and nothing of ports that are its Service's usual ones.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerStatus, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;

use crate::cluster::{ObjectKey, SERVICE_NAME_LABEL};

/// The label that withdraws a slice's endpoints from the proxy (rule S3).
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The whole map. Services and Pods are ordered by namespace and name, nodes by name.
#[derive(Debug, Serialize)]
pub struct Snapshot<'a> {
    /// Counts patches; a patch that follows this snapshot has the next number.
    pub revision: u64,
    pub version: &'a str,
    pub services: Vec<&'a ServiceView>,
    pub pods: Vec<&'a PodView>,
    pub nodes: Vec<&'a NodeView>,
}

/// What changed since the revision before.
#[derive(Debug, Serialize)]
pub struct Patch<'a> {
    pub revision: u64,
    #[serde(skip_serializing_if = "Delta::is_empty")]
    pub services: Delta<'a, ServiceView>,
    /// Of Services that are the same but for some of their endpoints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointsDelta<'a>>,
    #[serde(skip_serializing_if = "Delta::is_empty")]
    pub pods: Delta<'a, PodView>,
    #[serde(skip_serializing_if = "Delta::is_empty")]
    pub nodes: Delta<'a, NodeView>,
}

/// Changed things whole, removed things by key: `namespace/name`, or `name` for nodes.
#[derive(Debug, Serialize)]
pub struct Delta<'a, V> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<&'a V>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
}

impl<V> Delta<'_, V> {
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// The endpoints of one Service that differ.
#[derive(Debug, Serialize)]
pub struct EndpointsDelta<'a> {
    /// The Service's `namespace/name`.
    pub service: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<&'a EndpointView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<EndpointKey>,
}

/// What tells an endpoint of a Service from the others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointKey {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub ip: String,
}

/// What passed since the last time, see [`Meter`](super::Meter).
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// How long that was.
    pub milliseconds: u64,
    /// Service, Pod (or `ip:ADDRESS` of an endpoint that is none), bytes in both directions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed: Vec<(String, String, u64)>,
    /// Service, packets to it that were dropped or rejected.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(String, u64)>,
}

impl Traffic {
    pub fn is_empty(&self) -> bool {
        self.passed.is_empty() && self.refused.is_empty()
    }
}

/// A Service with the endpoints of all its slices.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    #[serde(flatten)]
    pub head: ServiceHead,
    /// Ordered by Pod, then address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointView>,
}

/// A Service without its endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceHead {
    pub namespace: String,
    pub name: String,
    /// `ClusterIP`, `NodePort`, `LoadBalancer`, `ExternalName`, or `Headless` for a Service with `clusterIP: None`.
    pub r#type: String,
    /// Addresses that the router answers: cluster IPs, then external IPs, then load-balancer addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<String>,
    /// The name that an `ExternalName` Service stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortView>,
    /// On which ports most of its endpoints answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<EndpointPortView>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A port of a Service. `target_port` is what its author wrote: a number or a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortView {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub protocol: String,
    pub port: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<String>,
}

/// One address behind a Service. Conditions are as rule S11 reads them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// The Pod's `namespace/name`, where the slice names a Pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub ip: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_ready: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub not_serving: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub terminating: bool,
    /// Where they are not the Service's `targets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<EndpointPortView>>,
}

impl EndpointView {
    pub fn key(&self) -> EndpointKey {
        EndpointKey { pod: self.pod.clone(), ip: self.ip.clone() }
    }
}

/// A port on which an endpoint answers for the Service port of the same name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointPortView {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub protocol: String,
    pub port: i32,
}

/// A Pod as the map shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PodView {
    pub namespace: String,
    pub name: String,
    /// Tells a Pod from its successor of the same name.
    pub uid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    pub phase: String,
    pub ready: bool,
    pub terminating: bool,
    /// One word as in kubectl's STATUS column: `Running`, `CrashLoopBackOff`, `Terminating`.
    pub status: String,
    /// Why it isn't well, in the words of the part that noticed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    pub restarts: i32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// A node as the map shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeView {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    pub ready: bool,
}

/// The Service that a slice belongs to, if any (rule S4).
pub fn owner_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

/// A Service and the slices that belong to it, in any order.
pub fn service<'a>(service: &Service, slices: impl IntoIterator<Item = &'a EndpointSlice>) -> ServiceView {
    let key = ObjectKey::of(service);
    let mut view = ServiceHead { namespace: key.namespace, name: key.name, ..Default::default() };
    view.labels = service.metadata.labels.clone().unwrap_or_default();
    view.r#type = "ClusterIP".to_owned();
    let mut headless = false;
    if let Some(spec) = &service.spec {
        headless = spec.cluster_ip.as_deref() == Some("None");
        if headless {
            view.r#type = "Headless".to_owned();
        } else if let Some(kind) = &spec.type_ {
            view.r#type.clone_from(kind);
        }
        view.external_name.clone_from(&spec.external_name);
        let cluster_ips = spec.cluster_ips.iter().flatten();
        let cluster_ips = cluster_ips.chain(spec.cluster_ip.iter().filter(|_| spec.cluster_ips.is_none()));
        let external_ips = spec.external_ips.iter().flatten();
        view.vips.extend(cluster_ips.chain(external_ips).filter(|ip| ip.parse::<IpAddr>().is_ok()).cloned());
        view.ports.extend(spec.ports.iter().flatten().map(|port| PortView {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            node_port: port.node_port,
            target_port: port.target_port.as_ref().map(|target| match target {
                IntOrString::Int(number) => number.to_string(),
                IntOrString::String(name) => name.clone(),
            }),
        }));
    }
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref()).into_iter().flatten();
    view.vips.extend(ingress.filter_map(|ingress| ingress.ip.clone().or_else(|| ingress.hostname.clone())));
    let (targets, endpoints) = endpoints(slices, headless);
    view.targets = targets;
    ServiceView { head: view, endpoints }
}

/// Merges the endpoints of a Service's slices by Pod and address (rules S5, S7 to S11), and says which ports most of
/// them have.
fn endpoints<'a>(
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    headless: bool,
) -> (Vec<EndpointPortView>, Vec<EndpointView>) {
    let mut merged: BTreeMap<EndpointKey, (EndpointView, Vec<EndpointPortView>)> = BTreeMap::new();
    for slice in slices {
        let withdrawn = slice.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(HEADLESS));
        if slice.address_type == "FQDN" || (withdrawn && !headless) {
            continue;
        }
        let usable = slice.ports.iter().flatten().filter_map(|port| {
            let number = port.port.filter(|number| *number != 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some(EndpointPortView { name: port.name.clone()?, protocol, port: number })
        });
        let ports: Vec<EndpointPortView> = usable.collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let Some(ip) = endpoint.addresses.first() else { continue };
            let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            let pod = target.and_then(|target| {
                let namespace = target.namespace.as_deref().or(slice.metadata.namespace.as_deref()).unwrap_or_default();
                Some(format!("{namespace}/{}", target.name.as_deref()?))
            });
            let conditions = endpoint.conditions.as_ref();
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let seen = EndpointView {
                pod,
                ip: ip.clone(),
                node: endpoint.node_name.clone(),
                not_ready: !conditions.and_then(|c| c.ready).unwrap_or(true),
                not_serving: !conditions.and_then(|c| c.serving).unwrap_or(true),
                terminating,
                ports: None,
            };
            let (known, known_ports) = merged.entry(seen.key()).or_insert_with(|| (seen.clone(), Vec::new()));
            if known.terminating && !terminating {
                *known = seen;
            }
            known_ports.extend_from_slice(&ports);
        }
    }
    let mut counts: BTreeMap<Vec<EndpointPortView>, usize> = BTreeMap::new();
    for (_, ports) in merged.values_mut() {
        ports.sort_unstable();
        ports.dedup();
        match counts.get_mut(ports) {
            Some(count) => *count += 1,
            None => _ = counts.insert(ports.clone(), 1),
        }
    }
    let usual = counts.into_iter().max_by_key(|(_, count)| *count).map(|(ports, _)| ports).unwrap_or_default();
    let endpoints = merged
        .into_values()
        .map(|(endpoint, ports)| EndpointView { ports: (ports != usual).then_some(ports), ..endpoint });
    let endpoints = endpoints.collect();
    (usual, endpoints)
}

/// A Pod with the word that kubectl would print for it.
pub fn pod(pod: &Pod) -> PodView {
    let key = ObjectKey::of(pod);
    let mut view = PodView {
        namespace: key.namespace,
        name: key.name,
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|node| !node.is_empty()),
        phase: "Pending".to_owned(),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        ..Default::default()
    };
    if let Some(status) = &pod.status {
        if let Some(phase) = &status.phase {
            view.phase.clone_from(phase);
        }
        view.ips.extend(status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()));
        if view.ips.is_empty() {
            view.ips.extend(status.pod_ip.clone());
        }
        let containers = || status.container_statuses.iter().flatten();
        view.restarts = containers().map(|container| container.restart_count).sum();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        view.ready = ready.is_some_and(|condition| condition.status == "True");
        let trouble = status.init_container_statuses.iter().flatten().chain(containers()).find_map(trouble);
        let reason = status.reason.clone().map(|reason| (reason, status.message.clone()));
        if let Some((word, message)) = reason.or(trouble) {
            view.status = word;
            view.message = message;
        } else if !view.ready {
            let unscheduled = || {
                let mut conditions = status.conditions.iter().flatten();
                conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            };
            view.message = unscheduled().or(ready).and_then(|condition| condition.message.clone());
        }
    }
    if view.terminating {
        view.status = "Terminating".to_owned();
    } else if view.status.is_empty() {
        view.status.clone_from(&view.phase);
    }
    view.message = view.message.filter(|message| !message.is_empty());
    view
}

/// What keeps a container from running well: a waiting reason, or an end that wasn't asked for.
fn trouble(container: &ContainerStatus) -> Option<(String, Option<String>)> {
    let state = container.state.as_ref()?;
    if let Some(waiting) = &state.waiting {
        return Some((waiting.reason.clone()?, waiting.message.clone()));
    }
    let ended = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let reason = ended.reason.clone().unwrap_or_else(|| "Error".to_owned());
    Some((reason, ended.message.clone().or_else(|| Some(format!("exit code {}", ended.exit_code)))))
}

pub fn node(node: &Node) -> NodeView {
    let status = node.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
    let conditions = status.and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    NodeView {
        name: node.metadata.name.clone().unwrap_or_default(),
        zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE).cloned()),
        addresses: addresses.filter(|a| a.type_.ends_with("IP")).map(|a| a.address.clone()).collect(),
        ready: conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
    }
}
