//! PriorityClass (scheduling.k8s.io/v1), and the priority that a Pod gets from one.

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{forget_zero, text};
use super::{AGE, Column, Context, Info, NAME, Part, age_cell, column, integer, name_cell};
use crate::api::causes::Causes;
use crate::api::status::{About, ApiError};
use crate::store::{Key, Scope};

const RESOURCE: &str = "priorityclasses.scheduling.k8s.io";
const LOWER: &str = "PreemptLowerPriority";
/// The highest value that users may give.
const HIGHEST: i32 = 1_000_000_000;
const SYSTEM_PREFIX: &str = "system-";
/// Classes that are there without an object.
const SYSTEM: &[(&str, i32)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub struct Kind;

impl super::Kind for Kind {
    type Object = PriorityClass;
    const INFO: Info = Info {
        group: "scheduling.k8s.io",
        kind: "PriorityClass",
        plural: "priorityclasses",
        singular: "priorityclass",
        short_names: &["pc"],
        namespaced: false,
        columns: &[
            NAME,
            integer(
                "Value",
                "value represents the integer value of this priority class. This is the actual priority that pods receive when they have the name of this class in their pod spec.",
            ),
            Column {
                kind: "boolean",
                ..column(
                    "Global-Default",
                    "globalDefault specifies whether this PriorityClass should be considered as the default priority for pods that do not have any priority class. Only one PriorityClass can be marked as `globalDefault`. However, if more than one PriorityClasses exists with their `globalDefault` field set to true, the smallest value of such global default PriorityClasses will be used as the default priority.",
                )
            },
            AGE,
            column(
                "PreemptionPolicy",
                "preemptionPolicy is the Policy for preempting pods with lower priority. One of Never, PreemptLowerPriority. Defaults to PreemptLowerPriority if unset.",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut PriorityClass) {
        object.preemption_policy.get_or_insert_with(|| LOWER.into());
        object.value.get_or_insert(0);
        forget_zero(&mut object.global_default);
    }

    fn create(ctx: &Context, object: &mut PriorityClass, causes: &mut Causes) -> Result<(), ApiError> {
        object.metadata.generation = Some(1);
        let name = object.metadata.name.clone().unwrap_or_default();
        let value = object.value.unwrap_or(0);
        if name.starts_with(SYSTEM_PREFIX) {
            let detail = format!(
                "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {name} is not a known system priority class"
            );
            causes.forbidden("metadata.name", detail);
        } else if value > HIGHEST {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST}");
            causes.forbidden("value", detail);
        }
        let policies = &["Never", LOWER];
        causes.one_of("preemptionPolicy", object.preemption_policy.as_ref(), policies);
        if object.global_default == Some(true)
            && let Some(other) = classes(ctx)?.into_iter().find(|class| class.global_default == Some(true))
        {
            let about = About { group: "scheduling.k8s.io", resource: "priorityclasses", name: &name };
            let other = other.metadata.name.unwrap_or_default();
            let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
            return Err(ApiError::forbidden(about, why));
        }
        Ok(())
    }

    fn update(_: &Context, new: &mut PriorityClass, old: &PriorityClass, _: Part, causes: &mut Causes) {
        if new.value != old.value {
            causes.forbidden("value", "may not be changed in an update.");
        }
        causes.immutable("preemptionPolicy", &new.preemption_policy, &old.preemption_policy);
    }

    fn cells(object: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            name_cell(object),
            object.value.unwrap_or(0).into(),
            object.global_default.unwrap_or(false).into(),
            age_cell(object, now),
            text(&object.preemption_policy).into(),
        ]
    }
}

fn classes(ctx: &Context) -> Result<Vec<PriorityClass>, ApiError> {
    let entries = ctx.store.list(&Scope::all(RESOURCE)).items;
    entries.iter().map(|entry| serde_json::from_slice(&entry.value).map_err(ApiError::internal)).collect()
}

/// A Pod's class decides its priority; without one the default class does, the one with the smallest value.
pub(super) fn admit(ctx: &Context, pod: &str, spec: &mut PodSpec) -> Result<(), ApiError> {
    let about = About { group: "", resource: "pods", name: pod };
    let name = text(&spec.priority_class_name).to_owned();
    let class = if name.is_empty() {
        classes(ctx)?.into_iter().filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
    } else if let Some((name, value)) = SYSTEM.iter().find(|(system, _)| *system == name) {
        let mut class = PriorityClass { value: Some(*value), ..PriorityClass::default() };
        class.metadata.name = Some((*name).into());
        Some(class)
    } else {
        let Some(entry) = ctx.store.get(&Key::new(RESOURCE, "", name.as_str())) else {
            let why = format!("no PriorityClass with name {name} was found");
            return Err(ApiError::forbidden(about, why));
        };
        Some(serde_json::from_slice(&entry.value).map_err(ApiError::internal)?)
    };
    let (value, policy) = match class {
        Some(class) => {
            spec.priority_class_name = class.metadata.name;
            (class.value.unwrap_or(0), class.preemption_policy.unwrap_or_else(|| LOWER.into()))
        }
        None => (0, LOWER.into()),
    };
    if let Some(given) = spec.priority.filter(|given| *given != value) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(about, why));
    }
    spec.priority = Some(value);
    spec.preemption_policy.get_or_insert(policy);
    Ok(())
}
