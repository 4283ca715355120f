//! One port of one Service in one family, with its endpoints and the lists that traffic policies choose from.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::Protocol;

/// Stays the same over all versions of a Service port, and is never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortId(pub u64);

/// An EndpointSlice that a Service port rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRef {
    pub name: Arc<str>,
    pub revision: u64,
}

/// A Service port of one family, keyed by namespace, name, port name and protocol (rules S6, F2).
#[derive(Clone, Debug)]
pub struct ServicePort {
    pub id: ServicePortId,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub port_name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
    /// uid and resourceVersion of the Service: what a verdict names as its ground.
    pub uid: Arc<str>,
    pub revision: u64,
    /// No Service's, but a port of its node that the Pod of this name has (rule P6).
    pub of_pod: bool,
    pub slices: Arc<[SliceRef]>,
    /// internalTrafficPolicy is Local (rule I2).
    pub internal_local: bool,
    /// externalTrafficPolicy is Local and the Service has external exposure (rule X11).
    pub external_local: bool,
    /// Session affinity by client address, with its idle timeout (rules A1, A3).
    pub affinity: Option<Duration>,
    /// Who may use the load-balancer VIPs; `None` for everybody (rule V3).
    pub source_ranges: Option<Arc<[IpNet]>>,
    pub(super) lists: Lists,
}

/// A backend: only what choosing and explaining needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addr: SocketAddr,
    pub node: Option<Arc<str>>,
    pub zone: Option<Arc<str>>,
    /// Name of the Pod in the Service's namespace, when the slice names one.
    pub pod: Option<Arc<str>>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
}

/// Which endpoints a policy allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Cluster,
    Local,
}

/// Why just these endpoints were the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ListKind {
    /// All ready endpoints (E1).
    Cluster,
    /// Ready endpoints hinted for this node (T2).
    HintedNode,
    /// Ready endpoints hinted for this node's zone (T3).
    HintedZone,
    /// No ready endpoint anywhere: those that still serve while terminating (E1).
    ClusterTerminating,
    /// Ready endpoints on this node (E2).
    Local,
    /// No ready endpoint on this node: those here that still serve while terminating (E2).
    LocalTerminating,
}

/// What kept an endpoint from being a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Filter {
    /// Not ready, and not terminating (E3).
    NotReady,
    /// It terminates, and others are ready (E1, E2).
    Terminating,
    /// It terminates and does not serve any more (E4).
    NotServing,
    /// The policy is Local, and it is on another node or on none (E2, S12).
    OtherNode,
    /// Every ready endpoint has a hint, and its hints name others (T5).
    Hint,
}

/// The endpoints to choose from, as indices into [`ServicePort::endpoints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidates<'a> {
    pub kind: ListKind,
    pub indices: &'a [u32],
}

type Group = (Arc<str>, Box<[u32]>);

/// The endpoints, sorted by address, and the lists of indices into them.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    endpoints: Box<[Endpoint]>,
    cluster: Box<[u32]>,
    cluster_terminating: bool,
    /// Per node, sorted by name; made only where a policy asks for it.
    local: Box<[LocalGroup]>,
    by_node: Option<Box<[Group]>>,
    by_zone: Option<Box<[Group]>>,
}

#[derive(Clone, Debug)]
struct LocalGroup {
    node: Arc<str>,
    terminating: bool,
    indices: Box<[u32]>,
}

/// An endpoint as its slice has it, before merging.
#[derive(Clone, Debug)]
pub(super) struct Hinted {
    pub endpoint: Endpoint,
    pub for_nodes: Arc<[Arc<str>]>,
    pub for_zones: Arc<[Arc<str>]>,
}

