//! Lifecycle hooks of containers: exec, sleep and HTTP, after the start and before the stop.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{LifecycleHandler, Probe};
use tokio::time::{Instant, sleep, timeout_at};

use super::{News, Worker};
use crate::node::probe::{Finding, Target, attempt};

/// The longest that a hook may take when nothing else limits it.
const LONGEST: Duration = Duration::from_secs(300);

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

    /// Runs a hook beside everything else. A preStop hook has a deadline, and reports when it is over, however it went.
    pub(super) fn run_hook(&self, index: usize, hook: LifecycleHandler, deadline: Option<Instant>) {
        let slot = &self.slots[index];
        let Some(target) = self.target(index) else { return };
        let (sender, run) = (self.sender.clone(), slot.run);
        let (events, pod) = (Arc::clone(&self.node.shared.events), Arc::clone(&self.pod));
        tokio::spawn(async move {
            let limit = deadline.unwrap_or_else(|| Instant::now() + LONGEST);
            if let Ok(Some(failure)) = timeout_at(limit, perform(hook, &target)).await {
                let (reason, word) = match deadline {
                    Some(_) => ("FailedPreStopHook", "PreStopHook"),
                    None => ("FailedPostStartHook", "PostStartHook"),
                };
                events.event(&pod, "Warning", reason, &format!("{word} failed: {failure}"));
            }
            if deadline.is_some() {
                let _ = sender.send(News::HookDone { slot: index, run });
            }
        });
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
        Finding::Healthy => None,
        Finding::Unhealthy(message) | Finding::Refused(message) => Some(message),
    }
}
