//! Several datagrams of one flow in one frame: a system call, a walk through the receiver's network stack and a look
//! for its socket for all of them, in place of one each.
//!
//! What leaves is what a sender with `UDP_SEGMENT` makes, so the receiving kernel cuts it into the same datagrams (or
//! gives it whole to a socket with `UDP_GRO`). Nothing waits for it: a train leaves before its thread reads another
//! device, sends anything else or finds its device empty, so order is kept and a lone datagram leaves as it came.

use super::PortId;
use super::checksum::{Sum, checksum};
use super::wire::{PacketBuf, UDP, VnetHeader, be16, put16};

/// Datagrams in one frame; kernels before 6.9 take 64.
const LENGTH: usize = 64;
/// Length of a UDP header.
const HEADER: usize = 8;
/// The longest frame: what fits into the length fields, and leaves room for a kernel to put headers in front.
const MAX_FRAME: usize = 65_000;

/// A frame that waits for more datagrams.
pub(super) struct Train {
    buf: PacketBuf,
    /// `None` while it is empty.
    head: Option<Head>,
}

/// What all datagrams of a train share.
#[derive(Clone, Copy)]
struct Head {
    to: PortId,
    /// Offset of the UDP header.
    l4: usize,
    /// Bytes that each but the last datagram carries.
    size: usize,
    count: usize,
    /// The last one was shorter than the others: nothing may follow it.
    closed: bool,
}

impl Train {
    pub(super) fn new() -> Self {
        Self { buf: PacketBuf::new(), head: None }
    }

    /// Takes the packet in `buf` for `to` as the first one, and gives back its own empty buffer. Not for what no
    /// datagram may follow, nor while another train waits: then `false`, and nothing happens.
    pub(super) fn start(&mut self, buf: &mut PacketBuf, to: PortId) -> bool {
        let Some((l4, size)) = datagram(buf).filter(|_| self.head.is_none()) else { return false };
        self.head = Some(Head { to, l4, size, count: 1, closed: false });
        std::mem::swap(&mut self.buf, buf);
        true
    }

    /// Appends the packet in `buf`, if it is the next datagram of the same flow.
    pub(super) fn join(&mut self, buf: &PacketBuf, to: PortId) -> bool {
        let Some(head) = &mut self.head else { return false };
        if head.to != to || head.closed || head.count == LENGTH {
            return false;
        }
        let Some((l4, size)) = datagram(buf) else { return false };
        let payload = l4 + HEADER;
        let fits = l4 == head.l4 && size <= head.size && self.buf.packet().len() + size <= MAX_FRAME;
        if !fits || !same_flow(&self.buf.packet()[..payload], &buf.packet()[..payload], l4) {
            return false;
        }
        self.buf.append(&buf.packet()[payload..]);
        head.count += 1;
        head.closed = size < head.size;
        true
    }

    /// The frame to be written, where to, and how many datagrams it is; the train is empty then.
    pub(super) fn leave(&mut self) -> Option<(PortId, &PacketBuf, usize)> {
        let head = self.head.take()?;
        if head.count > 1 {
            couple(&mut self.buf, head);
        }
        Some((head.to, &self.buf, head.count))
    }
}

/// Offset of the UDP header and length of what it carries, for a whole datagram whose checksum is left to the receiver:
/// only there can the kernel tell each datagram's own from that of the frame.
fn datagram(buf: &PacketBuf) -> Option<(usize, usize)> {
    let packet = buf.packet();
    let vnet = buf.vnet();
    if !vnet.is_partial() || vnet.is_segmented() || vnet.csum_offset != 6 {
        return None;
    }
    // A header without options or extensions, and not a fragment.
    let l4 = match packet.first()? {
        0x45 if packet[9] == UDP && be16(packet, 6) & 0x3fff == 0 => 20,
        first if first >> 4 == 6 && packet[6] == UDP => 40,
        _ => return None,
    };
    let size = packet.len().checked_sub(l4 + HEADER).filter(|size| *size > 0)?;
    (usize::from(be16(packet, l4 + 4)) == HEADER + size).then_some((l4, size))
}

