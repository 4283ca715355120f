//! The EndpointSlice controller (ES1-ES24): keeps the slices of each Service with a selector in step with its Pods.
//!
//! [`super::slice_plan`] decides, [`super::slice_writer`] writes; this is the loop between the two.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::Client;
use kube::Resource;
use tokio::task::JoinSet;

use super::endpoint_model::{TriggerTimes, Triggers, selector_of};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run};
use super::service_pods::ServicePods;
use super::slice_plan::{self, HintsNews, MANAGED_BY, Nodes};
use super::slice_writer::{Present, SliceWriter};
use crate::cluster::{Cluster, Informer, ObjectKey};
use crate::events::{EventType, Recorder};

/// Services in flight at once: enough for their writes to share a commit.
const WORKERS: usize = 8;

pub(super) struct SliceController {
    cluster: Cluster,
    service_pods: Arc<ServicePods>,
    writer: Arc<SliceWriter>,
    triggers: TriggerTimes,
    events: Recorder,
}

impl SliceController {
    /// Serves `queue`, which `service_pods` fills.
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        service_pods: &Arc<ServicePods>,
        queue: Arc<Queue<ObjectKey>>,
        tasks: &mut JoinSet<()>,
    ) {
        let controller = Arc::new(Self {
            cluster: cluster.clone(),
            service_pods: Arc::clone(service_pods),
            writer: SliceWriter::start(client, cluster, MANAGED_BY, Arc::clone(&queue), tasks),
            triggers: TriggerTimes::default(),
            events: Recorder::new(client.clone(), "endpoint-slice-controller", None),
        });
        tasks.spawn(async move {
            controller.service_pods.wait_synced().await;
            controller.writer.wait_synced().await;
            run("endpointslices", controller, queue, WORKERS).await;
        });
    }

    async fn bring_up_to_date(&self, key: &ObjectKey, service: &Service) -> Result<Action, Error> {
        let existing = match self.writer.present(key).await? {
            Present::Slices(slices) => slices,
            Present::Behind(wait) => return Ok(Action::Behind(wait)),
        };
        let pods = self.service_pods.pods_of(service);
        let triggers = Triggers::of(service, pods.iter().map(|pod| -> &Pod { pod }));
        let outcome = slice_plan::reconcile(
            service,
            &pods,
            &self.cluster.nodes,
            &existing,
            self.triggers.since_last_write(key, &triggers),
        );
        if !outcome.plan.is_empty() {
            self.writer.apply(key, outcome.plan).await?;
        }
        self.triggers.written(key, triggers);
        for news in outcome.hints {
            let (type_, reason, message) = match news {
                HintsNews::Enabled(message) => (EventType::Normal, "TopologyAwareHintsEnabled", message),
                HintsNews::Disabled(message) => (EventType::Warning, "TopologyAwareHintsDisabled", message),
            };
            self.events.event(service.object_ref(&()), type_, reason, message);
        }
        if outcome.missing_nodes.is_empty() {
            Ok(Action::Done)
        } else {
            Err(Error::MissingNodes(outcome.missing_nodes.join(", ")))
        }
    }
}

impl Nodes for Informer<Node> {
    fn get(&self, name: &str) -> Option<Arc<Node>> {
        self.get("", name)
    }

    fn list(&self) -> Vec<Arc<Node>> {
        self.list()
    }
}

impl Reconcile for SliceController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(service) = self.cluster.services.get(&key.namespace, &key.name) else {
            // ES19: the garbage collector takes the slices.
            self.writer.forget(key);
            self.triggers.forget(key);
            return Ok(Action::Done);
        };
        if selector_of(&service).is_none() {
            return Ok(Action::Done);
        }
        let result = self.bring_up_to_date(key, &service).await;
        if let Err(error) = &result
            && !error.is_conflict()
        {
            let message = format!("Error updating Endpoint Slices for Service {key}: {error}");
            self.events.event(service.object_ref(&()), EventType::Warning, "FailedToUpdateEndpointSlices", message);
        }
        result
    }
}
