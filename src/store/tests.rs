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
async fn watch_tells_kind_new_state_and_previous_state_in_its_scope_only() {
    let store = in_memory().await;
    let mut all = store.watch(Scope::all("pods"), 0).unwrap();
    let mut one = store.watch(Scope::object(&key("pods/a/y")), 0).unwrap();
    let mut namespace = store.watch(Scope::namespace("pods", "b"), 2).unwrap();
    create(&store, "pods/a/x", "1").await;
    create(&store, "pods/b/x", "1").await;
    create(&store, "services/a/y", "1").await;
    update(&store, "pods/b/x", 2, "2").await;
    create(&store, "pods/a/y", "1").await;
    delete(&store, "pods/b/x", 4, "2").await;
    let events = drain(&mut all, 6).await;
    assert_eq!(
        events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        [
            "Added pods/a/x 1 1 <- ",
            "Added pods/b/x 2 1 <- ",
            "Modified pods/b/x 4 2 <- 2 1",
            "Added pods/a/y 5 1 <- ",
            "Deleted pods/b/x 6 2 <- 4 2",
        ]
    );
    let events = drain(&mut one, 5).await;
    assert_eq!(events.iter().map(|event| told(event)).collect::<Vec<_>>(), ["Added pods/a/y 5 1 <- "]);
    let events = drain(&mut namespace, 6).await;
    assert_eq!(
        events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        ["Modified pods/b/x 4 2 <- 2 1", "Deleted pods/b/x 6 2 <- 4 2"]
    );
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

#[tokio::test]
async fn bookmark_advances_over_other_resources_but_not_over_waiting_events() {
    let store = in_memory().await;
    let mut watch = store.watch(Scope::namespace("pods", "a"), 0).unwrap();
    assert_eq!(watch.revision(), 0);
    create(&store, "services/a/x", "").await;
    assert_eq!(watch.revision(), 1);
    create(&store, "pods/a/x", "").await;
    create(&store, "pods/b/x", "").await;
    create(&store, "pods/a/y", "").await;
    assert_eq!(watch.revision(), 1, "pods/a/x at 2 was not returned");
    assert_eq!(watch.next().await.unwrap().entry.revision, 2);
    assert_eq!(watch.revision(), 3, "pods/a/y at 4 was not returned");
    assert_eq!(watch.try_next().unwrap().unwrap().entry.revision, 4);
    create(&store, "services/a/y", "").await;
    assert_eq!(watch.revision(), 5);
    assert_eq!(watch.try_next().unwrap(), None);
}

#[tokio::test]
async fn commit_wakes_watchers_of_its_resource_only() {
    let store = in_memory().await;
    let feeds = ["pods", "services"].map(|resource| store.shared.feeds.get(&resource.into()));
    let changed = feeds.each_ref().map(|feed| feed.subscribe());
    create(&store, "pods/a/x", "").await;
    assert_eq!(changed.map(|changed| changed.has_changed().unwrap()), [true, false]);
}

#[tokio::test]
async fn watch_after_a_future_revision_begins_there() {
    let store = in_memory().await;
    let mut watch = store.watch(Scope::all("pods"), 2).unwrap();
    create(&store, "pods/a/x", "").await;
    create(&store, "pods/a/y", "").await;
    assert_eq!(watch.try_next().unwrap(), None);
    create(&store, "pods/a/z", "").await;
    assert_eq!(watch.next().await.unwrap().entry.revision, 3);
}

#[tokio::test]
async fn next_that_is_cancelled_loses_no_event() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, 1000, TINY).await;
    for i in 0..50 {
        create(&store, &format!("pods/a/{i}"), "").await;
    }
    let mut watch = store.watch(Scope::all("pods"), 0).unwrap();
    let mut seen = Vec::new();
    while seen.len() < 50 {
        // Once it is polled and dropped, wherever it stands.
        match watch.next().now_or_never() {
            Some(event) => seen.push(event.unwrap().entry.revision),
            None => seen.push(watch.next().await.unwrap().entry.revision),
        }
    }
    assert_eq!(seen, (1..=50).collect::<Vec<_>>());
    store.close().await;
}

