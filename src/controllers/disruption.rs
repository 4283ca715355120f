//! The disruption controller: keeps the status of PodDisruptionBudgets, from which evictions learn whether a Pod may go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, Resource};
use tokio::task::JoinSet;

use super::disruption_plan::{self, needs_scale};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use super::workloads::{controller_of, follow_owners};
use crate::api::kinds::selects;
use crate::cluster::{Change, Cluster, Informer, ObjectKey};

const WORKERS: usize = 4;

pub(super) struct DisruptionController {
    client: Client,
    pods: Informer<Pod>,
    budgets: Informer<PodDisruptionBudget>,
}

impl DisruptionController {
    pub(super) fn start(client: &Client, cluster: &Cluster, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let (budgets, writer) = Informer::new();
        tasks.spawn(writer.run(Api::all(client.clone())));
        let controller = Arc::new(Self { client: client.clone(), pods: cluster.pods.clone(), budgets });
        tasks.spawn(follow_owners(controller.budgets.clone(), Arc::clone(&queue)));
        tasks.spawn(follow_pods(Arc::clone(&controller), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.pods.wait_synced().await;
            controller.budgets.wait_synced().await;
            run("disruption", controller, queue, WORKERS).await;
        });
    }

    /// How many Pods the controllers of these Pods want. `Err` says why that cannot be told.
    async fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<Result<i64, String>, Error> {
        let mut owners: BTreeMap<String, OwnerReference> = BTreeMap::new();
        for owner in pods.iter().filter_map(|pod| controller_of(&pod.metadata)) {
            owners.insert(owner.uid.clone(), owner.clone());
        }
        let mut sum = 0;
        for owner in owners.into_values() {
            match self.replicas(namespace, &owner).await? {
                Some(replicas) => sum += i64::from(replicas),
                None => return Ok(Err(format!("{} does not implement the scale subresource", owner.kind))),
            }
        }
        Ok(Ok(sum))
    }

    /// A ReplicaSet of a Deployment wants what the Deployment wants.
    async fn replicas(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<i32>, Error> {
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let Some(set) = self.get::<ReplicaSet>(namespace, &owner.name).await? else { return Ok(Some(0)) };
                if let Some(deployment) = controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment") {
                    let deployment = self.get::<Deployment>(namespace, &deployment.name).await?;
                    return Ok(Some(deployment.and_then(|found| found.spec?.replicas).unwrap_or(0)));
                }
                Ok(Some(set.spec.and_then(|spec| spec.replicas).unwrap_or(0)))
            }
            "ReplicationController" => {
                let set = self.get::<ReplicationController>(namespace, &owner.name).await?;
                Ok(Some(set.and_then(|found| found.spec?.replicas).unwrap_or(0)))
            }
            "StatefulSet" => {
                let set = self.get::<StatefulSet>(namespace, &owner.name).await?;
                Ok(Some(set.and_then(|found| found.spec?.replicas).unwrap_or(0)))
            }
            _ => Ok(None),
        }
    }

    async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let found = Api::<K>::namespaced(self.client.clone(), namespace).get_opt(name).await;
        found.map_err(Error::api(format!("read {} {namespace}/{name}", K::kind(&()))))
    }
}

impl Reconcile for DisruptionController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else { return Ok(Action::Done) };
        let spec = budget.spec.clone().unwrap_or_default();
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| selects_pod(&budget, pod));
        let scale = if needs_scale(&spec) { self.scale(&key.namespace, &pods).await? } else { Ok(0) };
        let now = Timestamp::now();
        let status = match scale {
            Ok(scale) => disruption_plan::status(&budget, &pods, scale, now),
            Err(why) => disruption_plan::failed(&budget, &why, now),
        };
        let expiry = disruption_plan::next_expiry(&status);
        if budget.status.as_ref() != Some(&status) {
            let mut changed = (*budget).clone();
            changed.status = Some(status);
            let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            unless_gone(written).map_err(Error::api(format!("update the status of PodDisruptionBudget {key}")))?;
        }
        Ok(match expiry {
            Some(at) => Action::After(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
            None => Action::Done,
        })
    }
}

fn selects_pod(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    selector.is_some_and(|selector| selects(selector, &labels))
}

/// A Pod concerns the budgets that select its old or its new labels.
async fn follow_pods(controller: Arc<DisruptionController>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = controller.pods.subscribe();
    while let Some(change) = changes.recv().await {
        let pods = match change {
            Change::Applied { old, new } => [old, Some(new)],
            Change::Deleted(old) => [Some(old), None],
            Change::Synced | Change::Marked(_) => continue,
        };
        for pod in pods.into_iter().flatten() {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            for budget in controller.budgets.list_in(&namespace).iter().filter(|budget| selects_pod(budget, &pod)) {
                queue.add(ObjectKey::of(&**budget));
            }
        }
    }
}