/// Whether two headers differ in lengths, identification and checksums at the most.
fn same_flow(a: &[u8], b: &[u8], l4: usize) -> bool {
    let ip = if l4 == 20 {
        a[..2] == b[..2] && a[6..10] == b[6..10] && a[12..20] == b[12..20]
    } else {
        a[..4] == b[..4] && a[6..40] == b[6..40]
    };
    ip && a[l4..l4 + 4] == b[l4..l4 + 4]
}

/// Makes the headers in front speak for all datagrams behind.
fn couple(buf: &mut PacketBuf, head: Head) {
    let l4 = head.l4;
    let packet = buf.packet_mut();
    // Bounded by MAX_FRAME.
    let word = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
    let udp_len = word(packet.len() - l4);
    let addresses = if l4 == 20 {
        let total = word(packet.len());
        put16(packet, 2, total);
        put16(packet, 10, 0);
        let sum = checksum(Sum::default(), &packet[..20]);
        put16(packet, 10, sum);
        12..20
    } else {
        put16(packet, 4, udp_len);
        8..40
    };
    put16(packet, l4 + 4, udp_len);
    let pseudo = Sum::default().bytes(&packet[addresses]).word(UDP.into()).word(udp_len);
    put16(packet, l4 + 6, pseudo.fold());
    buf.set_vnet(VnetHeader::udp_segments(word(l4), word(head.size)));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::world::{describe, udp};
    use super::*;

    const FLOWS: [(&str, &str); 3] = [
        ("10.244.1.2:40000", "10.244.2.2:8080"),
        ("10.244.1.2:40001", "10.244.2.2:8080"),
        ("[fd00:10:244:1::2]:40000", "[fd00:10:244:2::2]:8080"),
    ];

    /// A datagram as a device gives it: with the pseudo header's sum in place of a checksum.
    fn partial(packet: &[u8]) -> PacketBuf {
        let mut buf = PacketBuf::of(packet);
        let v6 = packet[0] >> 4 == 6;
        let (l4, addresses) = if v6 { (40, 8..40) } else { (20, 12..20) };
        let udp_len = be16(packet, l4 + 4);
        let pseudo = Sum::default().bytes(&packet[addresses]).word(UDP.into()).word(udp_len);
        put16(buf.packet_mut(), l4 + 6, pseudo.fold());
        let l4 = u16::try_from(l4).expect("small");
        buf.set_vnet(VnetHeader { gso_type: 0, gso_size: 0, hdr_len: 0, ..VnetHeader::udp_segments(l4, 0) });
        buf
    }

    /// What a kernel makes of a frame: it cuts it into datagrams and completes their checksums.
    fn cut(frame: &PacketBuf) -> Vec<Vec<u8>> {
        let (packet, vnet) = (frame.packet(), frame.vnet());
        if !vnet.is_partial() {
            return vec![packet.to_vec()];
        }
        let l4 = usize::from(vnet.csum_start);
        let (head, payload) = packet.split_at(l4 + HEADER);
        let size = if vnet.is_segmented() { usize::from(vnet.gso_size) } else { payload.len().max(1) };
        let word = |len: usize| u16::try_from(len).expect("a length");
        assert_eq!(usize::from(be16(packet, l4 + 4)), packet.len() - l4, "UDP's length");
        let total = if l4 == 20 { usize::from(be16(packet, 2)) } else { 40 + usize::from(be16(packet, 4)) };
        assert_eq!(total, packet.len(), "IP's length");
        let segment = |data: &[u8]| {
            let mut one = [head, data].concat();
            let len = one.len() - l4;
            // As the kernel does: the sum of the pseudo header, with this length in place of the whole one.
            let pseudo = Sum::default().word(be16(packet, l4 + 6)).word(!be16(packet, l4 + 4)).word(word(len));
            put16(&mut one, l4 + 4, word(len));
            put16(&mut one, l4 + 6, 0);
            let sum = checksum(pseudo, &one[l4..]);
            put16(&mut one, l4 + 6, sum);
            if l4 == 20 {
                let total = word(one.len());
                put16(&mut one, 2, total);
                put16(&mut one, 10, 0);
                let sum = checksum(Sum::default(), &one[..20]);
                put16(&mut one, 10, sum);
            } else {
                put16(&mut one, 4, word(len));
            }
            one
        };
        if payload.is_empty() { vec![segment(&[])] } else { payload.chunks(size).map(segment).collect() }
    }

    /// Sends packets as a thread of the router does; returns the frames.
    fn frames(packets: impl IntoIterator<Item = (PacketBuf, PortId)>) -> Vec<(PortId, PacketBuf)> {
        let copy = |buf: &PacketBuf| {
            let mut copy = PacketBuf::of(buf.packet());
            copy.set_vnet(buf.vnet());
            copy
        };
        let (mut train, mut frames) = (Train::new(), Vec::new());
        for (mut buf, to) in packets {
            if train.join(&buf, to) {
                continue;
            }
            frames.extend(train.leave().map(|(to, frame, _)| (to, copy(frame))));
            if !train.start(&mut buf, to) {
                frames.push((to, buf));
            }
        }
        frames.extend(train.leave().map(|(to, frame, _)| (to, copy(frame))));
        frames
    }

    #[test]
    fn datagrams_of_a_flow_share_a_frame_up_to_the_first_shorter_one() {
        let [flow, other, _] = FLOWS;
        let one = |(from, to): (&str, &str), len: usize| (partial(&udp(from, to, &vec![7; len])), PortId(1));
        let counts = |packets: Vec<(PacketBuf, PortId)>| {
            frames(packets).iter().map(|(_, frame)| cut(frame).len()).collect::<Vec<_>>()
        };
        assert_eq!(counts(vec![one(flow, 100), one(flow, 100), one(flow, 30), one(flow, 30)]), [3, 1]);
        assert_eq!(counts(vec![one(flow, 30), one(flow, 31), one(flow, 31)]), [1, 2]);
        assert_eq!(counts(vec![one(flow, 9), one(other, 9), one(flow, 9)]), [1, 1, 1]);
        assert_eq!(counts(vec![one(flow, 9), (one(flow, 9).0, PortId(2))]), [1, 1]);
        assert_eq!(counts(vec![one(flow, 0), one(flow, 0)]), [1, 1]);
        assert_eq!(counts((0..150).map(|_| one(flow, 9)).collect()), [64, 64, 22]);
        assert_eq!(counts((0..60).map(|_| one(flow, 1400)).collect()), [46, 14]);
        let whole = PacketBuf::of(&udp(flow.0, flow.1, &[7; 9]));
        assert_eq!(counts(vec![(whole, PortId(1)), one(flow, 9), one(flow, 9)]), [1, 2]);
    }

    proptest! {
        #[test]
        fn frames_cut_to_datagrams_are_what_was_sent(
            sent in prop::collection::vec((0..FLOWS.len(), 0usize..40, any::<u8>(), 0..2u32, 0..10u8), 0..60),
        ) {
            let sent: Vec<(PortId, Vec<u8>, PacketBuf)> = sent
                .into_iter()
                .map(|(flow, len, byte, port, odd)| {
                    let mut packet = udp(FLOWS[flow].0, FLOWS[flow].1, &vec![byte; len / 10 * 10 + 1]);
                    if odd == 0 && packet[0] == 0x45 {
                        // Another class of service, and a header checksum that agrees.
                        packet[1] = 0x10;
                        put16(&mut packet, 10, 0);
                        let sum = checksum(Sum::default(), &packet[..20]);
                        put16(&mut packet, 10, sum);
                    }
                    let buf = if odd == 1 { PacketBuf::of(&packet) } else { partial(&packet) };
                    (PortId(port), packet, buf)
                })
                .collect();
            let expected: Vec<(PortId, Vec<u8>)> = sent.iter().map(|(to, packet, _)| (*to, packet.clone())).collect();
            let frames = frames(sent.into_iter().map(|(to, _, buf)| (buf, to)));
            let received: Vec<(PortId, Vec<u8>)> =
                frames.iter().flat_map(|(to, frame)| cut(frame).into_iter().map(|one| (*to, one))).collect();
            received.iter().for_each(|(_, packet)| drop(describe(packet)));
            prop_assert_eq!(received, expected);
        }
    }
}
