//! Opening, closing, and files that are not ours.

use super::*;

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
