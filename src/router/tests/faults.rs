//! Bad packets, large packets, fragments, offloads.

use proptest::prelude::*;
use serde_json::json;

use super::world::{Seen, World, describe, sock, tcp, tcp_ttl, udp};
use crate::router::checksum::Sum;
use crate::router::icmp;
use crate::router::pipeline::{Limits, Verdict};
use crate::router::stats::{AnswerReason, DropReason};
use crate::router::wire::{Headers, MAX_PACKET, PacketBuf};

const VIP: &str = "10.96.0.11:80";
const CLIENT: &str = "10.244.1.2:5000";

fn dropped(world: &mut World, packet: &[u8], reason: DropReason) {
    let before = world.stats().dropped(reason);
    assert_eq!(world.send("a1", packet), Seen::Dropped(reason));
    assert_eq!(world.stats().dropped(reason), before + 1);
}

#[test]
fn every_malformation_has_its_reason_and_counter() {
    let mut world = World::new();
    let good = tcp(CLIENT, "10.244.2.2:80", "S");
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        fix_header(&mut packet);
        packet
    };
    dropped(&mut world, &[], DropReason::Truncated);
    dropped(&mut world, &good[..19], DropReason::Truncated);
    dropped(&mut world, &good[..good.len() - 1], DropReason::Truncated);
    dropped(&mut world, &with(0, 0x55), DropReason::Malformed);
    dropped(&mut world, &with(0, 0x44), DropReason::Malformed);
    dropped(&mut world, &with(3, 10), DropReason::Malformed);
    dropped(&mut world, &with(32, 0x40), DropReason::Malformed);
    dropped(&mut world, &with(32, 0xf0), DropReason::Truncated);
    dropped(&mut world, &with(8, 0), DropReason::TtlZero);
    let mut wrong = good.clone();
    wrong[10] ^= 1;
    dropped(&mut world, &wrong, DropReason::HeaderChecksum);
    dropped(&mut world, &tcp("[fd00:10:244:1::2]:1", "[::ffff:10.244.2.2]:1", "S"), DropReason::Malformed);
    assert_eq!((world.stats().forwarded_packets, world.stats().flows), (0, 0));
    assert_eq!(world.stats().dropped_total(), world.stats().received_packets);
}

fn fix_header(packet: &mut [u8]) {
    let len = (usize::from(packet[0] & 0xf) * 4).clamp(12, packet.len());
    packet[10..12].fill(0);
    let sum = !Sum::default().bytes(&packet[..len]).fold();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn spoofed_sources_are_dropped_also_inside_of_others_flows() {
    let mut world = World::new();
    world.send("a1", &udp(CLIENT, "10.244.2.2:80", b""));
    for source in ["10.244.1.2:5000", "10.244.9.9:1", "10.245.0.11:1", "192.0.2.1:1"] {
        assert_eq!(world.send("a2", &udp(source, "10.244.2.2:80", b"")), Seen::Dropped(DropReason::Spoofed));
    }
    assert_eq!(world.stats().flows, 1, "the victim's flow stays");
    assert_eq!(world.send("n1", &udp("10.244.1.2:1", "10.244.2.2:80", b"")), Seen::Dropped(DropReason::Spoofed));
}

#[test]
fn only_unicast_is_routed() {
    let mut world = World::new();
    for (src, dst) in [
        (CLIENT, "224.0.0.1:1"),
        (CLIENT, "255.255.255.255:1"),
        (CLIENT, "127.0.0.1:1"),
        (CLIENT, "169.254.1.1:1"),
        ("[fd00:10:244:1::2]:1", "[ff02::2]:1"),
        ("[fe80::1]:1", "[ff02::2]:1"),
        ("[fd00:10:244:1::2]:1", "[fe80::1]:1"),
    ] {
        assert_eq!(world.send("a1", &udp(src, dst, b"")), Seen::Dropped(DropReason::NotUnicast), "{dst}");
    }
}

#[test]
fn p2_node_ports_are_never_on_loopback() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["b1"]);
    assert_eq!(world.send("a1", &tcp(CLIENT, "127.0.0.1:30080", "S")), Seen::Dropped(DropReason::NotUnicast));
}

