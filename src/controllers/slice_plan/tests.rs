//! Table tests of the plan, and of the packing below it. A small cluster is written as JSON; plans are applied to it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

const SERVICE_UID: &str = "service-uid";

fn service(spec: Value) -> Service {
    let mut defaults = json!({
        "selector": {"app": "web"}, "clusterIP": "10.96.0.7", "ipFamilies": ["IPv4"],
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
    });
    json_patch::merge(&mut defaults, &spec);
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": SERVICE_UID, "labels": {"team": "a"}},
        "spec": defaults,
    }))
    .unwrap()
}

/// A ready Pod on node n1 whose address ends in `number`; `change` is merged over it.
fn pod(number: usize, change: Value) -> Arc<Pod> {
    let (high, low) = (number / 250, number % 250 + 1);
    let mut pod = json!({
        "metadata": {"name": format!("p{number:04}"), "namespace": "default", "uid": format!("pod-{number}"),
            "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
        "status": {"phase": "Running", "podIP": format!("10.244.{high}.{low}"),
            "podIPs": [{"ip": format!("10.244.{high}.{low}")}, {"ip": format!("fd00:10:244::{high}:{low}")}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    json_patch::merge(&mut pod, &change);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn pods(numbers: std::ops::Range<usize>) -> Vec<Arc<Pod>> {
    numbers.map(|number| pod(number, json!({}))).collect()
}

/// n1 in zone a, n2 in zone b, both with as many CPUs; another one without a zone that is not ready.
struct Known;

impl Nodes for Known {
    fn get(&self, name: &str) -> Option<Arc<Node>> {
        let (labels, ready) = match name {
            "n1" => (json!({ZONE_LABEL: "a"}), "True"),
            "n2" => (json!({ZONE_LABEL: "b"}), "True"),
            "no-zone" => (json!({}), "False"),
            _ => return None,
        };
        let status = json!({"allocatable": {"cpu": "4"}, "conditions": [{"type": "Ready", "status": ready}]});
        let node = json!({"metadata": {"name": name, "labels": labels}, "status": status});
        Some(Arc::new(serde_json::from_value(node).unwrap()))
    }

    fn list(&self) -> Vec<Arc<Node>> {
        ["n1", "n2", "no-zone"].into_iter().filter_map(|name| self.get(name)).collect()
    }
}

fn plan(service: &Service, pods: &[Arc<Pod>], existing: &[Arc<EndpointSlice>]) -> Plan {
    reconcile(service, pods, &Known, existing, None).plan
}

/// The slices after the plan; new ones get the lowest free number.
fn apply(existing: &[Arc<EndpointSlice>], plan: Plan) -> Vec<Arc<EndpointSlice>> {
    let gone: BTreeSet<_> = plan.delete.iter().map(|slice| slice.name_any()).collect();
    let mut slices: Vec<_> = existing.iter().filter(|slice| !gone.contains(&slice.name_any())).cloned().collect();
    for updated in plan.update {
        let at = slices.iter().position(|slice| slice.name_any() == updated.name_any());
        slices[at.expect("an update replaces a slice that is there")] = Arc::new(updated);
    }
    for mut created in plan.create {
        assert_eq!(created.metadata.generate_name.as_deref(), Some("web-"), "ES10");
        let number = (0..).find(|number| slices.iter().all(|slice| slice.name_any() != format!("web-{number}")));
        created.metadata.name = number.map(|number| format!("web-{number}"));
        created.metadata.uid = created.metadata.name.clone();
        slices.push(Arc::new(created));
    }
    slices
}

fn settled(service: &Service, pods: &[Arc<Pod>]) -> Vec<Arc<EndpointSlice>> {
    let slices = apply(&[], plan(service, pods, &[]));
    assert!(plan(service, pods, &slices).is_empty(), "a second turn changes nothing");
    slices
}

fn sizes(slices: &[Arc<EndpointSlice>]) -> Vec<usize> {
    slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect()
}

fn only_endpoint(service: &Service, pod: Arc<Pod>) -> Endpoint {
    let slices = settled(service, &[pod]);
    assert_eq!(sizes(&slices), [1]);
    slices[0].endpoints.clone().unwrap().remove(0)
}

#[test]
fn ready_pod_becomes_an_endpoint_es5_es6_es7_es10_es11() {
    let slices = settled(&service(json!({})), &pods(0..1));
    assert_eq!(slices.len(), 1);
    assert_eq!(
        serde_json::to_value(&*slices[0]).unwrap(),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "generateName": "web-", "name": "web-0", "uid": "web-0", "namespace": "default",
                "labels": {
                    "team": "a", "kubernetes.io/service-name": "web",
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
                "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": SERVICE_UID,
                    "controller": true, "blockOwnerDeletion": true}],
            },
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.244.0.1"],
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": "n1", "zone": "a",
                "targetRef": {"kind": "Pod", "namespace": "default", "name": "p0000", "uid": "pod-0"},
            }],
        })
    );
}

