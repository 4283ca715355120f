//! The way of a first packet: from its node to the port that gets it, Service translation included.
//!
//! Every node on the way does what kube-proxy and the kernel do there: capture what is addressed to a Service,
//! choose an endpoint, mark for masquerading, forward or deliver. The sum of all steps is one [`Route`], which
//! becomes one flow, so later packets cross the router once however many nodes they cross.
//!
//! A node forwards (and the packet ages) unless it is where the packet comes from or goes to.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rand::Rng;
use rand::seq::IteratorRandom;

use super::PortKind;
use super::balance::{Affinity, Choice};
use super::flow::{Grounds, Masquerade, Millis};
use super::gate::GATE_PORT;
use super::nat;
use super::ports::{PortInfo, PortTable};
use super::stats::{AnswerReason, DropReason};
use super::trace::{Origin, Pick, ScopeReason, Step, Trace};
use super::wire::Tuple;
use crate::plan::{Plan, Protocol, Scope, ServicePort, Via};

/// A packet that passes more nodes than this goes in circles.
const MAX_NODES: usize = 8;

/// What becomes of a flow's packets.
#[derive(Debug)]
pub(super) struct Route {
    /// As the receiver sees it. The source port is still the client's own when `allocate` is set.
    pub tuple: Tuple,
    /// The source address changed, so the source port must come from the NAT's range.
    pub allocate: bool,
    pub out: Arc<PortInfo>,
    pub hops: u8,
    pub grounds: Option<Grounds>,
    /// The node that it entered at.
    pub entry: Arc<str>,
    /// Nodes on the way that are neither the first nor the last. Hardly ever any, so hardly ever an allocation.
    pub through: Vec<Arc<str>>,
}

/// Why a packet has no way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Drop(DropReason),
    /// The node tells the sender.
    Answer {
        reason: AnswerReason,
        node: Arc<str>,
    },
    /// The packet is for this address in the world, and has to wait until the world has answered.
    Hold(SocketAddr),
}

/// What happens to a packet for the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// There is nobody to take it.
    Closed,
    /// It waits for an answer of the world.
    Hold,
    /// It belongs to no connection, which the gate's kernel tells its sender.
    Reject,
    /// This address has answered.
    To(SocketAddr),
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// What a decision is made over.
pub(super) struct Walk<'a, R, T> {
    pub plan: &'a Plan,
    pub ports: &'a PortTable,
    pub affinity: &'a mut Affinity,
    pub rng: &'a mut R,
    pub now: Millis,
    pub exit: Exit,
    pub trace: &'a mut T,
}

