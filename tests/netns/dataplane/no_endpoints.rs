//! Refusals and silence (N and R rules).

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;

use super::external_policy::ask_on;
use super::stage::{REFUSED, SILENT, Stage, UNREACHABLE};
use crate::cluster::SERVICES;

/// R1, N2, N3: at every door, in both families, to Pods and node processes; the client is told at once.
pub async fn service_without_endpoint_refuses_at_every_door() {
    let stage = Stage::with(&["a1", "n1"]).await;
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "externalIPs": ["192.0.2.1", "2001:db8::1"]});
    let web = stage.balancer("web", spec, json!([{"ip": "198.51.100.7"}, {"ip": "2001:db8::7"}])).await;
    let mut doors = vec![web.vip, web.vip6.expect("both families")];
    doors.extend(["192.0.2.1", "2001:db8::1", "198.51.100.7", "2001:db8::7"].map(|ip| at(ip, 80)));
    for node in ["n1", "n2"] {
        doors.extend([stage.ip(node), stage.ip6(node)].map(|ip| SocketAddr::new(ip, web.node_port)));
    }
    for door in doors {
        for client in ["a1", "n1"] {
            assert_eq!(stage.pods(client, door), REFUSED, "{client} to {door}");
        }
    }
    stage.end().await;
}

/// R6, R7, R8: what is near a Service and is not it.
pub async fn only_what_belongs_to_a_service_is_captured() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    let web = stage.web("web", json!({"type": "NodePort"}), &["b1"]).await;
    for client in ["a1", "n1"] {
        // R6: another port of a ClusterIP; the node port is no port of it either.
        for port in [81, web.node_port] {
            assert_eq!(stage.pods(client, SocketAddr::new(web.vip.ip(), port)), REFUSED, "{client} to port {port}");
        }
        // R7: an address of the range that no Service has.
        assert_eq!(stage.pods(client, at("10.96.77.77", 80)), SILENT, "{client}");
        // R8: node ports are on nodes' addresses alone; at a Pod's it is the Pod that refuses.
        assert_eq!(stage.pods(client, SocketAddr::new(stage.ip("b1"), web.node_port)), REFUSED, "{client}");
    }
    stage.end().await;
}

/// N1: what refuses or drops new connections lets those pass that stand.
pub async fn established_connections_survive_the_loss_of_their_rules_n1() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.balancer("web", json!({}), json!([{"ip": "198.51.100.7"}])).await;
    stage.endpoints(&web, &["b1"]).await;
    let door = at("198.51.100.7", 80);
    let mut open = (0..4).map(|_| {
        let stream = stage.inside("a1").connect(door).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
        stream
    });
    let mut open: Vec<_> = open.by_ref().collect();
    let mut survives = |what: &str| {
        let answer = ask_on(&mut open.pop().expect("one is left"));
        assert!(answer.contains("\"pod\":\"b1\""), "after {what}: {answer}");
    };
    stage.change(&web, json!({"loadBalancerSourceRanges": ["203.0.113.0/24"]})).await;
    assert_eq!(stage.pods("a1", door), SILENT);
    survives("source ranges");
    stage.change(&web, json!({"loadBalancerSourceRanges": null})).await;
    stage.endpoints(&web, &[]).await;
    assert_eq!(stage.pods("a1", door), REFUSED);
    survives("the last endpoint");
    stage.ingress(&web, json!([])).await;
    assert_eq!(stage.tcp_pods("a1", door), UNREACHABLE);
    survives("the VIP");
    stage.delete(&format!("{SERVICES}/web")).await;
    survives("the Service");
    stage.end().await;
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}
