//! Readiness as guards: a part holds one while it starts, and drops it when it is ready.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

/// What the cluster still waits for.
#[derive(Clone)]
pub struct Readiness {
    waiting: Arc<watch::Sender<BTreeSet<&'static str>>>,
}

/// Held while a part starts. Dropping it marks the part ready.
#[must_use = "dropping the guard says that the part is ready"]
pub struct Waiting {
    part: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { waiting: Arc::new(watch::channel(BTreeSet::new()).0) }
    }
}

impl Readiness {
    pub fn register(&self, part: &'static str) -> Waiting {
        self.waiting.send_modify(|waiting| {
            waiting.insert(part);
        });
        Waiting { part, readiness: self.clone() }
    }

    /// Waits until nothing is awaited any more; `progress` is told each time what still is.
    pub async fn wait(&self, mut progress: impl FnMut(&BTreeSet<&'static str>)) {
        let mut waiting = self.waiting.subscribe();
        loop {
            {
                let now = waiting.borrow_and_update();
                if now.is_empty() {
                    return;
                }
                progress(&now);
            }
            // The sender lives in `self`, so this cannot fail.
            if waiting.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let part = self.part;
        self.readiness.waiting.send_modify(|waiting| {
            waiting.remove(part);
            info!(part, still_waiting_for = ?waiting, "ready");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_when_every_guard_is_dropped() {
        let readiness = Readiness::default();
        let (dns, router) = (readiness.register("dns"), readiness.register("router"));
        drop(dns);
        let mut seen = Vec::new();
        let wait = readiness.wait(|waiting| seen.push(waiting.clone()));
        tokio::join!(wait, async { drop(router) });
        assert_eq!(seen, [BTreeSet::from(["router"])]);
    }
}
