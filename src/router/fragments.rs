//! Which flow a fragment without ports belongs to (rule C9).
//!
//! The first fragment of a datagram has the ports and goes the normal way; it leaves a note here, and the later ones
//! follow the note. Kernels send fragments in order and a TUN keeps it, so later ones that come first are dropped.

use std::collections::VecDeque;
use std::net::IpAddr;

use rustc_hash::FxHashMap;

use super::flow::{Direction, FlowId, Millis};

const LIMIT: usize = 4096;
const TIMEOUT: Millis = 30_000;

/// What all fragments of a datagram have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DatagramKey {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub protocol: u8,
    pub id: u32,
}

/// A bounded memory of datagrams under way.
#[derive(Default)]
pub struct Fragments {
    notes: FxHashMap<DatagramKey, Note>,
    order: VecDeque<DatagramKey>,
}

#[derive(Clone, Copy)]
struct Note {
    flow: FlowId,
    direction: Direction,
    until: Millis,
}

impl Fragments {
    pub fn note(&mut self, key: DatagramKey, flow: FlowId, direction: Direction, now: Millis) {
        if self.notes.insert(key, Note { flow, direction, until: now + TIMEOUT }).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.notes.remove(&oldest);
        }
    }

    pub fn find(&self, key: &DatagramKey, now: Millis) -> Option<(FlowId, Direction)> {
        self.notes.get(key).filter(|note| note.until > now).map(|note| (note.flow, note.direction))
    }
}
