//! What may change about a Pod that exists (PD5), and what `pods/resize` may.

use k8s_openapi::api::core::v1::{Container, NodeSelectorTerm, PodSpec, Toleration};

use super::super::checks::text;
use crate::api::causes::Causes;

const UPDATABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
const ONLY_RESIZE: &str = "only cpu and memory resources are mutable";

/// Rule PD5. `new` has passed the rules for any specification.
pub(in super::super) fn check_update(new: &PodSpec, old: &PodSpec, causes: &mut Causes) {
    let lists = [
        ("spec.containers", new.containers.as_slice(), old.containers.as_slice()),
        (
            "spec.initContainers",
            new.init_containers.as_deref().unwrap_or_default(),
            old.init_containers.as_deref().unwrap_or_default(),
        ),
    ];
    for (field, new, old) in lists {
        if new.len() != old.len() {
            causes.forbidden(field, "pod updates may not add or remove containers");
            return;
        }
        for (i, container) in new.iter().enumerate() {
            let image = text(&container.image);
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                causes.invalid(format!("{field}[{i}].image"), image, detail);
            }
        }
    }
    if !check_deadline(new, old, causes) {
        return;
    }
    check_added_tolerations(new, old, causes);
    for (i, gate) in new.scheduling_gates.iter().flatten().enumerate() {
        if !old.scheduling_gates.iter().flatten().any(|was| was.name == gate.name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
            causes.forbidden(format!("spec.schedulingGates[{i}].name"), detail);
        }
    }
    let mut rest = new.clone();
    keep_updatable(&mut rest, old);
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        check_gated(&mut rest, old, causes);
    }
    if rest != *old {
        causes.forbidden("spec", format!("{UPDATABLE}\n{}", super::diff::unified(old, &rest)));
    }
}

/// A deadline may be set once and then only come nearer. Returns whether checking goes on.
fn check_deadline(new: &PodSpec, old: &PodSpec, causes: &mut Causes) -> bool {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            causes.invalid(FIELD, now, format!("must be between 0 and {}, inclusive", i32::MAX));
            false
        }
        (Some(now), Some(was)) if was < now => {
            causes.invalid(FIELD, now, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            causes.invalid(FIELD, (), "must not update from a positive integer to nil value");
            true
        }
        _ => true,
    }
}

fn check_added_tolerations(new: &PodSpec, old: &PodSpec, causes: &mut Causes) {
    let timeless = |toleration: &Toleration| Toleration { toleration_seconds: None, ..toleration.clone() };
    let kept = |was: &Toleration| new.tolerations.iter().flatten().any(|now| timeless(now) == timeless(was));
    if !old.tolerations.iter().flatten().all(kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        causes.forbidden("spec.tolerations", detail);
    }
}

/// Makes equal what may change or has been checked already.
fn keep_updatable(rest: &mut PodSpec, old: &PodSpec) {
    let images = |to: &mut [Container], from: &[Container]| {
        for (to, from) in to.iter_mut().zip(from) {
            to.image = from.image.clone();
        }
    };
    images(&mut rest.containers, &old.containers);
    images(rest.init_containers.as_deref_mut().unwrap_or_default(), old.init_containers.as_deref().unwrap_or_default());
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.scheduling_gates = old.scheduling_gates.clone();
    rest.tolerations = old.tolerations.clone();
    let negative = old.termination_grace_period_seconds.is_some_and(|grace| grace < 0);
    if negative && rest.termination_grace_period_seconds == Some(1) {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
}

/// A Pod that waits at a gate may be narrowed to fewer nodes.
fn check_gated(rest: &mut PodSpec, old: &PodSpec, causes: &mut Causes) {
    if rest.node_selector != old.node_selector {
        let labels = rest.node_selector.clone().unwrap_or_default();
        if old.node_selector.iter().flatten().any(|(key, value)| labels.get(key) != Some(value)) {
            let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
            causes.invalid("spec.nodeSelector", super::super::checks::to_value(&labels), detail);
        }
        rest.node_selector = old.node_selector.clone();
    }
    let node_affinity = |spec: &PodSpec| spec.affinity.clone().and_then(|affinity| affinity.node_affinity);
    let (now, was) = (node_affinity(rest), node_affinity(old));
    if now == was {
        return;
    }
    let required = |affinity: &Option<k8s_openapi::api::core::v1::NodeAffinity>| {
        affinity.clone().and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution)
    };
    if let Some(was) = required(&was) {
        let at = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution";
        let now = required(&now).unwrap_or_default().node_selector_terms;
        if now.len() != was.node_selector_terms.len() {
            let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
            let value = super::super::checks::to_value(&now);
            causes.invalid(format!("{at}.nodeSelectorTerms"), value, detail);
        } else {
            for (i, (now, was)) in now.iter().zip(&was.node_selector_terms).enumerate() {
                if !is_narrowed(now, was) {
                    let detail = "only additions are allowed (no mutations or deletions)";
                    let value = super::super::checks::to_value(now);
                    causes.invalid(format!("{at}.nodeSelectorTerms[{i}]"), value, detail);
                }
            }
        }
    }
    match (&mut rest.affinity, &old.affinity) {
        (Some(affinity), None) if affinity.pod_affinity.is_none() && affinity.pod_anti_affinity.is_none() => {
            rest.affinity = None;
        }
        (None, _) => rest.affinity = old.affinity.clone(),
        (Some(affinity), _) => affinity.node_affinity = was,
    }
}

fn is_narrowed(now: &NodeSelectorTerm, was: &NodeSelectorTerm) -> bool {
    let empty = was.match_expressions.iter().flatten().count() + was.match_fields.iter().flatten().count() == 0;
    let starts = |now: &Option<Vec<_>>, was: &Option<Vec<_>>| {
        now.as_deref().unwrap_or_default().starts_with(was.as_deref().unwrap_or_default())
    };
    !empty && starts(&now.match_expressions, &was.match_expressions) && starts(&now.match_fields, &was.match_fields)
}

/// What a write to `pods/resize` may change: requests and limits of cpu and memory.
pub(in super::super) fn check_resize(new: &PodSpec, old: &PodSpec, causes: &mut Causes) {
    let mut rest = new.clone();
    for (i, (container, was)) in rest.containers.iter_mut().zip(&old.containers).enumerate() {
        let at = format!("spec.containers[{i}].resources");
        let (now, before) =
            (container.resources.clone().unwrap_or_default(), was.resources.clone().unwrap_or_default());
        let kinds = [("requests", &now.requests, &before.requests), ("limits", &now.limits, &before.limits)];
        for (field, now, before) in kinds {
            let kept = before.iter().flatten().all(|(name, _)| now.as_ref().is_some_and(|now| now.contains_key(name)));
            if !kept {
                causes.forbidden(format!("{at}.{field}"), format!("resource {field} cannot be removed"));
            }
        }
        let mut fixed = now;
        for (amounts, before) in [(&mut fixed.requests, &before.requests), (&mut fixed.limits, &before.limits)] {
            let mut kept = amounts.take().unwrap_or_default();
            kept.retain(|name, _| name != "cpu" && name != "memory");
            let same = before.iter().flatten().filter(|(name, _)| *name == "cpu" || *name == "memory");
            kept.extend(same.map(|(name, amount)| (name.clone(), amount.clone())));
            *amounts = (before.is_some() || !kept.is_empty()).then_some(kept);
        }
        container.resources = Some(fixed);
    }
    if rest != *old {
        causes.forbidden("spec", ONLY_RESIZE);
    }
}
