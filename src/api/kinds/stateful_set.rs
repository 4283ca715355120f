//! StatefulSet (apps/v1).

use k8s_openapi::api::apps::v1::{
    RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetStatus, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::{amount, check_amount, check_at_most_all, fill, forget_zero, text, to_value};
use super::template::{self, CONTAINERS, IMAGES, container_cells};
use super::{AGE, Context, Info, NAME, Part, ScalePaths, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::NameRule;
use crate::api::status::ApiError;

const ROLLING: &str = "RollingUpdate";
const ON_DELETE: &str = "OnDelete";
const FIXED: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                     'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                     'minReadySeconds' are forbidden";

pub struct Kind;

impl super::Kind for Kind {
    type Object = StatefulSet;
    const INFO: Info = Info {
        group: "apps",
        kind: "StatefulSet",
        plural: "statefulsets",
        singular: "statefulset",
        short_names: &["sts"],
        categories: &["all"],
        status: true,
        scale: Some(ScalePaths::WORKLOAD),
        generation: true,
        // Its Pods carry the name and a number in a label.
        name_rule: NameRule::Label,
        condition_times: &["lastTransitionTime"],
        columns: &[NAME, column("Ready", "Number of the pod with ready state"), AGE, CONTAINERS, IMAGES],
        ..Info::DEFAULT
    };

    fn default(object: &mut StatefulSet) {
        let spec = object.spec.get_or_insert_default();
        template::default(&mut spec.template);
        fill(&mut spec.pod_management_policy, "OrderedReady");
        let strategy = spec.update_strategy.get_or_insert_with(StatefulSetUpdateStrategy::default);
        if text(&strategy.type_).is_empty() {
            strategy.type_ = Some(ROLLING.into());
            strategy.rolling_update.get_or_insert_with(RollingUpdateStatefulSetStrategy::default);
        }
        if let Some(rolling) = strategy.rolling_update.as_mut().filter(|_| text(&strategy.type_) == ROLLING) {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec
            .persistent_volume_claim_retention_policy
            .get_or_insert_with(StatefulSetPersistentVolumeClaimRetentionPolicy::default);
        fill(&mut retention.when_deleted, "Retain");
        fill(&mut retention.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        forget_zero(&mut spec.min_ready_seconds);
        spec.volume_claim_templates.iter_mut().flatten().for_each(default_claim);
        let status = object.status.get_or_insert_with(StatefulSetStatus::default);
        forget_zero(&mut status.observed_generation);
        let counts = [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas];
        counts.into_iter().for_each(forget_zero);
        // Not left out by the reference, also when zero.
        status.available_replicas.get_or_insert(0);
    }

    fn create(_: &Context, object: &mut StatefulSet, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(StatefulSetStatus { available_replicas: Some(0), ..StatefulSetStatus::default() });
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut StatefulSet, old: &StatefulSet, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            check_status(new.status.as_ref(), old.status.as_ref(), causes);
            return;
        }
        let (new, old) = (new.spec.get_or_insert_default(), old.spec.clone().unwrap_or_default());
        check(new, causes);
        let rest = StatefulSetSpec {
            replicas: old.replicas,
            ordinals: old.ordinals.clone(),
            template: old.template.clone(),
            update_strategy: old.update_strategy.clone(),
            revision_history_limit: old.revision_history_limit,
            persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
            min_ready_seconds: old.min_ready_seconds,
            ..new.clone()
        };
        if rest != old {
            causes.forbidden("spec", FIXED);
        }
    }

    fn cells(object: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let ready = object.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
        let [containers, images] = container_cells(Some(&spec.template));
        vec![
            name_cell(object),
            format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
            age_cell(object, now),
            containers,
            images,
        ]
    }
}

fn default_claim(claim: &mut PersistentVolumeClaim) {
    let spec = claim.spec.get_or_insert_default();
    spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    let status = claim.status.get_or_insert_with(PersistentVolumeClaimStatus::default);
    fill(&mut status.phase, "Pending");
}

fn check(spec: &StatefulSetSpec, causes: &mut Causes) {
    match text(&spec.pod_management_policy) {
        "OrderedReady" | "Parallel" => {}
        other => causes.invalid("spec.podManagementPolicy", other, "must be 'OrderedReady' or 'Parallel'"),
    }
    check_strategy(&spec.update_strategy.clone().unwrap_or_default(), causes);
    let retention = spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    for (field, policy) in [("whenDeleted", &retention.when_deleted), ("whenScaled", &retention.when_scaled)] {
        let field = format!("spec.persistentVolumeClaimRetentionPolicy.{field}");
        causes.one_of(&field, policy.as_ref(), &["Retain", "Delete"]);
    }
    causes.non_negative("spec.replicas", spec.replicas);
    causes.non_negative("spec.minReadySeconds", spec.min_ready_seconds);
    causes.non_negative("spec.ordinals.start", spec.ordinals.as_ref().and_then(|ordinals| ordinals.start));
    causes.non_negative("spec.revisionHistoryLimit", spec.revision_history_limit);
    template::check_own_selector(&spec.selector, "empty selector is invalid for statefulset", causes);
    template::check_selected(&spec.selector, &spec.template, causes);
    // The template may mount claims that are not volumes of it, so the reference leaves its Pods to be checked.
    template::check_metadata(&spec.template, causes);
    template::check_endless(&spec.template, "StatefulSet", causes);
}

fn check_strategy(strategy: &StatefulSetUpdateStrategy, causes: &mut Causes) {
    const AT: &str = "spec.updateStrategy.rollingUpdate";
    match (text(&strategy.type_), &strategy.rolling_update) {
        (ON_DELETE, Some(rolling)) => {
            causes.invalid(AT, to_value(rolling), "only allowed for updateStrategy 'RollingUpdate'");
        }
        (ON_DELETE, None) | (ROLLING, None) => {}
        (ROLLING, Some(rolling)) => {
            causes.non_negative(format!("{AT}.partition"), rolling.partition);
            if let Some(unavailable) = &rolling.max_unavailable {
                let field = format!("{AT}.maxUnavailable");
                check_amount(causes, &field, unavailable);
                if amount(unavailable) == 0 {
                    causes.invalid(&field, to_value(unavailable), "cannot be 0");
                }
                check_at_most_all(causes, &field, unavailable);
            }
        }
        (other, rolling) => {
            let value = json!({"Type": other, "RollingUpdate": rolling});
            causes.invalid("spec.updateStrategy", value, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn check_status(new: Option<&StatefulSetStatus>, old: Option<&StatefulSetStatus>, causes: &mut Causes) {
    let new = new.cloned().unwrap_or_default();
    causes.non_negative("status.observedGeneration", new.observed_generation);
    let counts = [
        ("readyReplicas", new.ready_replicas),
        ("currentReplicas", new.current_replicas),
        ("updatedReplicas", new.updated_replicas),
        ("availableReplicas", new.available_replicas),
    ];
    template::check_status_counts(Some(new.replicas), &counts, causes);
    if new.available_replicas.unwrap_or(0) > new.ready_replicas.unwrap_or(0) {
        let detail = "cannot be greater than status.readyReplicas";
        causes.invalid("status.availableReplicas", new.available_replicas.unwrap_or(0), detail);
    }
    template::check_collisions(new.collision_count, old.and_then(|old| old.collision_count), causes);
}
