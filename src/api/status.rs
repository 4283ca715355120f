//! Every error of the API as a Kubernetes `Status` object.
//!
//! The constructors follow `k8s.io/apimachinery/pkg/api/errors`: clients test `reason` and `code`, people read `message`.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// A refusal, ready to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub code: StatusCode,
    pub reason: &'static str,
    pub message: String,
    /// The `details` object; `None` leaves the field out.
    pub details: Option<Value>,
}

/// One reason why an object is invalid, with the field it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub field: String,
    pub reason: &'static str,
    /// The message without the field, as `Status.details.causes[].message` has it.
    pub message: String,
}

/// Names the kind of the object that an error is about.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    pub group: &'a str,
    /// Plural resource name (`services`) for most errors, kind (`Service`) for Invalid.
    pub resource: &'a str,
    pub name: &'a str,
}

impl About<'_> {
    /// `services`, or `deployments.apps` outside the core group.
    fn qualified(&self) -> String {
        if self.group.is_empty() { self.resource.to_owned() } else { format!("{}.{}", self.resource, self.group) }
    }

    fn details(&self) -> Value {
        let mut details = serde_json::Map::new();
        for (key, value) in [("name", self.name), ("group", self.group), ("kind", self.resource)] {
            if !value.is_empty() {
                details.insert(key.into(), value.into());
            }
        }
        Value::Object(details)
    }
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: None }
    }

    fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// No such object.
    pub fn not_found(about: About<'_>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} {:?} not found", about.qualified(), about.name))
            .with(about.details())
    }

    /// No such resource: an unknown kind below a known group and version.
    pub fn no_such_resource() -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource").with(json!({}))
    }

    /// Something that is no object is not there.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", message)
    }

    pub fn already_exists(about: About<'_>) -> Self {
        let message = format!("{} {:?} already exists", about.qualified(), about.name);
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).with(about.details())
    }

    pub fn conflict(about: About<'_>, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {:?}: {why}", about.qualified(), about.name);
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(about.details())
    }

    /// Another writer was first.
    pub fn modified(about: About<'_>) -> Self {
        Self::conflict(
            about,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// Others own what a server-side apply changes: a cause per field.
    pub fn apply_conflict(message: String, causes: &[Cause]) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", message).with(json!({"causes": cause_list(causes)}))
    }

    pub fn forbidden(about: About<'_>, why: impl std::fmt::Display) -> Self {
        let message = format!("{} {:?} is forbidden: {why}", about.qualified(), about.name);
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message).with(about.details())
    }

    /// The object breaks rules: one cause per broken rule. `about.resource` is the kind here.
    pub fn invalid(about: About<'_>, causes: &[Cause]) -> Self {
        let lines: Vec<String> = causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        let text = match lines.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut details = about.details();
        details["causes"] = cause_list(causes);
        let message = format!("{} {:?} is invalid: {text}", about.qualified(), about.name);
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(details)
    }

    /// A patch that cannot be carried out on this object.
    pub fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message).with(json!({}))
    }

    pub fn method_not_allowed() -> Self {
        Self::method_not_allowed_because("the server does not allow this method on the requested resource")
    }

    pub fn method_not_allowed_because(message: &str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).with(json!({}))
    }

    pub fn not_acceptable(offered: &str) -> Self {
        let message = format!("only the following media types are accepted: {offered}");
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).with(json!({}))
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).with(json!({}))
    }

    pub fn too_large(limit: usize) -> Self {
        Self::entity_too_large(format!("limit is {limit}"))
    }

    pub fn entity_too_large(why: impl std::fmt::Display) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message).with(json!({}))
    }

    /// The asked-for revision is compacted away: the client lists again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The asked-for revision is not written yet.
    pub fn future_revision() -> Self {
        let message = "Too large resource version";
        let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
            .with(json!({"causes": [cause], "retryAfterSeconds": 1}))
    }

    /// The server gave up on the request after its time.
    pub fn timeout(message: &str) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {message}")).with(json!({}))
    }

    pub fn too_many_requests(message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).with(json!({"retryAfterSeconds": 1}))
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message)
    }

    pub fn internal(message: impl std::fmt::Display) -> Self {
        let cause = json!({"message": message.to_string()});
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", format!("Internal error occurred: {message}"))
            .with(json!({"causes": [cause]}))
    }

    /// The `Status` object, as a watch's ERROR event carries it.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code.as_u16(),
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status
    }
}

fn cause_list(causes: &[Cause]) -> Value {
    let causes = causes.iter();
    causes.map(|cause| json!({"reason": cause.reason, "message": cause.message, "field": cause.field})).collect()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        json_response(self.code, &self.to_value())
    }
}

pub(super) fn json_response(code: StatusCode, value: &Value) -> Response {
    bytes_response(code, value.to_string())
}

pub(super) fn bytes_response(code: StatusCode, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// The `Status` that says that a delete is done.
pub(super) fn deleted(about: About<'_>, uid: &str) -> Value {
    let mut details = about.details();
    details["uid"] = uid.into();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
