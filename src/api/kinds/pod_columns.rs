//! The columns of `kubectl get pods`: Ready, Status and Restarts as `kubernetes/pkg/printers` works them out.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, NAME, age_cell, column, name_cell, wide};
use crate::api::table::human_duration;

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
    column("Status", "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted.",
    ),
    AGE,
    wide("IP", "podIP address allocated to the pod. Routable at least within the cluster. Empty if not yet allocated."),
    wide(
        "Node",
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a candidate for scheduling by the scheduler defined in schedulerName. Once this field is set, the kubelet for this node becomes responsible for the lifecycle of this pod. This field should not be used to express a desire for the pod to be scheduled on a specific node. https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    ),
    wide(
        "Nominated Node",
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it cannot be scheduled right away as preemption victims receive their graceful termination periods. This field does not guarantee that the pod will be scheduled on this node. Scheduler may decide to place the pod elsewhere if other nodes become available sooner. Scheduler may also decide to give the resources on this node to a higher priority pod that is created after preemption. As a result, this field may be different than PodSpec.nodeName when the pod is scheduled.",
    ),
    wide(
        "Readiness Gates",
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready when all its containers are ready AND all conditions specified in the readiness gates have status equal to \"True\" More info: https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    ),
];

pub(super) fn cells(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let spec = pod.spec.clone().unwrap_or_default();
    let status = pod.status.clone().unwrap_or_default();
    let statuses = status.container_statuses.as_deref().unwrap_or_default();
    let ready = statuses.iter().filter(|c| c.ready && state(c).running.is_some()).count();
    let sidecars: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .filter(|c| c.restart_policy.as_deref() == Some("Always"))
        .map(|c| c.name.as_str())
        .collect();
    let none = || "<none>".to_owned();
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let gates = if gates.is_empty() {
        none()
    } else {
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let met = |gate: &str| conditions.iter().any(|c| c.type_ == gate && c.status == "True");
        format!("{}/{}", gates.iter().filter(|gate| met(&gate.condition_type)).count(), gates.len())
    };
    vec![
        name_cell(pod),
        format!("{ready}/{}", spec.containers.len() + sidecars.len()).into(),
        reason(pod, statuses).into(),
        restarts(statuses, now).into(),
        age_cell(pod, now),
        status.pod_ip.unwrap_or_else(none).into(),
        spec.node_name.unwrap_or_else(none).into(),
        status.nominated_node_name.unwrap_or_else(none).into(),
        gates.into(),
    ]
}

fn state(container: &ContainerStatus) -> ContainerState {
    container.state.clone().unwrap_or_default()
}

fn restarts(statuses: &[ContainerStatus], now: Timestamp) -> String {
    let count: i32 = statuses.iter().map(|container| container.restart_count).sum();
    let ended = |container: &ContainerStatus| container.last_state.as_ref()?.terminated.as_ref()?.finished_at.clone();
    match statuses.iter().filter_map(ended).map(|time| time.0).max() {
        Some(last) if count > 0 => format!("{count} ({} ago)", human_duration(now.as_second() - last.as_second())),
        _ => count.to_string(),
    }
}

/// The Status column: the first thing that keeps the Pod from running, else its phase.
fn reason(pod: &Pod, statuses: &[ContainerStatus]) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let mut reason = status.reason.clone().or(status.phase.clone()).unwrap_or_default();
    let gated = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated"));
    if gated {
        reason = "SchedulingGated".into();
    }
    let init = status.init_container_statuses.as_deref().unwrap_or_default();
    let total = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref()).map_or(0, Vec::len);
    let mut initializing = false;
    for (i, container) in init.iter().enumerate() {
        let state = state(container);
        if let Some(ended) = &state.terminated {
            if ended.exit_code == 0 {
                continue;
            }
            reason = format!("Init:{}", terminated_reason(ended.reason.as_deref(), ended.signal, ended.exit_code));
        } else if state.running.is_some() && container.started == Some(true) {
            continue;
        } else {
            reason = match state.waiting.and_then(|waiting| waiting.reason) {
                Some(waiting) if waiting != "PodInitializing" => format!("Init:{waiting}"),
                _ => format!("Init:{i}/{total}"),
            };
        }
        initializing = true;
        break;
    }
    if !initializing {
        let mut running = false;
        for container in statuses.iter().rev() {
            let state = state(container);
            if let Some(waiting) = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty()) {
                reason = waiting;
            } else if let Some(ended) = state.terminated {
                reason = terminated_reason(ended.reason.as_deref(), ended.signal, ended.exit_code);
            } else if container.ready && state.running.is_some() {
                running = true;
            }
        }
        if reason == "Completed" && running {
            let ready = status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
            reason = if ready { "Running" } else { "NotReady" }.into();
        }
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return if status.reason.as_deref() == Some("NodeLost") { "Unknown" } else { "Terminating" }.into();
    }
    reason
}

fn terminated_reason(reason: Option<&str>, signal: Option<i32>, exit_code: i32) -> String {
    match (reason.filter(|reason| !reason.is_empty()), signal.filter(|signal| *signal != 0)) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(signal)) => format!("Signal:{signal}"),
        (None, None) => format!("ExitCode:{exit_code}"),
    }
}
