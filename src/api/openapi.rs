//! The API described: /openapi/v3 per group and version, /openapi/v2 as a whole.
//!
//! kubectl reads the fields of kinds here (`explain`), how lists merge, and which kinds take the `fieldValidation` and
//! `dryRun` parameters. Documents are made when somebody asks, and hold for good under the hash in their URL.

mod operations;
mod v2;
mod v2_protobuf;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ListMeta, Patch, Status};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Api;
use super::discovery::page_not_found;
use super::kinds::{Info, Strategy};
use super::schema::builtin::Definitions;
use super::status::{ApiError, bytes_response};

/// What clients that want OpenAPI v2 as protobuf ask for, kubectl among them. `@` is no character of a media type, so
/// that the answer has a dot in its place.
const V2_PROTOBUF_ASKED: [&str; 2] = ["application/com.github.proto-openapi.spec.v2@v1.0+protobuf", V2_PROTOBUF];
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn hash(api: &Api) -> String {
    format!("{}-{}", env!("CARGO_PKG_VERSION"), api.registry().epoch())
}

pub(super) async fn index(State(api): State<Api>) -> Json<Value> {
    let hash = hash(&api);
    let mut paths = Map::new();
    for kind in api.registry().kinds() {
        let path = path_of(kind.info().group, kind.info().version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    Json(json!({"paths": paths}))
}

#[derive(Deserialize)]
pub(super) struct Asked {
    #[serde(default)]
    hash: String,
}

pub(super) async fn document(State(api): State<Api>, Path(path): Path<String>, Query(asked): Query<Asked>) -> Response {
    let hash = hash(&api);
    let kinds: Vec<_> = api.registry().kinds().into_iter().filter(|kind| is_at(kind.info(), &path)).collect();
    if kinds.is_empty() {
        return page_not_found();
    }
    let Ok(document) = tokio::task::spawn_blocking(move || v3(&kinds).to_string()).await else {
        return ApiError::internal("the OpenAPI document could not be made").into_response();
    };
    let mut response = bytes_response(StatusCode::OK, document);
    if asked.hash == hash {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    response
}

pub(super) async fn document_v2(State(api): State<Api>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let protobuf = V2_PROTOBUF_ASKED.iter().any(|media| accept.contains(media));
    let kinds = api.registry().kinds();
    let made = tokio::task::spawn_blocking(move || {
        let document = v2::document(&v3(&kinds));
        if protobuf { v2_protobuf::encode(&document) } else { document.to_string().into_bytes() }
    });
    let Ok(document) = made.await else {
        return ApiError::internal("the OpenAPI document could not be made").into_response();
    };
    let mut response = bytes_response(StatusCode::OK, document);
    if protobuf {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
    }
    response
}

fn is_at(info: &Info, path: &str) -> bool {
    path_of(info.group, info.version) == path
}

/// The OpenAPI v3 document of some kinds.
fn v3(kinds: &[std::sync::Arc<dyn Strategy>]) -> Value {
    let mut definitions = Definitions::default();
    let common = Common {
        delete_options: definitions.add::<DeleteOptions>(),
        list_meta: definitions.add::<ListMeta>(),
        patch: definitions.add::<Patch>(),
        status: definitions.add::<Status>(),
    };
    let mut paths = Map::new();
    for kind in kinds {
        let info = kind.info();
        let name = kind.define(&mut definitions);
        let list_name = format!("{}{}", name.strip_suffix(info.kind).unwrap_or(&name), info.list_kind());
        definitions.insert(list_name.clone(), list_of(info, &name, &common));
        definitions.is_kind(&name, info.group, info.version, info.kind);
        operations::add(info, &name, &list_name, &common, &mut paths);
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": super::KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": definitions.finish()},
    })
}

/// Names of the types that every group uses.
struct Common {
    delete_options: String,
    list_meta: String,
    patch: String,
    status: String,
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn list_of(info: &Info, item: &str, common: &Common) -> Value {
    let string = |text: &str| json!({"type": "string", "description": text});
    json!({
        "type": "object",
        "description": format!("{} is a list of {}.", info.list_kind(), info.kind),
        "required": ["items"],
        "properties": {
            "apiVersion": string("APIVersion defines the versioned schema of this representation of an object."),
            "kind": string("Kind is a string value representing the REST resource this object represents."),
            "items": {"type": "array", "description": format!("List of {}.", info.plural), "items": reference(item)},
            "metadata": reference(&common.list_meta),
        },
        "x-kubernetes-group-version-kind":
            [{"group": info.group, "version": info.version, "kind": info.list_kind()}],
    })
}
