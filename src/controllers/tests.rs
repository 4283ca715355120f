//! All controllers against the real API server and store, in one process and without a socket.

use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::api::Api;
use crate::api::auth::Identity;
use crate::api::barrier::DataPlane;
use crate::api::pki::token_key;
use crate::app::barrier::Barrier;
use crate::config::StoreConfig;
use crate::store::Store;

mod bootstrap;
mod claims;
mod events;
mod garbage;
mod load_balancer;
mod namespaces;
mod node_life;
mod scheduler;
mod services;
mod workloads;

const PATIENCE: Duration = Duration::from_secs(20);
/// How long a node is missed before its Pods go.
const ABSENCE: Duration = Duration::from_millis(500);
const CA: &str = "-----BEGIN CERTIFICATE-----\n";

/// A cluster of API server and controllers. Its Pods never run: tests write their status as a node agent would.
struct World {
    api: Api,
    client: Client,
    cluster: Cluster,
    _tasks: JoinSet<()>,
}

impl World {
    async fn start() -> Self {
        Self::selected(Selection::default()).await
    }

    /// With these controllers only.
    async fn selected(selection: Selection) -> Self {
        let store = Store::open(&StoreConfig::in_memory()).await.unwrap();
        let network = Network::default();
        let api = Api::new(store, network.clone(), token_key(None).unwrap(), CancellationToken::new());
        let client = api.client(Identity::system("test"));
        bootstrap(client.clone(), &network).await.unwrap();

        let (cluster, tasks) = run_controllers(&api, &client, selection);
        Self { api, client, cluster, _tasks: tasks }
    }

    async fn with_nodes(count: usize) -> Self {
        let world = Self::start().await;
        world.add_nodes(count).await;
        world
    }

    async fn add_nodes(&self, count: usize) {
        for number in 1..=count {
            self.add_node(&format!("n{number}")).await;
        }
        // Pods need their namespace's ServiceAccount (PD7).
        self.until("the default ServiceAccount", || self.cluster.service_accounts.get("default", "default")).await;
    }

