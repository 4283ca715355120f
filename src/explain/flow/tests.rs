//! Explanations beside the router: random clusters, and the same packet through both.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use rand::SeedableRng;
use rand::rngs::{SmallRng, StdRng};
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::*;
use crate::cluster::Writers;
use crate::config::Network;
use crate::dns::records::Records;
use crate::explain::report::StepKind;
use crate::node::ResolvConf;
use crate::plan::Compiler;
use crate::router::pipeline::Limits;

const NODES: [(&str, Option<&str>); 4] = [("n1", Some("a")), ("n2", Some("b")), ("n3", Some("c")), ("n4", None)];
/// Questions put to random clusters.
const CASES: usize = 12_000;
/// Questions to one cluster.
const EACH: usize = 40;

/// A cluster: its objects, and a router that knows them.
struct World {
    cluster: Cluster,
    writers: Writers,
    records: Records,
    zone: Zone,
    compiler: Compiler,
    pipeline: Pipeline<SmallRng>,
    last: u32,
    now: Millis,
}

impl World {
    fn new(seed: u64) -> Self {
        let (cluster, writers) = Cluster::new();
        let network = Network::default();
        let mut compiler = Compiler::new(&network);
        let pipeline = Pipeline::new(compiler.plan(), Limits::default(), SmallRng::seed_from_u64(seed));
        let mut world = Self {
            cluster,
            writers,
            records: Records::default(),
            zone: Zone::new(&network),
            compiler,
            pipeline,
            last: 0,
            now: 1000,
        };
        for (index, (name, zone)) in (1u16..).zip(NODES) {
            let labels = zone.map(|zone| json!({"topology.kubernetes.io/zone": zone})).unwrap_or(json!({}));
            let addresses = network.node_addr(index).both();
            let node: Node = serde_json::from_value(json!({"metadata": {"name": name, "uid": name, "labels": labels},
                "status": {"addresses": addresses.map(|a| json!({"type": "InternalIP", "address": a}))}}))
            .expect("a Node");
            world.compiler.node_applied(&node);
            world.writers.nodes.apply(node);
            world.attach(name, PortKind::Node, name, &addresses);
        }
        world.attach("control-plane", PortKind::ControlPlane, "control-plane", &network.control_plane().both());
        world
    }

    fn attach(&mut self, name: &str, kind: PortKind, node: &str, addresses: &[IpAddr]) {
        self.last += 1;
        let port = PortInfo {
            id: PortId(self.last),
            name: name.into(),
            uid: if kind == PortKind::Pod { name.into() } else { "".into() },
            kind,
            node: node.into(),
            addresses: addresses.into(),
        };
        self.pipeline.attach(port).expect("free addresses");
    }

