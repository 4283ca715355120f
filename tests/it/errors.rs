//! Bad input: each gets a complete `Status` that says what is wrong and where.

use axum::body::Body;
use serde_json::json;

use crate::world::*;

const STRICT: &str = "fieldValidation=Strict";

#[tokio::test]
async fn unknown_object_is_not_found_by_name() {
    let world = World::start().await;
    let status = world.get(&format!("{CONFIG_MAPS}/none")).await.refused(404, "NotFound");
    assert_eq!(message(&status), "configmaps \"none\" not found");
    assert_eq!(status["details"], json!({"name": "none", "kind": "configmaps"}));
    let slice = world.get(&format!("{SLICES}/none")).await.refused(404, "NotFound");
    assert_eq!(message(&slice), "endpointslices.discovery.k8s.io \"none\" not found");
}

#[tokio::test]
async fn unknown_kind_is_not_found() {
    let world = World::start().await;
    for path in [
        "/api/v1/namespaces/default/gadgets",
        "/api/v1/gadgets/x",
        "/api/v1/namespaces/default/pods/x/nonsense",
        "/api/v1/namespaces/default/nodes/n1",
        "/api/v1/pods/x",
        "/apis/discovery.k8s.io/v1/namespaces/default/pods",
    ] {
        let status = world.get(path).await.refused(404, "NotFound");
        assert_eq!(message(&status), "the server could not find the requested resource", "{path}");
    }
}

/// As the reference does: these paths belong to no API, so the answer is no API object.
#[tokio::test]
async fn unknown_group_version_and_path_are_404() {
    let world = World::start().await;
    for path in ["/apis/nosuch.group/v1/things", "/apis/discovery.k8s.io/v9/endpointslices", "/api/v2/pods", "/nowhere"]
    {
        let answer = world.get(path).await;
        assert_eq!((answer.code, answer.text.as_str()), (404, "404 page not found\n"), "{path}");
    }
}

#[tokio::test]
async fn namespace_that_is_not_there_is_named() {
    let world = World::start().await;
    let answer = world.post("/api/v1/namespaces/nowhere/configmaps", config_map("a", "1")).await;
    assert_eq!(message(&answer.refused(404, "NotFound")), "namespaces \"nowhere\" not found");
}

#[tokio::test]
async fn body_that_is_neither_json_nor_yaml_is_a_bad_request() {
    let world = World::start().await;
    for (mime, body) in [
        ("application/json", "{"),
        ("application/json", ""),
        ("application/json", "[]"),
        ("application/json", "apiVersion: v1"),
        ("application/yaml", "a: b: c: [d"),
        ("application/yaml", "- 1\n- 2\n"),
    ] {
        world.raw("POST", CONFIG_MAPS, mime, body).await.refused(400, "BadRequest");
    }
    world.raw("POST", CONFIG_MAPS, "text/csv", "a,b").await.refused(415, "UnsupportedMediaType");
    world
        .raw("PATCH", &format!("{CONFIG_MAPS}/a"), "application/json", "{}")
        .await
        .refused(415, "UnsupportedMediaType");
    world.get_as(CONFIG_MAPS, "text/csv").await.refused(406, "NotAcceptable");
}

#[tokio::test]
async fn wrong_type_names_the_field() {
    let world = World::start().await;
    let answer = world.post(SERVICES, service("web", json!({"ports": [{"port": "eighty"}]}))).await;
    let status = answer.refused(400, "BadRequest");
    assert!(message(&status).contains("spec.ports[0].port"), "{status}");

    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": 1}]}]}});
    let status = world.post(PODS, pod).await.refused(400, "BadRequest");
    assert!(message(&status).contains("spec.containers[0].env[0].value"), "{status}");
}

#[tokio::test]
async fn foreign_type_is_a_bad_request() {
    let world = World::start().await;
    for (body, part) in [
        (json!({"apiVersion": "v2", "kind": "ConfigMap", "metadata": {"name": "a"}}), "v2"),
        (json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}), "Secret"),
    ] {
        let status = world.post(CONFIG_MAPS, body).await.refused(400, "BadRequest");
        assert!(message(&status).contains(part), "{status}");
    }
}

