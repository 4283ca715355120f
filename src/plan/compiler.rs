//! Folds changes of API objects into the plan's tables.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use rustc_hash::{FxHashMap, FxHashSet};

use super::host_ports::HostPod;
use super::service::{Hinted, Lists, ServicePort, ServicePortId, SliceRef};
use super::spec::{self, PortKey, Slice, Spec};
use super::{NodePortKey, Plan, Protocol, Ranges, Via, Vip, VipKey};
use crate::cluster::{ObjectKey, service_ranges};
use crate::config::Network;

/// Takes changes in any order and yields plans. A change marks its Service; [`Compiler::plan`] compiles the marked
/// ones, so a hundred changes of one Service between two plans cost one compilation.
pub struct Compiler {
    plan: Arc<Plan>,
    pub(super) next: Plan,
    changed: bool,
    /// Boxed: a third of a large table's places are empty.
    services: FxHashMap<ObjectKey, Box<State>>,
    slice_owners: FxHashMap<ObjectKey, ObjectKey>,
    dirty: FxHashSet<ObjectKey>,
    /// Who would like to have a key of the VIP table. The least name has it: two Services may name one externalIP.
    claims: FxHashMap<VipKey, Vec<Claim<Vip>>>,
    pub(super) host_pods: FxHashMap<ObjectKey, HostPod>,
    node_port_claims: FxHashMap<NodePortKey, Vec<Claim<Arc<ServicePort>>>>,
    pub(super) names: FxHashSet<Arc<str>>,
    /// The ranges that the cluster was started with, and those of each ServiceCIDR.
    ranges: Ranges,
    cidrs: BTreeMap<String, Vec<IpNet>>,
    last_id: u64,
}

/// A Service's own address goes before what others say of theirs; among equals the first name wins.
type Claim<T> = ((Rank, ObjectKey), T);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Allocated,
    Claimed,
}

/// What is known of one Service, also before the Service itself is: slices may come first.
#[derive(Default)]
struct State {
    spec: Option<Spec>,
    slices: BTreeMap<String, Arc<Slice>>,
    /// A handful, where a map would be larger than all the rest.
    ids: Vec<(PortKey, ServicePortId)>,
    published: Published,
}

#[derive(Default)]
struct Published {
    vips: Vec<VipKey>,
    cluster_ips: Vec<IpAddr>,
    node_ports: Vec<NodePortKey>,
}

impl Compiler {
    pub fn new(network: &Network) -> Self {
        let plan = Plan::empty(network);
        Self {
            next: plan.clone(),
            plan: Arc::new(plan),
            // The first plan is published also when the cluster is empty: then nothing is known to be there.
            changed: true,
            services: FxHashMap::default(),
            slice_owners: FxHashMap::default(),
            dirty: FxHashSet::default(),
            claims: FxHashMap::default(),
            host_pods: FxHashMap::default(),
            node_port_claims: FxHashMap::default(),
            names: FxHashSet::default(),
            ranges: Ranges::of(network),
            cidrs: BTreeMap::new(),
            last_id: 0,
        }
    }

    pub fn service_applied(&mut self, service: &Service) {
        let key = ObjectKey::of(service);
        self.services.entry(key.clone()).or_default().spec = Spec::of(service);
        self.dirty.insert(key);
    }

    pub fn service_deleted(&mut self, key: &ObjectKey) {
        if let Some(state) = self.services.get_mut(key) {
            state.spec = None;
            state.ids.clear();
            self.dirty.insert(key.clone());
        }
    }

    pub fn slice_applied(&mut self, slice: &EndpointSlice) {
        let key = ObjectKey::of(slice);
        let owner = spec::owner(slice);
        if self.slice_owners.get(&key) != owner.as_ref() {
            self.slice_deleted(&key);
        }
        let Some(owner) = owner else { return };
        let compact = Slice::of(slice, &mut self.names);
        self.services.entry(owner.clone()).or_default().slices.insert(key.name.clone(), Arc::new(compact));
        self.slice_owners.insert(key, owner.clone());
        self.dirty.insert(owner);
    }

    pub fn slice_deleted(&mut self, key: &ObjectKey) {
        let Some(owner) = self.slice_owners.remove(key) else { return };
        if let Some(state) = self.services.get_mut(&owner) {
            state.slices.remove(&key.name);
            self.dirty.insert(owner);
        }
    }

