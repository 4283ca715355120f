//! HTTP on a listener, over TLS or plain: one accept loop per listener, a task per connection, client certificates as
//! identities.
//!
//! What a client may cost is bounded: connections per listener, the time for a handshake and for a request's head, the
//! size of heads, streams per connection, and the time in which it takes nothing of what it is sent. Nothing is made
//! ahead of a client: a watcher that does not read holds one piece of its stream, until the kernel ends its connection
//! or [`http2`] its stream. Only the kernel watches connections for life, so that many of them wake nobody.

mod http2;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt};
use tracing::debug;

use super::auth::Identity;
use super::pki::{Authority, CertifiedKey};

/// The name of HTTP/2 in handshakes.
const HTTP2: &[u8] = b"h2";
/// A client that does not finish its handshake by then is cut off.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections of one listener; more wait in the kernel.
const CONNECTIONS: usize = 1024;
/// A connection without traffic is asked for a sign of life after this time.
const QUIET: Duration = Duration::from_secs(60);
/// A client that takes nothing is waited for so long when everything ends.
const ENDING: Duration = Duration::from_secs(3);
/// How long to wait after an accept failed for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long clients are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// One that takes nothing of what it is sent for this long is cut off.
    pub stalled: Duration,
    /// The next request's head must be there by then, which also ends connections that are not used.
    pub idle: Duration,
}

impl Default for Times {
    fn default() -> Self {
        Self { stalled: Duration::from_secs(30), idle: Duration::from_secs(90) }
    }
}

/// Among the extensions of an answer: its client may take nothing for as long as it likes, on a stream of HTTP/2. For
/// what people read with a pager.
#[derive(Clone, Copy, Debug)]
pub struct Patient;

/// What requests come by over TLS.
pub(super) type TlsConnection = TlsStream<TcpStream>;

/// Among the extensions of a request: the address that it comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub SocketAddr);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("TLS cannot be set up: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("TLS cannot be set up: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// TLS with `server`'s certificate. Client certificates are verified against the CA when they are shown; who shows
/// none is anonymous and gets 401 from the API.
pub fn acceptor(authority: &Authority, server: &CertifiedKey) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let certs = CertificateDer::pem_slice_iter(server.cert_pem.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(server.key_pem.as_bytes())?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certs, key)?;
    config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves `router` on `listener` until `stopping`, over TLS or, without `tls`, as plain HTTP/1; the connections are in
/// `connections` and finish what they are at.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopping: CancellationToken,
    connections: TaskTracker,
) {
    serve_with(listener, tls, router, stopping, connections, Times::default()).await;
}

/// [`serve`] with other times.
pub async fn serve_with(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopping: CancellationToken,
    connections: TaskTracker,
    times: Times,
) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, place)) => {
                let (tls, router, stopping) = (tls.clone(), router.clone(), stopping.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(e) = bound_silence(&stream, times.stalled) {
                        debug!(error = %e, "connection without bounds");
                    }
                    if let Err(e) = connection(stream, tls, router, stopping, times).await {
                        debug!(error = %e, "connection ended");
                    }
                });
            }
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection, when there is room for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}

/// Has the kernel end a connection whose client takes nothing for this long, or is gone without a word.
fn bound_silence(stream: &TcpStream, stalled: Duration) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(stalled.as_millis()).unwrap_or(u32::MAX))?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, QUIET)?;
    sockopt::set_tcp_keepintvl(stream, QUIET / 4)?;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    stopping: CancellationToken,
    times: Times,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let peer = Peer(stream.peer_addr()?);
    let service = |identity: Option<Identity>| {
        router.map_request(move |mut request: http::Request<Incoming>| {
            if let Some(identity) = &identity {
                request.extensions_mut().insert(identity.clone());
            }
            request.extensions_mut().insert(peer);
            request.map(Body::new)
        })
    };
    let Some(tls) = tls else { return Ok(http1(stream, service(None), times, stopping).await?) };
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(stream))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake within 10 s"))??;
    let session = stream.get_ref().1;
    let service = service(session.peer_certificates().and_then(|chain| Identity::of_certificate(chain.first()?)));
    if session.alpn_protocol() == Some(HTTP2) {
        http2::serve(stream, service, times, stopping).await?;
    } else {
        http1(stream, service, times, stopping).await?;
    }
    Ok(())
}

/// Serves a connection to its end.
async fn http1<I, S>(io: I, service: S, times: Times, stopping: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible> + Clone,
{
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(times.idle);
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service)).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        result = connection.as_mut() => return result,
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
