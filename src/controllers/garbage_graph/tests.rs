use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};

use super::*;
use crate::controllers::Kind;

const POD: usize = 0;
const SERVICE: usize = 1;
const NODE: usize = 2;

fn graph() -> Graph {
    let kind = |group: &str, kind: &str, namespaced: bool| Kind {
        resource: ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind)),
        namespaced,
        served: true,
    };
    let kinds = Kinds::default();
    for kind in [kind("", "Pod", true), kind("", "Service", true), kind("", "Node", false)] {
        kinds.add(&kind);
    }
    Graph::new(Arc::new(kinds))
}

fn owner(kind: &str, name: &str, blocks: bool) -> Value {
    let api_version = if kind == "Widget" { "example.com/v1" } else { "v1" };
    json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": name, "blockOwnerDeletion": blocks})
}

/// An object whose uid is its name.
fn object(namespace: &str, name: &str, owners: Value, change: Value) -> ObjectMeta {
    let mut metadata = json!({"name": name, "uid": name, "ownerReferences": owners});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    json_patch::merge(&mut metadata, &change);
    serde_json::from_value(metadata).unwrap()
}

fn deleting(finalizer: &str) -> Value {
    json!({"deletionTimestamp": "2024-01-01T00:00:00Z", "finalizers": [finalizer]})
}

fn uid(name: &str) -> Uid {
    Uid::of(name)
}

fn next(graph: &Graph, name: &str) -> Step {
    graph.next_step(uid(name), &FxHashSet::default())
}

fn at(kind: usize, namespace: &str, name: &str) -> Location {
    Location { kind, namespace: namespace.into(), name: name.into() }
}

#[test]
fn object_stays_while_an_owner_exists_and_goes_with_the_last() {
    let mut graph = graph();
    assert_eq!(graph.apply(SERVICE, &object("x", "s", json!([]), json!({}))), []);
    assert_eq!(graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({}))), [uid("p")]);
    assert_eq!(next(&graph, "p"), Step::Nothing);
    assert_eq!(next(&graph, "s"), Step::Nothing);
    assert_eq!(graph.remove(uid("s")), Removal { check: vec![uid("p")], emptied: None });
    assert_eq!(next(&graph, "p"), Step::Delete { at: at(POD, "x", "p"), foreground: false });
    assert_eq!(graph.remove(uid("p")), Removal { check: vec![], emptied: Some("x".into()) });
    assert!(graph.objects.is_empty() && graph.dependents.is_empty() && graph.namespaces.is_empty());
}

#[test]
fn unknown_owner_is_asked_for_where_it_must_be() {
    let mut graph = graph();
    let owners = json!([owner("Service", "s", true), owner("Node", "n", true)]);
    graph.apply(POD, &object("x", "p", owners, json!({})));
    let ask = Step::Ask(vec![(uid("s"), at(SERVICE, "x", "s")), (uid("n"), at(NODE, "", "n"))]);
    assert_eq!(next(&graph, "p"), ask);
    let exists = FxHashSet::from_iter([uid("n")]);
    graph.absent(uid("s"));
    assert_eq!(graph.next_step(uid("p"), &exists), Step::DropOwners { at: at(POD, "x", "p"), owners: vec![uid("s")] });
    graph.absent(uid("n"));
    assert_eq!(next(&graph, "p"), Step::Delete { at: at(POD, "x", "p"), foreground: false });
}

#[test]
fn owners_that_cannot_be_judged_keep_the_object() {
    let mut graph = graph();
    graph.apply(POD, &object("x", "p", json!([owner("Widget", "w", true)]), json!({})));
    assert_eq!(next(&graph, "p"), Step::Nothing, "a kind that is not served");
    graph.apply(NODE, &object("", "n", json!([owner("Service", "s", true)]), json!({})));
    assert_eq!(next(&graph, "n"), Step::Nothing, "an owner inside a namespace of an object outside");
}

