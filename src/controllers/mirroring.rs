//! The EndpointSlice mirroring controller (EM1-EM6): hand-made Endpoints of Services without a selector become slices,
//! which is all that router and DNS read.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Endpoints;
use kube::{Client, Resource};
use tokio::task::JoinSet;

use super::mirror_plan::{self, MANAGED_BY, Outcome};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run};
use super::slice_packing::Plan;
use super::slice_writer::{Present, SliceWriter};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::events::{EventType, Recorder};

const WORKERS: usize = 4;

pub(super) struct MirroringController {
    cluster: Cluster,
    writer: Arc<SliceWriter>,
    events: Recorder,
}

impl MirroringController {
    pub(super) fn start(client: &Client, cluster: &Cluster, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            cluster: cluster.clone(),
            writer: SliceWriter::start(client, cluster, MANAGED_BY, Arc::clone(&queue), tasks),
            events: Recorder::new(client.clone(), "endpoint-slice-mirroring-controller", None),
        });
        tasks.spawn(queue_keys(cluster.endpoints.clone(), Arc::clone(&queue)));
        tasks.spawn(queue_keys(cluster.services.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.cluster.services.wait_synced().await;
            controller.cluster.endpoints.wait_synced().await;
            controller.writer.wait_synced().await;
            run("endpointslicemirroring", controller, queue, WORKERS).await;
        });
    }

    fn report(&self, endpoints: &Endpoints, outcome: &Outcome) {
        let about = || endpoints.object_ref(&());
        if outcome.invalid_addresses > 0 {
            let message =
                format!("Skipped {} invalid IP addresses when mirroring to EndpointSlices", outcome.invalid_addresses);
            self.events.event(about(), EventType::Warning, "InvalidIPAddress", message);
        }
        if outcome.addresses_over_limit > 0 {
            let message = format!(
                "A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. {} addresses were skipped",
                outcome.addresses_over_limit
            );
            self.events.event(about(), EventType::Warning, "TooManyAddressesToMirror", message);
        }
    }
}

impl Reconcile for MirroringController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let existing = match self.writer.present(key).await? {
            Present::Slices(slices) => slices,
            Present::Behind(wait) => return Ok(Action::Behind(wait)),
        };
        let service = self.cluster.services.get(&key.namespace, &key.name);
        let endpoints = self.cluster.endpoints.get(&key.namespace, &key.name);
        let plan = match (service, &endpoints) {
            (Some(service), Some(endpoints)) if mirror_plan::should_mirror(&service, endpoints) => {
                let outcome = mirror_plan::reconcile(endpoints, &existing);
                self.report(endpoints, &outcome);
                outcome.plan
            }
            // EM2, EM6.
            _ => Plan { delete: existing, ..Plan::default() },
        };
        let gone = endpoints.is_none();
        if !plan.is_empty() {
            self.writer.apply(key, plan).await?;
        } else if gone {
            self.writer.forget(key);
        }
        Ok(Action::Done)
    }
}

async fn queue_keys<K: Resource>(informer: Informer<K>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = informer.subscribe();
    while let Some(change) = changes.recv().await {
        match change {
            Change::Applied { new: object, .. } | Change::Deleted(object) => queue.add(ObjectKey::of(&*object)),
            Change::Synced => {}
            Change::Marked(mark) => queue.mark(&mark),
        }
    }
}
