//! The packet router: TUN devices in, TUN devices out, Service VIPs translated on the way.
//!
//! [`Router`] is the running thing; node agents see it as [`Ports`]. A packet's way: [`worker`] reads it,
//! [`pipeline`] parses it ([`wire`]), finds its flow ([`flow`]) and rewrites it; a first packet is decided by
//! [`route`] over the [plan](crate::plan::Plan) in force, with [`balance`] and [`nat`]; the worker writes it to the
//! device it goes to, datagrams of one flow that follow one another in one frame ([`train`]). All but the worker is
//! without I/O, and time is an argument.
//!
//! Where this differs from kube-proxy in nftables mode on a real network, on purpose:
//!
//! * All nodes of a packet's way are decided at once and become one flow. Hop counts are kept: each node that
//!   forwards takes one from the time to live, and is the sender of the ICMP errors that happen at it.
//! * A packet to a Service port without endpoints is rejected at the first node, as there. So is an echo request to a
//!   ClusterIP (port unreachable): nftables mode rejects whatever is for a ClusterIP and not for its ports.
//! * Translation is by addresses and ports alone. There is no sequence tracking, so no TCP packet of a known
//!   connection is ever invalid (C7); a reset or SYN-ACK without a connection is dropped.
//! * A masqueraded node keeps its own source port unless that is taken; Pods behind a node get a port outside of the
//!   node's ephemeral range. A Service that sends a node to itself shows it [`nat::NODE_HAIRPIN_V4`] as the client.
//! * UDP flows are checked against a new plan by their next packet, not by a sweep (C2): the effect is the same.
//! * Source ranges that contain a node's address do not also admit the VIP itself as a source (V3, last sentence):
//!   no port may send from a VIP.
//! * A packet without "don't fragment" that exceeds the MTU goes whole: the kernel behind a TUN takes it.
//! * What leaves the cluster is carried on by sockets of the host ([`gate`]): its source is the host's, and a trace
//!   of its way ends at the Pod's node.
//! * SCTP has no data path through Services (F1); between Pods it is carried.

pub mod balance;
pub mod checksum;
mod dataplane;
mod emit;
pub mod flow;
pub mod fragments;
pub mod gate;
pub mod icmp;
pub mod log;
pub mod meter;
pub mod nat;
pub mod pipeline;
pub mod ports;
mod route;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod trace;
mod train;
pub mod wire;
mod worker;

use std::io;
use std::net::IpAddr;

use crate::sys::tun::Tun;

pub use dataplane::{Router, RouterConfig};
pub use gate::{Admitted, GATE_PORT, Held};

/// What stands behind a device of the router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// A Pod's `eth0`. Its packets must come from one of its own addresses.
    Pod,
    /// A node's own network namespace: kubelet probes and hostNetwork Pods.
    Node,
    /// The control plane's namespace, where API and DNS listen.
    ControlPlane,
    /// The namespace that vipyard was started in: a client outside of the cluster. What it sends to a virtual address
    /// arrives at some node, as by a load balancer (X2, X5, X8).
    Outside,
    /// Where flows to the world end, to be carried on from there: see [`gate`].
    Gate,
}

/// A device to be connected to the router.
#[derive(Debug)]
pub struct PortSpec {
    /// For logs, flows and captures: `namespace/pod`, a node's name, or `control-plane`.
    pub name: String,
    /// The Pod's uid; empty for others.
    pub uid: String,
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
