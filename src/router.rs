//! The packet router: TUN devices in, TUN devices out, Service VIPs translated on the way.

pub mod balance;
pub mod checksum;
mod dataplane;
pub mod flow;
pub mod fragments;
pub mod icmp;
pub mod nat;
pub mod pipeline;
pub mod ports;
mod route;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod wire;
mod worker;

use std::io;
use std::net::IpAddr;

use crate::sys::tun::Tun;

pub use dataplane::{Router, RouterConfig};

/// What stands behind a device of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A Pod's `eth0`. Its packets must come from one of its own addresses.
    Pod,
    /// A node's own network namespace: kubelet probes and hostNetwork Pods.
    Node,
    /// The control plane's namespace, where API and DNS listen.
    ControlPlane,
}

/// A device to be connected to the router.
#[derive(Debug)]
pub struct PortSpec {
    /// For logs, flows and captures: `namespace/pod`, a node's name, or `control-plane`.
    pub name: String,
    pub kind: PortKind,
    /// Name of the node that it belongs to; the control plane's own name for its port.
    pub node: String,
    /// The addresses that are reached through this device, and that it may send from.
    pub addresses: Vec<IpAddr>,
    pub device: Tun,
}

/// Names a connected device. Never used twice in the life of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u32);

/// The side of the router that node agents see.
pub trait Ports: Send + Sync {
    /// Connects a device. When this returns, packets to and from it are routed.
    ///
    /// # Errors
    /// When one of the addresses already belongs to another port, or the device cannot be polled.
    fn attach(&self, spec: PortSpec) -> io::Result<PortId>;

    /// Disconnects and closes a device. When this returns, nothing is read from or written to it,
    /// and its addresses are free again. Unknown ids are ignored.
    fn detach(&self, port: PortId);
}
