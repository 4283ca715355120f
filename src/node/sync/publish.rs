//! Writing a Pod's status, and removing its object at the end.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use tracing::warn;

use super::{Stage, Worker, pod_status};

/// Fields that disappear by being null in a merge patch.
const NULLABLE: [&str; 6] = ["reason", "message", "podIP", "podIPs", "containerStatuses", "initContainerStatuses"];

/// How often a write starts over from a newer object before it is left to the next turn.
const ATTEMPTS: usize = 5;

impl Worker {
    /// Writes the status if it differs from the object's, and then, in `Ended`, removes an object that is being
    /// deleted. A refused write is tried again after a while.
    pub(super) async fn publish(&mut self) {
        if self.gone || self.shutdown || self.deleted {
            return;
        }
        if self.retry.at.is_some() && !self.retry.is_due() && self.stage != Stage::Starting {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.node.shared.client.clone(), &self.key.namespace);
        let mut result = if self.frozen { Ok(()) } else { self.write_status(&api).await };
        if result.is_ok() && self.stage == Stage::Ended && self.pod.metadata.deletion_timestamp.is_some() {
            result = self.delete(&api).await;
        }
        match result {
            Ok(()) if self.stage != Stage::Starting => self.retry.succeeded(&self.node.shared.timings.retry),
            Ok(()) => {}
            Err(e) => {
                warn!(pod = %self.key, error = %e, "status of the pod not written");
                self.retry.failed();
            }
        }
    }

    async fn write_status(&mut self, api: &Api<Pod>) -> Result<(), kube::Error> {
        for _ in 0..ATTEMPTS {
            let status = pod_status(&self.pod, &self.view(), Timestamp::now());
            if self.pod.status.as_ref() == Some(&status) {
                return Ok(());
            }
            let patch = patch(&self.pod, &self.uid, &status);
            match api.patch_status(&self.key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(pod) => {
                    self.pod = Arc::new(pod);
                    return Ok(());
                }
                // Somebody else wrote in between, a third party's condition for example: start from theirs.
                Err(kube::Error::Api(status)) if status.code == 409 => match api.get_opt(&self.key.name).await? {
                    Some(pod) if pod.metadata.uid.as_deref() == Some(&self.uid) => self.pod = Arc::new(pod),
                    _ => {
                        self.vanished();
                        return Ok(());
                    }
                },
                // The watch says so too, unless it did before this task began.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.vanished();
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The object is gone, or another of its name is there.
    fn vanished(&mut self) {
        self.gone = true;
        self.kill_all();
    }

    /// The last step of a deletion (rule PX3).
    async fn delete(&mut self, api: &Api<Pod>) -> Result<(), kube::Error> {
        let parameters = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&self.key.name, &parameters).await {
            Ok(_) => self.deleted = true,
            // Already gone, or another Pod of the same name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.deleted = true,
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// A merge patch of the whole status. The resource version makes it fail rather than undo somebody else's condition.
fn patch(pod: &Pod, uid: &str, status: &k8s_openapi::api::core::v1::PodStatus) -> Value {
    let mut status = json!(status);
    if let Value::Object(fields) = &mut status {
        for name in NULLABLE {
            fields.entry(name).or_insert(Value::Null);
        }
    }
    json!({"metadata": {"uid": uid, "resourceVersion": pod.metadata.resource_version}, "status": status})
}
