//! The map as one value: takes informer changes, keeps a view per object, and tells what differs since it was last
//! asked. An object that changed in ways that the map doesn't show (a lease renewed, a condition's time) leaves no trace.
//!
//! Costs: a change of a slice rebuilds the view of its Service, once per patch, and tells of the endpoints that differ;
//! everything else is O(changed).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Serialize;

use super::view::{self, Delta, EndpointKey, EndpointsDelta, NodeView, Patch, PodView, ServiceView, Snapshot};
use crate::cluster::{Change, ObjectKey};

/// A change of one of the kinds that the map is made of.
pub(super) enum Input {
    Service(Change<Service>),
    Slice(Change<EndpointSlice>),
    Pod(Change<Pod>),
    Node(Change<Node>),
}

/// How many kinds have to be complete before the map is.
const KINDS: usize = 4;

pub(super) struct Model {
    version: &'static str,
    revision: u64,
    synced: usize,
    sources: BTreeMap<ObjectKey, Arc<Service>>,
    slices: BTreeMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
    services: Kind<ServiceView>,
    pods: Kind<PodView>,
    nodes: Kind<NodeView>,
    stale_services: BTreeSet<ObjectKey>,
    snapshot: Option<Arc<str>>,
}

/// The views of one kind as viewers know them, and those that they don't know yet.
struct Kind<V> {
    shown: BTreeMap<ObjectKey, V>,
    /// The newest state of objects that may differ from `shown`; `None` where the object is gone.
    pending: BTreeMap<ObjectKey, Option<V>>,
}

impl<V: PartialEq + Serialize> Kind<V> {
    fn new() -> Self {
        Self { shown: BTreeMap::new(), pending: BTreeMap::new() }
    }

    /// Moves what is pending to what is shown, and returns the keys that differ. `partly` may take a change that is
    /// told in another way than whole: it gets what was shown and what is now.
    fn settle(&mut self, mut partly: impl FnMut(&ObjectKey, &V, &V) -> bool) -> Differing {
        let mut differing = Differing::default();
        for (key, view) in std::mem::take(&mut self.pending) {
            match view {
                Some(view) if self.shown.get(&key) != Some(&view) => {
                    let before = self.shown.get(&key);
                    if !before.is_some_and(|before| partly(&key, before, &view)) {
                        differing.changed.push(key.clone());
                    }
                    self.shown.insert(key, view);
                }
                None if self.shown.remove(&key).is_some() => differing.removed.push(key),
                _ => {}
            }
        }
        differing
    }

    fn delta(&self, differing: &Differing) -> Delta<'_, V> {
        Delta {
            changed: differing.changed.iter().filter_map(|key| self.shown.get(key)).collect(),
            removed: differing.removed.iter().map(ObjectKey::to_string).collect(),
        }
    }
}

/// The keys of what differs.
#[derive(Default)]
struct Differing {
    changed: Vec<ObjectKey>,
    removed: Vec<ObjectKey>,
}

impl Differing {
    fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// The endpoints of a Service that differ, by key.
#[derive(Default)]
struct DifferingEndpoints {
    changed: BTreeSet<EndpointKey>,
    removed: Vec<EndpointKey>,
}

impl DifferingEndpoints {
    fn between(before: &ServiceView, after: &ServiceView) -> Self {
        let known: BTreeMap<EndpointKey, _> =
            before.endpoints.iter().map(|endpoint| (endpoint.key(), endpoint)).collect();
        let mut gone: BTreeSet<EndpointKey> = known.keys().cloned().collect();
        let mut changed = BTreeSet::new();
        for endpoint in &after.endpoints {
            let key = endpoint.key();
            gone.remove(&key);
            if known.get(&key) != Some(&endpoint) {
                changed.insert(key);
            }
        }
        Self { changed, removed: gone.into_iter().collect() }
    }
}

impl Model {
    pub(super) fn new(version: &'static str) -> Self {
        Self {
            version,
            revision: 0,
            synced: 0,
            sources: BTreeMap::new(),
            slices: BTreeMap::new(),
            services: Kind::new(),
            pods: Kind::new(),
            nodes: Kind::new(),
            stale_services: BTreeSet::new(),
            snapshot: None,
        }
    }

    /// Whether everything that existed at the start has arrived.
    pub(super) fn is_complete(&self) -> bool {
        self.synced >= KINDS
    }

