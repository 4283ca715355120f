use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn set(spec: Value) -> StatefulSet {
    let mut all = json!({
        "replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": []}},
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
    });
    json_patch::merge(&mut all, &spec);
    serde_json::from_value(json!({"metadata": {"name": "db", "uid": "u", "generation": 2}, "spec": all})).unwrap()
}

fn version(name: &str) -> Version {
    let template = json!({"metadata": {"labels": {"app": "db", "made-of": name}}, "spec": {"containers": []}});
    Version { name: name.into(), template: serde_json::from_value(template).unwrap() }
}

/// A Pod in one of the states: "ready", "unready", "fresh" (ready just now), "going", "failed".
fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
    let name = format!("db-{ordinal}");
    let ready = if matches!(state, "unready" | "failed") { "False" } else { "True" };
    let since = if state == "fresh" { at(-1) } else { at(-600) };
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": "db", REVISION_LABEL: revision,
            POD_NAME_LABEL: name, POD_INDEX_LABEL: ordinal.to_string()}},
        "status": {"phase": if state == "failed" { "Failed" } else { "Running" },
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]},
    });
    if state == "going" {
        pod["metadata"]["deletionTimestamp"] = at(0).to_string().into();
    }
    Arc::new(serde_json::from_value(pod).unwrap())
}

/// What a turn does: "+db-0" is made, "-db-0" goes, "!db-0" is made anew, "~db-0" is mended.
fn turn(set: &StatefulSet, pods: &[(i32, &str, &str)]) -> String {
    let pods = pods.iter().map(|(ordinal, revision, state)| pod(*ordinal, revision, state)).collect();
    let plan = State::of(set, version("old"), version("new"), pods, at(0)).plan();
    let mut all: Vec<String> = plan.create.iter().map(|pod| format!("+{}", pod.name_any())).collect();
    all.extend(plan.recreate.iter().map(|pod| format!("!{}", pod.name_any())));
    all.extend(plan.mend.iter().map(|pod| format!("~{}", pod.name_any())));
    all.extend(plan.delete.iter().map(|pod| format!("-{}", pod.name_any())));
    all.join(" ")
}

#[test]
fn ordered_set_does_one_thing_after_the_other() {
    let s = set(json!({"minReadySeconds": 10}));
    let new = "new";
    for (pods, expected) in [
        (vec![], "+db-0"),
        (vec![(0, new, "unready")], ""),
        (vec![(0, new, "fresh")], ""),
        (vec![(0, new, "ready")], "+db-1"),
        (vec![(0, new, "ready"), (2, new, "ready")], "+db-1"),
        (vec![(0, new, "failed"), (1, new, "ready")], "!db-0"),
        (vec![(0, new, "going"), (1, new, "ready"), (2, new, "ready")], ""),
        (vec![(0, new, "ready"), (1, new, "ready"), (2, new, "ready")], ""),
        // Too many: the highest goes first, and the next when it is gone.
        (vec![(0, new, "ready"), (1, new, "ready"), (2, new, "ready"), (3, new, "ready"), (4, new, "ready")], "-db-4"),
        (vec![(0, new, "ready"), (1, new, "ready"), (2, new, "ready"), (3, new, "ready"), (4, new, "going")], ""),
        // None goes while one before it is not ready, except that one itself.
        (vec![(0, new, "ready"), (1, new, "ready"), (2, new, "unready"), (3, new, "ready")], ""),
        (vec![(0, new, "ready"), (1, new, "ready"), (2, new, "ready"), (3, new, "unready")], "-db-3"),
    ] {
        assert_eq!(turn(&s, &pods), expected, "{pods:?}");
    }
}

#[test]
fn parallel_set_waits_for_nothing() {
    let s = set(json!({"podManagementPolicy": "Parallel"}));
    let new = "new";
    assert_eq!(turn(&s, &[]), "+db-0 +db-1 +db-2");
    assert_eq!(turn(&s, &[(0, new, "unready"), (5, new, "ready"), (7, new, "ready")]), "+db-1 +db-2 -db-7 -db-5");
}

#[test]
fn rolling_update_goes_down_to_the_partition() {
    let old = |states: [&'static str; 3]| -> Vec<_> {
        states.into_iter().zip(0..).map(|(state, ordinal)| (ordinal, "old", state)).collect()
    };
    let ready = ["ready"; 3];
    assert_eq!(turn(&set(json!({})), &old(ready)), "-db-2");
    assert_eq!(turn(&set(json!({})), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")]), "-db-1");
    let partition = |value: i32| set(json!({"updateStrategy": {"rollingUpdate": {"partition": value}}}));
    assert_eq!(turn(&partition(3), &old(ready)), "");
    assert_eq!(turn(&partition(2), &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "ready")]), "");
    let two = set(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}}));
    assert_eq!(turn(&two, &old(ready)), "-db-2 -db-1");
    let parallel = set(json!({"podManagementPolicy": "Parallel"}));
    assert_eq!(turn(&parallel, &[(0, "old", "ready"), (1, "old", "ready"), (2, "new", "unready")]), "");
    let by_hand = set(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    assert_eq!(turn(&by_hand, &old(ready)), "");
}

#[test]
fn pods_below_the_partition_are_made_of_the_current_version() {
    let s = set(json!({"updateStrategy": {"rollingUpdate": {"partition": 1}}, "podManagementPolicy": "Parallel"}));
    let plan = State::of(&s, version("old"), version("new"), Vec::new(), at(0)).plan();
    let made: Vec<_> = plan.create.iter().map(|pod| pod.labels()["made-of"].as_str()).collect();
    assert_eq!(made, ["old", "new", "new"]);
}

