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
    world
        .until_async("the last of the others to go", async || {
            world.play("web").await;
            (world.pods_of("web").await.len() == 1).then_some(())
        })
        .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stateful_set_comes_up_in_order_and_rolls_down() {
    let world = World::with_nodes(2).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    let spec = json!({"replicas": 3, "serviceName": "db", "volumeClaimTemplates": [claim]});
    let path = world.workload("StatefulSet", "db", spec).await;
    world.until_async("the first Pod", async || world.get(&format!("{PODS}/db-0")).await).await;
    assert_eq!(world.pods_of("db").await.len(), 1, "db-1 waits for db-0");
    let all = json!({"replicas": 3, "readyReplicas": 3, "currentReplicas": 3, "updatedReplicas": 3});
    let first = world.play_until("db", &path, all.clone()).await;
    assert_eq!(first["status"]["currentRevision"], first["status"]["updateRevision"]);
    let pod = world.get(&format!("{PODS}/db-1")).await.unwrap();
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    assert_eq!(pod["spec"]["volumes"].as_array().unwrap().iter().filter(|v| v["name"] == "data").count(), 1);
    assert_eq!(world.list("/api/v1/namespaces/default/persistentvolumeclaims").await.len(), 3);

    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "vipyard/whoami"}]}}}});
    world.patch(&path, image).await;
    let rolled = world.play_until("db", &path, all).await;
    assert_ne!(rolled["status"]["currentRevision"], first["status"]["currentRevision"]);
    let revisions = world.list(&format!("{APPS}/controllerrevisions")).await;
    assert_eq!(revisions.len(), 2, "one for each template");
    world.patch(&path, json!({"spec": {"replicas": 1}})).await;
    world.play_until("db", &path, json!({"replicas": 1, "readyReplicas": 1})).await;
    assert_eq!(world.pods_of("db").await[0]["metadata"]["name"], "db-0");
}

/// A Pod that comes again at once gets a claim of its own, not the one that goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_go_with_the_pods_that_a_smaller_set_does_without() {
    let world = World::with_nodes(1).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    let spec = json!({"replicas": 2, "serviceName": "db", "volumeClaimTemplates": [claim],
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"}});
    let path = world.workload("StatefulSet", "db", spec).await;
    let both = json!({"replicas": 2, "readyReplicas": 2});
    world.play_until("db", &path, both.clone()).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let first = world.get(&format!("{claims}/data-db-1")).await.unwrap();
    world.patch(&path, json!({"spec": {"replicas": 1}})).await;
    let given = async || {
        let claim = world.get(&format!("{claims}/data-db-1")).await?;
        (claim["metadata"]["ownerReferences"][0]["kind"] == "Pod").then_some(())
    };
    world.until_async("the claim to be its Pod's", given).await;
    world.play_until("db", &path, json!({"replicas": 1, "readyReplicas": 1})).await;
    world.patch(&path, json!({"spec": {"replicas": 2}})).await;
    world.play_until("db", &path, both).await;
    let second = world.get(&format!("{claims}/data-db-1")).await.unwrap();
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(world.list(claims).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_set_has_a_pod_on_each_node_that_it_may_be_on() {
    let world = World::with_nodes(3).await;
    let path = world.workload("DaemonSet", "agent", json!({})).await;
    let on = |count: i32| {
        json!({"desiredNumberScheduled": count, "currentNumberScheduled": count, "numberReady": count,
            "updatedNumberScheduled": count, "numberAvailable": count})
    };
    world.play_until("agent", &path, on(3)).await;
    let mut nodes: Vec<_> = world.pods_of("agent").await.iter().map(|pod| pod["spec"]["nodeName"].clone()).collect();
    nodes.sort_by_key(|node| node.to_string());
    assert_eq!(nodes, [json!("n1"), json!("n2"), json!("n3")]);
    world.add_node("n4").await;
    world.play_until("agent", &path, on(4)).await;
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "vipyard/whoami"}]}}}});
    world.patch(&path, image).await;
    world.play_until("agent", &path, on(4)).await;
    let pods = world.pods_of("agent").await;
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "vipyard/whoami"));
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}}}}});
    world.patch(&path, selector).await;
    world.play_until("agent", &path, on(1)).await;
}

const BATCH: &str = "/apis/batch/v1/namespaces/default";

impl World {
    /// Ends the running Pods of a Job with this phase.
    async fn end_pods(&self, app: &str, phase: &str) {
        for pod in self.pods_of(app).await {
            if pod["status"]["phase"] == "Running" {
                let path = format!("{PODS}/{}/status", pod["metadata"]["name"].as_str().unwrap());
                self.patch(&path, json!({"status": {"phase": phase}})).await;
            }
        }
    }

