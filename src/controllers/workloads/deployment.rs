//! The controller of Deployments. [`super::deployment_plan`] decides, [`super::deployment_status`] tells how it goes;
//! this reads and writes.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use super::claims::{claim, follow_children, follow_owners, is_controlled_by, is_deleting};
use super::deployment_plan::{self as plan, Plan, REVISION, Sets, is_of_template, replicas};
use super::deployment_status::{self, Deed};
use super::describe;
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::PodControl;
use crate::cluster::{Change, Informer, ObjectKey};
use crate::controllers::queue::Queue;
use crate::controllers::runner::{
    Action, Error, Reconcile, is_already_exists, is_namespace_terminating, run, sooner, unless_gone,
};

const NAME: &str = "deployment-controller";
const WORKERS: usize = 8;
/// The place of the other kind in [`OwnWrites`].
const SETS: usize = 1;

pub(super) struct DeploymentController {
    client: Client,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    writes: OwnWrites<2>,
    control: PodControl,
}

impl DeploymentController {
    pub(super) fn start(
        client: &Client,
        deployments: &Informer<Deployment>,
        sets: &Informer<ReplicaSet>,
        pods: &Informer<Pod>,
        tasks: &mut JoinSet<()>,
    ) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            deployments: deployments.clone(),
            sets: sets.clone(),
            pods: pods.clone(),
            writes: OwnWrites::new(),
            control: PodControl::new(client, NAME),
        });
        tasks.spawn(follow_owners(deployments.clone(), Arc::clone(&queue)));
        let selector = |deployment: &Deployment| deployment.spec.as_ref().map(|spec| spec.selector.clone());
        tasks.spawn(follow_children(sets.clone(), deployments.clone(), Arc::clone(&queue), selector, |_, _| true));
        tasks.spawn(Arc::clone(&controller).follow_pods(Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.deployments.wait_synced().await;
            controller.sets.wait_synced().await;
            controller.pods.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    /// With strategy Recreate the last old Pod that goes is what a Deployment waits for; no set tells of it.
    async fn follow_pods(self: Arc<Self>, queue: Arc<Queue<ObjectKey>>) {
        let mut changes = self.pods.subscribe();
        while let Some(change) = changes.recv().await {
            let Change::Deleted(pod) = change else { continue };
            let namespace = pod.namespace().unwrap_or_default();
            let set = super::claims::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
            let Some(set) = set.and_then(|owner| self.sets.get(&namespace, &owner.name)) else { continue };
            if let Some(owner) = super::claims::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")
            {
                queue.add(ObjectKey::new(namespace, &owner.name));
            }
        }
    }

    fn api(&self, namespace: &str) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Carries out the plan; `sets` are kept in step.
    async fn apply(
        &self,
        key: &ObjectKey,
        deployment: &mut Deployment,
        sets: &mut Sets,
        plan: Plan,
    ) -> Result<Deed, Error> {
        let api = self.api(&key.namespace);
        let mut deed = match &sets.new {
            Some(new) => Deed::Found(new.name_any()),
            None => Deed::Nothing,
        };
        if let Some(set) = plan.create {
            deed = self.create(key, deployment, sets, &set).await?;
        }
        for update in plan.update {
            let name = update.set.name_any();
            let written = api.replace(&name, &PostParams::default(), &update.set).await;
            let written = written.map_err(Error::api(format!("scale ReplicaSet {name} of Deployment {key}")))?;
            self.writes.wrote(key, SETS, &written);
            sets.put(written);
            let (from, to) = (update.from, update.to);
            if from != to {
                let way = if to > from { "up" } else { "down" };
                let message = format!("Scaled {way} replica set {name} from {from} to {to}");
                self.control.tell(deployment, "ScalingReplicaSet", message);
            }
        }
        for set in plan.delete {
            let name = set.name_any();
            let only_this = Preconditions { uid: set.uid(), ..Preconditions::default() };
            let deleted = api.delete(&name, &DeleteParams::background().preconditions(only_this)).await;
            unless_gone(deleted).map_err(Error::api(format!("delete ReplicaSet {name} of Deployment {key}")))?;
        }
        Ok(deed)
    }

    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &mut Deployment,
        sets: &mut Sets,
        set: &ReplicaSet,
    ) -> Result<Deed, Error> {
        let api = self.api(&key.namespace);
        let name = set.name_any();
        match api.create(&PostParams::default(), set).await {
            Ok(created) => {
                self.writes.wrote(key, SETS, &created);
                let count = replicas(&created);
                sets.put(created);
                if count > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {count}");
                    self.control.tell(deployment, "ScalingReplicaSet", message);
                }
                Ok(Deed::Created(name))
            }
            Err(e) if is_namespace_terminating(&e) => Ok(Deed::Nothing),
            Err(e) if is_already_exists(&e) => {
                let found = api.get_opt(&name).await.map_err(Error::api(format!("read ReplicaSet {name}")))?;
                let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
                let ours = |found: &ReplicaSet| {
                    is_controlled_by(&found.metadata, deployment.metadata.uid.as_deref())
                        && is_of_template(found, &template)
                };
                match found {
                    Some(found) if ours(&found) => sets.put(found),
                    // Another template has this hash: the next turn makes another name.
                    _ => {
                        let status = deployment.status.get_or_insert_default();
                        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
                    }
                }
                Ok(Deed::Nothing)
            }
            Err(e) => {
                let error = describe(&e);
                let message = format!("Failed to create new replica set {name:?}: {error}");
                self.control.warn(deployment, "ReplicaSetCreateError", message);
                Ok(Deed::NotCreated { name, error })
            }
        }
    }
}

