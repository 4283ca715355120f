//! Which Pods a ReplicaSet lets go, and what its status says (`k8s.io/kubernetes/pkg/controller/replicaset`).

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use rustc_hash::FxHashMap;

use super::pods::{is_active, is_available, is_ready, node_name, phase, ready_since};
use super::{counted, positive};
use crate::controllers::endpoint_model::restartable;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
pub(super) const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What a set wants, whichever its kind.
pub(super) struct Desired {
    pub(super) replicas: i32,
    pub(super) min_ready_seconds: i32,
    pub(super) template: PodTemplateSpec,
}

/// The `count` Pods to delete first: those without a node, pending, not ready, of low deletion cost, doubled up on a
/// node, ready for a short time, with many restarts, young. `related` are the Pods of all sets of the same owner.
pub(super) fn victims(pods: &[Arc<Pod>], related: &[Arc<Pod>], count: usize, now: Timestamp) -> Vec<Arc<Pod>> {
    if count >= pods.len() {
        return pods.to_vec();
    }
    let mut on_node: FxHashMap<&str, usize> = FxHashMap::default();
    for pod in related.iter().filter(|pod| is_active(pod)) {
        *on_node.entry(node_name(pod)).or_default() += 1;
    }
    let mut ranked: Vec<_> =
        pods.iter().map(|pod| (Rank::of(pod, on_node.get(node_name(pod)).copied().unwrap_or(0), now), pod)).collect();
    ranked.sort_by(|(a, _), (b, _)| a.cmp(b));
    ranked.into_iter().take(count).map(|(_, pod)| Arc::clone(pod)).collect()
}

/// The smallest goes first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    has_node: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    neighbours: Reverse<usize>,
    ready_for: Age,
    restarts: Reverse<[i32; 2]>,
    age: Age,
    uid: Option<String>,
}

impl Rank {
    fn of(pod: &Pod, neighbours: usize, now: Timestamp) -> Self {
        let phase = match phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let cost = pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0);
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            has_node: !node_name(pod).is_empty(),
            phase,
            ready: is_ready(pod),
            cost,
            neighbours: Reverse(neighbours),
            ready_for: ready_since(pod).map_or(Age::Unknown, |since| Age::of(since, now)),
            restarts: Reverse(most_restarts(pod)),
            age: Age::of(created, now),
            uid: pod.uid(),
        }
    }
}

/// How long something has been so, in powers of two of nanoseconds: of Pods of about one age any may go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    Unknown,
    Log2(i32),
}

impl Age {
    fn of(since: Option<Timestamp>, now: Timestamp) -> Self {
        let Some(since) = since else { return Self::Unknown };
        let nanoseconds = now.as_nanosecond() - since.as_nanosecond();
        Self::Log2(nanoseconds.checked_ilog2().and_then(|log| i32::try_from(log).ok()).unwrap_or(-1))
    }
}

impl PartialOrd for Age {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The younger first; what has no time is younger than all.
impl Ord for Age {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Unknown, Self::Unknown) => Ordering::Equal,
            (Self::Unknown, Self::Log2(_)) => Ordering::Less,
            (Self::Log2(_), Self::Unknown) => Ordering::Greater,
            (Self::Log2(a), Self::Log2(b)) => a.cmp(b),
        }
    }
}

/// The most restarts of one of the main containers, then of one of the sidecars.
fn most_restarts(pod: &Pod) -> [i32; 2] {
    let most = |statuses: &mut dyn Iterator<Item = &ContainerStatus>| {
        statuses.map(|status| status.restart_count).max().unwrap_or(0)
    };
    let status = pod.status.iter();
    let main = most(&mut status.clone().flat_map(|status| status.container_statuses.iter().flatten()));
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars: Vec<&str> = init.filter(|container| restartable(container)).map(|c| c.name.as_str()).collect();
    let init = status.flat_map(|status| status.init_container_statuses.iter().flatten());
    let side = most(&mut init.filter(|status| sidecars.contains(&status.name.as_str())));
    [main, side]
}

