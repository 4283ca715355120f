//! `scale`: how many Pods a workload wants, as `autoscaling/v1` Scale, the same for every kind.
//!
//! A write is a write of the workload's `spec.replicas`, so that generation, conflicts, dry run and field ownership are
//! those of the workload.

use std::sync::LazyLock;

use axum::body::to_bytes;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::causes::Causes;
use crate::api::kinds::{AGE, Info, NAME, Part, ScalePaths, age_cell, integer, name_cell, selector_text};
use crate::api::negotiate::Form;
use crate::api::object::{self, meta_str};
use crate::api::patch::{self, Patch};
use crate::api::request::{BODY_LIMIT, Call};
use crate::api::schema::{self, Schema, builtin};
use crate::api::status::{About, ApiError, bytes_response, json_response};
use crate::api::table::{self, IncludeObject};

const INFO: Info = Info {
    group: "autoscaling",
    kind: "Scale",
    columns: &[
        NAME,
        integer("Desired", "replicas is the desired number of instances for the scaled object."),
        integer("Available", "replicas is the actual number of observed instances of the scaled object."),
        AGE,
    ],
    ..Info::DEFAULT
};
static SCHEMA: LazyLock<Schema> = LazyLock::new(builtin::schema::<Scale>);
const MERGE: &str = "application/merge-patch+json";
/// How often a patch is tried again when others write at the same time.
const ATTEMPTS: usize = 32;

impl Api {
    pub(super) async fn scale(&self, mut call: Call) -> Result<Response, ApiError> {
        // A write is one of the workload, whose answer is read here.
        let form = std::mem::replace(&mut call.form, Form::Json);
        match call.method.as_str() {
            "GET" => in_form(form, &call, &self.current_scale(&call)?),
            "PUT" => self.replace_scale(call).await,
            "PATCH" if patch::media_type(call.content_type()) == patch::APPLY => self.apply_scale(call).await,
            "PATCH" => self.patch_scale(call).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    fn current_scale(&self, call: &Call) -> Result<Value, ApiError> {
        let entry = self.store().get(&call.target.key()).ok_or_else(|| call.target.not_found())?;
        let workload: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        scale_of(&workload, paths(call))
    }

    async fn replace_scale(&self, mut call: Call) -> Result<Response, ApiError> {
        let wanted = decode(&call.object()?)?;
        let name = wanted.metadata.name.clone().unwrap_or_default();
        if !name.is_empty() {
            call.target.check_name(&name)?;
        }
        call.method = Method::PATCH;
        self.write(&mut call, &wanted).await
    }

    async fn patch_scale(&self, mut call: Call) -> Result<Response, ApiError> {
        let patch = Patch::parse(call.content_type(), &call.body)?;
        for _ in 0..ATTEMPTS {
            let current = self.current_scale(&call)?;
            let wanted = decode(&patch.apply(&SCHEMA, &current)?)?;
            let conditional =
                wanted.metadata.resource_version.as_deref() != Some(meta_str(&current, "resourceVersion"));
            match self.write(&mut call, &wanted).await {
                Err(e) if e.code == StatusCode::CONFLICT && !conditional => {}
                result => return result,
            }
        }
        Err(ApiError::modified(call.target.about(call.target.name())))
    }

    /// An applied Scale is an applied workload that says its replicas and nothing else.
    async fn apply_scale(&self, mut call: Call) -> Result<Response, ApiError> {
        let body = std::mem::take(&mut call.body);
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/yaml"));
        call.body = body;
        let wanted = decode(&call.object()?)?;
        check(&wanted, call.target.name())?;
        let info = call.target.kind.info();
        let replicas = wanted.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let mut applied = json!({"apiVersion": info.api_version(), "kind": info.kind,
            "metadata": {"name": call.target.name()}});
        set(&mut applied, paths(&call).replicas, replicas);
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(patch::APPLY));
        call.body = applied.to_string().into();
        scale_response(self.patch(&call, Part::Main).await?, paths(&call)).await
    }

    async fn write(&self, call: &mut Call, wanted: &Scale) -> Result<Response, ApiError> {
        check(wanted, call.target.name())?;
        let replicas = wanted.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
        let mut change = json!({});
        set(&mut change, paths(call).replicas, replicas);
        let preconditions = [("uid", &wanted.metadata.uid), ("resourceVersion", &wanted.metadata.resource_version)];
        for (field, value) in preconditions {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                change["metadata"][field] = value.into();
            }
        }
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MERGE));
        call.body = change.to_string().into();
        scale_response(self.patch(call, Part::Main).await?, paths(call)).await
    }
}

