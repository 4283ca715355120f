//! The way out of the cluster. A packet for an address that nobody in the cluster has is held; whoever serves the gate
//! asks the world, and then lets the packet through to the gate or has its sender told why not.
//!
//! The gate is a port with a kernel behind it that listens at [`GATE_PORT`]: flows into the world are translated to it as
//! flows to a Service are to its endpoint, and the server of the gate knows them by the client's address there.

use std::net::SocketAddr;

use tokio::sync::mpsc;

use super::PortId;
use super::dataplane::{Router, Shared};
use super::stats::{AnswerReason, DropReason};
use super::wire::{Headers, PacketBuf, Tuple};
use crate::sys::tun::VNET_HDR_LEN;

/// Where the gate listens, TCP and UDP.
pub const GATE_PORT: u16 = 1;

/// As much of a packet as an error about it quotes.
const QUOTED: usize = 1280;

/// A packet that waits, as its device gave it.
#[derive(Clone, Debug)]
pub struct Held {
    pub from: PortId,
    /// As the sender addressed it.
    pub tuple: Tuple,
    /// Whom to ask: the same, or the endpoint outside of the cluster that a Service chose.
    pub destination: SocketAddr,
    headers: Headers,
    frame: Box<[u8]>,
}

impl Held {
    /// What follows the IP header.
    pub fn transport(&self) -> Option<&[u8]> {
        self.frame.get(VNET_HDR_LEN + self.headers.l4..)
    }

    /// As much of it as is needed to refuse it later.
    #[must_use]
    pub fn head(&self) -> Self {
        let len = self.headers.len.min(QUOTED);
        let frame = self.frame[..self.frame.len().min(VNET_HDR_LEN + len)].into();
        Self { headers: Headers { len, ..self.headers }, frame, ..*self }
    }

    fn buf(&self) -> PacketBuf {
        let mut buf = PacketBuf::new();
        let len = self.frame.len().min(buf.slot().len());
        buf.slot()[..len].copy_from_slice(&self.frame[..len]);
        buf.filled(len);
        buf
    }
}

/// A held packet on its way to the gate.
pub struct Admitted {
    /// The sender as the gate sees it.
    pub client: SocketAddr,
    out: PortId,
    buf: PacketBuf,
}

impl Shared {
    pub(super) fn hold(&self, from: PortId, destination: SocketAddr, buf: &PacketBuf) {
        let held = Headers::parse(buf.packet()).ok().and_then(|headers| {
            let held = Held { from, tuple: headers.tuple, destination, headers, frame: buf.frame().into() };
            self.world.get()?.try_send(held).ok()
        });
        if held.is_none() {
            self.pipeline.lock().count_failure(DropReason::OutsideBusy);
        }
    }
}

impl Router {
    /// The queue of held packets, `length` at most; more are dropped. `None` when somebody has it already.
    pub fn hold_for_world(&self, length: usize) -> Option<mpsc::Receiver<Held>> {
        let (sender, queue) = mpsc::channel(length);
        self.shared.world.set(sender).ok().map(|()| queue)
    }

    /// Begins the flow of a held packet, which goes on its way with [`Router::deliver`]. `None` when it has none any more.
    pub fn admit(&self, held: &Held) -> Option<Admitted> {
        let mut buf = held.buf();
        let now = self.shared.now();
        let admitted = self.shared.pipeline.lock().admit(&mut buf, held.from, held.destination, now);
        let (out, client) = admitted.ok()?;
        Some(Admitted { client, out, buf })
    }

    pub fn deliver(&self, admitted: Admitted) {
        self.send(admitted.out, &admitted.buf);
    }

    /// Tells the sender of a held packet why it got no answer.
    pub fn refuse(&self, held: &Held, reason: AnswerReason) {
        let mut buf = held.buf();
        let now = self.shared.now();
        self.shared.pipeline.lock().refuse(&mut buf, &held.headers, held.from, reason, now);
        self.send(held.from, &buf);
    }

    /// Writes a packet to a port's device as it is.
    pub fn send(&self, to: PortId, buf: &PacketBuf) {
        let device = self.devices.read().get(&to).cloned();
        self.shared.left(1, device.is_some_and(|device| rustix::io::write(&*device, buf.frame()).is_ok()));
    }
}
