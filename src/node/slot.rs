//! One container of a Pod across its runs.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, ContainerState, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use super::backoff::Backoff;
use super::container::Started;
use super::context::Timings;
use super::status::{ContainerView, Ended, Phase, Role};

/// A container, what it is doing, and what is to happen to it next.
pub struct Slot {
    pub container: Arc<Container>,
    pub view: ContainerView,
    /// When it may start, while it waits to.
    pub due: Option<Instant>,
    /// Counts the runs, so that news of an earlier run is told apart.
    pub run: u32,
    /// The process, while there is one.
    pub active: Option<Active>,
    /// Until then an image that was not found is not looked for again.
    pub image_due: Option<Instant>,
    pub image_backoff: Backoff,
    /// What can't be given was told.
    pub noted: bool,
    backoff: Backoff,
}

/// A run that has not ended.
pub struct Active {
    pub started: Started,
    pub since: Instant,
    pub at: Timestamp,
    /// The postStart hook is not over.
    post_start: bool,
    probes: Vec<(super::probe::Kind, JoinHandle<()>)>,
    /// Set once the end has been asked for.
    pub stop: Option<Stop>,
}

/// A run that was asked to end.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub kill_at: Instant,
    /// SIGKILL is sent.
    pub killed: bool,
    /// SIGTERM is sent; before that a preStop hook runs.
    pub termed: bool,
}

impl Drop for Active {
    fn drop(&mut self) {
        self.probes.iter().for_each(|(_, probe)| probe.abort());
    }
}

impl Active {
    pub fn new(started: Started, since: Instant, at: Timestamp) -> Self {
        Self { started, since, at, post_start: false, probes: Vec::new(), stop: None }
    }

    pub fn add_probe(&mut self, kind: super::probe::Kind, task: JoinHandle<()>) {
        self.probes.push((kind, task));
    }

    /// Rule PS8: a Pod that ends keeps its readiness probes and loses the others.
    pub fn stop_health_probes(&mut self) {
        for (_, probe) in self.probes.iter().filter(|(kind, _)| *kind != super::probe::Kind::Readiness) {
            probe.abort();
        }
    }
}

impl Slot {
    pub fn new(container: Container, role: Role, first_reason: &str, timings: &Timings) -> Self {
        let view = ContainerView {
            name: container.name.clone(),
            role,
            image: container.image.clone().unwrap_or_default(),
            image_id: String::new(),
            container_id: String::new(),
            phase: Phase::Waiting { reason: first_reason.to_owned(), message: None },
            last: None,
            restarts: 0,
            ready: false,
            started: false,
        };
        Self {
            container: Arc::new(container),
            view,
            due: Some(Instant::now()),
            run: 0,
            active: None,
            image_due: None,
            image_backoff: Self::image_backoff(timings),
            noted: false,
            backoff: Backoff::new(timings.backoff_base, timings.backoff_limit, timings.backoff_reset),
        }
    }

    /// The delays between looks for an image.
    pub fn image_backoff(timings: &Timings) -> Backoff {
        Backoff::new(timings.backoff_base, timings.backoff_limit, timings.backoff_reset).with_first_delay()
    }

    /// What a waiting container waits for may be there now.
    pub fn look_again(&mut self) {
        self.image_due = None;
        self.due = Some(Instant::now());
    }

    pub fn post_start(&mut self, runs: bool) {
        if let Some(active) = &mut self.active {
            active.post_start = runs;
        }
    }

