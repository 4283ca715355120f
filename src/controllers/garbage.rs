//! The garbage collector: deletes objects whose owners are gone, and carries out foreground and orphaning deletion.
//!
//! It follows the metadata of every kind and keeps [`super::garbage_graph`] of it. What it deletes it reads once more
//! first, and the request names uid and version, so that an object that was given another owner meanwhile stays.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::{ApiResource, ObjectMeta, PartialObjectMeta};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, warn};

use super::garbage_graph::{FOREGROUND_FINALIZER, Graph, Location, ORPHAN_FINALIZER, Removal, Step, Uid};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use super::{Kind, Kinds, Served};

type Metadata = PartialObjectMeta<DynamicObject>;

/// Deletions in flight at once: enough for them to share a commit.
const WORKERS: usize = 16;

pub(super) struct GarbageCollector {
    client: Client,
    kinds: Arc<Kinds>,
    graph: Mutex<Graph>,
    queue: Arc<Queue<Uid>>,
    /// Namespaces of which the last object has just gone.
    emptied: Arc<Queue<String>>,
}

impl GarbageCollector {
    /// Starts to follow the kinds that are served. Each namespace whose last object vanishes goes to `emptied`.
    pub(super) fn start(client: &Client, served: &Served, emptied: Arc<Queue<String>>, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let kinds = Arc::new(Kinds::default());
        let collector = Arc::new(Self {
            client: client.clone(),
            kinds: Arc::clone(&kinds),
            graph: Mutex::new(Graph::new(kinds)),
            queue: Arc::clone(&queue),
            emptied,
        });
        let now = served.now();
        let (awaited, mut all_listed) = watch::channel(now.len());
        tasks.spawn(Arc::clone(&collector).keep_up(now, served.clone(), Arc::new(awaited)));
        tasks.spawn(async move {
            // Before that, every owner of a kind that is still being listed would have to be asked for.
            if all_listed.wait_for(|awaited| *awaited == 0).await.is_ok() {
                run("garbage-collector", collector, queue, WORKERS).await;
            }
        });
    }

    /// Follows each kind as long as it is served.
    async fn keep_up(self: Arc<Self>, first: Vec<Kind>, mut served: Served, awaited: Arc<watch::Sender<usize>>) {
        // Dropping the set ends its tasks, as this task's end does.
        let mut followers = JoinSet::new();
        let mut followed: FxHashMap<usize, AbortHandle> = FxHashMap::default();
        let mut kinds = first;
        loop {
            let places: FxHashSet<usize> = kinds.iter().map(|kind| self.kinds.add(kind)).collect();
            for place in &places {
                followed.entry(*place).or_insert_with(|| {
                    let awaited = Arc::clone(&awaited);
                    followers.spawn(Arc::clone(&self).follow(*place, awaited))
                });
            }
            let gone: Vec<usize> = followed.keys().copied().filter(|place| !places.contains(place)).collect();
            for place in gone {
                followed.remove(&place).inspect(AbortHandle::abort);
                if self.is_defined(place).await {
                    self.kinds.withdraw(place);
                    self.graph.lock().forget(place);
                } else {
                    // A definition goes after the last of its objects.
                    let objects = self.graph.lock().of_kind(place);
                    objects.into_iter().for_each(|uid| self.removed(uid));
                }
            }
            let Some(next) = served.next().await else { return };
            kinds = next;
        }
    }

    /// Whether there is a definition of a custom kind, served or not. An answer that fails says nothing: then it counts
    /// as defined, and nothing is taken for gone.
    async fn is_defined(&self, place: usize) -> bool {
        let ApiResource { group, plural, .. } = self.kinds.at(place).resource;
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        !matches!(definitions.get_opt(&format!("{plural}.{group}")).await, Ok(None))
    }

