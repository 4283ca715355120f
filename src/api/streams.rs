//! exec, attach and port-forward: a request that becomes a connection with streams of its own.
//!
//! ```text
//! GET or POST ── upgrade ──┬── WebSocket ──┬── channels ────────────────┬── command ── process
//!                          │               └── tunnel ──┐               │
//!                          └── SPDY/3.1 ────────────────┴── streams ────┴── forward ── connection
//! ```
//!
//! What is wrong before the upgrade (no such Pod, a container that does not run) is an ordinary answer, and a kubelet's
//! words; what goes wrong later comes on the error stream. A stream ends with its process, its client, or vipyard.

mod command;
mod conversation;
mod forward;
mod spdy;
mod spdy_session;
mod upgrade;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Api;
use super::request::Params;
use super::status::{About, ApiError};
use super::subresources::container_of;
use crate::store::Key;
use conversation::Connection;
use upgrade::{Protocol, Upgrade};

pub(super) use upgrade::{Switched, switched};

/// Streams at a time; a client more is told to come again.
pub(super) const STREAMS: usize = 1024;
/// What a client has sent before it hung up may still be read for this long.
const LAST_INPUT: Duration = Duration::from_secs(5);

/// A container by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRef {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

/// Which of a process's streams a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A terminal, with the client's size.
    pub tty: bool,
}

impl Wanted {
    fn of(params: &Params) -> Result<Self, ApiError> {
        let tty = params.flag("tty");
        // A terminal has one output.
        let stderr = params.flag("stderr") && !tty;
        let wanted = Self { stdin: params.flag("stdin"), stdout: params.flag("stdout"), stderr, tty };
        if wanted.stdin || wanted.stdout || wanted.stderr {
            Ok(wanted)
        } else {
            Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
        }
    }
}

/// Sets the columns and rows of a terminal.
pub type Resize = Box<dyn Fn(u16, u16) + Send + Sync>;

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    /// The command, for the message.
    pub what: String,
}

/// A process's ends of the streams. Dropping it closes them all.
pub struct Session {
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub stdout: Option<BoxStream<'static, Bytes>>,
    pub stderr: Option<BoxStream<'static, Bytes>>,
    pub resize: Option<Resize>,
    pub ended: BoxFuture<'static, Result<Ended, String>>,
    /// What serves the streams ends with it.
    pub alive: DropGuard,
}

/// Those who run containers and reach their networks.
pub trait Nodes: Send + Sync {
    fn is_running(&self, container: &ContainerRef) -> bool;