    pub fn node_applied(&mut self, node: &Node) {
        let info = spec::node(node, &mut self.names);
        if self.next.node(&info.name).map(|known| &**known) != Some(&info) {
            let name = Arc::clone(&info.name);
            self.next.nodes.insert(Arc::clone(&name), Arc::new(info));
            self.changed = true;
            self.publish_pods_of(&name);
        }
    }

    pub fn node_deleted(&mut self, name: &str) {
        self.changed |= self.next.nodes.remove(name).is_some();
        self.publish_pods_of(name);
    }

    /// Addresses of every ServiceCIDR are Services', allocated or not (rule SC3).
    pub fn service_cidr_applied(&mut self, cidr: &ServiceCIDR) {
        self.cidrs.insert(cidr.metadata.name.clone().unwrap_or_default(), service_ranges(cidr));
        self.set_service_ranges();
    }

    pub fn service_cidr_deleted(&mut self, name: &str) {
        self.cidrs.remove(name);
        self.set_service_ranges();
    }

    fn set_service_ranges(&mut self) {
        let mut service = self.ranges.service.to_vec();
        for net in self.cidrs.values().flatten() {
            if !service.contains(net) {
                service.push(*net);
            }
        }
        if self.next.ranges.service[..] != service[..] {
            self.next.ranges = Arc::new(Ranges { service: service.into(), ..self.ranges.clone() });
            self.changed = true;
        }
    }

    /// The plan that follows from all changes so far: the same `Arc` as before when none of them mattered.
    pub fn plan(&mut self) -> Arc<Plan> {
        for key in std::mem::take(&mut self.dirty) {
            self.compile(&key);
        }
        if self.changed {
            self.changed = false;
            self.next.epoch += 1;
            self.plan = Arc::new(self.next.clone());
        }
        Arc::clone(&self.plan)
    }

    fn compile(&mut self, key: &ObjectKey) {
        let Some(mut state) = self.services.remove(key) else { return };
        self.retract(key, std::mem::take(&mut state.published));
        if let Some(spec) = &state.spec {
            state.published = self.publish(key, spec, &state.slices, &mut state.ids);
        }
        if state.spec.is_some() || !state.slices.is_empty() {
            self.services.insert(key.clone(), state);
        }
    }

    fn retract(&mut self, owner: &ObjectKey, published: Published) {
        self.retract_vips(owner, published.vips);
        for key in published.node_ports {
            self.changed = true;
            match release(&mut self.node_port_claims, key, owner) {
                Some(heir) => self.next.node_ports.insert(key, heir),
                None => self.next.node_ports.remove(&key),
            };
        }
        let name = owner.to_string();
        for addr in published.cluster_ips {
            self.changed = true;
            if self.next.cluster_ips.get(&addr).is_some_and(|known| **known == *name) {
                self.next.cluster_ips.remove(&addr);
            }
        }
    }

    pub(super) fn retract_vips(&mut self, owner: &ObjectKey, keys: Vec<VipKey>) {
        for key in keys {
            self.changed = true;
            match release(&mut self.claims, key, owner) {
                Some(heir) => self.next.vips.insert(key, heir),
                None => self.next.vips.remove(&key),
            };
        }
    }

    pub(super) fn publish_vip(&mut self, key: VipKey, owner: &ObjectKey, vip: Vip) {
        self.changed = true;
        let rank = if vip.via == Via::ClusterIp { Rank::Allocated } else { Rank::Claimed };
        let winner = claim(&mut self.claims, key, (rank, owner), vip);
        self.next.vips.insert(key, winner);
    }

    pub(super) fn next_id(&mut self) -> ServicePortId {
        self.last_id += 1;
        ServicePortId(self.last_id)
    }

