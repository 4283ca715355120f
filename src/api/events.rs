//! Events of events.k8s.io: requests and answers are translated to and from the core group's Events, which are what is
//! stored, so that both groups show the same objects with the same revisions.

use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::response::Response;
use futures::StreamExt;
use http::{HeaderValue, Method, StatusCode, header};
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use super::Api;
use super::causes::Causes;
use super::kinds::{Strategy, event_from_core, event_rules, event_to_core};
use super::object::meta_str;
use super::patch::Patch;
use super::request::Call;
use super::schema;
use super::status::{About, ApiError, bytes_response, json_response};

pub(super) const GROUP: &str = "events.k8s.io";
/// How often a patch is tried again when others write at the same time.
const ATTEMPTS: usize = 32;

impl Api {
    pub(super) async fn translated_event(&self, mut call: Call) -> Result<Response, ApiError> {
        let core = self.registry().find("", "v1", "events").ok_or_else(ApiError::no_such_resource)?;
        match call.method.as_str() {
            "POST" | "PUT" if call.target.subresource.is_none() => {
                let object = call.typed_object()?;
                check_strict(&call, &object)?;
                if call.method == Method::POST {
                    check(&object)?;
                }
                set_body(&mut call, &event_to_core(object));
            }
            "PATCH" => return self.patch_event(call, core).await,
            _ => {}
        }
        let watch = call.method == Method::GET && call.target.name.is_none() && call.params.flag("watch");
        call.target.kind = core;
        let response = self.dispatch(call).await?;
        if watch { Ok(translated_stream(response)) } else { translated(response).await }
    }

    /// A patch is about the fields of this group, so it is carried out on the translated object.
    async fn patch_event(&self, mut call: Call, core: Arc<dyn Strategy>) -> Result<Response, ApiError> {
        let patch = Patch::parse(call.content_type(), &call.body)?;
        let own = Arc::clone(&call.target.kind);
        call.target.kind = core;
        call.method = Method::PUT;
        for attempt in 1.. {
            let entry = self.store().get(&call.target.key()).ok_or_else(|| call.target.not_found())?;
            let current = event_from_core(serde_json::from_slice(&entry.value).map_err(ApiError::internal)?);
            let wanted = patch.apply(own.schema(), &current)?;
            let unconditional = meta_str(&wanted, "resourceVersion") == meta_str(&current, "resourceVersion");
            set_body(&mut call, &event_to_core(wanted));
            match self.replace(&call, super::kinds::Part::Main).await {
                Err(e) if e.code == StatusCode::CONFLICT && unconditional && attempt < ATTEMPTS => {}
                result => return translated(result?).await,
            }
        }
        Err(ApiError::modified(call.target.about(call.target.name())))
    }
}

fn set_body(call: &mut Call, object: &Value) {
    call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    call.body = object.to_string().into();
}

/// Unknown fields are gone after the translation, so they are looked for before.
fn check_strict(call: &Call, object: &Value) -> Result<(), ApiError> {
    let unknown = schema::unknown_fields(call.target.kind.schema().root(), object);
    if call.params.get("fieldValidation") != "Strict" || unknown.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect();
    let why = format!("strict decoding error: {}", list.join(", "));
    Err(ApiError::bad_request(format!("Event in version \"v1\" cannot be handled as a Event: {why}")))
}

fn check(object: &Value) -> Result<(), ApiError> {
    let event: Event = serde_json::from_value(object.clone()).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut causes = Causes::default();
    event_rules(&event, &mut causes);
    if causes.is_empty() {
        return Ok(());
    }
    let about = About { group: GROUP, resource: "Event", name: meta_str(object, "name") };
    Err(ApiError::invalid(about, &causes.0))
}

async fn translated(response: Response) -> Result<Response, ApiError> {
    let code = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.map_err(ApiError::internal)?;
    Ok(match serde_json::from_slice(&body) {
        Ok(value) => json_response(code, &translate(value)),
        Err(_) => bytes_response(code, body),
    })
}

/// An Event, a list of them, or an event of a watch over them; anything else stays.
fn translate(mut value: Value) -> Value {
    if let Some(object) = value.get_mut("object").filter(|object| object["kind"] == "Event") {
        *object = event_from_core(object.take());
    } else if value["kind"] == "Event" {
        return event_from_core(value);
    } else if value["kind"] == "EventList" {
        value["apiVersion"] = format!("{GROUP}/v1").into();
        for item in value["items"].as_array_mut().into_iter().flatten() {
            *item = event_from_core(item.take());
            // The list names the type of its items.
            item.as_object_mut().map(|fields| fields.remove("apiVersion"));
        }
    }
    value
}

fn translated_stream(response: Response) -> Response {
    let (head, body) = response.into_parts();
    // A watch sends whole lines.
    let lines = body.into_data_stream().map(|part| {
        part.map(|part| {
            let mut text = String::with_capacity(part.len());
            for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let value: Value = serde_json::from_slice(line).unwrap_or_default();
                text.push_str(&translate(value).to_string());
                text.push('\n');
            }
            text
        })
    });
    Response::from_parts(head, Body::from_stream(lines))
}
