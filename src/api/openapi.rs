//! The part of /openapi/v3 that clients ask before a write: which kinds take the `fieldValidation` and `dryRun`
//! parameters. kubectl then leaves validation to the server.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::Api;
use super::discovery::page_not_found;
use super::kinds::Info;

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub(super) async fn index(State(api): State<Api>) -> Json<Value> {
    let mut paths = Map::new();
    for info in api.registry().iter() {
        let path = path_of(info.group, info.version);
        let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    Json(json!({"paths": paths}))
}

pub(super) async fn document(State(api): State<Api>, Path(path): Path<String>) -> Response {
    let kinds: Vec<&Info> = api.registry().iter().filter(|info| path_of(info.group, info.version) == path).collect();
    if kinds.is_empty() {
        return page_not_found();
    }
    let mut paths = Map::new();
    for info in kinds {
        let scope = if info.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{path}{scope}/{}", info.plural);
        paths.insert(format!("{collection}/{{name}}"), json!({"patch": operation(info), "put": operation(info)}));
        paths.insert(collection, json!({"post": operation(info)}));
    }
    let version = env!("CARGO_PKG_VERSION");
    Json(json!({"openapi": "3.0.0", "info": {"title": "Vipyard", "version": version}, "paths": paths})).into_response()
}

fn operation(info: &Info) -> Value {
    let parameter =
        |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    json!({
        "parameters": [parameter("dryRun"), parameter("fieldManager"), parameter("fieldValidation")],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-group-version-kind": {"group": info.group, "version": info.version, "kind": info.kind},
    })
}
