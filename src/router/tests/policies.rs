//! Traffic policies, load-balancer doors, session affinity.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::world::{Seen, World, tcp, udp};
use crate::router::stats::DropReason;

const VIP: &str = "10.96.0.11:80";
const NO_LOCAL: Seen = Seen::Dropped(DropReason::NoLocalEndpoint);

fn local_balancer() -> Value {
    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1"],
        "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.5"}]}}})
}

#[test]
fn i2_i3_internal_policy_local_uses_local_endpoints_or_drops() {
    let mut world = World::new();
    world.web(json!({"internalTrafficPolicy": "Local"}), &["a2", "b1"]);
    for port in 1000..1030 {
        assert_eq!(world.send("a1", &tcp(&format!("10.244.1.2:{port}"), VIP, "S")).port(), "a2");
    }
    // I4: from node processes alike.
    assert_eq!(world.send("n2", &tcp("10.245.0.12:1000", VIP, "S")).port(), "b1");
    assert_eq!(world.send("c1", &tcp("10.244.3.2:1000", VIP, "S")), NO_LOCAL);
    // I6: node ports do not care.
    assert_eq!(
        world.send("n3", &tcp("10.245.0.13:1000", "10.245.0.13:30080", "S")).source().ip().to_string(),
        "10.245.0.13"
    );
}

#[test]
fn i5_host_network_pods_are_local_to_their_node() {
    let mut world = World::new();
    world.web(json!({"internalTrafficPolicy": "Local"}), &["n1"]);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1000", VIP, "S")).port(), "n1");
    assert_eq!(world.send("b1", &tcp("10.244.2.2:1000", VIP, "S")), NO_LOCAL);
}

#[test]
fn e2_local_policy_falls_back_to_the_terminating_endpoint_of_the_node() {
    let mut world = World::new();
    world.web(json!({"internalTrafficPolicy": "Local"}), &["a2!", "b1"]);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1000", VIP, "S")).port(), "a2");
}

#[test]
fn x2_external_policy_local_keeps_the_source_of_clients_elsewhere() {
    let mut world = World::new();
    world.web(local_balancer(), &["b1"]);
    let seen = world.send("n1", &tcp("10.245.0.11:1000", "10.245.0.12:30080", "S"));
    assert_eq!(seen.at(), ("b1", "10.245.0.11:1000 > 10.244.2.2:8080"));
    // X6: the node itself uses the cluster list; a third node without endpoint drops (X5).
    assert_eq!(world.send("n1", &tcp("10.245.0.11:1000", "10.245.0.11:30080", "S")).port(), "b1");
    assert_eq!(world.send("n1", &tcp("10.245.0.11:1000", "10.245.0.13:30080", "S")), NO_LOCAL);
}

#[test]
fn x3_pod_of_the_node_uses_the_cluster_list_and_keeps_its_source() {
    let mut world = World::new();
    world.web(local_balancer(), &["b1"]);
    for (at, dst) in
        [("10.245.0.11:30080", "own node port"), ("10.246.0.5:80", "LB VIP"), ("192.0.2.1:80", "externalIP")]
    {
        let seen = world.send("a1", &udp("10.244.1.2:1000", at, b""));
        assert_eq!(seen.port(), "b1", "{dst}");
        assert_eq!(seen.source().ip().to_string(), "10.244.1.2", "{dst}");
    }
    // P3: the other node sees a client from elsewhere.
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1000", "10.245.0.13:30080", "S")), NO_LOCAL);
}

#[test]
fn x4_node_itself_is_masqueraded_and_uses_the_cluster_list() {
    let mut world = World::new();
    world.web(local_balancer(), &["b1"]);
    let seen = world.send("n1", &tcp("10.245.0.11:1000", "10.246.0.5:80", "S"));
    assert_eq!((seen.port(), seen.source().ip().to_string()), ("b1", "10.245.0.11".to_owned()));
}

#[test]
fn x1_v1_external_addresses_are_captured_on_every_node_and_masqueraded() {
    let mut world = World::new();
    world.web(
        json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1"],
        "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.5"}]}}}),
        &["a2"],
    );
    for (client, addr, node) in [("a1", "10.244.1.2", "10.245.0.11"), ("c1", "10.244.3.2", "10.245.0.13")] {
        for dst in ["192.0.2.1:80", "10.246.0.5:80"] {
            let seen = world.send(client, &tcp(&format!("{addr}:1000"), dst, "S"));
            assert_eq!((seen.port(), seen.source().ip().to_string()), ("a2", node.to_owned()), "{dst}");
        }
    }
}

#[test]
fn x12_policy_change_counts_for_new_connections_only() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["b1"]);
    let open = world.send("n1", &tcp("10.245.0.11:1000", "10.245.0.13:30080", "S"));
    let source = open.source();
    assert_eq!(source.ip().to_string(), "10.245.0.13");
    world.send("b1", &tcp("10.244.2.2:8080", &source.to_string(), "SA"));
    world.service("web", json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
    assert_eq!(world.send("n1", &tcp("10.245.0.11:1000", "10.245.0.13:30080", "A")).source(), source);
    assert_eq!(world.send("n1", &tcp("10.245.0.11:1001", "10.245.0.13:30080", "S")), NO_LOCAL);
}

