//! Scenarios of requests and the answers that a Kubernetes API server gives: `tests/data/api`, whose README tells the
//! form.

use std::collections::BTreeMap;
use std::path::Path;

use axum::body::Body;
use http::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::world::{Answer, World, request as request_of};

/// Stands for a value that is another one each time: it must be there.
const ANY: &str = "<any>";
/// Left out of the comparison wherever it stands.
const SKIPPED: [&str; 2] = ["managedFields", "deployment.kubernetes.io/revision"];
/// Their status is the controllers', who write it in their own time.
const WORKLOADS: [&str; 7] = ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "CronJob", "Scale"];

#[derive(Deserialize)]
struct Scenario {
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    request: Wanted,
    response: Expected,
}

#[derive(Deserialize)]
struct Wanted {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<Value>,
    /// Values of the answer that later steps use: name and path.
    #[serde(default)]
    save: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Expected {
    status: u16,
    body: Value,
}

macro_rules! scenarios {
    ($($name:ident: $file:literal),+ $(,)?) => {
        $(#[tokio::test]
        async fn $name() {
            replay($file).await;
        })+

        #[test]
        fn every_file_is_replayed() {
            let folder = std::fs::read_dir(folder()).expect("the folder of scenarios");
            let names = folder.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
            let mut found: Vec<String> = names.filter(|name| name.ends_with(".json")).collect();
            found.sort();
            assert_eq!(found, [$($file),+]);
        }
    };
}

scenarios! {
    bad_requests: "bad-requests.json",
    collections: "collections.json",
    concurrency: "concurrency.json",
    config_and_policy: "config-and-policy.json",
    deletes: "deletes.json",
    dry_run: "dry-run.json",
    dual_stack: "dual-stack.json",
    endpointslices: "endpointslices.json",
    forms: "forms.json",
    immutable: "immutable.json",
    lists: "lists.json",
    names: "names.json",
    namespace_life: "namespace-life.json",
    paging: "paging.json",
    patch_forms: "patch-forms.json",
    patches: "patches.json",
    pods: "pods.json",
    selecting_watch: "selecting-watch.json",
    server_side_apply: "server-side-apply.json",
    service_defaults: "service-defaults.json",
    service_update: "service-update.json",
    service_validation: "service-validation.json",
    status_subresource: "status-subresource.json",
    watch: "watch.json",
    workloads: "workloads.json",
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/api"))
}

async fn replay(file: &str) {
    let text = std::fs::read_to_string(folder().join(file)).expect("a scenario");
    let scenario: Scenario = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let world = World::with_controllers(1).await;
    let namespace = format!("g{}", &uuid::Uuid::new_v4().simple().to_string()[..8]);
    world.post("/api/v1/namespaces", json!({"metadata": {"name": namespace}})).await.created();
    let account = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    world.until(async || world.get(&account).await.found()).await;

    let mut known = BTreeMap::from([("NS".to_owned(), namespace)]);
    let mut differences = Vec::new();
    for (i, step) in scenario.steps.iter().enumerate() {
        let request = &step.request;
        let answer = send(&world, request, &known).await;
        let body = body_of(request, &answer);
        for (name, path) in &request.save {
            known.insert(name.clone(), text_at(&body, path));
        }
        // Saved values stand in the scenario by their names.
        let expected = filled(&step.response.body, &known);
        let mut found = Vec::new();
        if answer.code != step.response.status {
            found.push(format!("status: {}, expected {}", answer.code, step.response.status));
        }
        compare("body", &comparable(expected), &comparable(body), &mut found);
        if !found.is_empty() {
            differences.push(format!("step {i} {} {}\n    {}", request.method, request.path, found.join("\n    ")));
        }
    }
    assert!(differences.is_empty(), "{file}: {} steps differ\n{}", differences.len(), differences.join("\n"));
}

async fn send(world: &World, request: &Wanted, known: &BTreeMap<String, String>) -> Answer {
    let mut builder = request_of(&request.method, &fill(&request.path, known));
    if !request.headers.contains_key("Accept") {
        builder = builder.header("accept", "application/json");
    }
    if request.body.is_some() && !request.headers.contains_key("Content-Type") {
        builder = builder.header("content-type", "application/json");
    }
    for (name, value) in &request.headers {
        builder = builder.header(name, value);
    }
    let body = match request.body.as_ref().map(|body| filled(body, known)) {
        None => Body::empty(),
        Some(Value::String(text)) => text.into(),
        Some(body) => body.to_string().into(),
    };
    let request: Request<Body> = builder.body(body).expect("a request");
    world.send(request).await
}

/// The answer as JSON; of a watch a list of its events, of what is no JSON the text.
fn body_of(request: &Wanted, answer: &Answer) -> Value {
    if request.path.contains("watch=true") && answer.code == 200 {
        return answer.text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event")).collect();
    }
    serde_json::from_str(&answer.text).unwrap_or_else(|_| answer.text.clone().into())
}

fn text_at(body: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(body, |at, key| match at {
        Value::Array(items) => items.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    });
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => panic!("nothing at {path} in {body}"),
    }
}

