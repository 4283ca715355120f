//! The dashboard over a made-up cluster that changes by itself: for working on the page without a real one, for its
//! browser test and for screenshots.
//!
//! `cargo run --example dashboard_demo -- [--listen 127.0.0.1:8090] [--still] [--empty] [--hostile] [--services N]`
//!
//! The API behind the page is empty. `--still` plays nothing, `--empty` has nodes alone, `--hostile` adds objects whose texts try to be markup,
//! `--services N` adds N Services of ten Pods each.

use std::collections::VecDeque;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use vipyard::cluster::{Cluster, ObjectKey, Writers};
use vipyard::config::{Network, node_name, node_zone};
use vipyard::dashboard::{self, DashboardConfig};

const NODES: u16 = 3;
/// The names of ports that aren't `http`.
const PORTS: [(&str, &str); 4] =
    [("redis-primary", "redis"), ("billing", "https"), ("search", "grpc"), (MARKUP, MARKUP)];
const MARKUP: &str = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| arguments.iter().any(|argument| argument == name);
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let (cluster, writers) = Cluster::new();
    let mut yard = Yard { writers, pods: Vec::new(), born: 0, network: Network::default() };
    yard.nodes();
    if !flag("--empty") {
        yard.example();
    }
    if flag("--hostile") {
        yard.service(MARKUP, "ClusterIP", 200, &[(MARKUP, 80, None)]);
        yard.pod(MARKUP, "Running", true);
        yard.slice(MARKUP, 80);
    }
    for n in 0..value("--services").map_or(Ok(0), str::parse)? {
        let name = format!("load-{n:04}");
        yard.service(&name, "ClusterIP", 1000 + n, &[("http", 80, None)]);
        for _ in 0..10 {
            yard.pod(&name, "Running", true);
        }
        yard.slice(&name, 8080);
    }
    yard.synced();
    let serving = yard.pods.iter().filter(|pod| pod.ready && pod.app != "client");
    let lines: Vec<_> = serving.map(|pod| (format!("default/{}", pod.app), format!("default/{}", pod.name))).collect();
    let lines = if flag("--still") { Vec::new() } else { lines };

    let listener = tokio::net::TcpListener::bind(value("--listen").unwrap_or("127.0.0.1:8090")).await?;
    let token = dashboard::new_token();
    #[expect(clippy::print_stdout, reason = "the address is this program's result")]
    {
        println!("http://{}/?token={token}", listener.local_addr()?);
    }
    let router = dashboard::router(DashboardConfig {
        token,
        cluster,
        api: axum::Router::new(),
        meter: Box::new(move || Box::new(Traffic(lines.clone()))),
        allowed_hosts: Vec::new(),
        version: env!("CARGO_PKG_VERSION"),
        shutdown: Default::default(),
    });
    if flag("--still") || flag("--empty") {
        axum::serve(listener, router).await?;
    } else {
        tokio::select! {
            served = axum::serve(listener, router) => served?,
            () = yard.play() => {}
        }
    }
    Ok(())
}

/// Traffic that waxes and wanes.
struct Traffic(Vec<(String, String)>);

impl dashboard::Meter for Traffic {
    fn read(&mut self) -> dashboard::view::Traffic {
        let passed = self.0.iter().map(|(service, pod)| (service.clone(), pod.clone(), 1 << rand::random_range(8..24)));
        dashboard::view::Traffic { passed: passed.collect(), ..Default::default() }
    }
}

/// A Pod of the made-up cluster.
struct Pod {
    app: String,
    name: String,
    node: u16,
    ip: String,
    state: &'static str,
    ready: bool,
}

struct Yard {
    writers: Writers,
    pods: Vec<Pod>,
    born: u32,
    network: Network,
}

