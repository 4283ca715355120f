//! A cluster of three nodes with a Pod each (two on n1), driven packet by packet.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use etherparse::{PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

use crate::cluster::ObjectKey;
use crate::config::Network;
use crate::plan::{Compiler, Plan};
use crate::router::checksum::{Sum, checksum};
use crate::router::pipeline::{Limits, Pipeline, Verdict};
use crate::router::ports::PortInfo;
use crate::router::stats::{AnswerReason, DropReason, Stats};
use crate::router::wire::PacketBuf;
use crate::router::{PortId, PortKind};

pub const TTL: u8 = 64;

/// Every port of the world: name, kind, node, addresses.
const PORTS: [(&str, PortKind, &str, [&str; 2]); 8] = [
    ("a1", PortKind::Pod, "n1", ["10.244.1.2", "fd00:10:244:1::2"]),
    ("a2", PortKind::Pod, "n1", ["10.244.1.3", "fd00:10:244:1::3"]),
    ("b1", PortKind::Pod, "n2", ["10.244.2.2", "fd00:10:244:2::2"]),
    ("c1", PortKind::Pod, "n3", ["10.244.3.2", "fd00:10:244:3::2"]),
    ("n1", PortKind::Node, "n1", ["10.245.0.11", "fd00:10:245::b"]),
    ("n2", PortKind::Node, "n2", ["10.245.0.12", "fd00:10:245::c"]),
    ("n3", PortKind::Node, "n3", ["10.245.0.13", "fd00:10:245::d"]),
    ("cp", PortKind::ControlPlane, "control-plane", ["10.245.0.1", "fd00:10:245::1"]),
];

pub struct World {
    pub pipeline: Pipeline<SmallRng>,
    pub compiler: Compiler,
    pub now: u64,
    ids: HashMap<String, PortId>,
    last_id: u32,
}

/// Where a packet went, and what it looks like now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// At a port: `source > destination ttl n`.
    At(String, String),
    Answered(AnswerReason, Vec<u8>),
    Dropped(DropReason),
    Held(SocketAddr),
}

impl World {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let mut compiler = Compiler::new(&Network::default());
        let pipeline = Pipeline::new(compiler.plan(), limits, SmallRng::seed_from_u64(1));
        let mut world = Self { pipeline, compiler, now: 1000, ids: HashMap::new(), last_id: 0 };
        for (name, kind, node, addresses) in PORTS {
            world.attach(name, kind, node, &addresses);
        }
        world
    }

    pub fn attach(&mut self, name: &str, kind: PortKind, node: &str, addresses: &[&str]) {
        self.last_id += 1;
        let id = PortId(self.last_id);
        let addresses = addresses.iter().map(|addr| ip(addr)).collect();
        let port = PortInfo { id, name: name.into(), uid: "".into(), kind, node: node.into(), addresses };
        self.pipeline.attach(port).expect("free addresses");
        self.ids.insert(name.to_owned(), id);
    }

    pub fn detach(&mut self, name: &str) {
        self.pipeline.detach(self.ids.remove(name).expect("a port"));
    }

    /// Makes the Service `web` with a TCP and a UDP port 80 (target 8080), changed by `extra`, on these endpoints.
    pub fn web(&mut self, extra: Value, endpoints: &[&str]) {
        self.service("web", extra);
        self.endpoints("web", endpoints);
    }

    pub fn service(&mut self, name: &str, extra: Value) {
        let mut spec = json!({
            "clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11", "fd00:10:96::11"],
            "ports": [
                {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
                {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080},
            ],
        });
        let mut status = json!({});
        if let (Value::Object(spec), Value::Object(mut extra)) = (&mut spec, extra) {
            status = extra.remove("status").unwrap_or(status);
            spec.extend(extra);
        }
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name, "uid": "u", "resourceVersion": "1"},
            "spec": spec, "status": status,
        }))
        .expect("a Service");
        self.compiler.service_applied(&service);
        self.publish();
    }

    pub fn delete_service(&mut self, name: &str) {
        self.compiler.service_deleted(&ObjectKey::new("default", name));
        self.publish();
    }

    /// Makes these ports the ready endpoints, by name; `name!` is one that terminates and still serves.
    pub fn endpoints(&mut self, service: &str, names: &[&str]) {
        self.endpoints_at(service, names, 8080);
    }

    pub fn endpoints_at(&mut self, service: &str, names: &[&str], target: u16) {
        for (family, index) in [("IPv4", 0), ("IPv6", 1)] {
            let endpoints = names.iter().map(|name| {
                let leaving = name.ends_with('!');
                let name = name.trim_end_matches('!');
                let (.., node, addresses) = PORTS.iter().find(|port| port.0 == name).expect("a port");
                json!({"addresses": [addresses[index]], "nodeName": node,
                    "conditions": {"ready": !leaving, "serving": true, "terminating": leaving}})
            });
            let slice: EndpointSlice = serde_json::from_value(json!({
                "metadata": {"namespace": "default", "name": format!("{service}-{family}"), "resourceVersion": "1",
                    "labels": {"kubernetes.io/service-name": service}},
                "addressType": family,
                "ports": [{"name": "tcp", "port": target, "protocol": "TCP"},
                    {"name": "udp", "port": target, "protocol": "UDP"}],
                "endpoints": endpoints.collect::<Vec<_>>(),
            }))
            .expect("an EndpointSlice");
            self.compiler.slice_applied(&slice);
        }
        self.publish();
    }

    pub fn publish(&mut self) {
        let plan = self.compiler.plan();
        drop(self.pipeline.set_plan(plan));
    }

    pub fn has(&self, port: &str) -> bool {
        self.ids.contains_key(port)
    }

    pub fn id(&self, name: &str) -> PortId {
        self.ids[name]
    }

    pub fn name(&self, id: PortId) -> String {
        self.ids.iter().find(|(_, known)| **known == id).expect("a port").0.clone()
    }

    pub fn process(&mut self, from: &str, buf: &mut PacketBuf) -> Verdict {
        self.pipeline.process(buf, self.ids[from], self.now)
    }

    /// Sends a packet from a port; what leaves must have right checksums.
    pub fn send(&mut self, from: &str, packet: &[u8]) -> Seen {
        self.send_buf(from, packet).0
    }

    /// Also gives the packet as it left.
    pub fn send_buf(&mut self, from: &str, packet: &[u8]) -> (Seen, Vec<u8>) {
        let mut buf = PacketBuf::of(packet);
        let seen = match self.process(from, &mut buf) {
            Verdict::Forward(to) => Seen::At(self.name(to), describe(buf.packet())),
            Verdict::Reply(reason) => {
                describe(buf.packet());
                Seen::Answered(reason, buf.packet().to_vec())
            }
            Verdict::Drop(reason) => Seen::Dropped(reason),
            Verdict::Hold(destination) => Seen::Held(destination),
        };
        (seen, buf.packet().to_vec())
    }

    pub fn stats(&self) -> Stats {
        self.pipeline.stats()
    }

    pub fn plan(&self) -> &Arc<Plan> {
        self.pipeline.plan()
    }
}

