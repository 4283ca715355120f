//! Job (batch/v1).

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_selector, forget_zero, format_selector, selects, text, to_value};
use super::template::{self, CONTAINERS, IMAGES, SELECTOR, container_cells};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;
use crate::api::table::human_duration;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const OLD_UID_LABEL: &str = "controller-uid";
const OLD_NAME_LABEL: &str = "job-name";
const INDEXED: &str = "Indexed";

pub struct Kind;

impl super::Kind for Kind {
    type Object = Job;
    const INFO: Info = Info {
        group: "batch",
        kind: "Job",
        plural: "jobs",
        singular: "job",
        categories: &["all"],
        status: true,
        generation: true,
        orphans_dependents: true,
        fields: &["status.successful"],
        condition_times: &["lastProbeTime", "lastTransitionTime"],
        columns: &[
            NAME,
            column("Status", "Status of the job."),
            column(
                "Completions",
                "The number of pods which reached phase Succeeded. The value increases monotonically for a given spec. However, it may decrease in reaction to scale down of elastic indexed jobs.",
            ),
            column("Duration", "Time required to complete the job."),
            AGE,
            CONTAINERS,
            IMAGES,
            SELECTOR,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut Job) {
        let spec = object.spec.get_or_insert_default();
        template::default(&mut spec.template);
        // A work queue names no completions: then one Pod that succeeds is enough.
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let per_index = spec.backoff_limit_per_index.is_some();
        spec.backoff_limit.get_or_insert(if per_index { i32::MAX } else { 6 });
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".into());
        spec.suspend.get_or_insert(false);
        let failed_only = spec.pod_failure_policy.is_some();
        let replacement = if failed_only { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.into());
        let rules = spec.pod_failure_policy.iter_mut().flat_map(|policy| policy.rules.iter_mut());
        for pattern in rules.flat_map(|rule| rule.on_pod_conditions.iter_mut().flatten()) {
            pattern.status.get_or_insert_with(|| "True".into());
        }
        let status = object.status.get_or_insert_with(JobStatus::default);
        [&mut status.active, &mut status.succeeded, &mut status.failed].into_iter().for_each(forget_zero);
    }

    fn create(_: &Context, object: &mut Job, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(JobStatus::default());
        let generated = object.spec.as_ref().is_some_and(|spec| spec.manual_selector != Some(true));
        if generated {
            generate_selector(object);
            check_generated(object, causes);
        }
        let spec = object.spec.get_or_insert_default();
        check(spec, causes);
        if object.metadata.labels.as_ref().is_none_or(std::collections::BTreeMap::is_empty) {
            object.metadata.labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
        }
        Ok(())
    }

    fn update(_: &Context, new: &mut Job, old: &Job, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            let status = new.status.clone().unwrap_or_default();
            for (field, count) in
                [("active", status.active), ("succeeded", status.succeeded), ("failed", status.failed)]
            {
                causes.non_negative(format!("status.{field}"), count);
            }
            return;
        }
        let old_spec = old.spec.clone().unwrap_or_default();
        let new = new.spec.get_or_insert_default();
        check(new, causes);
        check_update(new, old, &old_spec, causes);
    }

    fn cells(object: &Job, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(completions), _) => format!("{succeeded}/{completions}"),
            (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = status.start_time.as_ref().map_or(String::new(), |start| {
            let end = status.completion_time.as_ref().map_or(now, |end| end.0);
            human_duration(end.as_second() - start.0.as_second())
        });
        let [containers, images] = container_cells(Some(&spec.template));
        vec![
            name_cell(object),
            state(object, &status).into(),
            completions.into(),
            duration.into(),
            age_cell(object, now),
            containers,
            images,
            format_selector(spec.selector.as_ref()).into(),
        ]
    }
}

fn state(object: &Job, status: &JobStatus) -> &'static str {
    let is = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    let deleting = object.metadata.deletion_timestamp.is_some();
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if deleting => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// Pods of a Job carry its uid, so that no other controller takes them for its own.
fn generate_selector(object: &mut Job) {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let spec = object.spec.get_or_insert_default();
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [(OLD_UID_LABEL, &uid), (OLD_NAME_LABEL, &name), (UID_LABEL, &uid), (NAME_LABEL, &name)] {
        // A value of the user's stays, and is refused below.
        labels.entry(key.into()).or_insert_with(|| value.clone());
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID_LABEL.into()).or_insert(uid);
}

fn check_generated(object: &Job, causes: &mut Causes) {
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let spec = object.spec.clone().unwrap_or_default();
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    let wanted = [(OLD_UID_LABEL, &uid), (OLD_NAME_LABEL, &name), (UID_LABEL, &uid), (NAME_LABEL, &name)];
    for (key, value) in wanted {
        if labels.get(key) != Some(value) {
            let field = format!("spec.template.metadata.labels[{key}]");
            causes.invalid(field, to_value(&labels), format!("must be '{value}'"));
        }
    }
    let expected = wanted.into_iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    if let Some(selector) = spec.selector.as_ref().filter(|selector| !selects(selector, &expected)) {
        causes.invalid("spec.selector", to_value(selector), "`selector` not auto-generated");
    }
}

fn check(spec: &JobSpec, causes: &mut Causes) {
    check_spec(spec, causes);
    match &spec.selector {
        None => causes.required("spec.selector", ""),
        Some(selector) => {
            check_selector(causes, "spec.selector", selector);
            template::check_selected(selector, &spec.template, causes);
        }
    }
}

