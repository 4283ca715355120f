//! From a packet to its verdict. No I/O: bytes, the port they came from and the time go in.
//!
//! The first packet of a flow is decided ([`super::route`]) over the plan in force and leaves a flow; later packets
//! replay it. A plan's change touches no flow at once: a flow remembers the epoch that it was last checked against,
//! and its next packet checks again (rules C1-C6), which costs one comparison for all packets in between.

mod recording;
mod related;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;

use super::PortId;
use super::balance::Affinity;
use super::emit;
use super::flow::{Class, Direction, Ending, Flow, FlowId, FlowTable, Grounds, Millis, NewFlow};
use super::fragments::{DatagramKey, Fragments};
use super::icmp;
use super::log::{Opened, Outcome, Recorder};
use super::nat;
use super::ports::{PortInfo, PortTable};
use super::route::{Exit, Refusal, Walk, captured_by, is_unicast};
use super::stats::{AnswerReason, DropReason, Stats};
use super::trace::{PortReason, Silent, Step, Trace};
use super::wire::{self, ACK, Headers, Kind, Malformed, PacketBuf, RST, Rewrite, SYN, TCP, UDP};
use crate::plan::Plan;

/// What is to be done with the packet, which is in its buffer as it shall leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Forward(PortId),
    /// The buffer holds an answer for the port that the packet came from.
    Reply(AnswerReason),
    Drop(DropReason),
    /// The packet, as it came, waits until this address in the world has answered.
    Hold(SocketAddr),
}

/// Bounds of the pipeline's memory, and what its devices carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows at the same time; a full table evicts.
    pub flows: usize,
    /// Clients whose endpoint is remembered for session affinity.
    pub affinity_clients: usize,
    /// MTU of all devices.
    pub mtu: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { flows: 1 << 20, affinity_clients: 1 << 16, mtu: crate::config::POD_MTU }
    }
}

/// The state of the data plane. `R` chooses endpoints and source ports.
pub struct Pipeline<R> {
    plan: Arc<Plan>,
    ports: PortTable,
    flows: FlowTable,
    fragments: Fragments,
    affinity: Affinity,
    rng: R,
    mtu: u32,
    stats: Stats,
    /// Where the sweep for flows of vanished ports goes on.
    sweep: Option<usize>,
    /// Tells of flows and refusals, when somebody may ask.
    recorder: Option<Recorder>,
}

/// Flows looked at per call of [`Pipeline::maintain`]: some tens of microseconds.
const EXPIRE_BUDGET: usize = 256;
const SWEEP_BUDGET: usize = 4096;

impl<R: Rng> Pipeline<R> {
    pub fn new(plan: Arc<Plan>, limits: Limits, rng: R) -> Self {
        Self {
            plan,
            ports: PortTable::default(),
            flows: FlowTable::new(limits.flows),
            fragments: Fragments::default(),
            affinity: Affinity::new(limits.affinity_clients),
            rng,
            mtu: limits.mtu,
            stats: Stats::default(),
            sweep: None,
            recorder: None,
        }
    }

    /// Writes flows and refusals down from now on.
    pub fn record(&mut self, recorder: Recorder) {
        self.recorder = Some(recorder);
    }

    /// A copy for trying what would become of packets of a client with these addresses: the same plan, ports, memory and dice, and no flows.
    /// The very next packet of the client's would fare the same.
    pub fn scratch(&self, client: &[IpAddr]) -> Self
    where
        R: Clone,
    {
        let hosts = |addr: IpAddr| self.ports.owner(addr).is_some_and(|port| port.is_host());
        Self {
            plan: Arc::clone(&self.plan),
            ports: self.ports.clone(),
            flows: FlowTable::new(self.flows.limit()),
            fragments: Fragments::default(),
            // A masqueraded client is known by its node's address.
            affinity: self.affinity.of_clients(|addr| client.contains(&addr) || hosts(addr)),
            rng: self.rng.clone(),
            mtu: self.mtu,
            stats: Stats::default(),
            sweep: None,
            recorder: None,
        }
    }

