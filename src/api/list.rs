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
use super::request::{Call, Params};
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
    /// Negative: what is there by then, as in the reference.
    rv: i64,
    namespace: String,
    name: String,
}

/// A list that goes on with whatever is there, as its first pages are of a revision that is compacted away.
const INCONSISTENT: i64 = -1;

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let invalid =
            |why: String| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|e| invalid(e.to_string()))?;
        serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))
    }
}

/// Which state a list shows (`resourceVersion` and `resourceVersionMatch`; KEP-2340 has the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Consistency {
    /// The newest, which is at least of this revision.
    NotOlderThan(u64),
    Exact(u64),
}

/// `ValidateListOptions` of `k8s.io/apimachinery/pkg/apis/internalversion/validation`, for lists.
fn check_options(params: &Params) -> Result<(), ApiError> {
    let (revision, matching) = (params.get("resourceVersion"), params.get("resourceVersionMatch"));
    let mut causes = Causes::default();
    if !matching.is_empty() {
        let mut forbid = |why: &str| causes.forbidden(MATCH, why);
        if revision.is_empty() {
            forbid("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !params.get("continue").is_empty() {
            forbid("resourceVersionMatch is forbidden when continue is provided");
        }
        if !["Exact", "NotOlderThan"].contains(&matching) {
            causes.unsupported(MATCH, matching, &["Exact", "NotOlderThan", ""]);
        }
        if matching == "Exact" && revision == "0" {
            causes.forbidden(MATCH, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if !params.get("sendInitialEvents").is_empty() {
        causes.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    refuse_options(causes)
}

/// The query parameter, and the field of `ListOptions`.
pub(super) const MATCH: &str = "resourceVersionMatch";

pub(super) fn refuse_options(causes: Causes) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let about = About { group: "meta.k8s.io", resource: "ListOptions", name: "" };
    Err(ApiError::invalid(about, &causes.0))
}

impl Consistency {
    fn of(params: &Params) -> Result<Self, ApiError> {
        let text = params.get("resourceVersion");
        let revision = parse_revision(text)
            .map_err(|why| ApiError::bad_request(format!("invalid resource version: resourceVersion: {why}")))?;
        let paged = params.number::<i64>("limit")?.is_some_and(|limit| limit > 0);
        Ok(match params.get(MATCH) {
            "Exact" => Self::Exact(revision),
            // From before there was resourceVersionMatch.
            "" if paged && revision > 0 => Self::Exact(revision),
            _ => Self::NotOlderThan(revision),
        })
    }
}

/// A `resourceVersion`; none counts as 0. The error is what is wrong with the value.
pub(super) fn parse_revision(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    text.parse().map_err(|_| format!("Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"))
}

pub(super) fn read_failed(error: ReadError) -> ApiError {
    match error {
        ReadError::Compacted => ApiError::expired("The resourceVersion for the provided list is too old."),
        ReadError::Future => ApiError::future_revision(),
        ReadError::Closed => ApiError::service_unavailable("the server is shutting down"),
        ReadError::Unavailable(why) => ApiError::service_unavailable(format!("the store cannot be read: {why}")),
    }
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
        check_options(&call.params)?;
        let selection = Selection::of(call)?;
        // A limit below zero is none, as in the reference.
        let limit =
            call.params.number::<i64>("limit")?.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0);
        let token = call.params.get("continue");
        let after = if token.is_empty() { None } else { Some(Continue::decode(token)?) };
        let mut listing = match self.listing(call, &selection, after.as_ref()).await {
            Err(Unlisted::PageExpired(next)) => return Ok(page_expired(&next)),
            Err(Unlisted::Refused(error)) => return Err(error),
            Ok(listing) => listing,
        };
        if let Some(after) = &after {
            let last = (after.namespace.as_str(), after.name.as_str());
            listing.items.retain(|entry| (&*entry.key.namespace, &*entry.key.name) > last);
        }
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        if !selection.is_everything() {
            // Objects are looked into no further than the page needs, and one more tells whether there is another page.
            let most = limit.map_or(usize::MAX, |limit| limit.saturating_add(1));
            listing.items = listing.items.into_iter().filter(|entry| selection.matches(entry)).take(most).collect();
        }
        let mut metadata = json!({"resourceVersion": listing.revision.to_string()});
        if let Some(limit) = limit
            && listing.items.len() > limit
        {
            let rest = listing.items.len() - limit;
            listing.items.truncate(limit);
            if let Some(last) = listing.items.last() {
                let next = Continue {
                    rv: i64::try_from(listing.revision).unwrap_or(i64::MAX),
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

    async fn listing(&self, call: &Call, selection: &Selection, after: Option<&Continue>) -> Result<Listing, Unlisted> {
        let store = self.store();
        if let Some(after) = after {
            if !matches!(call.params.get("resourceVersion"), "" | "0") {
                return Err(
                    ApiError::bad_request("specifying resource version is not allowed when using continue").into()
                );
            }
            let Ok(revision) = u64::try_from(after.rv) else { return Ok(store.list(&selection.scope)) };
            return store.list_at(&selection.scope, revision).await.map_err(|error| match error {
                ReadError::Compacted => Unlisted::PageExpired(Continue {
                    rv: INCONSISTENT,
                    namespace: after.namespace.clone(),
                    name: after.name.clone(),
                }),
                other => read_failed(other).into(),
            });
        }
        match Consistency::of(&call.params)? {
            Consistency::Exact(revision) => {
                store.list_at(&selection.scope, revision).await.map_err(|error| read_failed(error).into())
            }
            Consistency::NotOlderThan(revision) => {
                let listing = store.list(&selection.scope);
                if revision > listing.revision { Err(ApiError::future_revision().into()) } else { Ok(listing) }
            }
        }
    }

    fn list_response(&self, call: &Call, metadata: Value, items: &[Arc<Entry>]) -> Result<Response, ApiError> {
        let kind = &call.target.kind;
        Ok(match call.form {
            Form::Json => bytes_response(StatusCode::OK, join(kind.info(), &metadata, items)),
            Form::Partial => {
                let items: Vec<String> = items.iter().map(|entry| table::partial(&entry.value)).collect();
                let list = format!(
                    "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata},\"items\":[{}]}}",
                    items.join(",")
                );
                bytes_response(StatusCode::OK, list)
            }
            Form::Table => {
                let include = IncludeObject::of(&call.params)?;
                let now = Timestamp::now();
                let rows = items.iter().map(|entry| table::row(&**kind, entry, include, now)).collect();
                json_response(StatusCode::OK, &table::table(kind.info(), metadata, rows, true))
            }
        })
    }
}

/// Why there is no list.
enum Unlisted {
    Refused(ApiError),
    /// The next page is of a revision that is gone; one may go on from here without it.
    PageExpired(Continue),
}

impl From<ApiError> for Unlisted {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// 410 with a token for those who would rather have the rest as it is now than begin again.
fn page_expired(next: &Continue) -> Response {
    let error = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list \
         without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
         results. Continuing with the provided token results in an inconsistent list - objects that were created, \
         modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.to_value();
    status["metadata"]["continue"] = next.encode().into();
    json_response(error.code, &status)
}

/// A list is its items' stored bytes, one after another, each without the type that the list already names.
fn join(info: &Info, metadata: &Value, items: &[Arc<Entry>]) -> Vec<u8> {
    let size: usize = items.iter().map(|entry| entry.value.len() + 2).sum();
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        info.list_kind(),
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