impl ServicePort {
    /// All endpoints, sorted by address; also those that no list holds.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.lists.endpoints
    }

    /// The endpoints that a packet at `node` may go to.
    pub fn candidates(&self, scope: Scope, node: &str, zone: Option<&str>) -> Candidates<'_> {
        let lists = &self.lists;
        if scope == Scope::Local {
            return match lists.local.binary_search_by(|group| (*group.node).cmp(node)) {
                Ok(at) => {
                    let group = &lists.local[at];
                    let kind = if group.terminating { ListKind::LocalTerminating } else { ListKind::Local };
                    Candidates { kind, indices: &group.indices }
                }
                Err(_) => Candidates { kind: ListKind::Local, indices: &[] },
            };
        }
        if lists.cluster_terminating {
            return Candidates { kind: ListKind::ClusterTerminating, indices: &lists.cluster };
        }
        if let Some(indices) = group(lists.by_node.as_deref(), Some(node)) {
            return Candidates { kind: ListKind::HintedNode, indices };
        }
        if let Some(indices) = group(lists.by_zone.as_deref(), zone) {
            return Candidates { kind: ListKind::HintedZone, indices };
        }
        Candidates { kind: ListKind::Cluster, indices: &lists.cluster }
    }

    /// The endpoints that are not among these candidates of `node`, each with what took it away.
    pub fn left_out(&self, candidates: Candidates<'_>, node: &str) -> impl Iterator<Item = (u32, Filter)> {
        let local = matches!(candidates.kind, ListKind::Local | ListKind::LocalTerminating);
        let filter = move |endpoint: &Endpoint| match endpoint {
            endpoint if local && endpoint.node.as_deref() != Some(node) => Filter::OtherNode,
            // A ready endpoint in the right place is in every list but those that hints have narrowed.
            Endpoint { ready: true, .. } => Filter::Hint,
            endpoint if endpoint.drains() => Filter::Terminating,
            Endpoint { terminating: true, .. } => Filter::NotServing,
            _ => Filter::NotReady,
        };
        // Lists are in ascending order.
        let out = (0u32..).zip(self.endpoints()).filter(move |(at, _)| candidates.indices.binary_search(at).is_err());
        out.map(move |(at, endpoint)| (at, filter(endpoint)))
    }

    /// The nodes and the zones that an endpoint is hinted for, as far as hints count.
    pub fn hinted_for(&self, endpoint: u32) -> (Vec<&Arc<str>>, Vec<&Arc<str>>) {
        (hinted(&self.lists.by_node, endpoint), hinted(&self.lists.by_zone, endpoint))
    }

    /// Whether an endpoint on any node could be used: decides between reject and drop (rule E7).
    pub fn has_usable_endpoint(&self) -> bool {
        !self.lists.cluster.is_empty()
    }

    /// Whether a UDP flow to this backend may stay: it still serves, terminating or not (rule C2).
    pub fn is_serving(&self, addr: SocketAddr) -> bool {
        self.position(addr).is_some_and(|at| self.lists.endpoints[at].serves())
    }

    /// The endpoint with this address, if it is one of the candidates.
    pub fn candidate(&self, candidates: Candidates<'_>, addr: SocketAddr) -> Option<u32> {
        let index = u32::try_from(self.position(addr)?).ok()?;
        // Lists are in ascending order.
        candidates.indices.binary_search(&index).is_ok().then_some(index)
    }

    fn position(&self, addr: SocketAddr) -> Option<usize> {
        self.lists.endpoints.binary_search_by(|endpoint| endpoint.addr.cmp(&addr)).ok()
    }

    /// Whether any endpoint serves; without one, UDP flows are left alone (rule C3).
    pub fn has_serving_endpoint(&self) -> bool {
        self.lists.endpoints.iter().any(Endpoint::serves)
    }

    /// The addresses of the ready endpoints on a node (rules H2, H3). May repeat, when one address has two ports.
    pub fn local_ready(&self, node: &str) -> impl Iterator<Item = IpAddr> {
        let local = move |endpoint: &&Endpoint| endpoint.ready && endpoint.node.as_deref() == Some(node);
        self.lists.endpoints.iter().filter(local).map(|endpoint| endpoint.addr.ip())
    }
}

impl Endpoint {
    /// Ready stands for serving too: publishNotReadyAddresses makes ready true alone.
    fn serves(&self) -> bool {
        self.ready || self.serving
    }

    /// Whether it still serves while it terminates.
    fn drains(&self) -> bool {
        self.serving && self.terminating
    }
}

fn hinted(groups: &Option<Box<[Group]>>, endpoint: u32) -> Vec<&Arc<str>> {
    let groups = groups.as_deref().unwrap_or_default().iter();
    groups.filter(|(_, indices)| indices.contains(&endpoint)).map(|(name, _)| name).collect()
}

