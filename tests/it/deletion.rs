//! Deletes: grace periods, finalizers, preconditions, collections.

use serde_json::json;

use crate::world::*;

#[tokio::test]
async fn deleted_object_is_gone_and_the_answer_says_which() {
    let world = World::start().await;
    let created = world.config_map("a", "1").await;
    let status = world.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.ok();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"], json!({"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}));
    world.get(&format!("{CONFIG_MAPS}/a")).await.refused(404, "NotFound");
    world.delete(&format!("{CONFIG_MAPS}/a"), json!({})).await.refused(404, "NotFound");
}

#[tokio::test]
async fn pod_on_a_node_stays_for_its_grace_period_px1() {
    let world = World::start().await;
    world.pod("p", json!({}), Some("n1")).await;
    let path = format!("{PODS}/p");
    let deleting = world.delete(&path, json!({})).await.ok();
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(world.get(&path).await.ok(), deleting);

    // May be shortened and never lengthened.
    let longer = world.delete(&path, json!({"gracePeriodSeconds": 60})).await.ok();
    assert_eq!(longer["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = world.delete(&path, json!({"gracePeriodSeconds": 5})).await.ok();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // PX2: a negative period means one second.
    let least = world.delete(&path, json!({"gracePeriodSeconds": -1})).await.ok();
    assert_eq!(least["metadata"]["deletionGracePeriodSeconds"], 1);
    world.delete(&path, json!({"gracePeriodSeconds": 0})).await.ok();
    world.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn pod_that_runs_nowhere_or_is_done_goes_at_once_px1() {
    let world = World::start().await;
    world.pod("unscheduled", json!({}), None).await;
    world.pod("done", json!({}), Some("n1")).await;
    world.merge(&format!("{PODS}/done/status"), json!({"status": {"phase": "Succeeded"}})).await.ok();
    for name in ["unscheduled", "done"] {
        world.delete(&format!("{PODS}/{name}"), json!({})).await.ok();
        world.get(&format!("{PODS}/{name}")).await.refused(404, "NotFound");
    }
}

#[tokio::test]
async fn name_of_a_pod_that_is_still_going_is_taken() {
    let world = World::start().await;
    let pod = world.pod("p", json!({}), Some("n1")).await;
    world.delete(&format!("{PODS}/p"), json!({})).await.ok();
    let again = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": pod["spec"]});
    let status = world.post(PODS, again).await.refused(409, "AlreadyExists");
    assert!(message(&status).starts_with("object is being deleted"), "{status}");
}

#[tokio::test]
async fn finalizer_holds_an_object_until_it_is_taken_off() {
    let world = World::start().await;
    let mut object = config_map("a", "1");
    object["metadata"]["finalizers"] = json!(["example.com/hold"]);
    world.post(CONFIG_MAPS, object).await.created();
    let path = format!("{CONFIG_MAPS}/a");
    let start = revision(&world.get(CONFIG_MAPS).await.ok());
    let mut watch = world.watch(CONFIG_MAPS, &format!("resourceVersion={start}")).await;

    let held = world.delete(&path, json!({})).await.ok();
    assert!(held["metadata"]["deletionTimestamp"].is_string(), "{held}");
    watch.expect("MODIFIED", "a").await;
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/late"]}});
    world.merge(&path, more).await.invalid(&["metadata.finalizers"]);
    world.merge(&path, json!({"metadata": {"finalizers": null}})).await.ok();
    watch.expect("DELETED", "a").await;
    world.get(&path).await.refused(404, "NotFound");
}

#[tokio::test]
async fn precondition_protects_a_successor_of_the_same_name() {
    let world = World::start().await;
    let first = world.config_map("a", "1").await;
    let path = format!("{CONFIG_MAPS}/a");
    world.delete(&path, json!({})).await.ok();
    let second = world.config_map("a", "2").await;
    let with = |object: &serde_json::Value| json!({"preconditions": {"uid": object["metadata"]["uid"]}});
    world.delete(&path, with(&first)).await.refused(409, "Conflict");
    let old = json!({"preconditions": {"resourceVersion": revision(&first)}});
    world.delete(&path, old).await.refused(409, "Conflict");
    world.delete(&path, with(&second)).await.ok();
}

#[tokio::test]
async fn collection_is_deleted_by_selector() {
    let world = World::start().await;
    for (name, app) in [("a", "web"), ("b", "web"), ("c", "db")] {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({"app": app});
        world.post(CONFIG_MAPS, object).await.created();
    }
    let deleted = world.delete(&format!("{CONFIG_MAPS}?labelSelector=app%3Dweb"), json!({})).await.ok();
    assert_eq!(names(&deleted), ["a", "b"]);
    assert_eq!(names(&world.get(CONFIG_MAPS).await.ok()), ["c"]);
}

#[tokio::test]
async fn jobs_and_replication_controllers_leave_their_pods_unless_asked() {
    let world = World::start().await;
    let template = json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/whoami"}]}});
    let mut always = template.clone();
    always["spec"]["restartPolicy"] = json!("Always");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": template}});
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController", "spec": {"template": always.clone()}});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": always}});
    for (path, object, orphans) in [
        ("/apis/batch/v1/namespaces/default/jobs", job, true),
        ("/api/v1/namespaces/default/replicationcontrollers", controller, true),
        ("/apis/apps/v1/namespaces/default/replicasets", set, false),
    ] {
        for (options, held) in [
            (json!({}), orphans.then_some("orphan")),
            (json!({"propagationPolicy": "Background"}), None),
            (json!({"orphanDependents": false}), None),
            (json!({"propagationPolicy": "Foreground"}), Some("foregroundDeletion")),
        ] {
            let mut object = object.clone();
            object["metadata"] = json!({"generateName": "a-"});
            let made = world.post(path, object).await.created();
            let name = made["metadata"]["name"].as_str().unwrap();
            let answer = world.delete(&format!("{path}/{name}"), options.clone()).await.ok();
            let finalizers = held.map(|name| json!([name])).unwrap_or_default();
            assert_eq!(answer["metadata"]["finalizers"], finalizers, "{path} {options}");
            if held.is_some() {
                // What is said already is not said anew.
                let again = world.delete(&format!("{path}/{name}"), json!({})).await.ok();
                assert_eq!(again["metadata"]["finalizers"], finalizers, "{path} {options}");
            }
        }
    }
}

