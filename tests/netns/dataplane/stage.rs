//! A cluster with named Pods and nodes, for scenarios that are about where packets go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use super::packets::{self, Fate};
use crate::cluster::{Cluster, PODS, SERVICES, SLICES, whoami};
use crate::inside::{Inside, Reply};
use crate::services::{node_ips, pod_ips, vips};

/// Enough for each of three endpoints to be chosen by chance by one protocol or the other: one run in a hundred
/// million misses one.
const TRIES: usize = 24;
/// The number of both ports of a Service here, TCP and UDP.
const PORT: u16 = 80;
/// Where whoami answers.
const TCP_TARGET: u16 = 80;
const UDP_TARGET: u16 = 9001;

pub const REFUSED: &[&str] = &["refused"];
pub const SILENT: &[&str] = &["silent"];
/// Left to the world outside of the cluster.
pub const UNREACHABLE: &[&str] = &["unreachable"];

type Ask = fn(SocketAddr) -> Fate;
const BOTH: &[Ask] = &[packets::tcp, packets::udp];

pub struct Stage {
    pub cluster: Cluster,
    hosts: BTreeMap<String, Inside>,
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

/// The ways into a Service.
pub struct Service {
    pub name: String,
    /// Its ClusterIP, IPv4.
    pub vip: SocketAddr,
    /// And IPv6, for a Service of both families.
    pub vip6: Option<SocketAddr>,
    /// Zero where it has none.
    pub node_port: u16,
}

impl Stage {
    /// Starts a cluster with these whoami Pods. The name says the node: `a1` and `a2` are on n1, `b1` on n2, `c1` on
    /// n3; `n1`, `n2` and `n3` are in the nodes' own network namespaces, and so are processes of the node.
    pub async fn with(names: &[&str]) -> Self {
        let cluster = Cluster::start().await;
        let mut addresses = BTreeMap::new();
        for name in names {
            let mut pod: Value = serde_saphyr::from_str(&whoami("web", name)).expect("a Pod");
            let node = node_of(name);
            let spec = json!({"nodeName": node, "hostNetwork": node == *name, "terminationGracePeriodSeconds": 0});
            json_patch::merge(&mut pod["spec"], &spec);
            cluster.post(PODS, pod).await;
        }
        for node in ["n1", "n2", "n3"] {
            addresses.insert(node.to_owned(), node_ips(&cluster, node).await);
        }
        let mut hosts = BTreeMap::new();
        for name in names {
            hosts.insert((*name).to_owned(), cluster.inside(name).await);
            addresses.insert((*name).to_owned(), pod_ips(&cluster, name).await);
        }
        let stage = Self { cluster, hosts, addresses };
        stage.cluster.settled().await;
        stage
    }

    pub async fn end(self) {
        self.cluster.stop().await;
    }

    pub fn inside(&self, name: &str) -> &Inside {
        self.hosts.get(name).unwrap_or_else(|| panic!("no Pod {name}"))
    }

    /// The address of a Pod or node, IPv4.
    pub fn ip(&self, name: &str) -> IpAddr {
        self.addresses[name][0]
    }

    pub fn ip6(&self, name: &str) -> IpAddr {
        self.addresses[name][1]
    }

