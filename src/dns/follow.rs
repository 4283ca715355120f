//! From the informer cache to the index, and to the zone's ranges: each change is applied as it comes, and what came
//! together is published together.

use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tracing::debug;

use super::records::{Index, Records};
use super::zone::Zone;
use crate::cluster::{Change, Cluster, Mark, ObjectKey, Subscription, service_ranges};

/// Changes taken from a subscription at once.
const BATCH: usize = 1024;

/// A subscription and what has been seen of it.
struct Feed<K> {
    changes: Subscription<K>,
    batch: Vec<Change<K>>,
    synced: bool,
    newest: u64,
    /// Kept until the changes before them are in the answers.
    marks: Vec<Mark>,
}

impl<K: Resource> Feed<K> {
    fn new(changes: Subscription<K>) -> Self {
        Self { changes, batch: Vec::new(), synced: false, newest: 0, marks: Vec::new() }
    }

    /// Waits for changes; 0 means that there will be no more.
    async fn wait(&mut self) -> usize {
        self.changes.recv_many(&mut self.batch, BATCH).await
    }

    /// Applies the changes that are there. Returns how many.
    fn drain(&mut self, mut apply: impl FnMut(Option<&K>, Option<&K>)) -> usize {
        while self.batch.len() < BATCH
            && let Ok(change) = self.changes.try_recv()
        {
            self.batch.push(change);
        }
        let count = self.batch.len();
        for change in self.batch.drain(..) {
            let (old, new) = match &change {
                Change::Applied { old, new } => (old.as_deref(), Some(&**new)),
                Change::Deleted(old) => (Some(&**old), None),
                Change::Synced => {
                    self.synced = true;
                    continue;
                }
                Change::Marked(mark) => {
                    self.marks.push(mark.clone());
                    continue;
                }
            };
            let revision = new.or(old).and_then(|object| object.resource_version()).and_then(|rv| rv.parse().ok());
            self.newest = self.newest.max(revision.unwrap_or(0));
            apply(old, new);
        }
        count
    }
}

/// Keeps the index and the zone's ranges in step with the cluster until the cluster's writers are gone. `complete` turns
/// true once everything that existed at the start is in the answers. The subscriptions begin with the call, not with the
/// first poll, so that a mark set after it waits.
pub fn follow(
    cluster: &Cluster,
    zone: Arc<Zone>,
    index: Arc<Index>,
    complete: watch::Sender<bool>,
) -> impl Future<Output = ()> + use<> {
    let mut namespaces = Feed::<Namespace>::new(cluster.namespaces.subscribe());
    let mut services = Feed::<Service>::new(cluster.services.subscribe());
    let mut slices = Feed::<EndpointSlice>::new(cluster.slices.subscribe());
    let mut pods = Feed::<Pod>::new(cluster.pods.subscribe());
    let mut cidrs = Feed::<ServiceCIDR>::new(cluster.service_cidrs.subscribe());
    async move {
        let mut ranges = BTreeMap::<String, Vec<IpNet>>::new();
        let mut records = Records::default();
        loop {
            let received = tokio::select! {
                received = slices.wait() => received,
                received = services.wait() => received,
                received = pods.wait() => received,
                received = namespaces.wait() => received,
                received = cidrs.wait() => received,
            };
            if received == 0 {
                debug!("the cluster's cache is closed, dns answers stay as they are");
                return;
            }
            let mut changed = false;
            namespaces.drain(|old, new| {
                changed |= match (old, new) {
                    (_, Some(namespace)) => records.set_namespace(namespace),
                    (Some(gone), None) => records.remove_namespace(&gone.name_any()),
                    (None, None) => false,
                }
            });
            services.drain(|old, new| {
                changed |= match (old, new) {
                    (_, Some(service)) => records.set_service(service),
                    (Some(gone), None) => records.remove_service(&ObjectKey::of(gone)),
                    (None, None) => false,
                }
            });
            slices.drain(|old, new| {
                changed |= match (old, new) {
                    (_, Some(slice)) => records.set_slice(slice),
                    (Some(gone), None) => records.remove_slice(&ObjectKey::of(gone)),
                    (None, None) => false,
                }
            });
            pods.drain(|old, new| changed |= records.change_pod(old, new));
            // Published after them: no reply that was made with the ranges of before is kept.
            changed |= take_ranges(&mut cidrs, &mut ranges, &zone);
            let was_complete = records.complete;
            records.complete = namespaces.synced && services.synced && slices.synced && pods.synced && cidrs.synced;
            if changed || records.complete != was_complete {
                let newest = services.newest.max(slices.newest).max(pods.newest).max(namespaces.newest);
                records.note_revision(newest.max(cidrs.newest));
                index.publish(records.clone());
            } else {
                // Replies that were made stay good: most changes, of a Pod's status above all, are nothing to DNS.
                index.refresh(records.clone());
            }
            complete.send_if_modified(|known| std::mem::replace(known, records.complete) != records.complete);
            let marks = [&mut namespaces.marks, &mut services.marks, &mut slices.marks, &mut pods.marks];
            for marks in marks.into_iter().chain([&mut cidrs.marks]) {
                marks.clear();
            }
        }
    }
}

