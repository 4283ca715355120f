//! The write barrier: after it the very next packet, and the very next question to DNS, follow the write.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use http::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, SERVICES, SLICES, vipyard};
use crate::dns::addresses;
use crate::services::vips;

/// A Service without a selector whose only endpoint moves from one Pod to the other and back.
pub async fn next_packet_follows_the_slice_that_was_written() {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("moving", json!({"selector": null})).await)[0], 80);
    cluster.whoami("web", &["web-1", "web-2"]).await;
    cluster.ready("web-1").await;
    cluster.ready("web-2").await;
    let client = cluster.client_pod("client", "n1").await;
    let addresses = [cluster.pod_ip("web-1").await, cluster.pod_ip("web-2").await];
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "moving", "labels": {"kubernetes.io/service-name": "moving"}},
            "endpoints": [{"addresses": [address]}], "ports": [{"name": "http", "port": 80}]})
    };
    cluster.post(SLICES, slice(&addresses[0])).await;
    for turn in 1..100 {
        let address = &addresses[turn % 2];
        let written =
            cluster.patch(&format!("{SLICES}/moving"), json!({"endpoints": [{"addresses": [address]}]})).await;
        barrier(&cluster, &written).await;
        let expected = ["web-1", "web-2"][turn % 2];
        assert_eq!(client.http(vip).unwrap().pod, expected, "turn {turn}");
    }
    cluster.stop().await;
}

/// What follows from a label is two writes away from the packets: the controller's slice, then the plan.
pub async fn next_packet_and_next_answer_follow_what_controllers_wrote() {
    let cluster = Cluster::start().await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.whoami("web", &["web-1", "web-2"]).await;
    cluster.ready("web-1").await;
    cluster.ready("web-2").await;
    let of_web_1 = BTreeSet::from([cluster.pod_ip("web-1").await]);
    for turn in 0..20 {
        let (name, role) = (format!("s{turn}"), format!("r{turn}"));
        let spec = json!({"selector": {"app": null, "role": role}});
        let vip = SocketAddr::new(vips(&cluster.service(&name, spec.clone()).await)[0], 80);
        let headless =
            json!({"selector": {"app": null, "role": role}, "clusterIP": "None", "ipFamilyPolicy": "SingleStack"});
        cluster.service(&format!("h{turn}"), headless).await;
        let labels = json!({"metadata": {"labels": {"role": role}}});
        let written = cluster.patch(&format!("{PODS}/web-1"), labels).await;
        barrier(&cluster, &written).await;
        let reply = client.http(vip).unwrap_or_else(|e| panic!("turn {turn}: {e}"));
        assert_eq!(reply.pod, "web-1", "turn {turn}");
        assert_eq!(addresses(&client, "ahostsv4", &format!("h{turn}")).await, of_web_1, "turn {turn}");
        let written = cluster.delete(&format!("{SERVICES}/{name}")).await;
        barrier(&cluster, &written).await;
        assert!(addresses(&client, "ahostsv4", &name).await.is_empty(), "turn {turn}");
    }
    cluster.stop().await;
}

pub async fn command_returns_when_the_write_is_in_and_refuses_what_nobody_wrote() {
    let cluster = Cluster::start().await;
    let data = cluster.home.data();
    let data = data.to_str().unwrap();
    let newest = async || cluster.get(SERVICES).await["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for arguments in [
        &["wait", "--data-dir", data][..],
        &["wait", "--for=dataplane", "--timeout", &u64::MAX.to_string(), "--data-dir", data, &newest().await],
    ] {
        assert_eq!(vipyard(arguments).await, (0, String::new(), String::new()), "{arguments:?}");
    }
    let (code, _, error) = vipyard(&["wait", "--data-dir", data, "999999999"]).await;
    assert_eq!(code, 1);
    assert!(error.starts_with("vipyard: resourceVersion 999999999 is not written yet: the newest is "), "{error}");
    let (code, answer) =
        cluster.request(Method::GET, "/vipyard/v1/barrier?resourceVersion=x", None).await.expect("an answer");
    assert_eq!((code, &answer["kind"]), (400, &json!("Status")), "{answer}");
    cluster.stop().await;
    let (code, _, error) = vipyard(&["wait", "--data-dir", data]).await;
    assert_eq!(code, 1);
    assert!(error.contains("is it running?") || error.contains("no kubeconfig"), "{error}");
}

async fn barrier(cluster: &Cluster, written: &Value) {
    let revision = written["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    cluster.get(&format!("/vipyard/v1/barrier?resourceVersion={revision}")).await;
}