    /// Creates a Service without selector, with a TCP and a UDP port 80 that share their node port where they have one;
    /// `spec` is merged into its spec.
    pub async fn service(&self, name: &str, spec: Value) -> Service {
        let ports = json!([{"name": "tcp", "port": PORT}, {"name": "udp", "port": PORT, "protocol": "UDP"}]);
        let mut all = json!({"ports": ports});
        json_patch::merge(&mut all, &spec);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all});
        let service = self.cluster.post(SERVICES, service).await;
        self.cluster.settled().await;
        let mut vips = vips(&service).into_iter().map(|ip| SocketAddr::new(ip, PORT));
        let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().unwrap_or_default();
        Service {
            name: name.to_owned(),
            vip: vips.next().expect("a ClusterIP"),
            vip6: vips.next(),
            node_port: u16::try_from(node_port).expect("a port"),
        }
    }

    /// A load balancer that no controller but the scenario serves, with these entries in its status.
    pub async fn balancer(&self, name: &str, mut spec: Value, ingress: Value) -> Service {
        json_patch::merge(&mut spec, &json!({"type": "LoadBalancer", "loadBalancerClass": "test.example/by-hand"}));
        let service = self.service(name, spec).await;
        self.ingress(&service, ingress).await;
        service
    }

    pub async fn ingress(&self, service: &Service, ingress: Value) {
        let status = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        self.patch(&format!("{SERVICES}/{}/status", service.name), status).await;
    }

    /// Changes a Service's spec by a merge patch.
    pub async fn change(&self, service: &Service, spec: Value) {
        self.patch(&format!("{SERVICES}/{}", service.name), json!({"spec": spec})).await;
    }

    /// Writes by a merge patch and waits until packets follow.
    pub async fn patch(&self, path: &str, change: Value) {
        self.cluster.patch(path, change).await;
        self.cluster.settled().await;
    }

    pub async fn delete(&self, path: &str) {
        self.cluster.delete(path).await;
        self.cluster.settled().await;
    }

    /// A ready endpoint at a Pod, changed by a merge patch.
    pub fn endpoint(&self, pod: &str, change: Value) -> Value {
        let mut endpoint = json!({"addresses": [self.ip(pod)], "nodeName": node_of(pod),
            "conditions": {"ready": true, "serving": true, "terminating": false}});
        json_patch::merge(&mut endpoint, &change);
        endpoint
    }

    /// Endpoints at these Pods: `b1` is ready, `b1!` terminates and still serves, `b1?` is not ready.
    pub fn endpoints_at(&self, pods: &[&str]) -> Vec<Value> {
        let endpoint = |name: &&str| {
            let pod = name.trim_end_matches(['!', '?']);
            let conditions = match name.strip_prefix(pod) {
                Some("!") => json!({"ready": false, "terminating": true}),
                Some("?") => json!({"ready": false, "serving": false}),
                _ => json!({}),
            };
            self.endpoint(pod, json!({"conditions": conditions}))
        };
        pods.iter().map(endpoint).collect()
    }

    /// Makes these the endpoints of the Service; see [`Self::endpoints_at`].
    pub async fn endpoints(&self, service: &Service, pods: &[&str]) {
        self.slice(&service.name, service, self.endpoints_at(pods)).await;
    }

    /// Writes an EndpointSlice of a Service, whether or not it exists, and waits until packets follow.
    pub async fn slice(&self, name: &str, service: &Service, endpoints: Vec<Value>) {
        self.slice_with(name, service, json!({"endpoints": endpoints})).await;
    }

    /// The same with more than endpoints to say.
    pub async fn slice_with(&self, name: &str, service: &Service, change: Value) {
        let mut slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service.name}},
            "endpoints": [], "ports": [{"name": "tcp", "port": TCP_TARGET},
                {"name": "udp", "port": UDP_TARGET, "protocol": "UDP"}]});
        json_patch::merge(&mut slice, &change);
        let path = format!("{SLICES}/{name}");
        if self.cluster.find(&path).await.is_some() {
            self.cluster.patch(&path, slice).await;
        } else {
            self.cluster.post(SLICES, slice).await;
        }
        self.cluster.settled().await;
    }

    /// A Service with these endpoints.
    pub async fn web(&self, name: &str, spec: Value, pods: &[&str]) -> Service {
        let service = self.service(name, spec).await;
        self.endpoints(&service, pods).await;
        service
    }

    pub fn node_port(&self, node: &str, service: &Service) -> SocketAddr {
        assert_ne!(service.node_port, 0, "{} has no node port", service.name);
        SocketAddr::new(self.ip(node), service.node_port)
    }

    /// Which Pods answer a client there, over TCP and UDP together; or `refused`, `unreachable` or `silent`.
    pub fn pods(&self, client: &str, to: SocketAddr) -> Vec<String> {
        self.outcomes(client, to, BOTH, |reply| reply.pod.clone())
    }

    pub fn tcp_pods(&self, client: &str, to: SocketAddr) -> Vec<String> {
        self.outcomes(client, to, &[packets::tcp], |reply| reply.pod.clone())
    }

    pub fn udp_pods(&self, client: &str, to: SocketAddr) -> Vec<String> {
        self.outcomes(client, to, &[packets::udp], |reply| reply.pod.clone())
    }

    /// Whom the answering Pods see, over TCP and UDP together, by name; or `refused`, `unreachable` or `silent`.
    pub fn sources(&self, client: &str, to: SocketAddr) -> Vec<String> {
        self.outcomes(client, to, BOTH, |reply| self.name_of(reply.client))
    }

    /// The name of whoever has an address; a node's process is its node.
    pub fn name_of(&self, ip: IpAddr) -> String {
        let owner = self.addresses.iter().find(|(_, ips)| ips.contains(&ip));
        owner.map_or_else(|| ip.to_string(), |(name, _)| name.clone())
    }

    fn outcomes(&self, client: &str, to: SocketAddr, asks: &[Ask], of: impl Fn(&Reply) -> String) -> Vec<String> {
        let fates = move |ask: &Ask| {
            let mut fates = Vec::new();
            while fates.len() < TRIES {
                let fate = ask(to);
                // There is nothing by chance about a refusal.
                let last = !matches!(fate, Fate::Answered(_));
                fates.push(fate);
                if last {
                    break;
                }
            }
            fates
        };
        // Side by side, since silence takes its time; a thread is in the namespace of the one that starts it.
        let fates: Vec<Fate> = self.inside(client).run(|| {
            std::thread::scope(|scope| {
                let asking: Vec<_> = asks.iter().map(|ask| scope.spawn(move || fates(ask))).collect();
                asking.into_iter().flat_map(|asking| asking.join().expect("it asks")).collect()
            })
        });
        let outcome = |fate: &Fate| match fate {
            Fate::Answered(reply) => of(reply),
            Fate::Refused => REFUSED[0].to_owned(),
            Fate::Unreachable => UNREACHABLE[0].to_owned(),
            Fate::Silent => SILENT[0].to_owned(),
        };
        fates.iter().map(outcome).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

fn node_of(name: &str) -> &str {
    match &name[..1] {
        "a" => "n1",
        "b" => "n2",
        "c" => "n3",
        _ => name,
    }
}
