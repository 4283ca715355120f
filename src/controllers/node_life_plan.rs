//! What the state of a node means: its conditions when it is lost, its taints, and how long Pods may stay. Pure
//! (`k8s.io/kubernetes/pkg/controller/nodelifecycle` and `tainteviction`).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::placement::tolerates_taint;
use super::runner::sooner;

const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that keep new Pods away while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// The conditions that an agent tells of.
const TOLD: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// Whether the node's agent still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pulse {
    Beats,
    /// It is lost after this time unless its Lease is renewed.
    Fades(Duration),
    Lost,
}

/// A Lease without a duration holds as long as vipyard runs; the agent of a node that is stopped leaves one with a
/// duration behind. An agent that has told of its node since then lives, also when its new Lease is not seen yet.
pub(super) fn pulse(lease: Option<&Lease>, heartbeat: Option<Timestamp>, grace: Duration, now: Timestamp) -> Pulse {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else { return Pulse::Beats };
    let (Some(_), Some(renewed)) = (spec.lease_duration_seconds, &spec.renew_time) else { return Pulse::Beats };
    if heartbeat.is_some_and(|heartbeat| heartbeat > renewed.0) {
        return Pulse::Beats;
    }
    match grace.checked_sub(Duration::try_from(now.duration_since(renewed.0)).unwrap_or_default()) {
        Some(left) if !left.is_zero() => Pulse::Fades(left),
        _ => Pulse::Lost,
    }
}

fn ready_condition(node: &Node) -> Option<&NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

/// When the node's agent last told that it is ready.
pub(super) fn heartbeat(node: &Node) -> Option<Timestamp> {
    ready_condition(node)?.last_heartbeat_time.as_ref().map(|time| time.0)
}

pub(super) fn ready_status(node: &Node) -> Option<&str> {
    Some(&ready_condition(node)?.status)
}

/// The conditions of a node that is lost, if they do not say so yet.
pub(super) fn lost_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    if ready_status(node) == Some("Unknown") {
        return None;
    }
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for kind in TOLD {
        if !conditions.iter().any(|condition| condition.type_ == kind) {
            conditions.push(NodeCondition { type_: kind.into(), ..NodeCondition::default() });
        }
    }
    for condition in conditions.iter_mut().filter(|condition| TOLD.contains(&condition.type_.as_str())) {
        condition.status = "Unknown".into();
        condition.reason = Some("NodeStatusUnknown".into());
        condition.message = Some("Kubelet stopped posting node status.".into());
        condition.last_transition_time = Some(Time(now));
    }
    Some(conditions)
}

/// The node's taints as they should be, if they are not. Those of others stay.
pub(super) fn taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let status = |kind: &str| {
        let conditions = node.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind).map(|condition| condition.status.as_str())
    };
    let mut wanted = Vec::new();
    match status("Ready") {
        Some("False") => wanted.extend([(NOT_READY, NO_SCHEDULE), (NOT_READY, NO_EXECUTE)]),
        Some("Unknown") => wanted.extend([(UNREACHABLE, NO_SCHEDULE), (UNREACHABLE, NO_EXECUTE)]),
        _ => {}
    }
    wanted
        .extend(PRESSURES.iter().filter(|(kind, _)| status(kind) == Some("True")).map(|(_, key)| (*key, NO_SCHEDULE)));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let ours = |taint: &Taint| {
        let conditional = PRESSURES.iter().map(|(_, key)| *key).chain([UNSCHEDULABLE]);
        let either = [NO_SCHEDULE, NO_EXECUTE].contains(&taint.effect.as_str());
        ([UNREACHABLE, NOT_READY].contains(&taint.key.as_str()) && either)
            || (taint.effect == NO_SCHEDULE && conditional.into_iter().any(|key| key == taint.key))
    };
    let before = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut taints = before.clone();
    taints.retain(|taint| !ours(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())));
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let time_added = Some(Time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), time_added, value: None });
        }
    }
    (taints != before).then_some(taints)
}

/// Whether the node has taints that drive Pods away.
pub(super) fn drives_away(node: &Node) -> bool {
    no_execute(node).next().is_some()
}

fn no_execute(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == NO_EXECUTE)
}

/// How long a Pod may stay on its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stay {
    Forever,
    For(Duration),
    /// Not at all, or its time is over.
    Over,
}