#[test]
fn packet_larger_than_the_mtu_is_told_the_mtu() {
    let mut world = World::with(Limits { mtu: 1500, ..Limits::default() });
    let mut large = udp(CLIENT, "10.244.2.2:80", &[1; 2000]);
    large[6] |= 0x40;
    fix_header(&mut large);
    let Seen::Answered(AnswerReason::TooBig, answer) = world.send("a1", &large) else { panic!("no answer") };
    assert_eq!((&answer[20..22], &answer[26..28], answer.len()), (&[3, 4][..], &1500u16.to_be_bytes()[..], 576));
    let six = udp("[fd00:10:244:1::2]:1", "[fd00:10:244:2::2]:1", &[1; 2000]);
    let Seen::Answered(AnswerReason::TooBig, answer) = world.send("a1", &six) else { panic!("no answer") };
    assert_eq!((&answer[40..42], &answer[44..48]), (&[2, 0][..], &1500u32.to_be_bytes()[..]));
    // Without the mark it goes whole: a TUN's kernel takes it.
    large[6] &= !0x40;
    fix_header(&mut large);
    assert_eq!(world.send("a1", &large).port(), "b1");
}

/// A packet with a virtio-net header: partial checksum and segmentation as a kernel hands it over.
fn offloaded(packet: &[u8], l4: usize, checksum_at: usize, gso: u8) -> PacketBuf {
    let mut packet = packet.to_vec();
    let protocol = u16::from(packet[9]);
    let len = u16::try_from(packet.len() - l4).expect("a short packet");
    let sum = Sum::default().bytes(&packet[12..20]).word(protocol).word(len).fold();
    packet[l4 + checksum_at..l4 + checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut buf = PacketBuf::of(&packet);
    let slot = buf.slot();
    slot[0] = 1;
    slot[1] = gso;
    slot[4..6].copy_from_slice(&1460u16.to_ne_bytes());
    slot[6..8].copy_from_slice(&u16::try_from(l4).expect("short").to_ne_bytes());
    slot[8..10].copy_from_slice(&u16::try_from(checksum_at).expect("short").to_ne_bytes());
    buf
}

#[test]
fn segmented_packet_with_partial_checksum_passes_whole() {
    let mut world = World::with(Limits { mtu: 1500, ..Limits::default() });
    world.web(json!({}), &["b1"]);
    let step = etherparse::PacketBuilder::ipv4([10, 244, 1, 2], [10, 96, 0, 11], 64).tcp(5000, 80, 1, 1000).syn();
    let mut packet = Vec::new();
    step.write(&mut packet, &vec![7; 60_000]).expect("a packet");
    packet[6] |= 0x40;
    fix_header(&mut packet);
    let mut buf = offloaded(&packet, 20, 16, 1);
    let before = buf.vnet();
    assert!(matches!(world.process("a1", &mut buf), Verdict::Forward(_)));
    assert_eq!(buf.vnet(), before);
    // The kernel that gets it adds the rest of the sum; so do we, and etherparse checks.
    let mut finished = buf.packet().to_vec();
    let partial = u16::from_be_bytes([finished[36], finished[37]]);
    finished[36..38].fill(0);
    let sum = !Sum::default().word(partial).bytes(&finished[20..]).fold();
    finished[36..38].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(describe(&finished), "10.244.1.2:5000 > 10.244.2.2:8080 ttl 62");
}

#[test]
fn partial_checksum_that_points_elsewhere_is_malformed() {
    let mut world = World::new();
    let mut buf = offloaded(&tcp(CLIENT, "10.244.2.2:80", "S"), 20, 16, 0);
    buf.slot()[6..8].copy_from_slice(&4u16.to_ne_bytes());
    assert_eq!(world.process("a1", &mut buf), Verdict::Drop(DropReason::Malformed));
}

#[test]
fn udp_checksum_of_zero_stays_none_and_is_never_made() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let mut without = udp(CLIENT, VIP, b"x");
    without[26..28].fill(0);
    let (_, left) = world.send_buf("a1", &without);
    assert_eq!(&left[26..28], &[0, 0]);
    // Of all payloads one makes the translated sum zero; it must leave as 0xffff.
    let mut seen = false;
    for payload in 0..=u16::MAX {
        let (_, left) = world.send_buf("a1", &udp(CLIENT, VIP, &payload.to_be_bytes()));
        assert_ne!(&left[26..28], &[0, 0]);
        seen |= left[26..28] == [0xff, 0xff];
    }
    assert!(seen);
}

