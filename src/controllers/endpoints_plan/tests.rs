use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Service {
    let mut defaults = json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.7",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]});
    json_patch::merge(&mut defaults, &spec);
    let metadata = json!({"name": "web", "namespace": "default", "labels": {"team": "a"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": defaults})).unwrap()
}

fn pod(number: usize, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("p{number}"), "namespace": "default", "uid": format!("uid-{number}")},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIPs": [
            {"ip": format!("10.244.{}.{}", number / 250, number % 250 + 1)}, {"ip": format!("fd00::{:x}", number + 1)}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    json_patch::merge(&mut pod, &change);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn unready() -> Value {
    json!({"status": {"conditions": []}})
}

fn subsets(spec: Value, pods: &[Arc<Pod>]) -> Vec<EndpointSubset> {
    reconcile(&service(spec), pods, None, None).unwrap().subsets.unwrap()
}

/// Ready and unready addresses of the only subset.
fn addresses(spec: Value, pods: &[Arc<Pod>]) -> (Vec<String>, Vec<String>) {
    let subsets = subsets(spec, pods);
    let ips = |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|address| address.ip.clone()).collect();
    match subsets.as_slice() {
        [] => (vec![], vec![]),
        [only] => (ips(&only.addresses), ips(&only.not_ready_addresses)),
        more => panic!("{} subsets", more.len()),
    }
}

fn some(ips: &[&str]) -> Vec<String> {
    ips.iter().map(|ip| (*ip).to_owned()).collect()
}

#[test]
fn endpoints_are_named_and_labelled_like_the_service_ep1_ep5_ep8() {
    let trigger = "2024-01-01T00:00:00Z".parse().unwrap();
    let written = reconcile(&service(json!({})), &[pod(0, json!({}))], None, Some(trigger)).unwrap();
    assert_eq!(
        serde_json::to_value(&written).unwrap(),
        json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {
                "name": "web", "namespace": "default",
                "labels": {"team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller"},
                "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "2024-01-01T00:00:00Z"},
            },
            "subsets": [{
                "addresses": [{"ip": "10.244.0.1", "nodeName": "n1",
                    "targetRef": {"kind": "Pod", "namespace": "default", "name": "p0", "uid": "uid-0"}}],
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            }],
        })
    );
    assert_eq!(reconcile(&service(json!({})), &[pod(0, json!({}))], Some(&written), None), None, "nothing to write");
}

#[test]
fn service_without_pods_has_empty_endpoints_ep1() {
    assert_eq!(subsets(json!({}), &[]), vec![]);
}

#[test]
fn readiness_and_deletion_decide_the_list_ep3_ep5() {
    let deleted = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
    let publish = json!({"publishNotReadyAddresses": true});
    let ip = "10.244.0.1";
    let cases = [
        (json!({}), json!({}), (some(&[ip]), some(&[]))),
        (json!({}), unready(), (some(&[]), some(&[ip]))),
        (json!({}), deleted.clone(), (some(&[]), some(&[]))),
        (json!({}), json!({"status": {"phase": "Failed"}}), (some(&[]), some(&[]))),
        (publish.clone(), unready(), (some(&[ip]), some(&[]))),
        (publish.clone(), deleted, (some(&[ip]), some(&[]))),
        (publish, json!({"status": {"phase": "Succeeded"}}), (some(&[]), some(&[]))),
    ];
    for (spec, change, expected) in cases {
        assert_eq!(addresses(spec.clone(), &[pod(0, change.clone())]), expected, "{spec} {change}");
    }
}

