//! scale, eviction under a PodDisruptionBudget, ephemeral containers, resize, binding, finalize, and a Pod's status.

use serde_json::{Value, json};

use crate::world::*;

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

fn scale(name: &str, replicas: i32) -> Value {
    json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": name}, "spec": {"replicas": replicas}})
}

#[tokio::test]
async fn scale_reads_and_writes_the_replicas_of_a_workload() {
    let world = World::start().await;
    let before = world.post(DEPLOYMENTS, deployment("web")).await.created();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let found = world.get(&path).await.ok();
    assert_eq!((&found["kind"], &found["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(
        (&found["spec"], &found["status"]),
        (&json!({"replicas": 1}), &json!({"replicas": 0, "selector": "app=web"}))
    );
    assert_eq!(found["metadata"]["uid"], before["metadata"]["uid"]);

    assert_eq!(world.put(&path, scale("web", 3)).await.ok()["spec"]["replicas"], 3);
    assert_eq!(world.merge(&path, json!({"spec": {"replicas": 4}})).await.ok()["spec"]["replicas"], 4);
    assert_eq!(world.strategic(&path, json!({"spec": {"replicas": 5}})).await.ok()["spec"]["replicas"], 5);
    let patch = json!([{"op": "replace", "path": "/spec/replicas", "value": 6}]);
    assert_eq!(world.json_patch(&path, patch).await.ok()["spec"]["replicas"], 6);
    let after = world.get(&format!("{DEPLOYMENTS}/web")).await.ok();
    assert_eq!((&after["spec"]["replicas"], &after["metadata"]["generation"]), (&json!(6), &json!(5)));
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
    // Zero replicas are left out, as in the reference.
    assert_eq!(world.put(&path, scale("web", 0)).await.ok()["spec"], json!({}));
}

#[tokio::test]
async fn scale_is_printed_with_its_numbers() {
    let world = World::start().await;
    world.post(DEPLOYMENTS, deployment("web")).await.created();
    let path = format!("{DEPLOYMENTS}/web/scale");
    world.put(&path, scale("web", 3)).await.ok();
    let table = world.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.ok();
    let columns = table["columnDefinitions"].as_array().unwrap().iter().map(|column| column["name"].as_str().unwrap());
    assert_eq!(columns.collect::<Vec<_>>(), ["Name", "Desired", "Available", "Age"]);
    assert_eq!(table["rows"][0]["cells"].as_array().unwrap()[..3], [json!("web"), json!(3), json!(0)]);
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "web");
    world.put(&path, scale("web", 0)).await.ok();
    let table = world.get_as(&path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.ok();
    assert_eq!(table["rows"][0]["cells"][1], 0, "a number that is left out of the object");
}

/// The owners of an object's fields, of the object itself and of its subresources.
fn owners(object: &Value) -> Vec<(&str, &str, &Value)> {
    let entries = object["metadata"]["managedFields"].as_array().expect("managedFields");
    entries
        .iter()
        .map(|e| (e["manager"].as_str().unwrap(), e["subresource"].as_str().unwrap_or_default(), &e["fieldsV1"]))
        .collect()
}

#[tokio::test]
async fn who_scales_owns_the_replicas_through_the_subresource() {
    let world = World::start().await;
    let path = format!("{DEPLOYMENTS}/web");
    world.post(&format!("{DEPLOYMENTS}?fieldManager=maker"), deployment("web")).await.created();
    world.put(&format!("{path}/scale?fieldManager=scaler"), scale("web", 3)).await.ok();
    let scaled = world.get(&path).await.ok();
    let replicas = json!({"f:spec": {"f:replicas": {}}});
    assert!(owners(&scaled).contains(&("scaler", "scale", &replicas)), "{:?}", owners(&scaled));
    let maker = owners(&scaled).into_iter().find(|owner| owner.0 == "maker").unwrap();
    assert_eq!(maker.2["f:spec"].get("f:replicas"), None, "they are the scaler's now");

    let refused = world.apply(&format!("{path}/scale"), "third", scale("web", 5)).await.refused(409, "Conflict");
    assert!(message(&refused).contains("conflict with \"scaler\" with subresource \"scale\""), "{refused}");
    world.apply(&format!("{path}/scale"), "third", scale("web", 3)).await.ok();
    let applied = world.get(&path).await.ok();
    assert!(owners(&applied).contains(&("third", "scale", &replicas)), "{:?}", owners(&applied));
    world.apply(&format!("{DEPLOYMENTS}/none/scale"), "third", scale("none", 1)).await.refused(404, "NotFound");
}

/// What each kind's `PrepareForUpdate` of the status leaves of what came along.
#[tokio::test]
async fn status_write_changes_the_metadata_that_its_kind_lets_it() {
    let world = World::start().await;
    world.pod("p", json!({"a": "old"}), None).await;
    world.post(DEPLOYMENTS, deployment("d")).await.created();
    world.post(SERVICES, service("s", json!({"ports": [{"port": 80}]}))).await.created();
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "u"}]);
    let metadata = json!({"labels": {"a": "new"}, "annotations": {"b": "new"}, "finalizers": ["example.com/f"],
        "ownerReferences": owner});
    let written = async |path: &str| {
        let object = world.merge(&format!("{path}/status"), json!({"metadata": metadata, "spec": {"x": 1}})).await.ok();
        assert_eq!(object["metadata"]["annotations"]["b"], "new", "{path}");
        assert_eq!(object["metadata"]["finalizers"], json!(["example.com/f"]), "{path}");
        (object["metadata"]["labels"]["a"].clone(), object["metadata"]["ownerReferences"].clone())
    };
    assert_eq!(written(&format!("{PODS}/p")).await, (json!("new"), json!(null)));
    assert_eq!(written(&format!("{DEPLOYMENTS}/d")).await, (json!(null), owner.clone()));
    assert_eq!(written(&format!("{SERVICES}/s")).await, (json!("new"), owner.clone()));
    assert_eq!(written(&format!("{NAMESPACES}/default")).await, (json!("new"), owner.clone()));
}

