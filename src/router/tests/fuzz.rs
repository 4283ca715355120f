//! Long random lives of a router: sound, broken and hostile packets at every port, answers to what it forwarded, while
//! plans change, Pods come and go and time passes.
//!
//! `VIPYARD_FUZZ_INPUTS=10000000` says how many packets, `VIPYARD_FUZZ_SEED` repeats a life. A seed that failed is kept
//! in [`FAILED_ONCE`].

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::world::{World, echo, read, tcp, udp, unreachable};
use crate::router::PortKind;
use crate::router::pipeline::{Limits, Verdict};
use crate::router::stats::AnswerReason;
use crate::router::wire::PacketBuf;

/// Seeds whose first hundred thousand packets once broke a promise.
const FAILED_ONCE: [u64; 0] = [];
const FEW: u64 = 60_000;
/// Packets of one life; then another begins.
const LIFE: u64 = 100_000;
const PODS: [(&str, &str, [&str; 2]); 4] = [
    ("a1", "n1", ["10.244.1.2", "fd00:10:244:1::2"]),
    ("a2", "n1", ["10.244.1.3", "fd00:10:244:1::3"]),
    ("b1", "n2", ["10.244.2.2", "fd00:10:244:2::2"]),
    ("c1", "n3", ["10.244.3.2", "fd00:10:244:3::2"]),
];
const V4: [&str; 12] = [
    "10.244.1.2",
    "10.244.1.3",
    "10.244.2.2",
    "10.244.3.2",
    "10.245.0.11",
    "10.245.0.12",
    "10.245.0.13",
    "10.245.0.1",
    "10.96.0.11",
    "10.96.0.99",
    "203.0.113.7",
    "127.0.0.1",
];
const V6: [&str; 7] = [
    "fd00:10:244:1::2",
    "fd00:10:244:2::2",
    "fd00:10:245::b",
    "fd00:10:245::c",
    "fd00:10:96::11",
    "2001:db8::1",
    "::1",
];
const PORTS: [u16; 6] = [80, 8080, 30080, 40000, 40001, 1];

struct Life {
    random: StdRng,
    world: World,
    /// Packets that were forwarded, and where to: their receivers may answer.
    forwarded: VecDeque<(String, Vec<u8>)>,
    present: Vec<&'static str>,
}

impl Life {
    fn new(seed: u64) -> Self {
        // Small tables, so that they are full most of the time.
        let limits = Limits { flows: 500, affinity_clients: 20, ..Limits::default() };
        let mut world = World::with(limits);
        world.web(json!({"type": "NodePort"}), &["a1", "b1"]);
        let present = PODS.iter().map(|(name, ..)| *name).collect();
        Self { random: StdRng::seed_from_u64(seed), world, forwarded: VecDeque::new(), present }
    }

