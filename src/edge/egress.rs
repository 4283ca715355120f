//! The way of Pods into the world: flows to addresses that nobody in the cluster has end here and are carried on by
//! ordinary sockets of the namespace that vipyard was started in. So it needs no privilege and no rule of the host's.
//!
//! The other end of a Pod's connection is a kernel's as well, that of a namespace of its own, the gate: the router
//! translates the flow to a listener there, as to the endpoint of a Service. A TCP/IP stack in user space (smoltcp,
//! ipstack) would need segmentation, retransmission and congestion control of its own for 64 KiB segments with partial
//! checksums; here they are the kernel's, and all that is left to do is to copy bytes from socket to socket.
//!
//! What the Pod sees is true of the outside, because its first packet is held back until the outside has answered: the
//! router hands over the SYN, the relay dials, and only then is the SYN let through to the gate. A connection that is
//! refused is answered with a reset, one that cannot be routed with ICMP unreachable, and one that nobody answers
//! stays silent.
//!
//! Everything is bounded: packets that wait, flows of each protocol ([`Bounds`]), and idle time. What the router never
//! hands over, so that it cannot be dialed: loopback, link-local and multicast addresses, and the cluster's own ranges.

mod bounds;
mod echo;
mod tcp;
mod udp;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use self::bounds::{Bounds, Place, Room};
use crate::config::Network;
use crate::node::netif;
use crate::router::stats::AnswerReason;
use crate::router::wire::{ICMP, ICMPV6, TCP, Tuple, UDP};
use crate::router::{GATE_PORT, Held, PortKind, PortSpec, Ports, Router};
use crate::sys::netns::NetNs;

const NAME: &str = "gate";
const DEVICE: &str = "eth0";
/// Packets that wait for the relay. Each is one flow's first, or a datagram that came while that one waited.
const QUEUE: usize = 256;

/// The relay's state; see the module's documentation.
struct Egress {
    router: Arc<Router>,
    bounds: Bounds,
    /// Connections that are being dialed: the Pod may repeat its SYN meanwhile.
    dialing: Mutex<HashSet<Tuple>>,
    arrivals: tcp::Arrivals,
    datagrams: udp::Sessions,
    echoes: echo::Sessions,
    /// The gate's datagram sockets.
    gate: [UdpSocket; 2],
}

/// Makes the gate and starts the relay.
///
/// # Errors
/// When a namespace or a device cannot be had.
pub(super) fn start(network: &Network, router: &Arc<Router>, tasks: &mut JoinSet<()>) -> Result<()> {
    let addresses = network.gate().both();
    let ns = NetNs::create().context("cannot make a network namespace: see `vipyard doctor`")?;
    let device = netif::create(&ns, DEVICE, &addresses, network.mtu)
        .context("cannot make a TUN device: see `vipyard doctor`")?;
    let (listeners, gate) = ns.run(|| sockets(addresses)).and_then(|made| made).context("cannot listen at the gate")?;
    let queue = router.hold_for_world(QUEUE).context("the router serves another gate already")?;
    let spec = PortSpec {
        name: NAME.into(),
        uid: String::new(),
        kind: PortKind::Gate,
        node: NAME.into(),
        addresses: addresses.to_vec(),
        device,
    };
    router.attach(spec)?;
    let [v4, v6] = gate;
    let egress = Arc::new(Egress {
        router: Arc::clone(router),
        bounds: Bounds::new(),
        dialing: Mutex::default(),
        arrivals: tcp::Arrivals::default(),
        datagrams: udp::Sessions::default(),
        echoes: echo::Sessions::default(),
        gate: [UdpSocket::from_std(v4)?, UdpSocket::from_std(v6)?],
    });
    for listener in listeners {
        tasks.spawn(Arc::clone(&egress).accept(TcpListener::from_std(listener)?));
    }
    for family in 0..egress.gate.len() {
        tasks.spawn(Arc::clone(&egress).forward_datagrams(family));
    }
    tasks.spawn(egress.receive(queue));
    Ok(())
}

/// The gate's listeners and datagram sockets, IPv4 first, in the calling thread's namespace.
fn sockets(addresses: [IpAddr; 2]) -> io::Result<(Vec<StdListener>, [StdSocket; 2])> {
    let at = |ip| SocketAddr::new(ip, GATE_PORT);
    let listener = |ip| {
        let listener = StdListener::bind(at(ip))?;
        listener.set_nonblocking(true).map(|()| listener)
    };
    let socket = |ip| {
        let socket = StdSocket::bind(at(ip))?;
        socket.set_nonblocking(true).map(|()| socket)
    };
    let listeners = addresses.into_iter().map(listener).collect::<io::Result<_>>()?;
    Ok((listeners, [socket(addresses[0])?, socket(addresses[1])?]))
}

impl Egress {
    async fn receive(self: Arc<Self>, mut queue: mpsc::Receiver<Held>) {
        while let Some(held) = queue.recv().await {
            match held.tuple.protocol {
                TCP => self.connection(held),
                UDP => self.datagram(held).await,
                ICMP | ICMPV6 => self.echo(held).await,
                _ => {}
            }
        }
    }

    /// A place for one more flow. Without one the packet is dropped; its sender tries again.
    fn place(room: &Arc<Room>, held: &Held) -> Option<Place> {
        let place = room.place(held.from);
        if place.is_none() {
            debug!(to = %held.destination, "too many flows leave the cluster: raise `ulimit -n`");
        }
        place
    }

    /// Tells the Pod what the outside said, if there is anything to tell.
    fn refuse(&self, held: &Held, error: &io::Error) {
        match denial(error) {
            Some(reason) => self.router.refuse(held, reason),
            None => debug!(to = %held.destination, %error, "not reached"),
        }
    }
}

/// What the sender of a packet is told when a socket says this.
fn denial(error: &io::Error) -> Option<AnswerReason> {
    use io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Some(AnswerReason::OutsideRefused),
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable => Some(AnswerReason::OutsideNetwork),
        ErrorKind::HostUnreachable => Some(AnswerReason::OutsideHost),
        ErrorKind::PermissionDenied => Some(AnswerReason::OutsideForbidden),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_told_what_the_outside_says_and_nothing_of_our_own_troubles() {
        let told = |errno: i32| denial(&io::Error::from_raw_os_error(errno));
        assert_eq!(told(libc::ECONNREFUSED), Some(AnswerReason::OutsideRefused));
        assert_eq!(told(libc::ENETUNREACH), Some(AnswerReason::OutsideNetwork));
        assert_eq!(told(libc::EHOSTUNREACH), Some(AnswerReason::OutsideHost));
        assert_eq!(told(libc::EACCES), Some(AnswerReason::OutsideForbidden));
        assert_eq!([libc::ETIMEDOUT, libc::EMFILE].map(told), [None, None]);
    }
}