#[tokio::test]
async fn scale_refuses_negative_replicas_and_stale_revisions() {
    let world = World::start().await;
    let created = world.post(DEPLOYMENTS, deployment("web")).await.created();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let refused = world.put(&path, scale("web", -1)).await.invalid(&["spec.replicas"]);
    let text =
        "Scale.autoscaling \"web\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0";
    assert_eq!(message(&refused), text);
    world.put(&path, scale("web", 2)).await.ok();
    let mut stale = scale("web", 3);
    stale["metadata"]["resourceVersion"] = revision(&created).into();
    world.put(&path, stale).await.refused(409, "Conflict");
    world.get(&format!("{DEPLOYMENTS}/other/scale")).await.refused(404, "NotFound");
    // A dry run answers as if, and changes nothing.
    assert_eq!(world.put(&format!("{path}?dryRun=All"), scale("web", 9)).await.ok()["spec"]["replicas"], 9);
    assert_eq!(world.get(&path).await.ok()["spec"]["replicas"], 2);
}

fn eviction(pod: &str) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}})
}

fn budget(spec: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": spec})
}

#[tokio::test]
async fn eviction_spends_the_budget_and_is_refused_when_it_is_empty() {
    let world = World::with_controllers(1).await;
    for (i, name) in ["a", "b"].into_iter().enumerate() {
        world.pod(name, json!({"app": "web"}), Some("n1")).await;
        world.run_pod(name, &format!("10.244.0.{}", i + 2), true).await;
    }
    let path = format!("{BUDGETS}/web");
    let spec = json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}});
    world.post(BUDGETS, budget(spec)).await.created();
    world
        .until(async || {
            let status = world.get(&path).await.ok()["status"].clone();
            (status["disruptionsAllowed"] == 1 && status["currentHealthy"] == 2).then_some(())
        })
        .await;
    let evict = async |pod: &str| world.post(&format!("{PODS}/{pod}/eviction"), eviction(pod)).await;
    evict("a").await.created();
    let refused = evict("b").await.refused(429, "TooManyRequests");
    assert_eq!(message(&refused), "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(refused["details"]["causes"][0]["reason"], "DisruptionBudget");
    world.get(&format!("{PODS}/b")).await.ok();

    // The controller sees the deletion and says how things stand.
    world
        .until(async || {
            let status = world.get(&path).await.ok()["status"].clone();
            let settled = status["currentHealthy"] == 1 && status.get("disruptedPods").is_none();
            (settled && status["disruptionsAllowed"] == 0).then_some(())
        })
        .await;
    let refused = evict("b").await.refused(429, "TooManyRequests");
    let why = "The disruption budget web needs 1 healthy pods and has 1 currently";
    assert_eq!(refused["details"]["causes"][0]["message"], why);

    world.merge(&path, json!({"spec": {"minAvailable": 0}})).await.ok();
    world.until(async || (world.get(&path).await.ok()["status"]["disruptionsAllowed"] == 1).then_some(())).await;
    evict("b").await.created();
}

