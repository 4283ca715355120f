//! Kinds that are kept and checked, and that nothing acts upon.

use serde_json::json;

use crate::world::*;

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";

#[tokio::test]
async fn who_makes_an_object_that_nothing_acts_upon_is_told_so() {
    let world = World::start().await;
    let volume = json!({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp"}}});
    let answer = world.post(VOLUMES, volume).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.starts_with("299 - \"Vipyard keeps ") && warning.contains("PersistentVolume"), "{warning}");
    answer.created();
    let path = format!("{VOLUMES}/a");
    let changed = world.merge(&path, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert!(!changed.headers.contains_key("warning"), "said once");
    assert_eq!(changed.ok()["metadata"]["labels"]["x"], "y");
    world.delete(&path, json!({})).await.ok();
    world.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn replication_controller_scales_by_its_map_of_labels() {
    let world = World::start().await;
    let template =
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let controller = json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "a"},
        "spec": {"template": template}});
    world.post(CONTROLLERS, controller).await.created();
    let path = format!("{CONTROLLERS}/a/scale");
    let scale = world.merge(&path, json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("app=web")));
    assert_eq!(world.get(&format!("{CONTROLLERS}/a")).await.ok()["spec"]["replicas"], 3);
}
