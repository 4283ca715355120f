//! Lists: selectors, pages, revisions, and the forms that kubectl asks for.

use std::collections::BTreeMap;

use serde_json::json;
use vipyard::config::{Network, StoreConfig};

use crate::world::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PARTIAL_LIST: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn labelled(world: &World, name: &str, labels: BTreeMap<&str, &str>) {
    let mut object = config_map(name, "1");
    object["metadata"]["labels"] = json!(labels);
    world.post(CONFIG_MAPS, object).await.created();
}

#[tokio::test]
async fn label_selectors_choose() {
    let world = World::start().await;
    labelled(&world, "a", [("app", "web"), ("tier", "front")].into()).await;
    labelled(&world, "b", [("app", "web")].into()).await;
    labelled(&world, "c", [("app", "db")].into()).await;
    labelled(&world, "d", [].into()).await;
    for (selector, expected) in [
        ("app=web", vec!["a", "b"]),
        ("app==web,tier=front", vec!["a"]),
        ("app!=web", vec!["c", "d"]),
        ("app in (web,db)", vec!["a", "b", "c"]),
        ("app notin (web)", vec!["c", "d"]),
        ("tier", vec!["a"]),
        ("!app", vec!["d"]),
        ("app,!tier", vec!["b", "c"]),
    ] {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("labelSelector", selector).finish();
        assert_eq!(names(&world.get(&format!("{CONFIG_MAPS}?{query}")).await.ok()), expected, "{selector}");
    }
    world.get(&format!("{CONFIG_MAPS}?labelSelector=app%20in%20web")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn field_selectors_choose() {
    let world = World::start().await;
    world.pod("here", json!({}), Some("n1")).await;
    world.pod("there", json!({}), Some("n2")).await;
    world.pod("nowhere", json!({}), None).await;
    world.run_pod("there", "10.244.2.2", true).await;
    for (selector, expected) in [
        ("metadata.name=here", vec!["here"]),
        ("spec.nodeName=n1", vec!["here"]),
        ("spec.nodeName!=n1", vec!["nowhere", "there"]),
        ("spec.nodeName=", vec!["nowhere"]),
        ("status.phase=Running", vec!["there"]),
        ("status.phase=Pending,spec.nodeName=n1", vec!["here"]),
    ] {
        let query: String =
            form_urlencoded::Serializer::new(String::new()).append_pair("fieldSelector", selector).finish();
        assert_eq!(names(&world.get(&format!("{PODS}?{query}")).await.ok()), expected, "{selector}");
    }
    let status = world.get(&format!("{PODS}?fieldSelector=spec.colour%3Dred")).await.refused(400, "BadRequest");
    assert!(message(&status).contains("spec.colour"), "{status}");
}

#[tokio::test]
async fn pages_show_one_revision_although_objects_come_and_go() {
    let world = World::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        world.config_map(name, "1").await;
    }
    let first = world.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);

    world.config_map("bb", "1").await;
    world.delete(&format!("{CONFIG_MAPS}/d"), json!({})).await.ok();
    let mut rest = Vec::new();
    let mut page = first.clone();
    while let Some(token) = page["metadata"]["continue"].as_str() {
        page = world.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.ok();
        assert_eq!(revision(&page), revision(&first));
        rest.extend(names(&page).into_iter().map(str::to_owned));
    }
    assert_eq!(rest, ["c", "d", "e"]);
    world.get(&format!("{CONFIG_MAPS}?limit=2&continue=nonsense")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn pages_of_a_selection_hold_what_is_selected_to_the_end() {
    let world = World::start().await;
    for (i, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        labelled(&world, name, BTreeMap::from([("odd", if i % 2 == 0 { "no" } else { "yes" })])).await;
    }
    let path = format!("{CONFIG_MAPS}?limit=2&labelSelector=odd%3Dyes");
    let first = world.get(&path).await.ok();
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["b", "d"], &json!(null)));
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let last = world.get(&format!("{path}&continue={token}")).await.ok();
    assert_eq!((names(&last), &last["metadata"]["continue"]), (vec!["f"], &json!(null)));
    let exact = world.get(&format!("{CONFIG_MAPS}?limit=3&labelSelector=odd%3Dyes")).await.ok();
    assert_eq!((names(&exact).len(), &exact["metadata"]["continue"]), (3, &json!(null)));
}