#[test]
fn only_the_primary_family_counts_ep4() {
    let v6_only = pod(1, json!({"status": {"podIPs": [{"ip": "fd00::9"}]}}));
    let cases = [
        (json!({"clusterIP": "10.96.0.7", "ipFamilies": ["IPv4", "IPv6"]}), some(&["10.244.0.1"])),
        (json!({"clusterIP": "fd00:10:96::7"}), some(&["fd00::1", "fd00::9"])),
        (json!({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"]}), some(&["fd00::1", "fd00::9"])),
    ];
    for (spec, expected) in cases {
        let found = addresses(spec.clone(), &[pod(0, json!({})), Arc::clone(&v6_only)]);
        assert_eq!(found, (expected, vec![]), "{spec}");
    }
}

#[test]
fn ports_with_the_same_addresses_share_a_subset_ep6() {
    let named = |number: usize, port: i32| {
        let ports = json!([{"name": "web", "containerPort": port, "protocol": "TCP"}]);
        pod(number, json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}))
    };
    let spec = json!({"ports": [
        {"name": "a", "port": 1, "targetPort": 1000}, {"name": "b", "port": 2, "targetPort": 2000},
        {"name": "c", "port": 3, "targetPort": "web"}]});
    let found: Vec<_> = subsets(spec, &[named(1, 80), named(0, 80), named(2, 81)])
        .iter()
        .map(|subset| {
            let ports: Vec<i32> = subset.ports.iter().flatten().map(|port| port.port).collect();
            let ips: Vec<String> = subset.addresses.iter().flatten().map(|address| address.ip.clone()).collect();
            (ports, ips)
        })
        .collect();
    assert_eq!(
        found,
        [
            (vec![1000, 2000], some(&["10.244.0.1", "10.244.0.2", "10.244.0.3"])),
            (vec![80], some(&["10.244.0.1", "10.244.0.2"])),
            (vec![81], some(&["10.244.0.3"])),
        ]
    );
}

#[test]
fn headless_service_without_ports_has_a_subset_without_ports_ep7() {
    let found = subsets(json!({"clusterIP": "None", "ports": null}), &[pod(0, json!({}))]);
    assert_eq!((found.len(), &found[0].ports), (1, &None));
    let labels = reconcile(&service(json!({"clusterIP": "None"})), &[], None, None).unwrap().metadata.labels.unwrap();
    assert_eq!(labels.get(HEADLESS_LABEL).map(String::as_str), Some(""), "EP8");
}

#[test]
fn thousand_addresses_are_kept_ready_ones_first_ep9() {
    let mut pods: Vec<_> = (0..900).map(|number| pod(number, json!({}))).collect();
    pods.extend((900..1200).map(|number| pod(number, unready())));
    let written = reconcile(&service(json!({})), &pods, None, None).unwrap();
    assert_eq!(written.annotations()[OVER_CAPACITY_ANNOTATION], "truncated");
    let subset = &written.subsets.as_ref().unwrap()[0];
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    assert_eq!((count(&subset.addresses), count(&subset.not_ready_addresses)), (900, 100));
    assert_eq!(reconcile(&service(json!({})), &pods, Some(&written), None), None);

    let pods: Vec<_> = (0..1100).map(|number| pod(number, json!({}))).chain([pod(1100, unready())]).collect();
    let (ready, unready) = addresses(json!({}), &pods);
    assert_eq!((ready.len(), unready.len()), (1000, 0));

    let shrunk = reconcile(&service(json!({})), &pods[..5], Some(&written), None).unwrap();
    assert_eq!(shrunk.annotations().get(OVER_CAPACITY_ANNOTATION), None);
}

#[test]
fn write_replaces_the_version_that_was_read_and_keeps_annotations_of_others() {
    let mut existing = reconcile(&service(json!({})), &[], None, None).unwrap();
    existing.metadata.resource_version = Some("7".into());
    existing.metadata.annotations = serde_json::from_value(json!({"mine": "x"})).unwrap();
    let written = reconcile(&service(json!({})), &[pod(0, json!({}))], Some(&existing), None).unwrap();
    assert_eq!(written.metadata.resource_version.as_deref(), Some("7"));
    assert_eq!(written.annotations()["mine"], "x");
}
