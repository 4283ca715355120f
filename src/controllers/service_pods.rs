//! Which Pods a Service selects, and which Services a change of a Pod or Node concerns.
//!
//! Both directions are looked up by label pair, so neither walks all Services or all Pods of a namespace:
//! a Service is filed under one pair of its selector (the pair with the fewest Services), a Pod under each of its
//! labels. The index holds names only; the objects stay in the shared cache.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::ResourceExt;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::endpoint_model::{pod_ready, selector_of, terminal};
use super::queue::Queue;
use super::zone_shares::{self, Capacity};
use crate::cluster::{Change, Cluster, Mark, ObjectKey};

type Labels = BTreeMap<String, String>;

/// The node label that names its zone (ES7).
pub(super) const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The index, shared by the controllers of EndpointSlices and of Endpoints.
pub(super) struct ServicePods {
    cluster: Cluster,
    index: Mutex<Index>,
    /// How many of the three kinds are not wholly in the index yet.
    missing: watch::Sender<usize>,
}

/// Services, Pods and Nodes.
const KINDS: usize = 3;

#[derive(Default)]
struct Index {
    namespaces: FxHashMap<String, NamespaceIndex>,
}

#[derive(Default)]
struct NamespaceIndex {
    /// The selector of each Service, as filed.
    selectors: FxHashMap<String, Filed>,
    /// Label key, label value: the Services filed there.
    services: FxHashMap<String, FxHashMap<String, Vec<String>>>,
    /// Services with an empty selector, which matches every Pod (ES1).
    select_all: Vec<String>,
    /// Label key, label value: the Pods that carry it.
    pods: FxHashMap<String, FxHashMap<String, BTreeSet<Arc<str>>>>,
}

struct Filed {
    selector: Labels,
    pair: Option<(String, String)>,
}

impl ServicePods {
    /// Starts to follow Services, Pods and Nodes; the key of each Service that a change concerns goes to each queue.
    pub(super) fn start(cluster: &Cluster, queues: Vec<Arc<Queue<ObjectKey>>>, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let this = Arc::new(Self::new(cluster.clone()));
        tasks.spawn(Arc::clone(&this).follow(queues));
        this
    }

    fn new(cluster: Cluster) -> Self {
        Self { cluster, index: Mutex::default(), missing: watch::Sender::new(KINDS) }
    }

    /// Waits until everything that was there at the start is in the index. Before that [`Self::pods_of`] would leave
    /// Pods out, and endpoints that are right would be taken away.
    pub(super) async fn wait_synced(&self) {
        // The sender lives as long as this: there is no error to come.
        let _ = self.missing.subscribe().wait_for(|missing| *missing == 0).await;
    }

    fn synced(&self) -> Outcome {
        self.missing.send_modify(|missing| *missing -= 1);
        Outcome::nothing()
    }

    /// The Pods that the Service's selector matches, ordered by name. None without a selector.
    pub(super) fn pods_of(&self, service: &Service) -> Vec<Arc<Pod>> {
        let Some(selector) = selector_of(service) else { return Vec::new() };
        let namespace = service.namespace().unwrap_or_default();
        if selector.is_empty() {
            return self.cluster.pods.list_in(&namespace);
        }
        let names = self.index.lock().pod_names(&namespace, selector);
        names
            .into_iter()
            .filter_map(|name| self.cluster.pods.get(&namespace, &name))
            .filter(|pod| selects(selector, pod.labels()))
            .collect()
    }

    async fn follow(self: Arc<Self>, queues: Vec<Arc<Queue<ObjectKey>>>) {
        let mut services = self.cluster.services.subscribe();
        let mut pods = self.cluster.pods.subscribe();
        let mut nodes = self.cluster.nodes.subscribe();
        loop {
            let outcome = tokio::select! {
                Some(change) = services.recv() => self.service_changed(&change),
                Some(change) = pods.recv() => self.pod_changed(&change),
                Some(change) = nodes.recv() => self.node_changed(&change),
                else => return,
            };
            for queue in &queues {
                match &outcome {
                    Outcome::Concerns(services) => services.iter().cloned().for_each(|key| queue.add(key)),
                    Outcome::Mark(mark) => queue.mark(mark),
                }
            }
        }
    }

