//! When a CronJob is due, which Jobs it makes, and which of its past ones go: pure
//! (`k8s.io/kubernetes/pkg/controller/cronjob`).

use std::sync::Arc;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::claims::controller_ref;
use crate::api::kinds::CronSchedule;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// So many times missed in a row are no accident.
pub(super) const MANY: usize = 100;

/// Where a schedule stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The last time that has come and is not served; earlier ones are passed over.
    pub(super) now: Option<Timestamp>,
    /// How many have come, no more than [`MANY`] and one.
    pub(super) missed: usize,
    pub(super) next: Option<Timestamp>,
}

/// `since` is the last time that was served, or the birth of the CronJob.
pub(super) fn due(
    schedule: &CronSchedule,
    zone: &TimeZone,
    since: Timestamp,
    deadline: Option<i64>,
    now: Timestamp,
) -> Due {
    if let Some(period) = schedule.period() {
        return due_every(period, since, deadline, now);
    }
    let oldest = deadline.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    let since = oldest.map_or(since, |oldest| since.max(oldest));
    let after = |time: Timestamp| schedule.next(time, zone);
    let past = |time: &Timestamp| *time <= now;
    let missed = std::iter::successors(after(since).filter(past), |time| after(*time).filter(past)).take(MANY + 1);
    let missed = missed.count();
    // The last of many is looked for from the end: in a minute, in two, in four.
    let mut window = SignedDuration::from_mins(1);
    let mut last = None;
    while missed > 0 && last.is_none() {
        let from = now.checked_sub(window).map_or(since, |from| from.max(since));
        last = std::iter::successors(after(from).filter(past), |time| after(*time).filter(past)).last();
        window = window.saturating_mul(2);
    }
    Due { now: last, missed, next: after(now) }
}

/// Times a period apart are counted from the last that was served: whoever looks, and when, changes nothing.
fn due_every(period: SignedDuration, since: Timestamp, deadline: Option<i64>, now: Timestamp) -> Due {
    let period = period.as_secs();
    let since = since.as_second();
    let at = |number: i64| Timestamp::from_second(since.saturating_add(period.saturating_mul(number))).ok();
    let come = (now.as_second() - since).max(0) / period;
    // Those before the deadline are given up.
    let given_up = deadline.map_or(0, |seconds| {
        let left = now.as_second().saturating_sub(seconds).saturating_sub(since);
        if left > 0 { (left - 1) / period } else { 0 }
    });
    let missed = usize::try_from((come - given_up).max(0)).unwrap_or(0).min(MANY + 1);
    Due { now: at(come).filter(|_| missed > 0), missed, next: at(come.saturating_add(1)) }
}