impl Reconcile for DeploymentController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.deployments, &self.sets]).await {
            return Ok(Action::Behind(wait));
        }
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            return Ok(Action::Done);
        };
        let Some(spec) = &deployment.spec else { return Ok(Action::Done) };
        let all = self.sets.list_in(&key.namespace);
        let wrote = |set: &ReplicaSet| self.writes.wrote(key, SETS, set);
        let owned = claim(&self.client, &*deployment, &spec.selector, all, wrote).await?;
        let mut sets = Sets::of(&spec.template, owned);
        let mut now = (*deployment).clone();
        let mut deed = Deed::Nothing;
        if !is_deleting(&deployment.metadata) {
            let pods = || self.pods.list_in(&key.namespace);
            let plan = plan::plan(&deployment, &sets, pods);
            deed = self.apply(key, &mut now, &mut sets, plan).await?;
        }
        let failed = match &deed {
            Deed::NotCreated { error, .. } => Some(error.clone()),
            _ => None,
        };
        let (status, mut again) = deployment_status::status(&now, &sets, deed, Timestamp::now());
        now.status = Some(status);
        if let Some(revision) = sets.new.as_ref().and_then(|new| new.annotations().get(REVISION).cloned()) {
            now.annotations_mut().insert(REVISION.to_owned(), revision);
        }
        if now.status != deployment.status || now.metadata.annotations != deployment.metadata.annotations {
            let counted = now.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
            let urgent = now.status.as_ref().and_then(|status| status.observed_generation)
                != deployment.status.as_ref().and_then(|status| status.observed_generation);
            let counted = if urgent { 0 } else { usize::try_from(counted).unwrap_or(0) };
            match self.writes.write_status(&self.client, key, &now, counted).await? {
                StatusWrite::Done => {}
                StatusWrite::Later(wait) => again = sooner(again, Some(wait)),
                StatusWrite::Gone => return Ok(Action::Done),
            }
        }
        match failed {
            Some(reason) => Err(Error::Refused { what: format!("a ReplicaSet of Deployment {key}"), reason }),
            None => Ok(Action::again(again)),
        }
    }
}
