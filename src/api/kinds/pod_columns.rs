//! The columns of `kubectl get pods`: Ready, Status and Restarts as `kubernetes/pkg/printers` works them out.

use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus,
};
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
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)).count();
    let none = || "<none>".to_owned();
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let gates = if gates.is_empty() {
        none()
    } else {
        let met = |gate: &str| has_condition(&status, gate);
        format!("{}/{}", gates.iter().filter(|gate| met(&gate.condition_type)).count(), gates.len())
    };
    let state = Summary::of(pod, &spec, &status);
    vec![
        name_cell(pod),
        format!("{}/{}", state.ready, spec.containers.len() + sidecars).into(),
        state.reason.into(),
        state.restarts.text(now).into(),
        age_cell(pod, now),
        status.pod_ip.unwrap_or_else(none).into(),
        spec.node_name.unwrap_or_else(none).into(),
        status.nominated_node_name.unwrap_or_else(none).into(),
        gates.into(),
    ]
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True")
}

fn state(container: &ContainerStatus) -> ContainerState {
    container.state.clone().unwrap_or_default()
}

/// How often containers were restarted, and when the last one ended before its restart.
#[derive(Default)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref()?.finished_at.clone());
        self.last = self.last.max(ended.map(|time| time.0));
    }

    fn text(&self, now: Timestamp) -> String {
        match self.last {
            Some(last) if self.count > 0 => {
                format!("{} ({} ago)", self.count, human_duration(now.as_second() - last.as_second()))
            }
            _ => self.count.to_string(),
        }
    }
}

