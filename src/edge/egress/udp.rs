//! Datagrams into the world: a socket for each flow, for as long as it is in use.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Egress;
use super::bounds::Place;
use crate::edge::datagrams::{DATAGRAM, connect, idle};
use crate::router::Held;
use crate::router::wire::Tuple;

/// A flow. Its first packet is kept for what may have to be said about it.
pub(super) struct Session {
    socket: UdpSocket,
    first: Held,
    state: Mutex<State>,
    _place: Place,
}

struct State {
    /// The client as the gate sees it.
    client: SocketAddr,
    last_sent: Instant,
}

#[derive(Default)]
pub(super) struct Sessions(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    by_flow: HashMap<Tuple, Arc<Session>>,
    by_client: HashMap<SocketAddr, Arc<Session>>,
}

impl Sessions {
    fn of_flow(&self, flow: &Tuple) -> Option<Arc<Session>> {
        self.0.lock().by_flow.get(flow).cloned()
    }

    fn of_client(&self, client: &SocketAddr) -> Option<Arc<Session>> {
        self.0.lock().by_client.get(client).cloned()
    }

    /// Enters a session under its client, or under a new client when the router has begun the flow anew.
    fn enter(&self, session: &Arc<Session>, client: SocketAddr) {
        let mut tables = self.0.lock();
        let before = std::mem::replace(&mut session.state.lock().client, client);
        tables.remove_client(session, before);
        tables.by_client.insert(client, Arc::clone(session));
        tables.by_flow.insert(session.first.tuple, Arc::clone(session));
    }

    fn remove(&self, session: &Arc<Session>) {
        let mut tables = self.0.lock();
        let client = session.state.lock().client;
        tables.remove_client(session, client);
        if tables.by_flow.get(&session.first.tuple).is_some_and(|found| Arc::ptr_eq(found, session)) {
            tables.by_flow.remove(&session.first.tuple);
        }
    }
}

impl Tables {
    fn remove_client(&mut self, session: &Arc<Session>, client: SocketAddr) {
        // Another flow may have the place by now.
        if self.by_client.get(&client).is_some_and(|found| Arc::ptr_eq(found, session)) {
            self.by_client.remove(&client);
        }
    }
}

impl Egress {
    /// A Pod's first datagram, or one that followed before that one was let through.
    pub(super) async fn datagram(self: &Arc<Self>, held: Held) {
        // The Service that the Pod talks to may have chosen another endpoint since.
        let known = self.datagrams.of_flow(&held.tuple).filter(|known| known.first.destination == held.destination);
        let session = match known {
            Some(session) => session,
            None => {
                let Some(place) = Self::place(&self.bounds.udp, &held) else { return };
                let socket = match connect(held.destination).await {
                    Ok(socket) => socket,
                    Err(error) => return self.refuse(&held, &error),
                };
                let state = State { client: held.destination, last_sent: Instant::now() };
                let first = held.head();
                let session = Arc::new(Session { socket, first, state: Mutex::new(state), _place: place });
                let egress = Arc::clone(self);
                tokio::spawn(egress.return_datagrams(Arc::clone(&session)));
                session
            }
        };
        if let Some(admitted) = self.router.admit(&held) {
            self.datagrams.enter(&session, admitted.client);
            self.router.deliver(admitted);
        }
    }

    /// Takes what arrives at the gate to the outside.
    pub(super) async fn forward_datagrams(self: Arc<Self>, family: usize) {
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (length, client) = match self.gate[family].recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // About a datagram that a Pod did not take; the next one may be fine.
                    debug!(%error, "datagram not received at the gate");
                    continue;
                }
            };
            let Some(session) = self.datagrams.of_client(&client) else { continue };
            session.state.lock().last_sent = Instant::now();
            match session.socket.try_send(&buffer[..length]) {
                Ok(_) => {}
                // As on any full link.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => self.refuse(&session.first, &error),
            }
        }
    }

    /// Takes the outside's answers to the Pod, until the flow has been idle for as long as the router keeps it.
    async fn return_datagrams(self: Arc<Self>, session: Arc<Session>) {
        let mut buffer = vec![0; DATAGRAM];
        let gate = &self.gate[usize::from(session.first.destination.is_ipv6())];
        loop {
            match timeout(idle(), session.socket.recv(&mut buffer)).await {
                Ok(Ok(length)) => {
                    let client = session.state.lock().client;
                    if let Err(error) = gate.send_to(&buffer[..length], client).await {
                        debug!(%error, "answer not sent to a Pod");
                    }
                }
                Ok(Err(error)) => self.refuse(&session.first, &error),
                Err(_) if session.state.lock().last_sent.elapsed() >= idle() => break,
                Err(_) => {}
            }
        }
        self.datagrams.remove(&session);
    }
}
