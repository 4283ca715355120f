//! Pods, nodes and Services: who gets a packet, and what its addresses are then.

use std::collections::BTreeSet;

use serde_json::json;

use super::world::{Seen, World, at, echo, tcp, tcp_ttl, udp, unreachable};
use crate::plan::{ListKind, Via};
use crate::router::flow::Masquerade;
use crate::router::stats::{AnswerReason, DropReason};

const VIP: &str = "10.96.0.11:80";

#[test]
fn x10_pod_reaches_pod_by_address_and_ages_at_every_node() {
    let mut world = World::new();
    let same_node = world.send("a1", &tcp("10.244.1.2:5000", "10.244.1.3:80", "S"));
    assert_eq!(same_node, at("a2", "10.244.1.2:5000 > 10.244.1.3:80 ttl 63"));
    let other_node = world.send("a1", &tcp("10.244.1.2:5000", "10.244.2.2:80", "S"));
    assert_eq!(other_node, at("b1", "10.244.1.2:5000 > 10.244.2.2:80 ttl 62"));
    let back = world.send("b1", &tcp("10.244.2.2:80", "10.244.1.2:5000", "SA"));
    assert_eq!(back, at("a1", "10.244.2.2:80 > 10.244.1.2:5000 ttl 62"));
    let six = world.send("a1", &udp("[fd00:10:244:1::2]:5000", "[fd00:10:244:2::2]:80", b"x"));
    assert_eq!(six, at("b1", "[fd00:10:244:1::2]:5000 > [fd00:10:244:2::2]:80 ttl 62"));
}

#[test]
fn x10_node_reaches_pod_with_its_own_address() {
    let mut world = World::new();
    let own = world.send("n1", &tcp("10.245.0.11:5000", "10.244.1.2:80", "S"));
    assert_eq!(own, at("a1", "10.245.0.11:5000 > 10.244.1.2:80 ttl 64"));
    let other = world.send("n1", &tcp("10.245.0.11:5000", "10.244.2.2:80", "S"));
    assert_eq!(other, at("b1", "10.245.0.11:5000 > 10.244.2.2:80 ttl 63"));
    let to_node = world.send("a1", &tcp("10.244.1.2:5000", "10.245.0.11:10250", "S"));
    assert_eq!(to_node, at("n1", "10.244.1.2:5000 > 10.245.0.11:10250 ttl 64"));
    let control_plane = world.send("a1", &tcp("10.244.1.2:5000", "10.245.0.1:6443", "S"));
    assert_eq!(control_plane, at("cp", "10.244.1.2:5000 > 10.245.0.1:6443 ttl 63"));
}

#[test]
fn x8_cluster_ip_shows_the_backend_the_pods_address_and_replies_come_from_the_vip() {
    for (client, vip, backend) in [
        ("10.244.1.2:5000", VIP, "10.244.2.2:8080"),
        ("[fd00:10:244:1::2]:5000", "[fd00:10:96::11]:80", "[fd00:10:244:2::2]:8080"),
    ] {
        let mut world = World::new();
        world.web(json!({}), &["b1"]);
        let there = world.send("a1", &tcp(client, vip, "S"));
        assert_eq!(there, at("b1", &format!("{client} > {backend} ttl 62")));
        let back = world.send("b1", &tcp(backend, client, "SA"));
        assert_eq!(back, at("a1", &format!("{vip} > {client} ttl 62")));
        let there = world.send("a1", &udp(client, vip, b"odd"));
        assert_eq!(there, at("b1", &format!("{client} > {backend} ttl 62")));
        let back = world.send("b1", &udp(backend, client, b""));
        assert_eq!(back, at("a1", &format!("{vip} > {client} ttl 62")));
        assert_eq!(world.stats().flows, 2);
    }
}

#[test]
fn x8_cluster_ip_traffic_of_a_node_is_masqueraded_as_that_node() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let there = world.send("n1", &tcp("10.245.0.11:40000", VIP, "S"));
    assert_eq!(there, at("b1", "10.245.0.11:40000 > 10.244.2.2:8080 ttl 63"));
    let back = world.send("b1", &tcp("10.244.2.2:8080", "10.245.0.11:40000", "SA"));
    assert_eq!(back, at("n1", &format!("{VIP} > 10.245.0.11:40000 ttl 63")));
    let grounds = world.pipeline.flows().iter().next().and_then(|flow| flow.grounds.clone()).expect("grounds");
    assert_eq!(grounds.masquerade, Some(Masquerade::OffCluster));
}

