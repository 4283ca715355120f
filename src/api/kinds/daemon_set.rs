//! DaemonSet (apps/v1).

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    DaemonSet, DaemonSetSpec, DaemonSetStatus, DaemonSetUpdateStrategy, RollingUpdateDaemonSet,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::{amount, check_amount, check_at_most_all, fill, forget_zero, format_selector, text, to_value};
use super::template::{self, CONTAINERS, IMAGES, container_cells};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, integer, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

const ROLLING: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
/// Counts the changes of the template, for clients of the old versions of this kind.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub struct Kind;

impl super::Kind for Kind {
    type Object = DaemonSet;
    const INFO: Info = Info {
        group: "apps",
        kind: "DaemonSet",
        plural: "daemonsets",
        singular: "daemonset",
        short_names: &["ds"],
        categories: &["all"],
        status: true,
        generation: true,
        condition_times: &["lastTransitionTime"],
        columns: &[
            NAME,
            integer(
                "Desired",
                "The total number of nodes that should be running the daemon pod (including nodes correctly running the daemon pod). More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
            ),
            integer(
                "Current",
                "The number of nodes that are running at least 1 daemon pod and are supposed to run the daemon pod. More info: https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
            ),
            integer(
                "Ready",
                "numberReady is the number of nodes that should be running the daemon pod and have one or more of the daemon pod running with a Ready Condition.",
            ),
            integer("Up-to-date", "The total number of nodes that are running updated daemon pod"),
            integer(
                "Available",
                "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available (ready for at least spec.minReadySeconds)",
            ),
            column(
                "Node Selector",
                "NodeSelector is a selector which must be true for the pod to fit on a node. Selector which must match a node's labels for the pod to be scheduled on that node. More info: https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            wide(
                "Selector",
                "A label query over pods that are managed by the daemon set. Must match in order to be controlled. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut DaemonSet) {
        let spec = object.spec.get_or_insert_default();
        template::default(&mut spec.template);
        let strategy = spec.update_strategy.get_or_insert_with(DaemonSetUpdateStrategy::default);
        fill(&mut strategy.type_, ROLLING);
        if text(&strategy.type_) == ROLLING {
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDaemonSet::default);
            rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
            rolling.max_surge.get_or_insert(IntOrString::Int(0));
        }
        spec.revision_history_limit.get_or_insert(10);
        forget_zero(&mut spec.min_ready_seconds);
        let status = object.status.get_or_insert_with(DaemonSetStatus::default);
        forget_zero(&mut status.observed_generation);
        let counts =
            [&mut status.updated_number_scheduled, &mut status.number_available, &mut status.number_unavailable];
        counts.into_iter().for_each(forget_zero);
    }

    fn create(_: &Context, object: &mut DaemonSet, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(DaemonSetStatus::default());
        set_template_generation(object, 1);
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut DaemonSet, old: &DaemonSet, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            check_status(new.status.as_ref(), old.status.as_ref(), causes);
            return;
        }
        let old_spec = old.spec.clone().unwrap_or_default();
        let changed = new.spec.as_ref().is_some_and(|spec| spec.template != old_spec.template);
        let count = old.metadata.annotations.as_ref().and_then(|all| all.get(TEMPLATE_GENERATION)?.parse::<i64>().ok());
        set_template_generation(new, count.unwrap_or(1) + i64::from(changed));
        let spec = new.spec.get_or_insert_default();
        check(spec, causes);
        causes.immutable("spec.selector", &spec.selector, &old_spec.selector);
    }

    fn cells(object: &DaemonSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let [containers, images] = container_cells(Some(&spec.template));
        let nodes = spec.template.spec.as_ref().and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
        vec![
            name_cell(object),
            status.desired_number_scheduled.into(),
            status.current_number_scheduled.into(),
            status.number_ready.into(),
            status.updated_number_scheduled.unwrap_or(0).into(),
            status.number_available.unwrap_or(0).into(),
            format_labels(&nodes).into(),
            age_cell(object, now),
            containers,
            images,
            format_selector(Some(&spec.selector)).into(),
        ]
    }
}

fn set_template_generation(object: &mut DaemonSet, generation: i64) {
    let annotations = object.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_GENERATION.into(), generation.to_string());
}

/// Labels as kubectl prints them.
fn format_labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "<none>".into();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn check(spec: &DaemonSetSpec, causes: &mut Causes) {
    super::checks::check_selector(causes, "spec.selector", &spec.selector);
    template::check_selected(&spec.selector, &spec.template, causes);
    if super::checks::is_empty(&spec.selector) {
        causes.invalid("spec.selector", to_value(&spec.selector), "empty selector is invalid for daemonset");
    }
    template::check(&spec.template, causes);
    template::check_endless(&spec.template, "DaemonSet", causes);
    causes.non_negative("spec.minReadySeconds", spec.min_ready_seconds);
    check_strategy(&spec.update_strategy.clone().unwrap_or_default(), causes);
    causes.non_negative("spec.revisionHistoryLimit", spec.revision_history_limit);
}

fn check_strategy(strategy: &DaemonSetUpdateStrategy, causes: &mut Causes) {
    const AT: &str = "spec.updateStrategy.rollingUpdate";
    match (text(&strategy.type_), &strategy.rolling_update) {
        (ON_DELETE, _) => {}
        (ROLLING, rolling) => {
            let rolling = rolling.clone().unwrap_or_default();
            let unavailable = rolling.max_unavailable.unwrap_or(IntOrString::Int(0));
            let surge = rolling.max_surge.unwrap_or(IntOrString::Int(0));
            for (field, value) in [("maxUnavailable", &unavailable), ("maxSurge", &surge)] {
                check_amount(causes, &format!("{AT}.{field}"), value);
                check_at_most_all(causes, &format!("{AT}.{field}"), value);
            }
            match (amount(&unavailable) != 0, amount(&surge) != 0) {
                (true, true) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    causes.invalid(format!("{AT}.maxSurge"), to_value(&surge), detail);
                }
                (false, false) => causes.required(format!("{AT}.maxUnavailable"), "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        (other, rolling) => {
            let value = json!({"Type": other, "RollingUpdate": rolling});
            causes.unsupported("spec.updateStrategy", value, &[ROLLING, ON_DELETE]);
        }
    }
}

fn check_status(new: Option<&DaemonSetStatus>, old: Option<&DaemonSetStatus>, causes: &mut Causes) {
    let new = new.cloned().unwrap_or_default();
    let counts = [
        ("currentNumberScheduled", Some(new.current_number_scheduled)),
        ("numberMisscheduled", Some(new.number_misscheduled)),
        ("desiredNumberScheduled", Some(new.desired_number_scheduled)),
        ("numberReady", Some(new.number_ready)),
        ("updatedNumberScheduled", new.updated_number_scheduled),
        ("numberAvailable", new.number_available),
        ("numberUnavailable", new.number_unavailable),
    ];
    for (field, count) in counts {
        causes.non_negative(format!("status.{field}"), count);
    }
    causes.non_negative("status.observedGeneration", new.observed_generation);
    template::check_collisions(new.collision_count, old.and_then(|old| old.collision_count), causes);
}