    /// A Pod that runs.
    fn pod(&mut self, name: &str, node: usize, number: u8, labels: &Value) -> [IpAddr; 2] {
        let (node_number, (node, _)) = (node + 1, NODES[node]);
        let addresses: [IpAddr; 2] = [
            format!("10.244.{node_number}.{number}").parse().expect("an address"),
            format!("fd00:10:244:{node_number}::{number:x}").parse().expect("an address"),
        ];
        let full = format!("default/{name}");
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": name, "uid": full, "resourceVersion": "5", "labels": labels},
            "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": addresses[0], "podIPs": [{"ip": addresses[0]}, {"ip": addresses[1]}],
                "conditions": [{"type": "Ready", "status": "True"}]}}))
        .expect("a Pod");
        self.records.change_pod(None, Some(&pod));
        self.writers.pods.apply(pod);
        self.attach(&full, PortKind::Pod, node, &addresses);
        addresses
    }

    fn service(&mut self, name: &str, spec: Value, status: Value) {
        let service: Service = serde_json::from_value(json!({"metadata": {"namespace": "default", "name": name,
            "uid": format!("uid-{name}"), "resourceVersion": "7"}, "spec": spec, "status": status}))
        .expect("a Service");
        self.compiler.service_applied(&service);
        self.records.set_service(&service);
        self.writers.services.apply(service);
    }

    fn slice(&mut self, service: &str, family: &str, ports: &Value, endpoints: &Value) {
        let slice: EndpointSlice = serde_json::from_value(json!({"metadata": {"namespace": "default",
            "name": format!("{service}-{family}"), "uid": format!("uid-{service}-{family}"), "resourceVersion": "9",
            "labels": {"kubernetes.io/service-name": service}},
            "addressType": family, "ports": ports, "endpoints": endpoints}))
        .expect("an EndpointSlice");
        self.compiler.slice_applied(&slice);
        self.writers.slices.apply(slice);
    }

    fn publish(&mut self) {
        let plan = self.compiler.plan();
        drop(self.pipeline.set_plan(plan));
    }

    fn explain(&self, request: &FlowRequest) -> Result<Explained, BadRequest> {
        let host = ResolvConf { nameservers: vec!["192.0.2.53".into()], ..ResolvConf::default() };
        let resolvers = Resolvers::new(&Network::default(), host);
        let facts = Facts { cluster: &self.cluster, records: &self.records, zone: &self.zone, resolvers: &resolvers };
        explain(&facts, request, |client| (self.pipeline.scratch(client), self.now))
    }

    fn ask(&self, from: &str, to: &str) -> FlowReport {
        let request = FlowRequest::parse(from, to, "", "", "", "").expect("a question");
        self.explain(&request).unwrap_or_else(|e| panic!("{from} to {to}: {e}")).report
    }
}

