//! Strategic merge patch: lists whose elements have a key are merged by it, as the schema says
//! (`x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`).

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::api::schema::{ListPatch, Type};
use crate::api::status::ApiError;

const DIRECTIVE: &str = "$patch";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";
const RETAIN_KEYS: &str = "$retainKeys";

/// Merges `patch` into `object`, which is of the type `of`; without a type, lists are replaced.
pub(super) fn merge(of: Option<Type<'_>>, object: &mut Value, patch: Value) -> Result<(), ApiError> {
    merge_object(of, object, patch)
}

fn bad(message: String) -> ApiError {
    ApiError::bad_request(message)
}

fn merge_object(of: Option<Type<'_>>, object: &mut Value, patch: Value) -> Result<(), ApiError> {
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
    let mut orders = Map::new();
    patch.retain(|key, value| match key.strip_prefix(SET_ORDER) {
        Some(field) => {
            orders.insert(field.to_owned(), value.take());
            false
        }
        None => true,
    });
    for (key, value) in patch {
        let inner = of.and_then(|of| of.field(&key));
        if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            let gone: HashSet<String> = value.as_array().into_iter().flatten().map(Value::to_string).collect();
            if let Some(Value::Array(items)) = fields.get_mut(field) {
                items.retain(|item| !gone.contains(&item.to_string()));
            }
        } else if value.is_null() {
            fields.remove(&key);
        } else if value.is_object() {
            merge_object(inner, fields.entry(key).or_insert(Value::Null), value)?;
        } else if let Value::Array(items) = value {
            let order = orders.remove(&key);
            let list = fields.entry(key).or_insert_with(|| Value::Array(Vec::new()));
            merge_list(inner, list, items, order.as_ref().and_then(Value::as_array))?;
        } else {
            fields.insert(key, value);
        }
    }
    for (field, order) in orders {
        let rule = of.and_then(|of| of.field(&field)).map_or(&ListPatch::Replace, Type::patch);
        if let (Some(Value::Array(items)), Value::Array(order)) = (fields.get_mut(&field), order) {
            let before = items.clone();
            arrange(rule, items, &order, &before);
        }
    }
    Ok(())
}

fn merge_list(
    of: Option<Type<'_>>,
    list: &mut Value,
    patch: Vec<Value>,
    order: Option<&Vec<Value>>,
) -> Result<(), ApiError> {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Some(items) = list.as_array_mut() else { return Ok(()) };
    let rule = of.map_or(&ListPatch::Replace, Type::patch);
    let before = items.clone();
    let said = patch.clone();
    match rule {
        ListPatch::Replace => {
            *items = patch;
            return Ok(());
        }
        ListPatch::Set => {
            let mut known: HashSet<String> = items.iter().map(Value::to_string).collect();
            items.extend(patch.into_iter().filter(|value| known.insert(value.to_string())));
        }
        ListPatch::ByKey(merge_key) => {
            let replace = |item: &Value| item.get(DIRECTIVE).is_some_and(|directive| directive == "replace");
            if patch.iter().any(|item| replace(item) && item.as_object().is_some_and(|o| o.len() == 1)) {
                *items = patch.into_iter().filter(|item| !replace(item)).collect();
                return Ok(());
            }
            let inner = of.and_then(Type::item);
            let mut places: HashMap<String, usize> = HashMap::new();
            for (i, item) in items.iter().enumerate() {
                places.entry(identity(rule, item)).or_insert(i);
            }
            let mut deleted = HashSet::new();
            for mut element in patch {
                if element.get(merge_key).is_none() {
                    return Err(bad(format!("map: {element} does not contain declared merge key: {merge_key}")));
                }
                let key = identity(rule, &element);
                let place = places.get(&key).copied();
                let directive = element.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
                match (directive.as_deref(), place) {
                    (Some("delete"), Some(i)) => {
                        deleted.insert(i);
                        places.remove(&key);
                    }
                    (Some("delete"), None) => {}
                    (_, Some(i)) => merge_object(inner, &mut items[i], element)?,
                    (_, None) => {
                        if let Some(fields) = element.as_object_mut() {
                            fields.remove(DIRECTIVE);
                        }
                        let mut made = Value::Null;
                        merge_object(inner, &mut made, element)?;
                        places.insert(key, items.len());
                        items.push(made);
                    }
                }
            }
            let mut place = 0..;
            items.retain(|_| !place.next().is_some_and(|i| deleted.contains(&i)));
        }
    }
    arrange(rule, items, order.unwrap_or(&said), &before);
    Ok(())
}

