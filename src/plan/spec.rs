//! API objects cut down to what the data plane reads of them. Here the rules on what is ignored are kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustc_hash::FxHashSet;

use crate::cluster::{ObjectKey, SERVICE_NAME_LABEL};
use crate::plan::service::{Endpoint, Hinted};
use crate::plan::{NodeInfo, Protocol};

/// Who has it serves a Service instead of the cluster's own proxy (rule S2).
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
const DEFAULT_AFFINITY_SECONDS: i32 = 10_800;

/// Names that many endpoints share, each kept once.
pub(super) type Names = FxHashSet<Arc<str>>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PortKey {
    pub v6: bool,
    pub name: Arc<str>,
    pub protocol: Protocol,
}

/// A proxied Service. Boxed slices, because there are tens of thousands and a small vector wastes three quarters.
pub(super) struct Spec {
    pub uid: Arc<str>,
    pub revision: u64,
    pub cluster_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    pub lb_ips: Box<[IpAddr]>,
    pub ports: Box<[Port]>,
    pub internal_local: bool,
    pub external_local: bool,
    pub affinity: Option<Duration>,
    ranges: Box<[IpNet]>,
}

pub(super) struct Port {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

impl Spec {
    /// `None` for Services that are not proxied (rules S1, S2).
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let labels = service.metadata.labels.as_ref();
        if spec.type_.as_deref() == Some("ExternalName") || labels.is_some_and(|l| l.contains_key(PROXY_NAME_LABEL)) {
            return None;
        }
        let cluster_ips = match spec.cluster_ips.as_deref() {
            Some(all) if !all.is_empty() => addresses(all),
            _ => addresses(spec.cluster_ip.as_slice()),
        };
        if cluster_ips.is_empty() {
            return None;
        }
        Some(Self {
            uid: service.metadata.uid.as_deref().unwrap_or_default().into(),
            revision: revision(&service.metadata),
            cluster_ips,
            external_ips: addresses(spec.external_ips.as_deref().unwrap_or_default()),
            lb_ips: load_balancer_ips(service),
            ports: ports(spec),
            internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
            affinity: affinity(spec),
            ranges: spec
                .load_balancer_source_ranges
                .iter()
                .flatten()
                .filter_map(|range| range.trim().parse().ok())
                .collect(),
        })
    }

    /// V3: a range of the whole family, or no range of this family, is no filter.
    pub(super) fn source_ranges(&self, v6: bool) -> Option<Arc<[IpNet]>> {
        let ranges: Arc<[IpNet]> = self.ranges.iter().filter(|range| range.addr().is_ipv6() == v6).copied().collect();
        (!ranges.is_empty() && ranges.iter().all(|range| range.prefix_len() > 0)).then_some(ranges)
    }
}

fn addresses(all: &[String]) -> Box<[IpAddr]> {
    all.iter().filter_map(|addr| addr.trim().parse().ok()).collect()
}

/// The load-balancer addresses that are captured inside of the cluster (rule V2): those whose mode is not Proxy.
pub fn load_balancer_ips(service: &Service) -> Box<[IpAddr]> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    entries
        .iter()
        .filter(|entry| matches!(entry.ip_mode.as_deref(), None | Some("VIP")))
        .filter_map(|entry| entry.ip.as_deref()?.parse().ok())
        .collect()
}

fn ports(spec: &ServiceSpec) -> Box<[Port]> {
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        Some(Port {
            name: port.name.as_deref().unwrap_or_default().into(),
            protocol: Protocol::parse(port.protocol.as_deref())?,
            port: u16::try_from(port.port).ok().filter(|port| *port > 0)?,
            node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
        })
    });
    ports.collect()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let configured = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = configured.and_then(|config| config.timeout_seconds).unwrap_or(DEFAULT_AFFINITY_SECONDS);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// An EndpointSlice of an IP family. Endpoints have port 0 here: each port of the slice makes its own copies.
