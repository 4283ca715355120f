//! Follows the informer cache, compiles what changed, hands each new plan to the data plane.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tokio::sync::watch;
use tracing::debug;

use super::{Compiler, Plan};
use crate::cluster::{Change, Cluster, Mark, ObjectKey, Subscription};
use crate::config::Network;
use crate::metrics::PLAN_COMPILE;

/// Runs until the cache's writers are gone.
///
/// `apply` must return only when the data plane follows the plan; then `applied` tells the plan's epoch: 0 until the
/// first, which waits until Services, slices, Nodes, ServiceCIDRs and Pods are complete. Changes that are queued together
/// become one plan, so a burst costs one swap, and a single change waits for nothing.
pub async fn run(cluster: Cluster, network: Network, apply: impl Fn(Arc<Plan>), applied: watch::Sender<u64>) {
    let mut services = Feed::new(cluster.services.subscribe());
    let mut slices = Feed::new(cluster.slices.subscribe());
    let mut nodes = Feed::new(cluster.nodes.subscribe());
    let mut cidrs = Feed::new(cluster.service_cidrs.subscribe());
    let mut pods = Feed::new(cluster.pods.subscribe());
    drop(cluster);
    let mut compiler = Compiler::new(&network);
    loop {
        tokio::select! {
            biased;
            Some(change) = nodes.changes.recv() => nodes.take(&mut compiler, change),
            Some(change) = services.changes.recv() => services.take(&mut compiler, change),
            Some(change) = slices.changes.recv() => slices.take(&mut compiler, change),
            Some(change) = cidrs.changes.recv() => cidrs.take(&mut compiler, change),
            Some(change) = pods.changes.recv() => pods.take(&mut compiler, change),
            else => return,
        }
        nodes.drain(&mut compiler);
        services.drain(&mut compiler);
        slices.drain(&mut compiler);
        cidrs.drain(&mut compiler);
        pods.drain(&mut compiler);
        if !(nodes.synced && services.synced && slices.synced && cidrs.synced && pods.synced) {
            continue;
        }
        let begin = Instant::now();
        let plan = compiler.plan();
        let epoch = plan.epoch;
        if epoch != *applied.borrow() {
            PLAN_COMPILE.observe(begin.elapsed());
            debug!(epoch, "new plan");
            apply(plan);
            applied.send_replace(epoch);
        }
        let marks = [&mut services.marks, &mut slices.marks, &mut nodes.marks, &mut cidrs.marks, &mut pods.marks];
        for marks in marks {
            marks.clear();
        }
    }
}

struct Feed<K> {
    changes: Subscription<K>,
    synced: bool,
    /// Kept until the data plane follows the changes before them.
    marks: Vec<Mark>,
}

impl<K: Fold> Feed<K> {
    fn new(changes: Subscription<K>) -> Self {
        Self { changes, synced: false, marks: Vec::new() }
    }

    fn drain(&mut self, compiler: &mut Compiler) {
        while let Ok(change) = self.changes.try_recv() {
            self.take(compiler, change);
        }
    }

    fn take(&mut self, compiler: &mut Compiler, change: Change<K>) {
        match change {
            Change::Applied { new, .. } => new.applied(compiler),
            Change::Deleted(old) => old.deleted(compiler),
            Change::Synced => self.synced = true,
            Change::Marked(mark) => self.marks.push(mark),
        }
    }
}

trait Fold {
    fn applied(&self, compiler: &mut Compiler);
    fn deleted(&self, compiler: &mut Compiler);
}

impl Fold for Service {
    fn applied(&self, compiler: &mut Compiler) {
        compiler.service_applied(self);
    }

    fn deleted(&self, compiler: &mut Compiler) {
        compiler.service_deleted(&ObjectKey::of(self));
    }
}

impl Fold for EndpointSlice {
    fn applied(&self, compiler: &mut Compiler) {
        compiler.slice_applied(self);
    }

    fn deleted(&self, compiler: &mut Compiler) {
        compiler.slice_deleted(&ObjectKey::of(self));
    }
}

impl Fold for Pod {
    fn applied(&self, compiler: &mut Compiler) {
        compiler.pod_applied(self);
    }

    fn deleted(&self, compiler: &mut Compiler) {
        compiler.pod_deleted(&ObjectKey::of(self));
    }
}

impl Fold for Node {
    fn applied(&self, compiler: &mut Compiler) {
        compiler.node_applied(self);
    }

    fn deleted(&self, compiler: &mut Compiler) {
        compiler.node_deleted(&ObjectKey::of(self).name);
    }
}

impl Fold for ServiceCIDR {
    fn applied(&self, compiler: &mut Compiler) {
        compiler.service_cidr_applied(self);
    }

    fn deleted(&self, compiler: &mut Compiler) {
        compiler.service_cidr_deleted(&ObjectKey::of(self).name);
    }
}
