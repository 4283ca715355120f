//! Session affinity by client address (A rules).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::packets::{Fate, udp_from};
use super::stage::Stage;

const BACKENDS: &[&str] = &["a2", "b1", "c1"];

fn sticky(seconds: u32) -> Value {
    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
}

/// A1, A2: at every door of a port a client meets the same Pod, although some doors masquerade it before the Pod sees
/// it, and although two clients share a node.
pub async fn client_keeps_its_pod_at_all_doors_of_a_port() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1", "n1"]).await;
    let mut spec = sticky(10_800);
    json_patch::merge(&mut spec, &json!({"externalIPs": ["192.0.2.1"]}));
    let web = stage.balancer("web", spec, json!([{"ip": "198.51.100.7"}])).await;
    stage.endpoints(&web, BACKENDS).await;
    let doors: Vec<SocketAddr> = ["192.0.2.1", "198.51.100.7"]
        .map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80))
        .into_iter()
        .chain([web.vip, stage.node_port("n1", &web)])
        .collect();
    for client in ["a1", "a2", "b1", "c1", "n1"] {
        for ask in [Stage::tcp_pods, Stage::udp_pods] {
            let doors = doors.iter().filter(|door| stage.ip("n1") != door.ip() || !["b1", "c1"].contains(&client));
            let met: BTreeSet<Vec<String>> = doors.map(|door| ask(&stage, client, *door)).collect();
            assert_eq!(met.len(), 1, "{client}: {met:?}");
            assert_eq!(met.first().map(Vec::len), Some(1), "{client}: {met:?}");
        }
    }
    stage.end().await;
}

/// A1: the memory is the port's, not the Service's, and the client's, not the node's: on twenty ports a client does not
/// meet one Pod, and another one of its node does not meet the same ones.
pub async fn each_port_has_its_own_memory_a1() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let ports: Vec<Value> = (1000..1020).map(|port| json!({"name": format!("p{port}"), "port": port})).collect();
    let mut spec = sticky(60);
    spec["ports"] = json!(ports);
    let web = stage.service("web", spec).await;
    let targets: Vec<Value> = (1000..1020).map(|port| json!({"name": format!("p{port}"), "port": 80})).collect();
    stage.slice_with("web", &web, json!({"endpoints": stage.endpoints_at(BACKENDS), "ports": targets})).await;
    let met = |client: &str| -> Vec<String> {
        let pods = (1000..1020).map(|port| stage.tcp_pods(client, SocketAddr::new(web.vip.ip(), port)));
        pods.map(|pods| pods.join(" ")).collect()
    };
    let (first, second) = (met("a1"), met("a2"));
    assert!(first.iter().chain(&second).all(|pods| BACKENDS.contains(&&**pods)), "{first:?} {second:?}");
    assert!(first.iter().any(|pod| *pod != first[0]), "{first:?}");
    assert_ne!(first, second);
    stage.end().await;
}

/// A3, A4: connections renew the memory; when it has been idle for longer than its time, chance decides again. Both
/// are about time that passes, so this waits.
pub async fn connections_renew_the_memory_and_idleness_ends_it() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let web = stage.web("web", sticky(2), BACKENDS).await;
    let meet = || stage.inside("a1").http(web.vip).expect("an answer").pod;
    let (begin, mut last) = (Instant::now(), Instant::now());
    let mut first = meet();
    while begin.elapsed() < TIMEOUT * 3 / 2 {
        tokio::time::sleep(TIMEOUT / 4).await;
        let before = std::mem::replace(&mut last, Instant::now());
        let met = meet();
        // On a machine that stood still for so long the memory has ended.
        if before.elapsed() < TIMEOUT {
            assert_eq!(met, first, "{:?} after the connection before", before.elapsed());
        }
        first = met;
    }
    let mut met = BTreeSet::from([first]);
    for _ in 0..10 {
        tokio::time::sleep(TIMEOUT + Duration::from_millis(50)).await;
        met.insert(meet());
        if met.len() > 1 {
            break;
        }
    }
    assert!(met.len() > 1, "{met:?}");
    stage.end().await;
}

/// A5, A6: only who is eligible is remembered, and the lists of both policies share the memory.
pub async fn remembered_pod_must_be_eligible() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let mut spec = sticky(10_800);
    json_patch::merge(&mut spec, &json!({"type": "NodePort", "internalTrafficPolicy": "Local"}));
    let web = stage.web("web", spec, BACKENDS).await;
    let door = stage.node_port("n1", &web);
    // A6: the ClusterIP can only lead to a2, and that is what the node port remembers.
    for ask in [Stage::tcp_pods, Stage::udp_pods] {
        assert_eq!(ask(&stage, "a1", web.vip), ["a2"]);
        assert_eq!(ask(&stage, "a1", door), ["a2"]);
    }
    // A5
    stage.endpoints(&web, &["b1", "c1"]).await;
    let other = stage.tcp_pods("a1", door);
    assert!(other == ["b1"] || other == ["c1"], "{other:?}");
    // It is back, but somebody else is remembered; for the local list it is the only one.
    stage.endpoints(&web, BACKENDS).await;
    assert_eq!(stage.tcp_pods("a1", web.vip), ["a2"]);
    stage.end().await;
}

/// A7, A8: switched on and off, for TCP and UDP; a UDP flow stays where it is.
pub async fn affinity_is_switched_on_and_off_at_once_a7_a8() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let web = stage.web("web", json!({}), BACKENDS).await;
    let socket = stage.inside("a1").run(|| std::net::UdpSocket::bind("0.0.0.0:12345").expect("a free port"));
    let flow = || match stage.inside("a1").run(|| udp_from(&socket, web.vip)) {
        Fate::Answered(reply) => reply.pod,
        other => panic!("{other:?}"),
    };
    let first = flow();
    for _ in 0..2 {
        for ask in [Stage::tcp_pods, Stage::udp_pods] {
            assert!(ask(&stage, "a1", web.vip).len() > 1);
        }
        stage.change(&web, sticky(10_800)).await;
        for ask in [Stage::tcp_pods, Stage::udp_pods] {
            assert_eq!(ask(&stage, "a1", web.vip).len(), 1);
        }
        assert_eq!(flow(), first, "the flow keeps its Pod");
        stage.change(&web, json!({"sessionAffinity": "None", "sessionAffinityConfig": null})).await;
    }
    stage.end().await;
}
