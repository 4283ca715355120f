//! Controllers at work, against Pods whose status the test writes.

use serde_json::{Value, json};

use crate::world::*;

/// Addresses and readiness of all endpoints of a Service of the default namespace, sorted.
async fn endpoints(world: &World, service: &str) -> Vec<(String, bool)> {
    let list = world.get(&format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}")).await.ok();
    let slices = list["items"].as_array().unwrap().iter();
    let all = slices.flat_map(|slice| slice["endpoints"].as_array().cloned().unwrap_or_default());
    let mut found: Vec<_> = all
        .map(|e| (e["addresses"][0].as_str().unwrap().to_owned(), e["conditions"]["ready"].as_bool().unwrap()))
        .collect();
    found.sort();
    found
}

async fn until_endpoints(world: &World, service: &str, expected: &[(&str, bool)]) {
    let expected: Vec<(String, bool)> = expected.iter().map(|(ip, ready)| ((*ip).to_owned(), *ready)).collect();
    world.until(async || (endpoints(world, service).await == expected).then_some(())).await;
}

async fn node_of(world: &World, pod: &str) -> String {
    let bound = async || world.get(&format!("{PODS}/{pod}")).await.ok()["spec"]["nodeName"].as_str().map(str::to_owned);
    world.until(bound).await
}

async fn web(world: &World) {
    let spec = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    world.post(SERVICES, service("web", spec)).await.created();
}

#[tokio::test]
async fn endpoint_slice_follows_selector_and_readiness() {
    let world = World::with_controllers(2).await;
    web(&world).await;
    for name in ["a", "b", "stranger"] {
        let app = if name == "stranger" { "other" } else { "web" };
        world.pod(name, json!({"app": app}), None).await;
        node_of(&world, name).await;
    }
    world.run_pod("stranger", "10.244.1.9", true).await;
    world.run_pod("a", "10.244.1.2", true).await;
    world.run_pod("b", "10.244.2.2", false).await;
    until_endpoints(&world, "web", &[("10.244.1.2", true), ("10.244.2.2", false)]).await;
    world.run_pod("b", "10.244.2.2", true).await;
    until_endpoints(&world, "web", &[("10.244.1.2", true), ("10.244.2.2", true)]).await;

    // A Pod joins and leaves by its labels alone.
    world.merge(&format!("{PODS}/a"), json!({"metadata": {"labels": {"app": "debug"}}})).await.ok();
    world.merge(&format!("{PODS}/stranger"), json!({"metadata": {"labels": {"app": "web"}}})).await.ok();
    until_endpoints(&world, "web", &[("10.244.1.9", true), ("10.244.2.2", true)]).await;
}

#[tokio::test]
async fn terminating_pod_is_an_endpoint_that_serves_and_is_not_ready_es6() {
    let world = World::with_controllers(1).await;
    web(&world).await;
    world.pod("a", json!({"app": "web"}), Some("n1")).await;
    world.run_pod("a", "10.244.1.2", true).await;
    until_endpoints(&world, "web", &[("10.244.1.2", true)]).await;
    world.delete(&format!("{PODS}/a"), json!({})).await.ok();
    until_endpoints(&world, "web", &[("10.244.1.2", false)]).await;
    let slices = world.get(&format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb")).await.ok();
    let conditions = &slices["items"][0]["endpoints"][0]["conditions"];
    assert_eq!(conditions, &json!({"ready": false, "serving": true, "terminating": true}));
    // PX5: it leaves with its object.
    world.delete(&format!("{PODS}/a"), json!({"gracePeriodSeconds": 0})).await.ok();
    until_endpoints(&world, "web", &[]).await;
}

#[tokio::test]
async fn slices_go_with_their_service_es19() {
    let world = World::with_controllers(1).await;
    web(&world).await;
    let slices = async || -> usize {
        let list = world.get(&format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3Dweb")).await.ok();
        list["items"].as_array().unwrap().len()
    };
    // ES13: one empty slice from the beginning.
    world.until(async || (slices().await == 1).then_some(())).await;
    world.delete(&format!("{SERVICES}/web"), json!({})).await.ok();
    world.until(async || (slices().await == 0).then_some(())).await;
}

#[tokio::test]
async fn pods_are_spread_over_ready_nodes() {
    let world = World::with_controllers(3).await;
    let mut nodes = Vec::new();
    for number in 0..6 {
        let name = format!("p{number}");
        world.pod(&name, json!({"app": "web"}), None).await;
        nodes.push(node_of(&world, &name).await);
    }
    nodes.sort();
    assert_eq!(nodes, ["n1", "n1", "n2", "n2", "n3", "n3"]);
}

#[tokio::test]
async fn pod_waits_for_a_node_that_its_selector_allows() {
    let world = World::with_controllers(2).await;
    let spec = json!({"containers": [{"name": "c", "image": "vipyard/pause"}], "nodeSelector": {"disk": "fast"}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "picky"}, "spec": spec});
    world.post(PODS, pod).await.created();
    let reason = world.until(async || {
        let pod = world.get(&format!("{PODS}/picky")).await.ok();
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|c| c["type"] == "PodScheduled" && c["status"] == "False")
    });
    assert_eq!(reason.await["reason"], "Unschedulable");
    world.merge("/api/v1/nodes/n2", json!({"metadata": {"labels": {"disk": "fast"}}})).await.ok();
    assert_eq!(node_of(&world, "picky").await, "n2");
}

