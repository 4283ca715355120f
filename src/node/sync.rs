//! The life of one Pod: a task with a queue of news, a state and a loop that drives the state on.
//!
//! ```text
//!        sandbox and volumes made             nothing runs, nothing will
//! Starting ───────────────▶ Running ─────────────────────────────────────▶ Ended
//!     │                        │                                             ▲ ▲
//!     │                        │ deletionTimestamp, or vipyard stops         │ │
//!     │                        ▼                                             │ │
//!     │                    Stopping: preStop, SIGTERM, SIGKILL ──────────────┘ │
//!     └────────── deletionTimestamp, or an unknown past ───────────────────────┘
//! ```
//!
//! SIGTERM waits until the router knows that the Pod is going, a millisecond or so. A kubelet does not wait, and so a
//! server that closes its socket at once refuses connections that kube-proxy still sends; here nothing is gained by
//! that race. It never waits longer than [`Timings::unroute`](super::Timings) or the grace period.
//!
//! The loop is level-triggered. Each turn takes in all news, does what the state asks for (start the containers that
//! are due, signal those that must end), writes the status if it changed, and sleeps until there is news or a deadline.
//! In `Ended` the sandbox is gone; a Pod with a deletionTimestamp is then removed from the API (rule PX3), any other
//! stays until somebody deletes it. When the object vanishes, at whatever point, all is killed at once (rule PX2).

mod hooks;
mod images;
mod publish;
mod starting;
mod stopping;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use super::cgroups::Resized;
use super::context::NodeContext;
use super::last_words::termination_message;
use super::probe::{Kind, Report};
use super::sandbox::Sandbox;
use super::slot::{Slot, slots};
use super::status::{NO_EPHEMERAL, Phase, PodView, Role, pod_status};
use super::volumes::{Registration, Volumes};
use crate::cluster::ObjectKey;
use crate::config::DualAddr;
use crate::sys::process::Exit;

/// The reason of events about what was asked for and is not given.
const NOT_SUPPORTED: &str = "NotSupported";
const DEFAULT_GRACE: i64 = 30;
const MAX_RETRY: Duration = Duration::from_secs(30);
/// Longer than anybody waits, and no more than clocks can add to the present.
const LONGEST_GRACE: u64 = 30 * 365 * 24 * 60 * 60;

/// What a Pod's task is told.
#[derive(Debug)]
pub enum News {
    /// The object as it is now.
    Object(Arc<Pod>),
    /// The object is gone.
    Gone,
    /// Vipyard stops: end within this time, and leave the object alone.
    Shutdown(Duration),
    Exited {
        slot: usize,
        run: u32,
        exit: Exit,
    },
    Probed {
        slot: usize,
        run: u32,
        kind: Kind,
        report: Report,
    },
    HookDone {
        slot: usize,
        run: u32,
        before_stop: bool,
        failed: bool,
    },
    /// The map of images changed.
    Images,
    /// A ConfigMap or Secret that the Pod refers to changed.
    Referenced,
    /// New flows go elsewhere now, as far as Services have somewhere else.
    Unrouted,
}

/// See the module's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Starting,
    Running,
    Stopping,
    Ended,
}

/// A Pod's task.
pub struct Worker {
    node: Arc<NodeContext>,
    key: ObjectKey,
    uid: String,
    /// The newest object known, from the watch or from the answer to a write.
    pod: Arc<Pod>,
    queue: mpsc::UnboundedReceiver<News>,
    sender: mpsc::UnboundedSender<News>,
    stage: Stage,
    sandbox: Option<Sandbox>,
    /// None until all of them are there.
    volumes: Option<Volumes>,
    /// The address of an earlier run, until the sandbox takes it.
    claimed: Option<DualAddr>,
    /// Told once the volumes are there.
    pod_ips: Vec<String>,
    slots: Vec<Slot>,
    start_time: Timestamp,
    /// When everything must have ended, in `Stopping`.
    deadline: Instant,
    /// New flows may still come, so nothing is stopped yet.
    routed: bool,
    gone: bool,
    shutdown: bool,
    /// The object tells of an end before this task's time, which is left as it is.
    frozen: bool,
    deleted: bool,
    /// All init containers have done their part once.
    initialized: bool,
    /// Why the Pod was given up, with a message.
    failure: Option<(String, String)>,
    retry: Retry,
    /// Has this task told of changes of what the Pod refers to.
    _references: Registration,
}

