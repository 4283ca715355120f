//! Packets that the router makes itself.

use std::net::IpAddr;

use super::checksum::{Sum, checksum};
use super::wire::{ACK, Headers, PacketBuf, RST, TCP, be16, put16};

const TTL: u8 = 64;

/// Writes the IP header of a packet whose rest is there already.
pub(super) fn ip_header(packet: &mut [u8], protocol: u8, class: u8, from: IpAddr, to: IpAddr) {
    let len = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet[..20].fill(0);
            packet[0] = 0x45;
            packet[1] = class;
            put16(packet, 2, len);
            packet[8] = TTL;
            packet[9] = protocol;
            packet[12..16].copy_from_slice(&from.octets());
            packet[16..20].copy_from_slice(&to.octets());
            let sum = checksum(Sum::default(), &packet[..20]);
            put16(packet, 10, sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet[..40].fill(0);
            packet[0] = 0x60;
            put16(packet, 4, len.saturating_sub(40));
            packet[6] = protocol;
            packet[7] = TTL;
            packet[8..24].copy_from_slice(&from.octets());
            packet[24..40].copy_from_slice(&to.octets());
        }
        _ => {}
    }
}

/// Replaces a SYN by the reset with which a host without listener answers it (RFC 9293, 3.10.7.1).
pub(super) fn tcp_reset(buf: &mut PacketBuf, headers: &Headers) {
    const LEN: usize = 20;
    let tuple = headers.tuple.reversed();
    let at = headers.l4 + 4;
    let packet = buf.packet();
    let sequence = u32::from(be16(packet, at)) << 16 | u32::from(be16(packet, at + 2));
    let l4 = if headers.is_v6() { 40 } else { 20 };
    let packet = buf.reset(l4 + LEN);
    packet[l4..].fill(0);
    put16(packet, l4, tuple.sport);
    put16(packet, l4 + 2, tuple.dport);
    packet[l4 + 8..l4 + 12].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
    packet[l4 + 12] = 5 << 4;
    packet[l4 + 13] = RST | ACK;
    ip_header(packet, TCP, 0, tuple.src, tuple.dst);
    let addresses = if headers.is_v6() { 8..40 } else { 12..20 };
    let pseudo = Sum::default().bytes(&packet[addresses]).word(TCP.into()).word(20);
    let sum = checksum(pseudo, &packet[l4..]);
    put16(packet, l4 + 16, sum);
}
