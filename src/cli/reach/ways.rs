//! Which addresses lead to a Service. Pure: objects in, addresses and notes out.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::{Event, Node, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{EndpointPort, EndpointSlice};
use serde::Serialize;

use crate::config::CLUSTER_DOMAIN;
use crate::controllers::LOAD_BALANCER_CLASS;
use crate::edge::{HostReach, ShutDoor};
use crate::events::{SYNC_LOAD_BALANCER_FAILED, newest};
use crate::plan::{PROXY_NAME_LABEL, load_balancer_ips};

/// Accepted, and not carried to Services (rule F1).
const SCTP: &str = "SCTP";

/// What the answer rests on.
pub(super) struct Facts {
    pub service: Service,
    pub slices: Vec<EndpointSlice>,
    pub nodes: Vec<Node>,
    pub events: Vec<Event>,
    pub host: HostReach,
    /// Its ports that the loopback relay could not open.
    pub shut: Vec<ShutDoor>,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ways {
    pub namespace: String,
    pub name: String,
    pub host: Vec<Way>,
    pub pod: Vec<Way>,
    pub browser: Vec<Way>,
    /// What to ask for the Service's addresses by name, from this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// What does not work, and why; most important first.
    pub notes: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Dns {
    pub server: SocketAddr,
    pub name: String,
}

impl Dns {
    pub fn new(server: SocketAddr, namespace: &str, name: &str) -> Self {
        Self { server, name: fqdn(namespace, name) }
    }
}

fn fqdn(namespace: &str, name: &str) -> String {
    format!("{name}.{namespace}.svc.{CLUSTER_DOMAIN}")
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub address: String,
    /// What it is that leads there.
    pub by: String,
}

impl Way {
    fn new(address: impl Into<String>, by: impl Into<String>) -> Self {
        Self { address: address.into(), by: by.into() }
    }
}

pub(super) fn of(facts: &Facts) -> Ways {
    let metadata = &facts.service.metadata;
    let mut ways = Ways {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        host: Vec::new(),
        pod: Vec::new(),
        browser: Vec::new(),
        dns: None,
        notes: Vec::new(),
    };
    let Some(spec) = &facts.service.spec else { return ways };
    let name = fqdn(&ways.namespace, &ways.name);
    if let Some(target) = spec.external_name.as_ref().filter(|_| kind(spec) == "ExternalName") {
        ways.pod.push(Way::new(name, format!("DNS alias of {target}")));
        ways.notes.push(format!("an ExternalName has no address of its own: from elsewhere dial {target}"));
        return ways;
    }
    let book = Book::of(facts, spec);
    for port in spec.ports.iter().flatten() {
        add_port(&mut ways, &book, &name, port);
    }
    if book.is_headless() && ways.pod.is_empty() {
        ways.pod.push(Way::new(name, "DNS name of its Pods"));
    }
    ways.notes = notes(facts, spec, &book);
    ways
}

/// The addresses that a Service has.
struct Book<'a> {
    host: HostReach,
    cluster_ips: Vec<IpAddr>,
    balancers: Vec<IpAddr>,
    externals: Vec<IpAddr>,
    /// The Nodes by name, with addresses of the Service's families.
    nodes: Vec<(&'a str, Vec<IpAddr>)>,
    /// Nodes with an endpoint that gets traffic.
    serving: BTreeSet<&'a str>,
    endpoints: Vec<(IpAddr, &'a EndpointSlice)>,
    shut: &'a [ShutDoor],
    local: bool,
}

impl<'a> Book<'a> {
    fn of(facts: &'a Facts, spec: &ServiceSpec) -> Self {
        let addresses = |all: &Option<Vec<String>>| -> Vec<IpAddr> {
            all.iter().flatten().filter_map(|ip| ip.parse().ok()).collect()
        };
        let cluster_ips = addresses(&spec.cluster_ips);
        let mut endpoints = Vec::new();
        let mut serving = BTreeSet::new();
        for slice in &facts.slices {
            for endpoint in slice.endpoints.iter().flatten() {
                let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
                if let Some(ip) = endpoint.addresses.first().and_then(|ip| ip.parse().ok()).filter(|_| ready) {
                    endpoints.push((ip, slice));
                    serving.extend(endpoint.node_name.as_deref());
                }
            }
        }
        let nodes = facts.nodes.iter().map(|node| {
            let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            let internal = all.filter(|address| address.type_ == "InternalIP");
            let ips = internal.filter_map(|address| address.address.parse::<IpAddr>().ok());
            let ips = ips.filter(|ip| cluster_ips.iter().any(|own| own.is_ipv4() == ip.is_ipv4())).collect();
            (node.metadata.name.as_deref().unwrap_or_default(), ips)
        });
        Self {
            host: facts.host,
            balancers: load_balancer_ips(&facts.service).into_vec(),
            externals: addresses(&spec.external_ips),
            nodes: nodes.collect(),
            serving,
            endpoints,
            shut: &facts.shut,
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            cluster_ips,
        }
    }

    /// Whether the relay could open a port.
    fn is_open(&self, port: u16, protocol: &str) -> bool {
        !self.shut.iter().any(|door| door.port == port && door.protocol == protocol)
    }

    /// Whether nothing translates its ports: its name leads to the Pods themselves.
    fn is_headless(&self) -> bool {
        self.cluster_ips.is_empty()
    }

    /// Whether there is an endpoint for addresses of this one's family: traffic does not change it.
    fn serves(&self, address: IpAddr) -> bool {
        self.endpoints.iter().any(|(ip, _)| ip.is_ipv4() == address.is_ipv4())
    }

    /// The nodes whose node ports answer.
    fn answering(&self) -> impl Iterator<Item = &(&'a str, Vec<IpAddr>)> {
        self.nodes.iter().filter(|(name, _)| !self.local || self.serving.contains(name))
    }
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

fn protocol(given: Option<&str>) -> &str {
    given.unwrap_or("TCP")
}

/// The number that a Service's port has in a slice, if it is there (rules ES4, S6, S7).
fn target(slice: &EndpointSlice, port: &ServicePort) -> Option<u16> {
    let name = port.name.as_deref().unwrap_or_default();
    let is_same = |found: &&EndpointPort| {
        found.name.as_deref() == Some(name) && protocol(found.protocol.as_deref()) == protocol(port.protocol.as_deref())
    };
    slice.ports.iter().flatten().find(is_same)?.port.and_then(number)
}

fn add_port(ways: &mut Ways, book: &Book<'_>, name: &str, port: &ServicePort) {
    let protocol = protocol(port.protocol.as_deref());
    let Some(own) = number(port.port).filter(|_| protocol != SCTP) else { return };
    let title = |what: &str| match port.name.as_deref() {
        Some(name) if !name.is_empty() => format!("{protocol}, {what}, port {name}"),
        _ => format!("{protocol}, {what}"),
    };
    let at = |ip: &IpAddr, port: u16| SocketAddr::new(*ip, port).to_string();
    let (mut inside, mut named) = (Vec::new(), BTreeSet::from([own]));
    inside.extend(book.cluster_ips.iter().map(|ip| Way::new(at(ip, own), title("ClusterIP"))));
    inside.extend(book.balancers.iter().map(|ip| Way::new(at(ip, own), title("load-balancer address"))));
    if book.is_headless() {
        let targets = book.endpoints.iter().filter_map(|(ip, slice)| Some((ip, target(slice, port)?)));
        named = targets.clone().map(|(_, number)| number).collect();
        inside.extend(targets.map(|(ip, number)| Way::new(at(ip, number), title("one of its Pods"))));
    }
    let mut external: Vec<Way> = book.externals.iter().map(|ip| Way::new(at(ip, own), title("externalIP"))).collect();
    if let Some(node_port) = port.node_port.and_then(number) {
        for (node, ips) in book.answering() {
            let what = title(&format!("node port of {node}"));
            inside.extend(ips.iter().map(|ip| Way::new(at(ip, node_port), what.clone())));
        }
    }
    let mut host = Vec::new();
    match book.host {
        HostReach::Device => host.extend(inside.iter().cloned()),
        HostReach::Loopback => {
            let doors = [
                (Some(own).filter(|_| !book.balancers.is_empty()), "load-balancer port at the loopback"),
                (port.node_port.and_then(number), "node port at the loopback"),
            ];
            for (port, what) in doors {
                if let Some(port) = port.filter(|port| book.is_open(*port, protocol)) {
                    host.push(Way::new(format!("127.0.0.1:{port}"), title(what)));
                }
            }
        }
        HostReach::None => {}
    }
    if protocol == "TCP" {
        let scheme = if is_tls(port) { "https" } else { "http" };
        // One is enough for a person: the last of the best kind is the most stable address that the host can dial.
        let answers = |way: &&Way| {
            let family = way.address.parse::<SocketAddr>().ok().filter(|_| book.host == HostReach::Device);
            book.endpoints.is_empty() || family.is_none_or(|address| book.serves(address.ip()))
        };
        let best = host.iter().filter(answers).find(|way| way.by.contains("load-balancer"));
        let best = best.or_else(|| host.iter().find(answers));
        ways.browser.extend(best.map(|way| Way::new(format!("{scheme}://{}/", way.address), way.by.clone())));
    }
    ways.pod.extend(named.into_iter().map(|number| Way::new(format!("{name}:{number}"), title("DNS name"))));
    inside.append(&mut external);
    ways.pod.append(&mut inside);
    ways.host.append(&mut host);
}

fn is_tls(port: &ServicePort) -> bool {
    let says = |text: &Option<String>| text.as_deref().is_some_and(|text| text.starts_with("https"));
    says(&port.app_protocol) || says(&port.name) || port.port == 443
}

fn notes(facts: &Facts, spec: &ServiceSpec, book: &Book<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    if book.endpoints.is_empty() {
        let behaviour = if book.cluster_ips.is_empty() { "its name has no address" } else { "connections are refused" };
        let why = match spec.selector.as_ref().filter(|selector| !selector.is_empty()) {
            Some(selector) => {
                let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
                let namespace = facts.service.metadata.namespace.as_deref().unwrap_or_default();
                format!("see `kubectl get pods -n {namespace} -l {}`", labels.join(","))
            }
            None => "it has no selector, so its EndpointSlices are yours to write".to_owned(),
        };
        notes.push(format!("it has no ready endpoint, so {behaviour}: {why}"));
    } else {
        for ip in book.cluster_ips.iter().filter(|ip| !book.serves(**ip)) {
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            notes.push(format!("it has no ready endpoint of {family}, so connections to {ip} and its other addresses of {family} are refused"));
        }
    }
    let all = spec.ports.iter().flatten();
    let sctp: Vec<String> =
        all.filter(|port| protocol(port.protocol.as_deref()) == SCTP).map(|port| port.port.to_string()).collect();
    if !sctp.is_empty() {
        notes.push(format!("SCTP is not carried to Services, so port {} is left out", sctp.join(", ")));
    }
    let labels = facts.service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL)) {
        notes.push(format!("the label {PROXY_NAME_LABEL} keeps vipyard from serving it"));
    }
    if kind(spec) == "LoadBalancer" && book.balancers.is_empty() {
        notes.push(match spec.load_balancer_class.as_deref().filter(|class| *class != LOAD_BALANCER_CLASS) {
            Some(class) => format!("its addresses are for the controller of loadBalancerClass {class} to give"),
            None => newest(&facts.events, &facts.service.metadata, SYNC_LOAD_BALANCER_FAILED)
                .and_then(|event| event.message.clone())
                .unwrap_or_else(|| "it has no load-balancer address yet".to_owned()),
        });
    }
    if let Some(ranges) = spec.load_balancer_source_ranges.as_ref().filter(|ranges| !ranges.is_empty()) {
        notes.push(format!("its load-balancer addresses are for clients of {} alone", ranges.join(", ")));
    }
    let exposed = spec.ports.iter().flatten().any(|port| port.node_port.is_some());
    if book.local && exposed && !book.endpoints.is_empty() {
        let nodes: Vec<&str> = book.serving.iter().copied().collect();
        notes.push(format!("externalTrafficPolicy Local: only node ports of {} answer", nodes.join(", ")));
    }
    if spec.internal_traffic_policy.as_deref() == Some("Local") {
        let nodes: Vec<&str> = book.serving.iter().copied().collect();
        notes.push(format!(
            "internalTrafficPolicy Local: its ClusterIP answers to Pods of [{}] alone",
            nodes.join(", ")
        ));
    }
    match book.host {
        HostReach::Device => {}
        HostReach::Loopback if exposed => {
            notes.push(
                "this host is not connected to the cluster (that takes root), so it has the loopback alone, \
                 and Pods do not see who comes in by it"
                    .to_owned(),
            );
            notes.extend(book.shut.iter().map(|door| door.message.clone()));
        }
        HostReach::Loopback => notes.push(
            "this host is not connected to the cluster (that takes root): a Service of type NodePort or LoadBalancer \
             is at the loopback"
                .to_owned(),
        ),
        HostReach::None => {
            notes.push("this host is not connected to the cluster: start vipyard without --host-access no".to_owned());
        }
    }
    notes
}

#[cfg(test)]
mod tests;