#[tokio::test]
async fn queued_writes_share_one_commit_and_may_build_on_each_other() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 1000)).await.unwrap();
    let ops = [
        ("pods/a/x", Op::Create { encode: encode("1") }),
        ("pods/a/x", Op::Create { encode: encode("2") }),
        ("pods/a/x", Op::Update { expect: 1, encode: encode("3") }),
        ("pods/a/x", Op::Delete { expect: 2, encode: encode("3") }),
        ("pods/a/x", Op::Update { expect: 2, encode: encode("4") }),
        ("pods/a/x", Op::Create { encode: encode("5") }),
        ("pods/a/y", Op::Create { encode: encode("6") }),
    ];
    // The writer runs on this thread, too: it finds all of them in its queue.
    let results = join_all(ops.map(|(name, op)| store.commit(key(name), op))).await;
    let told = results.iter().map(|result| match result {
        Ok(entry) => format!("{}", entry.revision),
        Err(error) => error.to_string(),
    });
    assert_eq!(told.collect::<Vec<_>>(), ["1", "pods/a/x exists", "2", "3", "the object does not exist", "4", "5"]);
    assert_eq!(store.statements()[Statement::Append as usize].runs, 1);
    store.close().await;

    let store = Store::open(&at(&dir, 1000)).await.unwrap();
    assert_eq!(texts(&store.list(&Scope::all("pods")).items), ["pods/a/x=4 5", "pods/a/y=5 6"]);
    assert_eq!(texts(&store.list_at(&Scope::all("pods"), 2).await.unwrap().items), ["pods/a/x=2 3"]);
    store.close().await;
}

#[tokio::test]
async fn batches_are_bounded_in_rows_and_in_bytes() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 10_000)).await.unwrap();
    let writes = (0..700).map(|i| store.commit(key(&format!("pods/a/{i}")), Op::Create { encode: encode("x") }));
    let mut revisions: Vec<_> = join_all(writes).await.into_iter().map(|result| result.unwrap().revision).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=700).collect::<Vec<_>>());
    let small = store.statements()[Statement::Append as usize].runs;
    assert!((3..100).contains(&small), "700 writes in {small} batches");

    let large = "x".repeat(BATCH_BYTES / 2);
    let writes = (0..5).map(|i| store.commit(key(&format!("pods/b/{i}")), Op::Create { encode: encode(&large) }));
    assert!(join_all(writes).await.into_iter().all(|result| result.is_ok()));
    assert_eq!(store.statements()[Statement::Append as usize].runs - small, 3);
    store.close().await;
    assert_eq!(count(&dir.path().join("store.db"), "SELECT count(*) FROM revisions").await, 705);
}

#[tokio::test]
async fn encoder_that_panics_costs_its_own_write_only() {
    let store = in_memory().await;
    let broken: Encode = Box::new(|_| panic!("an object that cannot be encoded"));
    let (broken, fine) = futures::join!(
        store.commit(key("pods/a/x"), Op::Create { encode: broken }),
        store.commit(key("pods/a/y"), Op::Create { encode: encode("1") }),
    );
    assert!(matches!(broken, Err(CommitError::Unavailable(Unavailable::Encode))));
    assert_eq!(fine.unwrap().revision, 1);
    assert_eq!(store.get(&key("pods/a/x")), None);
}

#[tokio::test]
async fn row_that_the_writer_does_not_know_fails_a_write_and_is_published() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 1000)).await.unwrap();
    let mut watch = store.watch(Scope::all("pods"), 0).unwrap();
    create(&store, "pods/a/x", "1").await;
    // As a batch is whose commit was reported as failed although the disk took it.
    execute(
        &dir.path().join("store.db"),
        "INSERT INTO revisions (rev, key, created, prev_rev, deleted, at, value) \
         VALUES (2, 'pods/a/x', 1, 1, 0, 0, CAST('2 2' AS BLOB)), (3, 'pods/a/y', 3, 0, 0, 0, CAST('3 1' AS BLOB))",
    )
    .await;
    let clash = store.commit(key("pods/a/x"), Op::Update { expect: 1, encode: encode("mine") }).await;
    assert!(matches!(clash, Err(CommitError::Unavailable(Unavailable::Database(_)))));
    assert_eq!(store.revision(), 1);
    let Err(CommitError::Conflict(current)) =
        store.commit(key("pods/a/x"), Op::Update { expect: 1, encode: encode("mine") }).await
    else {
        panic!("written over what the disk has")
    };
    assert_eq!((current.revision, &*current.value), (2, b"2 2".as_slice()));
    assert_eq!(update(&store, "pods/a/x", 2, "mine").await.revision, 4);
    let events = drain(&mut watch, 4).await;
    assert_eq!(
        events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        [
            "Added pods/a/x 1 1 <- ",
            "Modified pods/a/x 2 2 <- 1 1",
            "Added pods/a/y 3 1 <- ",
            "Modified pods/a/x 4 mine <- 2 2",
        ]
    );
    store.close().await;
}