impl Seen {
    /// The port that got it and the addresses that it saw, without time to live.
    pub fn at(&self) -> (&str, &str) {
        match self {
            Self::At(port, line) => (port, line.split(" ttl ").next().unwrap_or(line)),
            other => panic!("not forwarded: {other:?}"),
        }
    }

    pub fn port(&self) -> &str {
        self.at().0
    }

    /// Source as the receiver saw it.
    pub fn source(&self) -> SocketAddr {
        self.at().1.split(" > ").next().map(sock).expect("a source")
    }

    pub fn destination(&self) -> SocketAddr {
        self.at().1.split(" > ").nth(1).map(sock).expect("a destination")
    }
}

pub fn ip(addr: &str) -> IpAddr {
    addr.parse().expect("an address")
}

pub fn sock(addr: &str) -> SocketAddr {
    addr.parse().expect("an address with port")
}

pub fn at(port: &str, line: &str) -> Seen {
    Seen::At(port.to_owned(), line.to_owned())
}

fn builder(src: IpAddr, dst: IpAddr, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => PacketBuilder::ipv4(src.octets(), dst.octets(), ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => PacketBuilder::ipv6(src.octets(), dst.octets(), ttl),
        _ => panic!("two families in one packet"),
    }
}

/// A TCP packet; `flags` of "S", "A", "F", "R".
pub fn tcp(src: &str, dst: &str, flags: &str) -> Vec<u8> {
    tcp_ttl(src, dst, flags, TTL)
}

