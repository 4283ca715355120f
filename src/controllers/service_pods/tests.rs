use serde_json::{Value, json};

use super::*;
use crate::cluster::Writers;

struct World {
    index: ServicePods,
    writers: Writers,
}

impl World {
    fn new() -> Self {
        let (cluster, writers) = Cluster::new();
        Self { index: ServicePods::new(cluster), writers }
    }

    /// Applies the object to the cache and returns the Services that the change concerns.
    fn pod(&self, pod: Value) -> Vec<String> {
        let new: Pod = serde_json::from_value(pod).unwrap();
        let old = self.index.cluster.pods.get(&new.namespace().unwrap(), &new.name_any());
        self.writers.pods.apply(new.clone());
        names(self.index.pod_changed(&Change::Applied { old, new: Arc::new(new) }))
    }

    fn delete_pod(&self, name: &str) -> Vec<String> {
        let old = self.index.cluster.pods.get("default", name).unwrap();
        self.writers.pods.delete(&ObjectKey::of(&*old));
        names(self.index.pod_changed(&Change::Deleted(old)))
    }

    fn service(&self, name: &str, selector: Value) {
        self.index.service_changed(&Change::Applied { old: None, new: Arc::new(service(name, selector)) });
    }

    fn node(&self, name: &str, zone: &str) -> Vec<String> {
        let labels = json!({"metadata": {"name": name, "labels": {ZONE_LABEL: zone}}});
        let new: Node = serde_json::from_value(labels).unwrap();
        let old = self.index.cluster.nodes.get("", name);
        self.writers.nodes.apply(new.clone());
        names(self.index.node_changed(&Change::Applied { old, new: Arc::new(new) }))
    }

    fn pods_of(&self, selector: Value) -> Vec<String> {
        self.index.pods_of(&service("any", selector)).iter().map(|pod| pod.name_any()).collect()
    }
}

fn names(outcome: Outcome) -> Vec<String> {
    let Outcome::Concerns(mut keys) = outcome else { panic!("a mark") };
    keys.sort();
    keys.into_iter().map(|key| key.name).collect()
}

fn service(name: &str, selector: Value) -> Service {
    let metadata = json!({"name": name, "namespace": "default"});
    serde_json::from_value(json!({"metadata": metadata, "spec": {"selector": selector}})).unwrap()
}

fn pod(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": {"containers": []}})
}

#[test]
fn pod_concerns_services_whose_selector_matches_its_old_or_new_labels() {
    let world = World::new();
    world.service("web", json!({"app": "web"}));
    world.service("front", json!({"app": "web", "tier": "front"}));
    world.service("db", json!({"app": "db"}));
    world.service("all", json!({}));
    world.service("none", Value::Null);
    assert_eq!(world.pod(pod("p", json!({"app": "web"}))), ["all", "web"]);
    assert_eq!(world.pod(pod("p", json!({"app": "web", "tier": "front"}))), ["all", "all", "front", "web", "web"]);
    assert_eq!(world.pod(pod("p", json!({"app": "db"}))), ["all", "all", "db", "front", "web"]);
    assert_eq!(world.delete_pod("p"), ["all", "db"]);
    assert_eq!(world.pod(json!({"metadata": {"name": "p", "namespace": "other", "labels": {"app": "web"}}})), [""; 0]);
}

#[test]
fn changes_that_endpoints_do_not_show_concern_nobody() {
    let world = World::new();
    world.service("web", json!({"app": "web"}));
    let labels = json!({"app": "web"});
    world.pod(pod("p", labels.clone()));
    let steps = [
        (json!({"status": {"podIP": "10.0.0.1"}}), true),
        (json!({"status": {"podIP": "10.0.0.1", "message": "hello"}}), false),
        (json!({"status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}), true),
        (
            json!({"status": {"podIP": "10.0.0.1", "conditions": [
                {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}]}}),
            false,
        ),
        (json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}), true),
        (json!({"status": {"phase": "Failed"}}), true),
        (json!({"spec": {"nodeName": "n1"}}), true),
    ];
    let mut state = pod("p", labels);
    for (change, concerned) in steps {
        json_patch::merge(&mut state, &change);
        assert_eq!(world.pod(state.clone()).len(), usize::from(concerned), "{change}");
    }
}

#[test]
fn selected_pods_carry_every_pair_and_stay_in_the_namespace() {
    let world = World::new();
    world.pod(pod("b", json!({"app": "web", "tier": "front"})));
    world.pod(pod("a", json!({"app": "web"})));
    world.pod(pod("c", json!({"app": "db", "tier": "front"})));
    world.pod(json!({"metadata": {"name": "d", "namespace": "other", "labels": {"app": "web"}}}));
    assert_eq!(world.pods_of(json!({"app": "web"})), ["a", "b"]);
    assert_eq!(world.pods_of(json!({"app": "web", "tier": "front"})), ["b"]);
    assert_eq!(world.pods_of(json!({"app": "web", "absent": "x"})), [""; 0]);
    assert_eq!(world.pods_of(json!({})), ["a", "b", "c"], "ES1: an empty selector matches everything");
    assert_eq!(world.pods_of(Value::Null), [""; 0], "ES1: no selector matches nothing");
}

#[test]
fn service_is_filed_under_its_present_selector_only() {
    let world = World::new();
    world.service("web", json!({"app": "web"}));
    world.service("web", json!({"app": "new"}));
    assert_eq!(world.pod(pod("p", json!({"app": "web"}))), [""; 0]);
    assert_eq!(world.pod(pod("q", json!({"app": "new"}))), ["web"]);
    world.index.service_changed(&Change::Deleted(Arc::new(service("web", json!({"app": "new"})))));
    assert_eq!(world.delete_pod("q"), [""; 0]);
    world.delete_pod("p");
    assert!(world.index.index.lock().namespaces.is_empty(), "nothing is kept of what is gone");
}

#[test]
fn node_concerns_the_services_of_its_pods_when_it_comes_or_moves_es7_es9() {
    let world = World::new();
    world.service("web", json!({"app": "web"}));
    world.service("db", json!({"app": "db"}));
    let mut on_n1 = pod("p", json!({"app": "web"}));
    on_n1["spec"]["nodeName"] = "n1".into();
    world.pod(on_n1);
    world.pod(pod("q", json!({"app": "db"})));
    assert_eq!(world.node("n1", "a"), ["web"]);
    assert_eq!(world.node("n1", "a"), [""; 0], "a heartbeat is no change");
    assert_eq!(world.node("n1", "b"), ["web"]);
    assert_eq!(world.node("n2", "b"), [""; 0]);
}

#[test]
fn node_whose_cpus_change_concerns_services_that_are_hinted_by_them_es22() {
    let world = World::new();
    let mut by_shares = service("shares", json!({"app": "web"}));
    by_shares.metadata.annotations =
        serde_json::from_value(json!({"service.kubernetes.io/topology-mode": "Auto"})).unwrap();
    world.writers.services.apply(by_shares);
    world.writers.services.apply(service("other", json!({"app": "web"})));
    let node = |cpu: &str| {
        let new: Node = serde_json::from_value(json!({"metadata": {"name": "n1", "labels": {ZONE_LABEL: "a"}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap();
        let old = world.index.cluster.nodes.get("", "n1");
        world.writers.nodes.apply(new.clone());
        names(world.index.node_changed(&Change::Applied { old, new: Arc::new(new) }))
    };
    assert_eq!(node("4"), ["shares"]);
    assert_eq!(node("4"), [""; 0]);
    assert_eq!(node("8"), ["shares"]);
}
