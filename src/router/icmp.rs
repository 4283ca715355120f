//! ICMP and ICMPv6 errors: those that the router sends itself, and those of others about translated flows.

use std::net::IpAddr;

use super::checksum::{Delta, Sum, checksum};
use super::emit;
use super::wire::{self, Headers, ICMP, ICMPV6, PacketBuf, Quoted, Tuple, UDP, be16, put16};

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Error {
    PortUnreachable,
    HostUnreachable,
    NetworkUnreachable,
    /// Communication is administratively prohibited.
    Prohibited,
    TimeExceeded,
    /// The packet is larger than this MTU and must not be cut.
    TooBig(u32),
}

impl Error {
    fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::PortUnreachable => (3, 3, 0),
            Self::HostUnreachable => (3, 1, 0),
            Self::NetworkUnreachable => (3, 0, 0),
            Self::Prohibited => (3, 13, 0),
            Self::TimeExceeded => (11, 0, 0),
            Self::TooBig(mtu) => (3, 4, mtu.min(0xffff)),
        }
    }

    fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::PortUnreachable => (1, 4, 0),
            Self::HostUnreachable => (1, 3, 0),
            Self::NetworkUnreachable => (1, 0, 0),
            Self::Prohibited => (1, 1, 0),
            Self::TimeExceeded => (3, 0, 0),
            Self::TooBig(mtu) => (2, 0, mtu),
        }
    }
}

/// The longest error: what every host must take whole.
const MAX_V4: usize = 576;
const MAX_V6: usize = 1280;

/// Replaces the packet by an error about it, from `from` to its sender.
pub fn answer(buf: &mut PacketBuf, headers: &Headers, error: Error, from: IpAddr) {
    let to = headers.tuple.src;
    let (ip_len, limit) = if headers.is_v6() { (40, MAX_V6) } else { (20, MAX_V4) };
    let quoted = headers.len.min(limit - ip_len - 8);
    buf.area().copy_within(..quoted, ip_len + 8);
    let packet = buf.reset(ip_len + 8 + quoted);
    let (kind, code, extra) = if headers.is_v6() { error.v6() } else { error.v4() };
    packet[ip_len] = kind;
    packet[ip_len + 1] = code;
    put16(packet, ip_len + 2, 0);
    packet[ip_len + 4..ip_len + 8].copy_from_slice(&extra.to_be_bytes());
    // Precedence "internetwork control", as RFC 1812 asks of routers.
    emit::ip_header(packet, protocol(headers.is_v6()), 0xc0, from, to);
    fill_checksum(packet, ip_len);
}

/// The answer to the echo request of a Pod, made of the message that came back for it; `None` for another message.
/// `request` is the Pod's own tuple, so it says who asked whom, and by which identifier.
pub fn echo_reply(request: &Tuple, message: &[u8]) -> Option<PacketBuf> {
    let v6 = request.is_v6();
    if message.len() < 8 || message[0] != if v6 { 129 } else { 0 } {
        return None;
    }
    let mut buf = PacketBuf::new();
    let ip_len = if v6 { 40 } else { 20 };
    if ip_len + message.len() > wire::MAX_PACKET {
        return None;
    }
    let packet = buf.reset(ip_len + message.len());
    packet[ip_len..].copy_from_slice(message);
    put16(packet, ip_len + 2, 0);
    put16(packet, ip_len + 4, request.sport);
    emit::ip_header(packet, protocol(v6), 0, request.dst, request.src);
    fill_checksum(packet, ip_len);
    Some(buf)
}

fn protocol(v6: bool) -> u8 {
    if v6 { ICMPV6 } else { ICMP }
}

/// Rewrites an error about a translated flow for the one who sent the packet in question (rule C10): `quoted` is
/// that packet as the error has it, `sent` as its sender knows it, and `outer` the error's own new addresses.
pub(super) fn translate(
    buf: &mut PacketBuf,
    headers: &Headers,
    quoted: &Quoted,
    sent: &Tuple,
    outer: &Tuple,
    hops: u8,
) {
    let at = headers.l4 + 8;
    let step = wire::Rewrite::compile(&headers.tuple, outer, hops);
    buf.clear_vnet();
    let packet = buf.packet_mut();
    wire::rewrite_ip(packet, &step, outer);
    let inner = &mut packet[at..];
    wire::rewrite_ip(inner, &wire::Rewrite::compile(&quoted.tuple, sent, 0), sent);
    let l4 = quoted.l4;
    let delta = transport_delta(&quoted.tuple, sent);
    let checksum_at = match quoted.tuple.protocol {
        wire::TCP => Some(l4 + 16),
        UDP => Some(l4 + 6),
        _ => None,
    };
    if checksum_at.is_some() {
        put16(inner, l4, sent.sport);
        put16(inner, l4 + 2, sent.dport);
    }
    // The quotation may end before the checksum, and UDP may have none.
    if let Some(at) = checksum_at.filter(|at| at + 2 <= inner.len()) {
        let old = be16(inner, at);
        if !(quoted.tuple.protocol == UDP && old == 0) {
            put16(inner, at, delta.apply(old));
        }
    }
    let l4 = headers.l4;
    let len = headers.len;
    put16(packet, l4 + 2, 0);
    fill_checksum(&mut packet[..len], l4);
}

fn transport_delta(old: &Tuple, new: &Tuple) -> Delta {
    let delta = Delta::default().replace_word(old.sport, new.sport).replace_word(old.dport, new.dport);
    [(old.src, new.src), (old.dst, new.dst)].into_iter().fold(delta, |delta, pair| match pair {
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace(&old.octets(), &new.octets()),
        _ => delta,
    })
}

/// Writes the checksum of the ICMP message at `l4`, whose field is zero.
fn fill_checksum(packet: &mut [u8], l4: usize) {
    let sum = message_checksum(packet, l4);
    put16(packet, l4 + 2, sum);
}

/// Whether the checksum of the ICMP message at `l4`, which ends with the packet, is right.
pub(super) fn is_intact(packet: &[u8], l4: usize) -> bool {
    message_checksum(packet, l4) == 0
}

/// The checksum over a message as it is: 0 when it has the right one in it.
fn message_checksum(packet: &[u8], l4: usize) -> u16 {
    let start = if packet[0] >> 4 == 6 {
        let len = u16::try_from(packet.len() - l4).unwrap_or(u16::MAX);
        Sum::default().bytes(&packet[8..40]).word(len).word(ICMPV6.into())
    } else {
        Sum::default()
    };
    checksum(start, &packet[l4..])
}
