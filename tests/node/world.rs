//! The agents with an API server of a page and a router of ten lines.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::client::Body;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags};
use serde_json::{Value, json};
use tokio::sync::watch;
use vipyard::cluster::{Cluster, ObjectKey, Writers};
use vipyard::config::Network;
use vipyard::images::Images;
use vipyard::node::{Agents, AgentsConfig, DataPlane, EventSink, Timings};
use vipyard::router::{PortId, PortSpec, Ports};
use vipyard::sys::tun::Tun;

const NODES: &str = "/api/v1/nodes";
/// How long a condition may take to come true.
const LIMIT: Duration = Duration::from_secs(20);

pub struct World {
    pub agents: Agents,
    pub api: Arc<FakeApi>,
    pub hub: Arc<Hub>,
    pub data_plane: Arc<FakeDataPlane>,
    pub dir: tempfile::TempDir,
}

/// Follows every write at once, unless it is held.
#[derive(Default)]
pub struct FakeDataPlane {
    held: watch::Sender<bool>,
    asked: watch::Sender<usize>,
}

impl FakeDataPlane {
    /// Lets nothing settle any more. Returns how often that was asked for.
    pub fn hold(&self) -> watch::Receiver<usize> {
        self.held.send_replace(true);
        self.asked.subscribe()
    }

    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

impl DataPlane for FakeDataPlane {
    fn settled(&self) -> BoxFuture<'static, ()> {
        let mut held = self.held.subscribe();
        self.asked.send_modify(|asked| *asked += 1);
        Box::pin(async move { drop(held.wait_for(|held| !held).await) })
    }
}

impl World {
    pub async fn start() -> Self {
        Self::with(|_| ()).await
    }

    /// A world in which the API already knows some objects.
    pub async fn with(prepare: impl FnOnce(&FakeApi)) -> Self {
        Self::with_images(Images::default(), prepare).await
    }

    pub async fn with_images(images: Images, prepare: impl FnOnce(&FakeApi)) -> Self {
        let (cluster, writers) = Cluster::new();
        let api = Arc::new(FakeApi {
            writers,
            state: Mutex::default(),
            changes: watch::Sender::new(0),
            events: Mutex::default(),
        });
        prepare(&api);
        api.writers.pods.mark_synced();
        api.writers.config_maps.mark_synced();
        api.writers.secrets.mark_synced();
        api.writers.claims.mark_synced();
        let hub = Arc::new(Hub::default());
        let data_plane = Arc::new(FakeDataPlane::default());
        let dir = tempfile::tempdir().expect("a folder for the test");
        let config = AgentsConfig {
            nodes: 2,
            monitor_grace: Duration::from_secs(50),
            network: Network::default(),
            data_dir: dir.path().to_owned(),
            client: api.client(),
            cluster,
            ports: Arc::clone(&hub) as Arc<dyn Ports>,
            data_plane: Arc::clone(&data_plane) as Arc<dyn DataPlane>,
            events: Arc::clone(&api) as Arc<dyn EventSink>,
            timings: Timings {
                backoff_base: Duration::from_millis(100),
                backoff_limit: Duration::from_millis(400),
                image_look: Duration::from_millis(50),
                unroute: Duration::from_secs(20),
                ..Timings::default()
            },
            images,
        };
        let agents = Agents::start(config).await.expect("the agents start");
        agents.ready().await;
        Self { agents, api, hub, data_plane, dir }
    }

    /// Creates a Pod `name` in `default`, bound to node n1, and waits until `wanted` holds of its status.
    pub async fn run(&self, name: &str, spec: Value, wanted: impl Fn(&Value) -> bool) -> Value {
        self.api.create_pod(name, spec);
        self.status(name, wanted).await
    }

    /// Waits until `wanted` holds of a Pod's status.
    pub async fn status(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let last = Mutex::new(Value::Null);
        let found = self.eventually(|| {
            let status = self.api.pod(name)?["status"].clone();
            *last.lock() = status.clone();
            wanted(&status).then_some(status)
        });
        found
            .await
            .unwrap_or_else(|| panic!("status of {name} stays {:#}; events {:?}", last.lock(), self.api.events.lock()))
    }

