//! Watches: from where they begin, what they show, how they end.

use serde_json::json;
use vipyard::config::{Network, StoreConfig};

use crate::world::*;

#[tokio::test]
async fn watch_from_a_lists_revision_replays_what_came_since() {
    let world = World::start().await;
    world.config_map("before", "1").await;
    let list = revision(&world.get(CONFIG_MAPS).await.ok());
    world.config_map("a", "1").await;
    world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": "2"}})).await.ok();
    world.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.ok();

    let mut watch = world.watch(CONFIG_MAPS, &format!("resourceVersion={list}")).await;
    let mut last = list.parse::<u64>().unwrap();
    for (kind, value) in [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")] {
        let event = watch.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["data"]["key"]), (&json!(kind), &json!(value)));
        assert_eq!(event["object"]["kind"], "ConfigMap");
        let revision: u64 = revision(&event["object"]).parse().unwrap();
        assert!(revision > last, "{revision} after {last}");
        last = revision;
    }
    // And it goes on live.
    world.config_map("b", "1").await;
    watch.expect("ADDED", "b").await;
}

#[tokio::test]
async fn watch_without_a_revision_begins_with_what_is_there() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    world.config_map("b", "1").await;
    for query in ["", "resourceVersion=0"] {
        let mut watch = world.watch(CONFIG_MAPS, query).await;
        watch.expect("ADDED", "a").await;
        watch.expect("ADDED", "b").await;
    }
}

#[tokio::test]
async fn object_that_enters_or_leaves_the_selection_is_added_or_deleted() {
    let world = World::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let label = async |value: Option<&str>| {
        world.merge(&path, json!({"metadata": {"labels": {"app": value}}})).await.ok();
    };
    let start = revision(&world.config_map("a", "1").await);
    let query = format!("labelSelector=app%3Dweb&resourceVersion={start}");
    let mut watch = world.watch(CONFIG_MAPS, &query).await;
    world.config_map("other", "1").await;
    label(Some("web")).await;
    watch.expect("ADDED", "a").await;
    world.merge(&path, json!({"data": {"key": "2"}})).await.ok();
    watch.expect("MODIFIED", "a").await;
    label(Some("db")).await;
    let left = watch.next().await.unwrap();
    // Its last state inside the selection, with the revision of the change that took it out.
    assert_eq!((&left["type"], &left["object"]["metadata"]["labels"]["app"]), (&json!("DELETED"), &json!("web")));
    assert_eq!(revision(&left["object"]), revision(&world.get(&path).await.ok()));
    label(None).await;
    label(Some("web")).await;
    watch.expect("ADDED", "a").await;
    world.delete(&path, json!({})).await.ok();
    watch.expect("DELETED", "a").await;
}

#[tokio::test]
async fn watch_of_one_name_sees_no_other() {
    let world = World::start().await;
    let start = revision(&world.get(CONFIG_MAPS).await.ok());
    let query = format!("fieldSelector=metadata.name%3Db&resourceVersion={start}");
    let mut watch = world.watch(CONFIG_MAPS, &query).await;
    for name in ["a", "b", "c"] {
        world.config_map(name, "1").await;
    }
    world.delete(&format!("{CONFIG_MAPS}/b"), json!({})).await.ok();
    watch.expect("ADDED", "b").await;
    watch.expect("DELETED", "b").await;
}

#[tokio::test]
async fn watch_of_all_namespaces_sees_each() {
    let world = World::start().await;
    let start = revision(&world.get("/api/v1/configmaps").await.ok());
    let mut all = world.watch("/api/v1/configmaps", &format!("resourceVersion={start}")).await;
    let mut one = world.watch("/api/v1/namespaces/kube-public/configmaps", &format!("resourceVersion={start}")).await;
    world.config_map("a", "1").await;
    world.post("/api/v1/namespaces/kube-public/configmaps", config_map("b", "1")).await.created();
    all.expect("ADDED", "a").await;
    all.expect("ADDED", "b").await;
    one.expect("ADDED", "b").await;
}

#[tokio::test]
async fn streamed_list_ends_with_a_bookmark_and_goes_on() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    world.config_map("b", "1").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = world.watch(CONFIG_MAPS, query).await;
    watch.expect("ADDED", "a").await;
    watch.expect("ADDED", "b").await;
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["kind"], "ConfigMap");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    assert_eq!(revision(&bookmark["object"]), revision(&world.get(CONFIG_MAPS).await.ok()));
    world.config_map("c", "1").await;
    watch.expect("ADDED", "c").await;
}

