//! What an applied configuration must be: fields of its type, values of theirs, elements with their keys.

use std::collections::HashSet;

use serde_json::Value;

use super::set;
use crate::api::schema::{Relation, Scalar, Shape, Type};

/// What is wrong with `config`, a line per place: `.spec.replicas: expected numeric (int or float), got string`.
pub fn errors(of: Type<'_>, config: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(of, config, &mut String::new(), &mut found);
    found
}

fn check(of: Type<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    let expected = match of.shape(value) {
        Shape::Scalar(Scalar::String) if !value.is_string() => Some("string"),
        Shape::Scalar(Scalar::Number) if !value.is_number() => Some("numeric (int or float)"),
        Shape::Scalar(Scalar::Boolean) if !value.is_boolean() => Some("boolean"),
        Shape::Scalar(Scalar::Any) if value.is_object() || value.is_array() => Some("scalar"),
        _ if of.is_list() && !value.is_array() => Some("list"),
        _ if of.is_object() && !value.is_object() => Some("map"),
        _ => None,
    };
    if let Some(expected) = expected {
        found.push(format!("{path}: expected {expected}, got {}", type_name(value)));
        return;
    }
    let end = path.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                path.push('.');
                path.push_str(name);
                match of.field(name) {
                    Some(of) => check(of, value, path, found),
                    None => found.push(format!("{path}: field not declared in schema")),
                }
                path.truncate(end);
            }
        }
        Value::Array(items) => {
            let Some(inner) = of.item() else { return };
            let relation = match of.shape(value) {
                Shape::Elements(relation) => Some(relation),
                _ => None,
            };
            let mut seen = HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let element = relation.map(|relation| checked_element(relation, item));
                match element {
                    Some(Err(missing)) => found.push(format!("{path}: element {i}: {missing}")),
                    Some(Ok(element)) => {
                        let readable = set::readable(&element);
                        if !seen.insert(element) {
                            found.push(format!("{path}: duplicate entries for key {readable}"));
                        }
                        path.push_str(&readable);
                    }
                    None => path.push_str(&format!("[{i}]")),
                }
                check(inner, item, path, found);
                path.truncate(end);
            }
        }
        _ => {}
    }
}

fn checked_element(relation: &Relation, item: &Value) -> Result<Box<str>, String> {
    if let Relation::Map(keys) = relation
        && let Some(key) = keys.iter().find(|key| key.default.is_none() && item.get(&key.name).is_none())
    {
        return Err(format!(
            "associative list with keys has an element that omits key field {:?} (and doesn't have default value)",
            key.name
        ));
    }
    set::element(relation, item).ok_or_else(|| "associative list with keys may not have non-map elements".to_owned())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "float",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "map",
    }
}
