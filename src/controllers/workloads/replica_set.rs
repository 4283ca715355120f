//! The controller of ReplicaSets, and of ReplicationControllers, which are the same under an older name.
//!
//! A turn sees all own writes ([`OwnWrites`]), takes the Pods that belong to the set, creates or deletes what is over or
//! missing, and writes the status. [`super::replica_set_plan`] decides which Pods go.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::task::JoinSet;

use super::claims::{Namespaced, claim, controller_of, follow_children, follow_owners, is_controlled_by, is_deleting};
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::{self, BURST, Outcome, PodControl, is_active, slow_start};
use super::replica_set_plan::{self as plan, Desired};
use crate::cluster::{Informer, ObjectKey};
use crate::controllers::endpoint_model::terminal;
use crate::controllers::queue::Queue;
use crate::controllers::runner::{Action, Error, Reconcile, run, sooner};

/// Sets in flight at once.
const WORKERS: usize = 8;
/// The place of the other kind in [`OwnWrites`].
const PODS: usize = 1;

/// A kind that keeps a number of equal Pods.
pub(super) trait Replicas: Namespaced {
    const COMPONENT: &'static str;
    /// Whether the status tells of Pods that are going.
    const TELLS_TERMINATING: bool;
    fn selector(&self) -> Option<LabelSelector>;
    fn desired(&self) -> Option<Desired>;
    fn status(&self) -> ReplicaSetStatus;
    fn set_status(&mut self, status: ReplicaSetStatus);
}

impl Replicas for ReplicaSet {
    const COMPONENT: &'static str = "replicaset-controller";
    const TELLS_TERMINATING: bool = true;

    fn selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| spec.selector.clone())
    }

    fn desired(&self) -> Option<Desired> {
        let spec = self.spec.as_ref()?;
        Some(Desired {
            replicas: spec.replicas.unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template: spec.template.clone().unwrap_or_default(),
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        self.status = Some(status);
    }
}

impl Replicas for ReplicationController {
    const COMPONENT: &'static str = "replication-controller";
    const TELLS_TERMINATING: bool = false;

    fn selector(&self) -> Option<LabelSelector> {
        let match_labels = self.spec.as_ref()?.selector.clone();
        Some(LabelSelector { match_labels, match_expressions: None })
    }

    fn desired(&self) -> Option<Desired> {
        let spec = self.spec.as_ref()?;
        Some(Desired {
            replicas: spec.replicas.unwrap_or(0),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            template: spec.template.clone()?,
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let condition = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        ReplicaSetStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
            terminating_replicas: None,
        }
    }

    fn set_status(&mut self, status: ReplicaSetStatus) {
        let condition = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        self.status = Some(ReplicationControllerStatus {
            replicas: status.replicas,
            fully_labeled_replicas: status.fully_labeled_replicas,
            ready_replicas: status.ready_replicas,
            available_replicas: status.available_replicas,
            observed_generation: status.observed_generation,
            conditions: status.conditions.map(|all| all.into_iter().map(condition).collect()),
        });
    }
}

pub(super) struct ReplicaSetController<S> {
    client: Client,
    sets: Informer<S>,
    pods: Informer<Pod>,
    writes: OwnWrites<2>,
    control: PodControl,
}

impl<S: Replicas> ReplicaSetController<S> {
    pub(super) fn start(client: &Client, sets: &Informer<S>, pods: &Informer<Pod>, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            sets: sets.clone(),
            pods: pods.clone(),
            writes: OwnWrites::new(),
            control: PodControl::new(client, S::COMPONENT),
        });
        tasks.spawn(follow_owners(sets.clone(), Arc::clone(&queue)));
        tasks.spawn(follow_children(pods.clone(), sets.clone(), Arc::clone(&queue), S::selector, pods::differs));
        tasks.spawn(async move {
            controller.sets.wait_synced().await;
            controller.pods.wait_synced().await;
            run(S::COMPONENT, controller, queue, WORKERS).await;
        });
    }

    /// Creates or deletes Pods. `active` is kept in step.
    async fn scale(&self, key: &ObjectKey, set: &S, desired: &Desired, active: &[Arc<Pod>]) -> Outcome {
        let (now, wanted) = (active.len(), usize::try_from(desired.replicas).unwrap_or(0));
        if now < wanted {
            let pod = pods::from_template(set, &desired.template);
            return slow_start((wanted - now).min(BURST), async |_| {
                if let Some(created) = self.control.create(set, &pod).await? {
                    self.writes.wrote(key, PODS, &created);
                }
                Ok(())
            })
            .await;
        }
        let over = (now - wanted).min(BURST);
        if over == 0 {
            return Outcome { done: 0, error: None };
        }
        let related = self.related(key, set);
        let victims = plan::victims(active, &related, over, Timestamp::now());
        let deletions = victims.iter().map(async |pod| {
            if let Some(deleted) = self.control.delete(set, pod).await? {
                self.writes.wrote(key, PODS, &deleted);
            }
            Ok(())
        });
        let results: Vec<Result<(), Error>> = deletions.collect::<FuturesUnordered<_>>().collect().await;
        let done = results.iter().filter(|result| result.is_ok()).count();
        Outcome { done, error: results.into_iter().find_map(Result::err) }
    }

    /// The Pods of all sets that one Deployment controls.
    fn related(&self, key: &ObjectKey, set: &S) -> Vec<Arc<Pod>> {
        let owner = controller_of(set.meta()).map(|owner| owner.uid.clone());
        let of_owner = |other: &Arc<S>| owner.is_some() && is_controlled_by(other.meta(), owner.as_deref());
        let siblings: Vec<_> = self.sets.list_in(&key.namespace).into_iter().filter(of_owner).collect();
        let mut uids: Vec<_> = siblings.iter().filter_map(|set| set.meta().uid.as_deref()).collect();
        uids.extend(set.meta().uid.as_deref());
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid.as_str())));
        pods
    }
}

