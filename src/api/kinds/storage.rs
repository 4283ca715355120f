//! What PersistentVolumes and PersistentVolumeClaims have in common.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use crate::api::causes::Causes;
use crate::api::names::subdomain_errors;

/// Access modes in the order in which errors list them, with how tables show them.
const MODES: [(&str, &str); 4] =
    [("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOnce", "RWO"), ("ReadWriteOncePod", "RWOP")];
/// The order in which tables show them.
const SHOWN: [&str; 4] = ["RWO", "ROX", "RWX", "RWOP"];
const ONE_POD: &str = "ReadWriteOncePod";
const STORAGE: &str = "storage";
pub(super) const FILESYSTEM: &str = "Filesystem";

/// `RWO,RWX`
pub(super) fn modes_text(modes: Option<&Vec<String>>) -> String {
    let short: Vec<&str> = modes
        .into_iter()
        .flatten()
        .filter_map(|mode| MODES.iter().find(|(name, _)| name == mode).map(|(_, short)| *short))
        .collect();
    SHOWN.into_iter().filter(|mode| short.contains(mode)).collect::<Vec<_>>().join(",")
}

/// The size among resources; an unset quantity of Go reads as zero.
pub(super) fn size_text(resources: Option<&BTreeMap<String, Quantity>>) -> String {
    resources.and_then(|resources| resources.get(STORAGE)).map_or_else(|| quantity::zero().0, |size| size.0.clone())
}

/// `none` is what is said of a list without modes.
pub(super) fn check_modes(modes: Option<&Vec<String>>, none: &str, causes: &mut Causes) {
    let modes = modes.map(Vec::as_slice).unwrap_or_default();
    if modes.is_empty() {
        causes.required("spec.accessModes", none);
    }
    let names = MODES.map(|(name, _)| name);
    for mode in modes {
        causes.one_of("spec.accessModes", Some(mode), &names);
    }
    if modes.iter().any(|mode| mode == ONE_POD) && modes.iter().any(|mode| mode != ONE_POD) {
        causes.forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks the size at `field[storage]`: it must be there, and more than nothing.
pub(super) fn check_size(field: &str, resources: Option<&BTreeMap<String, Quantity>>, causes: &mut Causes) {
    let field = format!("{field}[{STORAGE}]");
    match resources.and_then(|resources| resources.get(STORAGE)) {
        None => causes.required(field, ""),
        Some(size) => {
            if quantity::parse(&size.0).is_none_or(|amount| amount.nano <= 0) {
                causes.invalid(field, size.0.as_str(), super::checks::NOT_POSITIVE);
            }
        }
    }
}

pub(super) fn check_class_and_mode(class: Option<&String>, mode: Option<&String>, causes: &mut Causes) {
    if let Some(class) = class.filter(|class| !class.is_empty()) {
        causes.all("spec.storageClassName", class, subdomain_errors(class));
    }
    causes.one_of("spec.volumeMode", mode, &["Block", FILESYSTEM]);
}
