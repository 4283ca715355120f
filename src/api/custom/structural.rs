//! Structural schemas (KEP-1027): which fields a custom resource has, their defaults, and the rules for their values.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex_lite::Regex;
use serde_json::Value;

use crate::api::causes::Causes;

/// A schema, ready to be used.
#[derive(Debug, Default)]
pub struct Structural {
    /// `object`, `array`, `string`, `integer`, `number` or `boolean`; empty where anything goes.
    pub kind: String,
    pub nullable: bool,
    pub int_or_string: bool,
    pub preserve: bool,
    /// Whether the value is an object of its own, with apiVersion, kind and metadata.
    pub embedded: bool,
    pub properties: BTreeMap<String, Structural>,
    /// The type of a map's values.
    pub values: Option<Box<Structural>>,
    pub items: Option<Box<Structural>>,
    pub default: Option<Value>,
    pub list_type: String,
    pub list_keys: Vec<String>,
    pub rules: Rules,
}

/// What values must be like beyond their type.
#[derive(Debug, Default)]
pub struct Rules {
    pub required: Vec<String>,
    pub values: Option<Vec<Value>>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<i64>,
    pub max_length: Option<i64>,
    pub pattern: Option<(String, Regex)>,
    pub format: Option<String>,
    pub min_items: Option<i64>,
    pub max_items: Option<i64>,
    pub unique_items: bool,
    pub min_properties: Option<i64>,
    pub max_properties: Option<i64>,
    pub all_of: Vec<Structural>,
    pub any_of: Vec<Structural>,
    pub one_of: Vec<Structural>,
    pub not: Option<Box<Structural>>,
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

impl Structural {
    /// Compiles a version's schema; what is wrong with it is added to `causes`, under `path`.
    pub fn compile(schema: &JSONSchemaProps, path: &str, causes: &mut Causes) -> Self {
        let root = Self::node(schema, path, false, causes);
        if root.kind != "object" {
            causes.invalid(format!("{path}.type"), root.kind.as_str(), "must be object at the root");
        }
        root
    }

    /// `nested` is a schema below allOf, anyOf, oneOf or not: it holds rules, and types stand outside.
    fn node(schema: &JSONSchemaProps, path: &str, nested: bool, causes: &mut Causes) -> Self {
        let kind = schema.type_.clone().unwrap_or_default();
        let int_or_string = schema.x_kubernetes_int_or_string.unwrap_or(false);
        let preserve = schema.x_kubernetes_preserve_unknown_fields.unwrap_or(false);
        if kind.is_empty() {
            if !nested && !int_or_string && !preserve {
                causes.required(format!("{path}.type"), "must not be empty for specified object fields");
            }
        } else if !TYPES.contains(&kind.as_str()) {
            causes.unsupported(format!("{path}.type"), kind.as_str(), &TYPES);
        }
        let mut properties = BTreeMap::new();
        for (name, property) in schema.properties.iter().flatten() {
            let inner = format!("{path}.properties[{name}]");
            properties.insert(name.clone(), Self::node(property, &inner, nested, causes));
        }
        let values = match &schema.additional_properties {
            Some(JSONSchemaPropsOrBool::Schema(values)) => {
                let inner = format!("{path}.additionalProperties");
                Some(Box::new(Self::node(values, &inner, nested, causes)))
            }
            Some(JSONSchemaPropsOrBool::Bool(true)) => Some(Box::new(Self { preserve: true, ..Self::default() })),
            Some(JSONSchemaPropsOrBool::Bool(false)) => {
                causes.forbidden(format!("{path}.additionalProperties"), "additionalProperties cannot be set to false");
                None
            }
            None => None,
        };
        if values.is_some() && !properties.is_empty() {
            causes.forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        let items = match &schema.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => {
                let inner = format!("{path}.items");
                Some(Box::new(Self::node(items, &inner, nested, causes)))
            }
            Some(JSONSchemaPropsOrArray::Schemas(_)) => {
                causes.forbidden(format!("{path}.items"), "items must be a schema object and not an array");
                None
            }
            None => None,
        };
        if kind == "array" && items.is_none() && !nested {
            causes.required(format!("{path}.items"), "must be specified");
        }
        let node = Self {
            kind,
            nullable: schema.nullable.unwrap_or(false),
            int_or_string,
            preserve,
            embedded: schema.x_kubernetes_embedded_resource.unwrap_or(false),
            properties,
            values,
            items,
            default: schema.default.as_ref().map(|default| default.0.clone()),
            list_type: schema.x_kubernetes_list_type.clone().unwrap_or_default(),
            list_keys: schema.x_kubernetes_list_map_keys.clone().unwrap_or_default(),
            rules: Rules::compile(schema, path, causes),
        };
        node.check_default(&format!("{path}.default"), nested, causes);
        node
    }

