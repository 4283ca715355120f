//! The edge of the cluster: what stands between it and the world outside.
//!
//! * [`host`]: the host's own way to Services, Pods and nodes, a TUN device in the namespace of the start.
//! * [`health_ports`]: what a load balancer in front of the nodes asks them, as kube-proxy answers it (rules H1-H5).

mod health;
mod health_ports;
mod host;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::{DualAddr, HostAccess, Network, node_name};
use crate::events::Recorder;
use crate::node::Agents;
use crate::router::Router;
use crate::sys::netns::NetNs;

/// What the edge is made of.
pub struct EdgeConfig<'a> {
    pub network: Network,
    pub host_access: HostAccess,
    /// How many nodes there are.
    pub nodes: u16,
    pub agents: &'a Agents,
    pub cluster: Cluster,
    pub router: Arc<Router>,
    pub events: Recorder,
    pub stopping: CancellationToken,
    pub tasks: &'a mut JoinSet<()>,
}

/// A node as the edge knows it.
struct EdgeNode {
    name: String,
    addresses: DualAddr,
    ns: NetNs,
}

impl EdgeNode {
    /// A listener in the node's namespace.
    fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let listener = self.ns.run(|| StdListener::bind(address))??;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }

    fn both(&self) -> [IpAddr; 2] {
        self.addresses.both()
    }
}

/// Starts all of it. The tasks end when they are aborted.
///
/// # Errors
/// When what was asked for cannot be had; the text says what to do.
pub fn start(config: EdgeConfig<'_>) -> Result<()> {
    let EdgeConfig { network, host_access, nodes, agents, cluster, router, events, stopping, tasks } = config;
    host::attach(&network, host_access, &*router)?;
    let nodes = (1..=nodes).map(|index| {
        let (name, addresses) = (node_name(index), network.node_addr(index));
        let ns = agents.node_ns(&name).with_context(|| format!("node {name} has no namespace"))?.try_clone()?;
        Ok(EdgeNode { name, addresses, ns })
    });
    let nodes: Arc<[EdgeNode]> = nodes.collect::<Result<Vec<_>>>()?.into();
    health_ports::start(nodes, &cluster, &router, events, stopping, tasks)
}
