//! The rules of a structural schema, with the messages of the reference (go-openapi's validation through
//! `apiextensions-apiserver/pkg/apiserver/validation`).

use std::collections::HashSet;

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::structural::{Rules, Structural};
use crate::api::causes::Causes;

/// Checks `value`. What is as it was in `old` passes: objects from before a stricter schema can still be changed in
/// other places (KEP-4008).
pub(super) fn check(schema: &Structural, value: &Value, old: Option<&Value>, causes: &mut Causes) {
    for (name, property) in &schema.properties {
        if ["apiVersion", "kind", "metadata"].contains(&name.as_str()) {
            continue;
        }
        if let Some(value) = value.get(name) {
            node(property, value, old.and_then(|old| old.get(name)), name, causes);
        }
    }
    object_rules(&schema.rules, value, "", causes);
}

fn node(schema: &Structural, value: &Value, old: Option<&Value>, path: &str, causes: &mut Causes) {
    if old == Some(value) || (value.is_null() && schema.nullable) {
        return;
    }
    if !of_type(schema, value) {
        let expected = if schema.int_or_string { "integer,string" } else { &schema.kind };
        causes.type_invalid(
            path,
            type_name(value),
            format!("{path} in body must be of type {expected}: {:?}", type_name(value)),
        );
        return;
    }
    rules(&schema.rules, value, path, causes);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let before = old.and_then(|old| old.get(name));
                if let Some(property) = schema.properties.get(name) {
                    node(property, value, before, &format!("{path}.{name}"), causes);
                } else if let Some(values) = &schema.values {
                    node(values, value, before, &format!("{path}.{name}"), causes);
                }
            }
            if schema.embedded {
                for name in ["apiVersion", "kind"] {
                    if fields.get(name).and_then(Value::as_str).unwrap_or_default().is_empty() {
                        causes.required(format!("{path}.{name}"), "must not be empty");
                    }
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = &schema.items {
                for (i, item) in items.iter().enumerate() {
                    node(of, item, old.and_then(|old| old.get(i)), &format!("{path}[{i}]"), causes);
                }
            }
            duplicates(schema, items, path, causes);
        }
        _ => {}
    }
}