#[tokio::test]
async fn list_at_an_exact_revision_shows_the_past() {
    let world = World::start().await;
    let then = revision(&world.config_map("a", "old").await);
    world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": "new"}})).await.ok();
    world.config_map("b", "1").await;
    let past = world.get(&format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact")).await.ok();
    assert_eq!((names(&past), &past["items"][0]["data"]["key"]), (vec!["a"], &json!("old")));
    assert_eq!(revision(&past), then);
}

#[tokio::test]
async fn list_below_the_compaction_floor_is_expired() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreConfig { keep_revisions: 10, ..StoreConfig::at(dir.path().join("store.db")) };
    let world = World::on(&store, Network::default()).await;
    let then = revision(&world.config_map("a", "1").await);
    for round in 0..200 {
        world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": format!("{round}")}})).await.ok();
    }
    let then: u64 = then.parse().unwrap();
    world.until(async || (world.api.store().compacted() > then).then_some(())).await;
    let path = format!("{CONFIG_MAPS}?resourceVersion={then}&resourceVersionMatch=Exact");
    let status = world.get(&path).await.refused(410, "Expired");
    assert_eq!(message(&status), "The resourceVersion for the provided list is too old.");
    world.end().await;
}

#[tokio::test]
async fn page_of_a_compacted_revision_offers_the_rest_as_it_is_now() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreConfig { keep_revisions: 10, ..StoreConfig::at(dir.path().join("store.db")) };
    let world = World::on(&store, Network::default()).await;
    for name in ["a", "b", "c"] {
        world.config_map(name, "1").await;
    }
    let first = world.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let next = first["metadata"]["continue"].as_str().unwrap();
    world.delete(&format!("{CONFIG_MAPS}/b"), json!({})).await.ok();
    for round in 0..200 {
        world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": format!("{round}")}})).await.ok();
    }
    let then: u64 = revision(&first).parse().unwrap();
    world.until(async || (world.api.store().compacted() > then).then_some(())).await;
    let status = world.get(&format!("{CONFIG_MAPS}?limit=1&continue={next}")).await.refused(410, "Expired");
    assert!(message(&status).contains("results in an inconsistent list"), "{status}");
    let rest = status["metadata"]["continue"].as_str().unwrap();
    let rest = world.get(&format!("{CONFIG_MAPS}?limit=1&continue={rest}")).await.ok();
    assert_eq!(names(&rest), ["c"]);
    world.end().await;
}

#[tokio::test]
async fn options_of_lists_that_contradict_one_another_are_refused() {
    let world = World::start().await;
    let now = revision(&world.config_map("a", "1").await);
    for (query, expected) in [
        (
            "resourceVersionMatch=Exact",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch is \
             forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: resourceVersionMatch \
             \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Newest",
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Unsupported value: \"Newest\": supported \
             values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "sendInitialEvents=true",
            "ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: sendInitialEvents is forbidden \
             for list",
        ),
    ] {
        let status = world.get(&format!("{CONFIG_MAPS}?{query}")).await.refused(422, "Invalid");
        assert_eq!(message(&status), expected);
    }
    world.config_map("b", "1").await;
    let first = world.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let next = first["metadata"]["continue"].as_str().unwrap();
    let both = format!("{CONFIG_MAPS}?limit=1&continue={next}&resourceVersion={now}");
    let status = world.get(&both).await.refused(400, "BadRequest");
    assert_eq!(message(&status), "specifying resource version is not allowed when using continue");
    let status = world.get(&format!("{CONFIG_MAPS}?resourceVersion=abc")).await.refused(400, "BadRequest");
    assert_eq!(
        message(&status),
        "invalid resource version: resourceVersion: Invalid value: \"abc\": strconv.ParseUint: parsing \"abc\": \
         invalid syntax"
    );
}

