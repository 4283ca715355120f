//! The API server: the one way in which parts of the cluster, and people, read and change objects.
//!
//! A request is authenticated ([`auth`]), its path and options are parsed ([`request`]), and a verb ([`verbs`],
//! [`delete`], [`list`], [`watch`]) carries it out on JSON values, asking the [`kinds`] for defaults and rules and the
//! store for the write. Objects are encoded once, when they are written; gets, lists and watches send those bytes.

pub mod alloc;
pub mod auth;
pub mod causes;
mod delete;
mod discovery;
mod events;
pub mod kinds;
mod list;
pub mod logs;
mod names;
mod negotiate;
mod object;
mod openapi;
mod patch;
pub mod pki;
mod protobuf;
mod request;
mod selector;
pub mod serve;
mod status;
mod subresources;
mod table;
mod verbs;
mod watch;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::StatusCode;
use k8s_openapi::api::core::v1::ServiceSpec;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::config::Network;
use crate::store::{Scope, Store};
use alloc::Allocators;
use auth::Identity;
use kinds::{Context, Registry};
use logs::LogSource;

pub use status::ApiError;

/// The version of Kubernetes whose behaviour is served.
pub const KUBERNETES_VERSION: &str = "v1.36.0";

/// The API server without its listeners.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    ctx: Context,
    /// Where container logs come from: the node agents, once they run.
    logs: std::sync::OnceLock<Arc<dyn LogSource>>,
    /// Ends watches when the server stops, so that connections close cleanly.
    stopping: CancellationToken,
    ready: std::sync::atomic::AtomicBool,
}

impl Api {
    pub fn new(store: Store, network: Network, stopping: CancellationToken) -> Self {
        let allocators = Arc::new(Allocators::new(&network));
        for entry in store.list(&Scope::all("services")).items {
            #[derive(serde::Deserialize)]
            struct WithSpec {
                spec: Option<ServiceSpec>,
            }
            if let Ok(WithSpec { spec: Some(spec) }) = serde_json::from_slice(&entry.value) {
                allocators.restore(kinds::held_by(&spec));
            }
        }
        for entry in store.list(&Scope::all("ipaddresses.networking.k8s.io")).items {
            allocators.restore(serde_json::from_slice(&entry.value).ok().and_then(|address| kinds::kept_by(&address)));
        }
        let inner = Inner {
            registry: Registry::default(),
            ctx: Context { network, allocators, store },
            logs: std::sync::OnceLock::new(),
            stopping,
            ready: std::sync::atomic::AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn store(&self) -> &Store {
        &self.inner.ctx.store
    }

    pub fn registry(&self) -> &Registry {
        &self.inner.registry
    }

    /// Says where `kubectl logs` reads from. Only the first call counts.
    pub fn set_log_source(&self, source: Arc<dyn LogSource>) {
        let _ = self.inner.logs.set(source);
    }

    /// Makes /readyz answer 200.
    pub fn set_ready(&self) {
        self.inner.ready.store(true, std::sync::atomic::Ordering::Release);
    }

    /// A client for a part of the cluster in this process: no socket, no TLS, the identity is given.
    pub fn client(&self, identity: Identity) -> kube::Client {
        let service = self.router().map_request(move |mut request: http::Request<kube::client::Body>| {
            request.extensions_mut().insert(identity.clone());
            request.map(axum::body::Body::new)
        });
        kube::Client::new(service, "default")
    }

    /// Everything that is served. Requests without an [`Identity`] among their extensions get 401, health checks aside.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/api", get(discovery::core_versions))
            .route("/apis", get(discovery::groups))
            .route("/apis/{group}", get(discovery::group))
            .route("/api/{version}", get(discovery::core_resources))
            .route("/apis/{group}/{version}", get(discovery::resources))
            .route("/api/{version}/{*rest}", any(core_resource))
            .route("/apis/{group}/{version}/{*rest}", any(group_resource))
            .route("/openapi/v3", get(openapi::index))
            .route("/openapi/v3/{*path}", get(openapi::document))
            .route("/version", get(discovery::version))
            .layer(axum::middleware::from_fn(auth::require))
            .route("/healthz", get(|| async { "ok" }))
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(readyz))
            .fallback(auth::not_found)
            .with_state(self.clone())
    }
}

async fn readyz(State(api): State<Api>) -> Response {
    if api.inner.ready.load(std::sync::atomic::Ordering::Acquire) {
        "ok".into_response()
    } else {
        (StatusCode::INTERNAL_SERVER_ERROR, "[-]cluster is still starting\nreadyz check failed").into_response()
    }
}

async fn core_resource(
    State(api): State<Api>,
    Path((version, rest)): Path<(String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    api.resource("", &version, &rest, request).await
}

async fn group_resource(
    State(api): State<Api>,
    Path((group, version, rest)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, ApiError> {
    api.resource(&group, &version, &rest, request).await
}