impl<R: Rng, T: Trace> Walk<'_, R, T> {
    pub(super) fn route(&mut self, mut tuple: Tuple, ttl: u8, from: &Arc<PortInfo>) -> Result<Route, Refusal> {
        let (mut node, mut origin) = self.start(&tuple, from);
        self.trace.note(|| Step::Enters { node: Arc::clone(&node), origin, source: Arc::clone(from) });
        let (mut hops, mut allocate, mut grounds) = (0u8, false, None);
        let (entry, mut through) = (Arc::clone(&node), Vec::new());
        for _ in 0..MAX_NODES {
            match self.capture(&tuple, &node) {
                Some((service, via)) => {
                    self.trace.note(|| Step::Captured {
                        node: Arc::clone(&node),
                        service: Arc::clone(&service),
                        via,
                        destination: SocketAddr::new(tuple.dst, tuple.dport),
                    });
                    let (found, masquerade) = self.translate(&mut tuple, &service, via, &node, origin)?;
                    allocate |= masquerade;
                    if masquerade {
                        origin = Origin::Elsewhere;
                    }
                    grounds.get_or_insert(found);
                }
                None => {
                    self.trace.note(|| Step::Uncaptured { node: Arc::clone(&node), destination: tuple.dst });
                    self.check_uncaptured(tuple.dst, &node)?;
                }
            }
            let Some(target) = self.ports.owner(tuple.dst) else {
                let gate = self.unowned(&tuple, from, &node)?;
                if origin != Origin::Host {
                    hops += 1;
                }
                if hops >= ttl {
                    return Err(Refusal::Answer { reason: AnswerReason::TimeExceeded, node });
                }
                let destination = SocketAddr::new(tuple.dst, tuple.dport);
                self.trace.note(|| Step::Leaves { node: Arc::clone(&node), destination });
                match self.exit {
                    Exit::Hold => return Err(Refusal::Hold(destination)),
                    // The endpoint that was dialed is not the one of now: the next packet is held for that.
                    Exit::To(dialed) if dialed != destination => return Err(DropReason::NoRoute.into()),
                    Exit::To(_) | Exit::Reject | Exit::Closed => {}
                }
                tuple.dst = gate.address(tuple.is_v6()).ok_or(DropReason::NoRoute)?;
                tuple.dport = GATE_PORT;
                return Ok(Route { tuple, allocate, out: Arc::clone(&gate), hops, grounds, entry, through });
            };
            let here = target.node == node;
            if origin != Origin::Host && !(here && target.is_host()) {
                hops += 1;
                if hops >= ttl {
                    return Err(Refusal::Answer { reason: AnswerReason::TimeExceeded, node });
                }
            }
            if here {
                self.trace.note(|| Step::Delivered { node, to: Arc::clone(target), hops });
                return Ok(Route { tuple, allocate, out: Arc::clone(target), hops, grounds, entry, through });
            }
            self.trace.note(|| Step::Forwarded { node: Arc::clone(&node), to: Arc::clone(&target.node) });
            let before = std::mem::replace(&mut node, Arc::clone(&target.node));
            if !Arc::ptr_eq(&before, &entry) {
                through.push(before);
            }
            origin = Origin::Elsewhere;
        }
        Err(DropReason::RoutingLoop.into())
    }

    /// Where a packet begins its way. What comes from outside enters at the node that it is addressed to, or at any node
    /// when it is for no host of the cluster.
    fn start(&mut self, tuple: &Tuple, from: &PortInfo) -> (Arc<str>, Origin) {
        let entry = match from.kind {
            PortKind::Pod => return (Arc::clone(&from.node), Origin::Pod),
            PortKind::Outside => match self.ports.owner(tuple.dst) {
                None => self.entry_node(tuple),
                Some(owner) => (owner.kind == PortKind::Node).then(|| Arc::clone(&owner.node)),
            },
            PortKind::Node | PortKind::ControlPlane | PortKind::Gate => None,
        };
        entry.map_or_else(|| (Arc::clone(&from.node), Origin::Host), |node| (node, Origin::Elsewhere))
    }

    /// The node that a load balancer outside of the cluster would choose: with external policy Local one with a local
    /// endpoint, which is what the health check ports are for (H2), if there is any.
    fn entry_node(&mut self, tuple: &Tuple) -> Option<Arc<str>> {
        if let Some(wanted) = self.trace.entry() {
            return Some(wanted.into());
        }
        let vip = Protocol::from_number(tuple.protocol).and_then(|p| self.plan.vip(tuple.dst, p, tuple.dport));
        let local = vip.filter(|vip| vip.via.is_external() && vip.service.external_local);
        let serves =
            |node: &str| local.is_none_or(|vip| !vip.service.candidates(Scope::Local, node, None).indices.is_empty());
        let nodes = self.ports.nodes().map(|port| &port.node);
        let serving = nodes.clone().filter(|node| serves(node)).choose(self.rng);
        serving.or_else(|| nodes.choose(self.rng)).cloned()
    }

    /// The Service port that a packet at `node` is addressed to (rules P1, P3, P6, V1, V2).
    fn capture(&self, tuple: &Tuple, node: &str) -> Option<(Arc<ServicePort>, Via)> {
        let protocol = Protocol::from_number(tuple.protocol)?;
        let here = || self.ports.owner(tuple.dst).is_some_and(|owner| owner.is_host() && *owner.node == *node);
        if let Some(vip) = self.plan.vip(tuple.dst, protocol, tuple.dport)
            // P6: a port of a node is that node's.
            && (vip.via != Via::HostPort || here())
        {
            return Some((Arc::clone(&vip.service), vip.via));
        }
        let service = self.plan.node_port(tuple.dst.is_ipv6(), protocol, tuple.dport)?;
        here().then(|| (Arc::clone(service), Via::NodePort))
    }

    /// What nftables mode refuses although no Service port captures it (R6, R7). Holds for every protocol: an echo
    /// request to a ClusterIP gets port unreachable.
    fn check_uncaptured(&self, dst: IpAddr, node: &Arc<str>) -> Result<(), Refusal> {
        if self.plan.cluster_ip_owner(dst).is_some() {
            return Err(Refusal::Answer { reason: AnswerReason::UnknownServicePort, node: Arc::clone(node) });
        }
        if self.plan.ranges().is_service(dst) {
            return Err(DropReason::UnallocatedVip.into());
        }
        Ok(())
    }

    /// Chooses the endpoint and says whether the source changes to the node's address.
    fn translate(
        &mut self,
        tuple: &mut Tuple,
        service: &Arc<ServicePort>,
        via: Via,
        node: &Arc<str>,
        origin: Origin,
    ) -> Result<(Grounds, bool), Refusal> {
        if via == Via::LoadBalancer
            && let Some(ranges) = &service.source_ranges
        {
            let admitted = ranges.iter().any(|range| range.contains(&tuple.src));
            self.trace.note(|| Step::SourceRanges {
                node: Arc::clone(node),
                service: Arc::clone(service),
                source: tuple.src,
                admitted,
            });
            if !admitted {
                return Err(DropReason::SourceRange.into());
            }
        }
        let (scope, reason) = match via {
            Via::ClusterIp if service.internal_local => (Scope::Local, ScopeReason::InternalLocal),
            _ if via.is_external() && service.external_local => match origin {
                Origin::Elsewhere => (Scope::Local, ScopeReason::ExternalLocal),
                // X3, X4: what starts here is treated as if it had gone out and come back.
                Origin::Pod | Origin::Host => (Scope::Cluster, ScopeReason::StartsHere),
            },
            _ => (Scope::Cluster, ScopeReason::Cluster),
        };
        let zone = self.plan.node(node).and_then(|info| info.zone.as_deref());
        let candidates = service.candidates(scope, node, zone);
        self.trace.note(|| Step::Candidates {
            node: Arc::clone(node),
            service: Arc::clone(service),
            scope,
            reason,
            list: candidates.kind,
            left: candidates.indices.into(),
            removed: service.left_out(candidates, node).collect(),
        });
        if !service.has_usable_endpoint() {
            return Err(Refusal::Answer { reason: AnswerReason::NoEndpoint, node: Arc::clone(node) });
        }
        // What was dialed is what was chosen when the packet was held.
        let dialed = match self.exit {
            Exit::To(dialed) => service.candidate(candidates, dialed),
            Exit::Hold | Exit::Reject | Exit::Closed => None,
        };
        let choice = match dialed {
            Some(endpoint) => Some(Choice { endpoint, sticky: false }),
            None => self.affinity.choose(service, candidates, tuple.src, self.rng, self.now),
        };
        let Some(choice) = choice else { return Err(DropReason::NoLocalEndpoint.into()) };
        self.trace.note(|| Step::Chosen {
            node: Arc::clone(node),
            service: Arc::clone(service),
            endpoint: choice.endpoint,
            of: candidates.indices.len(),
            how: match (dialed, choice.sticky, service.affinity) {
                (Some(_), ..) => Pick::Dialed,
                (_, true, _) => Pick::Remembered,
                (_, _, Some(_)) => Pick::RandomFirst,
                _ => Pick::Random,
            },
        });
        let endpoint = service.endpoints()[choice.endpoint as usize].addr;
        let masquerade = match via {
            _ if endpoint.ip() == tuple.src => Some(Masquerade::Hairpin),
            Via::HostPort => None,
            Via::ClusterIp => (origin != Origin::Pod).then_some(Masquerade::OffCluster),
            _ if !service.external_local => Some(Masquerade::External),
            _ => (origin == Origin::Host).then_some(Masquerade::FromNode),
        };
        let before = *tuple;
        (tuple.dst, tuple.dport) = (endpoint.ip(), endpoint.port());
        let mut changed = false;
        if masquerade.is_some() {
            let mut source = self.ports.host_address(node, tuple.is_v6()).ok_or(DropReason::NoNodeAddress)?;
            if source == tuple.dst {
                source = nat::node_hairpin(tuple.is_v6());
            }
            changed = source != tuple.src;
            tuple.src = source;
        }
        self.trace.note(|| Step::Translated { node: Arc::clone(node), from: before, to: *tuple, masquerade });
        let grounds = Grounds {
            service: Arc::clone(service),
            endpoint: choice.endpoint,
            via,
            list: candidates.kind,
            sticky: choice.sticky,
            masquerade,
        };
        Ok((grounds, changed))
    }

    /// The way of a packet for an address that no port has: to the gate, unless the address is the cluster's own or
    /// nobody's.
    fn unowned(&self, tuple: &Tuple, from: &PortInfo, node: &Arc<str>) -> Result<Arc<PortInfo>, Refusal> {
        let ranges = self.plan.ranges();
        if ranges.is_host(tuple.dst) {
            return Err(Refusal::Answer { reason: AnswerReason::HostUnreachable, node: Arc::clone(node) });
        }
        let stand_in = tuple.dst == nat::node_hairpin(tuple.is_v6());
        let own = stand_in || ranges.is_service(tuple.dst) || ranges.is_load_balancer(tuple.dst);
        if own || !is_unicast(tuple.dst) || from.kind == PortKind::Gate || self.exit == Exit::Closed {
            return Err(DropReason::NoRoute.into());
        }
        self.ports.gate().cloned().ok_or_else(|| DropReason::NoRoute.into())
    }
}

