//! Schemas of the built-in kinds: `k8s-openapi` has the fields and their descriptions, the tables here how they merge.

use std::collections::HashMap;
use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Schema;

/// One line per list: type, field, type of the elements, `x-kubernetes-list-type`, its keys,
/// `x-kubernetes-patch-strategy`, its key.
const LISTS: &str = include_str!("lists.tsv");

/// Objects that are owned and merged as a whole (`x-kubernetes-map-type: atomic`).
const ATOMIC_TYPES: &[&str] = &[
    "core.v1.ConfigMapKeySelector",
    "core.v1.EndpointAddress",
    "core.v1.EndpointPort",
    "core.v1.FileKeySelector",
    "core.v1.LocalObjectReference",
    "core.v1.NodeSelector",
    "core.v1.NodeSelectorTerm",
    "core.v1.ObjectFieldSelector",
    "core.v1.ObjectReference",
    "core.v1.ResourceFieldSelector",
    "core.v1.SecretKeySelector",
    "core.v1.SecretReference",
    "core.v1.TopologySelectorTerm",
    "core.v1.TypedLocalObjectReference",
    "discovery.v1.EndpointPort",
    "meta.v1.LabelSelector",
    "networking.v1.ServiceBackendPort",
    "rbac.v1.RoleRef",
    "rbac.v1.Subject",
];

/// Maps that are owned as a whole, by the type that contains them.
const ATOMIC_MAPS: &[(&str, &str)] = &[("core.v1.ServiceSpec", "selector"), ("core.v1.PodSpec", "nodeSelector")];

struct ListFacts {
    list_type: &'static str,
    keys: &'static str,
    strategy: &'static str,
    merge_key: &'static str,
}

static FACTS: LazyLock<HashMap<(&'static str, &'static str), ListFacts>> = LazyLock::new(|| {
    let rows = LISTS.lines().filter(|line| !line.starts_with('#')).skip(1);
    rows.filter_map(|line| {
        let columns: Vec<&str> = line.split('\t').map(|cell| if cell == "-" { "" } else { cell }).collect();
        let [type_name, field, _, list_type, keys, strategy, merge_key] = columns[..] else { return None };
        Some(((type_name, field), ListFacts { list_type, keys, strategy, merge_key }))
    })
    .collect()
});

/// The default of a key field, which elements may leave out: ports are TCP.
pub(super) fn key_default(field: &str) -> Option<Value> {
    (field == "protocol").then(|| json!("TCP"))
}

/// The short form of a definition's name, as the tables have it: `core.v1.Pod`.
fn short(definition: &str) -> String {
    let parts: Vec<&str> = definition.rsplit('.').take(3).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(".")
}

/// Collects types and all that they contain, as `components.schemas` of an OpenAPI v3 document.
pub struct Definitions {
    generator: SchemaGenerator,
    /// Types that are not built in.
    others: Map<String, Value>,
    /// `x-kubernetes-group-version-kind` by name.
    kinds: HashMap<String, Vec<Value>>,
}

impl Default for Definitions {
    fn default() -> Self {
        let generator = SchemaSettings::openapi3().into_generator();
        Self { generator, others: Map::new(), kinds: HashMap::new() }
    }
}

impl Definitions {
    /// Adds a type and returns its name.
    pub fn add<T: JsonSchema>(&mut self) -> String {
        self.generator.subschema_for::<T>();
        T::schema_name().into_owned()
    }

    /// Adds a type with its schema.
    pub fn insert(&mut self, name: String, schema: Value) {
        self.others.insert(name, schema);
    }

    /// Says that a type is the type of a kind.
    pub fn is_kind(&mut self, name: &str, group: &str, version: &str, kind: &str) {
        let gvk = json!({"group": group, "version": version, "kind": kind});
        self.kinds.entry(name.to_owned()).or_default().push(gvk);
    }

    /// The definitions by name, with Kubernetes' extensions.
    pub fn finish(mut self) -> Map<String, Value> {
        let mut definitions: Map<String, Value> = self.generator.take_definitions(true).into_iter().collect();
        for (name, definition) in &mut definitions {
            extend(&short(name), definition);
        }
        definitions.append(&mut self.others);
        for (name, kinds) in self.kinds {
            if let Some(definition) = definitions.get_mut(&name) {
                definition["x-kubernetes-group-version-kind"] = kinds.into();
            }
        }
        definitions
    }
}

/// The schema of one built-in type.
pub fn schema<T: JsonSchema>() -> Schema {
    let mut definitions = Definitions::default();
    let name = definitions.add::<T>();
    let root = json!({ "$ref": name });
    Schema::new(&root, &definitions.finish())
}

fn extend(name: &str, definition: &mut Value) {
    if ATOMIC_TYPES.contains(&name) {
        definition["x-kubernetes-map-type"] = "atomic".into();
    }
    let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, schema) in properties {
        if ATOMIC_MAPS.contains(&(name, field.as_str())) {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        let Some(facts) = FACTS.get(&(name, field.as_str())) else { continue };
        let mut set = |extension: &str, value: Value| schema[format!("x-kubernetes-{extension}")] = value;
        if !facts.list_type.is_empty() {
            set("list-type", facts.list_type.into());
        }
        if !facts.keys.is_empty() {
            set("list-map-keys", facts.keys.split(',').collect());
        }
        if !facts.strategy.is_empty() {
            set("patch-strategy", facts.strategy.into());
        }
        if !facts.merge_key.is_empty() {
            set("patch-merge-key", facts.merge_key.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
    use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};

    /// A line about a type or field that is not there would be a line without effect.
    #[test]
    fn every_fact_is_about_a_field_that_exists() {
        let mut all = Definitions::default();
        all.add::<Pod>();
        all.add::<Service>();
        all.add::<Node>();
        all.add::<Namespace>();
        all.add::<ServiceAccount>();
        all.add::<Deployment>();
        all.add::<ReplicaSet>();
        all.add::<StatefulSet>();
        all.add::<DaemonSet>();
        let definitions = all.finish();
        let known: HashMap<String, &Value> = definitions.iter().map(|(name, value)| (short(name), value)).collect();
        let mut checked = 0;
        for (type_name, field) in FACTS.keys() {
            let Some(definition) = known.get(*type_name) else { continue };
            assert!(definition["properties"].get(field).is_some(), "{type_name}.{field}");
            checked += 1;
        }
        assert!(checked > 100, "{checked}");
    }
}
