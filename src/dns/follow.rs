//! From the informer cache to the index: each change is applied as it comes, and what came together is published
//! together.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tracing::debug;

use super::records::{Index, Records};
use crate::cluster::{Change, Cluster, ObjectKey, Subscription};

/// Changes taken from a subscription at once.
const BATCH: usize = 1024;

/// How far the answers have come: the newest resourceVersion of each kind that is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Everything that existed at the start is in.
    pub complete: bool,
    pub services: u64,
    pub slices: u64,
    pub pods: u64,
    pub namespaces: u64,
}

/// A subscription and what has been seen of it.
struct Feed<K> {
    changes: Subscription<K>,
    batch: Vec<Change<K>>,
    synced: bool,
    newest: u64,
}

impl<K: Resource> Feed<K> {
    fn new(changes: Subscription<K>) -> Self {
        Self { changes, batch: Vec::new(), synced: false, newest: 0 }
    }

    /// Waits for changes; 0 means that there will be no more.
    async fn wait(&mut self) -> usize {
        self.changes.recv_many(&mut self.batch, BATCH).await
    }

    /// Applies the changes that are there. Returns how many.
    fn drain(&mut self, mut apply: impl FnMut(Option<&K>, Option<&K>)) -> usize {
        while self.batch.len() < BATCH
            && let Ok(change) = self.changes.try_recv()
        {
            self.batch.push(change);
        }
        let count = self.batch.len();
        for change in self.batch.drain(..) {
            let (old, new) = match &change {
                Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
                Change::Deleted(old) => (Some(&**old), None),
                Change::Synced => {
                    self.synced = true;
                    continue;
                }
            };
            let revision = new.or(old).and_then(|object| object.resource_version()).and_then(|rv| rv.parse().ok());
            self.newest = self.newest.max(revision.unwrap_or(0));
            apply(old, new);
        }
        count
    }
}

/// Keeps the index in step with the cluster until the cluster's writers are gone. `applied` tells after each
/// publication what is in it; its `complete` turns true once and means that DNS is ready.
pub async fn follow(cluster: Cluster, index: Arc<Index>, applied: watch::Sender<Applied>) {
    let mut records = Records::default();
    let mut namespaces = Feed::<Namespace>::new(cluster.namespaces.subscribe());
    let mut services = Feed::<Service>::new(cluster.services.subscribe());
    let mut slices = Feed::<EndpointSlice>::new(cluster.slices.subscribe());
    let mut pods = Feed::<Pod>::new(cluster.pods.subscribe());
    loop {
        let received = tokio::select! {
            received = slices.wait() => received,
            received = services.wait() => received,
            received = pods.wait() => received,
            received = namespaces.wait() => received,
        };
        if received == 0 {
            debug!("the cluster's cache is closed, dns answers stay as they are");
            return;
        }
        namespaces.drain(|old, new| match (old, new) {
            (_, Some(namespace)) => records.set_namespace(namespace),
            (Some(gone), None) => records.remove_namespace(&gone.name_any()),
            (None, None) => {}
        });
        services.drain(|old, new| match (old, new) {
            (_, Some(service)) => records.set_service(service),
            (Some(gone), None) => records.remove_service(&ObjectKey::of(gone)),
            (None, None) => {}
        });
        slices.drain(|old, new| match (old, new) {
            (_, Some(slice)) => records.set_slice(slice),
            (Some(gone), None) => records.remove_slice(&ObjectKey::of(gone)),
            (None, None) => {}
        });
        pods.drain(|old, new| records.change_pod(old, new));
        let now = Applied {
            complete: namespaces.synced && services.synced && slices.synced && pods.synced,
            services: services.newest,
            slices: slices.newest,
            pods: pods.newest,
            namespaces: namespaces.newest,
        };
        records.complete = now.complete;
        records.note_revision(now.services.max(now.slices).max(now.pods).max(now.namespaces));
        index.publish(records.clone());
        applied.send_replace(now);
    }
}
