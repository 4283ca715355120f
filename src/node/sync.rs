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

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, warn};

use super::container::termination_message;
use super::context::NodeContext;
use super::probe::{Kind, Report};
use super::sandbox::Sandbox;
use super::slot::{Slot, slots};
use super::status::{Phase, PodView, Role, pod_status};
use super::volumes::{Registration, Volumes};
use crate::cluster::ObjectKey;
use crate::config::DualAddr;
use crate::sys::process::Exit;

const DEFAULT_GRACE: i64 = 30;
const MAX_RETRY: Duration = Duration::from_secs(30);

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
        let old = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        for old in old {
            if let Some(slot) = slots.iter_mut().find(|slot| slot.view.name == old.name) {
                slot.adopt(old, &policy, now);
            }
        }
        let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let dying = pod.metadata.deletion_timestamp.is_some();
        let claimed = if over || dying { None } else { claim(&node, &pod) };
        let tell = sender.clone();
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
            pod_ips: Vec::new(),
            slots,
            start_time: status.start_time.map_or(now, |t| t.0),
            deadline: Instant::now(),
            routed: false,
            gone: false,
            shutdown: false,
            frozen: over || dying,
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
                let own = Duration::from_secs(self.grace_seconds());
                self.begin_stopping(grace.min(own));
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
        self.begin_stopping(Duration::from_secs(self.grace_seconds()));
    }

    /// When `activeDeadlineSeconds` are over.
    fn active_deadline(&self) -> Option<Instant> {
        let seconds = self.pod.spec.as_ref()?.active_deadline_seconds?;
        if !matches!(self.stage, Stage::Starting | Stage::Running) {
            return None;
        }
        let left = self.start_time.as_millisecond() + seconds * 1000 - Timestamp::now().as_millisecond();
        Some(Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0)))
    }

    fn take_object(&mut self, pod: Arc<Pod>) {
        if version(&pod) < version(&self.pod) {
            return;
        }
        let shown = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let changed = shown(&self.pod) != shown(&pod);
        self.pod = pod;
        if let Some(volumes) = self.volumes.as_ref().filter(|_| changed) {
            volumes.refresh(&self.pod);
        }
        self.take_images();
        if self.pod.metadata.deletion_timestamp.is_some() {
            let grace = Duration::from_secs(self.grace_seconds());
            match self.stage {
                Stage::Starting | Stage::Running => {
                    self.begin_stopping(grace);
                    self.unroute(grace);
                }
                Stage::Stopping => {
                    // A later delete may only shorten the grace period (rule PX1).
                    let deadline = self.deadline.min(Instant::now() + grace);
                    self.deadline = deadline;
                    for active in self.slots.iter_mut().filter_map(|slot| slot.active.as_mut()) {
                        if let Some(stop) = &mut active.stop {
                            stop.kill_at = stop.kill_at.min(deadline);
                        }
                    }
                }
                Stage::Ended => {}
            }
        }
    }

    /// The image is the one thing of a container that may change (rule PD5). A container that waits for an image
    /// looks again; one that runs is stopped and starts with the new one.
    fn take_images(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        for new in spec.init_containers.into_iter().flatten().chain(spec.containers) {
            let Some(index) = self.slots.iter().position(|slot| slot.view.name == new.name) else { continue };
            let slot = &mut self.slots[index];
            if slot.container.image == new.image {
                continue;
            }
            slot.view.image = new.image.clone().unwrap_or_default();
            slot.container = Arc::new(new);
            if slot.is_running() && slot.view.role != Role::Init {
                self.stop_slot(index, Instant::now() + Duration::from_secs(self.grace_seconds()));
            } else if matches!(slot.view.phase, Phase::Waiting { .. }) {
                slot.look_again();
            }
        }
    }

    /// The period of grace in seconds: the delete's, else the Pod's.
    fn grace_seconds(&self) -> u64 {
        let own = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
        let grace = self.pod.metadata.deletion_grace_period_seconds.unwrap_or(own);
        u64::try_from(grace).unwrap_or(1)
    }

    fn take_exit(&mut self, index: usize, run: u32, exit: Exit) {
        let now = Timestamp::now();
        let policy = restart_policy(&self.pod);
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.run == run) else { return };
        let Some(active) = &slot.active else { return };
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
                let grace = own.and_then(|g| u64::try_from(g).ok()).unwrap_or_else(|| self.grace_seconds());
                let (name, word) = (&container.name, kind.word().to_lowercase());
                self.event("Normal", "Killing", &format!("Container {name} failed {word} probe, will be restarted"));
                self.stop_slot(index, Instant::now() + Duration::from_secs(grace));
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
            sandbox: self.sandbox.is_some(),
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