/// A cluster of some Pods and Services with policies, hints and states by chance.
fn random_world(random: &mut StdRng) -> (World, Vec<String>, Vec<SocketAddr>) {
    let mut world = World::new(random.random());
    let mut pods: Vec<(String, usize, [IpAddr; 2])> = Vec::new();
    for number in 0..random.random_range(1..9u8) {
        let node = random.random_range(0..NODES.len());
        let name = format!("p{number}");
        let addresses = world.pod(&name, node, number + 2, &json!({"app": "web"}));
        pods.push((name, node, addresses));
    }
    let mut targets: Vec<SocketAddr> = Vec::new();
    for index in 1..=random.random_range(1..4u8) {
        let name = format!("s{index}");
        let policy = |random: &mut StdRng| *["Cluster", "Local"].choose(random).expect("one");
        let [v4, v6] = [format!("10.96.0.{}", 10 + index), format!("fd00:10:96::{:x}", 16 + index)];
        let node_port = 30_000 + u16::from(index);
        let mut spec = json!({"clusterIP": v4, "clusterIPs": [v4, v6], "ipFamilies": ["IPv4", "IPv6"], "type": "NodePort",
            "internalTrafficPolicy": policy(random), "externalTrafficPolicy": policy(random),
            "ports": [{"name": "http", "port": 80, "nodePort": node_port},
                {"name": "udp", "port": 53, "protocol": "UDP", "nodePort": node_port}]});
        if random.random_bool(0.3) {
            spec["sessionAffinity"] = "ClientIP".into();
        }
        let external = format!("192.0.2.{index}");
        if random.random_bool(0.4) {
            spec["externalIPs"] = json!([external]);
        }
        let balancer = format!("10.246.0.{index}");
        let mut status = json!({});
        if random.random_bool(0.5) {
            status = json!({"loadBalancer": {"ingress": [{"ip": balancer}]}});
            if random.random_bool(0.5) {
                spec["loadBalancerSourceRanges"] =
                    json!([*["10.244.1.0/24", "10.245.0.0/24"].choose(random).expect("one")]);
            }
        }
        world.service(&name, spec, status);
        let hinted = random.random_bool(0.4);
        let states: Vec<(usize, u8)> = (0..pods.len()).map(|at| (at, random.random_range(0..6))).collect();
        for (family, of_family) in [("IPv4", 0), ("IPv6", 1)] {
            let endpoints = states.iter().filter(|(_, state)| *state < 5).map(|(at, state)| {
                let (pod, node, addresses) = &pods[*at];
                let (node, zone) = NODES[*node];
                let conditions = match state {
                    0..3 => json!({"ready": true, "serving": true, "terminating": false}),
                    3 => json!({"ready": false, "serving": true, "terminating": true}),
                    _ => json!({"ready": false, "serving": false, "terminating": at % 2 == 0}),
                };
                let mut endpoint = json!({"addresses": [addresses[of_family]], "nodeName": node, "conditions": conditions,
                    "targetRef": {"kind": "Pod", "name": pod, "namespace": "default"}});
                if hinted && let Some(zone) = zone {
                    endpoint["hints"] = json!({"forZones": [{"name": zone}]});
                    if at % 3 == 0 {
                        endpoint["hints"]["forNodes"] = json!([{"name": node}]);
                    }
                }
                endpoint
            });
            let ports = json!([{"name": "http", "port": 8080}, {"name": "udp", "port": 5353, "protocol": "UDP"}]);
            world.slice(&name, family, &ports, &Value::Array(endpoints.collect()));
        }
        for ip in [&v4, &v6, &external, &balancer] {
            let ip: IpAddr = ip.parse().expect("an address");
            targets.extend([80, 53, 81].map(|port| SocketAddr::new(ip, port)));
        }
        for node in 1..=4 {
            let addresses = Network::default().node_addr(node).both();
            targets.extend(addresses.map(|ip| SocketAddr::new(ip, node_port)));
        }
    }
    targets.extend(pods.iter().flat_map(|(.., addresses)| addresses.map(|ip| SocketAddr::new(ip, 8080))));
    targets.extend(
        ["10.96.0.99:80", "10.244.9.9:80", "203.0.113.1:443", "127.0.0.1:80", "169.254.1.1:80"]
            .map(|text| text.parse::<SocketAddr>().expect("an address")),
    );
    if random.random_bool(0.5) {
        let gate = Network::default().gate().both();
        world.attach("gate", PortKind::Gate, "gate", &gate);
    }
    if random.random_bool(0.5) {
        world.attach("host", PortKind::Outside, "host", &Network::default().host().both());
    }
    world.publish();
    let mut senders: Vec<String> = pods.iter().map(|(name, ..)| format!("pod/{name}")).collect();
    senders.extend(["node/n1", "node/n3", "host"].map(str::to_owned));
    (world, senders, targets)
}

