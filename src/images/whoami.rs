//! `vipyard/whoami`: tells who answers whom, over HTTP, TCP and UDP.
//!
//! * HTTP on port 80 (`--port N` or PORT). Any path answers with a text of `name: value` lines, or with JSON for
//!   `/json` and `Accept: application/json`. `/healthz` always answers 200; `/ready` answers 200 or 503, and
//!   `POST /ready?state=false` (or `true`) switches it, which a readiness probe then sees.
//! * TCP on port 9000 (`--tcp-port N` or TCP_PORT): greets with the same text, then sends back each line that it gets.
//! * UDP on port 9001 (`--udp-port N` or UDP_PORT): answers each datagram with the same text.
//!
//! Pod, namespace and node come from POD_NAME, POD_NAMESPACE and NODE_NAME, which the agent sets. On SIGTERM it
//! accepts the connections that are on their way, finishes the requests that it has, and exits with 0.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;

/// How long connections are accepted and kept after SIGTERM. The kernel resets those that are not accepted yet when the listener
/// closes.
const LAST_CONNECTIONS: Duration = Duration::from_millis(100);
/// How long a connection that is idle may wait for one more request, whose answer ends it. Closing it at once would cross
/// with a request that is on its way.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// How long requests in flight may take after that; less than a Pod's usual 30 seconds of grace.
const DRAIN: Duration = Duration::from_secs(25);

struct Ports {
    http: u16,
    tcp: u16,
    udp: u16,
}

/// The answering Pod.
struct Identity {
    pod: String,
    namespace: String,
    node: String,
    ready: AtomicBool,
    /// SIGTERM has come: each connection ends with its next answer.
    leaving: AtomicBool,
}

pub fn main(args: &[String]) -> ExitCode {
    let ports = match ports(args) {
        Ok(ports) => ports,
        Err(e) => {
            eprintln!("whoami: {e}");
            return ExitCode::from(64);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(serve(&ports))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("whoami: {e}");
            ExitCode::FAILURE
        }
    }
}

fn ports(args: &[String]) -> Result<Ports, String> {
    let variable = |name: &str, default: u16| match std::env::var(name) {
        Ok(text) => text.parse().map_err(|_| format!("{name}={text} is not a port")),
        Err(_) => Ok(default),
    };
    let mut ports =
        Ports { http: variable("PORT", 80)?, tcp: variable("TCP_PORT", 9000)?, udp: variable("UDP_PORT", 9001)? };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let (flag, value) = match arg.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (arg.as_str(), args.next().cloned()),
        };
        let slot = match flag {
            "--port" => &mut ports.http,
            "--tcp-port" => &mut ports.tcp,
            "--udp-port" => &mut ports.udp,
            _ => return Err(format!("unknown argument {arg}: there are --port, --tcp-port and --udp-port")),
        };
        *slot = value.and_then(|v| v.parse().ok()).ok_or_else(|| format!("{flag} needs a port number"))?;
    }
    Ok(ports)
}