/// Something failed that is worth another try.
struct Retry {
    at: Option<Instant>,
    delay: Duration,
}

impl Worker {
    /// A task for a Pod that nothing is running of yet. A Pod that ran before vipyard was started anew keeps its
    /// address, so that slices stay as they are and nobody else gets what they name.
    pub fn new(
        node: Arc<NodeContext>,
        pod: Arc<Pod>,
        sender: mpsc::UnboundedSender<News>,
        queue: mpsc::UnboundedReceiver<News>,
    ) -> Self {
        let now = Timestamp::now();
        let timings = &node.shared.timings;
        let mut slots = slots(&pod, timings);
        let status = pod.status.clone().unwrap_or_default();
        let policy = restart_policy(&pod);
        let dying = pod.metadata.deletion_timestamp.is_some();
        let old = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for old in old {
            match slots.iter_mut().find(|slot| slot.view.name == old.name) {
                Some(slot) if dying => slot.bury(old, now),
                Some(slot) => slot.adopt(old, &policy, now),
                None => {}
            }
        }
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let claimed = if over || dying { None } else { claim(&node, &pod) };
        let tell = sender.clone();
        let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
        let references = node.shared.references.register(&pod, move || drop(tell.send(News::Referenced)));
        Self {
            key: ObjectKey::of(&*pod),
            uid: pod.uid().unwrap_or_default(),
            queue,
            sender,
            stage: if over || dying { Stage::Ended } else { Stage::Starting },
            sandbox: None,
            volumes: None,
            claimed,
            pod_ips: if on_host { node.address_texts() } else { Vec::new() },
            slots,
            start_time: status.start_time.map_or(now, |t| t.0),
            deadline: Instant::now(),
            routed: false,
            gone: false,
            shutdown: false,
            frozen: over,
            deleted: false,
            initialized: false,
            failure: None,
            _references: references,
            retry: Retry { at: None, delay: timings.retry },
            pod,
            node,
        }
    }

