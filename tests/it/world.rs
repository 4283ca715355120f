//! An API server to ask, and what it answered.

use std::pin::Pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use vipyard::api::Api;
use vipyard::api::auth::Identity;
use vipyard::api::pki::token_key;
use vipyard::cluster::Cluster;
use vipyard::config::{Network, StoreConfig};
use vipyard::controllers::{Controllers, ControllersConfig, bootstrap};
use vipyard::store::Store;

/// How long a condition may take to come true on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
pub const NAMESPACES: &str = "/api/v1/namespaces";

pub struct World {
    pub api: Api,
    router: Router,
    tasks: JoinSet<()>,
}

impl World {
    /// An API server with the system's objects, the ServiceAccount that Pods need (PD7), and no controllers.
    pub async fn start() -> Self {
        let world = Self::on(&StoreConfig::in_memory(), Network::default()).await;
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        world.post("/api/v1/namespaces/default/serviceaccounts", account).await.created();
        world
    }

    pub async fn on(store: &StoreConfig, network: Network) -> Self {
        let store = Store::open(store).await.expect("the store opens");
        let api = Api::new(store, network.clone(), token_key(None).expect("a key"), CancellationToken::new());
        bootstrap(api.client(Identity::system("test")), &network).await.expect("the system's objects are made");
        let router = api.router();
        Self { api, router, tasks: JoinSet::new() }
    }

    /// With all controllers, and `nodes` nodes that are ready.
    pub async fn with_controllers(nodes: usize) -> Self {
        let mut world = Self::on(&StoreConfig::in_memory(), Network::default()).await;
        let client = world.api.client(Identity::system("system:kube-controller-manager"));
        let (cluster, writers) = Cluster::new();
        writers.run(&client, &mut world.tasks);
        let config = ControllersConfig {
            client,
            cluster,
            network: Network::default(),
            root_ca_pem: "-----BEGIN CERTIFICATE-----\n".into(),
            claims_folder: "/data/volumes".into(),
            node_times: vipyard::config::NodeTimes::default(),
            selection: vipyard::config::Selection::default(),
            resources: world.api.registry().resources(),
        };
        Controllers::start(config, &mut world.tasks);
        for number in 1..=nodes {
            let name = format!("n{number}");
            let labels = json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": "a"});
            let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
            world.post("/api/v1/nodes", node).await.created();
            let ready = json!({"status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]}});
            world.merge(&format!("/api/v1/nodes/{name}/status"), ready).await.ok();
        }
        world.until(async || world.get("/api/v1/namespaces/default/serviceaccounts/default").await.found()).await;
        world
    }

    /// Ends the store in order, so that its files can be opened again.
    pub async fn end(mut self) {
        self.tasks.shutdown().await;
        self.api.store().clone().close().await;
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        let answer = timeout(LIMIT, async {
            let response = self.router.clone().oneshot(request).await.expect("a router never fails");
            let (head, body) = response.into_parts();
            let body = body.collect().await.expect("the body comes whole").to_bytes();
            Answer {
                code: head.status.as_u16(),
                headers: head.headers,
                text: String::from_utf8_lossy(&body).into_owned(),
            }
        });
        answer.await.expect("an answer in time")
    }

    /// A request with a body of any type.
    pub async fn raw(&self, method: &str, path: &str, mime: &str, body: impl Into<String>) -> Answer {
        self.send(request(method, path).header("content-type", mime).body(body.into().into()).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Answer {
        self.send(request("GET", path).header("accept", accept).body(Body::empty()).unwrap()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.raw("POST", path, "application/json", body.to_string()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.raw("PUT", path, "application/json", body.to_string()).await
    }

    pub async fn merge(&self, path: &str, patch: Value) -> Answer {
        self.raw("PATCH", path, "application/merge-patch+json", patch.to_string()).await
    }

    pub async fn strategic(&self, path: &str, patch: Value) -> Answer {
        self.raw("PATCH", path, "application/strategic-merge-patch+json", patch.to_string()).await
    }

    /// Server-side apply without force.
    pub async fn apply(&self, path: &str, manager: &str, config: Value) -> Answer {
        let path = format!("{path}?fieldManager={manager}");
        self.raw("PATCH", &path, "application/apply-patch+yaml", config.to_string()).await
    }

    pub async fn json_patch(&self, path: &str, patch: Value) -> Answer {
        self.raw("PATCH", path, "application/json-patch+json", patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        self.raw("DELETE", path, "application/json", options.to_string()).await
    }

    /// Creates a ConfigMap of one entry.
    pub async fn config_map(&self, name: &str, value: &str) -> Value {
        self.post(CONFIG_MAPS, config_map(name, value)).await.created()
    }

    /// Creates a Pod that runs whoami on a node, if one is named.
    pub async fn pod(&self, name: &str, labels: Value, node: Option<&str>) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "vipyard/whoami"}]});
        if let Some(node) = node {
            spec["nodeName"] = node.into();
        }
        let metadata = json!({"name": name, "labels": labels});
        self.post(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await.created()
    }

    /// Writes what a node agent writes of a running Pod.
    pub async fn run_pod(&self, name: &str, ip: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2024-01-01T00:00:00Z"}]}});
        self.merge(&format!("{PODS}/{name}/status"), status).await.ok();
    }

    /// Starts a watch; `query` without `watch=true`.
    pub async fn watch(&self, path: &str, query: &str) -> Watch {
        let uri = format!("{path}?watch=true&{query}");
        let response = self.router.clone().oneshot(request("GET", &uri).body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{uri}");
        let data = response.into_body().into_data_stream().map(|part| part.expect("the stream goes on"));
        Watch { data: Box::pin(data), buffer: String::new() }
    }

    /// Waits until `condition` has a value: asked again after every write, for at most [`LIMIT`].
    pub async fn until<T>(&self, condition: impl AsyncFn() -> Option<T>) -> T {
        let wait = async {
            loop {
                let before = self.api.store().revision();
                if let Some(value) = condition().await {
                    return value;
                }
                while self.api.store().revision() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        timeout(LIMIT, wait).await.expect("the condition comes true in time")
    }
}

/// A request of somebody who may do everything.
pub fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).extension(Identity::system("test"))
}

pub fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": value}})
}

pub fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

/// The names of a list's items, in their order.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("a list").iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

pub fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion").to_owned()
}

#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// The body of a 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.code, 200, "{}", self.text);
        self.json()
    }