/// Whether an address can be one host's of the cluster or the world.
pub(super) fn is_unicast(dst: IpAddr) -> bool {
    match dst {
        IpAddr::V4(v4) => {
            let reserved = matches!(v4.octets()[0], 0 | 127 | 224..);
            !reserved && (!v4.is_link_local() || v4 == nat::NODE_HAIRPIN_V4)
        }
        IpAddr::V6(v6) => {
            let special = v6.is_multicast() || v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local();
            // An IPv4 address in another form would be dialed as what it is.
            !special && v6.to_ipv4().is_none()
        }
    }
}

/// The Service port that the first packet of a flow would be captured by under this plan, wherever that happens:
/// a VIP at the first node, a node port at the node that has the address.
pub(super) fn captured_by<'a>(plan: &'a Plan, ports: &PortTable, tuple: &Tuple) -> Option<&'a Arc<ServicePort>> {
    let protocol = Protocol::from_number(tuple.protocol)?;
    if let Some(vip) = plan.vip(tuple.dst, protocol, tuple.dport) {
        return Some(&vip.service);
    }
    let service = plan.node_port(tuple.dst.is_ipv6(), protocol, tuple.dport)?;
    ports.owner(tuple.dst).is_some_and(|owner| owner.is_host()).then_some(service)
}
