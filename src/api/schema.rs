//! The structure of objects: which fields there are, and how lists and maps merge.
//!
//! Server-side apply, strategic merge and the check for unknown fields walk an object along its schema. A schema comes
//! from an OpenAPI document with Kubernetes' extensions (`x-kubernetes-list-type` and so on): of built-in kinds made by
//! [`builtin`], of custom resources written by their authors.

pub mod builtin;
mod decode;
mod unknown;

use std::collections::HashMap;

use serde_json::{Map, Value};

pub use decode::decode;
pub use unknown::unknown_fields;

/// The types of one kind, as a graph: types of custom resource definitions contain themselves.
#[derive(Debug)]
pub struct Schema {
    nodes: Vec<Node>,
    root: usize,
}

#[derive(Debug)]
enum Node {
    Scalar(Scalar),
    Struct {
        fields: HashMap<Box<str>, usize>,
        /// The type of fields that are not named; `None` where there must be none.
        rest: Option<usize>,
        atomic: bool,
    },
    Map {
        value: usize,
        atomic: bool,
    },
    List {
        item: usize,
        relation: Relation,
        patch: ListPatch,
    },
    /// Anything; merges by what it turns out to be: maps by key, lists as a whole.
    Deduced,
    /// Anything; owned and merged as a whole.
    Opaque,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    String,
    Number,
    Boolean,
    /// A number or a string: ports, percentages, quantities.
    Any,
}

/// How the elements of a list relate in server-side apply (`x-kubernetes-list-type`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    Atomic,
    Set,
    /// Elements with equal values of these fields are one element.
    Map(Vec<ListKey>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListKey {
    pub name: String,
    /// Stands for the field where an element leaves it out.
    pub default: Option<Value>,
}

/// How a list merges in a strategic merge patch (`x-kubernetes-patch-strategy`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListPatch {
    Replace,
    /// Plain values, each once.
    Set,
    /// Elements with the same value of this field are one element.
    ByKey(String),
}

/// A place in a schema.
#[derive(Clone, Copy, Debug)]
pub struct Type<'a> {
    schema: &'a Schema,
    node: &'a Node,
}

/// What a value is, seen through its type.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    Scalar(Scalar),
    /// An object whose fields are owned one by one.
    Fields,
    /// A list whose elements are owned one by one.
    Elements(&'a Relation),
    /// A list or object that is owned as a whole.
    Whole,
}

impl Schema {
    /// A schema from a document: `root` may refer to `definitions` by `$ref`, by the last part of its path.
    pub fn new(root: &Value, definitions: &Map<String, Value>) -> Self {
        let mut builder = Builder { nodes: Vec::new(), named: HashMap::new(), definitions };
        let root = builder.build(root);
        Self { nodes: builder.nodes, root }
    }

    pub fn root(&self) -> Type<'_> {
        self.at(self.root)
    }

    fn at(&self, id: usize) -> Type<'_> {
        Type { schema: self, node: &self.nodes[id] }
    }
}

impl<'a> Type<'a> {
    /// The type of a field, or of a map's values; `None` for a field that the type does not have.
    pub fn field(self, name: &str) -> Option<Self> {
        match self.node {
            Node::Struct { fields, rest, .. } => fields.get(name).copied().or(*rest).map(|id| self.schema.at(id)),
            Node::Map { value, .. } => Some(self.schema.at(*value)),
            Node::Deduced | Node::Opaque => Some(self),
            Node::Scalar(_) | Node::List { .. } => None,
        }
    }

    /// Whether the field is one that the type names, rather than a key of a map.
    pub fn names(self, field: &str) -> bool {
        matches!(self.node, Node::Struct { fields, .. } if fields.contains_key(field))
    }

    /// The type of a list's elements.
    pub fn item(self) -> Option<Self> {
        match self.node {
            Node::List { item, .. } => Some(self.schema.at(*item)),
            Node::Deduced | Node::Opaque => Some(self),
            _ => None,
        }
    }

    /// What `value`, or a value that is left out, is to server-side apply.
    pub fn shape(self, value: &Value) -> Shape<'a> {
        match self.node {
            Node::Scalar(scalar) => Shape::Scalar(*scalar),
            Node::Struct { atomic: true, .. } | Node::Map { atomic: true, .. } | Node::Opaque => Shape::Whole,
            Node::Struct { .. } | Node::Map { .. } => Shape::Fields,
            Node::List { relation: Relation::Atomic, .. } => Shape::Whole,
            Node::List { relation, .. } => Shape::Elements(relation),
            Node::Deduced if value.is_object() => Shape::Fields,
            Node::Deduced if value.is_array() => Shape::Whole,
            Node::Deduced => Shape::Scalar(Scalar::Any),
        }
    }

    pub fn is_object(self) -> bool {
        matches!(self.node, Node::Struct { .. } | Node::Map { .. })
    }

    /// Whether the fields are those that the type names.
    pub fn is_struct(self) -> bool {
        matches!(self.node, Node::Struct { .. })
    }

    pub fn is_list(self) -> bool {
        matches!(self.node, Node::List { .. })
    }

    /// How a list merges in a strategic merge patch; lists of unknown types are replaced.
    pub fn patch(self) -> &'a ListPatch {
        match self.node {
            Node::List { patch, .. } => patch,
            _ => &ListPatch::Replace,
        }
    }
}