    /// The body of a 201.
    #[track_caller]
    pub fn created(self) -> Value {
        assert_eq!(self.code, 201, "{}", self.text);
        self.json()
    }

    /// The object, if the answer is not 404.
    pub fn found(self) -> Option<Value> {
        (self.code != 404).then(|| self.ok())
    }

    /// The `Status` of a refusal, which must be complete.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Value {
        assert_eq!(self.code, code, "{}", self.text);
        assert_eq!(self.headers["content-type"], "application/json");
        let status = self.json();
        assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Status"), &json!("v1")), "{status}");
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(code)), "{status}");
        assert_eq!(status["reason"], reason, "{status}");
        assert!(!message(&status).is_empty());
        status
    }

    /// The `Status` of an object that breaks rules: with exactly these fields named, in order.
    #[track_caller]
    pub fn invalid(self, fields: &[&str]) -> Value {
        let status = self.refused(422, "Invalid");
        let causes = status["details"]["causes"].as_array().expect("causes");
        let found: Vec<&str> = causes.iter().map(|cause| cause["field"].as_str().unwrap()).collect();
        assert_eq!(found, fields, "{status}");
        status
    }
}

pub fn message(status: &Value) -> &str {
    status["message"].as_str().expect("a message")
}

/// The events of a watch.
pub struct Watch {
    data: Pin<Box<dyn Stream<Item = Bytes> + Send>>,
    buffer: String,
}

impl Watch {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        timeout(LIMIT, self.next_whenever()).await.expect("an event in time")
    }

    /// As [`Self::next`], for as long as it takes.
    pub async fn next_whenever(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.buffer.split_once('\n') {
                let event = serde_json::from_str(line).expect("one JSON document per line");
                self.buffer = rest.to_owned();
                return Some(event);
            }
            let part = self.data.next().await?;
            self.buffer.push_str(std::str::from_utf8(&part).expect("text"));
        }
    }

    /// The next event's type and its object's name.
    pub async fn next_name(&mut self) -> (String, String) {
        let event = self.next().await.expect("an event");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }

    pub async fn expect(&mut self, kind: &str, name: &str) {
        assert_eq!(self.next_name().await, (kind.to_owned(), name.to_owned()));
    }
}
