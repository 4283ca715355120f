//! Subresources: status, finalize, scale, binding, eviction, ephemeralcontainers, resize, log, and connections.

mod connect;
mod eviction;
mod scale;

use axum::body::Body;
use axum::response::Response;
use futures::StreamExt;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Api;
use super::causes::Causes;
use super::kinds::Part;
use super::logs::{LogOptions, LogStream};
use super::object::{self, meta_str};
use super::request::{Call, Target};
use super::serve::Patient;
use super::status::{About, ApiError, json_response};
use super::verbs::commit_failed;
use crate::store::{CommitError, Key, Op};

/// Labels of its node that a Pod gets when it is bound (rule PD8).
const TOPOLOGY_LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

impl Api {
    pub(super) async fn subresource(&self, call: Call) -> Result<Response, ApiError> {
        let info = call.target.kind.info();
        let subresource = call.target.subresource.clone().unwrap_or_default();
        match (info.plural, subresource.as_str(), call.method.as_str()) {
            (_, "status", "GET") if info.status => self.get(&call),
            (_, "status", "PUT") if info.status => self.replace(&call, Part::Status).await,
            (_, "status", "PATCH") if info.status => self.patch(&call, Part::Status).await,
            ("namespaces", "finalize", "PUT") => self.replace(&call, Part::Finalize).await,
            (_, "scale", _) if info.scale.is_some() => self.scale(call).await,
            ("pods", "ephemeralcontainers" | "resize", "GET") => self.get(&call),
            ("pods", "ephemeralcontainers", "PUT") => self.replace(&call, Part::EphemeralContainers).await,
            ("pods", "ephemeralcontainers", "PATCH") => self.patch(&call, Part::EphemeralContainers).await,
            ("pods", "resize", "PUT") => self.replace(&call, Part::Resize).await,
            ("pods", "resize", "PATCH") => self.patch(&call, Part::Resize).await,
            ("pods", "binding", "POST") => self.bind(&call).await,
            ("pods", "eviction", "POST") => self.evict(call).await,
            ("pods", "log", "GET") => self.pod_log(&call).await,
            ("serviceaccounts", "token", "POST") => self.request_token(&call),
            (_, "status", _) if info.status => Err(ApiError::method_not_allowed()),
            ("namespaces", "finalize", _)
            | ("pods", "binding" | "ephemeralcontainers" | "eviction" | "log" | "resize", _)
            | ("serviceaccounts", "token", _) => Err(ApiError::method_not_allowed()),
            _ => Err(ApiError::no_such_resource()),
        }
    }

    /// Gives a Pod its node. Done once in a Pod's life.
    async fn bind(&self, call: &Call) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("CreateOptions")?;
        let binding = call.object()?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        if node.is_empty() {
            return Err(ApiError::bad_request("Binding: target.name: Required value: the node's name"));
        }
        let node_labels = self.store().get(&Key::new("nodes", "", node.as_str())).and_then(|entry| {
            let node: Value = serde_json::from_slice(&entry.value).ok()?;
            node["metadata"]["labels"].as_object().cloned()
        });
        self.rewrite(&call.target, dry_run, |pod| {
            let name = meta_str(pod, "name").to_owned();
            let conflict =
                |why: String| ApiError::conflict(About { group: "", resource: "pods/binding", name: &name }, why);
            if object::is_deleting(pod) {
                return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            if let Some(bound) = pod["spec"]["nodeName"].as_str().filter(|bound| !bound.is_empty()) {
                return Err(conflict(format!("pod {name} is already assigned to node {bound:?}")));
            }
            pod["spec"]["nodeName"] = node.as_str().into();
            for label in TOPOLOGY_LABELS {
                if let Some(value) = node_labels.as_ref().and_then(|labels| labels.get(label)) {
                    let labels = &mut pod["metadata"]["labels"];
                    if labels.get(label).is_none() {
                        labels[label] = value.clone();
                    }
                }
            }
            set_scheduled(pod);
            Ok(())
        })
        .await?;
        let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(json_response(StatusCode::CREATED, &success))
    }