#[tokio::test]
async fn page_at_a_revision_is_of_that_revision() {
    let world = World::start().await;
    let then = revision(&world.config_map("a", "1").await);
    world.config_map("b", "1").await;
    let newer = world.get(&format!("{CONFIG_MAPS}?resourceVersion={then}")).await.ok();
    assert_eq!(names(&newer), ["a", "b"]);
    let exact = world.get(&format!("{CONFIG_MAPS}?resourceVersion={then}&limit=5")).await.ok();
    assert_eq!((names(&exact), revision(&exact)), (vec!["a"], then));
}

#[tokio::test]
async fn limit_below_zero_is_none() {
    let world = World::start().await;
    for name in ["a", "b"] {
        world.config_map(name, "1").await;
    }
    for limit in ["0", "-1", "-9223372036854775808"] {
        assert_eq!(names(&world.get(&format!("{CONFIG_MAPS}?limit={limit}")).await.ok()), ["a", "b"], "{limit}");
    }
}

#[tokio::test]
async fn large_list_is_compressed_for_those_who_ask() {
    let world = World::start().await;
    for name in ["a", "b"] {
        world.config_map(name, &"text ".repeat(20_000)).await;
    }
    let get = |accept: &'static str| request("GET", CONFIG_MAPS).header("accept-encoding", accept);
    let plain = world.send(get("identity").body(axum::body::Body::empty()).unwrap()).await;
    let packed = world.send(get("gzip").body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(plain.headers.get("content-encoding"), None);
    assert_eq!(
        (&packed.headers["content-encoding"], &packed.headers["vary"]),
        (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
    );
    assert!(packed.text.len() < plain.text.len() / 10);
    let watch = world
        .send(
            get("gzip")
                .uri(format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1"))
                .body(axum::body::Body::empty())
                .unwrap(),
        )
        .await;
    assert_eq!(watch.headers.get("content-encoding"), None);
    assert!(watch.text.len() > plain.text.len() / 2);
}

#[tokio::test]
async fn revision_of_the_future_is_a_timeout_with_its_cause() {
    let world = World::start().await;
    let status = world.get(&format!("{CONFIG_MAPS}?resourceVersion=999999999")).await.refused(504, "Timeout");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    world.get(&format!("{CONFIG_MAPS}?resourceVersion=abc")).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn table_has_the_columns_of_kubectl_get() {
    let world = World::start().await;
    world.post(SERVICES, service("web", json!({"clusterIP": "10.96.0.50", "ports": [{"port": 80}]}))).await.created();
    world.pod("p", json!({}), Some("n1")).await;

    let table = world.get_as(&format!("{SERVICES}/web"), TABLE).await.ok();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<(&str, i64)> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| (column["name"].as_str().unwrap(), column["priority"].as_i64().unwrap()))
        .collect();
    assert_eq!(
        columns,
        [("Name", 0), ("Type", 0), ("Cluster-IP", 0), ("External-IP", 0), ("Port(s)", 0), ("Age", 0), ("Selector", 1)]
    );
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        cells.as_array().unwrap()[..5],
        [json!("web"), json!("ClusterIP"), json!("10.96.0.50"), json!("<none>"), json!("80/TCP")]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let pods = world.get_as(PODS, TABLE).await.ok();
    let names: Vec<&str> =
        pods["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap()).collect();
    assert_eq!(names[..5], ["Name", "Ready", "Status", "Restarts", "Age"]);
    assert_eq!(pods["rows"][0]["cells"].as_array().unwrap()[..3], [json!("p"), json!("0/1"), json!("Pending")]);
}

#[tokio::test]
async fn partial_metadata_leaves_out_everything_else() {
    let world = World::start().await;
    let created = world.config_map("a", "1").await;
    let one = world.get_as(&format!("{CONFIG_MAPS}/a"), PARTIAL).await.ok();
    assert_eq!(
        one,
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": created["metadata"]})
    );
    let list = world.get_as(CONFIG_MAPS, PARTIAL_LIST).await.ok();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0], one);
}
