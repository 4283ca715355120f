//! Kinds that CustomResourceDefinitions bring.

use serde_json::{Value, json};

use crate::world::*;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

fn version(name: &str, storage: bool) -> Value {
    json!({
        "name": name, "served": true, "storage": storage, "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["size"], "properties": {
                "size": {"type": "integer", "minimum": 1},
                "mode": {"type": "string", "default": "fast", "enum": ["fast", "safe"]},
                "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {
                        "name": {"type": "string"}, "port": {"type": "integer"}}}},
            }},
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        }}},
    })
}

fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
            "versions": [version("v1", true), version("v1beta1", false)],
        },
    })
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn a_definition_is_established_and_served_with_the_next_request() {
    let world = World::start().await;
    assert_eq!(world.get(WIDGETS).await.code, 404);
    let made = world.post(DEFINITIONS, definition()).await.created();
    assert_eq!(made["spec"]["names"]["singular"], "widget");
    assert_eq!(made["status"]["acceptedNames"]["listKind"], "WidgetList");
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    let established = |status: &Value| {
        status["conditions"].as_array().unwrap().iter().any(|c| c["type"] == "Established" && c["status"] == "True")
    };
    assert!(established(&made["status"]));

    let created = world.post(WIDGETS, widget("a", json!({"size": 2, "unknown": 1}))).await.created();
    assert_eq!(created["spec"], json!({"size": 2, "mode": "fast"}));
    assert_eq!(created["metadata"]["generation"], 1);
    let list = world.get(WIDGETS).await.ok();
    assert_eq!((list["kind"].as_str(), list["items"].as_array().unwrap().len()), (Some("WidgetList"), 1));
    let resources = world.get("/apis/example.com/v1").await.ok();
    let names: Vec<&Value> = resources["resources"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, ["widgets", "widgets/status"]);
}

#[tokio::test]
async fn objects_break_no_rule_of_their_schema() {
    let world = World::start().await;
    world.post(DEFINITIONS, definition()).await.created();
    let refused = world.post(WIDGETS, widget("a", json!({"size": 0, "mode": "slow"}))).await.refused(422, "Invalid");
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("spec.size in body should be greater than or equal to 1"), "{message}");
    assert!(
        message.contains("spec.mode: Unsupported value: \"slow\": supported values: \"fast\", \"safe\""),
        "{message}"
    );
    let refused = world.post(WIDGETS, widget("a", json!({}))).await.refused(422, "Invalid");
    assert_eq!(refused["message"], "Widget.example.com \"a\" is invalid: spec.size: Required value");
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let refused = world.post(&strict, widget("a", json!({"size": 1, "unknown": 1}))).await.refused(400, "BadRequest");
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.unknown\""));
}

#[tokio::test]
async fn every_served_version_shows_the_same_objects() {
    let world = World::start().await;
    world.post(DEFINITIONS, definition()).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 2}))).await.created();
    let beta = WIDGETS.replace("/v1/", "/v1beta1/");
    let shown = world.get(&format!("{beta}/a")).await.ok();
    assert_eq!(shown["apiVersion"], "example.com/v1beta1");
    assert_eq!(shown["spec"]["size"], 2);
    let list = world.get(&beta).await.ok();
    assert_eq!(list["apiVersion"], "example.com/v1beta1");
    let patched = world.merge(&format!("{beta}/a"), json!({"spec": {"size": 5}})).await.ok();
    assert_eq!(patched["metadata"]["generation"], 2);
    assert_eq!(world.get(&format!("{WIDGETS}/a")).await.ok()["spec"]["size"], 5);
}

#[tokio::test]
async fn status_is_a_subresource_and_strategic_patches_are_not_for_custom_resources() {
    let world = World::start().await;
    world.post(DEFINITIONS, definition()).await.created();
    let mut object = widget("a", json!({"size": 2}));
    object["status"] = json!({"phase": "set"});
    assert_eq!(world.post(WIDGETS, object).await.created().get("status"), None);
    let path = format!("{WIDGETS}/a");
    let patched =
        world.merge(&format!("{path}/status"), json!({"status": {"phase": "ok"}, "spec": {"size": 9}})).await.ok();
    assert_eq!((&patched["status"]["phase"], &patched["spec"]["size"]), (&json!("ok"), &json!(2)));
    let metadata = json!({"annotations": {"a": "b"}, "labels": {"c": "d"}, "finalizers": ["example.com/f"]});
    let patched =
        world.merge(&format!("{path}/status"), json!({"status": {"phase": "again"}, "metadata": metadata})).await.ok();
    assert_eq!(patched["status"]["phase"], "again");
    for field in ["annotations", "labels", "finalizers"] {
        assert_eq!(patched["metadata"].get(field), None, "a status write is about the status: {field}");
    }
    assert_eq!(patched["metadata"]["generation"], 1);
    world.strategic(&path, json!({"spec": {"size": 3}})).await.refused(415, "UnsupportedMediaType");
}

