//! Services, their Pods and what is written of them: EndpointSlices and Endpoints.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_endpoints_follow_its_pods() {
    let world = World::with_nodes(2).await;
    world.add_service("web", json!({})).await;
    world.until_endpoints("web", &[]).await;
    world.add_pod("web-1", "web", json!({})).await;
    world.add_pod("web-2", "web", json!({})).await;
    assert_ne!(world.node_of("web-1").await, world.node_of("web-2").await);
    world.set_ready("web-1", "10.244.1.2", true).await;
    world.set_ready("web-2", "10.244.2.2", false).await;
    world.until_endpoints("web", &[("10.244.1.2", true), ("10.244.2.2", false)]).await;
    world.set_ready("web-2", "10.244.2.2", true).await;
    world.until_endpoints("web", &[("10.244.1.2", true), ("10.244.2.2", true)]).await;

    let endpoints = "/api/v1/namespaces/default/endpoints/web";
    let both = |list: &Value| list.as_array().is_some_and(|list| list.len() == 2);
    let found = world
        .until_async("both Pods in the Endpoints (EP5)", async || {
            world.get(endpoints).await.filter(|found| both(&found["subsets"][0]["addresses"]))
        })
        .await;
    assert_eq!(found["subsets"][0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));

    // Deleted with a grace period: the endpoint says so and is not ready any more (ES6), and leaves with the Pod (PX5).
    world.delete("/api/v1/namespaces/default/pods/web-1", json!({})).await;
    world.until_endpoints("web", &[("10.244.1.2", false), ("10.244.2.2", true)]).await;
    world.delete("/api/v1/namespaces/default/pods/web-1", json!({"gracePeriodSeconds": 0})).await;
    world.until_endpoints("web", &[("10.244.2.2", true)]).await;

    // ES19, EP1.
    world.delete("/api/v1/namespaces/default/services/web", json!({})).await;
    world
        .until_async("slices and Endpoints to go with their Service", async || {
            (world.slices("web").await.is_empty() && world.get(endpoints).await.is_none()).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slice_deleted_or_altered_by_a_user_is_restored_es17() {
    let world = World::with_nodes(1).await;
    world.add_service("web", json!({})).await;
    world.add_pod("web-1", "web", json!({})).await;
    world.node_of("web-1").await;
    world.set_ready("web-1", "10.244.1.2", true).await;
    world.until_endpoints("web", &[("10.244.1.2", true)]).await;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let path = format!("{slices}/{}", world.slices("web").await[0]["metadata"]["name"].as_str().unwrap());

    world.patch(&path, json!({"endpoints": []})).await;
    let altered = Instant::now();
    world.until_endpoints("web", &[("10.244.1.2", true)]).await;
    assert!(altered.elapsed() >= Duration::from_millis(900), "restored before the delay was over");
    world.delete(&path, json!({})).await;
    world.until_endpoints("web", &[("10.244.1.2", true)]).await;
    assert_eq!(world.slices("web").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_of_changes_leaves_one_slice_per_family_and_no_duplicates() {
    let world = World::with_nodes(3).await;
    world.add_service("web", json!({})).await;
    for number in 0..40 {
        world.add_pod(&format!("web-{number}"), "web", json!({})).await;
    }
    let mut expected = Vec::new();
    for number in 0..40 {
        world.node_of(&format!("web-{number}")).await;
        world.set_ready(&format!("web-{number}"), &format!("10.244.1.{}", number + 10), true).await;
        expected.push(format!("10.244.1.{}", number + 10));
    }
    expected.sort();
    let expected: Vec<_> = expected.iter().map(|ip| (ip.as_str(), true)).collect();
    world.until_endpoints("web", &expected).await;
    assert_eq!(world.slices("web").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hand_made_endpoints_are_mirrored_em1_em2_em6() {
    let world = World::start().await;
    world.add_service("db", json!({"selector": null})).await;
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]});
    let path = "/api/v1/namespaces/default/endpoints";
    world.post(path, endpoints).await;
    world.until_endpoints("db", &[("192.0.2.1", true)]).await;
    world.patch(&format!("{path}/db"), json!({"metadata": {"labels": {SKIP_MIRROR: "true"}}})).await;
    world.until_async("the mirrored slice to go", async || world.slices("db").await.is_empty().then_some(())).await;
    world.patch(&format!("{path}/db"), json!({"metadata": {"labels": null}})).await;
    world.until_endpoints("db", &[("192.0.2.1", true)]).await;
    world.delete(&format!("{path}/db"), json!({})).await;
    world.until_async("the mirrored slice to go", async || world.slices("db").await.is_empty().then_some(())).await;
}

const SKIP_MIRROR: &str = endpoint_model::SKIP_MIRROR_LABEL;

/// From the Pod's change in the cache to the slice's write leaving: no batching, no timer in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_change_is_written_at_once() {
    let (cluster, writers) = Cluster::new();
    let (requests, mut sent) = tokio::sync::mpsc::unbounded_channel();
    let versions = Arc::new(std::sync::atomic::AtomicU64::new(1));
    // Accepts every write, and says when it came.
    let service = tower::service_fn(move |request: Request<Body>| {
        let (requests, versions) = (requests.clone(), Arc::clone(&versions));
        async move {
            let came = Instant::now();
            let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
            let mut object: Value = serde_json::from_slice(&body).unwrap_or_default();
            let version = versions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            object["metadata"]["resourceVersion"] = version.to_string().into();
            object["metadata"]["name"] = "web-a".into();
            let _ = requests.send((came, object.clone()));
            Ok::<_, tower::BoxError>(Response::new(http_body_util::Full::new(bytes::Bytes::from(object.to_string()))))
        }
    });
    let client = Client::new(service, "default");
    let mut tasks = JoinSet::new();
    let queue = Arc::new(queue::Queue::new());
    let service_pods = service_pods::ServicePods::start(&cluster, vec![Arc::clone(&queue)], &mut tasks);
    slices::SliceController::start(&client, &cluster, &service_pods, queue, &mut tasks);

    let pod = |ready: &str| -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web-1", "namespace": "default", "uid": "u", "labels": {"app": "web"}},
            "spec": {"nodeName": "n1", "containers": []},
            "status": {"podIP": "10.244.1.2", "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    };
    let node = json!({"metadata": {"name": "n1"}});
    let service = json!({"metadata": {"name": "web", "namespace": "default", "uid": "s"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.7", "ports": [{"port": 80}]}});
    writers.nodes.replace(vec![serde_json::from_value(node).unwrap()]);
    writers.services.replace(vec![serde_json::from_value(service).unwrap()]);
    writers.pods.replace(vec![pod("False")]);
    writers.slices.mark_synced();

    let mut delays = Vec::new();
    let mut changed = Instant::now();
    for round in 0..101 {
        let (came, slice) = timeout(PATIENCE, sent.recv()).await.unwrap().unwrap();
        assert_eq!(slice["endpoints"][0]["conditions"]["ready"], round % 2 == 1);
        delays.push(came.saturating_duration_since(changed));
        writers.slices.apply(serde_json::from_value(slice).unwrap());
        changed = Instant::now();
        writers.pods.apply(pod(if round % 2 == 0 { "True" } else { "False" }));
    }
    delays.sort();
    println!("median {:?}, p90 {:?}, worst {:?}", delays[50], delays[90], delays[100]);
    assert!(delays[50] < Duration::from_millis(5), "a debug build on a busy machine: {delays:?}");
}
