//! Datagrams from socket to socket, with a socket for each client.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use crate::router::flow::Class;

/// The longest datagram, and more.
pub(super) const DATAGRAM: usize = 1 << 16;
/// As long as the router keeps a flow.
pub(super) fn idle() -> Duration {
    Duration::from_millis(Class::UdpStream.timeout())
}

/// A socket that talks to the destination alone, and hears what becomes of its datagrams.
pub(super) async fn connect(destination: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(destination).await?;
    // Until the reactor has said so, the first datagram would be taken for one too many.
    socket.writable().await?;
    Ok(socket)
}

/// A client's flow.
struct Flow {
    socket: UdpSocket,
    target: SocketAddr,
    last_sent: Mutex<Instant>,
}

/// Carries datagrams of the clients of `front` to the target and back, `flows` clients at a time.
pub(super) async fn relay(front: StdSocket, flows: usize, target: impl Fn() -> Option<SocketAddr>) {
    let front = match UdpSocket::from_std(front) {
        Ok(front) => Arc::new(front),
        Err(error) => return debug!(%error, "door not opened"),
    };
    let mut known: HashMap<SocketAddr, Arc<Flow>> = HashMap::new();
    let mut answers = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let received = tokio::select! {
            received = front.recv_from(&mut buffer) => received,
            Some(ended) = answers.join_next() => {
                // The client may have a newer flow by now.
                if let Ok((client, flow)) = ended
                    && known.get(&client).is_some_and(|found| Arc::ptr_eq(found, &flow))
                {
                    known.remove(&client);
                }
                continue;
            }
        };
        // An error is about an answer that a client did not take.
        let Ok((length, client)) = received else { continue };
        let flow = known.get(&client);
        if let Some(target) = target()
            && flow.is_none_or(|flow| flow.target != target)
            && (flow.is_some() || known.len() < flows)
        {
            match connect(target).await {
                Ok(socket) => {
                    let flow = Arc::new(Flow { socket, target, last_sent: Mutex::new(Instant::now()) });
                    answers.spawn(bring_back(Arc::clone(&front), client, Arc::clone(&flow)));
                    known.insert(client, flow);
                }
                Err(error) => debug!(%error, "no flow for the loopback"),
            }
        }
        if let Some(flow) = known.get(&client) {
            *flow.last_sent.lock() = Instant::now();
            // What does not go out at once is lost, as on any full link.
            let _ = flow.socket.try_send(&buffer[..length]);
        }
    }
}

/// Returns when the flow has been idle for long enough.
async fn bring_back(front: Arc<UdpSocket>, client: SocketAddr, flow: Arc<Flow>) -> (SocketAddr, Arc<Flow>) {
    let mut buffer = vec![0; DATAGRAM];
    let mut end = Instant::now() + idle();
    loop {
        match timeout_at(end, flow.socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                let _ = front.send_to(&buffer[..length], client).await;
                end = Instant::now() + idle();
            }
            // Nobody listens yet: a later datagram may find somebody.
            Ok(Err(error)) => debug!(%error, "datagram refused"),
            Err(_) => {
                end = *flow.last_sent.lock() + idle();
                if end <= Instant::now() {
                    return (client, flow);
                }
            }
        }
    }
}
