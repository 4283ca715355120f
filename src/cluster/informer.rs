//! One kind's cache: a single [`Writer`], many readers, and subscriptions that begin with what is there.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::Arc;

use futures::future::BoxFuture;
use kube::{Resource, ResourceExt};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Namespace and name; the namespace is empty for cluster-scoped objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    pub namespace: String,
    pub name: String,
}

impl ObjectKey {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What happened to an object of the cache.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new (`old` is `None`) or differs from `old`.
    Applied { old: Option<Arc<K>>, new: Arc<K> },
    /// The object is gone; this is its last known state.
    Deleted(Arc<K>),
    /// Everything that existed when the watch began has been delivered. Sent once to each subscription.
    Synced,
    /// Somebody waits until what follows from the changes before this one is done. See [`Mark`].
    Marked(Mark),
}

/// Travels through subscriptions behind changes. Who works on changes keeps it until what follows from those before
/// it is done; who only looks drops it. When all copies are gone, the sender knows.
#[derive(Clone, Debug)]
pub struct Mark {
    _token: TaskTrackerToken,
}

impl Mark {
    /// A mark, and what tells when it and its copies are gone.
    pub fn new() -> (Self, TaskTracker) {
        let tracker = TaskTracker::new();
        tracker.close();
        (Self { _token: tracker.token() }, tracker)
    }
}

/// The reading end of a kind's cache.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Receiver<bool>,
    reached: watch::Receiver<u64>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), synced: self.synced.clone(), reached: self.reached.clone() }
    }
}

struct Shared<K> {
    state: RwLock<State<K>>,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    subscribers: Vec<Subscriber<K>>,
    synced: bool,
}

struct Subscriber<K> {
    queue: mpsc::UnboundedSender<Change<K>>,
    marked: bool,
}

/// A subscriber's queue: first an `Applied` for each object of the cache, then `Synced`, then the changes.
pub type Subscription<K> = mpsc::UnboundedReceiver<Change<K>>;

impl<K> Informer<K> {
    pub fn new() -> (Self, Writer<K>) {
        let shared = Arc::new(Shared {
            state: RwLock::new(State { objects: BTreeMap::new(), subscribers: Vec::new(), synced: false }),
        });
        let (synced_tx, synced) = watch::channel(false);
        let (reached_tx, reached) = watch::channel(0);
        let writer = Writer { shared: Arc::clone(&shared), synced: synced_tx, reached: reached_tx };
        (Self { shared, synced, reached }, writer)
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.shared.state.read().objects.get(&ObjectKey::new(namespace, name)).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.state.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let from = ObjectKey::new(namespace, "");
        let state = self.shared.state.read();
        state
            .objects
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    pub fn len(&self) -> usize {
        self.shared.state.read().objects.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until everything that existed when the watch began is in the cache.
    pub async fn wait_synced(&self) {
        // An error means that the writer is gone: the cluster is shutting down and nothing more will come.
        let _ = self.synced.clone().wait_for(|synced| *synced).await;
    }

    pub fn subscribe(&self) -> Subscription<K> {
        self.subscriber(true)
    }

    /// A subscription without marks, for who only looks, and perhaps not at once: nobody waits for it.
    pub fn look_on(&self) -> Subscription<K> {
        self.subscriber(false)
    }

    fn subscriber(&self, marked: bool) -> Subscription<K> {
        let (tx, rx) = mpsc::unbounded_channel();
        let mut state = self.shared.state.write();
        for object in state.objects.values() {
            let _ = tx.send(Change::Applied { old: None, new: Arc::clone(object) });
        }
        if state.synced {
            let _ = tx.send(Change::Synced);
        }
        state.subscribers.push(Subscriber { queue: tx, marked });
        rx
    }
}

/// How far a cache has come, whatever its kind.
pub trait Progress: Send + Sync {
    /// Waits until everything of this kind up to a resourceVersion has been sent to the subscriptions.
    fn wait_reached(&self, revision: u64) -> BoxFuture<'_, ()>;
    /// Puts a mark into each subscription, behind what has been sent.
    fn mark(&self, mark: &Mark);
}

impl<K: Send + Sync> Progress for Informer<K> {
    fn wait_reached(&self, revision: u64) -> BoxFuture<'_, ()> {
        let mut now = self.reached.clone();
        Box::pin(async move {
            // An error means that the writer is gone, and nothing more will come.
            let _ = now.wait_for(|reached| *reached >= revision).await;
        })
    }

    fn mark(&self, mark: &Mark) {
        let mut state = self.shared.state.write();
        state.subscribers.retain(|one| !one.marked || one.queue.send(Change::Marked(mark.clone())).is_ok());
    }
}

/// The one writing end of a kind's cache.
pub struct Writer<K> {
    shared: Arc<Shared<K>>,
    synced: watch::Sender<bool>,
    reached: watch::Sender<u64>,
}

impl<K: Resource> Writer<K> {
    pub fn apply(&self, object: K) {
        let new = Arc::new(object);
        let mut state = self.shared.state.write();
        let old = state.objects.insert(ObjectKey::of(&*new), Arc::clone(&new));
        state.publish(|| Change::Applied { old: old.clone(), new: Arc::clone(&new) });
    }

