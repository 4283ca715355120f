//! What the cluster's objects mean to DNS: an index that is updated with each change and read without locks.
//!
//! [`Records`] is a value made of persistent maps: the one writer (`super::follow`) changes its own copy, at a cost
//! that depends on the changed object alone, and publishes it in an [`Index`]; a reader holds the version that was
//! current when its question came. Answers are found in `super::answer`.
//!
//! Names here are lower case and relative to where they stand: a Service's key is `web.default`, just as it stands in
//! `web.default.svc.cluster.local`, so that a question is looked up by a slice of its own text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use rustc_hash::FxBuildHasher;
use uuid::Uuid;

use crate::cluster::{ObjectKey, SERVICE_NAME_LABEL};

type Map<K, V> = imbl::GenericHashMap<K, V, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// The current [`Records`], published by one writer to any number of readers.
pub struct Index {
    current: ArcSwap<Records>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(Records::default())
    }
}

impl Index {
    pub fn new(records: Records) -> Self {
        Self { current: ArcSwap::from_pointee(records) }
    }

    /// The records as they are now; hold them for one question only.
    pub fn load(&self) -> Guard<Arc<Records>> {
        self.current.load()
    }

    /// Only the one writer calls this.
    pub fn publish(&self, mut records: Records) {
        records.generation = self.current.load().generation + 1;
        self.current.store(Arc::new(records));
    }

    /// Publishes records with the same answers as before, which may rest on newer versions of their objects.
    pub fn refresh(&self, mut records: Records) {
        records.generation = self.current.load().generation;
        self.current.store(Arc::new(records));
    }
}

/// An object as it was when the records were made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub key: ObjectKey,
    /// Nil for an object without one.
    pub uid: Uuid,
    /// Its resourceVersion.
    pub revision: u64,
}

impl Object {
    pub(super) fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            key: ObjectKey::of(object),
            uid: meta.uid.as_deref().and_then(|uid| uid.parse().ok()).unwrap_or_default(),
            revision: meta.resource_version.as_deref().and_then(|revision| revision.parse().ok()).unwrap_or_default(),
        }
    }
}

/// Everything that can be answered, as of one moment.
#[derive(Clone, Default)]
pub struct Records {
    /// False until everything that existed at the start is known: before that "no such name" would be a lie.
    pub complete: bool,
    /// Counts what has been published: equal numbers mean equal answers.
    pub(super) generation: u64,
    /// Grows with each change; the SOA's serial. It is the newest resourceVersion seen, cut to 32 bits.
    pub serial: u32,
    pub(super) services: Map<Arc<str>, Arc<ServiceEntry>>,
    /// By the key of the Service whose endpoints they are.
    pub(super) slices: Map<Arc<str>, Vec<Arc<SliceEntry>>>,
    /// The Service under which each slice was filed, by namespace and name of the slice.
    filed: Map<ObjectKey, Arc<str>>,
    pub(super) namespaces: Map<Arc<str>, ()>,
    pub(super) pods: Map<IpAddr, Vec<Arc<Object>>>,
    pub(super) reverse: Map<IpAddr, Vec<Owner>>,
}

/// A Service as DNS sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    pub object: Arc<Object>,
    pub kind: ServiceKind,
    pub ports: Box<[Port]>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum ServiceKind {
    /// Has VIPs, at most one of each family (none yet while the address is being allocated).
    Vips { v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr> },
    /// `clusterIP: None`: its names lead to the endpoints.
    Headless,
    /// Another name for something else; lower case, without the final dot.
    External(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// Empty for a port without a name.
    pub name: Box<str>,
    /// As in a name: `_tcp`.
    pub protocol: Box<str>,
    pub port: u16,
}

/// The ready endpoints of a slice, ordered by host name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SliceEntry {
    pub object: Arc<Object>,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Endpoint {
    /// The first label of its own name: the endpoint's hostname, or its address with dashes (rule D3).
    pub host: Arc<str>,
    pub address: IpAddr,
}

/// Whose address an address is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    Vip { service: Arc<str> },
    Endpoint { service: Arc<str>, host: Arc<str> },
}

/// What changes them says whether an answer may be another than before.
impl Records {
    pub fn set_service(&mut self, service: &Service) -> bool {
        let key = service_key(&service.namespace().unwrap_or_default(), &service.name_any());
        let entry = ServiceEntry::of(service);
        let known = self.services.get(&key);
        if known.is_some_and(|known| known.kind == entry.kind && known.ports == entry.ports) {
            self.services.insert(key, Arc::new(entry));
            return false;
        }
        self.drop_vips(&key);
        for vip in entry.vips() {
            self.reverse.entry(vip).or_insert_with(one).push(Owner::Vip { service: Arc::clone(&key) });
        }
        self.services.insert(key, Arc::new(entry));
        true
    }

