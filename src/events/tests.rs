use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::Api as ApiServer;
use crate::api::auth::Identity;
use crate::api::pki::token_key;
use crate::config::{Network, StoreConfig};
use crate::store::Store;

async fn client() -> Client {
    let store = Store::open(&StoreConfig::in_memory()).await.unwrap();
    let api = ApiServer::new(store, Network::default(), token_key(None).unwrap(), CancellationToken::new());
    let client = api.client(Identity::system("test"));
    let mut namespace = k8s_openapi::api::core::v1::Namespace::default();
    for name in ["default", "x"] {
        namespace.metadata.name = Some(name.into());
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    }
    client
}

fn pod(namespace: Option<&str>) -> ObjectReference {
    serde_json::from_value(json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "namespace": namespace}))
        .unwrap()
}

/// The Events of a namespace once `condition` holds for them.
async fn events(client: &Client, namespace: &str, condition: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let wait = async {
        loop {
            let listed = api.list(&Default::default()).await.unwrap().items;
            let listed: Vec<Value> = listed.iter().map(|event| serde_json::to_value(event).unwrap()).collect();
            if condition(&listed) {
                return listed;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the events never came")
}

#[tokio::test]
async fn event_has_the_fields_that_describe_shows() {
    let client = client().await;
    let recorder = Recorder::new(client.clone(), "kubelet", Some("n1".into()));
    recorder.event(pod(Some("x")), EventType::Warning, "Failed", "it did not start");
    let event = events(&client, "x", |events| events.len() == 1).await.remove(0);
    assert_eq!(
        event["involvedObject"],
        json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "x", "uid": "u"})
    );
    let shown = ["type", "reason", "message", "count", "source", "reportingComponent", "reportingInstance"];
    assert_eq!(
        shown.map(|field| event[field].clone()),
        [
            json!("Warning"),
            json!("Failed"),
            json!("it did not start"),
            json!(1),
            json!({"component": "kubelet", "host": "n1"}),
            json!("kubelet"),
            json!("n1"),
        ]
    );
    assert!(event["firstTimestamp"].is_string());
    assert_eq!(event["firstTimestamp"], event["lastTimestamp"]);
    assert!(event["metadata"]["name"].as_str().unwrap().starts_with("p."));
}

#[tokio::test]
async fn repeated_event_raises_the_count() {
    let client = client().await;
    let recorder = Recorder::new(client.clone(), "kubelet", None);
    for _ in 0..3 {
        recorder.event(pod(Some("x")), EventType::Normal, "Pulled", "the image is there");
    }
    recorder.event(pod(Some("x")), EventType::Normal, "Pulled", "another image is there");
    let mut counts: Vec<i64> =
        events(&client, "x", |events| events.len() == 2 && events.iter().any(|e| e["count"] == 3))
            .await
            .iter()
            .map(|event| event["count"].as_i64().unwrap())
            .collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 3]);
}

#[tokio::test]
async fn repeated_event_that_was_deleted_begins_anew() {
    let client = client().await;
    let recorder = Recorder::new(client.clone(), "kubelet", None);
    recorder.event(pod(Some("x")), EventType::Normal, "Pulled", "again");
    let first = events(&client, "x", |events| events.len() == 1).await.remove(0);
    let api: Api<Event> = Api::namespaced(client.clone(), "x");
    api.delete(first["metadata"]["name"].as_str().unwrap(), &Default::default()).await.unwrap();
    recorder.event(pod(Some("x")), EventType::Normal, "Pulled", "again");
    let second = events(&client, "x", |events| events.len() == 1).await.remove(0);
    assert_eq!(second["count"], 1);
    assert_ne!(second["metadata"]["name"], first["metadata"]["name"]);
}

#[tokio::test]
async fn object_without_namespace_has_its_events_in_default() {
    let client = client().await;
    let recorder = Recorder::new(client.clone(), "node-controller", None);
    recorder.event(pod(None), EventType::Normal, "Starting", "hello");
    assert_eq!(events(&client, "default", |events| events.len() == 1).await[0]["reason"], "Starting");
}

#[test]
fn only_the_latest_events_are_remembered() {
    let mut written = Written::default();
    let key = |number: usize| NoteKey {
        namespace: None,
        kind: None,
        name: None,
        uid: None,
        field_path: None,
        type_: EventType::Normal,
        reason: String::new(),
        message: number.to_string(),
    };
    for number in 0..REMEMBERED + 3 {
        written.insert(key(number), String::new());
    }
    assert_eq!(written.by_key.len(), REMEMBERED);
    assert!(!written.by_key.contains_key(&key(2)) && written.by_key.contains_key(&key(3)));
}

#[test]
fn one_object_gets_a_burst_of_notes_and_then_one_in_five_minutes() {
    let object = |uid: &str| ObjectReference { uid: Some(uid.into()), ..ObjectReference::default() };
    let at = |second| Timestamp::from_second(second).unwrap();
    let mut allowance = Allowance::default();
    let burst = (0..40).filter(|_| allowance.take(&object("a"), at(0))).count();
    assert_eq!(burst, 25);
    assert!(allowance.take(&object("b"), at(0)), "others have their own");
    assert!(!allowance.take(&object("a"), at(299)));
    assert!(allowance.take(&object("a"), at(300)));
    assert!(!allowance.take(&object("a"), at(301)));
}

#[test]
fn newest_event_is_that_of_the_object_and_the_reason() {
    let event = |uid: &str, reason: &str, second: Option<u8>| -> Event {
        let at = second.map(|second| format!("2024-01-01T00:00:{second:02}Z"));
        serde_json::from_value(json!({"metadata": {"name": format!("{uid}{second:?}")}, "involvedObject": {"uid": uid},
            "reason": reason, "lastTimestamp": at}))
        .unwrap()
    };
    let events = [
        event("a", "Failed", None),
        event("a", "Failed", Some(2)),
        event("a", "Failed", Some(1)),
        event("a", "Other", Some(9)),
        event("b", "Failed", Some(8)),
    ];
    let of =
        |uid: &str, reason| newest(&events, &ObjectMeta { uid: Some(uid.into()), ..ObjectMeta::default() }, reason);
    assert_eq!(of("a", "Failed"), Some(&events[1]));
    assert_eq!(of("b", "Failed"), Some(&events[4]));
    assert_eq!(of("b", "Other"), None);
}