/// The Job of a time: its name tells the time, so that none is made twice.
pub(super) fn job(cron: &CronJob, at: Timestamp, zone: &TimeZone) -> Job {
    let template = &cron.spec.job_template;
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let local = local.strftime(if zone == &TimeZone::UTC { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%:z" });
    annotations.insert(SCHEDULED_AT.to_owned(), local.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.name_any(), at.as_second() / 60)),
            namespace: cron.namespace(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Whether the schedule made a Job of this CronJob, and nobody by hand.
pub(super) fn is_scheduled(cron: &CronJob, job: &Job) -> bool {
    let name = job.name_any();
    let number = name.strip_prefix(&*cron.name_any()).and_then(|rest| rest.strip_prefix('-'));
    number.is_some_and(|number| number.parse::<u64>().is_ok()) && job.annotations().contains_key(SCHEDULED_AT)
}

/// The condition that says how a Job ended.
pub(super) fn end(job: &Job) -> Option<&'static str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    ["Complete", "Failed"].into_iter().find(|kind| is(kind))
}

/// The finished Jobs beyond the two limits, the oldest first.
pub(super) fn expired(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits =
        [("Complete", cron.spec.successful_jobs_history_limit), ("Failed", cron.spec.failed_jobs_history_limit)];
    let mut gone = Vec::new();
    for (kind, limit) in limits {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
        let mut ended: Vec<_> = jobs.iter().filter(|job| end(job) == Some(kind)).cloned().collect();
        let started = |job: &Arc<Job>| job.status.as_ref().and_then(|status| status.start_time.clone());
        ended.sort_by_key(|job| (started(job), job.name_any()));
        let over = ended.len().saturating_sub(limit);
        gone.extend(ended.into_iter().take(over));
    }
    gone
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::kinds::parse_schedule;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn jobs_of_the_schedule_are_told_from_those_made_by_hand() {
        let cron: CronJob = serde_json::from_value(json!({"metadata": {"name": "tick"}, "spec": {
            "schedule": "@hourly", "jobTemplate": {"spec": {"template": {}}}}}))
        .unwrap();
        let own = job(&cron, at("2024-01-15T10:00:00Z"), &TimeZone::UTC);
        assert!(is_scheduled(&cron, &own));
        let mut by_hand = own.clone();
        by_hand.metadata.annotations = None;
        assert!(!is_scheduled(&cron, &by_hand));
        let mut named = own;
        named.metadata.name = Some("mine".into());
        assert!(!is_scheduled(&cron, &named));
    }

    #[test]
    fn last_time_that_came_is_served_and_earlier_ones_are_not() {
        let hourly = parse_schedule("@hourly").unwrap();
        let now = at("2024-01-15T10:30:00Z");
        let of = |since: &str, deadline| due(&hourly, &TimeZone::UTC, at(since), deadline, now);
        let next = Some(at("2024-01-15T11:00:00Z"));
        assert_eq!(of("2024-01-15T10:00:00Z", None), Due { now: None, missed: 0, next });
        let ten = Some(at("2024-01-15T10:00:00Z"));
        assert_eq!(of("2024-01-15T07:10:00Z", None), Due { now: ten, missed: 3, next });
        assert_eq!(of("2020-01-15T07:10:00Z", None), Due { now: ten, missed: 101, next });
        assert_eq!(of("2024-01-15T07:10:00Z", Some(600)), Due { now: None, missed: 0, next });
        assert_eq!(of("2024-01-15T07:10:00Z", Some(3600)), Due { now: ten, missed: 1, next });
    }

    #[test]
    fn periods_are_counted_from_the_last_time_that_was_served() {
        let every = parse_schedule("@every 10m").unwrap();
        let of = |now: &str, deadline| due(&every, &TimeZone::UTC, at("2024-01-15T10:00:05Z"), deadline, at(now));
        let time = |text: &str| Some(at(text));
        let next = time("2024-01-15T10:10:05Z");
        for now in ["2024-01-15T10:00:05Z", "2024-01-15T10:09:59Z"] {
            assert_eq!(of(now, None), Due { now: None, missed: 0, next }, "{now}");
        }
        let (late, next) = ("2024-01-15T10:25:00Z", time("2024-01-15T10:30:05Z"));
        let last = time("2024-01-15T10:20:05Z");
        assert_eq!(of(late, None), Due { now: last, missed: 2, next });
        assert_eq!(of(late, Some(600)), Due { now: last, missed: 1, next });
        assert_eq!(of(late, Some(295)), Due { now: last, missed: 1, next });
        assert_eq!(of(late, Some(60)), Due { now: None, missed: 0, next });
        assert_eq!(of("2025-01-15T10:25:00Z", None).missed, MANY + 1);
    }

    #[test]
    fn job_is_named_after_its_time() {
        let cron: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "x", "uid": "u"},
            "spec": {"schedule": "@hourly", "jobTemplate": {"metadata": {"labels": {"a": "b"}}, "spec": {"template": {}}}},
        }))
        .unwrap();
        let made = job(&cron, at("2024-01-15T10:00:00Z"), &TimeZone::UTC);
        assert_eq!(made.name_any(), "c-28421880");
        assert_eq!(made.annotations()[SCHEDULED_AT], "2024-01-15T10:00:00Z");
        assert_eq!((made.labels()["a"].as_str(), made.owner_references()[0].kind.as_str()), ("b", "CronJob"));
    }

    #[test]
    fn history_is_limited_by_kind_of_end() {
        let cron: CronJob = serde_json::from_value(json!({"metadata": {}, "spec": {"schedule": "@hourly",
            "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0, "jobTemplate": {}}}))
        .unwrap();
        let job = |name: &str, kind: &str, start: &str| -> Arc<Job> {
            let status = json!({"startTime": start, "conditions": [{"type": kind, "status": "True"}]});
            Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "status": status})).unwrap())
        };
        let jobs = [
            job("good-2", "Complete", "2024-01-02T00:00:00Z"),
            job("good-1", "Complete", "2024-01-01T00:00:00Z"),
            job("bad", "Failed", "2024-01-03T00:00:00Z"),
            job("running", "Suspended", "2024-01-01T00:00:00Z"),
        ];
        let gone: Vec<_> = expired(&cron, &jobs).iter().map(|job| job.name_any()).collect();
        assert_eq!(gone, ["good-1", "bad"]);
    }
}
