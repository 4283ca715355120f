//! From an object to running containers.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;
use k8s_openapi::jiff::Timestamp;
use rustix::process::Signal;
use tokio::time::Instant;
use tracing::warn;

use super::super::cgroups::is_limited;
use super::super::container::{self, StartError};
use super::super::init::START_ERROR;
use super::super::probe::{self, Kind};
use super::super::sandbox::{Sandbox, is_own_sysctl};
use super::super::slot::{Active, Slot};
use super::super::status::Phase;
use super::super::volumes::Volumes;
use super::{NOT_SUPPORTED, News, Stage, Worker, restart_policy};
use crate::metrics::CONTAINER_STARTS;
use crate::node::{machine, security};
use crate::sys::process::Exit;

/// How long the end of a container waits for what it has said to be in its log.
const LAST_LINES: Duration = Duration::from_millis(500);

impl Worker {
    /// What the kubelet refuses before it makes anything.
    fn admit(&mut self) -> bool {
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let mut sysctls = context.iter().flat_map(|context| context.sysctls.iter().flatten());
        let Some(bad) = sysctls.find(|sysctl| !is_own_sysctl(&sysctl.name)).map(|sysctl| sysctl.name.clone()) else {
            return true;
        };
        self.fail("SysctlForbidden", format!("forbidden sysctl: {bad:?} not allowlisted"));
        false
    }