/// Everything that an explanation says must be so when the same packet comes: the verdict with its reason, the chosen
/// endpoint, the addresses that the receiver sees, and the way back.
#[test]
fn explanations_and_packets_agree() {
    let seed = std::env::var("VIPYARD_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut random = StdRng::seed_from_u64(seed);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut cases = 0;
    while cases < CASES {
        let (mut world, senders, targets) = random_world(&mut random);
        for _ in 0..EACH {
            let (from, to) = (senders.choose(&mut random).expect("one"), targets.choose(&mut random).expect("one"));
            let protocol = ["tcp", "tcp", "udp", "sctp"].choose(&mut random).expect("one");
            let request = FlowRequest::parse(from, &to.to_string(), "", protocol, "", "").expect("a question");
            let report = world.explain(&request).expect("an explanation").report;
            cases += 1;
            // Earlier flows are over: by chance one could have this one's ports, which an explanation does not know.
            world.now += 200_000;
            let Some(send) = report.steps.iter().find(|step| step.step == StepKind::Send) else {
                // What the sender's kernel keeps never comes to the router.
                if report.verdict.result == VerdictResult::StaysInside {
                    assert!(to.ip().is_loopback(), "{from} to {to}: {report:?}");
                    continue;
                }
                assert_eq!(report.verdict.result, VerdictResult::NoSender, "{from} to {to}: {report:?}");
                *seen.entry("noSender".into()).or_default() += 1;
                continue;
            };
            let source = send.text.split(" from ").nth(1).and_then(|rest| rest.split(" to ").next()).expect("a source");
            let source: SocketAddr = source.parse().expect("an address");
            let sender = world.pipeline.ports().owner(source.ip()).expect("the sender").id;
            let mut buf = packet::first(request.protocol, source, *to);
            let real = world.pipeline.process(&mut buf, sender, world.now);
            let what = format!("seed {seed}: {from} to {to} by {protocol}: {real:?}, {report:#?}");
            let result = match real {
                Verdict::Drop(reason) => (VerdictResult::Dropped, reason.as_str().to_owned()),
                Verdict::Reply(reason) => (VerdictResult::Rejected, reason.as_str().to_owned()),
                Verdict::Hold(_) => (VerdictResult::LeavesCluster, String::new()),
                Verdict::Forward(_) => (VerdictResult::Delivered, String::new()),
            };
            assert_eq!((report.verdict.result, report.verdict.reason.clone()), result, "{what}");
            *seen.entry(format!("{:?} {}", result.0, result.1)).or_default() += 1;
            if let Verdict::Forward(out) = real {
                let arrived = Headers::parse(buf.packet()).expect("a packet").tuple;
                let port = world.pipeline.ports().get(out).expect("its receiver").name.to_string();
                let told = report.steps.iter().rev().find(|step| step.step == StepKind::Deliver).expect("a delivery");
                assert!(told.text.contains(&format!("hands it to {port};")), "{what}");
                let back = report.steps.iter().find(|step| step.step == StepKind::Reply).expect("a way back");
                let (before, after) = (back.before.clone().expect("ends"), back.after.clone().expect("ends"));
                let end = |addr, port| SocketAddr::new(addr, port).to_string();
                if request.protocol != Protocol::Sctp {
                    let receiver = Addresses {
                        source: end(arrived.dst, arrived.dport),
                        destination: end(arrived.src, arrived.sport),
                    };
                    assert_eq!(before, receiver, "{what}");
                    assert_eq!((after.source, after.destination), (to.to_string(), source.to_string()), "{what}");
                }
                let (server, client) =
                    (SocketAddr::new(arrived.dst, arrived.dport), SocketAddr::new(arrived.src, arrived.sport));
                let mut answer = packet::answer(request.protocol, server, client);
                assert_eq!(world.pipeline.process(&mut answer, out, world.now), Verdict::Forward(sender), "{what}");
            }
        }
    }
    // The clusters are worth something only if all of this happens.
    let all = [
        "Delivered ",
        "LeavesCluster ",
        "Rejected no_endpoint",
        "Rejected unknown_service_port",
        "Rejected host_unreachable",
        "Dropped no_local_endpoint",
        "Dropped source_range",
        "Dropped unallocated_vip",
        "Dropped no_route",
        "Dropped not_unicast",
        "noSender",
    ];
    for kind in all {
        assert!(seen.get(kind).copied().unwrap_or(0) > 10, "{kind:?} hardly ever happens: {seen:?}");
    }
}

/// A Service `web` of two Pods on n1 and n2, a third that is not ready, and a client on n3.
fn web(extra: Value) -> World {
    let mut world = World::new(1);
    let one = world.pod("web-1", 0, 2, &json!({"app": "web"}));
    let two = world.pod("web-2", 1, 2, &json!({"app": "web"}));
    let three = world.pod("web-3", 1, 3, &json!({"app": "web"}));
    world.pod("client", 2, 2, &json!({}));
    world.service(
        "dns",
        json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"],
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}),
        json!({}),
    );
    let control_plane = json!([{"addresses": [Network::default().control_plane().v4]}]);
    world.slice("dns", "IPv4", &json!([{"name": "dns", "port": 53, "protocol": "UDP"}]), &control_plane);
    let mut spec = json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ipFamilies": ["IPv4"],
        "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]});
    json_patch::merge(&mut spec, &extra);
    world.service("web", spec, json!({}));
    let endpoint = |pod: &str, addresses: [IpAddr; 2], node: &str, ready: bool| {
        json!({"addresses": [addresses[0]], "nodeName": node, "targetRef": {"kind": "Pod", "name": pod},
            "conditions": {"ready": ready, "serving": ready, "terminating": false}})
    };
    let endpoints = json!([
        endpoint("web-1", one, "n1", true),
        endpoint("web-2", two, "n2", true),
        endpoint("web-3", three, "n2", false)
    ]);
    world.slice("web", "IPv4", &json!([{"name": "http", "port": 8080}]), &endpoints);
    world.records.complete = true;
    world.publish();
    world
}

