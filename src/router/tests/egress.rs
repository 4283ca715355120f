//! Packets for addresses that nobody in the cluster has.

use serde_json::json;

use super::world::{Seen, World, describe, echo, ip, sock, tcp, tcp_ttl, udp};
use crate::router::stats::{AnswerReason, DropReason};
use crate::router::wire::{Headers, PacketBuf};
use crate::router::{GATE_PORT, PortKind};

const GATE: [&str; 2] = ["10.245.0.3", "fd00:10:245::3"];
const CLIENT: &str = "10.244.1.2:5000";
const WORLD: &str = "192.0.2.9:443";

fn world() -> World {
    let mut world = World::new();
    world.attach("gate", PortKind::Gate, "gate", &GATE);
    world
}

#[test]
fn first_packet_waits_until_the_world_has_answered_and_then_goes_to_the_gate() {
    for (client, outside, gate, later) in [
        (CLIENT, WORLD, GATE[0], tcp as fn(&str, &str, &str) -> Vec<u8>),
        ("[fd00:10:244:1::2]:5000", "[2001:db8::9]:443", GATE[1], tcp),
    ] {
        let mut world = world();
        let syn = tcp(client, outside, "S");
        assert_eq!(world.send("a1", &syn), Seen::Held(sock(outside)));
        // It is sent again while the world is silent.
        assert_eq!(world.send("a1", &syn), Seen::Held(sock(outside)));
        let (seen, seen_client) = world.admit("a1", &syn, outside);
        let at_gate = std::net::SocketAddr::new(ip(gate), GATE_PORT).to_string();
        assert_eq!(seen.at(), ("gate", format!("{client} > {at_gate}").as_str()));
        assert_eq!(seen_client, sock(client));
        // From here on it is a flow like any other, and the Pod sees the world's address.
        assert_eq!(
            world.send("gate", &tcp(&at_gate, client, "SA")).at(),
            ("a1", format!("{outside} > {client}").as_str())
        );
        assert_eq!(world.send("a1", &later(client, outside, "A")).port(), "gate");
        assert_eq!(world.stats().held_packets, 2);
    }
}

#[test]
fn one_source_port_to_two_addresses_is_two_clients_at_the_gate() {
    let mut world = world();
    let others = ["192.0.2.9:53", "192.0.2.10:53"];
    let clients = others.map(|outside| {
        let packet = udp(CLIENT, outside, b"q");
        assert_eq!(world.send("a1", &packet), Seen::Held(sock(outside)));
        world.admit("a1", &packet, outside).1
    });
    assert_ne!(clients[0], clients[1]);
    for (client, outside) in clients.into_iter().zip(others) {
        let answer = udp(&format!("{}:{GATE_PORT}", GATE[0]), &client.to_string(), b"a");
        assert_eq!(world.send("gate", &answer).at(), ("a1", format!("{outside} > {CLIENT}").as_str()));
    }
}

#[test]
fn what_must_not_be_dialed_is_never_held() {
    let mut world = world();
    world.web(json!({}), &["b1"]);
    for (dst, expected) in [
        ("127.0.0.1:6443", DropReason::NotUnicast),
        ("0.0.0.0:80", DropReason::NotUnicast),
        ("0.1.2.3:80", DropReason::NotUnicast),
        ("169.254.169.254:80", DropReason::NotUnicast),
        ("169.254.96.1:80", DropReason::NoRoute),
        ("224.0.0.1:80", DropReason::NotUnicast),
        ("255.255.255.255:80", DropReason::NotUnicast),
        ("10.96.77.77:80", DropReason::UnallocatedVip),
        ("10.246.0.77:80", DropReason::NoRoute),
    ] {
        assert_eq!(world.send("a1", &tcp(CLIENT, dst, "S")), Seen::Dropped(expected), "{dst}");
        assert_eq!(world.send("a1", &udp(CLIENT, dst, b"x")), Seen::Dropped(expected), "{dst}");
    }
    for dst in ["[::1]:80", "[::7f00:1]:80", "[fe80::1]:80", "[ff02::1]:80"] {
        let seen = world.send("a1", &tcp("[fd00:10:244:1::2]:1", dst, "S"));
        assert_eq!(seen, Seen::Dropped(DropReason::NotUnicast), "{dst}");
    }
    for dst in ["10.244.2.99:80", "10.245.0.99:80"] {
        assert!(matches!(world.send("a1", &tcp(CLIENT, dst, "S")), Seen::Answered(AnswerReason::HostUnreachable, _)));
    }
    // The gate itself asks nobody, or the relay would go round in circles.
    let seen = world.send("gate", &tcp("10.245.0.3:9", WORLD, "S"));
    assert_eq!(seen, Seen::Dropped(DropReason::NoRoute));
}

#[test]
fn packet_of_an_unknown_connection_is_for_the_gate_to_reset() {
    let mut world = world();
    assert_eq!(world.send("a1", &tcp(CLIENT, WORLD, "A")).port(), "gate");
}

