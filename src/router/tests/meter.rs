//! What the meter makes of the flow table.

use serde_json::json;

use super::world::{World, tcp};
use crate::router::meter::{Counted, Reading};

fn lines(reading: &Reading) -> Vec<(String, u64)> {
    let mut lines: Vec<_> =
        reading.passed.iter().map(|(line, bytes)| (format!("{}/{}", line.namespace, line.service), *bytes)).collect();
    lines.sort();
    lines
}

#[test]
fn reading_tells_what_passed_to_services_since_the_last_one() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let mut counted = Counted::default();
    let syn = tcp("10.244.1.2:40000", "10.96.0.11:80", "S");
    let size = syn.len() as u64;
    world.send("a1", &syn);
    world.send("a1", &tcp("10.244.1.2:40001", "10.244.1.3:80", "S"));
    assert_eq!(
        lines(&counted.table(world.pipeline.flows())),
        [("default/web".to_owned(), size)],
        "not from Pod to Pod"
    );
    assert_eq!(lines(&counted.table(world.pipeline.flows())), [], "nothing has passed since");
    world.send("a1", &syn);
    world.send("a1", &syn);
    assert_eq!(lines(&counted.table(world.pipeline.flows())), [("default/web".to_owned(), 2 * size)]);
}

#[test]
fn flow_in_the_place_of_another_counts_from_its_beginning() {
    let mut world = World::new();
    world.web(json!({}), &["b1"]);
    let mut counted = Counted::default();
    let syn = tcp("10.244.1.2:40000", "10.96.0.11:80", "S");
    for _ in 0..3 {
        world.send("a1", &syn);
    }
    counted.table(world.pipeline.flows());
    // What nobody answered ends after a minute.
    world.now += 61_000;
    world.pipeline.maintain(world.now);
    assert!(world.pipeline.flows().is_empty());
    world.send("a1", &syn);
    assert_eq!(lines(&counted.table(world.pipeline.flows())), [("default/web".to_owned(), syn.len() as u64)]);
}
