//! internalTrafficPolicy (I rules).

use serde_json::json;

use super::stage::{SILENT, Stage};

/// I1, I2, I3, I4, I5, I6: where a ClusterIP leads from each node, to Pods and to processes of the node.
pub async fn internal_policy_local_keeps_cluster_ip_traffic_on_its_node() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1", "n1", "n2", "n3"]).await;
    let web = stage.web("web", json!({"type": "NodePort"}), &["a2", "n2"]).await;
    let everywhere = ["a1", "b1", "c1", "n1", "n2", "n3"];
    // I1
    for client in everywhere {
        assert_eq!(stage.pods(client, web.vip), ["a2", "n2"], "from {client}");
    }
    stage.change(&web, json!({"internalTrafficPolicy": "Local"})).await;
    // I2, I4: node processes alike. I5: n2 is a Pod on the host's network. I3, R2: n3 has none.
    for (client, expected) in everywhere.into_iter().zip([&["a2"][..], &["n2"], SILENT, &["a2"], &["n2"], SILENT]) {
        assert_eq!(stage.pods(client, web.vip), expected, "from {client}");
    }
    // I6
    assert_eq!(stage.pods("c1", stage.node_port("n3", &web)), ["a2", "n2"]);
    stage.end().await;
}
