//! Claims that are used, and their volumes.

use super::*;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const PROTECTION: &str = "kubernetes.io/pvc-protection";

impl World {
    async fn claim(&self, name: &str) {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        let claim =
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec});
        let made = self.post(CLAIMS, claim).await;
        assert_eq!(made["metadata"]["finalizers"], json!([PROTECTION]));
        let bound = async || self.get(&format!("{CLAIMS}/{name}")).await.filter(|c| c["status"]["phase"] == "Bound");
        self.until_async("a volume", bound).await;
    }

    async fn until_no_claim(&self, name: &str) {
        let gone = async || self.get(&format!("{CLAIMS}/{name}")).await.is_none().then_some(());
        self.until_async("the claim to go", gone).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_that_a_pod_uses_goes_after_the_pod() {
    let world = World::with_nodes(1).await;
    world.claim("free").await;
    world.delete(&format!("{CLAIMS}/free"), json!({})).await;
    world.until_no_claim("free").await;

    world.claim("used").await;
    let volumes = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "used"}}]);
    world.add_pod("writer", "db", json!({"volumes": volumes})).await;
    world.node_of("writer").await;
    world.delete(&format!("{CLAIMS}/used"), json!({})).await;
    // One more claim comes and goes, so that the controller had its turn with this one.
    world.claim("other").await;
    world.delete(&format!("{CLAIMS}/other"), json!({})).await;
    world.until_no_claim("other").await;
    let used = world.get(&format!("{CLAIMS}/used")).await.expect("a Pod uses the claim");
    assert!(used["metadata"]["deletionTimestamp"].is_string());
    let volume = used["spec"]["volumeName"].as_str().unwrap();
    assert!(world.get(&format!("/api/v1/persistentvolumes/{volume}")).await.is_some());

    world.delete("/api/v1/namespaces/default/pods/writer", json!({"gracePeriodSeconds": 0})).await;
    world.until_no_claim("used").await;
    let none = async || world.list("/api/v1/persistentvolumes").await.is_empty().then_some(());
    world.until_async("the volume to go", none).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claim_without_protection_is_given_it() {
    let world = World::start().await;
    world.claim("old").await;
    let path = format!("{CLAIMS}/old");
    world.patch(&path, json!({"metadata": {"finalizers": null}})).await;
    let again = async || world.get(&path).await.filter(|claim| claim["metadata"]["finalizers"] == json!([PROTECTION]));
    world.until_async("the finalizer", again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volume_made_by_hand_is_available() {
    let world = World::start().await;
    let volumes = "/api/v1/persistentvolumes";
    let volume = |name: &str, more: Value| {
        let mut spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"}});
        json_patch::merge(&mut spec, &more);
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
    };
    let claim = |uid: Option<&str>| json!({"claimRef": {"namespace": "default", "name": "data", "uid": uid}});
    world.post(volumes, volume("taken", claim(Some("u")))).await;
    world.post(volumes, volume("free", json!({}))).await;
    world.post(volumes, volume("kept", claim(None))).await;
    let phase = async |name: &str| world.get(&format!("{volumes}/{name}")).await.unwrap()["status"]["phase"].clone();
    for name in ["free", "kept"] {
        world.until_async("the phase", async || (phase(name).await == "Available").then_some(())).await;
    }
    assert_eq!(phase("taken").await, "Pending");
}
