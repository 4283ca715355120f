//! From the informer cache to the index: each change is applied as it comes, and what came together is published
//! together.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use tokio::sync::watch;
use tracing::debug;

use super::records::{Index, Records};
use crate::cluster::{Change, Cluster, Mark, ObjectKey, Subscription};

/// Changes taken from a subscription at once.
const BATCH: usize = 1024;

/// How far the answers have come: the newest resourceVersion of each kind that is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Everything that existed at the start is in.
    pub complete: bool,
    pub services: u64,
    pub slices: u64,
    pub pods: u64,
    pub namespaces: u64,
}

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

/// Keeps the index in step with the cluster until the cluster's writers are gone. `applied` tells after each
/// publication what is in it; its `complete` turns true once and means that DNS is ready.
pub async fn follow(cluster: Cluster, index: Arc<Index>, applied: watch::Sender<Applied>) {
    let mut records = Records::default();
    let mut namespaces = Feed::<Namespace>::new(cluster.namespaces.subscribe());
    let mut services = Feed::<Service>::new(cluster.services.subscribe());
    let mut slices = Feed::<EndpointSlice>::new(cluster.slices.subscribe());
    let mut pods = Feed::<Pod>::new(cluster.pods.subscribe());
    loop {
        let received = tokio::select! {
            received = slices.wait() => received,
            received = services.wait() => received,
            received = pods.wait() => received,
            received = namespaces.wait() => received,
        };
        if received == 0 {
            debug!("the cluster's cache is closed, dns answers stay as they are");
            return;
        }
        namespaces.drain(|old, new| match (old, new) {
            (_, Some(namespace)) => records.set_namespace(namespace),
            (Some(gone), None) => records.remove_namespace(&gone.name_any()),
            (None, None) => {}
        });
        services.drain(|old, new| match (old, new) {
            (_, Some(service)) => records.set_service(service),
            (Some(gone), None) => records.remove_service(&ObjectKey::of(gone)),
            (None, None) => {}
        });
        slices.drain(|old, new| match (old, new) {
            (_, Some(slice)) => records.set_slice(slice),
            (Some(gone), None) => records.remove_slice(&ObjectKey::of(gone)),
            (None, None) => {}
        });
        pods.drain(|old, new| records.change_pod(old, new));
        let now = Applied {
            complete: namespaces.synced && services.synced && slices.synced && pods.synced,
            services: services.newest,
            slices: slices.newest,
            pods: pods.newest,
            namespaces: namespaces.newest,
        };
        records.complete = now.complete;
        records.note_revision(now.services.max(now.slices).max(now.pods).max(now.namespaces));
        index.publish(records.clone());
        applied.send_replace(now);
        for marks in [&mut namespaces.marks, &mut services.marks, &mut slices.marks, &mut pods.marks] {
            marks.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::Writers;
    use crate::config::Network;
    use crate::dns::answer::{Code, Data, Kind};
    use crate::dns::fixtures::{namespace, object, pod, service, slice};
    use crate::dns::zone::Zone;

    struct World {
        writers: Writers,
        index: Arc<Index>,
        applied: watch::Receiver<Applied>,
        _task: tokio::task::JoinSet<()>,
    }

    fn start() -> World {
        let (cluster, writers) = Cluster::new();
        let (index, sender) = (Arc::<Index>::default(), watch::Sender::default());
        let applied = sender.subscribe();
        let mut task = tokio::task::JoinSet::new();
        task.spawn(follow(cluster, Arc::clone(&index), sender));
        World { writers, index, applied, _task: task }
    }

    impl World {
        fn sync(&self) {
            self.writers.namespaces.replace(vec![namespace("default")]);
            self.writers.services.replace(vec![service("web", json!({"clusterIP": "10.96.1.1"}))]);
            self.writers.slices.replace(Vec::new());
            self.writers.pods.replace(vec![pod("web-1", &["10.244.1.5"])]);
        }

        async fn wait(&mut self, until: impl FnMut(&Applied) -> bool) -> Applied {
            *self.applied.wait_for(until).await.expect("the task lives")
        }

        fn ask(&self, name: &str) -> (Code, Vec<Data>) {
            let zone = Zone::new(&Network::default());
            let answer = self.index.load().answer(&zone, name, Kind::A, &mut rand::rng()).expect("a name of ours");
            (answer.code, answer.answers.into_iter().map(|record| record.data).collect())
        }
    }

    fn a(last: u8) -> Data {
        Data::A([10, 96, 1, last].into())
    }

    #[tokio::test]
    async fn dns_is_ready_when_every_kind_has_been_read() {
        let mut world = start();
        world.writers.services.replace(vec![service("web", json!({"clusterIP": "10.96.1.1"}))]);
        world.writers.slices.replace(Vec::new());
        world.writers.pods.replace(Vec::new());
        assert!(!world.wait(|applied| applied.services == 7).await.complete);
        assert!(!world.index.load().complete);
        world.writers.namespaces.replace(vec![namespace("default")]);
        world.wait(|applied| applied.complete).await;
        assert!(world.index.load().complete);
    }

    #[tokio::test]
    async fn every_kind_of_change_reaches_the_answers() {
        let mut world = start();
        world.sync();
        world.wait(|applied| applied.complete).await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![a(1)]));
        assert_eq!(world.ask("default.svc.cluster.local").0, Code::NoError);
        assert_eq!(world.ask("10-244-1-5.default.pod.cluster.local").0, Code::NoError);

        let mut changed = service("web", json!({"clusterIP": "None"}));
        changed.metadata.resource_version = Some("8".into());
        world.writers.services.apply(changed);
        world.wait(|applied| applied.services == 8).await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![]));

        let mut endpoints = slice("web-x", "web", json!([]), json!([{"addresses": ["10.96.1.9"]}]));
        endpoints.metadata.resource_version = Some("9".into());
        world.writers.slices.apply(endpoints);
        let applied = world.wait(|applied| applied.slices == 9).await;
        assert_eq!(world.ask("web.default.svc.cluster.local"), (Code::NoError, vec![a(9)]));
        assert_eq!(applied, Applied { complete: true, services: 8, slices: 9, pods: 0, namespaces: 0 });
        assert_eq!(world.index.load().serial, 9);

        world.writers.slices.delete(&ObjectKey::new("default", "web-x"));
        world.writers.services.delete(&ObjectKey::new("default", "web"));
        world.writers.pods.delete(&ObjectKey::new("default", "web-1"));
        world.writers.namespaces.delete(&ObjectKey::new("", "default"));
        // A last change of a known version tells that those before it, or of other kinds, are in too.
        let mut last = object::<Namespace>(json!({"metadata": {"name": "last", "resourceVersion": "20"}}));
        world.writers.namespaces.apply(last.clone());
        world.wait(|applied| applied.namespaces == 20).await;
        last.metadata.resource_version = Some("21".into());
        world.writers.namespaces.apply(last);
        world.wait(|applied| applied.namespaces == 21).await;
        for name in ["web.default.svc", "10-244-1-5.default.pod", "default.svc"] {
            assert_eq!(world.ask(&format!("{name}.cluster.local")).0, Code::NxDomain, "{name}");
        }
    }
}