#[tokio::test]
async fn reopened_store_has_everything_and_goes_on_numbering() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1);
    let store = Store::open(&config).await.unwrap();
    create(&store, "pods/a/x", "1").await;
    create(&store, "nodes//n1", "1").await;
    update(&store, "pods/a/x", 1, "2").await;
    create(&store, "pods/a/y", "1").await;
    delete(&store, "pods/a/y", 4, "1").await;
    store.close().await;

    let store = Store::open(&config).await.unwrap();
    assert_eq!(store.revision(), 5, "the newest write, a delete, is kept with a history of one revision");
    assert_eq!(store.compacted(), 4);
    let listing = store.list(&Scope::all("pods"));
    assert_eq!((listing.revision, texts(&listing.items)), (5, vec!["pods/a/x=3 2".to_owned()]));
    assert_eq!(listing.items[0].created, 1);
    assert_eq!(texts(&store.list(&Scope::all("nodes")).items), ["nodes//n1=2 1"]);
    let mut watch = store.watch(Scope::all("pods"), 4).unwrap();
    assert_eq!(told(&watch.next().await.unwrap()), "Deleted pods/a/y 5 1 <- 4 1");
    // Over the tombstone of another run.
    assert_eq!(create(&store, "pods/a/y", "2").await.revision, 6);
    assert_eq!(told(&watch.next().await.unwrap()), "Added pods/a/y 6 2 <- ");
    store.close().await;
}

#[tokio::test]
async fn compaction_keeps_the_current_rows_and_the_last_revisions() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, 5, TINY).await;
    create(&store, "pods/a/old", "1").await;
    create(&store, "pods/a/gone", "1").await;
    delete(&store, "pods/a/gone", 2, "1").await;
    let mut revision = create(&store, "pods/a/busy", "1").await.revision;
    for i in 0..20 {
        revision = update(&store, "pods/a/busy", revision, &i.to_string()).await.revision;
    }
    let scope = Scope::all("pods");
    assert_eq!(revision, 24);
    // The writer compacts after it has answered.
    while store.compacted() < 19 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.compacted(), 19);

    assert!(matches!(store.watch(scope.clone(), 18), Err(ReadError::Compacted)));
    assert!(matches!(store.list_at(&scope, 18).await, Err(ReadError::Compacted)));
    assert!(matches!(store.list_at(&scope, 25).await, Err(ReadError::Future)));
    assert_eq!(texts(&store.list_at(&scope, 19).await.unwrap().items), ["pods/a/busy=19 14", "pods/a/old=1 1"]);
    let mut watch = store.watch(scope.clone(), 19).unwrap();
    let events = drain(&mut watch, 24).await;
    assert_eq!(told(&events[0]), "Modified pods/a/busy 20 15 <- 19 14");
    assert_eq!(events.len(), 5);
    // The tombstone of this key is compacted.
    assert_eq!(create(&store, "pods/a/gone", "2").await.revision, 25);
    store.close().await;

    // busy at 20 to 24, old, gone; and busy at 19 or 20 as the state at the floor.
    let path = dir.path().join("store.db");
    assert_eq!(count(&path, "SELECT floor FROM log").await, 20);
    assert_eq!(count(&path, "SELECT count(*) FROM revisions").await, 7);
    let store = Store::open(&at(&dir, 5)).await.unwrap();
    assert_eq!(texts(&store.list(&scope).items), ["pods/a/busy=24 19", "pods/a/gone=25 2", "pods/a/old=1 1"]);
    store.close().await;
}

