//! What a request asks for: the resource its path names, and its options.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::str::FromStr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{HeaderMap, Method, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Api;
use super::auth::Identity;
use super::compression;
use super::duplicates::duplicate_fields;
use super::kinds::{Info, Strategy};
use super::negotiate::Form;
use super::patch;
use super::protobuf;
use super::schema;
use super::status::{About, ApiError};
use super::table::IncludeObject;
use super::warnings::Warnings;
use crate::store::{Key, Scope};

const JSON: &str = "application/json";

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
            kind,
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

    /// An object that is sent to a URL has the name in it.
    pub fn check_name(&self, name: &str) -> Result<(), ApiError> {
        if name == self.name() {
            return Ok(());
        }
        let in_url = self.name();
        Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({in_url})"
        )))
    }

    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.about(self.name()))
    }
}

/// Query parameters; of repeated ones the first counts.
pub(super) struct Params(HashMap<String, String>);

impl Params {
    pub fn parse(query: &str) -> Self {
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
        // Whatever is no clear no is a yes, also a parameter without a value (`?watch`).
        self.0.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    pub fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
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

/// Among the extensions of a request: its sender is a part of this process. It never asks who owns which field, so that
/// watches leave that out, which would be half of what they have to decode; and they tell it after the clients.
#[derive(Clone, Copy)]
pub(super) struct Lean;

/// A request with its body read.
pub(super) struct Call {
    pub method: Method,
    pub target: Target,
    pub params: Params,
    pub headers: HeaderMap,
    pub identity: Option<Identity>,
    pub lean: bool,
    pub form: Form,
    pub body: Bytes,
    pub warnings: Warnings,
}

/// What `fieldValidation` may say, in the order in which a refusal lists it.
const FIELD_VALIDATION: [&str; 4] = ["", "Ignore", "Strict", "Warn"];

/// The longest name of a field manager.
const MANAGER_LIMIT: usize = 128;

impl Call {
    pub fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Whose fields a write's are: the `fieldManager` parameter, else the program that asks, else the user.
    pub fn manager(&self) -> String {
        let parameter = self.params.get("fieldManager");
        let agent = || self.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let program = || agent().split('/').next().filter(|program| !program.is_empty());
        let user = || self.identity.as_ref().map(|identity| identity.user.trim_start_matches("system:"));
        let given = Some(parameter).filter(|name| !name.is_empty());
        let name = given.or_else(program).or_else(user).unwrap_or("unknown");
        name.chars().take(MANAGER_LIMIT).collect()
    }

    /// Checks the `fieldManager` and `fieldValidation` parameters of a write whose options are of the given kind.
    pub fn check_manager(&self, options_kind: &str, required: bool) -> Result<(), ApiError> {
        let name = self.params.get("fieldManager");
        let mut causes = super::causes::Causes::default();
        if name.is_empty() && required {
            causes.required("fieldManager", "is required for apply patch");
        }
        if name.len() > MANAGER_LIMIT {
            causes.too_long("fieldManager", MANAGER_LIMIT);
        }
        if name.chars().any(char::is_control) {
            causes.invalid("fieldManager", name, "should only contain printable characters");
        }
        let validation = self.params.get("fieldValidation");
        if !FIELD_VALIDATION.contains(&validation) {
            causes.unsupported("fieldValidation", validation, &FIELD_VALIDATION);
        }
        if causes.is_empty() {
            return Ok(());
        }
        let about = About { group: "meta.k8s.io", resource: options_kind, name: "" };
        Err(ApiError::invalid(about, &causes.0))
    }

    /// The body as an object: JSON, YAML or protobuf.
    pub fn object(&self) -> Result<Value, ApiError> {
        parse_object(self.content_type(), &self.body)
    }

    /// The body as an object of the target's kind. A type that it leaves out is the one that the path names, as in the
    /// reference's decoder; another type is refused.
    pub fn typed_object(&self) -> Result<Value, ApiError> {
        let mut object = self.object()?;
        let info = self.target.kind.info();
        default_type(&mut object, &info.api_version(), info.kind);
        expect_type(&object, &info.api_version(), info.kind)?;
        if object.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
            return Err(self.undecodable("metadata: cannot unmarshal: invalid type: expected an object"));
        }
        self.check_duplicates(&object)?;
        Ok(object)
    }

    /// Fields that the body has twice: refused with `fieldValidation=Strict`, warned about with `Warn` (the default).
    fn check_duplicates(&self, object: &Value) -> Result<(), ApiError> {
        let mut found = self.duplicates();
        if self.params.get("fieldValidation") != "Strict" || found.is_empty() {
            found.into_iter().for_each(|text| self.warnings.add(text));
            return Ok(());
        }
        // One refusal tells of everything.
        let unknown = schema::unknown_fields(self.target.kind.schema().root(), object);
        found.extend(unknown.into_iter().map(|path| format!("unknown field {path:?}")));
        Err(self.undecodable(&format!("strict decoding error: {}", found.join(", "))))
    }

    /// What there is to say of fields that the body has twice; nothing with `fieldValidation=Ignore`, and of bodies that are
    /// no JSON.
    pub fn duplicates(&self) -> Vec<String> {
        let media = patch::media_type(self.content_type());
        if self.params.get("fieldValidation") == "Ignore" || !(media.is_empty() || media.ends_with("json")) {
            return Vec::new();
        }
        duplicate_fields(&self.body).into_iter().map(|path| format!("duplicate field {path:?}")).collect()
    }

    fn undecodable(&self, why: &str) -> ApiError {
        let Info { kind, version, .. } = self.target.kind.info();
        ApiError::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    }
}

fn parse_object(content_type: &str, body: &[u8]) -> Result<Value, ApiError> {
    let value: Value = match patch::media_type(content_type) {
        "" | JSON => serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?,
        "application/yaml" | patch::APPLY => {
            let text = std::str::from_utf8(body)
                .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?;
            serde_saphyr::from_str(text)
                .map_err(|e| ApiError::bad_request(format!("error converting YAML to JSON: yaml: {e}")))?
        }
        protobuf::MEDIA_TYPE => protobuf::decode(body)?,
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

/// Gives an object that leaves its type out the type that its path names.
fn default_type(object: &mut Value, api_version: &str, kind: &str) {
    for (field, default) in [("apiVersion", api_version), ("kind", kind)] {
        if object.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
            object[field] = default.into();
        }
    }
}

/// Refuses an object of another type than `kind` in `api_version`.
fn expect_type(object: &Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    let field = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (found_version, found_kind) = (field("apiVersion"), field("kind"));
    if found_version != api_version || found_kind != kind {
        return Err(ApiError::bad_request(format!(
            "the object in the body is a {found_kind} in version {found_version:?}, but {kind} in version \
             {api_version:?} is served here: converting ({found_version}.{found_kind}) to ({api_version}.{kind}): \
             unknown conversion"
        )));
    }
    Ok(())
}

/// A body as an object of a type that is not among the stored kinds.
pub(super) fn decode_object<T: DeserializeOwned>(
    content_type: &str,
    body: &[u8],
    api_version: &str,
    kind: &str,
) -> Result<T, ApiError> {
    let mut object = parse_object(content_type, body)?;
    default_type(&mut object, api_version, kind);
    expect_type(&object, api_version, kind)?;
    serde_path_to_error::deserialize(object).map_err(|e| {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        ApiError::bad_request(format!(
            "{kind} in version {version:?} cannot be handled as a {kind}: {}: {}",
            e.path(),
            e.inner()
        ))
    })
}

impl Api {
    pub(super) async fn resource(
        &self,
        group: &str,
        version: &str,
        rest: &str,
        request: Request,
    ) -> Result<Response, ApiError> {
        let request = match self.connect(group, version, rest, request).await {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        // The whole body first, also of what is refused: a client that is still sending does not see the answer.
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, BODY_LIMIT).await.map_err(|_| ApiError::too_large(BODY_LIMIT))?;
        if !self.registry().serves(group, version) {
            return self.review(group, version, rest, &parts, &body);
        }
        let target = Target::parse(self, group, version, rest)?;
        let params = Params::parse(parts.uri.query().unwrap_or_default());
        let log = target.subresource.as_deref() == Some("log");
        let form = if log { Form::Json } else { Form::negotiate(&parts.headers)? };
        // Before anything is written, as the answer cannot be made without.
        if form == Form::Table {
            IncludeObject::of(&params)?;
        }
        let identity = parts.extensions.get::<Identity>().cloned();
        let lean = parts.extensions.get::<Lean>().is_some();
        let accepted = parts.headers.get(header::ACCEPT_ENCODING).cloned();
        let (method, headers, reads) = (parts.method.clone(), parts.headers, parts.method == Method::GET);
        let compressible = reads && !params.flag("watch") && target.subresource.is_none();
        let warnings = Warnings::default();
        if let Some(text) = target.kind.info().deprecation {
            warnings.add(text);
        }
        let call = Call { method, target, params, headers, identity, lean, form, body, warnings: warnings.clone() };
        let is_event = group == super::events::GROUP;
        let api = self.clone();
        let answer = async move { if is_event { api.translated_event(call).await } else { api.dispatch(call).await } };
        // A write gets a task of its own: once begun it is brought to its end, also when the client goes away, so that
        // what belongs to it (addresses, the kinds that a definition brings) is done, too.
        let answer =
            if reads { AssertUnwindSafe(answer).catch_unwind().await.ok() } else { tokio::spawn(answer).await.ok() };
        let answer = answer.unwrap_or_else(|| {
            // A mistake of ours in one request must not look like a broken connection: the panic hook has logged it.
            let message = "This request caused apiserver to panic. Look in the logs for details.\n";
            Ok((http::StatusCode::INTERNAL_SERVER_ERROR, message).into_response())
        });
        // Warnings come with a refusal, too.
        let mut answer = answer.unwrap_or_else(IntoResponse::into_response);
        warnings.write_to(answer.headers_mut());
        Ok(if compressible { compression::negotiated(accepted.as_ref(), answer).await } else { answer })
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
