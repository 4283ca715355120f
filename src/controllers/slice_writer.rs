//! Reads an owner's slices and carries out the plan for them, keeping the book of own writes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::endpoint_model::{MANAGED_BY_LABEL, SERVICE_NAME_LABEL};
use super::queue::Queue;
use super::runner::{Error, is_namespace_terminating, is_not_found};
use super::slice_book::{Noted, SliceBook, Slices};
use super::slice_packing::Plan;
use crate::cluster::{Change, Cluster, ObjectKey};

/// How long a slice that somebody else deleted or altered stays as it is (ES17): a second, so that two controllers
/// that disagree do not keep the machine busy.
pub(super) const RESTORE_DELAY: Duration = Duration::from_secs(1);

pub(super) struct SliceWriter {
    client: Client,
    managed_by: &'static str,
    book: SliceBook,
    synced: watch::Sender<bool>,
}

/// An owner's present slices, or the time to wait until the cache can be trusted again.
pub(super) enum Present {
    Slices(Vec<Arc<EndpointSlice>>),
    Behind(Duration),
}

impl SliceWriter {
    /// Starts to follow the slices with that managed-by value; owners whose slices changed go to `queue`.
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        managed_by: &'static str,
        queue: Arc<Queue<ObjectKey>>,
        tasks: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let book = SliceBook::new(managed_by, cluster.slices.clone());
        let this = Arc::new(Self { client: client.clone(), managed_by, book, synced: watch::Sender::new(false) });
        let mut changes = cluster.slices.subscribe();
        let follower = Arc::clone(&this);
        tasks.spawn(async move {
            while let Some(change) = changes.recv().await {
                match &change {
                    Change::Synced => drop(follower.synced.send_replace(true)),
                    Change::Marked(mark) => queue.mark(mark),
                    Change::Applied { .. } | Change::Deleted(_) => {}
                }
                for noted in follower.book.note(&change) {
                    match noted {
                        Noted::Own => {}
                        Noted::CaughtUp(owner) => queue.add(owner),
                        Noted::Foreign(owner) => queue.add_after(owner, RESTORE_DELAY),
                    }
                }
            }
        });
        this
    }

    /// Waits until every slice that was there at the start is in the book. Before that it would be made once more.
    pub(super) async fn wait_synced(&self) {
        // The sender lives as long as this: there is no error to come.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    pub(super) async fn present(&self, owner: &ObjectKey) -> Result<Present, Error> {
        match self.book.slices_of(owner, Instant::now()) {
            Slices::Known(slices) => Ok(Present::Slices(slices)),
            Slices::Behind(wait) => Ok(Present::Behind(wait)),
            Slices::Lost => {
                let selector = format!("{SERVICE_NAME_LABEL}={},{MANAGED_BY_LABEL}={}", owner.name, self.managed_by);
                let listed = self.api(owner).list(&ListParams::default().labels(&selector)).await;
                let listed = listed.map_err(Error::api(format!("list the EndpointSlices of {owner}")))?;
                Ok(Present::Slices(listed.items.into_iter().map(Arc::new).collect()))
            }
        }
    }

    /// Creates, then updates, then deletes, so that an endpoint that moves to another slice is never in none (ES24).
    /// Creations in a namespace that is being deleted are dropped (ES20).
    pub(super) async fn apply(&self, owner: &ObjectKey, plan: Plan) -> Result<(), Error> {
        let api = self.api(owner);
        for slice in plan.create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(created) => self.book.wrote(owner, &created),
                Err(e) if is_namespace_terminating(&e) => {}
                Err(e) => return Err(Error::api(format!("create an EndpointSlice of {owner}"))(e)),
            }
        }
        for slice in plan.update {
            let name = slice.name_any();
            let updated = api.replace(&name, &PostParams::default(), &slice).await;
            let updated = updated.map_err(Error::api(format!("update EndpointSlice {name} of {owner}")))?;
            self.book.wrote(owner, &updated);
        }
        for slice in plan.delete {
            let name = slice.name_any();
            let only_this = Preconditions { uid: slice.uid(), ..Preconditions::default() };
            match api.delete(&name, &DeleteParams::default().preconditions(only_this)).await {
                Ok(_) => self.book.deleted(owner, &slice),
                Err(e) if is_not_found(&e) => {}
                Err(e) => return Err(Error::api(format!("delete EndpointSlice {name} of {owner}"))(e)),
            }
        }
        Ok(())
    }

    /// Drops what is remembered of an owner that is gone.
    pub(super) fn forget(&self, owner: &ObjectKey) {
        self.book.forget(owner);
    }

    fn api(&self, owner: &ObjectKey) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), &owner.namespace)
    }
}
