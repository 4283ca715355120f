//! get, create, update and patch.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::causes::Causes;
use super::kinds::{Admitted, Info, Part};
use super::negotiate::Form;
use super::object::{self, meta, meta_mut, meta_str};
use super::patch::{self, PatchType};
use super::request::{Call, Target};
use super::status::{About, ApiError, bytes_response, json_response};
use super::table::{self, IncludeObject};
use super::{Api, names};
use crate::store::{CommitError, Entry, Key, Op};

/// How often a write without a resourceVersion is tried again when others write at the same time.
const ATTEMPTS: usize = 32;

impl Api {
    pub(super) fn get(&self, call: &Call) -> Result<Response, ApiError> {
        let entry = self.store().get(&call.target.key()).ok_or_else(|| call.target.not_found())?;
        self.entry_response(call, StatusCode::OK, &entry)
    }

    /// One object in the negotiated form.
    pub(super) fn entry_response(&self, call: &Call, code: StatusCode, entry: &Entry) -> Result<Response, ApiError> {
        Ok(match call.form {
            Form::Json => bytes_response(code, entry.value.clone()),
            Form::Partial => json_response(code, &table::partial(&entry.value)),
            Form::Table => {
                let include = IncludeObject::parse(call.params.get("includeObject"))
                    .ok_or_else(|| ApiError::bad_request("includeObject must be None, Metadata or Object"))?;
                let row = table::row(&*call.target.kind, entry, include, Timestamp::now());
                let metadata = serde_json::json!({"resourceVersion": entry.revision.to_string()});
                json_response(code, &table::table(call.target.kind.info(), metadata, vec![row], true))
            }
        })
    }