#[tokio::test]
async fn dry_run_deletes_nothing() {
    let world = World::start().await;
    world.config_map("a", "1").await;
    world.delete(&format!("{CONFIG_MAPS}/a"), json!({"dryRun": ["All"]})).await.ok();
    world.delete(&format!("{CONFIG_MAPS}/a?dryRun=All"), json!({})).await.ok();
    world.get(&format!("{CONFIG_MAPS}/a")).await.ok();
}

#[tokio::test]
async fn eviction_whose_options_are_malformed_is_refused() {
    let world = World::start().await;
    world.pod("p", json!({}), None).await;
    for options in [json!("x"), json!([1]), json!(true), json!({"preconditions": "x"}), json!({"preconditions": [1]})] {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
            "deleteOptions": options});
        let status = world.post(&format!("{PODS}/p/eviction"), eviction).await.refused(400, "BadRequest");
        assert!(message(&status).contains("deleteOptions"), "{status}");
    }
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
        "deleteOptions": {"preconditions": null}});
    world.post(&format!("{PODS}/p/eviction"), eviction).await.created();
}

#[tokio::test]
async fn eviction_is_a_delete() {
    let world = World::start().await;
    world.pod("p", json!({}), None).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    world.post(&format!("{PODS}/p/eviction"), eviction).await.created();
    world.get(&format!("{PODS}/p")).await.refused(404, "NotFound");
}