#[tokio::test]
async fn lists_with_keys_merge_in_an_apply() {
    let world = World::start().await;
    world.post(DEFINITIONS, definition()).await.created();
    let path = format!("{WIDGETS}/a");
    let with = |ports: Value| widget("a", json!({"size": 1, "ports": ports}));
    world.apply(&path, "one", with(json!([{"name": "x", "port": 1}]))).await.created();
    let both = world.apply(&path, "two", with(json!([{"name": "y", "port": 2}]))).await.ok();
    assert_eq!(both["spec"]["ports"].as_array().unwrap().len(), 2);
    world.apply(&path, "two", with(json!([{"name": "x", "port": 9}]))).await.refused(409, "Conflict");
}

#[tokio::test]
async fn definitions_that_cannot_be_are_refused() {
    let world = World::start().await;
    let mut wrong = definition();
    wrong["metadata"]["name"] = "gadgets.example.com".into();
    wrong["spec"]["versions"][1]["storage"] = true.into();
    wrong["spec"]["conversion"] = json!({"strategy": "Webhook"});
    let refused = world.post(DEFINITIONS, wrong).await.refused(422, "Invalid");
    let message = refused["message"].as_str().unwrap();
    for part in [
        "metadata.name: Invalid value: \"gadgets.example.com\": must be spec.names.plural+\".\"+spec.group",
        "must have exactly one version marked as storage version",
        "spec.conversion.strategy: Unsupported value: \"Webhook\": supported values: \"None\"",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn deleting_a_definition_deletes_its_objects_and_ends_its_paths() {
    let world = World::with_controllers(0).await;
    world.post(DEFINITIONS, definition()).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 1}))).await.created();
    let path = format!("{DEFINITIONS}/widgets.example.com");
    world.delete(&path, json!({})).await.ok();
    world.until(async || world.get(&path).await.found().is_none().then_some(())).await;
    assert_eq!(world.get(WIDGETS).await.code, 404);
}

/// The definition with something changed in its first version.
fn changed(change: impl Fn(&mut Value)) -> Value {
    let mut definition = definition();
    change(&mut definition["spec"]["versions"][0]);
    definition
}

#[tokio::test]
async fn scale_of_a_custom_resource_uses_the_paths_of_its_definition() {
    let world = World::start().await;
    let paths = json!({"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.count",
        "labelSelectorPath": ".status.selector"});
    let definition = changed(|version| {
        version["subresources"]["scale"] = paths.clone();
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["required"] = json!([]);
        version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"] =
            json!({"count": {"type": "integer"}, "selector": {"type": "string"}});
    });
    world.post(DEFINITIONS, definition).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 2}))).await.created();
    let status = json!({"status": {"count": 1, "selector": "app=a"}});
    world.merge(&format!("{WIDGETS}/a/status"), status).await.ok();
    let path = format!("{WIDGETS}/a/scale");
    let scale = world.get(&path).await.ok();
    assert_eq!(scale["spec"], json!({"replicas": 2}));
    assert_eq!(scale["status"], json!({"replicas": 1, "selector": "app=a"}));
    assert_eq!(world.merge(&path, json!({"spec": {"replicas": 5}})).await.ok()["spec"]["replicas"], 5);
    assert_eq!(world.get(&format!("{WIDGETS}/a")).await.ok()["spec"]["size"], 5);
    let resources = world.get("/apis/example.com/v1").await.ok();
    assert!(resources["resources"].as_array().unwrap().iter().any(|r| r["name"] == "widgets/scale"));

    world.post(WIDGETS, widget("b", json!({}))).await.created();
    let refused = world.get(&format!("{WIDGETS}/b/scale")).await.refused(500, "InternalError");
    let why = "Internal error occurred: the spec replicas field \".spec.size\" does not exist";
    assert_eq!(refused["message"], why);
    world.get(&format!("{}/a/scale", WIDGETS.replace("/v1/", "/v1beta1/"))).await.refused(404, "NotFound");
}

