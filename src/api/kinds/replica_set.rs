//! ReplicaSet (apps/v1).

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{forget_zero, format_selector};
use super::template::{self, CONTAINERS, IMAGES, container_cells};
use super::{AGE, Context, Info, NAME, Part, ScalePaths, age_cell, integer, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = ReplicaSet;
    const INFO: Info = Info {
        group: "apps",
        kind: "ReplicaSet",
        plural: "replicasets",
        singular: "replicaset",
        short_names: &["rs"],
        categories: &["all"],
        status: true,
        scale: Some(ScalePaths::WORKLOAD),
        generation: true,
        fields: &["status.replicas"],
        condition_times: &["lastTransitionTime"],
        columns: &[
            NAME,
            integer(
                "Desired",
                "Replicas is the number of desired pods. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
            ),
            integer(
                "Current",
                "Replicas is the most recently observed number of non-terminating pods. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
            ),
            integer("Ready", "The number of non-terminating pods targeted by this ReplicaSet with a Ready Condition."),
            AGE,
            CONTAINERS,
            IMAGES,
            wide(
                "Selector",
                "Selector is a label query over pods that should match the replica count. Label keys and values that must match in order to be controlled by this replica set. It must match the pod template's labels. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut ReplicaSet) {
        let spec = object.spec.get_or_insert_default();
        template::default(spec.template.get_or_insert_default());
        spec.replicas.get_or_insert(1);
        forget_zero(&mut spec.min_ready_seconds);
        let status = object.status.get_or_insert_with(ReplicaSetStatus::default);
        forget_zero(&mut status.observed_generation);
        let counts = [&mut status.fully_labeled_replicas, &mut status.ready_replicas, &mut status.available_replicas];
        counts.into_iter().for_each(forget_zero);
    }

    fn create(_: &Context, object: &mut ReplicaSet, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(ReplicaSetStatus::default());
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ReplicaSet, old: &ReplicaSet, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            check_status(&new.status.clone().unwrap_or_default(), causes);
            return;
        }
        let (new, old) = (new.spec.get_or_insert_default(), old.spec.clone().unwrap_or_default());
        check(new, causes);
        causes.immutable("spec.selector", &new.selector, &old.selector);
    }

    fn cells(object: &ReplicaSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let [containers, images] = container_cells(spec.template.as_ref());
        vec![
            name_cell(object),
            spec.replicas.unwrap_or(0).into(),
            status.replicas.into(),
            status.ready_replicas.unwrap_or(0).into(),
            age_cell(object, now),
            containers,
            images,
            format_selector(Some(&spec.selector)).into(),
        ]
    }
}

fn check(spec: &ReplicaSetSpec, causes: &mut Causes) {
    causes.non_negative("spec.replicas", spec.replicas);
    causes.non_negative("spec.minReadySeconds", spec.min_ready_seconds);
    // The reference says deployment here, too.
    template::check_own_selector(&spec.selector, "empty selector is invalid for deployment", causes);
    let template = spec.template.clone().unwrap_or_default();
    template::check_selected(&spec.selector, &template, causes);
    template::check(&template, causes);
    template::check_endless(&template, "ReplicaSet", causes);
}

pub(super) fn check_status(status: &ReplicaSetStatus, causes: &mut Causes) {
    causes.non_negative("status.observedGeneration", status.observed_generation);
    let counts = [
        ("fullyLabeledReplicas", status.fully_labeled_replicas),
        ("readyReplicas", status.ready_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    template::check_status_counts(Some(status.replicas), &counts, causes);
    template::check_available(status.available_replicas, status.ready_replicas, causes);
}
