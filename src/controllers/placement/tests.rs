use serde_json::{Value, json};

use super::*;

fn node(name: &str, change: Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "a", "cpus": "8"}},
        "spec": {}, "status": {"allocatable": {"cpu": "2", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    });
    json_patch::merge(&mut node, &change);
    Arc::new(serde_json::from_value(node).unwrap())
}

fn nodes() -> Vec<Arc<Node>> {
    ["n1", "n2", "n3"].map(|name| node(name, json!({}))).into()
}

fn pod(name: &str, labels: Value, spec: Value) -> Arc<Pod> {
    let mut all = json!({"containers": [{"name": "c"}]});
    json_patch::merge(&mut all, &spec);
    let metadata = json!({"name": name, "namespace": "default", "uid": name, "labels": labels});
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": all})).unwrap())
}

fn choose(board: &Board, spec: Value, nodes: &[Arc<Node>]) -> Result<String, String> {
    board.choose(&pod("new", json!({"app": "web"}), spec), nodes, |_| None)
}

fn refused(reason: &str) -> Result<String, String> {
    Err(format!("0/1 nodes are available: 1 node(s) {reason}."))
}

#[test]
fn group_is_spread_first_then_all_pods_then_names_decide() {
    let mut board = Board::default();
    let place = |board: &mut Board, name: &str| {
        let web = pod(name, json!({"app": "web"}), json!({}));
        let node = board.choose(&web, &nodes(), |_| None).unwrap();
        board.place(web, &node);
        node
    };
    assert_eq!([place(&mut board, "a"), place(&mut board, "b"), place(&mut board, "c")], ["n1", "n2", "n3"]);
    // Two others on n1: still one Pod of the group each, so the emptiest node is next.
    board.place(pod("x", json!({"app": "db"}), json!({})), "n1");
    assert_eq!([place(&mut board, "d"), place(&mut board, "e")], ["n2", "n3"]);
    assert_eq!(place(&mut board, "f"), "n1", "fewer of the group weighs more than more Pods");
    board.remove(&ObjectKey::new("default", "c"), Some("c"));
    board.remove(&ObjectKey::new("default", "e"), Some("e"));
    assert_eq!(place(&mut board, "g"), "n3");
}

#[test]
fn labels_that_binding_adds_do_not_part_a_group_pd8() {
    let bound = pod("a", json!({"app": "web", "topology.kubernetes.io/zone": "z"}), json!({}));
    assert_eq!(group_of(&bound), group_of(&pod("b", json!({"app": "web"}), json!({}))));
    assert_ne!(group_of(&bound), group_of(&pod("b", json!({"app": "db"}), json!({}))));
}

#[test]
fn pods_of_one_controller_are_a_group_whatever_their_labels() {
    let owned = |name: &str| {
        let mut pod = (*pod(name, json!({"name": name}), json!({}))).clone();
        pod.metadata.owner_references = serde_json::from_value(json!([
            {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "u", "controller": true}]))
        .unwrap();
        pod
    };
    assert_eq!(group_of(&owned("a")), group_of(&owned("b")));
}

#[test]
fn removal_needs_the_uid_and_frees_the_room() {
    let mut board = Board::default();
    let with_port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    board.place(pod("a", json!({}), with_port.clone()), "n1");
    let key = ObjectKey::new("default", "a");
    assert!(!board.remove(&key, Some("other")));
    assert!(choose(&board, with_port.clone(), &nodes()[..1]).is_err());
    assert!(board.remove(&key, Some("a")));
    assert_eq!(choose(&board, with_port, &nodes()[..1]), Ok("n1".into()));
    assert!(board.nodes.is_empty() && board.placed.is_empty());
}

