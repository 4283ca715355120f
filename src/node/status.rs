//! The status of a Pod as the kubelet writes it (rules PS1 to PS11): pure functions of what the agent knows.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    EphemeralContainer, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::init::START_ERROR;

/// Condition types that the agent owns. All others belong to third parties and are kept (rule PS6).
const OWN: [&str; 5] = ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// The part that a container has in its Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs to completion before the next begins.
    Init,
    /// An init container with restartPolicy Always: runs beside the main containers.
    Sidecar,
    Main,
}

/// Why an ephemeral container ends at once.
pub const NO_EPHEMERAL: &str = "ephemeral containers are not run: use kubectl exec, or kubectl debug with --copy-to";

/// Where a container stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    Waiting { reason: String, message: Option<String> },
    Running { since: Timestamp },
    Ended(Ended),
}

/// The end of one run of a container.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub reason: String,
    pub message: Option<String>,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
    pub container_id: String,
}

/// What the agent knows of a container.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub name: String,
    pub role: Role,
    pub image: String,
    pub image_id: String,
    pub container_id: String,
    pub phase: Phase,
    pub last: Option<Ended>,
    pub restarts: i32,
    pub ready: bool,
    pub started: bool,
}

/// What the agent knows of a Pod.
#[derive(Clone, Debug)]
pub struct PodView {
    pub host_ips: Vec<String>,
    pub pod_ips: Vec<String>,
    /// The sandbox is up.
    pub sandbox: bool,
    pub start_time: Timestamp,
    pub containers: Vec<ContainerView>,
    /// Nothing will run any more.
    pub terminal: bool,
    /// Why the agent gave the Pod up, with a message.
    pub failed: Option<(String, String)>,
}

impl ContainerView {
    fn succeeded(&self) -> bool {
        matches!(&self.phase, Phase::Ended(ended) if ended.exit_code == 0)
    }

    /// Done with what has to happen before the next container may begin (rule PS4).
    pub fn initialized(&self) -> bool {
        match self.role {
            Role::Init => self.succeeded(),
            Role::Sidecar => self.started,
            Role::Main => true,
        }
    }
}

/// The whole status, from the object's present one. Times of conditions that did not change are kept.
pub fn pod_status(pod: &Pod, view: &PodView, now: Timestamp) -> PodStatus {
    let old = pod.status.clone().unwrap_or_default();
    let phase = phase(pod, view);
    let conditions = conditions(pod, view, phase, now);
    let of_roles = |init: bool| -> Option<Vec<ContainerStatus>> {
        let statuses: Vec<_> =
            view.containers.iter().filter(|c| (c.role != Role::Main) == init).map(container_status).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let (reason, message) = view.failed.clone().unzip();
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        host_ip: view.host_ips.first().cloned(),
        host_ips: Some(view.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: view.pod_ips.first().cloned(),
        pod_ips: (!view.pod_ips.is_empty()).then(|| view.pod_ips.iter().map(|ip| PodIP { ip: ip.clone() }).collect()),
        start_time: Some(Time(seconds(view.start_time))),
        container_statuses: of_roles(false),
        init_container_statuses: of_roles(true),
        ephemeral_container_statuses: ephemeral_statuses(pod, now),
        reason,
        message,
        observed_generation: pod.metadata.generation.or(old.observed_generation),
        ..old
    }
}

/// Rule PS11.
fn phase(pod: &Pod, view: &PodView) -> &'static str {
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always");
    if view.failed.is_some() {
        return "Failed";
    }
    let main = || view.containers.iter().filter(|c| c.role == Role::Main);
    let failed_init = view.containers.iter().any(|c| c.role == Role::Init && policy == "Never" && failed(c));
    if view.terminal {
        let all_well = main().all(ContainerView::succeeded) && !failed_init;
        return if all_well { "Succeeded" } else { "Failed" };
    }
    if failed_init {
        return "Failed";
    }
    let running = main().any(|c| matches!(c.phase, Phase::Running { .. }));
    if !running && !view.containers.iter().all(ContainerView::initialized) && !main().any(|c| c.last.is_some()) {
        return "Pending";
    }
    // Between two runs a container counts as stopped, before its first as waiting.
    let waiting = main().any(|c| matches!(c.phase, Phase::Waiting { .. }) && c.last.is_none());
    let again = main().any(|c| matches!(c.phase, Phase::Waiting { .. }) && c.last.is_some());
    match (waiting, running || again, policy) {
        (true, ..) => "Pending",
        (false, true, _) | (false, false, "Always") => "Running",
        _ if main().all(ContainerView::succeeded) => "Succeeded",
        (false, false, "Never") => "Failed",
        _ => "Running",
    }
}

fn failed(container: &ContainerView) -> bool {
    matches!(&container.phase, Phase::Ended(ended) if ended.exit_code != 0)
}