    pub(super) async fn create(&self, call: &Call) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("CreateOptions")?;
        let object = call.typed_object()?;
        let warnings = self.check_fields(call, &object)?;
        let response = self.create_object(call, object, dry_run).await?;
        Ok(with_warnings(response, warnings))
    }

    async fn create_object(&self, call: &Call, mut object: Value, dry_run: bool) -> Result<Response, ApiError> {
        let (target, info) = (&call.target, call.target.kind.info());
        if !meta_str(&object, "resourceVersion").is_empty() && call.method == http::Method::POST {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        check_namespace(target, &object)?;
        self.require_namespace(target, &object)?;
        if meta_str(&object, "name").is_empty() {
            let base = meta_str(&object, "generateName").to_owned();
            if !base.is_empty() {
                meta_mut(&mut object).insert("name".into(), names::generate(&base).into());
            }
        }
        let mut causes = Causes::default();
        check_metadata(info, &object, &mut causes);
        let metadata = meta_mut(&mut object);
        for field in [
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "selfLink",
            "generation",
            "managedFields",
        ] {
            metadata.remove(field);
        }
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), object::now_text().into());
        if info.generation {
            metadata.insert("generation".into(), 1.into());
        }
        if let Some(namespace) = &target.namespace {
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
        let name = meta_str(&object, "name").to_owned();
        let key = target.key_of(&name);
        if let Some(existing) = self.store().get(&key) {
            return Err(already_exists(target, &existing, &name));
        }
        let Admitted { value, reservation } = target.kind.create(&self.inner.ctx, object, causes)?;
        if dry_run {
            return Ok(bytes_response(StatusCode::CREATED, object::with_type_first(info, value)));
        }
        let encode = object::encode(info, value);
        let entry = self.store().commit(key, Op::Create { encode }).await.map_err(|e| match e {
            CommitError::Exists(existing) => already_exists(target, &existing, &name),
            other => commit_failed(target, &name, &other),
        })?;
        reservation.commit();
        self.entry_response(call, StatusCode::CREATED, &entry)
    }

    /// Objects are made only in namespaces that exist and are not being deleted.
    fn require_namespace(&self, target: &Target, object: &Value) -> Result<(), ApiError> {
        let Some(namespace) = &target.namespace else { return Ok(()) };
        let Some(entry) = self.store().get(&Key::new("namespaces", "", namespace.as_str())) else {
            return Err(ApiError::not_found(About { group: "", resource: "namespaces", name: namespace }));
        };
        let found: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        if object::is_deleting(&found) {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(target.about(meta_str(object, "name")), why);
            let cause = serde_json::json!([{"reason": "NamespaceTerminating",
                "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
            if let Some(details) = &mut error.details {
                details["causes"] = cause;
            }
            return Err(error);
        }
        Ok(())
    }

    /// Unknown fields: refused with `fieldValidation=Strict`, warned about with `Warn` (the default), else ignored.
    fn check_fields(&self, call: &Call, object: &Value) -> Result<Vec<String>, ApiError> {
        let mode = call.params.get("fieldValidation");
        if mode == "Ignore" {
            return Ok(Vec::new());
        }
        let info = call.target.kind.info();
        let unknown: Vec<String> = call
            .target
            .kind
            .unknown_fields(object)?
            .into_iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect();
        match mode {
            "" | "Warn" => Ok(unknown),
            "Strict" if unknown.is_empty() => Ok(unknown),
            "Strict" => Err(ApiError::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                info.kind,
                info.version,
                info.kind,
                unknown.join(", ")
            ))),
            other => {
                Err(ApiError::bad_request(format!("fieldValidation must be Ignore, Warn or Strict, not {other:?}")))
            }
        }
    }

    pub(super) async fn replace(&self, call: &Call, part: Part) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("UpdateOptions")?;
        let target = &call.target;
        let mut object = call.typed_object()?;
        let warnings = self.check_fields(call, &object)?;
        let name = meta_str(&object, "name");
        if name.is_empty() {
            meta_mut(&mut object).insert("name".into(), target.name().into());
        } else if name != target.name() {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name()
            )));
        }
        check_namespace(target, &object)?;
        if part == Part::Main && target.kind.info().create_on_update && self.store().get(&target.key()).is_none() {
            return Ok(with_warnings(self.create_object(call, object, dry_run).await?, warnings));
        }
        let response = self.modify(call, part, dry_run, |_| Ok(object.clone())).await?;
        Ok(with_warnings(response, warnings))
    }

    pub(super) async fn patch(&self, call: &Call, part: Part) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("PatchOptions")?;
        let kind = PatchType::of(call.content_type())?;
        let info = call.target.kind.info();
        self.modify(call, part, dry_run, |current| patch::apply(kind, info, current, &call.body)).await
    }

    /// Reads, changes and writes an object, again and again until nobody was faster.
    async fn modify(
        &self,
        call: &Call,
        part: Part,
        dry_run: bool,
        change: impl Fn(&Value) -> Result<Value, ApiError>,
    ) -> Result<Response, ApiError> {
        let (target, info) = (&call.target, call.target.kind.info());
        for _ in 0..ATTEMPTS {
            let entry = self.store().get(&target.key()).ok_or_else(|| target.not_found())?;
            let old: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            let new = change(&old)?;
            let asked = meta_str(&new, "resourceVersion");
            let conditional = !asked.is_empty() && asked != meta_str(&old, "resourceVersion");
            if conditional {
                return Err(ApiError::modified(target.about(target.name())));
            }
            let Admitted { value, reservation } = self.admit_change(target, part, new, &old)?;
            if same_but_type(&value, &old) {
                return self.entry_response(call, StatusCode::OK, &entry);
            }
            if dry_run {
                return Ok(bytes_response(StatusCode::OK, object::with_type_first(info, value)));
            }
            let finished = object::is_deleting(&value) && !super::delete::is_held(info, &value);
            let expect = entry.revision;
            let encode = object::encode(info, value.clone());
            let op = if finished { Op::Delete { expect, encode } } else { Op::Update { expect, encode } };
            match self.store().commit(target.key(), op).await {
                Ok(entry) => {
                    reservation.commit();
                    if finished {
                        target.kind.release(&self.inner.ctx, value);
                    }
                    return self.entry_response(call, StatusCode::OK, &entry);
                }
                Err(CommitError::Conflict(_)) if call.method == http::Method::PUT && !asked_nothing(call) => {
                    return Err(ApiError::modified(target.about(target.name())));
                }
                Err(CommitError::Conflict(_)) => {}
                Err(e) => return Err(commit_failed(target, target.name(), &e)),
            }
        }
        Err(ApiError::modified(target.about(target.name())))
    }

    /// Applies the rules that all kinds share, then the kind's own.
    fn admit_change(&self, target: &Target, part: Part, mut new: Value, old: &Value) -> Result<Admitted, ApiError> {
        let info = target.kind.info();
        let uid = meta_str(&new, "uid");
        if !uid.is_empty() && uid != meta_str(old, "uid") {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta_str(old, "uid")
            );
            return Err(ApiError::conflict(target.about(target.name()), why));
        }
        match part {
            Part::Status => {
                // A status write is about the status: of the metadata only annotations may come along.
                let (status, annotations) = (new["status"].take(), meta(&new, "annotations").cloned());
                new = old.clone();
                new["status"] = status;
                if let Some(annotations) = annotations {
                    meta_mut(&mut new).insert("annotations".into(), annotations);
                }
            }
            Part::Main | Part::EphemeralContainers | Part::Resize if info.status => {
                new["status"] = old["status"].clone();
            }
            _ => {}
        }
        let mut causes = Causes::default();
        check_metadata(info, &new, &mut causes);
        if meta_str(&new, "name") != meta_str(old, "name") {
            causes.invalid("metadata.name", meta_str(&new, "name"), "field is immutable");
        }
        check_finalizers(&new, old, &mut causes);
        let metadata = meta_mut(&mut new);
        for field in [
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "namespace",
            "generation",
            "resourceVersion",
            "generateName",
        ] {
            match meta(old, field) {
                Some(value) => metadata.insert(field.into(), value.clone()),
                None => metadata.remove(field),
            };
        }
        metadata.remove("selfLink");
        metadata.remove("managedFields");
        let mut admitted = target.kind.update(&self.inner.ctx, new, old.clone(), part, causes)?;
        if info.generation && !same_desire(&admitted.value, old) {
            let next = meta(old, "generation").and_then(Value::as_i64).unwrap_or(0) + 1;
            meta_mut(&mut admitted.value).insert("generation".into(), next.into());
        }
        Ok(admitted)
    }
}

