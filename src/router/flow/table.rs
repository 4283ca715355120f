//! The table itself: flows in slots, found by either of their tuples, with a queue for each class.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::{Class, Direction, Ending, Flow, Millis, NewFlow};
use crate::router::PortId;
use crate::router::wire::{Kind, Rewrite, Tuple};

const CHUNK: usize = 1024;
const NONE: u32 = u32::MAX;

/// Names a flow as long as it lives; afterwards it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowId {
    slot: u32,
    generation: u32,
}

impl FlowId {
    /// Its place in the table, which another flow may have after it.
    pub fn slot(self) -> usize {
        self.slot as usize
    }
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    flow: Option<Flow>,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u32,
    tail: u32,
}

/// How the table came to its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounters {
    pub created: u64,
    /// Ended by idleness.
    pub expired: u64,
    /// Ended before their time because the table was full.
    pub evicted: u64,
    /// Ended because what they rested on is gone: a backend, a port, or a new connection with the same addresses.
    pub replaced: u64,
}

/// All flows. Slots are allocated in chunks, so growing never moves a flow.
pub struct FlowTable {
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    chunks: Vec<Box<[Slot]>>,
    free: Vec<u32>,
    len: usize,
    limit: usize,
    queues: [Queue; Class::ALL.len()],
    counters: FlowCounters,
    /// Flows that have ended without being told of.
    ended: Vec<(Flow, Ending)>,
}

impl FlowTable {
    /// A table of at most `limit` flows; memory is taken as it fills.
    pub fn new(limit: usize) -> Self {
        Self {
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            chunks: Vec::new(),
            free: Vec::new(),
            len: 0,
            limit: limit.clamp(1, (NONE / 2) as usize),
            queues: [Queue { head: NONE, tail: NONE }; Class::ALL.len()],
            counters: FlowCounters::default(),
            ended: Vec::new(),
        }
    }

    /// The most flows at a time.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes the flows that have ended since this was called last, as far as somebody is to be told.
    pub(in crate::router) fn ended(&mut self) -> Vec<(Flow, Ending)> {
        std::mem::take(&mut self.ended)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn counters(&self) -> FlowCounters {
        self.counters
    }

    /// The flow that a packet with these addresses belongs to, also when it is past its time.
    pub fn find(&self, tuple: &Tuple) -> Option<(FlowId, Direction)> {
        let entry = *self.index.find(self.hasher.hash_one(tuple), |&entry| {
            self.flow_at(entry >> 1).is_some_and(|flow| flow.tuples[(entry & 1) as usize] == *tuple)
        })?;
        let slot = entry >> 1;
        let direction = if entry & 1 == 0 { Direction::Original } else { Direction::Reply };
        Some((FlowId { slot, generation: self.slot(slot).generation }, direction))
    }

    pub fn get(&self, id: FlowId) -> Option<&Flow> {
        self.slot_checked(id).and_then(|slot| slot.flow.as_ref())
    }

    pub fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        let slot = self.chunks.get_mut(id.slot as usize / CHUNK)?.get_mut(id.slot as usize % CHUNK)?;
        if slot.generation == id.generation { slot.flow.as_mut() } else { None }
    }

    /// Whether a flow could be entered whose backend answers with this tuple. Ends a flow that is past its time.
    pub fn is_free(&mut self, tuple: &Tuple, now: Millis) -> bool {
        match self.find(tuple) {
            None => true,
            Some((id, _)) if self.get(id).is_some_and(|flow| flow.is_expired(now)) => {
                self.counters.expired += 1;
                self.unlink(id.slot, Ending::Idle);
                true
            }
            Some(_) => false,
        }
    }

