//! get, create, update and patch.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::causes::Causes;
use super::kinds::{Admitted, Info, Part};
use super::managed::{self, Managers, Writer};
use super::metadata::{check_finalizers, check_metadata};
use super::negotiate::Form;
use super::object::{self, meta, meta_mut, meta_str};
use super::patch::{self, Patch};
use super::request::{Call, Target};
use super::status::{About, ApiError, bytes_response, json_response};
use super::table::{self, IncludeObject};
use super::{Api, names, schema};
use crate::store::{CommitError, Entry, Key, Op};

/// What a write makes of an object.
struct Change {
    object: Value,
    /// Who owns what afterwards, where the change says so; else whoever writes owns what it changes.
    managers: Option<Managers>,
}

impl Change {
    fn of(object: Value) -> Self {
        Self { object, managers: None }
    }
}

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
            Form::Json => bytes_response(code, object::in_version(call.target.kind.info(), &entry.value)),
            Form::Partial => bytes_response(code, table::partial(&entry.value)),
            Form::Table => {
                let include = IncludeObject::of(&call.params)?;
                let row = table::row(&*call.target.kind, entry, include, Timestamp::now());
                let metadata = serde_json::json!({"resourceVersion": entry.revision.to_string()});
                json_response(code, &table::table(call.target.kind.info(), metadata, vec![row], true))
            }
        })
    }

    pub(super) async fn create(&self, call: &Call) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("CreateOptions")?;
        call.check_manager("CreateOptions", false)?;
        let object = call.typed_object()?;
        self.check_fields(call, &object)?;
        self.create_object(call, Change::of(object), dry_run).await
    }

    async fn create_object(&self, call: &Call, change: Change, dry_run: bool) -> Result<Response, ApiError> {
        let (target, info) = (&call.target, call.target.kind.info());
        let Change { mut object, managers } = change;
        if !meta_str(&object, "resourceVersion").is_empty() && call.method == http::Method::POST {
            return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
        }
        check_namespace(target, &object)?;
        self.require_namespace(target, &object)?;
        if meta_str(&object, "name").is_empty() {
            let base = meta_str(&object, "generateName").to_owned();
            if !base.is_empty() {
                let name = names::generate(&base, |name| self.store().get(&target.key_of(name)).is_none());
                meta_mut(&mut object).insert("name".into(), name.into());
            }
        }
        let mut causes = Causes::default();
        check_metadata(info, &object, &mut causes);
        let now = object::now_text();
        let metadata = meta_mut(&mut object);
        for field in ["resourceVersion", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
            metadata.remove(field);
        }
        let sent = metadata.remove("managedFields");
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), now.as_str().into());
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
        target.kind.warnings(&object, None).into_iter().for_each(|text| call.warnings.add(text));
        let Admitted { mut value, declared, reservation } = target.kind.create(&self.inner.ctx, object, causes)?;
        let managers = managers.unwrap_or_else(|| {
            let owned = declared.as_ref().unwrap_or(&value);
            owners(call, &Value::Null, owned, sent.as_ref(), &now)
        });
        managers.write_to(&mut value);
        if dry_run {
            return Ok(bytes_response(StatusCode::CREATED, object::with_type_first(info, value)));
        }
        let along = self.address_writes(info, &Value::Null, &value);
        let encode = object::encode(info, value)?;
        let entry = self.store().commit_with(along, key, Op::Create { encode }).await.map_err(|e| match e {
            CommitError::Exists(existing) => already_exists(target, &existing, &name),
            other => commit_failed(target, &name, &other),
        })?;
        reservation.commit();
        self.committed(info);
        self.entry_response(call, StatusCode::CREATED, &entry)
    }

    /// What a write has to bring about before it is answered.
    pub(super) fn committed(&self, info: &Info) {
        if info.defines_kinds {
            self.refresh_custom_kinds();
        }
    }

    /// Objects are made only in namespaces that exist and are not being deleted.
    fn require_namespace(&self, target: &Target, object: &Value) -> Result<(), ApiError> {
        let Some(namespace) = &target.namespace else { return Ok(()) };
        let Some(entry) = self.store().get(&Key::new("namespaces", "", namespace.as_str())) else {
            return Err(ApiError::not_found(About { group: "", resource: "namespaces", name: namespace }));
        };
        if object::is_stored_deleting(&entry.value) {
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
    fn check_fields(&self, call: &Call, object: &Value) -> Result<(), ApiError> {
        let mode = FieldValidation::of(call)?;
        if mode == FieldValidation::Ignore {
            return Ok(());
        }
        let unknown = unknown_fields(call, object);
        if mode == FieldValidation::Warn || unknown.is_empty() {
            unknown.into_iter().for_each(|text| call.warnings.add(text));
            return Ok(());
        }
        let info = call.target.kind.info();
        Err(ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
            info.kind,
            info.version,
            info.kind,
            unknown.join(", ")
        )))
    }

    /// The same for what a patch makes of an object; what was unknown before is not the patch's doing.
    fn check_patched(&self, call: &Call, old: &Value, new: &Value) -> Result<(), ApiError> {
        let mode = FieldValidation::of(call)?;
        if mode == FieldValidation::Ignore {
            return Ok(());
        }
        let before = unknown_fields(call, old);
        let unknown: Vec<String> =
            unknown_fields(call, new).into_iter().filter(|path| !before.contains(path)).collect();
        if mode == FieldValidation::Warn || unknown.is_empty() {
            unknown.into_iter().for_each(|text| call.warnings.add(text));
            return Ok(());
        }
        Err(invalid_patch(&call.body, &format!("strict decoding error: {}", unknown.join(", "))))
    }

    pub(super) async fn replace(&self, call: &Call, part: Part) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("UpdateOptions")?;
        call.check_manager("UpdateOptions", false)?;
        let target = &call.target;
        let mut object = call.typed_object()?;
        self.check_fields(call, &object)?;
        let name = meta_str(&object, "name");
        if name.is_empty() {
            meta_mut(&mut object).insert("name".into(), target.name().into());
        } else {
            target.check_name(name)?;
        }
        check_namespace(target, &object)?;
        if part == Part::Main && target.kind.info().create_on_update && self.store().get(&target.key()).is_none() {
            return self.create_object(call, Change::of(object), dry_run).await;
        }
        let change = |_: &Value| Ok(Change::of(object.clone()));
        self.modify(call, part, dry_run, change).await
    }

    pub(super) async fn patch(&self, call: &Call, part: Part) -> Result<Response, ApiError> {
        if patch::media_type(call.content_type()) == patch::APPLY {
            return self.apply(call, part).await;
        }
        let dry_run = call.params.dry_run("PatchOptions")?;
        call.check_manager("PatchOptions", false)?;
        let patch = Patch::parse(call.content_type(), &call.body)?;
        if call.target.kind.info().custom && matches!(patch, Patch::Strategic(_)) {
            // Only built-in types say how their lists merge in this way.
            return Err(ApiError::unsupported_media_type("415: Unsupported Media Type"));
        }
        let twice = call.duplicates();
        if call.params.get("fieldValidation") == "Strict" && !twice.is_empty() {
            return Err(invalid_patch(&call.body, &format!("strict decoding error: {}", twice.join(", "))));
        }
        twice.into_iter().for_each(|text| call.warnings.add(text));
        let schema = call.target.kind.schema();
        let change = |current: &Value| {
            let object = patch.apply(schema, current).map_err(|e| of_patch(call, e))?;
            check_result(call, &object)?;
            self.check_patched(call, current, &object)?;
            Ok(Change::of(object))
        };
        self.modify(call, part, dry_run, change).await
    }

    /// Server-side apply: makes the object, or merges into it what the applier wants to own.
    async fn apply(&self, call: &Call, part: Part) -> Result<Response, ApiError> {
        let dry_run = call.params.dry_run("PatchOptions")?;
        call.check_manager("PatchOptions", true)?;
        let (target, force) = (&call.target, call.params.flag("force"));
        let mut config = call.typed_object()?;
        if meta(&config, "managedFields").is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        check_namespace(target, &config)?;
        let name = meta_str(&config, "name").to_owned();
        if !name.is_empty() {
            target.check_name(&name)?;
        }
        meta_mut(&mut config).insert("name".into(), target.name().into());
        let schema = target.kind.schema();
        let (manager, now) = (call.manager(), object::now_text());
        let api_version = target.kind.info().api_version();
        let writer = writer(call, &manager, &api_version, &now);
        if call.target.subresource.is_none() && self.store().get(&target.key()).is_none() {
            for (field, what) in [("uid", "uid mismatch"), ("resourceVersion", "resourceVersion mismatch")] {
                let asked = meta_str(&config, field);
                if !asked.is_empty() {
                    let why = format!(
                        "{what}: the provided object specified {field} {asked}, and no existing object was found"
                    );
                    return Err(ApiError::conflict(target.about(target.name()), why));
                }
            }
            let applied = managed::apply(schema, &Value::Null, &config, &writer, force)?;
            let change = Change { object: applied.object, managers: Some(applied.managers) };
            match self.create_object(call, change, dry_run).await {
                Err(e) if e.reason == "AlreadyExists" => {}
                done => return done,
            }
        }
        let change = |current: &Value| {
            let applied = managed::apply(schema, current, &config, &writer, force)?;
            Ok(Change { object: applied.object, managers: Some(applied.managers) })
        };
        self.modify(call, part, dry_run, change).await
    }

    /// Reads, changes and writes an object, again and again until nobody was faster.
    async fn modify(
        &self,
        call: &Call,
        part: Part,
        dry_run: bool,
        change: impl Fn(&Value) -> Result<Change, ApiError>,
    ) -> Result<Response, ApiError> {
        let (target, info) = (&call.target, call.target.kind.info());
        for _ in 0..ATTEMPTS {
            let entry = self.store().get(&target.key()).ok_or_else(|| target.not_found())?;
            let old: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            let Change { object: mut new, managers } = change(&old)?;
            // "0" stands for any version, as nothing does.
            let asked = Some(meta_str(&new, "resourceVersion")).filter(|asked| !asked.is_empty() && *asked != "0");
            if asked.is_none() && info.conditional_update && call.method == http::Method::PUT {
                let mut causes = Causes::default();
                causes.must_name_version();
                let about = About { group: info.group, resource: info.plural, name: target.name() };
                return Err(ApiError::invalid(about, &causes.0));
            }
            let conditional = asked.is_some_and(|asked| asked != meta_str(&old, "resourceVersion"));
            if conditional {
                return Err(ApiError::modified(target.about(target.name())));
            }
            let sent = meta_mut(&mut new).remove("managedFields");
            if part == Part::Main {
                target.kind.warnings(&new, Some(&old)).into_iter().for_each(|text| call.warnings.add(text));
            }
            let patched = call.method == http::Method::PATCH && managers.is_none();
            let admitted = self.admit_change(target, part, new, &old);
            let Admitted { mut value, declared, reservation } =
                admitted.map_err(|e| if patched { of_patch(call, e) } else { e })?;
            let managers = managers.unwrap_or_else(|| {
                let owned = declared.as_ref().unwrap_or(&value);
                owners(call, &old, owned, sent.as_ref(), &object::now_text())
            });
            managers.write_to(&mut value);
            if same_but_type(&value, &old) {
                return self.entry_response(call, StatusCode::OK, &entry);
            }
            if dry_run {
                return Ok(bytes_response(StatusCode::OK, object::with_type_first(info, value)));
            }
            let finished = object::is_deleting(&value) && !super::delete::is_held(info, &value);
            let expect = entry.revision;
            let along = self.address_writes(info, &old, if finished { &Value::Null } else { &value });
            let last = finished.then(|| value.clone());
            let encode = object::encode(info, value)?;
            let op = if finished { Op::Delete { expect, encode } } else { Op::Update { expect, encode } };
            match self.store().commit_with(along, target.key(), op).await {
                Ok(entry) => {
                    reservation.commit();
                    self.committed(info);
                    if let Some(last) = last {
                        target.kind.release(&self.inner.ctx, last);
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
                // A status write is about the status, and about the metadata as far as the kind lets it.
                let (status, metadata) = (new["status"].take(), new["metadata"].take());
                new = old.clone();
                new["status"] = status;
                new["metadata"] = metadata;
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
        let mut admitted = target.kind.update(&self.inner.ctx, new, old.clone(), part, causes)?;
        if info.generation && !same_desire(info, &admitted.value, old) {
            let next = meta(old, "generation").and_then(Value::as_i64).unwrap_or(0) + 1;
            meta_mut(&mut admitted.value).insert("generation".into(), next.into());
        }
        Ok(admitted)
    }
}

/// Whether a PUT body leaves the resourceVersion out, so that it replaces whatever is there.
fn asked_nothing(call: &Call) -> bool {
    call.object().is_ok_and(|object| matches!(meta_str(&object, "resourceVersion"), "" | "0"))
}

/// Whether two objects are equal, apart from the type fields that typed objects leave to the encoder.
fn same_but_type(a: &Value, b: &Value) -> bool {
    same_fields(a, b, &["apiVersion", "kind"])
}

/// Whether nothing but metadata and the status of a kind with such a subresource differs: `generation` counts the rest.
fn same_desire(info: &Info, a: &Value, b: &Value) -> bool {
    // A custom resource without the subresource has a status like any other field.
    let apart: &[&str] = if info.custom && !info.status { &[] } else { &["status"] };
    same_fields(a, b, &[&["apiVersion", "kind", "metadata"], apart].concat())
}

fn same_fields(a: &Value, b: &Value, except: &[&str]) -> bool {
    fn kept<'a>(value: &'a Value, except: &'a [&str]) -> impl Iterator<Item = (&'a String, &'a Value)> {
        value.as_object().into_iter().flatten().filter(|(key, _)| !except.contains(&key.as_str()))
    }
    kept(a, except).eq(kept(b, except))
}

/// How unknown fields are met.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    fn of(call: &Call) -> Result<Self, ApiError> {
        match call.params.get("fieldValidation") {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => {
                Err(ApiError::bad_request(format!("fieldValidation must be Ignore, Warn or Strict, not {other:?}")))
            }
        }
    }
}

