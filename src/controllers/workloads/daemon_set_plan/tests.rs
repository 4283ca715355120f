use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn daemon(spec: Value) -> Daemon {
    let mut all = json!({
        "selector": {"matchLabels": {"app": "d"}},
        "template": {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": []}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
    });
    json_patch::merge(&mut all, &spec);
    Daemon::of(&serde_json::from_value(json!({"metadata": {"name": "d"}, "spec": all})).unwrap(), "new".into())
}

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({"metadata": {"name": name, "labels": {"os": "linux"}}, "spec": {}});
    json_patch::merge(&mut node, &change);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
    names.iter().map(|name| node(name, json!({}))).collect()
}

/// A Pod on a node, of revision `hash`, ready or not.
fn pod(node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    change(node, hash, ready, json!({}))
}

fn change(node: &str, hash: &str, ready: bool, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": format!("d-{node}-{hash}"), "labels": {"app": "d", REVISION_LABEL: hash}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
            "lastTransitionTime": at(-60).to_string()}]},
    });
    json_patch::merge(&mut pod, &change);
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// What a turn creates (nodes) and deletes (Pods).
fn turn(daemon: &Daemon, nodes: &[Arc<Node>], pods: Vec<Arc<Pod>>) -> (Vec<String>, Vec<String>) {
    let plan = daemon.plan(nodes, &by_node(pods), at(0));
    (plan.create, plan.delete.iter().map(|pod| pod.name_any()).collect())
}

fn texts(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[test]
fn each_eligible_node_gets_one_pod() {
    let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    let all = [
        node("plain", json!({})),
        node("windows", json!({"metadata": {"labels": {"os": "windows"}}})),
        node("cordoned", taint("node.kubernetes.io/unschedulable", "NoSchedule")),
        node("lost", taint("node.kubernetes.io/unreachable", "NoExecute")),
        node("tainted", taint("team", "NoSchedule")),
        node("evicting", taint("team", "NoExecute")),
        node("served", json!({})),
    ];
    let d = daemon(json!({"template": {"spec": {"nodeSelector": {"os": "linux"}}}}));
    let waiting = change(
        "x",
        "new",
        false,
        json!({"spec": {"nodeName": null, "affinity":
        d.template_for("served").spec.unwrap().affinity}}),
    );
    // A Pod stays where it may not start any more, and leaves where nothing that does not tolerate it may be.
    let pods = vec![pod("tainted", "new", true), pod("evicting", "new", true), pod("windows", "new", true), waiting];
    let (create, delete) = turn(&d, &all, pods);
    assert_eq!(create, ["plain", "cordoned", "lost"]);
    assert_eq!(delete, ["d-windows-new", "d-evicting-new"]);
}

#[test]
fn surplus_ended_and_stray_pods_go() {
    let d = daemon(json!({}));
    let twin = change("a", "new", true, json!({"metadata": {"name": "twin", "creationTimestamp": at(5).to_string()}}));
    let first = change("a", "new", true, json!({"metadata": {"creationTimestamp": at(1).to_string()}}));
    assert_eq!(turn(&d, &nodes(&["a"]), vec![twin, first]), (vec![], texts(&["twin"])));
    let failed = change("a", "new", false, json!({"status": {"phase": "Failed"}}));
    let plan = d.plan(&nodes(&["a"]), &by_node(vec![failed]), at(0));
    assert_eq!((plan.ended.len(), plan.create.len(), plan.delete.len()), (1, 0, 0));
    let stray = json!({"spec": {"nodeName": null, "affinity": d.template_for("gone").spec.unwrap().affinity}});
    assert_eq!(turn(&d, &[], vec![change("x", "new", false, stray)]), (vec![], texts(&["d-x-new"])));
    let going = change("a", "new", true, json!({"metadata": {"deletionTimestamp": at(0).to_string()}}));
    assert_eq!(turn(&d, &nodes(&["a"]), vec![going]), (vec![], vec![]), "the next comes when this one is gone");
}

#[test]
fn rollout_replaces_as_many_as_may_be_unavailable() {
    let three = nodes(&["a", "b", "c"]);
    let d = daemon(json!({}));
    let old = |ready| [pod("a", "old", ready), pod("b", "old", true), pod("c", "old", true)];
    assert_eq!(turn(&d, &three, old(true).to_vec()), (vec![], texts(&["d-a-old"])));
    // One that serves nobody goes first, and no other with it.
    assert_eq!(turn(&d, &three, old(false).to_vec()), (vec![], texts(&["d-a-old"])));
    let waiting = vec![pod("a", "new", false), pod("b", "old", true), pod("c", "old", true)];
    assert_eq!(turn(&d, &three, waiting), (vec![], vec![]));
    let half = daemon(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "50%"}}}));
    assert_eq!(turn(&half, &three, old(true).to_vec()), (vec![], texts(&["d-a-old", "d-b-old"])));
    let by_hand = daemon(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    assert_eq!(turn(&by_hand, &three, old(true).to_vec()), (vec![], vec![]));
}

