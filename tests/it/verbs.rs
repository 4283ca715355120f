//! get, create, update, and what surrounds them.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::world::*;

#[tokio::test]
async fn created_object_can_be_read_back_with_identity_and_revision() {
    let world = World::start().await;
    let created = world.config_map("a", "1").await;
    assert_eq!(created["metadata"]["namespace"], "default");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(created["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(world.get(&format!("{CONFIG_MAPS}/a")).await.ok(), created);
}

#[tokio::test]
async fn second_create_of_a_name_already_exists() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    let status = world.post(CONFIG_MAPS, config_map("a", "2")).await.refused(409, "AlreadyExists");
    assert_eq!(message(&status), "configmaps \"a\" already exists");
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps"}));
    assert_eq!(world.get(&format!("{CONFIG_MAPS}/a")).await.ok()["data"]["key"], "1");
}

#[tokio::test]
async fn update_with_an_old_revision_conflicts_and_changes_nothing() {
    let world = World::start().await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut first = world.config_map("a", "1").await;
    let mut second = first.clone();
    second["data"]["key"] = "2".into();
    let second = world.put(&path, second).await.ok();
    assert!(revision(&second).parse::<u64>().unwrap() > revision(&first).parse().unwrap());

    first["data"]["key"] = "3".into();
    let status = world.put(&path, first).await.refused(409, "Conflict");
    assert!(message(&status).contains("the object has been modified"), "{status}");
    assert_eq!(world.get(&path).await.ok(), second);
}

#[tokio::test]
async fn update_without_a_revision_replaces_whatever_is_there() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    let replaced = world.put(&format!("{CONFIG_MAPS}/a"), config_map("a", "2")).await.ok();
    assert_eq!(replaced["data"]["key"], "2");
}

#[tokio::test]
async fn update_that_changes_nothing_keeps_the_revision() {
    let world = World::start().await;
    let created = world.config_map("a", "1").await;
    assert_eq!(world.put(&format!("{CONFIG_MAPS}/a"), created.clone()).await.ok(), created);
    assert_eq!(world.merge(&format!("{CONFIG_MAPS}/a"), json!({"data": {"key": "1"}})).await.ok(), created);
}

#[tokio::test]
async fn twenty_writers_of_one_counter_lose_no_update() {
    let world = World::start().await;
    let path = format!("{CONFIG_MAPS}/counter");
    world.config_map("counter", "0").await;
    let increment = async || {
        loop {
            let mut object = world.get(&path).await.ok();
            let value: u32 = object["data"]["key"].as_str().unwrap().parse().unwrap();
            object["data"]["key"] = (value + 1).to_string().into();
            match world.put(&path, object).await {
                answer if answer.code == 409 => {}
                answer => break drop(answer.ok()),
            }
        }
    };
    futures::future::join_all((0..20).map(|_| increment())).await;
    assert_eq!(world.get(&path).await.ok()["data"]["key"], "20");
}

