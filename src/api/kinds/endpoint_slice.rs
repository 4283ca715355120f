//! EndpointSlice (discovery.k8s.io/v1): rules EA1-EA5.

use std::collections::HashSet;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::service_validation::{check_endpoint_ip, check_port_number};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::{label_errors, subdomain_errors};
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = EndpointSlice;
    const INFO: Info = Info {
        group: "discovery.k8s.io",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        generation: true,
        columns: &[
            NAME,
            column(
                "AddressType",
                "addressType specifies the type of address carried by this EndpointSlice. All addresses in this slice must be the same type. This field is immutable after creation. The following address types are currently supported: * IPv4: Represents an IPv4 Address. * IPv6: Represents an IPv6 Address. * FQDN: Represents a Fully Qualified Domain Name.",
            ),
            column(
                "Ports",
                "ports specifies the list of network ports exposed by each endpoint in this slice. Each port must have a unique name. When ports is empty, it indicates that there are no defined ports. When a port is defined with a nil port value, it indicates \"all ports\". Each slice may include a maximum of 100 ports.",
            ),
            column(
                "Endpoints",
                "endpoints is a list of unique endpoints in this slice. Each slice may include a maximum of 1000 endpoints.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut EndpointSlice) {
        object.endpoints.get_or_insert_default();
        for port in object.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".into());
        }
    }

    fn create(_: &Context, object: &mut EndpointSlice, causes: &mut Causes) -> Result<(), ApiError> {
        check(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut EndpointSlice, old: &EndpointSlice, _: Part, causes: &mut Causes) {
        check(new, causes);
        if new.address_type != old.address_type {
            causes.invalid("addressType", new.address_type.as_str(), "field is immutable");
        }
    }

    fn cells(object: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports = match object.ports.as_deref().unwrap_or_default() {
            [] => "<unset>".to_owned(),
            ports => shorten(&ports.iter().map(|p| p.port.map_or("*".into(), |n| n.to_string())).collect::<Vec<_>>()),
        };
        let addresses: Vec<String> =
            object.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect();
        let addresses = if addresses.is_empty() { "<unset>".into() } else { shorten(&addresses) };
        vec![
            name_cell(object),
            object.address_type.as_str().into(),
            ports.into(),
            addresses.into(),
            age_cell(object, now),
        ]
    }
}

/// The first three of a list and how many more there are.
pub(super) fn shorten(items: &[String]) -> String {
    match items {
        [] => "<none>".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        items => items.join(","),
    }
}

fn check(object: &EndpointSlice, causes: &mut Causes) {
    let kind = object.address_type.as_str();
    if kind.is_empty() {
        causes.required("addressType", "");
    } else if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        causes.unsupported("addressType", kind, &["FQDN", "IPv4", "IPv6"]);
    }
    let endpoints = object.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > 1000 {
        causes.invalid("endpoints", endpoints.len(), "must have at most 1000 items");
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let field = format!("endpoints[{i}].addresses");
        if endpoint.addresses.is_empty() {
            causes.required(&field, "must contain at least 1 address");
        }
        for (j, address) in endpoint.addresses.iter().enumerate() {
            let field = format!("{field}[{j}]");
            match kind {
                "IPv4" | "IPv6" => {
                    let v6 = address.parse::<std::net::IpAddr>().ok().map(|ip| ip.is_ipv6());
                    if v6.is_some_and(|v6| v6 != (kind == "IPv6")) {
                        causes.invalid(&field, address.as_str(), format!("must be an {kind} address"));
                    } else {
                        check_endpoint_ip(causes, &field, address);
                    }
                }
                "FQDN" => {
                    subdomain_errors(address).into_iter().for_each(|e| causes.invalid(&field, address.as_str(), e))
                }
                _ => {}
            }
        }
    }
    let mut names = HashSet::new();
    for (i, port) in object.ports.iter().flatten().enumerate() {
        let name = port.name.clone().unwrap_or_default();
        if !name.is_empty() {
            label_errors(&name).into_iter().for_each(|e| causes.invalid(format!("ports[{i}].name"), name.as_str(), e));
        }
        if !names.insert(name.clone()) {
            causes.duplicate(format!("ports[{i}].name"), name);
        }
        causes.one_of(&format!("ports[{i}].protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]);
        if let Some(number) = port.port {
            check_port_number(causes, &format!("ports[{i}].port"), number);
        }
    }
}
