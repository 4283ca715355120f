//! What a Service's EndpointSlices should be (ES1-ES22): pure, from the Service, its Pods and the Nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::endpoint_model::{
    HEADLESS_LABEL, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, TRIGGER_TIME_ANNOTATION, endpoint_hostname, headless,
    pod_addresses, pod_ready, protocol_of, resolve_port, target_ref, terminal, terminating,
};
use super::service_pods::ZONE_LABEL;
use super::slice_packing::{Group, Plan, PortKey, Template, plan_family};
use super::zone_shares::{self, Capacity};

/// The value of the managed-by label on slices of this controller.
pub(super) const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// ES14.
pub(super) const MAX_ENDPOINTS: usize = 100;

/// The writes that bring a Service's slices to what they should be.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub plan: Plan,
    /// ES9: `pod on node` for each Pod that was left out because its Node is not known.
    pub missing_nodes: Vec<String>,
    /// ES22: what became of the hints of a Service in topology mode Auto, per family.
    pub hints: Vec<HintsNews>,
}

/// ES22: news that the Service is told in an event.
#[derive(Debug, PartialEq)]
pub(super) enum HintsNews {
    Enabled(String),
    Disabled(String),
}

/// What is known of the cluster's Nodes.
pub(super) trait Nodes {
    fn get(&self, name: &str) -> Option<Arc<Node>>;
    fn list(&self) -> Vec<Arc<Node>>;
}

/// Plans the writes for a Service with a selector. `pods` are those that it selects, `existing` the slices that carry
/// its name and this controller's label, `trigger` the time at which the change began, for ES12.
pub(super) fn reconcile(
    service: &Service,
    pods: &[Arc<Pod>],
    nodes: &impl Nodes,
    existing: &[Arc<EndpointSlice>],
    trigger: Option<Timestamp>,
) -> Outcome {
    let Some(spec) = &service.spec else { return Outcome::default() };
    let template = template(service, spec);
    let families = families(spec);
    let mut outcome = Outcome::default();
    let mut wanted: BTreeMap<&str, BTreeMap<PortKey, Group>> =
        families.iter().map(|family| (*family, BTreeMap::new())).collect();

    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let hints = Hints::of(service, spec);
    let mut ports = Ports::new(spec);
    for pod in pods {
        let has_address = pod_addresses(pod).next().is_some();
        if terminal(pod) || !has_address {
            continue;
        }
        let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
        let node = node_name.and_then(|name| nodes.get(name));
        if node.is_none() && !publish_unready {
            if let Some(name) = node_name {
                outcome.missing_nodes.push(format!("{} on {name}", pod.name_any()));
            }
            continue;
        }
        let (key, entries) = ports.of(pod);
        for (family, groups) in &mut wanted {
            let addresses: Vec<String> =
                pod_addresses(pod).filter(|ip| family_of(*ip) == *family).map(|ip| ip.to_string()).collect();
            // Even without an address of this family the port set is wanted, as far as slices of it exist.
            let group = groups.entry(key.clone()).or_insert_with(|| Group::new(entries.clone()));
            if !addresses.is_empty() {
                group.insert(endpoint(service, pod, node.as_deref(), addresses, publish_unready, hints));
            }
        }
    }

    let by_shares = zone_shares::is_asked_by(service);
    let capacities: Vec<Capacity> =
        if by_shares { nodes.list().iter().map(|node| Capacity::of(node)).collect() } else { Vec::new() };
    for (family, mut groups) in wanted {
        if by_shares {
            let news = hint_by_shares(family, &mut groups, &capacities, existing);
            outcome.hints.extend(news);
        }
        let of_family: Vec<_> = existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
        outcome.plan.extend(plan_family(&template, family, groups, &of_family, true));
    }
    // ES18: families that the Service no longer has.
    outcome.plan.delete.extend(existing.iter().filter(|slice| !families.contains(&&*slice.address_type)).cloned());
    // ES20: nothing new for a Service that is going away; the garbage collector takes what there is.
    if service.metadata.deletion_timestamp.is_some() {
        outcome.plan.create.clear();
    }
    for slice in outcome.plan.create.iter_mut().chain(&mut outcome.plan.update) {
        set_trigger(slice, trigger);
    }
    outcome
}

/// ES22. It is news each time that there are no hints, and when there are some for the first time.
fn hint_by_shares(
    family: &str,
    groups: &mut BTreeMap<PortKey, Group>,
    capacities: &[Capacity],
    existing: &[Arc<EndpointSlice>],
) -> Option<HintsNews> {
    let mut endpoints: Vec<&mut Endpoint> = groups.values_mut().flat_map(Group::endpoints_mut).collect();
    match zone_shares::assign(capacities.iter().cloned(), &mut endpoints) {
        Err(reason) => Some(HintsNews::Disabled(format!("{reason}, addressType: {family}"))),
        Ok(()) => {
            let of_family = existing.iter().filter(|slice| slice.address_type == family);
            let mut before = of_family.flat_map(|slice| slice.endpoints.iter().flatten());
            let known = before.any(|endpoint| endpoint.hints.is_some());
            let text = "Topology Aware Hints has been enabled";
            (!known).then(|| HintsNews::Enabled(format!("{text}, addressType: {family}")))
        }
    }
}

