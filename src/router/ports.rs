//! The router's local truth: which address is behind which port, and on which node.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{PortId, PortKind};

/// A connected device, without the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    pub id: PortId,
    pub name: Arc<str>,
    /// The Pod's uid; empty for others.
    pub uid: Arc<str>,
    pub kind: PortKind,
    pub node: Arc<str>,
    pub addresses: Box<[IpAddr]>,
}

impl PortInfo {
    /// Whether this is a host of its own: what it sends is not forwarded by its node but comes from it.
    pub fn is_host(&self) -> bool {
        self.kind != PortKind::Pod
    }

    pub fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|addr| addr.is_ipv6() == v6)
    }
}

/// All connected devices.
#[derive(Clone, Default)]
pub struct PortTable {
    by_id: FxHashMap<PortId, Arc<PortInfo>>,
    by_addr: FxHashMap<IpAddr, Arc<PortInfo>>,
    hosts: FxHashMap<Arc<str>, Arc<PortInfo>>,
    gate: Option<Arc<PortInfo>>,
}

impl PortTable {
    /// Enters a port.
    ///
    /// # Errors
    /// The address that already belongs to another port, with that port's name.
    pub fn insert(&mut self, port: PortInfo) -> Result<(), (IpAddr, Arc<str>)> {
        let taken = port.addresses.iter().find_map(|addr| Some((*addr, Arc::clone(&self.by_addr.get(addr)?.name))));
        if let Some(taken) = taken {
            return Err(taken);
        }
        let port = Arc::new(port);
        for addr in &port.addresses {
            self.by_addr.insert(*addr, Arc::clone(&port));
        }
        if port.is_host() {
            self.hosts.insert(Arc::clone(&port.node), Arc::clone(&port));
        }
        if port.kind == PortKind::Gate {
            self.gate = Some(Arc::clone(&port));
        }
        self.by_id.insert(port.id, port);
        Ok(())
    }

    pub fn remove(&mut self, id: PortId) {
        let Some(port) = self.by_id.remove(&id) else { return };
        for addr in &port.addresses {
            self.by_addr.remove(addr);
        }
        if self.hosts.get(&port.node).is_some_and(|host| host.id == id) {
            self.hosts.remove(&port.node);
        }
        if self.gate.as_ref().is_some_and(|gate| gate.id == id) {
            self.gate = None;
        }
    }

    pub fn get(&self, id: PortId) -> Option<&Arc<PortInfo>> {
        self.by_id.get(&id)
    }

    pub fn contains(&self, id: PortId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The port behind an address.
    pub fn owner(&self, addr: IpAddr) -> Option<&Arc<PortInfo>> {
        self.by_addr.get(&addr)
    }

    /// A node's own address of a family: what it masquerades with and answers from.
    pub fn host_address(&self, node: &str, v6: bool) -> Option<IpAddr> {
        self.hosts.get(node)?.address(v6)
    }

    /// The port of that kind and name.
    pub fn named(&self, kind: PortKind, name: &str) -> Option<&Arc<PortInfo>> {
        self.by_id.values().find(|port| port.kind == kind && *port.name == *name)
    }

    /// A port of that kind.
    pub fn of_kind(&self, kind: PortKind) -> Option<&Arc<PortInfo>> {
        self.by_id.values().find(|port| port.kind == kind)
    }

    /// The way into the world, when there is one.
    pub fn gate(&self) -> Option<&Arc<PortInfo>> {
        self.gate.as_ref()
    }

    /// The nodes of the cluster, in no order.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<PortInfo>> + Clone {
        self.hosts.values().filter(|port| port.kind == PortKind::Node)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
}
