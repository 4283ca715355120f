use serde_json::{Value, json};

use super::*;

fn deployment(spec: Value) -> Deployment {
    let mut all = json!({
        "replicas": 10,
        "selector": {"matchLabels": {"app": "web"}},
        "revisionHistoryLimit": 2,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "v9"}]}},
    });
    json_patch::merge(&mut all, &spec);
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1, "annotations": {"note": "x"}},
        "spec": all,
    }))
    .unwrap()
}

/// A set of image `v{number}`, made at second `number`, of which `available` replicas are available.
fn set(number: i64, replicas: i32, available: i32) -> Arc<ReplicaSet> {
    noted(number, replicas, available, 10, 13)
}

fn noted(number: i64, replicas: i32, available: i32, desired: i32, most: i32) -> Arc<ReplicaSet> {
    let set = json!({
        "metadata": {"name": format!("web-{number}"), "uid": number.to_string(), "generation": 1,
            "creationTimestamp": format!("2024-01-01T00:00:0{number}Z"),
            "annotations": {"note": "x", REVISION: number.to_string(),
                DESIRED_REPLICAS: desired.to_string(), MAX_REPLICAS: most.to_string()}},
        "spec": {"replicas": replicas, "selector": {}, "template": {
            "metadata": {"labels": {"app": "web", HASH_LABEL: "h"}},
            "spec": {"containers": [{"name": "c", "image": format!("v{number}")}]}}},
        "status": {"replicas": replicas, "availableReplicas": available, "observedGeneration": 1},
    });
    Arc::new(serde_json::from_value(set).unwrap())
}