#[test]
fn unfit_nodes_are_refused_with_their_reason() {
    let untolerated = |taint: &str| refused(&format!("had untolerated taint {{{taint}}}"));
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let tolerating = |toleration: Value| json!({"tolerations": [toleration]});
    let ok = || Ok("n1".to_owned());
    let cases = [
        (json!({}), json!({}), ok()),
        (json!({"spec": {"unschedulable": true}}), json!({}), refused("were unschedulable")),
        (
            json!({"spec": {"unschedulable": true}}),
            tolerating(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            ok(),
        ),
        (json!({"status": {"conditions": []}}), json!({}), untolerated("node.kubernetes.io/not-ready: ")),
        (json!({"status": {"conditions": []}}), tolerating(json!({"operator": "Exists"})), ok()),
        (tainted("NoSchedule"), json!({}), untolerated("k: v")),
        (tainted("NoExecute"), json!({}), untolerated("k: v")),
        (tainted("PreferNoSchedule"), json!({}), ok()),
        (tainted("NoSchedule"), tolerating(json!({"key": "k", "value": "v"})), ok()),
        (
            tainted("NoSchedule"),
            tolerating(json!({"key": "k", "operator": "Equal", "value": "w"})),
            untolerated("k: v"),
        ),
        (tainted("NoSchedule"), tolerating(json!({"key": "k", "operator": "Exists"})), ok()),
        (
            tainted("NoSchedule"),
            tolerating(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"})),
            untolerated("k: v"),
        ),
        (tainted("NoSchedule"), tolerating(json!({"key": "other", "operator": "Exists"})), untolerated("k: v")),
        (json!({}), json!({"nodeSelector": {"zone": "a"}}), ok()),
        (json!({}), json!({"nodeSelector": {"zone": "b"}}), refused("didn't match Pod's node affinity/selector")),
    ];
    for (change, spec, expected) in cases {
        let found = choose(&Board::default(), spec.clone(), &[node("n1", change.clone())]);
        assert_eq!(found, expected, "{change} {spec}");
    }
}

#[test]
fn node_affinity_knows_every_operator_dp4() {
    let rule = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
    let terms = |terms: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": terms}}}})
    };
    let labels = |rule: Value| terms(json!([{"matchExpressions": [rule]}]));
    let fields = |rule: Value| terms(json!([{"matchFields": [rule]}]));
    let cases = [
        (labels(rule("zone", "In", &["a", "b"])), true),
        (labels(rule("zone", "In", &["b"])), false),
        (labels(rule("zone", "NotIn", &["b"])), true),
        (labels(rule("zone", "NotIn", &["a"])), false),
        (labels(rule("absent", "NotIn", &["a"])), true),
        (labels(rule("zone", "Exists", &[])), true),
        (labels(rule("absent", "Exists", &[])), false),
        (labels(rule("absent", "DoesNotExist", &[])), true),
        (labels(rule("cpus", "Gt", &["7"])), true),
        (labels(rule("cpus", "Gt", &["8"])), false),
        (labels(rule("cpus", "Lt", &["9"])), true),
        (labels(rule("zone", "Gt", &["1"])), false),
        (labels(rule("zone", "Unknown", &["a"])), false),
        (fields(rule("metadata.name", "In", &["n1"])), true),
        (fields(rule("metadata.name", "In", &["n2"])), false),
        (fields(rule("metadata.name", "NotIn", &["n2"])), true),
        // Terms are alternatives, the rules of one term are not; an empty term matches nothing.
        (
            terms(
                json!([{"matchExpressions": [rule("zone", "In", &["b"])]}, {"matchFields": [rule("metadata.name", "In", &["n1"])]}]),
            ),
            true,
        ),
        (terms(json!([{"matchExpressions": [rule("zone", "In", &["a"]), rule("absent", "Exists", &[])]}])), false),
        (terms(json!([{}])), false),
    ];
    for (spec, fits) in cases {
        let found = choose(&Board::default(), spec.clone(), &[node("n1", json!({}))]);
        assert_eq!(found.is_ok(), fits, "{spec}");
    }
}

#[test]
fn preferences_come_before_spreading() {
    let mut board = Board::default();
    board.place(pod("a", json!({"app": "web"}), json!({})), "n3");
    let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n3"]}]}}]}}});
    assert_eq!(choose(&board, preferred, &nodes()), Ok("n3".into()));
    let avoided = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    assert_eq!(choose(&board, json!({}), &[node("n1", avoided), node("n3", json!({}))]), Ok("n3".into()));
}

#[test]
fn host_ports_conflict_by_protocol_and_address_pd6() {
    let with_port = |protocol: &str, ip: Value| {
        let port = json!({"containerPort": 80, "hostPort": 8080, "protocol": protocol, "hostIP": ip});
        json!({"containers": [{"name": "c", "ports": [port]}]})
    };
    let cases = [
        (("TCP", json!(null)), ("TCP", json!(null)), false),
        (("TCP", json!(null)), ("UDP", json!(null)), true),
        (("TCP", json!("10.245.0.11")), ("TCP", json!("10.245.0.12")), true),
        (("TCP", json!("10.245.0.11")), ("TCP", json!("10.245.0.11")), false),
        (("TCP", json!("0.0.0.0")), ("TCP", json!("10.245.0.11")), false),
        (("TCP", json!("10.245.0.11")), ("TCP", json!(null)), false),
    ];
    for ((protocol, ip), (new_protocol, new_ip), fits) in cases {
        let mut board = Board::default();
        board.place(pod("a", json!({}), with_port(protocol, ip.clone())), "n1");
        let found = choose(&board, with_port(new_protocol, new_ip.clone()), &nodes()[..1]);
        let expected =
            if fits { Ok("n1".into()) } else { refused("didn't have free ports for the requested pod ports") };
        assert_eq!(found, expected, "{protocol} {ip} then {new_protocol} {new_ip}");
    }
}

#[test]
fn requests_are_counted_until_their_pod_leaves_or_is_resized() {
    let mut board = Board::default();
    let asks = |cpu: &str| json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
    let refused = |reasons: &str| Err(format!("0/3 nodes are available: {reasons}."));
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n3")] {
        board.place(pod(name, json!({}), asks("1500m")), node);
    }
    assert_eq!(choose(&board, asks("1"), &nodes()), refused("3 Insufficient cpu"));
    assert_eq!(choose(&board, asks("500m"), &nodes()), Ok("n1".into()));
    // The same Pod again, as after a write of its status, counts once; resized, it counts as it is now.
    board.place(pod("b", json!({}), asks("1500m")), "n2");
    assert_eq!(choose(&board, asks("500m"), &nodes()[1..2]), Ok("n2".into()));
    board.place(pod("b", json!({}), asks("1")), "n2");
    assert_eq!(choose(&board, asks("1"), &nodes()), Ok("n2".into()));
    board.place(pod("d", json!({}), asks("1")), "n2");
    let full = [nodes(), vec![node("n4", json!({"status": {"allocatable": {"pods": "0"}}}))]].concat();
    let reasons = "0/4 nodes are available: 1 Too many pods, 3 Insufficient cpu.";
    assert_eq!(choose(&board, asks("1"), &full), Err(reasons.into()));
    assert!(board.remove(&ObjectKey::new("default", "c"), Some("c")));
    assert_eq!(choose(&board, asks("2"), &nodes()), Ok("n3".into()));
}