#[tokio::test]
async fn eviction_needs_no_budget_for_pods_that_do_not_run_or_have_none() {
    let world = World::start().await;
    world
        .post(BUDGETS, budget(json!({"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}})))
        .await
        .created();
    world.pod("pending", json!({"app": "web"}), None).await;
    world.post(&format!("{PODS}/pending/eviction"), eviction("pending")).await.created();
    world.get(&format!("{PODS}/pending")).await.refused(404, "NotFound");
    world.pod("running", json!({"app": "web"}), Some("n1")).await;
    world.run_pod("running", "10.244.0.2", true).await;
    // No controller runs here, so the budget's status says nothing yet.
    let refused =
        world.post(&format!("{PODS}/running/eviction"), eviction("running")).await.refused(429, "TooManyRequests");
    let why = "The disruption budget web is still being processed by the server.";
    assert_eq!(refused["details"]["causes"][0]["message"], why);
    world.pod("free", json!({"app": "other"}), Some("n1")).await;
    world.run_pod("free", "10.244.0.3", true).await;
    world.post(&format!("{PODS}/free/eviction"), eviction("free")).await.created();
}

#[tokio::test]
async fn debug_containers_are_added_by_their_subresource_alone() {
    let world = World::start().await;
    world.pod("web", json!({}), None).await;
    let debug =
        json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "i:1", "targetContainerName": "c"}]}});
    world.strategic(&format!("{PODS}/web"), debug.clone()).await.invalid(&["spec"]);
    let pod = world.strategic(&format!("{PODS}/web/ephemeralcontainers"), debug).await.ok();
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "debug");
    let changed = json!({"spec": {"ephemeralContainers": [{"name": "debug", "image": "i:2"}]}});
    let path = format!("{PODS}/web/ephemeralcontainers");
    world.strategic(&path, changed).await.invalid(&["spec.ephemeralContainers"]);
}

#[tokio::test]
async fn resize_changes_the_resources_of_a_pod() {
    let world = World::start().await;
    world.pod("web", json!({}), None).await;
    let resize = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    world.strategic(&format!("{PODS}/web"), resize("1")).await.invalid(&["spec"]);
    // What was best effort would become burstable.
    world.strategic(&format!("{PODS}/web/resize"), resize("1")).await.invalid(&["spec"]);
    let spec = json!({"containers": [{"name": "c", "image": "i:1", "resources": {"requests": {"cpu": "500m"}}}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "sized"}, "spec": spec});
    world.post(PODS, pod).await.created();
    let pod = world.strategic(&format!("{PODS}/sized/resize"), resize("1000m")).await.ok();
    assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
}

