//! externalIPs and load-balancer VIPs (V rules).

use std::net::SocketAddr;

use serde_json::json;

use super::stage::{SILENT, Stage, UNREACHABLE};

const BALANCER: &str = "198.51.100.7";

fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 80)
}

/// V1: captured on every node for all ports of the Service, also where somebody has the address.
pub async fn external_ips_are_captured_everywhere_v1() {
    let stage = Stage::with(&["a1", "b1", "c1", "n1", "n3"]).await;
    let somebodys = stage.ip("c1");
    let spec = json!({"externalIPs": ["192.0.2.1", somebodys]});
    let web = stage.web("web", spec, &["b1"]).await;
    for client in ["a1", "b1", "n1", "n3"] {
        for door in [at("192.0.2.1"), SocketAddr::new(somebodys, 80)] {
            assert_eq!(stage.pods(client, door), ["b1"], "{client} to {door}");
        }
    }
    // Ports that the Service has not are the owner's.
    let reply = stage.inside("a1").udp(SocketAddr::new(somebodys, 9001)).expect("an answer");
    assert_eq!(reply.pod, "c1");
    stage.change(&web, json!({"externalIPs": null})).await;
    assert_eq!(stage.tcp_pods("a1", at("192.0.2.1")), UNREACHABLE);
    assert_eq!(stage.tcp_pods("a1", SocketAddr::new(somebodys, 80)), ["c1"]);
    stage.end().await;
}

/// V2, V6: which entries of the status are captured; the others are left to whoever has the address, c1 here.
pub async fn ingress_entries_are_captured_by_mode_and_family() {
    let stage = Stage::with(&["a1", "b1", "c1", "n1"]).await;
    let (own, own6) = (SocketAddr::new(stage.ip("c1"), 80), SocketAddr::new(stage.ip6("c1"), 80));
    let web = stage.balancer("web", json!({"ipFamilyPolicy": "SingleStack"}), json!([{"ip": BALANCER}])).await;
    stage.endpoints(&web, &["b1"]).await;
    for client in ["a1", "n1"] {
        assert_eq!(stage.pods(client, at(BALANCER)), ["b1"]);
        assert_eq!(stage.tcp_pods(client, own), ["c1"]);
    }
    for (entry, captured) in [
        (json!({"ip": stage.ip("c1")}), true),
        (json!({"ip": stage.ip("c1"), "ipMode": "VIP"}), true),
        (json!({"ip": stage.ip("c1"), "ipMode": "Proxy"}), false),
        (json!({"hostname": "balancer.example.com"}), false),
    ] {
        stage.ingress(&web, json!([entry])).await;
        assert_eq!(stage.tcp_pods("a1", own), [if captured { "b1" } else { "c1" }], "{entry}");
        assert_eq!(stage.tcp_pods("a1", at(BALANCER)), UNREACHABLE, "{entry}");
    }
    // V6
    stage.ingress(&web, json!([{"ip": stage.ip6("c1")}])).await;
    assert_eq!(stage.tcp_pods("a1", own6), ["c1"]);
    stage.end().await;
}

/// V3, V4, V5, R5: who may use a load-balancer VIP.
pub async fn source_ranges_filter_load_balancer_vips_only() {
    let stage = Stage::with(&["a1", "b1", "c1", "n1", "n2"]).await;
    let spec = json!({"externalIPs": ["192.0.2.1"], "loadBalancerSourceRanges": [stage.ip("b1").to_string() + "/32"]});
    let web = stage.balancer("web", spec, json!([])).await;
    stage.endpoints(&web, &["c1"]).await;
    let others = [web.vip, at("192.0.2.1"), stage.node_port("n1", &web)];
    // V5: no VIP, nothing to filter. V4: and with one the other doors are open.
    for ingress in [json!([]), json!([{"ip": BALANCER}])] {
        stage.ingress(&web, ingress).await;
        for door in others {
            assert_eq!(stage.pods("a1", door), ["c1"], "{door}");
        }
    }
    let node = stage.ip("n2");
    for (ranges, allowed) in [
        (vec![format!("{}/32", stage.ip("b1"))], vec!["b1"]),
        (vec!["10.244.1.0/24".to_owned(), format!("{node}/32")], vec!["a1", "n2"]),
        (vec!["203.0.113.0/24".to_owned(), "0.0.0.0/0".to_owned()], vec!["a1", "b1", "n2"]),
        // Ranges of the other family say nothing about this one.
        (vec!["2001:db8::/32".to_owned()], vec!["a1", "b1", "n2"]),
        (vec!["2001:db8::/32".to_owned(), " 10.244.2.0/24 ".to_owned()], vec!["b1"]),
    ] {
        stage.change(&web, json!({"loadBalancerSourceRanges": ranges})).await;
        for client in ["a1", "b1", "n2"] {
            let expected = if allowed.contains(&client) { &["c1"][..] } else { SILENT };
            assert_eq!(stage.pods(client, at(BALANCER)), expected, "{client} with {ranges:?}");
        }
    }
    // Silence, not a refusal, also where there is nobody to protect.
    stage.change(&web, json!({"loadBalancerSourceRanges": ["203.0.113.0/24"]})).await;
    stage.endpoints(&web, &[]).await;
    assert_eq!(stage.pods("a1", at(BALANCER)), SILENT);
    stage.end().await;
}