impl Yard {
    fn nodes(&self) {
        for index in 1..=NODES {
            self.writers.nodes.apply(object(json!({
                "metadata": {"name": node_name(index), "labels": {"topology.kubernetes.io/zone": node_zone(index)}},
                "status": {
                    "addresses": [{"type": "InternalIP", "address": self.network.node_addr(index).v4}],
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            })));
        }
    }

    fn example(&mut self) {
        self.service("kubernetes", "ClusterIP", 1, &[("https", 443, None)]);
        self.writers.slices.apply(object(json!({
            "metadata": {"namespace": "default", "name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["10.245.0.1"]}],
        })));
        self.service("web", "ClusterIP", 23, &[("http", 80, None)]);
        self.service("api", "NodePort", 48, &[("http", 8080, Some(30080)), ("metrics", 9100, None)]);
        self.service("redis-primary", "ClusterIP", 77, &[("redis", 6379, None)]);
        self.service("billing", "LoadBalancer", 91, &[("https", 443, Some(31443))]);
        self.service("search", "Headless", 0, &[("grpc", 9000, None)]);
        self.service("orphan", "ClusterIP", 130, &[("http", 80, None)]);
        let pods = [("web", 3), ("api", 4), ("redis-primary", 1), ("billing", 2), ("search", 3), ("client", 1)];
        for (app, count) in pods {
            for _ in 0..count {
                self.pod(app, "Running", true);
            }
        }
        self.pod("billing", "CrashLoopBackOff", false);
        self.pod("web", "ContainerCreating", false);
        for (app, port) in [("web", 8080), ("api", 8080), ("redis-primary", 6379), ("billing", 8443), ("search", 9000)]
        {
            self.slice(app, port);
        }
        self.slice("orphan", 80);
    }

    fn synced(&self) {
        self.writers.nodes.mark_synced();
        self.writers.pods.mark_synced();
        self.writers.services.mark_synced();
        self.writers.slices.mark_synced();
    }

    fn service(&self, name: &str, kind: &str, host: u32, ports: &[(&str, u16, Option<u16>)]) {
        let headless = kind == "Headless";
        let v4 = std::net::Ipv4Addr::from(u32::from(self.network.service_v4.network()) + host);
        let v6 = std::net::Ipv6Addr::from(u128::from(self.network.service_v6.network()) + u128::from(host));
        let ips = if headless { vec!["None".to_owned()] } else { vec![v4.to_string(), v6.to_string()] };
        let balancer = (kind == "LoadBalancer").then(|| json!({"loadBalancer": {"ingress": [{"ip": "10.246.0.1"}]}}));
        self.writers.services.apply(object(json!({
            "metadata": {"namespace": "default", "name": name},
            "spec": {
                "type": if headless { "ClusterIP" } else { kind },
                "clusterIP": ips[0], "clusterIPs": ips,
                "ports": ports.iter().map(|(port_name, port, node_port)| json!({
                    "name": port_name, "port": port, "protocol": "TCP", "targetPort": port_name, "nodePort": node_port,
                })).collect::<Vec<_>>(),
            },
            "status": balancer,
        })));
    }

    /// A new Pod on the node whose turn it is.
    fn pod(&mut self, app: &str, state: &'static str, ready: bool) {
        self.born += 1;
        let node = (self.born % u32::from(NODES)) as u16 + 1;
        let name = format!("{app}-{}", suffix(self.born));
        let ip = format!("10.244.{node}.{}", self.born / u32::from(NODES) % 250 + 2);
        self.pods.push(Pod { app: app.to_owned(), name, node, ip, state, ready });
        self.show(self.pods.len() - 1);
    }

    fn show(&self, index: usize) {
        let pod = &self.pods[index];
        let waiting = match pod.state {
            "CrashLoopBackOff" => {
                Some("back-off 40s restarting failed container=app: exit code 1, no such table: invoices")
            }
            "ContainerCreating" => Some("the sandbox is being made"),
            _ => None,
        };
        let state = waiting.map_or(json!({"running": {}}), |m| json!({"waiting": {"reason": pod.state, "message": m}}));
        let deleted = (pod.state == "Terminating").then_some("2026-01-01T00:00:00Z");
        self.writers.pods.apply(object(json!({
            "metadata": {
                "namespace": "default", "name": pod.name, "uid": pod.name, "deletionTimestamp": deleted,
                "labels": {"app": pod.app},
            },
            "spec": {"nodeName": node_name(pod.node), "containers": []},
            "status": {
                "phase": if pod.state == "ContainerCreating" { "Pending" } else { "Running" },
                "podIP": pod.ip, "podIPs": [{"ip": pod.ip}],
                "conditions": [{"type": "Ready", "status": if pod.ready { "True" } else { "False" }}],
                "containerStatuses": [{
                    "name": "app", "image": "vipyard/whoami", "imageID": "", "ready": pod.ready, "state": state,
                    "restartCount": if pod.state == "CrashLoopBackOff" { 4 } else { 0 },
                }],
            },
        })));
    }

    fn slice(&self, app: &str, port: u16) {
        let endpoints = self.pods.iter().filter(|pod| pod.app == app).map(|pod| {
            let terminating = pod.state == "Terminating";
            json!({
                "addresses": [pod.ip], "nodeName": node_name(pod.node),
                "targetRef": {"kind": "Pod", "namespace": "default", "name": pod.name},
                "conditions": {"ready": pod.ready && !terminating, "serving": pod.ready, "terminating": terminating},
            })
        });
        self.writers.slices.apply(object(json!({
            "metadata": {"namespace": "default", "name": app, "labels": {"kubernetes.io/service-name": app}},
            "addressType": "IPv4",
            "ports": [{"name": PORTS.iter().find(|known| known.0 == app).map_or("http", |known| known.1), "port": port, "protocol": "TCP"}],
            "endpoints": endpoints.collect::<Vec<_>>(),
        })));
    }

    /// Replaces one Pod of `web` or `api` after the other, for ever, as a rollout would.
    async fn play(mut self) {
        let mut turns: VecDeque<(&str, u16)> = [("web", 8080), ("api", 8080)].into();
        loop {
            let (app, port) = turns[0];
            turns.rotate_left(1);
            let Some(old) = self.pods.iter().position(|pod| pod.app == app && pod.ready) else { continue };
            self.pods[old].state = "Terminating";
            self.show(old);
            self.slice(app, port);
            self.pause(700).await;
            self.pod(app, "ContainerCreating", false);
            self.slice(app, port);
            self.pause(1500).await;
            let gone = self.pods.remove(old);
            self.writers.pods.delete(&ObjectKey::new("default", gone.name));
            let new = self.pods.len() - 1;
            self.pods[new].state = "Running";
            self.pods[new].ready = true;
            self.show(new);
            self.slice(app, port);
            self.pause(1800).await;
        }
    }

    async fn pause(&self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// Five characters as Kubernetes puts behind a generated name.
fn suffix(n: u32) -> String {
    let alphabet = b"bcdfghjklmnpqrstvwxz2456789";
    let mut seed = n.wrapping_mul(2_654_435_761);
    (0..5)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            char::from(alphabet[(seed >> 24) as usize % alphabet.len()])
        })
        .collect()
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).expect("the demo's objects are well formed")
}
