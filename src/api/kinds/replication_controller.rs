//! ReplicationController: what ReplicaSets took the place of.

use k8s_openapi::api::apps::v1::ReplicaSetStatus;
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerSpec, ReplicationControllerStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{forget_zero, format_selector};
use super::template::{self, CONTAINERS, IMAGES, container_cells};
use super::{AGE, Context, Info, NAME, Part, ScalePaths, age_cell, integer, name_cell, replica_set, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = ReplicationController;
    const INFO: Info = Info {
        kind: "ReplicationController",
        plural: "replicationcontrollers",
        singular: "replicationcontroller",
        short_names: &["rc"],
        categories: &["all"],
        status: true,
        scale: Some(ScalePaths::WORKLOAD),
        generation: true,
        orphans_dependents: true,
        fields: &["status.replicas"],
        condition_times: &["lastTransitionTime"],
        columns: &[
            NAME,
            integer(
                "Desired",
                "Replicas is the number of desired replicas. This is a pointer to distinguish between explicit zero and unspecified. Defaults to 1. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
            ),
            integer(
                "Current",
                "Replicas is the most recently observed number of replicas. More info: https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
            ),
            integer("Ready", "The number of ready replicas for this replication controller."),
            AGE,
            CONTAINERS,
            IMAGES,
            wide(
                "Selector",
                "Selector is a label query over pods that should match the Replicas count. If Selector is empty, it is defaulted to the labels present on the Pod template. Label keys and values that must match in order to be controlled by this replication controller, if empty defaulted to labels on Pod template. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut ReplicationController) {
        let spec = object.spec.get_or_insert_default();
        if let Some(template) = &mut spec.template {
            template::default(template);
        }
        let labels = spec.template.as_ref().and_then(|template| template.metadata.as_ref()?.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if object.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
                object.metadata.labels = Some(labels);
            }
        }
        spec.replicas.get_or_insert(1);
        forget_zero(&mut spec.min_ready_seconds);
        let status = object.status.get_or_insert_with(ReplicationControllerStatus::default);
        forget_zero(&mut status.observed_generation);
        let counts = [&mut status.fully_labeled_replicas, &mut status.ready_replicas, &mut status.available_replicas];
        counts.into_iter().for_each(forget_zero);
    }

    fn create(_: &Context, object: &mut ReplicationController, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(ReplicationControllerStatus::default());
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(
        _: &Context,
        new: &mut ReplicationController,
        _: &ReplicationController,
        part: Part,
        causes: &mut Causes,
    ) {
        if part == Part::Status {
            replica_set::check_status(&counts_of(new.status.clone().unwrap_or_default()), causes);
            return;
        }
        check(new.spec.get_or_insert_default(), causes);
    }

    fn cells(object: &ReplicationController, now: Timestamp) -> Vec<Value> {
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
            format_selector(Some(&selector_of(&spec))).into(),
        ]
    }
}

/// A ReplicationController counts as a ReplicaSet does, and in the reference it is one inside.
fn counts_of(status: ReplicationControllerStatus) -> ReplicaSetStatus {
    let ReplicationControllerStatus {
        replicas,
        fully_labeled_replicas,
        ready_replicas,
        available_replicas,
        observed_generation,
        ..
    } = status;
    ReplicaSetStatus {
        replicas,
        fully_labeled_replicas,
        ready_replicas,
        available_replicas,
        observed_generation,
        ..ReplicaSetStatus::default()
    }
}

fn selector_of(spec: &ReplicationControllerSpec) -> LabelSelector {
    LabelSelector { match_labels: spec.selector.clone(), match_expressions: None }
}

fn check(spec: &ReplicationControllerSpec, causes: &mut Causes) {
    causes.non_negative("spec.minReadySeconds", spec.min_ready_seconds);
    if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
        causes.required("spec.selector", "");
    }
    causes.non_negative("spec.replicas", spec.replicas);
    match &spec.template {
        None => causes.required("spec.template", ""),
        Some(template) => {
            template::check_selected(&selector_of(spec), template, causes);
            template::check(template, causes);
            template::check_endless(template, "ReplicationController", causes);
        }
    }
}