    /// Runs a command in a container. The error is for people, without a word on what was tried.
    fn exec(
        &self,
        container: ContainerRef,
        command: Vec<String>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Session, String>>;

    /// Joins those who listen to a container.
    fn attach(&self, container: ContainerRef, wanted: Wanted) -> Result<Session, String>;

    /// Connects to a port on the loopback of a Pod.
    fn forward(&self, namespace: String, pod: String, port: u16) -> BoxFuture<'static, Result<TcpStream, String>>;

    /// Connects to an address of the cluster, as the API server.
    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

impl Api {
    pub(super) fn nodes(&self) -> Result<Arc<dyn Nodes>, ApiError> {
        let nodes = self.inner.nodes.get().map(Arc::clone);
        nodes.ok_or_else(|| ApiError::service_unavailable("the nodes are still starting: try again in a moment"))
    }

    /// Serves exec, attach or portforward of a Pod.
    pub(super) fn stream(
        &self,
        namespace: &str,
        pod: &str,
        subresource: &str,
        request: &mut Request,
    ) -> Result<Response, ApiError> {
        if ![Method::GET, Method::POST].contains(request.method()) {
            return Err(ApiError::method_not_allowed());
        }
        let object = self.pod(namespace, pod)?;
        if object["spec"]["nodeName"].as_str().unwrap_or_default().is_empty() {
            return Err(ApiError::bad_request(format!("pod {pod} does not have a host assigned")));
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        if subresource == "portforward" {
            return self.forward(namespace, pod, &object, &query, request);
        }
        let params = Params::parse(&query);
        let container = container_of(&object, pod, params.get("container"))?;
        let container = ContainerRef { namespace: namespace.to_owned(), pod: pod.to_owned(), container };
        let wanted = Wanted::of(&params)?;
        let nodes = self.nodes()?;
        let protocol = Protocol::of(request.headers())?;
        let begin: command::Begin = if subresource == "exec" {
            let words = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "command");
            let words: Vec<String> = words.map(|(_, word)| word.into_owned()).collect();
            if words.is_empty() {
                return Err(ApiError::bad_request("you must specify at least one command for the container"));
            }
            if !nodes.is_running(&container) {
                return Ok(refused(format!("container not found ({:?})", container.container)));
            }
            Box::new(move || {
                let begun = nodes.exec(container, words, wanted);
                Box::pin(async move { begun.await.map_err(|e| format!("error executing command in container: {e}")) })
            })
        } else {
            if !nodes.is_running(&container) {
                let ContainerRef { namespace, pod, container } = container;
                return Ok(refused(format!("container {container} not found in pod {pod}_{namespace}")));
            }
            let joined = move || nodes.attach(container, wanted);
            Box::new(move || {
                let joined = joined().map_err(|e| format!("error attaching to container: {e}"));
                Box::pin(std::future::ready(joined))
            })
        };
        let supported = if protocol == Protocol::Spdy { &command::SPDY[..] } else { &command::WEBSOCKET };
        let default = (protocol == Protocol::WebSocket).then_some(command::PLAIN);
        let upgrade = Upgrade::agree(request, protocol, supported, default)?;
        let subprotocol = upgrade.subprotocol.clone();
        self.switch(upgrade, move |connection, gone| async move {
            match protocol {
                Protocol::WebSocket => command::over_websocket(connection, &subprotocol, wanted, gone, begin).await,
                Protocol::Spdy => command::over_spdy(connection, wanted, gone, begin).await,
            }
        })
    }

    fn forward(
        &self,
        namespace: &str,
        pod: &str,
        object: &Value,
        query: &str,
        request: &mut Request,
    ) -> Result<Response, ApiError> {
        let nodes = self.nodes()?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        let (namespace, pod) = (namespace.to_owned(), pod.to_owned());
        let dial: forward::Dial = Arc::new(move |port| {
            let dialed = nodes.forward(namespace.clone(), pod.clone(), port);
            let failed = format!("error forwarding port {port} to pod {pod}, uid {uid}");
            Box::pin(async move { dialed.await.map_err(|e| format!("{failed}: {e}")) })
        });
        let protocol = Protocol::of(request.headers())?;
        let (supported, default) = match protocol {
            Protocol::Spdy => (&forward::SPDY[..], Some(forward::SPDY[0])),
            Protocol::WebSocket => (&forward::WEBSOCKET[..], Some(forward::WEBSOCKET[1])),
        };
        let upgrade = Upgrade::agree(request, protocol, supported, default)?;
        let subprotocol = upgrade.subprotocol.clone();
        let channels = protocol == Protocol::WebSocket && subprotocol != forward::TUNNEL;
        let ports = if channels { forward::ports(query)? } else { Vec::new() };
        self.switch(upgrade, move |connection, gone| async move {
            let base64 = subprotocol.contains("base64");
            let framing = if base64 { websocket::Framing::Base64 } else { websocket::Framing::Binary };
            match protocol {
                Protocol::Spdy => forward::over_spdy(connection, gone, dial).await,
                Protocol::WebSocket if channels => {
                    forward::over_channels(connection, framing, ports, gone, dial).await;
                }
                Protocol::WebSocket => forward::over_tunnel(connection, gone, dial).await,
            }
        })
    }

    /// Answers with the switch of protocols, and serves the connection that it leads to in a task of its own.
    fn switch<F>(
        &self,
        upgrade: Upgrade,
        serve: impl FnOnce(Box<dyn Connection>, CancellationToken) -> F + Send + 'static,
    ) -> Result<Response, ApiError>
    where
        F: Future<Output = ()> + Send,
    {
        let place = self.stream_place()?;
        let (response, on_upgrade) = upgrade.into_parts();
        let gone = self.inner.stopping.child_token();
        self.inner.streams.spawn(async move {
            let _place = place;
            let Switched { connection, hung_up } = match switched(on_upgrade).await {
                Ok(switched) => switched,
                Err(error) => {
                    tracing::debug!(%error, "connection not upgraded");
                    return;
                }
            };
            let served = serve(connection, gone.clone());
            let left = async {
                hung_up.await;
                tokio::time::sleep(LAST_INPUT).await;
                gone.cancel();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = served => {}
                () = left => {}
            }
        });
        Ok(response)
    }

    /// Room for one more stream.
    pub(super) fn stream_place(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let place = Arc::clone(&self.inner.stream_room).try_acquire_owned();
        place.map_err(|_| ApiError::too_many_requests("too many streams are open, please try again later"))
    }

    /// A Pod as it is stored.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Value, ApiError> {
        self.stored("pods", namespace, name)
    }

    /// An object of the core group as it is stored.
    pub(super) fn stored(&self, resource: &'static str, namespace: &str, name: &str) -> Result<Value, ApiError> {
        let entry = self.store().get(&Key::new(resource, namespace, name));
        let entry = entry.ok_or_else(|| ApiError::not_found(About { group: "", resource, name }))?;
        serde_json::from_slice(&entry.value).map_err(ApiError::internal)
    }
}

/// A kubelet's refusal, which is no `Status`: clients show the text.
fn refused(why: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, why).into_response()
}
