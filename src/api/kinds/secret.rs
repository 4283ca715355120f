//! Secret.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::text;
use super::config_map::{self, SIZE_LIMIT};
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::config_key_errors;
use crate::api::status::ApiError;

/// The ServiceAccount that a token is for.
const ACCOUNT: &str = "kubernetes.io/service-account.name";

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
        causes.immutable("type", &new.type_, &old.type_);
        if old.immutable == Some(true) {
            config_map::check_frozen(new.immutable, &[("data", new.data == old.data)], causes);
        }
        check(new, causes);
    }

    fn cells(object: &Secret, now: Timestamp) -> Vec<Value> {
        let count = object.data.as_ref().map_or(0, |data| data.len());
        vec![name_cell(object), object.type_.clone().unwrap_or_default().into(), count.into(), age_cell(object, now)]
    }
}

fn check(object: &Secret, causes: &mut Causes) {
    let data = object.data.clone().unwrap_or_default();
    for key in data.keys() {
        for error in config_key_errors(key) {
            causes.invalid(format!("data[{key}]"), key.as_str(), error);
        }
    }
    if data.values().map(|value| value.0.len()).sum::<usize>() > SIZE_LIMIT {
        causes.too_long("data", SIZE_LIMIT);
    }
    let required = |key: &str, causes: &mut Causes| causes.required(format!("data[{key}]"), "");
    match text(&object.type_) {
        "kubernetes.io/service-account-token" => {
            let annotations = object.metadata.annotations.as_ref();
            if annotations.and_then(|annotations| annotations.get(ACCOUNT)).is_none_or(String::is_empty) {
                causes.required(format!("metadata.annotations[{ACCOUNT}]"), "");
            }
        }
        "kubernetes.io/dockercfg" => check_json(&data, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => check_json(&data, ".dockerconfigjson", causes),
        // One of them is enough, and may be empty.
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            required("username", causes);
            required("password", causes);
        }
        "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|key| key.0.is_empty()) => {
            required("ssh-privatekey", causes);
        }
        "kubernetes.io/tls" => {
            for key in ["tls.crt", "tls.key"] {
                if !data.contains_key(key) {
                    required(key, causes);
                }
            }
        }
        _ => {}
    }
}

/// Credentials of registries are a JSON object.
fn check_json(data: &BTreeMap<String, ByteString>, key: &str, causes: &mut Causes) {
    let field = format!("data[{key}]");
    match data.get(key).map(|value| serde_json::from_slice::<serde_json::Map<String, Value>>(&value.0)) {
        None => causes.required(field, ""),
        Some(Err(error)) => causes.invalid(field, "<secret contents redacted>", error),
        Some(Ok(_)) => {}
    }
}