#[tokio::test]
async fn namespace_is_furnished_refuses_content_while_it_ends_and_takes_its_objects_along() {
    let world = World::with_controllers(1).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    let created = world.post(NAMESPACES, namespace).await.created();
    assert_eq!(created["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(created["status"]["phase"], "Active");
    assert_eq!(created["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    // PD7, PD4.
    let base = "/api/v1/namespaces/team";
    world.until(async || world.get(&format!("{base}/serviceaccounts/default")).await.found()).await;
    let root = world.until(async || world.get(&format!("{base}/configmaps/kube-root-ca.crt")).await.found()).await;
    assert!(root["data"]["ca.crt"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));

    let mut held = config_map("held", "1");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    world.post(&format!("{base}/configmaps"), held).await.created();
    world.post(&format!("{base}/services"), service("web", json!({"ports": [{"port": 80}]}))).await.created();
    let ending = world.delete("/api/v1/namespaces/team", json!({})).await.ok();
    assert_eq!(ending["status"]["phase"], "Terminating");

    let status = world.post(&format!("{base}/configmaps"), config_map("late", "1")).await.refused(403, "Forbidden");
    assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    // Everything goes but what is held, and with that the namespace.
    world.until(async || world.get(&format!("{base}/services/web")).await.found().is_none().then_some(())).await;
    world.get("/api/v1/namespaces/team").await.ok();
    world.merge(&format!("{base}/configmaps/held"), json!({"metadata": {"finalizers": null}})).await.ok();
    world.until(async || world.get("/api/v1/namespaces/team").await.found().is_none().then_some(())).await;
    world.get(&format!("{base}/serviceaccounts/default")).await.refused(404, "NotFound");
}

fn owned(name: &str, owner: &Value) -> Value {
    let mut object = config_map(name, "1");
    let reference = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true});
    object["metadata"]["ownerReferences"] = json!([reference]);
    object
}

async fn until_gone(world: &World, name: &str) {
    world.until(async || world.get(&format!("{CONFIG_MAPS}/{name}")).await.found().is_none().then_some(())).await;
}

#[tokio::test]
async fn dependents_go_with_their_owner_or_stay_as_orphans() {
    let world = World::with_controllers(1).await;
    let owner = world.config_map("owner", "1").await;
    let child = world.post(CONFIG_MAPS, owned("child", &owner)).await.created();
    world.post(CONFIG_MAPS, owned("grandchild", &child)).await.created();
    world.delete(&format!("{CONFIG_MAPS}/owner"), json!({"propagationPolicy": "Background"})).await.ok();
    until_gone(&world, "child").await;
    until_gone(&world, "grandchild").await;

    let owner = world.config_map("owner", "1").await;
    world.post(CONFIG_MAPS, owned("child", &owner)).await.created();
    world.delete(&format!("{CONFIG_MAPS}/owner"), json!({"propagationPolicy": "Orphan"})).await.ok();
    until_gone(&world, "owner").await;
    let orphan = world.get(&format!("{CONFIG_MAPS}/child")).await.ok();
    assert_eq!(orphan["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn foreground_delete_waits_for_the_dependents() {
    let world = World::with_controllers(1).await;
    let owner = world.config_map("owner", "1").await;
    let mut child = owned("child", &owner);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    world.post(CONFIG_MAPS, child).await.created();
    let ending = world.delete(&format!("{CONFIG_MAPS}/owner"), json!({"propagationPolicy": "Foreground"})).await.ok();
    assert_eq!(ending["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    // The child is asked to go, and while it is there the owner is, too.
    let asked = async || {
        let child = world.get(&format!("{CONFIG_MAPS}/child")).await.ok();
        child["metadata"]["deletionTimestamp"].is_string().then_some(())
    };
    world.until(asked).await;
    world.get(&format!("{CONFIG_MAPS}/owner")).await.ok();
    world.merge(&format!("{CONFIG_MAPS}/child"), json!({"metadata": {"finalizers": null}})).await.ok();
    until_gone(&world, "owner").await;
}

#[tokio::test]
async fn system_service_that_is_deleted_comes_back_with_its_address_k1() {
    let world = World::with_controllers(0).await;
    let path = format!("{SERVICES}/kubernetes");
    let before = world.get(&path).await.ok();
    assert_eq!(before["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(before["metadata"]["labels"], json!({"component": "apiserver", "provider": "kubernetes"}));
    world.delete(&path, json!({})).await.ok();
    let after = world.until(async || world.get(&path).await.found()).await;
    assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(after["spec"], before["spec"]);
}

#[tokio::test]
async fn service_is_told_in_events_of_a_pod_on_an_unknown_node_es9_es23() {
    let world = World::with_controllers(1).await;
    web(&world).await;
    world.pod("stray", json!({"app": "web"}), Some("nowhere")).await;
    world.run_pod("stray", "10.244.9.2", true).await;
    let failure = async || {
        let list = world.get("/api/v1/namespaces/default/events").await.ok();
        let mut all = list["items"].as_array().unwrap().iter();
        all.find(|event| event["reason"] == "FailedToUpdateEndpointSlices").cloned()
    };
    let event = world.until(failure).await;
    assert_eq!(
        (&event["involvedObject"]["kind"], &event["involvedObject"]["name"]),
        (&json!("Service"), &json!("web"))
    );
    assert!(event["message"].as_str().unwrap().contains("stray on nowhere"), "{event}");
}
