//! Packets that pretend to be the first of a flow, and the answer to it.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, PacketBuilder};

use crate::plan::Protocol;
use crate::router::wire::PacketBuf;

/// As most kernels send them.
const TTL: u8 = 64;
const WINDOW: u16 = 64_240;
/// The common header of SCTP, and nothing behind it: the router does not look into it.
const SCTP_HEADER: usize = 12;

/// The first packet of a flow: a SYN, a datagram, or an SCTP header.
pub fn first(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> PacketBuf {
    build(protocol, src, dst, false)
}

/// What a server would say to it.
pub fn answer(protocol: Protocol, src: SocketAddr, dst: SocketAddr) -> PacketBuf {
    build(protocol, src, dst, true)
}

fn build(protocol: Protocol, src: SocketAddr, dst: SocketAddr, answer: bool) -> PacketBuf {
    let step = match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), TTL),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), TTL),
        // Nobody can send this, and an empty packet goes nowhere.
        _ => return PacketBuf::new(),
    };
    let mut packet = Vec::with_capacity(128);
    let written = match protocol {
        Protocol::Tcp => {
            let step = step.tcp(src.port(), dst.port(), 1, WINDOW).syn();
            if answer { step.ack(1).write(&mut packet, &[]) } else { step.write(&mut packet, &[]) }
        }
        Protocol::Udp => step.udp(src.port(), dst.port()).write(&mut packet, &[]),
        Protocol::Sctp => {
            let mut header = [0; SCTP_HEADER];
            header[..2].copy_from_slice(&src.port().to_be_bytes());
            header[2..4].copy_from_slice(&dst.port().to_be_bytes());
            step.write(&mut packet, IpNumber::SCTP, &header)
        }
    };
    // A vector takes everything.
    written.map_or_else(|_| PacketBuf::new(), |()| PacketBuf::of(&packet))
}
