//! The containers that there are, for those who come from outside: logs and exec.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::init::Identity;
use super::logs::Log;
use super::streams::console::Console;
use crate::cluster::ObjectKey;

/// How to start one more process in a container.
#[derive(Clone, Debug)]
pub struct Inside {
    pub pidfd: Arc<OwnedFd>,
    pub env: Arc<BTreeMap<String, String>>,
    pub cwd: PathBuf,
    pub identity: Identity,
    pub cgroup: Option<PathBuf>,
    pub console: Arc<Console>,
}

#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The log of the present run, or of the last one.
    pub log: Option<Arc<Log>>,
    pub previous: Option<Arc<Log>>,
    /// While the container runs.
    pub inside: Option<Inside>,
    /// Why the container waits, while it does.
    pub waiting: Option<String>,
}

/// The containers by Pod and name.
#[derive(Debug, Default)]
pub struct Registry {
    pods: Mutex<HashMap<ObjectKey, Containers>>,
}

/// A Pod that was deleted and made again has two tasks for a moment; what is here is the newer one's.
#[derive(Debug, Default)]
struct Containers {
    uid: String,
    entries: HashMap<String, Entry>,
}

impl Registry {
    pub fn get(&self, pod: &ObjectKey, container: &str) -> Option<Entry> {
        self.pods.lock().get(pod)?.entries.get(container).cloned()
    }

    /// One of a Pod's containers that run: the Pod's network is its network.
    pub fn any_inside(&self, pod: &ObjectKey) -> Option<Inside> {
        self.pods.lock().get(pod)?.entries.values().find_map(|entry| entry.inside.clone())
    }

    /// Whether the agents know the Pod.
    pub fn has_pod(&self, pod: &ObjectKey) -> bool {
        self.pods.lock().contains_key(pod)
    }

    /// Makes a Pod known, in place of an older one of the same name.
    pub fn add<'a>(&self, pod: &ObjectKey, uid: &str, containers: impl IntoIterator<Item = &'a str>) {
        let entries = containers.into_iter().map(|name| (name.to_owned(), Entry::default())).collect();
        self.pods.lock().insert(pod.clone(), Containers { uid: uid.to_owned(), entries });
    }

    /// Changes a container's entry. News of a Pod that was replaced are dropped.
    pub fn update(&self, pod: &ObjectKey, uid: &str, container: &str, edit: impl FnOnce(&mut Entry)) {
        let mut pods = self.pods.lock();
        let containers = pods.get_mut(pod).filter(|containers| containers.uid == uid);
        if let Some(entry) = containers.and_then(|containers| containers.entries.get_mut(container)) {
            edit(entry);
        }
    }

    /// Forgets a Pod, unless another of the same name has taken its place.
    pub fn remove(&self, pod: &ObjectKey, uid: &str) {
        let mut pods = self.pods.lock();
        if pods.get(pod).is_some_and(|containers| containers.uid == uid) {
            pods.remove(pod);
        }
    }
}
