//! The controller of StatefulSets. [`super::stateful_set_plan`] decides; this reads and writes.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::claims::{claim, follow_children, follow_owners, is_deleting};
use super::describe;
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::{self, BURST, PodControl, slow_start};
use super::revisions::{REVISION_LABEL, Revisions, template_of};
use super::stateful_set_plan::{Plan, State, Version, ordinal};
use crate::cluster::{Cluster, Informer, ObjectKey};
use crate::controllers::queue::Queue;
use crate::controllers::runner::{
    Action, Error, Reconcile, is_already_exists, is_namespace_terminating, run, sooner, unless_gone,
};

const NAME: &str = "statefulset-controller";
const WORKERS: usize = 4;
/// The places of the other kinds in [`OwnWrites`].
const PODS: usize = 1;
const REVISIONS: usize = 2;
const REVISION_HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub(super) struct StatefulSetController {
    client: Client,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Revisions,
    writes: OwnWrites<3>,
    control: PodControl,
}

impl StatefulSetController {
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        sets: &Informer<StatefulSet>,
        revisions: &Informer<ControllerRevision>,
        tasks: &mut JoinSet<()>,
    ) {
        let queue = Arc::new(Queue::new());
        let pods = &cluster.pods;
        let controller = Arc::new(Self {
            client: client.clone(),
            sets: sets.clone(),
            pods: pods.clone(),
            claims: cluster.claims.clone(),
            revisions: Revisions::new(client, revisions, REVISION_HASH_LABEL),
            writes: OwnWrites::new(),
            control: PodControl::new(client, NAME),
        });
        tasks.spawn(follow_owners(sets.clone(), Arc::clone(&queue)));
        let selector = |set: &StatefulSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        tasks.spawn(follow_children(pods.clone(), sets.clone(), Arc::clone(&queue), selector, pods::differs));
        tasks.spawn(async move {
            controller.sets.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.claims.wait_synced().await;
            controller.revisions.cache.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    async fn apply(&self, key: &ObjectKey, set: &StatefulSet, state: &State<'_>, plan: Plan) -> Result<(), Error> {
        for pod in plan.recreate {
            let name = pod.name_any();
            let message = format!("StatefulSet {key} is recreating failed Pod {name}");
            self.control.warn(set, "RecreatingFailedPod", message);
            self.delete(key, set, &pod).await?;
        }
        let outcome =
            slow_start(plan.create.len().min(BURST), |place| self.create(key, set, state, plan.create[place].clone()))
                .await;
        if let Some(error) = outcome.error {
            return Err(error);
        }
        for pod in plan.mend {
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let mended = api.replace(&pod.name_any(), &PostParams::default(), &pod).await;
            let mended = mended.map_err(Error::api(format!("update Pod {}", ObjectKey::of(&pod))))?;
            self.writes.wrote(key, PODS, &mended);
        }
        for pod in plan.delete.iter().take(BURST) {
            self.delete(key, set, pod).await?;
        }
        Ok(())
    }

    /// Makes the claims of a Pod, then the Pod.
    async fn create(&self, key: &ObjectKey, set: &StatefulSet, state: &State<'_>, pod: Pod) -> Result<(), Error> {
        let (name, owner) = (pod.name_any(), set.name_any());
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for claim in state.claims_of(&name) {
            let what = claim.name_any();
            match claims.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let message = format!("create Claim {what} Pod {name} in StatefulSet {owner} success");
                    self.control.tell(set, "SuccessfulCreate", message);
                }
                // That of a Pod that was here before, unless it is about to go with that Pod.
                Err(e) if is_already_exists(&e) => {
                    let found = claims.get_opt(&what).await;
                    let found = found.map_err(Error::api(format!("read PersistentVolumeClaim {what}")))?;
                    if found.is_none_or(|found| is_deleting(&found.metadata)) {
                        let reason = format!("PersistentVolumeClaim {what} is being deleted");
                        return Err(Error::Refused { what: format!("Pod {name} of StatefulSet {key}"), reason });
                    }
                }
                Err(e) if is_namespace_terminating(&e) => return Ok(()),
                Err(e) => {
                    let error = describe(&e);
                    let message =
                        format!("create Claim {what} for Pod {name} in StatefulSet {owner} failed error: {error}");
                    self.control.warn(set, "FailedCreate", message);
                    return Err(Error::api(format!("create PersistentVolumeClaim {what} of StatefulSet {key}"))(e));
                }
            }
        }
        match self.control.post(set, &pod).await {
            Ok(Some(created)) => {
                self.writes.wrote(key, PODS, &created);
                let message = format!("create Pod {name} in StatefulSet {owner} successful");
                self.control.tell(set, "SuccessfulCreate", message);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(e) => {
                let message = format!("create Pod {name} in StatefulSet {owner} failed error: {}", describe(&e));
                self.control.warn(set, "FailedCreate", message);
                Err(Error::api(format!("create Pod {name} of StatefulSet {key}"))(e))
            }
        }
    }

    /// Gives claims the owners that they should have, so that they go when these do.
    async fn retain(&self, key: &ObjectKey, state: &State<'_>) -> Result<(), Error> {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for (claim, owners) in state.retained(|name| self.claims.get(&key.namespace, name)) {
            let name = claim.name_any();
            // The version keeps owners that others wrote meanwhile.
            let metadata =
                json!({"uid": claim.uid(), "resourceVersion": claim.resource_version(), "ownerReferences": owners});
            let patch = Patch::Merge(json!({"metadata": metadata}));
            let written = claims.patch(&name, &PatchParams::default(), &patch).await;
            unless_gone(written).map_err(Error::api(format!("update the owners of PersistentVolumeClaim {name}")))?;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let (name, owner) = (pod.name_any(), set.name_any());
        match self.control.remove(pod).await {
            Ok(Some(deleted)) => {
                self.writes.wrote(key, PODS, &deleted);
                let message = format!("delete Pod {name} in StatefulSet {owner} successful");
                self.control.tell(set, "SuccessfulDelete", message);
                Ok(())
            }
            Ok(None) => Ok(()),
            Err(e) => {
                let message = format!("delete Pod {name} in StatefulSet {owner} failed error: {}", describe(&e));
                self.control.warn(set, "FailedDelete", message);
                Err(Error::api(format!("delete Pod {name} of StatefulSet {key}"))(e))
            }
        }
    }
}

impl Reconcile for StatefulSetController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.sets, &self.pods, &self.revisions.cache]).await {
            return Ok(Action::Behind(wait));
        }
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            return Ok(Action::Done);
        };
        let Some(spec) = set.spec.as_ref().filter(|_| !is_deleting(&set.metadata)) else { return Ok(Action::Done) };
        let revised = |revision: &ControllerRevision| self.writes.wrote(key, REVISIONS, revision);
        let history = self.revisions.of(&*set, &spec.selector, revised).await?;
        let mut changed = (*set).clone();
        let before = set.status.clone().unwrap_or_default();
        let collisions = before.collision_count;
        let Some(update) = self.revisions.present(&*set, &spec.template, collisions, &history, revised).await? else {
            changed.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
            self.writes.write_status(&self.client, key, &changed, 0).await?;
            return Ok(Action::Done);
        };
        let current = history.iter().find(|revision| before.current_revision == revision.metadata.name);
        let version = |revision: &ControllerRevision| Version {
            name: revision.name_any(),
            template: template_of(revision).unwrap_or_else(|| spec.template.clone()),
        };
        let mut all = self.pods.list_in(&key.namespace);
        all.retain(|pod| ordinal(&key.name, &pod.name_any()).is_some());
        let wrote = |pod: &Pod| self.writes.wrote(key, PODS, pod);
        let owned = claim(&self.client, &*set, &spec.selector, all, wrote).await?;
        let live = owned.iter().filter_map(|pod| pod.labels().get(REVISION_LABEL).cloned());
        let live: Vec<String> = live.chain([update.name_any()]).chain(before.current_revision.clone()).collect();
        let current = current.map_or_else(|| version(&update), |current| version(current));
        let state = State::of(&set, current, version(&update), owned, Timestamp::now());
        let plan = state.plan();
        let acted = !plan.is_empty();
        // A Pod's claims are to go with it, so they are given to it first.
        let applied = match self.retain(key, &state).await {
            Ok(()) => self.apply(key, &set, &state, plan).await,
            Err(e) => Err(e),
        };
        self.revisions.truncate(&history, &live, spec.revision_history_limit).await?;

        let (status, mut again) = state.status();
        // What was created or deleted changes the counts at once: the events of it bring the next turn.
        let told = !acted || applied.is_err() || before.observed_generation != status.observed_generation;
        if told && set.status.as_ref() != Some(&status) {
            let counted = usize::try_from(status.replicas).unwrap_or(0);
            changed.status = Some(status);
            match self.writes.write_status(&self.client, key, &changed, counted).await? {
                StatusWrite::Done => {}
                StatusWrite::Later(wait) => again = sooner(again, Some(wait)),
                StatusWrite::Gone => return Ok(Action::Done),
            }
        }
        applied?;
        Ok(Action::again(again))
    }
}
