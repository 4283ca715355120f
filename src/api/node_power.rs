//! `POST /vipyard/v1/nodes/NAME/stop` and `/start`: takes the power from a virtual node, and gives it back.

use axum::Json;
use axum::extract::{Path, State};
use futures::future::BoxFuture;
use serde_json::{Value, json};

use super::Api;
use super::status::{About, ApiError};

pub(super) const PATH: &str = "/vipyard/v1/nodes/{name}/{action}";

/// The part of the cluster that runs the nodes.
pub trait NodePower: Send + Sync {
    /// Ends everything on a node at once, as when a machine loses power, or starts its agent again. Doing so twice
    /// changes nothing. Returns when it is done.
    fn switch(&self, node: String, on: bool) -> BoxFuture<'_, Result<(), SwitchError>>;
}

/// Why a node was not stopped or started.
#[derive(Debug)]
pub enum SwitchError {
    NoSuchNode,
    Failed(String),
}

/// # Errors
/// 404 for a node that vipyard does not run and for another action, 503 while the nodes are starting.
pub(super) async fn switch(
    State(api): State<Api>,
    Path((name, action)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let on = match action.as_str() {
        "start" => true,
        "stop" => false,
        _ => return Err(ApiError::no_such_resource()),
    };
    let Some(power) = api.inner.node_power.get() else {
        return Err(ApiError::service_unavailable("the nodes are starting: try again"));
    };
    power.switch(name.clone(), on).await.map_err(|error| match error {
        SwitchError::NoSuchNode => ApiError::not_found(About { group: "", resource: "nodes", name: &name }),
        SwitchError::Failed(why) => ApiError::internal(why),
    })?;
    Ok(Json(json!({"node": name, "running": on})))
}
