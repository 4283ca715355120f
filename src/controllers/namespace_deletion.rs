//! Empties namespaces that are being deleted, and lets them go when nothing is left.
//!
//! A Namespace with a deletionTimestamp stays as long as spec.finalizers holds `kubernetes`. Everything in it is
//! deleted kind by kind; Pods take their grace period and objects with finalizers their time. The garbage collector's
//! index, which follows every kind, says when the last of them is gone: nothing is polled. Before the finalizer goes,
//! the API itself is asked once more, as the index may be a moment behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceSpec, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::task::JoinSet;
use tracing::info;

use super::Served;
use super::namespaces::is_terminating;
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_conflict, is_not_found, run};
use crate::cluster::{Change, Cluster};

/// The finalizer in spec.finalizers that this controller takes away.
const FINALIZER: &str = "kubernetes";
const WORKERS: usize = 4;

pub(super) struct NamespaceDeletion {
    client: Client,
    cluster: Cluster,
    served: Served,
}

/// What is left in a namespace: how many objects of each kind (`pods.`, `deployments.apps`), and how many each
/// finalizer holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Remaining {
    objects: BTreeMap<String, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl NamespaceDeletion {
    /// Serves `queue`, to which the garbage collector adds each namespace that has just become empty.
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        served: &Served,
        queue: Arc<Queue<String>>,
        tasks: &mut JoinSet<()>,
    ) {
        let deletion = Arc::new(Self { client: client.clone(), cluster: cluster.clone(), served: served.clone() });
        tasks.spawn(follow(cluster.clone(), Arc::clone(&queue)));
        tasks.spawn(run("namespace-deletion", deletion, queue, WORKERS));
    }

    /// Deletes everything in the namespace and returns what is still there afterwards.
    async fn empty(&self, namespace: &str) -> Result<Remaining, Error> {
        let mut remaining = Remaining::default();
        let mut kinds = self.served.now();
        kinds.retain(|kind| kind.namespaced);
        for kind in &kinds {
            let plural = &kind.resource.plural;
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
            let deleted = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await;
            deleted.map_err(Error::api(format!("delete the {plural} of namespace {namespace}")))?;
        }
        for kind in &kinds {
            let plural = &kind.resource.plural;
            let api: Api<PartialObjectMeta<DynamicObject>> =
                Api::namespaced_with(self.client.clone(), namespace, &kind.resource);
            let left = api.list(&ListParams::default()).await;
            let left = left.map_err(Error::api(format!("list the {plural} of namespace {namespace}")))?.items;
            if left.iter().any(|object| object.metadata.deletion_timestamp.is_none()) {
                return Err(Error::NamespaceRefilled(namespace.to_owned()));
            }
            if !left.is_empty() {
                remaining.objects.insert(format!("{plural}.{}", kind.resource.group), left.len());
            }
            for finalizer in left.iter().flat_map(|object| object.finalizers()) {
                *remaining.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        Ok(remaining)
    }

    /// Tells in the Namespace's status what it waits for. A courtesy: losing it to another writer is no failure.
    async fn report(&self, namespace: &Namespace, remaining: &Remaining) -> Result<(), Error> {
        let name = namespace.name_any();
        let status = NamespaceStatus {
            phase: Some("Terminating".into()),
            conditions: Some(conditions(namespace, remaining, Timestamp::now())),
        };
        if namespace.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = json!({ "status": status });
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(()),
            Err(e) if is_not_found(&e) || is_conflict(&e) => Ok(()),
            Err(e) => Err(Error::api(format!("update the status of namespace {name}"))(e)),
        }
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let name = namespace.name_any();
        let kept = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
        let finalizers = kept.filter(|finalizer| *finalizer != FINALIZER).cloned().collect();
        let body = Namespace { spec: Some(NamespaceSpec { finalizers: Some(finalizers) }), ..namespace.clone() };
        let api: Api<Namespace> = Api::all(self.client.clone());
        match api.replace_subresource("finalize", &name, &PostParams::default(), &body).await {
            Ok(_) => info!(namespace = name, "namespace is empty and gone"),
            Err(e) if is_not_found(&e) => {}
            Err(e) => return Err(Error::api(format!("finalize namespace {name}"))(e)),
        }
        Ok(())
    }
}

impl Reconcile for NamespaceDeletion {
    type Key = String;

    async fn reconcile(&self, key: &String) -> Result<Action, Error> {
        let Some(namespace) = self.cluster.namespaces.get("", key) else { return Ok(Action::Done) };
        if !awaits_us(&namespace) {
            return Ok(Action::Done);
        }
        let remaining = self.empty(key).await?;
        if remaining.objects.is_empty() {
            self.finalize(&namespace).await?;
        } else {
            self.report(&namespace, &remaining).await?;
        }
        Ok(Action::Done)
    }
}

/// True if the Namespace is being deleted and waits for this controller.
fn awaits_us(namespace: &Namespace) -> bool {
    let mut finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    is_terminating(namespace) && finalizers.any(|finalizer| finalizer == FINALIZER)
}

/// The conditions that Kubernetes sets. Discovery is in this process and never fails, and content that cannot be deleted
/// is an error that is tried again.
fn conditions(namespace: &Namespace, remaining: &Remaining, now: Timestamp) -> Vec<NamespaceCondition> {
    let fine = |reason, message: &str| ("False", reason, message.to_owned());
    let list = |counts: &BTreeMap<String, usize>, verb: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {verb} {count} resource instances")).collect();
        parts.join(", ")
    };
    let content = list(&remaining.objects, "has");
    let finalizers = if remaining.finalizers.is_empty() {
        fine("ContentHasNoFinalizers", "All content-preserving finalizers finished")
    } else {
        let held = list(&remaining.finalizers, "in");
        ("True", "SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {held}"))
    };
    [
        ("NamespaceDeletionDiscoveryFailure", fine("ResourcesDiscovered", "All resources successfully discovered")),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            fine("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            fine("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            ("True", "SomeResourcesRemain", format!("Some resources are remaining: {content}")),
        ),
        ("NamespaceFinalizersRemaining", finalizers),
    ]
    .into_iter()
    .map(|(type_, (status, reason, message))| {
        let before = namespace.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let before = before.into_iter().find(|condition| condition.type_ == type_ && condition.status == status);
        NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: before
                .and_then(|condition| condition.last_transition_time.clone())
                .or(Some(Time(now))),
        }
    })
    .collect()
}

async fn follow(cluster: Cluster, queue: Arc<Queue<String>>) {
    let mut namespaces = cluster.namespaces.subscribe();
    while let Some(change) = namespaces.recv().await {
        if let Change::Applied { old, new } = change
            && awaits_us(&new)
            && !old.is_some_and(|old| awaits_us(&old))
        {
            queue.add(new.name_any());
        }
    }
}
