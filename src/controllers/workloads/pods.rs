//! What the controllers have in common that keep Pods: templates, readiness, growing batches.

use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};

pub(super) use super::super::endpoint_model::pod_ready as is_ready;
use super::super::endpoint_model::{ready_condition, terminal, terminating};
use super::super::runner::{Error, describe, is_namespace_terminating, is_not_found};
use super::claims::{Namespaced, controller_ref};
use crate::cluster::ObjectKey;
use crate::events::{EventType, Recorder};

/// Pods that one turn creates or deletes at most, so that a typing error in `replicas` can be mended.
pub(super) const BURST: usize = 500;
/// Of the longest name that `generateName` makes, what is left of the prefix.
const NAME_PREFIX: usize = 58;

/// True if the Pod still does, or will do, its work.
pub(super) fn is_active(pod: &Pod) -> bool {
    !terminal(pod) && !terminating(pod)
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(super) fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub(super) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == kind)
}

/// Since when the Pod is ready, if it is.
pub(super) fn ready_since(pod: &Pod) -> Option<Option<Timestamp>> {
    let ready = ready_condition(pod).filter(|condition| condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map(|time| time.0))
}

/// Whether a Pod counts as available: ready, and that for `minReadySeconds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Availability {
    Yes,
    /// Should it stay ready.
    In(Duration),
    No,
}

pub(super) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    let Some(since) = ready_since(pod) else { return Availability::No };
    if min_ready_seconds <= 0 {
        return Availability::Yes;
    }
    let Some(at) = since.and_then(|since| since.checked_add(SignedDuration::from_secs(min_ready_seconds.into())).ok())
    else {
        return Availability::No;
    };
    match Duration::try_from(at.duration_since(now)) {
        Ok(left) if !left.is_zero() => Availability::In(left),
        _ => Availability::Yes,
    }
}

pub(super) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    availability(pod, min_ready_seconds, now) == Availability::Yes
}

/// When the next of the Pods becomes available that is ready for too short a time yet.
pub(super) fn next_available<'a>(
    pods: impl IntoIterator<Item = &'a Pod>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Option<Duration> {
    let left = |pod| match availability(pod, min_ready_seconds, now) {
        Availability::In(left) => Some(left),
        Availability::Yes | Availability::No => None,
    };
    pods.into_iter().filter_map(left).min()
}

/// True if the difference between two states of a Pod can matter to its controller. Probe messages and the progress of
/// init containers do not, and would otherwise be most of the work.
pub(super) fn differs(old: &Pod, new: &Pod) -> bool {
    let restarts = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        statuses.map(|status| status.restart_count).sum::<i32>()
    };
    let state = |pod: &Pod| (ready_since(pod), restarts(pod));
    old.metadata.uid != new.metadata.uid
        || terminating(old) != terminating(new)
        || phase(old) != phase(new)
        || node_name(old) != node_name(new)
        || old.metadata.labels != new.metadata.labels
        || old.metadata.owner_references != new.metadata.owner_references
        || old.metadata.finalizers != new.metadata.finalizers
        || condition(old, "DisruptionTarget") != condition(new, "DisruptionTarget")
        || state(old) != state(new)
}

/// A Pod of `template` that `owner` controls, named after it unless the caller gives it a name.
pub(super) fn from_template<O: Namespaced>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let metadata = template.metadata.clone().unwrap_or_default();
    let mut prefix = owner.name_any();
    prefix.truncate(NAME_PREFIX - 1);
    Pod {
        metadata: ObjectMeta {
            namespace: owner.namespace(),
            generate_name: Some(format!("{prefix}-")),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        ..Pod::default()
    }
}

/// What came of the calls of a turn.
pub(super) struct Outcome {
    pub(super) done: usize,
    pub(super) error: Option<Error>,
}

/// Makes `count` calls in batches of 1, 2, 4 and so on: what is refused once, by a quota or an admission, is not
/// asked for a thousand times.
pub(super) async fn slow_start<F>(count: usize, call: impl Fn(usize) -> F) -> Outcome
where
    F: Future<Output = Result<(), Error>>,
{
    let (mut done, mut size) = (0, 1);
    while done < count {
        let batch = size.min(count - done);
        let results: Vec<_> = (done..done + batch).map(&call).collect::<FuturesUnordered<_>>().collect().await;
        done += results.iter().filter(|result| result.is_ok()).count();
        if let Some(error) = results.into_iter().find_map(Result::err) {
            return Outcome { done, error: Some(error) };
        }
        size *= 2;
    }
    Outcome { done, error: None }
}

/// Creates and deletes Pods for owners of one kind, and tells of it in their events.
#[derive(Clone)]
pub(super) struct PodControl {
    client: Client,
    pub(super) events: Recorder,
}

impl PodControl {
    pub(super) fn new(client: &Client, component: &str) -> Self {
        Self { client: client.clone(), events: Recorder::new(client.clone(), component, None) }
    }

    fn api(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub(super) fn tell<O: Namespaced>(&self, owner: &O, reason: &str, message: String) {
        self.events.event(owner.object_ref(&()), EventType::Normal, reason, message);
    }

    pub(super) fn warn<O: Namespaced>(&self, owner: &O, reason: &str, message: String) {
        self.events.event(owner.object_ref(&()), EventType::Warning, reason, message);
    }

    /// Creates a Pod and tells of it. `None` if there is nothing to be created any more, as its namespace is being
    /// deleted.
    pub(super) async fn create<O: Namespaced>(&self, owner: &O, pod: &Pod) -> Result<Option<Pod>, Error> {
        match self.post(owner, pod).await {
            Ok(Some(created)) => {
                self.tell(owner, "SuccessfulCreate", format!("Created pod: {}", created.name_any()));
                Ok(Some(created))
            }
            Ok(None) => Ok(None),
            Err(e) => {
                self.warn(owner, "FailedCreate", format!("Error creating: {}", describe(&e)));
                Err(Error::api(format!("create a Pod of {} {}", O::kind(&()), ObjectKey::of(owner)))(e))
            }
        }
    }

    /// Deletes a Pod and tells of it. `None` if it is gone already.
    pub(super) async fn delete<O: Namespaced>(&self, owner: &O, pod: &Pod) -> Result<Option<Pod>, Error> {
        match self.remove(pod).await {
            Ok(Some(deleted)) => {
                self.tell(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name_any()));
                Ok(Some(deleted))
            }
            Ok(None) => Ok(None),
            Err(e) => {
                self.warn(owner, "FailedDelete", format!("Error deleting: {}", describe(&e)));
                Err(Error::api(format!("delete Pod {} of {}", ObjectKey::of(pod), O::kind(&())))(e))
            }
        }
    }

    pub(super) async fn post<O: Namespaced>(&self, owner: &O, pod: &Pod) -> Result<Option<Pod>, kube::Error> {
        match self.api(&owner.namespace().unwrap_or_default()).create(&PostParams::default(), pod).await {
            Ok(created) => Ok(Some(created)),
            Err(e) if is_namespace_terminating(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) async fn remove(&self, pod: &Pod) -> Result<Option<Pod>, kube::Error> {
        let only_this = Preconditions { uid: pod.uid(), ..Preconditions::default() };
        let options = DeleteParams::default().preconditions(only_this);
        match self.api(&pod.namespace().unwrap_or_default()).delete(&pod.name_any(), &options).await {
            Ok(answer) => Ok(answer.left()),
            Err(e) if is_not_found(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