impl<S: Replicas> Reconcile for ReplicaSetController<S> {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.sets, &self.pods]).await {
            return Ok(Action::Behind(wait));
        }
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            return Ok(Action::Done);
        };
        let (Some(selector), Some(desired)) = (set.selector(), set.desired()) else { return Ok(Action::Done) };
        let mut all = self.pods.list_in(&key.namespace);
        all.retain(|pod| !terminal(pod));
        let owned = claim(&self.client, &*set, &selector, all, |pod| self.writes.wrote(key, PODS, pod)).await?;
        let (active, going): (Vec<_>, Vec<_>) = owned.into_iter().partition(|pod| is_active(pod));
        let outcome = if is_deleting(set.meta()) {
            Outcome { done: 0, error: None }
        } else {
            self.scale(key, &set, &desired, &active).await
        };
        let now = Timestamp::now();
        let before = set.status();
        let error = outcome.error.as_ref().map(Error::cause);
        let generation = set.meta().generation;
        let terminating = S::TELLS_TERMINATING.then_some(going.len());
        let status = plan::status(&before, generation, &desired, &active, terminating, error.as_deref(), now);
        let mut again = pods::next_available(active.iter().map(|pod| &**pod), desired.min_ready_seconds, now);
        // What was created or deleted changes the counts at once: the events of it bring the next turn.
        let settled = outcome.done == 0 || outcome.error.is_some();
        if status != before && (settled || status.observed_generation != before.observed_generation) {
            let counts = usize::try_from(status.replicas.max(before.replicas)).unwrap_or(0);
            let mut changed = (*set).clone();
            changed.set_status(status);
            match self.writes.write_status(&self.client, key, &changed, counts).await? {
                StatusWrite::Done => {}
                StatusWrite::Later(wait) => again = sooner(again, Some(wait)),
                StatusWrite::Gone => return Ok(Action::Done),
            }
        }
        match outcome.error {
            Some(error) => Err(error),
            None => Ok(Action::again(again)),
        }
    }
}
