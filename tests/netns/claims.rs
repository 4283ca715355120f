//! PersistentVolumeClaims: folders that outlive Pods and vipyard.

use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, eventually};

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";

fn pod(script: &str) -> Value {
    json!({"restartPolicy": "Never", "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}],
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", script],
            "volumeMounts": [{"name": "v", "mountPath": "/var/lib/data"}]}]})
}

async fn done(cluster: &Cluster, name: &str) {
    cluster.until_pod(name, "done", |pod| (pod["status"]["phase"] == "Succeeded").then_some(())).await;
}

pub async fn claim_is_bound_and_keeps_its_files_until_it_is_deleted() {
    let cluster = Cluster::start().await;
    // The Pod comes first, as in a manifest that nobody sorted.
    cluster.pod("writes", pod("echo kept >/var/lib/data/f")).await;
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    cluster.post(CLAIMS, claim).await;
    done(&cluster, "writes").await;
    let claim = cluster.get(&format!("{CLAIMS}/data")).await;
    assert_eq!((&claim["status"]["phase"], &claim["status"]["capacity"]["storage"]), (&json!("Bound"), &json!("1Gi")));
    let volume = claim["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    let found = cluster.get(&format!("{VOLUMES}/{volume}")).await;
    assert_eq!((&found["status"]["phase"], &found["spec"]["claimRef"]["name"]), (&json!("Bound"), &json!("data")));

    let cluster = Cluster::start_in(cluster.kill().await).await;
    cluster.pod("reads", pod("cat /var/lib/data/f")).await;
    done(&cluster, "reads").await;
    assert_eq!(cluster.logs("reads", "").await, "kept\n");
    let folder = cluster.home.data().join("volumes").join(&volume);
    assert!(folder.join("f").exists());

    for name in ["writes", "reads"] {
        cluster.delete(&format!("{PODS}/{name}")).await;
    }
    cluster.delete(&format!("{CLAIMS}/data")).await;
    cluster.gone(&format!("{VOLUMES}/{volume}")).await;
    eventually("the files go with the claim", async || (!folder.exists()).then_some(())).await;
    cluster.stop().await;
}
