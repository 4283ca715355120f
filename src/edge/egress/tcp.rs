//! Connections into the world.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::debug;

use super::Egress;
use crate::edge::relay::{relay, reset};
use crate::router::Held;

/// How long the outside may take to answer; a Pod's kernel asks again after it.
const DIAL: Duration = Duration::from_secs(30);
/// How long the Pod may take to confirm a connection that the outside has accepted.
const CONFIRM: Duration = Duration::from_secs(30);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections that were let through, by the client that the gate will see: whoever dialed waits for it.
pub(super) type Arrivals = Mutex<HashMap<SocketAddr, oneshot::Sender<TcpStream>>>;

impl Egress {
    /// A Pod's SYN: dials, unless that is being done.
    pub(super) fn connection(self: &Arc<Self>, held: Held) {
        let Some(place) = Self::place(&self.bounds.tcp, &held) else { return };
        if !self.dialing.lock().insert(held.tuple) {
            return;
        }
        let egress = Arc::clone(self);
        tokio::spawn(async move {
            let _place = place;
            let dialed = egress.dial(&held).await;
            egress.dialing.lock().remove(&held.tuple);
            if let Some((outside, client, arrival)) = dialed {
                match tokio::time::timeout(CONFIRM, arrival).await {
                    Ok(Ok(inside)) => relay(inside, outside).await,
                    // A new connection of the same client waits in its place.
                    Ok(Err(_)) => {}
                    Err(_) => drop(egress.arrivals.lock().remove(&client)),
                }
            }
        });
    }

    /// Connects to the outside and then lets the Pod's SYN through to the gate.
    async fn dial(&self, held: &Held) -> Option<(TcpStream, SocketAddr, oneshot::Receiver<TcpStream>)> {
        let outside = match tokio::time::timeout(DIAL, TcpStream::connect(held.destination)).await {
            Ok(Ok(outside)) => outside,
            Ok(Err(error)) => {
                self.refuse(held, &error);
                return None;
            }
            Err(_) => return None,
        };
        let admitted = self.router.admit(held)?;
        let (sender, arrival) = oneshot::channel();
        // Before the gate can see the client.
        self.arrivals.lock().insert(admitted.client, sender);
        let client = admitted.client;
        self.router.deliver(admitted);
        Some((outside, client, arrival))
    }

    /// Takes connections at the gate to those who wait for them. One that nobody waits for is reset.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((inside, client)) => {
                    let waiting = self.arrivals.lock().remove(&client);
                    match waiting {
                        Some(waiting) => drop(waiting.send(inside)),
                        None => reset(&inside),
                    }
                }
                Err(error) => {
                    debug!(%error, "cannot accept a connection at the gate");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}
