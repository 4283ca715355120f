//! IPAddress (networking.k8s.io/v1): rules SC5 and SC7. One says who holds a Service address.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::checks::text;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::alloc::{Item, MANAGED_BY, MANAGER, Reservation};
use crate::api::causes::Causes;
use crate::api::names::{NameRule, subdomain_errors};
use crate::api::status::ApiError;
use crate::store::Scope;

pub struct Kind;

impl super::Kind for Kind {
    type Object = IPAddress;
    const INFO: Info = Info {
        group: "networking.k8s.io",
        kind: "IPAddress",
        plural: "ipaddresses",
        singular: "ipaddress",
        short_names: &["ip"],
        namespaced: false,
        name_rule: NameRule::Address,
        fields: &[],
        columns: &[
            NAME,
            column(
                "ParentRef",
                "ParentRef references the resource that an IPAddress is attached to. An IPAddress must reference a parent object.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn create(_: &Context, object: &mut IPAddress, causes: &mut Causes) -> Result<(), ApiError> {
        check(&object.spec.parent_ref, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut IPAddress, old: &IPAddress, _: Part, causes: &mut Causes) {
        causes.immutable("spec.parentRef", &new.spec.parent_ref, &old.spec.parent_ref);
    }

    /// An address that somebody else has made an object of is not given to a Service.
    fn reserve(
        ctx: &Context,
        new: &mut IPAddress,
        old: Option<&IPAddress>,
        _: &mut Causes,
    ) -> Result<Reservation, ApiError> {
        let mut reservation = Reservation::new(&ctx.allocators);
        if old.is_none()
            && let Some(Item::Address(address)) = held(new)
        {
            // Taken or outside of the ranges: then no Service gets it, either.
            let _ = reservation.exact_address(address, &super::service_cidr::further(&ctx.store)?);
        }
        Ok(reservation)
    }

    fn release(ctx: &Context, object: &IPAddress) {
        let held = held(object).filter(|item| !matches!(item, Item::Address(address) if is_of_service(ctx, *address)));
        ctx.allocators.release(held);
    }

    fn cells(object: &IPAddress, now: Timestamp) -> Vec<Value> {
        let parent = &object.spec.parent_ref;
        let group = text(&parent.group);
        let group = if group.is_empty() { String::new() } else { format!(".{group}") };
        let namespace = text(&parent.namespace);
        let namespace = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let parent = format!("{}{group}/{namespace}{}", parent.resource, parent.name);
        vec![name_cell(object), parent.into(), age_cell(object, now)]
    }
}

/// Whether a Service has the address, whoever says that the object is theirs.
fn is_of_service(ctx: &Context, address: IpAddr) -> bool {
    #[derive(Deserialize)]
    struct WithAddresses {
        spec: Option<ServiceSpec>,
    }
    ctx.store.list(&Scope::all("services")).items.iter().any(|entry| {
        let service: Option<WithAddresses> = serde_json::from_slice(&entry.value).ok();
        let spec = service.and_then(|service| service.spec);
        spec.is_some_and(|spec| super::held_by(&spec).contains(&Item::Address(address)))
    })
}

/// The address that an object of somebody else's keeps from Services; of ours the Service itself holds it.
pub(super) fn held(object: &IPAddress) -> Option<Item> {
    let labels = object.metadata.labels.as_ref();
    let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER);
    let address = object.metadata.name.as_deref()?.parse().ok()?;
    (!ours).then_some(Item::Address(address))
}

fn check(parent: &ParentReference, causes: &mut Causes) {
    const AT: &str = "spec.parentRef";
    if *parent == ParentReference::default() {
        causes.required(AT, "");
        return;
    }
    let group = text(&parent.group);
    if !group.is_empty() {
        causes.all(&format!("{AT}.group"), group, subdomain_errors(group));
    }
    for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
        if value.is_empty() {
            causes.required(format!("{AT}.{field}"), "");
        } else {
            causes.all(&format!("{AT}.{field}"), value, NameRule::PathSegment.errors(value));
        }
    }
    let namespace = text(&parent.namespace);
    if !namespace.is_empty() {
        causes.all(&format!("{AT}.namespace"), namespace, NameRule::PathSegment.errors(namespace));
    }
}