    async fn follow(self: Arc<Self>, kind: usize, awaited: Arc<watch::Sender<usize>>) {
        let resource = self.kinds.at(kind).resource;
        let api: Api<Metadata> = Api::all_with(self.client.clone(), &resource);
        let mut events = watcher(api, watcher::Config::default().streaming_lists()).default_backoff().boxed();
        let mut listed = FxHashSet::default();
        let mut first = true;
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => listed.clear(),
                Ok(Event::InitApply(object)) => {
                    listed.extend(object.metadata.uid.as_deref().map(Uid::of));
                    self.applied(kind, &object.metadata);
                }
                Ok(Event::InitDone) => {
                    let vanished = self.graph.lock().of_kind(kind).into_iter().filter(|uid| !listed.contains(uid));
                    for uid in vanished.collect::<Vec<_>>() {
                        self.removed(uid);
                    }
                    listed = FxHashSet::default();
                    if std::mem::take(&mut first) {
                        // Kinds that came later were not waited for.
                        awaited.send_modify(|awaited| *awaited = awaited.saturating_sub(1));
                    }
                }
                Ok(Event::Apply(object)) => self.applied(kind, &object.metadata),
                Ok(Event::Delete(object)) => {
                    if let Some(uid) = object.metadata.uid.as_deref() {
                        self.removed(Uid::of(uid));
                    }
                }
                Err(error) => warn!(kind = resource.kind, %error, "watch failed, starting over"),
            }
        }
    }

    fn applied(&self, kind: usize, metadata: &ObjectMeta) {
        let check = self.graph.lock().apply(kind, metadata);
        for uid in check {
            self.queue.add(uid);
        }
    }

    fn removed(&self, uid: Uid) {
        let Removal { check, emptied } = self.graph.lock().remove(uid);
        for uid in check {
            self.queue.add(uid);
        }
        if let Some(namespace) = emptied {
            self.emptied.add(namespace.to_string());
        }
    }

    fn api(&self, at: &Location) -> Api<Metadata> {
        let resource = self.kinds.at(at.kind).resource;
        if at.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &at.namespace, &resource)
        }
    }

    fn describe(&self, at: &Location) -> String {
        let kind = self.kinds.at(at.kind).resource.kind;
        if at.namespace.is_empty() {
            format!("{kind} {}", at.name)
        } else {
            format!("{kind} {}/{}", at.namespace, at.name)
        }
    }

    /// The object's metadata as the API has it now, or `None` if another object or none is there.
    async fn read(&self, at: &Location, uid: Uid) -> Result<Option<ObjectMeta>, Error> {
        let found = self.api(at).get_opt(&at.name).await;
        let found = found.map_err(|e| Error::api(format!("read {}", self.describe(at)))(e))?;
        Ok(found.map(|object| object.metadata).filter(|found| found.uid.as_deref().map(Uid::of) == Some(uid)))
    }

    /// Reads the object of a step that destroys something. `None` if the step is off: the object is gone, or the
    /// index was behind, in which case it has caught up and the object waits for its next turn.
    async fn confirm(
        &self,
        uid: Uid,
        at: &Location,
        step: &Step,
        exists: &FxHashSet<Uid>,
    ) -> Result<Option<ObjectMeta>, Error> {
        let Some(found) = self.read(at, uid).await? else { return Ok(None) };
        let check = {
            let mut graph = self.graph.lock();
            if !graph.contains(uid) {
                return Ok(None);
            }
            let check = graph.apply(at.kind, &found);
            if graph.next_step(uid, exists) == *step {
                return Ok(Some(found));
            }
            check
        };
        for uid in check {
            self.queue.add(uid);
        }
        Ok(None)
    }

    async fn delete(&self, at: &Location, found: &ObjectMeta, foreground: bool) -> Result<(), Error> {
        let params = if foreground { DeleteParams::foreground() } else { DeleteParams::background() };
        let only_this = Preconditions { uid: found.uid.clone(), resource_version: found.resource_version.clone() };
        debug!(object = self.describe(at), foreground, "deleting, its owners are gone");
        let deleted = self.api(at).delete(&at.name, &params.preconditions(only_this)).await;
        unless_gone(deleted).map(drop).map_err(Error::api(format!("delete {}", self.describe(at))))
    }

    async fn patch(&self, at: &Location, metadata: serde_json::Value) -> Result<(), Error> {
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        let written = self.api(at).patch(&at.name, &PatchParams::default(), &patch).await;
        unless_gone(written).map(drop).map_err(Error::api(format!("update {}", self.describe(at))))
    }

    async fn drop_owners(&self, at: &Location, found: &ObjectMeta, owners: &[Uid]) -> Result<(), Error> {
        let kept: Vec<_> =
            found.owner_references.iter().flatten().filter(|owner| !owners.contains(&Uid::of(&owner.uid))).collect();
        let metadata = json!({"resourceVersion": found.resource_version, "ownerReferences": kept});
        self.patch(at, metadata).await
    }

    async fn remove_finalizer(&self, at: &Location, found: &ObjectMeta, finalizer: &str) -> Result<(), Error> {
        let kept: Vec<_> = found.finalizers.iter().flatten().filter(|other| *other != finalizer).collect();
        let metadata = json!({"resourceVersion": found.resource_version, "finalizers": kept});
        self.patch(at, metadata).await
    }

    async fn orphan(&self, uid: Uid, at: &Location, dependents: &[Location]) -> Result<(), Error> {
        for dependent in dependents {
            let found = self.api(dependent).get_opt(&dependent.name).await;
            let found = found.map_err(|e| Error::api(format!("read {}", self.describe(dependent)))(e))?;
            if let Some(found) = found
                && found.owner_references().iter().any(|owner| Uid::of(&owner.uid) == uid)
            {
                self.drop_owners(dependent, &found.metadata, &[uid]).await?;
            }
        }
        match self.read(at, uid).await? {
            Some(found) => self.remove_finalizer(at, &found, ORPHAN_FINALIZER).await,
            None => Ok(()),
        }
    }

    /// Asks the API for owners that the index does not know; those that do not exist are noted there.
    async fn ask(&self, owners: &[(Uid, Location)], exists: &mut FxHashSet<Uid>) -> Result<(), Error> {
        for (uid, at) in owners {
            if self.read(at, *uid).await?.is_some() {
                exists.insert(*uid);
            } else {
                self.graph.lock().absent(*uid);
            }
        }
        Ok(())
    }
}