async fn serve(ports: &Ports) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let identity = Arc::new(Identity {
        pod: variable("POD_NAME"),
        namespace: variable("POD_NAMESPACE"),
        node: variable("NODE_NAME"),
        ready: AtomicBool::new(true),
        leaving: AtomicBool::new(false),
    });
    let http = bind(ports.http, "HTTP").await?;
    let tcp = bind(ports.tcp, "TCP").await?;
    let udp = UdpSocket::bind(any(ports.udp)).await.map_err(|e| occupied(&e, "UDP", ports.udp))?;
    println!("whoami: HTTP on {}, TCP on {}, UDP on {}", ports.http, ports.tcp, ports.udp);

    tokio::spawn(serve_tcp(tcp, Arc::clone(&identity)));
    tokio::spawn(serve_udp(udp, Arc::clone(&identity)));
    let (graceful, connections) = (GracefulShutdown::new(), TaskTracker::new());
    let accept = async || match http.accept().await {
        Ok((stream, client)) => {
            let connection = graceful.watch(http_connection(stream, client, &identity));
            // A client that goes away in the middle is its own affair.
            connections.spawn(async move { drop(connection.await) });
        }
        Err(e) => eprintln!("whoami: accept: {e}"),
    };
    loop {
        tokio::select! {
            () = accept() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // Handshakes that were under way are not refused, and clients that keep connections learn of the end by an answer
    // and not by a reset of their next request.
    identity.leaving.store(true, Ordering::Relaxed);
    let last = async {
        loop {
            accept().await;
        }
    };
    let _: Result<(), _> = tokio::time::timeout(LAST_CONNECTIONS, last).await;
    drop(http);
    connections.close();
    let _ = tokio::time::timeout(LAST_REQUESTS, connections.wait()).await;
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

/// One socket for both families.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

async fn bind(port: u16, what: &str) -> io::Result<TcpListener> {
    TcpListener::bind(any(port)).await.map_err(|e| occupied(&e, what, port))
}

fn occupied(error: &io::Error, what: &str, port: u16) -> io::Error {
    io::Error::new(error.kind(), format!("{what} port {port}: {error}"))
}

fn http_connection(
    stream: TcpStream,
    client: SocketAddr,
    identity: &Arc<Identity>,
) -> impl GracefulConnection<Error = hyper::Error> + use<> {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or_else(|_| any(0));
    let identity = Arc::clone(identity);
    let service = service_fn(move |request| {
        let mut response = identity.respond(&request, client, local);
        if identity.leaving.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service)
}

async fn serve_tcp(listener: TcpListener, identity: Arc<Identity>) {
    while let Ok((stream, client)) = listener.accept().await {
        let identity = Arc::clone(&identity);
        tokio::spawn(async move { drop(echo(stream, client, &identity).await) });
    }
}

async fn echo(mut stream: TcpStream, client: SocketAddr, identity: &Identity) -> io::Result<()> {
    let local = stream.local_addr()?;
    stream.write_all(identity.text("tcp", client, local).as_bytes()).await?;
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).await? > 0 {
        write.write_all(&line).await?;
        line.clear();
    }
    Ok(())
}

async fn serve_udp(socket: UdpSocket, identity: Arc<Identity>) {
    let local = socket.local_addr().unwrap_or_else(|_| any(0));
    let mut datagram = [0; 2048];
    loop {
        // An ICMP error about an earlier answer comes back here; the next datagram is not affected.
        if let Ok((_, client)) = socket.recv_from(&mut datagram).await {
            let _ = socket.send_to(identity.text("udp", client, local).as_bytes(), client).await;
        }
    }
}

impl Identity {
    fn respond(&self, request: &Request<Incoming>, client: SocketAddr, local: SocketAddr) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/healthz" => plain(StatusCode::OK, "ok\n".to_owned()),
            "/ready" => self.ready(request),
            path => {
                let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
                if path == "/json" || accept.contains("application/json") {
                    let mut response = plain(StatusCode::OK, self.json("http", client, local));
                    let json = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    response
                } else {
                    plain(StatusCode::OK, self.text("http", client, local))
                }
            }
        }
    }

    fn ready(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if *request.method() == Method::POST {
            match request.uri().query() {
                Some("state=true") => self.ready.store(true, Ordering::Relaxed),
                Some("state=false") => self.ready.store(false, Ordering::Relaxed),
                _ => return plain(StatusCode::BAD_REQUEST, "say ?state=true or ?state=false\n".to_owned()),
            }
            return plain(StatusCode::OK, "ok\n".to_owned());
        }
        if self.ready.load(Ordering::Relaxed) {
            plain(StatusCode::OK, "ready\n".to_owned())
        } else {
            plain(StatusCode::SERVICE_UNAVAILABLE, "not ready\n".to_owned())
        }
    }

    fn text(&self, protocol: &str, client: SocketAddr, local: SocketAddr) -> String {
        let Self { pod, namespace, node, .. } = self;
        let (client, local) = (canonical(client), canonical(local));
        format!(
            "pod: {pod}\nnamespace: {namespace}\nnode: {node}\nprotocol: {protocol}\nserver: {local}\nclient: {client}\n"
        )
    }

    fn json(&self, protocol: &str, client: SocketAddr, local: SocketAddr) -> String {
        let (client, local) = (canonical(client), canonical(local));
        let value = serde_json::json!({
            "pod": self.pod, "namespace": self.namespace, "node": self.node, "protocol": protocol,
            "serverAddress": local.ip(), "serverPort": local.port(),
            "clientAddress": client.ip(), "clientPort": client.port(),
        });
        format!("{value}\n")
    }
}

/// IPv4 addresses look like `::ffff:a.b.c.d` on a socket for both families.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