/// Whether a PUT body leaves the resourceVersion out, so that it replaces whatever is there.
fn asked_nothing(call: &Call) -> bool {
    call.object().is_ok_and(|object| meta_str(&object, "resourceVersion").is_empty())
}

/// Whether two objects are equal, apart from the type fields that typed objects leave to the encoder.
fn same_but_type(a: &Value, b: &Value) -> bool {
    same_fields(a, b, &["apiVersion", "kind"])
}

/// Whether nothing but metadata and status differs: `generation` counts the rest.
fn same_desire(a: &Value, b: &Value) -> bool {
    same_fields(a, b, &["apiVersion", "kind", "metadata", "status"])
}

fn same_fields(a: &Value, b: &Value, except: &[&str]) -> bool {
    let fields = |value: &Value| -> Vec<(String, Value)> {
        let fields = value.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !except.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    fields(a) == fields(b)
}

fn check_namespace(target: &Target, object: &Value) -> Result<(), ApiError> {
    let namespace = meta_str(object, "namespace");
    if namespace.is_empty() || namespace == target.namespace() {
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

fn check_metadata(info: &Info, object: &Value, causes: &mut Causes) {
    let name = meta_str(object, "name");
    if name.is_empty() {
        causes.required("metadata.name", "name or generateName is required");
    } else {
        info.name_rule.errors(name).into_iter().for_each(|e| causes.invalid("metadata.name", name, e));
    }
    let strings = |field: &str| -> std::collections::BTreeMap<String, String> {
        let map = meta(object, field).and_then(Value::as_object).cloned().unwrap_or_default();
        map.into_iter().filter_map(|(k, v)| v.as_str().map(|v| (k, v.to_owned()))).collect()
    };
    names::check_labels(causes, "metadata.labels", &strings("labels"));
    let annotations = strings("annotations");
    for key in annotations.keys() {
        let lower = key.to_lowercase();
        names::qualified_name_errors(&lower)
            .into_iter()
            .for_each(|e| causes.invalid("metadata.annotations", key.as_str(), e));
    }
    const ANNOTATION_LIMIT: usize = 256 * 1024;
    if annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > ANNOTATION_LIMIT {
        let message = format!("Too long: may not be more than {ANNOTATION_LIMIT} bytes");
        causes.0.push(super::status::Cause {
            field: "metadata.annotations".into(),
            reason: "FieldValueTooLong",
            message,
        });
    }
    for (i, owner) in meta(object, "ownerReferences").and_then(Value::as_array).into_iter().flatten().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
                causes.invalid(
                    format!("metadata.ownerReferences[{i}].{field}"),
                    "",
                    format!("{field} must not be empty"),
                );
            }
        }
    }
}

/// While an object is being deleted its finalizers may only go.
fn check_finalizers(new: &Value, old: &Value, causes: &mut Causes) {
    if !object::is_deleting(old) {
        return;
    }
    let before = object::finalizers(old);
    let added: Vec<String> = object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
    if !added.is_empty() {
        let detail =
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}");
        causes.forbidden("metadata.finalizers", detail);
    }
}

fn already_exists(target: &Target, existing: &Entry, name: &str) -> ApiError {
    let deleting = serde_json::from_slice(&existing.value).is_ok_and(|object: Value| object::is_deleting(&object));
    let mut error = ApiError::already_exists(target.about(name));
    if deleting {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

pub(super) fn commit_failed(target: &Target, name: &str, error: &CommitError) -> ApiError {
    match error {
        CommitError::NotFound => ApiError::not_found(target.about(name)),
        CommitError::Exists(existing) => already_exists(target, existing, name),
        CommitError::Conflict(_) => ApiError::modified(target.about(name)),
        CommitError::Unavailable(why) => {
            tracing::error!(key = %target.key_of(name), error = %why, "write failed");
            ApiError::service_unavailable("the write could not be stored: see the log of vipyard, then try again")
        }
    }
}

/// Adds `Warning` headers (RFC 7234, code 299), which kubectl prints.
fn with_warnings(mut response: Response, warnings: Vec<String>) -> Response {
    for warning in warnings {
        let text = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = http::HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            response.headers_mut().append(http::header::WARNING, value);
        }
    }
    response
}