struct Verdict {
    type_: &'static str,
    holds: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// Rules PS1 to PS4 and PS6.
fn conditions(pod: &Pod, view: &PodView, phase: &str, now: Timestamp) -> Vec<PodCondition> {
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let terminal = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let bare = |type_, holds| Verdict { type_, holds, reason: None, message: None };

    let waiting: Vec<&str> = view.containers.iter().filter(|c| !c.initialized()).map(|c| c.name.as_str()).collect();
    let main_ran = view
        .containers
        .iter()
        .any(|c| c.role == Role::Main && (c.last.is_some() || !matches!(c.phase, Phase::Waiting { .. })));
    let initialized = match terminal {
        Some("PodCompleted") => Verdict { reason: Some("PodCompleted"), ..bare("Initialized", true) },
        _ if waiting.is_empty() || main_ran => bare("Initialized", true),
        _ => Verdict {
            reason: Some("ContainersNotInitialized"),
            message: Some(format!("containers with incomplete status: [{}]", waiting.join(" "))),
            ..bare("Initialized", false)
        },
    };

    let unready: Vec<&str> =
        view.containers.iter().filter(|c| c.role != Role::Init && !c.ready).map(|c| c.name.as_str()).collect();
    let containers_ready = match terminal {
        Some(reason) => Verdict { reason: Some(reason), ..bare("ContainersReady", false) },
        None if unready.is_empty() => bare("ContainersReady", true),
        None => Verdict {
            reason: Some("ContainersNotReady"),
            message: Some(format!("containers with unready status: [{}]", unready.join(" "))),
            ..bare("ContainersReady", false)
        },
    };
    let ready = match (containers_ready.holds, gate_message(pod, old)) {
        (false, _) => Verdict {
            type_: "Ready",
            holds: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        },
        (true, Some(message)) => {
            Verdict { reason: Some("ReadinessGatesNotReady"), message: Some(message), ..bare("Ready", false) }
        }
        (true, None) => bare("Ready", true),
    };

    let sandbox = bare("PodReadyToStartContainers", view.sandbox);
    let mut conditions: Vec<PodCondition> = [sandbox, initialized, ready, containers_ready, bare("PodScheduled", true)]
        .into_iter()
        .map(|verdict| condition(pod, verdict, old, now))
        .collect();
    conditions.extend(old.iter().filter(|c| !OWN.contains(&c.type_.as_str())).cloned());
    conditions
}

fn condition(pod: &Pod, verdict: Verdict, old: &[PodCondition], now: Timestamp) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = old.iter().find(|c| c.type_ == verdict.type_ && c.status == status);
    PodCondition {
        type_: verdict.type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: before.and_then(|c| c.last_transition_time.clone()).or_else(|| Some(Time(seconds(now)))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// What keeps the readiness gates shut, if anything does (rule PS2).
fn gate_message(pod: &Pod, conditions: &[PodCondition]) -> Option<String> {
    let gates = pod.spec.as_ref()?.readiness_gates.as_deref()?;
    let messages: Vec<String> = gates
        .iter()
        .filter_map(|gate| {
            let name = &gate.condition_type;
            match conditions.iter().find(|c| c.type_ == *name) {
                None => Some(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
                Some(c) if c.status == "True" => None,
                Some(c) => Some(format!("the status of pod readiness gate {name:?} is not \"True\", but {}", c.status)),
            }
        })
        .collect();
    (!messages.is_empty()).then(|| messages.join(", "))
}

/// Rule PS9.
fn container_status(view: &ContainerView) -> ContainerStatus {
    ContainerStatus {
        name: view.name.clone(),
        image: view.image.clone(),
        image_id: view.image_id.clone(),
        container_id: (!view.container_id.is_empty()).then(|| view.container_id.clone()),
        ready: if view.role == Role::Init { view.succeeded() } else { view.ready },
        started: Some(view.started),
        restart_count: view.restarts,
        state: Some(match &view.phase {
            Phase::Waiting { reason, message } => ContainerState {
                waiting: Some(ContainerStateWaiting { reason: Some(reason.clone()), message: message.clone() }),
                ..ContainerState::default()
            },
            Phase::Running { since } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(Time(seconds(*since))) }),
                ..ContainerState::default()
            },
            Phase::Ended(ended) => terminated(ended),
        }),
        last_state: Some(view.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

/// Ephemeral containers have failed to start, so that nobody waits for them.
fn ephemeral_statuses(pod: &Pod, now: Timestamp) -> Option<Vec<ContainerStatus>> {
    let old = pod.status.as_ref().and_then(|status| status.ephemeral_container_statuses.as_deref()).unwrap_or_default();
    let status = |container: &EphemeralContainer| {
        old.iter().find(|known| known.name == container.name).cloned().unwrap_or_else(|| ContainerStatus {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            state: Some(terminated(&Ended {
                exit_code: START_ERROR,
                signal: None,
                reason: "StartError".to_owned(),
                message: Some(NO_EPHEMERAL.to_owned()),
                started_at: now,
                finished_at: now,
                container_id: String::new(),
            })),
            ..ContainerStatus::default()
        })
    };
    let all = pod.spec.as_ref()?.ephemeral_containers.as_ref()?;
    Some(all.iter().map(status).collect())
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.exit_code,
            signal: ended.signal,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: Some(Time(seconds(ended.started_at))),
            finished_at: Some(Time(seconds(ended.finished_at))),
            container_id: (!ended.container_id.is_empty()).then(|| ended.container_id.clone()),
        }),
        ..ContainerState::default()
    }
}

/// The API's times have whole seconds.
pub fn seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

#[cfg(test)]
#[path = "status/tests.rs"]
mod tests;