/// Puts the elements that `wanted` names into its order. Others keep theirs, and come before one that is named only
/// where they did so `before`.
fn arrange(rule: &ListPatch, items: &mut Vec<Value>, wanted: &[Value], before: &[Value]) {
    let places = |list: &[Value]| -> HashMap<String, usize> {
        list.iter().enumerate().rev().map(|(i, item)| (identity(rule, item), i)).collect()
    };
    let (wanted, before) = (places(wanted), places(before));
    let keyed = std::mem::take(items).into_iter().map(|item| (identity(rule, &item), item));
    let (mut named, others): (Vec<_>, Vec<_>) = keyed.partition(|(key, _)| wanted.contains_key(key));
    named.sort_by_key(|(key, _)| wanted.get(key));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some((next, _)), Some((other, _))) = (named.peek(), others.peek()) {
        let other_first = match (before.get(other), before.get(next)) {
            (Some(other), Some(next)) => other < next,
            _ => false,
        };
        items.extend(if other_first { others.next() } else { named.next() }.map(|(_, item)| item));
    }
    items.extend(named.chain(others).map(|(_, item)| item));
}

/// What makes two elements of a list one: the value of their key, or the element itself.
fn identity(rule: &ListPatch, item: &Value) -> String {
    match rule {
        ListPatch::ByKey(key) => item.get(key).map(Value::to_string).unwrap_or_default(),
        _ => item.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
    use schemars::JsonSchema;

    use crate::api::schema::builtin;

    fn merged<T: JsonSchema>(mut object: Value, patch: Value) -> Value {
        merge(Some(builtin::schema::<T>().root()), &mut object, patch).unwrap();
        object
    }

    #[test]
    fn lists_with_a_key_merge_by_it() {
        let pod = json!({"spec": {"containers": [{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [{"name": "a", "image": "y"}, {"name": "b", "$patch": "delete"}, {"name": "c"}]}});
        let expected = json!({"spec": {"containers": [{"name": "a", "image": "y", "ports": [{"containerPort": 80}]}, {"name": "c"}]}});
        assert_eq!(merged::<Pod>(pod, patch), expected);
    }

    #[test]
    fn service_ports_merge_by_port_and_keep_order() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}]}});
        let patch = json!({"spec": {"$setElementOrder/ports": [{"port": 81}, {"port": 80}], "ports": [{"port": 80, "name": "z"}]}});
        let expected = json!({"spec": {"ports": [{"port": 81, "name": "b"}, {"port": 80, "name": "z"}]}});
        assert_eq!(merged::<Service>(service, patch), expected);
    }

    #[test]
    fn a_new_element_comes_before_those_that_the_patch_does_not_name() {
        let pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let patch = json!({"spec": {"containers": [{"name": "b", "image": "x"}, {"name": "new"}]}});
        let expected = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "image": "x"}, {"name": "new"}]}});
        assert_eq!(merged::<Pod>(pod.clone(), patch), expected);
        let patch = json!({"spec": {"containers": [{"name": "new"}]}});
        let expected = json!({"spec": {"containers": [{"name": "new"}, {"name": "a"}, {"name": "b"}]}});
        assert_eq!(merged::<Pod>(pod, patch), expected);
    }

    #[test]
    fn null_removes_and_replace_replaces() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "data": {"x": "1"}});
        let patch = json!({"metadata": {"labels": {"a": null}}, "data": {"$patch": "replace", "y": "2"}});
        assert_eq!(merged::<ConfigMap>(object, patch), json!({"metadata": {"labels": {"b": "2"}}, "data": {"y": "2"}}));
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
        assert_eq!(merged::<Pod>(object, patch), json!({"metadata": {"finalizers": ["c", "b"]}}));
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let (schema, mut object) = (builtin::schema::<Pod>(), json!({}));
        let patch = json!({"spec": {"containers": [{"image": "x"}]}});
        assert!(merge(Some(schema.root()), &mut object, patch).is_err());
    }
}
