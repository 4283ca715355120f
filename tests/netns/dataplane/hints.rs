//! Topology hints as the data plane reads them (T rules).

use serde_json::{Value, json};

use super::stage::{Service, Stage};

/// Writes endpoints with hints: Pod, nodes, zones.
async fn hinted(stage: &Stage, web: &Service, endpoints: &[(&str, &[&str], &[&str])]) {
    let named = |names: &[&str]| names.iter().map(|name| json!({"name": name})).collect::<Vec<Value>>();
    let endpoint = |(pod, nodes, zones): &(&str, &[&str], &[&str])| {
        stage.endpoint(pod, json!({"hints": {"forNodes": named(nodes), "forZones": named(zones)}}))
    };
    stage.slice("web", web, endpoints.iter().map(endpoint).collect()).await;
}

/// T1, T2, T3, T4, T5, T7: n1, n2 and n3 are in the zones a, b and c.
pub async fn hints_choose_by_node_before_zone() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1", "n1"]).await;
    // T1: what the Service prefers is for the controller; without hints it changes nothing.
    let web = stage.web("web", json!({"trafficDistribution": "PreferSameNode"}), &["a2", "b1"]).await;
    assert_eq!(stage.pods("a1", web.vip), ["a2", "b1"]);
    // T2: a node mode where all are hinted, from Pods and node alike. T5: nothing else is used.
    hinted(&stage, &web, &[("a2", &["n1"], &["b"]), ("b1", &["n2"], &["a"])]).await;
    assert_eq!(stage.pods("a1", web.vip), ["a2"]);
    assert_eq!(stage.pods("n1", web.vip), ["a2"]);
    assert_eq!(stage.pods("b1", web.vip), ["b1"]);
    // T3, T4: n3 is named by no node hint, and zone c by no zone hint.
    assert_eq!(stage.pods("c1", web.vip), ["a2", "b1"]);
    hinted(&stage, &web, &[("a2", &["n1"], &["c"]), ("b1", &["n2"], &["b", "c"]), ("n1", &["n1"], &["a"])]).await;
    assert_eq!(stage.pods("c1", web.vip), ["a2", "b1"]);
    // T4: one ready endpoint without a node hint turns node mode off, zones go on.
    hinted(&stage, &web, &[("a2", &[], &["b"]), ("b1", &["n2"], &["a"])]).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    // ... and one without any hint turns both off.
    hinted(&stage, &web, &[("a2", &[], &[]), ("b1", &["n1"], &["a"])]).await;
    assert_eq!(stage.pods("a1", web.vip), ["a2", "b1"]);
    // T7: unless it is not ready.
    let unready = stage.endpoint("a2", json!({"conditions": {"ready": false}}));
    let zones = |pod: &str, zone: &str| stage.endpoint(pod, json!({"hints": {"forZones": [{"name": zone}]}}));
    stage.slice("web", &web, vec![unready, zones("b1", "a"), zones("c1", "b")]).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    stage.end().await;
}

/// T6, T8: the zone that counts is the one that the node's label has now.
pub async fn zone_of_the_node_may_change_or_be_unknown_t6_t8() {
    const NODE: &str = "/api/v1/nodes/n1";
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let web = stage.service("web", json!({})).await;
    hinted(&stage, &web, &[("b1", &[], &["a"]), ("c1", &[], &["b"])]).await;
    let zone = |zone: Value| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    stage.patch(NODE, zone(json!("b"))).await;
    assert_eq!(stage.pods("a1", web.vip), ["c1"]);
    stage.patch(NODE, zone(Value::Null)).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1", "c1"]);
    stage.end().await;
}

/// T3: from trafficDistribution by the controller's hints (ES21) to packets that stay in their zone.
pub async fn preferred_zone_is_kept_from_service_to_packet() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let ports =
        json!([{"name": "tcp", "port": 80}, {"name": "udp", "port": 80, "targetPort": 9001, "protocol": "UDP"}]);
    let spec = json!({"selector": {"app": "web"}, "ports": ports});
    let web = stage.service("web", spec).await;
    assert_eq!(stage.pods("a1", web.vip), ["a1", "b1", "c1"]);
    for preferred in ["PreferSameZone", "PreferSameNode"] {
        stage.change(&web, json!({"trafficDistribution": preferred})).await;
        for pod in ["a1", "b1", "c1"] {
            assert_eq!(stage.pods(pod, web.vip), [pod], "{preferred}");
        }
    }
    stage.end().await;
}
