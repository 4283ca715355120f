//! Namespaces: what each gets, and how they go.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_gets_its_service_account_and_root_certificate_again_and_again() {
    let world = World::start().await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    let account = "/api/v1/namespaces/x/serviceaccounts/default";
    let config_map = "/api/v1/namespaces/x/configmaps/kube-root-ca.crt";
    let there = async || {
        let found = world.get(config_map).await.filter(|found| found["data"] == json!({"ca.crt": CA}));
        world.get(account).await.and(found).map(drop)
    };
    world.until_async("both objects", there).await;
    world.delete(account, json!({})).await;
    world.delete(config_map, json!({})).await;
    world.until_async("both objects again", there).await;
    world.patch(config_map, json!({"data": {"ca.crt": "forged"}})).await;
    world.until_async("the right certificate", there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_namespace_goes_when_its_last_pod_is_gone() {
    let world = World::with_nodes(1).await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    world.until("the ServiceAccount", || world.cluster.service_accounts.get("x", "default")).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["example.com/held"]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "vipyard/pause"}]}});
    world.post("/api/v1/namespaces/x/pods", pod).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    world.post("/api/v1/namespaces/x/services", service).await;
    world.delete("/api/v1/namespaces/x", json!({})).await;

    let namespace = world
        .until_async("the condition", async || {
            world.get("/api/v1/namespaces/x").await.filter(|found| !found["status"]["conditions"].is_null())
        })
        .await;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let told: Vec<(&str, &str, &str)> = namespace["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered"),
            ("NamespaceDeletionGroupVersionParsingFailure", "False", "All legacy kube types successfully parsed"),
            (
                "NamespaceDeletionContentFailure",
                "False",
                "All content successfully deleted, may be waiting on finalization"
            ),
            ("NamespaceContentRemaining", "True", "Some resources are remaining: pods. has 1 resource instances"),
            (
                "NamespaceFinalizersRemaining",
                "True",
                "Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances"
            ),
        ]
    );
    assert_eq!(world.list("/api/v1/namespaces/x/services").await, Vec::<Value>::new());
    assert!(!world.get("/api/v1/namespaces/x/pods/p").await.unwrap()["metadata"]["deletionTimestamp"].is_null());

    // What the node agent does when the containers have ended (PX3).
    world.delete("/api/v1/namespaces/x/pods/p", json!({"gracePeriodSeconds": 0})).await;
    world.patch("/api/v1/namespaces/x/pods/p", json!({"metadata": {"finalizers": null}})).await;
    world
        .until_async("the namespace to go", async || world.get("/api/v1/namespaces/x").await.is_none().then_some(()))
        .await;
    for (resource, namespaced) in world.api.registry().resources().borrow().clone() {
        if namespaced {
            let group = if resource.group.is_empty() { "api".to_owned() } else { format!("apis/{}", resource.group) };
            let path = format!("/{group}/{}/namespaces/x/{}", resource.version, resource.plural);
            assert_eq!(world.list(&path).await, Vec::<Value>::new(), "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_that_is_being_deleted_gets_nothing_new_es20() {
    let world = World::start().await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    world.post("/api/v1/namespaces/x/configmaps", held).await;
    world.delete("/api/v1/namespaces/x", json!({})).await;
    let refused = world
        .request(
            Method::POST,
            "/api/v1/namespaces/x/secrets",
            Some(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})),
        )
        .await
        .unwrap_err();
    assert!(runner::is_namespace_terminating(&refused), "{refused}");
    assert!(matches!(refused, kube::Error::Api(status) if status.code == StatusCode::FORBIDDEN.as_u16()));
    world
        .until_async("only the held object to be left", async || {
            let left = world.list("/api/v1/namespaces/x/configmaps").await;
            let accounts = world.list("/api/v1/namespaces/x/serviceaccounts").await;
            (left.len() == 1 && accounts.is_empty()).then_some(())
        })
        .await;
    world.patch("/api/v1/namespaces/x/configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    world
        .until_async("the namespace to go", async || world.get("/api/v1/namespaces/x").await.is_none().then_some(()))
        .await;
}
