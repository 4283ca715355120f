//! The numbers of a PodDisruptionBudget's status, as `k8s.io/kubernetes/pkg/controller/disruption` works them out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::endpoint_model::pod_ready;
use crate::api::kinds::scaled_up;

/// An eviction that has not become a deletion by then never will.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// Whether the number of Pods that should be there comes from their controllers and not from counting them.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// The status of a budget over `pods`, which it selects. `scale` is how many Pods their controllers want.
pub(super) fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: i64,
    now: Timestamp,
) -> PodDisruptionBudgetStatus {
    let spec = budget.spec.clone().unwrap_or_default();
    let before = budget.status.clone().unwrap_or_default();
    let count = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let expected = if needs_scale(&spec) { scale } else { count };
    let desired = match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => (expected - scaled_up(unavailable, expected)).max(0),
        (None, Some(available)) => scaled_up(available, expected),
        (None, None) => 0,
    };
    let disrupted = disrupted(before.disrupted_pods.clone().unwrap_or_default(), pods, now);
    let healthy = pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    // A budget over no Pods allows nothing, so that it holds when the first of them appear.
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let number = |n: i64| Some(i32::try_from(n).unwrap_or(i32::MAX));
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    PodDisruptionBudgetStatus {
        conditions: Some(conditions(&before, budget.metadata.generation, allowed > 0, reason, "", now)),
        current_healthy: number(healthy),
        desired_healthy: number(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: number(allowed),
        expected_pods: number(expected),
        observed_generation: budget.metadata.generation,
    }
}

/// The status of a budget whose numbers cannot be had: nothing may be disrupted.
pub(super) fn failed(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let before = budget.status.clone().unwrap_or_default();
    PodDisruptionBudgetStatus {
        conditions: Some(conditions(&before, budget.metadata.generation, false, "SyncFailed", why, now)),
        disruptions_allowed: Some(0),
        observed_generation: budget.metadata.generation,
        ..before
    }
}

/// When the next announced eviction is given up.
pub(super) fn next_expiry(status: &PodDisruptionBudgetStatus) -> Option<Timestamp> {
    let times = status.disrupted_pods.iter().flatten().map(|(_, time)| time.0);
    times.min().and_then(|time| time.checked_add(DELETION_TIMEOUT).ok())
}

fn conditions(
    before: &PodDisruptionBudgetStatus,
    generation: Option<i64>,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let status = if allowed { "True" } else { "False" };
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let same = conditions.iter().find(|condition| condition.type_ == ALLOWED && condition.status == status);
    let since = same.map_or(Time(now), |condition| condition.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: since,
    };
    conditions.retain(|condition| condition.type_ != ALLOWED);
    conditions.push(condition);
    conditions
}

/// Evictions that are announced and neither done nor given up.
fn disrupted(before: BTreeMap<String, Time>, pods: &[Arc<Pod>], now: Timestamp) -> BTreeMap<String, Time> {
    let pending = |name: &str, time: &Time| {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_deref() == Some(name));
        pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none())
            && time.0.checked_add(DELETION_TIMEOUT).is_ok_and(|deadline| deadline > now)
    };
    before.into_iter().filter(|(name, time)| pending(name, time)).collect()
}

fn is_healthy(pod: &Pod, disrupted: &BTreeMap<String, Time>) -> bool {
    let leaving = pod.metadata.name.as_ref().is_some_and(|name| disrupted.contains_key(name));
    pod_ready(pod) && !leaving && pod.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn budget(spec: Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({"metadata": {"name": "b", "generation": 3}, "spec": spec})).unwrap()
    }

    fn pod(name: &str, ready: bool, deleting: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let mut pod =
            json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": status}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn allowed_disruptions_are_healthy_minus_desired() {
        let pods = [pod("a", true, false), pod("b", true, false), pod("c", false, false), pod("d", true, true)];
        // (spec, scale, desired, allowed, expected)
        for (spec, scale, desired, allowed, expected) in [
            (json!({"minAvailable": 1}), 0, 1, 1, 4),
            (json!({"minAvailable": 2}), 0, 2, 0, 4),
            (json!({"minAvailable": "50%"}), 3, 2, 0, 3),
            (json!({"maxUnavailable": 1}), 2, 1, 1, 2),
            (json!({"maxUnavailable": "100%"}), 4, 0, 2, 4),
            (json!({"maxUnavailable": 5}), 4, 0, 2, 4),
            (json!({"maxUnavailable": 1}), 0, 0, 0, 0),
        ] {
            let status = status(&budget(spec.clone()), &pods, scale, Timestamp::UNIX_EPOCH);
            let found = (status.desired_healthy, status.disruptions_allowed, status.expected_pods);
            assert_eq!(found, (Some(desired), Some(allowed), Some(expected)), "{spec}");
            assert_eq!((status.current_healthy, status.observed_generation), (Some(2), Some(3)));
            let condition = &status.conditions.unwrap()[0];
            assert_eq!(condition.status == "True", allowed > 0, "{spec}");
        }
    }

    #[test]
    fn announced_evictions_count_until_they_are_given_up() {
        let pods = [pod("a", true, false), pod("b", true, false)];
        let mut budget = budget(json!({"minAvailable": 1}));
        let start = Timestamp::UNIX_EPOCH;
        budget.status = Some(PodDisruptionBudgetStatus {
            disrupted_pods: Some([("a".into(), Time(start)), ("gone".into(), Time(start))].into()),
            ..PodDisruptionBudgetStatus::default()
        });
        let soon = status(&budget, &pods, 0, start + SignedDuration::from_secs(60));
        assert_eq!((soon.current_healthy, soon.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(soon.disrupted_pods.as_ref().unwrap().len(), 1);
        assert_eq!(next_expiry(&soon), Some(start + DELETION_TIMEOUT));
        let later = status(&budget, &pods, 0, start + SignedDuration::from_secs(121));
        assert_eq!((later.current_healthy, later.disruptions_allowed), (Some(2), Some(1)));
        assert!(later.disrupted_pods.is_none());
    }
}
