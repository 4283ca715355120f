//! One `Config` per part and one sum, printed once at start.
//!
//! Defaults stand here as constants, so that a reader finds every address and limit in one place.

mod selection;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub use selection::{Controller, Selection};

/// The database in a data directory.
pub const DATABASE_FILE: &str = "vipyard.db";
/// Where a data directory has the cluster's keys.
pub const PKI_FOLDER: &str = "pki";
/// Where a data directory has what PersistentVolumeClaims keep.
pub const CLAIMS_FOLDER: &str = "volumes";
/// Tells, in the data directory of a running cluster, where its image map is.
pub const IMAGE_MAP_FILE: &str = "image-map";
pub const API_LISTEN: &str = "127.0.0.1:6443";
pub const UI_LISTEN: &str = "127.0.0.1:8080";
/// A port that the kernel chooses.
pub const DNS_LISTEN: &str = "127.0.0.1:0";
pub const NODES: u16 = 3;
/// The most nodes that the node and Pod ranges have room for.
pub const MAX_NODES: u16 = 200;
pub const CLUSTER_DOMAIN: &str = "cluster.local";
/// Large enough that a 64 KiB segment passes a TUN whole.
pub const POD_MTU: u32 = 65520;
/// Records that the flow log keeps, about 400 bytes each.
pub const FLOW_LOG: usize = 16_384;
pub const NODE_PORT_RANGE: std::ops::RangeInclusive<u16> = 30000..=32767;
/// Port on which the API server answers inside the cluster, on the control plane's address.
pub const CLUSTER_API_PORT: u16 = 6443;
pub const DNS_PORT: u16 = 53;
/// Where each node answers for its proxy's health, as kube-proxy does.
pub const PROXY_HEALTH_PORT: u16 = 10256;
/// Where each node tells its proxy's mode, on its loopback address only.
pub const PROXY_MODE_PORT: u16 = 10249;

/// The ServiceCIDR of the ranges that the cluster was started with.
pub const OWN_SERVICE_CIDR: &str = "kubernetes";
/// Where each node has its Lease.
pub const NODE_LEASES: &str = "kube-node-lease";

/// What `vipyard up` was asked to do.
#[derive(Clone, Debug)]
pub struct Config {
    pub store: StoreConfig,
    pub api_listen: SocketAddr,
    pub ui_listen: SocketAddr,
    pub nodes: u16,
    pub network: Network,
    pub host_access: HostAccess,
    /// The file that maps names of images.
    pub images: Option<PathBuf>,
    pub node_times: NodeTimes,
    pub controllers: Selection,
    pub dns: DnsConfig,
    pub data_dir: PathBuf,
    /// Where `/metrics` is served without asking who asks; nowhere when it is not said.
    pub metrics_listen: Option<SocketAddr>,
    /// Records that the flow log keeps; 0 switches it off.
    pub flow_log: usize,
    /// A second place for the kubeconfig, beside `DATA_DIR/kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
}

/// How long a node that is lost is waited for, and how long its Pods stay.
#[derive(Clone, Copy, Debug)]
pub struct NodeTimes {
    /// From a node's last heartbeat until nothing is known of it any more.
    pub monitor_grace: Duration,
    /// For how many seconds Pods that say nothing else stay on a node that is not ready,
    pub not_ready_toleration: i64,
    /// and on one that is lost.
    pub unreachable_toleration: i64,
    /// How long a node must not have existed before its Pods are removed.
    pub absence: Duration,
}

impl NodeTimes {
    /// As the flags of kube-controller-manager and kube-apiserver have them.
    pub const MONITOR_GRACE_SECONDS: u64 = 50;
    pub const TOLERATION_SECONDS: i64 = 300;
    pub const ABSENCE: Duration = Duration::from_secs(10);
}

impl Default for NodeTimes {
    fn default() -> Self {
        Self {
            monitor_grace: Duration::from_secs(Self::MONITOR_GRACE_SECONDS),
            not_ready_toleration: Self::TOLERATION_SECONDS,
            unreachable_toleration: Self::TOLERATION_SECONDS,
            absence: Self::ABSENCE,
        }
    }
}

/// Where names are answered and asked.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// Where the host asks cluster DNS, UDP and TCP.
    pub listen: SocketAddr,
    /// Resolvers for names outside the cluster; without any, the host's own.
    pub upstreams: Vec<SocketAddr>,
    /// Domains with resolvers of their own.
    pub stubs: Vec<(String, SocketAddr)>,
    /// A file that takes a line for each question.
    pub log: Option<PathBuf>,
}

/// Whether the host itself is connected to the cluster, by a TUN device in the namespace that vipyard is started in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum HostAccess {
    /// Where it is allowed
    #[default]
    Auto,
    /// Or else no start
    Yes,
    /// The host's network stays as it is
    No,
}

#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The database file, or `None` for a cluster that is forgotten at its end.
    pub path: Option<PathBuf>,
    /// Revisions kept for watches and exact lists before compaction takes the oldest.
    pub keep_revisions: u64,
}

impl StoreConfig {
    pub const KEEP_REVISIONS: u64 = 100_000;

    pub fn in_memory() -> Self {
        Self { path: None, keep_revisions: Self::KEEP_REVISIONS }
    }

    pub fn at(path: PathBuf) -> Self {
        Self { path: Some(path), keep_revisions: Self::KEEP_REVISIONS }
    }
}

