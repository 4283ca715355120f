//! Packets as bytes: where the fields are, and nothing about what they mean for a flow.
//!
//! [`Headers::parse`] checks a packet once and remembers the offsets; [`rewrite`] writes at these offsets in place.
//! Nothing here panics, whatever the bytes: every offset is checked before it is used, and a packet that lies about
//! its lengths is [`Malformed`]. IPv4 with options and fragments, IPv6 with extension headers, TCP, UDP, ICMP.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Delta, Sum, checksum};
use crate::sys::tun::VNET_HDR_LEN;

/// The longest packet that an IPv4 length field can tell, and that a TUN hands over.
pub const MAX_PACKET: usize = 65_535;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

// From linux/virtio_net.h.
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const MAX_EXTENSION_HEADERS: usize = 8;

/// A buffer for one packet with its virtio-net header in front, as a TUN gives and takes it.
pub struct PacketBuf {
    data: Box<[u8]>,
    len: usize,
}

impl Default for PacketBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl PacketBuf {
    pub fn new() -> Self {
        Self { data: vec![0; VNET_HDR_LEN + MAX_PACKET + 1].into(), len: VNET_HDR_LEN }
    }

    /// A buffer that holds `packet` with an empty virtio-net header; what is too long is cut off.
    pub fn of(packet: &[u8]) -> Self {
        let mut buf = Self::new();
        let len = packet.len().min(MAX_PACKET);
        buf.data[VNET_HDR_LEN..VNET_HDR_LEN + len].copy_from_slice(&packet[..len]);
        buf.len = VNET_HDR_LEN + len;
        buf
    }

    /// Where a device's read may write header and packet. Call [`PacketBuf::filled`] with what it returned.
    pub fn slot(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Says how many bytes of the slot are in use. Fewer than a virtio-net header are taken as an empty packet.
    pub fn filled(&mut self, len: usize) {
        self.len = len.clamp(VNET_HDR_LEN, self.data.len());
    }

    /// Header and packet, as a device's write wants them.
    pub fn frame(&self) -> &[u8] {
        &self.data[..self.len]
    }

    pub fn packet(&self) -> &[u8] {
        &self.data[VNET_HDR_LEN..self.len]
    }

    pub fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.data[VNET_HDR_LEN..self.len]
    }

    pub fn vnet(&self) -> VnetHeader {
        let d = &self.data;
        VnetHeader {
            flags: d[0],
            gso_type: d[1],
            hdr_len: u16::from_ne_bytes([d[2], d[3]]),
            gso_size: u16::from_ne_bytes([d[4], d[5]]),
            csum_start: u16::from_ne_bytes([d[6], d[7]]),
            csum_offset: u16::from_ne_bytes([d[8], d[9]]),
        }
    }

    pub(super) fn set_vnet(&mut self, vnet: VnetHeader) {
        let d = &mut self.data;
        (d[0], d[1]) = (vnet.flags, vnet.gso_type);
        d[2..4].copy_from_slice(&vnet.hdr_len.to_ne_bytes());
        d[4..6].copy_from_slice(&vnet.gso_size.to_ne_bytes());
        d[6..8].copy_from_slice(&vnet.csum_start.to_ne_bytes());
        d[8..10].copy_from_slice(&vnet.csum_offset.to_ne_bytes());
    }

    /// Puts bytes behind the packet; what has no room is cut off.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        let room = &mut self.data[self.len..];
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    /// Makes the buffer hold a packet of `len` bytes without offloads, and returns them for filling.
    pub(super) fn reset(&mut self, len: usize) -> &mut [u8] {
        let len = len.min(MAX_PACKET);
        self.clear_vnet();
        self.len = VNET_HDR_LEN + len;
        self.packet_mut()
    }

    /// Forgets offloads, for a packet whose checksums have all been written.
    pub(super) fn clear_vnet(&mut self) {
        self.data[..VNET_HDR_LEN].fill(0);
    }

    /// Cuts off what follows the IP packet.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(VNET_HDR_LEN + len);
    }

    /// The whole area behind the virtio-net header, for moving a packet inside of it.
    pub(super) fn area(&mut self) -> &mut [u8] {
        &mut self.data[VNET_HDR_LEN..]
    }
}

/// `struct virtio_net_hdr`; host byte order on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    pub flags: u8,
    pub gso_type: u8,
    pub hdr_len: u16,
    pub gso_size: u16,
    pub csum_start: u16,
    pub csum_offset: u16,
}