#[test]
fn x9_hairpin_is_masqueraded_and_comes_back() {
    for (pod, vip, backend, node) in [
        ("10.244.1.2", VIP, "10.244.1.2:8080", "10.245.0.11"),
        ("[fd00:10:244:1::2]", "[fd00:10:96::11]:80", "[fd00:10:244:1::2]:8080", "fd00:10:245::b"),
    ] {
        let mut world = World::new();
        world.web(json!({}), &["a1"]);
        let there = world.send("a1", &tcp(&format!("{pod}:5000"), vip, "S"));
        let source = there.source();
        assert_eq!((there.port(), source.ip().to_string()), ("a1", node.to_owned()));
        assert!(!(30_000..61_000).contains(&source.port()), "{source}");
        let back = world.send("a1", &tcp(backend, &source.to_string(), "SA"));
        assert_eq!(back.at(), ("a1", &*format!("{vip} > {pod}:5000")));
    }
}

#[test]
fn host_network_endpoint_reaches_itself_through_its_service() {
    let mut world = World::new();
    world.web(json!({}), &["n1"]);
    let there = world.send("n1", &tcp("10.245.0.11:40000", VIP, "S"));
    // A kernel would not take a packet from outside that claims to be from itself.
    assert_eq!((there.port(), there.source().ip()), ("n1", "169.254.96.1".parse().expect("an address")));
    let back = world.send("n1", &tcp("10.245.0.11:8080", &there.source().to_string(), "SA"));
    assert_eq!(back.at(), ("n1", &*format!("{VIP} > 10.245.0.11:40000")));
}

#[test]
fn e8_every_endpoint_is_chosen_and_evenly() {
    let mut world = World::new();
    world.web(json!({}), &["a2", "b1", "c1"]);
    let mut counts = std::collections::HashMap::new();
    for port in 10_000..13_000 {
        let seen = world.send("a1", &tcp(&format!("10.244.1.2:{port}"), VIP, "S"));
        *counts.entry(seen.port().to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn r1_service_without_endpoint_answers_port_unreachable_at_every_door() {
    let mut world = World::new();
    world.web(
        json!({"externalIPs": ["192.0.2.1"], "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.5"}]}}}),
        &[],
    );
    for dst in [VIP, "192.0.2.1:80", "10.246.0.5:80", "10.245.0.11:30080"] {
        for packet in [tcp("10.244.1.2:5000", dst, "S"), udp("10.244.1.2:5000", dst, b"query")] {
            let Seen::Answered(AnswerReason::NoEndpoint, answer) = world.send("a1", &packet) else {
                panic!("{dst} was not rejected")
            };
            assert_eq!(&answer[12..20], &[10, 245, 0, 11, 10, 244, 1, 2], "from the node to the client");
            assert_eq!(&answer[20..22], &[3, 3], "port unreachable");
            assert_eq!(&answer[28..], &packet[..], "quotes the packet as it was sent");
        }
    }
    let six = udp("[fd00:10:244:1::2]:5000", "[fd00:10:96::11]:80", &[7; 4000]);
    let Seen::Answered(AnswerReason::NoEndpoint, answer) = world.send("a1", &six) else { panic!("not rejected") };
    assert_eq!((&answer[40..42], answer.len()), (&[1, 4][..], 1280));
    assert_eq!((world.stats().answered(AnswerReason::NoEndpoint), world.stats().flows), (9, 0));
}

/// X4: a kernel takes no packet from outside that claims to be from itself.
#[test]
fn node_is_refused_by_another_address_than_its_own() {
    let mut world = World::new();
    world.web(json!({}), &[]);
    for (dst, from) in [(VIP, [10, 96, 0, 11]), ("10.245.0.11:30080", [169, 254, 96, 1])] {
        let seen = world.send("n1", &tcp("10.245.0.11:5000", dst, "S"));
        let Seen::Answered(AnswerReason::NoEndpoint, answer) = seen else { panic!("{dst} was not rejected") };
        assert_eq!(answer[12..16], from, "{dst}");
    }
}

#[test]
fn r6_unknown_port_of_a_cluster_ip_and_its_echo_are_rejected() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let unknown = AnswerReason::UnknownServicePort;
    assert!(
        matches!(world.send("a1", &tcp("10.244.1.2:5000", "10.96.0.11:81", "S")), Seen::Answered(r, _) if r == unknown)
    );
    assert!(
        matches!(world.send("a1", &echo("10.244.1.2", "10.96.0.11", 1, false, 64)), Seen::Answered(r, _) if r == unknown)
    );
}

#[test]
fn r7_unallocated_address_of_the_service_range_is_dropped() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let unallocated = Seen::Dropped(DropReason::UnallocatedVip);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:5000", "10.96.0.12:80", "S")), unallocated);
    assert_eq!(world.send("a1", &udp("[fd00:10:244:1::2]:5000", "[fd00:10:96::12]:80", b"")), unallocated);
    // S14: what a deleted Service leaves is the same.
    world.delete_service("web");
    assert_eq!(world.send("a1", &tcp("10.244.1.2:5000", VIP, "S")), unallocated);
}