    fn check_default(&self, path: &str, nested: bool, causes: &mut Causes) {
        let Some(default) = &self.default else { return };
        if nested {
            causes.forbidden(path, "must be undefined to be structural");
            return;
        }
        let mut pruned = default.clone();
        self.prune_node(&mut pruned, self.embedded);
        if pruned != *default {
            causes.invalid(path, default.clone(), "must not have unknown fields");
        }
        super::validate::check_default(self, default, path, causes);
    }

    /// Drops what the schema does not know, where it does not say that unknown fields are kept.
    pub fn prune(&self, value: &mut Value) {
        self.prune_node(value, true);
    }

    fn prune_node(&self, value: &mut Value, is_object: bool) {
        match value {
            Value::Object(fields) => {
                let own = |name: &str| is_object && ["apiVersion", "kind", "metadata"].contains(&name);
                if let Some(values) = &self.values {
                    fields.values_mut().for_each(|value| values.prune_node(value, values.embedded));
                    return;
                }
                let kept = self.preserve || (self.kind.is_empty() && !self.int_or_string && self.properties.is_empty());
                fields.retain(|name, value| match self.properties.get(name) {
                    _ if own(name) => true,
                    Some(property) => {
                        property.prune_node(value, property.embedded);
                        true
                    }
                    None => kept,
                });
            }
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    items.iter_mut().for_each(|item| of.prune_node(item, of.embedded));
                }
            }
            _ => {}
        }
    }

    /// Fills in the defaults of fields that are left out.
    pub fn fill_in(&self, value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, property) in &self.properties {
                    if let Some(default) = &property.default
                        && fields.get(name).is_none_or(|value| value.is_null() && !property.nullable)
                    {
                        fields.insert(name.clone(), default.clone());
                    }
                    if let Some(value) = fields.get_mut(name) {
                        property.fill_in(value);
                    }
                }
                if let Some(values) = &self.values {
                    fields.values_mut().for_each(|value| values.fill_in(value));
                }
            }
            Value::Array(items) => {
                if let Some(of) = &self.items {
                    items.iter_mut().for_each(|item| of.fill_in(item));
                }
            }
            _ => {}
        }
    }
}

impl Rules {
    fn compile(schema: &JSONSchemaProps, path: &str, causes: &mut Causes) -> Self {
        let pattern =
            schema.pattern.as_ref().filter(|pattern| !pattern.is_empty()).and_then(|pattern| {
                match Regex::new(pattern) {
                    Ok(regex) => Some((pattern.clone(), regex)),
                    Err(error) => {
                        let why = format!("must be a valid regular expression, but isn't: {error}");
                        causes.invalid(format!("{path}.pattern"), pattern.as_str(), why);
                        None
                    }
                }
            });
        let mut nested = |name: &str, schemas: &Option<Vec<JSONSchemaProps>>| -> Vec<Structural> {
            let schemas = schemas.iter().flatten().enumerate();
            schemas.map(|(i, schema)| Structural::node(schema, &format!("{path}.{name}[{i}]"), true, causes)).collect()
        };
        let (all_of, any_of, one_of) =
            (nested("allOf", &schema.all_of), nested("anyOf", &schema.any_of), nested("oneOf", &schema.one_of));
        let not = schema.not.as_ref().map(|not| Box::new(Structural::node(not, &format!("{path}.not"), true, causes)));
        Self {
            required: schema.required.clone().unwrap_or_default(),
            values: schema.enum_.as_ref().map(|values| values.iter().map(|value| value.0.clone()).collect()),
            minimum: schema.minimum,
            exclusive_minimum: schema.exclusive_minimum.unwrap_or(false),
            maximum: schema.maximum,
            exclusive_maximum: schema.exclusive_maximum.unwrap_or(false),
            multiple_of: schema.multiple_of,
            min_length: schema.min_length,
            max_length: schema.max_length,
            pattern,
            format: schema.format.clone(),
            min_items: schema.min_items,
            max_items: schema.max_items,
            unique_items: schema.unique_items.unwrap_or(false),
            min_properties: schema.min_properties,
            max_properties: schema.max_properties,
            all_of,
            any_of,
            one_of,
            not,
        }
    }
}