#[test]
fn conditions_follow_readiness_and_deletion_es6() {
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let deleted = json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}});
    let mut both = unready.clone();
    json_patch::merge(&mut both, &deleted);
    let publish = json!({"publishNotReadyAddresses": true});
    let cases = [
        // service, pod, (ready, serving, terminating)
        (json!({}), json!({}), (true, true, false)),
        (json!({}), unready.clone(), (false, false, false)),
        (json!({}), deleted.clone(), (false, true, true)),
        (json!({}), both.clone(), (false, false, true)),
        (publish.clone(), unready, (true, false, false)),
        (publish.clone(), deleted, (true, true, true)),
        (publish, both, (true, false, true)),
    ];
    for (spec, change, (ready, serving, terminating)) in cases {
        let endpoint = only_endpoint(&service(spec.clone()), pod(0, change.clone()));
        let expected =
            EndpointConditions { ready: Some(ready), serving: Some(serving), terminating: Some(terminating) };
        assert_eq!(endpoint.conditions, Some(expected), "{spec} {change}");
    }
}

#[test]
fn ended_and_addressless_pods_are_left_out_es2() {
    let cases = [
        json!({"status": {"phase": "Succeeded"}}),
        json!({"status": {"phase": "Failed"}}),
        json!({"status": {"podIP": null, "podIPs": null}}),
    ];
    for change in cases {
        assert_eq!(sizes(&settled(&service(json!({})), &[pod(0, change.clone())])), [0], "{change}");
    }
}

#[test]
fn one_slice_per_family_and_port_set_es3_es4() {
    let dual = service(json!({
        "ipFamilies": ["IPv4", "IPv6"],
        "ports": [{"name": "http", "port": 80, "targetPort": "web", "appProtocol": "h2c"}],
    }));
    let with_port = |number: usize, port: i32| {
        let ports = json!([{"name": "web", "containerPort": port, "protocol": "TCP"}]);
        pod(number, json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}))
    };
    let slices = settled(&dual, &[with_port(0, 80), with_port(1, 80), with_port(2, 81), pod(3, json!({}))]);
    let mut found: Vec<_> = slices
        .iter()
        .map(|slice| {
            let ports: Vec<_> = slice.ports.iter().flatten().map(|p| (p.port, p.app_protocol.clone())).collect();
            (slice.address_type.clone(), ports, slice.endpoints.as_ref().map_or(0, Vec::len))
        })
        .collect();
    found.sort();
    let h2c = |port: i32| vec![(Some(port), Some("h2c".to_owned()))];
    let of = |family: &str| {
        // The Pod without a port of that name stands in a slice without ports.
        [(family.to_owned(), vec![], 1), (family.to_owned(), h2c(80), 2), (family.to_owned(), h2c(81), 1)]
    };
    assert_eq!(found, [of("IPv4"), of("IPv6")].concat());
    let v6 = slices.iter().find(|slice| slice.address_type == "IPv6").unwrap();
    assert!(v6.endpoints.iter().flatten().all(|endpoint| endpoint.addresses[0].starts_with("fd00:10:244::")));
}

