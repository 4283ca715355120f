//! Dependents of deleted owners.

use super::*;

/// A ConfigMap that names `owners` (kind, name, uid) as blocking owners.
async fn owned(world: &World, name: &str, owners: &[(&str, &str, &str)]) -> String {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(kind, name, uid)| {
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
            "blockOwnerDeletion": true})
        })
        .collect();
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}});
    let created = world.post("/api/v1/namespaces/default/configmaps", object).await;
    created["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn config_map(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_of_an_absent_owner_are_deleted_with_theirs() {
    let world = World::start().await;
    let never = "00000000-0000-4000-8000-000000000000";
    let root = owned(&world, "root", &[]).await;
    let child = owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    owned(&world, "grandchild", &[("ConfigMap", "child", &child)]).await;
    let other = owned(&world, "other", &[]).await;
    owned(&world, "shared", &[("ConfigMap", "root", &root), ("ConfigMap", "other", &other)]).await;
    owned(&world, "stranger", &[("Unserved", "x", never)]).await;
    owned(&world, "lost", &[("ConfigMap", "never-was", never)]).await;
    let gone = async |name: &str| world.get(&config_map(name)).await.is_none().then_some(());
    world.until_async("the one whose owner never was to go", async || gone("lost").await).await;

    world.delete(&config_map("root"), json!({})).await;
    world.until_async("the child to go", async || gone("child").await).await;
    world.until_async("the grandchild to go", async || gone("grandchild").await).await;
    let shared = world
        .until_async("the shared object to lose one owner", async || {
            let found = world.get(&config_map("shared")).await.expect("it has another owner");
            (found["metadata"]["ownerReferences"].as_array()?.len() == 1).then_some(found)
        })
        .await;
    assert_eq!(shared["metadata"]["ownerReferences"][0]["name"], "other");
    assert!(world.get(&config_map("stranger")).await.is_some(), "of unserved kinds nothing can be known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_blocking_dependents() {
    let world = World::start().await;
    let root = owned(&world, "root", &[]).await;
    owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    world.patch(&config_map("child"), json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    world.delete(&config_map("root"), json!({"propagationPolicy": "Foreground"})).await;
    world
        .until_async("the child's deletion", async || {
            let child = world.get(&config_map("child")).await?;
            (!child["metadata"]["deletionTimestamp"].is_null()).then_some(())
        })
        .await;
    assert!(world.get(&config_map("root")).await.is_some(), "the owner waits");
    world.patch(&config_map("child"), json!({"metadata": {"finalizers": null}})).await;
    world.until_async("the owner to go", async || world.get(&config_map("root")).await.is_none().then_some(())).await;
    assert!(world.get(&config_map("child")).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaning_deletion_leaves_the_dependents() {
    let world = World::start().await;
    let root = owned(&world, "root", &[]).await;
    owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    world.delete(&config_map("root"), json!({"propagationPolicy": "Orphan"})).await;
    world.until_async("the owner to go", async || world.get(&config_map("root")).await.is_none().then_some(())).await;
    let child = world.get(&config_map("child")).await.expect("orphans stay");
    assert!(child["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
}