    fn service_changed(&self, change: &Change<Service>) -> Outcome {
        match change {
            Change::Applied { new, .. } => {
                let key = ObjectKey::of(&**new);
                self.index.lock().file_service(&key, selector_of(new));
                Outcome::Concerns(vec![key])
            }
            Change::Deleted(old) => {
                let key = ObjectKey::of(&**old);
                self.index.lock().file_service(&key, None);
                Outcome::Concerns(vec![key])
            }
            Change::Synced => self.synced(),
            Change::Marked(mark) => Outcome::Mark(mark.clone()),
        }
    }

    fn pod_changed(&self, change: &Change<Pod>) -> Outcome {
        let mut index = self.index.lock();
        Outcome::Concerns(match change {
            Change::Applied { old: None, new } => {
                index.file_pod(new, None);
                index.services_of(new)
            }
            Change::Applied { old: Some(old), new } => {
                if old.labels() != new.labels() {
                    index.file_pod(new, Some(old.labels()));
                }
                if !concerns_endpoints(old, new) {
                    return Outcome::nothing();
                }
                let mut concerned = index.services_of(new);
                if old.labels() != new.labels() {
                    concerned.extend(index.services_of(old));
                }
                concerned
            }
            Change::Deleted(old) => {
                index.drop_pod(old);
                index.services_of(old)
            }
            Change::Synced => return self.synced(),
            Change::Marked(mark) => return Outcome::Mark(mark.clone()),
        })
    }

    /// A Node matters to the Services of its Pods when it comes or goes (ES9) or moves to another zone (ES7), and to
    /// those whose hints follow CPUs when its share changes (ES22).
    fn node_changed(&self, change: &Change<Node>) -> Outcome {
        let (old, new) = match change {
            Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
            Change::Deleted(old) => (Some(&**old), None),
            Change::Synced => return self.synced(),
            Change::Marked(mark) => return Outcome::Mark(mark.clone()),
        };
        let mut concerned = FxHashSet::default();
        if old.map(Capacity::of) != new.map(Capacity::of) {
            let services = self.cluster.services.list();
            concerned.extend(services.iter().filter(|s| zone_shares::is_asked_by(s)).map(|s| ObjectKey::of(&**s)));
        }
        let zone = |node: Option<&Node>| node.map(|node| node.labels().get(ZONE_LABEL).cloned());
        if zone(old) == zone(new) {
            return Outcome::Concerns(concerned.into_iter().collect());
        }
        let Some(node) = new.or(old).map(ResourceExt::name_any) else { return Outcome::nothing() };
        let index = self.index.lock();
        for pod in self.cluster.pods.list() {
            if pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&*node) {
                concerned.extend(index.services_of(&pod));
            }
        }
        Outcome::Concerns(concerned.into_iter().collect())
    }
}

/// What a change asks for.
enum Outcome {
    /// Another look at these Services.
    Concerns(Vec<ObjectKey>),
    /// That the mark waits behind the Services queued so far.
    Mark(Mark),
}

impl Outcome {
    fn nothing() -> Self {
        Self::Concerns(Vec::new())
    }
}

impl Index {
    fn file_service(&mut self, key: &ObjectKey, selector: Option<&Labels>) {
        let here = self.namespaces.entry(key.namespace.clone()).or_default();
        if here.selectors.get(&key.name).map(|filed| &filed.selector) == selector {
            return;
        }
        if let Some(filed) = here.selectors.remove(&key.name) {
            match filed.pair {
                Some((label, value)) => {
                    unfile(&mut here.services, &label, &value, |names| {
                        names.retain(|name| *name != key.name);
                        names.is_empty()
                    });
                }
                None => here.select_all.retain(|name| *name != key.name),
            }
        }
        if let Some(selector) = selector {
            let pair = selector.iter().min_by_key(|(label, value)| {
                here.services.get(*label).and_then(|values| values.get(*value)).map_or(0, Vec::len)
            });
            match pair {
                Some((label, value)) => here
                    .services
                    .entry(label.clone())
                    .or_default()
                    .entry(value.clone())
                    .or_default()
                    .push(key.name.clone()),
                None => here.select_all.push(key.name.clone()),
            }
            let pair = pair.map(|(label, value)| (label.clone(), value.clone()));
            here.selectors.insert(key.name.clone(), Filed { selector: selector.clone(), pair });
        }
        self.prune(&key.namespace);
    }

