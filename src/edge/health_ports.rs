//! The listeners of health checks, in the nodes' namespaces: `healthCheckNodePort` of each Service that has one, on the
//! node addresses that take node ports (H1), and the proxy's own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::EdgeNode;
use super::health::{self, Answer, Checked};
use crate::cluster::{Change, Cluster, Informer, ObjectKey};
use crate::config::{PROXY_HEALTH_PORT, PROXY_MODE_PORT};
use crate::events::{EventType, Recorder};
use crate::router::Router;

/// Connections to one listener at the same time; a health checker needs one.
const CONNECTIONS: usize = 64;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(10);
/// How long to wait after a connection could not be accepted, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers a request for a path.
type Answers = Arc<dyn Fn(&str) -> Answer + Send + Sync>;

/// Opens the proxy's own ports on every node, and follows the Services.
pub(super) fn start(
    nodes: Arc<[EdgeNode]>,
    cluster: &Cluster,
    router: &Arc<Router>,
    events: Recorder,
    stopping: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    for node in nodes.iter() {
        let proxy = proxy_answers(node.name.clone(), cluster, router);
        let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PROXY_HEALTH_PORT));
        let own = SocketAddr::from((Ipv4Addr::LOCALHOST, PROXY_MODE_PORT));
        for (address, answers) in [(all, proxy), (own, Arc::new(health::mode_answer) as Answers)] {
            let listener = node.listen(address);
            let listener = listener.with_context(|| format!("cannot listen on {address} of node {}", node.name))?;
            tasks.spawn(serve(listener, answers, stopping.clone()));
        }
    }
    let ports = ServicePorts { nodes, router: Arc::clone(router), events, stopping, open: BTreeMap::new() };
    tasks.spawn(ports.follow(cluster.services.clone()));
    Ok(())
}

fn proxy_answers(node: String, cluster: &Cluster, router: &Arc<Router>) -> Answers {
    let (nodes, router, healthy_at) = (cluster.nodes.clone(), Arc::clone(router), Mutex::new(Timestamp::now()));
    Arc::new(move |path| {
        let (healthy, now) = (router.is_healthy(), Timestamp::now());
        let eligible = nodes.get("", &node).is_some_and(|node| health::is_eligible(&node));
        let mut updated = healthy_at.lock();
        if healthy {
            *updated = now;
        }
        health::proxy_answer(path, healthy, eligible, *updated, now)
    })
}

/// The health check ports of Services.
struct ServicePorts {
    nodes: Arc<[EdgeNode]>,
    router: Arc<Router>,
    events: Recorder,
    stopping: CancellationToken,
    open: BTreeMap<ObjectKey, Open>,
}

struct Open {
    service: Arc<Service>,
    checked: Checked,
    /// Every node listens. What is missing is tried again when the Service changes or another one's port is closed.
    complete: bool,
    stop: CancellationToken,
    listeners: JoinSet<()>,
}

impl ServicePorts {
    async fn follow(mut self, services: Informer<Service>) {
        let mut changes = services.subscribe();
        while let Some(change) = changes.recv().await {
            match change {
                Change::Applied { new, .. } => {
                    let (key, wanted) = (ObjectKey::of(&*new), Checked::of(&new));
                    let open = self.open.get(&key).filter(|open| open.complete);
                    if open.map(|open| &open.checked) != wanted.as_ref() {
                        let closed = self.close(&key).await;
                        if let Some(checked) = wanted {
                            self.listen(new, checked);
                        }
                        if closed {
                            self.try_again(&key).await;
                        }
                    }
                }
                Change::Deleted(old) => {
                    let key = ObjectKey::of(&*old);
                    if self.close(&key).await {
                        self.try_again(&key).await;
                    }
                }
                // What came before a mark is open or closed by now.
                Change::Synced | Change::Marked(_) => {}
            }
        }
    }

    /// H4. Returns when the port can be had by the next one; whether there was one.
    async fn close(&mut self, key: &ObjectKey) -> bool {
        let Some(mut open) = self.open.remove(key) else { return false };
        open.stop.cancel();
        while open.listeners.join_next().await.is_some() {}
        true
    }

    /// Another Service may have waited for the port that `closed` had.
    async fn try_again(&mut self, closed: &ObjectKey) {
        let waiting = self.open.iter().filter(|(key, open)| !open.complete && *key != closed);
        let waiting: Vec<_> = waiting.map(|(key, open)| (key.clone(), Arc::clone(&open.service))).collect();
        for (key, service) in waiting {
            self.close(&key).await;
            if let Some(checked) = Checked::of(&service) {
                self.listen(service, checked);
            }
        }
    }

    fn listen(&mut self, service: Arc<Service>, checked: Checked) {
        let (stop, mut listeners, mut complete) = (self.stopping.child_token(), JoinSet::new(), true);
        for (at, node) in self.nodes.iter().enumerate() {
            for ip in node.both().into_iter().filter(|ip| checked.has_family(ip.is_ipv6())) {
                match node.listen(SocketAddr::new(ip, checked.port)) {
                    Ok(listener) => {
                        listeners.spawn(serve(listener, self.answers(&checked, at, ip), stop.clone()));
                    }
                    Err(e) => {
                        complete = false;
                        let (name, key, port) = (&node.name, &checked.key, checked.port);
                        let message = format!("node {name} failed to start healthcheck \"{key}\" on port {port}: {e}");
                        let reason = "FailedToStartServiceHealthcheck";
                        self.events.event(service.object_ref(&()), EventType::Warning, reason, message);
                    }
                }
            }
        }
        self.open.insert(checked.key.clone(), Open { service, checked, complete, stop, listeners });
    }

    fn answers(&self, checked: &Checked, node: usize, ip: IpAddr) -> Answers {
        let (router, nodes, checked) = (Arc::clone(&self.router), Arc::clone(&self.nodes), checked.clone());
        Arc::new(move |_| {
            let local = checked.local_endpoints(&router.plan(), &nodes[node].name, ip.is_ipv6());
            checked.answer(local, router.is_healthy())
        })
    }
}

/// Answers until `stop`; then the listener is closed at once, and connections after their request.
async fn serve(listener: TcpListener, answers: Answers, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match (accepted, Arc::clone(&room).try_acquire_owned()) {
            (Ok((stream, _)), Ok(place)) => {
                let (answers, stop) = (Arc::clone(&answers), stop.clone());
                tokio::spawn(async move {
                    let _place = place;
                    if let Err(e) = connection(stream, answers, stop).await {
                        debug!(error = %e, "health check ended");
                    }
                });
            }
            // No room: whoever has taken it all is no health checker.
            (Ok(_), Err(_)) => {}
            (Err(e), _) => {
                debug!(error = %e, "cannot accept a health check");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, answers: Answers, stop: CancellationToken) -> hyper::Result<()> {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let answer = answers(request.uri().path());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    let connection = builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(connection.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