    /// Waits until the Pod's object is gone.
    pub async fn gone(&self, name: &str) {
        self.eventually(|| self.api.pod(name).is_none().then_some(())).await.expect("the object goes away");
    }

    /// Waits for an event with this reason, about whatever Pod, and returns the message of the first.
    pub async fn event(&self, reason: &str) -> String {
        let found = || self.api.events.lock().iter().find(|(known, _)| known == reason).map(|(_, text)| text.clone());
        let message = self.eventually(found).await;
        message.unwrap_or_else(|| panic!("no event {reason}, but {:?}", self.api.events.lock()))
    }

    /// Waits for an event whose message is as wanted.
    pub async fn told(&self, wanted: impl Fn(&str) -> bool) {
        let found = self.eventually(|| self.api.events.lock().iter().any(|(_, known)| wanted(known)).then_some(()));
        found.await.unwrap_or_else(|| panic!("no such event, but {:?}", self.api.events.lock()));
    }

    /// Waits for an event with this message.
    pub async fn reported(&self, message: &str) {
        let found = self.eventually(|| self.api.events.lock().iter().any(|(_, known)| known == message).then_some(()));
        found.await.unwrap_or_else(|| panic!("no event {message:?}, but {:?}", self.api.events.lock()));
    }

    /// Waits until a container `c` has said a line.
    pub async fn logged(&self, pod: &str, line: &str) {
        let begin = std::time::Instant::now();
        loop {
            let log = std::fs::read_to_string(self.dir.path().join(format!("pods/uid-{pod}/c/0.log")));
            let said = log.unwrap_or_default();
            if said.lines().any(|known| known.ends_with(&format!(" F {line}"))) {
                return;
            }
            assert!(begin.elapsed() < LIMIT, "{pod} says no {line:?} but {said:?}: {:?}", self.api.events.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the agents made this request.
    pub async fn requested(&self, request: &str) {
        let begin = std::time::Instant::now();
        while !self.api.requests().iter().any(|known| known == request) {
            assert!(begin.elapsed() < LIMIT, "nobody asked {request}: {:?}", self.api.requests());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until a folder is gone.
    pub async fn vanished(&self, folder: &std::path::Path) {
        let begin = std::time::Instant::now();
        while folder.exists() {
            assert!(begin.elapsed() < LIMIT, "{} stays", folder.display());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Creates or replaces a ConfigMap.
    pub fn config_map(&self, name: &str, data: Value) {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": data});
        self.api.writers.config_maps.apply(serde_json::from_value(object).expect("a ConfigMap"));
    }

    /// Creates or replaces a Secret.
    pub fn secret(&self, name: &str, data: Value) {
        let object = json!({"metadata": {"name": name, "namespace": "default"}, "data": data});
        self.api.writers.secrets.apply(serde_json::from_value(object).expect("a Secret"));
    }

    /// Waits until no more devices than those of the nodes are attached.
    pub async fn only_nodes_attached(&self) {
        let begin = std::time::Instant::now();
        while self.hub.names() != ["n1", "n2"] {
            assert!(begin.elapsed() < LIMIT, "still attached: {:?}", self.hub.names());
            tokio::task::yield_now().await;
        }
    }

    async fn eventually<T>(&self, condition: impl Fn() -> Option<T>) -> Option<T> {
        let mut changes = self.api.changes.subscribe();
        let found = async {
            loop {
                changes.borrow_and_update();
                if let Some(found) = condition() {
                    return found;
                }
                changes.changed().await.expect("the world lives");
            }
        };
        tokio::time::timeout(LIMIT, found).await.ok()
    }

    pub async fn end(self) {
        self.agents.shutdown(Duration::from_secs(1)).await;
        assert!(self.hub.names().is_empty(), "detached: {:?}", self.hub.names());
        assert!(!self.dir.path().join("pods").exists());
    }
}

pub fn is_ready(status: &Value) -> bool {
    condition(status, "Ready") == "True"
}

pub fn condition(status: &Value, type_: &str) -> String {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().find(|c| c["type"] == type_).map_or(String::new(), |c| c["status"].as_str().unwrap().to_owned())
}

/// Keeps Pods and nodes, and answers the requests that the agents make.
pub struct FakeApi {
    pub writers: Writers,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    pub events: Mutex<Vec<(String, String)>>,
}

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<String, Value>,
    /// Method and path of every request.
    requests: Vec<String>,
}

impl FakeApi {
    fn client(self: &Arc<Self>) -> kube::Client {
        let api = Arc::clone(self);
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = Arc::clone(&api);
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (status, answer) = api.answer(&head.method, head.uri.path(), &body);
                let answer = Body::from(serde_json::to_vec(&answer)?);
                let mut response = Response::new(answer);
                *response.status_mut() = status;
                Ok::<_, io::Error>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, method: &Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let mut state = self.state.lock();
        state.requests.push(format!("{method} {path}"));
        let object_path = path.trim_end_matches("/status").to_owned();
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                "message": reason});
            (StatusCode::from_u16(code).unwrap(), status)
        };
        match *method {
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return failure(409, "AlreadyExists");
                }
                let object = self.store(&mut state, path, body.clone());
                (StatusCode::CREATED, object)
            }
            Method::GET if object_path == NODES => {
                let nodes = state.objects.iter().filter(|(path, _)| path.starts_with(NODES)).map(|(_, node)| node);
                (StatusCode::OK, json!({"metadata": {}, "items": nodes.collect::<Vec<_>>()}))
            }
            Method::GET => match state.objects.get(&object_path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => failure(404, "NotFound"),
            },
            Method::PATCH => {
                let Some(mut object) = state.objects.get(&object_path).cloned() else {
                    return failure(404, "NotFound");
                };
                let precondition = &body["metadata"]["resourceVersion"];
                if !precondition.is_null() && *precondition != object["metadata"]["resourceVersion"] {
                    return failure(409, "Conflict");
                }
                json_patch::merge(&mut object, body);
                (StatusCode::OK, self.store(&mut state, object_path, object))
            }
            Method::DELETE => {
                let Some(object) = state.objects.remove(&object_path) else { return failure(404, "NotFound") };
                if !object_path.contains("/pods/") {
                    return (StatusCode::OK, object);
                }
                if body["preconditions"]["uid"] != object["metadata"]["uid"] || body["gracePeriodSeconds"] != 0 {
                    state.objects.insert(object_path, object);
                    return failure(409, "Conflict");
                }
                drop(state);
                self.forget(&object);
                (StatusCode::OK, object)
            }
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    fn store(&self, state: &mut State, path: String, mut object: Value) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        state.objects.insert(path.clone(), object.clone());
        if path.contains("/pods/") {
            let pod: Pod = serde_json::from_value(object.clone()).expect("a Pod as the API knows it");
            self.writers.pods.apply(pod);
        }
        self.changes.send_modify(|n| *n += 1);
        object
    }

    fn forget(&self, object: &Value) {
        let name = object["metadata"]["name"].as_str().unwrap();
        self.writers.pods.delete(&ObjectKey::new("default", name));
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn create_pod(&self, name: &str, spec: Value) {
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": {"nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 5}
        });
        json_patch::merge(&mut object["spec"], &spec);
        self.put(name, object);
    }