    /// Puts a plan into force and returns the one before: dropping it may take time that is not the packets'.
    pub fn set_plan(&mut self, plan: Arc<Plan>) -> Arc<Plan> {
        std::mem::replace(&mut self.plan, plan)
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Enters a port.
    ///
    /// # Errors
    /// The address that belongs to another port already, with that port's name.
    pub fn attach(&mut self, port: PortInfo) -> Result<(), (IpAddr, Arc<str>)> {
        self.ports.insert(port)
    }

    /// Forgets a port; its flows end with their next packet or by [`Pipeline::maintain`].
    pub fn detach(&mut self, port: PortId) {
        if self.ports.contains(port) {
            self.ports.remove(port);
            self.sweep = Some(0);
        }
    }

    pub fn stats(&self) -> Stats {
        let mut stats = self.stats;
        stats.flows = self.flows.len() as u64;
        stats.flow_changes = self.flows.counters();
        stats.ports = self.ports.len() as u64;
        stats.epoch = self.plan.epoch;
        stats
    }

    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    pub fn ports(&self) -> &PortTable {
        &self.ports
    }

    /// Does a bounded share of the upkeep that is due. Call it when [`Pipeline::next_maintenance`] has come.
    pub fn maintain(&mut self, now: Millis) {
        self.flows.expire(now, EXPIRE_BUDGET);
        if let Some(start) = self.sweep {
            let ports = &self.ports;
            self.sweep = self.flows.sweep(start, SWEEP_BUDGET, |port| ports.contains(port));
        }
        self.record_ended(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.settle(now);
        }
    }

    /// When upkeep is due: at once, later, or never as things stand.
    pub fn next_maintenance(&self) -> Option<Millis> {
        if self.sweep.is_some() {
            return Some(0);
        }
        let owed = self.recorder.as_ref().and_then(Recorder::next);
        [self.flows.next_expiry(), owed].into_iter().flatten().min()
    }

    /// Decides about a packet and rewrites it in place.
    pub fn process(&mut self, buf: &mut PacketBuf, from: PortId, now: Millis) -> Verdict {
        self.process_traced(buf, from, now, &mut Silent)
    }

    /// [`Pipeline::process`] with somebody who looks on.
    pub fn process_traced(
        &mut self,
        buf: &mut PacketBuf,
        from: PortId,
        now: Millis,
        trace: &mut impl Trace,
    ) -> Verdict {
        self.stats.received_packets += 1;
        self.stats.received_bytes += buf.packet().len() as u64;
        let verdict = match self.decide(buf, from, None, now, trace) {
            Ok(out) => {
                self.stats.forwarded_packets += 1;
                self.stats.forwarded_bytes += buf.packet().len() as u64;
                return Verdict::Forward(out);
            }
            Err(Stop::Drop(reason)) => {
                self.record_refused(buf, from, Outcome::Dropped(reason), now);
                Verdict::Drop(reason)
            }
            Err(Stop::Hold(destination)) => Verdict::Hold(destination),
            Err(Stop::Answer { headers, reason, source }) => {
                self.record_refused(buf, from, Outcome::Answered(reason), now);
                self.answer(buf, &headers, reason, source)
            }
        };
        match verdict {
            Verdict::Drop(reason) => self.stats.count_drops(reason, 1),
            Verdict::Reply(reason) => self.stats.count_answer(reason),
            Verdict::Hold(_) => self.stats.held_packets += 1,
            Verdict::Forward(_) => {}
        }
        verdict
    }

    /// Lets a held packet through, now that `destination` has answered. Returns the port that it goes to, and its sender
    /// as it is seen there.
    ///
    /// # Errors
    /// Why it has no way any more; it is counted.
    pub fn admit(
        &mut self,
        buf: &mut PacketBuf,
        from: PortId,
        destination: SocketAddr,
        now: Millis,
    ) -> Result<(PortId, SocketAddr), DropReason> {
        let result = match self.decide(buf, from, Some(destination), now, &mut Silent) {
            Ok(out) => match Headers::parse(buf.packet()) {
                Ok(headers) => Ok((out, SocketAddr::new(headers.tuple.src, headers.tuple.sport))),
                Err(_) => Err(DropReason::Malformed),
            },
            Err(Stop::Drop(reason)) => Err(reason),
            // The cluster has changed since it was held: its sender will try again.
            Err(Stop::Answer { .. } | Stop::Hold(_)) => Err(DropReason::NoRoute),
        };
        match result {
            Ok(_) => {
                self.stats.forwarded_packets += 1;
                self.stats.forwarded_bytes += buf.packet().len() as u64;
            }
            Err(reason) => {
                self.record_refused(buf, from, Outcome::Dropped(reason), now);
                self.stats.count_drops(reason, 1);
            }
        }
        result
    }

    /// Makes of a held packet the answer that its sender gets instead of an answer of the world.
    pub fn refuse(&mut self, buf: &mut PacketBuf, headers: &Headers, from: PortId, reason: AnswerReason, now: Millis) {
        self.record_refused(buf, from, Outcome::Answered(reason), now);
        if reason == AnswerReason::OutsideRefused && matches!(headers.kind, Kind::Tcp { .. }) {
            emit::tcp_reset(buf, headers);
        } else {
            let node = self.ports.get(from).and_then(|port| self.ports.host_address(&port.node, headers.is_v6()));
            self.answer(buf, headers, reason, node.filter(|source| *source != headers.tuple.src));
        }
        self.stats.count_answer(reason);
    }

    /// Counts a packet that was decided but that could not be handed on.
    pub fn count_failure(&mut self, reason: DropReason) {
        self.stats.count_drops(reason, 1);
    }

    /// Counts packets that were written in one frame, or that their device did not take.
    pub fn count_left(&mut self, packets: u64, written: bool) {
        if written {
            self.stats.joined_packets += packets - 1;
        } else {
            self.stats.count_drops(DropReason::DeviceWrite, packets);
        }
    }

    /// `dialed` is the address in the world that has answered, when there is one.
    fn decide(
        &mut self,
        buf: &mut PacketBuf,
        from: PortId,
        dialed: Option<SocketAddr>,
        now: Millis,
        trace: &mut impl Trace,
    ) -> Result<PortId, Stop> {
        let headers = Headers::parse(buf.packet()).map_err(|e| match e {
            Malformed::Truncated => DropReason::Truncated,
            Malformed::HeaderChecksum => DropReason::HeaderChecksum,
            Malformed::Version | Malformed::HeaderLength | Malformed::MappedAddress => DropReason::Malformed,
        })?;
        buf.truncate(headers.len);
        let vnet = buf.vnet();
        if vnet.is_partial() && usize::from(vnet.csum_start) != headers.l4 {
            return Err(DropReason::Malformed.into());
        }
        if headers.ttl == 0 {
            return Err(DropReason::TtlZero.into());
        }
        match headers.kind {
            Kind::IcmpError => return self.icmp_error(buf, &headers, from, now),
            Kind::Icmp => {
                check_destination(headers.tuple.dst)?;
                return Err(DropReason::IcmpUnsupported.into());
            }
            Kind::LaterFragment => return self.later_fragment(buf, &headers, from, now),
            Kind::Tcp { .. } | Kind::Udp | Kind::Echo | Kind::Other => {}
        }
        let (id, direction) = match self.known_flow(&headers, from, now)? {
            Some(found) => found,
            None => (self.open_flow(&headers, from, dialed, now, trace)?, Direction::Original),
        };
        if let Some(fragment) = headers.fragment {
            self.fragments.note(datagram(&headers, fragment.id), id, direction, now);
        }
        let Some(flow) = self.flows.get(id) else { return Err(DropReason::PortGone.into()) };
        let rewrite = flow.rewrites[direction as usize];
        let out = flow.out_port(direction);
        let new = flow.outgoing(direction);
        self.check_size(buf, &headers, &rewrite, from, out)?;
        if self.flows.hit(id, direction, headers.kind, headers.len, now) {
            self.record_closed(id, now);
        }
        wire::rewrite(buf.packet_mut(), vnet, &headers, &rewrite, &new);
        Ok(out)
    }

    /// The flow that the packet belongs to, if it may still be used.
    fn known_flow(
        &mut self,
        headers: &Headers,
        from: PortId,
        now: Millis,
    ) -> Result<Option<(FlowId, Direction)>, Stop> {
        let Some((id, direction)) = self.flows.find(&headers.tuple) else { return Ok(None) };
        let Some(flow) = self.flows.get(id) else { return Ok(None) };
        if flow.ports[direction as usize] != from {
            // Either the address has moved to a new port, or this is somebody else's address.
            self.check_source(headers, from)?;
            self.flows.remove(id, Ending::PortGone);
            return Ok(None);
        }
        let syn = matches!(headers.kind, Kind::Tcp { flags } if flags & (SYN | ACK) == SYN);
        let ended = if flow.is_expired(now) {
            Some(Ending::Idle)
        } else if syn && flow.class == Class::Closed {
            Some(Ending::Replaced)
        } else {
            (!self.ports.contains(flow.out_port(direction))).then_some(Ending::PortGone)
        };
        if let Some(ending) = ended {
            self.flows.remove(id, ending);
            return Ok(None);
        }
        if flow.epoch != self.plan.epoch {
            let stays = Self::outlives(&self.plan, &self.ports, flow, headers.tuple.protocol);
            if !stays {
                self.flows.remove(id, Ending::BackendGone);
                // A reply from a backend that has left must not be forwarded untranslated.
                return if direction == Direction::Reply { Err(DropReason::BackendGone.into()) } else { Ok(None) };
            }
            if let Some(flow) = self.flows.get_mut(id) {
                flow.epoch = self.plan.epoch;
            }
        }
        Ok(Some((id, direction)))
    }

    /// Whether a flow stays as it is under a new plan (rules C1-C6, X12).
    fn outlives(plan: &Plan, ports: &PortTable, flow: &Flow, protocol: u8) -> bool {
        let current = || captured_by(plan, ports, &flow.tuples[0]);
        match (protocol, &flow.grounds) {
            // C1. Only a connection that was never answered is tried again.
            (TCP, Some(grounds)) if flow.class == Class::SynSent => {
                current().is_some_and(|service| same_backend(grounds, service))
            }
            (TCP, _) => true,
            (UDP, Some(grounds)) => match current() {
                // C3, C6: nothing better is known.
                None => true,
                Some(service) if service.id == grounds.service.id && !service.has_serving_endpoint() => true,
                Some(service) => same_backend(grounds, service),
            },
            // C4: what went untranslated so far may be a Service's now.
            (UDP, None) => current().is_none(),
            _ => true,
        }
    }

    fn open_flow(
        &mut self,
        headers: &Headers,
        from: PortId,
        dialed: Option<SocketAddr>,
        now: Millis,
        trace: &mut impl Trace,
    ) -> Result<FlowId, Stop> {
        self.check_source(headers, from)?;
        check_destination(headers.tuple.dst)?;
        // A connection begins with a SYN, or is picked up by a segment that acknowledges: what has neither is never
        // answered, and its flow would stay as long as an established one.
        if let Kind::Tcp { flags } = headers.kind
            && (flags & RST != 0 || flags & (SYN | ACK) == 0 || flags & (SYN | ACK) == SYN | ACK)
        {
            return Err(DropReason::TcpWithoutFlow.into());
        }
        let Some(port) = self.ports.get(from) else { return Err(DropReason::PortGone.into()) };
        let exit = match (dialed, headers.kind) {
            (Some(destination), _) => Exit::To(destination),
            (None, Kind::Tcp { flags }) if flags & SYN == 0 => Exit::Reject,
            (None, Kind::Tcp { .. } | Kind::Udp | Kind::Echo) => Exit::Hold,
            (None, _) => Exit::Closed,
        };
        let mut walk = Walk {
            plan: &self.plan,
            ports: &self.ports,
            affinity: &mut self.affinity,
            rng: &mut self.rng,
            now,
            exit,
            trace: &mut *trace,
        };
        let mut route = walk.route(headers.tuple, headers.ttl, port).map_err(|refusal| match refusal {
            Refusal::Drop(reason) => Stop::Drop(reason),
            Refusal::Hold(destination) => Stop::Hold(destination),
            Refusal::Answer { reason, node } => {
                // A kernel takes no packet that claims to be from itself.
                let source = self.ports.host_address(&node, headers.is_v6());
                let source = source.filter(|source| *source != headers.tuple.src);
                Stop::Answer { headers: *headers, reason, source }
            }
        })?;
        let mut answer = route.tuple.reversed();
        let taken = answer != headers.tuple && !self.flows.is_free(&answer, now);
        if route.allocate || taken {
            if !matches!(headers.kind, Kind::Tcp { .. } | Kind::Udp) {
                return Err(DropReason::FlowClash.into());
            }
            let port = nat::allocate(answer, &mut self.flows, &mut self.rng, now);
            let port = port.ok_or(DropReason::NatPortsExhausted)?;
            let reason = if route.allocate { PortReason::Masqueraded } else { PortReason::Taken };
            trace.note(|| Step::SourcePort { from: answer.dport, to: port, reason });
            answer.dport = port;
        }
        let new = NewFlow {
            tuples: [headers.tuple, answer],
            ports: [from, route.out.id],
            hops: route.hops,
            class: Class::of_first(headers.kind),
            epoch: self.plan.epoch,
            grounds: route.grounds.take(),
        };
        let opened = self.recorder.as_ref().map(|_| Opened::new(port, &route, new.grounds.as_ref()));
        let id = self.flows.insert(new, now);
        if let (Some(recorder), Some(opened), Some(flow)) = (&mut self.recorder, opened, self.flows.get_mut(id)) {
            flow.opened = Some(Arc::clone(&opened));
            recorder.opened(opened, flow.tuples, now);
        }
        self.record_ended(now);
        Ok(id)
    }

    fn check_source(&self, headers: &Headers, from: PortId) -> Result<(), Stop> {
        let Some(port) = self.ports.get(from) else { return Err(DropReason::PortGone.into()) };
        if self.ports.owner(headers.tuple.src).is_some_and(|owner| owner.id == port.id) {
            return Ok(());
        }
        // A kernel asks for routers and announces itself before it has an address; that is no attack.
        check_destination(headers.tuple.dst)?;
        Err(DropReason::Spoofed.into())
    }

    /// Time to live and MTU of a packet whose way is known.
    fn check_size(
        &self,
        buf: &PacketBuf,
        headers: &Headers,
        rewrite: &Rewrite,
        from: PortId,
        out: PortId,
    ) -> Result<(), Stop> {
        let reason = if headers.ttl <= rewrite.hops {
            AnswerReason::TimeExceeded
        } else if headers.len > self.mtu as usize && headers.dont_fragment && !buf.vnet().is_segmented() {
            AnswerReason::TooBig
        } else {
            return Ok(());
        };
        // A packet dies at the first node that forwards it, or else further on.
        let first = self.ports.get(from).filter(|port| !port.is_host() && (headers.ttl == 1 || rewrite.hops == 1));
        let at = first.or_else(|| self.ports.get(out));
        let source = at.and_then(|port| self.ports.host_address(&port.node, headers.is_v6()));
        Err(Stop::Answer { headers: *headers, reason, source })
    }

    fn answer(&self, buf: &mut PacketBuf, headers: &Headers, reason: AnswerReason, source: Option<IpAddr>) -> Verdict {
        // Without an address of its own the node speaks as the destination, as a kernel does for its own ones; so it
        // does to its own processes, whose kernel takes nothing from outside that claims to be from itself.
        let sender = headers.tuple.src;
        let mut source = source.filter(|source| *source != sender).unwrap_or(headers.tuple.dst);
        if source == sender {
            source = nat::node_hairpin(headers.is_v6());
        }
        icmp::answer(buf, headers, reason.error(self.mtu), source);
        Verdict::Reply(reason)
    }
}

fn datagram(headers: &Headers, id: u32) -> DatagramKey {
    DatagramKey { src: headers.tuple.src, dst: headers.tuple.dst, protocol: headers.tuple.protocol, id }
}

/// Whether the backend of a flow serves under the Service port that is in force now (rules C2, C5).
fn same_backend(grounds: &Grounds, service: &crate::plan::ServicePort) -> bool {
    let backend = grounds.service.endpoints()[grounds.endpoint as usize].addr;
    service.id == grounds.service.id && service.is_serving(backend)
}

/// Only what is for one host of the cluster or the world is routed.
fn check_destination(dst: IpAddr) -> Result<(), Stop> {
    if is_unicast(dst) { Ok(()) } else { Err(DropReason::NotUnicast.into()) }
}

/// Why a packet goes no further.
enum Stop {
    Drop(DropReason),
    Hold(SocketAddr),
    Answer { headers: Headers, reason: AnswerReason, source: Option<IpAddr> },
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}
