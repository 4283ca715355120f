//! From client-side to server-side apply: kubectl may take over what its own annotation says that it has set.

use serde_json::{Value, json};

use super::Set;
use super::walk::fields_of;
use crate::api::object::{meta, meta_mut};
use crate::api::schema::Type;

/// Where client-side apply keeps what it applied last.
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Keeps the annotation true where there is one, so that client-side apply can be gone back to.
pub(super) fn refresh(live: &Value, config: &Value, object: &mut Value) {
    if meta(live, "annotations").is_some_and(|all| all.get(ANNOTATION).is_some()) {
        meta_mut(object).entry("annotations").or_insert_with(|| json!({}))[ANNOTATION] = format!("{config}\n").into();
    }
}

/// Takes out of `conflicts` the fields that client-side apply has set: that was the same person.
pub(super) fn allow(root: Type<'_>, live: &Value, conflicts: &mut Vec<(String, Set)>) {
    let annotation = meta(live, "annotations").and_then(|all| all.get(ANNOTATION)).and_then(Value::as_str);
    let Some(last) = annotation.and_then(|text| serde_json::from_str::<Value>(text).ok()) else { return };
    let set = fields_of(root, &last);
    for (_, fields) in conflicts.iter_mut() {
        *fields = std::mem::take(fields).difference(&set);
    }
    conflicts.retain(|(_, fields)| !fields.is_empty());
}
