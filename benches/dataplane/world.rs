//! The three ways from a client to a server.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::json;
use vipyard::config::Network;
use vipyard::plan::Compiler;
use vipyard::router::{PortKind, PortSpec, Ports, Router, RouterConfig};
use vipyard::sys::tun::Tun;

use crate::micro;

/// The Service port of the request server and its backends' ports: a Service of ten endpoints.
pub const REQUEST_PORT: u16 = 80;
pub const REQUEST_TARGETS: std::ops::Range<u16> = 8000..8010;
/// The Service port of the sink for streams.
pub const STREAM_PORT: u16 = 5001;
pub const STREAM_TARGET: u16 = 9000;
/// The Service port that counts datagrams.
pub const UDP_PORT: u16 = 53;
pub const UDP_TARGET: u16 = 9053;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 100);

/// A client's namespace, a server's namespace and how one reaches the other.
pub trait Path {
    fn name(&self) -> &str;
    fn client(&self) -> &str;
    fn server(&self) -> &str;
    /// Where the client finds the Service port.
    fn address(&self, port: u16) -> SocketAddr;
    /// Puts so many other Services, of ten endpoints each, beside the one that is measured.
    fn fill(&self, others: u32) -> Result<()>;
    fn note(&self) -> Option<String> {
        None
    }
}

/// A place for namespaces that this process alone sees.
pub fn prepare() -> Result<()> {
    run("mount -t tmpfs tmpfs /run")?;
    run("ip link set lo up")
}

/// Runs something on a thread inside of a namespace.
pub fn inside<T: Send + 'static>(
    namespace: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<T>>> {
    let file = File::open(format!("/run/netns/{namespace}")).with_context(|| namespace.to_owned())?;
    Ok(std::thread::spawn(move || {
        move_into_link_name_space(rustix::fd::AsFd::as_fd(&file), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    }))
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).output().with_context(|| command.to_owned())?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn namespace(name: &str) -> Result<()> {
    run(&format!("ip netns add {name}"))?;
    run(&format!("ip -n {name} link set lo up"))?;
    for setting in ["net.ipv4.ip_local_port_range=1024 65535", "net.ipv4.tcp_tw_reuse=1"] {
        let done = Command::new("ip").args(["netns", "exec", name, "sysctl", "-qw", setting]).status()?;
        ensure!(done.success(), "sysctl {setting}");
    }
    Ok(())
}

pub struct Ours {
    name: String,
    client: String,
    server: String,
    router: Arc<Router>,
    compiler: Mutex<Compiler>,
}

impl Ours {
    /// `index` sets the namespaces of several apart.
    pub fn new(index: usize, threads: usize, linger: Duration, flow_log: usize) -> Result<Self> {
        let network = Network::default();
        let router = Router::start(RouterConfig { threads, linger, flow_log, ..RouterConfig::new(network.clone()) })?;
        let [client, server] = ["oc", "os"].map(|name| format!("{name}{index}"));
        for (namespace_name, addr) in [(&client, [10, 244, 1, 2]), (&server, [10, 244, 1, 3])] {
            namespace(namespace_name)?;
            let tun = inside(namespace_name, || Tun::open("eth0"))?.join().expect("no panic")??;
            let addr = IpAddr::from(addr);
            run(&format!("ip -n {namespace_name} addr add {addr}/32 dev eth0"))?;
            run(&format!("ip -n {namespace_name} link set eth0 mtu {} up", network.mtu))?;
            run(&format!("ip -n {namespace_name} route add default dev eth0"))?;
            router.attach(PortSpec {
                name: namespace_name.clone(),
                uid: String::new(),
                kind: PortKind::Pod,
                node: "n1".to_owned(),
                addresses: vec![addr],
                device: tun,
            })?;
        }
        let mut compiler = Compiler::new(&network);
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "bench", "uid": "1", "resourceVersion": "1"},
            "spec": {"clusterIP": VIP, "clusterIPs": [VIP], "ports": [
                {"name": "request", "port": REQUEST_PORT, "protocol": "TCP"},
                {"name": "stream", "port": STREAM_PORT, "protocol": "TCP"},
                {"name": "udp", "port": UDP_PORT, "protocol": "UDP"},
            ]},
        }))?;
        compiler.service_applied(&service);
        let ports = [
            ("request", "TCP", REQUEST_TARGETS),
            ("stream", "TCP", STREAM_TARGET..STREAM_TARGET + 1),
            ("udp", "UDP", UDP_TARGET..UDP_TARGET + 1),
        ];
        for (name, protocol, targets) in ports {
            for target in targets {
                let slice: EndpointSlice = serde_json::from_value(json!({
                    "metadata": {"namespace": "default", "name": format!("bench-{target}"), "resourceVersion": "2",
                        "labels": {"kubernetes.io/service-name": "bench"}},
                    "addressType": "IPv4",
                    "ports": [{"name": name, "port": target, "protocol": protocol}],
                    "endpoints": [{"addresses": ["10.244.1.3"], "nodeName": "n1"}],
                }))?;
                compiler.slice_applied(&slice);
            }
        }
        router.apply(compiler.plan());
        let log = if flow_log == 0 { ", no log" } else { "" };
        let name = format!("vipyard (mtu {}{log})", network.mtu);
        Ok(Self { name, client, server, router, compiler: Mutex::new(compiler) })
    }
}