#[tokio::test]
async fn shorter_history_is_compacted_at_the_start_without_a_write() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 10_000)).await.unwrap();
    let mut revision = create(&store, "pods/a/x", "").await.revision;
    for _ in 0..999 {
        revision = update(&store, "pods/a/x", revision, "").await.revision;
    }
    store.close().await;
    let store = Store::open(&at(&dir, 10)).await.unwrap();
    while store.compacted() < 989 {
        tokio::task::yield_now().await;
    }
    store.close().await;
    let rows = count(&dir.path().join("store.db"), "SELECT count(*) FROM revisions").await;
    assert!((11..=12).contains(&rows), "{rows} rows");
}

#[tokio::test]
async fn slow_watcher_is_told_that_it_fell_behind_and_costs_nothing() {
    for on_disk in [true, false] {
        let dir = TempDir::new().unwrap();
        let store = match on_disk {
            true => open(&dir, 100, TINY).await,
            false => Store::open_with(None, 100, TINY).unwrap(),
        };
        create(&store, "pods/a/x", "").await;
        let mut slow = store.watch(Scope::all("pods"), 0).unwrap();
        assert_eq!(slow.next().await.unwrap().entry.revision, 1);
        for i in 0..500 {
            create(&store, &format!("pods/a/{i}"), "").await;
        }
        while store.compacted() < 390 {
            tokio::task::yield_now().await;
        }
        assert!(slow.ahead.is_empty());
        let (events, bytes) = store.shared.feeds.get(&"pods".into()).size();
        assert!(events <= TINY.events && bytes < 1000);
        assert!(matches!(slow.try_next(), Err(ReadError::Compacted)));
        assert!(matches!(slow.next().await, Err(ReadError::Compacted)));
        assert!(matches!(slow.next().await, Err(ReadError::Compacted)), "it does not recover with a gap");
        store.close().await;
    }
}

#[tokio::test]
async fn ring_is_bounded_in_bytes() {
    let store = Store::open_with(None, 1000, Limits { events: 1000, bytes: 1000 }).unwrap();
    for i in 0..20 {
        create(&store, &format!("pods/a/{i}"), &"x".repeat(200)).await;
    }
    let feed = store.shared.feeds.get(&"pods".into());
    let (events, bytes) = feed.size();
    assert_eq!((events, bytes), (4, 4 * 203));
    assert_eq!(store.compacted(), 16);
    create(&store, "pods/a/large", &"x".repeat(5000)).await;
    assert_eq!(feed.size(), (1, 5003));
}

#[tokio::test]
async fn close_commits_what_is_queued_then_ends_watches_and_refuses_writes() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1000);
    let store = Store::open(&config).await.unwrap();
    let mut watch = store.watch(Scope::all("pods"), 0).unwrap();
    let mut waiting = store.watch(Scope::all("services"), 0).unwrap();
    let (handle, other) = (store.clone(), store.clone());
    let (written, ended, (), ()) = futures::join!(
        store.commit(key("pods/a/x"), Op::Create { encode: encode("1") }),
        waiting.next(),
        handle.close(),
        other.close(),
    );
    assert_eq!(written.unwrap().revision, 1);
    assert!(matches!(ended, Err(ReadError::Closed)));
    assert_eq!(watch.next().await.unwrap().entry.revision, 1);
    assert!(matches!(watch.next().await, Err(ReadError::Closed)));
    assert!(matches!(watch.try_next(), Err(ReadError::Closed)));
    assert!(matches!(store.watch(Scope::all("pods"), 1), Err(ReadError::Closed)));
    let refused = store.commit(key("pods/a/y"), Op::Create { encode: encode("1") }).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(Unavailable::Closed))));
    assert_eq!(store.list(&Scope::all("pods")).items.len(), 1);

    assert!(!dir.path().join("store.db-wal").exists(), "the log is copied into the database");
    assert_eq!(std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap(), "");
    let store = Store::open(&config).await.unwrap();
    assert_eq!(store.revision(), 1);
    store.close().await;
}

#[tokio::test]
async fn last_handle_dropped_ends_the_writer_and_releases_the_directory() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 1000)).await.unwrap();
    create(&store, "pods/a/x", "1").await;
    let mut watch = store.watch(Scope::all("pods"), 1).unwrap();
    drop(store);
    assert!(matches!(watch.next().await, Err(ReadError::Closed)));
    Store::open(&at(&dir, 1000)).await.unwrap().close().await;
}

