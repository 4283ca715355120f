//! `GET /vipyard/v1/barrier`: answers when everything that follows from a write is in the packets.
//!
//! `resourceVersion=N` names the write; without it, everything that is written now is meant. `timeoutSeconds` bounds the
//! wait: 30 when it is missing, at most [`LONGEST`]. What follows from a write is EndpointSlices, load-balancer
//! addresses, DNS answers and the router's plan for every node, not Pods that have yet to start.

use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::Api;
use super::list::parse_revision;
use super::request::Params;
use super::status::ApiError;

pub(super) const PATH: &str = "/vipyard/v1/barrier";
const DEFAULT: Duration = Duration::from_secs(30);
/// Requests end after a minute, whatever they wait for.
pub const LONGEST: Duration = Duration::from_secs(50);

/// The part of the cluster that knows when packets follow the objects.
pub trait DataPlane: Send + Sync {
    /// Waits until everything that follows from what is written now is in the packets.
    fn settled(&self, limit: Duration) -> BoxFuture<'_, Result<(), Overdue>>;
}

/// The time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// The cache of a resource, or a part of the cluster.
    pub waiting_for: &'static str,
}

/// # Errors
/// 400 for a `resourceVersion` that nobody has written or is no number, 503 while the data plane is starting, 504 when
/// the time is over.
pub(super) async fn barrier(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let wanted = parse_revision(params.get("resourceVersion"))
        .map_err(|why| ApiError::bad_request(format!("resourceVersion: {why}")))?;
    let newest = api.store().revision();
    if wanted > newest {
        let message = format!("resourceVersion {wanted} is not written yet: the newest is {newest}");
        return Err(ApiError::bad_request(message));
    }
    let limit = params.number("timeoutSeconds")?.map_or(DEFAULT, Duration::from_secs).min(LONGEST);
    let Some(data_plane) = api.inner.data_plane.get() else {
        return Err(ApiError::service_unavailable("the data plane is starting: try again"));
    };
    data_plane.settled(limit).await.map_err(|overdue| {
        let (wanted, seconds) = (if wanted == 0 { newest } else { wanted }, limit.as_secs_f64());
        ApiError::timeout(&format!(
            "resourceVersion {wanted} is not in the packets after {seconds} s: still waiting for {}",
            overdue.waiting_for
        ))
    })?;
    Ok(Json(json!({"resourceVersion": newest.to_string()})))
}