impl Path for Ours {
    fn name(&self) -> &str {
        &self.name
    }

    fn client(&self) -> &str {
        &self.client
    }

    fn server(&self) -> &str {
        &self.server
    }

    fn address(&self, port: u16) -> SocketAddr {
        (VIP, port).into()
    }

    fn fill(&self, others: u32) -> Result<()> {
        let mut compiler = self.compiler.lock();
        for n in 0..others {
            compiler.service_applied(&micro::service(n)?);
            compiler.slice_applied(&micro::slice(n, 10)?);
        }
        self.router.apply(compiler.plan());
        Ok(())
    }

    fn note(&self) -> Option<String> {
        let stats = self.router.stats();
        let drops: Vec<String> = stats.drops().map(|(reason, count)| format!("{reason} {count}")).collect();
        let records = self.router.flow_log().map_or(0, |log| log.written());
        Some(format!(
            "{} packets, {records} records of the flow log, {} flows left, {:?}, dropped: {}",
            stats.received_packets,
            stats.flows,
            stats.flow_changes,
            if drops.is_empty() { "none".to_owned() } else { drops.join(", ") }
        ))
    }
}

/// What kube-proxy's nftables mode builds: a verdict map on address, protocol and port, a chain per Service port, a
/// chain per endpoint chosen by numgen.
pub struct Kernel {
    name: String,
}

impl Kernel {
    pub fn new(mtu: u32) -> Result<Self> {
        if Command::new("nft").arg("--version").stdout(Stdio::null()).status().is_err() {
            bail!("nft is missing (Debian package nftables)");
        }
        for name in ["kc", "ks", "kr"] {
            namespace(name)?;
        }
        for (end, net) in [("kc", 1), ("ks", 2)] {
            run(&format!("ip link add eth0 netns {end} mtu {mtu} type veth peer name {end}0 netns kr mtu {mtu}"))?;
            run(&format!("ip -n {end} addr add 10.1.{net}.2/24 dev eth0"))?;
            run(&format!("ip -n kr addr add 10.1.{net}.1/24 dev {end}0"))?;
            run(&format!("ip -n {end} link set eth0 up"))?;
            run(&format!("ip -n kr link set {end}0 up"))?;
            run(&format!("ip -n {end} route add default via 10.1.{net}.1"))?;
        }
        run("ip netns exec kr sysctl -qw net.ipv4.ip_forward=1")?;
        let this = Self { name: format!("nftables (mtu {mtu})") };
        this.fill(0)?;
        Ok(this)
    }
}

