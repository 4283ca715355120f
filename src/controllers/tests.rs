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

mod claims;
mod load_balancer;
mod node_life;
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
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn burst_of_pods_is_spread_evenly() {
    let world = World::with_nodes(3).await;
    for number in 0..12 {
        world.add_pod(&format!("p{number}"), "web", json!({})).await;
    }
    let mut counts = std::collections::BTreeMap::new();
    for number in 0..12 {
        *counts.entry(world.node_of(&format!("p{number}")).await).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [4, 4, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_that_fits_nowhere_says_why_and_is_placed_when_a_node_comes() {
    let world = World::with_nodes(2).await;
    world.add_pod("picky", "web", json!({"nodeSelector": {"kubernetes.io/hostname": "n9"}})).await;
    let condition = |pod: &Pod| {
        let conditions = pod.status.as_ref()?.conditions.clone()?;
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
    };
    let refused = world.until("the condition", || condition(&*world.cluster.pods.get("default", "picky")?)).await;
    assert_eq!(refused.reason.as_deref(), Some("Unschedulable"));
    let message = "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(refused.message.as_deref(), Some(message));
    let event = async |reason: &str| {
        world
            .list("/api/v1/namespaces/default/events")
            .await
            .into_iter()
            .find(|event| event["reason"] == reason && event["involvedObject"]["name"] == "picky")
    };
    let failed = world.until_async("the event", async || event("FailedScheduling").await).await;
    assert_eq!((&failed["message"], &failed["type"]), (&json!(message), &json!("Warning")));
    assert_eq!(failed["source"], json!({"component": "default-scheduler"}));

    world.add_node("n9").await;
    assert_eq!(world.node_of("picky").await, "n9");
    let scheduled = world.until_async("the event", async || event("Scheduled").await).await;
    assert_eq!(scheduled["message"], "Successfully assigned default/picky to n9");
}

/// A Pod that must be near another is placed when that one comes, or when one that is there becomes such a Pod.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_that_waits_for_another_is_placed_when_that_one_is() {
    let world = World::with_nodes(2).await;
    let near = |app: &str| {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": app}}}]}}})
    };
    let refused = async |name: &str| {
        let said = || {
            let conditions = world.cluster.pods.get("default", name)?.status.clone()?.conditions?;
            conditions.into_iter().find(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("Unschedulable"))
        };
        world.until(&format!("the refusal of {name}"), said).await;
    };
    world.add_pod("web", "web", near("cache")).await;
    world.add_pod("late", "late", near("renamed")).await;
    refused("web").await;
    refused("late").await;
    world.add_pod("cache", "cache", json!({})).await;
    assert_eq!(world.node_of("web").await, world.node_of("cache").await);
    world.patch("/api/v1/namespaces/default/pods/cache", json!({"metadata": {"labels": {"app": "renamed"}}})).await;
    assert_eq!(world.node_of("late").await, world.node_of("cache").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_gets_its_service_account_and_root_certificate_again_and_again() {
    let world = World::start().await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    let account = "/api/v1/namespaces/x/serviceaccounts/default";
    let config_map = "/api/v1/namespaces/x/configmaps/kube-root-ca.crt";
    let there = async || {
        let found = world.get(config_map).await.filter(|found| found["data"] == json!({"ca.crt": CA}));
        world.get(account).await.and(found).map(drop)
    };
    world.until_async("both objects", there).await;
    world.delete(account, json!({})).await;
    world.delete(config_map, json!({})).await;
    world.until_async("both objects again", there).await;
    world.patch(config_map, json!({"data": {"ca.crt": "forged"}})).await;
    world.until_async("the right certificate", there).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_namespace_goes_when_its_last_pod_is_gone() {
    let world = World::with_nodes(1).await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    world.until("the ServiceAccount", || world.cluster.service_accounts.get("x", "default")).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "finalizers": ["example.com/held"]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "vipyard/pause"}]}});
    world.post("/api/v1/namespaces/x/pods", pod).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}});
    world.post("/api/v1/namespaces/x/services", service).await;
    world.delete("/api/v1/namespaces/x", json!({})).await;

    let namespace = world
        .until_async("the condition", async || {
            world.get("/api/v1/namespaces/x").await.filter(|found| !found["status"]["conditions"].is_null())
        })
        .await;
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let told: Vec<(&str, &str, &str)> = namespace["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["type"].as_str().unwrap(), c["status"].as_str().unwrap(), c["message"].as_str().unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("NamespaceDeletionDiscoveryFailure", "False", "All resources successfully discovered"),
            ("NamespaceDeletionGroupVersionParsingFailure", "False", "All legacy kube types successfully parsed"),
            (
                "NamespaceDeletionContentFailure",
                "False",
                "All content successfully deleted, may be waiting on finalization"
            ),
            ("NamespaceContentRemaining", "True", "Some resources are remaining: pods. has 1 resource instances"),
            (
                "NamespaceFinalizersRemaining",
                "True",
                "Some content in the namespace has finalizers remaining: example.com/held in 1 resource instances"
            ),
        ]
    );
    assert_eq!(world.list("/api/v1/namespaces/x/services").await, Vec::<Value>::new());
    assert!(!world.get("/api/v1/namespaces/x/pods/p").await.unwrap()["metadata"]["deletionTimestamp"].is_null());

    // What the node agent does when the containers have ended (PX3).
    world.delete("/api/v1/namespaces/x/pods/p", json!({"gracePeriodSeconds": 0})).await;
    world.patch("/api/v1/namespaces/x/pods/p", json!({"metadata": {"finalizers": null}})).await;
    world
        .until_async("the namespace to go", async || world.get("/api/v1/namespaces/x").await.is_none().then_some(()))
        .await;
    for (resource, namespaced) in world.api.registry().resources().borrow().clone() {
        if namespaced {
            let group = if resource.group.is_empty() { "api".to_owned() } else { format!("apis/{}", resource.group) };
            let path = format!("/{group}/{}/namespaces/x/{}", resource.version, resource.plural);
            assert_eq!(world.list(&path).await, Vec::<Value>::new(), "{path}");
        }
    }
}