impl Reconcile for GarbageCollector {
    type Key = Uid;

    async fn reconcile(&self, uid: &Uid) -> Result<Action, Error> {
        let uid = *uid;
        let mut exists = FxHashSet::default();
        let mut step = self.graph.lock().next_step(uid, &exists);
        while let Step::Ask(owners) = &step {
            self.ask(owners, &mut exists).await?;
            step = self.graph.lock().next_step(uid, &exists);
        }
        match &step {
            Step::Nothing | Step::Ask(_) => {}
            Step::DeleteFirst(dependents) => dependents.iter().for_each(|dependent| self.queue.add(*dependent)),
            Step::Delete { at, foreground } => {
                if let Some(found) = self.confirm(uid, at, &step, &exists).await? {
                    self.delete(at, &found, *foreground).await?;
                }
            }
            Step::DropOwners { at, owners } => {
                if let Some(found) = self.confirm(uid, at, &step, &exists).await? {
                    self.drop_owners(at, &found, owners).await?;
                }
            }
            Step::RemoveForegroundFinalizer { at } => {
                if let Some(found) = self.confirm(uid, at, &step, &exists).await? {
                    self.remove_finalizer(at, &found, FOREGROUND_FINALIZER).await?;
                }
            }
            Step::Orphan { at, dependents } => self.orphan(uid, at, dependents).await?,
        }
        Ok(Action::Done)
    }
}
