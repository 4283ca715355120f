//! Deployment (apps/v1).

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::{amount, check_amount, check_at_most_all, fill, forget_zero, format_selector, text, to_value};
use super::template::{self, CONTAINERS, IMAGES, container_cells};
use super::{AGE, Context, Info, NAME, Part, ScalePaths, age_cell, column, name_cell, wide};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

const ROLLING: &str = "RollingUpdate";
const RECREATE: &str = "Recreate";

pub struct Kind;

impl super::Kind for Kind {
    type Object = Deployment;
    const INFO: Info = Info {
        group: "apps",
        kind: "Deployment",
        plural: "deployments",
        singular: "deployment",
        short_names: &["deploy"],
        categories: &["all"],
        status: true,
        scale: Some(ScalePaths::WORKLOAD),
        generation: true,
        condition_times: &["lastTransitionTime", "lastUpdateTime"],
        columns: &[
            NAME,
            column("Ready", "Number of the pod with ready state"),
            column(
                "Up-to-date",
                "Total number of non-terminating pods targeted by this deployment that have the desired template spec.",
            ),
            column(
                "Available",
                "Total number of available non-terminating pods (ready for at least minReadySeconds) targeted by this deployment.",
            ),
            AGE,
            CONTAINERS,
            IMAGES,
            wide(
                "Selector",
                "Label selector for pods. Existing ReplicaSets whose pods are selected by this will be the ones affected by this deployment.",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut Deployment) {
        let spec = object.spec.get_or_insert_default();
        template::default(&mut spec.template);
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        spec.progress_deadline_seconds.get_or_insert(600);
        forget_zero(&mut spec.min_ready_seconds);
        forget_zero(&mut spec.paused);
        let strategy = spec.strategy.get_or_insert_with(DeploymentStrategy::default);
        fill(&mut strategy.type_, ROLLING);
        if text(&strategy.type_) == ROLLING {
            let rolling = strategy.rolling_update.get_or_insert_with(RollingUpdateDeployment::default);
            rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".into()));
            rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".into()));
        }
        let status = object.status.get_or_insert_with(DeploymentStatus::default);
        forget_zero(&mut status.observed_generation);
        let counts = [
            &mut status.replicas,
            &mut status.updated_replicas,
            &mut status.ready_replicas,
            &mut status.available_replicas,
            &mut status.unavailable_replicas,
        ];
        counts.into_iter().for_each(forget_zero);
    }

    fn create(_: &Context, object: &mut Deployment, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(DeploymentStatus::default());
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut Deployment, old: &Deployment, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            new.metadata.labels = old.metadata.labels.clone();
            check_status(new.status.as_ref(), old.status.as_ref(), causes);
            return;
        }
        // Annotations travel to the ReplicaSets, so a change of theirs is a change of what is wanted.
        if new.metadata.annotations != old.metadata.annotations {
            new.metadata.generation = old.metadata.generation.map(|generation| generation + 1);
        }
        let (new, old) = (new.spec.get_or_insert_default(), old.spec.clone().unwrap_or_default());
        check(new, causes);
        causes.immutable("spec.selector", &new.selector, &old.selector);
    }

    fn cells(object: &Deployment, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let status = object.status.clone().unwrap_or_default();
        let [containers, images] = container_cells(Some(&spec.template));
        vec![
            name_cell(object),
            format!("{}/{}", status.ready_replicas.unwrap_or(0), spec.replicas.unwrap_or(0)).into(),
            status.updated_replicas.unwrap_or(0).to_string().into(),
            status.available_replicas.unwrap_or(0).to_string().into(),
            age_cell(object, now),
            containers,
            images,
            format_selector(Some(&spec.selector)).into(),
        ]
    }
}

fn check(spec: &DeploymentSpec, causes: &mut Causes) {
    causes.non_negative("spec.replicas", spec.replicas);
    template::check_own_selector(&spec.selector, "empty selector is invalid for deployment", causes);
    template::check_selected(&spec.selector, &spec.template, causes);
    template::check(&spec.template, causes);
    template::check_endless(&spec.template, "ReplicaSet", causes);
    check_strategy(&spec.strategy.clone().unwrap_or_default(), causes);
    causes.non_negative("spec.minReadySeconds", spec.min_ready_seconds);
    causes.non_negative("spec.revisionHistoryLimit", spec.revision_history_limit);
    if let Some(deadline) = spec.progress_deadline_seconds {
        causes.non_negative("spec.progressDeadlineSeconds", Some(deadline));
        if deadline <= spec.min_ready_seconds.unwrap_or(0) {
            causes.invalid("spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds");
        }
    }
}

fn check_strategy(strategy: &DeploymentStrategy, causes: &mut Causes) {
    const AT: &str = "spec.strategy.rollingUpdate";
    match (text(&strategy.type_), &strategy.rolling_update) {
        (RECREATE, Some(_)) => causes.forbidden(AT, "may not be specified when strategy `type` is 'Recreate'"),
        (RECREATE, None) => {}
        (ROLLING, rolling) => {
            let rolling = rolling.clone().unwrap_or_default();
            let unavailable = rolling.max_unavailable.unwrap_or(IntOrString::Int(0));
            let surge = rolling.max_surge.unwrap_or(IntOrString::Int(0));
            check_amount(causes, &format!("{AT}.maxUnavailable"), &unavailable);
            check_amount(causes, &format!("{AT}.maxSurge"), &surge);
            if amount(&unavailable) == 0 && amount(&surge) == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                causes.invalid(format!("{AT}.maxUnavailable"), to_value(&unavailable), detail);
            }
            check_at_most_all(causes, &format!("{AT}.maxUnavailable"), &unavailable);
        }
        (other, _) => {
            let value = json!({"Type": other, "RollingUpdate": strategy.rolling_update});
            causes.unsupported("spec.strategy", value, &[RECREATE, ROLLING]);
        }
    }
}

fn check_status(new: Option<&DeploymentStatus>, old: Option<&DeploymentStatus>, causes: &mut Causes) {
    let new = new.cloned().unwrap_or_default();
    causes.non_negative("status.observedGeneration", new.observed_generation);
    let counts = [
        ("updatedReplicas", new.updated_replicas),
        ("readyReplicas", new.ready_replicas),
        ("availableReplicas", new.available_replicas),
    ];
    template::check_status_counts(new.replicas, &counts, causes);
    causes.non_negative("status.unavailableReplicas", new.unavailable_replicas);
    template::check_available(new.available_replicas, new.ready_replicas, causes);
    template::check_collisions(new.collision_count, old.and_then(|old| old.collision_count), causes);
}
