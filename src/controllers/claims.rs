//! Volumes for PersistentVolumeClaims, as a dynamic provisioner makes them: each claim is bound to a PersistentVolume of
//! its own, which stands for a folder in the data directory and goes with the claim. The folder is the node agents'.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::warn;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_not_found, run};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::config::claim_volume;
use crate::events::{EventType, Recorder};

const WORKERS: usize = 2;
/// Marks the volumes that were made here.
const PROVISIONER: &str = "pv.kubernetes.io/provisioned-by";
const OURS: &str = "vipyard.io/folder";

pub(super) struct ClaimController {
    client: Client,
    claims: Informer<PersistentVolumeClaim>,
    /// Where the node agents keep the folders.
    folder: PathBuf,
    events: Recorder,
}

impl ClaimController {
    pub(super) fn start(client: &Client, cluster: &Cluster, folder: PathBuf, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            claims: cluster.claims.clone(),
            folder,
            events: Recorder::new(client.clone(), "persistentvolume-controller", None),
        });
        tasks.spawn(follow(Arc::clone(&controller), Arc::clone(&queue)));
        tasks.spawn(run("claims", controller, queue, WORKERS));
    }

    async fn bind(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let (name, spec) = (claim_volume(&claim.uid().unwrap_or_default()), claim.spec.clone().unwrap_or_default());
        if let Some(why) = refusal(claim, &name) {
            self.events.event(claim.object_ref(&()), EventType::Warning, "ProvisioningFailed", why);
            return Ok(());
        }
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        match volumes.create(&PostParams::default(), &volume(&name, claim, &self.folder)).await {
            Ok(_) => {
                let message = format!("Successfully provisioned volume {name}");
                self.events.event(claim.object_ref(&()), EventType::Normal, "ProvisioningSucceeded", message);
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(e) => return Err(Error::api(format!("create PersistentVolume {name}"))(e)),
        }
        let bound = json!({"status": {"phase": "Bound"}});
        let patched = volumes.patch_status(&name, &PatchParams::default(), &Patch::Merge(bound)).await;
        patched.map_err(Error::api(format!("update the status of PersistentVolume {name}")))?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = json!({"uid": claim.uid()});
        let named = json!({"metadata": uid, "spec": {"volumeName": name}});
        let capacity = spec.resources.and_then(|resources| resources.requests);
        let status = json!({"phase": "Bound", "accessModes": spec.access_modes, "capacity": capacity});
        let shown = json!({"metadata": uid, "status": status});
        for (patch, to_status) in [(named, false), (shown, true)] {
            let patch = Patch::Merge(patch);
            let patched = match to_status {
                false => claims.patch(&key.name, &PatchParams::default(), &patch).await,
                true => claims.patch_status(&key.name, &PatchParams::default(), &patch).await,
            };
            match patched {
                Ok(_) => {}
                // Gone, or another of the same name: the volume may have come after the news of it.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    self.remove(&name).await;
                    return Ok(());
                }
                Err(e) => return Err(Error::api(format!("bind PersistentVolumeClaim {key}"))(e)),
            }
        }
        Ok(())
    }

    async fn remove(&self, name: &str) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        match volumes.delete(name, &DeleteParams::default()).await {
            Err(e) if !is_not_found(&e) => warn!(volume = name, error = %e, "volume of a deleted claim not removed"),
            _ => {}
        }
    }

    /// Volumes whose claims went while nobody looked.
    async fn remove_orphans(&self) {
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let known: BTreeSet<String> =
            self.claims.list().iter().map(|claim| claim_volume(&claim.uid().unwrap_or_default())).collect();
        match volumes.list(&ListParams::default()).await {
            Ok(found) => {
                let ours =
                    |volume: &PersistentVolume| volume.annotations().get(PROVISIONER).is_some_and(|by| by == OURS);
                for volume in found.items.iter().filter(|volume| ours(volume) && !known.contains(&volume.name_any())) {
                    self.remove(&volume.name_any()).await;
                }
            }
            Err(e) => warn!(error = %e, "volumes of earlier claims not looked for"),
        }
    }
}

impl Reconcile for ClaimController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Some(claim) = self.claims.get(&key.namespace, &key.name).filter(|claim| is_waiting(claim)) {
            self.bind(key, &claim).await?;
        }
        Ok(Action::Done)
    }
}

async fn follow(controller: Arc<ClaimController>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = controller.claims.subscribe();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Applied { new, .. } if is_waiting(&new) => queue.add(ObjectKey::of(&*new)),
            Change::Applied { .. } => {}
            Change::Deleted(old) => controller.remove(&claim_volume(&old.uid().unwrap_or_default())).await,
            Change::Synced => controller.remove_orphans().await,
            Change::Marked(mark) => queue.mark(&mark),
        }
    }
}

fn is_waiting(claim: &PersistentVolumeClaim) -> bool {
    let bound = claim.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Bound"));
    !bound && claim.metadata.deletion_timestamp.is_none()
}

/// Why a claim gets no folder.
fn refusal(claim: &PersistentVolumeClaim, name: &str) -> Option<&'static str> {
    let spec = claim.spec.as_ref()?;
    if spec.volume_mode.as_deref() == Some("Block") {
        return Some("volumeMode Block is not supported: volumes are folders");
    }
    if spec.volume_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) || spec.selector.is_some()
    {
        return Some(
            "a claim gets a folder of its own and no volume of one's choice: leave volumeName and selector out",
        );
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some("dataSource is not supported: a volume begins as an empty folder");
    }
    None
}

fn volume(name: &str, claim: &PersistentVolumeClaim, folder: &Path) -> PersistentVolume {
    let spec = claim.spec.clone().unwrap_or_default();
    let object: Value = json!({
        "metadata": {"name": name, "annotations": {PROVISIONER: OURS}},
        "spec": {
            "capacity": spec.resources.and_then(|resources| resources.requests),
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": spec.storage_class_name,
            "volumeMode": spec.volume_mode,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": claim.name_any(),
                "namespace": claim.namespace(), "uid": claim.uid()},
            "hostPath": {"path": folder.join(name)},
        },
    });
    serde_json::from_value(object).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_that_want_more_than_a_folder_are_refused() {
        let claim = |spec: Value| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"name": "c", "uid": "u"}, "spec": spec})).unwrap()
        };
        let refused = |spec| refusal(&claim(spec), "pvc-u");
        assert_eq!(refused(json!({"accessModes": ["ReadWriteOnce"], "volumeName": "pvc-u"})), None);
        for spec in [
            json!({"volumeMode": "Block"}),
            json!({"volumeName": "mine"}),
            json!({"selector": {}}),
            json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "other"}}),
        ] {
            assert!(refused(spec.clone()).is_some(), "{spec}");
        }
        let made = volume(
            "pvc-u",
            &claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}})),
            Path::new("/data"),
        );
        let spec = made.spec.unwrap();
        assert_eq!(spec.host_path.unwrap().path, "/data/pvc-u");
        assert_eq!(spec.capacity.unwrap()["storage"].0, "1Gi");
        assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("u"));
    }
}
