//! Rules on `metadata` that all kinds share (`ValidateObjectMeta` of `k8s.io/apimachinery/pkg/api/validation`).

use serde_json::Value;

use super::causes::Causes;
use super::kinds::Info;
use super::names;
use super::object::{self, meta, meta_str};

/// Names, labels, annotations, finalizers and owners.
pub(super) fn check_metadata(info: &Info, object: &Value, causes: &mut Causes) {
    let name = meta_str(object, "name");
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else {
        info.name_rule.errors(name).into_iter().for_each(|e| causes.invalid("metadata.name", name, e));
    }
    let strings = |field: &str| -> std::collections::BTreeMap<String, String> {
        let map = meta(object, field).and_then(Value::as_object).cloned().unwrap_or_default();
        map.into_iter().filter_map(|(k, v)| v.as_str().map(|v| (k, v.to_owned()))).collect()
    };
    names::check_labels(causes, "metadata.labels", &strings("labels"));
    let annotations = strings("annotations");
    for key in annotations.keys() {
        let lower = key.to_lowercase();
        names::qualified_name_errors(&lower)
            .into_iter()
            .for_each(|e| causes.invalid("metadata.annotations", key.as_str(), e));
    }
    const ANNOTATION_LIMIT: usize = 256 * 1024;
    if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATION_LIMIT {
        causes.too_long("metadata.annotations", ANNOTATION_LIMIT);
    }
    check_finalizer_names(info, object, causes);
    for (i, owner) in meta(object, "ownerReferences").and_then(Value::as_array).into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                causes.invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    "",
                    format!("{field} must not be empty"),
                );
            }
        }
    }
}

/// Finalizers are qualified names, but for those that Kubernetes itself knows.
fn check_finalizer_names(info: &Info, object: &Value, causes: &mut Causes) {
    let names = object::finalizers(object);
    // Definitions of kinds and what they define have the looser rules of their own API server.
    let rule = if info.custom || info.defines_kinds { names::qualified_name_errors } else { names::finalizer_errors };
    for (i, name) in names.iter().enumerate() {
        causes.all(&format!("metadata.finalizers[{i}]"), name, rule(name));
    }
    let has = |name: &str| names.iter().any(|other| other == name);
    if has("orphan") && has("foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        causes.invalid("metadata.finalizers", names, why);
    }
}

/// While an object is being deleted its finalizers may only go.
pub(super) fn check_finalizers(new: &Value, old: &Value, causes: &mut Causes) {
    if !object::is_deleting(old) {
        return;
    }
    let before = object::finalizers(old);
    let added: Vec<String> = object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if !added.is_empty() {
        // As Go prints a list of strings.
        let added: Vec<String> = added.iter().map(|name| format!("{name:?}")).collect();
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        causes.forbidden("metadata.finalizers", detail);
    }
}
