use serde_json::{Value, json};

use super::*;

fn pod(change: Value) -> Pod {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default", "uid": "u"},
        "spec": {"containers": [], "schedulerName": "default-scheduler"}});
    json_patch::merge(&mut pod, &change);
    serde_json::from_value(pod).unwrap()
}

#[test]
fn only_pods_that_wait_for_this_scheduler_are_placed() {
    let cases = [
        (json!({}), true),
        (json!({"spec": {"nodeName": ""}}), true),
        (json!({"spec": {"nodeName": "n1"}}), false),
        (json!({"spec": {"schedulerName": "mine"}}), false),
        (json!({"spec": {"schedulingGates": [{"name": "wait"}]}}), false),
        (json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}}), false),
        (json!({"status": {"phase": "Failed"}}), false),
    ];
    for (change, expected) in cases {
        assert_eq!(awaits_us(&pod(change.clone())), expected, "{change}");
    }
}

#[test]
fn refusal_is_written_once_and_keeps_other_conditions_and_its_time() {
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let before =
        pod(json!({"metadata": {"generation": 3}, "status": {"conditions": [{"type": "Mine", "status": "True"}]}}));
    let written = conditions_with_refusal(&before, "no room", at("2024-01-01T00:00:00Z")).unwrap();
    assert_eq!(
        serde_json::to_value(&written).unwrap(),
        json!([
            {"type": "Mine", "status": "True"},
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room",
                "lastTransitionTime": "2024-01-01T00:00:00Z", "observedGeneration": 3},
        ])
    );
    let refused = pod(json!({"status": {"conditions": written}}));
    assert_eq!(conditions_with_refusal(&refused, "no room", at("2024-01-02T00:00:00Z")), None);
    let other = conditions_with_refusal(&refused, "no port", at("2024-01-02T00:00:00Z")).unwrap();
    assert_eq!(other[1].message.as_deref(), Some("no port"));
    assert_eq!(other[1].last_transition_time, written[1].last_transition_time, "the status did not change");
}
