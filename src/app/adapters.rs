//! Where two parts meet that know nothing of one another.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use tokio::net::{TcpSocket, TcpStream};
use tracing::warn;

use crate::api::ApiError;
use crate::api::logs::{LogOptions, LogSource, LogStream};
use crate::api::node_power::{NodePower, SwitchError};
use crate::api::pki;
use crate::api::streams::{ContainerRef, Ended, Nodes, Resize, Session, Wanted};
use crate::dashboard::{self, view::Traffic};
use crate::edge::{ShutDoors, TellShut};
use crate::events::{EventType, Recorder};
use crate::node::{self, Agents, EventSink, LogError, PowerError};
use crate::router::{Router, meter};
use crate::sys::netns::NetNs;

/// What the node agents have to say about Pods becomes Events.
pub(super) struct NodeEvents(pub Recorder);

impl EventSink for NodeEvents {
    fn event(&self, pod: &Pod, type_: &str, reason: &str, message: &str) {
        let type_ = if type_ == "Warning" { EventType::Warning } else { EventType::Normal };
        self.0.event(pod.object_ref(&()), type_, reason, message);
    }
}

/// The API's power switch is the agents'.
pub(super) struct Power(pub Agents);

impl NodePower for Power {
    fn switch(&self, node: String, on: bool) -> BoxFuture<'_, Result<(), SwitchError>> {
        Box::pin(async move {
            let switched = if on { self.0.start_node(&node).await } else { self.0.stop_node(&node).await };
            switched.map_err(|e| match e {
                PowerError::NoSuchNode => SwitchError::NoSuchNode,
                e => SwitchError::Failed(e.to_string()),
            })
        })
    }
}

/// The API's question for a log goes to the node agents.
pub(super) struct NodeLogs(pub Agents);

impl LogSource for NodeLogs {
    fn logs(
        &self,
        namespace: String,
        pod: String,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, ApiError>> {
        let options = crate::node::LogOptions {
            follow: options.follow,
            previous: options.previous,
            tail_lines: options.tail_lines,
            since_time: options.since,
            timestamps: options.timestamps,
            limit_bytes: options.limit_bytes,
            stream: options.stream.map(|stream| match stream {
                LogStream::Stdout => crate::node::LogStream::Stdout,
                LogStream::Stderr => crate::node::LogStream::Stderr,
            }),
        };
        let log = self.0.logs(&namespace, &pod, &container, options).map(StreamExt::boxed).map_err(|e| match e {
            LogError::NoPod(_)
            | LogError::NoContainer { .. }
            | LogError::Waiting { .. }
            | LogError::NoPrevious { .. } => ApiError::bad_request(e.to_string()),
        });
        Box::pin(std::future::ready(log))
    }
}

/// The router's counters, in the page's words.
struct PageMeter(meter::Meter);

/// What makes the page's meters.
pub(super) fn meters(router: &Arc<Router>) -> dashboard::NewMeter {
    let router = Arc::clone(router);
    Box::new(move || Box::new(PageMeter(meter::Meter::new(Arc::clone(&router)))))
}

impl dashboard::Meter for PageMeter {
    fn read(&mut self) -> Traffic {
        let reading = self.0.read();
        let passed = reading.passed.into_iter().map(|(line, bytes)| {
            let end = match line.pod {
                Some(pod) => format!("{}/{pod}", line.namespace),
                None => format!("ip:{}", line.address),
            };
            (format!("{}/{}", line.namespace, line.service), end, bytes)
        });
        let refused =
            reading.refused.into_iter().map(|((namespace, name), count)| (format!("{namespace}/{name}"), count));
        Traffic { passed: passed.collect(), refused: refused.collect(), ..Traffic::default() }
    }
}

/// exec, attach and port-forwards go to the node agents; proxies dial from where the API server is.
pub(super) struct NodeStreams {
    pub agents: Agents,
    pub control_plane: Arc<NetNs>,
}

impl Nodes for NodeStreams {
    fn is_running(&self, container: &ContainerRef) -> bool {
        self.agents.is_running(&container.namespace, &container.pod, &container.container)
    }

    fn exec(
        &self,
        container: ContainerRef,
        command: Vec<String>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Session, String>> {
        let agents = self.agents.clone();
        Box::pin(async move {
            let ContainerRef { namespace, pod, container } = container;
            let what = format!("[{}]", command.join(" "));
            let begun = agents.exec(&namespace, &pod, &container, command, streams(wanted)).await;
            begun.map(|begun| session(begun, what)).map_err(|e| e.to_string())
        })
    }

    fn attach(&self, container: ContainerRef, wanted: Wanted) -> Result<Session, String> {
        let ContainerRef { namespace, pod, container } = container;
        let joined = self.agents.attach(&namespace, &pod, &container, streams(wanted));
        joined.map(|joined| session(joined, String::new())).map_err(|e| e.to_string())
    }

    fn forward(&self, namespace: String, pod: String, port: u16) -> BoxFuture<'static, Result<TcpStream, String>> {
        let agents = self.agents.clone();
        Box::pin(async move { agents.forward(&namespace, &pod, port).await })
    }

    fn dial(&self, address: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        let namespace = Arc::clone(&self.control_plane);
        Box::pin(async move {
            let new = move || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            let socket =
                tokio::task::spawn_blocking(move || namespace.run(new)).await.map_err(io::Error::other)???;
            socket.connect(address).await
        })
    }
}

fn streams(wanted: Wanted) -> node::Wanted {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    node::Wanted { stdin, stdout, stderr, tty }
}

fn session(session: node::Session, what: String) -> Session {
    let node::Session { stdin, stdout, stderr, terminal, ended, alive } = session;
    let resize = terminal.map(|terminal| -> Resize { Box::new(move |columns, rows| terminal.resize(columns, rows)) });
    let ended = Box::pin(async move { Ok(Ended { code: ended.await, what }) });
    Session { stdin, stdout, stderr, resize, ended, alive }
}

/// Takes down which doors are shut in a file of the data directory.
pub(super) fn shut_doors_in(file: PathBuf) -> TellShut {
    Box::new(move |doors: &ShutDoors| {
        let text = serde_json::to_string(doors).unwrap_or_default();
        if let Err(error) = pki::write_private(&file, &format!("{text}\n")) {
            warn!(path = %file.display(), %error, "what is not at the loopback cannot be told");
        }
    })
}
