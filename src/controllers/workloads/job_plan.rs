//! What a Job does with its Pods, and what its status says: pure (`k8s.io/kubernetes/pkg/controller/job`).
//!
//! Each Pod has a finalizer until it is counted, so that one that ends is counted once, whoever deletes it and whenever
//! vipyard is killed: its uid is first written into `uncountedTerminatedPods`, then its finalizer is removed, then the
//! count takes the place of the uid. A succeeded index is its own proof and needs no uid.
//!
//! A Job that is done for says so first (FailureTarget, SuccessCriteriaMet), lets its Pods go, and is Failed or Complete
//! when the last is gone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::job_indexes::Indexes;
use super::job_policy::{self, Verdict};
use super::pods::{self, is_active, is_ready, phase};
use super::{counted, positive, replica_set_plan};
use crate::controllers::endpoint_model::{ready_condition, terminal, terminating};
use crate::controllers::runner::sooner;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const INDEX_ENV: &str = "JOB_COMPLETION_INDEX";
const FIRST_BACK_OFF: SignedDuration = SignedDuration::from_secs(10);
const LAST_BACK_OFF: SignedDuration = SignedDuration::from_mins(10);
/// Of a host name.
const LONGEST_LABEL: usize = 63;

/// What a turn does, in the order of the fields; the status is written before finalizers are removed.
#[derive(Debug)]
pub(super) struct Plan {
    /// They lose their finalizer first: they are not counted.
    pub(super) cancel: Vec<Arc<Pod>>,
    /// They are counted when they end.
    pub(super) stop: Vec<Arc<Pod>>,
    pub(super) create: Vec<Pod>,
    pub(super) status: JobStatus,
    /// Pods that the status tells of.
    pub(super) release: Vec<Arc<Pod>>,
    /// Reason and message; a warning or not.
    pub(super) events: Vec<(bool, &'static str, String)>,
    pub(super) again: Option<Duration>,
}

pub(super) fn has_finalizer(pod: &Pod) -> bool {
    pod.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// When a finished Job ended.
pub(super) fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let end = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    end.last_transition_time.as_ref().map(|time| time.0)
}

struct State<'a> {
    job: &'a Job,
    spec: JobSpec,
    pods: &'a [Arc<Pod>],
    status: JobStatus,
    now: Timestamp,
    active: Vec<Arc<Pod>>,
    /// The succeeded and the failed indexes of an indexed Job.
    succeeded: Indexes,
    failed: Indexes,
    again: Option<Duration>,
    events: Vec<(bool, &'static str, String)>,
}

/// The plan of a turn of a Job that is not finished. `pods` are its own.
pub(super) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let status = job.status.clone().unwrap_or_default();
    let completions = spec.completions.unwrap_or(0);
    let indexes = |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), completions);
    let state = State {
        succeeded: indexes(&status.completed_indexes),
        failed: indexes(&status.failed_indexes),
        active: pods.iter().filter(|pod| is_active(pod)).cloned().collect(),
        job,
        spec,
        pods,
        status,
        now,
        again: None,
        events: Vec::new(),
    };
    state.plan()
}