/// Puts what is known in the place of its `${NAME}`.
fn fill(text: &str, known: &BTreeMap<String, String>) -> String {
    known.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
}

fn filled(value: &Value, known: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => fill(text, known).into(),
        Value::Array(items) => items.iter().map(|item| filled(item, known)).collect(),
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (fill(key, known), filled(value, known))).collect::<Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// Without what controllers write in their own time.
fn comparable(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(comparable).collect(),
        Value::Object(mut fields) => {
            let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
            if WORKLOADS.contains(&&*kind) && fields.contains_key("spec") {
                fields.remove("status");
            }
            if kind == "Service" && fields.get("spec").is_some_and(|spec| spec["type"] == "LoadBalancer") {
                fields.get_mut("status").and_then(Value::as_object_mut).map(|status| status.remove("loadBalancer"));
                fields.get_mut("metadata").and_then(Value::as_object_mut).map(|metadata| metadata.remove("finalizers"));
            }
            if kind == "Table" && tells_of_controllers(&fields) {
                fields.remove("rows");
            }
            fields.retain(|key, _| !SKIPPED.contains(&key.as_str()));
            let fields = fields.into_iter().map(|(key, value)| (key, comparable(value)));
            // What is left of annotations that are all left out.
            let some = |(key, value): &(String, Value)| key != "annotations" || *value != json!({});
            fields.filter(some).collect::<Map<_, _>>().into()
        }
        other => other,
    }
}

/// Whether a Table is about a workload: its cells count Pods.
fn tells_of_controllers(table: &Map<String, Value>) -> bool {
    let columns = table.get("columnDefinitions").and_then(Value::as_array);
    let has = |name: &str| columns.into_iter().flatten().any(|column| column["name"] == name);
    has("Up-to-date") || has("Desired") || (has("Ready") && !has("Restarts"))
}

/// Names each difference.
fn compare(at: &str, expected: &Value, found: &Value, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::String(any), found) if any == ANY => {
            if found.is_null() {
                differences.push(format!("{at}: missing"));
            }
        }
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                match found.get(key) {
                    Some(found) => compare(&format!("{at}.{key}"), value, found, differences),
                    None => differences.push(format!("{at}.{key}: missing, expected {value}")),
                }
            }
            for (key, value) in found.iter().filter(|(key, _)| !expected.contains_key(*key)) {
                differences.push(format!("{at}.{key}: unexpected {value}"));
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(&format!("{at}[{i}]"), expected, found, differences);
            }
        }
        (Value::String(pattern), Value::String(text)) if pattern.contains(ANY) && fits(pattern, text) => {}
        _ if expected == found => {}
        _ => differences.push(format!("{at}: {found}, expected {expected}")),
    }
}

/// Whether a text is as a pattern says, in which `<any>` stands for any part.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((first, mut last)) = pattern.split_once(ANY) else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    while let Some((part, after)) = last.split_once(ANY) {
        match rest.split_once(part) {
            Some((_, behind)) => (rest, last) = (behind, after),
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[test]
fn comparison_names_what_differs() {
    let mut found = Vec::new();
    let expected = json!({"a": "<any>", "b": [1, 2], "c": {"d": "x-<any>"}, "e": 1, "f": "<any>"});
    compare("o", &expected, &json!({"a": 7, "b": [1, 3], "c": {"d": "y-1"}, "g": 1, "f": null}), &mut found);
    assert_eq!(
        found,
        [
            "o.b[1]: 3, expected 2",
            "o.c.d: \"y-1\", expected \"x-<any>\"",
            "o.e: missing, expected 1",
            "o.f: missing",
            "o.g: unexpected 1",
        ]
    );
    assert!(fits("a <any> b <any>.", "a 1 b 2.") && !fits("a <any> b", "a 1 c") && !fits("<any>x", "y"));
}