/// All but the selector, which the Jobs of a CronJob do not have yet.
pub(super) fn check_spec(spec: &JobSpec, causes: &mut Causes) {
    causes.non_negative("spec.parallelism", spec.parallelism);
    causes.non_negative("spec.completions", spec.completions);
    causes.non_negative("spec.activeDeadlineSeconds", spec.active_deadline_seconds);
    causes.non_negative("spec.backoffLimit", spec.backoff_limit);
    causes.non_negative("spec.ttlSecondsAfterFinished", spec.ttl_seconds_after_finished);
    causes.non_negative("spec.backoffLimitPerIndex", spec.backoff_limit_per_index);
    causes.non_negative("spec.maxFailedIndexes", spec.max_failed_indexes);
    check_indexes(spec, causes);
    let replacement = &["Failed", "TerminatingOrFailed"];
    causes.one_of("spec.podReplacementPolicy", spec.pod_replacement_policy.as_ref(), replacement);
    check_failure_policy(spec, causes);
    template::check(&spec.template, causes);
    let policy = spec.template.spec.as_ref().map(|spec| text(&spec.restart_policy)).unwrap_or_default();
    let field = "spec.template.spec.restartPolicy";
    match policy {
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid(field, policy, detail);
        }
        "OnFailure" | "Never" => {}
        "Always" => causes.required(field, "valid values: \"OnFailure\", \"Never\""),
        other => causes.unsupported(field, other, &["OnFailure", "Never"]),
    }
}

fn check_indexes(spec: &JobSpec, causes: &mut Causes) {
    let indexed = text(&spec.completion_mode) == INDEXED;
    causes.one_of("spec.completionMode", spec.completion_mode.as_ref(), &["NonIndexed", INDEXED]);
    if indexed && spec.completions.is_none() {
        causes.required("spec.completions", "when completion mode is Indexed");
    }
    if !indexed && spec.backoff_limit_per_index.is_some() {
        let limit = spec.backoff_limit_per_index.unwrap_or_default();
        causes.invalid("spec.backoffLimitPerIndex", limit, "requires indexed completion mode");
    }
    if let Some(indexes) = spec.max_failed_indexes.filter(|_| spec.backoff_limit_per_index.is_none()) {
        causes.required("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified");
        if spec.completions.is_some_and(|completions| indexes > completions) {
            causes.invalid("spec.maxFailedIndexes", indexes, "must be less than or equal to completions");
        }
    }
    if let Some(policy) = &spec.success_policy {
        if !indexed {
            causes.invalid("spec.successPolicy", to_value(policy), "requires indexed completion mode");
        }
        if policy.rules.is_empty() {
            causes.required(
                "spec.successPolicy.rules",
                "at least one rules must be specified when the successPolicy is specified",
            );
        }
    }
}

fn check_failure_policy(spec: &JobSpec, causes: &mut Causes) {
    let Some(policy) = &spec.pod_failure_policy else { return };
    for (i, rule) in policy.rules.iter().enumerate() {
        let at = format!("spec.podFailurePolicy.rules[{i}]");
        let actions = &["Count", "FailIndex", "FailJob", "Ignore"];
        causes.one_of(&format!("{at}.action"), Some(&rule.action), actions);
        match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (None, None) => {
                causes.invalid(&at, "", "specifying one of OnExitCodes and OnPodConditions is required");
            }
            (Some(_), Some(_)) => {
                causes.invalid(&at, "", "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (Some(codes), None) => {
                causes.one_of(&format!("{at}.onExitCodes.operator"), Some(&codes.operator), &["In", "NotIn"]);
                if codes.values.is_empty() {
                    causes.invalid(
                        format!("{at}.onExitCodes.values"),
                        codes.values.clone(),
                        "at least one value is required",
                    );
                }
            }
            (None, Some(_)) => {}
        }
    }
}

fn check_update(new: &JobSpec, job: &Job, old: &JobSpec, causes: &mut Causes) {
    // An indexed Job may be scaled: completions and parallelism together.
    let elastic = text(&new.completion_mode) == INDEXED && new.completions == new.parallelism;
    if !elastic {
        causes.immutable("spec.completions", &new.completions, &old.completions);
    }
    causes.immutable("spec.selector", &new.selector, &old.selector);
    let started = job.status.as_ref().is_some_and(|status| status.start_time.is_some());
    let mut template = new.template.clone();
    if old.suspend == Some(true) && !started {
        // Where its Pods run may still be said of a Job that has not begun.
        if let (Some(now), Some(was)) = (&mut template.spec, &old.template.spec) {
            now.node_selector = was.node_selector.clone();
            now.affinity = was.affinity.clone();
            now.tolerations = was.tolerations.clone();
            now.scheduling_gates = was.scheduling_gates.clone();
        }
        if let (Some(now), Some(was)) = (&mut template.metadata, &old.template.metadata) {
            now.labels = was.labels.clone();
            now.annotations = was.annotations.clone();
        }
    }
    causes.immutable("spec.template", &template, &old.template);
    causes.immutable("spec.completionMode", &new.completion_mode, &old.completion_mode);
    causes.immutable("spec.podFailurePolicy", &new.pod_failure_policy, &old.pod_failure_policy);
    causes.immutable("spec.backoffLimitPerIndex", &new.backoff_limit_per_index, &old.backoff_limit_per_index);
    causes.immutable("spec.managedBy", &new.managed_by, &old.managed_by);
    causes.immutable("spec.successPolicy", &new.success_policy, &old.success_policy);
}