#[test]
fn owner_in_another_namespace_is_none() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("y", "s", json!([]), json!({})));
    graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({})));
    assert_eq!(next(&graph, "p"), Step::Delete { at: at(POD, "x", "p"), foreground: false });
}

#[test]
fn foreground_deletion_goes_through_the_blocking_dependents() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("x", "s", json!([]), json!({})));
    graph.apply(POD, &object("x", "blocking", json!([owner("Service", "s", true)]), json!({})));
    graph.apply(POD, &object("x", "free", json!([owner("Service", "s", false)]), json!({})));
    let going = object("x", "s", json!([]), deleting(FOREGROUND_FINALIZER));
    assert_eq!(graph.apply(SERVICE, &going), [uid("s")]);
    assert_eq!(next(&graph, "s"), Step::DeleteFirst(vec![uid("blocking")]));
    assert_eq!(next(&graph, "blocking"), Step::Delete { at: at(POD, "x", "blocking"), foreground: false });
    // Its own grace period runs: nothing is deleted twice, and the owner waits.
    let dying = json!({"deletionTimestamp": "2024-01-01T00:00:00Z"});
    graph.apply(POD, &object("x", "blocking", json!([owner("Service", "s", true)]), dying));
    assert_eq!(next(&graph, "s"), Step::DeleteFirst(vec![]));
    assert_eq!(graph.remove(uid("blocking")).check, [uid("s")]);
    assert_eq!(next(&graph, "s"), Step::RemoveForegroundFinalizer { at: at(SERVICE, "x", "s") });
}

#[test]
fn foreground_deletion_reaches_dependents_of_dependents_first() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("x", "s", json!([]), deleting(FOREGROUND_FINALIZER)));
    graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({})));
    graph.apply(POD, &object("x", "q", json!([owner("Pod", "p", true)]), json!({})));
    assert_eq!(next(&graph, "p"), Step::Delete { at: at(POD, "x", "p"), foreground: true });
}

#[test]
fn dependent_that_is_released_lets_its_owner_go() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("x", "s", json!([]), deleting(FOREGROUND_FINALIZER)));
    graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({})));
    assert_eq!(graph.apply(POD, &object("x", "p", json!([]), json!({}))), [uid("s")]);
    assert_eq!(next(&graph, "s"), Step::RemoveForegroundFinalizer { at: at(SERVICE, "x", "s") });
    // Not blocking any more is enough, too.
    graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({})));
    let check = graph.apply(POD, &object("x", "p", json!([owner("Service", "s", false)]), json!({})));
    assert_eq!(check, [uid("p"), uid("s")]);
    assert_eq!(next(&graph, "s"), Step::RemoveForegroundFinalizer { at: at(SERVICE, "x", "s") });
}

#[test]
fn orphaning_names_every_dependent() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("x", "s", json!([]), deleting(ORPHAN_FINALIZER)));
    graph.apply(POD, &object("x", "p", json!([owner("Service", "s", true)]), json!({})));
    assert_eq!(next(&graph, "s"), Step::Orphan { at: at(SERVICE, "x", "s"), dependents: vec![at(POD, "x", "p")] });
}

#[test]
fn uids_of_both_forms_are_told_apart() {
    let text = "2f1c9a4e-7a52-4ab1-9c7e-0d5f4c6b8a10";
    assert_eq!(Uid::of(text).to_string(), text);
    assert_ne!(Uid::of("a"), Uid::of("b"));
    assert_eq!(Uid::of("a"), Uid::of("a"));
}

/// Nothing can be told of an owner whose kind is not served at the moment: its dependents stay.
#[test]
fn dependents_of_a_kind_that_is_not_served_stay() {
    let mut graph = graph();
    graph.apply(SERVICE, &object("n", "s", json!([]), json!({})));
    graph.apply(POD, &object("n", "p", json!([owner("Service", "s", false)]), json!({})));
    graph.kinds.withdraw(SERVICE);
    graph.forget(SERVICE);
    assert_eq!(graph.next_step(uid("p"), &FxHashSet::default()), Step::Nothing);
    assert!(!graph.contains(uid("s")));
}