struct Builder<'a> {
    nodes: Vec<Node>,
    named: HashMap<&'a str, usize>,
    definitions: &'a Map<String, Value>,
}

impl<'a> Builder<'a> {
    fn push(&mut self, node: Node) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn build(&mut self, schema: &'a Value) -> usize {
        let Some(name) = reference(schema) else {
            let node = self.node(schema);
            return self.push(node);
        };
        if let Some(&id) = self.named.get(name) {
            return id;
        }
        let id = self.push(Node::Opaque);
        self.named.insert(name, id);
        if let Some(definition) = self.definitions.get(name) {
            self.nodes[id] = self.node(definition);
        }
        id
    }

    fn node(&mut self, schema: &'a Value) -> Node {
        let extension = |name: &str| schema.get(format!("x-kubernetes-{name}"));
        let flag = |name: &str| extension(name).and_then(Value::as_bool).unwrap_or(false);
        if flag("int-or-string") {
            return Node::Scalar(Scalar::Any);
        }
        let atomic = extension("map-type").is_some_and(|kind| kind == "atomic");
        let preserve = flag("preserve-unknown-fields");
        match schema.get("type").and_then(Value::as_str) {
            Some("string") => Node::Scalar(Scalar::String),
            Some("integer" | "number") => Node::Scalar(Scalar::Number),
            Some("boolean") => Node::Scalar(Scalar::Boolean),
            Some("array") => {
                let item = match schema.get("items") {
                    Some(items) => self.build(items),
                    None => self.push(Node::Deduced),
                };
                Node::List { item, relation: relation(schema), patch: list_patch(schema) }
            }
            Some("object") => {
                let properties = schema.get("properties").and_then(Value::as_object);
                let values = schema.get("additionalProperties");
                match (properties, values) {
                    (Some(properties), _) => {
                        let mut fields = HashMap::new();
                        for (name, field) in properties {
                            fields.insert(name.as_str().into(), self.build(field));
                        }
                        let rest = preserve.then(|| self.push(Node::Deduced));
                        Node::Struct { fields, rest, atomic }
                    }
                    (None, Some(values)) if values.is_object() => Node::Map { value: self.build(values), atomic },
                    (None, Some(Value::Bool(true))) => Node::Map { value: self.push(Node::Deduced), atomic },
                    _ if preserve => Node::Deduced,
                    _ => Node::Opaque,
                }
            }
            _ if preserve => Node::Deduced,
            _ => Node::Opaque,
        }
    }
}

/// The name that a schema refers to, directly or as the only part of `allOf`.
pub(super) fn reference(schema: &Value) -> Option<&str> {
    let direct = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"));
    direct?.as_str()?.rsplit('/').next()
}

fn relation(schema: &Value) -> Relation {
    match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
        Some("set") => Relation::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten();
            let default = |name: &str| schema.pointer(&format!("/items/properties/{name}/default")).cloned();
            Relation::Map(
                keys.filter_map(Value::as_str)
                    .map(|name| ListKey {
                        name: name.to_owned(),
                        default: default(name).or_else(|| builtin::key_default(name)),
                    })
                    .collect(),
            )
        }
        _ => Relation::Atomic,
    }
}

fn list_patch(schema: &Value) -> ListPatch {
    let strategy = schema.get("x-kubernetes-patch-strategy").and_then(Value::as_str).unwrap_or_default();
    let key = schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str);
    match (strategy.split(',').any(|part| part == "merge"), key) {
        (false, _) => ListPatch::Replace,
        (true, None) => ListPatch::Set,
        (true, Some(key)) => ListPatch::ByKey(key.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Pod, Service};
    use serde_json::json;

    #[test]
    fn lists_of_built_in_types_have_their_keys() {
        let schema = builtin::schema::<Service>();
        let ports = schema.root().field("spec").and_then(|spec| spec.field("ports")).unwrap();
        let Shape::Elements(Relation::Map(keys)) = ports.shape(&json!([])) else { panic!("{ports:?}") };
        assert_eq!(keys.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["port", "protocol"]);
        assert_eq!(keys[1].default, Some(json!("TCP")));
        assert_eq!(ports.patch(), &ListPatch::ByKey("port".into()));
        let selector = schema.root().field("spec").and_then(|spec| spec.field("selector")).unwrap();
        assert!(matches!(selector.shape(&json!({})), Shape::Whole));
    }

    #[test]
    fn fields_that_a_type_lacks_have_no_type() {
        let schema = builtin::schema::<Pod>();
        let spec = schema.root().field("spec").unwrap();
        assert!(spec.field("containers").is_some());
        assert!(spec.field("container").is_none());
        let labels = schema.root().field("metadata").and_then(|m| m.field("labels")).unwrap();
        assert!(labels.field("anything").is_some());
        assert!(!labels.names("anything"));
    }
}