    fn publish(
        &mut self,
        owner: &ObjectKey,
        spec: &Spec,
        slices: &BTreeMap<String, Arc<Slice>>,
        ids: &mut Vec<(PortKey, ServicePortId)>,
    ) -> Published {
        let mut published = Published::default();
        let full_name: Arc<str> = owner.to_string().into();
        let (namespace, name): (Arc<str>, Arc<str>) = (owner.namespace.as_str().into(), owner.name.as_str().into());
        for &cluster_ip in &spec.cluster_ips {
            let v6 = cluster_ip.is_ipv6();
            self.changed = true;
            self.next.cluster_ips.insert(cluster_ip, Arc::clone(&full_name));
            published.cluster_ips.push(cluster_ip);
            let slices = |port: &spec::Port| gather(slices, v6, &port.name, port.protocol);
            for port in &spec.ports {
                let key = PortKey { v6, name: Arc::clone(&port.name), protocol: port.protocol };
                let known = ids.iter().find(|(known, _)| *known == key).map(|(_, id)| *id);
                let id = known.unwrap_or_else(|| {
                    let id = self.next_id();
                    ids.push((key, id));
                    id
                });
                let (found, rests_on) = slices(port);
                let external = port.node_port.is_some()
                    || spec.external_ips.iter().chain(&spec.lb_ips).any(|addr| addr.is_ipv6() == v6);
                let external_local = spec.external_local && external;
                let service = Arc::new(ServicePort {
                    id,
                    namespace: Arc::clone(&namespace),
                    name: Arc::clone(&name),
                    port_name: Arc::clone(&port.name),
                    protocol: port.protocol,
                    port: port.port,
                    node_port: port.node_port,
                    uid: Arc::clone(&spec.uid),
                    revision: spec.revision,
                    of_pod: false,
                    slices: rests_on,
                    internal_local: spec.internal_local,
                    external_local,
                    affinity: spec.affinity,
                    source_ranges: spec.source_ranges(v6),
                    lists: Lists::compile(found, spec.internal_local || external_local),
                });
                let external_ips = spec.external_ips.iter().map(|&addr| (addr, Via::ExternalIp));
                let lb_ips = spec.lb_ips.iter().map(|&addr| (addr, Via::LoadBalancer));
                let same_family = external_ips.chain(lb_ips).filter(|(addr, _)| addr.is_ipv6() == v6);
                for (addr, via) in std::iter::once((cluster_ip, Via::ClusterIp)).chain(same_family) {
                    let key = VipKey { addr, protocol: port.protocol, port: port.port };
                    if published.vips.contains(&key) {
                        continue;
                    }
                    self.publish_vip(key, owner, Vip { service: Arc::clone(&service), via });
                    published.vips.push(key);
                }
                if let Some(node_port) = port.node_port {
                    let key = NodePortKey { v6, protocol: port.protocol, port: node_port };
                    let winner = claim(&mut self.node_port_claims, key, (Rank::Allocated, owner), service);
                    self.next.node_ports.insert(key, winner);
                    published.node_ports.push(key);
                }
            }
        }
        published.vips.shrink_to_fit();
        published.cluster_ips.shrink_to_fit();
        published
    }
}

/// S5, S6: the endpoints of a Service port's family, port name and protocol, and the slices they come from.
fn gather(
    slices: &BTreeMap<String, Arc<Slice>>,
    v6: bool,
    name: &str,
    protocol: Protocol,
) -> (Vec<Hinted>, Arc<[SliceRef]>) {
    let (mut found, mut rests_on) = (Vec::new(), Vec::new());
    for slice in slices.values().filter(|slice| slice.v6 == v6) {
        for port in slice.ports.iter().filter(|port| *port.name == *name && port.protocol == protocol) {
            found.extend(slice.endpoints.iter().map(|endpoint| {
                let mut hinted = endpoint.clone();
                hinted.endpoint.addr.set_port(port.port);
                hinted
            }));
        }
        rests_on.push(SliceRef { name: Arc::clone(&slice.name), revision: slice.revision });
    }
    (found, rests_on.into())
}

/// Adds a claim and returns whoever has the key now.
fn claim<K: std::hash::Hash + Eq, T: Clone>(
    claims: &mut FxHashMap<K, Vec<Claim<T>>>,
    key: K,
    (rank, owner): (Rank, &ObjectKey),
    value: T,
) -> T {
    // Hardly ever more than one: the usual growth would waste three quarters of the room.
    let claims = claims.entry(key).or_insert_with(|| Vec::with_capacity(1));
    let place = (rank, owner.clone());
    let at = claims.partition_point(|(other, _)| *other < place);
    claims.insert(at, (place, value));
    claims[0].1.clone()
}

/// Takes a claim back and returns whoever has the key now.
fn release<K: std::hash::Hash + Eq + Copy, T: Clone>(
    all: &mut FxHashMap<K, Vec<Claim<T>>>,
    key: K,
    owner: &ObjectKey,
) -> Option<T> {
    let claims = all.get_mut(&key)?;
    claims.retain(|((_, other), _)| other != owner);
    let heir = claims.first().map(|(_, value)| value.clone());
    if heir.is_none() {
        all.remove(&key);
    }
    heir
}
