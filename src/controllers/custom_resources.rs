//! Definitions of custom resources. Of one that is being deleted the objects go first, then the definition; its names are
//! then free for others that wait for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::warn;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use super::{Kind, Served};
use crate::api::CLEANUP_FINALIZER;

const WORKERS: usize = 1;
/// Objects with finalizers take their time; nothing tells when the last one has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

type Metadata = PartialObjectMeta<DynamicObject>;

pub(super) struct CustomResources {
    client: Client,
    served: Served,
}

impl CustomResources {
    pub(super) fn start(client: &Client, served: Served, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self { client: client.clone(), served });
        tasks.spawn(follow(client.clone(), Arc::clone(&queue)));
        tasks.spawn(run("custom-resources", controller, queue, WORKERS));
    }

    /// Has the names of a definition looked at again: each write of one does.
    async fn accept_names(&self, definition: &CustomResourceDefinition) -> Result<Action, Error> {
        if awaits_names(definition) {
            let name = definition.name_any();
            let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
            let written = definitions.patch(&name, &PatchParams::default(), &Patch::Merge(json!({}))).await;
            unless_gone(written).map_err(Error::api(format!("update definition {name}")))?;
        }
        Ok(Action::Done)
    }

    /// Deletes all objects of a kind and returns how many are left.
    async fn empty(&self, kind: &Kind) -> Result<usize, Error> {
        let plural = &kind.resource.plural;
        let all: Api<Metadata> = Api::all_with(self.client.clone(), &kind.resource);
        let list = async || {
            all.list(&ListParams::default())
                .await
                .map(|list| list.items)
                .map_err(Error::api(format!("list the {plural}")))
        };
        for object in list().await?.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let api: Api<Metadata> = match object.namespace() {
                Some(namespace) => Api::namespaced_with(self.client.clone(), &namespace, &kind.resource),
                None => all.clone(),
            };
            let deleted = api.delete(&object.name_any(), &DeleteParams::background()).await;
            unless_gone(deleted).map_err(Error::api(format!("delete {}", object.name_any())))?;
        }
        Ok(list().await?.len())
    }
}

impl Reconcile for CustomResources {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<Action, Error> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let found = definitions.get_opt(name).await.map_err(Error::api(format!("read definition {name}")))?;
        let Some(definition) = found else { return Ok(Action::Done) };
        if !awaits_us(&definition) {
            return self.accept_names(&definition).await;
        }
        let (group, plural) = (&definition.spec.group, &definition.spec.names.plural);
        let of_this = |kind: &&Kind| kind.resource.group == *group && kind.resource.plural == *plural;
        if let Some(kind) = self.served.now().iter().find(of_this)
            && self.empty(kind).await? > 0
        {
            return Ok(Action::After(LOOK_AGAIN));
        }
        let kept: Vec<&String> =
            definition.finalizers().iter().filter(|finalizer| finalizer.as_str() != CLEANUP_FINALIZER).collect();
        let patch = json!({"metadata": {"resourceVersion": definition.resource_version(), "finalizers": kept}});
        let written = definitions.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(written).map_err(Error::api(format!("finalize definition {name}")))?;
        Ok(Action::Done)
    }
}

fn awaits_us(definition: &CustomResourceDefinition) -> bool {
    let held = definition.finalizers().iter().any(|finalizer| finalizer == CLEANUP_FINALIZER);
    definition.metadata.deletion_timestamp.is_some() && held
}

fn awaits_names(definition: &CustomResourceDefinition) -> bool {
    let conditions = definition.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "NamesAccepted" && condition.status == "False")
}

async fn follow(client: Client, queue: Arc<Queue<String>>) {
    let api: Api<CustomResourceDefinition> = Api::all(client);
    // Those whose names are another's.
    let mut waiting = HashSet::new();
    let mut events = watcher(api, watcher::Config::default().streaming_lists()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Apply(definition) | Event::InitApply(definition)) => {
                let name = definition.name_any();
                if awaits_names(&definition) {
                    waiting.insert(name.clone());
                } else {
                    waiting.remove(&name);
                }
                if awaits_us(&definition) {
                    queue.add(name);
                }
            }
            Ok(Event::Delete(definition)) => {
                waiting.remove(&definition.name_any());
                waiting.iter().cloned().for_each(|name| queue.add(name));
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "watch of definitions failed, starting over"),
        }
    }
}
