//! Every filter, every near miss and every problem: a Service with three Pods, changed in one way each.

use serde_json::{Value, json};

use super::*;
use crate::config::Network;
use crate::plan::Compiler;

/// What there is; tests change it before they ask.
struct Case {
    service: Value,
    slices: Vec<Value>,
    pods: Vec<Value>,
    nodes: Vec<Value>,
    events: Vec<Value>,
}

fn case() -> Case {
    let service = json!({"metadata": {"namespace": "default", "name": "web", "uid": "uid-web", "resourceVersion": "7"},
        "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ipFamilies": ["IPv4"],
            "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let nodes = [("n1", "a"), ("n2", "b"), ("n3", "c")].map(|(name, zone)| {
        json!({"metadata": {"name": name, "uid": name, "labels": {"topology.kubernetes.io/zone": zone}}})
    });
    let pods = [("web-1", "n1", 1), ("web-2", "n2", 2), ("web-3", "n2", 3)].map(|(name, node, n)| pod(name, node, n));
    let endpoints: Vec<Value> = pods.iter().map(endpoint).collect();
    let slice = json!({"metadata": {"namespace": "default", "name": "web-1", "uid": "uid-slice", "resourceVersion": "9",
            "labels": {"kubernetes.io/service-name": "web",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints});
    Case { service, slices: vec![slice], pods: pods.to_vec(), nodes: nodes.to_vec(), events: Vec::new() }
}

fn pod(name: &str, node: &str, number: u8) -> Value {
    json!({"metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "5",
            "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.244.0.{number}"),
            "podIPs": [{"ip": format!("10.244.0.{number}")}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"name": "c", "ready": true, "started": true, "restartCount": 0, "image": "", "imageID": "",
                "state": {"running": {}}}]}})
}

fn endpoint(pod: &Value) -> Value {
    json!({"addresses": [pod["status"]["podIP"]], "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"]},
        "conditions": {"ready": true, "serving": true, "terminating": false}})
}

impl Case {
    fn ask(&self) -> ServiceReport {
        self.with_facts(explain)
    }

    fn with_facts<T>(&self, ask: impl FnOnce(&Facts<'_>) -> T) -> T {
        fn all<T: serde::de::DeserializeOwned>(values: &[Value]) -> Vec<Arc<T>> {
            values.iter().map(|value| Arc::new(serde_json::from_value(value.clone()).expect("an object"))).collect()
        }
        let service: Service = serde_json::from_value(self.service.clone()).expect("a Service");
        let (slices, pods, nodes) =
            (all::<EndpointSlice>(&self.slices), all::<Pod>(&self.pods), all::<Node>(&self.nodes));
        let events: Vec<Event> = all::<Event>(&self.events).iter().map(|event| (**event).clone()).collect();
        let mut compiler = Compiler::new(&Network::default());
        compiler.service_applied(&service);
        slices.iter().for_each(|slice| compiler.slice_applied(slice));
        nodes.iter().for_each(|node| compiler.node_applied(node));
        let plan = compiler.plan();
        ask(&Facts {
            service: &service,
            slices: &slices,
            pods: &pods,
            nodes: &nodes,
            events: &events,
            plan: &plan,
            domain: "cluster.local",
        })
    }

    fn spec(mut self, change: Value) -> Self {
        json_patch::merge(&mut self.service["spec"], &change);
        self
    }

    fn all_pods(mut self, change: Value) -> Self {
        self.pods.iter_mut().for_each(|pod| json_patch::merge(pod, &change));
        self
    }

    fn first_pod(mut self, change: Value) -> Self {
        json_patch::merge(&mut self.pods[0], &change);
        self
    }

    fn endpoints(mut self, endpoints: Value) -> Self {
        self.slices[0]["endpoints"] = endpoints;
        self
    }

    fn endpoint(mut self, at: usize, change: Value) -> Self {
        json_patch::merge(&mut self.slices[0]["endpoints"][at], &change);
        self
    }
}

fn codes(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.code.as_str()).collect()
}

