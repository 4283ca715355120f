//! What the EndpointSlices of hand-made Endpoints should be (EM1-EM7): pure, from the Service and the Endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::endpoint_model::{
    LEADER_ANNOTATION, MANAGED_BY_LABEL, SERVICE_NAME_LABEL, SKIP_MIRROR_LABEL, TRIGGER_TIME_ANNOTATION,
};
use super::slice_packing::{Group, Plan, PortKey, Template, plan_family};
use super::slice_plan::family_of;

/// The value of the managed-by label on mirrored slices (EM3).
pub(super) const MANAGED_BY: &str = "endpointslicemirroring-controller.k8s.io";
/// EM5: addresses of one subset that are mirrored, and endpoints of a mirrored slice.
const MAX_PER_SUBSET: usize = 1000;
const LAST_APPLIED_ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The writes that are due, and what could not be mirrored (EM5).
#[derive(Debug, Default, PartialEq)]
pub(super) struct Outcome {
    pub plan: Plan,
    pub invalid_addresses: usize,
    pub addresses_over_limit: usize,
}

/// EM1: hand-made Endpoints of a Service without a selector are mirrored, unless they say no.
pub(super) fn should_mirror(service: &Service, endpoints: &Endpoints) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.selector.is_none())
        && endpoints.labels().get(SKIP_MIRROR_LABEL).is_none_or(|value| value != "true")
        && !endpoints.annotations().contains_key(LEADER_ANNOTATION)
}

/// Plans the mirrored slices; `existing` are those with this controller's label that carry the Endpoints' name.
pub(super) fn reconcile(endpoints: &Endpoints, existing: &[Arc<EndpointSlice>]) -> Outcome {
    let template = template(endpoints);
    let mut outcome = Outcome::default();
    let mut wanted: BTreeMap<&str, BTreeMap<PortKey, Group>> =
        ["IPv4", "IPv6"].into_iter().map(|family| (family, BTreeMap::new())).collect();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| EndpointPort {
                name: Some(port.name.clone().unwrap_or_default()),
                port: Some(port.port),
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        let key = PortKey::of(&ports);
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        let mut mirrored = 0;
        for (address, ready) in ready.chain(unready) {
            let Ok(ip) = address.ip.parse::<IpAddr>() else {
                outcome.invalid_addresses += 1;
                continue;
            };
            if mirrored == MAX_PER_SUBSET {
                outcome.addresses_over_limit += 1;
                continue;
            }
            mirrored += 1;
            if let Some(groups) = wanted.get_mut(family_of(ip)) {
                let group = groups.entry(key.clone()).or_insert_with(|| Group::new(ports.clone()));
                group.insert(endpoint(address, ip, ready));
            }
        }
    }
    for (family, groups) in wanted {
        let of_family: Vec<_> = existing.iter().filter(|slice| slice.address_type == family).cloned().collect();
        outcome.plan.extend(plan_family(&template, family, groups, &of_family, false));
    }
    outcome
}

/// EM3.
fn template(endpoints: &Endpoints) -> Template {
    let name = endpoints.name_any();
    let mut labels = endpoints.labels().clone();
    labels.insert(SERVICE_NAME_LABEL.into(), name.clone());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    let mut annotations = endpoints.annotations().clone();
    annotations.remove(TRIGGER_TIME_ANNOTATION);
    annotations.remove(LAST_APPLIED_ANNOTATION);
    Template {
        namespace: endpoints.namespace().unwrap_or_default(),
        name: name.clone(),
        labels,
        annotations: Some(annotations),
        owner: OwnerReference {
            api_version: Endpoints::api_version(&()).into(),
            kind: Endpoints::kind(&()).into(),
            name,
            uid: endpoints.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        },
        max_endpoints: MAX_PER_SUBSET,
    }
}

/// EM4: the readiness comes from the list that the address stands in; nothing is known of serving and terminating.
fn endpoint(address: &EndpointAddress, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone().filter(|hostname| !hostname.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests;