#[test]
fn reasons_are_counted_and_sorted_as_kube_scheduler_does() {
    let mixed = [
        node("n1", json!({"spec": {"unschedulable": true}})),
        node("n2", json!({"metadata": {"labels": {"zone": "b"}}})),
        node("n3", json!({"metadata": {"labels": {"zone": "c"}}})),
    ];
    assert_eq!(
        choose(&Board::default(), json!({"nodeSelector": {"zone": "a"}}), &mixed),
        Err("0/3 nodes are available: 1 node(s) were unschedulable, \
             2 node(s) didn't match Pod's node affinity/selector."
            .into())
    );
    assert_eq!(choose(&Board::default(), json!({}), &[]), Err("no nodes available to schedule pods".into()));
}

fn term(app: &str, key: &str) -> Value {
    json!([{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}])
}

fn apart(app: &str, key: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, key)}}})
}

fn near(app: &str, key: &str) -> Value {
    json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term(app, key)}}})
}

const HOST: &str = "kubernetes.io/hostname";

#[test]
fn anti_affinity_keeps_pods_apart_both_ways_dp4() {
    let mut board = Board::default();
    board.place(pod("a", json!({"app": "web"}), json!({})), "n1");
    assert_eq!(choose(&board, apart("web", HOST), &nodes()[..1]), refused("didn't match pod anti-affinity rules"));
    assert_eq!(choose(&board, apart("web", HOST), &nodes()), Ok("n2".into()));
    assert_eq!(choose(&board, apart("db", HOST), &nodes()[..1]), Ok("n1".into()));
    assert!(choose(&board, apart("web", "zone"), &nodes()).is_err(), "all three are in one zone");

    let mut board = Board::default();
    board.place(pod("a", json!({"app": "db"}), apart("web", HOST)), "n1");
    assert_eq!(choose(&board, json!({}), &nodes()[..1]), refused("didn't satisfy existing pods anti-affinity rules"));
    board.remove(&ObjectKey::new("default", "a"), Some("a"));
    assert_eq!(choose(&board, json!({}), &nodes()[..1]), Ok("n1".into()));
}

#[test]
fn affinity_brings_pods_together_and_lets_the_first_start_anywhere_dp4() {
    let mut board = Board::default();
    assert_eq!(choose(&board, near("db", HOST), &nodes()[..1]), refused("didn't match pod affinity rules"));
    assert_eq!(choose(&board, near("web", HOST), &nodes()), Ok("n1".into()), "it is the first of its own kind");
    board.place(pod("a", json!({"app": "db"}), json!({})), "n3");
    assert_eq!(choose(&board, near("db", HOST), &nodes()), Ok("n3".into()));
    board.place(pod("b", json!({"app": "web"}), json!({})), "n2");
    assert_eq!(choose(&board, near("web", HOST), &nodes()), Ok("n2".into()));
}

#[test]
fn affinity_terms_speak_of_the_own_namespace_unless_they_name_others_dp4() {
    let mut board = Board::default();
    let mut elsewhere = (*pod("a", json!({"app": "web"}), json!({}))).clone();
    elsewhere.metadata.namespace = Some("other".into());
    board.place(Arc::new(elsewhere), "n1");
    let labels = |name: &str| (name == "other").then(|| BTreeMap::from([("env".to_owned(), "test".to_owned())]));
    let with = |extra: Value| {
        let mut term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": HOST});
        json_patch::merge(&mut term, &extra);
        let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod("new", json!({}), json!({ "affinity": affinity }))
    };
    let cases = [
        (json!({}), true),
        (json!({"namespaces": ["other"]}), false),
        (json!({"namespaces": ["third"]}), true),
        (json!({"namespaceSelector": {}}), false),
        (json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), false),
        (json!({"namespaceSelector": {"matchLabels": {"env": "live"}}}), true),
    ];
    for (extra, fits) in cases {
        assert_eq!(board.choose(&with(extra.clone()), &nodes()[..1], labels).is_ok(), fits, "{extra}");
    }
}
