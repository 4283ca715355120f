//! Captured bodies of kubectl against the JSON that it prints for the same objects, hand-made messages for what it does
//! not send, and bodies that are broken.

mod crates;
mod schemas;
mod zeros;

use std::path::PathBuf;

use axum::body::Body;
use axum::extract::Request;
use http::{HeaderValue, Method, StatusCode, header};
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::decode::MESSAGE_LIMIT;
use super::*;
use crate::api::Api;
use crate::api::auth::Identity;
use crate::config::{Network, StoreConfig};
use crate::store::Store;

/// Bodies that kubectl 1.32 sent, each with the object that it meant; see README.md there.
fn captures() -> Vec<(String, Vec<u8>, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/protobuf");
    let mut captures = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bin") {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let expected = std::fs::read(path.with_extension("json")).unwrap();
            captures.push((name, std::fs::read(&path).unwrap(), serde_json::from_slice(&expected).unwrap()));
        }
    }
    captures
}

fn without_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(without_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(without_nulls),
        _ => {}
    }
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A field with a number.
fn n(field: u64, number: i64) -> Vec<u8> {
    [varint(field << 3), varint(number as u64)].concat()
}

/// A field with a string, bytes or a message.
fn b(field: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [varint(field << 3 | 2), varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn body(version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let of = [b(1, version), b(2, kind)].concat();
    [MAGIC.to_vec(), b(1, of), b(2, message), b(3, ""), b(4, "")].concat()
}

/// The object of a message, without its type.
fn fields(version: &str, kind: &str, message: &[u8]) -> Result<Value, Error> {
    let mut object = object(&body(version, kind, message))?;
    let fields = object.as_object_mut().unwrap();
    assert_eq!(fields.remove("apiVersion"), Some(version.into()));
    assert_eq!(fields.remove("kind"), Some(kind.into()));
    Ok(object)
}

fn part(version: &str, kind: &str, message: &[u8]) -> Value {
    fields(version, kind, message).unwrap()
}

#[test]
fn bodies_of_kubectl_decode_to_the_json_it_prints() {
    let captures = captures();
    assert_eq!(captures.len(), 24);
    for (name, body, mut expected) in captures {
        without_nulls(&mut expected);
        assert_eq!(object(&body).unwrap(), expected, "{name}");
    }
}

async fn send(api: &Api, method: Method, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().unwrap();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    request
        .headers_mut()
        .insert(header::ACCEPT, HeaderValue::from_static("application/vnd.kubernetes.protobuf,application/json"));
    request.extensions_mut().insert(Identity::system("test"));
    let response = api.router().oneshot(request).await.unwrap();
    let code = response.status();
    let answer = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (code, serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn objects_are_made_and_deleted_by_protobuf_and_answered_in_json() {
    let store = Store::open(&StoreConfig::in_memory()).await.unwrap();
    let api = Api::new(store, Network::default(), CancellationToken::new());
    let captured = |name: &str| captures().into_iter().find(|(of, ..)| of == name).unwrap().1;

    let (code, made) = send(&api, Method::POST, "/api/v1/namespaces", captured("namespace")).await;
    assert_eq!((code, &made["metadata"]["name"]), (StatusCode::CREATED, &json!("foo")));

    let services = "/api/v1/namespaces/foo/services?fieldValidation=Strict";
    let (code, made) = send(&api, Method::POST, services, captured("service-node-port")).await;
    assert_eq!(code, StatusCode::CREATED, "{made}");
    let port = json!([{"name": "80-8080", "protocol": "TCP", "port": 80, "targetPort": 8080, "nodePort": 30080}]);
    assert_eq!(made["spec"]["ports"], port);

    let (code, refused) = send(&api, Method::POST, services, captured("namespace")).await;
    assert_eq!((code, &refused["reason"]), (StatusCode::BAD_REQUEST, &json!("BadRequest")));

    let service = "/api/v1/namespaces/foo/services/n";
    let options = |uid: &str| body("v1", "DeleteOptions", &b(2, b(1, uid)));
    let (code, refused) = send(&api, Method::DELETE, service, options("another")).await;
    assert_eq!((code, &refused["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let (code, _) = send(&api, Method::DELETE, service, options(uid)).await;
    assert_eq!(code, StatusCode::OK);
}

/// Encoders write fields that are no pointers in Go even when they are zero, and pointers only when set.
#[test]
fn zeros_of_plain_fields_fall_away_and_zeros_of_pointers_stay() {
    let port = [b(1, ""), b(2, ""), n(3, 80), b(4, [n(1, 0), n(2, 0), b(3, "")].concat()), n(5, 0), b(6, "")].concat();
    let service = part("v1", "Service", &b(2, [b(1, port), n(12, 0), n(20, 0)].concat()));
    let port = json!({"port": 80, "targetPort": 0, "appProtocol": ""});
    assert_eq!(service, json!({"spec": {"ports": [port], "allocateLoadBalancerNodePorts": false}}));

    let conditions = b(2, [n(1, 0), n(2, 1), n(3, 0)].concat());
    let slice = part("discovery.k8s.io/v1", "EndpointSlice", &b(2, [b(1, "10.0.0.1"), conditions].concat()));
    let endpoint =
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": false}});
    assert_eq!(slice, json!({"endpoints": [endpoint]}));

    let metadata = part("v1", "Pod", &b(1, [b(1, ""), b(5, ""), n(7, 0), b(8, ""), b(9, ""), n(10, 0)].concat()));
    assert_eq!(metadata, json!({"metadata": {"deletionGracePeriodSeconds": 0}}));

    let status = b(3, b(8, [b(1, "c"), n(4, 0), n(5, 0), b(6, ""), b(7, "")].concat()));
    let container = json!({"name": "c", "ready": false, "restartCount": 0, "image": "", "imageID": ""});
    assert_eq!(part("v1", "Pod", &status), json!({"status": {"containerStatuses": [container]}}));
}

#[test]
fn times_are_rfc_3339_and_no_time_is_left_out() {
    let event = |time: &[u8], micro: &[u8]| part("v1", "Event", &[b(6, time), b(10, micro)].concat());
    let time = [n(1, 1_767_323_045), n(2, 987_654_321)].concat();
    assert_eq!(
        event(&time, &time),
        json!({"firstTimestamp": "2026-01-02T03:04:05Z", "eventTime": "2026-01-02T03:04:05.987654Z"})
    );
    assert_eq!(event(b"", b""), json!({}));
    let epoch = [n(1, 0), n(2, 0)].concat();
    assert_eq!(
        event(&epoch, &epoch),
        json!({"firstTimestamp": "1970-01-01T00:00:00Z", "eventTime": "1970-01-01T00:00:00.000000Z"})
    );
    assert_eq!(event(&n(1, -62_135_596_800), b""), json!({}), "Go's zero time");
    assert_eq!(
        fields("v1", "Event", &b(6, n(1, i64::MAX))),
        Err(Error::Time { seconds: i64::MAX, nanos: 0 }),
        "beyond the calendar"
    );
}

#[test]
fn int_or_string_and_quantity_have_their_json_forms() {
    let budget = |value: &[u8]| fields("policy/v1", "PodDisruptionBudget", &b(2, b(3, value)));
    let spec = |value: Value| Ok(json!({"spec": {"maxUnavailable": value}}));
    assert_eq!(budget(&[n(1, 0), n(2, -3), b(3, "")].concat()), spec(json!(-3)));
    assert_eq!(budget(&[n(1, 1), n(2, 0), b(3, "50%")].concat()), spec(json!("50%")));
    assert_eq!(budget(b""), spec(json!(0)));
    assert_eq!(budget(&n(1, 2)), Err(Error::IntOrString(2)));

    let entry = |key: &str, quantity: &[u8]| b(1, [b(1, key), b(2, quantity)].concat());
    let hard = b(2, [entry("cpu", &b(1, "1500m")), entry("pods", b"")].concat());
    assert_eq!(part("v1", "ResourceQuota", &hard), json!({"spec": {"hard": {"cpu": "1500m", "pods": "0"}}}));
}

#[test]
fn bytes_maps_and_lists_inside_messages_have_their_json_forms() {
    let config = [b(3, [b(1, "k"), b(2, [0xff, 0, 1])].concat()), b(2, b(1, "empty")), b(2, "")].concat();
    assert_eq!(part("v1", "ConfigMap", &config), json!({"binaryData": {"k": "/wAB"}, "data": {"empty": "", "": ""}}));

    let extra = b(5, [b(1, "scopes"), b(2, [b(1, "a"), b(1, "b")].concat())].concat());
    let review = part("authorization.k8s.io/v1", "SubjectAccessReview", &b(2, extra));
    assert_eq!(review, json!({"spec": {"extra": {"scopes": ["a", "b"]}}}));
}

#[test]
fn embedded_json_is_json() {
    let revision = |raw: &str| fields("apps/v1", "ControllerRevision", &[b(2, b(1, raw)), n(3, 7)].concat());
    assert_eq!(revision(r#"{"a":[1]}"#), Ok(json!({"data": {"a": [1]}, "revision": 7})));
    assert_eq!(revision(""), Ok(json!({"revision": 7})));
    assert!(matches!(revision("{"), Err(Error::Json(_))));
    assert!(matches!(revision(&"[".repeat(100_000)), Err(Error::Json(_))), "too deep");
}

#[test]
fn inline_messages_stand_among_their_siblings() {
    let volume = |source: Vec<u8>| b(2, b(1, [b(1, "v"), b(2, source)].concat()));
    assert_eq!(
        part("v1", "Pod", &volume(b(2, b(1, "")))),
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}})
    );
    let key = b(3, [b(1, b(1, "cm")), b(2, "k"), n(3, 0)].concat());
    let env = [b(1, "E"), b(2, ""), b(3, key)].concat();
    assert_eq!(
        part("v1", "Pod", &b(2, b(2, b(7, env)))),
        json!({"spec": {"containers": [
            {"env": [{"name": "E", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "k", "optional": false}}}]}
        ]}})
    );
}

#[test]
fn parts_of_a_message_come_together_and_the_last_scalar_counts() {
    let pod = [b(2, b(10, "a")), b(2, b(3, "Never")), b(2, b(3, "")), b(1, b(1, "x")), b(1, b(1, "y"))].concat();
    assert_eq!(part("v1", "Pod", &pod), json!({"metadata": {"name": "y"}, "spec": {"nodeName": "a"}}));
}

#[test]
fn lists_of_numbers_may_be_packed() {
    let groups = [n(4, 1), b(4, [varint(2), varint(300)].concat())].concat();
    let pod = part("v1", "Pod", &b(2, b(14, groups)));
    assert_eq!(pod, json!({"spec": {"securityContext": {"supplementalGroups": [1, 2, 300]}}}));
}

#[test]
fn unknown_fields_are_skipped() {
    let spec = [n(900, 1), b(901, "x"), [varint(902 << 3 | 1), vec![0; 8]].concat(), b(10, "a")].concat();
    assert_eq!(part("v1", "Pod", &[b(99, "?"), b(2, spec)].concat()), json!({"spec": {"nodeName": "a"}}));
}

#[test]
fn options_are_read_under_any_version() {
    let options = [n(1, 0), b(2, b(1, "u")), n(3, 1), b(4, "Foreground"), b(5, "All")].concat();
    let expected = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "u"}, "orphanDependents": true,
        "propagationPolicy": "Foreground", "dryRun": ["All"]});
    for version in ["v1", "meta.k8s.io/v1", "discovery.k8s.io/v1"] {
        assert_eq!(part(version, "DeleteOptions", &options), expected, "{version}");
    }
}

#[test]
fn kinds_and_encodings_without_a_protobuf_form_get_415() {
    let widget = decode(&body("example.org/v1", "Widget", b"")).unwrap_err();
    assert_eq!(widget.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        widget.message,
        "kind \"Widget\" of version \"example.org/v1\" has no protobuf form here: send it as application/json"
    );
    let of = b(1, [b(1, "v1"), b(2, "Pod")].concat());
    for extra in [b(3, "gzip"), b(4, "application/json")] {
        let refused = decode(&[MAGIC.to_vec(), of.clone(), extra].concat()).unwrap_err();
        assert_eq!(refused.code, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let plain = decode(&[MAGIC.to_vec(), of, b(4, MEDIA_TYPE)].concat());
    assert_eq!(plain, Ok(json!({"apiVersion": "v1", "kind": "Pod"})));
}

#[test]
fn malformed_bodies_get_400_with_the_reason() {
    let pod = |message: &[u8]| body("v1", "Pod", message);
    let cases = [
        (b"".to_vec(), Error::NoMagic),
        (b"{\"kind\":\"Pod\"}".to_vec(), Error::NoMagic),
        (MAGIC.to_vec(), Error::NoKind),
        (body("v1", "", b""), Error::NoKind),
        ([MAGIC, &n(1, 1)].concat(), Error::Envelope),
        ([MAGIC, &b(1, n(2, 1))].concat(), Error::Envelope),
        (pod(b"\x12\x7f"), Error::Truncated),
        (pod(&n(2, 1)), Error::Field { message: "v1/Pod", field: "spec" }),
        (pod(&b(2, n(10, 1))), Error::Field { message: "v1/PodSpec", field: "nodeName" }),
        (pod(&b(2, b(11, "x"))), Error::Field { message: "v1/PodSpec", field: "hostNetwork" }),
        (pod(&b(2, b(10, [0xff]))), Error::NotUtf8),
        (pod(&b(2, b(14, b(4, [0x80])))), Error::Truncated),
    ];
    for (body, error) in cases {
        assert_eq!(object(&body), Err(error.clone()), "{body:x?}");
        let refused = ApiError::from(error);
        assert_eq!((refused.code, refused.reason), (StatusCode::BAD_REQUEST, "BadRequest"));
    }
    assert_eq!(
        decode(&pod(&b(2, n(10, 1)))).unwrap_err().message,
        "couldn't get version/kind; protobuf parse error: v1/PodSpec.nodeName has the wrong wire type"
    );
}

#[test]
fn a_body_of_many_small_messages_is_refused() {
    let containers = |count: usize| body("v1", "Pod", &b(2, b(2, "").repeat(count)));
    // The Pod and its spec count too.
    assert!(object(&containers(MESSAGE_LIMIT - 2)).is_ok());
    assert_eq!(object(&containers(MESSAGE_LIMIT - 1)), Err(Error::TooMany(MESSAGE_LIMIT)));
}

#[test]
fn truncated_captures_are_refused_or_shorter() {
    for (name, body, _) in captures() {
        let whole = object(&body).unwrap();
        for end in 0..body.len() {
            // A cut between two fields of the envelope leaves a body that is whole.
            if let Ok(part) = object(&body[..end]) {
                assert!(part == whole || part.as_object().unwrap().len() == 2, "{name} cut at {end}: {part}");
            }
        }
    }
}

/// Fields inside fields: gets deeper into messages than random bytes do.
fn nested() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        (1_u64..48, any::<i64>()).prop_map(|(field, number)| n(field, number)),
        (1_u64..48, proptest::collection::vec(any::<u8>(), 0..12)).prop_map(|(field, bytes)| b(field, bytes)),
    ];
    field.prop_recursive(6, 64, 4, |inner| {
        (1_u64..48, proptest::collection::vec(inner, 0..4)).prop_map(|(field, parts)| b(field, parts.concat()))
    })
}

/// One change of a body: a byte, a range taken out, a range doubled.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Double(prop::sample::Index, usize),
}