fn of_type(schema: &Structural, value: &Value) -> bool {
    if schema.int_or_string {
        return value.is_string() || is_integer(value);
    }
    match schema.kind.as_str() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => is_integer(value),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|number| number.fract() == 0.0)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn rules(rules: &Rules, value: &Value, path: &str, causes: &mut Causes) {
    let mut invalid = |why: String| causes.invalid(path, value.clone(), format!("{path} in body {why}"));
    match value {
        Value::String(text) => {
            let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
            if let Some(least) = rules.min_length.filter(|least| length < *least) {
                invalid(format!("should be at least {least} chars long"));
            }
            if let Some((pattern, _)) = rules.pattern.as_ref().filter(|(_, regex)| !regex.is_match(text)) {
                invalid(format!("should match '{pattern}'"));
            }
            if let Some(format) = rules.format.as_ref().filter(|format| !has_format(format, text)) {
                invalid(format!("must be of type {format}: {text:?}"));
            }
            if let Some(most) = rules.max_length.filter(|most| length > *most) {
                causes.too_long(path, usize::try_from(most).unwrap_or_default());
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = rules.minimum {
                if rules.exclusive_minimum && number <= least {
                    invalid(format!("should be greater than {least}"));
                } else if number < least {
                    invalid(format!("should be greater than or equal to {least}"));
                }
            }
            if let Some(most) = rules.maximum {
                if rules.exclusive_maximum && number >= most {
                    invalid(format!("should be less than {most}"));
                } else if number > most {
                    invalid(format!("should be less than or equal to {most}"));
                }
            }
            if let Some(unit) = rules.multiple_of.filter(|unit| !is_multiple(number, *unit)) {
                invalid(format!("should be a multiple of {unit}"));
            }
        }
        Value::Array(items) => {
            let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
            if let Some(least) = rules.min_items.filter(|least| count < *least) {
                invalid(format!("should have at least {least} items"));
            }
            let mut seen = HashSet::new();
            if rules.unique_items && !items.iter().all(|item| seen.insert(item.to_string())) {
                invalid("shouldn't contain duplicates".into());
            }
            if let Some(most) = rules.max_items.filter(|most| count > *most) {
                causes.too_many(path, items.len(), most);
            }
        }
        _ => {}
    }
    if value.is_object() {
        object_rules(rules, value, path, causes);
    }
    if let Some(values) = rules.values.as_ref().filter(|values| !values.contains(value)) {
        let supported: Vec<String> =
            values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect();
        let supported: Vec<&str> = supported.iter().map(String::as_str).collect();
        causes.unsupported(path, value.clone(), &supported);
    }
    if !rules.all_of.is_empty() && !rules.all_of.iter().all(|schema| passes(schema, value)) {
        causes.invalid(path, value.clone(), format!("{path:?} must validate all the schemas (allOf)"));
    }
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(|schema| passes(schema, value)) {
        causes.invalid(path, value.clone(), format!("{path:?} must validate at least one schema (anyOf)"));
    }
    if !rules.one_of.is_empty() {
        let valid = rules.one_of.iter().filter(|schema| passes(schema, value)).count();
        let found = match valid {
            1 => None,
            0 => Some("Found none valid".to_owned()),
            more => Some(format!("Found {more} valid alternatives")),
        };
        if let Some(found) = found {
            let why = format!("{path:?} must validate one and only one schema (oneOf). {found}");
            causes.invalid(path, value.clone(), why);
        }
    }
    if rules.not.as_ref().is_some_and(|schema| passes(schema, value)) {
        causes.invalid(path, value.clone(), format!("{path:?} must not validate the schema (not)"));
    }
}

/// Whether `number` is a multiple of `unit`, as far as fractions of two can say: 0.3 is three times 0.1.
fn is_multiple(number: f64, unit: f64) -> bool {
    const RELATIVE: f64 = 1e-9;
    let times = number / unit;
    (times - times.round()).abs() <= RELATIVE * times.abs()
}

/// Checks a default, which stands in the definition at `path`.
pub(super) fn check_default(schema: &Structural, default: &Value, path: &str, causes: &mut Causes) {
    let mut found = Causes::default();
    node(schema, default, None, "", &mut found);
    for mut cause in found.0 {
        let inner = cause.field.trim_start_matches('.');
        let separator = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
        cause.field = format!("{path}{separator}{inner}");
        causes.0.push(cause);
    }
}

fn passes(schema: &Structural, value: &Value) -> bool {
    let mut causes = Causes::default();
    node(schema, value, None, "", &mut causes);
    causes.is_empty()
}

fn object_rules(rules: &Rules, value: &Value, path: &str, causes: &mut Causes) {
    let Some(fields) = value.as_object() else { return };
    for name in rules.required.iter().filter(|name| !fields.contains_key(*name)) {
        let field = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        causes.required(field, "");
    }
    let count = i64::try_from(fields.len()).unwrap_or(i64::MAX);
    if let Some(least) = rules.min_properties.filter(|least| count < *least) {
        causes.invalid(path, value.clone(), format!("{path} in body should have at least {least} properties"));
    }
    if let Some(most) = rules.max_properties.filter(|most| count > *most) {
        causes.too_many(path, fields.len(), most);
    }
}

/// Elements of sets and of lists with keys are there once.
fn duplicates(schema: &Structural, items: &[Value], path: &str, causes: &mut Causes) {
    let id = |item: &Value| match schema.list_type.as_str() {
        "set" => Some(item.clone()),
        "map" => {
            let default = |key: &str| schema.items.as_ref()?.properties.get(key)?.default.clone();
            let keys = schema.list_keys.iter();
            let value = |key: &String| item.get(key).cloned().or_else(|| default(key));
            Some(Value::Object(keys.filter_map(|key| Some((key.clone(), value(key)?))).collect()))
        }
        _ => None,
    };
    let mut seen = HashSet::new();
    for (i, item) in items.iter().enumerate() {
        if let Some(value) = id(item)
            && !seen.insert(value.to_string())
        {
            causes.duplicate(format!("{path}[{i}]"), value);
        }
    }
}

/// The formats that the reference checks and that users meet; others say nothing.
fn has_format(format: &str, text: &str) -> bool {
    match format {
        "date-time" => text.parse::<Timestamp>().is_ok(),
        "date" => text.parse::<k8s_openapi::jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        "cidr" => text.parse::<ipnet::IpNet>().is_ok(),
        "uuid" => uuid::Uuid::parse_str(text).is_ok(),
        "byte" => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.decode(text).is_ok()
        }
        _ => true,
    }
}
