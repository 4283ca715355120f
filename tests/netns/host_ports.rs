//! Ports of a node that belong to a Pod.

use std::net::SocketAddr;

use serde_json::json;

use crate::cluster::{Cluster, PODS};

/// P6: from Pods and nodes, on the Pod's node alone, by protocol and hostIP, with the client's own address.
pub async fn host_port_answers_on_its_node_alone_p6() {
    let cluster = Cluster::start().await;
    let ports = json!([{"containerPort": 80, "hostPort": 8081},
        {"containerPort": 9000, "hostPort": 8082, "hostIP": "10.245.0.11"},
        {"containerPort": 9001, "hostPort": 8081, "protocol": "UDP"}]);
    let probe = json!({"httpGet": {"path": "/ready", "port": 80}, "periodSeconds": 1});
    let spec = json!({"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [
        {"name": "c", "image": "vipyard/whoami", "ports": ports, "readinessProbe": probe}]});
    cluster.pod("web", spec).await;
    cluster.ready("web").await;
    let beside = cluster.client_pod("beside", "n1").await;
    let away = cluster.client_pod("away", "n2").await;
    let spec = json!({"hostNetwork": true, "nodeName": "n2", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]});
    cluster.pod("node", spec).await;
    let node = cluster.inside("node").await;
    cluster.settled().await;

    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    let (v4, v6) = (address("10.245.0.11:8081"), address("[fd00:10:245::b]:8081"));
    for client in [&beside, &away, &node] {
        let reply = client.http(v4).expect("an answer");
        assert_eq!((reply.pod.as_str(), reply.client), ("web", client.ip));
        assert_eq!(client.http(v6).expect("an answer").pod, "web");
    }
    let reply = away.udp(v4).expect("an answer");
    assert_eq!((reply.pod.as_str(), reply.client), ("web", away.ip));
    // By one address alone where the Pod names one, and never on another node.
    away.connect(address("10.245.0.11:8082")).expect("the address that is named");
    for nobody in ["[fd00:10:245::b]:8082", "10.245.0.12:8081", "10.245.0.11:8083"] {
        assert!(away.connect(address(nobody)).is_err(), "{nobody}");
    }
    // The Pod reaches itself by it.
    let own = cluster.inside("web").await;
    assert_eq!(own.http(v4).expect("an answer").pod, "web");

    cluster.delete(&format!("{PODS}/web")).await;
    cluster.gone(&format!("{PODS}/web")).await;
    cluster.settled().await;
    assert!(away.connect(v4).is_err(), "the port went with the Pod");
    cluster.stop().await;
}
