//! Events of both groups are the same objects.

use axum::body::Body;
use serde_json::{Value, json};

use crate::world::*;

const CORE: &str = "/api/v1/namespaces/default/events";
const GROUP: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2024-01-01T00:00:00.000000Z", "reportingController": "example.com/c", "reportingInstance": "i",
        "action": "Do", "reason": "Done", "type": "Normal", "note": "it is done",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "web"}})
}

#[tokio::test]
async fn event_of_one_group_is_there_in_the_other() {
    let world = World::start().await;
    let created = world.post(GROUP, event("e")).await.created();
    assert_eq!((&created["apiVersion"], &created["note"]), (&json!("events.k8s.io/v1"), &json!("it is done")));
    let core = world.get(&format!("{CORE}/e")).await.ok();
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("it is done")));
    assert_eq!(
        (&core["involvedObject"]["name"], &core["reportingComponent"]),
        (&json!("web"), &json!("example.com/c"))
    );
    assert_eq!(revision(&core), revision(&created));

    let patched = world
        .merge(
            &format!("{GROUP}/e"),
            json!({"note": "again", "series": {"count": 2, "lastObservedTime": "2024-01-01T00:00:01.000000Z"}}),
        )
        .await
        .ok();
    assert_eq!((&patched["note"], &patched["series"]["count"]), (&json!("again"), &json!(2)));
    world.merge(&format!("{CORE}/e"), json!({"message": "from the core"})).await.ok();
    let list = world.get(GROUP).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("events.k8s.io/v1")));
    let item = list["items"].as_array().unwrap().iter().find(|item| item["metadata"]["name"] == "e").unwrap();
    assert_eq!((&item["note"], item.get("message")), (&json!("from the core"), None));
    world.delete(&format!("{GROUP}/e"), json!({})).await.ok();
    world.get(&format!("{CORE}/e")).await.refused(404, "NotFound");
}

#[tokio::test]
async fn watch_translates_and_new_events_are_checked() {
    let world = World::start().await;
    let mut watch = world.watch(GROUP, "").await;
    world.post(GROUP, event("e")).await.created();
    let seen = watch.next().await.unwrap();
    assert_eq!((&seen["type"], &seen["object"]["note"]), (&json!("ADDED"), &json!("it is done")));
    assert_eq!(seen["object"]["apiVersion"], "events.k8s.io/v1");
    let mut incomplete = event("f");
    incomplete.as_object_mut().unwrap().remove("reportingController");
    world.post(GROUP, incomplete).await.invalid(&["reportingController"]);
}

#[tokio::test]
async fn large_list_of_either_group_is_compressed_for_those_who_ask() {
    let world = World::start().await;
    for i in 0..150 {
        let mut long = event(&format!("e{i}"));
        long["note"] = "x".repeat(1000).into();
        world.post(GROUP, long).await.created();
    }
    for path in [CORE, GROUP] {
        let get = request("GET", path).header("accept-encoding", "gzip").body(Body::empty()).unwrap();
        let packed = world.send(get).await;
        assert_eq!(packed.headers["content-encoding"], "gzip", "{path}");
        let plain = world.get(path).await;
        assert_eq!(plain.headers.get("content-encoding"), None);
        assert!(packed.text.len() < plain.text.len() / 2);
    }
}
