//! Which Services and EndpointSlices packets follow (S rules).

use serde_json::{Value, json};

use super::stage::{REFUSED, SILENT, Stage};
use crate::cluster::{SERVICES, SLICES};

pub async fn services_for_other_proxies_and_external_names_are_not_captured_s1_s2_s14() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let path = format!("{SERVICES}/web");
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    let label = |value: Value| json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": value}}});
    stage.patch(&path, label(json!(""))).await;
    assert_eq!(stage.pods("a1", web.vip), SILENT);
    stage.patch(&path, label(Value::Null)).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    // S1: as ExternalName it has no address, and its slice is still there.
    stage.change(&web, json!({"type": "ExternalName", "externalName": "example.com"})).await;
    assert_eq!(stage.pods("a1", web.vip), SILENT);
    // S14
    let gone = stage.web("gone", json!({}), &["b1"]).await;
    assert_eq!(stage.pods("a1", gone.vip), ["b1"]);
    stage.delete(&format!("{SERVICES}/gone")).await;
    assert_eq!(stage.pods("a1", gone.vip), SILENT);
    stage.end().await;
}

/// S1, A9: a headless Service captures nothing; each Pod is reached by its own address, whatever the affinity says.
pub async fn headless_service_leaves_pods_addresses_alone() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let spec = json!({"metadata": {"name": "headless"}, "spec": {"clusterIP": "None", "sessionAffinity": "ClientIP",
        "ports": [{"name": "tcp", "port": 80}]}});
    stage.cluster.post(SERVICES, spec).await;
    let endpoints = stage.endpoints_at(&["b1", "c1"]);
    let slice = json!({"addressType": "IPv4", "ports": [{"name": "tcp", "port": 9001}], "endpoints": endpoints,
        "metadata": {"name": "headless", "labels": {"kubernetes.io/service-name": "headless"}}});
    stage.cluster.post(SLICES, slice).await;
    stage.cluster.settled().await;
    for pod in ["b1", "c1"] {
        let reply = stage.inside("a1").http((stage.ip(pod), 80).into()).expect("an answer");
        assert_eq!((reply.pod.as_str(), reply.client), (pod, stage.ip("a1")));
    }
    stage.end().await;
}

pub async fn slices_belong_to_a_service_by_label_and_family_s3_s4_s5() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let (web, other) = (stage.service("web", json!({})).await, stage.service("other", json!({})).await);
    let path = format!("{SLICES}/one");
    let labels = |labels: Value| json!({"metadata": {"labels": labels}});
    stage.slice("one", &web, stage.endpoints_at(&["b1"])).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    // S3
    stage.patch(&path, labels(json!({"service.kubernetes.io/headless": ""}))).await;
    assert_eq!(stage.pods("a1", web.vip), REFUSED);
    stage.patch(&path, labels(json!({"service.kubernetes.io/headless": null}))).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    // S4: who manages it does not matter, only the name of the Service does.
    let foreign = json!({"endpointslice.kubernetes.io/managed-by": "somebody", "kubernetes.io/service-name": "other"});
    stage.patch(&path, labels(foreign)).await;
    assert_eq!((stage.pods("a1", web.vip), stage.pods("a1", other.vip)), (vec!["refused".into()], vec!["b1".into()]));
    for nobody in [json!(""), Value::Null] {
        stage.patch(&path, labels(json!({"kubernetes.io/service-name": nobody}))).await;
        assert_eq!(stage.pods("a1", other.vip), REFUSED, "{nobody}");
    }
    // S5: names are for nobody, and IPv6 endpoints not for an IPv4 address.
    let names = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["web.example.com"]}]});
    stage.slice_with("names", &web, names).await;
    let six = json!({"addressType": "IPv6", "endpoints": [{"addresses": [stage.ip6("c1")]}]});
    stage.slice_with("six", &web, six).await;
    assert_eq!(stage.pods("a1", web.vip), REFUSED);
    stage.end().await;
}

