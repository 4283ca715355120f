//! Brings the EndpointSlices of one owner and address family from what exists to what is wanted, with few writes.
//!
//! Pure: the same for slices made from Pods and for slices mirrored from Endpoints. Endpoints that stay keep their
//! slice. New ones go first into slices that must be written anyway, the fullest first; what is left goes into the one
//! untouched slice that it fills best, and then into new slices (ES14). Slices that are half empty are not merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

/// What all slices of one owner have in common.
#[derive(Clone, Debug)]
pub(super) struct Template {
    pub namespace: String,
    /// The name of Service and slices: new slices are called `<name>-xxxxx` (ES10).
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// Annotations that every slice must carry; `None` leaves those of existing slices alone.
    pub annotations: Option<BTreeMap<String, String>>,
    pub owner: OwnerReference,
    pub max_endpoints: usize,
}

/// A port set in canonical order; slices are grouped by it (ES3).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PortKey(Vec<(String, String, Option<i32>, Option<String>)>);

impl PortKey {
    pub(super) fn of(ports: &[EndpointPort]) -> Self {
        let mut key: Vec<_> = ports
            .iter()
            .map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                (port.name.clone().unwrap_or_default(), protocol, port.port, port.app_protocol.clone())
            })
            .collect();
        key.sort();
        Self(key)
    }
}

/// What makes an endpoint the same one in two states of a slice: the Pod and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct EndpointId {
    target: Option<(Option<String>, Option<String>)>,
    addresses: BTreeSet<String>,
}

impl EndpointId {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            target: endpoint.target_ref.as_ref().map(|target| (target.namespace.clone(), target.name.clone())),
            addresses: endpoint.addresses.iter().cloned().collect(),
        }
    }
}

/// The endpoints that are wanted with one port set.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    ports: Vec<EndpointPort>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
}

impl Group {
    pub(super) fn new(ports: Vec<EndpointPort>) -> Self {
        Self { ports, endpoints: BTreeMap::new() }
    }

    pub(super) fn insert(&mut self, endpoint: Endpoint) {
        self.endpoints.insert(EndpointId::of(&endpoint), endpoint);
    }

    /// The endpoints, always in the same order, to be changed in what does not tell them apart.
    pub(super) fn endpoints_mut(&mut self) -> impl Iterator<Item = &mut Endpoint> {
        self.endpoints.values_mut()
    }
}

/// The writes that are due. Slices in `create` have a `generateName`; those in `update` the version that they replace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<EndpointSlice>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.create.extend(other.create);
        self.update.extend(other.update);
        self.delete.extend(other.delete);
    }
}

/// Plans the writes for one address family. `existing` are the slices of that family that carry the owner's name and
/// this controller's label. With `placeholder`, one slice without endpoints and ports stands where there would be none.
pub(super) fn plan_family(
    template: &Template,
    family: &str,
    mut wanted: BTreeMap<PortKey, Group>,
    existing: &[Arc<EndpointSlice>],
    placeholder: bool,
) -> Plan {
    let (owned, strangers): (Vec<_>, Vec<_>) = existing.iter().cloned().partition(|slice| template.owns(slice));
    let mut by_ports: BTreeMap<PortKey, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
    for slice in &owned {
        let key = PortKey::of(slice.ports.as_deref().unwrap_or_default());
        by_ports.entry(key).or_default().push(Arc::clone(slice));
    }

    let mut plan = Plan::default();
    for (key, group) in &mut wanted {
        let slices = by_ports.remove(key).unwrap_or_default();
        plan.extend(plan_group(template, family, group, slices));
    }
    plan.delete.extend(by_ports.into_values().flatten());

    if placeholder && owned.len() == plan.delete.len() && plan.create.is_empty() {
        match plan.delete.iter().position(|slice| template.is_placeholder(slice)) {
            Some(keep) => drop(plan.delete.remove(keep)),
            None => plan.create.push(template.new_slice(family, Vec::new())),
        }
    }
    reuse(&mut plan);
    // ES16: slices of an earlier object of the same name are deleted, never reused.
    plan.delete.extend(strangers);
    plan
}

