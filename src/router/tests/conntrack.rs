//! What happens to flows when the cluster changes, and when time passes.

use serde_json::json;

use super::world::{Seen, World, tcp, udp};
use crate::router::PortKind;
use crate::router::pipeline::Limits;
use crate::router::stats::{AnswerReason, DropReason};

const VIP: &str = "10.96.0.11:80";
const CLIENT: &str = "10.244.1.2:5000";

/// Opens a TCP connection to the VIP and returns the backend's port.
fn connect(world: &mut World, client: &str) -> String {
    let seen = world.send("a1", &tcp(client, VIP, "S"));
    let (backend, source) = (seen.port().to_owned(), seen.source().to_string());
    let destination = seen.destination().to_string();
    assert_eq!(world.send(&backend, &tcp(&destination, &source, "SA")).port(), "a1");
    world.send("a1", &tcp(client, VIP, "A"));
    backend
}

#[test]
fn c1_established_tcp_keeps_its_backend_whatever_changes() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    assert_eq!(connect(&mut world, CLIENT), "b1");
    for change in 0..4 {
        match change {
            0 => world.endpoints("web", &["b1!"]),
            1 => world.endpoints("web", &["c1"]),
            2 => world.endpoints("web", &[]),
            _ => world.delete_service("web"),
        }
        assert_eq!(world.send("a1", &tcp(CLIENT, VIP, "A")).port(), "b1");
        assert_eq!(world.send("b1", &tcp("10.244.2.2:8080", CLIENT, "A")).source().to_string(), VIP);
    }
    // N1: new connections follow the plan.
    assert_eq!(world.send("a1", &tcp("10.244.1.2:5001", VIP, "S")), Seen::Dropped(DropReason::UnallocatedVip));
}

#[test]
fn connection_attempt_that_nobody_answered_is_decided_again() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    assert_eq!(world.send("a1", &tcp(CLIENT, VIP, "S")).port(), "b1");
    world.endpoints("web", &["c1"]);
    assert_eq!(world.send("a1", &tcp(CLIENT, VIP, "S")).port(), "c1");
}

#[test]
fn c2_c8_udp_flow_of_a_backend_that_left_is_decided_again() {
    let mut world = World::new();
    world.web(json!({"type": "NodePort"}), &["b1"]);
    for dst in [VIP, "10.245.0.11:30080", "10.245.0.12:30080"] {
        world.endpoints("web", &["b1"]);
        assert_eq!(world.send("a1", &udp(CLIENT, dst, b"")).port(), "b1", "{dst}");
        // Terminating endpoints serve still.
        world.endpoints("web", &["b1!", "c1"]);
        assert_eq!(world.send("a1", &udp(CLIENT, dst, b"")).port(), "b1", "{dst}");
        world.endpoints("web", &["c1"]);
        assert_eq!(world.send("a1", &udp(CLIENT, dst, b"")).port(), "c1", "{dst}");
    }
}

#[test]
fn c2_late_reply_of_a_backend_that_left_is_not_forwarded_untranslated() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    world.send("a1", &udp(CLIENT, VIP, b""));
    world.endpoints("web", &["c1"]);
    let late = world.send("b1", &udp("10.244.2.2:8080", CLIENT, b""));
    assert_eq!(late, Seen::Dropped(DropReason::BackendGone));
}

#[test]
fn c3_c6_udp_flows_stay_while_nothing_serves_and_after_the_service_is_gone() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    world.send("a1", &udp(CLIENT, VIP, b""));
    world.endpoints("web", &[]);
    assert_eq!(world.send("a1", &udp(CLIENT, VIP, b"")).port(), "b1");
    let other = world.send("a1", &udp("10.244.1.2:5001", VIP, b""));
    assert!(matches!(other, Seen::Answered(AnswerReason::NoEndpoint, _)));
    world.delete_service("web");
    assert_eq!(world.send("a1", &udp(CLIENT, VIP, b"")).port(), "b1");
}

#[test]
fn c4_flow_that_went_untranslated_follows_the_new_service() {
    let mut world = World::new();
    assert_eq!(world.send("a1", &udp(CLIENT, "10.245.0.11:30080", b"")).port(), "n1");
    world.web(json!({"type": "NodePort"}), &["b1"]);
    assert_eq!(world.send("a1", &udp(CLIENT, "10.245.0.11:30080", b"")).port(), "b1");
    // A client with a fixed port that was rejected is served as soon as there is an endpoint.
    world.endpoints("web", &[]);
    assert!(matches!(world.send("a1", &udp("10.244.1.2:53", VIP, b"")), Seen::Answered(..)));
    world.endpoints("web", &["b1"]);
    assert_eq!(world.send("a1", &udp("10.244.1.2:53", VIP, b"")).port(), "b1");
}

#[test]
fn c5_changed_target_port_is_another_backend() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    world.send("a1", &udp(CLIENT, VIP, b""));
    world.endpoints_at("web", &["b1"], 9090);
    assert_eq!(world.send("a1", &udp(CLIENT, VIP, b"")).destination().to_string(), "10.244.2.2:9090");
}