#[test]
fn families_of_services_that_do_not_say_es3() {
    let cases = [
        (json!({"ipFamilies": null, "clusterIP": "None"}), vec!["IPv4", "IPv6"]),
        (json!({"ipFamilies": null, "clusterIP": "10.96.0.9"}), vec!["IPv4"]),
        (json!({"ipFamilies": null, "clusterIP": "fd00:10:96::9"}), vec!["IPv6"]),
        (json!({"ipFamilies": ["IPv6"], "clusterIP": "None"}), vec!["IPv6"]),
    ];
    for (spec, expected) in cases {
        let slices = settled(&service(spec.clone()), &pods(0..1));
        let found: Vec<_> = slices.iter().map(|slice| slice.address_type.as_str()).collect();
        assert_eq!(found, expected, "{spec}");
    }
}

#[test]
fn headless_service_without_ports_has_endpoints_without_ports_es5() {
    let slices = settled(&service(json!({"clusterIP": "None", "ports": null})), &pods(0..2));
    assert_eq!((slices.len(), sizes(&slices)), (1, vec![2]));
    assert_eq!(slices[0].ports, Some(vec![]));
    assert_eq!(slices[0].labels().get(HEADLESS_LABEL).map(String::as_str), Some(""), "ES11");
}

#[test]
fn unnamed_port_has_an_empty_name_es5() {
    let slices = settled(&service(json!({"ports": [{"port": 80}]})), &pods(0..1));
    let port = &slices[0].ports.as_ref().unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port, port.protocol.as_deref()), (Some(""), Some(80), Some("TCP")));
}

#[test]
fn pod_on_a_missing_node_is_left_out_and_reported_es9() {
    let lost = pod(1, json!({"spec": {"nodeName": "gone"}}));
    let outcome = reconcile(&service(json!({})), &[pod(0, json!({})), Arc::clone(&lost)], &Known, &[], None);
    assert_eq!(outcome.missing_nodes, ["p0001 on gone"]);
    assert_eq!(sizes(&apply(&[], outcome.plan)), [1]);

    let outcome = reconcile(&service(json!({"publishNotReadyAddresses": true})), &[lost], &Known, &[], None);
    assert_eq!((outcome.missing_nodes.len(), sizes(&apply(&[], outcome.plan))), (0, vec![1]));
}

