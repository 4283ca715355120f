//! The containers that there are, for those who come from outside: logs and exec.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::logs::Log;
use crate::cluster::ObjectKey;

/// How to start one more process in a container.
#[derive(Clone, Debug)]
pub struct Inside {
    pub pidfd: Arc<OwnedFd>,
    pub env: Arc<BTreeMap<String, String>>,
    pub cwd: PathBuf,
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

/// By Pod, by uid, by container name: a Pod that was deleted and made again has two uids for a moment.
#[derive(Debug, Default)]
pub struct Registry {
    pods: Mutex<HashMap<ObjectKey, (String, HashMap<String, Entry>)>>,
}

impl Registry {
    /// The container's entry, with whether the Pod has one of that name.
    pub fn get(&self, pod: &ObjectKey, container: &str) -> Option<Entry> {
        self.pods.lock().get(pod)?.1.get(container).cloned()
    }

    /// Whether the agents know the Pod.
    pub fn has_pod(&self, pod: &ObjectKey) -> bool {
        self.pods.lock().contains_key(pod)
    }

    pub fn update(&self, pod: &ObjectKey, uid: &str, container: &str, edit: impl FnOnce(&mut Entry)) {
        let mut pods = self.pods.lock();
        let (owner, containers) = pods.entry(pod.clone()).or_default();
        if owner != uid {
            *owner = uid.to_owned();
            containers.clear();
        }
        edit(containers.entry(container.to_owned()).or_default());
    }

    /// Forgets a Pod, unless another of the same name has taken its place.
    pub fn remove(&self, pod: &ObjectKey, uid: &str) {
        let mut pods = self.pods.lock();
        if pods.get(pod).is_some_and(|(owner, _)| owner == uid) {
            pods.remove(pod);
        }
    }
}
