//! Ports of nodes that belong to Pods (rule P6).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use rustc_hash::FxHashMap;

use super::compiler::Compiler;
use super::service::{Endpoint, Hinted, Lists, ServicePort, ServicePortId};
use super::spec::{Names, intern, revision};
use super::{NodeInfo, Protocol, Via, Vip, VipKey};
use crate::cluster::ObjectKey;

/// A Pod that has ports of its node, with what is published of it.
pub(super) struct HostPod {
    uid: Arc<str>,
    revision: u64,
    node: Arc<str>,
    ips: Box<[IpAddr]>,
    ports: Box<[HostPort]>,
    ids: FxHashMap<(usize, bool), ServicePortId>,
    pub published: Vec<VipKey>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    name: Arc<str>,
    protocol: Protocol,
    container_port: u16,
    host_port: u16,
    /// None for all addresses of the node.
    host_ip: Option<IpAddr>,
}

impl HostPod {
    /// `None` for Pods without such a port, and while a Pod has no address: before its start and after its end. On the
    /// host's network a Pod has its ports anyway.
    pub(super) fn of(pod: &Pod, names: &mut Names) -> Option<Self> {
        let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        if ended || spec.host_network == Some(true) {
            return None;
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ports: Box<[HostPort]> = containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let number = |number: i32| u16::try_from(number).ok().filter(|number| *number > 0);
                let host_ip = port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok());
                Some(HostPort {
                    name: intern(names, port.name.as_deref().unwrap_or_default()),
                    protocol: Protocol::parse(port.protocol.as_deref())?,
                    container_port: number(port.container_port)?,
                    host_port: number(port.host_port?)?,
                    host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
                })
            })
            .collect();
        let ips: Box<[IpAddr]> = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.parse().ok()).collect();
        if ports.is_empty() || ips.is_empty() {
            return None;
        }
        Some(Self {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            revision: revision(&pod.metadata),
            node: intern(names, spec.node_name.as_deref()?),
            ips,
            ports,
            ids: FxHashMap::default(),
            published: Vec::new(),
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.uid, &self.node, &self.ips, &self.ports) == (&other.uid, &other.node, &other.ips, &other.ports)
    }

    /// The entries of the VIP table: one for each port, address of the Pod and address of the node of its family.
    fn vips(
        &mut self,
        key: &ObjectKey,
        node: &NodeInfo,
        mut next_id: impl FnMut() -> ServicePortId,
    ) -> Vec<(VipKey, Vip)> {
        let mut vips = Vec::new();
        for (index, port) in self.ports.iter().enumerate() {
            for ip in &self.ips {
                let service = Arc::new(ServicePort {
                    id: *self.ids.entry((index, ip.is_ipv6())).or_insert_with(&mut next_id),
                    namespace: key.namespace.as_str().into(),
                    name: key.name.as_str().into(),
                    port_name: Arc::clone(&port.name),
                    protocol: port.protocol,
                    port: port.host_port,
                    node_port: None,
                    uid: Arc::clone(&self.uid),
                    revision: self.revision,
                    of_pod: true,
                    slices: Arc::new([]),
                    internal_local: false,
                    external_local: false,
                    affinity: None,
                    source_ranges: None,
                    lists: Lists::compile(vec![self.endpoint(key, node, *ip, port.container_port)], false),
                });
                let meant =
                    |addr: &&IpAddr| addr.is_ipv6() == ip.is_ipv6() && port.host_ip.is_none_or(|ip| ip == **addr);
                for addr in node.addresses.iter().filter(meant) {
                    let key = VipKey { addr: *addr, protocol: port.protocol, port: port.host_port };
                    vips.push((key, Vip { service: Arc::clone(&service), via: Via::HostPort }));
                }
            }
        }
        vips
    }

    fn endpoint(&self, key: &ObjectKey, node: &NodeInfo, ip: IpAddr, port: u16) -> Hinted {
        Hinted {
            for_nodes: Arc::new([]),
            for_zones: Arc::new([]),
            endpoint: Endpoint {
                addr: SocketAddr::new(ip, port),
                node: Some(Arc::clone(&self.node)),
                zone: node.zone.clone(),
                pod: Some(key.name.as_str().into()),
                ready: true,
                serving: true,
                terminating: false,
            },
        }
    }
}

impl Compiler {
    pub fn pod_applied(&mut self, pod: &Pod) {
        let key = ObjectKey::of(pod);
        let Some(new) = HostPod::of(pod, &mut self.names) else { return self.pod_deleted(&key) };
        if self.host_pods.get(&key).is_some_and(|known| known.is_same(&new)) {
            return;
        }
        self.pod_deleted(&key);
        self.host_pods.insert(key.clone(), new);
        self.publish_pod(&key);
    }

    pub fn pod_deleted(&mut self, key: &ObjectKey) {
        if let Some(old) = self.host_pods.remove(key) {
            self.retract_vips(key, old.published);
        }
    }

    /// A node has other addresses now.
    pub(super) fn publish_pods_of(&mut self, node: &str) {
        let of_node = |(key, pod): (&ObjectKey, &HostPod)| (*pod.node == *node).then(|| key.clone());
        let keys: Vec<ObjectKey> = self.host_pods.iter().filter_map(of_node).collect();
        for key in keys {
            let published = self.host_pods.get_mut(&key).map(|pod| std::mem::take(&mut pod.published));
            self.retract_vips(&key, published.unwrap_or_default());
            self.publish_pod(&key);
        }
    }

    fn publish_pod(&mut self, key: &ObjectKey) {
        let Some(mut pod) = self.host_pods.remove(key) else { return };
        if let Some(node) = self.next.node(&pod.node).cloned() {
            let vips = pod.vips(key, &node, || self.next_id());
            pod.published = vips.iter().map(|(key, _)| *key).collect();
            for (vip_key, vip) in vips {
                self.publish_vip(vip_key, key, vip);
            }
        }
        self.host_pods.insert(key.clone(), pod);
    }
}