/// The Pod must tolerate every taint; the shortest time counts, from when the taint and the Pod were both there.
pub(super) fn stay(pod: &Pod, node: &Node, now: Timestamp) -> Stay {
    let tolerations = pod.spec.iter().flat_map(|spec| spec.tolerations.iter().flatten());
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let came = scheduled.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let mut end: Option<Timestamp> = None;
    for taint in no_execute(node) {
        let mut fitting = tolerations.clone().filter(|toleration| tolerates_taint(toleration, taint)).peekable();
        if fitting.peek().is_none() {
            return Stay::Over;
        }
        let Some(seconds) = fitting.filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let since = taint.time_added.as_ref().map(|time| time.0).max(came).unwrap_or(now);
        let until = since.checked_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
        end = sooner(end, Some(until));
    }
    match end.map(|end| Duration::try_from(end.duration_since(now))) {
        None => Stay::Forever,
        Some(Ok(left)) if !left.is_zero() => Stay::For(left),
        Some(_) => Stay::Over,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn node(ready: &str, spec: Value) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec, "status": {"conditions": [
            {"type": "Ready", "status": ready}, {"type": "DiskPressure", "status": "False"}]}}))
        .unwrap()
    }

    fn texts(taints: &[Taint]) -> Vec<String> {
        taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect()
    }

    #[test]
    fn lease_with_a_duration_runs_out_after_the_grace_period() {
        let lease = |duration: Option<i32>| -> Lease {
            let spec = json!({"renewTime": format!("{:.6}", at(0)), "leaseDurationSeconds": duration});
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap()
        };
        let grace = Duration::from_secs(50);
        assert_eq!(pulse(None, None, grace, at(99)), Pulse::Beats);
        assert_eq!(pulse(Some(&lease(None)), None, grace, at(99)), Pulse::Beats);
        let last = lease(Some(50));
        assert_eq!(pulse(Some(&last), None, grace, at(20)), Pulse::Fades(Duration::from_secs(30)));
        assert_eq!(pulse(Some(&last), Some(at(-9)), grace, at(50)), Pulse::Lost);
        assert_eq!(pulse(Some(&last), Some(at(60)), grace, at(60)), Pulse::Beats);
    }

    #[test]
    fn lost_node_says_that_nothing_is_known() {
        let lost = lost_conditions(&node("True", json!({})), at(7)).unwrap();
        assert_eq!(lost.len(), 4);
        assert!(lost.iter().all(|condition| condition.status == "Unknown"));
        assert_eq!(lost_conditions(&node("Unknown", json!({})), at(8)), None);
    }

    #[test]
    fn taints_follow_conditions_and_cordons() {
        let team = json!([{"key": "team", "effect": "NoExecute"}]);
        let with = |ready, spec| taints(&node(ready, spec), at(0)).map(|taints| texts(&taints));
        assert_eq!(with("True", json!({"taints": team})), None);
        let lost = with("Unknown", json!({"taints": team, "unschedulable": true})).unwrap();
        let expected =
            ["team:NoExecute", "node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"];
        assert_eq!(lost[..3], expected);
        assert_eq!(lost[3..], ["node.kubernetes.io/unschedulable:NoSchedule"]);
        let old = json!({"taints": [{"key": UNREACHABLE, "effect": "NoExecute"}, {"key": UNSCHEDULABLE, "effect": "NoSchedule"}]});
        assert_eq!(with("True", old.clone()), Some(Vec::new()));
        let expected = ["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"];
        assert_eq!(with("False", old).unwrap(), expected);
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate_every_taint() {
        let taint = |key: &str| json!({"key": key, "effect": "NoExecute", "timeAdded": at(0).to_string()});
        let tolerate = |key: &str, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let stays = |tolerations: Value, keys: &[&str], second| {
            let taints: Vec<Value> = keys.iter().map(|key| taint(key)).collect();
            let conditions =
                json!([{"type": "PodScheduled", "status": "True", "lastTransitionTime": at(-5).to_string()}]);
            let pod =
                json!({"spec": {"containers": [], "tolerations": tolerations}, "status": {"conditions": conditions}});
            stay(&serde_json::from_value(pod).unwrap(), &node("True", json!({"taints": taints})), at(second))
        };
        assert_eq!(stays(json!([]), &["a"], 0), Stay::Over);
        assert_eq!(stays(json!([tolerate("a", None)]), &["a"], 900), Stay::Forever);
        assert_eq!(stays(json!([tolerate("a", Some(300))]), &["a"], 100), Stay::For(Duration::from_secs(200)));
        assert_eq!(stays(json!([tolerate("a", Some(300))]), &["a"], 300), Stay::Over);
        assert_eq!(stays(json!([tolerate("a", Some(300))]), &["a", "b"], 0), Stay::Over);
        let both = json!([tolerate("a", Some(300)), tolerate("b", Some(60))]);
        assert_eq!(stays(both, &["a", "b"], 0), Stay::For(Duration::from_secs(60)));
    }
}