    pub fn remove_service(&mut self, object: &ObjectKey) -> bool {
        let key = service_key(&object.namespace, &object.name);
        self.drop_vips(&key);
        self.services.remove(&key).is_some()
    }

    fn drop_vips(&mut self, key: &Arc<str>) {
        let Some(known) = self.services.get(key) else { return };
        for vip in known.vips() {
            self.disown(vip, &Owner::Vip { service: Arc::clone(key) });
        }
    }

    pub fn set_slice(&mut self, slice: &EndpointSlice) -> bool {
        let object = ObjectKey::of(slice);
        let service = slice.labels().get(SERVICE_NAME_LABEL).filter(|_| slice.address_type != "FQDN");
        let Some(service) = service.map(|name| service_key(&object.namespace, name)) else {
            return self.remove_slice(&object);
        };
        let moved = self.filed.get(&object).is_some_and(|known| *known != service) && self.remove_slice(&object);
        let entry = SliceEntry::of(slice);
        let known =
            self.slices.get(&service).and_then(|all| all.iter().find(|known| known.object.key == object).cloned());
        let alike = |known: &SliceEntry| known.endpoints == entry.endpoints && known.ports == entry.ports;
        let changed = moved || !known.as_deref().is_some_and(alike);
        self.swap_endpoints(&service, known.as_ref().map_or(&[], |known| &known.endpoints), &entry.endpoints);
        let all = self.slices.entry(Arc::clone(&service)).or_default();
        match all.iter_mut().find(|known| known.object.key == object) {
            Some(place) => *place = Arc::new(entry),
            None => all.push(Arc::new(entry)),
        }
        self.filed.insert(object, service);
        changed
    }

    pub fn remove_slice(&mut self, object: &ObjectKey) -> bool {
        let Some(service) = self.filed.remove(object) else { return false };
        let Some(all) = self.slices.get_mut(&service) else { return false };
        let Some(at) = all.iter().position(|known| known.object.key == *object) else { return false };
        let gone = all.remove(at);
        if all.is_empty() {
            self.slices.remove(&service);
        }
        self.swap_endpoints(&service, &gone.endpoints, &[]);
        true
    }

    /// Brings the reverse names from one ordered list of endpoints to another, touching only what differs.
    fn swap_endpoints(&mut self, service: &Arc<str>, old: &[Endpoint], new: &[Endpoint]) {
        let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(gone), Some(come)) => gone.cmp(come),
            };
            let gone = if order.is_le() { old.next() } else { None };
            let come = if order.is_ge() { new.next() } else { None };
            match (gone, come) {
                (Some(gone), None) => self.disown(
                    gone.address,
                    &Owner::Endpoint { service: Arc::clone(service), host: Arc::clone(&gone.host) },
                ),
                (None, Some(come)) => self
                    .reverse
                    .entry(come.address)
                    .or_insert_with(one)
                    .push(Owner::Endpoint { service: Arc::clone(service), host: Arc::clone(&come.host) }),
                _ => {}
            }
        }
    }

    /// Takes one of possibly several equal owners away: an endpoint can be in two slices for a moment.
    fn disown(&mut self, address: IpAddr, owner: &Owner) {
        let Some(owners) = self.reverse.get_mut(&address) else { return };
        if let Some(at) = owners.iter().position(|known| known == owner) {
            owners.swap_remove(at);
        }
        if owners.is_empty() {
            self.reverse.remove(&address);
        }
    }

    pub fn set_namespace(&mut self, namespace: &Namespace) -> bool {
        self.namespaces.insert(namespace.name_any().into(), ()).is_none()
    }

    pub fn remove_namespace(&mut self, name: &str) -> bool {
        self.namespaces.remove(name).is_some()
    }

    /// Replaces what is known of a Pod; `None` where it did not or does not exist.
    pub fn change_pod(&mut self, old: Option<&Pod>, new: Option<&Pod>) -> bool {
        let (before, after) = (pod_addresses(old), pod_addresses(new));
        let Some(object) = new.or(old).map(Object::of) else { return false };
        let changed = before != after;
        for address in before {
            if let Some(pods) = self.pods.get_mut(&address) {
                pods.retain(|known| known.key != object.key);
                if pods.is_empty() {
                    self.pods.remove(&address);
                }
            }
        }
        let object = Arc::new(object);
        for address in after {
            self.pods.entry(address).or_insert_with(one).push(Arc::clone(&object));
        }
        changed
    }

    /// Remembers that a change of this resourceVersion is in.
    pub fn note_revision(&mut self, revision: u64) {
        // The serial wraps, as serials do.
        #[allow(clippy::cast_possible_truncation)]
        let serial = revision as u32;
        self.serial = serial;
    }
}

