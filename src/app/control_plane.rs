//! The control plane's own network namespace: API and DNS listen there, so that Pods reach them through Services like
//! anything else.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result};

use crate::config::Network;
use crate::node::netif;
use crate::router::{PortKind, PortSpec, Ports};
use crate::sys::netns::NetNs;

const NAME: &str = "control-plane";
const DEVICE: &str = "eth0";

pub(super) struct ControlPlane {
    namespace: NetNs,
    addresses: [IpAddr; 2],
}

/// Makes the namespace and connects it to the router.
pub(super) fn attach(network: &Network, ports: &dyn Ports) -> Result<ControlPlane> {
    let addresses = network.control_plane().both();
    let namespace = NetNs::create().context("cannot make a network namespace: see `vipyard doctor`")?;
    let device = netif::create(&namespace, DEVICE, &addresses, network.mtu)
        .context("cannot make a TUN device: see `vipyard doctor`")?;
    ports.attach(PortSpec {
        name: NAME.into(),
        uid: String::new(),
        kind: PortKind::ControlPlane,
        node: NAME.into(),
        addresses: addresses.to_vec(),
        device,
    })?;
    Ok(ControlPlane { namespace, addresses })
}

impl ControlPlane {
    /// A second handle on the namespace.
    pub(super) fn namespace(&self) -> Result<NetNs> {
        self.namespace.try_clone().context("out of file descriptors: see `ulimit -n`")
    }

    /// TCP listeners on both addresses, non-blocking.
    pub(super) fn listeners(&self, port: u16) -> Result<Vec<TcpListener>> {
        self.each(port, |address| {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true).map(|()| socket)
        })
    }

    /// UDP sockets on both addresses, non-blocking.
    pub(super) fn sockets(&self, port: u16) -> Result<Vec<UdpSocket>> {
        self.each(port, |address| {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true).map(|()| socket)
        })
    }

    fn each<T: Send>(&self, port: u16, bind: impl Fn(SocketAddr) -> std::io::Result<T> + Send) -> Result<Vec<T>> {
        let addresses = self.addresses;
        let bound = self.namespace.run(move || {
            addresses.into_iter().map(|ip| bind(SocketAddr::new(ip, port))).collect::<std::io::Result<Vec<T>>>()
        });
        bound.and_then(|inner| inner).with_context(|| format!("cannot listen on port {port} inside the cluster"))
    }
}
