//! The scheduler: gives each Pod without a node one, by the binding subresource.
//!
//! A decision counts from the moment it falls, not from when the watch shows it, so that Pods created together are
//! spread although the cache still shows them without nodes. A Pod that fits nowhere says why in its PodScheduled
//! condition and an Event, and is tried again when a node changes, a Pod leaves one or is resized, or a Pod comes (or is
//! relabelled) that it must be near.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use serde_json::json;
use tokio::task::JoinSet;

use super::endpoint_model::{terminal, terminating};
use super::placement::{Board, is_ready};
use super::placement_affinity as affinity;
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_not_found, run};
use crate::cluster::{Change, Cluster, ObjectKey};
use crate::events::{EventType, Recorder};

/// The scheduler that a Pod gets when it names none (PD1).
const NAME: &str = "default-scheduler";
/// Bindings in flight at once: enough for them to share a commit.
const WORKERS: usize = 32;

pub(super) struct Scheduler {
    client: Client,
    cluster: Cluster,
    queue: Arc<Queue<ObjectKey>>,
    state: Mutex<State>,
    events: Recorder,
}

#[derive(Default)]
struct State {
    board: Board,
    /// Pods that fitted nowhere.
    unschedulable: BTreeSet<ObjectKey>,
}

impl Scheduler {
    pub(super) fn start(client: &Client, cluster: &Cluster, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let scheduler = Arc::new(Self {
            client: client.clone(),
            cluster: cluster.clone(),
            queue: Arc::clone(&queue),
            state: Mutex::default(),
            events: Recorder::new(client.clone(), NAME, None),
        });
        tasks.spawn(async move {
            // Everything that has a node must be on the board before the first decision.
            scheduler.cluster.namespaces.wait_synced().await;
            let mut nodes = scheduler.cluster.nodes.subscribe();
            let mut pods = scheduler.cluster.pods.subscribe();
            scheduler.cluster.nodes.wait_synced().await;
            while let Some(change) = pods.recv().await {
                let synced = matches!(change, Change::Synced);
                scheduler.pod_changed(change);
                if synced {
                    break;
                }
            }
            let follow = async {
                loop {
                    tokio::select! {
                        Some(change) = pods.recv() => scheduler.pod_changed(change),
                        Some(change) = nodes.recv() => scheduler.node_changed(&change),
                        else => return,
                    }
                }
            };
            tokio::join!(follow, run("scheduler", Arc::clone(&scheduler), queue, WORKERS));
        });
    }

    fn pod_changed(&self, change: Change<Pod>) {
        match change {
            Change::Applied { new, .. } if terminal(&new) => self.take_off(&new),
            Change::Applied { old, new } => {
                // A Pod of the same name took its place while the watch was interrupted.
                if let Some(old) = old.as_ref().filter(|old| old.metadata.uid != new.metadata.uid) {
                    self.take_off(old);
                }
                if let Some(node) = node_of(&new) {
                    let mut state = self.state.lock();
                    state.unschedulable.remove(&ObjectKey::of(&*new));
                    self.place(&mut state, &new, node);
                } else if awaits_us(&new) && !old.is_some_and(|old| same_question(&old, &new)) {
                    self.queue.add(ObjectKey::of(&*new));
                }
            }
            Change::Deleted(old) => self.take_off(&old),
            Change::Synced | Change::Marked(_) => {}
        }
    }

    /// Counts the Pod on its node. Pods that waited for one like it are tried again.
    fn place(&self, state: &mut State, pod: &Arc<Pod>, node: &str) {
        let before = state.board.place(Arc::clone(pod), node);
        if before.as_ref().is_some_and(|before| before.resized) {
            self.retry_all(state);
        }
        if before.as_ref().is_some_and(|before| before.pod.labels() == pod.labels()) {
            return;
        }
        let before = before.map(|before| before.pod);
        let drawn = state.unschedulable.extract_if(.., |key| {
            let waiting = self.cluster.pods.get(&key.namespace, &key.name);
            waiting.is_some_and(|waiting| {
                affinity::may_help(&waiting, before.as_deref(), pod, &|name| self.namespace_labels(name))
            })
        });
        drawn.for_each(|key| self.queue.add(key));
    }

    fn namespace_labels(&self, name: &str) -> Option<BTreeMap<String, String>> {
        self.cluster.namespaces.get("", name)?.metadata.labels.clone()
    }

    /// The Pod needs its room no more: others may fit now.
    fn take_off(&self, pod: &Pod) {
        let key = ObjectKey::of(pod);
        let mut state = self.state.lock();
        state.unschedulable.remove(&key);
        if state.board.remove(&key, pod.metadata.uid.as_deref()) {
            self.retry_all(&mut state);
        }
    }

    fn node_changed(&self, change: &Change<Node>) {
        if let Change::Applied { old, new } = change
            && !old.as_ref().is_some_and(|old| same_offer(old, new))
        {
            self.retry_all(&mut self.state.lock());
        }
    }

