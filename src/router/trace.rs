//! Looking on while a decision is made: each step is told where it is taken, with what it rests on.
//!
//! The pipeline is generic over the onlooker. [`Silent`] is nobody: its calls compile to nothing, so packets pay nothing
//! for it. [`Recording`] keeps the steps, for those who ask why.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::flow::Masquerade;
use super::ports::PortInfo;
use super::wire::Tuple;
use crate::plan::{Filter, ListKind, Scope, ServicePort, Via};

/// Who looks on.
pub trait Trace {
    /// Takes a step, which is only put together for those who want it.
    fn note(&mut self, step: impl FnOnce() -> Step);

    /// The node at which a packet from outside shall enter; without one, that is left to chance.
    fn entry(&self) -> Option<&str> {
        None
    }
}

/// Nobody.
pub struct Silent;

impl Trace for Silent {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}
}

/// All steps, in order.
#[derive(Debug, Default)]
pub struct Recording {
    pub steps: Vec<Step>,
    pub entry: Option<String>,
}

impl Trace for Recording {
    fn note(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }

    fn entry(&self) -> Option<&str> {
        self.entry.as_deref()
    }
}

/// Who a packet comes from, as seen by the node that it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Pod,
    Host,
    /// Another node, or the world.
    Elsewhere,
}

/// Why a list of endpoints was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeReason {
    /// internalTrafficPolicy is Local (I2).
    InternalLocal,
    /// externalTrafficPolicy is Local, and the packet comes from elsewhere (X2).
    ExternalLocal,
    /// externalTrafficPolicy is Local, and the packet starts at this node: as if it had gone out and come back (X3, X4).
    StartsHere,
    /// The policy in question is Cluster (E1, X1).
    Cluster,
}

/// How an endpoint was chosen among the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// By chance, each with the same (E8).
    Random,
    /// It was remembered for the client (A1).
    Remembered,
    /// By chance, and it will be remembered: nothing was, or nothing that may be used (A5).
    RandomFirst,
    /// It was chosen when the packet was held for the world's answer.
    Dialed,
}

/// Why a flow got another source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortReason {
    /// The source address is the node's now, whose own ports are others.
    Masqueraded,
    /// Another flow has the same addresses and ports.
    Taken,
}

/// A step of a decision.
#[derive(Clone, Debug)]
pub enum Step {
    /// The packet is at its first node.
    Enters {
        node: Arc<str>,
        origin: Origin,
        source: Arc<PortInfo>,
    },
    /// It is addressed to a Service (V1, V2, P1, P3).
    Captured {
        node: Arc<str>,
        service: Arc<ServicePort>,
        via: Via,
        destination: SocketAddr,
    },
    /// It is addressed to nobody's Service.
    Uncaptured {
        node: Arc<str>,
        destination: IpAddr,
    },
    /// Whether the load balancer's source ranges let it in (V3).
    SourceRanges {
        node: Arc<str>,
        service: Arc<ServicePort>,
        source: IpAddr,
        admitted: bool,
    },
    /// The endpoints that it may go to, and those that may not have it, each with the filter that took it away.
    Candidates {
        node: Arc<str>,
        service: Arc<ServicePort>,
        scope: Scope,
        reason: ScopeReason,
        list: ListKind,
        left: Vec<u32>,
        removed: Vec<(u32, Filter)>,
    },
    Chosen {
        node: Arc<str>,
        service: Arc<ServicePort>,
        endpoint: u32,
        of: usize,
        how: Pick,
    },
    /// Addresses changed: the destination, and the source where it is masqueraded.
    Translated {
        node: Arc<str>,
        from: Tuple,
        to: Tuple,
        masquerade: Option<Masquerade>,
    },
    /// On to another node.
    Forwarded {
        node: Arc<str>,
        to: Arc<str>,
    },
    /// Out of the cluster, to be carried on by a socket of the host.
    Leaves {
        node: Arc<str>,
        destination: SocketAddr,
    },
    /// To the device that has the address.
    Delivered {
        node: Arc<str>,
        to: Arc<PortInfo>,
        hops: u8,
    },
    SourcePort {
        from: u16,
        to: u16,
        reason: PortReason,
    },
}
