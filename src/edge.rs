//! The edge of the cluster: what stands between it and the world outside.
//!
//! * [`egress`]: the way of Pods into the world, over sockets of the namespace of the start.
//! * [`host`]: the host's own way to Services, Pods and nodes, a TUN device in the namespace of the start.
//! * [`host_routes`]: that device's routes to the ranges of further ServiceCIDRs.
//! * [`loopback`]: node ports and load-balancer ports at 127.0.0.1, where the host cannot be connected.
//! * [`health_ports`]: what a load balancer in front of the nodes asks them, as kube-proxy answers it (rules H1-H5).

mod datagrams;
mod egress;
mod health;
mod health_ports;
mod host;
mod host_routes;
mod loopback;
mod loopback_plan;
mod relay;
mod shut_doors;

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

pub use shut_doors::{SHUT_DOORS_FILE, ShutDoor, ShutDoors, TellShut};

/// Where a data directory tells how its host reaches the cluster.
pub const HOST_ACCESS_FILE: &str = "host-access";

/// How the host reaches the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostReach {
    /// By every address of the cluster.
    Device,
    /// By ports of its loopback.
    Loopback,
    None,
}

impl HostReach {
    const ALL: [Self; 3] = [Self::Device, Self::Loopback, Self::None];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Loopback => "loopback",
            Self::None => "none",
        }
    }

    /// What [`Self::as_str`] has written; no way for any other text.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|reach| reach.as_str() == text.trim()).unwrap_or(Self::None)
    }
}

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
    /// Is told which doors at the loopback could not be opened.
    pub tell_shut: TellShut,
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

/// Starts all of it, and says how the host reaches the cluster. The tasks end when they are aborted.
///
/// # Errors
/// When what was asked for cannot be had; the text says what to do.
pub fn start(config: EdgeConfig<'_>) -> Result<HostReach> {
    let EdgeConfig { network, host_access, nodes, agents, cluster, router, events, tell_shut, stopping, tasks } =
        config;
    let reach = match host::attach(&network, host_access, &*router)? {
        Some(device) => {
            tasks.spawn(host_routes::follow(device, &network, &cluster.service_cidrs));
            HostReach::Device
        }
        None if host_access == HostAccess::Auto => {
            loopback::start(&network, &cluster.services, &router, events.clone(), tell_shut, &stopping, tasks)?;
            HostReach::Loopback
        }
        None => HostReach::None,
    };
    egress::start(&network, &router, tasks)?;
    let nodes = (1..=nodes).map(|index| {
        let (name, addresses) = (node_name(index), network.node_addr(index));
        let ns = agents.node_ns(&name).with_context(|| format!("node {name} has no namespace"))?.try_clone()?;
        Ok(EdgeNode { name, addresses, ns })
    });
    let nodes: Arc<[EdgeNode]> = nodes.collect::<Result<Vec<_>>>()?.into();
    health_ports::start(nodes, &cluster, &router, events, stopping, tasks)?;
    Ok(reach)
}