fn rules(others: u32) -> String {
    let mut chains = String::new();
    let mut map = Vec::new();
    let mut endpoints = BTreeSet::new();
    let measured = [
        (VIP, "tcp", REQUEST_PORT, REQUEST_TARGETS),
        (VIP, "tcp", STREAM_PORT, STREAM_TARGET..STREAM_TARGET + 1),
        (VIP, "udp", UDP_PORT, UDP_TARGET..UDP_TARGET + 1),
    ];
    let others = (0..others).map(|n| (micro::vip(n), "tcp", 80, REQUEST_TARGETS));
    for (vip, protocol, port, targets) in measured.into_iter().chain(others) {
        let count = targets.len();
        let mut choices = Vec::new();
        for (at, target) in targets.enumerate() {
            // kube-proxy repeats these chains for each Service. The way of a packet is the same, but the kernel's time to
            // load grows with the square of their number: minutes for 100,000.
            let endpoint = format!("endpoint-{protocol}-{target}");
            if endpoints.insert(endpoint.clone()) {
                chains += &format!(
                    "chain {endpoint} {{ ip saddr 10.1.2.2 jump mark-for-masquerade\n meta l4proto {protocol} dnat to 10.1.2.2:{target}\n }}\n"
                );
            }
            choices.push(format!("{at} : goto {endpoint}"));
        }
        chains += &format!(
            "chain service-{vip}-{port} {{ ip daddr {vip} {protocol} dport {port} ip saddr != 10.1.0.0/16 jump mark-for-masquerade\n numgen random mod {count} vmap {{ {} }}\n }}\n",
            choices.join(", ")
        );
        map.push(format!("{vip} . {protocol} . {port} : goto service-{vip}-{port}"));
    }
    format!(
        "table ip kube-proxy
delete table ip kube-proxy
table ip kube-proxy {{
chain mark-for-masquerade {{ mark set mark or 0x4000
}}
{chains}
set cluster-ips {{ type ipv4_addr; elements = {{ {VIP} }}
}}
map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict
}}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }}
}}
chain services {{ ip daddr . meta l4proto . th dport vmap @service-ips
}}
chain cluster-ips-check {{ ip daddr @cluster-ips reject
}}
chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services
}}
chain masquerading {{ mark and 0x4000 == 0 return
 mark set mark xor 0x4000
 masquerade fully-random
}}
chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services
}}
chain nat-postrouting {{ type nat hook postrouting priority srcnat; policy accept; jump masquerading
}}
chain filter-prerouting {{ type filter hook prerouting priority dstnat - 10; policy accept; ct state new jump service-endpoints-check
}}
chain filter-forward {{ type filter hook forward priority -110; policy accept; ct state new jump cluster-ips-check
}}
}}
",
        map.join(", ")
    )
}

impl Path for Kernel {
    fn name(&self) -> &str {
        &self.name
    }

    fn client(&self) -> &str {
        "kc"
    }

    fn server(&self) -> &str {
        "ks"
    }

    fn address(&self, port: u16) -> SocketAddr {
        (VIP, port).into()
    }

    fn fill(&self, others: u32) -> Result<()> {
        std::fs::write("/run/rules.nft", rules(others))?;
        run("ip netns exec kr nft -f /run/rules.nft")
    }
}

/// The limit: no router at all.
pub struct Loopback;

impl Loopback {
    pub fn new() -> Result<Self> {
        namespace("lo")?;
        Ok(Self)
    }
}

impl Path for Loopback {
    fn name(&self) -> &str {
        "loopback"
    }

    fn client(&self) -> &str {
        "lo"
    }

    fn server(&self) -> &str {
        "lo"
    }

    fn address(&self, port: u16) -> SocketAddr {
        let target = match port {
            STREAM_PORT => STREAM_TARGET,
            UDP_PORT => UDP_TARGET,
            _ => REQUEST_TARGETS.start,
        };
        (Ipv4Addr::LOCALHOST, target).into()
    }

    fn fill(&self, _others: u32) -> Result<()> {
        Ok(())
    }
}