fn steps(report: &FlowReport) -> Vec<StepKind> {
    report.steps.iter().map(|step| step.step).collect()
}

#[test]
fn each_step_is_told_with_the_objects_that_it_rests_on() {
    let world = web(json!({}));
    let report = world.ask("pod/client", "web:http");
    assert!(report.reachable, "{report:#?}");
    use StepKind::{Candidates, Deliver, Dns, Enter, Hop, Match, NoMatch, Pick, Reply, Rewrite, Send, Verdict};
    assert_eq!(
        steps(&report),
        [Dns, Send, Enter, Match, Candidates, Pick, Rewrite, Hop, NoMatch, Deliver, Reply, Verdict]
    );
    let step = |kind| report.steps.iter().find(|step| step.step == kind).expect("the step");
    assert_eq!(step(Dns).answers, ["10.96.0.20"]);
    assert!(step(Dns).text.starts_with("DNS web.default.svc.cluster.local A: 10.96.0.20"), "{:?}", step(Dns));
    let service = &step(Match).rests_on[0];
    assert_eq!((service.uid.as_str(), service.resource_version.as_str()), ("uid-web", "7"));
    let slice = &step(Candidates).rests_on[1];
    assert_eq!(
        (slice.kind.as_str(), slice.uid.as_str(), slice.resource_version.as_str()),
        ("EndpointSlice", "uid-web-IPv4", "9")
    );
    let left: Vec<(&str, bool, &str)> =
        step(Candidates).candidates.iter().map(|c| (c.pod.as_str(), c.left, c.filter.as_str())).collect();
    assert_eq!(left, [("web-1", true, ""), ("web-2", true, ""), ("web-3", false, "NotReady")]);
    assert_eq!(step(Pick).rests_on[0].resource_version, "5");
    assert_eq!(step(Rewrite).before.as_ref().expect("ends").destination, "10.96.0.20:80");
    assert_eq!(step(Reply).after.as_ref().expect("ends").source, "10.96.0.20:80");
}

#[test]
fn each_verdict_has_its_reason() {
    let refused = |world: &World, from: &str, to: &str| {
        let report = world.ask(from, to);
        assert!(!report.reachable, "{report:#?}");
        (report.verdict.result, report.verdict.reason)
    };
    let world = web(json!({"internalTrafficPolicy": "Local"}));
    assert_eq!(refused(&world, "pod/client", "web:80"), (VerdictResult::Dropped, "no_local_endpoint".into()));
    let report = world.ask("pod/client", "web:80");
    let candidates = report.steps.iter().find(|step| step.step == StepKind::Candidates).expect("candidates");
    let filters: Vec<&str> = candidates.candidates.iter().map(|c| c.filter.as_str()).collect();
    assert_eq!(filters, ["OtherNode", "OtherNode", "OtherNode"]);
    assert!(world.ask("pod/web-1", "svc/web").reachable);
    assert_eq!(refused(&world, "pod/client", "web:81"), (VerdictResult::Rejected, "unknown_service_port".into()));
    assert_eq!(refused(&world, "pod/client", "10.96.0.99:80"), (VerdictResult::Dropped, "unallocated_vip".into()));
    assert_eq!(refused(&world, "host", "web:80").0, VerdictResult::NoSender);
    let mut world = web(json!({}));
    world.slice("web", "IPv4", &json!([{"name": "http", "port": 8080}]), &json!([]));
    world.publish();
    assert_eq!(refused(&world, "pod/client", "web:80"), (VerdictResult::Rejected, "no_endpoint".into()));
}

