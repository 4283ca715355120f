//! What a Service's legacy Endpoints object should be (EP1-EP9): pure, from the Service and its Pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::endpoint_model::{
    HEADLESS_LABEL, TRIGGER_TIME_ANNOTATION, endpoint_hostname, headless, pod_addresses, pod_ready, protocol_of,
    resolve_port, target_ref, terminal, terminating,
};
use super::slice_plan::family_of;

const MANAGED_BY_LABEL: &str = "endpoints.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpoint-controller";
const OVER_CAPACITY_ANNOTATION: &str = "endpoints.kubernetes.io/over-capacity";
/// EP9: addresses of one Endpoints object.
const CAPACITY: usize = 1000;

/// Plans the Endpoints of a Service with a selector: the object to write, or `None` if `existing` is right already.
/// It carries the version of `existing`, so that it replaces nothing else.
pub(super) fn reconcile(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let spec = service.spec.as_ref()?;
    let mut subsets = repack(&offers(service, spec, pods));
    let truncated = truncate(&mut subsets);
    let labels = labels(service, spec);
    if let Some(existing) = existing
        && *existing.labels() == labels
        && existing.subsets.as_deref().unwrap_or_default() == subsets
        && existing.annotations().contains_key(OVER_CAPACITY_ANNOTATION) == truncated
    {
        return None;
    }

    let mut metadata = existing.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |existing| existing.metadata.clone(),
    );
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    set(&mut annotations, TRIGGER_TIME_ANNOTATION, trigger.map(|time| time.to_string()));
    set(&mut annotations, OVER_CAPACITY_ANNOTATION, truncated.then(|| "truncated".to_owned()));
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    metadata.labels = Some(labels);
    Some(Endpoints { metadata, subsets: Some(subsets) })
}

fn set(annotations: &mut BTreeMap<String, String>, key: &str, value: Option<String>) {
    match value {
        Some(value) => drop(annotations.insert(key.to_owned(), value)),
        None => drop(annotations.remove(key)),
    }
}

/// EP8.
fn labels(service: &Service, spec: &ServiceSpec) -> BTreeMap<String, String> {
    let mut labels = service.labels().clone();
    labels.remove(HEADLESS_LABEL);
    if headless(spec) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    labels
}

/// A port of the Endpoints in an order that can be compared; `None` stands for "no ports" (EP7).
type PortId = Option<(String, i32, String, Option<String>)>;

/// An address in canonical order: by IP as text, then by the Pod's uid.
type AddressId = (String, Option<String>);

/// Who offers a port: address, readiness and the entry itself.
type Offers = BTreeMap<PortId, BTreeMap<AddressId, (bool, EndpointAddress)>>;

/// EP3, EP4, EP5: each Pod's address under each port that it offers.
fn offers(service: &Service, spec: &ServiceSpec, pods: &[Arc<Pod>]) -> Offers {
    let publish_unready = spec.publish_not_ready_addresses == Some(true);
    let family = primary_family(spec);
    let mut offers = Offers::new();
    for pod in pods {
        if terminal(pod) || (terminating(pod) && !publish_unready) {
            continue;
        }
        let Some(ip) = pod_addresses(pod).find(|ip| family.is_none_or(|family| family_of(*ip) == family)) else {
            continue;
        };
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: endpoint_hostname(pod, service),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(target_ref(pod)),
        };
        let id = (address.ip.clone(), pod.uid());
        let ready = publish_unready || pod_ready(pod);
        let service_ports = spec.ports.as_deref().unwrap_or_default();
        if service_ports.is_empty() {
            if headless(spec) {
                offers.entry(None).or_default().insert(id, (ready, address));
            }
            continue;
        }
        for port in service_ports {
            if let Some(number) = resolve_port(port, pod) {
                let name = port.name.clone().unwrap_or_default();
                let port_id = Some((name, number, protocol_of(port).to_owned(), port.app_protocol.clone()));
                offers.entry(port_id).or_default().insert(id.clone(), (ready, address.clone()));
            }
        }
    }
    offers
}

/// The family of the Service's first address; `None` for a headless Service that does not say: any will do (EP4).
fn primary_family(spec: &ServiceSpec) -> Option<&str> {
    let of_vip = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()).map(family_of);
    of_vip.or_else(|| spec.ip_families.as_ref()?.first().map(String::as_str))
}

/// EP6: ports that are offered by the same addresses in the same states share a subset.
fn repack(offers: &Offers) -> Vec<EndpointSubset> {
    let mut groups: BTreeMap<BTreeSet<(&AddressId, bool)>, Vec<&PortId>> = BTreeMap::new();
    for (port, addresses) in offers {
        let who = addresses.iter().map(|(id, (ready, _))| (id, *ready)).collect();
        groups.entry(who).or_default().push(port);
    }
    let mut subsets: Vec<(Vec<&PortId>, EndpointSubset)> = groups
        .into_values()
        .filter_map(|ports| {
            let addresses = offers.get(*ports.first()?)?;
            let pick = |wanted: bool| -> Option<Vec<EndpointAddress>> {
                let picked: Vec<_> = addresses
                    .values()
                    .filter(|(ready, _)| *ready == wanted)
                    .map(|(_, address)| address.clone())
                    .collect();
                (!picked.is_empty()).then_some(picked)
            };
            let entries: Vec<EndpointPort> = ports.iter().filter_map(|port| entry(port)).collect();
            let subset = EndpointSubset {
                addresses: pick(true),
                not_ready_addresses: pick(false),
                ports: (!entries.is_empty()).then_some(entries),
            };
            Some((ports, subset))
        })
        .collect();
    subsets.sort_by(|(a, _), (b, _)| a.cmp(b));
    subsets.into_iter().map(|(_, subset)| subset).collect()
}

fn entry(port: &PortId) -> Option<EndpointPort> {
    let (name, number, protocol, app_protocol) = port.as_ref()?;
    Some(EndpointPort {
        name: (!name.is_empty()).then(|| name.clone()),
        port: *number,
        protocol: Some(protocol.clone()),
        app_protocol: app_protocol.clone(),
    })
}

/// EP9: leaves at most 1000 addresses, ready ones first, each subset giving up its share. True if any were left out.
fn truncate(subsets: &mut [EndpointSubset]) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let ready: usize = subsets.iter().map(|subset| count(&subset.addresses)).sum();
    let unready: usize = subsets.iter().map(|subset| count(&subset.not_ready_addresses)).sum();
    if ready + unready <= CAPACITY {
        return false;
    }
    let cut_ready = ready > CAPACITY;
    let (room, total) = if cut_ready { (CAPACITY, ready) } else { (CAPACITY - ready, unready) };
    let mut left = room;
    for subset in subsets {
        if cut_ready {
            subset.not_ready_addresses = None;
        }
        let list = if cut_ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        let share = (count(list) * room).div_ceil(total).min(left);
        if let Some(addresses) = list {
            addresses.truncate(share);
            left -= addresses.len();
        }
        if count(list) == 0 {
            *list = None;
        }
    }
    true
}

#[cfg(test)]
mod tests;
