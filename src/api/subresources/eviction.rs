//! `eviction`: a delete that PodDisruptionBudgets may refuse (`k8s.io/kubernetes/pkg/registry/core/pod/storage`).

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, DeleteOptions, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::api::kinds::{BUDGETS, BUDGETS_GROUP, selects};
use crate::api::object;
use crate::api::request::Call;
use crate::api::status::{About, ApiError, json_response};
use crate::store::{CommitError, Entry, Op, Scope};

const VIOLATION: &str = "Cannot evict pod as it would violate the pod's disruption budget.";
const CAUSE: &str = "DisruptionBudget";
/// Evictions that the disruption controller has not seen happen yet, at most.
const MAX_DISRUPTED: usize = 2000;
const ATTEMPTS: usize = 32;

impl Api {
    pub(super) async fn evict(&self, mut call: Call) -> Result<Response, ApiError> {
        let eviction = call.object()?;
        let named = object::meta_str(&eviction, "name");
        if !named.is_empty() && named != call.target.name() {
            return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
        }
        let options = delete_options(&eviction)?;
        let in_body = options["dryRun"].as_array().is_some_and(|all| !all.is_empty());
        let dry_run = in_body || call.params.dry_run("DeleteOptions")?;
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for attempt in 1.. {
            let entry = self.store().get(&call.target.key()).ok_or_else(|| call.target.not_found())?;
            let pod: Pod = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            let leave = if is_guarded(&pod) { self.spend_budget(&pod, dry_run).await? } else { Leave::OfState };
            // A Pod that may go because it is idle or not ready may have become ready meanwhile.
            let bound = leave == Leave::OfState
                && pod.metadata.deletion_timestamp.is_none()
                && options["preconditions"]["resourceVersion"].is_null();
            let mut sent = options.clone();
            if bound {
                sent["preconditions"]["resourceVersion"] = entry.revision.to_string().into();
            }
            call.body = sent.to_string().into();
            match self.delete(&call).await {
                Err(e) if bound && e.code == StatusCode::CONFLICT && attempt < ATTEMPTS => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        let success = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
        Ok(json_response(StatusCode::CREATED, &success))
    }

    /// Takes one disruption from the budget of the Pod, if it has one and does not go freely.
    async fn spend_budget(&self, pod: &Pod, dry_run: bool) -> Result<Leave, ApiError> {
        for _ in 0..ATTEMPTS {
            let Some((entry, mut budget)) = self.budget_of(pod)? else { return Ok(Leave::OfBudget) };
            if !is_ready(pod) && may_go_unready(&budget) {
                return Ok(Leave::OfState);
            }
            let name = pod.metadata.name.clone().unwrap_or_default();
            spend(&mut budget, &name)?;
            if dry_run {
                return Ok(Leave::OfBudget);
            }
            let mut value = serde_json::to_value(&budget).map_err(ApiError::internal)?;
            object::prune(&mut value);
            let kind = self.registry().find(BUDGETS_GROUP, "v1", BUDGETS).ok_or_else(ApiError::no_such_resource)?;
            let encode = object::encode(kind.info(), value)?;
            match self.store().commit(entry.key.clone(), Op::Update { expect: entry.revision, encode }).await {
                Ok(_) => return Ok(Leave::OfBudget),
                Err(CommitError::Conflict(_) | CommitError::NotFound) => {}
                Err(e) => return Err(ApiError::internal(format!("{e:?}"))),
            }
        }
        let about = About { group: BUDGETS_GROUP, resource: BUDGETS, name: "" };
        Err(ApiError::modified(about))
    }

    /// The one budget that selects a Pod.
    fn budget_of(&self, pod: &Pod) -> Result<Option<(Arc<Entry>, PodDisruptionBudget)>, ApiError> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let labels: BTreeMap<String, String> = pod.metadata.labels.clone().unwrap_or_default();
        let scope = Scope::namespace(format!("{BUDGETS}.{BUDGETS_GROUP}").as_str(), namespace.as_str());
        let mut found = None;
        for entry in self.store().list(&scope).items {
            let budget: PodDisruptionBudget = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if !selector.is_some_and(|selector| selects(selector, &labels)) {
                continue;
            }
            if found.is_some() {
                return Err(more_than_one());
            }
            found = Some((entry, budget));
        }
        Ok(found)
    }
}

/// What an Eviction says of the delete: an object, whose fields are of their types.
fn delete_options(eviction: &Value) -> Result<Value, ApiError> {
    let Some(options) = eviction.get("deleteOptions").filter(|options| !options.is_null()) else {
        return Ok(json!({}));
    };
    serde_path_to_error::deserialize::<_, DeleteOptions>(options).map_err(|e| {
        let (path, why) = (e.path(), e.inner());
        ApiError::bad_request(format!(
            "Eviction in version \"v1\" cannot be handled as a Eviction: deleteOptions.{path}: {why}"
        ))
    })?;
    Ok(options.clone())
}

/// What lets a Pod go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leave {
    /// Its budget, or that it has none.
    OfBudget,
    /// Its own state: it serves nobody.
    OfState,
}

/// A Pod that does not serve anybody may go at any time.
fn is_guarded(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let idle = matches!(phase, Some("Succeeded" | "Failed" | "Pending"));
    !idle && pod.metadata.deletion_timestamp.is_none()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a Pod that is not ready may go without touching the budget.
fn may_go_unready(budget: &PodDisruptionBudget) -> bool {
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (healthy, desired) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    policy == Some("AlwaysAllow") || (healthy >= desired && desired > 0)
}

fn spend(budget: &mut PodDisruptionBudget, pod: &str) -> Result<(), ApiError> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_with(PodDisruptionBudgetStatus::default);
    let about = About { group: BUDGETS_GROUP, resource: "poddisruptionbudget", name: &name };
    if status.observed_generation.unwrap_or(0) < generation {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(&why, Some(10)));
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    let disrupted = status.disrupted_pods.get_or_insert_default();
    if allowed < 0 {
        return Err(ApiError::forbidden(about, "pdb disruptions allowed is negative"));
    }
    if disrupted.len() > MAX_DISRUPTED {
        let why = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(ApiError::forbidden(about, why));
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status.desired_healthy.unwrap_or(0),
            status.current_healthy.unwrap_or(0)
        );
        return Err(refused(&why, None));
    }
    let now = Time(Timestamp::now());
    disrupted.insert(pod.to_owned(), now.clone());
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
        conditions.push(Condition {
            type_: "DisruptionAllowed".into(),
            status: "False".into(),
            reason: "InsufficientPods".into(),
            observed_generation: status.observed_generation,
            last_transition_time: now,
            message: String::new(),
        });
    }
    Ok(())
}

fn refused(why: &str, retry_after: Option<u32>) -> ApiError {
    let mut details = json!({"causes": [{"reason": CAUSE, "message": why}]});
    if let Some(seconds) = retry_after {
        details["retryAfterSeconds"] = seconds.into();
    }
    ApiError {
        code: StatusCode::TOO_MANY_REQUESTS,
        reason: "TooManyRequests",
        message: VIOLATION.into(),
        details: Some(details),
    }
}

fn more_than_one() -> ApiError {
    ApiError {
        code: StatusCode::INTERNAL_SERVER_ERROR,
        reason: "InternalError",
        message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            .into(),
        details: None,
    }
}
