//! list: selectors, pages, exact revisions, and the forms of a list.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Api;
use super::causes::Causes;
use super::kinds::Info;
use super::negotiate::Form;
use super::object::{Labelled, without_type};
use super::request::Call;
use super::selector::{FieldSelector, LabelSelector};
use super::status::{About, ApiError, bytes_response, json_response};
use super::table::{self, IncludeObject};
use crate::store::{Entry, Listing, ReadError, Scope};

/// Which objects of a collection a request is about.
pub(super) struct Selection {
    pub scope: Scope,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub fn of(call: &Call) -> Result<Self, ApiError> {
        let fields = FieldSelector::parse(call.params.get("fieldSelector"), call.target.kind.info().fields)?;
        let mut scope = call.target.scope();
        if let (Some(name), true) = (fields.name(), scope.namespace.is_some() || !call.target.kind.info().namespaced) {
            scope.name = Some(name.into());
            scope.namespace.get_or_insert_with(|| "".into());
        }
        Ok(Self { scope, labels: LabelSelector::parse(call.params.get("labelSelector"))?, fields })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        if !self.labels.is_empty() {
            let object: Labelled = serde_json::from_slice(&entry.value).unwrap_or_default();
            if !self.labels.matches(&object.metadata.labels.unwrap_or_default()) {
                return false;
            }
        }
        if self.fields.is_empty() {
            return true;
        }
        let object: Value = serde_json::from_slice(&entry.value).unwrap_or_default();
        self.fields.matches(&object)
    }
}

/// Where a list goes on: the revision that it shows, and the last object that was sent.
#[derive(Serialize, Deserialize)]
struct Continue {
    rv: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid: list again without it"))
    }
}

pub(super) fn parse_revision(text: &str) -> Result<Option<u64>, ApiError> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "resourceVersion: Invalid value: {text:?}: strconv.ParseUint: invalid syntax"
            ))
        }),
    }
}

pub(super) fn read_failed(error: ReadError) -> ApiError {
    match error {
        ReadError::Compacted => ApiError::expired("The provided resourceVersion is too old: list again without it"),
        ReadError::Future => ApiError::future_revision(),
        ReadError::Closed => ApiError::service_unavailable("the server is shutting down"),
        ReadError::Unavailable(why) => ApiError::service_unavailable(format!("the store cannot be read: {why}")),
    }
}

/// The rules of `ValidateListOptions` for a list that is no watch.
fn check_match(call: &Call, matching: &str) -> Result<(), ApiError> {
    const FIELD: &str = "resourceVersionMatch";
    let mut causes = Causes::default();
    if !matching.is_empty() {
        if call.params.get("resourceVersion").is_empty() {
            causes.forbidden(FIELD, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !call.params.get("continue").is_empty() {
            causes.forbidden(FIELD, "resourceVersionMatch is forbidden when continue is provided");
        }
        causes.one_of(FIELD, Some(&matching.to_owned()), &["Exact", "NotOlderThan", ""]);
        if matching == "Exact" && call.params.get("resourceVersion") == "0" {
            causes.forbidden(FIELD, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if !call.params.get("sendInitialEvents").is_empty() {
        causes.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(About { group: "meta.k8s.io", resource: "ListOptions", name: "" }, &causes.0))
}

impl Api {
    /// The objects that a request selects, now.
    pub(super) fn select(&self, call: &Call) -> Result<Listing, ApiError> {
        let selection = Selection::of(call)?;
        let mut listing = self.store().list(&selection.scope);
        if !selection.is_everything() {
            listing.items.retain(|entry| selection.matches(entry));
        }
        Ok(listing)
    }

    pub(super) async fn list(&self, call: &Call) -> Result<Response, ApiError> {
        let selection = Selection::of(call)?;
        let limit = call.params.number("limit")?.filter(|limit| *limit > 0);
        let token = call.params.get("continue");
        let after = if token.is_empty() { None } else { Some(Continue::decode(token)?) };
        let mut listing = self.listing(call, &selection, after.as_ref()).await?;
        if let Some(after) = &after {
            let last = (after.namespace.as_str(), after.name.as_str());
            listing.items.retain(|entry| (&*entry.key.namespace, &*entry.key.name) > last);
        }
        if !selection.is_everything() {
            listing.items.retain(|entry| selection.matches(entry));
        }
        let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
        if let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok())
            && listing.items.len() > limit
        {
            let rest = listing.items.len() - limit;
            listing.items.truncate(limit);
            if let Some(last) = listing.items.last() {
                let next = Continue {
                    rv: listing.revision,
                    namespace: last.key.namespace.to_string(),
                    name: last.key.name.to_string(),
                };
                metadata["continue"] = next.encode().into();
            }
            if selection.is_everything() {
                metadata["remainingItemCount"] = rest.into();
            }
        }
        self.list_response(call, metadata, &listing.items)
    }

    async fn listing(&self, call: &Call, selection: &Selection, after: Option<&Continue>) -> Result<Listing, ApiError> {
        let revision = parse_revision(call.params.get("resourceVersion"))?;
        let matching = call.params.get("resourceVersionMatch");
        check_match(call, matching)?;
        if let Some(after) = after {
            if revision.is_some_and(|revision| revision > 0) {
                return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
            }
            return self.store().list_at(&selection.scope, after.rv).await.map_err(read_failed);
        }
        if let (Some(revision), "Exact") = (revision, matching) {
            return self.store().list_at(&selection.scope, revision).await.map_err(read_failed);
        }
        let listing = self.store().list(&selection.scope);
        match revision {
            Some(asked) if asked > listing.revision => Err(ApiError::future_revision()),
            _ => Ok(listing),
        }
    }

    fn list_response(&self, call: &Call, metadata: Value, items: &[Arc<Entry>]) -> Result<Response, ApiError> {
        let kind = &call.target.kind;
        Ok(match call.form {
            Form::Json => bytes_response(StatusCode::OK, join(kind.info(), &metadata, items)),
            Form::Partial => {
                let items: Vec<Value> = items.iter().map(|entry| table::partial(&entry.value)).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "items": items});
                json_response(StatusCode::OK, &list)
            }
            Form::Table => {
                let include = IncludeObject::parse(call.params.get("includeObject"))
                    .ok_or_else(|| ApiError::bad_request("includeObject must be None, Metadata or Object"))?;
                let now = Timestamp::now();
                let rows = items.iter().map(|entry| table::row(&**kind, entry, include, now)).collect();
                json_response(StatusCode::OK, &table::table(kind.info(), metadata, rows, true))
            }
        })
    }
}

/// A list is its items' stored bytes, one after another, each without the type that the list already names.
fn join(info: &Info, metadata: &Value, items: &[Arc<Entry>]) -> Vec<u8> {
    let size: usize = items.iter().map(|entry| entry.value.len() + 2).sum();
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        info.kind,
        info.api_version()
    );
    let mut text = Vec::with_capacity(head.len() + size + 2);
    text.extend_from_slice(head.as_bytes());
    for (i, entry) in items.iter().enumerate() {
        text.extend_from_slice(if i == 0 { b"{" } else { b",{" });
        text.extend_from_slice(without_type(&entry.value));
    }
    text.extend_from_slice(b"]}");
    text
}