#[test]
fn pods_know_who_they_are_and_have_their_claims() {
    let s = set(json!({
        "ordinals": {"start": 5}, "replicas": 1,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}],
    }));
    let state = State::of(&s, version("old"), version("new"), Vec::new(), at(0));
    let pod = state.plan().create.remove(0);
    assert_eq!((pod.name_any().as_str(), &pod.metadata.generate_name), ("db-5", &None));
    let labels = [POD_NAME_LABEL, POD_INDEX_LABEL, REVISION_LABEL].map(|label| pod.labels()[label].as_str());
    assert_eq!(labels, ["db-5", "5", "new"]);
    let spec = pod.spec.unwrap();
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-5"), Some("db")));
    let volume = &spec.volumes.unwrap()[0];
    assert_eq!(volume.persistent_volume_claim.as_ref().unwrap().claim_name, "data-db-5");
    let claim = state.claims_of("db-5").remove(0);
    assert_eq!((claim.name_any().as_str(), claim.labels()["app"].as_str()), ("data-db-5", "db"));
    assert_eq!(claim.owner_references()[0].kind, "StatefulSet");
    assert_eq!(["db-05x", "db-", "dbx-1", "db-7"].map(|name| ordinal("db", name)), [None, None, None, Some(7)]);
}

#[test]
fn status_moves_to_the_update_when_all_are_updated_and_ready() {
    let s = set(json!({}));
    let of = |pods: Vec<Arc<Pod>>| State::of(&s, version("old"), version("new"), pods, at(0)).status().0;
    let partly = of(vec![pod(0, "old", "ready"), pod(1, "new", "unready"), pod(2, "new", "going")]);
    assert_eq!((partly.replicas, partly.ready_replicas, partly.available_replicas), (3, Some(2), Some(2)));
    assert_eq!((partly.current_replicas, partly.updated_replicas), (Some(1), Some(1)));
    assert_eq!(partly.current_revision.as_deref(), Some("old"));
    let done = of((0..3).map(|ordinal| pod(ordinal, "new", "ready")).collect());
    assert_eq!((done.current_replicas, done.updated_replicas), (Some(3), Some(3)));
    assert_eq!(done.current_revision, done.update_revision);
}

#[test]
fn huge_numbers_are_planned_a_burst_at_a_time() {
    let huge = set(json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel", "ordinals": {"start": 5},
        "updateStrategy": {"rollingUpdate": {"maxUnavailable": "100%"}}}));
    let state = State::of(&huge, version("old"), version("new"), vec![pod(7, "old", "ready")], at(0));
    let plan = state.plan();
    assert_eq!((plan.create.len(), plan.delete.len()), (BURST, 0));
    assert_eq!((plan.create[0].name_any(), plan.create[2].name_any()), ("db-5".into(), "db-8".into()));
    assert_eq!(turn(&set(json!({"replicas": i32::MAX})), &[(0, "new", "ready")]), "+db-1");
}

/// Who owns the claims of Pods 0 and, beyond the set's size, 1.
#[test]
fn claims_are_owned_as_the_retention_policy_says() {
    let owners = |when_deleted: &str, when_scaled: &str, before: Value| -> Vec<String> {
        let set = set(json!({"replicas": 1, "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": when_deleted, "whenScaled": when_scaled}}));
        let mut pods = vec![pod(0, "new", "ready"), pod(1, "new", "ready")];
        pods.iter_mut().for_each(|pod| Arc::make_mut(pod).metadata.uid = Some(pod.name_any()));
        let state = State::of(&set, version("new"), version("new"), pods, at(0));
        let claim = |name: &str| -> Option<Arc<PersistentVolumeClaim>> {
            let metadata = json!({"name": name, "ownerReferences": before});
            Some(Arc::new(serde_json::from_value(json!({"metadata": metadata})).unwrap()))
        };
        let text = |(claim, owners): (Arc<PersistentVolumeClaim>, Vec<OwnerReference>)| {
            let owners: Vec<String> = owners.iter().map(|owner| format!("{}/{}", owner.kind, owner.name)).collect();
            format!("{}: {}", claim.name_any(), owners.join(" "))
        };
        state.retained(claim).into_iter().map(text).collect()
    };
    let by = |kind: &str, version: &str, name: &str, uid: &str, controller: bool| {
        json!({"kind": kind, "apiVersion": version, "name": name, "uid": uid, "controller": controller,
            "blockOwnerDeletion": true})
    };
    let set = by("StatefulSet", "apps/v1", "db", "u", true);
    let none = Vec::<String>::new();
    assert_eq!(owners("Retain", "Retain", json!([])), none);
    assert_eq!(owners("Retain", "Retain", json!([set])), ["data-db-0: ", "data-db-1: "]);
    assert_eq!(owners("Delete", "Retain", json!([set])), none);
    assert_eq!(owners("Delete", "Retain", json!([])), ["data-db-0: StatefulSet/db", "data-db-1: StatefulSet/db"]);
    assert_eq!(owners("Retain", "Delete", json!([])), ["data-db-1: Pod/db-1"]);
    assert_eq!(owners("Delete", "Delete", json!([set])), ["data-db-1: Pod/db-1"]);
    // Scaled up again, the Pod of an ordinal owns its claim no more.
    let pod = by("Pod", "v1", "db-0", "db-0", true);
    assert_eq!(owners("Retain", "Delete", json!([pod]))[0], "data-db-0: ");
    let user = by("App", "example.com/v1", "mine", "x", false);
    assert_eq!(owners("Retain", "Delete", json!([user])), ["data-db-1: App/mine Pod/db-1"]);
    let operator = by("App", "example.com/v1", "mine", "x", true);
    assert_eq!(owners("Delete", "Delete", json!([operator])), none);
}
