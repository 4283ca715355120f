use serde_json::{Value, json};

use super::*;

fn endpoints(metadata: Value, subsets: Value) -> Endpoints {
    let mut all = json!({"name": "db", "namespace": "default", "uid": "endpoints-uid"});
    json_patch::merge(&mut all, &metadata);
    serde_json::from_value(json!({"metadata": all, "subsets": subsets})).unwrap()
}

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "db"}, "spec": spec})).unwrap()
}

#[test]
fn only_hand_made_endpoints_of_services_without_selector_are_mirrored_em1() {
    let leader = json!({"annotations": {"control-plane.alpha.kubernetes.io/leader": "{}"}});
    let cases = [
        (json!({}), json!({}), true),
        (json!({"selector": {"a": "b"}}), json!({}), false),
        (json!({"selector": {}}), json!({}), false),
        (json!({}), json!({"labels": {SKIP_MIRROR_LABEL: "true"}}), false),
        (json!({}), json!({"labels": {SKIP_MIRROR_LABEL: "false"}}), true),
        (json!({}), leader, false),
    ];
    for (spec, metadata, expected) in cases {
        let mirrored = should_mirror(&service(spec.clone()), &endpoints(metadata.clone(), json!([])));
        assert_eq!(mirrored, expected, "{spec} {metadata}");
    }
}

#[test]
fn subset_becomes_a_slice_per_family_em3_em4() {
    let metadata = json!({
        "labels": {"team": "a"},
        "annotations": {"note": "x", TRIGGER_TIME_ANNOTATION: "t", LAST_APPLIED_ANNOTATION: "{}"},
    });
    let source = endpoints(
        metadata,
        json!([{
            "addresses": [{"ip": "192.0.2.1", "nodeName": "n1", "hostname": "h"}, {"ip": "2001:db8::1"}],
            "notReadyAddresses": [{"ip": "192.0.2.2"}],
            "ports": [{"port": 5432}],
        }]),
    );
    let outcome = reconcile(&source, &[]);
    assert_eq!((outcome.plan.update.len(), outcome.plan.delete.len()), (0, 0));
    let slices: Vec<Value> = outcome.plan.create.iter().map(|slice| serde_json::to_value(slice).unwrap()).collect();
    let metadata = json!({
        "generateName": "db-", "namespace": "default",
        "labels": {"team": "a", SERVICE_NAME_LABEL: "db", MANAGED_BY_LABEL: MANAGED_BY},
        "annotations": {"note": "x"},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": "db", "uid": "endpoints-uid",
            "controller": true, "blockOwnerDeletion": true}],
    });
    let slice = |family: &str, endpoints: Value| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": metadata, "endpoints": endpoints, "ports": [{"name": "", "port": 5432, "protocol": "TCP"}],
        })
    };
    assert_eq!(
        slices,
        [
            slice(
                "IPv4",
                json!([
                    {"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "nodeName": "n1", "hostname": "h"},
                    {"addresses": ["192.0.2.2"], "conditions": {"ready": false}},
                ])
            ),
            slice("IPv6", json!([{"addresses": ["2001:db8::1"], "conditions": {"ready": true}}])),
        ]
    );
    let there: Vec<_> = outcome.plan.create.into_iter().map(Arc::new).collect();
    assert!(reconcile(&source, &there).plan.is_empty(), "a second turn changes nothing");
    let annotated = endpoints(json!({"annotations": {"note": "y"}, "labels": {"team": "a"}}), json!(source.subsets));
    assert_eq!(reconcile(&annotated, &there).plan.update.len(), 2, "annotations follow");
}

#[test]
fn endpoints_without_addresses_have_no_slice_em6() {
    let source = endpoints(json!({}), json!([{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 1}]}]));
    let there: Vec<_> = reconcile(&source, &[]).plan.create.into_iter().map(Arc::new).collect();
    let plan = reconcile(&endpoints(json!({}), json!([])), &there).plan;
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 0, 1));
    assert!(reconcile(&endpoints(json!({}), json!([])), &[]).plan.is_empty());
}

#[test]
fn bad_and_surplus_addresses_are_counted_em5() {
    let mut addresses: Vec<Value> = (0..1002).map(|n| json!({"ip": format!("10.1.{}.{}", n / 250, n % 250)})).collect();
    addresses.push(json!({"ip": "nonsense"}));
    let outcome = reconcile(&endpoints(json!({}), json!([{"addresses": addresses}])), &[]);
    assert_eq!((outcome.invalid_addresses, outcome.addresses_over_limit), (1, 2));
    let sizes: Vec<_> = outcome.plan.create.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
    assert_eq!(sizes, [1000]);
}
