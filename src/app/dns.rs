//! Cluster DNS between the control plane's namespace, the host and the API.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::control_plane::ControlPlane;
use crate::api::dns::{NameQuestion, NameService, NoLookup};
use crate::cluster::Cluster;
use crate::config::{Config, DNS_PORT};
use crate::dns::lookup::Question;
use crate::dns::{Dns, ForwardConfig, RESOLV_CONF, Reader, Responder, ServerConfig, Within, Zone};
use crate::explain::Resolvers;
use crate::lifecycle::Waiting;

/// Where a data directory tells at which address its host asks cluster DNS.
pub const ADDRESS_FILE: &str = "dns-address";
/// How often a pair of equal free ports is tried for.
const TRIES: usize = 16;

/// The host's own door to cluster DNS.
pub(super) struct Door {
    udp: UdpSocket,
    tcp: TcpListener,
    pub address: SocketAddr,
}

/// Opens one port for both protocols.
pub(super) fn open(listen: SocketAddr) -> Result<Door> {
    let mut tried = 0;
    loop {
        tried += 1;
        let bound = UdpSocket::bind(listen).and_then(|udp| {
            let address = udp.local_addr()?;
            Ok(Door { tcp: TcpListener::bind(address)?, udp, address })
        });
        match bound {
            Ok(door) => return Ok(door),
            // The port that the kernel chose for one protocol is somebody's in the other.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && listen.port() == 0 && tried < TRIES => {}
            Err(e) => {
                return Err(e).with_context(|| {
                    format!("cannot listen on {listen}, UDP and TCP: free it or choose another with --dns-listen")
                });
            }
        }
    }
}

/// Starts it; the tasks end when they are aborted, or a moment after `stopping`.
pub(super) fn start(
    config: &Config,
    cluster: &Cluster,
    control_plane: &ControlPlane,
    door: Door,
    ready: Waiting,
    stopping: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<Names>> {
    let zone = Zone::new(&config.network);
    let flags = &config.dns;
    let within = Within { zone: zone.clone(), namespace: Arc::new(control_plane.namespace()?) };
    let forward = ForwardConfig::new(&flags.upstreams, &flags.stubs, Path::new(RESOLV_CONF), &zone, &[door.address]);
    let forward = ForwardConfig { within: Some(within), ..forward };
    let dns = Arc::new(Dns::new(zone, forward));
    let (mut udp, mut tcp) = (control_plane.sockets(DNS_PORT)?, control_plane.listeners(DNS_PORT)?);
    udp.push(door.udp);
    tcp.push(door.tcp);
    let server = dns.server(ServerConfig::default(), udp, tcp);
    let mut progress = dns.complete();
    tasks.spawn(dns.follow(cluster));
    let stop = stopping.clone();
    tasks.spawn(async move {
        if let Err(e) = server.serve(async move { stop.cancelled().await }).await {
            warn!(error = %e, "cluster DNS ended");
        }
    });
    tasks.spawn(async move {
        if progress.wait_for(|complete| *complete).await.is_ok() {
            drop(ready);
        }
    });
    if let Some(path) = flags.log.clone() {
        let file = std::fs::File::options().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}: choose another with --dns-log", path.display()))?;
        tasks.spawn(log(Arc::clone(&dns.responder), file, path));
    }
    let resolvers = Arc::new(Resolvers::read(&config.network));
    Ok(Arc::new(Names { dns, resolvers, cluster: cluster.clone() }))
}

/// Appends each question to a file.
async fn log(responder: Arc<Responder>, file: std::fs::File, path: PathBuf) {
    let mut file = tokio::fs::File::from_std(file);
    let mut questions = Reader::new(responder, None);
    loop {
        let lines = questions.next().await;
        let written = async {
            file.write_all(lines.as_bytes()).await?;
            file.flush().await
        };
        if let Err(e) = written.await {
            return warn!(path = %path.display(), error = %e, "questions are not logged any longer");
        }
    }
}

/// The API's questions about names.
pub(super) struct Names {
    pub dns: Arc<Dns>,
    pub resolvers: Arc<Resolvers>,
    cluster: Cluster,
}

impl NameService for Names {
    fn look_up(&self, question: NameQuestion) -> BoxFuture<'_, Result<Value, NoLookup>> {
        Box::pin(async move {
            let types: Vec<&str> = question.types.iter().map(String::as_str).collect();
            let wanted = Question::new(&question.name, &types).map_err(|why| NoLookup::BadQuestion(why.to_string()))?;
            let path = match &question.pod {
                None => self.resolvers.of_pod(&question.namespace, None),
                Some(name) => {
                    let pod = self.cluster.pods.get(&question.namespace, name).ok_or(NoLookup::NoPod)?;
                    self.resolvers.of_pod(&question.namespace, pod.spec.as_ref())
                }
            };
            let lookup = self.dns.look_up(&wanted, path).await;
            serde_json::to_value(lookup).map_err(|why| NoLookup::BadQuestion(why.to_string()))
        })
    }

    fn queries(&self, tail: Option<usize>, follow: bool) -> BoxStream<'static, Bytes> {
        let mut reader = Reader::new(Arc::clone(&self.dns.responder), tail);
        let kept = reader.read();
        let first = stream::iter((!kept.is_empty()).then(|| Bytes::from(kept)));
        if !follow {
            return first.boxed();
        }
        let more = stream::unfold(reader, |mut reader| async move {
            let lines = reader.next().await;
            Some((Bytes::from(lines), reader))
        });
        first.chain(more).boxed()
    }
}
