//! From running containers to nothing (rules PX1-PX3).

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;
use tracing::{info, warn};

use super::super::slot::{Active, Slot, Stop};
use super::super::status::{Phase, Role};
use super::{News, Stage, Worker, restart_policy};
use crate::sys::process::signal;

/// The time that SIGTERM gets at least, when a preStop hook has used up the grace period.
const LEAST_GRACE: Duration = Duration::from_secs(2);

impl Worker {
    /// Moves on to the end when nothing will run any more by itself.
    pub(super) fn finish_if_done(&mut self) {
        let policy = restart_policy(&self.pod);
        let over = |slot: &Slot| matches!(slot.view.phase, Phase::Ended(_)) && !slot.will_restart(&policy);
        let init_failed = self.slots.iter().any(|s| s.view.role == Role::Init && over(s) && !s.view.initialized());
        let main_over = self.slots.iter().filter(|s| s.view.role == Role::Main).all(over);
        if init_failed || main_over {
            self.begin_stopping(self.grace());
        }
    }

    /// Lets nothing start any more and gives what runs until `grace` is over, or less where less was said before. That
    /// goes for containers that are being stopped already, too.
    pub(super) fn begin_stopping(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        if matches!(self.stage, Stage::Starting | Stage::Running) {
            self.stage = Stage::Stopping;
        } else if deadline >= self.deadline {
            return;
        }
        self.deadline = deadline;
        for slot in &mut self.slots {
            slot.due = None;
            let Some(active) = &mut slot.active else { continue };
            active.stop_health_probes();
            if let Some(stop) = &mut active.stop {
                stop.kill_at = stop.kill_at.min(self.deadline);
            }
        }
    }

    /// Waits until new flows go elsewhere, before containers are asked to end.
    pub(super) fn unroute(&mut self, grace: Duration) {
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
    pub(super) fn drive_stop(&mut self) {
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
            let name = &self.slots[index].view.name;
            let message = format!("Stopping container {name}");
            self.stop_slot(index, self.deadline, &message);
        }
    }

    /// Asks a container to end by `kill_at`, unless that was done already. `message` tells why.
    pub(super) fn stop_slot(&mut self, index: usize, kill_at: Instant, message: &str) {
        let slot = &mut self.slots[index];
        let Some(active) = slot.active.as_mut().filter(|active| active.stop.is_none()) else { return };
        active.stop = Some(Stop { kill_at, killed: false, termed: false });
        let hook = slot.container.lifecycle.as_ref().and_then(|l| l.pre_stop.clone());
        self.event("Normal", "Killing", message);
        match hook {
            Some(hook) if kill_at > Instant::now() => self.run_hook(index, hook, Some(kill_at)),
            _ => terminate(&mut self.slots[index]),
        }
    }

    pub(super) fn kill_overdue(&mut self) {
        let now = Instant::now();
        for active in self.slots.iter_mut().filter_map(|slot| slot.active.as_mut()) {
            if let Some(stop) = active.stop.as_mut().filter(|stop| !stop.killed && stop.kill_at <= now) {
                stop.killed = true;
                kill(active);
            }
        }
    }

    pub(super) fn kill_all(&mut self) {
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
    pub(super) fn end(&mut self) {
        self.stage = Stage::Ended;
        self.volumes = None;
        if let Some(sandbox) = self.sandbox.take() {
            sandbox.destroy(&self.node);
        }
        for slot in &mut self.slots {
            slot.view.ready = false;
        }
        info!(pod = %self.key, "pod ended");
    }
}

/// SIGTERM, once. Afterwards the container has at least [`LEAST_GRACE`] if a hook has used up its time.
pub(super) fn terminate(slot: &mut Slot) {
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