#[tokio::test]
async fn generated_name_has_five_characters_after_its_base() {
    let world = World::start().await;
    let mut object = config_map("", "1");
    object["metadata"] = json!({"generateName": "job-"});
    let created = world.post(CONFIG_MAPS, object).await.created();
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn dry_run_answers_and_writes_nothing() {
    let world = World::start().await;
    let before = world.api.store().revision();
    let path = format!("{CONFIG_MAPS}?dryRun=All");
    assert_eq!(world.post(&path, config_map("a", "1")).await.created()["data"]["key"], "1");
    world.get(&format!("{CONFIG_MAPS}/a")).await.refused(404, "NotFound");
    assert_eq!(world.api.store().revision(), before);
}

#[tokio::test]
async fn yaml_body_is_read() {
    let world = World::start().await;
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  key: |\n    two\n    lines\n";
    assert_eq!(world.raw("POST", CONFIG_MAPS, "application/yaml", yaml).await.code, 201);
    assert_eq!(world.get(&format!("{CONFIG_MAPS}/a")).await.ok()["data"]["key"], "two\nlines\n");
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let world = World::start().await;
    let created = world.post(SERVICES, service("web", json!({"ports": [{"port": 80}], "type": "LoadBalancer"}))).await;
    let mut object = created.created();
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.246.0.1"}]}});
    object["spec"]["sessionAffinity"] = "ClientIP".into();

    // W5: each write leaves the other's half alone.
    let path = format!("{SERVICES}/web");
    let status = world.put(&format!("{path}/status"), object.clone()).await.ok();
    assert_eq!(status["status"]["loadBalancer"]["ingress"][0]["ip"], "10.246.0.1");
    assert_eq!(status["spec"]["sessionAffinity"], "None");
    object["metadata"]["resourceVersion"] = revision(&status).into();
    object["status"] = json!({});
    let spec = world.put(&path, object).await.ok();
    assert_eq!(spec["spec"]["sessionAffinity"], "ClientIP");
    assert_eq!(spec["status"], status["status"]);
}

#[tokio::test]
async fn stranger_is_unauthorized_and_may_ask_for_health_alone() {
    let world = World::start().await;
    let ask = async |path: &str| world.send(Request::get(path).body(Body::empty()).unwrap()).await;
    for path in [CONFIG_MAPS, "/api", "/apis", "/version", "/openapi/v3", "/nowhere"] {
        ask(path).await.refused(401, "Unauthorized");
    }
    for path in ["/healthz", "/livez"] {
        assert_eq!((ask(path).await.code, ask(path).await.text), (200, "ok".into()), "{path}");
    }
    assert_eq!(ask("/readyz").await.code, 500);
    world.api.set_ready();
    assert_eq!(ask("/readyz").await.code, 200);
    let checks = "[+]ping ok\n[+]cluster-started ok\nreadyz check passed\n";
    assert_eq!(ask("/readyz?verbose").await.text, checks);
    assert_eq!(ask("/livez?verbose").await.text, "[+]ping ok\nlivez check passed\n");
}

#[tokio::test]
async fn discovery_names_every_kind_with_its_verbs() {
    let world = World::start().await;
    let core = world.get("/api/v1").await.ok();
    let find = |list: &Value, name: &str| -> Value {
        let all = list["resources"].as_array().unwrap();
        all.iter().find(|resource| resource["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    let kinds = [
        ("namespaces", "Namespace", false),
        ("nodes", "Node", false),
        ("pods", "Pod", true),
        ("services", "Service", true),
        ("endpoints", "Endpoints", true),
        ("configmaps", "ConfigMap", true),
        ("secrets", "Secret", true),
        ("serviceaccounts", "ServiceAccount", true),
        ("events", "Event", true),
    ];
    for (name, kind, namespaced) in kinds {
        let resource = find(&core, name);
        assert_eq!((&resource["kind"], &resource["namespaced"]), (&json!(kind), &json!(namespaced)), "{name}");
        for verb in ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"] {
            // The reference has no deletecollection for Services' owner, the Namespace.
            if (name, verb) != ("namespaces", "deletecollection") {
                assert!(resource["verbs"].as_array().unwrap().contains(&json!(verb)), "{verb} of {name}");
            }
        }
    }
    assert!(find(&core, "services")["shortNames"].as_array().unwrap().contains(&json!("svc")));
    find(&core, "pods/status");
    find(&core, "pods/log");
    let discovery = world.get("/apis/discovery.k8s.io/v1").await.ok();
    assert_eq!(find(&discovery, "endpointslices")["kind"], "EndpointSlice");
    let leases = world.get("/apis/coordination.k8s.io/v1").await.ok();
    assert_eq!(find(&leases, "leases")["kind"], "Lease");
    assert_eq!(world.get("/version").await.ok()["major"], "1");
}

#[tokio::test]
async fn type_that_a_body_leaves_out_is_the_one_of_the_path() {
    let world = World::start().await;
    let made = world.post(CONFIG_MAPS, json!({"metadata": {"name": "a"}})).await.created();
    assert_eq!((&made["apiVersion"], &made["kind"]), (&json!("v1"), &json!("ConfigMap")));
    let body = json!({"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}});
    assert_eq!(world.put(&format!("{CONFIG_MAPS}/a"), body).await.ok()["data"]["k"], "v");
    world.post(CONFIG_MAPS, json!({"kind": "Secret", "metadata": {"name": "b"}})).await.refused(400, "BadRequest");
}
