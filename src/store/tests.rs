mod batches;
mod history;
mod opening;
mod watches;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::time::timeout;

use super::writer::BATCH_BYTES;
use super::*;

/// Rings that forget at once, so that watchers read from the log.
const TINY: Limits = Limits { events: 2, bytes: 4 << 20 };

/// An encoder whose value is "REVISION TEXT".
pub(super) fn encode(text: impl Into<String>) -> Encode {
    let text = text.into();
    Box::new(move |revision| Bytes::from(format!("{revision} {text}")))
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

async fn create(store: &Store, name: &str, text: &str) -> Arc<Entry> {
    store.commit(key(name), Op::Create { encode: encode(text) }).await.unwrap()
}

async fn update(store: &Store, name: &str, expect: u64, text: &str) -> Arc<Entry> {
    store.commit(key(name), Op::Update { expect, encode: encode(text) }).await.unwrap()
}

async fn delete(store: &Store, name: &str, expect: u64, text: &str) -> Arc<Entry> {
    store.commit(key(name), Op::Delete { expect, encode: encode(text) }).await.unwrap()
}

fn at(dir: &TempDir, keep_revisions: u64) -> StoreConfig {
    StoreConfig { path: Some(dir.path().join("store.db")), keep_revisions }
}

/// A store on disk with rings of a given size.
async fn open(dir: &TempDir, keep: u64, limits: Limits) -> Store {
    let opened = Log::open(&dir.path().join("store.db")).await.unwrap();
    Store::open_with(Some(opened), keep, limits).unwrap()
}

async fn in_memory() -> Store {
    Store::open(&StoreConfig::in_memory()).await.unwrap()
}

fn texts(items: &[Arc<Entry>]) -> Vec<String> {
    items.iter().map(|entry| format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value))).collect()
}

fn told(event: &Event) -> String {
    let value = |entry: &Arc<Entry>| String::from_utf8_lossy(&entry.value).into_owned();
    let previous = event.previous.as_ref().map(value);
    format!("{:?} {} {} <- {}", event.kind, event.entry.key, value(&event.entry), previous.unwrap_or_default())
}

/// The next events of a watch, up to the one with this revision.
async fn drain(watch: &mut Watch, until: u64) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    while events.last().is_none_or(|event| event.entry.revision < until) {
        match timeout(Duration::from_secs(20), watch.next()).await {
            Ok(event) => events.push(event.unwrap()),
            Err(_) => panic!("no event after {} of {until}", watch.revision()),
        }
    }
    assert_eq!(events.last().unwrap().entry.revision, until);
    events
}

async fn execute(path: &Path, sql: &'static str) {
    let mut connection =
        sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn count(path: &Path, sql: &'static str) -> i64 {
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    let count = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    count
}

#[test]
fn key_is_written_and_parsed_with_three_parts() {
    assert_eq!(key("services/default/web"), Key::new("services", "default", "web"));
    assert_eq!(key("nodes//n1"), Key::new("nodes", "", "n1"));
    for text in ["services/default/web", "nodes//n1", "endpointslices.discovery.k8s.io/a/b-x2"] {
        assert_eq!(key(text).to_string(), text);
    }
    for text in ["", "nodes", "nodes/n1", "/default/web", "nodes//"] {
        assert_eq!(text.parse::<Key>(), text.parse::<Key>().map(|_| unreachable!("{text:?} is no key")));
        assert!(text.parse::<Key>().unwrap_err().to_string().contains("RESOURCE/NAMESPACE/NAME"));
    }
}

#[tokio::test]
async fn writes_check_what_they_expect_and_tell_what_is_there() {
    let store = in_memory().await;
    let web = "services/default/web";
    assert_eq!(store.revision(), 0);

    let missing = store.commit(key(web), Op::Update { expect: 0, encode: encode("x") }).await;
    assert!(matches!(missing, Err(CommitError::NotFound)));
    let missing = store.commit(key(web), Op::Delete { expect: 0, encode: encode("x") }).await;
    assert!(matches!(missing, Err(CommitError::NotFound)));

    let first = create(&store, web, "a").await;
    assert_eq!((first.revision, first.created, &*first.value), (1, 1, b"1 a".as_slice()));
    let Err(CommitError::Exists(current)) = store.commit(key(web), Op::Create { encode: encode("x") }).await else {
        panic!("created twice")
    };
    assert_eq!(current, first);

    let second = update(&store, web, 1, "b").await;
    assert_eq!((second.revision, second.created, &*second.value), (2, 1, b"2 b".as_slice()));
    for op in [Op::Update { expect: 1, encode: encode("x") }, Op::Delete { expect: 1, encode: encode("x") }] {
        let Err(CommitError::Conflict(current)) = store.commit(key(web), op).await else { panic!("no conflict") };
        assert_eq!(current, second);
    }

    let last = delete(&store, web, 2, "b").await;
    assert_eq!((last.revision, last.created, &*last.value), (3, 1, b"3 b".as_slice()));
    assert_eq!(store.get(&key(web)), None);
    let again = create(&store, web, "c").await;
    assert_eq!((again.revision, again.created), (4, 4));
    assert_eq!(store.get(&key(web)), Some(again));
    // Refused writes take no revision.
    assert_eq!(store.revision(), 4);
}

#[tokio::test]
async fn list_covers_its_scope_ordered_by_namespace_and_name() {
    let store = in_memory().await;
    for name in ["pods/a-b/x", "pods/a/z", "pods/a/y", "pods/b/z", "podsets/a/y", "nodes//n2", "nodes//n1"] {
        create(&store, name, "").await;
    }
    let names = |scope| {
        let listing = store.list(&scope);
        assert_eq!(listing.revision, 7);
        listing.items.iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(Scope::all("pods")), ["pods/a/y", "pods/a/z", "pods/a-b/x", "pods/b/z"]);
    assert_eq!(names(Scope::namespace("pods", "a")), ["pods/a/y", "pods/a/z"]);
    assert_eq!(names(Scope::namespace("pods", "c")), [""; 0]);
    assert_eq!(names(Scope::all("nodes")), ["nodes//n1", "nodes//n2"]);
    assert_eq!(names(Scope::object(&key("pods/a/z"))), ["pods/a/z"]);
    let anywhere = Scope { resource: "pods".into(), namespace: None, name: Some("z".into()) };
    assert_eq!(names(anywhere), ["pods/a/z", "pods/b/z"]);
    assert_eq!(names(Scope::all("secrets")), [""; 0]);
}

#[tokio::test]
async fn one_encoding_is_shared_by_readers_and_watchers() {
    let store = in_memory().await;
    let mut watch = store.watch(Scope::all("pods"), 0).unwrap();
    let written = create(&store, "pods/a/x", "1").await;
    let told = watch.next().await.unwrap();
    let read = store.get(&key("pods/a/x")).unwrap();
    let listed = store.list(&Scope::all("pods")).items;
    for entry in [&told.entry, &read, &listed[0]] {
        assert!(Arc::ptr_eq(entry, &written));
    }
}