#[test]
fn way_into_the_world_begins_with_the_pods_node() {
    let mut world = world();
    let seen = world.send("a1", &tcp_ttl(CLIENT, WORLD, "S", 1));
    let Seen::Answered(AnswerReason::TimeExceeded, answer) = seen else { panic!("{seen:?}") };
    assert_eq!(answer[12..16], [10, 245, 0, 11]);
    assert_eq!(world.send("a1", &echo("10.244.1.2", "192.0.2.9", 7, false, 64)), Seen::Held(sock("192.0.2.9:7")));
}

#[test]
fn endpoint_outside_of_the_cluster_is_dialed_and_the_flow_goes_to_the_one_that_answered() {
    let mut world = world();
    world.service("web", json!({}));
    let slice = json!({
        "metadata": {"namespace": "default", "name": "outside", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "tcp", "port": 5432}],
        "endpoints": [{"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]}, {"addresses": ["192.0.2.3"]}],
    });
    world.compiler.slice_applied(&serde_json::from_value(slice).unwrap());
    world.publish();
    for port in 1000..1020 {
        let packet = tcp(&format!("10.244.1.2:{port}"), "10.96.0.11:80", "S");
        let Seen::Held(dialed) = world.send("a1", &packet) else { panic!("not held") };
        let (seen, _) = world.admit("a1", &packet, &dialed.to_string());
        assert_eq!(seen.port(), "gate");
        let flow = world.pipeline.flows().iter().find(|flow| flow.tuples[0].sport == port).expect("a flow");
        let grounds = flow.grounds.as_ref().expect("a Service");
        assert_eq!(grounds.service.endpoints()[grounds.endpoint as usize].addr, dialed);
    }
}

#[test]
fn refused_connection_is_reset_and_the_unreachable_one_is_told_so() {
    for (client, outside) in [(CLIENT, WORLD), ("[fd00:10:244:1::2]:5000", "[2001:db8::9]:443")] {
        let mut world = world();
        let syn = tcp(client, outside, "S");
        let reset = world.refuse("a1", &syn, AnswerReason::OutsideRefused);
        assert!(describe(&reset).starts_with(&format!("{outside} > {client}")));
        let headers = Headers::parse(&reset).expect("a packet");
        let segment = &reset[headers.l4..];
        // RST and ACK of the SYN, whose sequence number is 1000.
        assert_eq!((segment[13], &segment[8..12]), (0x14, &1001u32.to_be_bytes()[..]));

        let refused = world.refuse("a1", &udp(client, outside, b"x"), AnswerReason::OutsideRefused);
        let unreachable = world.refuse("a1", &syn, AnswerReason::OutsideNetwork);
        let at = Headers::parse(&refused).unwrap().l4;
        let codes = [&refused, &unreachable].map(|packet| (packet[at], packet[at + 1]));
        assert_eq!(codes, if at == 20 { [(3, 3), (3, 0)] } else { [(1, 4), (1, 0)] });
        describe(&refused);
        describe(&unreachable);
    }
}

#[test]
fn echo_reply_of_the_world_gets_the_pods_identifier() {
    for (pod, outside, kind) in [("10.244.1.2", "192.0.2.9", 0), ("fd00:10:244:1::2", "2001:db8::9", 129)] {
        let request = Headers::parse(&echo(pod, outside, 7, false, 64)).unwrap().tuple;
        let message = [kind, 0, 0, 0, 0x12, 0x34, 0, 1, b'p', b'i', b'n'];
        let reply = crate::router::icmp::echo_reply(&request, &message).expect("a reply");
        assert!(describe(reply.packet()).starts_with(&format!("{} > {}", at0(outside), at0(pod))));
        assert_eq!(Headers::parse(reply.packet()).unwrap().tuple, request.reversed());
        assert!(crate::router::icmp::echo_reply(&request, &message[..7]).is_none());
    }
}

fn at0(addr: &str) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip(addr), 0)
}

impl World {
    /// Lets a packet that was held through; returns what the gate gets, and the client that it sees.
    fn admit(&mut self, from: &str, packet: &[u8], destination: &str) -> (Seen, std::net::SocketAddr) {
        let mut buf = PacketBuf::of(packet);
        let (id, now) = (self.id(from), self.now);
        let (out, client) = self.pipeline.admit(&mut buf, id, sock(destination), now).expect("a way");
        (Seen::At(self.name(out), describe(buf.packet())), client)
    }

    fn refuse(&mut self, from: &str, packet: &[u8], reason: AnswerReason) -> Vec<u8> {
        let mut buf = PacketBuf::of(packet);
        let headers = Headers::parse(packet).expect("a packet");
        self.pipeline.refuse(&mut buf, &headers, self.id(from), reason, self.now);
        buf.packet().to_vec()
    }
}
