//! The code alone, without devices: a packet of a known flow, a first packet, and a change of one slice, each with 1
//! and with 10,000 Services of 10 endpoints; and what a million flows weigh.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::Result;
use etherparse::PacketBuilder;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::json;
use vipyard::config::Network;
use vipyard::plan::Compiler;
use vipyard::router::pipeline::{Limits, Pipeline, Verdict};
use vipyard::router::ports::PortInfo;
use vipyard::router::wire::PacketBuf;
use vipyard::router::{PortId, PortKind};

/// The clients, all behind one port: enough for a million flows of source ports of their own.
fn client(n: u32) -> [u8; 4] {
    (u32::from(Ipv4Addr::new(10, 244, 2, 0)) + n).to_be_bytes()
}

const CLIENTS: u32 = 16;
const CLIENT_PORTS: u32 = 64_000;
const FLOWS: u32 = 1_000_000;

/// The endpoints, all behind one port.
fn server(n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 244, 1, 10)) + n).into()
}

pub fn measure() -> Result<()> {
    println!("\n{:<32}{:>22}{:>22}", "", "1 Service", "10000 Services");
    let (one, many) = (figures(1)?, figures(10_000)?);
    for ((label, one), (_, many)) in one.into_iter().zip(many) {
        println!("{label:<32}{one:>22.1}{many:>22.1}");
        println!("{}", json!({"bench": "pipeline", "figure": label, "services_1": one, "services_10000": many}));
    }
    Ok(())
}

fn figures(services: u32) -> Result<[(&'static str, f64); 5]> {
    let mut compiler = Compiler::new(&Network::default());
    for n in 0..services {
        compiler.service_applied(&service(n)?);
        compiler.slice_applied(&slice(n, 10)?);
    }
    let mut pipeline = Pipeline::new(compiler.plan(), Limits::default(), SmallRng::seed_from_u64(1));
    let clients: Vec<IpAddr> = (0..CLIENTS).map(|n| client(n).into()).collect();
    for (id, addresses) in [(1, clients), (2, (0..10).map(server).collect())] {
        let addresses = addresses.into();
        let port = PortInfo {
            id: PortId(id),
            name: "pod".into(),
            uid: "".into(),
            kind: PortKind::Pod,
            node: "n1".into(),
            addresses,
        };
        pipeline.attach(port).map_err(|(addr, _)| anyhow::anyhow!("{addr} is taken"))?;
    }
    let mut buf = PacketBuf::of(&syn(0, services)?);
    let memory = resident();
    let mut spent = Duration::ZERO;
    for n in 0..FLOWS {
        let packet = syn(n, services)?;
        buf.slot()[10..10 + packet.len()].copy_from_slice(&packet);
        let start = Instant::now();
        let verdict = pipeline.process(&mut buf, PortId(1), 0);
        spent += start.elapsed();
        anyhow::ensure!(verdict == Verdict::Forward(PortId(2)), "{verdict:?}");
    }
    let first = spent.as_secs_f64() * 1e9 / f64::from(FLOWS);
    let of_flows = (resident() - memory) / 1e6;

    let packet = syn(7, services)?;
    let hits = 1_000_000;
    let start = Instant::now();
    for _ in 0..hits {
        buf.slot()[10..10 + packet.len()].copy_from_slice(&packet);
        std::hint::black_box(pipeline.process(&mut buf, PortId(1), 0));
    }
    let hit = start.elapsed().as_secs_f64() * 1e9 / f64::from(hits);

    let mut changes = Vec::new();
    for n in 0..1000 {
        let changed = slice(n % services, 9 + n % 2)?;
        let start = Instant::now();
        compiler.slice_applied(&changed);
        let plan = compiler.plan();
        let before = pipeline.set_plan(plan);
        changes.push(start.elapsed().as_secs_f64() * 1e6);
        drop(before);
    }
    changes.sort_by(f64::total_cmp);
    Ok([
        ("first packet, ns", first),
        ("packet of a flow, ns", hit),
        ("slice to packets p50, us", changes[500]),
        ("slice to packets p99, us", changes[990]),
        ("memory of 1,000,000 flows, MB", of_flows),
    ])
}

pub fn vip(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + n)
}

/// The n-th client port and VIP: a flow of its own for each n below [`FLOWS`].
fn syn(n: u32, services: u32) -> Result<Vec<u8>> {
    let port = u16::try_from(1024 + n % CLIENT_PORTS)?;
    let mut packet = Vec::with_capacity(64);
    let addresses = (client(n / CLIENT_PORTS), vip(n % services).octets());
    PacketBuilder::ipv4(addresses.0, addresses.1, 64).tcp(port, 80, n, 1000).syn().write(&mut packet, &[])?;
    Ok(packet)
}

pub fn service(n: u32) -> Result<Service> {
    Ok(serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": format!("s{n}"), "uid": "1", "resourceVersion": "1"},
        "spec": {"clusterIP": vip(n), "clusterIPs": [vip(n)], "ports": [
            {"name": "http", "port": 80, "protocol": "TCP"}, {"name": "more", "port": 81, "protocol": "TCP"}]},
    }))?)
}

pub fn slice(n: u32, endpoints: u32) -> Result<EndpointSlice> {
    let endpoints: Vec<_> = (0..endpoints).map(|n| json!({"addresses": [server(n)], "nodeName": "n1"})).collect();
    Ok(serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": format!("s{n}"), "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "more", "port": 8081, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))?)
}

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0.0) * 1024.0
}
