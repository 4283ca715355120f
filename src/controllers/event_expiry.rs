//! Events go an hour after their last write, as with kube-apiserver's `--event-ttl`: they tell what happened lately.
//!
//! Each Event has a turn in the queue when its time is over; one that was written again meanwhile gets a later turn.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Preconditions};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Config, watcher};
use kube::{Api, Client};
use tokio::task::JoinSet;
use tracing::warn;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use crate::cluster::ObjectKey;

/// How long an Event stays after its last write.
pub(super) const LIFE: Duration = Duration::from_secs(3600);
const WORKERS: usize = 8;

type Metadata = PartialObjectMeta<Event>;

pub(super) struct EventExpiry {
    client: Client,
    life: Duration,
}

impl EventExpiry {
    pub(super) fn start(client: &Client, life: Duration, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let expiry = Arc::new(Self { client: client.clone(), life });
        tasks.spawn(follow(client.clone(), Arc::clone(&queue)));
        tasks.spawn(run("event-expiry", expiry, queue, WORKERS));
    }
}

impl Reconcile for EventExpiry {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &key.namespace);
        let found = api.get_metadata_opt(&key.name).await.map_err(Error::api(format!("read Event {key}")))?;
        let Some(Metadata { metadata, .. }) = found else { return Ok(Action::Done) };
        let rest = rest(&metadata, self.life, Timestamp::now());
        if !rest.is_zero() {
            return Ok(Action::After(rest));
        }
        // A write in this very moment gives it another life.
        let seen = Preconditions { uid: metadata.uid, resource_version: metadata.resource_version };
        let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(seen)).await;
        unless_gone(deleted).map_err(Error::api(format!("delete Event {key}")))?;
        Ok(Action::Done)
    }
}

/// What is left of an Event's life, which begins anew with each write: those who own fields have written last.
fn rest(metadata: &ObjectMeta, life: Duration, now: Timestamp) -> Duration {
    let writes = metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    let last = writes.chain(&metadata.creation_timestamp).map(|time| time.0).max().unwrap_or(now);
    let age = Duration::try_from(now.duration_since(last).max(SignedDuration::ZERO)).unwrap_or_default();
    life.saturating_sub(age)
}

async fn follow(client: Client, queue: Arc<Queue<ObjectKey>>) {
    let events = watcher(Api::<Metadata>::all(client), Config::default()).default_backoff();
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => queue.add(ObjectKey::of(&object)),
            Ok(_) => {}
            Err(error) => warn!(%error, "watch of Events failed, starting over"),
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, Time};

    use super::*;

    #[test]
    fn life_begins_anew_with_each_write() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |second| ManagedFieldsEntry { time: Some(Time(at(second))), ..ManagedFieldsEntry::default() };
        let mut metadata = ObjectMeta { creation_timestamp: Some(Time(at(1000))), ..ObjectMeta::default() };
        let left = |metadata: &ObjectMeta, now| rest(metadata, LIFE, at(now)).as_secs();
        assert_eq!((left(&metadata, 1000), left(&metadata, 4599), left(&metadata, 4600)), (3600, 1, 0));
        metadata.managed_fields = Some(vec![entry(1000), entry(3000), entry(2000)]);
        assert_eq!((left(&metadata, 4600), left(&metadata, 9000)), (2000, 0));
        // A clock that was set back makes no life longer than a whole one.
        assert_eq!(left(&metadata, 500), 3600);
    }
}