#[test]
fn service_that_serves_has_nothing_to_complain_of() {
    let report = case().ask();
    assert!(report.serving && report.problems.is_empty() && report.near_misses.is_empty(), "{report:#?}");
    assert_eq!(report.summary, "it serves, with 3 ready endpoints");
    assert_eq!(report.dns_name, "web.default.svc.cluster.local");
    assert_eq!((report.service.uid.as_str(), report.service.resource_version.as_str()), ("uid-web", "7"));
    let port = &report.ports[0];
    assert_eq!((port.family.as_str(), port.target_port.as_str(), report.ports.len()), ("IPv4", "8080", 1));
    assert_eq!(port.endpoints[0].pod.as_ref().expect("its Pod").resource_version, "5");
    let [choice] = &port.choices[..] else { panic!("all nodes choose alike: {:?}", port.choices) };
    assert_eq!(
        (choice.nodes.join(","), choice.traffic.as_str(), choice.list.as_str()),
        ("n1,n2,n3".into(), "internal", "Cluster")
    );
}

#[test]
fn every_filter_is_told_with_the_endpoint_that_it_took_away() {
    let states = |ready: bool, serving: bool, terminating: bool| json!({"conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let hint = |zone: &str| json!({"hints": {"forZones": [{"name": zone}]}});
    let local = json!({"internalTrafficPolicy": "Local"});
    // What is changed; a node; its list; how many it uses; the filters of the others.
    let cases: Vec<(Case, &str, &str, usize, Vec<&str>)> = vec![
        (case().endpoint(0, states(false, false, false)), "n1", "Cluster", 2, vec!["NotReady"]),
        (case().endpoint(0, states(false, true, true)), "n1", "Cluster", 2, vec!["Terminating"]),
        (case().endpoint(0, states(false, false, true)), "n1", "Cluster", 2, vec!["NotServing"]),
        (case().spec(local.clone()), "n1", "Local", 1, vec!["OtherNode", "OtherNode"]),
        (case().spec(local.clone()), "n3", "Local", 0, vec!["OtherNode", "OtherNode", "OtherNode"]),
        (
            case().spec(local).endpoint(0, states(false, true, true)),
            "n1",
            "LocalTerminating",
            1,
            vec!["OtherNode", "OtherNode"],
        ),
        (
            case().endpoint(0, hint("a")).endpoint(1, hint("b")).endpoint(2, hint("b")),
            "n1",
            "HintedZone",
            1,
            vec!["Hint", "Hint"],
        ),
        (
            case()
                .endpoint(0, json!({"hints": {"forNodes": [{"name": "n1"}], "forZones": [{"name": "a"}]}}))
                .endpoint(1, json!({"hints": {"forNodes": [{"name": "n2"}], "forZones": [{"name": "b"}]}}))
                .endpoint(2, states(false, false, false)),
            "n2",
            "HintedNode",
            1,
            vec!["Hint", "NotReady"],
        ),
        (
            case()
                .endpoint(0, states(false, true, true))
                .endpoint(1, states(false, false, true))
                .endpoint(2, states(false, false, false)),
            "n3",
            "ClusterTerminating",
            1,
            vec!["NotServing", "NotReady"],
        ),
        (case().endpoints(json!([])), "n1", "ClusterTerminating", 0, vec![]),
    ];
    for (at, (case, node, list, used, filters)) in cases.into_iter().enumerate() {
        let report = case.ask();
        let choices = &report.ports[0].choices;
        let choice = choices.iter().find(|choice| choice.nodes.iter().any(|name| name == node)).expect("the node");
        let found: Vec<&str> = choice.left_out.iter().map(|left| left.filter.as_str()).collect();
        assert_eq!((choice.list.as_str(), choice.uses.len(), found), (list, used, filters), "case {at}: {choice:#?}");
        assert_eq!(choice.uses.len() + choice.left_out.len(), report.ports[0].endpoints.len(), "case {at}");
    }
}

#[test]
fn policies_for_inside_and_outside_are_told_apart() {
    let report = case()
        .spec(json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}]}))
        .ask();
    let choices: Vec<(&str, &str)> =
        report.ports[0].choices.iter().map(|choice| (choice.traffic.as_str(), choice.list.as_str())).collect();
    assert_eq!(choices, [("internal", "Cluster"), ("external", "Local"), ("external", "Local"), ("external", "Local")]);
    assert_eq!(codes(&report.problems), ["ExternalLocalPolicyNoPod"]);
    assert!(report.problems[0].message.contains("no endpoint is on n3"), "{:?}", report.problems);
}

