//! ConfigMap.

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Column, Context, Info, NAME, Part, age_cell, name_cell};
use crate::api::causes::Causes;
use crate::api::names::config_key_errors;
use crate::api::status::ApiError;

const DATA: Column = Column {
    name: "Data",
    kind: "string",
    format: "",
    priority: 0,
    description: "Data contains the configuration data. Each key must consist of alphanumeric characters, '-', '_' or '.'.",
};

/// Bytes of all values of a ConfigMap or a Secret together.
pub(super) const SIZE_LIMIT: usize = 1024 * 1024;

pub struct Kind;

impl super::Kind for Kind {
    type Object = ConfigMap;
    const INFO: Info = Info {
        kind: "ConfigMap",
        plural: "configmaps",
        singular: "configmap",
        short_names: &["cm"],
        columns: &[NAME, DATA, AGE],
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn create(_: &Context, object: &mut ConfigMap, causes: &mut Causes) -> Result<(), ApiError> {
        check(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut ConfigMap, old: &ConfigMap, _: Part, causes: &mut Causes) {
        if old.immutable == Some(true) {
            let same = [("data", new.data == old.data), ("binaryData", new.binary_data == old.binary_data)];
            check_frozen(new.immutable, &same, causes);
        }
        check(new, causes);
    }

    fn cells(object: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count =
            object.data.as_ref().map_or(0, |data| data.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![name_cell(object), count.into(), age_cell(object, now)]
    }
}

/// What was made immutable stays so, and stays the same. `same` says of each field whether it did.
pub(super) fn check_frozen(immutable: Option<bool>, same: &[(&str, bool)], causes: &mut Causes) {
    let changed = same.iter().filter(|(_, same)| !same).map(|(field, _)| *field);
    for field in Some("immutable").filter(|_| immutable != Some(true)).into_iter().chain(changed) {
        causes.forbidden(field, "field is immutable when `immutable` is set");
    }
}

fn check(object: &ConfigMap, causes: &mut Causes) {
    for key in object.data.iter().flatten().map(|(key, _)| key) {
        for error in config_key_errors(key) {
            causes.invalid(format!("data[{key}]"), key.as_str(), error);
        }
        if object.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            causes.invalid(format!("data[{key}]"), key.as_str(), "duplicate of key present in binaryData");
        }
    }
    for key in object.binary_data.iter().flatten().map(|(key, _)| key) {
        for error in config_key_errors(key) {
            causes.invalid(format!("binaryData[{key}]"), key.as_str(), error);
        }
    }
    let texts = object.data.iter().flatten().map(|(_, text)| text.len());
    let size: usize = texts.chain(object.binary_data.iter().flatten().map(|(_, value)| value.0.len())).sum();
    if size > SIZE_LIMIT {
        // The whole object is meant: the reference says so with this name.
        causes.too_long("[]", SIZE_LIMIT);
    }
}
