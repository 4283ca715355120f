//! Required affinity and anti-affinity between Pods (DP4), both the newcomer's own and that of Pods already placed.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use rustc_hash::{FxHashMap, FxHashSet};

use super::placement::{Board, Placed};

/// Which rule keeps a Pod off a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conflict {
    /// A Pod that the newcomer must be near is not there.
    Affinity,
    /// A Pod that the newcomer must not be near is there.
    AntiAffinity,
    /// A Pod is there that must not be near the newcomer.
    Objection,
}

/// A topology key and a value of it: "kubernetes.io/hostname", "n1".
type Domain = (String, String);

/// What the placed Pods mean for one newcomer, worked out once for all nodes.
#[derive(Default)]
pub(super) struct Neighbours {
    /// For each required affinity term: its topology key and the domains where it is met; `None` where the newcomer
    /// is the first of its kind and may start anywhere that has the key.
    needed: Vec<(String, Option<FxHashSet<String>>)>,
    repelled: FxHashSet<Domain>,
    objected: FxHashSet<Domain>,
}

impl Neighbours {
    pub(super) fn of(
        pod: &Pod,
        board: &Board,
        nodes: &[Arc<Node>],
        namespace_labels: impl Fn(&str) -> Option<BTreeMap<String, String>>,
    ) -> Self {
        let near = affinity_terms(pod);
        let apart = anti_affinity_terms(pod);
        let mut objectors = board.objectors().peekable();
        if near.is_empty() && apart.is_empty() && objectors.peek().is_none() {
            return Self::default();
        }
        let nodes: FxHashMap<String, &Arc<Node>> = nodes.iter().map(|node| (node.name_any(), node)).collect();
        let domain = |placed: &Placed, key: &str| nodes.get(&placed.node)?.labels().get(key).cloned();
        let matching = |term: &PodAffinityTerm| -> Vec<&Placed> {
            board.pods().filter(|placed| term_selects(term, pod, &placed.pod, &namespace_labels)).collect()
        };

        let needed = near
            .iter()
            .map(|term| {
                let met_by = matching(term);
                let first = met_by.is_empty() && term_selects(term, pod, pod, &namespace_labels);
                let domains = met_by.iter().filter_map(|placed| domain(placed, &term.topology_key)).collect();
                (term.topology_key.clone(), (!first).then_some(domains))
            })
            .collect();
        let mut repelled = FxHashSet::default();
        for term in apart {
            let places = matching(term).into_iter().filter_map(|placed| domain(placed, &term.topology_key));
            repelled.extend(places.map(|value| (term.topology_key.clone(), value)));
        }
        let mut objected = FxHashSet::default();
        for placed in objectors {
            for term in anti_affinity_terms(&placed.pod) {
                if term_selects(term, &placed.pod, pod, &namespace_labels)
                    && let Some(value) = domain(placed, &term.topology_key)
                {
                    objected.insert((term.topology_key.clone(), value));
                }
            }
        }
        Self { needed, repelled, objected }
    }

    /// The rule that keeps the newcomer off `node`.
    pub(super) fn conflict(&self, node: &Node) -> Option<Conflict> {
        let within = |domains: &FxHashSet<Domain>| {
            domains.iter().any(|(key, value)| node.labels().get(key).is_some_and(|actual| actual == value))
        };
        let near = self.needed.iter().all(|(key, domains)| {
            let here = node.labels().get(key);
            here.is_some_and(|here| domains.as_ref().is_none_or(|domains| domains.contains(here)))
        });
        if !near {
            Some(Conflict::Affinity)
        } else if within(&self.repelled) {
            Some(Conflict::AntiAffinity)
        } else if within(&self.objected) {
            Some(Conflict::Objection)
        } else {
            None
        }
    }
}

/// Whether `waiting`, which fitted nowhere, may fit now that a Pod is placed, or that a placed one is not as `before`.
pub(super) fn may_help(
    waiting: &Pod,
    before: Option<&Pod>,
    placed: &Pod,
    namespace_labels: &impl Fn(&str) -> Option<BTreeMap<String, String>>,
) -> bool {
    let selects = |term: &PodAffinityTerm, object: &Pod| term_selects(term, waiting, object, namespace_labels);
    let selected_before = |term: &PodAffinityTerm| before.is_some_and(|before| selects(term, before));
    affinity_terms(waiting).iter().any(|term| selects(term, placed) && !selected_before(term))
        || anti_affinity_terms(waiting).iter().any(|term| selected_before(term) && !selects(term, placed))
}

pub(super) fn has_required_anti_affinity(pod: &Pod) -> bool {
    !anti_affinity_terms(pod).is_empty()
}

fn affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_affinity.as_ref());
    affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn anti_affinity_terms(pod: &Pod) -> &[PodAffinityTerm] {
    let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref()?.pod_anti_affinity.as_ref());
    affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// True if the term of `subject` speaks of `object`: by namespace (its own unless it names others) and by labels.
fn term_selects(
    term: &PodAffinityTerm,
    subject: &Pod,
    object: &Pod,
    namespace_labels: &impl Fn(&str) -> Option<BTreeMap<String, String>>,
) -> bool {
    let namespace = object.namespace().unwrap_or_default();
    let listed = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if listed.is_empty() => object.metadata.namespace == subject.metadata.namespace,
        None => listed.contains(&namespace),
        Some(selector) => {
            listed.contains(&namespace)
                || namespace_labels(&namespace).is_some_and(|labels| selector_matches(selector, &labels))
        }
    };
    in_namespace && term.label_selector.as_ref().is_some_and(|selector| selector_matches(selector, object.labels()))
}

/// A selector that cannot be read selects nothing.
fn selector_matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|selector| selector.matches(labels))
}