/// Cuts an IPv4 packet into fragments of at most `size` payload bytes, a multiple of eight.
fn fragments(packet: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let payload = &packet[20..];
    let count = payload.len().div_ceil(size);
    let cut = payload.chunks(size).enumerate().map(|(index, piece)| {
        let mut fragment = packet[..20].to_vec();
        fragment.extend_from_slice(piece);
        let len = u16::try_from(fragment.len()).expect("short");
        fragment[2..4].copy_from_slice(&len.to_be_bytes());
        fragment[4..6].copy_from_slice(&id.to_be_bytes());
        let more = if index + 1 < count { 0x2000 } else { 0 };
        let offset = u16::try_from(index * size / 8).expect("short");
        fragment[6..8].copy_from_slice(&(more | offset).to_be_bytes());
        fix_header(&mut fragment);
        fragment
    });
    cut.collect()
}

#[test]
fn c9_fragments_follow_their_first_one_through_the_vip_and_back() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let reassembled = |world: &mut World, from: &str, packet: &[u8]| {
        let mut payload = Vec::new();
        let mut header = Vec::new();
        for fragment in fragments(packet, 99, 800) {
            let mut buf = PacketBuf::of(&fragment);
            assert!(matches!(world.process(from, &mut buf), Verdict::Forward(_)));
            header = buf.packet()[..20].to_vec();
            payload.extend_from_slice(&buf.packet()[20..]);
        }
        let len = u16::try_from(20 + payload.len()).expect("short");
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[6..8].fill(0);
        header.extend(payload);
        fix_header(&mut header);
        describe(&header)
    };
    let question = udp(CLIENT, VIP, &[3; 2000]);
    assert_eq!(reassembled(&mut world, "a1", &question), "10.244.1.2:5000 > 10.244.2.2:8080 ttl 62");
    let answer = udp("10.244.2.2:8080", CLIENT, &[4; 2000]);
    assert_eq!(reassembled(&mut world, "b1", &answer), "10.96.0.11:80 > 10.244.1.2:5000 ttl 62");
    let stray = &fragments(&question, 100, 800)[1];
    dropped(&mut world, stray, DropReason::FragmentWithoutFirst);
}