#[test]
fn p1_x1_node_port_of_the_own_node_masquerades() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["b1"]);
    let there = world.send("a1", &tcp("10.244.1.2:5000", "10.245.0.11:30080", "S"));
    assert_eq!((there.port(), there.source().ip().to_string()), ("b1", "10.245.0.11".to_owned()));
    assert_eq!(there.destination().to_string(), "10.244.2.2:8080");
    let back = world.send("b1", &tcp("10.244.2.2:8080", &there.source().to_string(), "SA"));
    assert_eq!(back, at("a1", "10.245.0.11:30080 > 10.244.1.2:5000 ttl 62"));
}

#[test]
fn p3_x7_node_port_of_another_node_is_decided_there() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["c1"]);
    let there = world.send("a1", &tcp("10.244.1.2:5000", "10.245.0.12:30080", "S"));
    // Over n2, which masquerades, to c1 on n3: three nodes forward.
    assert_eq!((there.port(), there.source().ip().to_string()), ("c1", "10.245.0.12".to_owned()));
    assert!(matches!(&there, Seen::At(_, line) if line.ends_with("ttl 61")), "{there:?}");
    let back = world.send("c1", &tcp("10.244.3.2:8080", &there.source().to_string(), "SA"));
    assert_eq!(back, at("a1", "10.245.0.12:30080 > 10.244.1.2:5000 ttl 61"));
    let six = world.send("n1", &udp("[fd00:10:245::b]:5000", "[fd00:10:245::c]:30080", b""));
    assert_eq!((six.port(), six.source().ip().to_string()), ("c1", "fd00:10:245::c".to_owned()));
}

#[test]
fn p4_p5_node_port_serves_its_protocols_and_nothing_else_is_captured() {
    let mut world = World::new();
    world.web(
        json!({"type": "NodePort", "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080}]}),
        &["b1"],
    );
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "10.245.0.11:30080", "S")).port(), "b1");
    assert_eq!(world.send("a1", &udp("10.244.1.2:1", "10.245.0.11:30080", b"")).port(), "b1");
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "10.245.0.11:30081", "S")).port(), "n1");
    // A Pod's address is not the node's.
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "10.244.1.3:30080", "S")).port(), "a2");
}

#[test]
fn two_clients_and_two_ways_to_one_backend_keep_apart() {
    // The same client port to the VIP and to the backend itself: the answers would be the same bytes.
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:5000", VIP, "S")).source().port(), 5000);
    let direct = world.send("a1", &tcp("10.244.1.2:5000", "10.244.2.2:8080", "S"));
    let source = direct.source();
    assert_eq!(source.ip().to_string(), "10.244.1.2");
    assert_ne!(source.port(), 5000);
    let back = world.send("b1", &tcp("10.244.2.2:8080", &source.to_string(), "SA"));
    assert_eq!(back.at(), ("a1", "10.244.2.2:8080 > 10.244.1.2:5000"));
    let back = world.send("b1", &tcp("10.244.2.2:8080", "10.244.1.2:5000", "SA"));
    assert_eq!(back.at(), ("a1", "10.96.0.11:80 > 10.244.1.2:5000"));
}