impl Change {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Self::Set(at, byte)),
            (any::<prop::sample::Index>(), 1_usize..32).prop_map(|(at, length)| Self::Remove(at, length)),
            (any::<prop::sample::Index>(), 1_usize..32).prop_map(|(at, length)| Self::Double(at, length)),
        ]
    }

    fn apply(&self, body: &mut Vec<u8>) {
        if body.is_empty() {
            return;
        }
        let size = body.len();
        let range = |at: &prop::sample::Index, length: usize| {
            let at = at.index(size);
            at..size.min(at + length)
        };
        match self {
            Self::Set(at, byte) => {
                body[at.index(size)] = *byte;
            }
            Self::Remove(at, length) => drop(body.drain(range(at, *length))),
            Self::Double(at, length) => {
                let range = range(at, *length);
                let part = body[range.clone()].to_vec();
                drop(body.splice(range.end..range.end, part));
            }
        }
    }
}

/// How much memory a value takes, about.
fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::String(text) => text.len(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + weight(value)).sum(),
            _ => 0,
        }
}

/// A body is an object in proportion to its size, or is refused as the client's fault.
fn reads_or_refuses(body: &[u8]) -> Result<(), TestCaseError> {
    match decode(body) {
        // A message of two bytes becomes a field with a long name, once in each message around it.
        Ok(object) => prop_assert!(weight(&object) <= 1024 + 100 * body.len(), "{} bytes", body.len()),
        Err(refused) => {
            let codes = [StatusCode::BAD_REQUEST, StatusCode::UNSUPPORTED_MEDIA_TYPE];
            prop_assert!(codes.contains(&refused.code), "{refused:?}");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        reads_or_refuses(&bytes)?;
        reads_or_refuses(&[MAGIC, &bytes].concat())?;
        for kind in crates::kinds() {
            reads_or_refuses(&body(kind.version, kind.kind, &bytes))?;
        }
    }

    #[test]
    fn random_messages_are_read_or_refused(messages in proptest::collection::vec(nested(), 0..6)) {
        for kind in crates::kinds() {
            reads_or_refuses(&body(kind.version, kind.kind, &messages.concat()))?;
        }
    }

    #[test]
    fn changed_captures_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(Change::any(), 1..8),
    ) {
        let captures = captures();
        let mut body = captures[which.index(captures.len())].1.clone();
        changes.iter().for_each(|change| change.apply(&mut body));
        reads_or_refuses(&body)?;
    }

    #[test]
    fn changed_bodies_of_every_field_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec(Change::any(), 1..8),
    ) {
        let kinds = crates::kinds();
        let mut body = kinds[which.index(kinds.len())].full_body();
        changes.iter().for_each(|change| change.apply(&mut body));
        reads_or_refuses(&body)?;
    }
}