/// The status of a set with these active Pods, `terminating` more that are going, and the error of this turn.
pub(super) fn status(
    before: &ReplicaSetStatus,
    generation: Option<i64>,
    desired: &Desired,
    pods: &[Arc<Pod>],
    terminating: Option<usize>,
    error: Option<&str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let labels = desired.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let fully_labeled = |pod: &&Arc<Pod>| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let known = conditions.iter().any(|condition| condition.type_ == REPLICA_FAILURE);
    match error {
        Some(message) if !known => {
            let reason = if counted(pods.len()) < desired.replicas { "FailedCreate" } else { "FailedDelete" };
            conditions.push(ReplicaSetCondition {
                type_: REPLICA_FAILURE.into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(message.to_owned()),
                last_transition_time: Some(Time(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|condition| condition.type_ != REPLICA_FAILURE),
    }
    let available = |pod: &&Arc<Pod>| is_available(pod, desired.min_ready_seconds, now);
    ReplicaSetStatus {
        replicas: counted(pods.len()),
        fully_labeled_replicas: positive(pods.iter().filter(fully_labeled).count()),
        ready_replicas: positive(pods.iter().filter(|pod| is_ready(pod)).count()),
        available_replicas: positive(pods.iter().filter(available).count()),
        terminating_replicas: terminating.map(counted),
        observed_generation: generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    /// A Pod that runs on node `n` and is ready for a thousand seconds, with `change` merged in.
    fn pod(name: &str, change: Value) -> Arc<Pod> {
        let mut pod = json!({
            "metadata": {"name": name, "uid": name, "creationTimestamp": at(-2000).to_string()},
            "spec": {"nodeName": "n", "containers": []},
            "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": at(-1000).to_string()}]},
        });
        json_patch::merge(&mut pod, &change);
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|pod| pod.name_any()).collect()
    }

    #[test]
    fn pods_go_in_the_documented_order() {
        let ready = |second: i64| {
            json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at(second).to_string()}]}})
        };
        let cost = |cost: &str| json!({"metadata": {"annotations": {DELETION_COST: cost}}});
        let pods = [
            pod("plain", json!({})),
            pod("expensive", cost("5")),
            pod("old", json!({"metadata": {"creationTimestamp": at(-9000).to_string()}})),
            pod(
                "restarted",
                json!({"status": {"containerStatuses": [
                {"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": 3}]}}),
            ),
            pod("young", ready(-10)),
            pod("crowded", json!({"spec": {"nodeName": "full"}})),
            pod("cheap", cost("-5")),
            pod("unready", json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})),
            pod("unknown", json!({"status": {"phase": "Unknown"}})),
            pod("pending", json!({"status": {"phase": "Pending"}})),
            pod("unscheduled", json!({"spec": {"nodeName": null}})),
        ];
        let mut related = pods.to_vec();
        related.extend((0..20).map(|i| pod(&format!("r{i}"), json!({"spec": {"nodeName": "full"}}))));
        let order = names(&victims(&pods, &related, pods.len() - 1, at(0)));
        assert_eq!(
            order,
            ["unscheduled", "pending", "unknown", "unready", "cheap", "crowded", "young", "restarted", "plain", "old"]
        );
        assert_eq!(victims(&pods, &related, 99, at(0)).len(), pods.len());
    }

    #[test]
    fn status_counts_and_keeps_the_first_failure() {
        let desired = Desired {
            replicas: 4,
            min_ready_seconds: 60,
            template: serde_json::from_value(json!({"metadata": {"labels": {"a": "b"}}})).unwrap(),
        };
        let labelled = json!({"metadata": {"labels": {"a": "b"}}});
        let fresh = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": at(-30).to_string()}]}});
        let pods = [pod("a", labelled), pod("b", fresh), pod("c", json!({"status": {"conditions": null}}))];
        let before = ReplicaSetStatus::default();
        let found = status(&before, Some(7), &desired, &pods, Some(2), Some("no"), at(0));
        assert_eq!(
            (found.replicas, found.fully_labeled_replicas, found.ready_replicas, found.available_replicas),
            (3, Some(1), Some(2), Some(1))
        );
        assert_eq!((found.terminating_replicas, found.observed_generation), (Some(2), Some(7)));
        let failure = &found.conditions.as_ref().unwrap()[0];
        assert_eq!((failure.reason.as_deref(), failure.message.as_deref()), (Some("FailedCreate"), Some("no")));
        let again = status(&found, Some(7), &desired, &pods, Some(2), Some("still no"), at(9));
        assert_eq!(again, found);
        assert_eq!(status(&found, Some(7), &desired, &pods, Some(2), None, at(9)).conditions, None);
    }
}
