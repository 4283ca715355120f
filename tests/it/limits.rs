//! What a client from outside may cost: time, requests at a time, and bytes that it does not read.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use axum::routing::MethodRouter;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use vipyard::api::pki::Authority;
use vipyard::api::serve::{self, Times};

use crate::world::{CONFIG_MAPS, World, config_map, request};

/// A body of which nothing ever comes.
fn endless() -> Body {
    Body::from_stream(futures::stream::pending::<Result<Bytes, std::convert::Infallible>>())
}

/// A create whose body never comes.
fn stuck(path: &str) -> Request<Body> {
    request("POST", path).header("content-type", "application/json").body(endless()).unwrap()
}

async fn answer(world: &World, request: Request<Body>) -> (u16, Value) {
    let response = world.api.public_router().oneshot(request).await.expect("a router never fails");
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a whole body").to_bytes();
    (code, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(start_paused = true)]
async fn request_that_takes_too_long_is_a_timeout() {
    let world = World::start().await;
    for (query, seconds) in [("", 60), ("?timeout=5s", 5), ("?timeout=10m", 60)] {
        let begin = Instant::now();
        let (code, status) = answer(&world, stuck(&format!("{CONFIG_MAPS}{query}"))).await;
        assert_eq!(begin.elapsed().as_secs(), seconds, "{query}");
        assert_eq!((code, &status["reason"]), (504, &json!("Timeout")), "{status}");
        assert_eq!(status["message"], "Timeout: request did not complete within the allotted timeout");
    }
    let (code, status) = answer(&world, stuck(&format!("{CONFIG_MAPS}?timeout=soon"))).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")), "{status}");
}

#[tokio::test(start_paused = true)]
async fn watch_outlives_the_time_of_a_request() {
    let world = World::start().await;
    let watch = request("GET", &format!("{CONFIG_MAPS}?watch=true&timeout=1s")).body(Body::empty()).unwrap();
    let response = world.api.public_router().oneshot(watch).await.unwrap();
    let mut body = response.into_body();
    tokio::time::sleep(Duration::from_secs(120)).await;
    world.config_map("late", "1").await;
    let event = body.frame().await.expect("it goes on").unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&event).contains("\"late\""));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_limit_are_sent_away_after_a_while() {
    let world = Arc::new(World::start().await);
    let all: Vec<_> = (0..600)
        .map(|_| {
            let world = Arc::clone(&world);
            tokio::spawn(async move { answer(&world, stuck(CONFIG_MAPS)).await })
        })
        .collect();
    // With paused time this lets all of them begin.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    let get = || request("GET", CONFIG_MAPS).body(Body::empty()).unwrap();
    let response = world.api.public_router().oneshot(get()).await.unwrap();
    assert_eq!((response.status().as_u16(), begin.elapsed().as_secs()), (429, 15));
    assert_eq!(response.headers()["retry-after"], "1");
    // Parts of the cluster itself go on.
    world.get(CONFIG_MAPS).await.ok();
    for one in all {
        assert_eq!(one.await.unwrap().0, 504);
    }
    assert_eq!(answer(&world, get()).await.0, 200);
}

/// The API over TLS on loopback.
struct Listening {
    world: World,
    address: std::net::SocketAddr,
    tls: TlsConnector,
    connections: TaskTracker,
    stopping: CancellationToken,
    token: String,
}

async fn listen(times: Times) -> Listening {
    listen_with(times, |router| router).await
}

/// [`listen`] with more than the API.
async fn listen_with(times: Times, more: impl FnOnce(Router) -> Router) -> Listening {
    let world = World::start().await;
    let authority = Authority::open(None).unwrap();
    let server = authority.server(&[IpAddr::V4(Ipv4Addr::LOCALHOST)], &[]).unwrap();
    let acceptor = serve::acceptor(&authority, &server).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, stopping) = (TaskTracker::new(), CancellationToken::new());
    let router = more(world.api.public_router());
    tokio::spawn(serve::serve_with(listener, Some(acceptor), router, stopping.clone(), connections.clone(), times));

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.cert_pem().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let made = world.post(account, asked).await.created();
    let token = made["status"]["token"].as_str().unwrap().to_owned();
    Listening { world, address, tls: TlsConnector::from(Arc::new(config)), connections, stopping, token }
}

