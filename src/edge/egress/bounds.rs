//! How many flows may leave the cluster at the same time.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::router::PortId;

const MOST: u64 = 4096;
const LEAST: u64 = 64;
/// A person's pings.
const ECHO: usize = 64;

/// A room for each protocol.
pub(super) struct Bounds {
    pub tcp: Arc<Room>,
    pub udp: Arc<Room>,
    pub echo: Arc<Room>,
}

impl Bounds {
    /// A TCP flow takes two file descriptors, a UDP flow one; together they leave most of them to the rest.
    pub(super) fn new() -> Self {
        let descriptors = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let flows = (descriptors.unwrap_or(u64::MAX) / 8).clamp(LEAST, MOST);
        let flows = usize::try_from(flows).unwrap_or_default();
        Self { tcp: Room::new(flows), udp: Room::new(flows), echo: Room::new(ECHO) }
    }
}

/// Places, of which no port has more than half: a Pod that dials what never answers does not stop the others.
pub(super) struct Room {
    size: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_port: HashMap<PortId, usize>,
}

impl Room {
    fn new(size: usize) -> Arc<Self> {
        Arc::new(Self { size, taken: Mutex::default() })
    }

    /// A place for as long as the value lives.
    pub(super) fn place(self: &Arc<Self>, port: PortId) -> Option<Place> {
        let mut taken = self.taken.lock();
        let own = taken.by_port.get(&port).copied().unwrap_or_default();
        if taken.all >= self.size || own >= self.size / 2 {
            return None;
        }
        taken.all += 1;
        taken.by_port.insert(port, own + 1);
        Some(Place { room: Arc::clone(self), port })
    }
}

pub(super) struct Place {
    room: Arc<Room>,
    port: PortId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock();
        taken.all -= 1;
        match taken.by_port.get_mut(&self.port) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by_port.remove(&self.port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_pod_takes_more_than_half_and_places_come_back() {
        let room = Room::new(4);
        let greedy: Vec<Place> = (0..4).filter_map(|_| room.place(PortId(1))).collect();
        assert_eq!(greedy.len(), 2);
        let others: Vec<Place> = (2..9).filter_map(|port| room.place(PortId(port))).collect();
        assert_eq!(others.len(), 2, "all are taken");
        drop(others);
        drop(greedy);
        assert!(room.taken.lock().by_port.is_empty());
        assert_eq!((0..4).filter_map(|_| room.place(PortId(1))).count(), 4, "each is free again at once");
    }
}