/// Turns pairs of a deletion and a creation into an update, which keeps names and saves a write (ES15).
fn reuse(plan: &mut Plan) {
    while !plan.delete.is_empty() {
        let Some(mut slice) = plan.create.pop() else { return };
        let old = plan.delete.remove(0);
        slice.metadata.name = old.metadata.name.clone();
        slice.metadata.generate_name = old.metadata.generate_name.clone();
        slice.metadata.uid = old.metadata.uid.clone();
        slice.metadata.resource_version = old.metadata.resource_version.clone();
        plan.update.push(slice);
    }
}

/// Plans the slices of one port set.
fn plan_group(template: &Template, family: &str, group: &mut Group, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let left = &mut group.endpoints;
    let mut plan = Plan::default();
    let mut untouched = Vec::new();
    for slice in existing {
        let before = slice.endpoints.as_deref().unwrap_or_default();
        let kept: Vec<Endpoint> = before.iter().filter_map(|endpoint| left.remove(&EndpointId::of(endpoint))).collect();
        if kept == before && template.fits(&slice) {
            untouched.push(slice);
        } else if kept.is_empty() && !before.is_empty() {
            plan.delete.push(slice);
        } else {
            plan.update.push(template.rewritten(&slice, kept));
        }
    }

    plan.update.sort_by_key(|slice| std::cmp::Reverse(length(slice)));
    for slice in &mut plan.update {
        fill(slice, left, template.max_endpoints);
    }
    while !left.is_empty() {
        let best_fit = (0..untouched.len())
            .filter(|&at| length(&untouched[at]) + left.len() <= template.max_endpoints)
            .max_by_key(|&at| length(&untouched[at]));
        match best_fit {
            Some(at) => {
                let old = untouched.swap_remove(at);
                let mut slice = template.rewritten(&old, old.endpoints.clone().unwrap_or_default());
                fill(&mut slice, left, template.max_endpoints);
                plan.update.push(slice);
            }
            None => {
                let mut slice = template.new_slice(family, group.ports.clone());
                fill(&mut slice, left, template.max_endpoints);
                plan.create.push(slice);
            }
        }
    }
    plan
}

fn length(slice: &EndpointSlice) -> usize {
    slice.endpoints.as_ref().map_or(0, Vec::len)
}

fn fill(slice: &mut EndpointSlice, left: &mut BTreeMap<EndpointId, Endpoint>, max: usize) {
    let endpoints = slice.endpoints.get_or_insert_default();
    while endpoints.len() < max {
        let Some((_, endpoint)) = left.pop_first() else { return };
        endpoints.push(endpoint);
    }
}

impl Template {
    fn owns(&self, slice: &EndpointSlice) -> bool {
        slice.owner_references().iter().any(|owner| owner.uid == self.owner.uid)
    }

    /// True if the slice's metadata is as the owner's present state wants it (ES11).
    fn fits(&self, slice: &EndpointSlice) -> bool {
        *slice.labels() == self.labels
            && self.annotations.as_ref().is_none_or(|annotations| slice.annotations() == annotations)
    }

    fn is_placeholder(&self, slice: &EndpointSlice) -> bool {
        length(slice) == 0 && slice.ports.as_ref().is_none_or(Vec::is_empty) && self.fits(slice)
    }

    fn rewritten(&self, slice: &EndpointSlice, endpoints: Vec<Endpoint>) -> EndpointSlice {
        let mut metadata = slice.metadata.clone();
        metadata.labels = Some(self.labels.clone());
        if self.annotations.is_some() {
            metadata.annotations.clone_from(&self.annotations);
        }
        EndpointSlice {
            metadata,
            address_type: slice.address_type.clone(),
            endpoints: Some(endpoints),
            ports: slice.ports.clone(),
        }
    }

    fn new_slice(&self, family: &str, ports: Vec<EndpointPort>) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", self.name)),
                namespace: Some(self.namespace.clone()),
                labels: Some(self.labels.clone()),
                annotations: self.annotations.clone(),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            endpoints: Some(Vec::new()),
            ports: Some(ports),
        }
    }
}
