//! Writes that share a commit.

use super::*;

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