/// A ConfigMap that names `owners` (kind, name, uid) as blocking owners.
async fn owned(world: &World, name: &str, owners: &[(&str, &str, &str)]) -> String {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(kind, name, uid)| {
            json!({"apiVersion": "v1", "kind": kind, "name": name, "uid": uid,
            "blockOwnerDeletion": true})
        })
        .collect();
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": owners}});
    let created = world.post("/api/v1/namespaces/default/configmaps", object).await;
    created["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn config_map(name: &str) -> String {
    format!("/api/v1/namespaces/default/configmaps/{name}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_of_an_absent_owner_are_deleted_with_theirs() {
    let world = World::start().await;
    let never = "00000000-0000-4000-8000-000000000000";
    let root = owned(&world, "root", &[]).await;
    let child = owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    owned(&world, "grandchild", &[("ConfigMap", "child", &child)]).await;
    let other = owned(&world, "other", &[]).await;
    owned(&world, "shared", &[("ConfigMap", "root", &root), ("ConfigMap", "other", &other)]).await;
    owned(&world, "stranger", &[("Unserved", "x", never)]).await;
    owned(&world, "lost", &[("ConfigMap", "never-was", never)]).await;
    let gone = async |name: &str| world.get(&config_map(name)).await.is_none().then_some(());
    world.until_async("the one whose owner never was to go", async || gone("lost").await).await;

    world.delete(&config_map("root"), json!({})).await;
    world.until_async("the child to go", async || gone("child").await).await;
    world.until_async("the grandchild to go", async || gone("grandchild").await).await;
    let shared = world
        .until_async("the shared object to lose one owner", async || {
            let found = world.get(&config_map("shared")).await.expect("it has another owner");
            (found["metadata"]["ownerReferences"].as_array()?.len() == 1).then_some(found)
        })
        .await;
    assert_eq!(shared["metadata"]["ownerReferences"][0]["name"], "other");
    assert!(world.get(&config_map("stranger")).await.is_some(), "of unserved kinds nothing can be known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreground_deletion_waits_for_blocking_dependents() {
    let world = World::start().await;
    let root = owned(&world, "root", &[]).await;
    owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    world.patch(&config_map("child"), json!({"metadata": {"finalizers": ["example.com/hold"]}})).await;
    world.delete(&config_map("root"), json!({"propagationPolicy": "Foreground"})).await;
    world
        .until_async("the child's deletion", async || {
            let child = world.get(&config_map("child")).await?;
            (!child["metadata"]["deletionTimestamp"].is_null()).then_some(())
        })
        .await;
    assert!(world.get(&config_map("root")).await.is_some(), "the owner waits");
    world.patch(&config_map("child"), json!({"metadata": {"finalizers": null}})).await;
    world.until_async("the owner to go", async || world.get(&config_map("root")).await.is_none().then_some(())).await;
    assert!(world.get(&config_map("child")).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphaning_deletion_leaves_the_dependents() {
    let world = World::start().await;
    let root = owned(&world, "root", &[]).await;
    owned(&world, "child", &[("ConfigMap", "root", &root)]).await;
    world.delete(&config_map("root"), json!({"propagationPolicy": "Orphan"})).await;
    world.until_async("the owner to go", async || world.get(&config_map("root")).await.is_none().then_some(())).await;
    let child = world.get(&config_map("child")).await.expect("orphans stay");
    assert!(child["metadata"]["ownerReferences"].as_array().is_none_or(Vec::is_empty));
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespace_that_is_being_deleted_gets_nothing_new_es20() {
    let world = World::start().await;
    world.post("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "x"}})).await;
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    world.post("/api/v1/namespaces/x/configmaps", held).await;
    world.delete("/api/v1/namespaces/x", json!({})).await;
    let refused = world
        .request(
            Method::POST,
            "/api/v1/namespaces/x/secrets",
            Some(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})),
        )
        .await
        .unwrap_err();
    assert!(runner::is_namespace_terminating(&refused), "{refused}");
    assert!(matches!(refused, kube::Error::Api(status) if status.code == StatusCode::FORBIDDEN.as_u16()));
    world
        .until_async("only the held object to be left", async || {
            let left = world.list("/api/v1/namespaces/x/configmaps").await;
            let accounts = world.list("/api/v1/namespaces/x/serviceaccounts").await;
            (left.len() == 1 && accounts.is_empty()).then_some(())
        })
        .await;
    world.patch("/api/v1/namespaces/x/configmaps/held", json!({"metadata": {"finalizers": null}})).await;
    world
        .until_async("the namespace to go", async || world.get("/api/v1/namespaces/x").await.is_none().then_some(()))
        .await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_goes_when_its_time_is_over() {
    let world = World::start().await;
    let path = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Tested", "message": "m",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "type": "Normal"})
    };
    world.post(path, event("before")).await;
    let mut tasks = JoinSet::new();
    event_expiry::EventExpiry::start(&world.client, Duration::from_secs(1), &mut tasks);
    world.post(path, event("after")).await;
    for name in ["before", "after"] {
        let path = format!("{path}/{name}");
        world.until_async("the end of the Event", async || world.get(&path).await.is_none().then_some(())).await;
    }
}
