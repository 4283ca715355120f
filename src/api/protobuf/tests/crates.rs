//! The table against the two crates that it is made from: what k8s-pb writes is what k8s-openapi reads, for every field
//! of every kind, and for any choice of fields.

use std::any::type_name;
use std::collections::BTreeSet;
use std::fmt::Debug;

use k8s_openapi::Resource;
use proptest::prelude::*;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use schemars::{JsonSchema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::table::{Field, MessageId, Shape, Table, Type};
use super::{b, body, n, object, varint};

/// A kind as both crates know it.
#[derive(Clone, Copy)]
pub struct Kind {
    pub version: &'static str,
    pub kind: &'static str,
    /// Reads a message with k8s-pb; gives what that writes, and how Rust shows it.
    by_protobuf: fn(&[u8]) -> (Vec<u8>, String),
    /// Reads JSON with k8s-openapi, and gives what that writes.
    by_json: fn(Value) -> Result<Value, serde_json::Error>,
    schema: fn() -> Value,
}

impl Kind {
    fn of<P, K>(version: &'static str, kind: &'static str) -> Self
    where
        P: Message + Default + Debug,
        K: Serialize + DeserializeOwned + JsonSchema,
    {
        Self {
            version,
            kind,
            by_protobuf: |bytes| {
                let message = P::decode(bytes).unwrap_or_else(|e| panic!("{}: {e}", type_name::<P>()));
                (message.encode_to_vec(), format!("{message:#?}"))
            },
            by_json: |value| serde_json::to_value(serde_json::from_value::<K>(value)?),
            schema: || SchemaGenerator::default().into_root_schema_for::<K>().to_value(),
        }
    }

    fn message(&self) -> MessageId {
        Table::get().kind(self.version, self.kind).unwrap_or_else(|| panic!("no {} {}", self.version, self.kind))
    }

    /// A body that has every field.
    pub fn full_body(&self) -> Vec<u8> {
        body(self.version, self.kind, &Sampler::full().message(self.message()))
    }
}

macro_rules! kinds {
    ($($group:ident $version:ident: $($kind:ident)+;)+) => {
        vec![$($({
            use k8s_openapi::api::$group::$version::$kind;
            Kind::of::<k8s_pb::api::$group::$version::$kind, $kind>($kind::API_VERSION, $kind::KIND)
        },)+)+]
    };
}

pub fn kinds() -> Vec<Kind> {
    let mut kinds = kinds! {
        apps v1: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
        authentication v1: SelfSubjectReview TokenRequest TokenReview;
        authorization v1: LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview;
        autoscaling v1: HorizontalPodAutoscaler Scale;
        autoscaling v2: HorizontalPodAutoscaler;
        batch v1: CronJob Job;
        certificates v1: CertificateSigningRequest;
        coordination v1: Lease;
        core v1: Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
            PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
        discovery v1: EndpointSlice;
        events v1: Event;
        networking v1: Ingress IngressClass IPAddress NetworkPolicy ServiceCIDR;
        policy v1: Eviction PodDisruptionBudget;
        rbac v1: ClusterRole ClusterRoleBinding Role RoleBinding;
        scheduling v1: PriorityClass;
        storage v1: StorageClass;
    };
    {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 as protobuf;
        kinds.push(Kind::of::<protobuf::CustomResourceDefinition, CustomResourceDefinition>(
            CustomResourceDefinition::API_VERSION,
            CustomResourceDefinition::KIND,
        ));
    }
    {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
        use k8s_pb::apimachinery::pkg::apis::meta::v1 as protobuf;
        kinds.push(Kind::of::<protobuf::DeleteOptions, DeleteOptions>("v1", "DeleteOptions"));
    }
    kinds
}

/// Ids of leaves begin here, above all bytes.
const FIRST: usize = 1000;

/// Makes messages by the table. Every string and integer is the id of its path, so that it tells where it should be.
struct Sampler {
    /// `None` makes every field, with a value that is not zero.
    random: Option<StdRng>,
    /// Paths in JSON by id.
    paths: Vec<Vec<&'static str>>,
    path: Vec<&'static str>,
    within: Vec<MessageId>,
}

impl Sampler {
    fn full() -> Self {
        Self { random: None, paths: Vec::new(), path: Vec::new(), within: Vec::new() }
    }

    fn random(seed: u64) -> Self {
        Self { random: Some(StdRng::seed_from_u64(seed)), ..Self::full() }
    }

    fn chance(&mut self, probability: f64) -> Option<bool> {
        self.random.as_mut().map(|random| random.random_bool(probability))
    }

    fn message(&mut self, id: MessageId) -> Vec<u8> {
        self.within.push(id);
        let mut fields: Vec<&Field> = Table::get().message(id).fields.iter().collect();
        fields.sort_by_key(|field| field.number);
        let mut message = Vec::new();
        for field in fields {
            // k8s-openapi has no default for required times.
            if self.chance(0.5).unwrap_or(true) || matches!(field.of, Type::Time | Type::MicroTime) {
                let named = field.shape != Shape::Inline;
                self.path.extend(named.then_some(field.name));
                message.extend(self.field(field));
                self.path.truncate(self.path.len() - usize::from(named));
            }
        }
        self.within.pop();
        message
    }

    fn field(&mut self, field: &Field) -> Vec<u8> {
        let number = u64::from(field.number);
        if field.shape != Shape::Map {
            return self.value(number, field.of);
        }
        let value = self.value(2, field.of);
        if value.is_empty() { value } else { b(number, [b(1, "key"), value].concat()) }
    }

    /// A field with a value; empty where a message would contain itself for the second time.
    fn value(&mut self, number: u64, of: Type) -> Vec<u8> {
        let zero = self.chance(0.3) == Some(true);
        let part = |inner: &[Vec<u8>]| b(number, inner.concat());
        match of {
            _ if zero && matches!(of, Type::Bool | Type::Int32 | Type::Int64) => n(number, 0),
            Type::String if zero => b(number, ""),
            Type::String => b(number, format!("p{}", self.id())),
            Type::Int32 | Type::Int64 => n(number, self.id() as i64),
            Type::Bool => n(number, 1),
            Type::Double => [varint(number << 3 | 1), 1.5_f64.to_le_bytes().to_vec()].concat(),
            Type::Bytes => b(number, [0xff, 1]),
            Type::Message(id) | Type::Choice(id) => {
                if self.within.iter().filter(|other| **other == id).count() == 2 {
                    return Vec::new();
                }
                let message = self.message(id);
                if message.is_empty() && matches!(of, Type::Choice(_)) { message } else { b(number, message) }
            }
            Type::Empty => b(number, ""),
            Type::Time => part(&[n(1, 1_767_323_045), n(2, 0)]),
            Type::MicroTime => part(&[n(1, 1_767_323_045), n(2, 987_654_000)]),
            Type::Quantity => part(&[b(1, "1500m")]),
            Type::IntOrString if zero => part(&[n(1, 0), n(2, 2_000_000_000), b(3, "")]),
            Type::IntOrString => part(&[n(1, 1), n(2, 0), b(3, "50%")]),
            Type::Json => part(&[b(1, r#"{"a":[1,{}]}"#)]),
            Type::Strings => part(&[b(1, "x"), b(1, "")]),
        }
    }

    fn id(&mut self) -> usize {
        self.paths.push(self.path.clone());
        FIRST + self.paths.len() - 1
    }
}

/// What the names of a field in Rust and in JSON have in common.
fn plain(name: &str) -> String {
    name.trim_start_matches("r#").chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase()
}

/// Checks that every id in what Rust shows of a message stands in the field that its path names. Messages that JSON has
/// inline are in Rust's path alone.
fn check_places(kind: &Kind, shown: &str, paths: &[Vec<&'static str>]) -> usize {
    let mut stack: Vec<(usize, String)> = Vec::new();
    let mut found = 0;
    for line in shown.lines() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        stack.retain(|(outer, _)| *outer < indent);
        let (name, value) = text.split_once(": ").unwrap_or(("", text));
        if !name.is_empty() && !name.starts_with('"') {
            stack.push((indent, plain(name)));
        }
        let id = value.trim_end_matches(',').trim_matches('"').trim_start_matches('p').parse::<usize>();
        let Some(path) = id.ok().and_then(|id| paths.get(id.checked_sub(FIRST)?)) else { continue };
        let mut rust = stack.iter().map(|(_, name)| name.as_str());
        let inside = path.iter().all(|name| rust.any(|rust| rust == plain(name)));
        assert!(inside && rust.next().is_none(), "{} {}: {path:?} is {stack:?}", kind.version, kind.kind);
        found += 1;
    }
    found
}

#[test]
fn every_field_of_every_kind_has_the_number_of_k8s_pb_and_the_name_of_k8s_openapi() {
    for kind in kinds() {
        let mut sampler = Sampler::full();
        let message = sampler.message(kind.message());
        let name = format!("{} {}", kind.version, kind.kind);

        let (written, shown) = (kind.by_protobuf)(&message);
        assert_eq!(written, message, "{name}: k8s-pb does not know every field");
        assert_eq!(check_places(&kind, &shown, &sampler.paths), sampler.paths.len(), "{name}");

        let decoded = object(&body(kind.version, kind.kind, &message)).unwrap();
        let typed = (kind.by_json)(decoded.clone()).unwrap();
        // Objects inside objects come with their type.
        assert!(contains(&typed, &decoded), "{name}: k8s-openapi does not know every field");
    }
}

/// Adds the properties of a type that JSON made by the table does not have.
fn add_missing(
    of: &str,
    schema: &Value,
    types: &Value,
    json: &Value,
    within: &mut Vec<String>,
    missing: &mut BTreeSet<String>,
) {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next())
        && !within.iter().any(|outer| outer == name)
    {
        within.push(name.to_owned());
        add_missing(name.rsplit('.').next().unwrap_or(name), &types[name], types, json, within, missing);
        within.pop();
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        add_missing(of, part, types, json, within, missing);
    }
    for (property, schema) in schema["properties"].as_object().into_iter().flatten() {
        match json.get(property) {
            Some(json) => add_missing(of, schema, types, json, within, missing),
            None => {
                missing.insert(format!("{of}.{property}"));
            }
        }
    }
    if let Some(item) = json.as_array().and_then(|items| items.first()) {
        add_missing(of, &schema["items"], types, item, within, missing);
    }
    if let Some(value) = json.get("key") {
        add_missing(of, &schema["additionalProperties"], types, value, within, missing);
    }
}

#[test]
fn fields_of_the_api_without_a_number_are_those_that_are_listed() {
    let mut missing = BTreeSet::new();
    for kind in kinds() {
        let schema = (kind.schema)();
        let json = object(&kind.full_body()).unwrap();
        add_missing(kind.kind, &schema, &schema["$defs"], &json, &mut Vec::new(), &mut missing);
    }
    // Of kinds inside other kinds; else the envelope says it.
    let of_type = |field: &String| field.ends_with(".apiVersion") || field.ends_with(".kind");
    missing.retain(|field| !of_type(field));
    let listed: BTreeSet<&str> =
        include_str!("../missing.txt").lines().filter_map(|line| line.rsplit('/').next()).collect();
    assert!(!missing.is_empty(), "PodSpec.schedulingGroup is one");
    for field in &missing {
        assert!(listed.contains(field.as_str()), "{field} is not in missing.txt: run make_table.py");
    }
}

/// Whether all of `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nothing is lost between k8s-pb and k8s-openapi; required fields that are not there come in addition.
    #[test]
    fn any_choice_of_fields_survives(seed in any::<u64>()) {
        for kind in kinds() {
            let message = Sampler::random(seed).message(kind.message());
            let decoded = object(&body(kind.version, kind.kind, &message)).unwrap();
            let (written, _) = (kind.by_protobuf)(&message);
            prop_assert_eq!(&object(&body(kind.version, kind.kind, &written)).unwrap(), &decoded);
            let typed = (kind.by_json)(decoded.clone()).unwrap();
            prop_assert!(contains(&typed, &decoded), "{} {}: {decoded} became {typed}", kind.version, kind.kind);
        }
    }
}
