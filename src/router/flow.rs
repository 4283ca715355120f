//! The flow table: what was decided for the first packet, replayed for all that follow.
//!
//! A flow is a conversation between two ports of the router. It is found by the addresses that either side writes
//! on its packets: `tuples[Original]` as the client sends, `tuples[Reply]` as the backend answers. The way out of a
//! direction is the reverse of the other direction's tuple, so translated flows and plain ones are one thing, and
//! a source port that masquerading took is free again when the flow is: there is no second book to keep.
//!
//! Rules of life. A class (state of the conversation) has a timeout and a queue. A hit only writes `last_hit`; the
//! queue is put right when its head comes due: hit since it was queued, it goes to the tail, else it ends. So a hit
//! costs one store, ending costs O(1), and nothing ticks: [`FlowTable::next_expiry`] says when to look again, and an
//! empty table never asks. A lookup of a flow that is past its time finds nothing, also before the queue was swept.
//! A full table evicts the oldest idle flow of the class that is worth least (closed ones first, established TCP
//! last), so a flood of new connections displaces itself and not the conversations of others.

mod table;

use std::sync::Arc;

use super::PortId;
use super::log::Opened;
use super::wire::{ACK, FIN, Kind, RST, Rewrite, SYN, Tuple};
use crate::plan::{ListKind, ServicePort, Via};

pub use table::{FlowCounters, FlowId, FlowTable};

/// Milliseconds since the router's start.
pub type Millis = u64;

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Original = 0,
    Reply = 1,
}

impl Direction {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// The state of a conversation, in order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// TCP: both sides have said FIN, or one has said RST.
    Closed,
    /// TCP: a SYN and no answer.
    SynSent,
    /// TCP: an answer, and the client has not confirmed it.
    SynReceived,
    /// UDP: no answer yet.
    UdpNew,
    /// ICMP echo.
    Echo,
    /// Protocols that are not looked into.
    Other,
    /// UDP: packets both ways.
    UdpStream,
    /// TCP: one side has said FIN.
    HalfClosed,
    Established,
}

impl Class {
    const ALL: [Self; 9] = [
        Self::Closed,
        Self::SynSent,
        Self::SynReceived,
        Self::UdpNew,
        Self::Echo,
        Self::Other,
        Self::UdpStream,
        Self::HalfClosed,
        Self::Established,
    ];

    /// How long a flow may be idle. Established TCP and half-closed TCP as kube-proxy sets them for the kernel.
    pub fn timeout(self) -> Millis {
        match self {
            Self::Closed => 20_000,
            Self::SynSent | Self::SynReceived => 60_000,
            Self::UdpNew | Self::Echo => 30_000,
            Self::Other | Self::UdpStream => 180_000,
            Self::HalfClosed => 3_600_000,
            Self::Established => 86_400_000,
        }
    }

    /// The class of a flow whose first packet is of this kind. A TCP packet in the middle of a connection, after a
    /// restart of the router say, counts as established.
    pub fn of_first(kind: Kind) -> Self {
        match kind {
            Kind::Tcp { flags } if flags & SYN != 0 => Self::SynSent,
            Kind::Tcp { .. } => Self::Established,
            Kind::Udp => Self::UdpNew,
            Kind::Echo => Self::Echo,
            Kind::IcmpError | Kind::Icmp | Kind::Other | Kind::LaterFragment => Self::Other,
        }
    }
}

/// Why a source address was replaced by the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// External traffic to a Service with policy Cluster (X1).
    External,
    /// A node's own traffic to an external address of a Service with policy Local (X4).
    FromNode,
    /// ClusterIP traffic that does not come from a Pod of this node (X8).
    OffCluster,
    /// The endpoint is the client itself (X9).
    Hairpin,
}

/// How a flow came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// TCP: both sides have said FIN.
    Closed,
    /// TCP: one side has said RST in the middle of the connection.
    Reset,
    /// TCP: the server's RST was the answer to the SYN.
    Refused,
    /// Nothing came for as long as its class may be idle.
    Idle,
    /// The table was full.
    Evicted,
    /// A new connection has the same addresses and ports.
    Replaced,
    /// UDP: the backend serves no more, or better is known (C2-C6).
    BackendGone,
    /// The device of one side was disconnected.
    PortGone,
}

/// What the decision rests on, for those who ask why.
#[derive(Clone, Debug)]
pub struct Grounds {
    /// The version of the Service port that was in force, with its Service's and slices' revisions.
    pub service: Arc<ServicePort>,
    /// Index into the service's endpoints.
    pub endpoint: u32,
    pub via: Via,
    pub list: ListKind,
    /// The endpoint was remembered for this client (A1).
    pub sticky: bool,
    pub masquerade: Option<Masquerade>,
}

/// A flow to be entered.
#[derive(Debug)]
pub struct NewFlow {
    /// As the client sends, and as the backend answers.
    pub tuples: [Tuple; 2],
    /// Where the packets of each direction come in.
    pub ports: [PortId; 2],
    pub hops: u8,
    pub class: Class,
    pub epoch: u64,
    pub grounds: Option<Grounds>,
}

/// A conversation.
#[derive(Debug)]
pub struct Flow {
    pub tuples: [Tuple; 2],
    pub ports: [PortId; 2],
    pub rewrites: [Rewrite; 2],
    /// The plan that it was last checked against.
    pub epoch: u64,
    pub grounds: Option<Grounds>,
    pub class: Class,
    pub created: Millis,
    pub last_hit: Millis,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    /// Who is told of its end, until that is done.
    pub(super) opened: Option<Arc<Opened>>,
    /// How its peers have ended it.
    pub result: Option<Ending>,
    /// Bit per direction that has said FIN.
    fins: u8,
    queued_at: Millis,
    prev: u32,
    next: u32,
}

impl Flow {
    /// What packets of this direction become.
    pub fn outgoing(&self, direction: Direction) -> Tuple {
        self.tuples[direction.other() as usize].reversed()
    }

    /// Where packets of this direction go.
    pub fn out_port(&self, direction: Direction) -> PortId {
        self.ports[direction.other() as usize]
    }

    pub fn is_expired(&self, now: Millis) -> bool {
        self.last_hit + self.class.timeout() <= now
    }

    /// What the class becomes with this packet.
    fn advance(&mut self, kind: Kind, direction: Direction) -> Class {
        let reply = direction == Direction::Reply;
        match (self.class, kind) {
            (class, Kind::Tcp { flags }) => {
                if flags & RST != 0 {
                    let refused = class == Class::SynSent && reply;
                    self.result.get_or_insert(if refused { Ending::Refused } else { Ending::Reset });
                    return Class::Closed;
                }
                if flags & FIN != 0 {
                    self.fins |= 1 << direction as u8;
                }
                match (class, self.fins) {
                    (Class::Closed, _) => Class::Closed,
                    (_, 3) => {
                        self.result.get_or_insert(Ending::Closed);
                        Class::Closed
                    }
                    (_, 1 | 2) => Class::HalfClosed,
                    (Class::SynSent, _) if reply => Class::SynReceived,
                    (Class::SynReceived, _) if !reply && flags & ACK != 0 => Class::Established,
                    _ => class,
                }
            }
            (Class::UdpNew, Kind::Udp) if reply => Class::UdpStream,
            (class, _) => class,
        }
    }
}
