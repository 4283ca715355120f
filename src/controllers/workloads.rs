//! The controllers that keep Pods: ReplicaSets, Deployments, and so on.
//!
//! Each is a queue of its objects' keys. A turn begins when the caches show what the turn before wrote ([`own_writes`]),
//! takes the objects that belong to the owner ([`claims`]), asks a pure plan what to do (`*_plan`), does it, and writes
//! the status. What a turn did changes its children, whose events bring the next turn; so a turn takes one step.
//!
//! The write barrier does not wait for these controllers: what they make is Pods, and those have yet to start.

mod claims;
mod cron_job;
mod cron_job_plan;
mod daemon_set;
mod daemon_set_plan;
mod deployment;
mod deployment_plan;
mod deployment_status;
mod hash;
mod job;
mod job_indexes;
mod job_plan;
mod job_policy;
mod own_writes;
mod pods;
mod replica_set;
mod replica_set_plan;
mod revisions;
mod stateful_set;
mod stateful_set_plan;

use k8s_openapi::api::apps::v1::{ControllerRevision, ReplicaSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::{Api, Client};
use tokio::task::JoinSet;

use self::claims::Namespaced;
pub(super) use self::claims::{controller_of, follow_owners};
use super::runner::describe;
use crate::cluster::{Cluster, Informer};
use crate::config::{Controller, Selection};

/// Starts those that are selected.
pub(super) fn start(client: &Client, cluster: &Cluster, selection: &Selection, tasks: &mut JoinSet<()>) {
    let pods = &cluster.pods;
    let sets: Informer<ReplicaSet> = follow(client, tasks);
    if selection.has(Controller::Deployment) {
        deployment::DeploymentController::start(client, &follow(client, tasks), &sets, pods, tasks);
    }
    if selection.has(Controller::ReplicaSet) {
        replica_set::ReplicaSetController::start(client, &sets, pods, tasks);
    }
    if selection.has(Controller::ReplicationController) {
        let controllers: Informer<ReplicationController> = follow(client, tasks);
        replica_set::ReplicaSetController::start(client, &controllers, pods, tasks);
    }
    let revisions: Informer<ControllerRevision> = follow(client, tasks);
    if selection.has(Controller::DaemonSet) {
        daemon_set::DaemonSetController::start(client, cluster, &follow(client, tasks), &revisions, tasks);
    }
    if selection.has(Controller::StatefulSet) {
        stateful_set::StatefulSetController::start(client, cluster, &follow(client, tasks), &revisions, tasks);
    }
    let jobs: Informer<Job> = follow(client, tasks);
    if selection.has(Controller::Job) {
        job::JobController::start(client, &jobs, pods, tasks);
    }
    if selection.has(Controller::CronJob) {
        cron_job::CronJobController::start(client, &follow(client, tasks), &jobs, tasks);
    }
}

/// A cache of a kind that only these controllers read.
fn follow<K: Namespaced>(client: &Client, tasks: &mut JoinSet<()>) -> Informer<K> {
    let (informer, writer) = Informer::new();
    tasks.spawn(writer.run(Api::all(client.clone())));
    informer
}

/// A count as the API has it.
fn counted(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// A count that is left out when it is zero.
fn positive(count: usize) -> Option<i32> {
    (count > 0).then_some(counted(count))
}
