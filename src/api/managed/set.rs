//! Sets of fields, as `metadata.managedFields[].fieldsV1` writes them.
//!
//! A set is a tree of path elements in their written form: `f:name` is a field, `k:{"port":80}` the list element with
//! these keys, `v:"x"` the list element with this value. The entry `.` says that the place itself is a member, not only
//! something below it; a place without anything below it always is.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde_json::{Map, Value};

use crate::api::schema::{ListKey, Relation, Type};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set(BTreeMap<Box<str>, Node>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub member: bool,
    pub below: Set,
}

impl Node {
    pub fn member() -> Self {
        Self { member: true, below: Set::default() }
    }

    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

/// The path element of a field.
pub fn field(name: &str) -> Box<str> {
    format!("f:{name}").into()
}

/// The path element of a list's element; `None` for one that lacks the list's keys.
pub fn element(relation: &Relation, item: &Value) -> Option<Box<str>> {
    match relation {
        Relation::Map(keys) => {
            let values: Map<String, Value> =
                keys.iter().filter_map(|key| Some((key.name.clone(), key_value(key, item)?))).collect();
            (!values.is_empty()).then(|| format!("k:{}", Value::Object(values)).into())
        }
        Relation::Set | Relation::Atomic => Some(format!("v:{item}").into()),
    }
}

fn key_value(key: &ListKey, item: &Value) -> Option<Value> {
    item.get(&key.name).or(key.default.as_ref()).cloned()
}

impl Set {
    /// A set of places that are fields of objects: `["metadata.name"]`.
    pub fn of_fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut node = Node::member();
            for name in path.rsplit('.') {
                let mut below = Self::default();
                below.put(field(name), node);
                node = Node { member: false, below };
            }
            set = set.union(node.below);
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    /// Adds what there is at `element`, unless that is nothing.
    pub fn put(&mut self, element: Box<str>, node: Node) {
        if node.is_empty() {
            return;
        }
        match self.0.entry(element) {
            Entry::Vacant(place) => {
                place.insert(node);
            }
            Entry::Occupied(mut place) => {
                let old = std::mem::take(place.get_mut());
                *place.get_mut() = Node { member: old.member || node.member, below: old.below.union(node.below) };
            }
        }
    }

    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (element, node) in other.0 {
            self.put(element, node);
        }
        self
    }

    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        for (element, node) in &self.0 {
            if let Some(theirs) = other.get(element) {
                let member = node.member && theirs.member;
                both.put(element.clone(), Node { member, below: node.below.intersection(&theirs.below) });
            }
        }
        both
    }

    /// The members that `other` has not. What is below a member of `other` stays.
    pub fn difference(self, other: &Self) -> Self {
        self.without(other, false)
    }

    /// The members that are neither in `other` nor below a member of it.
    pub fn outside(self, other: &Self) -> Self {
        self.without(other, true)
    }

    fn without(self, other: &Self, recursive: bool) -> Self {
        if other.is_empty() {
            return self;
        }
        let mut rest = Self::default();
        for (element, node) in self.0 {
            match other.get(&element) {
                None => rest.put(element, node),
                Some(theirs) if recursive && theirs.member => {}
                Some(theirs) => {
                    let below = node.below.without(&theirs.below, recursive);
                    rest.put(element, Node { member: node.member && !theirs.member, below });
                }
            }
        }
        rest
    }

    /// Makes members of the named fields on the way to other members, so that removing them leaves no empty object.
    pub fn with_named_fields(&self, of: Type<'_>) -> Self {
        let mut result = Self::default();
        for (element, node) in &self.0 {
            let (named, inner) = match element.strip_prefix("f:") {
                Some(name) => (of.names(name), of.field(name)),
                None => (false, of.item()),
            };
            let below = inner.map_or_else(|| node.below.clone(), |inner| node.below.with_named_fields(inner));
            let member = node.member || (named && !node.below.is_empty());
            result.put(element.clone(), Node { member, below });
        }
        result
    }

    /// The set as `fieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut object = Map::new();
        for (element, node) in &self.0 {
            let mut below = node.below.to_value();
            if node.member
                && !node.below.is_empty()
                && let Some(below) = below.as_object_mut()
            {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            object.insert(element.to_string(), below);
        }
        Value::Object(object)
    }

    /// Reads `fieldsV1`; `None` if it is no such thing.
    pub fn of_value(value: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (element, below) in value.as_object()? {
            if element == "." {
                continue;
            }
            element.split_once(':').filter(|(kind, _)| ["f", "k", "v", "i"].contains(kind))?;
            let set_below = Self::of_value(below)?;
            let member = set_below.is_empty() || below.get(".").is_some();
            set.put(element.as_str().into(), Node { member, below: set_below });
        }
        Some(set)
    }

    /// The members' paths, as people read them: `.spec.ports[port=80,protocol="TCP"].name`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect_paths("", &mut paths);
        paths
    }

    fn collect_paths(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{prefix}{}", Readable(element));
            if node.member {
                paths.push(path.clone());
            }
            node.below.collect_paths(&path, paths);
        }
    }
}

/// A path element as people read it: `[name="web"]`.
pub fn readable(element: &str) -> String {
    Readable(element).to_string()
}

struct Readable<'a>(&'a str);

impl fmt::Display for Readable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once(':') {
            Some(("f", name)) => write!(f, ".{name}"),
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Some(("v", value)) => write!(f, "[={value}]"),
            Some((_, index)) => write!(f, "[{index}]"),
            None => f.write_str(self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        Set::of_value(&value).unwrap()
    }

    #[test]
    fn sets_read_and_write_fields_v1() {
        let written = json!({
            "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}, "f:type": {}},
        });
        let read = set(written.clone());
        assert_eq!(read.to_value(), written);
        assert_eq!(
            read.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
                ".spec.type",
            ]
        );
        assert_eq!(Set::of_value(&json!({"x": {}})), None);
    }

    #[test]
    fn difference_keeps_what_is_below_and_outside_does_not() {
        let labels = set(json!({"f:labels": {".": {}, "f:a": {}, "f:b": {}}}));
        let whole = set(json!({"f:labels": {}}));
        assert_eq!(labels.clone().difference(&whole), set(json!({"f:labels": {"f:a": {}, "f:b": {}}})));
        assert!(labels.clone().outside(&whole).is_empty());
        let a = set(json!({"f:labels": {"f:a": {}}}));
        assert_eq!(labels.difference(&a), set(json!({"f:labels": {".": {}, "f:b": {}}})));
    }

    #[test]
    fn fields_are_named_by_dots() {
        let meta = Set::of_fields(&["kind", "metadata", "metadata.name"]);
        assert_eq!(meta.to_value(), json!({"f:kind": {}, "f:metadata": {".": {}, "f:name": {}}}));
    }
}
