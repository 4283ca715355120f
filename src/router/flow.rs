//! The flow table: what was decided for the first packet, replayed for all that follow.
//!
//! A flow is a conversation between two ports of the router. It is found by the addresses that either side writes
//! on its packets: `tuples[Original]` as the client sends, `tuples[Reply]` as the backend answers. The way out of a
//! direction is the reverse of the other direction's tuple, so translated flows and plain ones are one thing, and
//! a source port that masquerading took is free again when the flow is: there is no second book to keep.
//!
//! Rules of life. A class (state of the conversation) has a timeout and a queue. A hit only writes `last_hit`; the
//! queue is put right when its head comes due: hit since it was queued, it goes to the tail, else it ends. So a hit
//! costs one store, ending costs O(1), and nothing ticks: [`FlowTable::next_expiry`] says when to look again, and an
//! empty table never asks. A lookup of a flow that is past its time finds nothing, also before the queue was swept.
//! A full table evicts the oldest idle flow of the class that is worth least (closed ones first, established TCP
//! last), so a flood of new connections displaces itself and not the conversations of others.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::PortId;
use super::log::Opened;
use super::wire::{ACK, FIN, Kind, RST, Rewrite, SYN, Tuple};
use crate::plan::{ListKind, ServicePort, Via};

/// Milliseconds since the router's start.
pub type Millis = u64;

const CHUNK: usize = 1024;
const NONE: u32 = u32::MAX;

/// Which way a packet of a flow goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Original = 0,
    Reply = 1,
}

impl Direction {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Original => Self::Reply,
            Self::Reply => Self::Original,
        }
    }
}

/// The state of a conversation, in order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// TCP: both sides have said FIN, or one has said RST.
    Closed,
    /// TCP: a SYN and no answer.
    SynSent,
    /// TCP: an answer, and the client has not confirmed it.
    SynReceived,
    /// UDP: no answer yet.
    UdpNew,
    /// ICMP echo.
    Echo,
    /// Protocols that are not looked into.
    Other,
    /// UDP: packets both ways.
    UdpStream,
    /// TCP: one side has said FIN.
    HalfClosed,
    Established,
}

impl Class {
    const ALL: [Self; 9] = [
        Self::Closed,
        Self::SynSent,
        Self::SynReceived,
        Self::UdpNew,
        Self::Echo,
        Self::Other,
        Self::UdpStream,
        Self::HalfClosed,
        Self::Established,
    ];

    /// How long a flow may be idle. Established TCP and half-closed TCP as kube-proxy sets them for the kernel.
    pub fn timeout(self) -> Millis {
        match self {
            Self::Closed => 20_000,
            Self::SynSent | Self::SynReceived => 60_000,
            Self::UdpNew | Self::Echo => 30_000,
            Self::Other | Self::UdpStream => 180_000,
            Self::HalfClosed => 3_600_000,
            Self::Established => 86_400_000,
        }
    }

    /// The class of a flow whose first packet is of this kind. A TCP packet in the middle of a connection, after a
    /// restart of the router say, counts as established.
    pub fn of_first(kind: Kind) -> Self {
        match kind {
            Kind::Tcp { flags } if flags & SYN != 0 => Self::SynSent,
            Kind::Tcp { .. } => Self::Established,
            Kind::Udp => Self::UdpNew,
            Kind::Echo => Self::Echo,
            Kind::IcmpError | Kind::Icmp | Kind::Other | Kind::LaterFragment => Self::Other,
        }
    }
}

/// Why a source address was replaced by the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Masquerade {
    /// External traffic to a Service with policy Cluster (X1).
    External,
    /// A node's own traffic to an external address of a Service with policy Local (X4).
    FromNode,
    /// ClusterIP traffic that does not come from a Pod of this node (X8).
    OffCluster,
    /// The endpoint is the client itself (X9).
    Hairpin,
}

/// How a flow came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// TCP: both sides have said FIN.
    Closed,
    /// TCP: one side has said RST in the middle of the connection.
    Reset,
    /// TCP: the server's RST was the answer to the SYN.
    Refused,
    /// Nothing came for as long as its class may be idle.
    Idle,
    /// The table was full.
    Evicted,
    /// A new connection has the same addresses and ports.
    Replaced,
    /// UDP: the backend serves no more, or better is known (C2-C6).
    BackendGone,
    /// The device of one side was disconnected.
    PortGone,
}

/// What the decision rests on, for those who ask why.
#[derive(Clone, Debug)]
pub struct Grounds {
    /// The version of the Service port that was in force, with its Service's and slices' revisions.
    pub service: Arc<ServicePort>,
    /// Index into the service's endpoints.
    pub endpoint: u32,
    pub via: Via,
    pub list: ListKind,
    /// The endpoint was remembered for this client (A1).
    pub sticky: bool,
    pub masquerade: Option<Masquerade>,
}

/// A flow to be entered.
#[derive(Debug)]
pub struct NewFlow {
    /// As the client sends, and as the backend answers.
    pub tuples: [Tuple; 2],
    /// Where the packets of each direction come in.
    pub ports: [PortId; 2],
    pub hops: u8,
    pub class: Class,
    pub epoch: u64,
    pub grounds: Option<Grounds>,
}

/// A conversation.
#[derive(Debug)]
pub struct Flow {
    pub tuples: [Tuple; 2],
    pub ports: [PortId; 2],
    pub rewrites: [Rewrite; 2],
    /// The plan that it was last checked against.
    pub epoch: u64,
    pub grounds: Option<Grounds>,
    pub class: Class,
    pub created: Millis,
    pub last_hit: Millis,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    /// Who is told of its end, until that is done.
    pub(super) opened: Option<Arc<Opened>>,
    /// How its peers have ended it.
    pub result: Option<Ending>,
    /// Bit per direction that has said FIN.
    fins: u8,
    queued_at: Millis,
    prev: u32,
    next: u32,
}

impl Flow {
    /// What packets of this direction become.
    pub fn outgoing(&self, direction: Direction) -> Tuple {
        self.tuples[direction.other() as usize].reversed()
    }

    /// Where packets of this direction go.
    pub fn out_port(&self, direction: Direction) -> PortId {
        self.ports[direction.other() as usize]
    }

    pub fn is_expired(&self, now: Millis) -> bool {
        self.last_hit + self.class.timeout() <= now
    }

    /// What the class becomes with this packet.
    fn advance(&mut self, kind: Kind, direction: Direction) -> Class {
        let reply = direction == Direction::Reply;
        match (self.class, kind) {
            (class, Kind::Tcp { flags }) => {
                if flags & RST != 0 {
                    let refused = class == Class::SynSent && reply;
                    self.result.get_or_insert(if refused { Ending::Refused } else { Ending::Reset });
                    return Class::Closed;
                }
                if flags & FIN != 0 {
                    self.fins |= 1 << direction as u8;
                }
                match (class, self.fins) {
                    (Class::Closed, _) => Class::Closed,
                    (_, 3) => {
                        self.result.get_or_insert(Ending::Closed);
                        Class::Closed
                    }
                    (_, 1 | 2) => Class::HalfClosed,
                    (Class::SynSent, _) if reply => Class::SynReceived,
                    (Class::SynReceived, _) if !reply && flags & ACK != 0 => Class::Established,
                    _ => class,
                }
            }
            (Class::UdpNew, Kind::Udp) if reply => Class::UdpStream,
            (class, _) => class,
        }
    }
}

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
    pub(super) fn ended(&mut self) -> Vec<(Flow, Ending)> {
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
