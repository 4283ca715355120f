//! Commands that change workloads, and the ways of deletion.

use serde_json::{Value, json};

use super::table;
use crate::cluster::{CONFIG_MAPS, Cluster, SERVICES, eventually};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub async fn deployments_are_scaled_exposed_and_get_new_images() {
    let cluster = Cluster::start().await;
    let create = ["create", "deployment", "web", "--image=vipyard/whoami", "--replicas=2", "--port=80"];
    let (code, out, err) = cluster.kubectl_with_code(&create).await;
    assert_eq!((code, out.as_str()), (0, "deployment.apps/web created\n"), "{err}");
    let now = async || cluster.get(&format!("{DEPLOYMENTS}/web")).await;
    let first = now().await;
    assert_eq!((&first["spec"]["replicas"], &first["metadata"]["generation"]), (&json!(2), &json!(1)));
    assert_eq!(first["spec"]["selector"]["matchLabels"], json!({"app": "web"}));

    assert_eq!(cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]).await, "deployment.apps/web scaled\n");
    assert_eq!(now().await["spec"]["replicas"], 3);
    let wrong = ["scale", "deployment/web", "--current-replicas=2", "--replicas=5"];
    let (code, _, err) = cluster.kubectl_with_code(&wrong).await;
    assert!(code == 1 && err.contains("Expected replicas to be 2, was 3"), "{err}");
    cluster
        .kubectl(&[
            "patch",
            "deployment",
            "web",
            "--subresource=scale",
            "--type=merge",
            "-p",
            r#"{"spec":{"replicas":4}}"#,
        ])
        .await;
    let scaled = now().await;
    assert_eq!((&scaled["spec"]["replicas"], &scaled["metadata"]["generation"]), (&json!(4), &json!(3)));

    let image = ["set", "image", "deployment/web", "whoami=vipyard/pause"];
    assert_eq!(cluster.kubectl(&image).await, "deployment.apps/web image updated\n");
    let (code, _, err) = cluster.kubectl_with_code(&["set", "image", "deployment/web", "none=x"]).await;
    assert!(code == 1 && err.contains("unable to find container named \"none\""), "{err}");
    cluster.kubectl(&["set", "env", "deployment/web", "COLOR=red"]).await;
    cluster.kubectl(&["set", "resources", "deployment/web", "--limits=cpu=1"]).await;
    let container = now().await["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!((&container["image"], &container["env"][0]["value"]), (&json!("vipyard/pause"), &json!("red")));
    assert_eq!(container["resources"]["limits"]["cpu"], "1");

    let expose = ["expose", "deployment", "web", "--name=front", "--port=8080", "--target-port=80"];
    assert_eq!(cluster.kubectl(&expose).await, "service/front exposed\n");
    let spec = cluster.get(&format!("{SERVICES}/front")).await["spec"].clone();
    assert_eq!((&spec["selector"], &spec["ports"][0]["targetPort"]), (&json!({"app": "web"}), &json!(80)));

    let rows = table(&cluster.kubectl(&["get", "deployments", "-o", "wide"]).await);
    assert_eq!(rows[0], ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "CONTAINERS", "IMAGES", "SELECTOR"]);
    assert_eq!(rows[1][5..], ["whoami", "vipyard/pause", "app=web"]);
    let description = cluster.kubectl(&["describe", "deployment", "web"]).await;
    assert!(
        description.contains("Selector:               app=web") && description.contains("4 desired"),
        "{description}"
    );
    let (code, _, err) =
        cluster.kubectl_with_code(&["wait", "--for=jsonpath={.spec.replicas}=4", "deployment/web"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let selector = r#"{"spec":{"selector":{"matchLabels":{"app":"other"}}}}"#;
    let (code, _, err) = cluster.kubectl_with_code(&["patch", "deployment", "web", "-p", selector]).await;
    assert!(code == 1 && err.contains("field is immutable"), "{err}");
    cluster.kubectl(&["delete", "deployment", "web"]).await;
    assert_eq!(cluster.find(&format!("{DEPLOYMENTS}/web")).await, None);
    cluster.stop().await;
}

pub async fn deletes_cascade_as_asked() {
    let cluster = Cluster::start().await;
    let family = async || {
        cluster.kubectl(&["create", "configmap", "owner"]).await;
        let uid = cluster.get(&format!("{CONFIG_MAPS}/owner")).await["metadata"]["uid"].clone();
        let owner =
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "blockOwnerDeletion": true}]);
        let child =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "child", "ownerReferences": owner}});
        cluster.kubectl(&["create", "-f", &cluster.manifest("child.json", &child)]).await;
    };
    let child = async || cluster.find(&format!("{CONFIG_MAPS}/child")).await;
    let deleted = async |how: &str| {
        let out = cluster.kubectl(&["delete", "configmap", "owner", how, "--timeout=40s"]).await;
        // Newer versions add the namespace.
        assert!(out.starts_with("configmap \"owner\" deleted"), "{out}");
        assert_eq!(cluster.find(&format!("{CONFIG_MAPS}/owner")).await, None, "delete waits until it is gone");
    };
    family().await;
    deleted("--cascade=foreground").await;
    assert_eq!(child().await, None, "the owner goes last");
    family().await;
    deleted("--cascade=background").await;
    eventually("the child goes, too", async || child().await.is_none().then_some(())).await;
    family().await;
    deleted("--cascade=orphan").await;
    let orphan = child().await.expect("an orphan");
    assert_eq!(orphan["metadata"].get("ownerReferences"), None, "{orphan}");

    let finalizer = r#"{"metadata":{"finalizers":["example.com/hold"]}}"#;
    cluster.kubectl(&["patch", "configmap", "child", "-p", finalizer]).await;
    cluster.kubectl(&["delete", "configmap", "child", "--wait=false"]).await;
    let (code, _, err) = cluster.kubectl_with_code(&["delete", "configmap", "child", "--timeout=1s"]).await;
    assert!(code == 1 && err.contains("timed out waiting for the condition"), "{err}");
    assert!(child().await.is_some_and(|child| child["metadata"]["deletionTimestamp"].is_string()));
    cluster
        .kubectl(&[
            "patch",
            "configmap",
            "child",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ])
        .await;
    assert_eq!(child().await, None);

    let (code, _, err) = cluster.kubectl_with_code(&["delete", "configmap", "none"]).await;
    assert_eq!((code, err.as_str()), (1, "Error from server (NotFound): configmaps \"none\" not found\n"));
    assert_eq!(cluster.kubectl(&["delete", "configmap", "none", "--ignore-not-found"]).await, "");
    for name in ["a", "b", "c"] {
        cluster.kubectl(&["create", "configmap", name]).await;
    }
    cluster.kubectl(&["label", "configmap", "a", "b", "group=x"]).await;
    cluster.kubectl(&["delete", "configmap", "-l", "group=x"]).await;
    assert_eq!(
        cluster.kubectl(&["get", "configmap", "a", "b", "c", "--ignore-not-found", "-o", "name"]).await,
        "configmap/c\n"
    );
    let file = cluster.manifest(
        "c.json",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1"}}),
    );
    let uid = |object: Value| object["metadata"]["uid"].clone();
    let before = uid(cluster.get(&format!("{CONFIG_MAPS}/c")).await);
    let out = cluster.kubectl(&["replace", "--force", "-f", &file]).await;
    assert!(out.ends_with("configmap/c replaced\n"), "{out}");
    assert_ne!(uid(cluster.get(&format!("{CONFIG_MAPS}/c")).await), before, "it was deleted and made again");
    cluster.kubectl(&["delete", "configmap", "--all"]).await;
    assert_eq!(cluster.find(&format!("{CONFIG_MAPS}/c")).await, None);
    cluster.stop().await;
}
