//! A cluster in a process of its own, and what is asked of its API.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::inside::Inside;
use crate::workloads::{DEPLOYMENTS, STATEFUL_SETS};

/// The binary under test.
pub const VIPYARD: &str = env!("CARGO_BIN_EXE_vipyard");
/// How long anything may take on a busy machine before it counts as never.
pub const LIMIT: Duration = Duration::from_secs(45);
/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

pub const PODS: &str = "/api/v1/namespaces/default/pods";
pub const SERVICES: &str = "/api/v1/namespaces/default/services";
pub const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub const SERVICE_CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

/// Waits until `condition` has a value.
#[track_caller]
pub fn eventually<T>(what: &str, condition: impl AsyncFnMut() -> Option<T>) -> impl Future<Output = T> {
    within(LIMIT, what, condition)
}

pub async fn within<T>(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// A data directory, and where its process writes its log.
pub struct Home {
    dir: TempDir,
}

impl Home {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { dir: tempfile::tempdir().expect("a folder for the cluster") })
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }
}

pub struct Cluster {
    pub home: Arc<Home>,
    pub client: Client,
    child: Child,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_in(Home::new()).await
    }

    /// Starts the binary on the data directory and waits until it says that it is ready.
    pub async fn start_in(home: Arc<Home>) -> Self {
        let mut command = Command::new(VIPYARD);
        command.arg("up").arg("--data-dir").arg(home.data());
        Self::start_with(home, command).await
    }

    pub async fn start_with(home: Arc<Home>, mut command: Command) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(home.path("stderr")).expect("a log file");
        command.env("VIPYARD_LOG", "info").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().expect("vipyard starts");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let said = tokio::time::timeout(LIMIT, async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with("cluster is ready") {
                    return true;
                }
            }
            false
        });
        assert!(said.await == Ok(true), "the cluster does not get ready:\n{}", home.log());
        // The rest is read so that the pipe never fills.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let client = Client::of_kubeconfig(&home.data().join("kubeconfig"));
        Self { home, client, child }
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.home.data().join("kubeconfig")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process was not waited for")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("the process takes signals");
    }

    pub async fn wait(&mut self) -> ExitStatus {
        tokio::time::timeout(LIMIT, self.child.wait())
            .await
            .expect("vipyard ends in time")
            .expect("it can be waited for")
    }

    /// Ends the cluster in order and gives its folder back.
    pub async fn stop(mut self) -> Arc<Home> {
        self.signal(Signal::TERM);
        let status = self.wait().await;
        assert!(status.success(), "{status}:\n{}", self.home.log());
        Arc::clone(&self.home)
    }

    /// As a crash: nothing of the process runs any more code.
    pub async fn kill(mut self) -> Arc<Home> {
        self.signal(Signal::KILL);
        self.wait().await;
        Arc::clone(&self.home)
    }

    pub async fn request(&self, method: Method, path: &str, body: Option<Value>) -> std::io::Result<(u16, Value)> {
        let mime = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let answer = tokio::time::timeout(LIMIT, self.client.text(method, path, mime, body));
        let (code, text) = answer.await.expect("the API answers in time")?;
        Ok((code, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }

    async fn expect(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let what = format!("{method} {path}");
        let (code, answer) = self.request(method, path, body).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!((200..300).contains(&code), "{what}: {code} {answer:#}");
        answer
    }

    pub async fn get(&self, path: &str) -> Value {
        self.expect(Method::GET, path, None).await
    }

    pub async fn find(&self, path: &str) -> Option<Value> {
        let (code, answer) = self.request(Method::GET, path, None).await.expect("the API answers");
        (code == 200).then_some(answer)
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        self.expect(Method::POST, path, Some(body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        self.expect(Method::PATCH, path, Some(body)).await
    }

    pub async fn delete(&self, path: &str) -> Value {
        self.expect(Method::DELETE, path, None).await
    }

    /// Creates the objects of a YAML file in `default`.
    pub async fn create(&self, yaml: &str) {
        for document in yaml.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document).expect("YAML of one object");
            let path = match object["kind"].as_str().expect("a kind") {
                "Pod" => PODS,
                "Service" => SERVICES,
                "ConfigMap" => CONFIG_MAPS,
                "Deployment" => DEPLOYMENTS,
                "StatefulSet" => STATEFUL_SETS,
                other => panic!("no path for {other}"),
            };
            self.post(path, object).await;
        }
    }

    /// Creates whoami Pods with the label `app` and a readiness probe that follows `POST /ready`.
    pub async fn whoami(&self, app: &str, names: &[&str]) {
        for name in names {
            self.create(&whoami(app, name)).await;
        }
        for name in names {
            self.ready(name).await;
        }
    }

    /// Creates a Service of the Pods with the label `app: NAME`; `spec` is merged into its spec.
    pub async fn service(&self, name: &str, spec: Value) -> Value {
        let ports = json!([{"name": "http", "port": 80}, {"name": "tcp", "port": 9000},
            {"name": "udp", "port": 9001, "protocol": "UDP"}]);
        let mut all = json!({"selector": {"app": name}, "ports": ports, "ipFamilyPolicy": "RequireDualStack"});
        json_patch::merge(&mut all, &spec);
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": all});
        self.post(SERVICES, service).await
    }

    /// Creates a ServiceCIDR and waits until Services may have addresses of it.
    pub async fn service_cidr(&self, name: &str, cidrs: [&str; 2]) {
        let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
            "spec": {"cidrs": cidrs}});
        self.post(SERVICE_CIDRS, cidr).await;
        let path = format!("{SERVICE_CIDRS}/{name}");
        let ready = async || (self.get(&path).await["status"]["conditions"][0]["status"] == "True").then_some(());
        eventually("the ServiceCIDR is ready", ready).await;
    }

    /// Creates a Pod that waits to be used as a client, and enters it.
    pub async fn client_pod(&self, name: &str, node: &str) -> Inside {
        let spec = json!({"nodeName": node, "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]});
        self.pod(name, spec).await;
        self.inside(name).await
    }

    pub async fn pod(&self, name: &str, spec: Value) {
        let metadata = json!({"name": name, "labels": {"name": name}});
        self.post(PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})).await;
    }

    /// The namespaces of a Pod that runs.
    pub async fn inside(&self, pod: &str) -> Inside {
        self.ready(pod).await;
        Inside::of(self.pid(), &self.pod_ip(pod).await)
    }

    /// Waits until `wanted` has a value for the Pod.
    pub async fn until_pod<T>(&self, pod: &str, what: &str, wanted: impl Fn(&Value) -> Option<T>) -> T {
        let path = format!("{PODS}/{pod}");
        let mut last = Value::Null;
        let begin = Instant::now();
        loop {
            if let Some(object) = self.find(&path).await {
                if let Some(value) = wanted(&object) {
                    return value;
                }
                last = object["status"].clone();
            }
            assert!(begin.elapsed() < LIMIT, "{pod}: {what}; its status stays {last:#}");
            tokio::time::sleep(STEP).await;
        }
    }

    /// Waits until the Pod is ready.
    pub async fn ready(&self, pod: &str) {
        self.until_pod(pod, "ready", |pod| is_ready(pod).then_some(())).await;
    }

    /// Waits until everything that is written now is in the packets and in DNS.
    pub async fn settled(&self) {
        self.get("/vipyard/v1/barrier").await;
    }

    /// The value of a metric without labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.request(Method::GET, "/metrics", None).await.expect("metrics");
        let line = text.as_str().expect("text").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in {text}"))
    }

    pub async fn gone(&self, path: &str) {
        eventually(&format!("{path} goes"), async || self.find(path).await.is_none().then_some(())).await;
    }

    /// An address of a Pod, IPv4.
    pub async fn pod_ip(&self, pod: &str) -> String {
        self.get(&format!("{PODS}/{pod}")).await["status"]["podIP"].as_str().expect("an address").to_owned()
    }

    pub async fn node_of(&self, pod: &str) -> String {
        self.get(&format!("{PODS}/{pod}")).await["spec"]["nodeName"].as_str().expect("a node").to_owned()
    }

    /// The Pods that are ready endpoints of a Service, sorted; each is in the slices of all the Service's families.
    pub async fn ready_endpoints(&self, service: &str) -> Vec<String> {
        let list = self.get(&format!("{SLICES}?labelSelector=kubernetes.io%2Fservice-name%3D{service}")).await;
        let slices: Vec<Vec<String>> = list["items"].as_array().expect("slices").iter().map(ready_in).collect();
        let mut all: Vec<String> = slices.iter().flatten().cloned().collect();
        all.sort();
        all.dedup();
        // One family may be ahead of the other.
        all.retain(|pod| slices.iter().all(|slice| slice.contains(pod)));
        all
    }

    /// Waits until exactly these Pods are ready endpoints, in the slices and in what packets meet.
    pub async fn endpoints(&self, service: &str, pods: &[&str]) {
        let what = format!("endpoints {pods:?} of {service}");
        eventually(&what, async || (self.ready_endpoints(service).await == pods).then_some(())).await;
    }

    /// The log of a Pod's only container.
    pub async fn logs(&self, pod: &str, query: &str) -> String {
        let path = format!("{PODS}/{pod}/log?{query}");
        match self.request(Method::GET, &path, None).await.expect("the API answers") {
            (200, Value::String(text)) => text,
            (200, other) => other.to_string(),
            (code, other) => panic!("{path}: {code} {other}"),
        }
    }

    /// The events of a watch, one per line, as they come.
    pub async fn watch(&self, path: &str) -> tokio::sync::mpsc::UnboundedReceiver<(Instant, Value)> {
        let response = self.client.send(Method::GET, path, "application/json", String::new()).await.expect("a watch");
        assert_eq!(response.status(), 200);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (mut body, mut buffer) = (response.into_body(), Vec::new());
            while let Some(Ok(frame)) = body.frame().await {
                let at = Instant::now();
                buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let event = serde_json::from_slice(&line).expect("an event");
                    if sender.send((at, event)).is_err() {
                        return;
                    }
                }
            }
        });
        receiver
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.home.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the cluster's last words:\n{}", lines[lines.len().saturating_sub(25)..].join("\n"));
        }
    }
}