    fn address(&mut self, v6: bool) -> &'static str {
        if v6 { V6.choose(&mut self.random) } else { V4.choose(&mut self.random) }.expect("one")
    }

    fn socket(&mut self, address: &str) -> String {
        let port = match self.random.random_range(0..8) {
            0 => self.random.random(),
            _ => *PORTS.choose(&mut self.random).expect("one"),
        };
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
    }

    /// A packet, and the port that it comes from.
    fn packet(&mut self) -> (String, Vec<u8>) {
        if !self.forwarded.is_empty() && self.random.random_bool(0.3) {
            let at = self.random.random_range(0..self.forwarded.len());
            let (port, packet) = self.forwarded[at].clone();
            if let Some(answer) = self.answer(&packet) {
                return (port, answer);
            }
        }
        let from =
            (*["a1", "a2", "b1", "c1", "n1", "n2", "n3", "cp"].choose(&mut self.random).expect("one")).to_owned();
        if self.random.random_bool(0.05) {
            let length = self.random.random_range(0..200);
            return (from, (0..length).map(|_| self.random.random()).collect());
        }
        let v6 = self.random.random_bool(0.3);
        // Mostly its own address: spoofed packets end early.
        let own = PODS.iter().find(|(name, ..)| *name == from).map(|(.., addresses)| addresses[usize::from(v6)]);
        let src = match own.filter(|_| self.random.random_bool(0.9)) {
            Some(own) => own,
            None => self.address(v6),
        };
        let dst = self.address(v6);
        let (src_socket, dst_socket) = (self.socket(src), self.socket(dst));
        let packet = match self.random.random_range(0..10) {
            0..5 => tcp(
                &src_socket,
                &dst_socket,
                ["S", "A", "FA", "R", "SA", "SFR", ""].choose(&mut self.random).expect("one"),
            ),
            5..8 => {
                let length = self.random.random_range(0..1800);
                udp(&src_socket, &dst_socket, &vec![7; length])
            }
            8 => echo(
                src,
                dst,
                self.random.random_range(0..4),
                self.random.random_bool(0.3),
                self.random.random_range(0..3),
            ),
            _ => unreachable(src, &udp(&dst_socket, &src_socket, b"payload")),
        };
        (from, packet)
    }

    /// What a receiver might send back: the same ports the other way round, or an ICMP error.
    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let line = read(packet).ok()?;
        let (source, rest) = line.split_once(" > ")?;
        let destination = rest.split(" ttl ").next()?;
        let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
        let host = destination.rsplit_once(':')?.0.trim_matches(['[', ']']);
        Some(match (protocol, self.random.random_range(0..5)) {
            (6 | 17, 0) => unreachable(host, packet),
            (6, _) => tcp(destination, source, ["SA", "A", "FA", "R"].choose(&mut self.random)?),
            (17, _) => udp(destination, source, b"answer"),
            _ => return None,
        })
    }

    fn mutate(&mut self, packet: &mut Vec<u8>) {
        for _ in 0..self.random.random_range(1..5) {
            if packet.is_empty() {
                return;
            }
            let at = self.random.random_range(0..packet.len());
            match self.random.random_range(0..5) {
                0 => packet.truncate(at),
                1 => packet.insert(at, self.random.random()),
                // Where the headers are.
                2 | 3 => {
                    let at = at.min(self.random.random_range(0..60)).min(packet.len() - 1);
                    packet[at] = self.random.random();
                }
                _ => packet[at] ^= 1 << self.random.random_range(0..8),
            }
        }
    }

    /// Something else happens than a packet.
    fn happen(&mut self) {
        match self.random.random_range(0..6) {
            0 => {
                let policy = |local| if local { "Local" } else { "Cluster" };
                let affinity = if self.random.random() { "ClientIP" } else { "None" };
                let spec = json!({
                    "type": "NodePort", "internalTrafficPolicy": policy(self.random.random()),
                    "externalTrafficPolicy": policy(self.random.random()), "sessionAffinity": affinity,
                    "externalIPs": ["203.0.113.7", "2001:db8::1"],
                });
                self.world.service("web", spec);
            }
            1 => self.world.delete_service("web"),
            2 | 3 => {
                let all = ["a1", "a2", "b1", "c1", "a1!", "b1!"];
                let some: Vec<&str> = all.into_iter().filter(|_| self.random.random_bool(0.4)).collect();
                let target = *PORTS.choose(&mut self.random).expect("one");
                self.world.endpoints_at("web", &some, target);
            }
            4 => {
                let (name, node, addresses) = PODS[self.random.random_range(0..PODS.len())];
                if let Some(at) = self.present.iter().position(|other| *other == name) {
                    self.present.remove(at);
                    self.world.detach(name);
                } else {
                    self.present.push(name);
                    self.world.attach(name, PortKind::Pod, node, &addresses);
                }
            }
            _ => {
                self.world.now += self.random.random_range(0..400_000);
                self.world.pipeline.maintain(self.world.now);
            }
        }
    }

    fn step(&mut self) {
        if self.random.random_bool(0.004) {
            self.happen();
        }
        self.world.now += self.random.random_range(0..3);
        let (from, mut packet) = self.packet();
        if !self.world.has(&from) {
            return;
        }
        if self.random.random_bool(0.3) {
            self.mutate(&mut packet);
        }
        let sound = read(&packet).is_ok();
        let mut buf = PacketBuf::of(&packet);
        let plain = self.random.random_bool(0.8);
        if !plain {
            self.random.fill(&mut buf.slot()[..10]);
        }
        let verdict = self.world.process(&from, &mut buf);
        if let Verdict::Forward(_) | Verdict::Reply(_) = verdict
            && plain
            && sound
        {
            let after = read(buf.packet());
            assert!(after.is_ok(), "{after:?}: {packet:02x?} became {:02x?}", buf.packet());
        }
        if let Verdict::Forward(to) = verdict {
            self.forwarded.push_back((self.world.name(to), buf.packet().to_vec()));
            if self.forwarded.len() > 50 {
                self.forwarded.pop_front();
            }
        }
    }

    /// Every packet has one outcome, and tables keep to their limits.
    fn check(&self) {
        let stats = self.world.stats();
        let answered: u64 = AnswerReason::ALL.iter().map(|reason| stats.answered(*reason)).sum();
        assert_eq!(stats.received_packets, stats.forwarded_packets + answered + stats.dropped_total());
        assert!(stats.flows <= 500, "{} flows", stats.flows);
        // Else there would be little to break.
        assert!(stats.forwarded_packets * 10 > stats.received_packets, "{stats:?}");
    }
}

fn live(seed: u64, packets: u64) {
    println!("seed {seed}, {packets} packets");
    let mut life = Life::new(seed);
    for _ in 0..packets {
        life.step();
    }
    life.check();
}

#[test]
fn no_packet_breaks_the_router() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    FAILED_ONCE.iter().for_each(|seed| live(*seed, LIFE));
    let mut left = number("VIPYARD_FUZZ_INPUTS").unwrap_or(FEW);
    let mut seed = number("VIPYARD_FUZZ_SEED").unwrap_or_else(rand::random);
    while left > 0 {
        let packets = left.min(LIFE);
        live(seed, packets);
        left -= packets;
        seed = seed.wrapping_add(1);
    }
}