#[tokio::test]
async fn misspelt_field_is_refused_when_strict_and_warned_about_otherwise() {
    let world = World::start().await;
    let misspelt = |name: &str| service(name, json!({"ports": [{"port": 80, "tragetPort": 8080}], "selektor": {}}));

    let status = world.post(&format!("{SERVICES}?{STRICT}"), misspelt("a")).await.refused(400, "BadRequest");
    for field in
        ["strict decoding error", "unknown field \"spec.selektor\"", "unknown field \"spec.ports[0].tragetPort\""]
    {
        assert!(message(&status).contains(field), "{status}");
    }
    world.get(&format!("{SERVICES}/a")).await.refused(404, "NotFound");

    for (name, mode) in [("warn", "fieldValidation=Warn"), ("default", "")] {
        let answer = world.post(&format!("{SERVICES}?{mode}"), misspelt(name)).await;
        let warnings: Vec<&str> = answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings.contains(&r#"299 - "unknown field \"spec.selektor\"""#), "{warnings:?}");
        assert_eq!(answer.created()["spec"].get("selektor"), None);
    }
    // What is refused for another reason is warned about, too.
    let invalid = world.post(SERVICES, service("a", json!({"ports": [{"port": 0}], "selektor": {}}))).await;
    assert_eq!(invalid.headers.get("warning").unwrap(), r#"299 - "unknown field \"spec.selektor\"""#);
    invalid.refused(422, "Invalid");
    let silent = world.post(&format!("{SERVICES}?fieldValidation=Ignore"), misspelt("ignore")).await;
    assert!(!silent.headers.contains_key("warning"));
    silent.created();
    let maybe = world.post(&format!("{SERVICES}?fieldValidation=Maybe"), misspelt("maybe")).await;
    assert_eq!(
        message(&maybe.invalid(&["fieldValidation"])),
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"Maybe\": supported values: \
         \"\", \"Ignore\", \"Strict\", \"Warn\""
    );
}

#[tokio::test]
async fn field_that_is_there_twice_is_refused_when_strict_and_warned_about_otherwise() {
    let world = World::start().await;
    let json = "application/json";
    let twice = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "x", "name": "{name}"}}, "dta": {{}},
            "data": {{"a": "1", "a": "2"}}}}"#
        )
    };
    let status = world.raw("POST", &format!("{CONFIG_MAPS}?{STRICT}"), json, twice("a")).await;
    assert_eq!(
        message(&status.refused(400, "BadRequest")),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         duplicate field \"metadata.name\", duplicate field \"data.a\", unknown field \"dta\""
    );
    let told = |answer: &Answer| -> Vec<String> {
        answer.headers.get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect()
    };
    let answer = world.raw("POST", CONFIG_MAPS, json, twice("a")).await;
    assert_eq!(
        told(&answer),
        [
            r#"299 - "duplicate field \"metadata.name\"""#,
            r#"299 - "duplicate field \"data.a\"""#,
            r#"299 - "unknown field \"dta\"""#
        ]
    );
    // The last one counts.
    let made = answer.created();
    assert_eq!((&made["metadata"]["name"], &made["data"]["a"]), (&json!("a"), &json!("2")));
    let put = world.raw("PUT", &format!("{CONFIG_MAPS}/a?{STRICT}"), json, twice("a")).await;
    put.refused(400, "BadRequest");
    let patch = r#"{"data": {"a": "3", "a": "4"}}"#;
    for mime in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        let refused = world.raw("PATCH", &format!("{CONFIG_MAPS}/a?{STRICT}"), mime, patch).await.invalid(&["patch"]);
        assert!(message(&refused).ends_with("strict decoding error: duplicate field \"data.a\""), "{refused}");
        let patched = world.raw("PATCH", &format!("{CONFIG_MAPS}/a"), mime, patch).await;
        assert_eq!(told(&patched), [r#"299 - "duplicate field \"data.a\"""#]);
        assert_eq!(patched.ok()["data"]["a"], "4");
    }
    let silent = world.raw("POST", &format!("{CONFIG_MAPS}?fieldValidation=Ignore"), json, twice("b")).await;
    assert_eq!(told(&silent), [""; 0]);
    silent.created();
}

#[tokio::test]
async fn metadata_that_is_no_object_is_a_bad_request() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    for metadata in [json!("a"), json!(["a"]), json!(1), json!(true)] {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata});
        for answer in
            [world.post(CONFIG_MAPS, object.clone()).await, world.put(&format!("{CONFIG_MAPS}/a"), object).await]
        {
            let status = answer.refused(400, "BadRequest");
            assert!(message(&status).contains("metadata: cannot unmarshal"), "{status}");
        }
        world.merge(&format!("{CONFIG_MAPS}/a"), json!({"metadata": metadata})).await.refused(400, "BadRequest");
    }
}

