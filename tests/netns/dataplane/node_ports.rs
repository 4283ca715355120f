//! Node ports (P rules).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use serde_json::json;

use super::stage::{REFUSED, SILENT, Stage};

/// P1, P2, P4: on the nodes' own addresses of both families, one number for TCP and UDP, never on loopback.
pub async fn node_ports_are_on_the_nodes_addresses_of_both_families() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    let web = stage.service("web", json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"})).await;
    stage.endpoints(&web, &["b1"]).await;
    let six = stage.endpoint("b1", json!({"addresses": [stage.ip6("b1")]}));
    stage.slice_with("web-6", &web, json!({"addressType": "IPv6", "endpoints": [six]})).await;
    for node in ["n1", "n2", "n3"] {
        for ip in [stage.ip(node), stage.ip6(node)] {
            for client in ["a1", "n1"] {
                let door = SocketAddr::new(ip, web.node_port);
                assert_eq!(stage.pods(client, door), ["b1"], "{client} to {door}");
                assert_eq!(stage.sources(client, door), [node], "{client} to {door}");
            }
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        let door = SocketAddr::new(loopback.parse().expect("an address"), web.node_port);
        assert_eq!(stage.pods("n1", door), REFUSED);
    }
    stage.end().await;
}

/// P3: the node that has the address decides, by its own endpoints.
pub async fn node_port_of_another_node_is_decided_there_p3() {
    let stage = Stage::with(&["a1", "a2", "b1", "n1"]).await;
    let spec = json!({"type": "NodePort", "externalTrafficPolicy": "Local"});
    let web = stage.web("web", spec, &["a2", "b1"]).await;
    for client in ["a1", "n1"] {
        assert_eq!(stage.pods(client, stage.node_port("n1", &web)), ["a2", "b1"], "{client}");
        assert_eq!(stage.pods(client, stage.node_port("n2", &web)), ["b1"], "{client}");
        assert_eq!(stage.pods(client, stage.node_port("n3", &web)), SILENT, "{client}");
    }
    stage.end().await;
}

/// P4: TCP goes, and UDP keeps the number.
pub async fn protocols_of_one_node_port_are_apart_p4() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.web("web", json!({"type": "NodePort"}), &["b1"]).await;
    let door = stage.node_port("n2", &web);
    let udp = json!([{"name": "udp", "port": 80, "protocol": "UDP", "nodePort": web.node_port}]);
    stage.change(&web, json!({"ports": udp})).await;
    assert_eq!(stage.udp_pods("a1", door), ["b1"]);
    // Nobody listens at the node.
    assert_eq!(stage.tcp_pods("a1", door), REFUSED);
    stage.end().await;
}

/// R8: a port of the range that no Service has belongs to whoever listens, also when node and listener are one.
pub async fn ports_of_the_range_that_no_service_has_are_the_nodes_own() {
    let stage = Stage::with(&["a1", "n1"]).await;
    let (node, port) = (stage.inside("n1"), 30_500);
    let any = SocketAddr::new([0u16; 8].into(), port);
    let listener = node.run(|| TcpListener::bind(any).expect("a free port"));
    for client in ["n1", "a1"] {
        for ip in [stage.ip("n1"), stage.ip6("n1")] {
            let mut stream = stage.inside(client).connect(SocketAddr::new(ip, port)).expect("a connection");
            let (mut accepted, from) = listener.accept().expect("the connection");
            assert_eq!(stage.name_of(from.ip().to_canonical()), client);
            stream.write_all(b"ping").expect("it takes a request");
            let mut request = [0; 4];
            accepted.read_exact(&mut request).expect("a request");
            accepted.write_all(&request).expect("it takes an answer");
            stream.read_exact(&mut request).expect("an answer");
            assert_eq!(&request, b"ping");
        }
    }
    stage.end().await;
}
