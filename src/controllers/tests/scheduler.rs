//! Nodes for Pods.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_of_pods_is_spread_evenly() {
    let world = World::with_nodes(3).await;
    for number in 0..12 {
        world.add_pod(&format!("p{number}"), "web", json!({})).await;
    }
    let mut counts = std::collections::BTreeMap::new();
    for number in 0..12 {
        *counts.entry(world.node_of(&format!("p{number}")).await).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_that_fits_nowhere_says_why_and_is_placed_when_a_node_comes() {
    let world = World::with_nodes(2).await;
    world.add_pod("picky", "web", json!({"nodeSelector": {"kubernetes.io/hostname": "n9"}})).await;
    let condition = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.clone()?;
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
    };
    let refused = world.until("the condition", || condition(&*world.cluster.pods.get("default", "picky")?)).await;
    assert_eq!(refused.reason.as_deref(), Some("Unschedulable"));
    let message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(refused.message.as_deref(), Some(message));
    let event = async |reason: &str| {
        world
            .list("/api/v1/namespaces/default/events")
            .await
            .into_iter()
            .find(|event| event["reason"] == reason && event["involvedObject"]["name"] == "picky")
    };
    let failed = world.until_async("the event", async || event("FailedScheduling").await).await;
    assert_eq!((&failed["message"], &failed["type"]), (&json!(message), &json!("Warning")));
    assert_eq!(failed["source"], json!({"component": "default-scheduler"}));

    world.add_node("n9").await;
    assert_eq!(world.node_of("picky").await, "n9");
    let scheduled = world.until_async("the event", async || event("Scheduled").await).await;
    assert_eq!(scheduled["message"], "Successfully assigned default/picky to n9");
}

/// A Pod that must be near another is placed when that one comes, or when one that is there becomes such a Pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_that_waits_for_another_is_placed_when_that_one_is() {
    let world = World::with_nodes(2).await;
    let near = |app: &str| {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]}}})
    };
    let refused = async |name: &str| {
        let said = || {
            let conditions = world.cluster.pods.get("default", name)?.status.clone()?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
        };
        world.until(&format!("the refusal of {name}"), said).await;
    };
    world.add_pod("web", "web", near("cache")).await;
    world.add_pod("late", "late", near("renamed")).await;
    refused("web").await;
    refused("late").await;
    world.add_pod("cache", "cache", json!({})).await;
    assert_eq!(world.node_of("web").await, world.node_of("cache").await);
    world.patch("/api/v1/namespaces/default/pods/cache", json!({"metadata": {"labels": {"app": "renamed"}}})).await;
    assert_eq!(world.node_of("late").await, world.node_of("cache").await);
}

/// What Pods ask for is theirs until they end; then, or when a node has more, the next one gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_waits_for_the_resources_that_it_asks_for() {
    let world = World::with_nodes(2).await;
    let asks = |cpu: &str| json!({"containers": [{"name": "c", "image": "vipyard/pause", "resources": {"requests": {"cpu": cpu}}}]});
    let refused = async |name: &str| {
        let said = || {
            let conditions = world.cluster.pods.get("default", name)?.status.clone()?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
        };
        world.until(&format!("the refusal of {name}"), said).await.message.unwrap()
    };
    world.add_pod("first", "first", asks("1500m")).await;
    world.add_pod("second", "second", asks("1500m")).await;
    let (first, second) = (world.node_of("first").await, world.node_of("second").await);
    assert_ne!(first, second);
    world.add_pod("third", "third", asks("1")).await;
    assert_eq!(refused("third").await, "0/2 nodes are available: 2 Insufficient cpu.");
    let over = json!({"status": {"phase": "Succeeded"}});
    world.patch("/api/v1/namespaces/default/pods/second/status", over).await;
    assert_eq!(world.node_of("third").await, second);
    world.add_pod("fourth", "fourth", asks("4")).await;
    refused("fourth").await;
    world.patch(&format!("/api/v1/nodes/{first}/status"), json!({"status": {"allocatable": {"cpu": "6"}}})).await;
    assert_eq!(world.node_of("fourth").await, first);
}
