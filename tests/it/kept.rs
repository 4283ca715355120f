//! Kinds that are kept and checked, and that nothing acts upon.

use serde_json::{Value, json};

use crate::world::*;

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CONTROLLERS: &str = "/api/v1/namespaces/default/replicationcontrollers";
const CRON_JOBS: &str = "/apis/batch/v1/namespaces/default/cronjobs";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const APPS: &str = "/apis/apps/v1/namespaces/default";

fn template(restart: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"restartPolicy": restart, "containers": [{"name": "c", "image": "i"}]}})
}

fn objects() -> Vec<(String, Value)> {
    let mut objects = vec![
        (
            VOLUMES.to_owned(),
            json!({"kind": "PersistentVolume", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/tmp"}}}),
        ),
        (
            CONTROLLERS.to_owned(),
            json!({"kind": "ReplicationController", "apiVersion": "v1", "metadata": {"name": "a"},
                "spec": {"template": template("Always")}}),
        ),
        (
            CRON_JOBS.to_owned(),
            json!({"kind": "CronJob", "apiVersion": "batch/v1", "metadata": {"name": "a"}, "spec": {
                "schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": template("Never")}}}}),
        ),
        (
            JOBS.to_owned(),
            json!({"kind": "Job", "apiVersion": "batch/v1", "metadata": {"name": "a"},
                "spec": {"template": template("Never")}}),
        ),
    ];
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet"] {
        objects.push((
            format!("{APPS}/{}s", kind.to_lowercase()),
            json!({"kind": kind, "apiVersion": "apps/v1", "metadata": {"name": "a"},
                "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("Always")}}),
        ));
    }
    objects
}

#[tokio::test]
async fn who_makes_an_object_that_nothing_acts_upon_is_told_so() {
    let world = World::start().await;
    for (path, object) in objects() {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let answer = world.post(&path, object).await;
        let warning = answer.headers["warning"].to_str().unwrap().to_owned();
        assert!(warning.starts_with("299 - \"Vipyard keeps ") && warning.contains(&kind), "{kind}: {warning}");
        answer.created();
        let changed = world.merge(&format!("{path}/a"), json!({"metadata": {"labels": {"x": "y"}}})).await;
        assert!(!changed.headers.contains_key("warning"), "{kind}: said once");
        assert_eq!(changed.ok()["metadata"]["labels"]["x"], "y");
        world.delete(&format!("{path}/a"), json!({})).await.ok();
        world.get(&format!("{path}/a")).await.refused(404, "NotFound");
    }
}

#[tokio::test]
async fn replication_controller_scales_by_its_map_of_labels() {
    let world = World::start().await;
    let (_, controller) = objects().into_iter().find(|(path, _)| path == CONTROLLERS).unwrap();
    world.post(CONTROLLERS, controller).await.created();
    let path = format!("{CONTROLLERS}/a/scale");
    let scale = world.merge(&path, json!({"spec": {"replicas": 3}})).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["selector"]), (&json!(3), &json!("app=web")));
    assert_eq!(world.get(&format!("{CONTROLLERS}/a")).await.ok()["spec"]["replicas"], 3);
}
