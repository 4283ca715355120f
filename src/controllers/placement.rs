//! Which node a Pod goes to: pure, from the Pod, the nodes and the Pods that are placed already.
//!
//! Filters (in kube-scheduler's order; the first that a node fails is the one that is reported): unschedulable nodes,
//! taints, node selector and required node affinity, host ports (PD6), resource requests and the number of Pods,
//! required affinity between Pods (DP4).
//! Of the nodes that are left the first by: preferred node affinity, fewest `PreferNoSchedule` taints, fewest Pods of
//! the same group (same controller, or same labels where there is none), fewest Pods, name.
//!
//! Not looked at: topology spread constraints and preferred affinity between Pods.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use kube::ResourceExt;
use rustc_hash::{FxHashMap, FxHashSet};

use super::endpoint_model::restartable;
use super::node_life_plan::ready_status;
use super::placement_affinity::{self as affinity, Conflict};
use super::placement_resources::Amounts;
use crate::cluster::ObjectKey;

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];
const NOT_READY_TAINT: &str = "node.kubernetes.io/not-ready";

/// A Pod that has a node, by binding or by a decision whose binding is under way.
pub(super) struct Placed {
    pub pod: Arc<Pod>,
    pub node: String,
    group: u64,
    requested: Amounts,
}

/// The Pods that take up room, with the sums that decisions need.
#[derive(Default)]
pub(super) struct Board {
    placed: FxHashMap<ObjectKey, Placed>,
    nodes: FxHashMap<String, NodeLoad>,
    /// Pods with required anti-affinity, which may object to a newcomer.
    objectors: FxHashSet<ObjectKey>,
}

#[derive(Default)]
struct NodeLoad {
    pods: usize,
    groups: FxHashMap<u64, usize>,
    ports: Vec<HostPort>,
    requested: Amounts,
}

/// PD6: protocol, host IP and number. An empty IP stands for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

impl HostPort {
    fn conflicts(&self, other: &Self) -> bool {
        let everywhere = |ip: &str| matches!(ip, "" | "0.0.0.0" | "::");
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || everywhere(&self.ip) || everywhere(&other.ip))
    }
}

/// What was counted on a node until now.
pub(super) struct Before {
    pub(super) pod: Arc<Pod>,
    /// The Pod needs another amount now.
    pub(super) resized: bool,
}

impl Board {
    /// The uid of the Pod that is placed under this key, if any.
    pub(super) fn uid_of(&self, key: &ObjectKey) -> Option<&str> {
        self.placed.get(key)?.pod.metadata.uid.as_deref()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values()
    }

    pub(super) fn objectors(&self) -> impl Iterator<Item = &Placed> {
        self.objectors.iter().filter_map(|key| self.placed.get(key))
    }

    /// Counts the Pod on `node`, and nowhere else. Of a Pod that is counted there already the newest state is kept, so
    /// that the board and the cache share it. Returns the state that was counted there until now.
    pub(super) fn place(&mut self, pod: Arc<Pod>, node: &str) -> Option<Before> {
        let key = ObjectKey::of(&*pod);
        let group = group_of(&pod);
        if let Some(placed) = self.placed.get_mut(&key)
            && (&*placed.node, placed.group, &placed.pod.metadata.uid) == (node, group, &pod.metadata.uid)
        {
            let requested = requested_by(&pod);
            let resized = requested != placed.requested;
            if resized && let Some(load) = self.nodes.get_mut(node) {
                load.requested.take_away(&placed.requested);
                load.requested.add(&requested);
                placed.requested = requested;
            }
            return Some(Before { pod: std::mem::replace(&mut placed.pod, pod), resized });
        }
        let before = self.take_off(&key);
        let before = before.filter(|before| before.node == node && before.pod.metadata.uid == pod.metadata.uid);
        let load = self.nodes.entry(node.to_owned()).or_default();
        load.pods += 1;
        *load.groups.entry(group).or_default() += 1;
        load.ports.extend(host_ports(&pod));
        let requested = requested_by(&pod);
        let resized = before.as_ref().is_some_and(|before| before.requested != requested);
        load.requested.add(&requested);
        if affinity::has_required_anti_affinity(&pod) {
            self.objectors.insert(key.clone());
        }
        self.placed.insert(key, Placed { pod, node: node.to_owned(), group, requested });
        before.map(|before| Before { pod: before.pod, resized })
    }