#[test]
fn failed_pod_holds_up_no_rollout() {
    let failed = |hash: &str| change("a", hash, false, json!({"status": {"phase": "Failed"}}));
    let d = daemon(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}));
    let three = nodes(&["a", "b", "c"]);
    let plan = |first| {
        let pods = vec![first, pod("b", "old", true), pod("c", "old", true)];
        let plan = d.plan(&three, &by_node(pods), at(0));
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
        (names(&plan.ended), names(&plan.delete))
    };
    assert_eq!(plan(failed("new")), (texts(&["d-a-new"]), texts(&["d-b-old"])));
    // One of the old template need not be waited for, and is deleted once.
    assert_eq!(plan(failed("old")), (vec![], texts(&["d-a-old", "d-b-old"])));
}

#[test]
fn surge_makes_the_new_pod_first() {
    let two = nodes(&["a", "b"]);
    let d = daemon(json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}));
    let old = || vec![pod("a", "old", true), pod("b", "old", true)];
    assert_eq!(turn(&d, &two, old()), (texts(&["a"]), vec![]));
    let with = |ready| [old(), vec![pod("a", "new", ready)]].concat();
    assert_eq!(turn(&d, &two, with(false)), (vec![], vec![]));
    assert_eq!(turn(&d, &two, with(true)), (vec![], texts(&["d-a-old"])));
    assert_eq!(turn(&d, &two, vec![pod("a", "new", true), pod("b", "old", true)]), (texts(&["b"]), vec![]));
}

#[test]
fn status_counts_nodes() {
    let d = daemon(json!({"minReadySeconds": 90, "template": {"spec": {"nodeSelector": {"os": "linux"}}}}));
    let mut all = nodes(&["a", "b", "c"]);
    all.push(node("w", json!({"metadata": {"labels": {"os": "windows"}}})));
    let pods = by_node(vec![pod("a", "new", true), pod("b", "old", false), pod("w", "new", true)]);
    let set: DaemonSet = serde_json::from_value(json!({"metadata": {"generation": 5}})).unwrap();
    let (status, again) = d.status(&set, &all, &pods, at(0));
    assert_eq!((status.desired_number_scheduled, status.current_number_scheduled), (3, 2));
    assert_eq!((status.number_misscheduled, status.number_ready, status.number_available), (1, 1, None));
    assert_eq!((status.number_unavailable, status.updated_number_scheduled), (Some(3), Some(1)));
    assert_eq!((status.observed_generation, again), (Some(5), Some(Duration::from_secs(30))));
}

#[test]
fn pods_tolerate_what_ails_nodes_and_are_pinned() {
    let template = daemon(json!({"template": {"spec": {"hostNetwork": true}}})).template_for("a");
    let spec = template.spec.unwrap();
    assert_eq!(spec.tolerations.unwrap().len(), 7);
    let affinity = serde_json::to_value(spec.affinity.unwrap()).unwrap();
    assert_eq!(
        affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}])
    );
    assert_eq!(template.metadata.unwrap().labels.unwrap()[REVISION_LABEL], "new");
}