fn unknown_fields(call: &Call, object: &Value) -> Vec<String> {
    let found = schema::unknown_fields(call.target.kind.schema().root(), object);
    found.into_iter().map(|path| format!("unknown field {path:?}")).collect()
}

/// What a patch makes of an object is not of the object's type: the patch is to blame.
fn of_patch(call: &Call, error: ApiError) -> ApiError {
    if error.code == StatusCode::BAD_REQUEST { invalid_patch(&call.body, &error.message) } else { error }
}

/// A patch whose result cannot be.
fn invalid_patch(patch: &[u8], why: &str) -> ApiError {
    let mut causes = Causes::default();
    causes.invalid("patch", String::from_utf8_lossy(patch).into_owned(), why);
    ApiError::invalid(About { group: "", resource: "", name: "" }, &causes.0)
}

fn writer<'a>(call: &'a Call, manager: &'a str, api_version: &'a str, now: &'a str) -> Writer<'a> {
    let subresource = call.target.subresource.as_deref().unwrap_or_default();
    Writer { manager, api_version, subresource, now, has_status: call.target.kind.info().status }
}

/// Who owns what after a write that is no apply. `sent` is what the client says of it.
fn owners(call: &Call, old: &Value, new: &Value, sent: Option<&Value>, now: &str) -> Managers {
    let (manager, api_version) = (call.manager(), call.target.kind.info().api_version());
    let writer = writer(call, &manager, &api_version, now);
    Managers::after_update(call.target.kind.schema(), old, new, sent, &writer)
}

