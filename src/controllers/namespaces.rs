//! What every namespace holds from the start: ServiceAccount `default` (PD7: no Pod without it) and ConfigMap
//! `kube-root-ca.crt`, which Pods need to trust the API server (PD4). Both come back when they are deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_already_exists, is_namespace_terminating, run};
use crate::cluster::{Change, Cluster};

/// The ServiceAccount of Pods that name none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";
/// The ConfigMap with the cluster's certificate authority under [`ROOT_CA_KEY`], as PEM.
pub const ROOT_CA_CONFIG_MAP: &str = "kube-root-ca.crt";
pub const ROOT_CA_KEY: &str = "ca.crt";

const WORKERS: usize = 4;

pub(super) struct NamespaceController {
    client: Client,
    cluster: Cluster,
    root_ca_pem: String,
}

impl NamespaceController {
    pub(super) fn start(client: &Client, cluster: &Cluster, root_ca_pem: String, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self { client: client.clone(), cluster: cluster.clone(), root_ca_pem });
        tasks.spawn(follow(cluster.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.cluster.service_accounts.wait_synced().await;
            controller.cluster.config_maps.wait_synced().await;
            run("namespaces", controller, queue, WORKERS).await;
        });
    }

    async fn ensure_service_account(&self, namespace: &str) -> Result<(), Error> {
        if self.cluster.service_accounts.get(namespace, DEFAULT_SERVICE_ACCOUNT).is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: metadata(DEFAULT_SERVICE_ACCOUNT), ..ServiceAccount::default() };
        let created = Api::<ServiceAccount>::namespaced(self.client.clone(), namespace)
            .create(&PostParams::default(), &account)
            .await;
        unless_there(created, || format!("create ServiceAccount {namespace}/{DEFAULT_SERVICE_ACCOUNT}"))
    }

    async fn ensure_root_ca(&self, namespace: &str) -> Result<(), Error> {
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let data = Some(BTreeMap::from([(ROOT_CA_KEY.to_owned(), self.root_ca_pem.clone())]));
        match self.cluster.config_maps.get(namespace, ROOT_CA_CONFIG_MAP) {
            Some(existing) if existing.data == data => Ok(()),
            Some(existing) => {
                let repaired = ConfigMap { data, binary_data: None, ..(*existing).clone() };
                api.replace(ROOT_CA_CONFIG_MAP, &PostParams::default(), &repaired)
                    .await
                    .map(drop)
                    .map_err(Error::api(format!("update ConfigMap {namespace}/{ROOT_CA_CONFIG_MAP}")))
            }
            None => {
                let config_map = ConfigMap { metadata: metadata(ROOT_CA_CONFIG_MAP), data, ..ConfigMap::default() };
                let created = api.create(&PostParams::default(), &config_map).await;
                unless_there(created, || format!("create ConfigMap {namespace}/{ROOT_CA_CONFIG_MAP}"))
            }
        }
    }
}

fn metadata(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Waits until Pods are admitted in the namespace `default` (PD7).
pub async fn wait_for_default_account(cluster: &Cluster) {
    let mut accounts = cluster.service_accounts.subscribe();
    while cluster.service_accounts.get("default", DEFAULT_SERVICE_ACCOUNT).is_none() {
        if accounts.recv().await.is_none() {
            return;
        }
    }
}

/// Somebody else's creation will do as well (its content is checked when the cache shows it), and a namespace that is
/// being deleted needs none.
fn unless_there<K>(created: kube::Result<K>, action: impl FnOnce() -> String) -> Result<(), Error> {
    match created {
        Ok(_) => Ok(()),
        Err(e) if is_already_exists(&e) || is_namespace_terminating(&e) => Ok(()),
        Err(e) => Err(Error::api(action())(e)),
    }
}

impl Reconcile for NamespaceController {
    type Key = String;

    async fn reconcile(&self, key: &String) -> Result<Action, Error> {
        if self.cluster.namespaces.get("", key).is_some_and(|namespace| !is_terminating(&namespace)) {
            self.ensure_service_account(key).await?;
            self.ensure_root_ca(key).await?;
        }
        Ok(Action::Done)
    }
}

pub(super) fn is_terminating(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
}

async fn follow(cluster: Cluster, queue: Arc<Queue<String>>) {
    let mut namespaces = cluster.namespaces.subscribe();
    let mut accounts = cluster.service_accounts.subscribe();
    let mut config_maps = cluster.config_maps.subscribe();
    loop {
        let namespace = tokio::select! {
            Some(change) = namespaces.recv() => match change {
                Change::Applied { new, .. } => Some(new.name_any()),
                _ => None,
            },
            Some(change) = accounts.recv() => match change {
                Change::Deleted(old) if old.name_any() == DEFAULT_SERVICE_ACCOUNT => old.namespace(),
                _ => None,
            },
            Some(change) = config_maps.recv() => match change {
                Change::Applied { new: object, .. } | Change::Deleted(object)
                    if object.name_any() == ROOT_CA_CONFIG_MAP => object.namespace(),
                _ => None,
            },
            else => return,
        };
        if let Some(namespace) = namespace {
            queue.add(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn default_account_is_waited_for_pd7() {
        let (cluster, writers) = Cluster::new();
        let account = |namespace: &str| ServiceAccount {
            metadata: ObjectMeta { namespace: Some(namespace.to_owned()), ..metadata(DEFAULT_SERVICE_ACCOUNT) },
            ..ServiceAccount::default()
        };
        let waiting = tokio::spawn({
            let cluster = cluster.clone();
            async move { wait_for_default_account(&cluster).await }
        });
        writers.service_accounts.apply(account("kube-system"));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        writers.service_accounts.apply(account("default"));
        waiting.await.expect("it ends");
        wait_for_default_account(&cluster).await;
    }
}