/// The cluster's address plan. Each range has an IPv4 and an IPv6 half.
///
/// * Service addresses: the first of each range is the API's VIP, the tenth the DNS server's.
/// * Pod addresses: node *i* (from 1) has the *i*-th /24 and the *i*-th /64.
/// * Node addresses: the first host address is the control plane's (API and DNS listen there), the second the host's
///   own when it is connected, the third the gate's to the world; node *i* has the host number 10 + *i*.
#[derive(Clone, Debug)]
pub struct Network {
    pub service_v4: Ipv4Net,
    pub service_v6: Ipv6Net,
    pub pod_v4: Ipv4Net,
    pub pod_v6: Ipv6Net,
    pub node_v4: Ipv4Net,
    pub node_v6: Ipv6Net,
    pub lb_v4: Ipv4Net,
    pub lb_v6: Ipv6Net,
    pub domain: String,
    pub mtu: u32,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            service_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 16),
            service_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0), 112),
            pod_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            pod_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0), 56),
            node_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 245, 0, 0), 24),
            node_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x245, 0, 0, 0, 0, 0), 64),
            lb_v4: Ipv4Net::new_assert(Ipv4Addr::new(10, 246, 0, 0), 24),
            lb_v6: Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x10, 0x246, 0, 0, 0, 0, 0), 112),
            domain: CLUSTER_DOMAIN.to_owned(),
            mtu: POD_MTU,
        }
    }
}

/// An IPv4 and an IPv6 address of the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DualAddr {
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl DualAddr {
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}

impl Network {
    /// The VIP of `default/kubernetes` (rule K1: the first address of the Service range).
    pub fn api_vip(&self) -> DualAddr {
        nth(self.service_v4, self.service_v6, 1)
    }

    /// The VIP of `kube-system/kube-dns`.
    pub fn dns_vip(&self) -> DualAddr {
        nth(self.service_v4, self.service_v6, 10)
    }

    /// Where API and DNS listen inside the cluster.
    pub fn control_plane(&self) -> DualAddr {
        nth(self.node_v4, self.node_v6, 1)
    }

    /// The host's own address in the cluster: Pods see it as the client, and reach the host by it.
    pub fn host(&self) -> DualAddr {
        nth(self.node_v4, self.node_v6, 2)
    }

    /// Where connections of Pods into the world end, to be carried on from there.
    pub fn gate(&self) -> DualAddr {
        nth(self.node_v4, self.node_v6, 3)
    }

    /// The address of node `index`, counted from 1.
    pub fn node_addr(&self, index: u16) -> DualAddr {
        nth(self.node_v4, self.node_v6, 10 + u32::from(index))
    }

    /// The Pod ranges of node `index`, counted from 1: a /24 and a /64.
    pub fn node_pod_cidrs(&self, index: u16) -> (Ipv4Net, Ipv6Net) {
        let v4 = u32::from(self.pod_v4.network()) + (u32::from(index) << 8);
        let v6 = u128::from(self.pod_v6.network()) + (u128::from(index) << 64);
        (Ipv4Net::new_assert(v4.into(), 24), Ipv6Net::new_assert(v6.into(), 64))
    }

    /// Every range that belongs to the cluster, with the name of the flag that moves it.
    pub fn ranges(&self) -> [(&'static str, IpNet); 8] {
        [
            ("--service-cidr", self.service_v4.into()),
            ("--service-cidr", self.service_v6.into()),
            ("--pod-cidr", self.pod_v4.into()),
            ("--pod-cidr", self.pod_v6.into()),
            ("--node-cidr", self.node_v4.into()),
            ("--node-cidr", self.node_v6.into()),
            ("--lb-cidr", self.lb_v4.into()),
            ("--lb-cidr", self.lb_v6.into()),
        ]
    }
}

/// Whether two ranges have addresses in common.
pub fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

fn nth(v4: Ipv4Net, v6: Ipv6Net, n: u32) -> DualAddr {
    DualAddr { v4: (u32::from(v4.network()) + n).into(), v6: (u128::from(v6.network()) + u128::from(n)).into() }
}

/// The name of a claim's volume, and of its folder.
pub fn claim_volume(claim_uid: &str) -> String {
    format!("pvc-{claim_uid}")
}

/// The name of node `index`, counted from 1.
pub fn node_name(index: u16) -> String {
    format!("n{index}")
}

/// The zone of node `index`, counted from 1: a, b, c and round again.
pub fn node_zone(index: u16) -> &'static str {
    ["a", "b", "c"][usize::from((index - 1) % 3)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_plan_follows_the_design() {
        let net = Network::default();
        assert_eq!(net.api_vip().v4.to_string(), "10.96.0.1");
        assert_eq!(net.dns_vip().both().map(|a| a.to_string()), ["10.96.0.10", "fd00:10:96::a"]);
        assert_eq!(net.control_plane().v4.to_string(), "10.245.0.1");
        assert_eq!(net.node_addr(2).both().map(|a| a.to_string()), ["10.245.0.12", "fd00:10:245::c"]);
        let (v4, v6) = net.node_pod_cidrs(3);
        assert_eq!((v4.to_string(), v6.to_string()), ("10.244.3.0/24".into(), "fd00:10:244:3::/64".into()));
        assert_eq!([1, 2, 3, 4].map(node_zone), ["a", "b", "c", "a"]);
    }
}
