//! Nodes that are lost, tainted and cordoned.

use super::*;

const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

fn condition(object: &Value, kind: &str) -> Option<Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == kind).cloned()
}

impl World {
    async fn taints(&self, node: &str) -> Vec<String> {
        let node = self.get(&format!("/api/v1/nodes/{node}")).await.unwrap();
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let text = |taint: &Value| format!("{}:{}", taint["key"].as_str().unwrap(), taint["effect"].as_str().unwrap());
        taints.iter().map(text).collect()
    }

    async fn until_taints(&self, node: &str, expected: &[&str]) {
        let what = format!("taints {expected:?} of {node}");
        self.until_async(&what, async || (self.taints(node).await == expected).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_node_is_tainted_and_drives_its_pods_away() {
    let world = World::with_nodes(2).await;
    let tolerates = |seconds: Option<i64>| {
        json!({"nodeName": "n1", "tolerations": [
            {"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}]})
    };
    world.add_pod("stays", "web", tolerates(None)).await;
    world.add_pod("goes", "web", tolerates(Some(0))).await;
    world.set_ready("stays", "10.244.1.2", true).await;
    world.set_ready("goes", "10.244.1.3", true).await;
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "n1"},
        "spec": {"renewTime": "2024-01-01T00:00:00.000000Z", "leaseDurationSeconds": 50}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    world.post(leases, lease).await;
    world.until_taints("n1", &[&format!("{UNREACHABLE}:NoSchedule"), &format!("{UNREACHABLE}:NoExecute")]).await;
    let node = world.get("/api/v1/nodes/n1").await.unwrap();
    assert_eq!(condition(&node, "Ready").unwrap()["reason"], "NodeStatusUnknown");
    let pod = async |name: &str| world.get(&format!("/api/v1/namespaces/default/pods/{name}")).await;
    let unready = async |name: &str| condition(&pod(name).await?, "Ready").filter(|c| c["status"] == "False");
    world.until_async("both Pods to be not ready", async || unready("stays").await.and(unready("goes").await)).await;
    let gone = world
        .until_async("the eviction", async || {
            pod("goes").await.filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        })
        .await;
    assert_eq!(condition(&gone, "DisruptionTarget").unwrap()["reason"], "DeletionByTaintManager");

    // The agent is back.
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    world.patch(&format!("{leases}/n1"), json!({"spec": {"leaseDurationSeconds": null}})).await;
    world.patch("/api/v1/nodes/n1/status", ready).await;
    world.until_taints("n1", &[]).await;
    assert!(pod("stays").await.unwrap()["metadata"]["deletionTimestamp"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cordon_and_taints_of_the_owner_have_their_effect() {
    let world = World::with_nodes(1).await;
    world.add_pod("here", "web", json!({})).await;
    world.add_pod("over", "web", json!({"restartPolicy": "Never"})).await;
    world.node_of("here").await;
    world.node_of("over").await;
    world.patch("/api/v1/namespaces/default/pods/over/status", json!({"status": {"phase": "Succeeded"}})).await;
    world.patch("/api/v1/nodes/n1", json!({"spec": {"unschedulable": true}})).await;
    world.until_taints("n1", &["node.kubernetes.io/unschedulable:NoSchedule"]).await;
    world.patch("/api/v1/nodes/n1", json!({"spec": {"unschedulable": null}})).await;
    world.until_taints("n1", &[]).await;
    let pod = async || world.get("/api/v1/namespaces/default/pods/here").await.unwrap();
    assert!(pod().await["metadata"]["deletionTimestamp"].is_null(), "a cordon drives nobody away");
    let taint = json!({"spec": {"taints": [{"key": "team", "effect": "NoExecute"}]}});
    world.patch("/api/v1/nodes/n1", taint).await;
    world
        .until_async("the eviction", async || (!pod().await["metadata"]["deletionTimestamp"].is_null()).then_some(()))
        .await;
    let finished = async || world.get("/api/v1/namespaces/default/pods/over").await;
    let going = |pod: &Value| !pod["metadata"]["deletionTimestamp"].is_null();
    world
        .until_async("the finished Pod to go, too", async || {
            finished().await.is_none_or(|pod| going(&pod)).then_some(())
        })
        .await;
}

/// Pods of a node that is deleted go for good, and a workload replaces them; a node that is only late loses none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_does_not_exist_go() {
    let world = World::with_nodes(1).await;
    world.add_pod("orphan", "web", json!({"nodeName": "n1"})).await;
    world.set_ready("orphan", "10.244.1.2", true).await;
    world.add_pod("early", "web", json!({"nodeName": "n7"})).await;
    world
        .patch("/api/v1/namespaces/default/pods/orphan", json!({"metadata": {"finalizers": ["example.com/held"]}}))
        .await;
    world.add_node("n7").await;
    world.delete("/api/v1/nodes/n1", json!({})).await;
    let path = "/api/v1/namespaces/default/pods/orphan";
    let gone = world
        .until_async("the deletion", async || {
            world.get(path).await.filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
        })
        .await;
    assert_eq!(gone["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(gone["status"]["phase"], "Failed");
    assert_eq!(condition(&gone, "DisruptionTarget").unwrap()["reason"], "DeletionByPodGC");
    world.patch(path, json!({"metadata": {"finalizers": null}})).await;
    world.until_async("the Pod to go", async || world.get(path).await.is_none().then_some(())).await;
    let early = world.get("/api/v1/namespaces/default/pods/early").await.unwrap();
    assert!(early["metadata"]["deletionTimestamp"].is_null());
}
