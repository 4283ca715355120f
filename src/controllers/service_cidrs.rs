//! ServiceCIDRs (SC1, SC3, SC4): the cluster's own is always there, new ones become ready, and one that is deleted stays
//! until no Service and no IPAddress has an address of it alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR, ServiceCIDRSpec, ServiceCIDRStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{ListParams, PostParams};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt};
use tokio::task::JoinSet;

use super::queue::Queue;
use super::runner::{Action, Error, Reconcile, is_already_exists, is_not_found, run, unless_gone};
use crate::cluster::{Change, Cluster, Informer, service_ranges};
use crate::config::{Network, OWN_SERVICE_CIDR as OWN};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const READY: &str = "Ready";
/// SC4: time for Services that are being made to show their addresses.
const DELETION_GRACE: SignedDuration = SignedDuration::from_secs(10);
/// Nothing tells when an IPAddress that nobody's Service needs has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

pub(super) struct ServiceCidrController {
    client: Client,
    network: Network,
    services: Informer<Service>,
    cidrs: Informer<ServiceCIDR>,
}

impl ServiceCidrController {
    pub(super) fn start(client: &Client, cluster: &Cluster, network: &Network, tasks: &mut JoinSet<()>) {
        let queue = Arc::new(Queue::new());
        let (services, cidrs) = (cluster.services.clone(), cluster.service_cidrs.clone());
        let controller = Arc::new(Self { client: client.clone(), network: network.clone(), services, cidrs });
        tasks.spawn(follow(Arc::clone(&controller), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.services.wait_synced().await;
            controller.cidrs.wait_synced().await;
            queue.add(OWN.to_owned());
            run("service-cidrs", controller, queue, 1).await;
        });
    }

    fn api(&self) -> Api<ServiceCIDR> {
        Api::all(self.client.clone())
    }

    async fn create_own(&self) -> Result<(), Error> {
        let cidrs = vec![self.network.service_v4.to_string(), self.network.service_v6.to_string()];
        let own = ServiceCIDR {
            metadata: ObjectMeta { name: Some(OWN.into()), ..ObjectMeta::default() },
            spec: Some(ServiceCIDRSpec { cidrs: Some(cidrs) }),
            status: None,
        };
        match self.api().create(&PostParams::default(), &own).await {
            Ok(_) => Ok(()),
            Err(e) if is_already_exists(&e) => Ok(()),
            Err(e) => Err(Error::api("create ServiceCIDR kubernetes")(e)),
        }
    }

    async fn set_finalizer(&self, cidr: &ServiceCIDR, wanted: bool) -> Result<(), Error> {
        let mut changed = cidr.clone();
        let finalizers = changed.finalizers_mut();
        if finalizers.iter().any(|name| name == FINALIZER) == wanted {
            return Ok(());
        }
        finalizers.retain(|name| name != FINALIZER);
        if wanted {
            finalizers.push(FINALIZER.into());
        }
        let name = cidr.name_any();
        let written = self.api().replace(&name, &PostParams::default(), &changed).await;
        unless_gone(written).map(drop).map_err(Error::api(format!("update ServiceCIDR {name}")))
    }

    async fn set_ready(&self, name: &str, ready: bool) -> Result<(), Error> {
        let failed = |e| Error::api(format!("update the status of ServiceCIDR {name}"))(e);
        let Some(mut cidr) = self.api().get_opt(name).await.map_err(failed)? else { return Ok(()) };
        let status = cidr.status.get_or_insert_with(ServiceCIDRStatus::default);
        let conditions = status.conditions.get_or_insert_default();
        let wanted = if ready { "True" } else { "False" };
        if conditions.iter().any(|condition| condition.type_ == READY && condition.status == wanted) {
            return Ok(());
        }
        conditions.retain(|condition| condition.type_ != READY);
        conditions.push(Condition {
            type_: READY.into(),
            status: wanted.into(),
            reason: if ready { "" } else { "Terminating" }.into(),
            message: if ready { "Kubernetes Service CIDR is ready" } else { IN_USE }.into(),
            observed_generation: None,
            last_transition_time: Time(Timestamp::now()),
        });
        match self.api().replace_status(name, &PostParams::default(), &cidr).await {
            Ok(_) => Ok(()),
            Err(e) if is_not_found(&e) => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Whether a Service or an IPAddress has an address that no other range covers.
    async fn is_needed(&self, cidr: &ServiceCIDR) -> Result<bool, Error> {
        let others: Vec<IpNet> = self
            .cidrs
            .list()
            .iter()
            .filter(|other| may_cover(other, cidr))
            .flat_map(|other| service_ranges(other))
            .collect();
        let own = service_ranges(cidr);
        let only_here =
            |ip: &IpAddr| own.iter().any(|net| net.contains(ip)) && !others.iter().any(|net| net.contains(ip));
        let of_service = self.services.list().iter().any(|service| {
            let ips = service.spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
            ips.filter_map(|ip| ip.parse().ok()).any(|ip| only_here(&ip))
        });
        if of_service {
            return Ok(true);
        }
        let addresses = Api::<PartialObjectMeta<IPAddress>>::all(self.client.clone());
        let addresses = addresses.list(&ListParams::default()).await.map_err(Error::api("list the IPAddresses"))?;
        Ok(addresses.iter().filter_map(|address| address.name_any().parse().ok()).any(|ip| only_here(&ip)))
    }
}

fn may_cover(other: &ServiceCIDR, cidr: &ServiceCIDR) -> bool {
    other.metadata.name != cidr.metadata.name && other.metadata.deletion_timestamp.is_none()
}

impl Reconcile for ServiceCidrController {
    type Key = String;

    async fn reconcile(&self, name: &String) -> Result<Action, Error> {
        let Some(cidr) = self.cidrs.get("", name) else {
            if name == OWN {
                self.create_own().await?;
            }
            return Ok(Action::Done);
        };
        let Some(deleted) = &cidr.metadata.deletion_timestamp else {
            self.set_finalizer(&cidr, true).await?;
            self.set_ready(name, true).await?;
            return Ok(Action::Done);
        };
        if self.is_needed(&cidr).await? {
            self.set_ready(name, false).await?;
            return Ok(Action::After(LOOK_AGAIN));
        }
        let rest = DELETION_GRACE - Timestamp::now().duration_since(deleted.0);
        if rest > SignedDuration::ZERO {
            return Ok(Action::After(Duration::try_from(rest).unwrap_or_default()));
        }
        self.set_finalizer(&cidr, false).await?;
        Ok(Action::Done)
    }
}

async fn follow(controller: Arc<ServiceCidrController>, queue: Arc<Queue<String>>) {
    let mut cidrs = controller.cidrs.subscribe();
    while let Some(change) = cidrs.recv().await {
        if let Change::Applied { new: object, .. } | Change::Deleted(object) = change {
            queue.add(object.name_any());
            // It may cover the addresses of one that is to go.
            queue_deleted(&controller, &queue);
        }
    }
}

fn queue_deleted(controller: &ServiceCidrController, queue: &Queue<String>) {
    let cidrs = controller.cidrs.list();
    for cidr in cidrs.iter().filter(|cidr| cidr.metadata.deletion_timestamp.is_some()) {
        queue.add(cidr.name_any());
    }
}