#[test]
fn masqueraded_clients_with_one_source_port_get_different_ones() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["b1"]);
    let mut seen = BTreeSet::new();
    for (client, addr) in [("a1", "10.244.1.2"), ("a2", "10.244.1.3")] {
        seen.insert(world.send(client, &tcp(&format!("{addr}:5000"), "10.245.0.11:30080", "S")).source());
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn f2_family_without_endpoints_is_rejected_although_the_other_has_some() {
    let mut world = World::new();
    world.web(json!({"clusterIPs": ["10.96.0.11"]}), &["b1"]);
    let six = world.send("a1", &tcp("[fd00:10:244:1::2]:5000", "[fd00:10:96::11]:80", "S"));
    assert_eq!(six, Seen::Dropped(DropReason::UnallocatedVip));
}

#[test]
fn echo_reaches_pods_and_nodes_and_returns() {
    let mut world = World::new();
    for (src, dst) in [("10.244.1.2", "10.244.2.2"), ("fd00:10:244:1::2", "fd00:10:244:2::2")] {
        assert_eq!(world.send("a1", &echo(src, dst, 77, false, 64)).port(), "b1");
        assert_eq!(world.send("b1", &echo(dst, src, 77, true, 64)).port(), "a1");
    }
    assert_eq!(world.send("a1", &echo("10.244.1.2", "10.245.0.12", 78, false, 64)).port(), "n2");
    assert_eq!(world.stats().flows, 3);
}

#[test]
fn traceroute_shows_every_node() {
    let mut world = World::new();
    let hop = |world: &mut World, ttl| match world.send("a1", &echo("10.244.1.2", "10.244.2.2", 9, false, ttl)) {
        Seen::Answered(AnswerReason::TimeExceeded, answer) => {
            assert_eq!(&answer[20..22], &[11, 0]);
            answer[12..16].to_vec()
        }
        Seen::At(..) => Vec::new(),
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        // The second time the flow is known.
        assert_eq!(hop(&mut world, 1), [10, 245, 0, 11]);
        assert_eq!(hop(&mut world, 2), [10, 245, 0, 12]);
        assert!(hop(&mut world, 3).is_empty());
    }
    let seen = world.send("a1", &tcp_ttl("10.244.1.2:1", "10.244.1.3:1", "S", 1));
    assert!(matches!(seen, Seen::Answered(AnswerReason::TimeExceeded, _)));
}

#[test]
fn nobody_at_a_pod_address_is_host_unreachable_and_the_world_is_not_connected() {
    let mut world = World::new();
    let Seen::Answered(AnswerReason::HostUnreachable, answer) =
        world.send("a1", &tcp("10.244.1.2:1", "10.244.2.99:1", "S"))
    else {
        panic!("no answer")
    };
    assert_eq!(&answer[20..22], &[3, 1]);
    let Seen::Answered(AnswerReason::HostUnreachable, answer) =
        world.send("a1", &udp("[fd00:10:244:1::2]:1", "[fd00:10:244:2::99]:1", b""))
    else {
        panic!("no answer")
    };
    assert_eq!(&answer[40..42], &[1, 3]);
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "192.0.2.9:1", "S")), Seen::Dropped(DropReason::NoRoute));
    assert_eq!(world.send("a1", &tcp("10.244.1.2:1", "10.246.0.9:1", "S")), Seen::Dropped(DropReason::NoRoute));
}

#[test]
fn c10_errors_about_translated_flows_are_translated_back() {
    for (client, vip, backend, header) in [
        ("10.244.1.2:5000", VIP, "10.244.2.2", 20),
        ("[fd00:10:244:1::2]:5000", "[fd00:10:96::11]:80", "fd00:10:244:2::2", 40),
    ] {
        for via_node in [false, true] {
            let mut world = World::new();
            world.web(json!({}), &["b1"]);
            let (from, client) = if via_node && header == 20 { ("n1", "10.245.0.11:5000") } else { ("a1", client) };
            let sent = udp(client, vip, b"query");
            let (there, received) = world.send_buf(from, &sent);
            assert_eq!(there.port(), "b1");
            let (back, error) = world.send_buf("b1", &unreachable(backend, &received));
            assert_eq!(back.port(), from);
            let vip_ip = super::world::sock(vip).ip();
            assert_eq!(back.source().ip(), vip_ip, "the error speaks for the VIP");
            // Only time to live and IPv4 header checksum of the quotation may differ from what was sent.
            let quotation = &error[header + 8..];
            assert_eq!(quotation[header..], sent[header..], "transport header as sent");
            assert_eq!(quotation[header - 8..header], sent[header - 8..header], "addresses as sent");
        }
    }
}

#[test]
fn c10_error_for_the_backend_when_the_client_is_gone() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    world.send("a1", &udp("10.244.1.2:5000", VIP, b"query"));
    let answer = udp("10.244.2.2:8080", "10.244.1.2:5000", b"late");
    let (_, received) = world.send_buf("b1", &answer);
    let (back, error) = world.send_buf("a1", &unreachable("10.244.1.2", &received));
    assert_eq!(back.at(), ("b1", "10.244.1.2:0 > 10.244.2.2:0"));
    assert_eq!(error[28 + 12..], answer[12..]);
}

#[test]
fn flow_tells_its_grounds() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    world.send("a1", &tcp("10.244.1.2:5000", VIP, "S"));
    let flow = world.pipeline.flows().iter().next().expect("a flow");
    let grounds = flow.grounds.as_ref().expect("grounds");
    assert_eq!((&*grounds.service.name, grounds.service.revision), ("web", 1));
    assert_eq!(grounds.service.endpoints()[grounds.endpoint as usize].addr.to_string(), "10.244.2.2:8080");
    assert_eq!((grounds.via, grounds.list, grounds.sticky), (Via::ClusterIp, ListKind::Cluster, false));
    assert_eq!((grounds.masquerade, flow.epoch), (None, world.plan().epoch));
}