pub(super) struct Slice {
    pub name: Arc<str>,
    pub revision: u64,
    pub v6: bool,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Hinted>,
}

pub(super) struct SlicePort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// The Service that a slice belongs to, or `None` when the slice is not for the data plane (rules S3-S5).
pub(super) fn owner(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice.metadata.labels.as_ref()?;
    if labels.contains_key(HEADLESS_LABEL) || !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let name = labels.get(SERVICE_NAME_LABEL).filter(|name| !name.is_empty())?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name.clone()))
}

impl Slice {
    pub(super) fn of(slice: &EndpointSlice, names: &mut Names) -> Self {
        let v6 = slice.address_type == "IPv6";
        // S7: a port without name or number is no port.
        let ports = slice.ports.iter().flatten().filter_map(|port| {
            Some(SlicePort {
                name: intern(names, port.name.as_deref()?),
                protocol: Protocol::parse(port.protocol.as_deref())?,
                port: u16::try_from(port.port?).ok().filter(|port| *port > 0)?,
            })
        });
        let ports = ports.collect();
        let endpoints = slice.endpoints.iter().flatten();
        Self {
            name: slice.metadata.name.as_deref().unwrap_or_default().into(),
            revision: revision(&slice.metadata),
            v6,
            ports,
            endpoints: endpoints.filter_map(|endpoint| hinted(endpoint, v6, names)).collect(),
        }
    }
}

fn hinted(endpoint: &ApiEndpoint, v6: bool, names: &mut Names) -> Option<Hinted> {
    // S8: the first address is the endpoint.
    let addr: IpAddr = endpoint.addresses.first()?.parse().ok()?;
    if addr.is_ipv6() != v6 {
        return None;
    }
    // S11: what absent conditions mean.
    let conditions = endpoint.conditions.as_ref();
    let condition = |value: Option<bool>, absent: bool| value.unwrap_or(absent);
    let hints = endpoint.hints.as_ref();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_deref()).unwrap_or_default();
    let zones = hints.and_then(|hints| hints.for_zones.as_deref()).unwrap_or_default();
    Some(Hinted {
        for_nodes: nodes.iter().map(|hint| intern(names, &hint.name)).collect(),
        for_zones: zones.iter().map(|hint| intern(names, &hint.name)).collect(),
        endpoint: Endpoint {
            addr: SocketAddr::new(addr, 0),
            node: endpoint.node_name.as_deref().map(|name| intern(names, name)),
            zone: endpoint.zone.as_deref().map(|name| intern(names, name)),
            pod: endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| target.name.as_deref())
                .map(Into::into),
            ready: condition(conditions.and_then(|c| c.ready), true),
            serving: condition(conditions.and_then(|c| c.serving), true),
            terminating: condition(conditions.and_then(|c| c.terminating), false),
        },
    })
}

pub(super) fn node(node: &Node, names: &mut Names) -> NodeInfo {
    let addresses = node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let spec = node.spec.as_ref();
    let mut pod_cidrs: Vec<IpNet> =
        spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect();
    if pod_cidrs.is_empty() {
        pod_cidrs.extend(spec.and_then(|s| s.pod_cidr.as_deref()?.parse::<IpNet>().ok()));
    }
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    NodeInfo {
        name: intern(names, node.metadata.name.as_deref().unwrap_or_default()),
        addresses: addresses
            .iter()
            .filter(|address| address.type_ == "InternalIP")
            .filter_map(|address| address.address.parse().ok())
            .collect(),
        pod_cidrs: pod_cidrs.into(),
        zone: zone.map(|zone| intern(names, zone)),
    }
}

/// An object's resourceVersion as the number that it is here; zero where there is none.
pub(super) fn revision(metadata: &ObjectMeta) -> u64 {
    metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

pub(super) fn intern(names: &mut Names, name: &str) -> Arc<str> {
    if let Some(known) = names.get(name) {
        return Arc::clone(known);
    }
    let new: Arc<str> = name.into();
    names.insert(Arc::clone(&new));
    new
}