pub fn tcp_ttl(src: &str, dst: &str, flags: &str, ttl: u8) -> Vec<u8> {
    let (src, dst) = (sock(src), sock(dst));
    let mut step = builder(src.ip(), dst.ip(), ttl).tcp(src.port(), dst.port(), 1000, 1000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(1),
            'F' => step.fin(),
            'R' => step.rst(),
            _ => panic!("unknown flag {flag}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, b"odd").expect("a packet");
    packet
}

pub fn udp(src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (sock(src), sock(dst));
    let mut packet = Vec::new();
    let step = builder(src.ip(), dst.ip(), TTL).udp(src.port(), dst.port());
    step.write(&mut packet, payload).expect("a packet");
    packet
}

/// An echo request, or the reply to one.
pub fn echo(src: &str, dst: &str, id: u16, reply: bool, ttl: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    let (src, dst) = (ip(src), ip(dst));
    let step = builder(src, dst, ttl);
    match (src.is_ipv4(), reply) {
        (true, false) => step.icmpv4_echo_request(id, 1).write(&mut packet, b"ping"),
        (true, true) => step.icmpv4_echo_reply(id, 1).write(&mut packet, b"ping"),
        (false, false) => step.icmpv6_echo_request(id, 1).write(&mut packet, b"ping"),
        (false, true) => step.icmpv6_echo_reply(id, 1).write(&mut packet, b"ping"),
    }
    .expect("a packet");
    packet
}

/// An ICMP port unreachable from `src` to the source of `about`, quoting it.
pub fn unreachable(src: &str, about: &[u8]) -> Vec<u8> {
    let quoted = &about[..about.len().min(200)];
    let mut packet = Vec::new();
    match ip(src) {
        IpAddr::V4(v4) => {
            let dst: [u8; 4] = about[12..16].try_into().expect("four bytes");
            let step = PacketBuilder::ipv4(v4.octets(), dst, TTL).icmpv4_raw(3, 3, [0; 4]);
            step.write(&mut packet, quoted).expect("a packet");
        }
        IpAddr::V6(v6) => {
            let dst: [u8; 16] = about[8..24].try_into().expect("sixteen bytes");
            let step = PacketBuilder::ipv6(v6.octets(), dst, TTL).icmpv6_raw(1, 4, [0; 4]);
            step.write(&mut packet, quoted).expect("a packet");
        }
    }
    packet
}

/// `source > destination ttl n` of a packet that must be sound.
pub fn describe(packet: &[u8]) -> String {
    read(packet).unwrap_or_else(|why| panic!("{why}: {packet:02x?}"))
}

fn same<T: PartialEq>(found: T, expected: T, what: &'static str) -> Result<(), &'static str> {
    if found == expected { Ok(()) } else { Err(what) }
}

/// `source > destination ttl n`, after checking every checksum with etherparse; else what is wrong.
pub fn read(packet: &[u8]) -> Result<String, &'static str> {
    let sliced = SlicedPacket::from_ip(packet).map_err(|_| "a packet that etherparse does not take")?;
    let net = sliced.net.ok_or("no IP header")?;
    let (src, dst, ttl): (IpAddr, IpAddr, u8) = match (net.ipv4_ref(), net.ipv6_ref()) {
        (Some(v4), _) => {
            let header = v4.header().to_header();
            same(header.header_checksum, header.calc_header_checksum(), "IPv4 header checksum")?;
            (v4.header().source_addr().into(), v4.header().destination_addr().into(), header.time_to_live)
        }
        (_, Some(v6)) => {
            let header = v6.header();
            (header.source_addr().into(), header.destination_addr().into(), header.hop_limit())
        }
        _ => return Err("neither IPv4 nor IPv6"),
    };
    let (sport, dport) = match sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => tcp.calc_checksum_ipv4(s.octets(), d.octets()),
                (IpAddr::V6(s), IpAddr::V6(d)) => tcp.calc_checksum_ipv6(s.octets(), d.octets()),
                _ => return Err("two families"),
            };
            same(tcp.checksum(), expected.map_err(|_| "a TCP length")?, "TCP checksum")?;
            (tcp.source_port(), tcp.destination_port())
        }
        Some(TransportSlice::Udp(udp)) => {
            let (header, payload) = (udp.to_header(), udp.payload());
            let expected = match (src, dst) {
                (IpAddr::V4(s), IpAddr::V4(d)) => header.calc_checksum_ipv4_raw(s.octets(), d.octets(), payload),
                (IpAddr::V6(s), IpAddr::V6(d)) => header.calc_checksum_ipv6_raw(s.octets(), d.octets(), payload),
                _ => return Err("two families"),
            };
            if header.checksum != 0 || src.is_ipv6() {
                same(header.checksum, expected.map_err(|_| "a UDP length")?, "UDP checksum")?;
            }
            (udp.source_port(), udp.destination_port())
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            // etherparse's own leaves out the bytes that a type does not use.
            same(checksum(Sum::default(), icmp.slice()), 0, "ICMP checksum")?;
            (0, 0)
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let (IpAddr::V6(s), IpAddr::V6(d)) = (src, dst) else { return Err("ICMPv6 over IPv4") };
            same(icmp.is_checksum_valid(s.octets(), d.octets()), true, "ICMPv6 checksum")?;
            (0, 0)
        }
        _ => (0, 0),
    };
    Ok(format!("{} > {} ttl {ttl}", SocketAddr::new(src, sport), SocketAddr::new(dst, dport)))
}
