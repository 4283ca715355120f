//! The controller of DaemonSets. [`super::daemon_set_plan`] decides; Pods are pinned to their nodes by affinity and
//! placed there by the scheduler.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::claims::{claim, follow_children, follow_owners, is_deleting};
use super::daemon_set_plan::{ByNode, Daemon, Plan, by_node};
use super::own_writes::{OwnWrites, StatusWrite};
use super::pods::{self, BURST, PodControl, phase, ready_since, slow_start};
use super::revisions::{REVISION_LABEL, Revisions};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::controllers::queue::Queue;
use crate::controllers::runner::{Action, Error, Reconcile, run, sooner};

const NAME: &str = "daemonset-controller";
const WORKERS: usize = 4;
/// The places of the other kinds in [`OwnWrites`].
const PODS: usize = 1;
const REVISIONS: usize = 2;
/// How long a node waits after a failed Pod for the next: it doubles.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(15 * 60);

pub(super) struct DaemonSetController {
    client: Client,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Revisions,
    writes: OwnWrites<3>,
    control: PodControl,
    /// For each DaemonSet and node with failed Pods: when the next may go, and the delay after that.
    failures: Mutex<FxHashMap<(ObjectKey, String), (Instant, Duration)>>,
}

impl DaemonSetController {
    pub(super) fn start(
        client: &Client,
        cluster: &Cluster,
        sets: &Informer<DaemonSet>,
        revisions: &Informer<ControllerRevision>,
        tasks: &mut JoinSet<()>,
    ) {
        let queue = Arc::new(Queue::new());
        let controller = Arc::new(Self {
            client: client.clone(),
            sets: sets.clone(),
            pods: cluster.pods.clone(),
            nodes: cluster.nodes.clone(),
            revisions: Revisions::new(client, revisions, REVISION_LABEL),
            writes: OwnWrites::new(),
            control: PodControl::new(client, NAME),
            failures: Mutex::default(),
        });
        tasks.spawn(follow_owners(sets.clone(), Arc::clone(&queue)));
        let selector = |set: &DaemonSet| set.spec.as_ref().map(|spec| spec.selector.clone());
        tasks.spawn(follow_children(
            controller.pods.clone(),
            sets.clone(),
            Arc::clone(&queue),
            selector,
            pods::differs,
        ));
        tasks.spawn(follow_nodes(controller.nodes.clone(), sets.clone(), Arc::clone(&queue)));
        tasks.spawn(async move {
            controller.sets.wait_synced().await;
            controller.pods.wait_synced().await;
            controller.nodes.wait_synced().await;
            controller.revisions.cache.wait_synced().await;
            run(NAME, controller, queue, WORKERS).await;
        });
    }

    async fn apply(&self, key: &ObjectKey, set: &DaemonSet, daemon: &Daemon, plan: Plan) -> Result<(), Error> {
        let deletions = plan.delete.iter().chain(&plan.ended).take(BURST).map(async |pod| {
            if let Some(deleted) = self.control.delete(set, pod).await? {
                self.writes.wrote(key, PODS, &deleted);
            }
            Ok(())
        });
        let results: Vec<Result<(), Error>> = deletions.collect::<FuturesUnordered<_>>().collect().await;
        let outcome = slow_start(plan.create.len().min(BURST), async |place| {
            let pod = pods::from_template(set, &daemon.template_for(&plan.create[place]));
            if let Some(created) = self.control.create(set, &pod).await? {
                self.writes.wrote(key, PODS, &created);
            }
            Ok(())
        })
        .await;
        results.into_iter().collect::<Result<(), Error>>()?;
        outcome.error.map_or(Ok(()), Err)
    }

    /// Forgets the failures on nodes whose Pod has been ready for as long as the next would have to wait.
    fn forgive(&self, key: &ObjectKey, pods: &ByNode, now: Timestamp) {
        let healthy = |node: &String, delay: Duration| {
            let since = pods.get(node).into_iter().flatten().filter_map(|pod| ready_since(pod)?).min();
            since.is_some_and(|since| Duration::try_from(now.duration_since(since)).is_ok_and(|time| time > delay))
        };
        self.failures.lock().retain(|(owner, node), (_, delay)| owner != key || !healthy(node, *delay));
    }