/// S6, S7, S13, S15: ports are matched by name and protocol; numbers come from the slice alone.
pub async fn slice_ports_are_found_by_name_and_protocol() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let ports = json!([{"name": "tcp", "port": 80, "targetPort": 1}, {"name": "udp", "port": 80, "protocol": "UDP"}]);
    let web = stage.web("web", json!({"ports": ports}), &["b1"]).await;
    // S15: nothing listens at the targetPort.
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    let pairs = [
        // S6: the right name with the wrong protocol, and the wrong name.
        json!([{"name": "tcp", "port": 9001, "protocol": "UDP"}, {"name": "udp", "port": 80}]),
        json!([{"name": "http", "port": 80}, {"name": "", "port": 80}]),
        // S7: a port without number.
        json!([{"name": "tcp"}, {"name": "udp", "protocol": "UDP"}]),
    ];
    for ports in pairs {
        stage.slice_with("web", &web, json!({"ports": ports, "endpoints": stage.endpoints_at(&["b1"])})).await;
        assert_eq!(stage.pods("a1", web.vip), REFUSED, "{ports}");
    }
    // S13: the number is shared; taking one port away leaves the other.
    stage.endpoints(&web, &["b1"]).await;
    stage.change(&web, json!({"ports": [{"name": "udp", "port": 80, "protocol": "UDP"}]})).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1", "refused"]);
    assert_eq!(stage.inside("a1").udp(web.vip).expect("an answer").pod, "b1");
    stage.end().await;
}

/// S8, S9, S10: what several addresses, entries and slices of one Pod come to.
pub async fn entries_of_one_pod_are_merged() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let web = stage.service("web", json!({})).await;
    // S8
    let both = json!({"addresses": [stage.ip("b1"), stage.ip("c1")]});
    stage.slice("m", &web, vec![stage.endpoint("b1", both)]).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    // S9: whichever slice comes first, the entry that does not terminate wins.
    stage.slice("m", &web, stage.endpoints_at(&["b1", "c1"])).await;
    for name in ["a", "z"] {
        stage.slice(name, &web, stage.endpoints_at(&["c1!"])).await;
        assert_eq!(stage.pods("a1", web.vip), ["b1", "c1"], "with slice {name}");
    }
    for name in ["a", "m", "z"] {
        stage.delete(&format!("{SLICES}/{name}")).await;
    }
    // S10: one port of the Pod in each slice.
    let endpoints = stage.endpoints_at(&["b1"]);
    stage.slice_with("t", &web, json!({"endpoints": endpoints, "ports": [{"name": "tcp", "port": 80}]})).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1", "refused"]);
    let udp = json!([{"name": "udp", "port": 9001, "protocol": "UDP"}]);
    stage.slice_with("u", &web, json!({"endpoints": endpoints, "ports": udp})).await;
    assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    stage.end().await;
}

/// S11, S12: what is left out of an endpoint means something.
pub async fn absent_conditions_and_node_names_have_their_meaning() {
    let stage = Stage::with(&["a1", "a2", "b1", "c1"]).await;
    let web = stage.service("web", json!({})).await;
    // S11: ready unless it says otherwise.
    for conditions in [Value::Null, json!({"ready": null, "serving": null, "terminating": null})] {
        stage.slice("web", &web, vec![stage.endpoint("b1", json!({"conditions": conditions}))]).await;
        assert_eq!(stage.pods("a1", web.vip), ["b1"]);
    }
    // Serving unless it says otherwise: the last resort of E1; not terminating unless it says so: E3.
    for (conditions, expected) in [
        (json!({"ready": false, "serving": null, "terminating": true}), "b1"),
        (json!({"ready": false, "serving": true, "terminating": null}), "refused"),
    ] {
        stage.slice("web", &web, vec![stage.endpoint("b1", json!({"conditions": conditions}))]).await;
        assert_eq!(stage.pods("a1", web.vip), [expected], "{conditions}");
    }
    // S12: an endpoint of no node is local to none.
    stage.change(&web, json!({"internalTrafficPolicy": "Local"})).await;
    stage.endpoints(&web, &["a2"]).await;
    assert_eq!(stage.pods("a1", web.vip), ["a2"]);
    stage.slice("web", &web, vec![stage.endpoint("a2", json!({"nodeName": null}))]).await;
    assert_eq!(stage.pods("a1", web.vip), SILENT);
    stage.end().await;
}