impl Listening {
    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.tls.connect(ServerName::from(self.address.ip()), stream).await.unwrap()
    }

    /// A connection whose handshake names HTTP/2.
    async fn connect_for_http2(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = (**self.tls.config()).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.address).await.unwrap();
        let tls = TlsConnector::from(Arc::new(config));
        tls.connect(ServerName::from(self.address.ip()), stream).await.unwrap()
    }

    /// An HTTP/2 connection.
    async fn connect_http2(&self) -> http2::SendRequest<Body> {
        let stream = self.connect_for_http2().await;
        let (client, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_connection_window_size(1 << 24)
            .initial_stream_window_size(1 << 16)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// A GET as HTTP/2 has it, with the token.
    fn question(&self, path: &str) -> Request<Body> {
        let request = Request::get(format!("https://{}{path}", self.address));
        request.header("authorization", format!("Bearer {}", self.token)).body(Body::empty()).unwrap()
    }

    /// Sends a GET and reads the head of its answer.
    async fn get(&self, path: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut stream = self.connect().await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", self.token);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("an answer"));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        stream
    }

    async fn until_connections(&self, count: usize) {
        let gone = async {
            while self.connections.len() != count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(Duration::from_secs(30), gone).await;
        assert!(found.is_ok(), "{} connections, not {count}", self.connections.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watcher_that_reads_nothing_is_cut_off_and_one_that_reads_stays() {
    let server = listen(Times { stalled: Duration::from_secs(2), ..Times::default() }).await;
    let deaf = server.get(&format!("{CONFIG_MAPS}?watch=true")).await;
    let mut reader = server.get(&format!("{CONFIG_MAPS}?watch=true")).await;
    server.until_connections(2).await;
    let reading = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 20];
        let mut tail = String::new();
        while !tail.contains("\"last\"") {
            let count = reader.read(&mut buffer).await.expect("it stays connected");
            assert!(count > 0, "it is not cut off");
            tail = String::from_utf8_lossy(&buffer[..count]).into_owned();
        }
        reader
    });
    // More than the buffers of both ends hold.
    for i in 0..150 {
        server.world.post(CONFIG_MAPS, config_map(&format!("c{i}"), &"x".repeat(200_000))).await.created();
    }
    server.until_connections(1).await;
    server.world.config_map("last", "1").await;
    let _reader = timeout(Duration::from_secs(30), reading).await.expect("the last event in time").unwrap();
    assert_eq!(server.connections.len(), 1);
    drop(deaf);
}

/// Where an answer has no end; `given_up` is cancelled when it is served no more.
fn torrent(given_up: &CancellationToken) -> MethodRouter {
    let given_up = given_up.clone();
    axum::routing::get(move || {
        let guard = given_up.drop_guard();
        let pieces = std::iter::repeat_with(move || {
            let _served = &guard;
            Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; 1_000_000]))
        });
        std::future::ready(Response::new(Body::from_stream(futures::stream::iter(pieces))))
    })
}

async fn patiently(mut response: Response) -> Response {
    response.extensions_mut().insert(serve::Patient);
    response
}