    /// Enters a flow whose tuples are both free.
    pub fn insert(&mut self, new: NewFlow, now: Millis) -> FlowId {
        if self.len >= self.limit {
            self.evict(now);
        }
        let slot = self.take_slot();
        let [original, reply] = new.tuples;
        let flow = Flow {
            tuples: new.tuples,
            ports: new.ports,
            rewrites: [
                Rewrite::compile(&original, &reply.reversed(), new.hops),
                Rewrite::compile(&reply, &original.reversed(), new.hops),
            ],
            epoch: new.epoch,
            grounds: new.grounds,
            class: new.class,
            created: now,
            last_hit: now,
            packets: [0; 2],
            bytes: [0; 2],
            opened: None,
            result: None,
            fins: 0,
            queued_at: now,
            prev: NONE,
            next: NONE,
        };
        let generation = {
            let place = self.slot_mut(slot);
            place.flow = Some(flow);
            place.generation
        };
        self.len += 1;
        self.counters.created += 1;
        self.index_insert(&original, slot << 1);
        if reply != original {
            self.index_insert(&reply, slot << 1 | 1);
        }
        self.enqueue(slot, new.class);
        FlowId { slot, generation }
    }

    /// Counts a packet and moves the flow to the class that follows from it. `true` when its peers have just ended it.
    pub fn hit(&mut self, id: FlowId, direction: Direction, kind: Kind, bytes: usize, now: Millis) -> bool {
        let Some(flow) = self.get_mut(id) else { return false };
        flow.last_hit = now;
        flow.packets[direction as usize] += 1;
        flow.bytes[direction as usize] += bytes as u64;
        let (before, after) = (flow.class, flow.advance(kind, direction));
        if before != after {
            self.dequeue(id.slot);
            if let Some(flow) = self.get_mut(id) {
                flow.class = after;
                flow.queued_at = now;
            }
            self.enqueue(id.slot, after);
        }
        before != after && after == Class::Closed
    }

    /// Ends a flow because of what happened in the cluster or on the wire.
    pub fn remove(&mut self, id: FlowId, ending: Ending) {
        if self.slot_checked(id).is_some() {
            self.counters.replaced += 1;
            self.unlink(id.slot, ending);
        }
    }

    /// Ends flows that are past their time, looking at no more than `budget` of them.
    pub fn expire(&mut self, now: Millis, mut budget: usize) {
        for class in Class::ALL {
            while budget > 0 {
                let head = self.queues[class as usize].head;
                let Some(flow) = self.flow_at(head) else { break };
                if flow.queued_at + class.timeout() > now {
                    break;
                }
                budget -= 1;
                if flow.is_expired(now) {
                    self.counters.expired += 1;
                    self.unlink(head, Ending::Idle);
                } else {
                    self.requeue(head, class, now);
                }
            }
        }
    }

    /// When [`FlowTable::expire`] has something to look at; `None` for an empty table.
    pub fn next_expiry(&self) -> Option<Millis> {
        let due =
            |class: Class| self.flow_at(self.queues[class as usize].head).map(|flow| flow.queued_at + class.timeout());
        Class::ALL.into_iter().filter_map(due).min()
    }

    /// Ends flows of ports that are gone, `budget` slots from `start`; returns where to go on, or `None` at the end.
    pub fn sweep(&mut self, start: usize, budget: usize, is_alive: impl Fn(PortId) -> bool) -> Option<usize> {
        let end = (start + budget).min(self.chunks.len() * CHUNK);
        for slot in start..end {
            let slot = u32::try_from(slot).unwrap_or(NONE);
            if self.flow_at(slot).is_some_and(|flow| !flow.ports.iter().all(|port| is_alive(*port))) {
                self.counters.replaced += 1;
                self.unlink(slot, Ending::PortGone);
            }
        }
        (end < self.chunks.len() * CHUNK).then_some(end)
    }

