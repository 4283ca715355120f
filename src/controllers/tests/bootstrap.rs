//! The system's own objects.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_is_idempotent_and_repairs_k1_k2_em7() {
    let world = World::start().await;
    let network = Network::default();
    let service = "/api/v1/namespaces/default/services/kubernetes";
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let found = world.get(service).await.unwrap();
    assert_eq!(found["spec"]["clusterIP"], "10.96.0.1");
    assert_eq!(found["metadata"]["labels"], json!({"component": "apiserver", "provider": "kubernetes"}));
    let found = world.get(slice).await.unwrap();
    assert_eq!(found["metadata"]["labels"], json!({"kubernetes.io/service-name": "kubernetes"}), "EM7");
    assert_eq!(found["endpoints"], json!([{"addresses": ["10.245.0.1"], "conditions": {"ready": true}}]));
    let dns = world.get("/api/v1/namespaces/kube-system/services/kube-dns").await.unwrap();
    assert_eq!(dns["spec"]["clusterIPs"], json!(["10.96.0.10", "fd00:10:96::a"]));

    let versions = async || {
        let mut versions = Vec::new();
        for path in [service, slice, "/api/v1/namespaces/kube-system/endpoints/kube-dns"] {
            versions.push(world.get(path).await.unwrap()["metadata"]["resourceVersion"].clone());
        }
        versions
    };
    let before = versions().await;
    bootstrap(world.client.clone(), &network).await.unwrap();
    assert_eq!(versions().await, before, "nothing to write the second time");

    world.patch(slice, json!({"endpoints": []})).await;
    world
        .until_async("the slice to be repaired", async || {
            world.get(slice).await.filter(|found| found["endpoints"][0]["addresses"][0] == "10.245.0.1")
        })
        .await;
    world.delete(service, json!({})).await;
    let restored = world.until_async("the Service again", async || world.get(service).await).await;
    assert_eq!(restored["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bootstrap_after_a_change_of_the_address_plan_moves_the_system_services() {
    let world = World::start().await;
    // As the API server of the next start would do, give the address plan to a new API over the same objects.
    let moved = Network { service_v4: "10.97.0.0/16".parse().unwrap(), ..Network::default() };
    let api = Api::new(world.api.store().clone(), moved.clone(), token_key(None).unwrap(), CancellationToken::new());
    drop(world._tasks);
    bootstrap(api.client(Identity::system("test")), &moved).await.unwrap();
    let client = api.client(Identity::system("test"));
    let services: kube::Api<k8s_openapi::api::core::v1::Service> = kube::Api::namespaced(client, "default");
    assert_eq!(services.get("kubernetes").await.unwrap().spec.unwrap().cluster_ip.unwrap(), "10.97.0.1");
}