/// The first Pod is changed; it is a near miss for this reason, in these words.
#[test]
fn every_near_miss_has_its_reason() {
    let not_ready = |statuses: Value| {
        json!({"status": {"conditions": [{"type": "Ready", "status": "False", "message": "containers with unready status: [c]"}],
            "containerStatuses": statuses}})
    };
    let container = |state: Value, restarts: u8| json!([{"name": "c", "ready": false, "started": true, "restartCount": restarts, "image": "", "imageID": "", "state": state}]);
    let cases: Vec<(Case, &str, &str)> = vec![
        (
            case().first_pod(json!({"metadata": {"labels": {"app": "wbe"}}})),
            "LabelTypo",
            "label app of web-1 is \"wbe\", and the selector wants \"web\"",
        ),
        (
            case().first_pod(json!({"metadata": {"labels": {"app": null, "aap": "web"}}})),
            "LabelTypo",
            "web-1 has the label aap=web",
        ),
        (
            case()
                .spec(json!({"selector": {"tier": "front"}}))
                .all_pods(json!({"metadata": {"labels": {"tier": "front"}}}))
                .first_pod(json!({"metadata": {"labels": {"tier": "database"}}})),
            "LabelDiffers",
            "label tier of web-1 is \"database\"",
        ),
        (
            case()
                .spec(json!({"selector": {"tier": "front"}}))
                .all_pods(json!({"metadata": {"labels": {"tier": "front"}}}))
                .first_pod(json!({"metadata": {"labels": {"tier": null}}})),
            "LabelMissing",
            "web-1 has no label tier",
        ),
        (case().first_pod(json!({"status": {"phase": "Failed"}})), "PodEnded", "its phase is Failed"),
        (
            case().first_pod(json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}})),
            "Terminating",
            "is being deleted",
        ),
        (
            case().first_pod(
                json!({"spec": {"nodeName": null}, "status": {"phase": "Pending", "podIP": null, "podIPs": null,
                "conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}}),
            ),
            "Unscheduled",
            "has no node: 0/3 nodes are available",
        ),
        (
            case().first_pod(json!({"status": {"phase": "Pending", "podIP": null, "podIPs": null}})),
            "NoAddress",
            "is Pending on n1 and has no address yet",
        ),
        (
            case().first_pod(json!({"status": {"podIP": "fd00::1", "podIPs": [{"ip": "fd00::1"}]}})),
            "WrongFamily",
            "web-1 has no IPv4 address",
        ),
        (
            case().spec(json!({"ports": [{"name": "http", "port": 80, "targetPort": "http"}]})).first_pod(
                json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "htpp", "containerPort": 8080}]}]}}),
            ),
            "TargetPortNameMissing",
            "no container port named \"http\" with protocol TCP for port 80 of the Service: it has htpp (8080/TCP)",
        ),
        (
            case().first_pod(not_ready(container(
                json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
                3,
            ))),
            "ContainerNotRunning",
            "does not run (CrashLoopBackOff, restarted 3 times): back-off",
        ),
        (
            case().first_pod(not_ready(container(json!({"running": {}}), 0))),
            "ProbeFailing",
            "its readiness probe has not succeeded yet",
        ),
        (
            case().first_pod(json!({"spec": {"readinessGates": [{"conditionType": "x.io/ok"}]},
                "status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
            "ReadinessGate",
            "waits for its readiness gate x.io/ok",
        ),
        (
            case().first_pod(
                json!({"status": {"conditions": [{"type": "Ready", "status": "False", "message": "not yet"}]}}),
            ),
            "NotReady",
            "web-1 is not ready: not yet",
        ),
        (case().first_pod(json!({"spec": {"nodeName": "n9"}})), "NodeUnknown", "is on n9, which is no Node"),
    ];
    for (case, code, words) in cases {
        let report = case.ask();
        let miss = report
            .near_misses
            .iter()
            .find(|miss| miss.pod.name == "web-1")
            .unwrap_or_else(|| panic!("{code}: {report:#?}"));
        let reason =
            miss.reasons.iter().find(|reason| reason.code == code).unwrap_or_else(|| panic!("{code}: {miss:#?}"));
        assert!(reason.message.contains(words), "{code}: {}", reason.message);
        assert_eq!((miss.pod.uid.as_str(), miss.pod.resource_version.as_str()), ("uid-web-1", "5"));
    }
}

#[test]
fn failing_probe_says_what_it_said() {
    let mut case = case().all_pods(json!({"status": {"conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{"name": "c", "ready": false, "started": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {}}}]}}));
    let event = |pod: &str, message: &str, at: &str, count: u8| {
        json!({"metadata": {"name": at}, "involvedObject": {"kind": "Pod", "uid": format!("uid-{pod}")}, "reason": "Unhealthy",
            "message": message, "count": count, "lastTimestamp": at})
    };
    case.events = vec![
        event("web-1", "Readiness probe failed: HTTP probe failed with statuscode: 404", "2024-01-01T00:00:01Z", 1),
        event("web-1", "Readiness probe failed: HTTP probe failed with statuscode: 503", "2024-01-01T00:00:02Z", 8),
        event("web-1", "Liveness probe failed: no", "2024-01-01T00:00:03Z", 1),
        event("web-2", "Readiness probe failed: another", "2024-01-01T00:00:09Z", 1),
    ];
    let report = case.endpoints(json!([])).ask();
    assert_eq!(codes(&report.problems), ["NoPodReady"]);
    let wanted = "container c of web-1 runs and is not ready: Readiness probe failed: HTTP probe failed with statuscode: 503 (8 times)";
    assert!(report.problems[0].message.ends_with(wanted), "{}", report.problems[0].message);
    assert!(!report.serving && report.summary.contains("connections are refused"), "{}", report.summary);
}

#[test]
fn problems_come_first_with_what_mends_them() {
    let by_hand = |change: Value| {
        let mut case = case().spec(json!({"selector": null}));
        case.slices[0]["metadata"]["labels"] = json!({"kubernetes.io/service-name": "web"});
        json_patch::merge(&mut case.slices[0], &change);
        case
    };
    let none = |case: Case| case.endpoints(json!([]));
    let cases: Vec<(Case, &str, &str, &str)> = vec![
        (
            none(case().spec(json!({"selector": {"app": "wbe"}}))),
            "SelectorTypo",
            "its selector app=wbe matches no Pod of default; probably a typing error",
            "selector: app=web",
        ),
        (
            none(case().spec(json!({"selector": {"app": null, "apps": "web"}}))),
            "SelectorTypo",
            "web-1 has the label app=web",
            "selector: app=web",
        ),
        (
            none(case().spec(json!({"selector": {"tier": "front"}}))),
            "SelectorMatchesNothing",
            "the nearest: web-1 has no label tier; the same with 2 more Pods",
            "selector: app=web",
        ),
        (none(case().spec(json!({"selector": {"app": "something-else"}}))), "SelectorMatchesNothing", "nor nearly", ""),
        (
            none(case().all_pods(json!({"metadata": {"namespace": "shop"}}))),
            "PodsInOtherNamespace",
            "but web-1 in namespace shop",
            "a Service in namespace shop, dialed as web.shop",
        ),
        (
            none(case().spec(json!({"ports": [{"name": "http", "port": 80, "targetPort": "htp"}]}))),
            "TargetPortNameMissing",
            "no container port named \"htp\"",
            "targetPort: http",
        ),
        (
            case().spec(json!({"ports": [{"name": "http", "port": 80, "targetPort": 8081}]})),
            "TargetPortUndeclared",
            "targetPort 8081 of port 80: no container of web-1 declares port 8081/TCP: declared are http (8080/TCP), nor of 2 other Pods",
            "targetPort: 8080",
        ),
        (
            case().spec(json!({"internalTrafficPolicy": "Local"})),
            "LocalPolicyNoPod",
            "no endpoint is on n3",
            "internalTrafficPolicy: Cluster",
        ),
        (
            {
                let mut case = case().spec(json!({"selector": null}));
                case.slices.clear();
                case
            },
            "NoSelectorNoSlices",
            "no EndpointSlice names it",
            "an EndpointSlice with the label kubernetes.io/service-name: web",
        ),
        (
            by_hand(json!({"metadata": {"labels": {"service.kubernetes.io/headless": ""}}})),
            "SliceHeadless",
            "the router passes it by",
            "",
        ),
        (by_hand(json!({"addressType": "FQDN"})), "SliceFamily", "is of address type FQDN", ""),
        (
            by_hand(json!({"ports": [{"name": "web", "port": 8080}]})),
            "SlicePortMissing",
            "has no port named \"http\" with protocol TCP and a number: it has \"web\"/TCP",
            "",
        ),
        (
            {
                let mut case = case();
                case.service["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
                case
            },
            "OtherProxy",
            "gives it to another proxy",
            "kubectl label service web -n default service.kubernetes.io/service-proxy-name-",
        ),
        (case().spec(json!({"type": "LoadBalancer"})), "LoadBalancerPending", "no load-balancer address yet", ""),
        (
            case().spec(json!({"type": "LoadBalancer", "loadBalancerClass": "x.io/y"})),
            "LoadBalancerOfOthers",
            "x.io/y",
            "",
        ),
        (
            case().spec(json!({"type": "ExternalName", "externalName": "db"})),
            "ExternalNameShort",
            "\"db\"",
            "name it in full",
        ),
    ];
    for (case, code, words, fix) in cases {
        let report = case.ask();
        let first = report.problems.first().unwrap_or_else(|| panic!("{code}: {report:#?}"));
        assert_eq!(first.code, code, "{:#?}", report.problems);
        assert!(first.message.contains(words), "{code}: {}", first.message);
        assert!(first.fix.starts_with(fix) && first.fix.is_empty() == fix.is_empty(), "{code}: {}", first.fix);
    }
}

#[test]
fn services_without_proxy_or_selector_are_explained_as_what_they_are() {
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    let report = case().spec(headless.clone()).ask();
    assert_eq!((report.summary.as_str(), report.serving), ("headless: its name leads to 3 ready endpoints", true));
    assert_eq!((report.ports[0].endpoints[0].address.as_str(), report.ports[0].choices.len()), ("10.244.0.1:8080", 0));
    assert!(!case().spec(headless).endpoints(json!([])).ask().serving);
    let report = case().spec(json!({"type": "ExternalName", "externalName": "db.example.com"})).ask();
    assert!(report.serving && report.problems.is_empty() && report.summary.contains("db.example.com"), "{report:#?}");
    let report = case().spec(json!({"selector": null})).ask();
    assert!(report.serving && report.problems.is_empty() && report.near_misses.is_empty(), "{report:#?}");
    // Pods that are published as they are are no near misses for not being ready.
    let unready = json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}});
    let report = case().spec(json!({"publishNotReadyAddresses": true})).all_pods(unready).ask();
    assert!(report.near_misses.is_empty() && report.problems.is_empty(), "{report:#?}");
}

#[test]
fn near_misses_come_nearest_first_and_are_bounded() {
    let mut case = case().spec(json!({"selector": {"tier": "front"}})).endpoints(json!([]));
    case.pods = (0..60).map(|n| pod(&format!("p-{n:02}"), "n1", n)).collect();
    case.pods[59]["metadata"]["labels"] = json!({"app": "web", "tier": "frnt"});
    let report = case.ask();
    assert_eq!((report.near_misses[0].pod.name.as_str(), report.near_misses.len()), ("p-59", problems::MOST));
    assert_eq!(report.more_near_misses, 10);
}

/// A second port, whose name no Pod has.
fn two_ports() -> Case {
    case().spec(json!({"ports": [{"name": "http", "port": 80, "targetPort": 8080},
        {"name": "admin", "port": 81, "targetPort": "adm"}]}))
}

fn dual(policy: &str) -> Case {
    case().spec(json!({"clusterIPs": ["10.96.0.20", "fd00:10:96::20"], "ipFamilies": ["IPv4", "IPv6"],
        "ipFamilyPolicy": policy}))
}

#[test]
fn service_that_serves_in_part_says_which_part() {
    let all_terminating = |mut case: Case| {
        for at in 0..3 {
            case = case.endpoint(at, json!({"conditions": {"ready": false, "serving": true, "terminating": true}}));
        }
        case
    };
    let still = "3 endpoints that still serve while they terminate";
    let cases = [
        (dual("PreferDualStack"), true, "3 ready endpoints", "FamilyNotServed", "IPv6 has no endpoint"),
        (dual("RequireDualStack"), false, "3 ready endpoints", "FamilyNotServed", "IPv6 has no endpoint"),
        (all_terminating(dual("PreferDualStack")), true, still, "FamilyNotServed", "IPv6 has no endpoint"),
        (two_ports(), false, "3 ready endpoints", "PortNotServed", "port 81/TCP has no endpoint"),
    ];
    for (at, (case, complete, count, code, words)) in cases.into_iter().enumerate() {
        let report = case.ask();
        assert_eq!((report.serving, report.complete), (true, complete), "case {at}: {report:#?}");
        assert_eq!(report.summary, format!("it serves in part, with {count}"), "case {at}");
        let first = &report.problems[0];
        assert_eq!(first.code, code, "case {at}: {:#?}", report.problems);
        assert!(first.message.starts_with(words), "case {at}: {}", first.message);
    }
    let report = two_ports().ask();
    assert_eq!(codes(&report.problems), ["PortNotServed", "TargetPortNameMissing"], "and why");
    let report = case().endpoints(json!([])).ask();
    assert_eq!((report.serving, report.complete), (false, false));
    assert!(case().ask().complete);
}

#[test]
fn sctp_is_said_not_to_be_carried() {
    let sctp = json!({"name": "sig", "port": 90, "targetPort": 9000, "protocol": "SCTP"});
    let with = |ports: Value| {
        let mut case = case().spec(json!({"ports": ports}));
        case.slices[0]["ports"] = json!([{"name": "http", "port": 8080},
            {"name": "sig", "port": 9000, "protocol": "SCTP"}]);
        case
    };
    let alone = with(json!([sctp])).ask();
    assert_eq!((alone.serving, alone.complete), (false, false));
    assert_eq!(alone.summary, "SCTP is not carried through Services: nothing of it arrives");
    assert_eq!((alone.problems[0].code.as_str(), alone.ports[0].choices.len()), ("SctpNotCarried", 0));
    let beside = with(json!([{"name": "http", "port": 80, "targetPort": 8080}, sctp])).ask();
    assert_eq!((beside.serving, beside.complete), (true, false), "{beside:#?}");
    // Between Pods it is carried.
    let mut headless = with(json!([sctp])).spec(json!({"clusterIP": "None", "clusterIPs": ["None"]}));
    headless.service["spec"]["ports"][0]["targetPort"] = 8080.into();
    assert!(!codes(&headless.ask().problems).contains(&"SctpNotCarried"));
}

/// What goes with the refusal of a packet: the causes of its port and of its kind alone.
#[test]
fn causes_of_a_refusal_are_those_of_its_port() {
    let causes_of = |case: &Case, port: &str, v6: bool, lacking: Lacking| {
        case.with_facts(|facts| {
            let (_, found) = in_plan(facts)
                .into_iter()
                .find(|((family, name, _), _)| (*family, name.as_str()) == (v6, port))
                .expect("the port");
            causes(facts, &Lack { port: Arc::clone(found), v6, lacking })
        })
    };
    // Three things are wrong: one port leads nowhere, the other to a number of nobody's, and a policy is Local.
    let case = two_ports().spec(json!({"internalTrafficPolicy": "Local", "type": "LoadBalancer"}));
    let found = causes_of(&case, "admin", false, Lacking::Endpoint);
    assert_eq!(codes(&found), ["TargetPortNameMissing"]);
    let found = causes_of(&case, "http", false, Lacking::LocalEndpoint { external: false });
    assert_eq!(codes(&found), ["LocalPolicyNoPod"]);
    assert!(causes_of(&case, "http", false, Lacking::LocalEndpoint { external: true }).is_empty());
    // A family that no Pod has is no problem of the Service's: the Pod says what it lacks.
    let found = causes_of(&dual("PreferDualStack"), "http", true, Lacking::Endpoint);
    assert_eq!((codes(&found), found[0].rests_on[0].name.as_str()), (vec!["WrongFamily"], "web-1"));
}