#[test]
fn v3_v4_source_ranges_filter_load_balancer_vips_only() {
    let mut world = World::new();
    let mut extra = local_balancer();
    extra["loadBalancerSourceRanges"] = json!(["10.244.2.0/24"]);
    world.web(extra, &["b1"]);
    let refused = Seen::Dropped(DropReason::SourceRange);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "10.246.0.5:80", "S")), refused);
    assert_eq!(world.send("b1", &tcp("10.244.2.2:1", "10.246.0.5:80", "S")).port(), "b1");
    for dst in [VIP, "192.0.2.1:80", "10.245.0.11:30080"] {
        assert_eq!(world.send("a1", &tcp("10.244.1.2:1", dst, "S")).port(), "b1", "{dst}");
    }
    // A Service without endpoint: the filter comes first.
    world.endpoints("web", &[]);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:2", "10.246.0.5:80", "S")), refused);
}

fn reached(world: &mut World, client: &str, addr: &str, dst: &str, ports: std::ops::Range<u16>) -> BTreeSet<String> {
    ports.map(|port| world.send(client, &tcp(&format!("{addr}:{port}"), dst, "S")).port().to_owned()).collect()
}

fn sticky(seconds: u32) -> Value {
    json!({"type": "NodePort", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

#[test]
fn a1_a2_client_keeps_its_endpoint_at_all_doors() {
    let mut world = World::new();
    world.web(sticky(60), &["a2", "b1", "c1"]);
    let mut seen = reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1030);
    seen.extend(reached(&mut world, "a1", "10.244.1.2", "10.245.0.11:30080", 1000..1030));
    assert_eq!(seen.len(), 1, "{seen:?}");
    // Another client has its own; thirty of them do not all have the same.
    let mut all = BTreeSet::new();
    for (client, addr) in [
        ("a2", "10.244.1.3"),
        ("b1", "10.244.2.2"),
        ("c1", "10.244.3.2"),
        ("n1", "10.245.0.11"),
        ("n2", "10.245.0.12"),
        ("n3", "10.245.0.13"),
    ] {
        let own = reached(&mut world, client, addr, VIP, 1000..1010);
        assert_eq!(own.len(), 1);
        all.extend(own);
    }
    assert!(all.len() > 1);
}

#[test]
fn a3_a4_each_connection_renews_and_idleness_forgets() {
    let mut world = World::new();
    world.web(sticky(100), &["a2", "b1", "c1"]);
    let first = reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1001);
    for step in 1..10 {
        world.now += 99_000;
        assert_eq!(reached(&mut world, "a1", "10.244.1.2", VIP, 1000 + step..1001 + step), first);
    }
    let mut later = BTreeSet::new();
    for step in 0..20 {
        world.now += 100_000;
        later.extend(reached(&mut world, "a1", "10.244.1.2", VIP, 2000 + step..2001 + step));
    }
    assert_eq!(later.len(), 3);
}

#[test]
fn a5_endpoint_that_left_is_replaced() {
    let mut world = World::new();
    world.web(sticky(100), &["a2", "b1"]);
    let first = reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1010);
    let rest: Vec<&str> = ["a2", "b1"].into_iter().filter(|name| !first.contains(*name)).collect();
    world.endpoints("web", &rest);
    let second = reached(&mut world, "a1", "10.244.1.2", VIP, 1010..1020);
    assert_eq!(second, rest.iter().map(ToString::to_string).collect());
}

#[test]
fn a6_local_and_cluster_lists_share_the_memory() {
    let mut world = World::new();
    let mut extra = sticky(100);
    extra["internalTrafficPolicy"] = json!("Local");
    world.web(extra, &["a2", "b1", "c1"]);
    // The ClusterIP can only give a2; the node port takes what is remembered.
    assert_eq!(reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1001), ["a2".to_owned()].into());
    assert_eq!(reached(&mut world, "a1", "10.244.1.2", "10.245.0.11:30080", 1001..1021), ["a2".to_owned()].into());
}

#[test]
fn a7_switching_affinity_takes_effect_at_once() {
    let mut world = World::new();
    let names = ["a2", "b1", "c1"];
    world.web(sticky(100), &names);
    assert_eq!(reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1020).len(), 1);
    world.service("web", json!({"type": "NodePort", "sessionAffinity": "None"}));
    assert!(reached(&mut world, "a1", "10.244.1.2", VIP, 1020..1050).len() > 1);
    world.service("web", sticky(100));
    assert_eq!(reached(&mut world, "a1", "10.244.1.2", VIP, 1050..1080).len(), 1);
}

#[test]
fn t2_hinted_endpoints_are_those_of_the_packets_node() {
    // The lists themselves are tested with the plan; here: the node that counts is where the packet is captured.
    let mut world = World::new();
    world.web(json!({}), &["a2", "b1"]);
    let slice = json!({
        "metadata": {"namespace": "default", "name": "web-IPv4", "resourceVersion": "2",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [{"name": "tcp", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["10.244.1.3"], "hints": {"forNodes": [{"name": "n1"}]}},
            {"addresses": ["10.244.2.2"], "hints": {"forNodes": [{"name": "n2"}]}}],
    });
    world.compiler.slice_applied(&serde_json::from_value(slice).expect("an EndpointSlice"));
    let plan = world.compiler.plan();
    world.pipeline.set_plan(plan);
    assert_eq!(reached(&mut world, "a1", "10.244.1.2", VIP, 1000..1020), ["a2".to_owned()].into());
    assert_eq!(reached(&mut world, "n2", "10.245.0.12", VIP, 1000..1020), ["b1".to_owned()].into());
    assert_eq!(reached(&mut world, "c1", "10.244.3.2", VIP, 1000..1030).len(), 2);
}