    fn retry_all(&self, state: &mut State) {
        for key in std::mem::take(&mut state.unschedulable) {
            self.queue.add(key);
        }
    }

    /// Decides on a node and counts the Pod there at once.
    fn decide(&self, key: &ObjectKey, pod: &Arc<Pod>) -> Decision {
        let mut state = self.state.lock();
        if state.board.uid_of(key).is_some_and(|uid| Some(uid) == pod.metadata.uid.as_deref()) {
            return Decision::Made;
        }
        let namespace_labels = |name: &str| self.namespace_labels(name);
        match state.board.choose(pod, &self.cluster.nodes.list(), namespace_labels) {
            Ok(node) => {
                state.unschedulable.remove(key);
                self.place(&mut state, pod, &node);
                Decision::Node(node)
            }
            Err(message) => {
                state.unschedulable.insert(key.clone());
                Decision::Nowhere(message)
            }
        }
    }

    async fn bind(&self, key: &ObjectKey, pod: &Pod, node: &str) -> Result<(), Error> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: pod.uid(),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let bound =
            api.create_subresource::<_, IgnoredAny>("binding", &key.name, &PostParams::default(), &binding).await;
        match bound {
            Ok(_) => {
                let message = format!("Successfully assigned {key} to {node}");
                self.events.event(pod.object_ref(&()), EventType::Normal, "Scheduled", message);
                Ok(())
            }
            Err(error) => {
                let gone = is_not_found(&error);
                let mut state = self.state.lock();
                if state.board.remove(key, pod.metadata.uid.as_deref()) {
                    self.retry_all(&mut state);
                }
                if gone { Ok(()) } else { Err(Error::api(format!("bind Pod {key} to node {node}"))(error)) }
            }
        }
    }

    /// Writes why the Pod has no node. The version in the patch keeps conditions that others wrote meanwhile.
    async fn refuse(&self, key: &ObjectKey, pod: &Pod, message: String) -> Result<(), Error> {
        let Some(conditions) = conditions_with_refusal(pod, &message, Timestamp::now()) else { return Ok(()) };
        let patch = json!({
            "metadata": {"resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": conditions},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => {
                self.events.event(pod.object_ref(&()), EventType::Warning, "FailedScheduling", message);
                Ok(())
            }
            Err(e) if is_not_found(&e) => Ok(()),
            Err(e) => Err(Error::api(format!("update the status of Pod {key}"))(e)),
        }
    }
}

enum Decision {
    Node(String),
    Nowhere(String),
    /// It has fallen already; the cache does not show the binding yet.
    Made,
}

impl Reconcile for Scheduler {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(pod) = self.cluster.pods.get(&key.namespace, &key.name) else { return Ok(Action::Done) };
        if !awaits_us(&pod) {
            return Ok(Action::Done);
        }
        match self.decide(key, &pod) {
            Decision::Node(node) => self.bind(key, &pod, &node).await?,
            Decision::Nowhere(message) => self.refuse(key, &pod, message).await?,
            Decision::Made => {}
        }
        Ok(Action::Done)
    }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// True if the Pod wants a node, now, and from this scheduler.
fn awaits_us(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    node_of(pod).is_none()
        && !terminating(pod)
        && !terminal(pod)
        && spec.scheduler_name.as_deref().is_none_or(|name| name.is_empty() || name == NAME)
        && spec.scheduling_gates.as_ref().is_none_or(Vec::is_empty)
}

/// True if nothing changed that a decision looks at: above all, that the scheduler itself wrote a condition.
fn same_question(old: &Pod, new: &Pod) -> bool {
    old.metadata.uid == new.metadata.uid && old.spec == new.spec && old.labels() == new.labels()
}

fn same_offer(old: &Node, new: &Node) -> bool {
    let has = |node: &Node| node.status.as_ref().map(|status| (status.allocatable.clone(), status.capacity.clone()));
    old.spec == new.spec && old.labels() == new.labels() && is_ready(old) == is_ready(new) && has(old) == has(new)
}

/// The Pod's conditions with PodScheduled=False, or `None` if they say so already in the same words.
fn conditions_with_refusal(pod: &Pod, message: &str, now: Timestamp) -> Option<Vec<PodCondition>> {
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let at = conditions.iter().position(|condition| condition.type_ == "PodScheduled");
    let before = at.map(|at| conditions.remove(at));
    let known = before.as_ref().filter(|condition| condition.status == "False");
    if known.is_some_and(|condition| {
        condition.reason.as_deref() == Some("Unschedulable") && condition.message.as_deref() == Some(message)
    }) {
        return None;
    }
    let since = known.and_then(|condition| condition.last_transition_time.clone());
    conditions.push(PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("Unschedulable".into()),
        message: Some(message.to_owned()),
        last_transition_time: since.or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    Some(conditions)
}

#[cfg(test)]
mod tests;