#[test]
fn c7_stray_replies_are_dropped_and_running_connections_are_picked_up() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let stray = Seen::Dropped(DropReason::TcpWithoutFlow);
    assert_eq!(world.send("b1", &tcp("10.244.2.2:8080", CLIENT, "SA")), stray);
    assert_eq!(world.send("b1", &tcp("10.244.2.2:8080", CLIENT, "R")), stray);
    // Nobody answers these, so nothing would end their flows.
    assert_eq!(world.send("a1", &tcp(CLIENT, "10.244.2.2:8080", "")), stray);
    assert_eq!(world.send("a1", &tcp(CLIENT, "10.244.2.2:8080", "F")), stray);
    assert_eq!(world.send("a1", &tcp(CLIENT, "10.244.2.2:8080", "A")).port(), "b1");
}

#[test]
fn closed_connection_makes_room_for_a_new_one_with_the_same_ports() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    connect(&mut world, CLIENT);
    world.send("a1", &tcp(CLIENT, VIP, "FA"));
    world.send("b1", &tcp("10.244.2.2:8080", CLIENT, "FA"));
    assert_eq!(world.send("a1", &tcp(CLIENT, VIP, "A")).port(), "b1");
    world.endpoints("web", &["c1"]);
    assert_eq!(world.send("a1", &tcp(CLIENT, VIP, "S")).port(), "c1");
    assert_eq!((world.stats().flows, world.stats().flow_changes.replaced), (1, 1));
}

#[test]
fn flows_end_by_class_without_anybody_looking() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    assert_eq!(world.pipeline.next_maintenance(), None);
    world.send("a1", &tcp("10.244.1.2:1", VIP, "S"));
    connect(&mut world, "10.244.1.2:2");
    world.send("a1", &udp("10.244.1.2:3", VIP, b""));
    connect(&mut world, "10.244.1.2:4");
    world.send("a1", &tcp("10.244.1.2:4", VIP, "RA"));
    let start = world.now;
    assert_eq!(world.pipeline.next_maintenance(), Some(start + 20_000));
    for (after, left) in [(19_999, 4), (20_000, 3), (30_000, 2), (60_000, 1), (86_399_999, 1), (86_400_000, 0)] {
        world.now = start + after;
        world.pipeline.maintain(world.now);
        assert_eq!(world.stats().flows, left, "after {after} ms");
    }
    assert_eq!(world.stats().flow_changes.expired, 4);
    assert_eq!(world.pipeline.next_maintenance(), None);
}

#[test]
fn traffic_renews_a_flow() {
    let mut world = World::new();
    world.web(json!({}), &["b1", "c1"]);
    let backend = world.send("a1", &udp(CLIENT, VIP, b"")).port().to_owned();
    for _ in 0..20 {
        world.now += 29_000;
        world.pipeline.maintain(world.now);
        assert_eq!(world.send("a1", &udp(CLIENT, VIP, b"")).port(), backend);
    }
    assert_eq!(world.stats().flow_changes.created, 1);
}

#[test]
fn full_table_evicts_floods_before_conversations() {
    let mut world = World::with(Limits { flows: 100, ..Limits::default() });
    world.web(json!({}), &["b1"]);
    connect(&mut world, CLIENT);
    for port in 10_000..11_000 {
        world.send("a2", &tcp(&format!("10.244.1.3:{port}"), VIP, "S"));
    }
    let stats = world.stats();
    assert_eq!((stats.flows, stats.flow_changes.evicted), (100, 901));
    assert_eq!(world.send("b1", &tcp("10.244.2.2:8080", CLIENT, "A")).source().to_string(), VIP);
}

#[test]
fn flows_of_a_detached_port_end_and_its_address_can_move() {
    let mut world = World::new();
    assert_eq!(world.send("a1", &tcp(CLIENT, "10.244.2.2:80", "S")).port(), "b1");
    world.send("b1", &tcp("10.244.2.2:80", CLIENT, "SA"));
    world.detach("b1");
    let gone = world.send("a1", &tcp(CLIENT, "10.244.2.2:80", "A"));
    assert!(matches!(gone, Seen::Answered(AnswerReason::HostUnreachable, _)));
    assert_eq!(world.stats().flows, 0);
    // The same address on another node, and a packet from there in the old flow.
    world.attach("b2", PortKind::Pod, "n3", &["10.244.2.2"]);
    assert_eq!(world.send("a1", &tcp(CLIENT, "10.244.2.2:80", "S")).port(), "b2");
    world.detach("b2");
    world.attach("b3", PortKind::Pod, "n2", &["10.244.2.2"]);
    assert_eq!(world.send("b3", &tcp("10.244.2.2:80", CLIENT, "S")).port(), "a1");
    // Without any packet the sweep finds them.
    world.detach("b3");
    world.pipeline.maintain(world.now);
    assert_eq!((world.stats().flows, world.pipeline.next_maintenance()), (0, None));
}
