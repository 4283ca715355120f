//! The web page that shows Services, their Pods and what lies between, and the streams that keep it live.
//!
//! [`router`] is a plain axum router; the caller binds a loopback address and serves it. Paths:
//!
//! | Path | Answer |
//! |---|---|
//! | `/?token=…` | the token becomes a cookie, redirect to `/` |
//! | `/`, `/assets/…` | the page, built from `web/` and embedded in the binary |
//! | `/ui/v1/map` | the map as one JSON document, see [`view::Snapshot`] |
//! | `/ui/v1/map/stream` | the map as server-sent events: a `snapshot`, then a `patch` ([`view::Patch`]) per change, and `traffic` ([`view::Traffic`]) while there is some |
//! | `/ui/v1/api/…` | the Kubernetes API and `/vipyard/v1/…` as the cluster's owner, see `passage` |
//!
//! Arrows inside: `view` is the shape on the wire and how objects become it (pure), `model` keeps the map and tells
//! what changed (pure), `live` feeds one model from the informer cache while somebody watches, `guard` decides who may
//! ask, `passage` what of the API, `assets` holds the page.

mod assets;
mod guard;
mod live;
mod model;
mod passage;
pub mod view;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use live::{Hub, Message};

pub use live::NewMeter;

/// The file of the data directory that holds the page's address with its token. The caller writes it, readable by
/// its user alone; the page that refuses a visitor names it.
pub const ADDRESS_FILE: &str = "dashboard.url";

/// What the dashboard needs to know.
pub struct DashboardConfig {
    /// The secret that opens the page: letters, digits, `-` and `_`, see [`new_token`]. An empty one opens nothing.
    pub token: String,
    pub cluster: Cluster,
    /// The API, as the cluster's owner: whoever holds the token may do everything.
    pub api: Router,
    /// What counts the traffic that the map shows.
    pub meter: NewMeter,
    /// `Host` headers to answer beside `localhost`, `127.0.0.1` and `[::1]` (those with any port), each as the browser
    /// sends it: `name:port`, or `name` alone for port 80.
    pub allowed_hosts: Vec<String>,
    /// The program's version, shown on the page.
    pub version: &'static str,
    /// Ends the streams, which would otherwise hold up a graceful shutdown for ever.
    pub shutdown: CancellationToken,
}

/// Counts what passes from Services to their endpoints.
pub trait Meter: Send {
    /// What has passed since the last call, or since the meter was made. The time is filled in by the caller.
    fn read(&mut self) -> view::Traffic;
}

/// A fresh token of 256 random bits, in characters that pass through URLs and cookies unchanged.
pub fn new_token() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// The dashboard's router. Nothing runs until a viewer comes.
pub fn router(config: DashboardConfig) -> Router {
    let guard = Arc::new(guard::Guard::new(config.token, config.allowed_hosts));
    let hub = Arc::new(Hub::new(config.cluster, config.meter, config.version, config.shutdown));
    Router::new()
        .route("/", get(assets::index))
        .route("/ui/v1/map", get(map))
        .route("/ui/v1/map/stream", get(map_stream))
        .fallback(get(assets::file))
        .with_state(hub)
        .nest_service("/ui/v1/api", passage::to(config.api))
        .layer(axum::middleware::from_fn_with_state(guard, guard::check))
}

async fn map(State(hub): State<Arc<Hub>>) -> Response {
    match hub.snapshot().await {
        Ok(json) => {
            let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
            (headers, json.to_string()).into_response()
        }
        Err(e) => (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], e.to_string()).into_response(),
    }
}

async fn map_stream(State(hub): State<Arc<Hub>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = hub.messages().map(|message| {
        Ok(match message {
            Message::Snapshot(json) => Event::default().event("snapshot").data(&*json),
            Message::Patch(json) => Event::default().event("patch").data(&*json),
            Message::Traffic(json) => Event::default().event("traffic").data(&*json),
        })
    });
    // The comment that keeps a connection alive belongs to that connection: no viewer, no timer.
    Sse::new(events).keep_alive(KeepAlive::default())
}