async fn within_the_limit<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("no {what} in time"))
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_of_http2_that_is_not_read_is_cut_off_alone() {
    let [plain, log] = [(); 2].map(|()| CancellationToken::new());
    let server = listen_with(Times { stalled: Duration::from_secs(1), ..Times::default() }, |router| {
        let patient = torrent(&log).layer(axum::middleware::map_response(patiently));
        router.route("/plain", torrent(&plain)).route("/log", patient)
    })
    .await;
    let mut client = server.connect_http2().await;
    let log_answer = client.send_request(server.question("/log")).await.unwrap();
    let plain_answer = client.send_request(server.question("/plain")).await.unwrap();
    let watch = client.send_request(server.question(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap();
    within_the_limit("end of what is not read", plain.cancelled()).await;
    let plain_end = async {
        let mut body = plain_answer.into_body();
        while let Some(Ok(_)) = body.frame().await {}
    };
    within_the_limit("reset", plain_end).await;
    // Who waits for news is not who does not read.
    server.world.config_map("late", "1").await;
    let event = within_the_limit("event", watch.into_body().frame()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(event.data_ref().unwrap()).contains("\"late\""));
    assert!(!log.is_cancelled(), "what is read with a pager is not cut off");
    let mut log_body = log_answer.into_body();
    for _ in 0..100 {
        within_the_limit("more of the log", log_body.frame()).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_over_http2_are_whole() {
    let server = listen(Times::default()).await;
    server.world.post(CONFIG_MAPS, config_map("large", &"x".repeat(900_000))).await.created();
    let mut client = server.connect_http2().await;
    let answer = client.send_request(server.question(&format!("{CONFIG_MAPS}/large"))).await.unwrap();
    let length: usize = answer.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(length, body.len());
    let object: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(object["metadata"]["name"], "large");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_do_not_hold_up_the_end() {
    let given_up = CancellationToken::new();
    let server = listen_with(Times::default(), |router| {
        let patient = axum::middleware::map_response(patiently);
        router.route("/plain", torrent(&given_up)).route("/log", torrent(&given_up).layer(patient))
    })
    .await;
    let mut client = server.connect_http2().await;
    let mut answers = Vec::new();
    for path in ["/plain", "/log"] {
        answers.push(client.send_request(server.question(path)).await.unwrap());
    }
    let _silent = [server.connect().await, server.connect().await];
    server.stopping.cancel();
    within_the_limit("end", server.until_connections(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_for_nothing_are_closed() {
    let times = Times { idle: Duration::from_secs(1), ..Times::default() };
    let server = listen(times).await;
    // Nothing, the name of HTTP/2 alone, and one request.
    let (silent, named) = (server.connect().await, server.connect_for_http2().await);
    let mut client = server.connect_http2().await;
    client.send_request(server.question("/healthz")).await.unwrap();
    let mut watcher = server.connect_http2().await;
    let watch = watcher.send_request(server.question(&format!("{CONFIG_MAPS}?watch=true"))).await.unwrap();
    server.until_connections(1).await;
    server.world.config_map("late", "1").await;
    within_the_limit("event", watch.into_body().frame()).await.unwrap().unwrap();
    drop((silent, named));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_connections_have_the_same_bounds() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connections, stopping) = (TaskTracker::new(), CancellationToken::new());
    let router = Router::new().route("/", axum::routing::get(|| async { "page" }));
    let times = Times { idle: Duration::from_secs(1), ..Times::default() };
    let ended = tokio::spawn(serve::serve_with(listener, None, router, stopping.clone(), connections.clone(), times));
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut asking = TcpStream::connect(address).await.unwrap();
    asking.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    within_the_limit("end of the connection", asking.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("page"), "{answer}");
    within_the_limit("end of the silent one", silent.read_u8()).await.unwrap_err();
    let _unasked = TcpStream::connect(address).await.unwrap();
    stopping.cancel();
    within_the_limit("end of the listener", ended).await.unwrap();
    connections.close();
    within_the_limit("end of all", connections.wait()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_of_a_client_that_goes_away_is_dropped() {
    let server = listen(Times::default()).await;
    let mut stream = server.connect().await;
    // A request without its body, so that the server waits.
    let head = format!(
        "POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Content-Length: 1000\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    server.until_connections(1).await;
    drop(stream);
    server.until_connections(0).await;
}

/// A body of so many bytes in pieces of 10,000, and how many of them are still to come.
fn counted(bytes: usize) -> (Body, Arc<AtomicUsize>) {
    const PIECE: usize = 10_000;
    let left = Arc::new(AtomicUsize::new(bytes));
    let taken = Arc::clone(&left);
    let pieces = std::iter::repeat_with(move || {
        taken.fetch_sub(PIECE, Ordering::Relaxed);
        Ok::<_, std::convert::Infallible>(Bytes::from_static(&[b'x'; PIECE]))
    });
    (Body::from_stream(futures::stream::iter(pieces.take(bytes / PIECE))), left)
}

#[tokio::test]
async fn refusal_waits_for_the_body_that_nobody_wants() {
    let world = World::start().await;
    let stranger = |path: &str| Request::builder().method("POST").uri(path);
    let body = 2_000_000;
    for (code, request, size) in [
        (401, stranger(CONFIG_MAPS), body),
        (401, stranger("/none"), body),
        (404, request("POST", "/none"), body),
        (404, request("POST", "/apis/none/v1/things"), body),
        (405, request("POST", "/version"), body),
        (405, stranger("/readyz"), body),
        (400, request("POST", &format!("{CONFIG_MAPS}?timeout=soon")), body),
        (415, request("POST", CONFIG_MAPS).header("content-type", "text/plain"), body),
        (413, request("POST", CONFIG_MAPS), 5_000_000),
    ] {
        let (body, left) = counted(size);
        let request = request.body(body).unwrap();
        let path = request.uri().to_string();
        assert_eq!((answer(&world, request).await.0, left.load(Ordering::Relaxed)), (code, 0), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_does_not_wait_for_ever() {
    let world = World::start().await;
    let stranger = || Request::builder().method("POST").uri(CONFIG_MAPS);
    let begin = Instant::now();
    assert_eq!(answer(&world, stranger().body(endless()).unwrap()).await.0, 401);
    assert_eq!(begin.elapsed().as_secs(), 5);
    let (body, left) = counted(100_000_000);
    assert_eq!(answer(&world, stranger().body(body).unwrap()).await.0, 401);
    let taken = 100_000_000 - left.load(Ordering::Relaxed);
    assert!(taken < 4_000_000, "{taken} bytes are read for nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_is_still_sending_sees_why_it_is_refused() {
    let server = listen(Times::default()).await;
    let head = format!("POST {CONFIG_MAPS} HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n");
    // A connection that is closed early is not reset every time.
    for _ in 0..10 {
        let mut stream = server.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 2_000_000]).await.expect("the connection stays open");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 401");
    }
}