#[test]
fn reserved_labels_of_the_service_are_not_copied_es11() {
    let mut service = service(json!({}));
    service.metadata.labels = serde_json::from_value(json!({
        HEADLESS_LABEL: "yes", SERVICE_NAME_LABEL: "other", MANAGED_BY_LABEL: "me", "tier": "front",
    }))
    .unwrap();
    let slices = settled(&service, &[]);
    let expected: BTreeMap<String, String> =
        [("tier", "front"), (SERVICE_NAME_LABEL, "web"), (MANAGED_BY_LABEL, MANAGED_BY)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    assert_eq!(*slices[0].labels(), expected);
}

#[test]
fn label_change_of_the_service_is_one_update_es11() {
    let before = settled(&service(json!({})), &pods(0..1));
    let mut relabelled = service(json!({}));
    relabelled.metadata.labels = serde_json::from_value(json!({"team": "b"})).unwrap();
    let plan = plan(&relabelled, &pods(0..1), &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    assert_eq!(plan.update[0].labels()["team"], "b");
    assert_eq!(plan.update[0].endpoints, before[0].endpoints);
}

#[test]
fn service_without_pods_keeps_one_placeholder_per_family_es13() {
    let dual = service(json!({"ipFamilies": ["IPv4", "IPv6"]}));
    let slices = settled(&dual, &[]);
    assert_eq!(slices.iter().map(|slice| &*slice.address_type).collect::<Vec<_>>(), ["IPv4", "IPv6"]);
    for slice in &slices {
        assert_eq!((slice.endpoints.as_deref(), slice.ports.as_deref()), (Some(&[][..]), Some(&[][..])));
    }
    // The first Pod moves into the placeholder, and the last to leave makes it one again (ES15).
    let filled = apply(&slices, plan(&dual, &pods(0..1), &slices));
    assert_eq!((filled.len(), sizes(&filled)), (2, vec![1, 1]));
    let emptied = plan(&dual, &[], &filled);
    assert_eq!((emptied.create.len(), emptied.update.len(), emptied.delete.len()), (0, 2, 0));
    let emptied = apply(&filled, emptied);
    assert_eq!(emptied.iter().map(|s| s.name_any()).collect::<Vec<_>>(), ["web-0", "web-1"]);
    assert!(plan(&dual, &[], &emptied).is_empty());
}

#[test]
fn slices_hold_a_hundred_endpoints_es14() {
    let slices = settled(&service(json!({})), &pods(0..250));
    assert_eq!(sizes(&slices), [100, 100, 50]);
    let placed: BTreeSet<_> =
        slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).map(|e| e.addresses[0].clone()).collect();
    assert_eq!(placed.len(), 250);
}

#[test]
fn new_endpoints_go_into_slices_that_change_anyway_es14() {
    let service = service(json!({}));
    let before = settled(&service, &pods(0..150));
    assert_eq!(sizes(&before), [100, 50]);
    // One leaves the first slice, which is then written anyway and takes one of two; the other fits the second best.
    let mut now = pods(1..152);
    now.sort_by_key(|pod| pod.name_any());
    let plan = plan(&service, &now, &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 2, 0));
    assert_eq!(sizes(&apply(&before, plan)), [100, 51]);
}

#[test]
fn unchanged_slice_that_fits_best_is_filled_es14() {
    let service = service(json!({}));
    let mut before = settled(&service, &pods(0..300));
    // Leave 100, 40 and 60 endpoints.
    let left: Vec<_> = pods(0..140).into_iter().chain(pods(200..260)).collect();
    before = apply(&before, plan(&service, &left, &before));
    assert_eq!(sizes(&before), [100, 40, 60], "half-full slices are not merged");
    let grown: Vec<_> = left.into_iter().chain(pods(300..340)).collect();
    let plan = plan(&service, &grown, &before);
    assert_eq!((plan.create.len(), plan.update.len()), (0, 1));
    assert_eq!(sizes(&apply(&before, plan)), [100, 40, 100]);
}

#[test]
fn deletion_becomes_an_update_when_a_creation_is_due_es15() {
    let before = settled(&service(json!({})), &pods(0..1));
    // A new target port is another port set: the old slice's name and identity are kept.
    let changed = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": 9090, "protocol": "TCP"}]}));
    let plan = plan(&changed, &pods(0..1), &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    assert_eq!(plan.update[0].metadata.name, before[0].metadata.name);
    assert_eq!(plan.update[0].metadata.resource_version, before[0].metadata.resource_version);
    assert_eq!(plan.update[0].ports.as_ref().unwrap()[0].port, Some(9090));
}

#[test]
fn empty_slice_is_deleted_while_others_have_endpoints_es15() {
    let service = service(json!({}));
    let before = settled(&service, &pods(0..101));
    let plan = plan(&service, &pods(0..100), &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 0, 1));
    assert_eq!(sizes(&apply(&before, plan)), [100]);
}

#[test]
fn slices_of_an_earlier_service_of_the_name_are_deleted_es16() {
    let before = settled(&service(json!({})), &pods(0..1));
    let mut recreated = service(json!({}));
    recreated.metadata.uid = Some("new-uid".into());
    let plan = plan(&recreated, &pods(0..1), &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (1, 0, 1));
    assert_eq!(plan.create[0].owner_references()[0].uid, "new-uid");
}

