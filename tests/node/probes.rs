//! Probes of servers that speak TLS or gRPC. They listen in a node's namespace, as a Pod on the host's network would.

use std::convert::Infallible;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::pods::{shell, with};
use super::world::{World, is_ready};

fn on_host(probe: Value) -> Value {
    let mut spec = with(shell("exec sleep 100"), json!({"hostNetwork": true}));
    spec["containers"][0]["readinessProbe"] = probe;
    spec
}

/// A listener on node n1.
fn listen(world: &World) -> (tokio::net::TcpListener, u16) {
    let listener = world.agents.node_ns("n1").unwrap().run(|| TcpListener::bind("0.0.0.0:0")).unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (tokio::net::TcpListener::from_std(listener).unwrap(), port)
}

pub async fn https_probe_trusts_any_certificate_ps10() {
    let world = World::start().await;
    let (listener, port) = listen(&world);
    let made = rcgen::generate_simple_self_signed(vec!["somebody.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let answer = hyper::service::service_fn(async |request: Request<Incoming>| {
                let code = if request.uri().path() == "/healthy" { 204 } else { 500 };
                Ok::<_, Infallible>(Response::builder().status(code).body(String::new()).unwrap())
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    let probe = |path: &str| json!({"httpGet": {"scheme": "HTTPS", "port": port, "path": path}, "periodSeconds": 1});
    world.run("tls", on_host(probe("/healthy")), is_ready).await;
    world.api.create_pod("sick", on_host(probe("/sick")));
    let message = world.event("Unhealthy").await;
    assert_eq!(message, "Readiness probe failed: HTTP probe failed with statuscode: 500");
    server.abort();
    world.end().await;
}

pub async fn redirect_is_followed_on_the_same_host_alone_ps10() {
    let world = World::start().await;
    let (listener, port) = listen(&world);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let answer = hyper::service::service_fn(async |request: Request<Incoming>| {
                let (code, location) = match request.uri().path() {
                    "/near" => (302, "/sick?now"),
                    "/far" => (302, "http://192.0.2.1/"),
                    "/round" => (307, "round"),
                    _ => (503, ""),
                };
                let response = Response::builder().status(code).header("location", location);
                Ok::<_, Infallible>(response.body(String::new()).unwrap())
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    let probe = |path: &str| json!({"httpGet": {"port": port, "path": path}, "periodSeconds": 1});
    world.run("far", on_host(probe("/far")), is_ready).await;
    assert_eq!(world.event("ProbeWarning").await, "Readiness probe warning: Probe terminated redirects");
    world.api.create_pod("near", on_host(probe("/near")));
    world.reported("Readiness probe failed: HTTP probe failed with statuscode: 503").await;
    world.api.create_pod("round", on_host(probe("/round")));
    world.told(|text| text.ends_with("/round\": stopped after 10 redirects")).await;
    server.abort();
    world.end().await;
}

pub async fn grpc_probe_asks_for_the_service_ps10() {
    let world = World::start().await;
    let (listener, port) = listen(&world);
    // What the server answers for the service `db`: 1 is SERVING.
    let status = Arc::new(AtomicU8::new(2));
    let now = Arc::clone(&status);
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let now = Arc::clone(&now);
            let answer = hyper::service::service_fn(move |request: Request<Incoming>| {
                let now = Arc::clone(&now);
                async move {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    let asked = request.into_body().collect().await.unwrap().to_bytes();
                    let known = asked.ends_with(b"db");
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", if known { "0" } else { "5" }.parse().unwrap());
                    let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, now.load(Ordering::Relaxed)]);
                    let frames: Vec<Result<_, Infallible>> =
                        vec![Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
                    let body = StreamBody::new(futures::stream::iter(frames));
                    Ok::<_, Infallible>(
                        Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                    )
                }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), answer));
        }
    });
    let probe = |service: &str| json!({"grpc": {"port": port, "service": service}, "periodSeconds": 1});
    world.api.create_pod("db", on_host(probe("db")));
    let message = world.event("Unhealthy").await;
    assert_eq!(message, "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")");
    status.store(1, Ordering::Relaxed);
    world.status("db", is_ready).await;
    world.api.create_pod("other", on_host(probe("other")));
    world.reported("Readiness probe failed: error: health rpc failed: rpc error: code = 5").await;
    server.abort();
    world.end().await;
}

pub async fn startup_probe_holds_back_the_others_ps7() {
    let world = World::start().await;
    let script = "sleep 0.3; touch /dev/shm/started; sleep 100";
    let mut spec = shell(script);
    let container = &mut spec["containers"][0];
    container["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/dev/shm/started"]}, "periodSeconds": 1, "failureThreshold": 30});
    // It would fail at once, and kill the container.
    container["livenessProbe"] =
        json!({"exec": {"command": ["test", "-e", "/dev/shm/started"]}, "failureThreshold": 1, "periodSeconds": 1});
    let status = world.run("slow", spec, is_ready).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(status["containerStatuses"][0]["started"], true);
    // One that never passes ends the container.
    let mut spec = with(shell("sleep 100"), json!({"terminationGracePeriodSeconds": 1}));
    spec["containers"][0]["startupProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.run("never", spec, |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(world.event("Killing").await, "Container c failed startup probe, will be restarted");
    world.end().await;
}

/// While it is being killed, a container is not probed for its life any more; the end is told once.
pub async fn failed_liveness_probe_kills_once_ps7() {
    let world = World::start().await;
    let mut spec = with(
        shell("trap '' TERM; while :; do sleep 0.1; done"),
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 3}),
    );
    spec["containers"][0]["livenessProbe"] =
        json!({"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 1});
    world.run("sick", spec, |status| status["phase"] == "Failed").await;
    let told = |reason: &str| {
        let events = world.api.events.lock();
        events.iter().filter(|(known, _)| known == reason).map(|(_, text)| text.clone()).collect::<Vec<_>>()
    };
    assert_eq!(told("Killing"), ["Container c failed liveness probe, will be restarted"]);
    assert_eq!(told("Unhealthy").len(), 1);
    world.end().await;
}
