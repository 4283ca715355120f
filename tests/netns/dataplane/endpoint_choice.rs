//! Which of a Service's endpoints may get a packet, and which one does (E rules).

use std::collections::BTreeMap;

use serde_json::json;

use super::stage::{REFUSED, SILENT, Stage};
use crate::cluster::PODS;

pub async fn ready_endpoints_come_before_those_that_terminate_e1_e3_e4() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let web = stage.service("web", json!({})).await;
    for (endpoints, expected) in [
        (&["a2!", "b1", "c1?"][..], &["b1"][..]),
        // E1: the last resort is not bound to a node.
        (&["a2!", "b1!", "c1?"], &["a2", "b1"]),
        // E3
        (&["a2?", "b1?"], REFUSED),
        (&[], REFUSED),
    ] {
        stage.endpoints(&web, endpoints).await;
        assert_eq!(stage.pods("a1", web.vip), expected, "{endpoints:?}");
    }
    // E4: who terminates and does not serve gets nothing, unless it is published as ready all the same.
    for (ready, expected) in [(false, REFUSED), (true, &["b1"][..])] {
        let conditions = json!({"ready": ready, "serving": false, "terminating": true});
        stage.slice("web", &web, vec![stage.endpoint("b1", json!({"conditions": conditions}))]).await;
        assert_eq!(stage.pods("a1", web.vip), expected, "ready: {ready}");
    }
    stage.end().await;
}

/// E3: publishNotReadyAddresses makes an unready Pod's endpoint ready, and packets follow.
pub async fn unready_pod_is_reached_where_the_service_publishes_it() {
    let stage = Stage::with(&["a1", "b1"]).await;
    stage.inside("a1").post((stage.ip("b1"), 80).into(), "/ready?state=false").expect("whoami takes it");
    let unready = |pod: &serde_json::Value| (!crate::cluster::is_ready(pod)).then_some(());
    stage.cluster.until_pod("b1", "not ready", unready).await;
    // The other Pod of the label goes, so that nobody but this one can answer.
    stage.patch(&format!("{PODS}/a1"), json!({"metadata": {"labels": {"app": null}}})).await;
    let ports =
        json!([{"name": "tcp", "port": 80}, {"name": "udp", "port": 80, "targetPort": 9001, "protocol": "UDP"}]);
    let web = stage.service("web", json!({"selector": {"app": "web"}, "ports": ports})).await;
    assert_eq!(stage.pods("a1", web.vip), REFUSED);
    stage.change(&web, json!({"publishNotReadyAddresses": true})).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    stage.end().await;
}

pub async fn local_list_falls_back_by_itself_e2() {
    let stage = Stage::with(&["a1", "a2", "b1", "b2"]).await;
    let web = stage.service("web", json!({"internalTrafficPolicy": "Local"})).await;
    for (endpoints, on_n1, on_n2) in [
        (&["a2!", "b1"][..], &["a2"][..], &["b1"][..]),
        (&["a1", "a2!", "b1!", "b2!"], &["a1"], &["b1", "b2"]),
        // E7: a usable endpoint anywhere makes silence of what would be a refusal.
        (&["a2?", "b1!"], SILENT, &["b1"]),
        (&["a2?", "b1?"], REFUSED, REFUSED),
    ] {
        stage.endpoints(&web, endpoints).await;
        assert_eq!(stage.pods("a1", web.vip), on_n1, "{endpoints:?}");
        assert_eq!(stage.pods("b1", web.vip), on_n2, "{endpoints:?}");
    }
    stage.end().await;
}

/// E5: hints are for the list of all ready endpoints, not for the local one and not for the last resort.
pub async fn hints_do_not_narrow_local_lists_and_last_resorts_e5() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let local = stage.service("local", json!({"internalTrafficPolicy": "Local"})).await;
    let elsewhere = |pod: &str| stage.endpoint(pod, json!({"hints": {"forZones": [{"name": "c"}]}}));
    stage.slice("local", &local, vec![elsewhere("a2"), elsewhere("c1")]).await;
    assert_eq!(stage.pods("a1", local.vip), ["a2"]);
    let last = stage.service("last", json!({})).await;
    let terminating = |pod: &str, zone: &str| {
        let conditions = json!({"ready": false, "serving": true, "terminating": true});
        stage.endpoint(pod, json!({"conditions": conditions, "hints": {"forZones": [{"name": zone}]}}))
    };
    stage.slice("last", &last, vec![terminating("a2", "a"), terminating("b1", "b")]).await;
    assert_eq!(stage.pods("a1", last.vip), ["a2", "b1"]);
    stage.end().await;
}

/// E6: both policies are Local, and still a node without endpoint has the whole cluster's for what starts there.
pub async fn external_exposure_needs_the_whole_clusters_endpoints_e6() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let spec = json!({"type": "NodePort", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
    let web = stage.web("web", spec, &["b1", "c1"]).await;
    assert_eq!(stage.pods("a1", web.vip), SILENT);
    assert_eq!(stage.pods("a1", stage.node_port("n1", &web)), ["b1", "c1"]);
    stage.end().await;
}

pub async fn every_endpoint_is_chosen_about_equally_often_e8() {
    const REQUESTS: usize = 300;
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let web = stage.web("web", json!({}), &["a2", "b1", "c1"]).await;
    let client = stage.inside("a1");
    for udp in [false, true] {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..REQUESTS {
            let reply = if udp { client.udp(web.vip) } else { client.http(web.vip) };
            *counts.entry(reply.expect("an answer").pod).or_default() += 1;
        }
        // A hundred each, with five standard deviations to either side.
        assert_eq!(counts.len(), 3, "{counts:?}");
        assert!(counts.values().all(|count| (59..=141).contains(count)), "{counts:?}");
    }
    stage.end().await;
}