    async fn add_node(&self, name: &str) {
        let zone = ["a", "b", "c"][name.len() % 3];
        let labels = json!({"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name});
        let path = "/api/v1/nodes";
        self.post(path, json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}))
            .await;
        let ready = json!({"status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.patch(&format!("{path}/{name}/status"), ready).await;
    }

    async fn request(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, kube::Error> {
        let mime = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let request = Request::builder().method(method).uri(path).header("content-type", mime);
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        self.client.request::<Value>(request.body(body).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.request(Method::POST, path, Some(body)).await.unwrap()
    }

    async fn patch(&self, path: &str, body: Value) -> Value {
        self.request(Method::PATCH, path, Some(body)).await.unwrap()
    }

    async fn delete(&self, path: &str, options: Value) {
        self.request(Method::DELETE, path, Some(options)).await.unwrap();
    }

    async fn get(&self, path: &str) -> Option<Value> {
        self.request(Method::GET, path, None).await.ok()
    }

    async fn list(&self, path: &str) -> Vec<Value> {
        self.get(path).await.map(|list| list["items"].as_array().cloned().unwrap_or_default()).unwrap_or_default()
    }

    /// Waits until `condition` has a value.
    async fn until<T>(&self, what: &str, condition: impl Fn() -> Option<T>) -> T {
        self.until_async(what, async || condition()).await
    }

    /// Waits until `condition` has a value; it is asked again after each change of the store.
    async fn until_async<T>(&self, what: &str, condition: impl AsyncFn() -> Option<T>) -> T {
        let wait = async {
            loop {
                if let Some(value) = condition().await {
                    return value;
                }
                let before = self.api.store().revision();
                for _ in 0..50 {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    if self.api.store().revision() != before {
                        break;
                    }
                }
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never came: {what}"))
    }

    async fn add_service(&self, name: &str, spec: Value) {
        let mut defaults = json!({"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]});
        json_patch::merge(&mut defaults, &spec);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": defaults});
        self.post("/api/v1/namespaces/default/services", service).await;
    }

    async fn add_pod(&self, name: &str, app: &str, spec: Value) {
        let mut all = json!({"containers": [{"name": "c", "image": "vipyard/whoami"}]});
        json_patch::merge(&mut all, &spec);
        let pod =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}}, "spec": all});
        self.post("/api/v1/namespaces/default/pods", pod).await;
    }

    async fn node_of(&self, pod: &str) -> String {
        let node = || self.cluster.pods.get("default", pod)?.spec.as_ref()?.node_name.clone();
        self.until(&format!("a node for {pod}"), node).await
    }

    async fn set_ready(&self, pod: &str, ip: &str, ready: bool) {
        let status = json!({"status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2024-01-01T00:00:01Z"}],
        }});
        self.patch(&format!("/api/v1/namespaces/default/pods/{pod}/status"), status).await;
    }

    /// The slices of a Service of the default namespace as they are stored.
    async fn slices(&self, service: &str) -> Vec<Value> {
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.list(&format!("{path}?labelSelector=kubernetes.io%2Fservice-name%3D{service}")).await
    }

    /// Waits until the Service's slices hold exactly these addresses, with their readiness.
    async fn until_endpoints(&self, service: &str, expected: &[(&str, bool)]) {
        let expected: Vec<_> = expected.iter().map(|(ip, ready)| ((*ip).to_owned(), *ready)).collect();
        let what = format!("endpoints {expected:?} of {service}");
        self.until_async(&what, async || {
            let slices = self.slices(service).await;
            let endpoints = slices.iter().flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
            let mut found: Vec<_> = endpoints
                .map(|e| (e["addresses"][0].as_str().unwrap().to_owned(), e["conditions"]["ready"] == true))
                .collect();
            found.sort();
            (!slices.is_empty() && found == expected).then_some(())
        })
        .await;
    }
}

fn run_controllers(api: &Api, client: &Client, selection: Selection) -> (Cluster, JoinSet<()>) {
    let (cluster, writers) = Cluster::new();
    let mut tasks = JoinSet::new();
    writers.run(client, &mut tasks);
    let config = ControllersConfig {
        client: client.clone(),
        cluster: cluster.clone(),
        network: Network::default(),
        root_ca_pem: CA.to_owned(),
        claims_folder: "/data/volumes".into(),
        node_times: NodeTimes { absence: ABSENCE, ..NodeTimes::default() },
        selection,
        resources: api.registry().resources(),
    };
    Controllers::start(config, &mut tasks);
    (cluster, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_controllers_write_nothing() {
    let world = World::with_nodes(2).await;
    world.add_service("web", json!({})).await;
    world.add_pod("web-1", "web", json!({})).await;
    world.node_of("web-1").await;
    world.set_ready("web-1", "10.244.1.2", true).await;
    world.until_endpoints("web", &[("10.244.1.2", true)]).await;
    // Longer than the delay before restoring foreign changes, so that a write caused by an own one would show.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let settled = world.api.store().revision();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(world.api.store().revision(), settled);
}

/// Controllers that start over a settled cluster find nothing to write: no endpoint is dropped and none made twice
/// while their indexes fill.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restart_changes_nothing() {
    let world = World::with_nodes(3).await;
    let mut expected = Vec::new();
    for number in 0..30 {
        world.add_pod(&format!("web-{number}"), "web", json!({})).await;
        world.node_of(&format!("web-{number}")).await;
        world.set_ready(&format!("web-{number}"), &format!("10.244.1.{}", number + 10), true).await;
        expected.push(format!("10.244.1.{}", number + 10));
    }
    expected.sort();
    let expected: Vec<_> = expected.iter().map(|ip| (ip.as_str(), true)).collect();
    for number in 0..30 {
        world.add_service(&format!("web-{number}"), json!({"selector": {"app": "web"}})).await;
    }
    let endpoints = "/api/v1/namespaces/default/endpoints";
    for number in 0..30 {
        let name = format!("web-{number}");
        world.until_endpoints(&name, &expected).await;
        world.until_async("the Endpoints", async || world.get(&format!("{endpoints}/{name}")).await).await;
    }
    world.add_service("db", json!({"selector": null})).await;
    world
        .post(
            endpoints,
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"},
            "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]}),
        )
        .await;
    world.until_endpoints("db", &[("192.0.2.1", true)]).await;

    let World { api, client, cluster, _tasks: tasks } = world;
    let settled = async |cluster: Cluster| {
        let barrier = Barrier::new(api.store().clone(), cluster);
        DataPlane::settled(&barrier, Duration::from_secs(20)).await.expect("the controllers are done");
        api.store().revision()
    };
    let before = settled(cluster).await;
    drop(tasks);
    for _ in 0..5 {
        let (cluster, _tasks) = run_controllers(&api, &client, Selection::default());
        assert_eq!(settled(cluster).await, before);
    }
}