    async fn add_job(&self, name: &str, spec: Value) -> String {
        let mut all = json!({"template": {"metadata": {"labels": {"app": name}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/pause"}]}}});
        json_patch::merge(&mut all, &spec);
        let object = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": all});
        self.post(&format!("{BATCH}/jobs"), object).await;
        format!("{BATCH}/jobs/{name}")
    }

    async fn play_job(&self, name: &str, phase: &str, kind: &str) -> Value {
        let path = format!("{BATCH}/jobs/{name}");
        self.until_async(&format!("{kind} of {name}"), async || {
            self.play(name).await;
            self.end_pods(name, phase).await;
            let found = self.get(&path).await?;
            let conditions = found["status"]["conditions"].as_array()?;
            conditions.iter().any(|c| c["type"] == kind && c["status"] == "True").then(|| found.clone())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_complete_fail_and_expire() {
    let world = World::with_nodes(2).await;
    world.add_job("work", json!({"completions": 12, "parallelism": 4})).await;
    let done = world.play_job("work", "Succeeded", "Complete").await;
    assert_eq!((&done["status"]["succeeded"], &done["status"]["active"]), (&json!(12), &Value::Null));
    let pods = world.pods_of("work").await;
    assert_eq!(pods.len(), 12, "not one too many");
    let released = async || {
        let pods = world.pods_of("work").await;
        pods.iter().all(|pod| pod["metadata"]["finalizers"].is_null()).then_some(())
    };
    world.until_async("the finalizers to go", released).await;

    world.add_job("indexed", json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed"})).await;
    let done = world.play_job("indexed", "Succeeded", "Complete").await;
    assert_eq!(done["status"]["completedIndexes"], "0-2");

    world.add_job("bad", json!({"backoffLimit": 0, "ttlSecondsAfterFinished": 0})).await;
    let path = format!("{BATCH}/jobs/bad");
    world
        .until_async("the failed Job to go with its Pods", async || {
            world.play("bad").await;
            world.end_pods("bad", "Failed").await;
            (world.get(&path).await.is_none() && world.pods_of("bad").await.is_empty()).then_some(())
        })
        .await;

    // Pods of a Job that is deleted are not held by their finalizers.
    world.add_job("gone", json!({"parallelism": 3})).await;
    world.until_async("the Pods", async || (world.pods_of("gone").await.len() == 3).then_some(())).await;
    world.delete(&format!("{BATCH}/jobs/gone"), json!({"propagationPolicy": "Background"})).await;
    world
        .until_async("the Pods to go", async || {
            world.play("gone").await;
            world.pods_of("gone").await.is_empty().then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cron_job_makes_a_job_in_time_and_forgets_old_ones() {
    let world = World::with_nodes(1).await;
    let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "@every 1s", "successfulJobsHistoryLimit": 1, "jobTemplate": {"spec": {"template": {
            "metadata": {"labels": {"app": "tick"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/pause"}]}}}}}});
    world.post(&format!("{BATCH}/cronjobs"), object).await;
    let path = format!("{BATCH}/cronjobs/tick");
    let found = world
        .until_async("a Job that succeeded", async || {
            world.play("tick").await;
            world.end_pods("tick", "Succeeded").await;
            world.get(&path).await.filter(|found| !found["status"]["lastSuccessfulTime"].is_null())
        })
        .await;
    assert!(!found["status"]["lastScheduleTime"].is_null());
    let jobs = world.list(&format!("{BATCH}/jobs")).await;
    assert!(jobs.iter().all(|job| job["metadata"]["ownerReferences"][0]["name"] == "tick"));
    world.patch(&path, json!({"spec": {"suspend": true}})).await;
    world.delete(&path, json!({"propagationPolicy": "Foreground"})).await;
    world
        .until_async("the Jobs to go", async || {
            world.play("tick").await;
            world.list(&format!("{BATCH}/jobs")).await.is_empty().then_some(())
        })
        .await;
}

/// `kubectl create job --from=cronjob/tick` makes such a Job: it is the user's, whatever the schedule does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_made_by_hand_from_a_cron_job_is_left_alone() {
    let world = World::with_nodes(1).await;
    let template = json!({"template": {"metadata": {"labels": {"app": "tick"}},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/pause"}]}}});
    let object = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "tick"}, "spec": {
        "schedule": "0 0 1 1 *", "concurrencyPolicy": "Replace", "jobTemplate": {"spec": template}}});
    let cron = world.post(&format!("{BATCH}/cronjobs"), object).await;
    let owner = json!({"apiVersion": "batch/v1", "kind": "CronJob", "name": "tick", "uid": cron["metadata"]["uid"],
        "controller": true});
    let by_hand = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "mine",
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}, "ownerReferences": [owner]}, "spec": template});
    let mine = world.post(&format!("{BATCH}/jobs"), by_hand).await;
    let told = async || {
        let events = world.list("/api/v1/namespaces/default/events").await;
        events.into_iter().find(|event| event["reason"] == "UnexpectedJob")
    };
    let event = world.until_async("the event", told).await;
    assert_eq!(event["message"], "Saw a job that the controller did not create or forgot: mine");
    assert_eq!(event["type"], "Warning");

    let path = format!("{BATCH}/cronjobs/tick");
    world.patch(&path, json!({"spec": {"schedule": "@every 1s"}})).await;
    let started = async || world.get(&path).await.filter(|found| !found["status"]["lastScheduleTime"].is_null());
    let found = world.until_async("a Job of the schedule", started).await;
    let active = found["status"]["active"].as_array().unwrap();
    assert!(active.iter().all(|job| job["name"].as_str().unwrap().starts_with("tick-")), "{active:?}");
    let kept = world.get(&format!("{BATCH}/jobs/mine")).await.expect("nobody deletes it");
    assert_eq!(kept["metadata"]["uid"], mine["metadata"]["uid"]);
    assert!(kept["metadata"]["deletionTimestamp"].is_null());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn controller_that_is_left_out_does_nothing() {
    let world = World::selected("*,-deployment-controller".parse().unwrap()).await;
    world.add_nodes(1).await;
    let left = world.workload("Deployment", "left", json!({"replicas": 1})).await;
    let set = world.workload("ReplicaSet", "kept", json!({"replicas": 1})).await;
    world.play_until("kept", &set, counts(1)).await;
    assert_eq!(world.list(&format!("{APPS}/replicasets")).await.len(), 1, "none of the Deployment");
    assert!(world.get(&left).await.unwrap()["status"]["observedGeneration"].is_null());
}
