use std::sync::Arc;

use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn deployment(spec: Value, status: Value) -> Deployment {
    let mut all = json!({"replicas": 3, "progressDeadlineSeconds": 60, "selector": {},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {}, "spec": {"containers": []}}});
    json_patch::merge(&mut all, &spec);
    let value = json!({"metadata": {"name": "web", "generation": 4}, "spec": all, "status": status});
    serde_json::from_value(value).unwrap()
}

fn set(name: &str, replicas: i32, ready: i32, available: i32) -> Arc<ReplicaSet> {
    let value = json!({"metadata": {"name": name}, "spec": {"replicas": replicas, "selector": {}},
        "status": {"replicas": replicas, "readyReplicas": ready, "availableReplicas": available}});
    Arc::new(serde_json::from_value(value).unwrap())
}

fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let all = status.conditions.as_ref()?;
    let found = all.iter().find(|condition| condition.type_ == kind)?;
    Some((&found.status, found.reason.as_deref()?, found.message.as_deref()?))
}

/// The status after each of these turns, one written after the other.
fn turns(spec: Value, turns: Vec<(i64, Sets, Deed)>) -> Vec<(DeploymentStatus, Option<Duration>)> {
    let mut before = json!({});
    let mut all = Vec::new();
    for (second, sets, deed) in turns {
        let found = status(&deployment(spec.clone(), before), &sets, deed, at(second));
        before = serde_json::to_value(&found.0).unwrap();
        all.push(found);
    }
    all
}

#[test]
fn rollout_is_told_from_the_first_set_to_its_end() {
    let sets = |new, old: &[Arc<ReplicaSet>]| Sets { new: Some(new), old: old.to_vec() };
    let found = turns(
        json!({}),
        vec![
            (0, sets(set("new", 3, 0, 0), &[]), Deed::Created("new".into())),
            (5, sets(set("new", 3, 2, 2), &[]), Deed::Found("new".into())),
            (6, sets(set("new", 3, 2, 2), &[]), Deed::Found("new".into())),
            (9, sets(set("new", 3, 3, 3), &[]), Deed::Found("new".into())),
        ],
    );
    let expected = [
        ("True", "NewReplicaSetCreated", "Created new replica set \"new\""),
        ("True", "ReplicaSetUpdated", "ReplicaSet \"new\" is progressing."),
        ("True", "ReplicaSetUpdated", "ReplicaSet \"new\" is progressing."),
        ("True", "NewReplicaSetAvailable", "ReplicaSet \"new\" has successfully progressed."),
    ];
    let progress: Vec<_> = found.iter().map(|(status, _)| condition(status, PROGRESSING).unwrap()).collect();
    // Created sets report Pods at once: that is progress.
    assert_eq!(progress[1..], expected[1..]);
    assert_eq!(found[2].0, found[1].0, "a turn without news writes nothing");
    assert_eq!(found[2].1, Some(Duration::from_secs(59)), "the deadline counts from the last progress");
    assert_eq!(found[3].1, None);
    let available: Vec<_> = found.iter().map(|(status, _)| condition(status, AVAILABLE).unwrap().0).collect();
    assert_eq!(available, ["False", "False", "False", "True"]);
    let (last, counts) = (&found[3].0, &found[1].0);
    assert_eq!((counts.unavailable_replicas, last.unavailable_replicas), (Some(1), None));
    let since = |status: &DeploymentStatus| {
        let all = status.conditions.clone().unwrap();
        all.into_iter().find(|condition| condition.type_ == PROGRESSING).unwrap().last_transition_time.unwrap().0
    };
    assert_eq!(since(last), at(0), "it was True all the time");
}

#[test]
fn rollout_that_does_not_move_runs_out_of_time_once() {
    let sets = || Sets { new: Some(set("new", 1, 0, 0)), old: vec![set("old", 3, 3, 3)] };
    let found = turns(
        json!({}),
        vec![
            (0, sets(), Deed::Created("new".into())),
            (1, sets(), Deed::Found("new".into())),
            (62, sets(), Deed::Found("new".into())),
            (99, sets(), Deed::Found("new".into())),
        ],
    );
    let timed_out = ("False", TIMED_OUT, "ReplicaSet \"new\" has timed out progressing.");
    assert_eq!(condition(&found[2].0, PROGRESSING), Some(timed_out));
    assert_eq!((&found[3].0, found[3].1), (&found[2].0, None));
    assert_eq!(condition(&found[2].0, AVAILABLE).unwrap().0, "True");
}

#[test]
fn pause_stops_the_clock_and_resume_starts_it() {
    let sets = || Sets { new: Some(set("new", 1, 0, 0)), old: vec![set("old", 3, 3, 3)] };
    let before = json!({"replicas": 4, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3});
    let paused = status(&deployment(json!({"paused": true}), before), &sets(), Deed::Nothing, at(0));
    assert_eq!(condition(&paused.0, PROGRESSING), Some(("Unknown", PAUSED, "Deployment is paused")));
    assert_eq!(paused.1, None);
    let written = serde_json::to_value(&paused.0).unwrap();
    let resumed = status(&deployment(json!({}), written), &sets(), Deed::Found("new".into()), at(500));
    assert_eq!(condition(&resumed.0, PROGRESSING), Some(("Unknown", "DeploymentResumed", "Deployment is resumed")));
    assert_eq!(resumed.1, Some(Duration::from_secs(60)));
}

#[test]
fn failure_of_a_set_is_the_deployments() {
    let mut failing = (*set("new", 3, 0, 0)).clone();
    failing.status.as_mut().unwrap().conditions = serde_json::from_value(
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no"}]),
    )
    .unwrap();
    let sets = Sets { new: Some(Arc::new(failing)), old: Vec::new() };
    let (found, _) = status(&deployment(json!({}), json!({})), &sets, Deed::Nothing, at(0));
    assert_eq!(condition(&found, REPLICA_FAILURE), Some(("True", "FailedCreate", "no")));
    let error = Deed::NotCreated { name: "new".into(), error: "no".into() };
    let (found, _) = status(&deployment(json!({}), json!({})), &sets, error, at(0));
    let message = "Failed to create new replica set \"new\": no";
    assert_eq!(condition(&found, PROGRESSING), Some(("False", "ReplicaSetCreateError", message)));
}