fn check_namespace(target: &Target, object: &Value) -> Result<(), ApiError> {
    let namespace = meta_str(object, "namespace");
    if namespace.is_empty() || namespace == target.namespace() {
        return Ok(());
    }
    Err(ApiError::bad_request("the namespace of the provided object does not match the namespace sent on the request"))
}

/// What a patch makes of an object is an object, at its name and in its namespace.
fn check_result(call: &Call, object: &Value) -> Result<(), ApiError> {
    let target = &call.target;
    let found = match object {
        Value::Object(_) => None,
        Value::Array(_) => Some("array"),
        Value::String(_) => Some("string"),
        Value::Number(_) => Some("number"),
        Value::Bool(_) => Some("bool"),
        Value::Null => Some("null"),
    };
    if let Some(found) = found {
        let info = target.kind.info();
        let why = format!("json: cannot unmarshal {found} into Go value of type {}.{}", info.version, info.kind);
        return Err(invalid_patch(&call.body, &why));
    }
    let (name, namespace) = (meta_str(object, "name"), meta_str(object, "namespace"));
    target.check_name(name)?;
    if target.namespace.is_some() && !namespace.is_empty() && namespace != target.namespace() {
        return Err(ApiError::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the request ({})",
            target.namespace()
        )));
    }
    Ok(())
}

fn already_exists(target: &Target, existing: &Entry, name: &str) -> ApiError {
    let deleting = object::is_stored_deleting(&existing.value);
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
