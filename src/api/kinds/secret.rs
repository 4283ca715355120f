//! Secret.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::config_key_errors;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Secret;
    const INFO: Info = Info {
        kind: "Secret",
        plural: "secrets",
        singular: "secret",
        fields: &["type"],
        columns: &[
            NAME,
            column(
                "Type",
                "Used to facilitate programmatic handling of secret data. More info: https://kubernetes.io/docs/concepts/configuration/secret/#secret-types",
            ),
            column(
                "Data",
                "Data contains the secret data. Each key must consist of alphanumeric characters, '-', '_' or '.'. The serialized form of the secret data is a base64 encoded string, representing the arbitrary (possibly non-string) data value here. Described in https://tools.ietf.org/html/rfc4648#section-4",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn default(object: &mut Secret) {
        object.type_.get_or_insert_with(|| "Opaque".into());
        for (key, text) in object.string_data.take().into_iter().flatten() {
            object.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
        }
    }

    fn create(_: &Context, object: &mut Secret, causes: &mut Causes) -> Result<(), ApiError> {
        check(object, causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut Secret, old: &Secret, _: Part, causes: &mut Causes) {
        check(new, causes);
        if new.type_ != old.type_ {
            causes.invalid("type", new.type_.clone().unwrap_or_default(), "field is immutable");
        }
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                causes.forbidden("immutable", "field is immutable when `immutable` is set");
            }
            if new.data != old.data {
                causes.forbidden("data", "field is immutable when `immutable` is set");
            }
        }
    }

    fn cells(object: &Secret, now: Timestamp) -> Vec<Value> {
        let count = object.data.as_ref().map_or(0, |data| data.len());
        vec![name_cell(object), object.type_.clone().unwrap_or_default().into(), count.into(), age_cell(object, now)]
    }
}

fn check(object: &Secret, causes: &mut Causes) {
    for key in object.data.iter().flatten().map(|(key, _)| key) {
        for error in config_key_errors(key) {
            causes.invalid(format!("data[{key}]"), key.as_str(), error);
        }
    }
}