#[tokio::test]
async fn directory_in_use_is_refused_with_the_holder() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(&at(&dir, 1000)).await.unwrap();
    let message = Store::open(&at(&dir, 1000)).await.err().unwrap().to_string();
    let (path, pid) = (dir.path().display(), std::process::id());
    assert_eq!(
        message,
        format!(
            "{path} is in use by process {pid}: end it with `vipyard down --data-dir {path}`, \
             or choose another directory with --data-dir"
        )
    );
    store.close().await;
    Store::open(&at(&dir, 1000)).await.unwrap().close().await;
}

#[tokio::test]
async fn foreign_files_are_refused_and_left_as_they_are() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1000);
    let path = config.path.clone().unwrap();
    std::fs::write(&path, "port: 6443\n".repeat(100)).unwrap();
    assert!(matches!(Store::open(&config).await, Err(OpenError::NotOurs { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "port: 6443\n".repeat(100));

    std::fs::remove_file(&path).unwrap();
    execute(&path, "CREATE TABLE songs (title TEXT)").await;
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&config).await.err().unwrap();
    assert_eq!(
        error.to_string(),
        format!(
            "{} is not a vipyard database: move it away, or choose another directory with --data-dir",
            path.display()
        )
    );
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn newer_schema_is_refused() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1000);
    let path = config.path.clone().unwrap();
    Store::open(&config).await.unwrap().close().await;
    execute(
        &path,
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'later', 1, x'00', 0)",
    )
    .await;
    let error = Store::open(&config).await.err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 9999, known: 1, .. }));
    assert_eq!(
        error.to_string(),
        format!(
            "{} was written by a newer vipyard (schema 9999, this one knows 1): use that version, \
             or choose another directory with --data-dir",
            path.display()
        )
    );
}

#[tokio::test]
async fn damaged_database_is_refused() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1000);
    let path = config.path.clone().unwrap();
    let store = Store::open(&config).await.unwrap();
    for i in 0..100 {
        create(&store, &format!("pods/a/{i}"), &"x".repeat(1000)).await;
    }
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 40_000..end - 20_000].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let error = Store::open(&config).await.err().unwrap();
    assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("`vipyard restore BACKUP`"));
}

#[tokio::test]
async fn start_that_was_cut_short_is_completed() {
    let dir = TempDir::new().unwrap();
    let config = at(&dir, 1000);
    // Marked as ours, the migrations not run.
    execute(config.path.as_deref().unwrap(), "PRAGMA application_id = 1449750649; VACUUM").await;
    let store = Store::open(&config).await.unwrap();
    assert_eq!(create(&store, "pods/a/x", "1").await.revision, 1);
    store.close().await;
}

#[tokio::test]
async fn place_that_cannot_be_written_is_named() {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let path = dir.path().join("file/store.db");
    let error = Store::open(&StoreConfig::at(path)).await.err().unwrap();
    assert!(matches!(error, OpenError::Io { .. }));
    assert!(error.to_string().starts_with(&format!("cannot open {}/file: ", dir.path().display())));
}

#[tokio::test]
async fn database_is_readable_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("data/store.db");
    let store = Store::open(&StoreConfig::at(path.clone())).await.unwrap();
    create(&store, "secrets/a/x", "1").await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for name in ["store.db", "store.db-wal", "store.db-shm", LOCK_FILE] {
        assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
    }
    store.close().await;
}

