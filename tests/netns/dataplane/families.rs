//! Protocols and address families (F rules).

use std::net::SocketAddr;

use serde_json::json;

use super::stage::{REFUSED, Stage};
use crate::cluster::SLICES;

/// F2, F3: each family has its own endpoints, doors and node addresses, and none stands in for the other.
pub async fn families_do_not_mix() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "externalIPs": ["192.0.2.1", "2001:db8::1"],
        "loadBalancerSourceRanges": ["10.244.1.0/24", "2001:db8::/32"]});
    let web = stage.balancer("web", spec, json!([{"ip": "198.51.100.7"}, {"ip": "2001:db8::7"}])).await;
    let vip6 = web.vip6.expect("both families");
    let at = |ip: &str| SocketAddr::new(ip.parse().expect("an address"), 80);
    stage.endpoints(&web, &["b1"]).await;
    assert_eq!((stage.pods("a1", web.vip), stage.pods("a1", vip6)), (vec!["b1".into()], vec!["refused".into()]));
    let six = stage.endpoint("c1", json!({"addresses": [stage.ip6("c1")]}));
    stage.slice_with("web-6", &web, json!({"addressType": "IPv6", "endpoints": [six]})).await;
    let port6 = SocketAddr::new(stage.ip6("n1"), web.node_port);
    for (door, pod, source) in [
        (web.vip, "b1", "a1"),
        (vip6, "c1", "a1"),
        (at("192.0.2.1"), "b1", "n1"),
        (at("2001:db8::1"), "c1", "n1"),
        (stage.node_port("n1", &web), "b1", "n1"),
        (port6, "c1", "n1"),
        // The IPv4 range allows a1, and the IPv6 range does not.
        (at("198.51.100.7"), "b1", "n1"),
        (at("2001:db8::7"), "silent", "silent"),
    ] {
        assert_eq!(stage.pods("a1", door), [pod], "{door}");
        assert_eq!(stage.sources("a1", door), [source], "{door}");
    }
    // The endpoints of the one family are no reason to be silent about the other.
    stage.delete(&format!("{SLICES}/web")).await;
    assert_eq!((stage.pods("a1", web.vip), stage.pods("a1", vip6)), (vec![REFUSED[0].into()], vec!["c1".into()]));
    stage.end().await;
}

/// F1, F4: SCTP is a protocol as far as objects go, and appProtocol is not for packets.
pub async fn sctp_is_accepted_and_app_protocol_changes_nothing() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let ports = json!([{"name": "tcp", "port": 80, "appProtocol": "kubernetes.io/h2c"},
        {"name": "udp", "port": 80, "targetPort": 9001, "protocol": "UDP", "appProtocol": "example.com/x"},
        {"name": "sctp", "port": 80, "targetPort": 36412, "protocol": "SCTP"}]);
    let web = stage.service("web", json!({"selector": {"app": "web"}, "ports": ports})).await;
    assert_eq!(stage.pods("a1", web.vip), ["a1", "b1"]);
    let list = stage.cluster.get(&format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb")).await;
    let ports = list["items"][0]["ports"].as_array().expect("ports");
    let sctp = json!({"name": "sctp", "port": 36412, "protocol": "SCTP"});
    assert!(ports.contains(&sctp), "{ports:?}");
    stage.end().await;
}