impl VnetHeader {
    /// The header of datagrams of `size` bytes each that share the headers in front; `l4` is where UDP's begins.
    pub fn udp_segments(l4: u16, size: u16) -> Self {
        Self {
            flags: NEEDS_CSUM,
            gso_type: GSO_UDP_L4,
            hdr_len: l4 + 8,
            gso_size: size,
            csum_start: l4,
            csum_offset: 6,
        }
    }

    /// The sender left the checksum to us or to whoever is next: its field holds the pseudo header's sum.
    pub fn is_partial(self) -> bool {
        self.flags & NEEDS_CSUM != 0
    }

    /// The packet stands for several segments, and the receiving kernel cuts or takes it whole.
    pub fn is_segmented(self) -> bool {
        self.gso_type != 0
    }
}

/// Source and destination of a packet, as it is on the wire. ICMP echo has its identifier as both ports, so that
/// request and reply are each other's reverse; what has no ports has zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
}

impl Tuple {
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, protocol: self.protocol }
    }

    pub fn is_v6(&self) -> bool {
        self.src.is_ipv6()
    }
}

impl Hash for Tuple {
    /// In whole words: this runs for every packet.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.sport) << 24 | u64::from(self.dport) << 8 | u64::from(self.protocol);
        if let (IpAddr::V4(src), IpAddr::V4(dst)) = (self.src, self.dst) {
            state.write_u64(u64::from(src.to_bits()) << 32 | u64::from(dst.to_bits()));
        } else {
            for addr in [self.src, self.dst] {
                state.write_u128(match addr {
                    IpAddr::V4(v4) => v4.to_bits().into(),
                    IpAddr::V6(v6) => v6.to_bits(),
                });
            }
        }
        state.write_u64(ports);
    }
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Tcp {
        flags: u8,
    },
    Udp,
    /// ICMP echo request or reply.
    Echo,
    /// An ICMP error; the packet that it is about starts 8 bytes behind `l4`.
    IcmpError,
    /// Any other ICMP message.
    Icmp,
    /// A protocol that is carried but not looked into.
    Other,
    /// A fragment without transport header.
    LaterFragment,
}

/// The place of a packet among its fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    pub id: u32,
    pub first: bool,
}

/// A checked packet: everything that the pipeline asks about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    pub tuple: Tuple,
    pub kind: Kind,
    /// Offset of the transport header.
    pub l4: usize,
    /// Length of the IP packet.
    pub len: usize,
    pub ttl: u8,
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
}

/// Why bytes are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("shorter than its headers say")]
    Truncated,
    #[error("neither IPv4 nor IPv6")]
    Version,
    #[error("a header length that cannot be")]
    HeaderLength,
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    #[error("an IPv4 address inside an IPv6 one")]
    MappedAddress,
}

impl Headers {
    /// Checks a packet.
    ///
    /// # Errors
    /// For everything that a router must not forward because its own fields contradict it.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_v4(packet),
            Some(6) => Self::parse_v6(packet),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    fn parse_v4(packet: &[u8]) -> Result<Self, Malformed> {
        let ip = Ip::v4(packet)?;
        let len = usize::from(be16(packet, 2));
        if len < ip.l4 {
            return Err(Malformed::HeaderLength);
        }
        if len > packet.len() {
            return Err(Malformed::Truncated);
        }
        if checksum(Sum::default(), &packet[..ip.l4]) != 0 {
            return Err(Malformed::HeaderChecksum);
        }
        Self::transport(&packet[..len], ip)
    }

    fn parse_v6(packet: &[u8]) -> Result<Self, Malformed> {
        let ip = Ip::v6(packet)?;
        let len = 40 + usize::from(be16(packet, 4));
        if len > packet.len() {
            return Err(Malformed::Truncated);
        }
        if len < ip.l4 {
            return Err(Malformed::HeaderLength);
        }
        Self::transport(&packet[..len], ip)
    }