/// The Pods that are ready in a slice.
pub fn ready_in(slice: &Value) -> Vec<String> {
    let all = slice["endpoints"].as_array().cloned().unwrap_or_default();
    let ready = all.iter().filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.filter_map(|endpoint| endpoint["targetRef"]["name"].as_str().map(str::to_owned)).collect()
}

pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

pub fn whoami(app: &str, name: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: {app}}}}}, spec: {{containers: [\
         {{name: c, image: vipyard/whoami, readinessProbe: {{periodSeconds: 1, failureThreshold: 1, \
         httpGet: {{path: /ready, port: 80}}}}}}]}}}}"
    )
}

/// Runs the binary to its end: exit code, standard output, standard error.
pub async fn vipyard(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(VIPYARD);
    command.args(arguments);
    run(command).await
}

/// Runs a program to its end, which must come in time.
pub async fn run(mut command: Command) -> (i32, String, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let what = format!("{:?}", command.as_std());
    let child = command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("does not end: {what}")).expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// `up` on a data directory, which must be refused.
pub async fn refused_up(data: &Path, more: &[&str]) -> (i32, String) {
    let mut arguments = vec!["up", "--data-dir", data.to_str().expect("a path of text")];
    arguments.extend(more);
    let (code, out, err) = vipyard(&arguments).await;
    assert_eq!(out, "", "nothing is announced");
    (code, err)
}
