//! delete and deletecollection: finalizers, grace periods, propagation, preconditions.

use std::sync::Arc;

use axum::response::Response;
use futures::StreamExt;
use http::StatusCode;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Api;
use super::kinds::Info;
use super::object::{self, meta_mut, meta_str};
use super::request::{Call, Target};
use super::status::{About, ApiError, bytes_response, deleted, json_response};
use super::verbs::commit_failed;
use crate::store::{CommitError, Entry, Op};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 32;
/// Deletions of a collection that are under way together.
const AT_A_TIME: usize = 32;
/// Namespaces that are there as long as the cluster: admission plugin NamespaceLifecycle.
const IMMORTAL: [&str; 3] = ["default", "kube-public", "kube-system"];

/// `DeleteOptions`, from the body or the query.
struct Options {
    grace: Option<i64>,
    propagation: String,
    uid: Option<String>,
    revision: Option<String>,
    dry_run: bool,
}

impl Options {
    fn of(call: &Call) -> Result<Self, ApiError> {
        let body = if call.body.is_empty() { Value::Null } else { call.object()? };
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let query = |name: &str| Some(call.params.get(name)).filter(|value| !value.is_empty()).map(str::to_owned);
        let grace = match (body["gracePeriodSeconds"].as_i64(), query("gracePeriodSeconds")) {
            (Some(grace), _) => Some(grace),
            (None, Some(text)) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(format!("invalid gracePeriodSeconds {text:?}: expected a number of seconds"))
            })?),
            (None, None) => None,
        };
        let orphan = body["orphanDependents"].as_bool().map(|orphan| if orphan { "Orphan" } else { "Background" });
        let propagation = text(&body["propagationPolicy"]).or(query("propagationPolicy")).or(orphan.map(str::to_owned));
        let propagation = propagation.unwrap_or_default();
        if !["", "Orphan", "Background", "Foreground"].contains(&propagation.as_str()) {
            let mut causes = super::causes::Causes::default();
            causes.unsupported("propagationPolicy", propagation, &["Foreground", "Background", "Orphan", "nil"]);
            return Err(ApiError::invalid(
                About { group: "meta.k8s.io", resource: "DeleteOptions", name: "" },
                &causes.0,
            ));
        }
        let stages = body["dryRun"].as_array().map_or(&[][..], Vec::as_slice);
        if stages.iter().any(|stage| stage != "All") {
            let mut causes = super::causes::Causes::default();
            causes.unsupported("dryRun", stages, &["All"]);
            return Err(ApiError::invalid(
                About { group: "meta.k8s.io", resource: "DeleteOptions", name: "" },
                &causes.0,
            ));
        }
        Ok(Self {
            grace,
            propagation,
            uid: text(&body["preconditions"]["uid"]),
            revision: text(&body["preconditions"]["resourceVersion"]),
            dry_run: !stages.is_empty() || call.params.dry_run("DeleteOptions")?,
        })
    }

    fn check_preconditions(&self, target: &Target, name: &str, object: &Value) -> Result<(), ApiError> {
        let info = target.kind.info();
        let about = About { group: info.group, resource: info.kind, name };
        for (what, field, wanted) in [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.revision)]
        {
            if let Some(wanted) = wanted
                && wanted != meta_str(object, field)
            {
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({}). \
                     The object might have been deleted and then recreated",
                    meta_str(object, field)
                );
                return Err(ApiError::conflict(about, why));
            }
        }
        Ok(())
    }
}

/// Whether an object that is being deleted must stay for now.
pub(super) fn is_held(info: &Info, object: &Value) -> bool {
    let list = |value: &Value| value.as_array().is_some_and(|list| !list.is_empty());
    let namespace = info.is_core("Namespace") && list(&object["spec"]["finalizers"]);
    let graceful = info.is_core("Pod") && object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
    namespace || graceful || list(&object["metadata"]["finalizers"])
}

