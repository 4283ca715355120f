//! Endpoints (legacy).

use k8s_openapi::api::core::v1::{EndpointSubset, Endpoints};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::service_validation::check_endpoint_ip;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Endpoints;
    const INFO: Info = Info {
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        create_on_update: true,
        deprecation: Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        columns: &[
            NAME,
            column(
                "Endpoints",
                "The set of all endpoints is the union of all subsets. Addresses are placed into subsets according to the IPs they share. A single address with multiple ports, some of which are ready and some of which are not (because they come from different containers) will result in the address being displayed in different subsets for the different ports. No address will appear in both Addresses and NotReadyAddresses in the same subset. Sets of addresses and ports that comprise a service.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn default(object: &mut Endpoints) {
        let ports = object.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten());
        for port in ports {
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn create(_: &Context, object: &mut Endpoints, causes: &mut Causes) -> Result<(), ApiError> {
        check(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut Endpoints, _: &Endpoints, _: Part, causes: &mut Causes) {
        check(new, causes);
    }

    fn cells(object: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), summary(object.subsets.as_deref().unwrap_or_default()).into(), age_cell(object, now)]
    }
}

fn check(object: &Endpoints, causes: &mut Causes) {
    for (i, subset) in object.subsets.iter().flatten().enumerate() {
        let field = format!("subsets[{i}]");
        let (ready, other) = (subset.addresses.as_deref(), subset.not_ready_addresses.as_deref());
        if ready.unwrap_or_default().is_empty() && other.unwrap_or_default().is_empty() {
            causes.required(&field, "must specify `addresses` or `notReadyAddresses`");
        }
        for (list, addresses) in [("addresses", ready), ("notReadyAddresses", other)] {
            for (j, address) in addresses.unwrap_or_default().iter().enumerate() {
                check_endpoint_ip(causes, &format!("{field}.{list}[{j}].ip"), &address.ip);
            }
        }
        for (j, port) in subset.ports.iter().flatten().enumerate() {
            super::service_validation::check_port_number(causes, &format!("{field}.ports[{j}].port"), port.port);
        }
    }
}

/// The first three `ip:port`, as kubectl prints them.
fn summary(subsets: &[EndpointSubset]) -> String {
    let mut all = Vec::new();
    for subset in subsets {
        let ports = subset.ports.as_deref().unwrap_or_default();
        for address in subset.addresses.iter().flatten() {
            if ports.is_empty() {
                all.push(address.ip.clone());
            }
            all.extend(ports.iter().map(|port| host_port(&address.ip, port.port)));
        }
    }
    super::endpoint_slice::shorten(&all)
}

fn host_port(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}