#[tokio::test]
async fn deprecated_versions_say_so_in_every_answer() {
    let world = World::start().await;
    let mut old = definition();
    old["spec"]["versions"][1]["deprecated"] = true.into();
    world.post(DEFINITIONS, old).await.created();
    let (v1, beta) = (WIDGETS.to_owned(), WIDGETS.replace("/v1/", "/v1beta1/"));
    assert!(!world.get(&v1).await.headers.contains_key("warning"));
    for path in [beta.clone(), format!("{beta}/absent")] {
        let warning = world.get(&path).await.headers["warning"].clone();
        assert_eq!(warning, r#"299 - "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget""#);
    }
    let own = json!({"spec": {"versions": [version("v1", true), {
        "name": "v1beta1", "served": true, "storage": false, "deprecated": true, "deprecationWarning": "use v1",
        "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    world.merge(&format!("{DEFINITIONS}/widgets.example.com"), own).await.ok();
    assert_eq!(world.get(&beta).await.headers["warning"], r#"299 - "use v1""#);
}

#[tokio::test]
async fn selectable_fields_select() {
    let world = World::start().await;
    let definition = changed(|version| version["selectableFields"] = json!([{"jsonPath": ".spec.mode"}]));
    world.post(DEFINITIONS, definition).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 1, "mode": "safe"}))).await.created();
    world.post(WIDGETS, widget("b", json!({"size": 1}))).await.created();
    let found = world.get(&format!("{WIDGETS}?fieldSelector=spec.mode%3Dsafe")).await.ok();
    let names: Vec<&Value> = found["items"].as_array().unwrap().iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["a"]);
    let refused = world.get(&format!("{WIDGETS}?fieldSelector=spec.size%3D1")).await.refused(400, "BadRequest");
    assert!(refused["message"].as_str().unwrap().contains("field label not supported: spec.size"), "{refused}");
}

#[tokio::test]
async fn who_defines_rules_that_are_not_evaluated_is_told_so() {
    let world = World::start().await;
    let rules = json!([{"rule": "self.size > 2"}]);
    let definition = changed(|version| {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"] = rules.clone();
    });
    let answer = world.post(DEFINITIONS, definition).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("does not evaluate x-kubernetes-validations"), "{warning}");
    let made = answer.created();
    let kept = &made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    assert_eq!(kept["x-kubernetes-validations"], rules);
    world.post(WIDGETS, widget("a", json!({"size": 1}))).await.created();
}

fn condition(definition: &Value, kind: &str) -> Value {
    let conditions = definition["status"]["conditions"].as_array().expect("conditions");
    conditions.iter().find(|condition| condition["type"] == kind).expect("the condition").clone()
}

#[tokio::test]
async fn version_that_objects_may_be_stored_in_cannot_go() {
    let world = World::start().await;
    world.post(DEFINITIONS, definition()).await.created();
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let next =
        world.merge(&path, json!({"spec": {"versions": [version("v1", false), version("v1beta1", true)]}})).await.ok();
    assert_eq!(next["status"]["storedVersions"], json!(["v1", "v1beta1"]));
    let without = json!({"spec": {"versions": [version("v1beta1", true)]}});
    let refused = world.merge(&path, without.clone()).await.invalid(&["status.storedVersions[0]"]);
    assert!(message(&refused).ends_with("Invalid value: \"v1\": must appear in spec.versions"), "{refused}");
    // Who has brought all objects to the new version says so.
    world.merge(&format!("{path}/status"), json!({"status": {"storedVersions": ["v1beta1"]}})).await.ok();
    world.merge(&path, without).await.ok();
    assert_eq!(world.get(WIDGETS).await.code, 404);
}

#[tokio::test]
async fn default_that_breaks_its_own_rules_is_refused() {
    let world = World::start().await;
    let definition = changed(|version| {
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["mode"]["default"] = "slow".into();
    });
    let field = "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[mode].default";
    world.post(DEFINITIONS, definition).await.invalid(&[field]);
}

#[tokio::test]
async fn lists_are_of_the_kind_that_the_definition_names() {
    let world = World::start().await;
    let mut named = definition();
    named["spec"]["names"]["listKind"] = "Widgetry".into();
    world.post(DEFINITIONS, named).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 1}))).await.created();
    assert_eq!(world.get(WIDGETS).await.ok()["kind"], "Widgetry");
    assert_eq!(world.delete(WIDGETS, json!({})).await.ok()["kind"], "Widgetry");
    let schemas = world.get("/openapi/v3/apis/example.com/v1").await.ok()["components"]["schemas"].clone();
    let kinds = &schemas["com.example.v1.Widgetry"]["x-kubernetes-group-version-kind"];
    assert_eq!(kinds, &json!([{"group": "example.com", "version": "v1", "kind": "Widgetry"}]));
    let item = &schemas["com.example.v1.Widget"]["properties"];
    for field in ["apiVersion", "kind", "metadata"] {
        let text = item[field]["description"].as_str().unwrap_or_default();
        assert!(text.contains("https://git.k8s.io/community/"), "{field}: {text}");
    }
}

