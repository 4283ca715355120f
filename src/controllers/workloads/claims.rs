//! Which objects belong to an owner: by its reference as their controller, and by its selector.
//!
//! An object without a controller that the selector matches is adopted, one whose labels do not match any more is
//! released, one of another controller is left alone (`k8s.io/kubernetes/pkg/controller/controller_ref_manager.go`).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::super::queue::Queue;
use super::super::runner::{Error, is_invalid, is_not_found};
use crate::api::kinds::selects;
use crate::cluster::{Change, Informer, ObjectKey};

/// A kind of objects that live in namespaces.
pub(super) trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The owner that controls an object, if any.
pub(in super::super) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

pub(super) fn is_controlled_by(metadata: &ObjectMeta, uid: Option<&str>) -> bool {
    controller_of(metadata).is_some_and(|owner| Some(owner.uid.as_str()) == uid)
}

/// The reference by which `owner` controls what it makes.
pub(super) fn controller_ref<O: Namespaced>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::api_version(&()).into_owned(),
        kind: O::kind(&()).into_owned(),
        name: owner.name_any(),
        uid: owner.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

pub(super) fn is_deleting(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

/// A workload with an empty selector takes no Pods.
pub(super) fn matches(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let empty = |selector: &LabelSelector| {
        selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
            && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    };
    !empty(selector) && selects(selector, labels.unwrap_or(&BTreeMap::new()))
}

/// What is to be done about each object of a namespace.
#[derive(Debug, PartialEq)]
struct Sorted<K> {
    owned: Vec<Arc<K>>,
    adopt: Vec<Arc<K>>,
    release: Vec<Arc<K>>,
}

fn sort<K: Resource>(owner: &ObjectMeta, selector: &LabelSelector, objects: Vec<Arc<K>>) -> Sorted<K> {
    let mut sorted = Sorted { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        let metadata = object.meta();
        let matching = || matches(selector, metadata.labels.as_ref());
        match controller_of(metadata) {
            Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => {}
            Some(_) if matching() => sorted.owned.push(object),
            Some(_) if !is_deleting(owner) => sorted.release.push(object),
            None if !is_deleting(owner) && !is_deleting(metadata) && matching() => sorted.adopt.push(object),
            Some(_) | None => {}
        }
    }
    sorted
}

/// The objects that belong to `owner`, after adoptions and releases. `wrote` hears of each write.
pub(super) async fn claim<O: Namespaced, K: Namespaced>(
    client: &Client,
    owner: &O,
    selector: &LabelSelector,
    objects: Vec<Arc<K>>,
    wrote: impl Fn(&K),
) -> Result<Vec<Arc<K>>, Error> {
    let Sorted { mut owned, adopt, release } = sort(owner.meta(), selector, objects);
    if adopt.is_empty() && release.is_empty() {
        return Ok(owned);
    }
    let namespace = owner.namespace().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), &namespace);
    let what = K::kind(&());
    if !adopt.is_empty() {
        // The cache may not have heard yet that the owner is going.
        let owners: Api<O> = Api::namespaced(client.clone(), &namespace);
        let now = owners.get_opt(&owner.name_any()).await;
        let now = now.map_err(Error::api(format!("read {} {}", O::kind(&()), ObjectKey::of(owner))))?;
        let stays = now.is_some_and(|now| now.uid() == owner.uid() && !is_deleting(now.meta()));
        for object in adopt.into_iter().filter(|_| stays) {
            let metadata = json!({"uid": object.uid(), "ownerReferences": [controller_ref(owner)]});
            match patch(&api, &object, metadata).await {
                Ok(adopted) => {
                    wrote(&adopted);
                    owned.push(Arc::new(adopted));
                }
                Err(e) if is_not_found(&e) => {}
                Err(e) => return Err(Error::api(format!("adopt {what} {}", ObjectKey::of(&*object)))(e)),
            }
        }
    }
    for object in release {
        let metadata = json!({"uid": object.uid(), "ownerReferences": [{"$patch": "delete", "uid": owner.uid()}]});
        match patch(&api, &object, metadata).await {
            Ok(released) => wrote(&released),
            // Somebody else released it first.
            Err(e) if is_not_found(&e) || is_invalid(&e) => {}
            Err(e) => return Err(Error::api(format!("release {what} {}", ObjectKey::of(&*object)))(e)),
        }
    }
    Ok(owned)
}