    /// Of the Pods that ended those that may be replaced now, and when the next may.
    fn replaceable(&self, key: &ObjectKey, set: &DaemonSet, ended: Vec<Arc<Pod>>) -> (Vec<Arc<Pod>>, Option<Duration>) {
        let (mut now, mut again) = (Vec::new(), None::<Duration>);
        for pod in ended {
            let node = pods::node_name(&pod).to_owned();
            let (name, what) = (pod.name_any(), ObjectKey::of(&*pod));
            if phase(&pod) == "Succeeded" {
                let message = format!("Found succeeded daemon pod {what} on node {node}, will try to delete it");
                self.control.tell(set, "SucceededDaemonPod", message);
                now.push(pod);
                continue;
            }
            let mut failures = self.failures.lock();
            let (due, delay) =
                failures.entry((key.clone(), node.clone())).or_insert_with(|| (Instant::now(), FIRST_RETRY));
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                *due = Instant::now() + *delay;
                *delay = (*delay * 2).min(LAST_RETRY);
                drop(failures);
                let message = format!("Found failed daemon pod {what} on node {node}, will try to kill it");
                self.control.warn(set, "FailedDaemonPod", message);
                now.push(pod);
            } else {
                tracing::debug!(pod = name, node, ?left, "failed daemon pod waits");
                again = sooner(again, Some(left));
            }
        }
        (now, again)
    }
}

impl Reconcile for DaemonSetController {
    type Key = ObjectKey;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        if let Err(wait) = self.writes.seen(key, [&self.sets, &self.pods, &self.revisions.cache]).await {
            return Ok(Action::Behind(wait));
        }
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.writes.forget(key);
            self.failures.lock().retain(|(owner, _), _| owner != key);
            return Ok(Action::Done);
        };
        let Some(spec) = set.spec.as_ref().filter(|_| !is_deleting(&set.metadata)) else { return Ok(Action::Done) };
        let revised = |revision: &ControllerRevision| self.writes.wrote(key, REVISIONS, revision);
        let history = self.revisions.of(&*set, &spec.selector, revised).await?;
        let mut changed = (*set).clone();
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let Some(present) = self.revisions.present(&*set, &spec.template, collisions, &history, revised).await? else {
            changed.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
            self.writes.write_status(&self.client, key, &changed, 0).await?;
            return Ok(Action::Done);
        };
        let all = self.pods.list_in(&key.namespace);
        let wrote = |pod: &Pod| self.writes.wrote(key, PODS, pod);
        let owned = claim(&self.client, &*set, &spec.selector, all, wrote).await?;
        let daemon = Daemon::of(&set, self.revisions.hash_of(&present));
        let (nodes, owned, now) = (self.nodes.list(), by_node(owned), Timestamp::now());
        self.forgive(key, &owned, now);
        let mut plan = daemon.plan(&nodes, &owned, now);
        let (ended, retry) = self.replaceable(key, &set, std::mem::take(&mut plan.ended));
        plan.ended = ended;
        let acted = plan != Plan::default();
        let applied = self.apply(key, &set, &daemon, plan).await;
        let live = owned.values().flatten().filter_map(|pod| pod.labels().get(REVISION_LABEL));
        let mut live: Vec<String> = live.map(|hash| format!("{}-{hash}", key.name)).collect();
        live.push(present.name_any());
        self.revisions.truncate(&history, &live, spec.revision_history_limit).await?;

        let (status, mut again) = daemon.status(&set, &nodes, &owned, now);
        // What was created or deleted changes the counts at once: the events of it bring the next turn.
        let observed = set.status.as_ref().and_then(|status| status.observed_generation);
        let told = !acted || applied.is_err() || observed != status.observed_generation;
        if told && set.status.as_ref() != Some(&status) {
            changed.status = Some(status);
            match self.writes.write_status(&self.client, key, &changed, nodes.len()).await? {
                StatusWrite::Done => {}
                StatusWrite::Later(wait) => again = sooner(again, Some(wait)),
                StatusWrite::Gone => return Ok(Action::Done),
            }
        }
        applied?;
        Ok(Action::again(sooner(again, retry)))
    }
}

/// A node concerns all DaemonSets when it comes, goes, or changes what Pods may be there.
async fn follow_nodes(nodes: Informer<Node>, sets: Informer<DaemonSet>, queue: Arc<Queue<ObjectKey>>) {
    let mut changes = nodes.subscribe();
    while let Some(change) = changes.recv().await {
        let concerned = match change {
            Change::Applied { old: Some(old), new } => old.spec != new.spec || old.labels() != new.labels(),
            Change::Applied { old: None, .. } | Change::Deleted(_) => true,
            Change::Synced | Change::Marked(_) => false,
        };
        if concerned {
            sets.list().iter().for_each(|set| queue.add(ObjectKey::of(&**set)));
        }
    }
}