/// Room for one: an address hardly ever has two owners, and a vector that grows by itself begins with four.
fn one<T>() -> Vec<T> {
    Vec::with_capacity(1)
}

/// `web.default`, as in the name.
fn service_key(namespace: &str, name: &str) -> Arc<str> {
    format!("{name}.{namespace}").into()
}

impl ServiceEntry {
    fn of(service: &Service) -> Self {
        let spec = service.spec.as_ref();
        let cluster_ip = spec.and_then(|spec| spec.cluster_ip.as_deref());
        let kind = if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let target = spec.and_then(|spec| spec.external_name.as_deref()).unwrap_or_default();
            ServiceKind::External(target.trim_end_matches('.').to_ascii_lowercase().into())
        } else if cluster_ip == Some("None") {
            ServiceKind::Headless
        } else {
            let all = spec.and_then(|spec| spec.cluster_ips.as_ref()).into_iter().flatten().map(String::as_str);
            let vips: Vec<IpAddr> = all.chain(cluster_ip).filter_map(|ip| ip.parse().ok()).collect();
            ServiceKind::Vips { v4: first_v4(&vips), v6: first_v6(&vips) }
        };
        let ports = spec.and_then(|spec| spec.ports.as_ref()).into_iter().flatten();
        let ports =
            ports.filter_map(|port| Port::of(port.name.as_deref(), port.protocol.as_deref(), port.port)).collect();
        Self { object: Arc::new(Object::of(service)), kind, ports }
    }

    pub fn vips(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (v4, v6) = match self.kind {
            ServiceKind::Vips { v4, v6 } => (v4, v6),
            ServiceKind::Headless | ServiceKind::External(_) => (None, None),
        };
        v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from))
    }
}

impl SliceEntry {
    fn of(slice: &EndpointSlice) -> Self {
        let mut endpoints: Vec<Endpoint> = slice
            .endpoints
            .iter()
            .flatten()
            // A missing condition means ready; publishNotReadyAddresses makes the condition true (rule D1).
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
            .flat_map(|endpoint| {
                endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok()).map(|address| Endpoint {
                    host: match endpoint.hostname.as_deref() {
                        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase().into(),
                        _ => dashed(address).into(),
                    },
                    address,
                })
            })
            .collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        let ports = slice.ports.iter().flatten();
        let ports =
            ports.filter_map(|port| Port::of(port.name.as_deref(), port.protocol.as_deref(), port.port?)).collect();
        Self { object: Arc::new(Object::of(slice)), endpoints, ports }
    }

    /// The endpoints with this host name.
    pub fn named(&self, host: &str) -> &[Endpoint] {
        let from = self.endpoints.partition_point(|endpoint| &*endpoint.host < host);
        let count = self.endpoints[from..].partition_point(|endpoint| &*endpoint.host == host);
        &self.endpoints[from..from + count]
    }
}

impl Port {
    fn of(name: Option<&str>, protocol: Option<&str>, port: i32) -> Option<Self> {
        Some(Self {
            name: name.unwrap_or_default().into(),
            protocol: format!("_{}", protocol.unwrap_or("TCP").to_ascii_lowercase()).into(),
            port: u16::try_from(port).ok()?,
        })
    }
}

/// An address as a label: `10-244-1-5`, `fd00-10-244-1--5`.
fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

/// The address that a label such as `10-244-1-5` stands for.
pub(super) fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>();
    v4.map(IpAddr::from).or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::from)).ok()
}

/// The addresses under which a Pod has a name: none once it has ended or is asked to end.
fn pod_addresses(pod: Option<&Pod>) -> Vec<IpAddr> {
    let Some(pod) = pod.filter(|pod| pod.metadata.deletion_timestamp.is_none()) else { return Vec::new() };
    let Some(status) = &pod.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).chain(status.pod_ip.as_deref());
    let mut addresses: Vec<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn first_v4(addresses: &[IpAddr]) -> Option<Ipv4Addr> {
    addresses.iter().find_map(|address| if let IpAddr::V4(v4) = address { Some(*v4) } else { None })
}

fn first_v6(addresses: &[IpAddr]) -> Option<Ipv6Addr> {
    addresses.iter().find_map(|address| if let IpAddr::V6(v6) = address { Some(*v6) } else { None })
}
