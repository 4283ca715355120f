//! Where a Pod may and would like to run: affinity, spreading, tolerations, gates.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    Affinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, PodSpec, Toleration, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::super::checks::{NOT_POSITIVE, check_label_key, check_operator, check_selector, text};
use crate::api::causes::Causes;
use crate::api::names::{label_errors, label_value_errors, qualified_name_errors, subdomain_errors};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";
const NEEDS_SELECTOR: &str = "must not be specified when labelSelector is not set";
const IN_BOTH: &str = "exists in both matchLabelKeys and labelSelector";

pub(super) fn check_affinity(affinity: Option<&Affinity>, at: &str, causes: &mut Causes) {
    let Some(affinity) = affinity else { return };
    if let Some(node) = &affinity.node_affinity {
        let at = format!("{at}.nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            let at = format!("{at}.{REQUIRED}.nodeSelectorTerms");
            if selector.node_selector_terms.is_empty() {
                causes.required(&at, "must have at least one node selector term");
            }
            for (i, term) in selector.node_selector_terms.iter().enumerate() {
                check_node_term(term, true, &format!("{at}[{i}]"), causes);
            }
        }
        for (i, term) in node.preferred_during_scheduling_ignored_during_execution.iter().flatten().enumerate() {
            let at = format!("{at}.{PREFERRED}[{i}]");
            check_weight(term.weight, &at, causes);
            check_node_term(&term.preference, false, &format!("{at}.preference"), causes);
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        check_pod_terms(required, preferred, &format!("{at}.podAffinity"), causes);
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        let required = pod.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = pod.preferred_during_scheduling_ignored_during_execution.as_deref();
        check_pod_terms(required, preferred, &format!("{at}.podAntiAffinity"), causes);
    }
}

fn check_weight(weight: i32, at: &str, causes: &mut Causes) {
    if !(1..=100).contains(&weight) {
        causes.invalid(format!("{at}.weight"), weight, WEIGHT);
    }
}

fn check_node_term(term: &NodeSelectorTerm, required: bool, at: &str, causes: &mut Causes) {
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let at = format!("{at}.matchExpressions[{i}]");
        let values = requirement.values.as_deref().unwrap_or_default();
        if matches!(requirement.operator.as_str(), "Gt" | "Lt") {
            if values.len() != 1 {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                causes.required(format!("{at}.values"), detail);
            }
        } else {
            check_operator(causes, &at, &requirement.operator, values);
        }
        check_label_key(causes, &format!("{at}.key"), &requirement.key);
        for (j, value) in values.iter().enumerate().filter(|_| required) {
            causes.all(&format!("{at}.values[{j}]"), value, label_value_errors(value));
        }
    }
    for (i, requirement) in term.match_fields.iter().flatten().enumerate() {
        check_node_field(requirement, &format!("{at}.matchFields[{i}]"), causes);
    }
}

fn check_node_field(requirement: &NodeSelectorRequirement, at: &str, causes: &mut Causes) {
    let values = requirement.values.as_deref().unwrap_or_default();
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.len() != 1 => {
            let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.required(format!("{at}.values"), detail);
        }
        "In" | "NotIn" => {}
        other => causes.invalid(format!("{at}.operator"), other, "not a valid selector operator"),
    }
    if requirement.key == "metadata.name" {
        for (i, value) in values.iter().enumerate() {
            causes.all(&format!("{at}.values[{i}]"), value, subdomain_errors(value));
        }
    } else {
        causes.invalid(format!("{at}.key"), requirement.key.as_str(), "not a valid field selector key");
    }
}

fn check_pod_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    at: &str,
    causes: &mut Causes,
) {
    for (i, term) in required.unwrap_or_default().iter().enumerate() {
        check_pod_term(term, &format!("{at}.{REQUIRED}[{i}]"), causes);
    }
    for (i, term) in preferred.unwrap_or_default().iter().enumerate() {
        let at = format!("{at}.{PREFERRED}[{i}]");
        check_weight(term.weight, &at, causes);
        check_pod_term(&term.pod_affinity_term, &format!("{at}.podAffinityTerm"), causes);
    }
}

fn check_pod_term(term: &PodAffinityTerm, at: &str, causes: &mut Causes) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            check_selector(causes, &format!("{at}.{field}"), selector);
        }
    }
    for name in term.namespaces.iter().flatten() {
        causes.all(&format!("{at}.namespace"), name, label_errors(name));
    }
    let (same, other) = (term.match_label_keys.as_deref(), term.mismatch_label_keys.as_deref());
    check_label_keys(same.unwrap_or_default(), other.unwrap_or_default(), term.label_selector.as_ref(), at, causes);
    if term.topology_key.is_empty() {
        causes.required(format!("{at}.topologyKey"), "can not be empty");
    }
    check_label_key(causes, &format!("{at}.topologyKey"), &term.topology_key);
}

pub(super) fn check_gates(spec: &PodSpec, at: &str, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (i, gate) in spec.scheduling_gates.iter().flatten().enumerate() {
        let field = format!("{at}.schedulingGates[{i}]");
        causes.all(&field, &gate.name, qualified_name_errors(&gate.name));
        if !names.insert(gate.name.as_str()) {
            causes.duplicate(field, gate.name.as_str());
        }
    }
}

