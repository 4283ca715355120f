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
        check(new, causes);
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                causes.forbidden("immutable", "field is immutable when `immutable` is set");
            }
            if new.data != old.data {
                causes.forbidden("data", "field is immutable when `immutable` is set");
            }
            if new.binary_data != old.binary_data {
                causes.forbidden("binaryData", "field is immutable when `immutable` is set");
            }
        }
    }

    fn cells(object: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count =
            object.data.as_ref().map_or(0, |data| data.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![name_cell(object), count.into(), age_cell(object, now)]
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
}