#[test]
fn altered_slice_is_put_right_es17() {
    let service = service(json!({}));
    let before = settled(&service, &pods(0..2));
    let altered = |change: fn(&mut EndpointSlice)| {
        let mut slice = (*before[0]).clone();
        change(&mut slice);
        vec![Arc::new(slice)]
    };
    let cases = [
        altered(|slice| slice.endpoints.as_mut().unwrap().truncate(1)),
        altered(|slice| slice.endpoints.as_mut().unwrap()[0].node_name = Some("n2".into())),
        altered(|slice| slice.endpoints.as_mut().unwrap()[0].addresses = vec!["10.9.9.9".into()]),
        altered(|slice| drop(slice.metadata.labels.as_mut().unwrap().insert("mine".into(), "x".into()))),
        altered(|slice| slice.ports.as_mut().unwrap()[0].port = Some(1)),
        altered(|slice| slice.endpoints = None),
    ];
    for existing in cases {
        let repaired = apply(&existing, plan(&service, &pods(0..2), &existing));
        assert_eq!(repaired.len(), 1);
        let names = |slice: &EndpointSlice| -> BTreeSet<String> {
            slice.endpoints.iter().flatten().map(|endpoint| format!("{endpoint:?}")).collect()
        };
        assert_eq!(names(&repaired[0]), names(&before[0]));
        assert_eq!((&repaired[0].ports, repaired[0].labels()), (&before[0].ports, before[0].labels()));
    }
}

#[test]
fn endpoint_in_two_slices_is_taken_out_of_one_es24() {
    let service = service(json!({}));
    let before = settled(&service, &pods(0..2));
    let mut copy = (*before[0]).clone();
    copy.metadata.name = Some("copy".into());
    let existing = vec![Arc::clone(&before[0]), Arc::new(copy)];
    let plan = plan(&service, &pods(0..2), &existing);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 0, 1));
    assert_eq!(plan.delete[0].name_any(), "copy");
}

#[test]
fn slices_of_a_family_that_left_are_deleted_es18() {
    let before = settled(&service(json!({"ipFamilies": ["IPv4", "IPv6"]})), &pods(0..1));
    let plan = plan(&service(json!({})), &pods(0..1), &before);
    assert_eq!((plan.create.len(), plan.update.len()), (0, 0));
    assert_eq!(plan.delete.iter().map(|slice| &*slice.address_type).collect::<Vec<_>>(), ["IPv6"]);
}

#[test]
fn deleted_service_gets_no_new_slices_es20() {
    let mut deleted = service(json!({}));
    deleted.metadata.deletion_timestamp = serde_json::from_value(json!("2024-01-01T00:00:00Z")).unwrap();
    assert!(plan(&deleted, &pods(0..1), &[]).is_empty());
}

#[test]
fn trigger_time_is_set_on_writes_and_taken_off_again_es12() {
    let service = service(json!({}));
    let trigger: Timestamp = "2024-01-02T03:04:05.120Z".parse().unwrap();
    let outcome = reconcile(&service, &pods(0..1), &Known, &[], Some(trigger));
    let slices = apply(&[], outcome.plan);
    assert_eq!(slices[0].annotations()[TRIGGER_TIME_ANNOTATION], "2024-01-02T03:04:05.12Z");
    assert!(plan(&service, &pods(0..1), &slices).is_empty(), "the annotation alone is no reason to write");
    let slices = apply(&slices, plan(&service, &pods(0..2), &slices));
    assert_eq!(slices[0].annotations().get(TRIGGER_TIME_ANNOTATION), None);
}

