//! What watchers are told, and what they cost.

use super::*;

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
async fn the_line_of_an_event_is_made_once_and_holds_the_only_copy_of_the_value() {
    let store = in_memory().await;
    let mut watches = [(); 2].map(|()| store.watch(Scope::all("pods"), 0).unwrap());
    create(&store, "pods/a/x", "1").await;
    delete(&store, "pods/a/x", 1, "2").await;
    let events = [drain(&mut watches[0], 2).await, drain(&mut watches[1], 2).await];
    for (event, same) in events[0].iter().zip(&events[1]) {
        let (kind, value) = (event.kind.name(), String::from_utf8_lossy(&event.entry.value));
        assert_eq!(event.line, format!("{{\"type\":\"{kind}\",\"object\":{value}}}\n"));
        assert_eq!(event.line.as_ptr(), same.line.as_ptr());
        assert!(event.line.as_ptr_range().contains(&event.entry.value.as_ptr()));
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
async fn who_yields_is_told_after_all_others() {
    let store = in_memory().await;
    let (told, mut order) = tokio::sync::mpsc::unbounded_channel();
    let mut watchers = tokio::task::JoinSet::new();
    // The yielding one waits first, and is of the resource that is written first.
    for (resource, name) in [("ipaddresses", "part"), ("services", "client")] {
        let watch = store.watch(Scope::all(resource), 0).unwrap();
        let mut watch = if name == "part" { watch.yielding() } else { watch };
        let told = told.clone();
        watchers.spawn(async move {
            watch.next().await.unwrap();
            told.send(name).unwrap();
        });
    }
    // Both wait after their first turn: this runtime has one thread.
    tokio::task::yield_now().await;
    let along = vec![(key("ipaddresses//10.96.0.1"), Op::Create { encode: encode("") })];
    store.commit_with(along, key("services/a/x"), Op::Create { encode: encode("") }).await.unwrap();
    assert_eq!([order.recv().await, order.recv().await], [Some("client"), Some("part")]);
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