    pub fn in_post_start(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.post_start)
    }

    /// Takes over what the API remembers of a container that ran before vipyard was started anew. Its process is gone.
    ///
    /// A run that had ended for good stays ended; one that was cut off counts as ended now, and as a restart. Between
    /// two runs the end of the first is known, and the restart is still to come.
    pub fn adopt(&mut self, old: &ContainerStatus, policy: &str, now: Timestamp) {
        self.view.restarts = old.restart_count;
        let (ended, before) = ends(old, now);
        if ended.as_ref().is_some_and(|e| !restarts(self.view.role, &self.container, policy, e.exit_code)) {
            return self.bury(old, now);
        }
        let between = ended.or_else(|| before.filter(|before| is_latest(before, old)));
        let runs = u32::try_from(old.restart_count).unwrap_or_default() + 1;
        if between.is_some() {
            (self.view.last, self.run) = (between, runs);
        } else if old.container_id.is_some() {
            self.view.last = Some(cut_off(old, now));
            self.view.restarts += 1;
            self.run = runs;
        }
    }

    /// Takes over what the API remembers of a container that is not to run again. One that was cut off counts as ended
    /// now.
    pub fn bury(&mut self, old: &ContainerStatus, now: Timestamp) {
        self.due = None;
        self.view.restarts = old.restart_count;
        self.view.container_id = old.container_id.clone().unwrap_or_default();
        let (ended, before) = ends(old, now);
        let last = before.as_ref().filter(|before| ended.is_none() && is_latest(before, old)).cloned();
        let cut_off = || old.container_id.is_some().then(|| cut_off(old, now));
        if let Some(ended) = ended.or(last).or_else(cut_off) {
            self.view.phase = Phase::Ended(ended);
        }
        self.view.last = before;
    }

    /// Before each start.
    pub fn begin_run(&mut self) {
        self.due = None;
        self.view.container_id = format!("vipyard://{}", Uuid::new_v4().simple());
        if let Phase::Ended(ended) = &self.view.phase {
            self.view.last = Some(ended.clone());
        }
        if self.view.last.is_some() && self.run > 0 {
            self.view.restarts = i32::try_from(self.run).unwrap_or(i32::MAX);
        }
    }

    /// Records the end of a run.
    pub fn end(&mut self, exit_code: i32, signal: Option<i32>, reason: &str, message: Option<String>, now: Timestamp) {
        let started_at = self.active.as_ref().map_or(Timestamp::UNIX_EPOCH, |active| active.at);
        self.active = None;
        self.view.ready = false;
        self.view.started = false;
        self.view.phase = Phase::Ended(Ended {
            exit_code,
            signal,
            reason: reason.to_owned(),
            message,
            started_at,
            finished_at: now,
            container_id: self.view.container_id.clone(),
        });
        self.run += 1;
    }

    /// Plans the next start of a container that ended after `ran`. With a delay it waits in CrashLoopBackOff;
    /// the message is returned for the event.
    pub fn plan_restart(&mut self, ran: Duration, pod: &str) -> Option<String> {
        let delay = self.backoff.after(ran);
        self.due = Some(Instant::now() + delay);
        if delay.is_zero() {
            return None;
        }
        if let Phase::Ended(ended) = &self.view.phase {
            self.view.last = Some(ended.clone());
        }
        let text = format!("restarting failed container={} pod={pod}", self.view.name);
        self.view.phase = Phase::Waiting {
            reason: "CrashLoopBackOff".to_owned(),
            message: Some(format!("back-off {} {text}", duration(delay))),
        };
        Some(format!("Back-off restarting failed container {} in pod {pod}", self.view.name))
    }

    pub fn wait_with(&mut self, reason: &str, message: String) {
        if let Phase::Ended(ended) = &self.view.phase {
            self.view.last = Some(ended.clone());
        }
        self.view.phase = Phase::Waiting { reason: reason.to_owned(), message: Some(message) };
    }

    pub fn is_running(&self) -> bool {
        self.active.is_some()
    }

    /// Whether the present end, if it is one, is to be followed by another run.
    pub fn will_restart(&self, policy: &str) -> bool {
        match &self.view.phase {
            Phase::Ended(ended) => restarts(self.view.role, &self.container, policy, ended.exit_code),
            Phase::Waiting { .. } | Phase::Running { .. } => true,
        }
    }
}

/// The end that a status tells of, and the one before it.
fn ends(old: &ContainerStatus, now: Timestamp) -> (Option<Ended>, Option<Ended>) {
    let of = |state: &Option<ContainerState>| {
        let end = state.as_ref()?.terminated.as_ref()?;
        Some(Ended {
            exit_code: end.exit_code,
            signal: end.signal,
            reason: end.reason.clone().unwrap_or_default(),
            message: end.message.clone(),
            started_at: end.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
            finished_at: end.finished_at.as_ref().map_or(now, |t| t.0),
            container_id: end.container_id.clone().unwrap_or_default(),
        })
    };
    (of(&old.state), of(&old.last_state))
}

/// Whether a container that does not run has had no run since that end.
fn is_latest(before: &Ended, old: &ContainerStatus) -> bool {
    let runs = old.state.as_ref().is_some_and(|state| state.running.is_some());
    !runs && old.container_id.as_ref().is_none_or(|id| *id == before.container_id)
}

/// The end of a run that nobody saw.
fn cut_off(old: &ContainerStatus, now: Timestamp) -> Ended {
    let since = old.state.as_ref().and_then(|state| state.running.as_ref()?.started_at.as_ref());
    Ended {
        exit_code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when vipyard was started again".to_owned()),
        started_at: since.map_or(Timestamp::UNIX_EPOCH, |since| since.0),
        finished_at: now,
        container_id: old.container_id.clone().unwrap_or_default(),
    }
}

/// The restart rules: a sidecar always, an init container until it succeeds (never, with Never), others by policy. The
/// container's own rules come first, then its own policy, then the Pod's.
pub fn restarts(role: Role, container: &Container, policy: &str, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.iter().flatten();
    if rules.filter(|rule| rule.action == "Restart").any(|rule| is_about(rule, exit_code)) {
        return true;
    }
    match (role, container.restart_policy.as_deref().unwrap_or(policy)) {
        (Role::Sidecar, _) => true,
        (Role::Init, _) if exit_code == 0 => false,
        (_, "Never") => false,
        (Role::Main, "OnFailure") => exit_code != 0,
        _ => true,
    }
}

