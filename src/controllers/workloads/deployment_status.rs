//! The status of a Deployment: counts over its sets, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::deployment_plan::{Limits, Sets, replicas};
use super::replica_set_plan::REPLICA_FAILURE;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

/// What a turn did that the conditions tell of.
pub(super) enum Deed {
    Created(String),
    /// The new set was there before.
    Found(String),
    NotCreated {
        name: String,
        error: String,
    },
    Nothing,
}

/// The counts without the conditions.
pub(super) fn counts(deployment: &Deployment, sets: &Sets, limits: Limits) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let sum = |count: fn(&ReplicaSet) -> Option<i32>| sets.all().map(|set| count(set).unwrap_or(0)).sum::<i32>();
    let positive = |count: i32| (count > 0).then_some(count);
    let available = sum(|set| set.status.as_ref()?.available_replicas);
    let actual = |set: &ReplicaSet| set.status.as_ref().map(|status| status.replicas);
    let unavailable = if limits.recreate || sets.all().next().is_some() {
        sets.all().map(|set| replicas(set)).sum::<i32>() - available
    } else {
        0
    };
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: positive(sum(actual)),
        updated_replicas: positive(sets.new.as_deref().and_then(actual).unwrap_or(0)),
        ready_replicas: positive(sum(|set| set.status.as_ref()?.ready_replicas)),
        available_replicas: positive(available),
        unavailable_replicas: positive(unavailable),
        terminating_replicas: Some(sum(|set| set.status.as_ref()?.terminating_replicas)),
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}

/// Whether `status` says that the rollout is done.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    [status.updated_replicas, status.replicas, status.available_replicas].map(Option::unwrap_or_default) == [wanted; 3]
        && status.observed_generation >= deployment.metadata.generation
}

/// The whole status after a turn, and when to look at it again should nothing happen.
pub(super) fn status(
    deployment: &Deployment,
    sets: &Sets,
    deed: Deed,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let spec = deployment.spec.clone().unwrap_or_default();
    let limits = Limits::of(&spec);
    let mut status = counts(deployment, sets, limits);
    let mut conditions = Conditions { all: status.conditions.take().unwrap_or_default(), now };
    if status.available_replicas.unwrap_or(0) >= limits.replicas - limits.unavailable {
        let message = "Deployment has minimum availability.";
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message.into());
    } else {
        let message = "Deployment does not have minimum availability.";
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message.into());
    }
    let paused = spec.paused == Some(true);
    let deadline = spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX);
    if deadline.is_none() {
        conditions.all.retain(|condition| condition.type_ != PROGRESSING);
    } else {
        pause_or_resume(&mut conditions, paused);
    }
    let mut again = None;
    if let Some(deadline) = deadline.filter(|_| !paused) {
        let failed = matches!(deed, Deed::NotCreated { .. });
        tell(&mut conditions, deed);
        if !failed {
            again = progress(deployment, sets, &status, &mut conditions, deadline);
        }
    }
    let failure = sets.new.iter().chain(&sets.old).find_map(|set| {
        let all = set.status.as_ref()?.conditions.as_ref()?;
        all.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    match failure.filter(|_| !paused) {
        Some(failure) => {
            let (reason, message) = (failure.reason.as_deref(), failure.message.clone());
            conditions.set(REPLICA_FAILURE, &failure.status, reason.unwrap_or_default(), message.unwrap_or_default());
        }
        None if !paused => conditions.all.retain(|condition| condition.type_ != REPLICA_FAILURE),
        None => {}
    }
    status.conditions = Some(conditions.all);
    (status, again)
}

/// A rollout that is paused does not run out of time.
fn pause_or_resume(conditions: &mut Conditions, paused: bool) {
    let reason = conditions.reason(PROGRESSING).unwrap_or_default().to_owned();
    if reason == TIMED_OUT {
        return;
    }
    if paused && reason != PAUSED {
        conditions.set(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into());
    } else if !paused && reason == PAUSED {
        conditions.set(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into());
    }
}

fn tell(conditions: &mut Conditions, deed: Deed) {
    match deed {
        Deed::Created(name) => {
            let message = format!("Created new replica set {name:?}");
            conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", message);
        }
        Deed::Found(name) if conditions.reason(PROGRESSING).is_none() => {
            conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", format!("Found new replica set {name:?}"));
        }
        Deed::NotCreated { name, error } => {
            let message = format!("Failed to create new replica set {name:?}: {error}");
            conditions.set(PROGRESSING, "False", "ReplicaSetCreateError", message);
        }
        Deed::Found(_) | Deed::Nothing => {}
    }
}

/// Says whether the rollout is done, moves on, or has not moved for `deadline` seconds.
fn progress(
    deployment: &Deployment,
    sets: &Sets,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    deadline: i32,
) -> Option<Duration> {
    let before = deployment.status.clone().unwrap_or_default();
    let one_set = status.replicas == status.updated_replicas;
    if one_set && conditions.reason(PROGRESSING) == Some(COMPLETE) {
        return None;
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet {:?}", new.name_any()),
        None => format!("Deployment {:?}", deployment.name_any()),
    };
    if is_complete(deployment, status) {
        conditions.set(PROGRESSING, "True", COMPLETE, format!("{subject} has successfully progressed."));
        return None;
    }
    let count = |count: Option<i32>| count.unwrap_or(0);
    let old = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    let moved = count(status.updated_replicas) > count(before.updated_replicas)
        || old(status) < old(&before)
        || count(status.ready_replicas) > count(before.ready_replicas)
        || count(status.available_replicas) > count(before.available_replicas);
    if moved {
        conditions.refresh(PROGRESSING, "ReplicaSetUpdated", format!("{subject} is progressing."));
    }
    let current = conditions.all.iter().find(|condition| condition.type_ == PROGRESSING)?;
    let reason = current.reason.as_deref();
    if reason == Some(COMPLETE) || reason == Some(TIMED_OUT) {
        return None;
    }
    let since = current.last_update_time.as_ref().map_or(conditions.now, |time| time.0);
    let end = since.checked_add(SignedDuration::from_secs(deadline.into())).ok()?;
    match Duration::try_from(end.duration_since(conditions.now)) {
        Ok(left) if !left.is_zero() => Some(left),
        _ => {
            conditions.set(PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."));
            None
        }
    }
}

struct Conditions {
    all: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn reason(&self, kind: &str) -> Option<&str> {
        self.all.iter().find(|condition| condition.type_ == kind)?.reason.as_deref()
    }

    /// A condition of the same status and reason stays as it is.
    fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let known = self.all.iter().find(|condition| condition.type_ == kind);
        if known.is_some_and(|known| known.status == status && known.reason.as_deref() == Some(reason)) {
            return;
        }
        self.put(kind, status, reason, message);
    }

    /// A condition that holds is told anew, so that its time shows the last progress.
    fn refresh(&mut self, kind: &str, reason: &str, message: String) {
        self.put(kind, "True", reason, message);
    }

    fn put(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let place = self.all.iter().position(|condition| condition.type_ == kind);
        let known = place.map(|place| self.all.remove(place));
        let since = known.filter(|known| known.status == status).and_then(|known| known.last_transition_time);
        self.all.push(DeploymentCondition {
            type_: kind.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: since.or(Some(Time(self.now))),
        });
    }
}

#[cfg(test)]
mod tests;
