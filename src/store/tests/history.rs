//! Every kept revision, against a model.

use super::*;

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