async fn patch<K: Namespaced>(api: &Api<K>, object: &K, metadata: serde_json::Value) -> Result<K, kube::Error> {
    let patch = Patch::Strategic(json!({"metadata": metadata}));
    api.patch(&object.name_any(), &PatchParams::default(), &patch).await
}

/// Queues the owners that changes of `children` concern: their controllers, and all that would adopt those without one.
/// `differs` tells whether a change of a child can matter.
pub(super) async fn follow_children<O: Namespaced, K: Namespaced>(
    children: Informer<K>,
    owners: Informer<O>,
    queue: Arc<Queue<ObjectKey>>,
    selector_of: fn(&O) -> Option<LabelSelector>,
    differs: fn(&K, &K) -> bool,
) {
    let mut changes = children.subscribe();
    while let Some(change) = changes.recv().await {
        let (old, new) = match change {
            Change::Applied { old: Some(old), new } if !differs(&old, &new) => continue,
            Change::Applied { old, new } => (old, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Synced | Change::Marked(_) => continue,
        };
        let keys: Vec<_> = [&old, &new].into_iter().flatten().filter_map(|child| owner_key::<O, K>(child)).collect();
        keys.into_iter().for_each(|key| queue.add(key));
        let orphan = new.filter(|child| controller_of(child.meta()).is_none() && !is_deleting(child.meta()));
        if let Some(orphan) = orphan {
            for owner in owners.list_in(&orphan.namespace().unwrap_or_default()) {
                if selector_of(&owner).is_some_and(|selector| matches(&selector, orphan.meta().labels.as_ref())) {
                    queue.add(ObjectKey::of(&*owner));
                }
            }
        }
    }
}

/// The controller of a child, if it is of kind `O`.
fn owner_key<O: Namespaced, K: Namespaced>(child: &K) -> Option<ObjectKey> {
    let owner = controller_of(child.meta())?;
    let ours = owner.kind == O::kind(&()) && owner.api_version == O::api_version(&());
    ours.then(|| ObjectKey::new(child.namespace().unwrap_or_default(), &owner.name))
}

/// Queues the owners themselves when they come, change or go.
pub(in crate::controllers) async fn follow_owners<O: Resource>(owners: Informer<O>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = owners.subscribe();
    while let Some(change) = changes.recv().await {
        if let Change::Applied { new: owner, .. } | Change::Deleted(owner) = change {
            queue.add(ObjectKey::of(&*owner));
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::Value;

    use super::*;

    fn pod(name: &str, metadata: Value) -> Arc<Pod> {
        let mut pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        pod.metadata.name = Some(name.into());
        Arc::new(pod)
    }

    fn by(uid: &str) -> Value {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true}])
    }

    #[test]
    fn objects_are_owned_adopted_released_or_left_alone() {
        let selector: LabelSelector = serde_json::from_value(json!({"matchLabels": {"app": "web"}})).unwrap();
        let web = json!({"app": "web"});
        let gone = "2024-01-01T00:00:00Z";
        let pods = || {
            vec![
                pod("ours", json!({"labels": web, "ownerReferences": by("1")})),
                pod("others", json!({"labels": web, "ownerReferences": by("2")})),
                pod("orphan", json!({"labels": web})),
                pod("dying orphan", json!({"labels": web, "deletionTimestamp": gone})),
                pod("stranger", json!({"labels": {"app": "db"}})),
                pod("relabelled", json!({"labels": {"app": "db"}, "ownerReferences": by("1")})),
            ]
        };
        let names = |pods: &[Arc<Pod>]| pods.iter().map(|pod| pod.name_any()).collect::<Vec<_>>();
        let mut owner = ObjectMeta { uid: Some("1".into()), ..ObjectMeta::default() };
        let sorted = sort(&owner, &selector, pods());
        assert_eq!(names(&sorted.owned), ["ours"]);
        assert_eq!(names(&sorted.adopt), ["orphan"]);
        assert_eq!(names(&sorted.release), ["relabelled"]);
        owner.deletion_timestamp = serde_json::from_value(gone.into()).unwrap();
        let sorted = sort(&owner, &selector, pods());
        assert_eq!((names(&sorted.owned), sorted.adopt.len(), sorted.release.len()), (vec!["ours".to_owned()], 0, 0));
    }

    #[test]
    fn empty_selector_selects_nothing() {
        assert!(!matches(&LabelSelector::default(), Some(&BTreeMap::from([("a".into(), "b".into())]))));
    }
}