#[tokio::test]
async fn names_are_one_definitions_until_it_goes() {
    let world = World::with_controllers(0).await;
    world.post(DEFINITIONS, definition()).await.created();
    let mut other = definition();
    other["metadata"]["name"] = "wedges.example.com".into();
    other["spec"]["names"] = json!({"plural": "wedges", "kind": "Wedge", "shortNames": ["wg", "wd"]});
    let made = world.post(DEFINITIONS, other).await.created();
    let names = condition(&made, "NamesAccepted");
    assert_eq!(
        (&names["status"], &names["reason"], &names["message"]),
        (&json!("False"), &json!("ShortNamesConflict"), &json!("\"wd\" is already in use"))
    );
    assert_eq!(condition(&made, "Established")["status"], "False");
    assert_eq!(made["status"]["acceptedNames"].get("shortNames"), None);
    let wedges = WIDGETS.replace("widgets", "wedges");
    assert_eq!(world.get(&wedges).await.code, 404);

    world.delete(&format!("{DEFINITIONS}/widgets.example.com"), json!({})).await.ok();
    let path = format!("{DEFINITIONS}/wedges.example.com");
    let accepted = async || {
        let found = world.get(&path).await.ok();
        (condition(&found, "Established")["status"] == "True").then_some(found)
    };
    let accepted = world.until(accepted).await;
    assert_eq!(accepted["status"]["acceptedNames"]["shortNames"], json!(["wg", "wd"]));
    world.get(&wedges).await.ok();

    // Names that come later and are another's are not served; those from before are.
    world.post(DEFINITIONS, definition()).await.created();
    world.merge(&path, json!({"spec": {"names": {"shortNames": ["wg"]}}})).await.ok();
    let first = format!("{DEFINITIONS}/widgets.example.com");
    world.merge(&first, json!({"spec": {"names": {"shortNames": ["wd"]}}})).await.ok();
    let late = world.merge(&path, json!({"spec": {"names": {"shortNames": ["wg", "wd"]}}})).await.ok();
    assert_eq!(condition(&late, "NamesAccepted")["status"], "False");
    assert_eq!(condition(&late, "Established")["status"], "True");
    let served = world.get("/apis/example.com/v1").await.ok();
    let wedge = served["resources"].as_array().unwrap().iter().find(|r| r["name"] == "wedges").unwrap();
    assert_eq!(wedge["shortNames"], json!(["wg"]));
}

#[tokio::test]
async fn objects_of_a_definition_that_serves_nothing_go_with_it() {
    let world = World::with_controllers(0).await;
    world.post(DEFINITIONS, definition()).await.created();
    world.post(WIDGETS, widget("a", json!({"size": 1}))).await.created();
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let unserved = |name: &str, storage: bool| {
        let mut version = version(name, storage);
        version["served"] = false.into();
        version
    };
    world.merge(&path, json!({"spec": {"versions": [unserved("v1", true), unserved("v1beta1", false)]}})).await.ok();
    assert_eq!(world.get(WIDGETS).await.code, 404);
    world.delete(&path, json!({})).await.ok();
    world.until(async || world.get(&path).await.found().is_none().then_some(())).await;
    world.post(DEFINITIONS, definition()).await.created();
    assert_eq!(names(&world.get(WIDGETS).await.ok()), [""; 0]);
}
