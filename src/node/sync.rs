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
mod publish;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, info, warn};

use super::container::{self, StartError, termination_message};
use super::context::NodeContext;
use super::init::START_ERROR;
use super::probe::{self, Kind, Report, Target};
use super::sandbox::Sandbox;
use super::slot::{Active, Slot, Stop, slots};
use super::status::{Phase, PodView, Role, pod_status};
use super::volumes::Volumes;
use crate::cluster::ObjectKey;
use crate::config::DualAddr;
use crate::images::Image;
use crate::sys::process::{Exit, signal};

/// The time that SIGTERM gets at least, when a preStop hook has used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);
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
    },
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
    retry: Retry,
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
            News::HookDone { slot, run } => {
                if let Some(slot) = self.slots.get_mut(slot).filter(|slot| slot.run == run) {
                    terminate(slot);
                }
            }
        }
    }

    fn take_object(&mut self, pod: Arc<Pod>) {
        if version(&pod) < version(&self.pod) {
            return;
        }
        self.pod = pod;
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
                slot.due = Some(Instant::now());
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
        let reason = if code == 0 { "Completed" } else { "Error" };
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
        if self.stage == Stage::Starting && self.retry.is_due() {
            self.prepare().await;
        }
        if self.stage == Stage::Running {
            self.start_due().await;
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

    /// Makes what containers need to start: the sandbox, then the volumes.
    async fn prepare(&mut self) {
        if self.gone || self.shutdown {
            self.end();
            return;
        }
        if self.sandbox.is_none() {
            self.make_sandbox().await;
        }
        let Some(sandbox) = &self.sandbox else { return };
        match Volumes::set_up(&self.node, &self.pod, &sandbox.dir, &sandbox.pod_ips).await {
            Ok(volumes) => {
                self.volumes = Some(volumes);
                self.retry.succeeded(&self.node.shared.timings.retry);
                self.stage = Stage::Running;
            }
            Err(e) => {
                warn!(pod = %self.key, error = %e, "volume not set up");
                self.event("Warning", "FailedMount", &e.to_string());
                self.retry.failed();
            }
        }
    }

    async fn make_sandbox(&mut self) {
        let (node, pod, uid) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.uid.clone());
        let claimed = self.claimed.take();
        let made = tokio::task::spawn_blocking(move || Sandbox::create(&node, &pod, &uid, claimed)).await;
        match made {
            Ok(Ok(sandbox)) => {
                for note in &sandbox.dns_notes {
                    self.event("Warning", "DNSConfigForming", note);
                }
                self.pod_ips.clone_from(&sandbox.pod_ips);
                self.sandbox = Some(sandbox);
            }
            Ok(Err(e)) => {
                warn!(pod = %self.key, error = %e, "sandbox not made");
                self.event("Warning", "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {e}"));
                self.retry.failed();
            }
            Err(e) => {
                warn!(pod = %self.key, error = %e, "sandbox not made");
                self.retry.failed();
            }
        }
    }

    /// Starts what is due, in order: an init container only after all before it have done their part (rule PS4).
    async fn start_due(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.due.is_some_and(|due| due <= Instant::now()) && !slot.is_running() {
                self.start(index).await;
            }
            if !self.slots[index].view.initialized() {
                return;
            }
        }
    }

    async fn start(&mut self, index: usize) {
        let (Some(sandbox), Some(volumes)) = (&self.sandbox, &self.volumes) else { return };
        let slot = &mut self.slots[index];
        let reference = slot.view.image.clone();
        let Some(image) = Image::find(&reference) else {
            self.no_image(index, &reference);
            return;
        };
        let container = Arc::clone(&slot.container);
        slot.begin_run();
        slot.view.image_id = format!("vipyard://{}", reference.rsplit('/').next().unwrap_or_default());
        let run = slot.run;
        let result = container::start(&self.node, &self.pod, sandbox, volumes, &container, image, run).await;
        let (now, at) = (Instant::now(), Timestamp::now());
        let pulled = format!("Container image {reference:?} already present on machine and can be accessed by the pod");
        match result {
            Ok(started) => {
                self.event("Normal", "Pulled", &pulled);
                self.event("Normal", "Created", "Container created");
                self.event("Normal", "Started", "Container started");
                let (log, inside) = (Arc::clone(&started.log), started.inside.clone());
                self.node.shared.registry.update(&self.key, &self.uid, &container.name, |entry| {
                    entry.previous = entry.log.replace(log);
                    entry.inside = Some(inside);
                    entry.waiting = None;
                });
                self.started(index, Active::new(started, now, at), at);
            }
            Err(StartError::Start(_)) if self.gone => {}
            Err(e @ StartError::Start(_)) => {
                self.event("Normal", "Pulled", &pulled);
                self.event("Normal", "Created", "Container created");
                self.event("Warning", "Failed", &format!("Error: {e}"));
                let slot = &mut self.slots[index];
                slot.end(START_ERROR, None, "StartError", Some(e.to_string()), at);
                if slot.will_restart(&restart_policy(&self.pod)) {
                    self.plan_restart(index, Duration::ZERO);
                }
            }
            Err(e) => {
                let reason = match e {
                    StartError::Config(_) => "CreateContainerConfigError",
                    _ => "CreateContainerError",
                };
                self.event("Warning", "Failed", &format!("Error: {e}"));
                let slot = &mut self.slots[index];
                slot.view.container_id.clear();
                // The object that is missing may come, so this is tried again.
                let _ = slot.plan_restart(Duration::ZERO, "");
                slot.due = Some(slot.due.unwrap_or(now).max(now + self.node.shared.timings.backoff_base));
                slot.wait_with(reason, e.to_string());
                self.note_waiting(index, &e.to_string());
            }
        }
    }

    fn no_image(&mut self, index: usize, reference: &str) {
        let message = format!(
            "failed to pull image {reference:?}: vipyard does not pull images yet; use vipyard/whoami, vipyard/pause, \
             or vipyard/host with a command that is on this machine"
        );
        let slot = &mut self.slots[index];
        let again = matches!(&slot.view.phase, Phase::Waiting { reason, .. } if reason == "ErrImagePull");
        if again {
            // Nothing but a new image in the object can help, and that is news.
            slot.due = None;
            let back_off = format!("Back-off pulling image {reference:?}");
            slot.wait_with("ImagePullBackOff", format!("{back_off}: ErrImagePull: {message}"));
            self.event("Normal", "BackOff", &back_off);
        } else {
            slot.due = Some(Instant::now() + self.node.shared.timings.backoff_base);
            slot.wait_with("ErrImagePull", message.clone());
            self.event("Warning", "Failed", &message);
            self.event("Warning", "Failed", "Error: ErrImagePull");
        }
        self.note_waiting(index, "trying and failing to pull image");
    }

    fn note_waiting(&self, index: usize, why: &str) {
        let name = &self.slots[index].view.name;
        self.node.shared.registry.update(&self.key, &self.uid, name, |entry| entry.waiting = Some(why.to_owned()));
    }

    fn started(&mut self, index: usize, active: Active, at: Timestamp) {
        let slot = &mut self.slots[index];
        let run = slot.run;
        let sender = self.sender.clone();
        let child = active.started.child.clone();
        tokio::spawn(async move {
            // An error means that the process is gone without a trace of its end: as bad as killed.
            let exit = child.wait().await.unwrap_or(Exit::Signal(Signal::KILL.as_raw()));
            let _ = sender.send(News::Exited { slot: index, run, exit });
        });
        slot.view.phase = Phase::Running { since: at };
        slot.view.started = slot.container.startup_probe.is_none();
        slot.view.ready = false;
        let post_start = slot.container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        slot.active = Some(active);
        if let Some(hook) = post_start {
            self.run_hook(index, hook, None);
        }
        self.begin_probes(index);
    }

    /// Starts the probes whose time has come: the startup probe alone, the others once it has passed (rule PS7).
    fn begin_probes(&mut self, index: usize) {
        let container = Arc::clone(&self.slots[index].container);
        if !self.slots[index].view.started {
            if let Some(probe) = &container.startup_probe {
                self.begin_probe(index, Kind::Startup, probe);
            }
            return;
        }
        match &container.readiness_probe {
            Some(probe) => self.begin_probe(index, Kind::Readiness, probe),
            None => self.slots[index].view.ready = true,
        }
        if let Some(probe) = &container.liveness_probe {
            self.begin_probe(index, Kind::Liveness, probe);
        }
    }

    fn begin_probe(&mut self, index: usize, kind: Kind, probe: &Probe) {
        let Some(address) = self.pod_ips.first().and_then(|ip| ip.parse().ok()) else { return };
        let slot = &mut self.slots[index];
        let Some(active) = &mut slot.active else { return };
        let target = Target {
            node: Arc::clone(&self.node),
            container: Arc::clone(&slot.container),
            inside: active.started.inside.clone(),
            address,
        };
        let (sender, run) = (self.sender.clone(), slot.run);
        let report = move |report| {
            let _ = sender.send(News::Probed { slot: index, run, kind, report });
        };
        active.add_probe(kind, tokio::spawn(probe::watch(kind, probe.clone(), target, report)));
    }

    /// Moves on to the end when nothing will run any more by itself.
    fn finish_if_done(&mut self) {
        let policy = restart_policy(&self.pod);
        let over = |slot: &Slot| matches!(slot.view.phase, Phase::Ended(_)) && !slot.will_restart(&policy);
        let init_failed = self.slots.iter().any(|s| s.view.role == Role::Init && over(s) && !s.view.initialized());
        let main_over = self.slots.iter().filter(|s| s.view.role == Role::Main).all(over);
        if init_failed || main_over {
            self.begin_stopping(Duration::from_secs(self.grace_seconds()));
        }
    }

    fn begin_stopping(&mut self, grace: Duration) {
        if matches!(self.stage, Stage::Ended | Stage::Stopping) {
            self.deadline = self.deadline.min(Instant::now() + grace);
            return;
        }
        self.stage = Stage::Stopping;
        self.deadline = Instant::now() + grace;
        for slot in &mut self.slots {
            slot.due = None;
            if let Some(active) = &mut slot.active {
                active.stop_health_probes();
            }
        }
    }

    /// Waits until new flows go elsewhere, before containers are asked to end.
    fn unroute(&mut self, grace: Duration) {
        if !self.slots.iter().any(Slot::is_running) {
            return;
        }
        self.routed = true;
        let (settled, sender) = (self.node.shared.data_plane.settled(), self.sender.clone());
        let limit = grace.min(self.node.shared.timings.unroute);
        tokio::spawn(async move {
            // Late is as good as never: a Pod may not outlive its grace period for this.
            let _ = tokio::time::timeout(limit, settled).await;
            let _ = sender.send(News::Unrouted);
        });
    }

    /// Main containers end together, then the sidecars one by one from the last (rule PX3).
    fn drive_stop(&mut self) {
        let running = |slot: &Slot| slot.is_running();
        let main: Vec<usize> = (0..self.slots.len())
            .filter(|i| running(&self.slots[*i]) && self.slots[*i].view.role != Role::Sidecar)
            .collect();
        let next = if main.is_empty() {
            (0..self.slots.len()).rev().find(|i| running(&self.slots[*i])).into_iter().collect()
        } else {
            main
        };
        for index in next {
            self.stop_slot(index, self.deadline);
        }
    }

    /// Asks a container to end by `kill_at`.
    fn stop_slot(&mut self, index: usize, kill_at: Instant) {
        let slot = &mut self.slots[index];
        let Some(active) = slot.active.as_mut().filter(|active| active.stop.is_none()) else { return };
        active.stop = Some(Stop { kill_at, killed: false, termed: false });
        let name = slot.view.name.clone();
        let hook = slot.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        self.event("Normal", "Killing", &format!("Stopping container {name}"));
        match hook {
            Some(hook) if kill_at > Instant::now() => self.run_hook(index, hook, Some(kill_at)),
            _ => terminate(&mut self.slots[index]),
        }
    }

    fn kill_overdue(&mut self) {
        let now = Instant::now();
        for active in self.slots.iter_mut().filter_map(|slot| slot.active.as_mut()) {
            if let Some(stop) = active.stop.as_mut().filter(|stop| !stop.killed && stop.kill_at <= now) {
                stop.killed = true;
                kill(active);
            }
        }
    }

    fn kill_all(&mut self) {
        self.stage = if self.stage == Stage::Ended { Stage::Ended } else { Stage::Stopping };
        self.deadline = Instant::now();
        for slot in &mut self.slots {
            slot.due = None;
            if let Some(active) = &mut slot.active {
                active.stop = Some(Stop { kill_at: self.deadline, killed: true, termed: true });
                kill(active);
            }
        }
    }

    /// Nothing runs and nothing will: the network and the address are given back.
    fn end(&mut self) {
        self.stage = Stage::Ended;
        self.volumes = None;
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.destroy(&self.node);
        }
        info!(pod = %self.key, "pod ended");
    }

    fn next_wake(&self) -> Option<Instant> {
        let starts = self.slots.iter().filter(|slot| !slot.is_running() && self.may_start(slot)).filter_map(|s| s.due);
        let kills = self.slots.iter().filter_map(|slot| {
            let stop = slot.active.as_ref()?.stop.as_ref()?;
            (!stop.killed).then_some(stop.kill_at)
        });
        // Nothing is written any more about a Pod whose object is gone, so nothing is tried again.
        let retry = self.retry.at.filter(|_| !self.gone && !self.shutdown && !self.deleted);
        starts.chain(kills).chain(retry).min()
    }

    /// Whether all containers before this one have done their part.
    fn may_start(&self, slot: &Slot) -> bool {
        self.stage == Stage::Running
            && self.slots.iter().take_while(|s| s.view.name != slot.view.name).all(|s| s.view.initialized())
    }

    fn view(&self) -> PodView {
        PodView {
            host_ips: self.node.address_texts(),
            pod_ips: self.pod_ips.clone(),
            sandbox: self.sandbox.is_some(),
            start_time: self.start_time,
            containers: self.slots.iter().map(|slot| slot.view.clone()).collect(),
            terminal: self.stage == Stage::Ended,
            failed: None,
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

/// SIGTERM, once. Afterwards the container has at least [`LEAST_GRACE`] if a hook has used up its time.
fn terminate(slot: &mut Slot) {
    let Some(active) = &mut slot.active else { return };
    let pidfd = active.started.child.pidfd();
    let Some(stop) = active.stop.as_mut().filter(|stop| !stop.termed && !stop.killed) else { return };
    let hooked = slot.container.lifecycle.as_ref().is_some_and(|l| l.pre_stop.is_some());
    if hooked {
        stop.kill_at = stop.kill_at.max(Instant::now() + LEAST_GRACE);
    }
    stop.termed = true;
    if let Err(e) = signal(&*pidfd, Signal::TERM) {
        warn!(container = slot.view.name, error = %e, "SIGTERM not sent");
    }
}

fn kill(active: &Active) {
    if let Err(e) = signal(&*active.started.child.pidfd(), Signal::KILL) {
        warn!(error = %e, "SIGKILL not sent");
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
