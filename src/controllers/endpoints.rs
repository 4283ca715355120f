//! The controller of the legacy Endpoints objects (EP1-EP9).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::task::JoinSet;

use super::endpoint_model::{LEADER_ANNOTATION, TriggerTimes, Triggers, selector_of};
use super::endpoints_plan;
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_namespace_terminating, run, unless_gone};
use super::service_pods::ServicePods;
use crate::cluster::{Change, Cluster, ObjectKey};
use crate::events::{EventType, Recorder};

const WORKERS: usize = 8;

pub(super) struct EndpointsController {
    client: Client,
    cluster: Cluster,
    service_pods: Arc<ServicePods>,
    triggers: TriggerTimes,
    events: Recorder,
}

impl EndpointsController {
    /// Serves `queue`, which `service_pods` fills.
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        service_pods: &Arc<ServicePods>,
        queue: Arc<Queue<ObjectKey>>,
        tasks: &mut JoinSet<()>,
    ) {
        let controller = Arc::new(Self {
            client: client.clone(),
            cluster: cluster.clone(),
            service_pods: Arc::clone(service_pods),
            triggers: TriggerTimes::default(),
            events: Recorder::new(client.clone(), "endpoint-controller", None),
        });
        tasks.spawn(follow(cluster.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.service_pods.wait_synced().await;
            controller.cluster.endpoints.wait_synced().await;
            run("endpoints", controller, queue, WORKERS).await;
        });
    }

    async fn bring_up_to_date(&self, key: &ObjectKey, service: &Service) -> Result<(), Error> {
        let pods = self.service_pods.pods_of(service);
        let existing = self.cluster.endpoints.get(&key.namespace, &key.name);
        let triggers = Triggers::of(service, pods.iter().map(|pod| -> &Pod { pod }));
        let trigger = self.triggers.since_last_write(key, &triggers);
        if let Some(wanted) = endpoints_plan::reconcile(service, &pods, existing.as_deref(), trigger) {
            let api = self.api(key);
            let written = match existing {
                Some(_) => api.replace(&key.name, &PostParams::default(), &wanted).await,
                None => api.create(&PostParams::default(), &wanted).await,
            };
            match written {
                Ok(_) => {}
                Err(e) if is_namespace_terminating(&e) => {}
                Err(e) => return Err(Error::api(format!("write Endpoints {key}"))(e)),
            }
        }
        self.triggers.written(key, triggers);
        Ok(())
    }

    /// EP1: without the Service there are no Endpoints, whoever made them.
    async fn remove(&self, key: &ObjectKey) -> Result<(), Error> {
        self.triggers.forget(key);
        let Some(endpoints) = self.cluster.endpoints.get(&key.namespace, &key.name) else { return Ok(()) };
        let only_this = Preconditions { uid: endpoints.uid(), ..Preconditions::default() };
        let deleted = self.api(key).delete(&key.name, &DeleteParams::default().preconditions(only_this)).await;
        unless_gone(deleted).map(drop).map_err(Error::api(format!("delete Endpoints {key}")))
    }

    fn api(&self, key: &ObjectKey) -> Api<Endpoints> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

impl Reconcile for EndpointsController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(service) = self.cluster.services.get(&key.namespace, &key.name) else {
            return self.remove(key).await.map(|()| Action::Done);
        };
        if selector_of(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Action::Done);
        }
        let result = self.bring_up_to_date(key, &service).await;
        if let Err(error) = &result
            && !error.is_conflict()
        {
            let message = format!("Failed to update endpoint {key}: {error}");
            self.events.event(service.object_ref(&()), EventType::Warning, "FailedToUpdateEndpoint", message);
        }
        result.map(|()| Action::Done)
    }
}

/// Queues Endpoints that were deleted, to be restored, and at the start those that a Service left behind while nobody
/// watched. Endpoints of a leader election never had a Service.
async fn follow(cluster: Cluster, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = cluster.endpoints.subscribe();
    let mut at_start = Some(Vec::new());
    while let Some(change) = changes.recv().await {
        match change {
            Change::Applied { new, .. } => {
                if let Some(found) = &mut at_start
                    && !new.annotations().contains_key(LEADER_ANNOTATION)
                {
                    found.push(ObjectKey::of(&*new));
                }
            }
            Change::Deleted(old) => queue.add(ObjectKey::of(&*old)),
            Change::Marked(mark) => queue.mark(&mark),
            Change::Synced => {
                for key in at_start.take().unwrap_or_default() {
                    queue.add(key);
                }
            }
        }
    }
}