impl State<'_> {
    fn plan(mut self) -> Plan {
        let suspended = self.spec.suspend == Some(true);
        let ending = self.is(FAILURE_TARGET) || self.is(SUCCESS);
        // The deadline of a Job that is resumed begins anew, before anybody looks at it.
        let resumed = self.is(SUSPENDED) && !ending;
        if !suspended && (self.status.start_time.is_none() || resumed) {
            self.status.start_time = Some(Time(self.now));
        }
        let release = self.count(ending);
        if !ending {
            self.judge(suspended);
        }
        let (mut cancel, mut stop, mut create) = (Vec::new(), Vec::new(), Vec::new());
        let over = self.is(FAILURE_TARGET) || self.is(SUCCESS);
        if over {
            stop.clone_from(&self.active);
        } else {
            self.suspend_or_resume(suspended);
            cancel = self.surplus(suspended);
            let left = self.active.len() - cancel.len();
            if !suspended && cancel.is_empty() && self.job.metadata.deletion_timestamp.is_none() {
                create = self.missing(left);
            }
        }
        let terminating = self.pods.iter().filter(|pod| terminating(pod) && !terminal(pod)).count();
        let active = self.active.len() - cancel.len() + create.len();
        self.status.active = positive(active);
        self.status.ready = Some(counted(self.active.iter().filter(|pod| is_ready(pod)).count()));
        self.status.terminating = Some(counted(terminating));
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let all_counted = uncounted.succeeded.is_none() && uncounted.failed.is_none() && release.is_empty();
        if over && active == 0 && terminating == 0 && all_counted {
            self.finish();
        }
        Plan { cancel, stop, create, status: self.status, release, events: self.events, again: self.again }
    }

    fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    fn is(&self, kind: &str) -> bool {
        self.condition(kind).is_some_and(|condition| condition.status == "True")
    }

    fn condition(&self, kind: &str) -> Option<&JobCondition> {
        self.status.conditions.iter().flatten().find(|condition| condition.type_ == kind)
    }

    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let conditions = self.status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != kind);
        conditions.push(JobCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        });
    }

    /// Another turn after `wait`, or sooner.
    fn wake(&mut self, wait: SignedDuration) {
        let wait = Duration::try_from(wait).unwrap_or_default();
        self.again = sooner(self.again, Some(wait));
    }

    fn has_failed(&self, pod: &Pod) -> bool {
        let replaced_when_going = self.spec.pod_replacement_policy.as_deref() != Some("Failed");
        phase(pod) == "Failed" || (replaced_when_going && terminating(pod) && phase(pod) != "Succeeded")
    }

    /// The index of a Pod, if it is one of this Job's.
    fn index(&self, pod: &Pod) -> Option<i32> {
        let index = pod.annotations().get(INDEX)?.parse().ok()?;
        (0..self.spec.completions.unwrap_or(0)).contains(&index).then_some(index)
    }

    /// Takes Pods that ended into the counts. Returns those whose finalizer may go when the status is written.
    fn count(&mut self, ending: bool) -> Vec<Arc<Pod>> {
        let mut uncounted = self.status.uncounted_terminated_pods.take().unwrap_or_default();
        let tracked: BTreeSet<String> =
            self.pods.iter().filter(|pod| has_finalizer(pod)).filter_map(|pod| pod.uid()).collect();
        // Their finalizers are gone: no turn can count them again.
        let settle = |uids: &mut Option<Vec<String>>, count: &mut Option<i32>| {
            let before = uids.as_ref().map_or(0, Vec::len);
            uids.iter_mut().for_each(|uids| uids.retain(|uid| tracked.contains(uid)));
            let settled = before - uids.as_ref().map_or(0, Vec::len);
            *count = positive(usize::try_from(count.unwrap_or(0)).unwrap_or(0) + settled);
        };
        settle(&mut uncounted.succeeded, &mut self.status.succeeded);
        settle(&mut uncounted.failed, &mut self.status.failed);
        let (indexed, deleted) = (self.is_indexed(), self.job.metadata.deletion_timestamp.is_some());
        let lost = ending && self.is(FAILURE_TARGET);
        let mut release = Vec::new();
        for pod in self.pods.iter().filter(|pod| has_finalizer(pod)) {
            let (uid, failed) = (pod.uid().unwrap_or_default(), self.has_failed(pod));
            let noted = |uids: &Option<Vec<String>>| uids.as_ref().is_some_and(|uids| uids.contains(&uid));
            let (known_good, known_bad) = (noted(&uncounted.succeeded), noted(&uncounted.failed));
            if phase(pod) == "Succeeded" && !known_bad {
                match self.index(pod) {
                    Some(index) if indexed => {
                        self.succeeded.insert(index);
                    }
                    None if !indexed && !known_good => uncounted.succeeded.get_or_insert_default().push(uid),
                    _ => {}
                }
            } else if failed || (lost && terminating(pod)) {
                let ours = !indexed || self.index(pod).is_some();
                if !known_bad && ours && job_policy::verdict(&self.spec, pod) != Verdict::Ignored {
                    uncounted.failed.get_or_insert_default().push(uid);
                }
                if !ending && self.awaits_replacement(pod) {
                    continue;
                }
            } else if !deleted {
                continue;
            }
            release.push(Arc::clone(pod));
        }
        if indexed {
            self.status.succeeded = positive(self.succeeded.len());
            let text = self.succeeded.to_string();
            self.status.completed_indexes = (!text.is_empty()).then_some(text);
        }
        let some = |uids: Option<Vec<String>>| uids.filter(|uids| !uids.is_empty());
        // The field is there, with or without uids: it says that Pods are tracked by their finalizers.
        self.status.uncounted_terminated_pods =
            Some(UncountedTerminatedPods { succeeded: some(uncounted.succeeded), failed: some(uncounted.failed) });
        release
    }

    /// With a limit per index a failed Pod stays until the one that follows it remembers how often the index failed.
    fn awaits_replacement(&self, pod: &Pod) -> bool {
        let Some(index) = self.index(pod).filter(|_| self.spec.backoff_limit_per_index.is_some()) else {
            return false;
        };
        let done = self.succeeded.contains(index) || self.failed.contains(index) || self.fails_index(pod);
        let replaced = self.pods.iter().any(|other| {
            self.index(other) == Some(index)
                && other.creation_timestamp() >= pod.creation_timestamp()
                && other.metadata.uid != pod.metadata.uid
                && failures_before(other) > failures_before(pod)
        });
        !done && !replaced
    }

    fn fails_index(&self, pod: &Pod) -> bool {
        let limit = self.spec.backoff_limit_per_index.unwrap_or(i32::MAX);
        match job_policy::verdict(&self.spec, pod) {
            Verdict::FailsIndex => true,
            Verdict::Counts => failures_before(pod) >= limit,
            Verdict::Ignored | Verdict::FailsJob(_) => false,
        }
    }

    /// How many Pods have failed, counted or not yet.
    fn failures(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|pods| pods.failed.as_ref());
        self.status.failed.unwrap_or(0) + counted(uncounted.map_or(0, Vec::len))
    }

    fn successes(&self) -> i32 {
        let uncounted = self.status.uncounted_terminated_pods.as_ref().and_then(|pods| pods.succeeded.as_ref());
        self.status.succeeded.unwrap_or(0) + counted(uncounted.map_or(0, Vec::len))
    }

    /// Says whether the Job is done for, or done.
    fn judge(&mut self, suspended: bool) {
        let fails_job = self.pods.iter().filter(|pod| self.has_failed(pod)).find_map(|pod| {
            match job_policy::verdict(&self.spec, pod) {
                Verdict::FailsJob(why) => Some(why),
                _ => None,
            }
        });
        if let Some(why) = fails_job {
            return self.set(FAILURE_TARGET, "True", "PodFailurePolicy", why);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failures() > limit || self.has_restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return self.set(FAILURE_TARGET, "True", "BackoffLimitExceeded", message.into());
        }
        if let (Some(seconds), Some(start), false) =
            (self.spec.active_deadline_seconds, self.status.start_time.clone(), suspended)
        {
            let left = SignedDuration::from_secs(seconds).saturating_sub(self.now.duration_since(start.0));
            if left <= SignedDuration::ZERO {
                let message = "Job was active longer than specified deadline";
                return self.set(FAILURE_TARGET, "True", "DeadlineExceeded", message.into());
            }
            self.wake(left);
        }
        if self.is_indexed() && self.judge_indexes() {
            return;
        }
        let done = match self.spec.completions {
            Some(completions) => self.successes() >= completions,
            None => self.successes() > 0 && self.active.is_empty(),
        };
        if done {
            let message = "Reached expected number of succeeded pods";
            self.set(SUCCESS, "True", "CompletionsReached", message.into());
        }
    }

    /// True if the Job is done for, or done.
    fn judge_indexes(&mut self) -> bool {
        let completions = self.spec.completions.unwrap_or(0);
        if self.spec.backoff_limit_per_index.is_some() {
            let failed = self.pods.iter().filter(|pod| self.has_failed(pod) && self.fails_index(pod));
            let failed: Vec<i32> = failed.filter_map(|pod| self.index(pod)).collect();
            for index in failed {
                self.failed.insert(index);
            }
            self.failed = self.failed.without(&self.succeeded);
            let text = self.failed.to_string();
            self.status.failed_indexes = (!text.is_empty()).then_some(text);
        }
        if let Some(rule) = job_policy::success(&self.spec, &self.succeeded, completions) {
            self.set(SUCCESS, "True", "SuccessPolicy", format!("Matched rules at index {rule}"));
            return true;
        }
        let failed = counted(self.failed.len());
        if self.spec.max_failed_indexes.is_some_and(|most| failed > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            self.set(FAILURE_TARGET, "True", "MaxFailedIndexesExceeded", message.into());
        } else if failed > 0 && failed + counted(self.succeeded.len()) >= completions {
            self.set(FAILURE_TARGET, "True", "FailedIndexes", "Job has failed indexes".into());
        } else {
            return false;
        }
        true
    }

    /// Where containers are restarted in their Pod, the restarts count.
    fn has_restarted_too_often(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let live = self.pods.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending"));
        let statuses = live.flat_map(|pod| pod.status.iter()).flat_map(|status| {
            status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn suspend_or_resume(&mut self, suspended: bool) {
        if suspended && !self.is(SUSPENDED) {
            self.set(SUSPENDED, "True", "JobSuspended", "Job suspended".into());
            self.events.push((false, "Suspended", "Job suspended".into()));
        } else if !suspended && self.is(SUSPENDED) {
            self.set(SUSPENDED, "False", "JobResumed", "Job resumed".into());
            self.events.push((false, "Resumed", "Job resumed".into()));
        }
    }

    /// How many Pods should be active.
    fn wanted(&self) -> usize {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.successes() > 0 => counted(self.active.len()),
            None => parallelism,
            Some(completions) => (completions - self.successes() - counted(self.failed.len())).min(parallelism),
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// The active Pods that are too many, or stand twice for an index, or for one that is done.
    fn surplus(&self, suspended: bool) -> Vec<Arc<Pod>> {
        if suspended {
            return self.active.clone();
        }
        let mut rest = self.active.clone();
        let mut surplus = Vec::new();
        if self.is_indexed() {
            rest.sort_by_key(|pod| (pod.creation_timestamp(), pod.name_any()));
            let mut taken = self.succeeded.clone();
            let (first, twice): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|pod| self.index(pod).is_some_and(|index| taken.insert(index)));
            rest = first;
            surplus = twice;
        }
        let over = rest.len().saturating_sub(self.wanted());
        surplus.extend(replica_set_plan::victims(&rest, &[], over, self.now));
        surplus.truncate(pods::BURST);
        surplus
    }

    /// The Pods to be made, as far as earlier failures let them be made now.
    fn missing(&mut self, active: usize) -> Vec<Pod> {
        let going = if self.spec.pod_replacement_policy.as_deref() == Some("Failed") {
            self.pods.iter().filter(|pod| terminating(pod) && !terminal(pod)).count()
        } else {
            0
        };
        let count = self.wanted().saturating_sub(active + going).min(pods::BURST);
        if count == 0 {
            return Vec::new();
        }
        if self.spec.backoff_limit_per_index.is_none()
            && let Some(wait) = self.back_off(self.pods.iter())
        {
            self.wake(wait);
            return Vec::new();
        }
        if !self.is_indexed() {
            return vec![self.pod(None); count];
        }
        let mut taken = self.succeeded.union(&self.failed);
        let there = self.pods.iter().filter(|pod| is_active(pod) || (going > 0 && terminating(pod) && !terminal(pod)));
        for index in there.filter_map(|pod| self.index(pod)) {
            taken.insert(index);
        }
        let mut made = Vec::new();
        for index in taken.missing(self.spec.completions.unwrap_or(0)) {
            if made.len() == count {
                break;
            }
            let own = |pod: &&Arc<Pod>| self.index(pod) == Some(index);
            if self.spec.backoff_limit_per_index.is_some()
                && let Some(wait) = self.back_off(self.pods.iter().filter(own))
            {
                self.wake(wait);
                continue;
            }
            made.push(self.pod(Some(index)));
        }
        made
    }

    /// How long failures hold the next Pod back: 10 s after the first, then twice as long each time, until one succeeds.
    fn back_off<'a>(&self, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Option<SignedDuration> {
        let mut ended: Vec<(Timestamp, bool)> = pods
            .filter(|pod| self.has_failed(pod) || phase(pod) == "Succeeded")
            .map(|pod| (ended_at(pod, self.now), phase(pod) == "Succeeded"))
            .collect();
        ended.sort_unstable();
        let failures = ended.iter().rev().take_while(|(_, succeeded)| !succeeded).count();
        let (last, _) = *ended.last().filter(|_| failures > 0)?;
        let doublings = u32::try_from(failures - 1).unwrap_or(u32::MAX).min(16);
        let delay = FIRST_BACK_OFF.saturating_mul(1 << doublings).min(LAST_BACK_OFF);
        let left = delay - self.now.duration_since(last);
        (left > SignedDuration::ZERO).then_some(left)
    }

    fn pod(&self, index: Option<i32>) -> Pod {
        let mut pod = pods::from_template(self.job, &self.spec.template);
        pod.finalizers_mut().push(FINALIZER.to_owned());
        let Some(index) = index else { return pod };
        let name = self.job.name_any();
        let suffix = format!("-{index}");
        let mut prefix = name.clone();
        prefix.truncate(LONGEST_LABEL - suffix.len());
        pod.metadata.generate_name = Some(format!("{name}{suffix}-"));
        pod.annotations_mut().insert(INDEX.to_owned(), index.to_string());
        pod.labels_mut().insert(INDEX.to_owned(), index.to_string());
        if self.spec.backoff_limit_per_index.is_some() {
            let own = self.pods.iter().filter(|pod| self.index(pod) == Some(index) && self.has_failed(pod));
            let failures = own.map(|pod| {
                let counts = job_policy::verdict(&self.spec, pod) != Verdict::Ignored;
                failures_before(pod) + i32::from(counts)
            });
            let failures = failures.max().unwrap_or(0);
            pod.annotations_mut().insert(INDEX_FAILURES.to_owned(), failures.to_string());
        }
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(format!("{prefix}{suffix}"));
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            tell_index(container);
        }
        pod
    }

    /// The last word: all Pods are gone and counted.
    fn finish(&mut self) {
        let (cause, kind) = if self.is(SUCCESS) { (SUCCESS, "Complete") } else { (FAILURE_TARGET, "Failed") };
        let Some(cause) = self.condition(cause).cloned() else { return };
        let (reason, message) = (cause.reason.unwrap_or_default(), cause.message.unwrap_or_default());
        self.set(kind, "True", &reason, message.clone());
        if kind == "Complete" {
            self.status.completion_time = Some(Time(self.now));
            self.events.push((false, "Completed", "Job completed".into()));
        } else {
            let reason = REASONS.into_iter().find(|known| *known == reason).unwrap_or("Failed");
            self.events.push((true, reason, message));
        }
    }
}

