//! What a controller wrote for an owner and its cache has not shown yet.
//!
//! The cache follows the API by a moment. A turn that reads it too early would not see the Pod that the turn before
//! created, and create it a second time. Versions of one API server are numbers that grow, and a cache tells how far
//! it has come, so it is enough to remember the newest version that was written of each kind: a turn begins when the
//! caches have come to it.

use std::time::Duration;

use kube::api::PostParams;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::time::Instant;

use super::claims::Namespaced;
use crate::cluster::{ObjectKey, Progress};
use crate::controllers::runner::{Error, unless_gone};

/// How long a turn waits for the caches before the worker is given to another key.
const PATIENCE: Duration = Duration::from_secs(1);
/// A status may be written again after this time for each Pod that it counts, so that a set of a thousand Pods that
/// become ready one by one is written ten times a second and not a thousand times. A set of ten is written at once.
const STATUS_PAUSE_PER_POD: Duration = Duration::from_micros(100);
const LONGEST_STATUS_PAUSE: Duration = Duration::from_millis(200);

/// The place of the owners' own kind.
const OWNERS: usize = 0;

/// See the module documentation. The `KINDS` kinds are told apart by their place; the owners themselves come first.
pub(super) struct OwnWrites<const KINDS: usize> {
    owners: Mutex<FxHashMap<ObjectKey, Written<KINDS>>>,
}

/// What came of the write of a status.
#[derive(Debug, PartialEq)]
pub(super) enum StatusWrite {
    Done,
    /// The last one is too recent: another turn after this time.
    Later(Duration),
    /// Somebody deleted the owner.
    Gone,
}

struct Written<const KINDS: usize> {
    versions: [u64; KINDS],
    status_at: Option<Instant>,
}

impl<const KINDS: usize> OwnWrites<KINDS> {
    pub(super) fn new() -> Self {
        Self { owners: Mutex::default() }
    }

    /// Waits until `caches` show all that was written for `owner`. `Err` is the time after which to try again.
    pub(super) async fn seen(&self, owner: &ObjectKey, caches: [&dyn Progress; KINDS]) -> Result<(), Duration> {
        let Some(versions) = self.owners.lock().get(owner).map(|written| written.versions) else { return Ok(()) };
        let all = caches.into_iter().zip(versions).map(|(cache, version)| cache.wait_reached(version));
        match tokio::time::timeout(PATIENCE, futures::future::join_all(all)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(PATIENCE),
        }
    }

    /// Remembers an object of the kind at `place`, as the API answered it.
    pub(super) fn wrote<K: Resource>(&self, owner: &ObjectKey, place: usize, object: &K) {
        let version = object.meta().resource_version.as_deref().and_then(|version| version.parse().ok());
        if let Some(version) = version {
            self.edit(owner, |written| written.versions[place] = written.versions[place].max(version));
        }
    }

    /// Writes the status of an owner, and its metadata as far as a status write may. `pods` says how many Pods it
    /// counts, or 0 if it must not wait.
    ///
    /// # Errors
    /// The API's.
    pub(super) async fn write_status<K: Namespaced>(
        &self,
        client: &Client,
        owner: &ObjectKey,
        object: &K,
        pods: usize,
    ) -> Result<StatusWrite, Error> {
        if let Err(wait) = self.may_write_status(owner, pods) {
            return Ok(StatusWrite::Later(wait));
        }
        let api: Api<K> = Api::namespaced(client.clone(), &owner.namespace);
        let written = api.replace_status(&owner.name, &PostParams::default(), object).await;
        let failed = Error::api(format!("update the status of {} {owner}", K::kind(&())));
        let Some(written) = unless_gone(written).map_err(failed)? else { return Ok(StatusWrite::Gone) };
        self.wrote(owner, OWNERS, &written);
        Ok(StatusWrite::Done)
    }

    /// Says that the owner's status is about to be written, or how long that should wait. See
    /// [`STATUS_PAUSE_PER_POD`].
    fn may_write_status(&self, owner: &ObjectKey, pods: usize) -> Result<(), Duration> {
        let pause = STATUS_PAUSE_PER_POD.saturating_mul(u32::try_from(pods).unwrap_or(u32::MAX));
        let pause = pause.min(LONGEST_STATUS_PAUSE);
        let now = Instant::now();
        self.edit(owner, |written| {
            let waited = written.status_at.map_or(pause, |at| now.saturating_duration_since(at));
            if waited < pause {
                return Err(pause - waited);
            }
            written.status_at = Some(now);
            Ok(())
        })
    }

    /// Drops what is remembered of an owner that is gone.
    pub(super) fn forget(&self, owner: &ObjectKey) {
        self.owners.lock().remove(owner);
    }

    fn edit<T>(&self, owner: &ObjectKey, edit: impl FnOnce(&mut Written<KINDS>) -> T) -> T {
        let mut owners = self.owners.lock();
        edit(owners.entry(owner.clone()).or_insert_with(|| Written { versions: [0; KINDS], status_at: None }))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::cluster::Informer;

    fn pod(version: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.resource_version = Some(version.into());
        pod
    }

    #[tokio::test(start_paused = true)]
    async fn turn_waits_for_the_newest_own_write_and_no_longer_than_its_patience() {
        let (pods, writer) = Informer::<Pod>::new();
        let writes = OwnWrites::<1>::new();
        let owner = ObjectKey::new("default", "web");
        assert_eq!(writes.seen(&owner, [&pods]).await, Ok(()));
        writes.wrote(&owner, 0, &pod("7"));
        writes.wrote(&owner, 0, &pod("5"));
        writer.reach(6);
        assert_eq!(writes.seen(&owner, [&pods]).await, Err(PATIENCE));
        writer.reach(7);
        assert_eq!(writes.seen(&owner, [&pods]).await, Ok(()));
        writes.wrote(&owner, 0, &pod("9"));
        writes.forget(&owner);
        assert_eq!(writes.seen(&owner, [&pods]).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn status_of_many_pods_is_written_at_intervals() {
        let writes = OwnWrites::<1>::new();
        let owner = ObjectKey::new("default", "web");
        assert_eq!(writes.may_write_status(&owner, 1000), Ok(()));
        tokio::time::advance(Duration::from_millis(40)).await;
        assert_eq!(writes.may_write_status(&owner, 1000), Err(Duration::from_millis(60)));
        assert_eq!(writes.may_write_status(&owner, 10), Ok(()));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(writes.may_write_status(&owner, 1000), Ok(()));
    }
}