#[tokio::test]
async fn initial_events_need_the_right_revision_match() {
    let world = World::start().await;
    let answer = world.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    answer.refused(422, "Invalid");
}

#[tokio::test]
async fn watch_below_the_compaction_floor_is_gone() {
    let store = StoreConfig { keep_revisions: 10, ..StoreConfig::in_memory() };
    let world = World::on(&store, Network::default()).await;
    let start = revision(&world.config_map("a", "1").await);
    for round in 0..50 {
        world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": format!("{round}")}})).await.ok();
    }
    let mut watch = world.watch(CONFIG_MAPS, &format!("resourceVersion={start}")).await;
    let event = watch.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    assert_eq!((&event["object"]["kind"], &event["object"]["reason"]), (&json!("Status"), &json!("Expired")));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn watch_ends_at_its_timeout_with_a_bookmark_to_go_on_from() {
    let world = World::start().await;
    let start = revision(&world.config_map("a", "1").await);
    let query = format!("resourceVersion={start}&timeoutSeconds=1&allowWatchBookmarks=true");
    let mut watch = world.watch(CONFIG_MAPS, &query).await;
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn options_of_watches_that_contradict_one_another_are_refused() {
    let world = World::start().await;
    for (query, expected) in [
        ("sendInitialEvents=true", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"),
        (
            "resourceVersion=1&resourceVersionMatch=NotOlderThan",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    ] {
        let status = world.get(&format!("{CONFIG_MAPS}?watch=true&{query}")).await.invalid(&["resourceVersionMatch"]);
        let text = format!("ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: {expected}");
        assert_eq!(message(&status), text);
    }
    world.get(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=abc")).await.invalid(&["resourceVersion"]);
}

#[tokio::test(start_paused = true)]
async fn quiet_watcher_is_told_once_a_minute_how_far_it_has_come() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    let start = revision(&world.get(CONFIG_MAPS).await.ok());
    let query = format!("resourceVersion={start}&allowWatchBookmarks=true&labelSelector=app%3Dnone");
    let mut watch = world.watch(CONFIG_MAPS, &query).await;
    let mut without = world.watch(CONFIG_MAPS, &format!("resourceVersion={start}&timeoutSeconds=3600")).await;
    // The watch looks at the store for the first time.
    assert!(tokio::time::timeout(std::time::Duration::from_secs(1), watch.next_whenever()).await.is_err());
    for round in 0..2 {
        world.config_map(&format!("other-{round}"), "1").await;
        let last = revision(&world.config_map(&format!("more-{round}"), "1").await);
        let begin = tokio::time::Instant::now();
        let event = watch_for(&mut watch, 120).await;
        assert_eq!((&event["type"], revision(&event["object"])), (&json!("BOOKMARK"), last));
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
    // Nothing happens, nothing is said.
    let silence = tokio::time::timeout(std::time::Duration::from_secs(250), watch.next_whenever()).await;
    assert!(silence.is_err(), "{silence:?}");
    for name in ["other-0", "more-0", "other-1", "more-1"] {
        without.expect("ADDED", name).await;
    }
    assert_eq!(without.next_whenever().await, None, "no bookmarks for who does not allow them");
}

async fn watch_for(watch: &mut Watch, seconds: u64) -> serde_json::Value {
    let event = tokio::time::timeout(std::time::Duration::from_secs(seconds), watch.next_whenever()).await;
    event.expect("an event in time").expect("the watch goes on")
}

#[tokio::test]
async fn watch_takes_any_number_of_seconds_and_no_text() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    for text in ["x", "1.5", "1s", "99999999999999999999"] {
        world.get(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds={text}")).await.refused(400, "BadRequest");
    }
    // No time and endless time are time enough.
    for seconds in ["0", "", "9223372036854775807"] {
        let mut watch = world.watch(CONFIG_MAPS, &format!("timeoutSeconds={seconds}")).await;
        watch.expect("ADDED", "a").await;
        world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"seconds": format!("={seconds}")}})).await.ok();
        watch.expect("MODIFIED", "a").await;
    }
    // Of less than none nothing is left: the answer ends.
    let over = world.get(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=-5")).await;
    assert_eq!(over.code, 200, "{}", over.text);
}
