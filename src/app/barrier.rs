//! The write barrier: when everything that follows from a write is in the packets.
//!
//! Nothing is asked again and again and nothing is timed. A round waits until the shared cache has come to the newest
//! change of each kind that packets depend on, then sends a [`Mark`] behind these changes through every subscription.
//! Controllers keep the mark until they have written what follows, the plan's driver until the router decides by the
//! new plan, DNS until the change is in its answers; the round is over when no copy is left. What controllers wrote
//! meanwhile is the next round's matter.

use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;

use crate::api::barrier::{DataPlane, Overdue};
use crate::cluster::{Cluster, Mark, Progress};
use crate::store::Store;

/// How far a consequence may be from its cause: a Service gets its load-balancer address, its slices follow, the plan
/// follows these. Rounds end earlier when a round saw no change; under constant writes they would never.
const ROUNDS: usize = 3;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Barrier {
    store: Store,
    cluster: Cluster,
}

impl Barrier {
    pub(crate) fn new(store: Store, cluster: Cluster) -> Self {
        Self { store, cluster }
    }

    /// Returns when everything that follows from what is written now is in the packets.
    async fn settle(&self, stage: &Mutex<&'static str>) {
        for _ in 0..ROUNDS {
            let before = self.newest();
            for (informer, resource) in self.kinds() {
                *stage.lock() = resource;
                informer.wait_reached(self.store.newest_of(resource)).await;
            }
            *stage.lock() = "controllers, DNS and the router";
            let (mark, gone) = Mark::new();
            self.kinds().iter().for_each(|(informer, _)| informer.mark(&mark));
            drop(mark);
            gone.wait().await;
            if self.newest() == before {
                return;
            }
        }
    }

    /// The newest revision of the kinds that packets depend on.
    fn newest(&self) -> u64 {
        self.kinds().iter().map(|(_, resource)| self.store.newest_of(resource)).max().unwrap_or(0)
    }

    /// The kinds that packets depend on, and the store's names of their resources.
    fn kinds(&self) -> [(&dyn Progress, &'static str); 7] {
        [
            (&self.cluster.services, "services"),
            (&self.cluster.pods, "pods"),
            (&self.cluster.nodes, "nodes"),
            (&self.cluster.namespaces, "namespaces"),
            (&self.cluster.endpoints, "endpoints"),
            (&self.cluster.slices, "endpointslices.discovery.k8s.io"),
            (&self.cluster.service_cidrs, "servicecidrs.networking.k8s.io"),
        ]
    }
}

impl DataPlane for Barrier {
    fn settled(&self, limit: Duration) -> BoxFuture<'_, Result<(), Overdue>> {
        Box::pin(async move {
            let stage = Mutex::new("");
            let settled = tokio::time::timeout(limit, self.settle(&stage)).await;
            settled.map_err(|_| Overdue { waiting_for: *stage.lock() })
        })
    }
}

impl crate::node::DataPlane for Barrier {
    fn settled(&self) -> BoxFuture<'static, ()> {
        let this = self.clone();
        Box::pin(async move { this.settle(&Mutex::new("")).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Change, Writers};
    use crate::config::StoreConfig;
    use crate::store::{Key, Op};

    const LIMIT: Duration = Duration::from_secs(5);

    async fn start() -> (Barrier, Writers) {
        let store = Store::open(&StoreConfig::in_memory()).await.expect("a store");
        let (cluster, writers) = Cluster::new();
        (Barrier::new(store, cluster), writers)
    }

    async fn write(barrier: &Barrier, resource: &str, name: &str) -> u64 {
        let key = Key::new(resource, "default", name);
        barrier
            .store
            .commit(key, Op::Create { encode: Box::new(|_| b"{}".to_vec().into()) })
            .await
            .expect("a commit")
            .revision
    }

    #[tokio::test(start_paused = true)]
    async fn cache_that_lags_behind_is_waited_for_and_named() {
        let (barrier, writers) = start().await;
        let revision = write(&barrier, "services", "a").await;
        let overdue = DataPlane::settled(&barrier, LIMIT).await;
        assert_eq!(overdue, Err(Overdue { waiting_for: "services" }));
        writers.services.reach(revision);
        assert_eq!(DataPlane::settled(&barrier, LIMIT).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_keeps_the_mark_is_waited_for() {
        let (barrier, _writers) = start().await;
        let mut changes = barrier.cluster.slices.subscribe();
        assert!(DataPlane::settled(&barrier, LIMIT).await.is_err());
        // That one was given up; the next round sends its own.
        assert!(matches!(changes.try_recv(), Ok(Change::Marked(_))));
        let release = async {
            let Some(Change::Marked(mark)) = changes.recv().await else { panic!("no mark") };
            drop(mark);
        };
        let (settled, ()) = tokio::join!(DataPlane::settled(&barrier, LIMIT), release);
        assert_eq!(settled, Ok(()));
    }

    /// A controller that writes a slice for a Service keeps the mark until it has; the plan's driver sees the slice
    /// behind the first mark, so there must be a second.
    #[tokio::test(start_paused = true)]
    async fn what_was_written_meanwhile_is_settled_too() {
        let (barrier, writers) = start().await;
        let mut changes = barrier.cluster.services.subscribe();
        let controller = async {
            let Some(Change::Marked(mark)) = changes.recv().await else { panic!("no mark") };
            let revision = write(&barrier, "endpointslices.discovery.k8s.io", "a").await;
            drop(mark);
            assert!(matches!(changes.recv().await, Some(Change::Marked(_))), "a second round");
            revision
        };
        let reach = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            writers.slices.reach(1);
        };
        let (settled, revision, ()) = tokio::join!(DataPlane::settled(&barrier, LIMIT), controller, reach);
        assert_eq!((settled, revision), (Ok(()), 1));
    }
}
