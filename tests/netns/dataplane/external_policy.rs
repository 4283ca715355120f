//! externalTrafficPolicy, and which source address a backend sees (X rules).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::stage::{SILENT, Service, Stage};

const EXTERNAL: &str = "192.0.2.1";
const BALANCER: &str = "198.51.100.7";

/// A Service with every door there is: ClusterIP, node port, externalIP and load-balancer VIP.
async fn all_doors(stage: &Stage, policy: &str, pods: &[&str]) -> (Service, [SocketAddr; 2]) {
    let spec = json!({"externalTrafficPolicy": policy, "externalIPs": [EXTERNAL]});
    let web = stage.balancer("web", spec, json!([{"ip": BALANCER}])).await;
    stage.endpoints(&web, pods).await;
    (web, [EXTERNAL, BALANCER].map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80)))
}

/// X1: the node that captures the packet stands in for the client, Pod or not. X8: behind a ClusterIP a Pod is seen as
/// itself, also on another node, and a process of a node as its node.
pub async fn external_policy_cluster_masquerades_every_client_x1_x8() {
    let stage = Stage::with(&["a1", "b1", "c1", "n1"]).await;
    let (web, addresses) = all_doors(&stage, "Cluster", &["b1", "c1"]).await;
    for door in addresses.into_iter().chain([stage.node_port("n1", &web)]) {
        for client in ["a1", "n1"] {
            assert_eq!(stage.pods(client, door), ["b1", "c1"], "{client} to {door}");
            assert_eq!(stage.sources(client, door), ["n1"], "{client} to {door}");
        }
    }
    // Through another node it is that node's affair.
    assert_eq!(stage.sources("a1", stage.node_port("n3", &web)), ["n3"]);
    assert_eq!(stage.sources("a1", web.vip), ["a1"]);
    assert_eq!(stage.sources("n1", web.vip), ["n1"]);
    stage.end().await;
}

/// X2, X5, X6, X7: a process of n1 is a client from elsewhere to the nodes n2 and n3.
pub async fn external_policy_local_keeps_the_source_and_uses_local_endpoints_x2_x5_x6_x7() {
    let stage = Stage::with(&["a1", "b1", "b2", "c1", "n1"]).await;
    let (web, _) = all_doors(&stage, "Local", &["b1", "b2"]).await;
    let at = |node| stage.node_port(node, &web);
    assert_eq!(
        (stage.pods("n1", at("n2")), stage.sources("n1", at("n2"))),
        (vec!["b1".into(), "b2".into()], vec!["n1".into()])
    );
    // X5, X6, R3: a third node drops; P3: for a Pod, too, the other node decides, and sees who it is.
    assert_eq!(stage.pods("n1", at("n3")), SILENT);
    assert_eq!(stage.pods("a1", at("n3")), SILENT);
    assert_eq!(stage.sources("a1", at("n2")), ["a1"]);
    // With policy Cluster n3 passes it on, under its own name.
    stage.change(&web, json!({"externalTrafficPolicy": "Cluster"})).await;
    assert_eq!(stage.sources("n1", at("n3")), ["n3"]);
    stage.end().await;
}

/// X3, X4, R4: what starts at a node without endpoint is served as if it had gone out and come back; Pods keep their
/// source, the node's processes have the node's.
pub async fn own_pods_and_processes_use_the_whole_cluster_x3_x4() {
    let stage = Stage::with(&["a1", "b1", "c1", "n1"]).await;
    let (web, addresses) = all_doors(&stage, "Local", &["b1", "c1"]).await;
    for door in addresses.into_iter().chain([stage.node_port("n1", &web)]) {
        for client in ["a1", "n1"] {
            assert_eq!(stage.pods(client, door), ["b1", "c1"], "{client} to {door}");
            assert_eq!(stage.sources(client, door), [client], "{client} to {door}");
        }
    }
    stage.end().await;
}

/// X9: also by the external doors, where a Pod's source is kept otherwise, an endpoint that is its own client sees
/// its node.
pub async fn endpoint_reaches_itself_through_every_door_x9() {
    let stage = Stage::with(&["b1", "n2"]).await;
    let (web, addresses) = all_doors(&stage, "Local", &["b1"]).await;
    for door in addresses.into_iter().chain([web.vip, stage.node_port("n2", &web)]) {
        assert_eq!(
            (stage.pods("b1", door), stage.sources("b1", door)),
            (vec!["b1".into()], vec!["n2".into()]),
            "{door}"
        );
    }
    stage.end().await;
}

/// X10: from node to Pod by address; between Pods it is `services::pods_reach_one_another_by_address`.
pub async fn node_reaches_pods_with_its_own_address_x10() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    for pod in ["a1", "b1"] {
        for ip in [stage.ip(pod), stage.ip6(pod)] {
            let reply = stage.inside("n1").http((ip, 80).into()).expect("an answer");
            assert_eq!((reply.pod.as_str(), stage.name_of(reply.client)), (pod, "n1".to_owned()));
        }
    }
    stage.end().await;
}

/// X11: a plain ClusterIP Service with an externalIP honours the policy there, and its ClusterIP does not know it.
pub async fn external_ip_of_a_cluster_ip_service_honours_the_policy_x11() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    let spec = json!({"externalIPs": [EXTERNAL], "externalTrafficPolicy": "Local"});
    let web = stage.web("web", spec, &["b1"]).await;
    let door = SocketAddr::new(EXTERNAL.parse().expect("an address"), 80);
    assert_eq!(stage.sources("a1", door), ["a1"]);
    assert_eq!(stage.sources("n1", web.vip), ["n1"]);
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    stage.change(&web, json!({"externalTrafficPolicy": "Cluster"})).await;
    assert_eq!(stage.sources("a1", door), ["n1"]);
    stage.end().await;
}

pub async fn policy_change_leaves_established_connections_alone_x12() {
    let stage = Stage::with(&["b1", "n1"]).await;
    let web = stage.web("web", json!({"type": "NodePort"}), &["b1"]).await;
    let door = stage.node_port("n3", &web);
    let mut open = stage.inside("n1").connect(door).expect("a connection");
    open.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    stage.change(&web, json!({"externalTrafficPolicy": "Local"})).await;
    assert_eq!(stage.pods("n1", door), SILENT);
    let text = ask_on(&mut open);
    assert!(text.contains("\"pod\":\"b1\"") && text.contains(&stage.ip("n3").to_string()), "{text}");
    stage.change(&web, json!({"externalTrafficPolicy": "Cluster"})).await;
    assert_eq!(stage.pods("n1", door), ["b1"]);
    stage.end().await;
}

/// One exchange of HTTP on a connection that stands.
pub fn ask_on(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /json HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").expect("it takes a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}