    /// Lives until the object is gone, or vipyard stops, and nothing of the Pod is left. `adopting` is dropped when what
    /// an earlier run left in the object's status has been replaced.
    pub async fn run(mut self, mut adopting: Option<TaskTrackerToken>) {
        loop {
            self.advance().await;
            self.publish().await;
            drop(adopting.take());
            if (self.gone || self.shutdown) && !self.slots.iter().any(Slot::is_running) {
                break;
            }
            let wake = self.next_wake();
            tokio::select! {
                news = self.queue.recv() => match news {
                    Some(news) => self.take(news),
                    None => break,
                },
                () = async { sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {}
            }
            while let Ok(news) = self.queue.try_recv() {
                self.take(news);
            }
        }
        // Nothing writes into the Pod's folder any more.
        self.volumes = None;
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.destroy(&self.node);
        }
        if let Some(address) = self.claimed.take() {
            self.node.ipam.lock().release(address);
        }
        self.node.shared.registry.remove(&self.key, &self.uid);
        let dir = self.node.shared.pods_dir.join(&self.uid);
        if let Err(e) = std::fs::remove_dir_all(&dir)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            warn!(pod = %self.key, folder = %dir.display(), error = %e, "folder of the pod not removed");
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Object(pod) => self.take_object(pod),
            News::Gone => {
                self.gone = true;
                self.kill_all();
            }
            News::Shutdown(grace) => {
                self.shutdown = true;
                self.routed = false;
                self.begin_stopping(grace.min(self.grace()));
            }
            News::Exited { slot, run, exit } => self.take_exit(slot, run, exit),
            News::Probed { slot, run, kind, report } => self.take_probe(slot, run, kind, &report),
            News::Unrouted => self.routed = false,
            News::HookDone { slot, run, before_stop, failed } => self.take_hook(slot, run, before_stop, failed),
            News::Images => self.look_for_images(),
            News::Referenced => self.take_reference(),
        }
    }

    /// Something that the Pod refers to is there now, is another now, or is gone.
    fn take_reference(&mut self) {
        if self.stage == Stage::Starting && self.sandbox.is_some() {
            self.retry.at = None;
        }
        if let Some(volumes) = &self.volumes {
            volumes.refresh(&self.pod);
        }
        let missed = |slot: &&mut Slot| matches!(&slot.view.phase, Phase::Waiting { reason, .. } if reason == "CreateContainerConfigError");
        self.slots.iter_mut().filter(missed).for_each(Slot::look_again);
    }

    /// Gives the Pod up: what runs is ended, and its phase will be Failed.
    fn fail(&mut self, reason: &str, message: String) {
        self.event("Warning", reason, &message);
        self.failure = Some((reason.to_owned(), message));
        self.begin_stopping(self.grace());
    }

    /// When `activeDeadlineSeconds` are over.
    fn active_deadline(&self) -> Option<Instant> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        if !matches!(self.stage, Stage::Starting | Stage::Running) {
            return None;
        }
        let end = self.start_time.as_millisecond().saturating_add(seconds.saturating_mul(1000));
        let left = end.saturating_sub(Timestamp::now().as_millisecond());
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(0));
        Some(Instant::now() + left.min(Duration::from_secs(LONGEST_GRACE)))
    }

    fn take_object(&mut self, pod: Arc<Pod>) {
        if version(&pod) < version(&self.pod) {
            return;
        }
        let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let changed = shown(&self.pod) != shown(&pod);
        self.refuse_ephemeral(&pod);
        self.pod = pod;
        if let Some(volumes) = self.volumes.as_ref().filter(|_| changed) {
            volumes.refresh(&self.pod);
        }
        self.take_containers();
        if self.pod.metadata.deletion_timestamp.is_some() {
            let grace = self.grace();
            let first = matches!(self.stage, Stage::Starting | Stage::Running);
            // A later delete may only shorten the grace period (rule PX1).
            self.begin_stopping(grace);
            if first {
                self.unroute(grace);
            }
        }
    }

    /// The image of a container may change (rule PD5), and what it may use (`pods/resize`). A container that waits for
    /// an image looks again; one that runs is stopped and starts with the new one.
    fn take_containers(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        for new in spec.init_containers.into_iter().flatten().chain(spec.containers) {
            let Some(index) = self.slots.iter().position(|slot| slot.view.name == new.name) else { continue };
            let slot = &mut self.slots[index];
            let (image, resources) = (slot.container.image != new.image, slot.container.resources != new.resources);
            if !image && !resources {
                continue;
            }
            let old = std::mem::replace(&mut slot.container, Arc::new(new));
            if resources {
                self.resize(index, &old);
            }
            let slot = &mut self.slots[index];
            if !image {
                continue;
            }
            slot.view.image = slot.container.image.clone().unwrap_or_default();
            if slot.is_running() && slot.view.role != Role::Init {
                let message = format!("Container {} definition changed, will be restarted", slot.view.name);
                self.stop_slot(index, Instant::now() + self.grace(), &message);
            } else if matches!(slot.view.phase, Phase::Waiting { .. }) {
                slot.look_again();
            }
        }
    }

    /// Gives a container other limits: at once, or with a new run where it wants that. What cannot be done is told.
    fn resize(&mut self, index: usize, old: &Container) {
        let slot = &self.slots[index];
        let container = Arc::clone(&slot.container);
        let Some(active) = &slot.active else { return };
        if wants_restart(old, &container) {
            let message = format!("Container {} resize requires restart", container.name);
            self.stop_slot(index, Instant::now() + self.grace(), &message);
            return;
        }
        let cgroups = &self.node.shared.cgroups;
        let why = match cgroups.resize(active.started.cgroup.as_ref(), &container) {
            Ok(Resized::Done) => return,
            Ok(Resized::WithNextRun) => {
                "its process has no control group; they are kept from its next start on".to_owned()
            }
            Ok(Resized::Never(why)) => why,
            Err(e) => e.to_string(),
        };
        let name = &container.name;
        self.event("Warning", NOT_SUPPORTED, &format!("new limits of container {name} are not kept: {why}"));
    }

    /// Ephemeral containers are stored by the API, and their end is told in the status.
    fn refuse_ephemeral(&self, pod: &Pod) {
        let all = |pod: &Pod| {
            let containers = pod.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
            containers.unwrap_or_default().into_iter().map(|container| container.name).collect::<Vec<_>>()
        };
        let known = all(&self.pod);
        for name in all(pod).iter().filter(|name| !known.contains(name)) {
            self.event("Warning", NOT_SUPPORTED, &format!("ephemeral container {name}: {NO_EPHEMERAL}"));
        }
    }

    /// The period of grace: the delete's, else the Pod's.
    fn grace(&self) -> Duration {
        let own = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
        grace(self.pod.metadata.deletion_grace_period_seconds.unwrap_or(own))
    }

    fn take_exit(&mut self, index: usize, run: u32, exit: Exit) {
        let now = Timestamp::now();
        let policy = restart_policy(&self.pod);
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.run == run) else { return };
        let Some(active) = &mut slot.active else { return };
        let ran = active.since.elapsed();
        let code = exit.code();
        let message = termination_message(&slot.container, &active.started.termination_log, &active.started.log, code);
        let signal = match exit {
            Exit::Signal(number) => Some(number),
            Exit::Code(_) => None,
        };
        let reason = match (code, &active.started.cgroup) {
            (0, _) => "Completed",
            (_, Some(group)) if group.ran_out_of_memory() => "OOMKilled",
            _ => "Error",
        };
        debug!(pod = %self.key, container = slot.view.name, code, "container ended");
        if let Some(leftovers) = active.started.leftovers.take() {
            tokio::task::spawn_blocking(move || leftovers.kill_all());
        }
        slot.end(code, signal, reason, message, now);
        if self.stage == Stage::Running && slot.will_restart(&policy) {
            self.plan_restart(index, ran);
        }
        let name = self.slots[index].view.name.clone();
        self.node.shared.registry.update(&self.key, &self.uid, &name, |entry| entry.inside = None);
    }

    fn plan_restart(&mut self, index: usize, ran: Duration) {
        let pod = format!("{}_{}({})", self.key.name, self.key.namespace, self.uid);
        if let Some(message) = self.slots[index].plan_restart(ran, &pod) {
            self.event("Warning", "BackOff", &message);
        }
    }

    fn take_probe(&mut self, index: usize, run: u32, kind: Kind, report: &Report) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.run == run && slot.is_running()) else { return };
        match (kind, report) {
            (_, Report::Failed(message)) => self.event("Warning", "Unhealthy", message),
            (_, Report::Warned(message)) => self.event("Warning", "ProbeWarning", message),
            (Kind::Readiness, Report::Settled(ready)) => slot.view.ready = *ready,
            (Kind::Startup, Report::Settled(true)) => {
                slot.view.started = true;
                self.begin_probes(index);
            }
            (Kind::Liveness, Report::Settled(true)) => {}
            (Kind::Liveness | Kind::Startup, Report::Settled(false)) => {
                let container = Arc::clone(&slot.container);
                let probe = if kind == Kind::Liveness { &container.liveness_probe } else { &container.startup_probe };
                let own = probe.as_ref().and_then(|p| p.termination_grace_period_seconds);
                let grace = own.filter(|seconds| *seconds >= 0).map_or_else(|| self.grace(), grace);
                let (name, word) = (&container.name, kind.word().to_lowercase());
                let message = format!("Container {name} failed {word} probe, will be restarted");
                self.stop_slot(index, Instant::now() + grace, &message);
            }
        }
    }

    /// Does what the state asks for now.
    async fn advance(&mut self) {
        if self.active_deadline().is_some_and(|at| at <= Instant::now()) && !self.gone {
            let message = "Pod was active on the node longer than the specified deadline";
            self.fail("DeadlineExceeded", message.to_owned());
        }
        if self.stage == Stage::Starting && self.retry.is_due() {
            self.prepare().await;
        }
        if self.stage == Stage::Running {
            self.start_due().await;
            self.initialized |= self.slots.iter().all(|slot| slot.view.initialized());
            self.finish_if_done();
        }
        if self.stage == Stage::Stopping && !self.routed {
            self.drive_stop();
        }
        self.kill_overdue();
        if self.stage == Stage::Stopping && !self.slots.iter().any(Slot::is_running) {
            self.end();
        }
    }

    fn next_wake(&self) -> Option<Instant> {
        let starts = self.slots.iter().filter(|slot| !slot.is_running() && self.may_start(slot)).filter_map(|s| s.due);
        let kills = self.slots.iter().filter_map(|slot| {
            let stop = slot.active.as_ref()?.stop.as_ref()?;
            (!stop.killed).then_some(stop.kill_at)
        });
        // Nothing is written any more about a Pod whose object is gone, so nothing is tried again.
        let retry = self.retry.at.filter(|_| !self.gone && !self.shutdown && !self.deleted);
        starts.chain(kills).chain(retry).chain(self.active_deadline()).min()
    }

    /// Whether all containers before this one have done their part.
    fn may_start(&self, slot: &Slot) -> bool {
        let before = self.slots.iter().take_while(|s| s.view.name != slot.view.name);
        self.stage == Stage::Running
            && before.into_iter().all(|s| !s.in_post_start() && (self.initialized || s.view.initialized()))
    }

    fn view(&self) -> PodView {
        PodView {
            host_ips: self.node.address_texts(),
            pod_ips: self.pod_ips.clone(),
            // A kubelet makes the sandbox when the volumes are there.
            sandbox: self.sandbox.is_some() && self.volumes.is_some(),
            start_time: self.start_time,
            containers: self.slots.iter().map(|slot| slot.view.clone()).collect(),
            terminal: self.stage == Stage::Ended,
            failed: self.failure.clone().filter(|_| self.stage == Stage::Ended),
        }
    }

    fn event(&self, type_: &str, reason: &str, message: &str) {
        self.node.shared.events.event(&self.pod, type_, reason, message);
    }
}