#[test]
fn packet_that_goes_in_circles_between_node_ports_is_dropped() {
    // An endpoint that is another node's node port of the same Service, on both sides.
    let mut world = World::new();
    world.service(
        "web",
        json!({"type": "NodePort", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}),
    );
    for (name, addr, node) in [("x", "10.245.0.12", "n1"), ("y", "10.245.0.11", "n2")] {
        let slice = json!({
            "metadata": {"namespace": "default", "name": name, "resourceVersion": "2",
                "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "tcp", "port": 30080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [addr], "nodeName": node}],
        });
        world.compiler.slice_applied(&serde_json::from_value(slice).expect("an EndpointSlice"));
    }
    let plan = world.compiler.plan();
    world.pipeline.set_plan(plan);
    dropped(&mut world, &tcp(CLIENT, VIP, "S"), DropReason::RoutingLoop);
}

#[test]
fn answers_are_never_sent_about_answers() {
    let mut world = World::new();
    let Seen::Answered(_, error) = world.send("a1", &tcp_ttl(CLIENT, "10.244.1.3:1", "S", 1)) else {
        panic!("no answer")
    };
    // The error comes back from the Pod, about a flow that does not exist.
    assert_eq!(world.send("n1", &error), Seen::Dropped(DropReason::IcmpErrorWithoutFlow));
}

#[test]
fn longest_packet_can_be_answered() {
    let mut buf = PacketBuf::of(&vec![0x45; MAX_PACKET]);
    let good = tcp(CLIENT, VIP, "S");
    let mut headers = Headers::parse(&good).expect("a packet");
    headers.len = MAX_PACKET;
    icmp::answer(&mut buf, &headers, icmp::Error::PortUnreachable, sock(VIP).ip());
    assert_eq!(describe(buf.packet()), "10.96.0.11:0 > 10.244.1.2:0 ttl 64");
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let seeds = prop_oneof![
        Just(tcp(CLIENT, VIP, "S")),
        Just(udp(CLIENT, VIP, b"payload")),
        Just(udp("[fd00:10:244:1::2]:1", "[fd00:10:96::11]:80", b"payload")),
        Just(super::world::echo("10.244.1.2", "10.244.2.2", 1, false, 64)),
        Just(super::world::unreachable("10.244.1.2", &udp("10.244.2.2:1", CLIENT, b"payload"))),
    ];
    let mutated = (seeds, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6), any::<bool>())
        .prop_map(|(mut packet, changes, fix)| {
            for (at, value) in changes {
                let at = at.index(packet.len());
                packet[at] = value;
            }
            if fix && packet[0] >> 4 == 4 {
                fix_header(&mut packet);
            }
            packet
        });
    prop_oneof![3 => mutated, 1 => prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(packets in prop::collection::vec((any_packet(), prop::array::uniform10(any::<u8>())), 1..20)) {
        let mut world = World::new();
        world.web(json!({"type": "NodePort"}), &["a1", "b1"]);
        for (packet, vnet) in packets {
            let mut buf = PacketBuf::of(&packet);
            if vnet[9] & 1 == 1 {
                buf.slot()[..10].copy_from_slice(&vnet);
            }
            world.process("a1", &mut buf);
        }
        let stats = world.stats();
        let answered: u64 = AnswerReason::ALL.iter().map(|reason| stats.answered(*reason)).sum();
        prop_assert_eq!(stats.received_packets, stats.forwarded_packets + answered + stats.dropped_total());
    }

    #[test]
    fn there_and_back_through_nat_is_the_identity(
        port in 1u16.., payload in prop::collection::vec(any::<u8>(), 0..99), is_tcp: bool, hairpin: bool, v6: bool,
    ) {
        let mut world = World::new();
        world.web(json!({}), &[if hairpin { "a1" } else { "b1" }]);
        let client = if v6 { format!("[fd00:10:244:1::2]:{port}") } else { format!("10.244.1.2:{port}") };
        let vip = if v6 { "[fd00:10:96::11]:80" } else { VIP };
        let packet = |src: &str, dst: &str, flags| if is_tcp { tcp(src, dst, flags) } else { udp(src, dst, &payload) };
        let there = world.send("a1", &packet(&client, vip, "S"));
        let answer = packet(&there.destination().to_string(), &there.source().to_string(), "SA");
        let (back, left) = world.send_buf(if hairpin { "a1" } else { "b1" }, &answer);
        prop_assert_eq!(back.at(), ("a1", &*format!("{vip} > {client}")));
        // But for addresses, ports, age and sums it is the answer of the VIP itself.
        let direct = packet(vip, &client, "SA");
        let l4 = if v6 { 40 } else { 20 };
        prop_assert_eq!(&left[l4..], &direct[l4..]);
    }
}
