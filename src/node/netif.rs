//! Network devices: a TUN inside a namespace, with addresses and default routes.

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use tracing::{debug, warn};

use crate::config::NODE_PORT_RANGE;
use crate::netlink::{Netlink, interface_index, set_sysctl};
use crate::sys::netns::NetNs;
use crate::sys::tun::Tun;

/// Packets that wait for the router before the kernel drops: the usual length for a device that can burst.
const QUEUE: u32 = 1000;

/// Opens what an unprivileged program may do in a container: all ports, and ICMP echo sockets.
///
/// Comfort only: where /proc/sys is read-only, processes that are root in the namespace lose nothing, so nothing fails.
pub fn relax(ns: &NetNs) {
    let result = ns.run(|| {
        for (key, value) in [("net/ipv4/ip_unprivileged_port_start", "0"), ("net/ipv4/ping_group_range", "0 0")] {
            if let Err(e) = set_sysctl(key, value) {
                debug!(key, error = %e, "sysctl not set");
            }
        }
    });
    if let Err(e) = result {
        debug!(error = %e, "namespace not entered to set its sysctls");
    }
}

/// Makes the TUN device `name` in `ns`: up, with full-length addresses, and the default route of each family.
///
/// The queue of the returned device belongs to the router, see [`crate::router::Ports::attach`].
///
/// # Errors
/// Those of [`Tun::open`], and the kernel's answers with the step that failed.
pub fn create(ns: &NetNs, name: &str, addresses: &[IpAddr], mtu: u32) -> io::Result<Tun> {
    ns.run(|| {
        let tun = Tun::open(name).map_err(|e| step(&e, "open /dev/net/tun"))?;
        let (mut netlink, index) = set_up(name, mtu)?;
        for address in addresses {
            netlink.add_address(index, *address).map_err(|e| step(&e, &format!("add address {address}")))?;
        }
        let sources = [addresses.iter().find(|a| a.is_ipv4()), addresses.iter().find(|a| a.is_ipv6())];
        for source in sources.into_iter().flatten() {
            netlink.add_default_route(index, *source).map_err(|e| step(&e, "add the default route"))?;
        }
        Ok(tun)
    })?
}

/// Brings packets of a node's own processes for the node ports of its own addresses to the router (rules X4, X6): a
/// kernel would keep them to itself, where nothing listens.
///
/// Where the kernel refuses, those ports are out of reach for the processes of the node itself and nobody else.
pub fn send_out_node_ports(ns: &NetNs, name: &str, addresses: &[IpAddr]) {
    let result = ns.run(|| {
        let mut netlink = Netlink::open()?;
        // The answers have the node's address as source, and so have packets that no Service captures.
        netlink.accept_own_sources(interface_index(name)?)?;
        addresses.iter().try_for_each(|address| netlink.send_out(*address, &NODE_PORT_RANGE))
    });
    if let Err(e) = result.flatten() {
        warn!(device = name, error = %e, "node ports of a node are out of reach for its own processes");
    }
}

/// What [`send_out_node_ports`] does for the device alone: rules outlive it, and it comes anew.
pub fn accept_node_ports(ns: &NetNs, name: &str) {
    let result = ns.run(|| Netlink::open()?.accept_own_sources(interface_index(name)?));
    if let Err(e) = result.flatten() {
        warn!(device = name, error = %e, "node ports of a node are out of reach for its own processes");
    }
}

/// Makes a TUN device in the calling thread's namespace that leads to `ranges` and to nothing else. Returns its name, a
/// free one that begins with `prefix`. A host without IPv6 gets no addresses and routes of that family.
///
/// # Errors
/// As [`create`].
pub fn create_here(prefix: &str, addresses: &[IpAddr], ranges: &[IpNet], mtu: u32) -> io::Result<(String, Tun)> {
    let (name, tun) = open_free(prefix).map_err(|e| step(&e, "open /dev/net/tun"))?;
    let (mut netlink, index) = set_up(&name, mtu)?;
    for address in addresses {
        match netlink.add_address(index, *address) {
            Ok(()) => {}
            Err(e) if address.is_ipv6() => {
                warn!(%address, error = %e, "no IPv6 on this host");
                continue;
            }
            Err(e) => return Err(step(&e, &format!("add address {address}"))),
        }
        for range in ranges.iter().filter(|range| range.addr().is_ipv4() == address.is_ipv4()) {
            netlink.add_route(index, *range).map_err(|e| step(&e, &format!("add route {range}")))?;
        }
    }
    Ok((name, tun))
}

/// Opens the first of `prefix0`, `prefix1`, ... that no other program has.
fn open_free(prefix: &str) -> io::Result<(String, Tun)> {
    let mut number = 0;
    loop {
        let name = format!("{prefix}{number}");
        match Tun::open(&name) {
            Ok(tun) => return Ok((name, tun)),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && number < 9 => number += 1,
            Err(e) => return Err(e),
        }
    }
}

/// Sets the device up, with its MTU and without addresses.
fn set_up(name: &str, mtu: u32) -> io::Result<(Netlink, u32)> {
    let mut netlink = Netlink::open()?;
    let index = interface_index(name)?;
    netlink.set_mtu(index, mtu, QUEUE).map_err(|e| step(&e, "set the MTU"))?;
    if let Err(e) = netlink.no_link_local(index) {
        debug!(device = name, error = %e, "link-local address not switched off");
    }
    netlink.set_up(index).map_err(|e| step(&e, "set the device up"))?;
    Ok((netlink, index))
}

fn step(error: &io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
