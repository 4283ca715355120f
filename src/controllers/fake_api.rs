//! An API server for tests, as small as the controllers need: objects as JSON in a map, optimistic locking, watches.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;
type Failure = (StatusCode, Value);

/// Where an object stands: API version, plural, namespace, name.
type Key = (String, String, String, String);

/// A request as the API saw it.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub method: Method,
    pub path: String,
    pub body: Value,
}

#[derive(Clone, Default)]
pub(super) struct FakeApi {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Value>,
    version: u64,
    watchers: Vec<Watcher>,
    seen: Vec<Seen>,
    refuse: Vec<(Method, String, StatusCode, &'static str)>,
}

struct Watcher {
    api_version: String,
    plural: String,
    events: mpsc::UnboundedSender<Bytes>,
}

struct Target {
    api_version: String,
    plural: String,
    namespace: String,
    name: Option<String>,
    subresource: Option<String>,
}

impl Target {
    fn parse(path: &str) -> Option<Self> {
        let mut parts = path.trim_matches('/').split('/').map(str::to_owned);
        let api_version = match parts.next()?.as_str() {
            "api" => parts.next()?,
            _ => format!("{}/{}", parts.next()?, parts.next()?),
        };
        let rest: Vec<String> = parts.collect();
        let namespaced = rest[0] == "namespaces" && rest.len() > 2 && !["finalize", "status"].contains(&&*rest[2]);
        let (namespace, rest) = if namespaced { (rest[1].clone(), &rest[2..]) } else { (String::new(), &rest[..]) };
        Some(Self {
            api_version,
            plural: rest[0].clone(),
            namespace,
            name: rest.get(1).cloned(),
            subresource: rest.get(2).cloned(),
        })
    }

    fn key(&self, name: &str) -> Key {
        (self.api_version.clone(), self.plural.clone(), self.namespace.clone(), name.to_owned())
    }
}

fn failure(code: StatusCode, reason: &str, causes: Value) -> Failure {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16(), "reason": reason,
        "message": format!("refused: {reason}"), "details": {"causes": causes},
    });
    (code, status)
}

fn conflict() -> Failure {
    failure(StatusCode::CONFLICT, "Conflict", json!([]))
}

fn not_found() -> Failure {
    failure(StatusCode::NOT_FOUND, "NotFound", json!([]))
}