    /// What is seen of a Pod that the API has no more: news of it came late.
    pub fn rumour(&self, name: &str, spec: Value) {
        let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
        let mut pod = json!({"metadata": metadata, "spec": {"nodeName": "n1"}});
        json_patch::merge(&mut pod["spec"], &spec);
        self.writers.pods.apply(serde_json::from_value(pod).expect("a Pod"));
    }

    pub fn put_node(&self, name: &str, spec: Value) {
        let node = json!({"metadata": {"name": name}, "spec": spec});
        self.store(&mut self.state.lock(), format!("{NODES}/{name}"), node);
    }

    /// Stores an object as it is.
    pub fn put(&self, name: &str, object: Value) {
        let mut state = self.state.lock();
        self.store(&mut state, pod_path(name), object);
    }

    /// What a third party or a user writes.
    pub fn edit(&self, name: &str, patch: Value) {
        let mut state = self.state.lock();
        let mut object = state.objects[&pod_path(name)].clone();
        json_patch::merge(&mut object, &patch);
        self.store(&mut state, pod_path(name), object);
    }

    /// Whether an event with this reason was reported, about whatever Pod.
    pub fn reported(&self, reason: &str) -> bool {
        self.events.lock().iter().any(|(known, _)| known == reason)
    }

    /// A graceful delete: only marks the object.
    pub fn delete_gracefully(&self, name: &str, seconds: i64) {
        let patch =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": seconds}});
        self.edit(name, patch);
    }

