//! Echo requests into the world, over the ping sockets that the kernel has for ordinary users. Where the user may not
//! have them (`net.ipv4.ping_group_range`), the Pod is told that its request is forbidden.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tracing::debug;

use super::Egress;
use crate::router::wire::Tuple;
use crate::router::{Held, icmp};

/// Longer than `ping` waits between two requests.
const IDLE: Duration = Duration::from_secs(30);
const MESSAGE: usize = 1 << 16;

/// The sockets by Pod, destination and identifier.
pub(super) type Sessions = Mutex<HashMap<Tuple, Arc<UdpSocket>>>;

impl Egress {
    pub(super) async fn echo(self: &Arc<Self>, held: Held) {
        let Some(message) = held.transport().filter(|message| is_request(message, held.tuple.is_v6())) else { return };
        let known = self.echoes.lock().get(&held.tuple).cloned();
        let socket = match known {
            Some(socket) => socket,
            None => match self.begin(&held).await {
                Some(socket) => socket,
                None => return,
            },
        };
        match socket.try_send(message) {
            Ok(_) => {}
            // As on any full link.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.refuse(&held, &error),
        }
    }

    async fn begin(self: &Arc<Self>, held: &Held) -> Option<Arc<UdpSocket>> {
        let place = Self::place(&self.bounds.echo, held)?;
        let socket = match open(held.destination).await {
            Ok(socket) => Arc::new(socket),
            Err(error) => {
                self.refuse(held, &error);
                return None;
            }
        };
        self.echoes.lock().insert(held.tuple, Arc::clone(&socket));
        let (egress, served, first) = (Arc::clone(self), Arc::clone(&socket), held.head());
        tokio::spawn(async move {
            let _place = place;
            egress.return_echoes(&served, &first).await;
            egress.echoes.lock().remove(&first.tuple);
        });
        Some(socket)
    }

    async fn return_echoes(&self, socket: &UdpSocket, held: &Held) {
        let mut buffer = vec![0; MESSAGE];
        while let Ok(received) = timeout(IDLE, socket.recv(&mut buffer)).await {
            match received {
                Ok(length) => {
                    if let Some(reply) = icmp::echo_reply(&held.tuple, &buffer[..length]) {
                        self.router.send(held.from, &reply);
                    }
                }
                Err(error) => {
                    debug!(%error, "echo request failed");
                    self.refuse(held, &error);
                }
            }
        }
    }
}

fn is_request(message: &[u8], v6: bool) -> bool {
    message.first() == Some(if v6 { &128 } else { &8 })
}

/// A ping socket, which gets the answers to its own requests alone.
async fn open(destination: SocketAddr) -> io::Result<UdpSocket> {
    let (family, protocol) = if destination.is_ipv4() {
        (AddressFamily::INET, ipproto::ICMP)
    } else {
        (AddressFamily::INET6, ipproto::ICMPV6)
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = StdSocket::from(socket_with(family, SocketType::DGRAM, flags, Some(protocol))?);
    let socket = UdpSocket::from_std(socket)?;
    // The port of a ping socket is the identifier of its requests.
    socket.connect(SocketAddr::new(destination.ip(), 0)).await?;
    // Until the reactor has said so, the first request would be taken for one too many.
    socket.writable().await?;
    Ok(socket)
}