impl FakeApi {
    pub(super) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.serve(request).await) }
        });
        Client::new(service, "default")
    }

    /// The object as it is stored; the path is the one to GET it.
    pub(super) fn get(&self, path: &str) -> Option<Value> {
        let target = Target::parse(path)?;
        let name = target.name.clone()?;
        self.state.lock().objects.get(&target.key(&name)).cloned()
    }

    /// The objects of a collection, ordered by name.
    pub(super) fn list(&self, path: &str) -> Vec<Value> {
        self.state.lock().select(&Target::parse(path).unwrap(), &HashMap::new())
    }

    /// Every write so far, in order.
    pub(super) fn writes(&self) -> Vec<Seen> {
        self.state.lock().seen.iter().filter(|seen| seen.method != Method::GET).cloned().collect()
    }

    /// Refuses the next request with that method and a path that contains `part`.
    pub(super) fn refuse(&self, method: Method, part: &str, code: StatusCode, reason: &'static str) {
        self.state.lock().refuse.push((method, part.to_owned(), code, reason));
    }

    /// Does what a request of a user would do, and returns the answer.
    pub(super) fn request(&self, method: Method, path: &str, body: Value) -> Result<Value, Value> {
        let target = Target::parse(path).unwrap();
        self.state.lock().answer(&method, &target, &HashMap::new(), &body).map_err(|(_, status)| status)
    }

    pub(super) fn create(&self, path: &str, body: Value) -> Value {
        self.request(Method::POST, path, body).unwrap()
    }

    pub(super) fn patch(&self, path: &str, body: Value) -> Value {
        self.request(Method::PATCH, path, body).unwrap()
    }

    pub(super) fn delete(&self, path: &str) {
        self.request(Method::DELETE, path, Value::Null).unwrap();
    }

    async fn serve(&self, request: Request<Body>) -> Response<ResponseBody> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let query: HashMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=").replace("%2F", "/").replace("%2C", ",")))
            .collect();
        let target = Target::parse(parts.uri.path()).unwrap();
        if query.contains_key("watch") {
            return self.watch(&target, &query);
        }
        let mut state = self.state.lock();
        state.seen.push(Seen { method: parts.method.clone(), path: parts.uri.path().to_owned(), body: body.clone() });
        let refused = state
            .refuse
            .iter()
            .position(|(method, part, ..)| *method == parts.method && parts.uri.path().contains(part.as_str()));
        let answer = match refused {
            Some(at) => {
                let (_, _, code, reason) = state.refuse.remove(at);
                Err(failure(code, reason, json!([])))
            }
            None => state.answer(&parts.method, &target, &query, &body),
        };
        let (code, answer) = match answer {
            Ok(answer) => (StatusCode::OK, answer),
            Err((code, status)) => (code, status),
        };
        Response::builder().status(code).body(Full::from(answer.to_string()).boxed_unsync()).unwrap()
    }

    fn watch(&self, target: &Target, query: &HashMap<String, String>) -> Response<ResponseBody> {
        let (events, stream) = mpsc::unbounded_channel();
        let mut state = self.state.lock();
        if query.contains_key("sendInitialEvents") {
            for object in state.select(target, &HashMap::new()) {
                let _ = events.send(line("ADDED", &object));
            }
            let _ = events.send(line("BOOKMARK", &json!({"metadata": {
                "resourceVersion": state.version.to_string(),
                "annotations": {"k8s.io/initial-events-end": "true"},
            }, "apiVersion": target.api_version, "kind": "Bookmark", "spec": {"containers": []}, "addressType": "",
               "involvedObject": {}})));
        }
        state.watchers.push(Watcher {
            api_version: target.api_version.clone(),
            plural: target.plural.clone(),
            events,
        });
        let frames = UnboundedReceiverStream::new(stream).map(|line| Ok(Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn line(event: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": event, "object": object})).into()
}

impl State {
    fn answer(
        &mut self,
        method: &Method,
        target: &Target,
        query: &HashMap<String, String>,
        body: &Value,
    ) -> Result<Value, Failure> {
        match (method, &target.name) {
            (&Method::GET, Some(name)) => self.objects.get(&target.key(name)).cloned().ok_or_else(not_found),
            (&Method::GET, None) => Ok(json!({
                "kind": "List", "apiVersion": target.api_version,
                "metadata": {"resourceVersion": self.version.to_string()}, "items": self.select(target, query),
            })),
            (&Method::POST, Some(name)) if target.subresource.as_deref() == Some("binding") => {
                let mut pod = self.objects.get(&target.key(name)).cloned().ok_or_else(not_found)?;
                if !pod["spec"]["nodeName"].is_null() {
                    return Err(conflict());
                }
                pod["spec"]["nodeName"] = body["target"]["name"].clone();
                self.store(target.key(name), pod);
                Ok(json!({"kind": "Status", "status": "Success"}))
            }
            (&Method::POST, _) => self.create(target, body),
            (&Method::PUT, Some(name)) => self.replace(target.key(name), body.clone()),
            (&Method::PATCH, Some(name)) => {
                let mut object = self.objects.get(&target.key(name)).cloned().ok_or_else(not_found)?;
                json_patch::merge(&mut object, body);
                self.replace(target.key(name), object)
            }
            (&Method::DELETE, Some(name)) => self.delete(target.key(name), body),
            (&Method::DELETE, None) => {
                let names: Vec<Value> =
                    self.select(target, query).iter().map(|object| object["metadata"]["name"].clone()).collect();
                for name in names {
                    self.delete(target.key(name.as_str().unwrap()), body)?;
                }
                Ok(json!({"kind": "List", "apiVersion": target.api_version, "metadata": {}, "items": []}))
            }
            _ => Err(not_found()),
        }
    }

    fn select(&self, target: &Target, query: &HashMap<String, String>) -> Vec<Value> {
        let wanted: Vec<(&str, &str)> = query
            .get("labelSelector")
            .into_iter()
            .flat_map(|selector| selector.split(',').filter_map(|pair| pair.split_once('=')))
            .collect();
        self.objects
            .iter()
            .filter(|((api_version, plural, namespace, _), _)| {
                *api_version == target.api_version
                    && *plural == target.plural
                    && (target.namespace.is_empty() || *namespace == target.namespace)
            })
            .filter(|(_, object)| wanted.iter().all(|(key, value)| object["metadata"]["labels"][key] == *value))
            .map(|(_, object)| object.clone())
            .collect()
    }

    fn create(&mut self, target: &Target, body: &Value) -> Result<Value, Failure> {
        let home = ("v1".to_owned(), "namespaces".to_owned(), String::new(), target.namespace.clone());
        if self.objects.get(&home).is_some_and(|home| !home["metadata"]["deletionTimestamp"].is_null()) {
            let causes = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace"}]);
            return Err(failure(StatusCode::FORBIDDEN, "Forbidden", causes));
        }
        let mut object = body.clone();
        let metadata = &mut object["metadata"];
        if metadata["name"].is_null() {
            let name = format!("{}{:05}", metadata["generateName"].as_str().unwrap(), self.version);
            metadata["name"] = name.into();
        }
        let key = target.key(metadata["name"].as_str().unwrap());
        if self.objects.contains_key(&key) {
            return Err(failure(StatusCode::CONFLICT, "AlreadyExists", json!([])));
        }
        if !target.namespace.is_empty() {
            metadata["namespace"] = target.namespace.clone().into();
        }
        metadata["uid"] = uuid::Uuid::new_v4().to_string().into();
        metadata["creationTimestamp"] = "2024-01-01T00:00:00Z".into();
        if target.plural == "namespaces" {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
        }
        Ok(self.store(key, object))
    }

    fn replace(&mut self, key: Key, mut object: Value) -> Result<Value, Failure> {
        let old = self.objects.get(&key).ok_or_else(not_found)?;
        for field in ["resourceVersion", "uid"] {
            let given = &object["metadata"][field];
            if !given.is_null() && *given != old["metadata"][field] {
                return Err(conflict());
            }
        }
        if key.1 == "services" && object["spec"]["clusterIP"] != old["spec"]["clusterIP"] {
            return Err(failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", json!([])));
        }
        for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
            object["metadata"][field] = old["metadata"][field].clone();
        }
        if removable(&object) && !object["metadata"]["deletionTimestamp"].is_null() {
            self.remove(&key);
            return Ok(object);
        }
        Ok(self.store(key, object))
    }

    fn delete(&mut self, key: Key, options: &Value) -> Result<Value, Failure> {
        let mut object = self.objects.get(&key).cloned().ok_or_else(not_found)?;
        for field in ["resourceVersion", "uid"] {
            let given = &options["preconditions"][field];
            if !given.is_null() && *given != object["metadata"][field] {
                return Err(conflict());
            }
        }
        let finalizer = match options["propagationPolicy"].as_str() {
            Some("Foreground") => Some("foregroundDeletion"),
            Some("Orphan") => Some("orphan"),
            _ => None,
        };
        if let Some(finalizer) = finalizer {
            let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
            finalizers.push(finalizer.into());
            object["metadata"]["finalizers"] = finalizers.into();
        }
        let runs = key.1 == "pods"
            && !object["spec"]["nodeName"].is_null()
            && object["metadata"]["deletionTimestamp"].is_null();
        if removable(&object) && !runs {
            self.remove(&key);
        } else if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = Timestamp::UNIX_EPOCH.to_string().into();
            self.store(key, object.clone());
        }
        Ok(object)
    }

    fn store(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let event = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.publish(&key, event, &object);
        self.objects.insert(key, object.clone());
        object
    }

    fn remove(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = self.version.to_string().into();
            self.publish(key, "DELETED", &object);
        }
    }

    fn publish(&mut self, (api_version, plural, ..): &Key, event: &str, object: &Value) {
        self.watchers.retain(|watcher| {
            (&watcher.api_version, &watcher.plural) != (api_version, plural)
                || watcher.events.send(line(event, object)).is_ok()
        });
    }
}

/// True if nothing holds the object back.
fn removable(object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    empty(&object["metadata"]["finalizers"]) && (object["kind"] != "Namespace" || empty(&object["spec"]["finalizers"]))
}