    /// Stops counting the Pod with that uid. True if it was counted.
    pub(super) fn remove(&mut self, key: &ObjectKey, uid: Option<&str>) -> bool {
        self.uid_of(key) == uid && self.take_off(key).is_some()
    }

    fn take_off(&mut self, key: &ObjectKey) -> Option<Placed> {
        let gone = self.placed.remove(key)?;
        self.objectors.remove(key);
        if let Some(load) = self.nodes.get_mut(&gone.node) {
            load.pods -= 1;
            if let Some(count) = load.groups.get_mut(&gone.group) {
                *count -= 1;
                if *count == 0 {
                    load.groups.remove(&gone.group);
                }
            }
            for port in host_ports(&gone.pod) {
                if let Some(at) = load.ports.iter().position(|taken| *taken == port) {
                    load.ports.swap_remove(at);
                }
            }
            load.requested.take_away(&gone.requested);
            if load.pods == 0 {
                self.nodes.remove(&gone.node);
            }
        }
        Some(gone)
    }

    /// The name of the node for `pod`, or why there is none, in kube-scheduler's words.
    pub(super) fn choose(
        &self,
        pod: &Pod,
        nodes: &[Arc<Node>],
        namespace_labels: impl Fn(&str) -> Option<BTreeMap<String, String>>,
    ) -> Result<String, String> {
        if nodes.is_empty() {
            return Err("no nodes available to schedule pods".to_owned());
        }
        let Some(spec) = &pod.spec else { return Err("the Pod has no spec".to_owned()) };
        let wanted = Wanted { ports: host_ports(pod), resources: Amounts::requested(spec) };
        let neighbours = affinity::Neighbours::of(pod, self, nodes, namespace_labels);
        let group = group_of(pod);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let mut best: Option<(_, &Arc<Node>)> = None;
        for node in nodes {
            if let Err(found) = self.admits(spec, node, &wanted, &neighbours) {
                found.into_iter().for_each(|reason| *reasons.entry(reason).or_default() += 1);
                continue;
            }
            let load = self.nodes.get(&node.name_any());
            let rank = (
                Reverse(preference(spec, node)),
                untolerated(spec, node, &["PreferNoSchedule"]).count(),
                load.and_then(|load| load.groups.get(&group)).copied().unwrap_or(0),
                load.map_or(0, |load| load.pods),
                node.name_any(),
            );
            if best.as_ref().is_none_or(|(best, _)| rank < *best) {
                best = Some((rank, node));
            }
        }
        match best {
            Some((_, node)) => Ok(node.name_any()),
            None => Err(refusal(nodes.len(), reasons)),
        }
    }

    fn admits(
        &self,
        spec: &PodSpec,
        node: &Node,
        wanted: &Wanted,
        neighbours: &affinity::Neighbours,
    ) -> Result<(), Vec<String>> {
        let refused = |reason: &str| Err(vec![reason.to_owned()]);
        let node_spec = node.spec.as_ref();
        if node_spec.and_then(|spec| spec.unschedulable) == Some(true)
            && !tolerates(spec, &no_schedule(UNSCHEDULABLE_TAINT))
        {
            return refused("node(s) were unschedulable");
        }
        if let Some(taint) = untolerated(spec, node, &["NoSchedule", "NoExecute"]).next() {
            return refused(&untolerated_message(taint));
        }
        if !is_ready(node) {
            let taint = no_schedule(NOT_READY_TAINT);
            if !tolerates(spec, &taint) {
                return refused(&untolerated_message(&taint));
            }
        }
        if !matches_node(spec, node) {
            return refused("node(s) didn't match Pod's node affinity/selector");
        }
        let load = self.nodes.get(&node.name_any());
        let taken = load.map(|load| load.ports.as_slice()).unwrap_or_default();
        if wanted.ports.iter().any(|port| taken.iter().any(|other| port.conflicts(other))) {
            return refused("node(s) didn't have free ports for the requested pod ports");
        }
        let pods = load.map_or(0, |load| load.pods);
        let lacking = wanted.resources.lacks(node, pods, load.map(|load| &load.requested));
        if !lacking.is_empty() {
            return Err(lacking);
        }
        match neighbours.conflict(node) {
            None => Ok(()),
            Some(Conflict::Affinity) => refused("node(s) didn't match pod affinity rules"),
            Some(Conflict::AntiAffinity) => refused("node(s) didn't match pod anti-affinity rules"),
            Some(Conflict::Objection) => refused("node(s) didn't satisfy existing pods anti-affinity rules"),
        }
    }
}

