//! Strategic merge patch: lists whose elements have a key are merged by it.
//!
//! Which lists those are is a fact of the published OpenAPI document (`x-kubernetes-patch-merge-key`); the table below
//! has the ones of the served kinds, by the kind they occur in where one name means two things.

use serde_json::{Map, Value};

use crate::api::status::ApiError;

const DIRECTIVE: &str = "$patch";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";
const RETAIN_KEYS: &str = "$retainKeys";

/// How a list merges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListRule {
    /// Elements with the same value of this field are one element.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
    /// The new list takes the place of the old.
    Replace,
}

/// The rule of the list in `field`, inside an object found in the field `parent`, in an object of `kind`.
fn rule(kind: &str, parent: &str, field: &str) -> ListRule {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims" => ListRule::ByKey("name"),
        "schedulingGates" => ListRule::ByKey("name"),
        "secrets" if kind == "ServiceAccount" => ListRule::ByKey("name"),
        "ports" if kind == "Service" && parent == "spec" => ListRule::ByKey("port"),
        "ports" if ["containers", "initContainers", "ephemeralContainers"].contains(&parent) => {
            ListRule::ByKey("containerPort")
        }
        "volumeMounts" => ListRule::ByKey("mountPath"),
        "volumeDevices" => ListRule::ByKey("devicePath"),
        "hostAliases" | "podIPs" | "hostIPs" => ListRule::ByKey("ip"),
        "topologySpreadConstraints" => ListRule::ByKey("topologyKey"),
        "conditions" => ListRule::ByKey("type"),
        "addresses" if kind == "Node" => ListRule::ByKey("type"),
        "taints" if kind == "Node" => ListRule::ByKey("key"),
        "ownerReferences" => ListRule::ByKey("uid"),
        "finalizers" | "podCIDRs" => ListRule::Set,
        _ => ListRule::Replace,
    }
}

pub(super) fn merge(kind: &str, object: &mut Value, patch: Value) -> Result<(), ApiError> {
    merge_object(kind, "", object, patch)
}

fn bad(message: String) -> ApiError {
    ApiError::bad_request(message)
}

fn merge_object(kind: &str, parent: &str, object: &mut Value, patch: Value) -> Result<(), ApiError> {
    let Value::Object(mut patch) = patch else {
        *object = patch;
        return Ok(());
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Some(fields) = object.as_object_mut() else { return Ok(()) };
    match patch.remove(DIRECTIVE).as_ref().map(|v| v.as_str().unwrap_or_default()) {
        Some("replace") => {
            *fields = patch;
            return Ok(());
        }
        Some("delete") => {
            fields.clear();
            return Ok(());
        }
        Some("merge") | None => {}
        Some(other) => {
            return Err(bad(format!("unknown patch directive {other:?}: expected merge, replace or delete")));
        }
    }
    if let Some(Value::Array(keep)) = patch.remove(RETAIN_KEYS) {
        fields.retain(|key, _| keep.iter().any(|kept| kept.as_str() == Some(key)));
    }
    let mut orders = Vec::new();
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            let gone = value.as_array().cloned().unwrap_or_default();
            if let Some(Value::Array(items)) = fields.get_mut(field) {
                items.retain(|item| !gone.contains(item));
            }
        } else if let Some(field) = key.strip_prefix(SET_ORDER) {
            orders.push((field.to_owned(), value));
        } else if value.is_null() {
            fields.remove(&key);
        } else if value.is_object() {
            merge_object(kind, &key, fields.entry(key.clone()).or_insert(Value::Null), value)?;
        } else if let Value::Array(items) = value {
            merge_list(
                kind,
                parent,
                &key,
                fields.entry(key.clone()).or_insert_with(|| Value::Array(Vec::new())),
                items,
            )?;
        } else {
            fields.insert(key, value);
        }
    }
    for (field, order) in orders {
        let rule = rule(kind, parent, &field);
        if let (Some(Value::Array(items)), Value::Array(order)) = (fields.get_mut(&field), order) {
            set_order(rule, items, &order);
        }
    }
    Ok(())
}

fn merge_list(kind: &str, parent: &str, field: &str, list: &mut Value, patch: Vec<Value>) -> Result<(), ApiError> {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(items) = list.as_array_mut() else { return Ok(()) };
    match rule(kind, parent, field) {
        ListRule::Replace => *items = patch,
        ListRule::Set => {
            for value in patch {
                if !items.contains(&value) {
                    items.push(value);
                }
            }
        }
        ListRule::ByKey(merge_key) => {
            let replace = |item: &Value| item.get(DIRECTIVE).is_some_and(|directive| directive == "replace");
            if patch.iter().any(|item| replace(item) && item.as_object().is_some_and(|o| o.len() == 1)) {
                *items = patch.into_iter().filter(|item| !replace(item)).collect();
                return Ok(());
            }
            for mut element in patch {
                let Some(key) = element.get(merge_key).cloned() else {
                    return Err(bad(format!("map: {element} does not contain declared merge key: {merge_key}")));
                };
                let place = items.iter().position(|item| item.get(merge_key) == Some(&key));
                let directive = element.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
                match (directive.as_deref(), place) {
                    (Some("delete"), Some(i)) => {
                        items.remove(i);
                    }
                    (Some("delete"), None) => {}
                    (_, Some(i)) => merge_object(kind, field, &mut items[i], element)?,
                    (_, None) => {
                        if let Some(fields) = element.as_object_mut() {
                            fields.remove(DIRECTIVE);
                        }
                        let mut made = Value::Null;
                        merge_object(kind, field, &mut made, element)?;
                        items.push(made);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Puts the elements that `order` names into that order; others keep their place relative to the front.
fn set_order(rule: ListRule, items: &mut [Value], order: &[Value]) {
    let place = |item: &Value| {
        order.iter().position(|wanted| match rule {
            ListRule::ByKey(key) => wanted.get(key) == item.get(key),
            _ => wanted == item,
        })
    };
    items.sort_by_key(|item| place(item).map_or(0, |i| i + 1));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(kind: &str, mut object: Value, patch: Value) -> Value {
        merge(kind, &mut object, patch).unwrap();
        object
    }

    #[test]
    fn lists_with_a_key_merge_by_it() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        let expected = json!({"spec": {"containers": [{"name": "a", "image": "y", "ports": [{"containerPort": 80}]}, {"name": "c"}]}});
        assert_eq!(merged("Pod", pod, patch), expected);
    }

    #[test]
    fn service_ports_merge_by_port_and_keep_order() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 81}, {"port": 80}], "ports": [{"port": 80, "name": "z"}]}});
        let expected = json!({"spec": {"ports": [{"port": 81, "name": "b"}, {"port": 80, "name": "z"}]}});
        assert_eq!(merged("Service", service, patch), expected);
    }

    #[test]
    fn null_removes_and_replace_replaces() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "1"}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "data": {"$patch": "replace", "y": "2"}});
        assert_eq!(merged("ConfigMap", object, patch), json!({"metadata": {"labels": {"b": "2"}}, "data": {"y": "2"}}));
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
        assert_eq!(merged("Pod", object, patch), json!({"metadata": {"finalizers": ["b", "c"]}}));
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let mut object = json!({});
        assert!(merge("Pod", &mut object, json!({"spec": {"containers": [{"image": "x"}]}})).is_err());
    }
}
