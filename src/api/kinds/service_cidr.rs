//! ServiceCIDR (networking.k8s.io/v1): rules SC1-SC4. What may be allocated from them is in `alloc`.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{ServiceCIDR, ServiceCIDRStatus};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{IMMUTABLE, check_cidr};
use super::{AGE, Context, Info, NAME, Part, STANDARD_TEXTS, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;
use crate::config::OWN_SERVICE_CIDR;
use crate::store::{Scope, Store};

pub struct Kind;

impl super::Kind for Kind {
    type Object = ServiceCIDR;
    const INFO: Info = Info {
        group: "networking.k8s.io",
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        singular: "servicecidr",
        namespaced: false,
        status: true,
        condition_texts: STANDARD_TEXTS,
        columns: &[
            NAME,
            column(
                "CIDRs",
                "CIDRs defines the IP blocks in CIDR notation (e.g. \"192.168.0.0/24\" or \"2001:db8::/64\") from which to assign service cluster IPs. Max of two CIDRs is allowed, one of each IP family. This field is immutable.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut ServiceCIDR) {
        object.status.get_or_insert_with(ServiceCIDRStatus::default);
    }

    fn create(_: &Context, object: &mut ServiceCIDR, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(ServiceCIDRStatus::default());
        check(cidrs(object), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ServiceCIDR, old: &ServiceCIDR, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            return;
        }
        let (new, old) = (cidrs(new), cidrs(old));
        // Rule SC2: a second family may come, nothing else may change.
        let second = old.len() == 1 && new.len() == 2;
        if new.len() != old.len() && !second {
            causes.invalid("spec.cidrs", new.to_vec(), IMMUTABLE);
            return;
        }
        for (i, (new, old)) in new.iter().zip(old).enumerate() {
            causes.immutable(&format!("spec.cidrs[{i}]"), new, old);
        }
        if second {
            check(new, causes);
        }
    }

    fn cells(object: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        vec![name_cell(object), cidrs(object).join(",").into(), age_cell(object, now)]
    }
}

/// The ranges that Services may have addresses of, beside the cluster's own: those that are ready and stay (SC3).
pub(super) fn further(store: &Store) -> Result<Vec<IpNet>, ApiError> {
    let mut nets = Vec::new();
    let all = store.list(&Scope::all("servicecidrs.networking.k8s.io")).items;
    for entry in all.iter().filter(|entry| *entry.key.name != *OWN_SERVICE_CIDR) {
        let object: ServiceCIDR = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        let conditions = object.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        if ready && object.metadata.deletion_timestamp.is_none() {
            nets.extend(cidrs(&object).iter().filter_map(|cidr| cidr.parse::<IpNet>().ok()));
        }
    }
    Ok(nets)
}

fn cidrs(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default()
}

fn check(cidrs: &[String], causes: &mut Causes) {
    if cidrs.is_empty() {
        causes.required("spec.cidrs", "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        causes.invalid("spec.cidrs", cidrs.to_vec(), "may only hold up to 2 values");
        return;
    }
    let mut nets: Vec<IpNet> = Vec::new();
    for (i, cidr) in cidrs.iter().enumerate() {
        nets.extend(check_cidr(causes, &format!("spec.cidrs[{i}]"), cidr, true));
    }
    if let [a, b] = nets.as_slice()
        && a.addr().is_ipv4() == b.addr().is_ipv4()
    {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        causes.invalid("spec.cidrs", cidrs.to_vec(), detail);
    }
}
