//! Workloads over the API. Nothing runs: tests write the status of Pods as a node agent would.

use super::*;

const APPS: &str = "/apis/apps/v1/namespaces/default";
const PODS: &str = "/api/v1/namespaces/default/pods";

impl World {
    /// Makes a workload of these Pods: `spec` is merged over replicas, selector and template.
    async fn workload(&self, kind: &str, name: &str, spec: Value) -> String {
        let labels = json!({"app": name});
        let mut all = json!({
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "vipyard/pause"}]}},
        });
        json_patch::merge(&mut all, &spec);
        let plural = format!("{}s", kind.to_lowercase());
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": all});
        self.post(&format!("{APPS}/{plural}"), object).await;
        format!("{APPS}/{plural}/{name}")
    }

    async fn pods_of(&self, app: &str) -> Vec<Value> {
        self.list(&format!("{PODS}?labelSelector=app%3D{app}")).await
    }

    /// Plays the node agent: Pods that are bound become ready, those that are being deleted go.
    async fn play(&self, app: &str) {
        for pod in self.pods_of(app).await {
            let name = pod["metadata"]["name"].as_str().unwrap();
            let path = format!("{PODS}/{name}");
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                let _ = self.request(Method::DELETE, &path, Some(json!({"gracePeriodSeconds": 0}))).await;
            } else if pod["status"]["phase"] == "Pending" && !pod["spec"]["nodeName"].is_null() {
                let now = k8s_openapi::jiff::Timestamp::now().to_string();
                let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
                let status = json!({"status": {"phase": "Running", "conditions": ready}});
                let _ = self.request(Method::PATCH, &format!("{path}/status"), Some(status)).await;
            }
        }
    }

    /// Plays until the status of the object at `path` has these fields.
    async fn play_until(&self, app: &str, path: &str, status: Value) -> Value {
        let what = format!("{status} of {path}");
        self.until_async(&what, async || {
            self.play(app).await;
            let found = self.get(path).await?;
            let mut merged = found["status"].clone();
            json_patch::merge(&mut merged, &status);
            (merged == found["status"] && found["status"]["observedGeneration"] == found["metadata"]["generation"])
                .then_some(found)
        })
        .await
    }

    async fn reasons(&self, kind: &str) -> Vec<String> {
        let events = self.list("/api/v1/namespaces/default/events").await;
        let of_kind = events.iter().filter(|event| event["involvedObject"]["kind"] == kind);
        of_kind.map(|event| event["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn counts(all: i32) -> Value {
    json!({"replicas": all, "readyReplicas": all, "availableReplicas": all})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_set_keeps_its_number_of_pods() {
    let world = World::with_nodes(2).await;
    let path = world.workload("ReplicaSet", "web", json!({"replicas": 20})).await;
    world.play_until("web", &path, counts(20)).await;
    assert_eq!(world.pods_of("web").await.len(), 20, "not one too many");

    // A Pod that is relabelled is released and replaced; one without an owner that fits is adopted, and one goes.
    let name = world.pods_of("web").await[0]["metadata"]["name"].as_str().unwrap().to_owned();
    world.patch(&format!("{PODS}/{name}"), json!({"metadata": {"labels": {"app": "other"}}})).await;
    world
        .until_async("the release", async || {
            let pod = world.get(&format!("{PODS}/{name}")).await?;
            (pod["metadata"]["ownerReferences"].is_null() && world.pods_of("web").await.len() == 20).then_some(())
        })
        .await;
    world.play_until("web", &path, counts(20)).await;
    world.patch(&format!("{PODS}/{name}"), json!({"metadata": {"labels": {"app": "web"}}})).await;
    world
        .until_async("one of 21 to go", async || {
            world.play("web").await;
            let pods = world.pods_of("web").await;
            (pods.len() == 20 && pods.iter().all(|pod| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet"))
                .then_some(())
        })
        .await;

    world.patch(&path, json!({"spec": {"replicas": 1}})).await;
    world.play_until("web", &path, counts(1)).await;
    assert_eq!(world.pods_of("web").await.len(), 1);
    let reasons = world.reasons("ReplicaSet").await;
    assert!(reasons.contains(&"SuccessfulCreate".into()) && reasons.contains(&"SuccessfulDelete".into()));

    world.delete(&path, json!({"propagationPolicy": "Orphan"})).await;
    world.until_async("the set to go", async || world.get(&path).await.is_none().then_some(())).await;
    assert!(world.pods_of("web").await[0]["metadata"]["ownerReferences"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_controller_is_a_replica_set_of_old() {
    let world = World::with_nodes(1).await;
    let object = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
        "spec": {"replicas": 2, "template": {"metadata": {"labels": {"app": "rc"}},
            "spec": {"containers": [{"name": "c", "image": "vipyard/pause"}]}}}});
    let path = "/api/v1/namespaces/default/replicationcontrollers";
    world.post(path, object).await;
    world.play_until("rc", &format!("{path}/rc"), counts(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_are_refused_stop_the_batch_and_are_told() {
    let world = World::with_nodes(1).await;
    let spec = json!({"replicas": 9, "template": {"spec": {"serviceAccountName": "nobody"}}});
    let path = world.workload("ReplicaSet", "web", spec).await;
    let failure = async || {
        let found = world.get(&path).await?;
        let condition = &found["status"]["conditions"][0];
        (condition["type"] == "ReplicaFailure").then(|| condition.clone())
    };
    let condition = world.until_async("the condition", failure).await;
    assert_eq!(condition["reason"], "FailedCreate");
    assert!(condition["message"].as_str().unwrap().contains("serviceaccount \"nobody\" not found"), "{condition}");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}});
    world.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let found = world.play_until("web", &path, counts(9)).await;
    assert!(found["status"]["conditions"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deployment_rolls_out_pauses_goes_back_and_forgets() {
    let world = World::with_nodes(2).await;
    let spec = json!({"replicas": 4, "revisionHistoryLimit": 1});
    let path = world.workload("Deployment", "web", spec).await;
    let done = json!({"replicas": 4, "updatedReplicas": 4, "readyReplicas": 4, "availableReplicas": 4});
    let first = world.play_until("web", &path, done.clone()).await;
    assert_eq!(first["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "1");
    let sets = async || world.list(&format!("{APPS}/replicasets")).await;
    let image = |tag: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": tag}]}}}});

    // Nothing of a paused rollout happens, but it is scaled.
    world.patch(&path, json!({"spec": {"paused": true}})).await;
    world.patch(&path, image("vipyard/whoami")).await;
    world.patch(&path, json!({"spec": {"replicas": 5}})).await;
    world.play_until("web", &path, json!({"replicas": 5, "availableReplicas": 5})).await;
    assert_eq!(sets().await.len(), 1);
    world.patch(&path, json!({"spec": {"paused": null, "replicas": 4}})).await;
    let second = world.play_until("web", &path, done.clone()).await;
    assert_eq!(second["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "2");
    let progressing = second["status"]["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Progressing");
    assert_eq!(progressing.unwrap()["reason"], "NewReplicaSetAvailable");

    // Back to the first template: its set is used again and is revision 3.
    world.patch(&path, image("vipyard/pause")).await;
    let third = world.play_until("web", &path, done.clone()).await;
    assert_eq!(third["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
    let all = sets().await;
    assert_eq!(all.len(), 2);
    let back = all.iter().find(|set| set["spec"]["replicas"] == 4).unwrap();
    assert_eq!(back["metadata"]["annotations"]["deployment.kubernetes.io/revision-history"], "1");

    // A third template: of the two old sets one stays.
    world.patch(&path, image("vipyard/host")).await;
    world.play_until("web", &path, done).await;
    world.until_async("history to go", async || (sets().await.len() == 2).then_some(())).await;
    assert!(world.reasons("Deployment").await.contains(&"ScalingReplicaSet".into()));

    world.delete(&path, json!({"propagationPolicy": "Foreground"})).await;
    world
        .until_async("all of it to go", async || {
            world.play("web").await;
            (world.get(&path).await.is_none() && world.pods_of("web").await.is_empty()).then_some(())
        })
        .await;
}

/// A thousand Pods become ready one by one: the writes of the status are a small part of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_of_many_pods_is_folded() {
    let world = World::with_nodes(3).await;
    let path = world.workload("Deployment", "web", json!({"replicas": 200})).await;
    world.until_async("the Pods", async || (world.pods_of("web").await.len() == 200).then_some(())).await;
    let before = world.api.store().revision();
    world.play_until("web", &path, counts(200)).await;
    let after = world.api.store().revision();
    let sets = world.list(&format!("{APPS}/replicasets")).await;
    let revision = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(revision(&sets[0]) > before);
    // Two writes at least are each Pod's own, its binding and its status; an Event follows the binding.
    assert!(after - before < 200 * 4, "{} writes", after - before);
    assert_eq!(world.pods_of("web").await.len(), 200);
}
