//! Addresses for Services of type LoadBalancer, as a cloud's service controller gives them: from the pool into
//! `status.loadBalancer`, guarded by a finalizer, with the same events. Services with a `loadBalancerClass` other than
//! [`LOAD_BALANCER_CLASS`] are left alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::load_balancer_plan::{self as plan, FINALIZER, Pool, Refused};
use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, run, unless_gone};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::config::Network;
use crate::events::{EventType, Recorder, SYNC_LOAD_BALANCER_FAILED};

#[cfg(doc)]
use super::LOAD_BALANCER_CLASS;

const WORKERS: usize = 4;

pub(super) struct LoadBalancerController {
    client: Client,
    services: Informer<Service>,
    queue: Arc<Queue<ObjectKey>>,
    pool: Mutex<Pool>,
    /// Services that were refused, with what they were told: they are tried again when an address is freed.
    waiting: Mutex<BTreeMap<ObjectKey, Refused>>,
    events: Recorder,
}

impl LoadBalancerController {
    pub(super) fn start(client: &Client, cluster: &Cluster, network: &Network, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            services: cluster.services.clone(),
            queue: Arc::clone(&queue),
            pool: Mutex::new(Pool::new(network)),
            waiting: Mutex::default(),
            events: Recorder::new(client.clone(), "service-controller", None),
        });
        tasks.spawn(follow(cluster.services.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.services.wait_synced().await;
            controller.adopt();
            run("load-balancers", controller, queue, WORKERS).await;
        });
    }

    /// Before anything is given away, Services get back what they had before the restart, the eldest first.
    fn adopt(&self) {
        let mut services = self.services.list();
        services.retain(|service| plan::is_wanted(service) || plan::needs_cleanup(service));
        services.sort_by_key(|service| service.metadata.creation_timestamp.as_ref().map(|time| time.0));
        let mut pool = self.pool.lock();
        for service in services {
            pool.adopt(&ObjectKey::of(&*service), &service);
        }
    }

    async fn ensure(&self, key: &ObjectKey, service: &Service) -> Result<(), Error> {
        let assigned = self.pool.lock().assign(key, service);
        let (addresses, freed) = match assigned {
            Ok(assigned) => assigned,
            Err(refused) => return self.refuse(key, service, refused).await,
        };
        self.waiting.lock().remove(key);
        if freed {
            self.retry_waiting();
        }
        let shows = plan::shown(service) == plan::ingress(&addresses);
        if shows && plan::has_finalizer(service) {
            return Ok(());
        }
        self.event(service, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer");
        self.set_finalizer(key, service, true).await?;
        self.show(key, service, &addresses).await?;
        self.event(service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer");
        Ok(())
    }

    async fn refuse(&self, key: &ObjectKey, service: &Service, refused: Refused) -> Result<(), Error> {
        let news = self.waiting.lock().insert(key.clone(), refused.clone()) != Some(refused.clone());
        if news {
            let message = format!("Error syncing load balancer: {refused}");
            self.event(service, EventType::Warning, SYNC_LOAD_BALANCER_FAILED, &message);
        }
        let held = self.pool.lock().held(key).to_vec();
        self.show(key, service, &held).await
    }

    async fn clean_up(&self, key: &ObjectKey, service: &Service) -> Result<(), Error> {
        self.event(service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer");
        if service.metadata.deletion_timestamp.is_none() {
            self.show(key, service, &[]).await?;
        }
        self.set_finalizer(key, service, false).await?;
        self.event(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer");
        Ok(())
    }

    /// The Service has no more use for its addresses.
    fn release(&self, key: &ObjectKey) {
        self.waiting.lock().remove(key);
        if self.pool.lock().release(key) {
            self.retry_waiting();
        }
    }

    fn retry_waiting(&self) {
        for key in self.waiting.lock().keys() {
            self.queue.add(key.clone());
        }
    }

    async fn set_finalizer(&self, key: &ObjectKey, service: &Service, wanted: bool) -> Result<(), Error> {
        if plan::has_finalizer(service) == wanted {
            return Ok(());
        }
        let mut finalizers = service.finalizers().to_vec();
        finalizers.retain(|name| name != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.into());
        }
        // The list is written whole, so it must be the one that was read.
        let version = &service.metadata.resource_version;
        let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
        let patched = self.api(key).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).map(drop).map_err(Error::api(format!("update the finalizers of Service {key}")))
    }

    async fn show(&self, key: &ObjectKey, service: &Service, addresses: &[IpAddr]) -> Result<(), Error> {
        let ingress = plan::ingress(addresses);
        if plan::shown(service) == ingress {
            return Ok(());
        }
        let ingress = if ingress.is_empty() { Value::Null } else { json!(ingress) };
        let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
        let patched = self.api(key).patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        unless_gone(patched).map(drop).map_err(Error::api(format!("update the status of Service {key}")))
    }

    fn event(&self, service: &Service, type_: EventType, reason: &str, message: &str) {
        self.events.event(service.object_ref(&()), type_, reason, message);
    }

    fn api(&self, key: &ObjectKey) -> Api<Service> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }
}

impl Reconcile for LoadBalancerController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        match self.services.get(&key.namespace, &key.name) {
            Some(service) if plan::is_wanted(&service) => self.ensure(key, &service).await?,
            Some(service) => {
                if plan::needs_cleanup(&service) {
                    self.clean_up(key, &service).await?;
                }
                self.release(key);
            }
            None => self.release(key),
        }
        Ok(Action::Done)
    }
}

/// Services that never were of this type cost nothing.
async fn follow(services: Informer<Service>, queue: Arc<Queue<ObjectKey>>) {
    let concerns = |service: &Service| plan::is_wanted(service) || plan::has_finalizer(service);
    let mut changes = services.subscribe();
    while let Some(change) = changes.recv().await {
        let (old, new) = match change {
            Change::Applied { old, new } => (old, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Synced => continue,
            Change::Marked(mark) => {
                queue.mark(&mark);
                continue;
            }
        };
        if [&old, &new].into_iter().flatten().any(|service| concerns(service))
            && let Some(service) = new.or(old)
        {
            queue.add(ObjectKey::of(&*service));
        }
    }
}
