//! Which nodes get a Pod of a DaemonSet and which Pods go: pure (`k8s.io/kubernetes/pkg/controller/daemon`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec, Toleration,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::pods::{is_available, is_ready, next_available, node_name, phase};
use super::revisions::REVISION_LABEL;
use super::{counted, positive};
use crate::api::kinds::scaled_up;
use crate::controllers::endpoint_model::terminating;
use crate::controllers::placement::{matches_node, untolerated};

/// The annotation and the label of old that number the templates.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";

/// What keeps other Pods off a node does not keep a daemon off it.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// A DaemonSet as its Pods see it.
pub(super) struct Daemon {
    pub(super) template: PodTemplateSpec,
    hash: String,
    generation: Option<String>,
    min_ready_seconds: i32,
    surge: Option<IntOrString>,
    unavailable: Option<IntOrString>,
    on_delete: bool,
}

/// What a turn does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Names of nodes.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended, each to be replaced: they are told of, and those that failed not at once.
    pub(super) ended: Vec<Arc<Pod>>,
}

/// A Pod of the new template and one of an old.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

pub(super) type ByNode = BTreeMap<String, Vec<Arc<Pod>>>;

impl Daemon {
    /// `hash` is that of the present template's revision.
    pub(super) fn of(set: &DaemonSet, hash: String) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let generation = set.annotations().get(TEMPLATE_GENERATION).cloned();
        let strategy = spec.update_strategy.unwrap_or_default();
        let mut template = spec.template;
        tolerate(template.spec.get_or_insert_default());
        let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
        if let Some(generation) = &generation {
            labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
        }
        labels.insert(REVISION_LABEL.to_owned(), hash.clone());
        let rolling = strategy.rolling_update.unwrap_or_default();
        Self {
            template,
            hash,
            generation,
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            surge: rolling.max_surge,
            unavailable: rolling.max_unavailable,
            on_delete: strategy.type_.as_deref() == Some("OnDelete"),
        }
    }

    /// The template of the Pod for a node: the scheduler may put it nowhere else.
    pub(super) fn template_for(&self, node: &str) -> PodTemplateSpec {
        let mut template = self.template.clone();
        let affinity = template.spec.get_or_insert_default().affinity.get_or_insert_default();
        let only_here = NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: Some(vec![node.to_owned()]),
            }]),
            ..NodeSelectorTerm::default()
        };
        affinity.node_affinity.get_or_insert_default().required_during_scheduling_ignored_during_execution =
            Some(NodeSelector { node_selector_terms: vec![only_here] });
        template
    }

    /// Whether a Pod should be on the node, and whether one that is there may stay.
    fn wants(&self, node: &Node) -> (bool, bool) {
        let spec = self.template.spec.clone().unwrap_or_default();
        let pinned = spec.node_name.as_deref().filter(|name| !name.is_empty());
        if pinned.is_some_and(|name| name != node.name_any()) || !matches_node(&spec, node) {
            return (false, false);
        }
        let stays = untolerated(&spec, node, &["NoExecute"]).next().is_none();
        let starts = stays && untolerated(&spec, node, &["NoSchedule"]).next().is_none();
        (starts, stays)
    }

    fn is_updated(&self, pod: &Pod) -> bool {
        let label = |key: &str| pod.labels().get(key);
        label(REVISION_LABEL) == Some(&self.hash)
            || (self.generation.is_some() && label(GENERATION_LABEL) == self.generation.as_ref())
    }

    fn is_available(&self, pod: &Pod, now: Timestamp) -> bool {
        is_available(pod, self.min_ready_seconds, now)
    }

    fn surges(&self) -> bool {
        !self.on_delete && self.surge.as_ref().is_some_and(|surge| scaled_up(surge, 100) > 0)
    }

    /// First each node gets what it lacks and loses what it has too much of; then the rollout takes a step.
    pub(super) fn plan(&self, nodes: &[Arc<Node>], pods: &ByNode, now: Timestamp) -> Plan {
        let mut plan = Plan::default();
        for node in nodes {
            self.manage(node, pods.get(&node.name_any()), now, &mut plan);
        }
        let known = |name: &str| nodes.iter().any(|node| node.name_any() == name);
        let stray = pods.iter().filter(|(name, _)| !known(name)).flat_map(|(_, pods)| pods);
        plan.delete.extend(stray.filter(|pod| node_name(pod).is_empty() && !terminating(pod)).cloned());
        // Pods that ended may have to wait, which holds up no other.
        if plan.create.is_empty() && plan.delete.is_empty() && !self.on_delete {
            self.roll(nodes, pods, now, &mut plan);
            let deleted = std::mem::take(&mut plan.delete);
            plan.ended.retain(|ended| !deleted.iter().any(|pod| Arc::ptr_eq(pod, ended)));
            plan.delete = deleted;
        }
        plan
    }

    fn manage(&self, node: &Node, pods: Option<&Vec<Arc<Pod>>>, now: Timestamp, plan: &mut Plan) {
        let (starts, stays) = self.wants(node);
        let pods = match pods {
            None if starts => return plan.create.push(node.name_any()),
            None => return,
            Some(pods) => pods.iter().filter(|pod| !terminating(pod)),
        };
        if !stays {
            return plan.delete.extend(pods.cloned());
        }
        let (ended, mut running): (Vec<_>, Vec<_>) =
            pods.cloned().partition(|pod| matches!(phase(pod), "Failed" | "Succeeded"));
        plan.ended.extend(ended);
        if running.len() < 2 {
            return;
        }
        running.sort_by_key(by_age);
        if !self.surges() {
            return plan.delete.extend(running.into_iter().skip(1));
        }
        // During a surge one of each template may be there.
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_updated(pod));
        plan.delete.extend(
            new.iter()
                .chain(&old)
                .filter(|pod| {
                    let first = |all: &[Arc<Pod>]| all.first().is_some_and(|first| Arc::ptr_eq(first, pod));
                    !first(&new) && !first(&old)
                })
                .cloned(),
        );
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!is_ready(old) || self.is_available(new, now))
        {
            plan.delete.push(Arc::clone(old));
        }
    }

    fn roll(&self, nodes: &[Arc<Node>], pods: &ByNode, now: Timestamp, plan: &mut Plan) {
        let desired = nodes.iter().filter(|node| self.wants(node).0).count();
        let share = |value: &Option<IntOrString>| {
            let total = i64::try_from(desired).unwrap_or(i64::MAX);
            value.as_ref().map_or(0, |value| usize::try_from(scaled_up(value, total)).unwrap_or(0))
        };
        let (surge, unavailable) = (share(&self.surge), share(&self.unavailable));
        let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
        // How many nodes are without a Pod that works, or have one more than usual.
        let mut disturbed = 0;
        let (mut free, mut costly) = (Vec::new(), Vec::new());
        for (node, pods) in pods {
            match self.pair(pods) {
                None => disturbed += 1,
                Some((None, None)) => disturbed += usize::from(surge == 0),
                Some((Some(new), None)) => disturbed += usize::from(surge == 0 && !self.is_available(new, now)),
                Some((None, Some(old))) => {
                    let serves = self.is_available(old, now);
                    disturbed += usize::from(surge == 0 && !serves);
                    if serves { &mut costly } else { &mut free }.push((node, old));
                }
                // `manage` lets the old one go in its time.
                Some((Some(_), Some(_))) => disturbed += 1,
            }
        }
        let most = if surge == 0 { unavailable } else { surge };
        let costly = costly.into_iter().take(most.saturating_sub(disturbed));
        for (node, old) in free.into_iter().chain(costly) {
            if surge == 0 {
                plan.delete.push(Arc::clone(old));
            } else {
                plan.create.push(node.clone());
            }
        }
    }

    /// The Pods of the new and of the old template on a node; `None` if there are several of one.
    fn pair<'a>(&self, pods: &'a [Arc<Pod>]) -> Option<Pair<'a>> {
        let (new, old): (Vec<_>, Vec<_>) =
            pods.iter().filter(|pod| !terminating(pod)).partition(|pod| self.is_updated(pod));
        (new.len() < 2 && old.len() < 2).then(|| (new.first().copied(), old.first().copied()))
    }

    /// The status, and when the next Pod becomes available.
    pub(super) fn status(
        &self,
        set: &DaemonSet,
        nodes: &[Arc<Node>],
        pods: &ByNode,
        now: Timestamp,
    ) -> (DaemonSetStatus, Option<Duration>) {
        let before = set.status.clone().unwrap_or_default();
        let (mut desired, mut current, mut misplaced, mut ready, mut available, mut updated) = (0, 0, 0, 0, 0, 0);
        for node in nodes {
            let here = pods.get(&node.name_any()).and_then(|pods| pods.iter().min_by_key(|pod| by_age(pod)));
            if !self.wants(node).0 {
                misplaced += usize::from(here.is_some());
                continue;
            }
            desired += 1;
            let Some(pod) = here else { continue };
            current += 1;
            ready += usize::from(is_ready(pod));
            available += usize::from(self.is_available(pod, now));
            updated += usize::from(self.is_updated(pod));
        }
        let status = DaemonSetStatus {
            desired_number_scheduled: counted(desired),
            current_number_scheduled: counted(current),
            number_misscheduled: counted(misplaced),
            number_ready: counted(ready),
            number_available: positive(available),
            number_unavailable: positive(desired - available),
            updated_number_scheduled: positive(updated),
            observed_generation: set.metadata.generation,
            collision_count: before.collision_count,
            conditions: before.conditions,
        };
        (status, next_available(pods.values().flatten().map(|pod| &**pod), self.min_ready_seconds, now))
    }
}

