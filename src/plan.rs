//! What the router knows of the cluster: an immutable plan, compiled from Services, EndpointSlices and Nodes.
//!
//! [`Compiler`] takes changes of API objects and yields an [`Arc<Plan>`](Plan) with a new epoch. It is pure: no
//! I/O, no time. A change costs as much as the Service that it concerns, whatever the number of Services, because
//! the tables are persistent maps (a clone is O(1), an update copies one path) and every Service port is an `Arc`
//! of its own. A lookup costs the same with one Service as with ten thousand.
//!
//! A plan is for the whole cluster, not for one node: the nodes' different views (local endpoints, zone hints) are
//! lists beside each other in [`ServicePort`], chosen by node at lookup. So one plan in memory serves all nodes.
//!
//! [`run`] is the driver that follows the shared informer cache and hands each new plan to the data plane.

mod compiler;
mod driver;
mod host_ports;
mod service;
mod spec;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxBuildHasher;

use crate::config::Network;

pub use compiler::Compiler;
pub use driver::run;
pub use service::{Candidates, Endpoint, Filter, ListKind, Scope, ServicePort, ServicePortId, SliceRef};
pub use spec::{PROXY_NAME_LABEL, load_balancer_ips};

/// A persistent map: cloning shares everything, updating copies one path.
pub(crate) type Map<K, V> = imbl::GenericHashMap<K, V, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// The transport protocols that a Service port can have (rule F1), as IP protocol numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    /// The protocol of a Service port or slice port; TCP when the field is absent.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("" | "TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

/// Which of a Service's doors a packet came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Via {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    NodePort,
    /// No Service's, but a Pod's own port of its node (rule P6).
    HostPort,
}

impl Via {
    /// Everything but the ClusterIP counts as external traffic, wherever the client is.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "externalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::HostPort => "hostPort",
        }
    }
}

/// A virtual address with its port: the key of the table that captures Service traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    pub addr: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
}

/// A node port of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodePortKey {
    pub v6: bool,
    pub protocol: Protocol,
    pub port: u16,
}

/// An entry of the VIP table.
#[derive(Clone, Debug)]
pub struct Vip {
    pub service: Arc<ServicePort>,
    pub via: Via,
}

/// What the data plane needs to know of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// The node's InternalIP addresses.
    pub addresses: Box<[IpAddr]>,
    pub pod_cidrs: Box<[IpNet]>,
    /// The label `topology.kubernetes.io/zone` (rules T3, T6).
    pub zone: Option<Arc<str>>,
}

/// The cluster's address ranges, both families each; `service` grows with every further ServiceCIDR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub service: Box<[IpNet]>,
    pub pod: Box<[IpNet]>,
    pub node: Box<[IpNet]>,
    pub load_balancer: Box<[IpNet]>,
}

impl Ranges {
    pub fn of(network: &Network) -> Self {
        Self {
            service: Box::new([network.service_v4.into(), network.service_v6.into()]),
            pod: Box::new([network.pod_v4.into(), network.pod_v6.into()]),
            node: Box::new([network.node_v4.into(), network.node_v6.into()]),
            load_balancer: Box::new([network.lb_v4.into(), network.lb_v6.into()]),
        }
    }

    /// Whether a Pod or a node could have this address.
    pub fn is_host(&self, addr: IpAddr) -> bool {
        contains(&self.pod, addr) || contains(&self.node, addr)
    }

    pub fn is_service(&self, addr: IpAddr) -> bool {
        contains(&self.service, addr)
    }

    pub fn is_load_balancer(&self, addr: IpAddr) -> bool {
        contains(&self.load_balancer, addr)
    }
}

fn contains(ranges: &[IpNet], addr: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&addr))
}

/// Everything that the first packet of a flow is decided by. Immutable; cloning is O(1).
#[derive(Clone, Debug)]
pub struct Plan {
    /// Grows by one with every plan that differs from the one before.
    pub epoch: u64,
    ranges: Arc<Ranges>,
    vips: Map<VipKey, Vip>,
    cluster_ips: Map<IpAddr, Arc<str>>,
    node_ports: Map<NodePortKey, Arc<ServicePort>>,
    nodes: Map<Arc<str>, Arc<NodeInfo>>,
}

impl Plan {
    /// The plan of a cluster without objects, epoch 0.
    pub fn empty(network: &Network) -> Self {
        Self {
            epoch: 0,
            ranges: Arc::new(Ranges::of(network)),
            vips: Map::default(),
            cluster_ips: Map::default(),
            node_ports: Map::default(),
            nodes: Map::default(),
        }
    }

    /// The Service port behind a virtual address: ClusterIP, externalIP or load-balancer VIP (rules V1, V2); or a Pod's
    /// port of its node (rule P6).
    pub fn vip(&self, addr: IpAddr, protocol: Protocol, port: u16) -> Option<&Vip> {
        self.vips.get(&VipKey { addr, protocol, port })
    }

    /// The Service port behind a node port, for packets to an address of the node that they are at (rule P1).
    pub fn node_port(&self, v6: bool, protocol: Protocol, port: u16) -> Option<&Arc<ServicePort>> {
        self.node_ports.get(&NodePortKey { v6, protocol, port })
    }

    /// The Service that owns a ClusterIP, as `namespace/name`: an unknown port of it is rejected, not dropped.
    pub fn cluster_ip_owner(&self, addr: IpAddr) -> Option<&Arc<str>> {
        self.cluster_ips.get(&addr)
    }

    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.nodes.get(name)
    }

    pub fn nodes(&self) -> impl Iterator<Item = &Arc<NodeInfo>> {
        self.nodes.values()
    }

    pub fn ranges(&self) -> &Ranges {
        &self.ranges
    }

    /// All entries of the VIP table, in no order.
    pub fn vips(&self) -> impl Iterator<Item = (&VipKey, &Vip)> {
        self.vips.iter()
    }

    /// All entries of the node-port table, in no order.
    pub fn node_ports(&self) -> impl Iterator<Item = (&NodePortKey, &Arc<ServicePort>)> {
        self.node_ports.iter()
    }
}
