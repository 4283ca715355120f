//! The controller of Jobs. [`super::job_plan`] decides; this reads and writes.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;

use super::claims::{claim, controller_of, follow_children, follow_owners, is_controlled_by, is_deleting};
use super::job_plan::{self as plan, FINALIZER, Plan, has_finalizer};
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::{self, PodControl, slow_start};
use crate::cluster::{Change, Informer, ObjectKey};
use crate::controllers::queue::Queue;
use crate::controllers::runner::{Action, Error, Reconcile, is_invalid, is_not_found, run, sooner, unless_gone};

const NAME: &str = "job-controller";
const WORKERS: usize = 8;
/// The place of the other kind in [`OwnWrites`].
const PODS: usize = 1;
/// Which Job a Pod was made for, also when nothing controls it any more.
const JOB_LABEL: &str = "batch.kubernetes.io/job-name";

pub(super) struct JobController {
    client: Client,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    writes: OwnWrites<2>,
    control: PodControl,
}

impl JobController {
    pub(super) fn start(client: &Client, jobs: &Informer<Job>, pods: &Informer<Pod>, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            jobs: jobs.clone(),
            pods: pods.clone(),
            writes: OwnWrites::new(),
            control: PodControl::new(client, NAME),
        });
        tasks.spawn(follow_owners(jobs.clone(), Arc::clone(&queue)));
        let selector = |job: &Job| job.spec.as_ref()?.selector.clone();
        tasks.spawn(follow_children(pods.clone(), jobs.clone(), Arc::clone(&queue), selector, pods::differs));
        tasks.spawn(follow_strays(pods.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.jobs.wait_synced().await;
            controller.pods.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    /// Removes the tracking finalizer. Pods that are gone need nothing.
    async fn release(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(released) => {
                self.writes.wrote(key, PODS, &released);
                Ok(())
            }
            Err(e) if is_not_found(&e) || is_invalid(&e) => Ok(()),
            Err(e) => Err(Error::api(format!("release Pod {} of Job {key}", ObjectKey::of(pod)))(e)),
        }
    }

    async fn release_all<'a>(&self, key: &ObjectKey, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Result<(), Error> {
        let results: Vec<_> = pods.map(|pod| self.release(key, pod)).collect::<FuturesUnordered<_>>().collect().await;
        results.into_iter().collect()
    }

    async fn delete(&self, key: &ObjectKey, job: &Job, pod: &Pod) -> Result<(), Error> {
        if let Some(deleted) = self.control.delete(job, pod).await? {
            self.writes.wrote(key, PODS, &deleted);
        }
        Ok(())
    }

    async fn apply(&self, key: &ObjectKey, job: &Job, plan: Plan) -> Result<Action, Error> {
        self.release_all(key, plan.cancel.iter().filter(|pod| has_finalizer(pod))).await?;
        let deletions = plan.cancel.iter().chain(&plan.stop).map(|pod| self.delete(key, job, pod));
        let results: Vec<Result<(), Error>> = deletions.collect::<FuturesUnordered<_>>().collect().await;
        let outcome = slow_start(plan.create.len(), async |place| {
            if let Some(created) = self.control.create(job, &plan.create[place]).await? {
                self.writes.wrote(key, PODS, &created);
            }
            Ok(())
        })
        .await;
        let mut status = plan.status;
        let failed = i32::try_from(plan.create.len() - outcome.done).unwrap_or(0);
        status.active = status.active.map(|active| active - failed).filter(|active| *active > 0);
        if job.status.as_ref() != Some(&status) {
            let ended = status.conditions != job.status.as_ref().and_then(|status| status.conditions.clone());
            let pods = if ended { 0 } else { usize::try_from(status.active.unwrap_or(0)).unwrap_or(0) };
            let mut changed = job.clone();
            changed.status = Some(status);
            match self.writes.write_status(&self.client, key, &changed, pods).await? {
                StatusWrite::Done => {}
                StatusWrite::Later(wait) => {
                    // Finalizers stay with what is not written yet.
                    results.into_iter().collect::<Result<(), Error>>()?;
                    return outcome.error.map_or(Ok(Action::again(sooner(plan.again, Some(wait)))), Err);
                }
                StatusWrite::Gone => return Ok(Action::Done),
            }
        }
        for (warning, reason, message) in plan.events {
            if warning { self.control.warn(job, reason, message) } else { self.control.tell(job, reason, message) }
        }
        self.release_all(key, plan.release.iter()).await?;
        results.into_iter().collect::<Result<(), Error>>()?;
        outcome.error.map_or(Ok(Action::again(plan.again)), Err)
    }

    /// A finished Job goes `ttlSecondsAfterFinished` after its end.
    async fn expire(&self, key: &ObjectKey, job: &Job, ended: Timestamp) -> Result<Action, Error> {
        let Some(ttl) = job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished) else {
            return Ok(Action::Done);
        };
        let left = SignedDuration::from_secs(ttl.into()) - Timestamp::now().duration_since(ended);
        if let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) {
            return Ok(Action::After(left));
        }
        let this_one = Preconditions { uid: job.uid(), resource_version: job.resource_version() };
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let deleted = api.delete(&key.name, &DeleteParams::foreground().preconditions(this_one)).await;
        unless_gone(deleted).map_err(Error::api(format!("delete Job {key}, whose time after its end is over")))?;
        Ok(Action::Done)
    }
}

impl Reconcile for JobController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.jobs, &self.pods]).await {
            return Ok(Action::Behind(wait));
        }
        let job = self.jobs.get(&key.namespace, &key.name);
        let uid = job.as_ref().and_then(|job| job.uid());
        let all = self.pods.list_in(&key.namespace);
        // Nobody counts these any more.
        let stray = |pod: &&Arc<Pod>| {
            has_finalizer(pod)
                && !is_controlled_by(&pod.metadata, uid.as_deref())
                && match controller_of(&pod.metadata) {
                    Some(owner) => owner.kind == "Job" && owner.name == key.name,
                    None => job.is_none() && pod.labels().get(JOB_LABEL) == Some(&key.name),
                }
        };
        self.release_all(key, all.iter().filter(stray)).await?;
        let Some(job) = job else {
            self.writes.forget(key);
            return Ok(Action::Done);
        };
        let Some(spec) = &job.spec else { return Ok(Action::Done) };
        if spec.managed_by.as_deref().is_some_and(|manager| manager != "kubernetes.io/job-controller") {
            return Ok(Action::Done);
        }
        let Some(selector) = &spec.selector else { return Ok(Action::Done) };
        let wrote = |pod: &Pod| self.writes.wrote(key, PODS, pod);
        let owned = claim(&self.client, &*job, selector, all, wrote).await?;
        if let Some(ended) = plan::finished_at(&job) {
            self.release_all(key, owned.iter().filter(|pod| has_finalizer(pod))).await?;
            return if is_deleting(&job.metadata) { Ok(Action::Done) } else { self.expire(key, &job, ended).await };
        }
        let plan = plan::plan(&job, &owned, Timestamp::now());
        self.apply(key, &job, plan).await
    }
}

/// Pods with the finalizer that no Job controls are queued by the name of the Job that they were made for.
async fn follow_strays(pods: Informer<Pod>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = pods.subscribe();
    while let Some(change) = changes.recv().await {
        let Change::Applied { new: pod, .. } = change else { continue };
        if has_finalizer(&pod)
            && controller_of(&pod.metadata).is_none()
            && let Some(job) = pod.labels().get(JOB_LABEL)
        {
            queue.add(ObjectKey::new(pod.namespace().unwrap_or_default(), job));
        }
    }
}