    /// Shows the flows of `budget` slots from `start`; returns where to go on, or `None` at the end.
    pub fn visit(&self, start: usize, budget: usize, mut see: impl FnMut(FlowId, &Flow)) -> Option<usize> {
        let end = (start + budget).min(self.chunks.len() * CHUNK);
        for slot in start..end {
            let place = &self.chunks[slot / CHUNK][slot % CHUNK];
            if let Some(flow) = &place.flow {
                see(FlowId { slot: u32::try_from(slot).unwrap_or(NONE), generation: place.generation }, flow);
            }
        }
        (end < self.chunks.len() * CHUNK).then_some(end)
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Flow> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).filter_map(|slot| slot.flow.as_ref())
    }

    fn evict(&mut self, now: Millis) {
        for class in Class::ALL {
            // Second chances are few: under attack, finding a victim must stay cheap.
            for _ in 0..4 {
                let head = self.queues[class as usize].head;
                let Some(flow) = self.flow_at(head) else { break };
                if flow.last_hit == flow.queued_at {
                    break;
                }
                self.requeue(head, class, now);
            }
            let head = self.queues[class as usize].head;
            if head != NONE {
                self.counters.evicted += 1;
                self.unlink(head, Ending::Evicted);
                return;
            }
        }
    }

    /// Moves the head to the tail, as a flow that was in use.
    fn requeue(&mut self, slot: u32, class: Class, now: Millis) {
        self.dequeue(slot);
        if let Some(flow) = &mut self.slot_mut(slot).flow {
            flow.queued_at = now;
        }
        self.enqueue(slot, class);
    }

    fn unlink(&mut self, slot: u32, ending: Ending) {
        self.dequeue(slot);
        let Some(flow) = self.slot_mut(slot).flow.take() else { return };
        self.slot_mut(slot).generation = self.slot(slot).generation.wrapping_add(1);
        self.index_remove(&flow.tuples[0], slot << 1);
        self.index_remove(&flow.tuples[1], slot << 1 | 1);
        self.free.push(slot);
        self.len -= 1;
        if flow.opened.is_some() {
            self.ended.push((flow, ending));
        }
    }

    fn index_insert(&mut self, tuple: &Tuple, entry: u32) {
        let Self { index, hasher, chunks, .. } = self;
        let rehash = |&entry: &u32| {
            let slot = (entry >> 1) as usize;
            let flow = chunks[slot / CHUNK][slot % CHUNK].flow.as_ref();
            flow.map_or(0, |flow| hasher.hash_one(flow.tuples[(entry & 1) as usize]))
        };
        index.insert_unique(hasher.hash_one(tuple), entry, rehash);
    }

    fn index_remove(&mut self, tuple: &Tuple, entry: u32) {
        if let Ok(found) = self.index.find_entry(self.hasher.hash_one(tuple), |&other| other == entry) {
            found.remove();
        }
    }

    fn enqueue(&mut self, slot: u32, class: Class) {
        let tail = self.queues[class as usize].tail;
        if let Some(flow) = &mut self.slot_mut(slot).flow {
            flow.prev = tail;
            flow.next = NONE;
        }
        if tail == NONE {
            self.queues[class as usize].head = slot;
        } else if let Some(last) = &mut self.slot_mut(tail).flow {
            last.next = slot;
        }
        self.queues[class as usize].tail = slot;
    }

    fn dequeue(&mut self, slot: u32) {
        let Some(flow) = self.flow_at(slot) else { return };
        let (prev, next, class) = (flow.prev, flow.next, flow.class);
        if prev == NONE {
            self.queues[class as usize].head = next;
        } else if let Some(before) = &mut self.slot_mut(prev).flow {
            before.next = next;
        }
        if next == NONE {
            self.queues[class as usize].tail = prev;
        } else if let Some(after) = &mut self.slot_mut(next).flow {
            after.prev = prev;
        }
    }

    fn take_slot(&mut self) -> u32 {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let first = u32::try_from(self.chunks.len() * CHUNK).unwrap_or(NONE);
        self.chunks.push((0..CHUNK).map(|_| Slot { generation: 0, flow: None }).collect());
        let last = first + u32::try_from(CHUNK).unwrap_or(1) - 1;
        self.free.extend((first + 1..=last).rev());
        first
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn slot_checked(&self, id: FlowId) -> Option<&Slot> {
        let slot = self.chunks.get(id.slot as usize / CHUNK)?.get(id.slot as usize % CHUNK)?;
        (slot.generation == id.generation && slot.flow.is_some()).then_some(slot)
    }

    fn flow_at(&self, slot: u32) -> Option<&Flow> {
        self.chunks.get(slot as usize / CHUNK)?.get(slot as usize % CHUNK)?.flow.as_ref()
    }
}

#[cfg(test)]
mod tests;