/// What a Pod takes up of its node.
struct Wanted {
    ports: Vec<HostPort>,
    resources: Amounts,
}

fn requested_by(pod: &Pod) -> Amounts {
    pod.spec.as_ref().map(Amounts::requested).unwrap_or_default()
}

/// "0/3 nodes are available: 1 node(s) ..., 2 node(s) ...."
fn refusal(nodes: usize, reasons: BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}

/// Pods of one group are spread over nodes: those of one controller, else those with the same labels. The labels that
/// binding copies from the node (PD8) would part what belongs together, so they do not count.
fn group_of(pod: &Pod) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = rustc_hash::FxHasher::default();
    pod.metadata.namespace.hash(&mut hasher);
    match pod.owner_references().iter().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid.hash(&mut hasher),
        None => {
            for label in pod.labels().iter().filter(|(name, _)| !TOPOLOGY_LABELS.contains(&name.as_str())) {
                label.hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| restartable(container));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                ip: port.host_ip.clone().unwrap_or_default(),
                port: port.host_port.filter(|port| *port > 0)?,
            })
        })
        .collect()
}

/// True if the node's kubelet says that it can take Pods.
pub(super) fn is_ready(node: &Node) -> bool {
    ready_status(node) == Some("True")
}

fn no_schedule(key: &str) -> Taint {
    Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}

fn untolerated_message(taint: &Taint) -> String {
    format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value.as_deref().unwrap_or_default())
}

pub(super) fn untolerated<'a>(
    spec: &'a PodSpec,
    node: &'a Node,
    effects: &'a [&str],
) -> impl Iterator<Item = &'a Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(move |taint| effects.contains(&&*taint.effect) && !tolerates(spec, taint))
}

fn tolerates(spec: &PodSpec, taint: &Taint) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| tolerates_taint(toleration, taint))
}

pub(super) fn tolerates_taint(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let same_value = || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default();
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match toleration.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => !key.is_empty() && same_value(),
            Some(_) => false,
        }
}

/// nodeSelector and required node affinity.
pub(super) fn matches_node(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.labels();
    let selected = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    selected && required.is_none_or(|selector| selector_matches(selector, node))
}

/// The sum of the weights of the preferred node affinity terms that the node meets.
fn preference(spec: &PodSpec, node: &Node) -> i32 {
    let preferred = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
    preferred.into_iter().flatten().filter(|term| term_matches(&term.preference, node)).map(|term| term.weight).sum()
}

fn selector_matches(selector: &NodeSelector, node: &Node) -> bool {
    selector.node_selector_terms.iter().any(|term| term_matches(term, node))
}

/// All requirements of a term hold; a term without any matches no node.
fn term_matches(term: &NodeSelectorTerm, node: &Node) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = node.name_any();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|rule| rule_matches(rule, node.labels().get(&rule.key).map(String::as_str)))
        && fields.iter().all(|rule| rule_matches(rule, (rule.key == "metadata.name").then_some(&*name)))
}

fn rule_matches(rule: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = rule.values.as_deref().unwrap_or_default();
    let listed = |value: &str| values.iter().any(|listed| listed == value);
    let compare = |holds: fn(i64, i64) -> bool| match (value.and_then(|v| v.parse().ok()), values) {
        (Some(actual), [bound]) => bound.parse().is_ok_and(|bound| holds(actual, bound)),
        _ => false,
    };
    match &*rule.operator {
        "In" => value.is_some_and(listed),
        "NotIn" => !value.is_some_and(listed),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(|actual, bound| actual > bound),
        "Lt" => compare(|actual, bound| actual < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
