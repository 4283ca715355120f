//! The API server: the one way in which parts of the cluster, and people, read and change objects.
//!
//! A request is authenticated ([`auth`]), its path and options are parsed ([`request`]), and a verb ([`verbs`],
//! [`delete`], [`list`], [`watch`]) carries it out on JSON values, asking the [`kinds`] for defaults and rules and the
//! store for the write. Objects are encoded once, when they are written; gets, lists and watches send those bytes.
//!
//! The structure of each kind is its [`schema`]: strategic merge patches, server-side apply and the owners of fields
//! (`managed`), the check for unknown fields and the OpenAPI documents walk along it. Built-in kinds have theirs from
//! `k8s-openapi`, custom ones (`custom`) from their definitions.

pub mod alloc;
pub mod auth;
pub mod barrier;
pub mod causes;
mod compression;
mod count;
mod custom;
mod delete;
mod discovery;
pub mod dns;
mod duplicates;
mod events;
mod health;
pub mod insight;
mod ip_addresses;
pub mod kinds;
mod leftover;
mod limits;
mod list;
pub mod logs;
mod managed;
mod metadata;
mod names;
mod negotiate;
pub mod node_power;
mod object;
mod openapi;
mod patch;
pub mod pki;
mod protobuf;
mod proxy;
mod request;
mod reviews;
pub mod schema;
mod selector;
pub mod serve;
mod status;
pub mod streams;
mod subresources;
mod table;
pub mod tokens;
mod verbs;
mod warnings;
mod watch;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use k8s_openapi::api::core::v1::ServiceSpec;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::{Network, NodeTimes};
use crate::store::{Scope, Store};
use alloc::Allocators;
use auth::Identity;
use barrier::DataPlane;
use dns::NameService;
use insight::Insight;
use kinds::{Context, Registry, Strategy};
use logs::LogSource;
use node_power::NodePower;
use streams::Nodes;
use tokens::TokenKey;
use tokens::discovery::{CONFIGURATION_PATH, KEYS_PATH};

pub use custom::definition::CLEANUP_FINALIZER;
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
    /// The kinds that each definition brings, by the definition's revision.
    definitions: Mutex<HashMap<u64, Vec<Arc<dyn Strategy>>>>,
    /// Signs and verifies the tokens of ServiceAccounts.
    token_key: TokenKey,
    /// Who issues them: the API as Pods know it.
    issuer: String,
    /// Where container logs come from: the node agents, once they run.
    logs: std::sync::OnceLock<Arc<dyn LogSource>>,
    /// Who runs containers and reaches their networks, once they do.
    nodes: std::sync::OnceLock<Arc<dyn Nodes>>,
    /// Connections that are no HTTP any more, and those of proxies.
    streams: TaskTracker,
    stream_room: Arc<tokio::sync::Semaphore>,
    /// Knows when packets follow the objects, once there are packets.
    data_plane: std::sync::OnceLock<Arc<dyn DataPlane>>,
    /// Knows why packets go where they go, and what was counted.
    insight: std::sync::OnceLock<Arc<dyn Insight>>,
    /// Runs the nodes, once they run.
    node_power: std::sync::OnceLock<Arc<dyn NodePower>>,
    /// Looks names up as Pods do, once there is DNS.
    names: std::sync::OnceLock<Arc<dyn NameService>>,
    /// One for each request from outside that is worked on.
    in_flight: tokio::sync::Semaphore,
    /// Ends watches when the server stops, so that connections close cleanly.
    stopping: CancellationToken,
    ready: std::sync::atomic::AtomicBool,
}

impl Api {
    /// `token_key` has signed the tokens of earlier runs, too, if these are to be worth something.
    pub fn new(store: Store, network: Network, token_key: TokenKey, stopping: CancellationToken) -> Self {
        Self::with_times(store, network, NodeTimes::default(), token_key, stopping)
    }

