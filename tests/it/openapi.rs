//! The API described by itself.

use serde_json::{Value, json};

use crate::world::*;

#[tokio::test]
async fn the_index_names_a_document_per_group_and_version() {
    let world = World::start().await;
    let index = world.get("/openapi/v3").await.ok();
    for path in ["api/v1", "apis/apps/v1", "apis/discovery.k8s.io/v1"] {
        let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap_or_else(|| panic!("{path}: {index}"));
        let answer = world.get(url).await;
        assert_eq!(answer.headers["cache-control"], "public, immutable", "{url}");
        assert_eq!(answer.ok()["openapi"], "3.0.0");
    }
    assert_eq!(world.get("/openapi/v3/apis/none/v1").await.code, 404);
}

#[tokio::test]
async fn types_say_how_their_lists_merge_and_which_kind_they_are() {
    let world = World::start().await;
    let document = world.get("/openapi/v3/api/v1").await.ok();
    let schemas = &document["components"]["schemas"];
    let ports = &schemas["io.k8s.api.core.v1.ServiceSpec"]["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["port", "protocol"]));
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "port");
    let kind = &schemas["io.k8s.api.core.v1.Service"]["x-kubernetes-group-version-kind"];
    assert_eq!(*kind, json!([{"group": "", "version": "v1", "kind": "Service"}]));
    assert!(schemas["io.k8s.api.core.v1.ServiceList"]["properties"]["items"].is_object());
}

/// Every reference of every document leads to a type that is there.
#[tokio::test]
async fn no_reference_leads_nowhere() {
    fn check(value: &Value, schemas: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    let name = target.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{target}"));
                    assert!(schemas.get(name).is_some(), "{name}");
                }
                fields.values().for_each(|value| check(value, schemas));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, schemas)),
            _ => {}
        }
    }
    let world = World::start().await;
    let index = world.get("/openapi/v3").await.ok();
    for path in index["paths"].as_object().unwrap().keys() {
        let document = world.get(&format!("/openapi/v3/{path}")).await.ok();
        check(&document, &document["components"]["schemas"]);
    }
}

/// kubectl asks here which kinds leave validation and dry runs to the server.
#[tokio::test]
async fn writes_take_field_validation_and_dry_run() {
    let world = World::start().await;
    let document = world.get("/openapi/v3/apis/apps/v1").await.ok();
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    let names: Vec<&Value> =
        patch["parameters"].as_array().unwrap().iter().map(|parameter| &parameter["name"]).collect();
    for name in ["dryRun", "fieldManager", "fieldValidation", "force"] {
        assert!(names.iter().any(|found| *found == name), "{name}: {names:?}");
    }
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
}

#[tokio::test]
async fn version_two_says_the_same_in_json_and_protobuf() {
    let world = World::start().await;
    let document = world.get("/openapi/v2").await.ok();
    assert_eq!(document["swagger"], "2.0");
    let spec = &document["definitions"]["io.k8s.api.core.v1.Service"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.ServiceSpec");
    let post = &document["paths"]["/api/v1/namespaces/{namespace}/services"]["post"];
    assert!(post["parameters"].as_array().unwrap().iter().any(|parameter| parameter["in"] == "body"));
    let mime = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = world.get_as("/openapi/v2", mime).await;
    assert_eq!(answer.headers["content-type"], mime.replace('@', "."));
    assert!(answer.text.contains("io.k8s.api.core.v1.ServiceSpec"));
}