    pub fn delete(&self, key: &ObjectKey) {
        let mut state = self.shared.state.write();
        if let Some(old) = state.objects.remove(key) {
            state.publish(|| Change::Deleted(Arc::clone(&old)));
        }
    }

    /// Makes the cache hold exactly `objects`, and marks it synced.
    pub fn replace(&self, objects: Vec<K>) {
        let keys: std::collections::BTreeSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let gone: Vec<ObjectKey> =
            self.shared.state.read().objects.keys().filter(|key| !keys.contains(key)).cloned().collect();
        for key in &gone {
            self.delete(key);
        }
        for object in objects {
            let known =
                self.shared.state.read().objects.get(&ObjectKey::of(&object)).and_then(|old| old.resource_version());
            if known.is_none() || known != object.resource_version() {
                self.apply(object);
            }
        }
        self.mark_synced();
    }

    pub fn mark_synced(&self) {
        let mut state = self.shared.state.write();
        if !state.synced {
            state.synced = true;
            state.publish(|| Change::Synced);
        }
        drop(state);
        self.synced.send_replace(true);
    }

    /// Says that the cache holds everything of this kind up to a resourceVersion.
    pub fn reach(&self, revision: u64) {
        self.reached.send_if_modified(|reached| {
            let newer = revision > *reached;
            *reached = revision.max(*reached);
            newer
        });
    }
}

impl<K> State<K> {
    fn publish(&mut self, change: impl Fn() -> Change<K>) {
        self.subscribers.retain(|subscriber| subscriber.queue.send(change()).is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some("default".into());
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    #[test]
    fn subscription_begins_with_what_is_there() {
        let (informer, writer) = Informer::new();
        writer.replace(vec![config_map("a", "1")]);
        let mut changes = informer.subscribe();
        assert!(matches!(changes.try_recv(), Ok(Change::Applied { old: None, .. })));
        assert!(matches!(changes.try_recv(), Ok(Change::Synced)));
        writer.apply(config_map("a", "2"));
        assert!(matches!(changes.try_recv(), Ok(Change::Applied { old: Some(_), .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn marks_wait_for_subscribers_and_not_for_onlookers() {
        let (informer, writer) = Informer::new();
        let (mut changes, mut seen) = (informer.subscribe(), informer.look_on());
        writer.apply(config_map("a", "1"));
        let (mark, gone) = Mark::new();
        informer.mark(&mark);
        drop(mark);
        assert!(changes.recv().await.is_some());
        assert!(!gone.is_empty());
        assert!(matches!(changes.recv().await, Some(Change::Marked(_))));
        gone.wait().await;
        assert!(matches!(seen.try_recv(), Ok(Change::Applied { .. })));
        assert!(seen.try_recv().is_err());
    }

    #[test]
    fn replace_reports_only_what_differs() {
        let (informer, writer) = Informer::new();
        writer.replace(vec![config_map("a", "1"), config_map("b", "1"), config_map("c", "1")]);
        let mut changes = informer.subscribe();
        while changes.try_recv().is_ok() {}
        writer.replace(vec![config_map("a", "1"), config_map("b", "2")]);
        assert!(matches!(changes.try_recv(), Ok(Change::Deleted(gone)) if gone.name_any() == "c"));
        assert!(matches!(changes.try_recv(), Ok(Change::Applied { new, .. }) if new.name_any() == "b"));
        assert!(changes.try_recv().is_err());
        assert_eq!(informer.list_in("default").len(), 2);
    }
}
