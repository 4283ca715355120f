//! The host as a client outside of the cluster.

use std::collections::BTreeSet;

use serde_json::json;

use super::world::{Seen, World, ip, tcp, udp};
use crate::router::PortKind;
use crate::router::stats::{AnswerReason, DropReason};

const HOST: &str = "10.245.0.2";
const NODES: [&str; 3] = ["10.245.0.11", "10.245.0.12", "10.245.0.13"];

fn world() -> World {
    let mut world = World::new();
    world.attach("host", PortKind::Outside, "host", &[HOST, "fd00:10:245::2"]);
    world
}

fn balancer(policy: &str) -> serde_json::Value {
    json!({"type": "LoadBalancer", "externalTrafficPolicy": policy,
        "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.5"}]}}})
}

#[test]
fn x1_x8_outside_client_is_masqueraded_by_the_node_that_it_enters_at() {
    let mut world = world();
    world.web(balancer("Cluster"), &["a1", "b1", "c1"]);
    for vip in ["10.96.0.11:80", "10.246.0.5:80"] {
        let mut nodes = BTreeSet::new();
        for port in 1000..1100 {
            let seen = world.send("host", &tcp(&format!("{HOST}:{port}"), vip, "S"));
            nodes.insert(seen.source().ip());
            // The way back ends at the client, from the address that it dialed.
            let (from, to) = (seen.destination().to_string(), seen.source().to_string());
            let back = world.send(seen.port(), &tcp(&from, &to, "SA"));
            assert_eq!(back.at(), ("host", format!("{vip} > {HOST}:{port}").as_str()));
        }
        assert_eq!(nodes, NODES.map(ip).into(), "{vip}");
    }
    let seen = world.send("host", &tcp(&format!("{HOST}:2000"), "10.245.0.12:30080", "S"));
    assert_eq!(seen.source().ip(), ip("10.245.0.12"));
}

#[test]
fn v1_x1_x5_address_of_a_node_as_external_address_is_that_nodes_door() {
    let mut world = world();
    let spec = |policy: &str| json!({"externalTrafficPolicy": policy, "externalIPs": ["10.245.0.12"]});
    world.web(spec("Cluster"), &["a1"]);
    for port in 1000..1020 {
        let seen = world.send("host", &tcp(&format!("{HOST}:{port}"), "10.245.0.12:80", "S"));
        assert_eq!((seen.port(), seen.source().ip()), ("a1", ip("10.245.0.12")));
    }
    world.service("web", spec("Local"));
    let seen = world.send("host", &tcp(&format!("{HOST}:2000"), "10.245.0.12:80", "S"));
    assert_eq!(seen, Seen::Dropped(DropReason::NoLocalEndpoint));
    world.endpoints("web", &["b1"]);
    let seen = world.send("host", &tcp(&format!("{HOST}:2001"), "10.245.0.12:80", "S"));
    assert_eq!(seen.at(), ("b1", format!("{HOST}:2001 > 10.244.2.2:8080").as_str()));
}

#[test]
fn x2_outside_client_of_a_local_policy_keeps_its_source_and_enters_where_an_endpoint_is() {
    let mut world = world();
    world.web(balancer("Local"), &["b1"]);
    for port in 1000..1050 {
        let seen = world.send("host", &tcp(&format!("{HOST}:{port}"), "10.246.0.5:80", "S"));
        assert_eq!(seen.at(), ("b1", format!("{HOST}:{port} > 10.244.2.2:8080").as_str()));
    }
    let seen = world.send("host", &tcp(&format!("{HOST}:2000"), "10.245.0.12:30080", "S"));
    assert_eq!(seen.source().to_string(), format!("{HOST}:2000"));
    // X5: a node port is asked of just that node.
    let seen = world.send("host", &tcp(&format!("{HOST}:2001"), "10.245.0.11:30080", "S"));
    assert_eq!(seen, Seen::Dropped(DropReason::NoLocalEndpoint));
}

#[test]
fn outside_client_reaches_pods_by_address_and_only_as_itself() {
    let mut world = world();
    let seen = world.send("host", &udp(&format!("{HOST}:53"), "10.244.2.2:53", b"x"));
    assert_eq!(seen.at(), ("b1", "10.245.0.2:53 > 10.244.2.2:53"));
    let seen = world.send("host", &udp("192.0.2.1:53", "10.244.2.2:53", b"x"));
    assert_eq!(seen, Seen::Dropped(DropReason::Spoofed));
}

#[test]
fn refusal_comes_from_a_node_and_never_from_the_client_itself() {
    let mut world = world();
    world.web(balancer("Cluster"), &[]);
    for (from, src) in [("host", HOST), ("n1", NODES[0])] {
        let seen = world.send(from, &tcp(&format!("{src}:1000"), "10.246.0.5:80", "S"));
        let Seen::Answered(AnswerReason::NoEndpoint, answer) = seen else { panic!("not rejected: {seen:?}") };
        let source: [u8; 4] = answer[12..16].try_into().unwrap();
        assert_ne!(ip(src), std::net::IpAddr::from(source), "a kernel would not take it");
    }
}