#[test]
fn names_are_found_as_the_senders_resolver_finds_them() {
    let world = web(json!({}));
    let asked = |to: &str| {
        let report = world.ask("pod/client", to);
        let asked = report
            .steps
            .iter()
            .filter(|step| step.step == StepKind::Dns)
            .map(|step| step.text.trim_start_matches("DNS ").split(' ').next().unwrap_or_default().to_owned());
        (asked.collect::<Vec<_>>(), report)
    };
    let full = "web.default.svc.cluster.local";
    let (names, report) = asked(&format!("{full}:80"));
    assert_eq!((names.last().map(String::as_str), report.reachable), (Some(full), true));
    assert_eq!(asked("web.default:80").0, ["web.default.default.svc.cluster.local", full]);
    let (_, report) = asked("wbe:80");
    assert_eq!((report.verdict.result, report.reachable), (VerdictResult::Unresolved, false));
    assert_eq!((report.problems[0].code.as_str(), report.problems[0].fix.as_str()), ("NameTypo", "web"));
    let (_, report) = asked("web.shop:80");
    assert_eq!((report.problems[0].code.as_str(), report.problems[0].fix.as_str()), ("NameInOtherNamespace", "web"));
    assert_eq!(asked("example.com:80").1.verdict.result, VerdictResult::LeavesCluster);
    // A node asks the host's resolvers, which know nothing of the cluster.
    let report = world.ask("node/n1", "web.default:80");
    assert_eq!((report.verdict.result, report.problems[0].code.as_str()), (VerdictResult::Unresolved, "OtherResolver"));
}

#[test]
fn port_that_nobody_declares_is_told_of() {
    let mut world = web(json!({}));
    world.slice(
        "web",
        "IPv4",
        &json!([{"name": "http", "port": 9999}]),
        &json!([{"addresses": ["10.244.1.2"], "nodeName": "n1"}]),
    );
    world.publish();
    let report = world.ask("pod/client", "web:80");
    assert!(report.reachable);
    assert_eq!(
        (report.problems[0].code.as_str(), report.problems[0].fix.as_str()),
        ("TargetPortUndeclared", "targetPort: 8080")
    );
}

#[test]
fn packet_from_outside_enters_where_it_is_told_to() {
    let mut world = web(json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}], "externalIPs": ["192.0.2.9"]}));
    world.attach("host", PortKind::Outside, "host", &Network::default().host().both());
    let ask = |node: &str| {
        let request = FlowRequest::parse("host", "192.0.2.9:80", "", "", "", node).expect("a question");
        world.explain(&request)
    };
    let at_three = ask("n3").expect("an explanation").report;
    assert_eq!(at_three.verdict.reason, "no_local_endpoint");
    for _ in 0..20 {
        assert!(ask("n2").expect("an explanation").report.reachable);
        // Left to chance, it enters where an endpoint is, as a load balancer's health checks see to (H2).
        assert!(ask("").expect("an explanation").report.reachable);
    }
    assert!(ask("n9").is_err());
}

