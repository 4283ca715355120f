use serde_json::json;

use super::*;
use crate::cluster::{Cluster, Writers};

const CONTROLLER: &str = "tested";

struct World {
    book: SliceBook,
    cluster: Cluster,
    writers: Writers,
}

impl World {
    fn new() -> Self {
        let (cluster, writers) = Cluster::new();
        Self { book: SliceBook::new(CONTROLLER, cluster.slices.clone()), cluster, writers }
    }

    /// The watch shows the slice: in the cache, and to the book.
    fn shown(&self, slice: &EndpointSlice) -> Vec<Noted> {
        let old = self.cluster.slices.get("default", &slice.name_any());
        self.writers.slices.apply(slice.clone());
        self.book.note(&Change::Applied { old, new: Arc::new(slice.clone()) })
    }

    fn shown_gone(&self, slice: &EndpointSlice) -> Vec<Noted> {
        self.writers.slices.delete(&ObjectKey::of(slice));
        self.book.note(&Change::Deleted(Arc::new(slice.clone())))
    }

    /// Names of the slices of web, or "behind" or "lost".
    fn slices(&self, after: Duration) -> Vec<String> {
        match self.book.slices_of(&web(), Instant::now() + after) {
            Slices::Known(slices) => slices.iter().map(|slice| slice.name_any()).collect(),
            Slices::Behind(_) => vec!["behind".into()],
            Slices::Lost => vec!["lost".into()],
        }
    }
}

fn web() -> ObjectKey {
    ObjectKey::new("default", "web")
}

fn slice(name: &str, version: u64) -> EndpointSlice {
    let metadata = json!({
        "name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
        "labels": {SERVICE_NAME_LABEL: "web", MANAGED_BY_LABEL: CONTROLLER},
    });
    serde_json::from_value(json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []})).unwrap()
}

const NOW: Duration = Duration::ZERO;

#[test]
fn owner_is_not_reconciled_before_the_cache_shows_its_creation() {
    let world = World::new();
    world.book.wrote(&web(), &slice("web-a", 5));
    assert_eq!(world.slices(NOW), ["behind"]);
    assert_eq!(world.shown(&slice("web-a", 5)), [Noted::CaughtUp(web())], "somebody was turned away");
    assert_eq!(world.slices(NOW), ["web-a"]);
}

#[test]
fn own_writes_queue_nothing_and_others_do_es17() {
    let world = World::new();
    world.book.wrote(&web(), &slice("web-a", 5));
    assert_eq!(world.shown(&slice("web-a", 5)), [Noted::Own]);
    world.book.wrote(&web(), &slice("web-a", 7));
    assert_eq!(world.shown(&slice("web-a", 6)), [Noted::Own], "overtaken by the write at 7");
    assert_eq!(world.slices(NOW), ["behind"]);
    assert_eq!(world.shown(&slice("web-a", 9)), [Noted::Foreign(web())]);
    assert_eq!(world.shown_gone(&slice("web-a", 9)), [Noted::Foreign(web())]);
    assert_eq!(world.slices(NOW), [""; 0]);
}

#[test]
fn event_that_was_faster_than_the_answer_is_not_awaited() {
    let world = World::new();
    world.shown(&slice("web-a", 5));
    world.book.wrote(&web(), &slice("web-a", 5));
    assert_eq!(world.slices(NOW), ["web-a"]);
}

#[test]
fn deleted_slice_is_awaited_to_go() {
    let world = World::new();
    let old = slice("web-a", 5);
    world.shown(&old);
    world.book.deleted(&web(), &old);
    assert_eq!(world.slices(NOW), ["behind"]);
    assert_eq!(world.shown_gone(&old), [Noted::CaughtUp(web())]);
    assert_eq!(world.slices(NOW), [""; 0]);
    assert!(world.book.owners.lock().is_empty(), "nothing is kept of what is gone");
}

#[test]
fn api_is_asked_when_the_cache_stays_behind() {
    let world = World::new();
    world.book.wrote(&web(), &slice("web-a", 5));
    assert_eq!(world.slices(PATIENCE / 2), ["behind"]);
    assert_eq!(world.slices(PATIENCE * 2), ["lost"]);
    assert_eq!(world.slices(PATIENCE * 2), [""; 0], "the answer of the API counts, nothing is awaited any more");
}

#[test]
fn slices_of_others_are_not_ours_es17() {
    let world = World::new();
    let mut foreign = slice("web-a", 5);
    foreign.metadata.labels.as_mut().unwrap().insert(MANAGED_BY_LABEL.into(), "other".into());
    assert_eq!(world.shown(&foreign), []);
    assert_eq!(world.slices(NOW), [""; 0]);
}

#[test]
fn slice_whose_labels_were_taken_away_concerns_its_former_owner() {
    let world = World::new();
    world.shown(&slice("web-a", 5));
    let mut bare = slice("web-a", 6);
    bare.metadata.labels = None;
    assert_eq!(world.shown(&bare), [Noted::Foreign(web())]);
    assert_eq!(world.slices(NOW), [""; 0]);
    let mut moved = slice("web-a", 7);
    moved.metadata.labels.as_mut().unwrap().insert(SERVICE_NAME_LABEL.into(), "db".into());
    assert_eq!(world.shown(&moved), [Noted::Foreign(ObjectKey::new("default", "db"))]);
    assert_eq!(
        world.shown(&slice("web-a", 8)),
        [Noted::Foreign(ObjectKey::new("default", "db")), Noted::Foreign(web())]
    );
}