    /// Makes what containers need to start: the sandbox, then the volumes, whose files may tell of its addresses.
    pub(super) async fn prepare(&mut self) {
        if self.gone || self.shutdown {
            self.end();
            return;
        }
        if self.sandbox.is_none() {
            if !self.admit() {
                return;
            }
            self.make_sandbox().await;
        }
        if !self.hold_process_ids().await {
            self.retry.failed();
            return;
        }
        let Some(sandbox) = &self.sandbox else { return };
        match Volumes::set_up(&self.node, &self.pod, &sandbox.dir, &sandbox.pod_ips).await {
            Ok(volumes) => {
                self.pod_ips.clone_from(&sandbox.pod_ips);
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

    /// Sees to it that the process is there whose process ids the containers share, where they do. False when it can't.
    async fn hold_process_ids(&mut self) -> bool {
        let shares = self.pod.spec.as_ref().is_some_and(|spec| spec.share_process_namespace == Some(true));
        let Some(sandbox) = self.sandbox.as_mut().filter(|_| shares) else { return true };
        if sandbox.process.as_ref().is_some_and(|process| !process.has_ended()) {
            return true;
        }
        match container::hold_process_ids(&self.node.shared.spawner).await {
            Ok(process) => {
                sandbox.process = Some(process);
                true
            }
            Err(e) => {
                self.event("Warning", "FailedCreatePodSandBox", &format!("Failed to create pod sandbox: {e}"));
                false
            }
        }
    }

    pub(super) async fn make_sandbox(&mut self) {
        let (node, pod, uid) = (Arc::clone(&self.node), Arc::clone(&self.pod), self.uid.clone());
        let claimed = self.claimed.take();
        let made = tokio::task::spawn_blocking(move || Sandbox::create(&node, &pod, &uid, claimed)).await;
        match made {
            Ok(Ok(sandbox)) => {
                for note in &sandbox.dns_notes {
                    self.event("Warning", "DNSConfigForming", note);
                }
                for note in security::pod_notes(&self.pod) {
                    self.event("Warning", NOT_SUPPORTED, &note);
                }
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
    pub(super) async fn start_due(&mut self) {
        for index in 0..self.slots.len() {
            let slot = &self.slots[index];
            if slot.due.is_some_and(|due| due <= Instant::now()) && !slot.is_running() {
                self.start(index).await;
            }
            let slot = &self.slots[index];
            if slot.in_post_start() || !(self.initialized || slot.view.initialized()) {
                return;
            }
        }
    }

    pub(super) async fn start(&mut self, index: usize) {
        // Somebody may have killed it, and all containers with it.
        if !self.hold_process_ids().await {
            self.slots[index].due = Some(Instant::now() + self.node.shared.timings.backoff_base);
            return;
        }
        let (Some(sandbox), Some(volumes)) = (&self.sandbox, &self.volumes) else { return };
        let slot = &mut self.slots[index];
        let reference = slot.view.image.clone();
        let Some(image) = self.node.shared.images.find(&reference) else {
            self.no_image(index, &reference);
            return;
        };
        slot.image_backoff = Slot::image_backoff(&self.node.shared.timings);
        slot.image_due = None;
        let container = Arc::clone(&slot.container);
        let security = security::of_container(&self.pod, &container, &image, machine::ids_mapped());
        let notes = security.as_ref().map(|security| security.notes.clone()).unwrap_or_default();
        slot.begin_run();
        slot.view.image_id = format!("vipyard://{}", reference.rsplit('/').next().unwrap_or_default());
        let run = slot.run;
        let first = !std::mem::replace(&mut slot.noted, true);
        let result = match security {
            Ok(security) => {
                let run = container::Run { container: &container, image: &image, security, number: run };
                container::start(&self.node, &self.pod, sandbox, volumes, run).await
            }
            Err(message) => Err(StartError::Config(message)),
        };
        for note in notes.iter().filter(|_| first) {
            self.event("Warning", NOT_SUPPORTED, note);
        }
        let shared = &self.node.shared;
        if let Some(why) = shared.cgroups.refusal()
            && is_limited(&container)
            && !shared.unlimited.swap(true, Relaxed)
        {
            let note = format!("limits of resources are not kept, of this Pod and of others: {why}");
            self.event("Warning", NOT_SUPPORTED, &note);
        }
        let (now, at) = (Instant::now(), Timestamp::now());
        let pulled = format!("Container image {reference:?} already present on machine and can be accessed by the pod");
        match result {
            Ok(started) => {
                self.event("Normal", "Pulled", &pulled);
                self.event("Normal", "Created", "Container created");
                CONTAINER_STARTS.fetch_add(1, Relaxed);
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

    pub(super) fn note_waiting(&self, index: usize, why: &str) {
        let name = &self.slots[index].view.name;
        self.node.shared.registry.update(&self.key, &self.uid, name, |entry| entry.waiting = Some(why.to_owned()));
    }

    pub(super) fn started(&mut self, index: usize, active: Active, at: Timestamp) {
        let slot = &mut self.slots[index];
        let run = slot.run;
        let sender = self.sender.clone();
        let child = active.started.child.clone();
        let log = Arc::clone(&active.started.log);
        tokio::spawn(async move {
            // An error means that the process is gone without a trace of its end: as bad as killed.
            let exit = child.wait().await.unwrap_or(Exit::Signal(Signal::KILL.as_raw()));
            // Its last lines may be still in the pipe, and may be its last words.
            log.whole(LAST_LINES).await;
            let _ = sender.send(News::Exited { slot: index, run, exit });
        });
        slot.view.started = false;
        slot.view.ready = false;
        let post_start = slot.container.lifecycle.as_ref().and_then(|l| l.post_start.clone());
        slot.active = Some(active);
        match post_start {
            // Until it is over the container counts as being made, and the next one waits.
            Some(hook) => {
                slot.post_start(true);
                self.run_hook(index, hook, None);
            }
            None => self.running(index, at),
        }
    }

    /// The container is what the status calls running.
    pub(super) fn running(&mut self, index: usize, since: Timestamp) {
        let slot = &mut self.slots[index];
        slot.post_start(false);
        slot.view.phase = Phase::Running { since };
        slot.view.started = slot.container.startup_probe.is_none();
        self.begin_probes(index);
    }

    /// Starts the probes whose time has come: the startup probe alone, the others once it has passed (rule PS7).
    pub(super) fn begin_probes(&mut self, index: usize) {
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

    pub(super) fn begin_probe(&mut self, index: usize, kind: Kind, probe: &Probe) {
        let Some(target) = self.target(index) else { return };
        let slot = &mut self.slots[index];
        let Some(active) = &mut slot.active else { return };
        let (sender, run) = (self.sender.clone(), slot.run);
        let report = move |report| {
            let _ = sender.send(News::Probed { slot: index, run, kind, report });
        };
        active.add_probe(kind, tokio::spawn(probe::watch(kind, probe.clone(), target, report)));
    }
}