    /// A delete with grace 0: the object is gone.
    pub fn delete_now(&self, name: &str) {
        let object = self.state.lock().objects.remove(&pod_path(name)).unwrap();
        self.forget(&object);
    }

    pub fn pod(&self, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&pod_path(name)).cloned()
    }

    pub fn node(&self, name: &str) -> Option<Value> {
        self.state.lock().objects.get(&format!("{NODES}/{name}")).cloned()
    }

    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    pub fn service(&self, service: Value) {
        let service: Service = serde_json::from_value(service).unwrap();
        self.writers.services.apply(service);
    }
}

fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

impl EventSink for FakeApi {
    fn event(&self, _pod: &Pod, _type: &str, reason: &str, message: &str) {
        self.events.lock().push((reason.to_owned(), message.to_owned()));
        self.changes.send_modify(|n| *n += 1);
    }
}

/// Passes each packet, virtio header and all, to the device that has its destination.
#[derive(Default)]
pub struct Hub {
    next: AtomicU32,
    ports: Arc<Mutex<HashMap<PortId, Arc<Port>>>>,
}

struct Port {
    name: String,
    addresses: Vec<IpAddr>,
    device: Tun,
    stop: OwnedFd,
}

impl Hub {
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.ports.lock().values().map(|port| port.name.clone()).collect();
        names.sort();
        names
    }
}

impl Ports for Hub {
    fn attach(&self, spec: PortSpec) -> io::Result<PortId> {
        let id = PortId(self.next.fetch_add(1, Ordering::Relaxed));
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let port = Arc::new(Port { name: spec.name, addresses: spec.addresses, device: spec.device, stop });
        self.ports.lock().insert(id, Arc::clone(&port));
        let ports = Arc::clone(&self.ports);
        std::thread::spawn(move || {
            let mut packet = vec![0; 1 << 17];
            loop {
                let mut fds = [PollFd::new(&port.device, PollFlags::IN), PollFd::new(&port.stop, PollFlags::IN)];
                rustix::event::poll(&mut fds, None).expect("the device can be polled");
                if !fds[1].revents().is_empty() {
                    return;
                }
                while let Ok(length) = rustix::io::read(&port.device, &mut packet) {
                    forward(&ports, &packet[..length]);
                }
            }
        });
        Ok(id)
    }

    fn detach(&self, port: PortId) {
        if let Some(port) = self.ports.lock().remove(&port) {
            rustix::io::write(&port.stop, &1_u64.to_ne_bytes()).expect("the thread can be stopped");
        }
    }
}

fn forward(ports: &Mutex<HashMap<PortId, Arc<Port>>>, packet: &[u8]) {
    let ip = &packet[vipyard::sys::tun::VNET_HDR_LEN..];
    let target: IpAddr = match ip[0] >> 4 {
        4 => <[u8; 4]>::try_from(&ip[16..20]).unwrap().into(),
        _ => <[u8; 16]>::try_from(&ip[24..40]).unwrap().into(),
    };
    let port = ports.lock().values().find(|port| port.addresses.contains(&target)).cloned();
    if let Some(port) = port {
        let _ = rustix::io::write(&port.device, packet);
    }
}