/// A random operation on one of a few keys, valid or not.
fn random_op(random: &mut StdRng, current: Option<&Arc<Entry>>, text: String) -> Op {
    let expect = match current {
        Some(entry) if random.random_bool(0.9) => entry.revision,
        _ => random.random_range(0..50),
    };
    match random.random_range(0..10) {
        0..4 => Op::Create { encode: encode(text) },
        4..8 => Op::Update { expect, encode: encode(text) },
        _ => Op::Delete { expect, encode: encode(text) },
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_writers_and_watchers_see_one_sequence_without_gaps() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, 1_000_000, Limits { events: 64, bytes: 1 << 20 }).await;
    const RESOURCES: [&str; 3] = ["pods", "services", "nodes"];
    let writers = (0..8u64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(writer);
            let mut acknowledged = Vec::new();
            for i in 0..250 {
                let resource = RESOURCES[random.random_range(0..3)];
                let key = key(&format!("{resource}/ns/{}", random.random_range(0..6)));
                let op = random_op(&mut random, store.get(&key).as_ref(), format!("{writer}-{i}"));
                let is_delete = matches!(op, Op::Delete { .. });
                if let Ok(entry) = store.commit(key.clone(), op).await {
                    assert!(store.revision() >= entry.revision, "a committed write is visible to its caller");
                    let seen = store.get(&key).map_or(entry.revision, |seen| seen.revision);
                    assert!(seen >= entry.revision);
                    acknowledged.push((entry, is_delete));
                }
            }
            acknowledged
        })
    });
    // While the writes go on: one keeps up from the start, one per resource stops for every event.
    let followers = RESOURCES.map(|resource| {
        let mut watch = store.watch(Scope::all(resource), 0).unwrap();
        let store = store.clone();
        tokio::spawn(async move {
            let mut events = Vec::new();
            loop {
                match watch.next().await {
                    Ok(event) => {
                        assert!(
                            store.revision() >= event.entry.revision,
                            "an event is told after its write is visible"
                        );
                        events.push(event);
                    }
                    Err(ReadError::Closed) => return events,
                    Err(error) => panic!("{error}"),
                }
                tokio::task::yield_now().await;
            }
        })
    });
    let mut acknowledged: Vec<_> =
        join_all(writers.collect::<Vec<_>>()).await.into_iter().flat_map(Result::unwrap).collect();
    acknowledged.sort_by_key(|(entry, _)| entry.revision);
    let newest = store.revision();
    assert!(newest > 500, "only {newest} of 2000 writes were valid");
    assert_eq!(
        acknowledged.iter().map(|(entry, _)| entry.revision).collect::<Vec<_>>(),
        (1..=newest).collect::<Vec<_>>()
    );

    let listings = RESOURCES.map(|resource| store.list(&Scope::all(resource)).items);
    let late = join_all(RESOURCES.map(|resource| {
        let mut watch = store.watch(Scope::all(resource), 0).unwrap();
        let mut own = acknowledged.iter().filter(|(entry, _)| *entry.key.resource == *resource);
        let last = own.next_back().unwrap().0.revision;
        async move { drain(&mut watch, last).await }
    }))
    .await;
    store.close().await;
    let live: Vec<_> = join_all(followers).await.into_iter().map(Result::unwrap).collect();
    for ((live, late), listing) in live.into_iter().zip(late).zip(listings) {
        assert_eq!(live, late, "the rings and the log tell the same");
        let mut state = BTreeMap::new();
        for event in &live {
            let at = acknowledged.binary_search_by_key(&event.entry.revision, |(entry, _)| entry.revision).unwrap();
            assert_eq!(acknowledged[at], (Arc::clone(&event.entry), event.kind == EventKind::Deleted));
            let previous = match event.kind {
                EventKind::Deleted => state.remove(&event.entry.key),
                _ => state.insert(event.entry.key.clone(), Arc::clone(&event.entry)),
            };
            assert_eq!(event.previous, previous);
            assert_eq!(event.kind == EventKind::Added, previous.is_none());
        }
        assert_eq!(state.into_values().collect::<Vec<_>>(), listing);
    }
}

