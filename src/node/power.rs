//! `vipyard node stop` and `start`: a virtual node loses its power and gets it back.
//!
//! Stopping ends every process of the node at once, takes its devices from the router and silences its agent: nothing of
//! its Pods is written any more, as of a machine that lost power. What the API knows stays as it was until the node
//! controller notices that the heartbeats have stopped. The one thing that is written is the last heartbeat, a Lease
//! with a duration: agents that run have one without, so that an idle cluster need not write.
//!
//! Starting is a boot: the node is registered anew, Pods that are still bound to it are started again with their
//! addresses (containers count a restart), those that were deleted meanwhile are removed. So is starting vipyard anew.

use std::sync::atomic::Ordering;

use k8s_openapi::jiff::Timestamp;
use tracing::info;

use super::agents::{Agents, NodeError, attach_node};
use super::netif;
use super::register::{node_object, register, renew_lease};
use super::sync::News;

/// Why a node was not stopped or started.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    #[error("vipyard runs no node of this name")]
    NoSuchNode,
    #[error(transparent)]
    Device(#[from] NodeError),
    #[error("write to the API: {0}")]
    Api(#[from] kube::Error),
}

impl Agents {
    /// Takes the power from a node. Returns when nothing of it is left.
    ///
    /// # Errors
    /// A [`PowerError`]; the node may be without power then, and stopping it again helps.
    pub async fn stop_node(&self, name: &str) -> Result<(), PowerError> {
        let inner = &self.inner;
        let place = inner.nodes.get(name).ok_or(PowerError::NoSuchNode)?;
        let mut port = place.port.lock().await;
        {
            let mut workers = inner.workers.lock();
            place.on.store(false, Ordering::Relaxed);
            for (_, worker) in workers.extract_if(|_, worker| worker.node == name) {
                let _ = worker.news.send(News::Gone);
            }
        }
        if let Some(port) = port.take() {
            inner.shared.ports.detach(port);
        }
        place.tasks.close();
        place.tasks.wait().await;
        place.tasks.reopen();
        renew_lease(&inner.shared.client, name, Some(inner.monitor_grace)).await?;
        info!(node = name, "node stopped");
        Ok(())
    }

    /// Gives the power back. Returns when the node is registered.
    ///
    /// # Errors
    /// A [`PowerError`]; the node is without power then.
    pub async fn start_node(&self, name: &str) -> Result<(), PowerError> {
        let inner = &self.inner;
        let place = inner.nodes.get(name).ok_or(PowerError::NoSuchNode)?;
        let mut port = place.port.lock().await;
        if port.is_some() {
            return Ok(());
        }
        let context = &place.context;
        *port = Some(attach_node(&inner.shared, name, context.addresses, &context.ns)?);
        netif::accept_node_ports(&context.ns, "eth0");
        let shared = &inner.shared;
        let node = node_object(place.index, &shared.network, shared.storage, Timestamp::now());
        if let Err(e) = register(&inner.shared.client, node).await {
            port.take().into_iter().for_each(|port| inner.shared.ports.detach(port));
            return Err(e.into());
        }
        place.on.store(true, Ordering::Relaxed);
        // What is bound while this goes through the list is in the list, or comes to the dispatcher as news.
        inner.shared.cluster.pods.list().into_iter().for_each(|pod| inner.applied_on(pod, name));
        info!(node = name, "node started");
        Ok(())
    }
}
