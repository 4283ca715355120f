//! Every outcome of a packet is counted once, by name.

use std::fmt;

use super::flow::FlowCounters;
use super::icmp;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// Shorter than its headers say.
    Truncated,
    /// Its fields contradict each other, or it is no IP packet.
    Malformed,
    /// Wrong IPv4 header checksum.
    HeaderChecksum,
    /// Wrong checksum of an ICMP error about a flow: its translation would make it look right.
    IcmpChecksum,
    /// The source is not an address of the sending port.
    Spoofed,
    /// It arrived with no time to live.
    TtlZero,
    /// The port was disconnected while its packet was read.
    PortGone,
    /// To a multicast, broadcast, loopback or link-local address.
    NotUnicast,
    /// To an address of the Service range that no Service has (R7).
    UnallocatedVip,
    /// Traffic policy Local, and no endpoint on this node but some elsewhere (I3, X5).
    NoLocalEndpoint,
    /// Not from the load balancer's source ranges (V3).
    SourceRange,
    /// To nobody that the router knows.
    NoRoute,
    /// From node to node without end.
    RoutingLoop,
    /// The node has no address of this family to masquerade with.
    NoNodeAddress,
    /// No source port is left for this backend.
    NatPortsExhausted,
    /// Another flow has exactly these addresses, and the protocol has no ports to tell them apart.
    FlowClash,
    /// A reset or a SYN-ACK that belongs to no connection (C7).
    TcpWithoutFlow,
    /// A later fragment whose first one was not seen (C9).
    FragmentWithoutFirst,
    /// An ICMP message that is neither echo nor an error about a packet.
    IcmpUnsupported,
    /// An ICMP error about a packet that belongs to no flow.
    IcmpErrorWithoutFlow,
    /// A later fragment or an ICMP error whose time to live has ended: no error is sent about those.
    Unanswerable,
    /// A late UDP reply from a backend that the flow's Service has no more (C2).
    BackendGone,
    /// The receiving device did not take it.
    DeviceWrite,
    /// Too many first packets wait for an answer of the world.
    OutsideBusy,
}

impl DropReason {
    pub const ALL: [Self; 24] = [
        Self::Truncated,
        Self::Malformed,
        Self::HeaderChecksum,
        Self::IcmpChecksum,
        Self::Spoofed,
        Self::TtlZero,
        Self::PortGone,
        Self::NotUnicast,
        Self::UnallocatedVip,
        Self::NoLocalEndpoint,
        Self::SourceRange,
        Self::NoRoute,
        Self::RoutingLoop,
        Self::NoNodeAddress,
        Self::NatPortsExhausted,
        Self::FlowClash,
        Self::TcpWithoutFlow,
        Self::FragmentWithoutFirst,
        Self::IcmpUnsupported,
        Self::IcmpErrorWithoutFlow,
        Self::Unanswerable,
        Self::BackendGone,
        Self::DeviceWrite,
        Self::OutsideBusy,
    ];

    /// The label of `router_dropped_packets_total{reason}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::HeaderChecksum => "header_checksum",
            Self::IcmpChecksum => "icmp_checksum",
            Self::Spoofed => "spoofed",
            Self::TtlZero => "ttl_zero",
            Self::PortGone => "port_gone",
            Self::NotUnicast => "not_unicast",
            Self::UnallocatedVip => "unallocated_vip",
            Self::NoLocalEndpoint => "no_local_endpoint",
            Self::SourceRange => "source_range",
            Self::NoRoute => "no_route",
            Self::RoutingLoop => "routing_loop",
            Self::NoNodeAddress => "no_node_address",
            Self::NatPortsExhausted => "nat_ports_exhausted",
            Self::FlowClash => "flow_clash",
            Self::TcpWithoutFlow => "tcp_without_flow",
            Self::FragmentWithoutFirst => "fragment_without_first",
            Self::IcmpUnsupported => "icmp_unsupported",
            Self::IcmpErrorWithoutFlow => "icmp_error_without_flow",
            Self::Unanswerable => "unanswerable",
            Self::BackendGone => "backend_gone",
            Self::DeviceWrite => "device_write",
            Self::OutsideBusy => "outside_busy",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the router answered a packet itself, with an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AnswerReason {
    /// The Service has no usable endpoint (R1).
    NoEndpoint,
    /// The ClusterIP exists, the port does not (R6).
    UnknownServicePort,
    /// Nobody has this address of the Pod or node range.
    HostUnreachable,
    TimeExceeded,
    TooBig,
    /// The world refused the connection.
    OutsideRefused,
    /// The host has no route there.
    OutsideNetwork,
    /// Nobody has the address, says the host's network.
    OutsideHost,
    /// The user who runs the cluster may not send this.
    OutsideForbidden,
}

impl AnswerReason {
    pub const ALL: [Self; 9] = [
        Self::NoEndpoint,
        Self::UnknownServicePort,
        Self::HostUnreachable,
        Self::TimeExceeded,
        Self::TooBig,
        Self::OutsideRefused,
        Self::OutsideNetwork,
        Self::OutsideHost,
        Self::OutsideForbidden,
    ];

    /// The label of `router_answered_packets_total{reason}`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::UnknownServicePort => "unknown_service_port",
            Self::HostUnreachable => "host_unreachable",
            Self::TimeExceeded => "time_exceeded",
            Self::TooBig => "too_big",
            Self::OutsideRefused => "outside_refused",
            Self::OutsideNetwork => "outside_network",
            Self::OutsideHost => "outside_host",
            Self::OutsideForbidden => "outside_forbidden",
        }
    }

    pub(super) fn error(self, mtu: u32) -> icmp::Error {
        match self {
            Self::NoEndpoint | Self::UnknownServicePort | Self::OutsideRefused => icmp::Error::PortUnreachable,
            Self::HostUnreachable | Self::OutsideHost => icmp::Error::HostUnreachable,
            Self::OutsideNetwork => icmp::Error::NetworkUnreachable,
            Self::OutsideForbidden => icmp::Error::Prohibited,
            Self::TimeExceeded => icmp::Error::TimeExceeded,
            Self::TooBig => icmp::Error::TooBig(mtu),
        }
    }
}

/// All counters of a router at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub received_packets: u64,
    pub received_bytes: u64,
    pub forwarded_packets: u64,
    pub forwarded_bytes: u64,
    /// Datagrams that left in the frame of the one before them.
    pub joined_packets: u64,
    /// First packets that waited for an answer of the world.
    pub held_packets: u64,
    answered: [u64; AnswerReason::ALL.len()],
    dropped: [u64; DropReason::ALL.len()],
    pub flows: u64,
    pub flow_changes: FlowCounters,
    pub ports: u64,
    /// Epoch of the plan in force.
    pub epoch: u64,
}

impl Stats {
    pub fn answered(&self, reason: AnswerReason) -> u64 {
        self.answered[reason as usize]
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().sum()
    }

    /// The reasons that occurred, with their numbers.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().map(|reason| (reason, self.dropped(reason))).filter(|(_, count)| *count > 0)
    }

    pub(super) fn count_answer(&mut self, reason: AnswerReason) {
        self.answered[reason as usize] += 1;
    }

    pub(super) fn count_drops(&mut self, reason: DropReason, packets: u64) {
        self.dropped[reason as usize] += packets;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        for (at, reason) in AnswerReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
        let labels: std::collections::HashSet<_> = DropReason::ALL.map(DropReason::as_str).into_iter().collect();
        assert_eq!(labels.len(), DropReason::ALL.len());
    }
}