    /// Changes a stored object without the rules for clients' updates.
    async fn rewrite(
        &self,
        target: &Target,
        dry_run: bool,
        change: impl Fn(&mut Value) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        loop {
            let entry = self.store().get(&target.key()).ok_or_else(|| target.not_found())?;
            let mut object: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            change(&mut object)?;
            if dry_run {
                return Ok(());
            }
            let encode = object::encode(target.kind.info(), object)?;
            match self.store().commit(target.key(), Op::Update { expect: entry.revision, encode }).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict(_)) => {}
                Err(e) => return Err(commit_failed(target, target.name(), &e)),
            }
        }
    }

    async fn pod_log(&self, call: &Call) -> Result<Response, ApiError> {
        let target = &call.target;
        let entry = self.store().get(&target.key()).ok_or_else(|| target.not_found())?;
        let pod: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        let container = container_of(&pod, target.name(), call.params.get("container"))?;
        let source = self
            .inner
            .logs
            .get()
            .ok_or_else(|| ApiError::service_unavailable("the nodes are still starting: try again in a moment"))?;
        let options = log_options(call)?;
        let lines = source.logs(target.namespace().to_owned(), target.name().to_owned(), container, options).await?;
        let body = Body::from_stream(lines.map(Ok::<_, std::convert::Infallible>));
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response.extensions_mut().insert(Patient);
        Ok(response)
    }
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": object::now_text()});
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(conditions) = pod["status"]["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "PodScheduled");
        conditions.push(condition);
    }
}

fn log_options(call: &Call) -> Result<LogOptions, ApiError> {
    let params = &call.params;
    let mut causes = Causes::default();
    for (name, least) in [("tailLines", 0), ("sinceSeconds", 1), ("limitBytes", 1)] {
        if let Some(number) = params.number::<i64>(name)?.filter(|number| *number < least) {
            let bound = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            causes.invalid(name, number, bound);
        }
    }
    let stream = match params.get("stream") {
        "" | "All" => None,
        _ if !params.get("tailLines").is_empty() => {
            causes.forbidden("stream", "`tailLines` and specific `stream` are mutually exclusive for now");
            None
        }
        "Stdout" => Some(LogStream::Stdout),
        "Stderr" => Some(LogStream::Stderr),
        other => {
            causes.unsupported("stream", other, &["All", "Stdout", "Stderr"]);
            None
        }
    };
    if !causes.is_empty() {
        return Err(ApiError::invalid(About { group: "", resource: "PodLogOptions", name: "" }, &causes.0));
    }
    let since = match (params.number::<u64>("sinceSeconds")?, params.get("sinceTime")) {
        (Some(_), time) if !time.is_empty() => {
            return Err(ApiError::bad_request("at most one of `sinceTime` or `sinceSeconds` may be specified"));
        }
        (Some(seconds), _) => {
            let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
            Some(Timestamp::now().saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
        }
        (None, "") => None,
        (None, time) => Some(
            time.parse()
                .map_err(|_| ApiError::bad_request(format!("invalid sinceTime {time:?}: expected RFC 3339")))?,
        ),
    };
    Ok(LogOptions {
        follow: params.flag("follow"),
        previous: params.flag("previous"),
        timestamps: params.flag("timestamps"),
        tail_lines: params.number("tailLines")?,
        since,
        limit_bytes: params.number("limitBytes")?,
        stream,
    })
}

/// The container that is meant: the named one, or the only one.
pub(super) fn container_of(pod: &Value, name: &str, asked: &str) -> Result<String, ApiError> {
    let names = |field: &str| -> Vec<String> {
        let list = pod["spec"][field].as_array().into_iter().flatten();
        list.filter_map(|container| container["name"].as_str().map(str::to_owned)).collect()
    };
    let (main, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    if asked.is_empty() {
        let annotated = pod["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str();
        return match (main.as_slice(), annotated) {
            ([only], _) => Ok(only.clone()),
            (_, Some(annotated)) if main.iter().any(|c| c == annotated) => Ok(annotated.to_owned()),
            _ => Err(ApiError::bad_request(format!(
                "a container name must be specified for pod {name}, choose one of: [{}]{}",
                main.join(" "),
                if init.is_empty() {
                    String::new()
                } else {
                    format!(" or one of the init containers: [{}]", init.join(" "))
                }
            ))),
        };
    }
    if main.iter().chain(&init).chain(&ephemeral).any(|container| container == asked) {
        Ok(asked.to_owned())
    } else {
        Err(ApiError::bad_request(format!("container {asked} is not valid for pod {name}")))
    }
}