/// Checks the keys whose values are a Pod's own. In a Pod they are part of the selector already ([`add_own_labels`]), so
/// that a key is in both only when the selector has it twice.
fn check_label_keys(
    same: &[String],
    other: &[String],
    selector: Option<&LabelSelector>,
    at: &str,
    causes: &mut Causes,
) {
    for (field, keys) in [("matchLabelKeys", same), ("mismatchLabelKeys", other)] {
        let field = format!("{at}.{field}");
        if !keys.is_empty() && selector.is_none() {
            causes.forbidden(field, NEEDS_SELECTOR);
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            check_label_key(causes, &format!("{field}[{i}]"), key);
        }
    }
    if let Some(selector) = selector {
        let place = |key: &str| same.iter().position(|own| own == key).or(other.iter().position(|own| own == key));
        let mut seen: HashSet<&str> = selector.match_labels.iter().flatten().map(|(key, _)| key.as_str()).collect();
        for expression in selector.match_expressions.iter().flatten() {
            let key = expression.key.as_str();
            if !seen.insert(key)
                && let Some(i) = place(key)
            {
                causes.invalid(format!("{at}[{i}]"), key, IN_BOTH);
            }
        }
    }
    for (i, key) in same.iter().enumerate().filter(|(_, key)| other.contains(key)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        causes.invalid(format!("{at}.matchLabelKeys[{i}]"), key.as_str(), detail);
    }
}

/// Writes what `matchLabelKeys` and `mismatchLabelKeys` mean for a Pod with these labels into the selectors beside them.
pub(in super::super) fn add_own_labels(spec: &mut PodSpec, labels: &BTreeMap<String, String>) {
    let add = |selector: &mut Option<LabelSelector>, keys: &Option<Vec<String>>, operator: &str| {
        // Without a selector nothing is selected, whatever the keys.
        let Some(selector) = selector else { return };
        for (key, value) in keys.iter().flatten().filter_map(|key| labels.get_key_value(key)) {
            selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    };
    let add_to_term = |term: &mut PodAffinityTerm| {
        add(&mut term.label_selector, &term.match_label_keys, "In");
        add(&mut term.label_selector, &term.mismatch_label_keys, "NotIn");
    };
    if let Some(affinity) = &mut spec.affinity {
        let near = affinity.pod_affinity.as_mut().map(|affinity| {
            (
                &mut affinity.required_during_scheduling_ignored_during_execution,
                &mut affinity.preferred_during_scheduling_ignored_during_execution,
            )
        });
        let apart = affinity.pod_anti_affinity.as_mut().map(|affinity| {
            (
                &mut affinity.required_during_scheduling_ignored_during_execution,
                &mut affinity.preferred_during_scheduling_ignored_during_execution,
            )
        });
        for (required, preferred) in near.into_iter().chain(apart) {
            required.iter_mut().flatten().for_each(add_to_term);
            preferred.iter_mut().flatten().for_each(|term| add_to_term(&mut term.pod_affinity_term));
        }
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        add(&mut constraint.label_selector, &constraint.match_label_keys, "In");
    }
}

pub(super) fn check_spread(spec: &PodSpec, at: &str, causes: &mut Causes) {
    let constraints = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    for (i, constraint) in constraints.iter().enumerate() {
        let at = format!("{at}.topologySpreadConstraints[{i}]");
        if constraint.max_skew <= 0 {
            causes.invalid(format!("{at}.maxSkew"), constraint.max_skew, NOT_POSITIVE);
        }
        if constraint.topology_key.is_empty() {
            causes.required(format!("{at}.topologyKey"), "can not be empty");
        }
        let action = &constraint.when_unsatisfiable;
        causes.one_of(&format!("{at}.whenUnsatisfiable"), Some(action), &["DoNotSchedule", "ScheduleAnyway"]);
        let same = |other: &&k8s_openapi::api::core::v1::TopologySpreadConstraint| {
            other.topology_key == constraint.topology_key && other.when_unsatisfiable == *action
        };
        if constraints[i + 1..].iter().any(|other| same(&other)) {
            let pair = format!("{{{}, {action}}}", constraint.topology_key);
            causes.duplicate(format!("{at}.{{topologyKey, whenUnsatisfiable}}"), pair);
        }
        if let Some(domains) = constraint.min_domains {
            let field = format!("{at}.minDomains");
            if domains <= 0 {
                causes.invalid(&field, domains, NOT_POSITIVE);
            }
            if action != "DoNotSchedule" {
                let detail = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                causes.invalid(field, domains, detail);
            }
        }
        let policies = &["Honor", "Ignore"];
        causes.one_of(&format!("{at}.nodeAffinityPolicy"), constraint.node_affinity_policy.as_ref(), policies);
        causes.one_of(&format!("{at}.nodeTaintsPolicy"), constraint.node_taints_policy.as_ref(), policies);
        let keys = constraint.match_label_keys.as_deref().unwrap_or_default();
        check_label_keys(keys, &[], constraint.label_selector.as_ref(), &at, causes);
        if let Some(selector) = &constraint.label_selector {
            check_selector(causes, &format!("{at}.labelSelector"), selector);
        }
    }
}

pub(in super::super) fn check_tolerations(tolerations: &[Toleration], at: &str, causes: &mut Causes) {
    for (i, toleration) in tolerations.iter().enumerate() {
        let at = format!("{at}[{i}]");
        let (key, operator) = (text(&toleration.key), text(&toleration.operator));
        let (value, effect) = (text(&toleration.value), text(&toleration.effect));
        if !key.is_empty() {
            check_label_key(causes, &format!("{at}.key"), key);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            causes.invalid(format!("{at}.operator"), operator, detail);
        }
        if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            causes.invalid(format!("{at}.effect"), effect, detail);
        }
        match operator {
            "" | "Equal" => {
                let errors = label_value_errors(value);
                if !errors.is_empty() {
                    causes.invalid(format!("{at}.operator"), value, errors.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                causes.invalid(format!("{at}.operator"), value, detail);
            }
            "Exists" => {}
            other => causes.unsupported(format!("{at}.operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            let effects = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
            causes.one_of(&format!("{at}.effect"), toleration.effect.as_ref(), effects);
        }
    }
}
