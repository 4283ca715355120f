//! Which Pods to tell when a ConfigMap or Secret changes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use parking_lot::Mutex;

use crate::cluster::ObjectKey;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ConfigMap,
    Secret,
    Claim,
}

type Tell = Arc<dyn Fn() + Send + Sync>;
type Listeners = HashMap<(Kind, ObjectKey), Vec<(u64, Tell)>>;

/// The objects that Pods refer to, with whom to tell of their changes.
#[derive(Default)]
pub struct References {
    next: Mutex<u64>,
    listeners: Mutex<Listeners>,
}

/// Ends with its drop.
pub struct Registration {
    all: Arc<References>,
    id: u64,
    names: BTreeSet<(Kind, String)>,
    namespace: String,
}

impl References {
    /// Has `tell` called for each change of the objects that the Pod refers to.
    pub fn register(self: &Arc<Self>, pod: &Pod, tell: impl Fn() + Send + Sync + 'static) -> Registration {
        let (names, namespace) = (of_pod(pod), pod.namespace().unwrap_or_default());
        let mut next = self.next.lock();
        *next += 1;
        let tell: Tell = Arc::new(tell);
        let mut listeners = self.listeners.lock();
        for (kind, name) in &names {
            let key = (*kind, ObjectKey::new(namespace.clone(), name.clone()));
            listeners.entry(key).or_default().push((*next, Arc::clone(&tell)));
        }
        Registration { all: Arc::clone(self), id: *next, names, namespace }
    }

    pub fn changed(&self, kind: Kind, key: ObjectKey) {
        let told: Vec<Tell> =
            self.listeners.lock().get(&(kind, key)).into_iter().flatten().map(|(_, tell)| Arc::clone(tell)).collect();
        told.iter().for_each(|tell| tell());
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut listeners = self.all.listeners.lock();
        for (kind, name) in &self.names {
            let key = (*kind, ObjectKey::new(self.namespace.clone(), name.clone()));
            if let Some(all) = listeners.get_mut(&key) {
                all.retain(|(id, _)| *id != self.id);
                if all.is_empty() {
                    listeners.remove(&key);
                }
            }
        }
    }
}

/// The ConfigMaps, Secrets and claims that a Pod's volumes and environment name.
fn of_pod(pod: &Pod) -> BTreeSet<(Kind, String)> {
    let mut names = BTreeSet::new();
    let Some(spec) = &pod.spec else { return names };
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = super::projected::source(volume) {
            for source in source.sources.iter().flatten() {
                names.extend(source.config_map.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
                names.extend(source.secret.iter().map(|secret| (Kind::Secret, secret.name.clone())));
            }
        }
        names.extend(volume.persistent_volume_claim.iter().map(|claim| (Kind::Claim, claim.claim_name.clone())));
    }
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for from in container.env_from.iter().flatten() {
            names.extend(from.config_map_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
            names.extend(from.secret_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        }
        for source in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            names.extend(source.config_map_key_ref.iter().map(|map| (Kind::ConfigMap, map.name.clone())));
            names.extend(source.secret_key_ref.iter().map(|secret| (Kind::Secret, secret.name.clone())));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;

    #[test]
    fn only_those_who_refer_to_an_object_are_told_until_they_go() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {
            "volumes": [{"name": "a", "configMap": {"name": "m"}}, {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "e"}}]}]}}))
        .unwrap();
        let names: Vec<_> = of_pod(&pod).into_iter().map(|(kind, name)| format!("{kind:?}/{name}")).collect();
        assert_eq!(names, ["ConfigMap/m", "Secret/e", "Secret/s", "Claim/data"]);
        let (all, count) = (Arc::new(References::default()), Arc::new(AtomicU32::new(0)));
        let seen = Arc::clone(&count);
        let registration = all.register(&pod, move || {
            seen.fetch_add(1, Ordering::Relaxed);
        });
        all.changed(Kind::ConfigMap, ObjectKey::new("d", "m"));
        all.changed(Kind::Secret, ObjectKey::new("d", "m"));
        all.changed(Kind::ConfigMap, ObjectKey::new("other", "m"));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        drop(registration);
        all.changed(Kind::ConfigMap, ObjectKey::new("d", "m"));
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert!(all.listeners.lock().is_empty());
    }
}