/// Hands changed ranges to the zone. Says whether they did change.
fn take_ranges(cidrs: &mut Feed<ServiceCIDR>, ranges: &mut BTreeMap<String, Vec<IpNet>>, zone: &Zone) -> bool {
    let mut changed = false;
    cidrs.drain(|old, new| {
        changed |= match (old, new) {
            (_, Some(cidr)) => {
                let found = service_ranges(cidr);
                ranges.insert(cidr.name_any(), found.clone()).as_ref() != Some(&found)
            }
            (Some(gone), None) => ranges.remove(&gone.name_any()).is_some(),
            (None, None) => false,
        }
    });
    if changed {
        zone.set_further_ranges(ranges.values().flatten().copied().collect());
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::{Progress, Writers};
    use crate::config::Network;
    use crate::dns::answer::{Code, Data, Kind};
    use crate::dns::fixtures::{namespace, object, pod, service, slice};

    struct World {
        writers: Writers,
        zone: Arc<Zone>,
        index: Arc<Index>,
        cluster: Cluster,
        _task: tokio::task::JoinSet<()>,
    }

    fn start() -> World {
        let (cluster, writers) = Cluster::new();
        let index = Arc::<Index>::default();
        let mut task = tokio::task::JoinSet::new();
        let zone = Arc::new(Zone::new(&Network::default()));
        task.spawn(follow(&cluster, Arc::clone(&zone), Arc::clone(&index), watch::Sender::default()));
        World { writers, zone, index, cluster, _task: task }
    }

    impl World {
        fn sync(&self) {
            self.writers.namespaces.replace(vec![namespace("default")]);
            self.writers.services.replace(vec![service("web", json!({"clusterIP": "10.96.1.1"}))]);
            self.writers.slices.replace(Vec::new());
            self.writers.pods.replace(vec![pod("web-1", &["10.244.1.5"])]);
            self.writers.service_cidrs.replace(Vec::new());
        }

        /// Waits until the answers follow what was written.
        async fn settled(&self) {
            let (mark, gone) = Mark::new();
            let Cluster { namespaces, services, slices, pods, service_cidrs, .. } = &self.cluster;
            for informer in [namespaces as &dyn Progress, services, slices, pods, service_cidrs] {
                informer.mark(&mark);
            }
            drop(mark);
            gone.wait().await;
        }

        fn ask(&self, name: &str) -> (Code, Vec<Data>) {
            self.find(name, Kind::A).expect("a name of ours")
        }

        fn find(&self, name: &str, kind: Kind) -> Option<(Code, Vec<Data>)> {
            let answer = self.index.load().answer(&self.zone, name, kind, &mut rand::rng())?;
            Some((answer.code, answer.answers.into_iter().map(|record| record.data).collect()))
        }
    }

    fn a(last: u8) -> Data {
        Data::A([10, 96, 1, last].into())
    }

    #[tokio::test]
    async fn dns_is_ready_when_every_kind_has_been_read() {
        let world = start();
        world.writers.services.replace(vec![service("web", json!({"clusterIP": "10.96.1.1"}))]);
        world.writers.slices.replace(Vec::new());
        world.writers.pods.replace(Vec::new());
        world.writers.service_cidrs.replace(Vec::new());
        world.settled().await;
        assert!(!world.index.load().complete);
        world.writers.namespaces.replace(vec![namespace("default")]);
        world.settled().await;
        assert!(world.index.load().complete);
    }

    #[tokio::test]
    async fn prepared_replies_outlive_what_changes_no_answer() {
        let world = start();
        world.sync();
        world.settled().await;
        let generation = || world.index.load().generation;
        let first = generation();
        world.settled().await;
        assert_eq!(generation(), first, "nothing has changed");

        let mut labelled = service("web", json!({"clusterIP": "10.96.1.1"}));
        labelled.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        labelled.metadata.resource_version = Some("11".into());
        world.writers.services.apply(labelled);
        let mut ready = pod("web-1", &["10.244.1.5"]);
        ready.metadata.resource_version = Some("12".into());
        ready.status.get_or_insert_default().message = Some("ready".into());
        world.writers.pods.apply(ready);
        world.settled().await;
        assert_eq!(generation(), first);
        let (known, address) = (world.index.load(), std::net::IpAddr::from([10, 244, 1, 5]));
        assert_eq!((known.services["web.default"].object.revision, known.pods[&address][0].revision), (11, 12));
        drop(known);

        world.writers.pods.apply(pod("web-1", &["10.244.1.6"]));
        world.settled().await;
        assert!(generation() > first);
    }

    #[tokio::test]
    async fn reverse_names_of_a_further_service_cidr_are_the_clusters_while_it_exists_d4_sc3() {
        let world = start();
        world.sync();
        world.settled().await;
        let (known, free) = ("7.0.200.10.in-addr.arpa", "8.0.200.10.in-addr.arpa");
        let known_v6 = format!("7.{}2.0.0.1.0.0.d.f.ip6.arpa", "0.".repeat(23));
        let vips = json!({"clusterIP": "10.200.0.7", "clusterIPs": ["10.200.0.7", "fd00:1002::7"]});
        world.writers.services.apply(service("more", vips));
        world.settled().await;
        assert_eq!(world.find(known, Kind::Ptr), None, "somebody else's");

        let generation = || world.index.load().generation;
        let first = generation();
        let mut cidr: ServiceCIDR = object(json!({"metadata": {"name": "more", "resourceVersion": "20"},
            "spec": {"cidrs": ["10.200.0.0/24", "fd00:1002::/112"]}}));
        world.writers.service_cidrs.apply(cidr.clone());
        world.settled().await;
        let more = vec![Data::Ptr("more.default.svc.cluster.local".into())];
        for name in [known, &known_v6] {
            assert_eq!(world.find(name, Kind::Ptr), Some((Code::NoError, more.clone())), "{name}");
        }
        assert_eq!(world.find(free, Kind::Ptr), Some((Code::NxDomain, vec![])), "nobody else is asked");
        let second = generation();
        assert!(second > first, "replies of before are not given again");
        cidr.metadata.resource_version = Some("21".into());
        world.writers.service_cidrs.apply(cidr);
        world.settled().await;
        assert_eq!(generation(), second);

        world.writers.service_cidrs.delete(&ObjectKey::new("", "more"));
        world.settled().await;
        assert_eq!((world.find(free, Kind::Ptr), generation() > second), (None, true));
    }

    #[tokio::test]
    async fn every_kind_of_change_reaches_the_answers() {
        let world = start();
        world.sync();
        world.settled().await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![a(1)]));
        assert_eq!(world.ask("default.svc.cluster.local").0, Code::NoError);
        assert_eq!(world.ask("10-244-1-5.default.pod.cluster.local").0, Code::NoError);

        let mut changed = service("web", json!({"clusterIP": "None"}));
        changed.metadata.resource_version = Some("8".into());
        world.writers.services.apply(changed);
        world.settled().await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![]));

        let mut endpoints = slice("web-x", "web", json!([]), json!([{"addresses": ["10.96.1.9"]}]));
        endpoints.metadata.resource_version = Some("9".into());
        world.writers.slices.apply(endpoints);
        world.settled().await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![a(9)]));
        assert_eq!(world.index.load().serial, 9);

        world.writers.slices.delete(&ObjectKey::new("default", "web-x"));
        world.writers.services.delete(&ObjectKey::new("default", "web"));
        world.writers.pods.delete(&ObjectKey::new("default", "web-1"));
        world.writers.namespaces.delete(&ObjectKey::new("", "default"));
        world.settled().await;
        for name in ["web.default.svc", "10-244-1-5.default.pod", "default.svc"] {
            assert_eq!(world.ask(&format!("{name}.cluster.local")).0, Code::NxDomain, "{name}");
        }
    }
}
