//! PersistentVolumes that nobody made for a claim: they are free, and their status says so. No claim is bound to them, as
//! [`super::claims`] makes each a volume of its own.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PersistentVolume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::task::JoinSet;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use crate::cluster::{Change, Informer, ObjectKey};

const WORKERS: usize = 2;

pub(super) struct VolumeOffers {
    client: Client,
    volumes: Informer<PersistentVolume>,
}

impl VolumeOffers {
    pub(super) fn start(client: &Client, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let (volumes, writer) = Informer::new();
        tasks.spawn(writer.run(Api::all(client.clone())));
        tasks.spawn(follow(volumes.clone(), Arc::clone(&queue)));
        let controller = Arc::new(Self { client: client.clone(), volumes });
        tasks.spawn(run("volume-offers", controller, queue, WORKERS));
    }
}

impl Reconcile for VolumeOffers {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(volume) = self.volumes.get("", &key.name).filter(|volume| is_to_be_offered(volume)) else {
            return Ok(Action::Done);
        };
        let status = json!({"phase": "Available", "lastPhaseTransitionTime": Time(Timestamp::now())});
        let patch = json!({"metadata": {"uid": volume.metadata.uid, "resourceVersion": volume.metadata.resource_version},
            "status": status});
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let written = volumes.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        let failed = Error::api(format!("update the status of PersistentVolume {}", key.name));
        unless_gone(written).map(|_| Action::Done).map_err(failed)
    }
}

async fn follow(volumes: Informer<PersistentVolume>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = volumes.subscribe();
    while let Some(change) = changes.recv().await {
        if let Change::Applied { new, .. } = change
            && is_to_be_offered(&new)
        {
            queue.add(ObjectKey::of(&*new));
        }
    }
}

/// Whether a volume belongs to no claim, and does not say so yet. One that is kept for a claim has no uid of it.
fn is_to_be_offered(volume: &PersistentVolume) -> bool {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let taken = claim.is_some_and(|claim| claim.uid.as_ref().is_some_and(|uid| !uid.is_empty()));
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    !taken && phase != Some("Available") && volume.metadata.deletion_timestamp.is_none()
}