#[test]
fn hints_name_the_own_zone_and_node_of_ready_endpoints_es21() {
    let unready = json!({"status": {"conditions": []}});
    let zone_hint = json!({"forZones": [{"name": "a"}]});
    let cases = [
        (json!({}), json!({}), Value::Null),
        (json!({"trafficDistribution": "PreferClose"}), json!({}), zone_hint.clone()),
        (json!({"trafficDistribution": "PreferSameZone"}), json!({}), zone_hint),
        (
            json!({"trafficDistribution": "PreferSameNode"}),
            json!({}),
            json!({"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}),
        ),
        (json!({"trafficDistribution": "PreferSameZone"}), unready, Value::Null),
        (json!({"trafficDistribution": "PreferClose"}), json!({"spec": {"nodeName": "no-zone"}}), Value::Null),
    ];
    for (spec, change, expected) in cases {
        let endpoint = only_endpoint(&service(spec.clone()), pod(0, change.clone()));
        assert_eq!(serde_json::to_value(&endpoint.hints).unwrap(), expected, "{spec} {change}");
    }
}

#[test]
fn topology_mode_spreads_hints_by_cpus_and_overrides_traffic_distribution_es22() {
    let mut service = service(json!({"trafficDistribution": "PreferSameNode", "ipFamilies": ["IPv4", "IPv6"]}));
    service.metadata.annotations =
        serde_json::from_value(json!({"service.kubernetes.io/topology-mode": "Auto"})).unwrap();
    let news = |family: &str, text: &str| format!("{text}, addressType: {family}");
    let enabled = |family: &str| HintsNews::Enabled(news(family, "Topology Aware Hints has been enabled"));
    // Four ready Pods, all in zone a, and one that is not ready: two are for zone b.
    let mut all = pods(0..4);
    all.push(pod(4, json!({"status": {"conditions": []}})));
    let outcome = reconcile(&service, &all, &Known, &[], None);
    assert_eq!(outcome.hints, [enabled("IPv4"), enabled("IPv6")]);
    let slices = apply(&[], outcome.plan);
    for slice in &slices {
        let hints = |endpoint: &Endpoint| serde_json::to_value(&endpoint.hints).unwrap();
        let zone = |zone: &str| json!({"forZones": [{"name": zone}]});
        let found: Vec<Value> = slice.endpoints.as_ref().unwrap().iter().map(hints).collect();
        assert_eq!(found, [zone("a"), zone("a"), zone("b"), zone("b"), Value::Null]);
    }
    let again = reconcile(&service, &all, &Known, &slices, None);
    assert_eq!((again.plan.is_empty(), again.hints), (true, Vec::new()));

    // Too few for the zones: no hints, and the Service is told each time.
    let few = reconcile(&service, &all[..1], &Known, &slices, None);
    let text = "Insufficient number of endpoints (1 endpoints, 2 zones)";
    assert_eq!(few.hints, ["IPv4", "IPv6"].map(|family| HintsNews::Disabled(news(family, text))));
    let slices = apply(&slices, few.plan);
    assert!(slices.iter().flat_map(|slice| slice.endpoints.iter().flatten()).all(|endpoint| endpoint.hints.is_none()));
}

#[test]
fn changed_hints_rewrite_the_slice_es21() {
    let before = settled(&service(json!({})), &pods(0..1));
    let plan = plan(&service(json!({"trafficDistribution": "PreferClose"})), &pods(0..1), &before);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
}

#[test]
fn random_changes_always_settle_on_every_endpoint_once() {
    use rand::{Rng, SeedableRng, rngs::StdRng};
    let service = service(json!({}));
    let mut random = StdRng::seed_from_u64(7);
    let mut slices = Vec::new();
    for _ in 0..60 {
        let from = random.random_range(0..200);
        let now = pods(from..from + random.random_range(0..350));
        let change = plan(&service, &now, &slices);
        slices = apply(&slices, change);
        assert!(plan(&service, &now, &slices).is_empty());
        let mut placed: Vec<_> = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .map(|endpoint| endpoint.target_ref.as_ref().and_then(|target| target.name.clone()).unwrap())
            .collect();
        placed.sort();
        assert_eq!(placed, now.iter().map(|pod| pod.name_any()).collect::<Vec<_>>());
        assert!(sizes(&slices).iter().all(|size| *size <= MAX_ENDPOINTS));
    }
}