fn group<'a>(groups: Option<&'a [Group]>, name: Option<&str>) -> Option<&'a [u32]> {
    let (groups, name) = (groups?, name?);
    let at = groups.binary_search_by(|(group, _)| (**group).cmp(name)).ok()?;
    Some(&groups[at].1)
}

impl Lists {
    /// Merges endpoints of all slices and makes the lists; `local` says whether a policy needs local ones.
    pub(super) fn compile(mut found: Vec<Hinted>, local: bool) -> Self {
        // S9: of two entries with one address the one that is not terminating wins.
        found.sort_by_key(|hinted| (hinted.endpoint.addr, hinted.endpoint.terminating));
        found.dedup_by(|later, earlier| later.endpoint.addr == earlier.endpoint.addr);

        let ready = |hinted: &Hinted| hinted.endpoint.ready;
        let draining = |hinted: &Hinted| hinted.endpoint.drains();
        let mut cluster = select(&found, ready);
        let cluster_terminating = cluster.is_empty();
        let (mut by_node, mut by_zone) = (None, None);
        if cluster_terminating {
            cluster = select(&found, draining);
        } else {
            // E5, T7: only ready endpoints count for hints, and the fallback has none.
            by_node = hints(&found, &cluster, |hinted| &hinted.for_nodes);
            by_zone = hints(&found, &cluster, |hinted| &hinted.for_zones);
        }
        Self {
            local: if local { locals(&found, ready, draining) } else { Box::default() },
            cluster,
            cluster_terminating,
            by_node,
            by_zone,
            endpoints: found.into_iter().map(|hinted| hinted.endpoint).collect(),
        }
    }
}

fn select(found: &[Hinted], keep: impl Fn(&Hinted) -> bool) -> Box<[u32]> {
    (0u32..).zip(found).filter(|(_, hinted)| keep(hinted)).map(|(index, _)| index).collect()
}

/// E2, S12: per node its ready endpoints, or else those that still serve while terminating.
fn locals(found: &[Hinted], ready: impl Fn(&Hinted) -> bool, draining: impl Fn(&Hinted) -> bool) -> Box<[LocalGroup]> {
    let mut nodes: Vec<&Arc<str>> = found.iter().filter_map(|hinted| hinted.endpoint.node.as_ref()).collect();
    nodes.sort();
    nodes.dedup();
    let mut groups: Vec<(&Arc<str>, Vec<u32>, Vec<u32>)> =
        nodes.into_iter().map(|node| (node, Vec::new(), Vec::new())).collect();
    for (index, hinted) in (0u32..).zip(found) {
        let Some(node) = &hinted.endpoint.node else { continue };
        let Ok(at) = groups.binary_search_by(|(name, ..)| (*name).cmp(node)) else { continue };
        if ready(hinted) {
            groups[at].1.push(index);
        } else if draining(hinted) {
            groups[at].2.push(index);
        }
    }
    groups
        .into_iter()
        .filter_map(|(node, ready, draining)| {
            let terminating = ready.is_empty();
            let indices: Box<[u32]> = if terminating { draining.into() } else { ready.into() };
            (!indices.is_empty()).then(|| LocalGroup { node: Arc::clone(node), terminating, indices })
        })
        .collect()
}

/// T2-T5: the ready endpoints by hint, or `None` when one of them has no hint.
fn hints<'a>(
    found: &'a [Hinted],
    ready: &[u32],
    of: impl Fn(&'a Hinted) -> &'a Arc<[Arc<str>]>,
) -> Option<Box<[Group]>> {
    let mut pairs: Vec<(&Arc<str>, u32)> = Vec::new();
    for &index in ready {
        let names = of(&found[index as usize]);
        if names.is_empty() {
            return None;
        }
        pairs.extend(names.iter().map(|name| (name, index)));
    }
    pairs.sort();
    pairs.dedup();
    let groups = pairs.chunk_by(|a, b| a.0 == b.0);
    Some(groups.map(|group| (Arc::clone(group[0].0), group.iter().map(|pair| pair.1).collect())).collect())
}