    fn file_pod(&mut self, pod: &Pod, old_labels: Option<&Labels>) {
        let namespace = pod.namespace().unwrap_or_default();
        let name: Arc<str> = pod.name_any().into();
        let here = self.namespaces.entry(namespace.clone()).or_default();
        if let Some(old) = old_labels {
            here.unfile_pod(old, &name);
        }
        for (label, value) in pod.labels() {
            let values = here.pods.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().insert(Arc::clone(&name));
        }
        self.prune(&namespace);
    }

    fn drop_pod(&mut self, pod: &Pod) {
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(here) = self.namespaces.get_mut(&namespace) {
            here.unfile_pod(pod.labels(), &pod.name_any());
        }
        self.prune(&namespace);
    }

    fn prune(&mut self, namespace: &str) {
        if self.namespaces.get(namespace).is_some_and(|here| here.selectors.is_empty() && here.pods.is_empty()) {
            self.namespaces.remove(namespace);
        }
    }

    fn services_of(&self, pod: &Pod) -> Vec<ObjectKey> {
        let namespace = pod.namespace().unwrap_or_default();
        let Some(here) = self.namespaces.get(&namespace) else { return Vec::new() };
        let filed = pod
            .labels()
            .iter()
            .filter_map(|(label, value)| here.services.get(label)?.get(value))
            .flatten()
            .filter(|name| here.selectors.get(*name).is_some_and(|filed| selects(&filed.selector, pod.labels())));
        filed.chain(&here.select_all).map(|name| ObjectKey::new(&*namespace, name)).collect()
    }

    /// The Pods that carry the selector's rarest pair: all that the selector matches are among them.
    fn pod_names(&self, namespace: &str, selector: &Labels) -> Vec<Arc<str>> {
        let Some(here) = self.namespaces.get(namespace) else { return Vec::new() };
        selector
            .iter()
            .map(|(label, value)| here.pods.get(label).and_then(|values| values.get(value)))
            .min_by_key(|names| names.map_or(0, BTreeSet::len))
            .flatten()
            .map(|names| names.iter().cloned().collect())
            .unwrap_or_default()
    }
}

impl NamespaceIndex {
    fn unfile_pod(&mut self, labels: &Labels, name: &str) {
        for (label, value) in labels {
            unfile(&mut self.pods, label, value, |names| {
                names.remove(name);
                names.is_empty()
            });
        }
    }
}

/// Lets `remove` take something from the entry of a label pair, and drops what it says is empty afterwards.
fn unfile<T>(
    entries: &mut FxHashMap<String, FxHashMap<String, T>>,
    label: &str,
    value: &str,
    remove: impl FnOnce(&mut T) -> bool,
) {
    if let Some(values) = entries.get_mut(label) {
        if values.get_mut(value).is_some_and(remove) {
            values.remove(value);
        }
        if values.is_empty() {
            entries.remove(label);
        }
    }
}

/// True if the labels carry every pair of the selector; an empty selector matches everything.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(label, value)| labels.get(label) == Some(value))
}

/// True if the difference between two states of a Pod can show in its endpoints. Container restarts, probe messages
/// and the like do not, and would otherwise be most of the work.
fn concerns_endpoints(old: &Pod, new: &Pod) -> bool {
    let spec = |pod: &Pod| {
        let spec = pod.spec.as_ref();
        (
            spec.and_then(|s| s.node_name.clone()),
            spec.and_then(|s| s.hostname.clone()),
            spec.and_then(|s| s.subdomain.clone()),
        )
    };
    let status = |pod: &Pod| {
        let status = pod.status.as_ref();
        (status.and_then(|s| s.pod_ip.clone()), status.and_then(|s| s.pod_ips.clone()))
    };
    old.metadata.uid != new.metadata.uid
        || old.metadata.deletion_timestamp.is_some() != new.metadata.deletion_timestamp.is_some()
        || old.labels() != new.labels()
        || pod_ready(old) != pod_ready(new)
        || terminal(old) != terminal(new)
        || spec(old) != spec(new)
        || status(old) != status(new)
}

#[cfg(test)]
mod tests;
