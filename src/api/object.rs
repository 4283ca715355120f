//! Objects as JSON values: metadata access, normal form, and the one encoding that everybody shares.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::kinds::Info;
use super::status::ApiError;
use crate::store::Encode;

pub fn meta<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get("metadata")?.get(field).filter(|value| !value.is_null())
}

pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    meta(object, field).and_then(Value::as_str).unwrap_or_default()
}

/// The metadata object, made where it is missing.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.get("metadata").is_some_and(Value::is_object) {
        object["metadata"] = Value::Object(Map::new());
    }
    object["metadata"].as_object_mut().expect("just made an object")
}

pub fn is_deleting(object: &Value) -> bool {
    meta(object, "deletionTimestamp").is_some()
}

/// The same of an object as it is stored. Every create asks it of its namespace: only what has the word is parsed.
pub fn is_stored_deleting(stored: &[u8]) -> bool {
    const FIELD: &[u8] = b"deletionTimestamp";
    let mentioned = stored.windows(FIELD.len()).any(|window| window == FIELD);
    mentioned && serde_json::from_slice(stored).is_ok_and(|object: Value| is_deleting(&object))
}

pub fn finalizers(object: &Value) -> Vec<String> {
    let list = meta(object, "finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// Now, as `metadata.creationTimestamp` has it: RFC 3339 with whole seconds.
pub fn now_text() -> String {
    format_time(Timestamp::now())
}

pub fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Stands where the revision goes until the store knows it. Random, so that no client can write it into an object.
static MARKER: LazyLock<String> = LazyLock::new(|| uuid::Uuid::new_v4().simple().to_string());

/// Encodes an object once, for storage, answers, lists and watches alike: `apiVersion` and `kind` come first, so that
/// a list can leave them out by cutting a prefix, and the revision is spliced in when the store has given it.
///
/// # Errors
/// 413 for an object that is larger, 400 for one that is nested deeper than it may be.
pub fn encode(info: &Info, object: Value) -> Result<Encode, ApiError> {
    if depth(&object) > MOST_DEPTH {
        return Err(ApiError::bad_request(format!("the object is nested too deep: at most {MOST_DEPTH} levels")));
    }
    let text = marked(info, object);
    if text.len() > MOST_BYTES {
        return Err(ApiError::too_large(MOST_BYTES));
    }
    Ok(spliced(text))
}

/// The same for an object that has been stored before.
pub fn encode_again(info: &Info, object: Value) -> Encode {
    spliced(marked(info, object))
}

/// What etcd takes in one request.
const MOST_BYTES: usize = 1536 * 1024;
/// A little less than what the parser takes, so that what is stored can always be read.
pub const MOST_DEPTH: usize = 120;

/// How deep values are nested in each other.
pub fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        _ => None,
    };
    below.map_or(1, |below| below + 1)
}

fn marked(info: &Info, mut object: Value) -> String {
    meta_mut(&mut object).insert("resourceVersion".into(), MARKER.as_str().into());
    with_type_first(info, object)
}

fn spliced(text: String) -> Encode {
    // The marker is in the text exactly once: a client cannot know it.
    let at = text.find(MARKER.as_str()).unwrap_or(text.len());
    Box::new(move |revision| {
        let (head, tail) = (&text[..at], text.get(at + MARKER.len()..).unwrap_or_default());
        let mut encoded = Vec::with_capacity(text.len());
        encoded.extend_from_slice(head.as_bytes());
        encoded.extend_from_slice(revision.to_string().as_bytes());
        encoded.extend_from_slice(tail.as_bytes());
        // Objects stay in memory for long: what the marker took more than the revision is given back.
        Bytes::from(encoded.into_boxed_slice())
    })
}