/// Runs valid and refused writes and compares every kept revision with a model that keeps all states.
async fn history_is_exact(store: Store, keep: u64, seed: u64, writes: usize) {
    let scopes = [Scope::all("pods"), Scope::namespace("nodes", "a"), Scope::object(&key("pods/a-b/1"))];
    let mut random = StdRng::seed_from_u64(seed);
    let mut states: Vec<BTreeMap<Key, Arc<Entry>>> = vec![BTreeMap::new()];
    for i in 0..writes + scopes.len() {
        let resource = ["pods", "nodes"][random.random_range(0..2)];
        let namespace = ["", "a", "a-b"][random.random_range(0..3)];
        let mut key = key(&format!("{resource}/{namespace}/{}", random.random_range(0..3)));
        let mut op = random_op(&mut random, store.get(&key).as_ref(), i.to_string());
        if i >= writes {
            // In the end one that every scope covers in turn, so that each watch has an event to wait for.
            key = ["pods/a-b/1", "nodes/a/1", "pods/a-b/1"][i - writes].parse().unwrap();
            op = match store.get(&key) {
                Some(entry) => Op::Update { expect: entry.revision, encode: encode("end") },
                None => Op::Create { encode: encode("end") },
            };
        }
        let is_delete = matches!(op, Op::Delete { .. });
        let mut state = states.last().unwrap().clone();
        match (store.commit(key.clone(), op).await, is_delete) {
            (Ok(_), true) => drop(state.remove(&key)),
            (Ok(entry), false) => drop(state.insert(key, entry)),
            (Err(_), _) => continue,
        }
        states.push(state);
        assert_eq!(store.revision(), states.len() as u64 - 1);
    }
    let newest = store.revision();
    // The writer compacts after it has answered.
    while newest.saturating_sub(keep) > store.compacted() + keep / 10 {
        tokio::task::yield_now().await;
    }
    let floor = store.compacted();
    for scope in scopes {
        let expected = |revision: u64| {
            let state = &states[usize::try_from(revision).unwrap()];
            state.values().filter(|entry| scope.contains(&entry.key)).cloned().collect::<Vec<_>>()
        };
        let last = expected(newest).iter().map(|entry| entry.revision).max().unwrap();
        for revision in floor..=newest {
            let listing = store.list_at(&scope, revision).await.unwrap();
            assert_eq!((listing.revision, &listing.items), (revision, &expected(revision)), "seed {seed}");
            let mut state: BTreeMap<_, _> = listing.items.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
            let mut watch = store.watch(scope.clone(), revision).unwrap();
            let events = if revision < last { drain(&mut watch, last).await } else { vec![] };
            assert_eq!(watch.revision(), newest);
            let mut before = revision;
            for event in events {
                assert!(event.entry.revision > before, "seed {seed}");
                before = event.entry.revision;
                let previous = match event.kind {
                    EventKind::Deleted => state.remove(&event.entry.key),
                    _ => state.insert(event.entry.key.clone(), Arc::clone(&event.entry)),
                };
                assert_eq!(event.previous, previous, "seed {seed}");
            }
            assert_eq!(state.into_values().collect::<Vec<_>>(), expected(newest), "seed {seed}");
        }
    }
    store.close().await;
}

fn block_on(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_kept_revision_can_be_listed_and_watched_from(
        seed: u64, keep in 5u64..60, writes in 1usize..120, events in 1usize..20,
    ) {
        block_on(async {
            let dir = TempDir::new().unwrap();
            let limits = Limits { events, bytes: 1 << 20 };
            history_is_exact(open(&dir, keep, limits).await, keep, seed, writes).await;
            history_is_exact(Store::open_with(None, keep, limits).unwrap(), keep, seed, writes).await;
        });
    }
}

#[tokio::test]
async fn writes_that_go_along_are_made_with_the_write_or_not_at_all() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir, 1000, TINY).await;
    let old = create(&store, "addresses//old", "old").await;
    let along = |expect| {
        vec![
            (key("addresses//old"), Op::Delete { expect, encode: encode("old") }),
            (key("addresses//new"), Op::Put { encode: encode("new") }),
            (key("addresses//none"), Op::Update { expect: 7, encode: encode("none") }),
        ]
    };
    let write = || Op::Create { encode: encode("a") };
    let made = store.commit_with(along(old.revision), key("services/default/a"), write()).await.unwrap();
    assert_eq!(made.revision, old.revision + 3, "the one whose condition does not hold takes no revision");
    assert_eq!(texts(&store.list(&Scope::all("addresses")).items), ["addresses//new=3 new"]);

    // The Service exists: nothing of this happens.
    let refused = store.commit_with(along(old.revision), key("services/default/a"), write()).await;
    assert!(matches!(refused, Err(CommitError::Exists(_))), "{refused:?}");
    // What cannot be encoded takes the others with it.
    let broken = Op::Create { encode: Box::new(|_| panic!("no value")) };
    let refused = store.commit_with(along(1), key("services/default/b"), broken).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(Unavailable::Encode))), "{refused:?}");
    assert_eq!(store.revision(), made.revision);
    assert_eq!(texts(&store.list(&Scope::all("addresses")).items), ["addresses//new=3 new"]);

    // A put replaces what is there, and all of it is in the log.
    let put = vec![(key("addresses//new"), Op::Put { encode: encode("newer") })];
    store.commit_with(put, key("services/default/b"), write()).await.unwrap();
    store.close().await;
    let store = open(&dir, 1000, TINY).await;
    assert_eq!(texts(&store.list(&Scope::all("addresses")).items), ["addresses//new=5 newer"]);
    assert_eq!(store.revision(), 6);
}