#[tokio::test]
async fn misspelt_field_in_an_update_is_refused_when_strict() {
    let world = World::start().await;
    let mut object = world.config_map("a", "1").await;
    object["dta"] = json!({});
    let status = world.put(&format!("{CONFIG_MAPS}/a?{STRICT}"), object).await.refused(400, "BadRequest");
    assert!(message(&status).contains("unknown field \"dta\""), "{status}");
}

#[tokio::test]
async fn names_labels_and_keys_follow_the_rules() {
    let world = World::start().await;
    let status = world.post(CONFIG_MAPS, config_map(&"x".repeat(254), "1")).await.invalid(&["metadata.name"]);
    assert!(message(&status).contains("must be no more than 253 characters"), "{status}");
    for name in ["Upper", "under_score", "-dash", "dot."] {
        let status = world.post(CONFIG_MAPS, config_map(name, "1")).await.invalid(&["metadata.name"]);
        assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueInvalid");
        assert!(message(&status).contains("a lowercase RFC 1123 subdomain must consist of"), "{status}");
    }
    world.post(CONFIG_MAPS, config_map("", "1")).await.invalid(&["metadata.name"]);
    world.post(CONFIG_MAPS, config_map("with.dots.0", "1")).await.created();

    // SV1: a Service is a label, so that it can be a name in DNS.
    let spec = json!({"ports": [{"port": 80}]});
    world.post(SERVICES, service("with.dots", spec.clone())).await.invalid(&["metadata.name"]);
    world.post(SERVICES, service("0-digit-first", spec)).await.created();

    let mut labels = config_map("labels", "1");
    labels["metadata"]["labels"] = json!({"bad key": "ok", "ok": "bad value!"});
    world.post(CONFIG_MAPS, labels).await.invalid(&["metadata.labels", "metadata.labels"]);
    let mut keys = config_map("keys", "1");
    keys["data"] = json!({"bad key": "1"});
    world.post(CONFIG_MAPS, keys).await.invalid(&["data[bad key]"]);
}

#[tokio::test]
async fn pod_without_containers_names_every_missing_field() {
    let world = World::start().await;
    let pod = |spec| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    world.post(PODS, pod(json!({"containers": []}))).await.invalid(&["spec.containers"]);
    let twice = json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]});
    let status = world.post(PODS, pod(twice)).await.invalid(&["spec.containers[1].name"]);
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueDuplicate");
}

#[tokio::test]
async fn pod_may_change_its_image_and_nothing_else_of_its_spec() {
    let world = World::start().await;
    world.pod("p", json!({}), Some("n1")).await;
    let path = format!("{PODS}/p");
    let image = json!({"spec": {"containers": [{"name": "c", "image": "vipyard/pause"}]}});
    assert_eq!(world.strategic(&path, image).await.ok()["spec"]["containers"][0]["image"], "vipyard/pause");
    let status = world.strategic(&path, json!({"spec": {"nodeName": "n2"}})).await.refused(422, "Invalid");
    assert!(message(&status).contains("pod updates may not change fields other than"), "{status}");
}

#[tokio::test]
async fn immutable_identity_cannot_be_changed() {
    let world = World::start().await;
    let object = world.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    let renamed = config_map("b", "1");
    world.put(&path, renamed).await.refused(400, "BadRequest");
    let mut moved = object.clone();
    moved["metadata"]["namespace"] = "kube-system".into();
    let status = world.put(&path, moved).await.refused(400, "BadRequest");
    assert!(message(&status).contains("namespace of the provided object does not match"), "{status}");
    let mut other = object;
    other["metadata"]["uid"] = "11111111-2222-3333-4444-555555555555".into();
    world.put(&path, other).await.refused(409, "Conflict");
    let mut versioned = config_map("c", "1");
    versioned["metadata"]["resourceVersion"] = "1".into();
    world.post(CONFIG_MAPS, versioned).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn body_beyond_the_limit_is_too_large() {
    let world = World::start().await;
    let body = Body::from(vec![b' '; 3 * 1024 * 1024 + 1]);
    world.send(request("POST", CONFIG_MAPS).body(body).unwrap()).await.refused(413, "RequestEntityTooLarge");
}

#[tokio::test]
async fn method_that_a_path_does_not_have_is_not_allowed() {
    let world = World::start().await;
    world.put(CONFIG_MAPS, json!({})).await.refused(405, "MethodNotAllowed");
    world.post(&format!("{CONFIG_MAPS}/a"), json!({})).await.refused(405, "MethodNotAllowed");
    world.delete("/api/v1/configmaps", json!({})).await.refused(405, "MethodNotAllowed");
}
