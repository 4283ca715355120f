//! The host's own way into the cluster: a TUN device in the namespace that vipyard was started in, and routes to the
//! cluster's ranges; [`super::host_routes`] adds those of ServiceCIDRs. The host is a client outside of the cluster, with
//! an address out of the node range. Nothing else of its network is touched, and device and routes go with the process.

use std::io;

use anyhow::{Context, Result};
use tracing::{info, warn};

use crate::config::{HostAccess, Network};
use crate::netlink::interface_index;
use crate::node::netif;
use crate::router::{PortKind, PortSpec, Ports};
use crate::sys::tun::Tun;

const PREFIX: &str = "vipyard";
const NAME: &str = "host";

/// Connects the host as far as `access` wants it and the kernel allows it. Returns the device's index if it did.
///
/// # Errors
/// When access is asked for and cannot be had.
pub(super) fn attach(network: &Network, access: HostAccess, ports: &dyn Ports) -> Result<Option<u32>> {
    if access == HostAccess::No {
        return Ok(None);
    }
    let addresses = network.host().both();
    let ranges = network.ranges().map(|(_, range)| range);
    let (device, tun) = match netif::create_here(PREFIX, &addresses, &ranges, network.mtu) {
        Ok(made) => made,
        Err(e) if access == HostAccess::Yes && e.kind() == io::ErrorKind::PermissionDenied => {
            return Err(e).context("--host-access yes needs root: run vipyard as root, or leave the flag out");
        }
        Err(e) if access == HostAccess::Yes => {
            return Err(e).context("cannot connect this host to the cluster; --host-access no does without");
        }
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            info!("this host cannot dial Services by their own addresses: that takes root");
            return Ok(None);
        }
        Err(e) => {
            warn!(error = %e, "this host cannot dial Services by their own addresses");
            return Ok(None);
        }
    };
    let index = interface_index(&device).context("the host's device has no index")?;
    connect(network, tun, ports)?;
    info!(device, address = %network.host().v4, "this host reaches the cluster");
    Ok(Some(index))
}

/// Connects a device as a client outside of the cluster.
pub(super) fn connect(network: &Network, device: Tun, ports: &dyn Ports) -> Result<()> {
    ports.attach(PortSpec {
        name: NAME.into(),
        uid: String::new(),
        kind: PortKind::Outside,
        node: NAME.into(),
        addresses: network.host().both().to_vec(),
        device,
    })?;
    Ok(())
}
