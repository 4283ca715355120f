//! Backups of a store that is written to, and what comes of them.

use std::collections::BTreeMap;

use tempfile::TempDir;

use super::super::tests::encode;
use super::super::{Key, Op, ReadError, Scope, Store};
use super::*;
use crate::config::StoreConfig;

const DATABASE: &str = "store.db";

fn key(name: &str) -> Key {
    Key::new("pods", "a", name)
}

async fn create(store: &Store, name: &str) -> u64 {
    store.commit(key(name), Op::Create { encode: encode(name.to_owned()) }).await.unwrap().revision
}

async fn open(dir: &Path) -> Store {
    Store::open(&StoreConfig::at(dir.join(DATABASE))).await.unwrap()
}

fn keys() -> Vec<SideFile> {
    vec![SideFile { name: "ca.key".into(), content: b"secret".to_vec() }]
}

async fn restore_to(from: &Path, dir: &Path) -> Result<u64, BackupError> {
    restore(from, dir, DATABASE, |name| Some(Path::new("pki").join(name))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn backup_under_load_is_the_state_at_one_revision() {
    let home = TempDir::new().unwrap();
    let store = open(&home.path().join("old")).await;
    for i in 0..50 {
        create(&store, &format!("first-{i}")).await;
    }
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0.. {
                    let name = format!("{writer}-{i}");
                    let revision = create(&store, &name).await;
                    if i % 3 == 0 {
                        let op = Op::Delete { expect: revision, encode: encode(name.clone()) };
                        store.commit(key(&name), op).await.unwrap();
                    }
                }
            })
        })
        .collect();
    let mut backups = Vec::new();
    for i in 0..3 {
        let file = home.path().join(format!("backup-{i}"));
        let before = store.revision();
        let revision = backup(&home.path().join("old").join(DATABASE), &keys(), &file).await.unwrap();
        assert!(before <= revision && revision <= store.revision());
        backups.push((file, revision));
    }
    for writer in writers {
        writer.abort();
    }
    for (i, (file, revision)) in backups.iter().enumerate() {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let dir = home.path().join(format!("new-{i}"));
        assert_eq!(restore_to(file, &dir).await.unwrap(), revision + REVISION_BUMP);
        let restored = open(&dir).await;
        let then = store.list_at(&Scope::all("pods"), *revision).await.unwrap().items;
        assert_eq!(restored.list(&Scope::all("pods")).items, then);
        restored.close().await;
    }
    store.close().await;
}

#[tokio::test]
async fn rest_of_an_interrupted_backup_is_taken_over() {
    let home = TempDir::new().unwrap();
    let store = open(&home.path().join("old")).await;
    create(&store, "a").await;
    let (database, file) = (home.path().join("old").join(DATABASE), home.path().join("backup"));
    let part = home.path().join("backup.part");
    fs::write(&part, "half").unwrap();
    let other = fs::File::open(&part).unwrap();
    other.lock().unwrap();
    let refused = backup(&database, &keys(), &file).await;
    assert!(matches!(refused, Err(BackupError::Exists(at)) if at == part), "another makes it");
    assert_eq!(fs::read_to_string(&part).unwrap(), "half");
    drop(other);
    let revision = backup(&database, &keys(), &file).await.unwrap();
    assert!(!part.exists());
    assert_eq!(restore_to(&file, &home.path().join("new")).await.unwrap(), revision + REVISION_BUMP);
    store.close().await;
}

#[tokio::test]
async fn restored_store_begins_a_history_of_its_own() {
    let home = TempDir::new().unwrap();
    let old = open(&home.path().join("old")).await;
    let first = create(&old, "kept").await;
    let gone = create(&old, "gone").await;
    old.commit(key("gone"), Op::Delete { expect: gone, encode: encode("gone") }).await.unwrap();
    let file = home.path().join("backup");
    backup(&home.path().join("old").join(DATABASE), &keys(), &file).await.unwrap();
    let lost = create(&old, "lost").await;
    old.close().await;

    let dir = home.path().join("new");
    let begin = restore_to(&file, &dir).await.unwrap();
    assert_eq!(fs::read(dir.join("pki/ca.key")).unwrap(), b"secret");
    assert_eq!(fs::metadata(dir.join("pki/ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    let store = open(&dir).await;
    assert_eq!((store.revision(), store.compacted()), (begin, begin));
    let found: BTreeMap<String, u64> =
        store.list(&Scope::all("pods")).items.iter().map(|e| (e.key.name.to_string(), e.revision)).collect();
    assert_eq!(found, BTreeMap::from([("kept".to_owned(), first)]));
    // Whoever has seen the lost write learns that it has to list again, and its number is not given to another.
    assert!(matches!(store.watch(Scope::all("pods"), lost), Err(ReadError::Compacted)));
    for name in ["gone", "lost"] {
        assert!(create(&store, name).await > begin);
    }
    let op = Op::Update { expect: first, encode: encode("changed") };
    store.commit(key("kept"), op).await.unwrap();
    store.close().await;
    let store = open(&dir).await;
    assert_eq!(store.revision(), begin + 3);
    store.close().await;
}

#[tokio::test]
async fn what_is_not_a_backup_restores_nothing() {
    let home = TempDir::new().unwrap();
    let old = open(&home.path().join("old")).await;
    for i in 0..200 {
        create(&old, &format!("{i}")).await;
    }
    let database = home.path().join("old").join(DATABASE);
    let file = home.path().join("backup");
    backup(&database, &keys(), &file).await.unwrap();
    old.close().await;
    assert!(matches!(backup(&database, &keys(), &file).await, Err(BackupError::Exists(_))));
    let none = home.path().join("none");
    assert!(matches!(backup(&none, &[], &home.path().join("b")).await, Err(BackupError::NoDatabase(_))));

    let dir = home.path().join("new");
    assert!(matches!(restore_to(&database, &dir).await, Err(BackupError::NotABackup(_))));
    let text = home.path().join("text");
    fs::write(&text, "not a database, and longer than the header of one, which has one hundred bytes".repeat(9))
        .unwrap();
    assert!(matches!(restore_to(&text, &dir).await, Err(BackupError::NotABackup(_))));
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2048].fill(0xa5);
    let damaged = home.path().join("damaged");
    fs::write(&damaged, bytes).unwrap();
    assert!(matches!(restore_to(&damaged, &dir).await, Err(BackupError::Damaged { .. })));
    assert!(!dir.exists());

    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("mine"), "").unwrap();
    assert!(matches!(restore_to(&file, &dir).await, Err(BackupError::NotEmpty(_))));
    fs::remove_file(dir.join("mine")).unwrap();
    restore_to(&file, &dir).await.unwrap();
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("restoring")), "{left:?}");
}