/// Rule PX1: the grace period of a Pod; those that run nowhere, or are done, go at once. Other kinds have none.
fn grace_period(info: &Info, object: &Value, asked: Option<i64>) -> i64 {
    if !info.is_core("Pod") {
        return 0;
    }
    let scheduled = object["spec"]["nodeName"].as_str().is_some_and(|node| !node.is_empty());
    let done = matches!(object["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !scheduled || done {
        return 0;
    }
    let grace = asked.or(object["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30);
    // Rule PX2.
    let grace = if grace < 0 { 1 } else { grace };
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(running) => grace.min(running),
        None => grace,
    }
}

/// Sets the finalizers that say what becomes of the dependents: as asked, or else as they are, or else as the kind has it.
fn propagate(info: &Info, object: &mut Value, asked: &str) {
    let mut finalizers = object::finalizers(object);
    let said = finalizers.iter().any(|name| name == ORPHAN || name == FOREGROUND);
    let policy = match asked {
        "" if info.orphans_dependents && !said => "Orphan",
        "" => return,
        asked => asked,
    };
    finalizers.retain(|name| name != ORPHAN && name != FOREGROUND);
    match policy {
        "Orphan" => finalizers.push(ORPHAN.into()),
        "Foreground" => finalizers.push(FOREGROUND.into()),
        _ => {}
    }
    let metadata = meta_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
}

/// Marks an object as being deleted, from now on or by an earlier deadline than it had.
fn mark(info: &Info, object: &mut Value, grace: i64, now: Timestamp) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or(0);
    let deadline = now.saturating_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
    let first = !object::is_deleting(object);
    let shorter = object["metadata"]["deletionGracePeriodSeconds"].as_i64().is_some_and(|running| grace < running);
    let metadata = meta_mut(object);
    if first || shorter {
        metadata.insert("deletionTimestamp".into(), object::format_time(deadline).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    }
    if first && generation > 0 {
        metadata.insert("generation".into(), (generation + 1).into());
    }
    if info.is_core("Namespace") {
        object["status"]["phase"] = "Terminating".into();
    }
}

impl Api {
    pub(super) async fn delete(&self, call: &Call) -> Result<Response, ApiError> {
        let options = Options::of(call)?;
        let (gone, object) = self.delete_one(&call.target, call.target.name(), &options).await?;
        let info = call.target.kind.info();
        if gone && !info.returns_deleted {
            let about = call.target.about(call.target.name());
            return Ok(json_response(StatusCode::OK, &deleted(about, meta_str(&object, "uid"))));
        }
        Ok(bytes_response(StatusCode::OK, object::with_type_first(info, object)))
    }

    /// Deletes, or begins to. Returns whether the object is gone, and its last state.
    async fn delete_one(&self, target: &Target, name: &str, options: &Options) -> Result<(bool, Value), ApiError> {
        let info = target.kind.info();
        if info.is_core("Namespace") && IMMORTAL.contains(&name) {
            return Err(ApiError::forbidden(target.about(name), "this namespace may not be deleted"));
        }
        let key = target.key_of(name);
        for _ in 0..ATTEMPTS {
            let entry = self.store().get(&key).ok_or_else(|| ApiError::not_found(target.about(name)))?;
            let before: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            options.check_preconditions(target, name, &before)?;
            let mut object = before.clone();
            propagate(info, &mut object, &options.propagation);
            let grace = grace_period(info, &object, options.grace);
            mark(info, &mut object, grace, Timestamp::now());
            let gone = !is_held(info, &object);
            if gone && !info.is_core("Pod") {
                // The last state that watchers see is the one before the delete. Only Pods have a grace period, and
                // show how long it was, also when it was none.
                object = before.clone();
            }
            if options.dry_run || (!gone && object == before) {
                return Ok((gone, object));
            }
            let along = if gone { self.address_writes(info, &object, &Value::Null) } else { Vec::new() };
            let encode = object::encode_again(info, object.clone());
            let expect = entry.revision;
            let op = if gone { Op::Delete { expect, encode } } else { Op::Update { expect, encode } };
            match self.store().commit_with(along, key.clone(), op).await {
                Ok(entry) => {
                    self.committed(info);
                    meta_mut(&mut object).insert("resourceVersion".into(), entry.revision.to_string().into());
                    if gone {
                        target.kind.release(&self.inner.ctx, object.clone());
                    }
                    return Ok((gone, object));
                }
                Err(CommitError::Conflict(_)) => {}
                Err(e) => return Err(commit_failed(target, name, &e)),
            }
        }
        Err(ApiError::modified(target.about(name)))
    }

    pub(super) async fn delete_collection(&self, call: &Call) -> Result<Response, ApiError> {
        let info = call.target.kind.info();
        if (info.namespaced && call.target.namespace.is_none()) || !info.deletes_collections() {
            return Err(ApiError::method_not_allowed());
        }
        let options = Options::of(call)?;
        let selected = self.select(call)?.items;
        // Several at a time, so that they share commits.
        let one = async |entry: Arc<Entry>| self.delete_one(&call.target, &entry.key.name, &options).await;
        let mut deletions = futures::stream::iter(selected).map(one).buffered(AT_A_TIME);
        let mut items = Vec::new();
        while let Some(deletion) = deletions.next().await {
            match deletion {
                Ok((_, mut object)) => {
                    // The list names the type of its items.
                    object.as_object_mut().map(|fields| (fields.remove("apiVersion"), fields.remove("kind")));
                    items.push(object);
                }
                Err(e) if e.code == StatusCode::NOT_FOUND => {}
                Err(e) => return Err(e),
            }
        }
        drop(deletions);
        let revision = self.store().revision().to_string();
        let list = json!({"kind": info.list_kind(), "apiVersion": info.api_version(),
            "metadata": {"resourceVersion": revision}, "items": items});
        Ok(json_response(StatusCode::OK, &list))
    }
}
