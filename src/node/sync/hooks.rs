//! Lifecycle hooks of containers: exec, sleep and HTTP, after the start and before the stop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};
use tokio::time::{Instant, sleep, timeout_at};

use super::stopping::terminate;
use super::{News, Worker};
use crate::node::probe::{Finding, Target, attempt};

impl Worker {
    /// What probes and hooks of a running container act on.
    pub(super) fn target(&self, index: usize) -> Option<Target> {
        let slot = &self.slots[index];
        Some(Target {
            node: Arc::clone(&self.node),
            container: Arc::clone(&slot.container),
            inside: slot.active.as_ref()?.started.inside.clone(),
            address: self.pod_ips.first()?.parse().ok()?,
        })
    }

    /// Runs a hook beside everything else, and reports when it is over. A preStop hook has a deadline.
    pub(super) fn run_hook(&self, index: usize, hook: LifecycleHandler, deadline: Option<Instant>) {
        let slot = &self.slots[index];
        let Some(target) = self.target(index) else { return };
        let (sender, run) = (self.sender.clone(), slot.run);
        let (events, pod) = (Arc::clone(&self.node.shared.events), Arc::clone(&self.pod));
        tokio::spawn(async move {
            let done = match deadline {
                Some(deadline) => timeout_at(deadline, perform(hook, &target)).await.unwrap_or_default(),
                None => perform(hook, &target).await,
            };
            if let Some(failure) = &done {
                let (reason, word) = match deadline {
                    Some(_) => ("FailedPreStopHook", "PreStopHook"),
                    None => ("FailedPostStartHook", "PostStartHook"),
                };
                events.event(&pod, "Warning", reason, &format!("{word} failed: {failure}"));
            }
            let _ = sender.send(News::HookDone {
                slot: index,
                run,
                before_stop: deadline.is_some(),
                failed: done.is_some(),
            });
        });
    }

    pub(super) fn take_hook(&mut self, index: usize, run: u32, before_stop: bool, failed: bool) {
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.run == run && slot.is_running()) else { return };
        if before_stop {
            terminate(slot);
        } else if slot.in_post_start() {
            if failed {
                slot.post_start(false);
                slot.wait_with("PostStartHookError", "PostStartHook failed".to_owned());
                self.stop_slot(index, Instant::now() + self.grace(), "FailedPostStartHook");
            } else if let Some(since) = slot.active.as_ref().map(|active| active.at) {
                self.running(index, since);
            }
        }
    }
}

/// The error of a hook that failed.
async fn perform(hook: LifecycleHandler, target: &Target) -> Option<String> {
    if let Some(action) = &hook.sleep {
        sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or_default())).await;
        return None;
    }
    let action = Probe { exec: hook.exec, http_get: hook.http_get, tcp_socket: hook.tcp_socket, ..Probe::default() };
    match attempt(&action, target).await {
        Finding::Healthy | Finding::Warned(_) => None,
        Finding::Unhealthy(message) | Finding::Refused(message) => Some(message),
    }
}
