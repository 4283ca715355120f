//! The controller of CronJobs. [`super::cron_job_plan`] tells what is due; this reads and writes. It sleeps until the
//! next time of each schedule.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::task::JoinSet;

use super::claims::{follow_children, follow_owners, is_controlled_by, is_deleting};
use super::cron_job_plan::{self as plan, MANY};
use super::describe;
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::PodControl;
use crate::api::kinds::parse_schedule;
use crate::cluster::{Informer, ObjectKey};
use crate::controllers::queue::Queue;
use crate::controllers::runner::{
    Action, Error, Reconcile, is_already_exists, is_namespace_terminating, is_not_found, run,
};

const NAME: &str = "cronjob-controller";
const WORKERS: usize = 4;
/// The place of the other kind in [`OwnWrites`].
const JOBS: usize = 1;

pub(super) struct CronJobController {
    client: Client,
    cron_jobs: Informer<CronJob>,
    jobs: Informer<Job>,
    writes: OwnWrites<2>,
    control: PodControl,
}

impl CronJobController {
    pub(super) fn start(client: &Client, cron_jobs: &Informer<CronJob>, jobs: &Informer<Job>, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            cron_jobs: cron_jobs.clone(),
            jobs: jobs.clone(),
            writes: OwnWrites::new(),
            control: PodControl::new(client, NAME),
        });
        tasks.spawn(follow_owners(cron_jobs.clone(), Arc::clone(&queue)));
        tasks.spawn(follow_children(jobs.clone(), cron_jobs.clone(), Arc::clone(&queue), |_| None, |_, _| true));
        tasks.spawn(async move {
            controller.cron_jobs.wait_synced().await;
            controller.jobs.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    fn api(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn delete(&self, cron: &CronJob, job: &Job) -> Result<(), Error> {
        let name = job.name_any();
        let this_one = Preconditions { uid: job.uid(), ..Preconditions::default() };
        let options = DeleteParams::background().preconditions(this_one);
        match self.api(&job.namespace().unwrap_or_default()).delete(&name, &options).await {
            Ok(_) => {
                self.control.tell(cron, "SuccessfulDelete", format!("Deleted job {name}"));
                Ok(())
            }
            Err(e) if is_not_found(&e) => Ok(()),
            Err(e) => {
                self.control.warn(cron, "FailedDelete", format!("Deleted job: {}", describe(&e)));
                Err(Error::api(format!("delete Job {}", ObjectKey::of(job)))(e))
            }
        }
    }

    /// Brings the list of active Jobs up to date.
    fn review(&self, cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus) {
        let mut active = status.active.take().unwrap_or_default();
        for job in jobs {
            let (name, uid) = (job.name_any(), job.uid());
            let place = active.iter().position(|reference| reference.uid == uid);
            match (place, plan::end(job)) {
                (Some(place), Some(condition)) => {
                    active.remove(place);
                    let message = format!("Saw completed job: {name}, condition: {condition}");
                    self.control.tell(cron, "SawCompletedJob", message);
                }
                (None, None) if !plan::is_scheduled(cron, job) => {
                    let message = format!("Saw a job that the controller did not create or forgot: {name}");
                    self.control.warn(cron, "UnexpectedJob", message);
                }
                // Made by an earlier turn, which did not come to write so.
                (None, None) if !is_deleting(&job.metadata) => active.push(reference_to(job)),
                _ => {}
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.clone());
            if completed.is_some() && completed > status.last_successful_time {
                status.last_successful_time = completed;
            }
        }
        active.retain(|reference| {
            let there = jobs.iter().any(|job| job.uid() == reference.uid);
            if !there {
                let name = reference.name.as_deref().unwrap_or_default();
                self.control.tell(cron, "MissingJob", format!("Active job went missing: {name}"));
            }
            there
        });
        status.active = Some(active).filter(|active| !active.is_empty());
    }

    /// Makes the Job that is due, if its turn has come. Returns how long to wait for the next.
    async fn serve(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<Option<Duration>, Error> {
        let spec = &cron.spec;
        let zone = match spec.time_zone.as_deref().map_or(Ok(TimeZone::UTC), TimeZone::get) {
            Ok(zone) => zone,
            Err(e) => {
                let name = spec.time_zone.as_deref().unwrap_or_default();
                self.control.warn(cron, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {e}"));
                return Ok(None);
            }
        };
        let schedule = match parse_schedule(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(e) => {
                let message = format!("unparseable schedule: {:?} : {e}", spec.schedule);
                self.control.warn(cron, "UnparseableSchedule", message);
                return Ok(None);
            }
        };
        let now = Timestamp::now();
        let born = cron.creation_timestamp().map_or(now, |time| time.0);
        let since = status.last_schedule_time.as_ref().map_or(born, |time| time.0);
        let due = plan::due(&schedule, &zone, since, spec.starting_deadline_seconds, now);
        let wait = due.next.map(|next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
        if due.missed > MANY {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.control.warn(cron, "TooManyMissedTimes", message.into());
        }
        let Some(at) = due.now else { return Ok(wait) };
        // Jobs that somebody made by hand are none of the schedule's.
        let active = status.active.iter().flatten();
        let running: Vec<_> =
            active.filter_map(|reference| jobs.iter().find(|job| job.uid() == reference.uid)).collect();
        let policy = spec.concurrency_policy.as_deref();
        if policy == Some("Forbid") && !running.is_empty() {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            self.control.tell(cron, "JobAlreadyActive", message.into());
            return Ok(wait);
        }
        if policy == Some("Replace") {
            for job in running {
                self.delete(cron, job).await?;
                status.active.iter_mut().for_each(|active| active.retain(|reference| reference.uid != job.uid()));
            }
        }
        let job = plan::job(cron, at, &zone);
        let name = job.name_any();
        let made = match self.api(&key.namespace).create(&PostParams::default(), &job).await {
            Ok(created) => {
                self.writes.wrote(key, JOBS, &created);
                self.control.tell(cron, "SuccessfulCreate", format!("Created job {name}"));
                Some(created)
            }
            // An earlier turn made it, and did not come to write so.
            Err(e) if is_already_exists(&e) => {
                let found = self.api(&key.namespace).get_opt(&name).await;
                let found = found.map_err(Error::api(format!("read Job {name} of CronJob {key}")))?;
                found.filter(|found| is_controlled_by(&found.metadata, cron.metadata.uid.as_deref()))
            }
            Err(e) if is_namespace_terminating(&e) => return Ok(None),
            Err(e) => {
                self.control.warn(cron, "FailedCreate", format!("Error creating job: {}", describe(&e)));
                return Err(Error::api(format!("create Job {name} of CronJob {key}"))(e));
            }
        };
        if let Some(made) = made.filter(|made| plan::end(made).is_none()) {
            let active = status.active.get_or_insert_default();
            if !active.iter().any(|known| known.uid == made.metadata.uid) {
                active.push(reference_to(&made));
            }
        }
        status.last_schedule_time = Some(Time(at));
        Ok(wait)
    }
}

fn reference_to(job: &Job) -> ObjectReference {
    ObjectReference { resource_version: job.resource_version(), ..job.object_ref(&()) }
}

impl Reconcile for CronJobController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.cron_jobs, &self.jobs]).await {
            return Ok(Action::Behind(wait));
        }
        let Some(cron) = self.cron_jobs.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            return Ok(Action::Done);
        };
        let mut jobs = self.jobs.list_in(&key.namespace);
        jobs.retain(|job| is_controlled_by(&job.metadata, cron.metadata.uid.as_deref()));
        let mut status = cron.status.clone().unwrap_or_default();
        self.review(&cron, &jobs, &mut status);
        let serves = !is_deleting(&cron.metadata) && cron.spec.suspend != Some(true);
        let served = if serves { self.serve(key, &cron, &jobs, &mut status).await } else { Ok(None) };
        if cron.status.as_ref() != Some(&status) {
            let mut changed = (*cron).clone();
            changed.status = Some(status);
            if self.writes.write_status(&self.client, key, &changed, 0).await? == StatusWrite::Gone {
                return Ok(Action::Done);
            }
        }
        for job in plan::expired(&cron, &jobs).iter().filter(|job| !is_deleting(&job.metadata)) {
            self.delete(&cron, job).await?;
        }
        // A timer is never early, but the clock may be a little behind it.
        let slack = Duration::from_millis(10);
        Ok(served?.map_or(Action::Done, |wait| Action::After(wait + slack)))
    }
}