    /// [`Self::new`] with other tolerations of lost nodes for Pods that name none.
    pub fn with_times(
        store: Store,
        network: Network,
        node_times: NodeTimes,
        token_key: TokenKey,
        stopping: CancellationToken,
    ) -> Self {
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
            definitions: Mutex::default(),
            token_key,
            issuer: format!("https://kubernetes.default.svc.{}", network.domain),
            ctx: Context { network, node_times, allocators, store },
            logs: std::sync::OnceLock::new(),
            nodes: std::sync::OnceLock::new(),
            streams: TaskTracker::new(),
            stream_room: Arc::new(tokio::sync::Semaphore::new(streams::STREAMS)),
            data_plane: std::sync::OnceLock::new(),
            insight: std::sync::OnceLock::new(),
            node_power: std::sync::OnceLock::new(),
            names: std::sync::OnceLock::new(),
            in_flight: tokio::sync::Semaphore::new(limits::IN_FLIGHT),
            stopping,
            ready: std::sync::atomic::AtomicBool::new(false),
        };
        let api = Self { inner: Arc::new(inner) };
        api.refresh_custom_kinds();
        api
    }

    /// Serves the kinds that the stored definitions define.
    fn refresh_custom_kinds(&self) {
        // Held over listing and serving, so that an older list never comes last.
        let mut known = self.inner.definitions.lock();
        let stored = self.store().list(&Scope::all(custom::definition::RESOURCE)).items;
        let mut next = HashMap::new();
        let mut kinds = Vec::new();
        for entry in stored {
            let made = known.remove(&entry.revision).unwrap_or_else(|| match serde_json::from_slice(&entry.value) {
                Ok(definition) => custom::kinds_of(&definition),
                Err(error) => {
                    tracing::warn!(key = %entry.key, %error, "definition cannot be read");
                    Vec::new()
                }
            });
            kinds.extend(made.iter().cloned());
            next.insert(entry.revision, made);
        }
        *known = next;
        self.registry().set_custom(kinds);
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

    /// Says who serves exec, attach, port-forwards and proxies. Only the first call counts.
    pub fn set_nodes(&self, nodes: Arc<dyn Nodes>) {
        let _ = self.inner.nodes.set(nodes);
    }

    /// Waits for the end of all streams, which comes soon after `stopping`.
    pub async fn streams_ended(&self) {
        self.inner.streams.close();
        self.inner.streams.wait().await;
    }

    /// Says who answers `/vipyard/v1/barrier`. Only the first call counts.
    pub fn set_data_plane(&self, data_plane: Arc<dyn DataPlane>) {
        let _ = self.inner.data_plane.set(data_plane);
    }

    /// Says who explains and counts. Only the first call counts.
    pub fn set_insight(&self, insight: Arc<dyn Insight>) {
        let _ = self.inner.insight.set(insight);
    }

    /// Says who stops and starts nodes. Only the first call counts.
    pub fn set_node_power(&self, power: Arc<dyn NodePower>) {
        let _ = self.inner.node_power.set(power);
    }

    /// Says who answers `/vipyard/v1/dns`. Only the first call counts.
    pub fn set_names(&self, names: Arc<dyn NameService>) {
        let _ = self.inner.names.set(names);
    }

    /// Makes /readyz answer 200.
    pub fn set_ready(&self) {
        self.inner.ready.store(true, std::sync::atomic::Ordering::Release);
    }

    /// A client for a part of the cluster in this process: no socket, no TLS, the identity is given.
    pub fn client(&self, identity: Identity) -> kube::Client {
        let service = self.router().map_request(move |mut request: http::Request<kube::client::Body>| {
            request.extensions_mut().insert(identity.clone());
            request.extensions_mut().insert(request::Lean);
            request.map(axum::body::Body::new)
        });
        kube::Client::new(service, "default")
    }

    /// What is served to the outside: [`Self::router`] with bounds on requests, which are read to their end.
    pub fn public_router(&self) -> Router {
        self.router()
            .layer(axum::middleware::from_fn_with_state(self.clone(), limits::bound))
            .layer(axum::middleware::from_fn(leftover::read))
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
            .route("/openapi/v2", get(openapi::document_v2))
            .route("/openapi/v3", get(openapi::index))
            .route("/openapi/v3/{*path}", get(openapi::document))
            .route("/version", get(discovery::version))
            .route(CONFIGURATION_PATH, get(tokens::discovery::configuration))
            .route(KEYS_PATH, get(tokens::discovery::keys))
            .route(barrier::PATH, get(barrier::barrier))
            .route(insight::SERVICE, get(insight::service))
            .route(insight::FLOW, get(insight::flow))
            .route(insight::FLOWS, get(insight::flows))
            .route(insight::METRICS, get(insight::metrics))
            .route(node_power::PATH, axum::routing::post(node_power::switch))
            .route(dns::PATH, get(dns::look_up))
            .route(dns::QUERIES_PATH, get(dns::queries))
            .fallback(|| async { discovery::page_not_found() })
            .layer(axum::middleware::from_fn_with_state(self.clone(), auth::require))
            .route("/healthz", get(health::healthz))
            .route("/livez", get(health::livez))
            .route("/readyz", get(health::readyz))
            .layer(axum::middleware::from_fn_with_state(self.clone(), count::count))
            .with_state(self.clone())
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