impl Retry {
    fn is_due(&self) -> bool {
        self.at.is_none_or(|at| at <= Instant::now())
    }

    fn failed(&mut self) {
        self.at = Some(Instant::now() + self.delay);
        self.delay = (self.delay * 2).min(MAX_RETRY);
    }

    fn succeeded(&mut self, first: &Duration) {
        self.at = None;
        self.delay = *first;
    }
}

/// Seconds as the API has them; a period below zero is the shortest that there is.
fn grace(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(1).min(LONGEST_GRACE))
}

/// Whether a container is to be started anew for what changed of its resources.
fn wants_restart(old: &Container, new: &Container) -> bool {
    let of = |container: &Container, name: &str| {
        let resources = container.resources.clone().unwrap_or_default();
        [resources.limits, resources.requests].map(|list| list.and_then(|list| list.get(name).cloned()))
    };
    let mut policies = new.resize_policy.iter().flatten().filter(|policy| policy.restart_policy == "RestartContainer");
    policies.any(|policy| of(old, &policy.resource_name) != of(new, &policy.resource_name))
}

/// The address that a Pod's status tells of, if it is a node's to give.
fn claim(node: &NodeContext, pod: &Pod) -> Option<DualAddr> {
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return None;
    }
    let address = pod.status.as_ref()?.pod_ip.as_deref()?.parse().ok()?;
    node.ipam.lock().claim(address)
}

fn restart_policy(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|s| s.restart_policy.clone()).unwrap_or_else(|| "Always".to_owned())
}

/// Revisions are numbers in this API; of another API's, the newest that came is the newest.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(u64::MAX)
}