/// One Scale in the negotiated form.
fn in_form(form: Form, call: &Call, scale: &Value) -> Result<Response, ApiError> {
    Ok(match form {
        Form::Json => json_response(StatusCode::OK, scale),
        Form::Partial => bytes_response(StatusCode::OK, table::partial(scale.to_string().as_bytes())),
        Form::Table => {
            let typed = decode(scale)?;
            let replicas = |count: Option<i32>| Value::from(count.unwrap_or(0));
            let mut row = json!({"cells": [
                name_cell(&typed),
                replicas(typed.spec.as_ref().and_then(|spec| spec.replicas)),
                replicas(typed.status.as_ref().map(|status| status.replicas)),
                age_cell(&typed, Timestamp::now()),
            ]});
            match IncludeObject::of(&call.params)? {
                IncludeObject::None => {}
                IncludeObject::Metadata => {
                    row["object"] = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                        "metadata": scale["metadata"]});
                }
                IncludeObject::Object => row["object"] = scale.clone(),
            }
            let metadata = json!({"resourceVersion": meta_str(scale, "resourceVersion")});
            json_response(StatusCode::OK, &table::table(&INFO, metadata, vec![row], true))
        }
    })
}

/// The Scale of the workload that a write answered with.
async fn scale_response(response: Response, paths: ScalePaths) -> Result<Response, ApiError> {
    let code = response.status();
    let body = to_bytes(response.into_body(), 2 * BODY_LIMIT).await.map_err(ApiError::internal)?;
    let workload: Value = serde_json::from_slice(&body).map_err(ApiError::internal)?;
    Ok(json_response(code, &scale_of(&workload, paths)?))
}

fn decode(value: &Value) -> Result<Scale, ApiError> {
    schema::decode(|| &SCHEMA, value)
        .map_err(|why| ApiError::bad_request(format!("Scale in version \"v1\" cannot be handled as a Scale: {why}")))
}

fn check(scale: &Scale, name: &str) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    if let Some(replicas) = scale.spec.as_ref().and_then(|spec| spec.replicas).filter(|replicas| *replicas < 0) {
        causes.invalid("spec.replicas", replicas, "must be greater than or equal to 0");
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(About { group: INFO.group, resource: INFO.kind, name }, &causes.0))
}

/// Where the kind keeps what a Scale shows; only kinds that have one come here.
fn paths(call: &Call) -> ScalePaths {
    call.target.kind.info().scale.unwrap_or(ScalePaths::WORKLOAD)
}

/// `/spec/replicas` for `.spec.replicas`.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

fn set(object: &mut Value, path: &str, replicas: i32) {
    let field = path.split('.').filter(|name| !name.is_empty()).fold(object, |value, name| &mut value[name]);
    *field = replicas.into();
}

/// A selector as text: ReplicationControllers have a map of labels, custom resources the text itself.
fn selector_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(labels) if !labels.is_empty() && labels.values().all(Value::is_string) => {
            let labels = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
            Some(labels.collect::<Vec<_>>().join(","))
        }
        Value::Null => None,
        other => serde_json::from_value(other.clone()).ok().map(|selector: LabelSelector| selector_text(&selector)),
    }
}

/// # Errors
/// An internal error, as in the reference, for a custom resource that does not say its replicas.
fn scale_of(workload: &Value, paths: ScalePaths) -> Result<Value, ApiError> {
    let text = |field: &str| Some(meta_str(workload, field).to_owned()).filter(|text| !text.is_empty());
    let count = |value: &Value| value.as_i64().and_then(|count| i32::try_from(count).ok());
    let at = |path: &str| workload.pointer(&pointer(path)).unwrap_or(&Value::Null);
    let replicas = at(paths.replicas);
    if replicas.is_null() {
        return Err(ApiError::internal(format!("the spec replicas field {:?} does not exist", paths.replicas)));
    }
    let selector = if paths.selector.is_empty() { None } else { selector_of(at(paths.selector)) };
    let scale = Scale {
        metadata: ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: count(replicas).filter(|count| *count != 0) }),
        status: Some(ScaleStatus { replicas: count(at(paths.status_replicas)).unwrap_or(0), selector }),
    };
    let mut value = serde_json::to_value(scale).unwrap_or_default();
    value["metadata"]["creationTimestamp"] = workload["metadata"]["creationTimestamp"].clone();
    object::prune(&mut value);
    Ok(value)
}