/// Pods with a node first, then the older.
fn by_age(pod: &Arc<Pod>) -> (bool, Option<Timestamp>, String) {
    (node_name(pod).is_empty(), pod.creation_timestamp().map(|time| time.0), pod.name_any())
}

/// Files Pods under the nodes that they are on, or are meant for.
pub(super) fn by_node(pods: Vec<Arc<Pod>>) -> ByNode {
    let mut filed = ByNode::new();
    for pod in pods {
        if let Some(node) = target_node(&pod) {
            filed.entry(node).or_default().push(pod);
        }
    }
    filed
}

fn target_node(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(name) = spec.node_name.as_ref().filter(|name| !name.is_empty()) {
        return Some(name.clone());
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let name = fields.into_iter().find(|field| field.key == "metadata.name" && field.operator == "In")?;
    name.values.as_ref()?.first().cloned()
}

fn tolerate(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(host_network.then_some(NETWORK_UNAVAILABLE)) {
        let same = |t: &Toleration| {
            t.key.as_deref() == Some(key)
                && t.effect.as_deref() == Some(effect)
                && t.operator.as_deref() == Some("Exists")
                && t.toleration_seconds.is_none()
        };
        if !tolerations.iter().any(same) {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    }
}

#[cfg(test)]
mod tests;