    fn transport(packet: &[u8], ip: Ip) -> Result<Self, Malformed> {
        let mut headers = Self {
            tuple: Tuple { src: ip.src, dst: ip.dst, sport: 0, dport: 0, protocol: ip.protocol },
            kind: Kind::Other,
            l4: ip.l4,
            len: packet.len(),
            ttl: ip.ttl,
            dont_fragment: ip.dont_fragment,
            fragment: ip.fragment,
        };
        if ip.fragment.is_some_and(|fragment| !fragment.first) {
            headers.kind = Kind::LaterFragment;
            return Ok(headers);
        }
        let l4 = &packet[ip.l4..];
        let need = |len: usize| if l4.len() < len { Err(Malformed::Truncated) } else { Ok(()) };
        match (ip.protocol, ip.src.is_ipv6()) {
            (TCP, _) => {
                need(20)?;
                let header = usize::from(l4[12] >> 4) * 4;
                if header < 20 {
                    return Err(Malformed::HeaderLength);
                }
                need(header)?;
                headers.kind = Kind::Tcp { flags: l4[13] };
                (headers.tuple.sport, headers.tuple.dport) = (be16(l4, 0), be16(l4, 2));
            }
            (UDP, _) => {
                need(8)?;
                let len = usize::from(be16(l4, 4));
                if len < 8 {
                    return Err(Malformed::HeaderLength);
                }
                if ip.fragment.is_none() {
                    need(len)?;
                }
                headers.kind = Kind::Udp;
                (headers.tuple.sport, headers.tuple.dport) = (be16(l4, 0), be16(l4, 2));
            }
            (ICMP, false) | (ICMPV6, true) => {
                need(8)?;
                headers.kind = icmp_kind(l4[0], ip.src.is_ipv6());
                if headers.kind == Kind::Echo {
                    headers.tuple.sport = be16(l4, 4);
                    headers.tuple.dport = headers.tuple.sport;
                }
            }
            _ => {}
        }
        Ok(headers)
    }

    pub fn is_v6(&self) -> bool {
        self.tuple.is_v6()
    }
}

fn icmp_kind(kind: u8, v6: bool) -> Kind {
    match (kind, v6) {
        (0 | 8, false) | (128 | 129, true) => Kind::Echo,
        (3 | 11 | 12, false) | (1..=4, true) => Kind::IcmpError,
        _ => Kind::Icmp,
    }
}

/// The packet inside of an ICMP error. It is cut somewhere behind the ports, so its lengths and sums prove nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    pub tuple: Tuple,
    /// Offset of the transport header in the quotation.
    pub l4: usize,
}

impl Quoted {
    /// Reads a quotation; `None` when it has no ports that could name a flow.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let ip = match packet.first()? >> 4 {
            4 => Ip::v4(packet).ok()?,
            6 => Ip::v6(packet).ok()?,
            _ => return None,
        };
        if ip.fragment.is_some_and(|fragment| !fragment.first) {
            return None;
        }
        let l4 = packet.get(ip.l4..).filter(|l4| l4.len() >= 8)?;
        let v6 = ip.src.is_ipv6();
        let (sport, dport) = match ip.protocol {
            TCP | UDP => (be16(l4, 0), be16(l4, 2)),
            ICMP | ICMPV6 if icmp_kind(l4[0], v6) == Kind::Echo => (be16(l4, 4), be16(l4, 4)),
            ICMP | ICMPV6 => return None,
            _ => (0, 0),
        };
        Some(Self { tuple: Tuple { src: ip.src, dst: ip.dst, sport, dport, protocol: ip.protocol }, l4: ip.l4 })
    }
}

/// The IP layer of a packet; `l4` is inside of it.
struct Ip {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    l4: usize,
    ttl: u8,
    dont_fragment: bool,
    fragment: Option<Fragment>,
}

impl Ip {
    fn v4(packet: &[u8]) -> Result<Self, Malformed> {
        if packet.len() < 20 {
            return Err(Malformed::Truncated);
        }
        let l4 = usize::from(packet[0] & 0xf) * 4;
        if l4 < 20 {
            return Err(Malformed::HeaderLength);
        }
        if packet.len() < l4 {
            return Err(Malformed::Truncated);
        }
        let flags = be16(packet, 6);
        let (more, offset) = (flags & 0x2000 != 0, flags & 0x1fff);
        Ok(Self {
            src: v4_at(packet, 12).into(),
            dst: v4_at(packet, 16).into(),
            protocol: packet[9],
            l4,
            ttl: packet[8],
            dont_fragment: flags & 0x4000 != 0,
            fragment: (more || offset != 0).then(|| Fragment { id: be16(packet, 4).into(), first: offset == 0 }),
        })
    }

