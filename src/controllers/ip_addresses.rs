//! Brings IPAddress objects of Services back that somebody has deleted, and removes those that nobody needs (SC7). The API
//! itself writes them along with the Service; here they are all looked at once at the start, and then when one goes.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_already_exists, run, unless_gone};
use crate::api::alloc::{FAMILY, MANAGED_BY, MANAGER};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};

const WORKERS: usize = 8;

pub(super) struct IpAddressController {
    client: Client,
    services: Informer<Service>,
    /// The Service behind each address.
    owners: Mutex<HashMap<IpAddr, ObjectKey>>,
    /// Cancelled once every Service that was there at the start is in `owners`.
    complete: CancellationToken,
}

impl IpAddressController {
    pub(super) fn start(client: &Client, cluster: &Cluster, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let services = cluster.services.clone();
        let controller = Arc::new(Self {
            client: client.clone(),
            services,
            owners: Mutex::default(),
            complete: CancellationToken::new(),
        });
        tasks.spawn(follow_services(Arc::clone(&controller), Arc::clone(&queue)));
        tasks.spawn(follow_addresses(Arc::clone(&controller), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.complete.cancelled().await;
            run("ip-addresses", controller, queue, WORKERS).await;
        });
    }

    fn api(&self) -> Api<IPAddress> {
        Api::all(self.client.clone())
    }
}

fn addresses(service: &Service) -> Vec<IpAddr> {
    let ips = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
    ips.filter_map(|ip| ip.parse().ok()).collect()
}

fn wanted(address: IpAddr, owner: &ObjectKey) -> IPAddress {
    let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
    let labels = [(FAMILY, family), (MANAGED_BY, MANAGER)].map(|(key, value)| (key.to_owned(), value.to_owned()));
    IPAddress {
        metadata: ObjectMeta { name: Some(address.to_string()), labels: Some(labels.into()), ..ObjectMeta::default() },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".into(),
                namespace: Some(owner.namespace.clone()),
                name: owner.name.clone(),
            },
        },
    }
}

fn is_ours(object: &IPAddress) -> bool {
    object.labels().get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

impl Reconcile for IpAddressController {
    type Key = IpAddr;

    async fn reconcile(&self, address: &IpAddr) -> Result<Action, Error> {
        let name = address.to_string();
        let found = self.api().get_opt(&name).await.map_err(Error::api(format!("read IPAddress {name}")))?;
        let owner = self.owners.lock().get(address).cloned();
        let right = match (&found, &owner) {
            (Some(found), Some(owner)) => found.spec.parent_ref == wanted(*address, owner).spec.parent_ref,
            (Some(found), None) => !is_ours(found),
            (None, owner) => owner.is_none(),
        };
        if right {
            return Ok(Action::Done);
        }
        // The parent is immutable: an object of the wrong one makes room for a new one.
        if found.as_ref().is_some_and(is_ours) {
            let deleted = self.api().delete(&name, &DeleteParams::default()).await;
            unless_gone(deleted).map_err(Error::api(format!("delete IPAddress {name}")))?;
        }
        if let Some(owner) = owner {
            match self.api().create(&PostParams::default(), &wanted(*address, &owner)).await {
                Ok(_) => {}
                Err(e) if is_already_exists(&e) => {}
                Err(e) => return Err(Error::api(format!("create IPAddress {name}"))(e)),
            }
        }
        Ok(Action::Done)
    }
}

async fn follow_services(controller: Arc<IpAddressController>, queue: Arc<Queue<IpAddr>>) {
    let mut changes = controller.services.subscribe();
    let mut starting = true;
    while let Some(change) = changes.recv().await {
        let (old, new) = match change {
            Change::Applied { old, new } => (old, Some(new)),
            Change::Deleted(old) => (Some(old), None),
            Change::Synced => {
                starting = false;
                controller.complete.cancel();
                continue;
            }
            Change::Marked(_) => continue,
        };
        let key = |service: &Service| ObjectKey::of(service);
        let before = old.as_deref().map(addresses).unwrap_or_default();
        let after = new.as_deref().map(addresses).unwrap_or_default();
        if before == after {
            continue;
        }
        let mut owners = controller.owners.lock();
        for address in before {
            // Another Service may have got it already.
            if old.as_deref().map(key).as_ref() == owners.get(&address) {
                owners.remove(&address);
                // Its object may have been brought back between the two ends.
                queue.add(address);
            }
        }
        for address in after {
            owners.extend(new.as_deref().map(|service| (address, key(service))));
            if starting {
                queue.add(address);
            }
        }
    }
}

/// Looks at every object once, and again at those that somebody deletes.
async fn follow_addresses(controller: Arc<IpAddressController>, queue: Arc<Queue<IpAddr>>) {
    controller.complete.cancelled().await;
    let api = Api::<PartialObjectMeta<IPAddress>>::all(controller.client.clone());
    let mut events = std::pin::pin!(watcher(api, Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(object) | Event::Delete(object)) => {
                if let Ok(address) = object.name_any().parse() {
                    queue.add(address);
                }
            }
            Ok(_) => {}
            Err(error) => warn!(%error, "watch of IPAddresses failed, starting over"),
        }
    }
}