    pub(super) fn apply(&mut self, input: Input) {
        match input {
            Input::Service(change) => match self.object(change) {
                Some((key, Some(new))) => {
                    self.stale_services.insert(key.clone());
                    self.sources.insert(key, new);
                }
                Some((key, None)) => {
                    self.sources.remove(&key);
                    self.stale_services.insert(key);
                }
                None => {}
            },
            Input::Slice(change) => self.slice(change),
            Input::Pod(change) => {
                if let Some((key, new)) = self.object(change) {
                    self.pods.pending.insert(key, new.map(|pod| view::pod(&pod)));
                }
            }
            Input::Node(change) => {
                if let Some((key, new)) = self.object(change) {
                    self.nodes.pending.insert(key, new.map(|node| view::node(&node)));
                }
            }
        }
    }

    fn object<K: kube::Resource>(&mut self, change: Change<K>) -> Option<(ObjectKey, Option<Arc<K>>)> {
        match change {
            Change::Applied { new, .. } => Some((ObjectKey::of(&*new), Some(new))),
            Change::Deleted(old) => Some((ObjectKey::of(&*old), None)),
            Change::Synced => {
                self.synced += 1;
                None
            }
            Change::Marked(_) => None,
        }
    }

    /// A slice may also move from one Service to another: its label can change (rule S4).
    fn slice(&mut self, change: Change<EndpointSlice>) {
        let gone = match &change {
            Change::Applied { old, .. } => old.clone(),
            Change::Deleted(old) => Some(Arc::clone(old)),
            Change::Synced | Change::Marked(_) => None,
        };
        if let Some((old, owner)) = gone.and_then(|old| view::owner_of(&old).map(|owner| (old, owner))) {
            if let Some(slices) = self.slices.get_mut(&owner) {
                slices.remove(old.metadata.name.as_deref().unwrap_or_default());
                if slices.is_empty() {
                    self.slices.remove(&owner);
                }
            }
            self.stale_services.insert(owner);
        }
        if let Some((key, Some(new))) = self.object(change)
            && let Some(owner) = view::owner_of(&new)
        {
            self.slices.entry(owner.clone()).or_default().insert(key.name, new);
            self.stale_services.insert(owner);
        }
    }

    /// Takes the changes into the map and returns them as a JSON [`Patch`], or `None` if nothing visible changed.
    pub(super) fn flush(&mut self) -> Option<Arc<str>> {
        for key in std::mem::take(&mut self.stale_services) {
            let slices = self.slices.get(&key).into_iter().flat_map(|slices| slices.values()).map(|slice| &**slice);
            let view = self.sources.get(&key).map(|service| view::service(service, slices));
            self.services.pending.insert(key, view);
        }
        let mut endpoints: Vec<(ObjectKey, DifferingEndpoints)> = Vec::new();
        let services = self.services.settle(|key, before, after| {
            let same = before.head == after.head;
            if same {
                endpoints.push((key.clone(), DifferingEndpoints::between(before, after)));
            }
            same
        });
        let (pods, nodes) = (self.pods.settle(|_, _, _| false), self.nodes.settle(|_, _, _| false));
        if services.is_empty() && endpoints.is_empty() && pods.is_empty() && nodes.is_empty() {
            return None;
        }
        self.revision += 1;
        self.snapshot = None;
        let endpoints = endpoints.into_iter().map(|(key, differing)| {
            let known = self.services.shown.get(&key).into_iter().flat_map(|service| &service.endpoints);
            EndpointsDelta {
                service: key.to_string(),
                changed: known.filter(|endpoint| differing.changed.contains(&endpoint.key())).collect(),
                removed: differing.removed,
            }
        });
        Some(json(&Patch {
            revision: self.revision,
            services: self.services.delta(&services),
            endpoints: endpoints.collect(),
            pods: self.pods.delta(&pods),
            nodes: self.nodes.delta(&nodes),
        }))
    }

    /// The map as of the last [`flush`](Self::flush), as a JSON [`Snapshot`]; made once per revision.
    pub(super) fn snapshot(&mut self) -> Arc<str> {
        let made = self.snapshot.take().unwrap_or_else(|| {
            json(&Snapshot {
                revision: self.revision,
                version: self.version,
                services: self.services.shown.values().collect(),
                pods: self.pods.shown.values().collect(),
                nodes: self.nodes.shown.values().collect(),
            })
        });
        self.snapshot = Some(Arc::clone(&made));
        made
    }
}

pub(super) fn json(value: &impl Serialize) -> Arc<str> {
    // Views are strings, numbers and lists: there is nothing in them that JSON can't hold.
    serde_json::to_string(value).unwrap_or_default().into()
}