/// An encoded object without the owners of its fields, for readers who never ask: they are often half of it.
pub fn without_owners(encoded: &[u8]) -> Cow<'_, [u8]> {
    const METADATA: &[u8] = b"\"metadata\":{";
    const OWNERS: &[u8] = b"\"managedFields\":[";
    let find = |from: usize, needle: &[u8]| memmem(&encoded[from..], needle).map(|at| from + at);
    // Quotes in strings are escaped, so that neither can be part of one.
    let Some(start) = find(0, METADATA).and_then(|metadata| find(metadata, OWNERS)) else { return encoded.into() };
    let (mut depth, mut in_string, mut escaped) = (0, false, false);
    for (i, byte) in encoded[start + OWNERS.len() - 1..].iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            b'[' if !in_string => depth += 1,
            b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            // A name follows, and before it a comma.
            let end = start + OWNERS.len() - 1 + i + 2;
            return [&encoded[..start], &encoded[end..]].concat().into();
        }
    }
    encoded.into()
}

fn memmem(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// The prefix that every encoded object of a kind has.
pub fn type_prefix(info: &Info) -> String {
    format!("{{\"apiVersion\":\"{}\",\"kind\":\"{}\",", info.api_version(), info.kind)
}

/// An encoded object after its `apiVersion` and `kind`.
pub fn without_type(encoded: &[u8]) -> &[u8] {
    // `{"apiVersion":"...","kind":"...",`: two names and two values, none with quotes inside.
    const QUOTES: usize = 8;
    let last = encoded.iter().enumerate().filter(|(_, byte)| **byte == b'"').nth(QUOTES - 1);
    last.map_or(&[], |(at, _)| &encoded[at + 2..])
}

/// Whether an encoded object is in the version that `info` is about: those of custom kinds are stored as they were
/// written.
pub fn is_in_version(info: &Info, encoded: &[u8]) -> bool {
    !info.custom || encoded.starts_with(type_prefix(info).as_bytes())
}

/// An encoded object in the version that `info` is about.
pub fn in_version(info: &Info, encoded: &Bytes) -> Bytes {
    if is_in_version(info, encoded) {
        return encoded.clone();
    }
    [type_prefix(info).as_bytes(), without_type(encoded)].concat().into()
}

pub fn with_type_first(info: &Info, mut object: Value) -> String {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    // The brace with which the rest begins is where the prefix has its last comma.
    let mut text = type_prefix(info).into_bytes();
    text.pop();
    let seam = text.len();
    // Writing to memory cannot fail.
    let _ = serde_json::to_writer(&mut text, &object);
    text[seam] = b',';
    String::from_utf8(text).unwrap_or_default()
}

/// The little of an object that selectors need, without decoding the rest.
#[derive(Deserialize, Default)]
pub struct Labelled {
    #[serde(default)]
    pub metadata: LabelledMeta,
}

#[derive(Deserialize, Default)]
pub struct LabelledMeta {
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
}

/// Maps whose keys are the user's: an empty value in them is a value.
const USER_MAPS: &[&str] = &[
    "labels",
    "annotations",
    "data",
    "binaryData",
    "stringData",
    "nodeSelector",
    "matchLabels",
    "limits",
    "requests",
    "capacity",
    "allocatable",
];
/// Lists that are part of an object even when empty.
const KEPT_LISTS: &[&str] = &["endpoints", "containers"];
/// Strings that mean something when empty, as they are pointers in Go: `(field that they are in, name)`, where no field
/// stands for any.
const KEPT_STRINGS: &[(&str, &str)] =
    &[("", "name"), ("", "storageClassName"), ("hostPath", "type"), ("grpc", "service")];

/// Leaves out what the reference's JSON leaves out (`omitempty`): nulls, empty lists, empty strings, empty user maps.
pub fn prune(value: &mut Value) {
    prune_in("", value);
}

fn prune_in(parent: &str, value: &mut Value) {
    let Some(fields) = value.as_object_mut() else { return };
    fields.retain(|key, value| {
        if USER_MAPS.contains(&key.as_str()) {
            return !value.is_null() && !value.as_object().is_some_and(Map::is_empty);
        }
        match value {
            Value::Null => false,
            Value::String(text) => !text.is_empty() || is_kept(parent, key),
            Value::Array(items) if items.is_empty() => KEPT_LISTS.contains(&key.as_str()),
            Value::Array(items) => {
                items.iter_mut().for_each(|item| prune_in(key, item));
                true
            }
            Value::Object(_) => {
                prune_in(key, value);
                true
            }
            _ => true,
        }
    });
}

fn is_kept(parent: &str, name: &str) -> bool {
    KEPT_STRINGS.iter().any(|(within, kept)| *kept == name && (within.is_empty() || *within == parent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn encoding_puts_type_first_and_splices_the_revision() {
        let info = Info { kind: "EndpointSlice", group: "discovery.k8s.io", plural: "endpointslices", ..Info::DEFAULT };
        let object = json!({"addressType": "IPv4", "metadata": {"name": "a", "labels": {"resourceVersion": "x"}}});
        let text = encode_again(&info, object)(42);
        let text = std::str::from_utf8(&text).unwrap();
        assert!(text.starts_with(&type_prefix(&info)), "{text}");
        let back: Value = serde_json::from_str(text).unwrap();
        assert_eq!(back["metadata"]["resourceVersion"], "42");
        assert_eq!(back["metadata"]["labels"]["resourceVersion"], "x");
    }

    #[test]
    fn owners_of_fields_are_left_out_whole() {
        let object = json!({
            "data": {"x": "\"metadata\":{\"managedFields\":["},
            "metadata": {
                "annotations": {"a": "\"managedFields\":[]"},
                "managedFields": [{"fieldsV1": {"f:x": {"k:{\"a\":\"]\"}": {}}}}, {"manager": "m"}],
                "name": "x",
            },
        });
        let mut expected = object.clone();
        meta_mut(&mut expected).remove("managedFields");
        let text = object.to_string();
        assert_eq!(serde_json::from_slice::<Value>(&without_owners(text.as_bytes())).unwrap(), expected);
        assert_eq!(*without_owners(expected.to_string().as_bytes()), *expected.to_string().as_bytes());
    }

    #[test]
    fn what_could_not_be_read_again_is_not_stored() {
        let nested = |levels: usize| {
            let inner = (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
            encode(&Info::DEFAULT, json!({"metadata": {"name": "x"}, "spec": inner}))
        };
        let stored = nested(MOST_DEPTH - 2).ok().unwrap()(1);
        assert!(serde_json::from_slice::<Value>(&stored).is_ok());
        assert_eq!(nested(MOST_DEPTH).err().unwrap().code, 400);
        let large = json!({"metadata": {}, "data": {"x": "x".repeat(MOST_BYTES)}});
        assert_eq!(encode(&Info::DEFAULT, large).err().unwrap().code, 413);
    }

    #[test]
    fn objects_are_shown_in_another_version() {
        let old = Info { group: "example.com", version: "v1", kind: "W", custom: true, ..Info::DEFAULT };
        let new = Info { version: "v2", ..old.clone() };
        let object = json!({"metadata": {"name": "a"}, "spec": {"x": 1}});
        let stored = encode_again(&old, object.clone())(7);
        assert_eq!(in_version(&old, &stored), stored);
        assert_eq!(in_version(&new, &stored), encode_again(&new, object)(7));
    }

    #[test]
    fn prune_drops_what_omitempty_drops() {
        let mut value = json!({
            "metadata": {"labels": {}, "annotations": {"a": ""}, "name": "x"},
            "spec": {"securityContext": {}, "volumes": [], "hostname": "", "containers": [{"resources": {}, "args": []}]},
            "endpoints": [], "ports": [{"name": "", "port": 1}],
            "volumes": [{"hostPath": {"type": "", "path": "/x"}}], "status": {"type": ""},
        });
        prune(&mut value);
        assert_eq!(
            value,
            json!({
                "metadata": {"annotations": {"a": ""}, "name": "x"},
                "spec": {"securityContext": {}, "containers": [{"resources": {}}]},
                "endpoints": [], "ports": [{"name": "", "port": 1}],
                "volumes": [{"hostPath": {"type": "", "path": "/x"}}], "status": {},
            })
        );
    }
}
