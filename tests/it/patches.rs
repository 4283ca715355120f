//! Patches of the three kinds that are served.

use serde_json::{Value, json};

use crate::world::*;

#[tokio::test]
async fn merge_patch_sets_replaces_and_removes() {
    let world = World::start().await;
    let mut object = config_map("a", "1");
    object["data"] = json!({"keep": "1", "change": "1", "drop": "1"});
    world.post(CONFIG_MAPS, object).await.created();
    let patch = json!({"data": {"change": "2", "drop": null, "new": "3"}, "metadata": {"labels": {"app": "web"}}});
    let patched = world.merge(&format!("{CONFIG_MAPS}/a"), patch).await.ok();
    assert_eq!(patched["data"], json!({"keep": "1", "change": "2", "new": "3"}));
    assert_eq!(patched["metadata"]["labels"], json!({"app": "web"}));
}

#[tokio::test]
async fn json_patch_applies_all_operations_or_none() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    let good = json!([
        {"op": "test", "path": "/data/key", "value": "1"},
        {"op": "replace", "path": "/data/key", "value": "2"},
        {"op": "add", "path": "/data/new", "value": "3"},
    ]);
    assert_eq!(world.json_patch(&path, good).await.ok()["data"], json!({"key": "2", "new": "3"}));
    let bad = json!([
        {"op": "replace", "path": "/data/key", "value": "4"},
        {"op": "remove", "path": "/data/none"},
    ]);
    world.json_patch(&path, bad).await.refused(422, "Invalid");
    assert_eq!(world.get(&path).await.ok()["data"]["key"], "2");
    world.json_patch(&path, json!({"op": "add"})).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn json_patch_that_cannot_be_undone_is_refused_whole() {
    let world = World::start().await;
    let before = world.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    for first in [
        json!({"op": "move", "path": "", "from": "/data/key"}),
        json!({"op": "move", "path": "/data", "from": "/data/key"}),
        json!({"op": "copy", "path": "", "from": "/data/key"}),
    ] {
        let failing = json!({"op": "remove", "path": "/data/none"});
        world.json_patch(&path, json!([first, failing])).await.refused(422, "Invalid");
    }
    assert_eq!(world.get(&path).await.ok(), before);
}

#[tokio::test]
async fn json_patch_has_bounds() {
    let world = World::start().await;
    world.config_map("a", &"x".repeat(1000)).await;
    let path = format!("{CONFIG_MAPS}/a");
    // Each doubles the metadata: without a bound it would be larger than the machine.
    let doubling: Vec<Value> =
        (0..60).map(|i| json!({"op": "copy", "from": "/metadata", "path": format!("/metadata/copy{i}")})).collect();
    world.json_patch(&path, json!(doubling)).await.refused(422, "Invalid");
    // Unknown fields are dropped, so that only the way there is deep; what could not be read again is never made.
    let deep = |levels: usize| -> Vec<Value> {
        (1..=levels)
            .map(|i| json!({"op": "add", "path": format!("/metadata{}", "/x".repeat(i)), "value": {}}))
            .collect()
    };
    world.json_patch(&path, json!(deep(115))).await.ok();
    world.json_patch(&path, json!(deep(300))).await.refused(422, "Invalid");
    let test = json!({"op": "test", "path": "/metadata/name", "value": "a"});
    world.json_patch(&path, json!(vec![&test; 10_000])).await.ok();
    let status = world.json_patch(&path, json!(vec![&test; 10_001])).await.refused(413, "RequestEntityTooLarge");
    assert_eq!(
        status["message"],
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001"
    );
}

#[tokio::test]
async fn strategic_patch_merges_lists_by_their_key() {
    let world = World::start().await;
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    world.post(SERVICES, service("web", json!({"ports": ports}))).await.created();
    let path = format!("{SERVICES}/web");
    let patch = json!({"spec": {"ports": [{"port": 443, "targetPort": 8443}, {"name": "admin", "port": 9000}]}});
    let patched = world.strategic(&path, patch).await.ok();
    let ports: Vec<(&str, i64, i64)> = patched["spec"]["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["name"].as_str().unwrap(), p["port"].as_i64().unwrap(), p["targetPort"].as_i64().unwrap()))
        .collect();
    let mut sorted = ports.clone();
    sorted.sort_by_key(|port| port.1);
    assert_eq!(sorted, [("http", 80, 80), ("https", 443, 8443), ("admin", 9000, 9000)]);

    let delete = json!({"spec": {"ports": [{"$patch": "delete", "port": 80}]}});
    let patched = world.strategic(&path, delete).await.ok();
    assert!(patched["spec"]["ports"].as_array().unwrap().iter().all(|port| port["port"] != 80), "{patched}");

    let replace = json!({"spec": {"ports": [{"$patch": "replace"}, {"name": "only", "port": 1}]}});
    let patched = world.strategic(&path, replace).await.ok();
    assert_eq!(patched["spec"]["ports"].as_array().unwrap().len(), 1, "{patched}");
}

/// PS6: third parties set conditions of a Pod, and leave the others alone.
#[tokio::test]
async fn strategic_patch_of_a_pods_conditions_merges_by_type() {
    let world = World::start().await;
    world.pod("p", json!({}), Some("n1")).await;
    world.run_pod("p", "10.244.1.2", true).await;
    let gate = json!({"status": {"conditions": [{"type": "example.com/gate", "status": "True"}]}});
    let patched = world.strategic(&format!("{PODS}/p/status"), gate).await.ok();
    let mut types: Vec<&str> =
        patched["status"]["conditions"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["Ready", "example.com/gate"]);
    assert_eq!(patched["status"]["podIP"], "10.244.1.2");
}

#[tokio::test]
async fn patch_with_an_old_revision_conflicts() {
    let world = World::start().await;
    let old = revision(&world.config_map("a", "1").await);
    let path = format!("{CONFIG_MAPS}/a");
    world.merge(&path, json!({"data": {"key": "2"}})).await.ok();
    world
        .merge(&path, json!({"metadata": {"resourceVersion": old}, "data": {"key": "3"}}))
        .await
        .refused(409, "Conflict");
}

#[tokio::test]
async fn patch_of_nothing_is_not_found() {
    let world = World::start().await;
    world.merge(&format!("{CONFIG_MAPS}/none"), json!({})).await.refused(404, "NotFound");
}

#[tokio::test]
async fn patch_that_breaks_a_rule_is_invalid_and_changes_nothing() {
    let world = World::start().await;
    let before = world.post(SERVICES, service("web", json!({"ports": [{"port": 80}]}))).await.created();
    let path = format!("{SERVICES}/web");
    let patch = json!({"spec": {"ports": [{"port": 70000, "targetPort": 80}]}});
    world.merge(&path, patch).await.invalid(&["spec.ports[0].port"]);
    assert_eq!(world.get(&path).await.ok(), before);
}

#[tokio::test]
async fn json_patch_cannot_make_something_else_of_an_object() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    for value in [json!([1]), json!("text"), json!(1), json!(null)] {
        let operations = json!([{"op": "replace", "path": "", "value": value}]);
        world.json_patch(&format!("{CONFIG_MAPS}/a"), operations).await.invalid(&["patch"]);
    }
    assert_eq!(world.get(&format!("{CONFIG_MAPS}/a")).await.ok()["data"]["key"], "1");
}
