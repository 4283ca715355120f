//! The node controller: nodes whose agent is lost, taints, and the Pods that these drive away.
//!
//! An agent's Lease tells that it lives. A kubelet renews it every ten seconds; here agents live in one process with
//! this controller, so a Lease without a duration simply holds, and an idle cluster writes nothing. When a node is
//! stopped (`vipyard node stop`), its last heartbeat is a Lease with a duration, and from there on all goes as with a
//! lost machine: after the grace period the node's conditions are Unknown, its Pods not ready, and its taints drive them
//! away when their tolerations run out. [`super::node_life_plan`] decides.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::endpoint_model::{pod_ready, terminal, terminating};
use super::node_life_plan::{self as plan, Pulse, Stay};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, sooner, unless_gone};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::config::NODE_LEASES;
use crate::events::{EventType, Recorder};

const NAME: &str = "node-controller";
const WORKERS: usize = 4;

pub(super) struct NodeLife {
    client: Client,
    cluster: Cluster,
    leases: Informer<Lease>,
    grace: Duration,
    events: Recorder,
}

impl NodeLife {
    pub(super) fn start(client: &Client, cluster: &Cluster, grace: Duration, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let (leases, writer) = Informer::new();
        tasks.spawn(writer.run(Api::namespaced(client.clone(), NODE_LEASES)));
        let controller = Arc::new(Self {
            client: client.clone(),
            cluster: cluster.clone(),
            leases,
            grace,
            events: Recorder::new(client.clone(), NAME, None),
        });
        tasks.spawn(Arc::clone(&controller).follow(Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.cluster.nodes.wait_synced().await;
            controller.cluster.pods.wait_synced().await;
            controller.leases.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    async fn follow(self: Arc<Self>, queue: Arc<Queue<ObjectKey>>) {
        let mut nodes = self.cluster.nodes.subscribe();
        let mut leases = self.leases.subscribe();
        let mut pods = self.cluster.pods.subscribe();
        loop {
            let name = tokio::select! {
                Some(change) = nodes.recv() => match change {
                    Change::Applied { new: node, .. } => Some(node.name_any()),
                    _ => None,
                },
                Some(change) = leases.recv() => match change {
                    Change::Applied { new: lease, .. } | Change::Deleted(lease) => Some(lease.name_any()),
                    _ => None,
                },
                Some(change) = pods.recv() => match change {
                    Change::Applied { old, new } => self.concerned(old.as_deref(), &new),
                    _ => None,
                },
                else => return,
            };
            name.into_iter().for_each(|name| queue.add(ObjectKey::new("", name)));
        }
    }

    /// The node of a Pod that came to a troubled one, or changed what it tolerates.
    fn concerned(&self, old: Option<&Pod>, pod: &Pod) -> Option<String> {
        let name = pod.spec.as_ref()?.node_name.clone()?;
        if old.is_some_and(|old| old.spec == pod.spec && pod_ready(old) == pod_ready(pod)) {
            return None;
        }
        let node = self.cluster.nodes.get("", &name)?;
        (plan::drives_away(&node) || plan::ready_status(&node) != Some("True")).then_some(name)
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.cluster.pods.list();
        pods.retain(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node));
        pods
    }

    async fn lose(&self, node: &Node) -> Result<(), Error> {
        let Some(conditions) = plan::lost_conditions(node, Timestamp::now()) else { return Ok(()) };
        let patch =
            json!({"metadata": {"resourceVersion": node.resource_version()}, "status": {"conditions": conditions}});
        let name = node.name_any();
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        written.map_err(Error::api(format!("update the status of Node {name}")))?;
        let message = format!("Node {name} status is now: NodeNotReady");
        self.events.event(node.object_ref(&()), EventType::Normal, "NodeNotReady", message);
        Ok(())
    }

    async fn taint(&self, node: &Node) -> Result<(), Error> {
        let Some(taints) = plan::taints(node, Timestamp::now()) else { return Ok(()) };
        let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        let name = node.name_any();
        let api: Api<Node> = Api::all(self.client.clone());
        let written = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
        written.map(drop).map_err(Error::api(format!("update the taints of Node {name}")))
    }

    /// Nobody is left who would say that a Pod does not serve any more.
    async fn mark_not_ready(&self, pod: &Pod) -> Result<(), Error> {
        let condition = json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())});
        self.condition(pod, condition).await?;
        self.events.event(pod.object_ref(&()), EventType::Warning, "NodeNotReady", "Node is not ready");
        Ok(())
    }

    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let message = format!("Marking for deletion Pod {key}");
        self.events.event(pod.object_ref(&()), EventType::Normal, "TaintManagerEviction", message);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(Timestamp::now())});
        self.condition(pod, condition).await?;
        let only_this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(only_this)).await;
        unless_gone(deleted).map(drop).map_err(Error::api(format!("delete Pod {key}, which its node drives away")))
    }

    async fn condition(&self, pod: &Pod, condition: serde_json::Value) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
        unless_gone(written).map(drop).map_err(Error::api(format!("update the status of Pod {}", ObjectKey::of(pod))))
    }
}

impl Reconcile for NodeLife {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(node) = self.cluster.nodes.get("", &key.name) else { return Ok(Action::Done) };
        let mut again: Option<Duration> = None;
        let lease = self.leases.get(NODE_LEASES, &key.name);
        match plan::pulse(lease.as_deref(), plan::heartbeat(&node), self.grace, Timestamp::now()) {
            Pulse::Beats => {}
            Pulse::Fades(left) => again = Some(left),
            Pulse::Lost => self.lose(&node).await?,
        }
        self.taint(&node).await?;
        let ready = plan::ready_status(&node).is_none_or(|status| status == "True");
        if ready && !plan::drives_away(&node) {
            return Ok(Action::again(again));
        }
        for pod in self.pods_on(&key.name) {
            if !ready && pod_ready(&pod) && !terminal(&pod) {
                self.mark_not_ready(&pod).await?;
            }
            if terminating(&pod) {
                continue;
            }
            match plan::stay(&pod, &node, Timestamp::now()) {
                Stay::Forever => {}
                Stay::For(left) => again = sooner(again, Some(left)),
                Stay::Over => self.evict(&pod).await?,
            }
        }
        Ok(Action::again(again))
    }
}
