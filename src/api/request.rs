//! What a request asks for: the resource its path names, and its options.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, Method, header};
use serde_json::Value;

use super::Api;
use super::kinds::Strategy;
use super::negotiate::Form;
use super::protobuf;
use super::status::{About, ApiError};
use crate::store::{Key, Scope};

/// The largest body that is read: what the reference accepts.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// The object or collection that a path names.
pub(super) struct Target {
    pub kind: Arc<dyn Strategy>,
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

impl Target {
    fn parse(api: &Api, group: &str, version: &str, rest: &str) -> Result<Self, ApiError> {
        let segments: Vec<&str> = rest.trim_end_matches('/').split('/').collect();
        // `namespaces/x/status` and `namespaces/x/finalize` are about the Namespace; deeper paths are inside it.
        let inside =
            matches!(segments.as_slice(), ["namespaces", _, third, ..] if !["status", "finalize"].contains(third));
        let (namespace, tail) = if inside { (Some(segments[1]), &segments[2..]) } else { (None, &segments[..]) };
        let (plural, name, subresource) = match tail {
            [plural] => (*plural, None, None),
            [plural, name] => (*plural, Some(*name), None),
            [plural, name, subresource] => (*plural, Some(*name), Some(*subresource)),
            _ => return Err(ApiError::no_such_resource()),
        };
        let kind = api.registry().find(group, version, plural).ok_or_else(ApiError::no_such_resource)?;
        // A namespaced object has its namespace in the path, a cluster-scoped one never.
        if kind.info().namespaced != namespace.is_some() && (name.is_some() || namespace.is_some()) {
            return Err(ApiError::no_such_resource());
        }
        Ok(Self {
            kind: Arc::clone(kind),
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }

    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub fn key(&self) -> Key {
        self.key_of(self.name())
    }

    pub fn key_of(&self, name: &str) -> Key {
        Key::new(self.kind.info().resource().as_str(), self.namespace(), name)
    }

    pub fn scope(&self) -> Scope {
        let resource = self.kind.info().resource();
        match &self.namespace {
            Some(namespace) => Scope::namespace(resource.as_str(), namespace.as_str()),
            None => Scope::all(resource.as_str()),
        }
    }

    /// For errors that name the resource in the plural.
    pub fn about<'a>(&'a self, name: &'a str) -> About<'a> {
        let info = self.kind.info();
        About { group: info.group, resource: info.plural, name }
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.about(self.name()))
    }
}

/// Query parameters; of repeated ones the first counts.
pub(super) struct Params(HashMap<String, String>);

impl Params {
    fn parse(query: &str) -> Self {
        let mut params = HashMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            params.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        Self(params)
    }

    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map(String::as_str).unwrap_or_default()
    }

    pub fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), "true" | "1" | "True" | "TRUE" | "t")
    }

    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!("invalid value {text:?} of parameter {name}: expected a number"))
            }),
        }
    }

    /// `dryRun=All` is the only dry run there is.
    pub fn dry_run(&self, options_kind: &str) -> Result<bool, ApiError> {
        match self.get("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => {
                let mut causes = super::causes::Causes::default();
                causes.unsupported("dryRun", vec![Value::from(other)], &["All"]);
                let about = About { group: "meta.k8s.io", resource: options_kind, name: "" };
                Err(ApiError::invalid(about, &causes.0))
            }
        }
    }
}

/// A request with its body read.
pub(super) struct Call {
    pub method: Method,
    pub target: Target,
    pub params: Params,
    pub headers: HeaderMap,
    pub form: Form,
    pub body: Bytes,
}

impl Call {
    pub fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The body as an object: JSON, YAML or protobuf.
    pub fn object(&self) -> Result<Value, ApiError> {
        let media = self.content_type().split(';').next().unwrap_or_default().trim();
        let value: Value = match media {
            "" | "application/json" => serde_json::from_slice(&self.body)
                .map_err(|e| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?,
            "application/yaml" => {
                let text = std::str::from_utf8(&self.body)
                    .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?;
                serde_saphyr::from_str(text)
                    .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?
            }
            protobuf::MEDIA_TYPE => protobuf::decode(&self.body)?,
            other => {
                return Err(ApiError::unsupported_media_type(format!(
                    "the body of the request was in an unknown format - accepted media types include: \
                     application/json, application/yaml, {} (got {other:?})",
                    protobuf::MEDIA_TYPE
                )));
            }
        };
        if value.is_object() {
            Ok(value)
        } else {
            Err(ApiError::bad_request("couldn't get version/kind; json parse error: expected an object"))
        }
    }

    /// The body as an object of the target's kind; its type must be the one that the path names.
    pub fn typed_object(&self) -> Result<Value, ApiError> {
        let object = self.object()?;
        let info = self.target.kind.info();
        let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (field("apiVersion"), field("kind"));
        if kind.is_empty() {
            return Err(ApiError::bad_request(format!("Object 'Kind' is missing in '{}'", shortened(&self.body))));
        }
        if version.is_empty() {
            return Err(ApiError::bad_request(format!(
                "Object 'apiVersion' is missing in '{}'",
                shortened(&self.body)
            )));
        }
        if version != info.api_version() || kind != info.kind {
            return Err(ApiError::bad_request(format!(
                "the object in the body is a {kind} in version {version:?}, but {} in version {:?} is served here: \
                 converting ({version}.{kind}) to ({}.{}): unknown conversion",
                info.kind,
                info.api_version(),
                info.api_version(),
                info.kind
            )));
        }
        Ok(object)
    }
}

fn shortened(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

impl Api {
    pub(super) async fn resource(
        &self,
        group: &str,
        version: &str,
        rest: &str,
        request: Request,
    ) -> Result<Response, ApiError> {
        if !self.registry().serves(group, version) {
            use axum::response::IntoResponse;
            return Ok((http::StatusCode::NOT_FOUND, "404 page not found\n").into_response());
        }
        let target = Target::parse(self, group, version, rest)?;
        let (parts, body) = request.into_parts();
        let params = Params::parse(parts.uri.query().unwrap_or_default());
        let log = target.subresource.as_deref() == Some("log");
        let form = if log { Form::Json } else { Form::negotiate(&parts.headers)? };
        let body = axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|_| ApiError::too_large(BODY_LIMIT))?;
        let call = Call { method: parts.method, target, params, headers: parts.headers, form, body };
        if group == super::events::GROUP {
            return self.translated_event(call).await;
        }
        self.dispatch(call).await
    }

    pub(super) async fn dispatch(&self, call: Call) -> Result<Response, ApiError> {
        if call.target.subresource.is_some() {
            return self.subresource(call).await;
        }
        let on_object = call.target.name.is_some();
        match (call.method.as_str(), on_object) {
            ("GET", false) if call.params.flag("watch") => self.watch(&call),
            ("GET", false) => self.list(&call).await,
            ("POST", false) => self.create(&call).await,
            ("DELETE", false) => self.delete_collection(&call).await,
            ("GET", true) => self.get(&call),
            ("PUT", true) => self.replace(&call, super::kinds::Part::Main).await,
            ("PATCH", true) => self.patch(&call, super::kinds::Part::Main).await,
            ("DELETE", true) => self.delete(&call).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }
}