fn of(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Sets {
    Sets::of(&deployment.spec.as_ref().unwrap().template, sets)
}

/// The sizes that a turn gives to sets, by name.
fn steps(deployment: &Deployment, sets: Vec<Arc<ReplicaSet>>) -> Vec<(String, i32, i32)> {
    let plan = plan(deployment, &of(deployment, sets), Vec::new);
    assert_eq!((&plan.create, plan.delete.len()), (&None, 0));
    plan.update.into_iter().map(|update| (update.set.name_any(), update.from, update.to)).collect()
}

fn step(name: &str, from: i32, to: i32) -> (String, i32, i32) {
    (name.to_owned(), from, to)
}

#[test]
fn surge_is_rounded_up_and_unavailability_down() {
    let share = |text: &str| IntOrString::String(text.into());
    let count = IntOrString::Int;
    for (surge, unavailable, replicas, wanted) in [
        (share("25%"), share("25%"), 10, (3, 2)),
        (share("25%"), share("25%"), 1, (1, 0)),
        (share("0%"), share("10%"), 5, (0, 1)),
        (count(0), count(3), 2, (0, 2)),
        (count(2), count(0), 0, (2, 0)),
    ] {
        let strategy = json!({"rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let spec = deployment(json!({"replicas": replicas, "strategy": strategy})).spec.unwrap();
        let limits = Limits::of(&spec);
        assert_eq!((limits.surge, limits.unavailable), wanted, "{surge:?} {unavailable:?} of {replicas}");
    }
}

#[test]
fn first_set_gets_all_replicas_hash_and_revision() {
    let deployment = deployment(json!({}));
    let plan = plan(&deployment, &of(&deployment, Vec::new()), Vec::new);
    let made = plan.create.unwrap();
    let hash = made.labels()[HASH_LABEL].clone();
    let spec = made.spec.clone().unwrap();
    assert_eq!(made.name_any(), format!("web-{hash}"));
    assert_eq!(spec.replicas, Some(10));
    assert_eq!(spec.selector.match_labels.unwrap()[HASH_LABEL], hash);
    assert_eq!(spec.template.unwrap().metadata.unwrap().labels.unwrap()[HASH_LABEL], hash);
    let annotations: Vec<(&str, &str)> = made.annotations().iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(annotations, [(DESIRED_REPLICAS, "10"), (MAX_REPLICAS, "13"), (REVISION, "1"), ("note", "x")]);
    assert_eq!(made.metadata.owner_references.unwrap()[0].uid, "d");
}

#[test]
fn rollout_goes_by_what_is_available() {
    let d = deployment(json!({}));
    // The new set begins with the room that the surge gives, and the old one gives two.
    let begun = plan(&d, &of(&d, vec![set(1, 10, 10)]), Vec::new).create.unwrap();
    assert_eq!(replicas(&begun), 3);
    assert_eq!(steps(&d, vec![set(1, 10, 10), set(9, 3, 0)]), [step("web-1", 10, 8)]);
    assert_eq!(steps(&d, vec![set(1, 8, 8), set(9, 3, 0)]), [step("web-9", 3, 5)]);
    // Nothing more until new replicas are available.
    assert_eq!(steps(&d, vec![set(1, 8, 8), set(9, 5, 0)]), []);
    assert_eq!(steps(&d, vec![set(1, 8, 8), set(9, 5, 2)]), [step("web-1", 8, 6)]);
    assert_eq!(steps(&d, vec![set(1, 2, 2), set(9, 10, 9)]), [step("web-1", 2, 0)]);
}

#[test]
fn replicas_of_old_sets_that_are_not_available_go_first() {
    let d = deployment(json!({}));
    // Of three unavailable ones at most those go that leave eight wanted; the oldest set is cleaned first.
    assert_eq!(steps(&d, vec![set(1, 4, 2), set(2, 5, 4), set(9, 4, 4)]), [step("web-1", 4, 0), step("web-2", 5, 4)]);
    // A rollout that is stuck on a bad image keeps what is available.
    assert_eq!(steps(&d, vec![set(1, 8, 8), set(9, 5, 0)]), []);
}

#[test]
fn new_set_that_is_too_large_is_cut_down() {
    let d = deployment(json!({"replicas": 3}));
    assert_eq!(steps(&d, vec![noted(9, 5, 5, 3, 6)]), [step("web-9", 5, 3)]);
}

#[test]
fn change_of_replicas_during_a_rollout_is_shared_in_proportion() {
    let up = deployment(json!({"replicas": 15}));
    assert_eq!(steps(&up, vec![set(1, 8, 8), set(9, 5, 2)]), [step("web-1", 8, 11), step("web-9", 5, 7)]);
    let down = deployment(json!({"replicas": 5}));
    assert_eq!(steps(&down, vec![set(1, 8, 8), set(9, 5, 2)]), [step("web-1", 8, 5), step("web-9", 5, 3)]);
    let none = deployment(json!({"replicas": 0}));
    assert_eq!(steps(&none, vec![set(1, 8, 8), set(9, 5, 2)]), [step("web-1", 8, 0), step("web-9", 5, 0)]);
    // Only one set is active: it gets all.
    assert_eq!(steps(&up, vec![set(1, 0, 0), set(9, 10, 10)]), [step("web-9", 10, 15)]);
    // The rollout is over but for old replicas.
    assert_eq!(steps(&deployment(json!({})), vec![noted(1, 2, 2, 9, 12), set(9, 10, 10)]), [step("web-1", 2, 0)]);
}

#[test]
fn paused_deployment_is_scaled_and_not_rolled() {
    let d = deployment(json!({"paused": true}));
    let sets = of(&d, vec![set(1, 10, 10)]);
    assert_eq!(plan(&d, &sets, Vec::new), Plan::default());
    let d = deployment(json!({"paused": true, "replicas": 4}));
    assert_eq!(steps(&d, vec![set(1, 10, 10)]), [step("web-1", 10, 4)]);
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let d = deployment(json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    let old = |replicas| vec![noted(1, replicas, replicas, 10, 10)];
    assert_eq!(steps(&d, old(10)), [step("web-1", 10, 0)]);
    let pod = |phase: &str| -> Arc<Pod> {
        let owner =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "1", "controller": true}]);
        let pod = json!({"metadata": {"ownerReferences": owner}, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    assert_eq!(plan(&d, &of(&d, old(0)), || vec![pod("Running")]), Plan::default());
    let made = plan(&d, &of(&d, old(0)), || vec![pod("Succeeded")]).create.unwrap();
    assert_eq!(replicas(&made), 10);
}

#[test]
fn going_back_to_an_old_template_makes_its_set_the_newest() {
    let d = deployment(json!({}));
    let plan = plan(&d, &of(&d, vec![noted(9, 0, 0, 10, 13), set(1, 10, 10)]), Vec::new);
    assert_eq!(plan, Plan::default().into_rolling(&d));
    let mut back = (*set(9, 0, 0)).clone();
    back.annotations_mut().insert(REVISION.into(), "1".into());
    let mut later = (*set(1, 10, 10)).clone();
    later.annotations_mut().insert(REVISION.into(), "2".into());
    let plan = super::plan(&d, &of(&d, vec![Arc::new(back), Arc::new(later)]), Vec::new);
    let changed = &plan.update[0].set;
    assert_eq!(
        (changed.annotations()[REVISION].as_str(), changed.annotations()[REVISION_HISTORY].as_str()),
        ("3", "1")
    );
}

impl Plan {
    /// The first step of a rollout to a set that is there already.
    fn into_rolling(self, deployment: &Deployment) -> Self {
        let limits = Limits::of(deployment.spec.as_ref().unwrap());
        let step = update(deployment, &noted(9, 0, 0, 10, 13), 3, limits).unwrap();
        Self { update: vec![step], ..self }
    }
}

#[test]
fn history_beyond_its_limit_goes_when_the_rollout_is_complete() {
    let mut d = deployment(json!({}));
    let sets = || vec![set(1, 0, 0), set(2, 0, 0), set(3, 0, 0), set(4, 0, 0), set(9, 10, 10)];
    let gone = plan(&d, &of(&d, sets()), Vec::new).delete;
    assert_eq!(gone.iter().map(|set| set.name_any()).collect::<Vec<_>>(), ["web-1", "web-2"]);
    let mut unfinished = sets();
    unfinished[4] = set(9, 10, 9);
    assert_eq!(plan(&d, &of(&d, unfinished), Vec::new).delete, []);
    d.spec.as_mut().unwrap().revision_history_limit = Some(9);
    assert_eq!(plan(&d, &of(&d, sets()), Vec::new), Plan::default());
}
