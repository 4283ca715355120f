//! Removes Pods of nodes that do not exist any more: nobody is left who would run them, or say that they ended
//! (`k8s.io/kubernetes/pkg/controller/podgc`).
//!
//! A node must have been gone for a while first, [`NodeTimes::absence`](crate::config::NodeTimes). At the start Pods are
//! known before the nodes are registered, and a Pod may name its node before there is one. The reference waits four
//! times as long, as a machine's agent may be late; here agents register within the first second, or vipyard is not up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tracing::info;

use super::endpoint_model::terminal;
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use crate::cluster::{Change, Cluster, ObjectKey};

const NAME: &str = "pod-garbage-collector";
const WORKERS: usize = 2;

pub(super) struct PodGc {
    client: Client,
    cluster: Cluster,
    absence: Duration,
    /// Since when nodes are missed that have Pods.
    missed: Mutex<HashMap<String, Instant>>,
}

impl PodGc {
    pub(super) fn start(client: &Client, cluster: &Cluster, absence: Duration, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let missed = Mutex::default();
        let controller = Arc::new(Self { client: client.clone(), cluster: cluster.clone(), absence, missed });
        tasks.spawn(follow(cluster.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.cluster.nodes.wait_synced().await;
            controller.cluster.pods.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    async fn exists(&self, node: &str) -> Result<bool, Error> {
        let found = Api::<Node>::all(self.client.clone()).get_opt(node).await;
        found.map(|node| node.is_some()).map_err(Error::api(format!("read Node {node}")))
    }

    /// A Pod that has given way to another of its name is a lost race: the next turn sees the other one.
    async fn remove(&self, pod: &Pod, node: &str) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        info!(pod = %key, node, "pod removed, as its node does not exist");
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        if !terminal(pod) {
            let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": Time(Timestamp::now())});
            let status = json!({"phase": "Failed", "conditions": [condition]});
            let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
            let written = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(Error::api(format!("update the status of Pod {key}")))?;
        }
        let only_this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let at_once = DeleteParams::default().grace_period(0).preconditions(only_this);
        let deleted = api.delete(&key.name, &at_once).await;
        unless_gone(deleted).map(drop).map_err(Error::api(format!("delete Pod {key}, whose node is gone")))
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Queues nodes that come or go, and nodes that are missing where a Pod names them.
async fn follow(cluster: Cluster, queue: Arc<Queue<ObjectKey>>) {
    let mut nodes = cluster.nodes.subscribe();
    let mut pods = cluster.pods.subscribe();
    loop {
        let name = tokio::select! {
            Some(change) = nodes.recv() => match change {
                Change::Applied { old: None, new: node } | Change::Deleted(node) => Some(node.name_any()),
                _ => None,
            },
            Some(change) = pods.recv() => match change {
                Change::Applied { new: pod, .. } => {
                    node_of(&pod).filter(|name| cluster.nodes.get("", name).is_none()).map(str::to_owned)
                }
                _ => None,
            },
            else => return,
        };
        name.into_iter().for_each(|name| queue.add(ObjectKey::new("", name)));
    }
}

impl Reconcile for PodGc {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let node = &key.name;
        let mut pods = self.cluster.pods.list();
        pods.retain(|pod| node_of(pod) == Some(node));
        if pods.is_empty() || self.cluster.nodes.get("", node).is_some() {
            self.missed.lock().remove(node);
            return Ok(Action::Done);
        }
        let since = *self.missed.lock().entry(node.clone()).or_insert_with(Instant::now);
        let left = self.absence.saturating_sub(since.elapsed());
        if !left.is_zero() {
            return Ok(Action::After(left));
        }
        // The cache may be behind.
        if self.exists(node).await? {
            return Ok(Action::After(self.absence));
        }
        let going = |pod: &Pod| {
            pod.metadata.deletion_timestamp.is_some() && pod.metadata.deletion_grace_period_seconds == Some(0)
        };
        for pod in pods.iter().filter(|pod| !going(pod)) {
            self.remove(pod, node).await?;
        }
        Ok(Action::Done)
    }
}