#[tokio::test]
async fn subresources_of_a_pods_spec_leave_its_metadata_alone() {
    let world = World::start().await;
    world.pod("web", json!({"app": "web"}), None).await;
    let patch = json!({"metadata": {"labels": {"app": "other"}, "annotations": {"a": "b"}},
        "spec": {"ephemeralContainers": [{"name": "debug", "image": "i:1"}]}});
    let pod = world.strategic(&format!("{PODS}/web/ephemeralcontainers"), patch).await.ok();
    assert_eq!(pod["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!((&pod["metadata"]["labels"], pod["metadata"].get("annotations")), (&json!({"app": "web"}), None));
}

#[tokio::test]
async fn status_of_a_pod_keeps_what_old_agents_leave_out() {
    let world = World::start().await;
    let mut pod = world.pod("web", json!({}), Some("n1")).await;
    let path = format!("{PODS}/web/status");
    let condition =
        |kind: &str, generation: i64| json!({"type": kind, "status": "True", "observedGeneration": generation});
    pod["status"] = json!({"phase": "Running", "observedGeneration": 1,
        "conditions": [condition("Ready", 1), condition("Initialized", 2)]});
    let written = world.put(&path, pod.clone()).await.ok();
    assert_eq!(written["status"]["qosClass"], "BestEffort");
    pod["metadata"]["resourceVersion"] = json!("");
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Initialized", "status": "False"},
        {"type": "Ready", "status": "False"}, condition("PodScheduled", 3)]});
    let status = world.put(&path, pod).await.ok()["status"].clone();
    assert_eq!((&status["qosClass"], &status["observedGeneration"]), (&json!("BestEffort"), &json!(1)));
    let observed: Vec<&Value> =
        status["conditions"].as_array().unwrap().iter().map(|condition| &condition["observedGeneration"]).collect();
    assert_eq!(observed, [&json!(2), &json!(1), &json!(3)]);
    world.merge(&path, json!({"status": {"qosClass": "Guaranteed"}})).await.invalid(&["status.qosClass"]);
}

#[tokio::test]
async fn pod_pulls_images_with_the_secrets_of_its_service_account() {
    let world = World::start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    world.merge(account, json!({"imagePullSecrets": [{"name": "registry"}]})).await.ok();
    let made = world.pod("plain", json!({}), None).await;
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "registry"}]));
    let spec = json!({"containers": [{"name": "c", "image": "i"}], "imagePullSecrets": [{"name": "mine"}]});
    let own = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "own"}, "spec": spec});
    assert_eq!(world.post(PODS, own).await.created()["spec"]["imagePullSecrets"], json!([{"name": "mine"}]));
}

#[tokio::test]
async fn dry_run_of_a_binding_binds_nothing() {
    let world = World::start().await;
    let before = world.pod("web", json!({}), None).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "web"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}});
    let path = format!("{PODS}/web/binding");
    assert_eq!(world.post(&format!("{path}?dryRun=All"), binding.clone()).await.created()["status"], "Success");
    assert_eq!(world.get(&format!("{PODS}/web")).await.ok(), before);
    world.post(&path, binding.clone()).await.created();
    assert_eq!(world.get(&format!("{PODS}/web")).await.ok()["spec"]["nodeName"], "n1");
    world.post(&format!("{path}?dryRun=All"), binding).await.refused(409, "Conflict");
}

#[tokio::test]
async fn finalizers_of_a_namespace_change_by_their_subresource_and_its_status_does_not() {
    let world = World::start().await;
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"},
        "spec": {"finalizers": ["example.com/own"]}});
    let mut made = world.post(NAMESPACES, object).await.created();
    assert_eq!(made["spec"]["finalizers"], json!(["example.com/own", "kubernetes"]));
    made["spec"]["finalizers"] = json!(["example.com/own"]);
    made["status"] = json!({"phase": "Terminating"});
    let path = format!("{NAMESPACES}/x");
    let kept = world.put(&path, made.clone()).await.ok();
    assert_eq!(kept["spec"]["finalizers"], json!(["example.com/own", "kubernetes"]));
    let finalized = world.put(&format!("{path}/finalize"), made.clone()).await.ok();
    assert_eq!(finalized["spec"]["finalizers"], json!(["example.com/own"]));
    assert_eq!(finalized["status"]["phase"], "Active");
    made["metadata"]["resourceVersion"] = json!("");
    made["spec"]["finalizers"] = json!(["own", "no name"]);
    let invalid = world.put(&format!("{path}/finalize"), made).await;
    invalid.invalid(&["spec.finalizers[0]", "spec.finalizers[1]"]);
}
