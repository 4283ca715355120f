//! What workloads have in common: the Pod template, its selector, its columns, the amounts of a rolling update.

use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

use super::checks::{self, check_selector, selects, text, to_value};
use super::pod_spec::{self, Place};
use super::{Column, wide};
use crate::api::causes::Causes;
use crate::api::names::{check_labels, qualified_name_errors};

/// The last column of the kinds whose selector the system makes.
pub(super) const SELECTOR: Column = wide(
    "Selector",
    "A label query over pods that should match the pod count. Normally, the system sets this field for you. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
);

pub(super) const CONTAINERS: Column = wide("Containers", "Names of each container in the template.");
pub(super) const IMAGES: Column = wide("Images", "Images referenced by each container in the template.");
const MISMATCH: &str = "`selector` does not match template `labels`";

pub(super) fn default(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_default();
    pod_spec::default_spec(template.spec.get_or_insert_default());
}

/// The selector of a workload: valid and not empty. `empty` is what is said of an empty one.
pub(super) fn check_own_selector(selector: &LabelSelector, empty: &str, causes: &mut Causes) {
    check_selector(causes, "spec.selector", selector);
    if checks::is_empty(selector) {
        causes.invalid("spec.selector", to_value(selector), empty);
    }
}

/// A workload must select the Pods that it makes.
pub(super) fn check_selected(selector: &LabelSelector, template: &PodTemplateSpec, causes: &mut Causes) {
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
    if !checks::is_empty(selector) && !selects(selector, &labels) {
        causes.invalid("spec.template.metadata.labels", to_value(&labels), MISMATCH);
    }
}

/// A template, which stands at `spec.template` in every workload.
pub(super) fn check(template: &PodTemplateSpec, causes: &mut Causes) {
    check_metadata(template, causes);
    let spec = template.spec.clone().unwrap_or_default();
    pod_spec::check(&spec, "spec.template.spec", Place::Template, causes);
    if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        causes.forbidden("spec.template.spec.ephemeralContainers", detail);
    }
}

pub(super) fn check_metadata(template: &PodTemplateSpec, causes: &mut Causes) {
    let metadata = template.metadata.clone().unwrap_or_default();
    if let Some(labels) = &metadata.labels {
        check_labels(causes, "spec.template.labels", labels);
    }
    for (key, _) in metadata.annotations.iter().flatten() {
        causes.all("spec.template.annotations", key, qualified_name_errors(&key.to_lowercase()));
    }
}

/// Pods that are replaced when they end run for ever: no other restart policy, no deadline.
pub(super) fn check_endless(template: &PodTemplateSpec, kind: &str, causes: &mut Causes) {
    let Some(spec) = &template.spec else { return };
    let policy = text(&spec.restart_policy);
    if policy != "Always" {
        causes.unsupported("spec.template.spec.restartPolicy", policy, &["Always"]);
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        causes.forbidden("spec.template.spec.activeDeadlineSeconds", detail);
    }
}

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(super) fn container_cells(template: Option<&PodTemplateSpec>) -> [Value; 2] {
    let spec = template.and_then(|template| template.spec.as_ref());
    let containers: &[Container] = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let names: Vec<&str> = containers.iter().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|container| text(&container.image)).collect();
    [names.join(",").into(), images.join(",").into()]
}

/// `counted` numbers of a status may not be negative, nor exceed all replicas.
pub(super) fn check_status_counts(replicas: Option<i32>, counted: &[(&str, Option<i32>)], causes: &mut Causes) {
    causes.non_negative("status.replicas", replicas);
    for (field, count) in counted {
        causes.non_negative(format!("status.{field}"), *count);
    }
    for (field, count) in counted {
        if count.unwrap_or(0) > replicas.unwrap_or(0) {
            let detail = "cannot be greater than status.replicas";
            causes.invalid(format!("status.{field}"), count.unwrap_or(0), detail);
        }
    }
}

pub(super) fn check_available(available: Option<i32>, ready: Option<i32>, causes: &mut Causes) {
    if available.unwrap_or(0) > ready.unwrap_or(0) {
        let detail = "cannot be greater than readyReplicas";
        causes.invalid("status.availableReplicas", available.unwrap_or(0), detail);
    }
}

/// The count of collisions only grows.
pub(super) fn check_collisions(new: Option<i32>, old: Option<i32>, causes: &mut Causes) {
    causes.non_negative("status.collisionCount", new);
    if old.is_some_and(|old| new.is_none_or(|new| new < old)) {
        causes.invalid("status.collisionCount", new.unwrap_or(0), "cannot be decremented");
    }
}