/// What the containers say together.
struct Summary {
    ready: usize,
    /// The first thing that keeps the Pod from running, else its phase.
    reason: String,
    restarts: Restarts,
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let mut reason = status.reason.clone().or(status.phase.clone()).unwrap_or_default();
        let mut conditions = status.conditions.iter().flatten();
        if conditions.any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated")) {
            reason = "SchedulingGated".into();
        }
        let mut summary = Self { ready: 0, reason, restarts: Restarts::default() };
        let initializing = summary.look_at_init_containers(spec, status);
        // A sidecar that is down again does not set the Pod back to its beginning.
        if !initializing || has_condition(status, "Initialized") {
            summary.look_at_containers(spec, status);
        }
        if pod.metadata.deletion_timestamp.is_some() {
            if status.reason.as_deref() == Some("NodeLost") {
                summary.reason = "Unknown".into();
            } else if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                summary.reason = "Terminating".into();
            }
        }
        summary
    }

    /// Goes as far as the first one that has neither ended well nor, as a sidecar, started; whether there is one.
    fn look_at_init_containers(&mut self, spec: &PodSpec, status: &PodStatus) -> bool {
        let specs = spec.init_containers.as_deref().unwrap_or_default();
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            self.restarts.add(container);
            let state = state(container);
            if state.terminated.as_ref().is_some_and(|ended| ended.exit_code == 0) {
                continue;
            }
            let sidecar = specs.iter().any(|spec| spec.name == container.name && is_sidecar(spec));
            if sidecar && container.started == Some(true) {
                self.ready += usize::from(container.ready);
                continue;
            }
            self.reason = match (state.terminated, state.waiting.and_then(|waiting| waiting.reason)) {
                (Some(ended), _) => format!("Init:{}", terminated_reason(&ended)),
                (None, Some(waiting)) if !waiting.is_empty() && waiting != "PodInitializing" => {
                    format!("Init:{waiting}")
                }
                (None, _) => format!("Init:{i}/{}", specs.len()),
            };
            return true;
        }
        false
    }

    /// Of the init containers, sidecars alone count from here on.
    fn look_at_containers(&mut self, spec: &PodSpec, status: &PodStatus) {
        self.restarts = Restarts::default();
        let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
        for sidecar in sidecars {
            let all = status.init_container_statuses.iter().flatten();
            all.filter(|container| container.name == sidecar.name).for_each(|one| self.restarts.add(one));
        }
        let mut running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let state = state(container);
            if let Some(waiting) = state.waiting.and_then(|w| w.reason).filter(|r| !r.is_empty()) {
                self.reason = waiting;
            } else if let Some(ended) = state.terminated {
                self.reason = terminated_reason(&ended);
            } else if container.ready && state.running.is_some() {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" && running {
            self.reason = if has_condition(status, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
}

fn terminated_reason(ended: &ContainerStateTerminated) -> String {
    let reason = ended.reason.as_ref().filter(|reason| !reason.is_empty());
    match (reason, ended.signal.filter(|signal| *signal != 0)) {
        (Some(reason), _) => reason.clone(),
        (None, Some(signal)) => format!("Signal:{signal}"),
        (None, None) => format!("ExitCode:{}", ended.exit_code),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const MINUTE_AGO: &str = "2024-01-01T00:59:00Z";
    const HOUR_AGO: &str = "2024-01-01T00:00:00Z";

    fn running(name: &str, ready: bool) -> Value {
        json!({"name": name, "ready": ready, "started": true, "restartCount": 0, "image": "", "imageID": "",
            "state": {"running": {}}})
    }

    fn waiting(name: &str, reason: &str) -> Value {
        json!({"name": name, "ready": false, "started": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"waiting": {"reason": reason}}})
    }

    fn ended(name: &str, code: i32, reason: &str) -> Value {
        json!({"name": name, "ready": code == 0, "started": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": code, "reason": reason}}})
    }

    fn restarted(mut container: Value, times: i32, last: &str) -> Value {
        container["restartCount"] = times.into();
        container["lastState"] = json!({"terminated": {"exitCode": 1, "finishedAt": last}});
        container
    }

    /// A Pod with the init container `once`, the sidecar `side` and the container `main`; Ready, Status and Restarts of it.
    fn shown(phase: &str, initialized: bool, init: Value, main: Value, extra: Value) -> [String; 3] {
        let condition = json!({"type": "Initialized", "status": if initialized { "True" } else { "False" }});
        let mut pod = json!({"metadata": {"name": "p"},
            "spec": {"initContainers": [{"name": "once"}, {"name": "side", "restartPolicy": "Always"}],
                "containers": [{"name": "main"}]},
            "status": {"phase": phase, "initContainerStatuses": init, "containerStatuses": main,
                "conditions": [condition]}});
        json_patch::merge(&mut pod, &extra);
        let pod: Pod = serde_json::from_value(pod).expect("a Pod");
        let cells = cells(&pod, "2024-01-01T01:00:00Z".parse().expect("a time"));
        [1, 2, 3].map(|at: usize| cells[at].as_str().expect("a text").to_owned())
    }

    #[test]
    fn init_containers_and_sidecars_count_as_kubectl_counts_them() {
        let once = || ended("once", 0, "Completed");
        let up = || running("main", true);
        let starting = || waiting("main", "PodInitializing");
        let cases = [
            ("Running", true, json!([once(), running("side", true)]), up(), ["2/2", "Running", "0"]),
            ("Running", true, json!([once(), running("side", false)]), up(), ["1/2", "Running", "0"]),
            ("Pending", false, json!([waiting("once", "PodInitializing")]), starting(), ["0/2", "Init:0/2", "0"]),
            // What runs as an init container has started, and is not done for that.
            ("Pending", false, json!([running("once", false)]), starting(), ["0/2", "Init:0/2", "0"]),
            (
                "Pending",
                false,
                json!([restarted(waiting("once", "CrashLoopBackOff"), 3, MINUTE_AGO)]),
                starting(),
                ["0/2", "Init:CrashLoopBackOff", "3 (60s ago)"],
            ),
            (
                "Pending",
                false,
                json!([restarted(once(), 2, HOUR_AGO), waiting("side", "PodInitializing")]),
                starting(),
                ["0/2", "Init:1/2", "2 (60m ago)"],
            ),
            // Once it is initialized, what it took to get there is forgotten.
            (
                "Running",
                true,
                json!([restarted(once(), 2, MINUTE_AGO), running("side", true)]),
                restarted(up(), 1, HOUR_AGO),
                ["2/2", "Running", "1 (60m ago)"],
            ),
            (
                "Running",
                true,
                json!([restarted(once(), 2, HOUR_AGO), restarted(running("side", true), 4, MINUTE_AGO)]),
                restarted(up(), 1, HOUR_AGO),
                ["2/2", "Running", "5 (60s ago)"],
            ),
            // A sidecar that is down does not hide how the containers fare.
            (
                "Running",
                true,
                json!([once(), restarted(waiting("side", "CrashLoopBackOff"), 4, MINUTE_AGO)]),
                up(),
                ["1/2", "Init:CrashLoopBackOff", "4 (60s ago)"],
            ),
            (
                "Running",
                true,
                json!([once(), ended("side", 1, "")]),
                waiting("main", "ErrImagePull"),
                ["0/2", "ErrImagePull", "0"],
            ),
            ("Pending", false, json!([ended("once", 1, "Error")]), starting(), ["0/2", "Init:Error", "0"]),
            ("Succeeded", true, json!([once(), once()]), ended("main", 0, "Completed"), ["0/2", "Completed", "0"]),
        ];
        for (at, (phase, initialized, init, main, wanted)) in cases.into_iter().enumerate() {
            assert_eq!(shown(phase, initialized, init, json!([main]), json!({})), wanted, "case {at}");
        }
    }

    #[test]
    fn pod_that_is_deleted_terminates_unless_it_has_ended() {
        let deleted = json!({"metadata": {"deletionTimestamp": MINUTE_AGO}});
        let status = |phase: &str, main: Value, more: Value| {
            let mut extra = deleted.clone();
            json_patch::merge(&mut extra, &more);
            let [_, status, _] = shown(phase, true, json!([]), json!([main]), extra);
            status
        };
        assert_eq!(status("Running", running("main", true), json!({})), "Terminating");
        assert_eq!(status("Failed", ended("main", 1, "Error"), json!({})), "Error");
        assert_eq!(status("Running", running("main", true), json!({"status": {"reason": "NodeLost"}})), "Unknown");
    }
}