fn is_about(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// The containers of a Pod in the order in which they start.
pub fn slots(pod: &Pod, timings: &Timings) -> Vec<Slot> {
    let spec = pod.spec.clone().unwrap_or_default();
    let inits = spec.init_containers.unwrap_or_default();
    let first_reason = if inits.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let init = inits.into_iter().map(|container| {
        let role = if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init };
        Slot::new(container, role, "PodInitializing", timings)
    });
    let main = spec.containers.into_iter().map(|container| Slot::new(container, Role::Main, first_reason, timings));
    init.chain(main).collect()
}

/// As Go prints a duration: 10s, 1m20s, 5m0s.
fn duration(delay: Duration) -> String {
    match (delay.as_secs() / 60, delay.as_secs() % 60) {
        (0, 0) => format!("{}ms", delay.as_millis()),
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_rules_follow_role_and_policy() {
        let of = |own: serde_json::Value| -> Container { serde_json::from_value(own).unwrap() };
        let plain = of(serde_json::json!({"name": "c"}));
        let restarts_plain = |role, policy, code| restarts(role, &plain, policy, code);
        assert!(restarts_plain(Role::Main, "Always", 0));
        assert!(!restarts_plain(Role::Main, "OnFailure", 0));
        assert!(restarts_plain(Role::Main, "OnFailure", 1));
        assert!(!restarts_plain(Role::Main, "Never", 1));
        assert!(!restarts_plain(Role::Init, "Always", 0));
        assert!(restarts_plain(Role::Init, "OnFailure", 1));
        assert!(!restarts_plain(Role::Init, "Never", 1));
        assert!(restarts_plain(Role::Sidecar, "Never", 0));

        let own = of(serde_json::json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}));
        assert!(restarts(Role::Main, &own, "Always", 42) && !restarts(Role::Main, &own, "Always", 1));
        let others = of(serde_json::json!({"name": "c", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 3]}}]}));
        assert!(restarts(Role::Main, &others, "Never", 4) && !restarts(Role::Main, &others, "Never", 3));
    }

    #[test]
    fn durations_read_as_the_kubelets() {
        let text = |s| duration(Duration::from_secs(s));
        assert_eq!([text(10), text(80), text(300)], ["10s", "1m20s", "5m0s"]);
    }

    #[test]
    fn container_cut_off_by_a_restart_of_vipyard_counts_as_restarted() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "image": "i"})).unwrap();
        let status = |state: serde_json::Value| -> ContainerStatus {
            serde_json::from_value(serde_json::json!({
                "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 2,
                "containerID": "vipyard://old", "state": state
            }))
            .unwrap()
        };
        let now = Timestamp::from_second(100).unwrap();
        let mut slot = Slot::new(container.clone(), Role::Main, "ContainerCreating", &Timings::default());
        slot.adopt(&status(serde_json::json!({"running": {"startedAt": "1970-01-01T00:00:09Z"}})), "Always", now);
        let last = slot.view.last.clone().unwrap();
        assert_eq!((slot.view.restarts, last.exit_code, last.reason.as_str()), (3, 137, "ContainerStatusUnknown"));
        slot.begin_run();
        assert_eq!(slot.view.restarts, 3);

        let mut slot = Slot::new(container, Role::Main, "ContainerCreating", &Timings::default());
        slot.adopt(&status(serde_json::json!({"terminated": {"exitCode": 0, "reason": "Completed"}})), "Never", now);
        assert!(slot.due.is_none() && matches!(slot.view.phase, Phase::Ended(_)));
        assert_eq!(slot.view.restarts, 2);
    }

    #[test]
    fn end_of_a_container_that_waits_for_its_next_run_is_kept() {
        let container: Container = serde_json::from_value(serde_json::json!({"name": "c", "image": "i"})).unwrap();
        let status = |id: &str| -> ContainerStatus {
            serde_json::from_value(serde_json::json!({
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "containerID": id,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "containerID": "vipyard://third"}}
            }))
            .unwrap()
        };
        let now = Timestamp::from_second(100).unwrap();
        let slot = || Slot::new(container.clone(), Role::Main, "ContainerCreating", &Timings::default());
        let mut crashed = slot();
        crashed.adopt(&status("vipyard://third"), "Always", now);
        assert_eq!((crashed.view.restarts, crashed.view.last.as_ref().unwrap().exit_code), (2, 3));
        crashed.begin_run();
        assert_eq!(crashed.view.restarts, 3);
        // Its next run had begun, and waited for its postStart hook.
        let mut hooked = slot();
        hooked.adopt(&status("vipyard://fourth"), "Always", now);
        assert_eq!((hooked.view.restarts, hooked.view.last.as_ref().unwrap().exit_code), (3, 137));
        let mut buried = slot();
        buried.bury(&status("vipyard://third"), now);
        assert!(buried.due.is_none() && matches!(&buried.view.phase, Phase::Ended(ended) if ended.exit_code == 3));
        buried.bury(&status("vipyard://fourth"), now);
        assert!(matches!(&buried.view.phase, Phase::Ended(ended) if ended.exit_code == 137));
    }
}
