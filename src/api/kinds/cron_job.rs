//! CronJob (batch/v1).

use std::path::Path;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{format_selector, text, to_value};
use super::template::{self, CONTAINERS, IMAGES, SELECTOR, container_cells};
use super::{AGE, Column, Context, Info, NAME, Part, age_cell, column, cron_schedule, integer, job, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;
use crate::api::table::human_duration;

/// Jobs are named after their CronJob and the time: eleven characters more.
const NAME_LIMIT: usize = 52;
/// The IANA time zones, a file each.
const ZONES: &str = "/usr/share/zoneinfo";

pub struct Kind;

impl super::Kind for Kind {
    type Object = CronJob;
    const INFO: Info = Info {
        group: "batch",
        kind: "CronJob",
        plural: "cronjobs",
        singular: "cronjob",
        short_names: &["cj"],
        categories: &["all"],
        status: true,
        generation: true,
        columns: &[
            NAME,
            column("Schedule", "The schedule in Cron format, see https://en.wikipedia.org/wiki/Cron."),
            column(
                "Timezone",
                "The time zone name for the given schedule, see https://en.wikipedia.org/wiki/List_of_tz_database_time_zones.",
            ),
            Column {
                kind: "boolean",
                ..column(
                    "Suspend",
                    "This flag tells the controller to suspend subsequent executions, it does not apply to already started executions.  Defaults to false.",
                )
            },
            integer("Active", "A list of pointers to currently running jobs."),
            column("Last Schedule", "Information when was the last time the job was successfully scheduled."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut CronJob) {
        let spec = &mut object.spec;
        spec.concurrency_policy.get_or_insert_with(|| "Allow".into());
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(3);
        spec.failed_jobs_history_limit.get_or_insert(1);
        template::default(&mut spec.job_template.spec.get_or_insert_default().template);
        object.status.get_or_insert_default();
    }

    fn create(_: &Context, object: &mut CronJob, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(CronJobStatus::default());
        check(&object.spec, None, causes);
        let name = text(&object.metadata.name);
        if name.len() > NAME_LIMIT {
            causes.invalid("metadata.name", name, format!("must be no more than {NAME_LIMIT} characters"));
        }
        Ok(())
    }

    fn update(_: &Context, new: &mut CronJob, old: &CronJob, part: Part, causes: &mut Causes) {
        if part == Part::Main {
            check(&new.spec, Some(&old.spec), causes);
        }
    }

    fn cells(object: &CronJob, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone();
        let status = object.status.clone().unwrap_or_default();
        let job = spec.job_template.spec.unwrap_or_default();
        let [containers, images] = container_cells(Some(&job.template));
        let none = || "<none>".to_owned();
        let last = status.last_schedule_time.map(|time| human_duration(now.as_second() - time.0.as_second()));
        vec![
            name_cell(object),
            spec.schedule.into(),
            spec.time_zone.unwrap_or_else(none).into(),
            if spec.suspend == Some(true) { "True" } else { "False" }.into(),
            status.active.unwrap_or_default().len().into(),
            last.unwrap_or_else(none).into(),
            age_cell(object, now),
            containers,
            images,
            format_selector(job.selector.as_ref()).into(),
        ]
    }
}

fn check(spec: &CronJobSpec, old: Option<&CronJobSpec>, causes: &mut Causes) {
    let schedule = spec.schedule.as_str();
    if schedule.is_empty() {
        causes.required("spec.schedule", "");
    } else {
        if let Err(why) = cron_schedule::parse(schedule) {
            causes.invalid("spec.schedule", schedule, why);
        }
        // What was there before the rule may stay.
        let known = old.is_some_and(|old| old.schedule == schedule);
        if schedule.contains("TZ") && spec.time_zone.is_some() {
            causes.invalid("spec.schedule", schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule");
        } else if schedule.contains("TZ") && !known {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            causes.invalid("spec.schedule", schedule, why);
        }
    }
    causes.non_negative("spec.startingDeadlineSeconds", spec.starting_deadline_seconds);
    if let Some(zone) = &spec.time_zone {
        check_zone(zone, causes);
    }
    causes.one_of("spec.concurrencyPolicy", spec.concurrency_policy.as_ref(), &["Allow", "Forbid", "Replace"]);
    let job = spec.job_template.spec.clone().unwrap_or_default();
    let mut found = Causes::default();
    job::check_spec(&job, &mut found);
    if let Some(selector) = &job.selector {
        found.invalid("spec.selector", to_value(selector), "`selector` will be auto-generated");
    }
    if job.manual_selector == Some(true) {
        found.unsupported("spec.manualSelector", true, &["nil", "false"]);
    }
    for mut cause in found.0 {
        cause.field = format!("spec.jobTemplate.{}", cause.field);
        causes.0.push(cause);
    }
    causes.non_negative("spec.successfulJobsHistoryLimit", spec.successful_jobs_history_limit);
    causes.non_negative("spec.failedJobsHistoryLimit", spec.failed_jobs_history_limit);
}

fn check_zone(zone: &str, causes: &mut Causes) {
    let why = match zone {
        "" => "timeZone must be nil or non-empty string".to_owned(),
        _ if zone.eq_ignore_ascii_case("local") => {
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones".to_owned()
        }
        _ if zone.split('/').any(|part| part.is_empty() || part == "..") => "time: invalid location name".to_owned(),
        _ if !is_zone(Path::new(ZONES), zone) => format!("unknown time zone {zone}"),
        _ => return,
    };
    causes.invalid("spec.timeZone", zone, why);
}

/// Whether the system's zone data in `zones` knows `zone`; where there is none, every name will do.
fn is_zone(zones: &Path, zone: &str) -> bool {
    zone == "UTC" || !zones.is_dir() || zones.join(zone).is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_those_of_the_system() {
        let zones = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(zones.path().join("Europe")).expect("a folder");
        std::fs::write(zones.path().join("Europe/Paris"), "TZif").expect("a file");
        assert!(is_zone(zones.path(), "Europe/Paris") && is_zone(zones.path(), "UTC"));
        assert!(!is_zone(zones.path(), "Europe") && !is_zone(zones.path(), "Mars/Base"));
        assert!(is_zone(&zones.path().join("absent"), "Mars/Base"));
    }
}