    fn v6(packet: &[u8]) -> Result<Self, Malformed> {
        if packet.len() < 40 {
            return Err(Malformed::Truncated);
        }
        let (src, dst) = (v6_at(packet, 8), v6_at(packet, 24));
        if src.to_ipv4_mapped().is_some() || dst.to_ipv4_mapped().is_some() {
            return Err(Malformed::MappedAddress);
        }
        let (mut protocol, mut l4, mut fragment) = (packet[6], 40, None);
        for _ in 0..MAX_EXTENSION_HEADERS {
            // Hop-by-hop, routing, fragment, authentication, destination options.
            if !matches!(protocol, 0 | 43 | 44 | 51 | 60) {
                break;
            }
            let header = packet.get(l4..l4 + 8).ok_or(Malformed::Truncated)?;
            let len = match protocol {
                44 => {
                    let offset = be16(header, 2);
                    let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    // A fragment that is the whole packet (RFC 6946) needs no tracking.
                    if offset & 0xfff9 != 0 {
                        fragment = Some(Fragment { id, first: offset & 0xfff8 == 0 });
                    }
                    8
                }
                51 => (usize::from(header[1]) + 2) * 4,
                _ => (usize::from(header[1]) + 1) * 8,
            };
            protocol = header[0];
            l4 += len;
            if fragment.is_some_and(|fragment| !fragment.first) {
                break;
            }
        }
        if packet.len() < l4 {
            return Err(Malformed::Truncated);
        }
        Ok(Self { src: src.into(), dst: dst.into(), protocol, l4, ttl: packet[7], dont_fragment: true, fragment })
    }
}

/// What is done to every packet of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// By how many node hops the packet ages.
    pub hops: u8,
    /// Whether addresses or ports change at all.
    pub translates: bool,
    /// For the IPv4 header: addresses and time to live.
    ip: Delta,
    /// For a whole transport checksum: addresses where the protocol covers them, and ports.
    transport: Delta,
    /// For a partial transport checksum: addresses only.
    partial: Delta,
}

impl Rewrite {
    /// Compiles the step from `old` to `new`, which have one family and protocol.
    pub fn compile(old: &Tuple, new: &Tuple, hops: u8) -> Self {
        let addresses = replace_addr(replace_addr(Delta::default(), old.src, new.src), old.dst, new.dst);
        let ports = |delta: Delta| delta.replace_word(old.sport, new.sport).replace_word(old.dport, new.dport);
        let transport = match old.protocol {
            // ICMP has its identifier once, and no pseudo header.
            ICMP => Delta::default().replace_word(old.sport, new.sport),
            ICMPV6 => addresses.replace_word(old.sport, new.sport),
            _ => ports(addresses),
        };
        Self {
            hops,
            translates: old != new,
            ip: addresses.replace_word(u16::from(hops) << 8, 0),
            transport,
            partial: addresses,
        }
    }
}

fn replace_addr(delta: Delta, old: IpAddr, new: IpAddr) -> Delta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace(&old.octets(), &new.octets()),
        _ => delta,
    }
}

/// Makes the packet carry `new` and ages it. `headers` is what parsing this packet gave; its time to live is larger
/// than the number of hops.
pub fn rewrite(packet: &mut [u8], vnet: VnetHeader, headers: &Headers, rewrite: &Rewrite, new: &Tuple) {
    rewrite_ip(packet, rewrite, new);
    if !rewrite.translates {
        return;
    }
    let l4 = headers.l4;
    let checksum_at = match headers.kind {
        Kind::Tcp { .. } => l4 + 16,
        Kind::Udp => l4 + 6,
        Kind::Echo => {
            put16(packet, l4 + 4, new.sport);
            l4 + 2
        }
        Kind::IcmpError | Kind::Icmp | Kind::Other | Kind::LaterFragment => return,
    };
    if matches!(headers.kind, Kind::Tcp { .. } | Kind::Udp) {
        put16(packet, l4, new.sport);
        put16(packet, l4 + 2, new.dport);
    }
    let old = be16(packet, checksum_at);
    let udp = headers.kind == Kind::Udp;
    if vnet.is_partial() {
        put16(packet, checksum_at, rewrite.partial.apply_partial(old));
    } else if !(udp && old == 0) {
        // UDP: zero on the wire means that there is none, so a sum of zero is written as its other form.
        let sum = rewrite.transport.apply(old);
        put16(packet, checksum_at, if udp && sum == 0 { 0xffff } else { sum });
    }
}

/// The IP half of [`rewrite()`].
pub(super) fn rewrite_ip(packet: &mut [u8], rewrite: &Rewrite, new: &Tuple) {
    match (new.src, new.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            packet[8] = packet[8].saturating_sub(rewrite.hops);
            packet[12..16].copy_from_slice(&src.octets());
            packet[16..20].copy_from_slice(&dst.octets());
            let sum = rewrite.ip.apply(be16(packet, 10));
            put16(packet, 10, sum);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            packet[7] = packet[7].saturating_sub(rewrite.hops);
            packet[8..24].copy_from_slice(&src.octets());
            packet[24..40].copy_from_slice(&dst.octets());
        }
        _ => {}
    }
}

pub(super) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn v4_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

fn v6_at(bytes: &[u8], at: usize) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&bytes[at..at + 16]);
    octets.into()
}