/// ES10, ES11: what all slices of the Service carry.
fn template(service: &Service, spec: &ServiceSpec) -> Template {
    let name = service.name_any();
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS_LABEL);
    if headless(spec) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(SERVICE_NAME_LABEL.into(), name.clone());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    Template {
        namespace: service.namespace().unwrap_or_default(),
        name: name.clone(),
        labels,
        annotations: None,
        owner: OwnerReference {
            api_version: Service::api_version(&()).into(),
            kind: Service::kind(&()).into(),
            name,
            uid: service.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        },
        max_endpoints: MAX_ENDPOINTS,
    }
}

/// ES3: the address types that the Service wants slices for.
fn families(spec: &ServiceSpec) -> BTreeSet<&'static str> {
    let known = |family: &str| match family {
        "IPv4" => Some("IPv4"),
        "IPv6" => Some("IPv6"),
        _ => None,
    };
    let asked: BTreeSet<_> = spec.ip_families.iter().flatten().filter_map(|family| known(family)).collect();
    if !asked.is_empty() {
        return asked;
    }
    match spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()) {
        Some(ip) => [family_of(ip)].into(),
        None => ["IPv4", "IPv6"].into(),
    }
}

pub(crate) fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The resolved ports of Pods (ES4, ES5), computed once where they are the same for all.
struct Ports<'a> {
    spec: &'a ServiceSpec,
    by_name: bool,
    shared: Option<(PortKey, Vec<EndpointPort>)>,
}

impl<'a> Ports<'a> {
    fn new(spec: &'a ServiceSpec) -> Self {
        let by_name = spec.ports.iter().flatten().any(|port| matches!(port.target_port, Some(IntOrString::String(_))));
        Self { spec, by_name, shared: None }
    }

    fn of(&mut self, pod: &Pod) -> (PortKey, Vec<EndpointPort>) {
        if let Some(shared) = &self.shared {
            return shared.clone();
        }
        let ports: Vec<EndpointPort> = self
            .spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| {
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(resolve_port(port, pod)?),
                    protocol: Some(protocol_of(port).to_owned()),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        let resolved = (PortKey::of(&ports), ports);
        if !self.by_name {
            self.shared = Some(resolved.clone());
        }
        resolved
    }
}

/// Which hints the Service asks for (ES21).
#[derive(Clone, Copy, PartialEq)]
enum Hints {
    None,
    SameZone,
    SameNode,
}

impl Hints {
    fn of(service: &Service, spec: &ServiceSpec) -> Self {
        match spec.traffic_distribution.as_deref() {
            // ES22 comes first, whatever it comes to.
            _ if zone_shares::is_asked_by(service) => Self::None,
            Some("PreferClose" | "PreferSameZone") => Self::SameZone,
            Some("PreferSameNode") => Self::SameNode,
            _ => Self::None,
        }
    }

    fn for_endpoint(self, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
        let zones = zone.map(|name| vec![ForZone { name: name.to_owned() }]);
        let nodes = node.map(|name| vec![ForNode { name: name.to_owned() }]);
        let hints = match self {
            Self::None => return None,
            Self::SameZone => EndpointHints { for_zones: zones, for_nodes: None },
            Self::SameNode => EndpointHints { for_zones: zones, for_nodes: nodes },
        };
        (hints != EndpointHints::default()).then_some(hints)
    }
}

/// ES6, ES7, ES8, ES21.
fn endpoint(
    service: &Service,
    pod: &Pod,
    node: Option<&Node>,
    addresses: Vec<String>,
    publish_unready: bool,
    hints: Hints,
) -> Endpoint {
    let serving = pod_ready(pod);
    let terminating = terminating(pod);
    let ready = publish_unready || (serving && !terminating);
    let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let zone = node.and_then(|node| node.labels().get(ZONE_LABEL).cloned()).filter(|zone| !zone.is_empty());
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hints: ready.then(|| hints.for_endpoint(zone.as_deref(), node_name.as_deref())).flatten(),
        hostname: endpoint_hostname(pod, service),
        node_name,
        target_ref: Some(target_ref(pod)),
        zone,
        deprecated_topology: None,
    }
}

/// ES12. jiff prints as RFC3339Nano does: in UTC, with as many digits after the second as it takes.
fn set_trigger(slice: &mut EndpointSlice, trigger: Option<Timestamp>) {
    let annotations = slice.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(time) => drop(annotations.insert(TRIGGER_TIME_ANNOTATION.into(), time.to_string())),
        None => drop(annotations.remove(TRIGGER_TIME_ANNOTATION)),
    }
    if annotations.is_empty() {
        slice.metadata.annotations = None;
    }
}

#[cfg(test)]
mod tests;
