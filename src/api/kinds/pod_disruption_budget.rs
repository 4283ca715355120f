//! PodDisruptionBudget (policy/v1). Its status is the disruption controller's; evictions spend it.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::checks::{check_amount, check_at_most_all, check_selector, format_amount};
use super::{
    AGE, BUDGETS, BUDGETS_GROUP, Context, Info, NAME, Part, STANDARD_TEXTS, age_cell, column, integer, name_cell,
};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = PodDisruptionBudget;
    const INFO: Info = Info {
        group: BUDGETS_GROUP,
        kind: "PodDisruptionBudget",
        plural: BUDGETS,
        singular: "poddisruptionbudget",
        short_names: &["pdb"],
        status: true,
        condition_texts: STANDARD_TEXTS,
        generation: true,
        columns: &[
            NAME,
            column("Min Available", "The minimum number of pods that must be available."),
            column("Max Unavailable", "The maximum number of pods that may be unavailable."),
            integer("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
            AGE,
        ],
        conditional_update: true,
        ..Info::DEFAULT
    };

    fn default(object: &mut PodDisruptionBudget) {
        let status = object.status.get_or_insert_with(PodDisruptionBudgetStatus::default);
        let counts = [
            &mut status.current_healthy,
            &mut status.desired_healthy,
            &mut status.disruptions_allowed,
            &mut status.expected_pods,
        ];
        // Not left out by the reference, also when zero.
        counts.into_iter().for_each(|count| {
            count.get_or_insert(0);
        });
    }

    fn create(_: &Context, object: &mut PodDisruptionBudget, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = None;
        Self::default(object);
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut PodDisruptionBudget, _: &PodDisruptionBudget, part: Part, causes: &mut Causes) {
        if part != Part::Status {
            check(new.spec.get_or_insert_default(), causes);
            return;
        }
        let status = new.status.clone().unwrap_or_default();
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        for (field, count) in counts {
            causes.non_negative(format!("status.{field}"), count);
        }
    }

    fn cells(object: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let allowed = object.status.as_ref().and_then(|status| status.disruptions_allowed);
        vec![
            name_cell(object),
            format_amount(spec.min_available.as_ref()).into(),
            format_amount(spec.max_unavailable.as_ref()).into(),
            allowed.unwrap_or(0).into(),
            age_cell(object, now),
        ]
    }
}

fn check(spec: &PodDisruptionBudgetSpec, causes: &mut Causes) {
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let value = json!({"MinAvailable": spec.min_available, "Selector": spec.selector,
            "MaxUnavailable": spec.max_unavailable, "UnhealthyPodEvictionPolicy": spec.unhealthy_pod_eviction_policy});
        causes.invalid("spec", value, "minAvailable and maxUnavailable cannot be both set");
    }
    for (field, amount) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(amount) = amount {
            check_amount(causes, &format!("spec.{field}"), amount);
            check_at_most_all(causes, &format!("spec.{field}"), amount);
        }
    }
    let policies = &["IfHealthyBudget", "AlwaysAllow"];
    causes.one_of("spec.unhealthyPodEvictionPolicy", spec.unhealthy_pod_eviction_policy.as_ref(), policies);
    if let Some(selector) = &spec.selector {
        check_selector(causes, "spec.selector", selector);
    }
}