#[test]
fn affinity_is_looked_up_and_not_changed() {
    let mut world = web(json!({"sessionAffinity": "ClientIP"}));
    let first = world.ask("pod/client", "10.96.0.20:80");
    assert!(first.steps.iter().any(|step| step.text.contains("will remember")), "{first:#?}");
    let again = world.ask("pod/client", "10.96.0.20:80");
    assert!(again.steps.iter().any(|step| step.text.contains("will remember")), "asking leaves no trace");
    let (source, to) = ("10.244.3.2:40000".parse().expect("one"), "10.96.0.20:80".parse().expect("one"));
    let sender = world.pipeline.ports().owner(IpAddr::from([10, 244, 3, 2])).expect("the client").id;
    let mut buf = packet::first(Protocol::Tcp, source, to);
    assert!(matches!(world.pipeline.process(&mut buf, sender, world.now), Verdict::Forward(_)));
    let later = world.ask("pod/client", "10.96.0.20:80");
    assert!(later.steps.iter().any(|step| step.text.contains("session affinity remembers it")), "{later:#?}");
}

#[test]
fn alias_that_leads_in_circles_is_told_as_that() {
    let mut world = web(json!({}));
    let alias = |to: &str| json!({"type": "ExternalName", "externalName": format!("{to}.default.svc.cluster.local")});
    world.service("loop1", alias("loop2"), json!({}));
    world.service("loop2", alias("loop1"), json!({}));
    let report = world.ask("pod/client", "loop1:80");
    assert_eq!(report.verdict.result, VerdictResult::Unresolved);
    let wanted =
        "loop1.default.svc.cluster.local is an alias that leads in circles: the cluster's DNS gives up (SERVFAIL)";
    assert_eq!((report.verdict.message.as_str(), report.problems.len()), (wanted, 0), "{report:#?}");
}

#[test]
fn loopback_stays_with_the_sender() {
    let world = web(json!({}));
    for (from, to, who) in [
        ("pod/client", "127.0.0.1:80", "Pod"),
        ("pod/client", "[::1]:80", "Pod"),
        ("pod/client", "0.0.0.0:80", "Pod"),
        ("node/n1", "127.0.0.1:80", "node"),
    ] {
        let report = world.ask(from, to);
        assert_eq!((report.verdict.result, report.reachable), (VerdictResult::StaysInside, true), "{to}");
        assert!(report.verdict.message.starts_with(&format!("stays in the {who}: {to} is its own")), "{report:#?}");
    }
}

#[test]
fn sctp_arrives_at_pods_and_not_through_services() {
    let mut world = web(json!({"type": "NodePort",
        "ports": [{"name": "sig", "port": 90, "targetPort": 8080, "protocol": "SCTP", "nodePort": 30090}]}));
    world.slice(
        "web",
        "IPv4",
        &json!([{"name": "sig", "port": 8080, "protocol": "SCTP"}]),
        &json!([{"addresses": ["10.244.1.2"], "nodeName": "n1"}]),
    );
    world.publish();
    let ask = |to: &str| {
        let request = FlowRequest::parse("pod/client", to, "", "sctp", "", "").expect("a question");
        world.explain(&request).expect("an explanation").report
    };
    let node = Network::default().node_addr(1).v4;
    for to in ["web:90".to_owned(), format!("{node}:30090")] {
        let report = ask(&to);
        assert_eq!((report.verdict.result, report.reachable), (VerdictResult::Rejected, false), "{to}: {report:#?}");
        assert!(report.verdict.message.ends_with("and SCTP is not carried through Services"), "{to}: {report:#?}");
    }
    let report = ask("10.244.1.2:8080");
    assert!(report.reachable, "{report:#?}");
    let back = report.steps.iter().find(|step| step.step == StepKind::Reply).expect("an answer");
    assert_eq!(back.before.as_ref().expect("ends").source, "10.244.1.2:8080");
    let declared = "declares port 8080/SCTP";
    assert!(report.problems.iter().all(|problem| problem.message.contains(declared)), "{report:#?}");
}

#[test]
fn who_dials_a_pod_is_told_which_port_to_dial() {
    let world = web(json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    let report = world.ask("pod/client", "10.244.1.2:80");
    assert_eq!(
        (report.problems[0].code.as_str(), report.problems[0].fix.as_str()),
        ("TargetPortUndeclared", "dial port 8080")
    );
}