const FAILURE_TARGET: &str = "FailureTarget";
const SUCCESS: &str = "SuccessCriteriaMet";
const SUSPENDED: &str = "Suspended";
/// Why Jobs fail.
const REASONS: [&str; 5] =
    ["PodFailurePolicy", "BackoffLimitExceeded", "DeadlineExceeded", "MaxFailedIndexesExceeded", "FailedIndexes"];

/// How often the Pod's index had failed when it was made.
fn failures_before(pod: &Pod) -> i32 {
    pod.annotations().get(INDEX_FAILURES).and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn ended_at(pod: &Pod, now: Timestamp) -> Timestamp {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let ends = statuses.filter_map(|status| status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref());
    let told = ends.map(|time| time.0).max();
    let unready = ready_condition(pod).filter(|condition| condition.status == "False");
    let unready = || unready.and_then(|condition| condition.last_transition_time.as_ref()).map(|time| time.0);
    let going = || pod.metadata.deletion_timestamp.as_ref().map(|time| time.0.min(now));
    told.or_else(unready).or_else(going).unwrap_or(now)
}

/// The container learns its index from its environment, unless it has a variable of that name.
fn tell_index(container: &mut Container) {
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == INDEX_ENV) {
        return;
    }
    env.push(EnvVar {
        name: INDEX_ENV.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".into()),
                field_path: format!("metadata.labels['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

#[cfg(test)]
mod tests;
