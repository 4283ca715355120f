//! Keeps PersistentVolumeClaims that Pods use from being deleted: the API gives each claim a finalizer, which is removed
//! here when the claim is being deleted and no Pod with a node names it any more. Pods that have ended count as long as
//! they exist, as in `k8s.io/kubernetes/pkg/controller/volume/pvcprotection`.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use crate::api::kinds::CLAIM_PROTECTION;
use crate::cluster::{Change, Cluster, ObjectKey};

const NAME: &str = "claim-protection";
const WORKERS: usize = 2;

pub(super) struct ClaimProtection {
    client: Client,
    cluster: Cluster,
}

impl ClaimProtection {
    pub(super) fn start(client: &Client, cluster: &Cluster, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self { client: client.clone(), cluster: cluster.clone() });
        tasks.spawn(follow(cluster.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.cluster.claims.wait_synced().await;
            controller.cluster.pods.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    /// Asks the cache, which is enough for a yes, and then the API.
    async fn is_used(&self, key: &ObjectKey) -> Result<bool, Error> {
        if self.cluster.pods.list_in(&key.namespace).iter().any(|pod| uses(pod, &key.name)) {
            return Ok(true);
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let pods = api.list(&ListParams::default()).await;
        let pods = pods.map_err(Error::api(format!("list the Pods of namespace {}", key.namespace)))?;
        Ok(pods.iter().any(|pod| uses(pod, &key.name)))
    }

    /// Replaces the finalizers. The version in the patch keeps those that others wrote meanwhile.
    async fn write(
        &self,
        key: &ObjectKey,
        claim: &PersistentVolumeClaim,
        finalizers: Vec<String>,
    ) -> Result<(), Error> {
        let metadata =
            json!({"uid": claim.uid(), "resourceVersion": claim.resource_version(), "finalizers": finalizers});
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let written = api.patch(&key.name, &PatchParams::default(), &patch).await;
        unless_gone(written)
            .map(drop)
            .map_err(Error::api(format!("update the finalizers of PersistentVolumeClaim {key}")))
    }
}

impl Reconcile for ClaimProtection {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(claim) = self.cluster.claims.get(&key.namespace, &key.name) else { return Ok(Action::Done) };
        let mut finalizers = claim.finalizers().to_vec();
        match (claim.metadata.deletion_timestamp.is_some(), is_protected(&claim)) {
            // One of an earlier vipyard.
            (false, false) => finalizers.push(CLAIM_PROTECTION.to_owned()),
            (true, true) if !self.is_used(key).await? => finalizers.retain(|name| name != CLAIM_PROTECTION),
            _ => return Ok(Action::Done),
        }
        self.write(key, &claim, finalizers).await?;
        Ok(Action::Done)
    }
}

fn is_protected(claim: &PersistentVolumeClaim) -> bool {
    claim.finalizers().iter().any(|name| name == CLAIM_PROTECTION)
}

/// Whether a Pod has, or may be given, what the claim keeps: node agents start nothing with a claim that is being
/// deleted, so a Pod without a node will not.
fn uses(pod: &Pod, claim: &str) -> bool {
    let Some(spec) = &pod.spec else { return false };
    spec.node_name.as_deref().is_some_and(|node| !node.is_empty()) && claims_of(pod).any(|name| name == claim)
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = &str> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

async fn follow(cluster: Cluster, queue: Arc<Queue<ObjectKey>>) {
    let mut claims = cluster.claims.subscribe();
    let mut pods = cluster.pods.subscribe();
    loop {
        let gone = tokio::select! {
            Some(change) = claims.recv() => {
                if let Change::Applied { new: claim, .. } = change {
                    queue.add(ObjectKey::of(&*claim));
                }
                continue;
            }
            Some(change) = pods.recv() => match change {
                Change::Applied { old: Some(old), new } if old.metadata.uid != new.metadata.uid => old,
                Change::Deleted(old) => old,
                _ => continue,
            },
            else => return,
        };
        let namespace = gone.namespace().unwrap_or_default();
        claims_of(&gone).for_each(|name| queue.add(ObjectKey::new(namespace.as_str(), name)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_with_a_node_use_the_claims_that_they_name() {
        let pod = |node: Option<&str>, phase: &str| -> Pod {
            let volumes =
                json!([{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}}]);
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"containers": [], "nodeName": node, "volumes": volumes}}))
            .unwrap()
        };
        assert!(uses(&pod(Some("n1"), "Running"), "c") && uses(&pod(Some("n1"), "Succeeded"), "c"));
        assert!(!uses(&pod(Some("n1"), "Running"), "a") && !uses(&pod(None, "Pending"), "c"));
    }
}
