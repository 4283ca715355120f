//! The dashboard as a browser meets it: requests in, answers and events out, with [`Writers`] in the API server's place.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures::StreamExt;
use http_body_util::BodyExt;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::model::{Input, Model};
use super::{DashboardConfig, Meter, new_token, router, view};
use crate::cluster::{Change, Cluster, ObjectKey, Writers};

const HOST: &str = "127.0.0.1:8080";
const COOKIE: &str = "vipyard-8080=s3cret";
const LIMIT: Duration = Duration::from_secs(10);

struct Silence;

impl Meter for Silence {
    fn read(&mut self) -> view::Traffic {
        view::Traffic::default()
    }
}

/// In the API's place: says what it was asked, as a page that would run scripts if it were let.
async fn echo(request: Request<Body>) -> impl axum::response::IntoResponse {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut names: Vec<String> = parts.headers.keys().map(ToString::to_string).collect();
    names.sort();
    let text = format!("{} {} {} {}", parts.method, parts.uri, names.join(","), String::from_utf8_lossy(&body));
    ([("content-type", "text/html"), ("set-cookie", "a=b"), ("content-security-policy", "default-src *")], text)
}

struct Yard {
    router: Router,
    writers: Writers,
    shutdown: CancellationToken,
}

fn yard() -> Yard {
    let (cluster, writers) = Cluster::new();
    let shutdown = CancellationToken::new();
    let router = router(DashboardConfig {
        token: "s3cret".into(),
        cluster,
        api: axum::Router::new().fallback(echo),
        meter: Box::new(|| Box::new(Silence)),
        allowed_hosts: Vec::new(),
        version: "1.2.3",
        shutdown: shutdown.clone(),
    });
    Yard { router, writers, shutdown }
}

impl Yard {
    fn synced(self) -> Self {
        self.writers.nodes.mark_synced();
        self.writers.pods.mark_synced();
        self.writers.services.mark_synced();
        self.writers.slices.mark_synced();
        self
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::get(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        (parts.status, parts.headers, body)
    }

    async fn map(&self) -> Value {
        let (status, _, body) = self.get("/ui/v1/map", &[("cookie", COOKIE)]).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    async fn watch(&self) -> Events {
        let request = Request::get("/ui/v1/map/stream").header("host", HOST).header("cookie", COOKIE);
        let response = self.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events { body: response.into_body().into_data_stream(), text: String::new() }
    }
}

/// The events of a stream, parsed.
struct Events {
    body: axum::body::BodyDataStream,
    text: String,
}

impl Events {
    /// The name and the data of the next event; `None` at the stream's end.
    async fn next(&mut self) -> Option<(String, Value)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
                let found = (field("event: ").unwrap(), serde_json::from_str(&field("data: ").unwrap()).unwrap());
                self.text = rest.to_owned();
                return Some(found);
            }
            let more =
                tokio::time::timeout(LIMIT, self.body.next()).await.expect("an event within the limit")?.unwrap();
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

fn service(name: &str) -> Service {
    object(json!({
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:10:96::9"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "web", "nodePort": 30080}],
        },
    }))
}

fn slice(name: &str, service: &str, endpoints: Value) -> EndpointSlice {
    object(json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
}

fn endpoint(pod: &str, ip: &str) -> Value {
    json!({"addresses": [ip], "nodeName": "n1", "targetRef": {"kind": "Pod", "namespace": "default", "name": pod}})
}

fn pod(name: &str, status: Value) -> Pod {
    object(json!({
        "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
        "spec": {"nodeName": "n1", "containers": []},
        "status": status,
    }))
}

fn running() -> Value {
    json!({
        "phase": "Running", "podIP": "10.244.1.2", "podIPs": [{"ip": "10.244.1.2"}, {"ip": "fd00:10:244:1::2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    })
}

fn crashing() -> Value {
    json!({
        "phase": "Running", "podIPs": [{"ip": "10.244.1.3"}],
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": "app", "image": "x", "imageID": "", "ready": false, "restartCount": 4,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s <b>\"restarting\"</b>"}},
        }],
    })
}

#[tokio::test]
async fn stranger_is_told_where_the_address_is() {
    let yard = yard().synced();
    for path in ["/", "/?token=wrong", "/ui/v1/map", "/ui/v1/map/stream", "/assets/x.js"] {
        let (status, headers, body) = yard.get(path, &[]).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(body.contains("vipyard up") && body.contains("dashboard.url"), "{body}");
        assert!(!headers.contains_key("set-cookie") && !body.contains("s3cret"));
    }
}

#[tokio::test]
async fn token_becomes_a_strict_cookie_and_leaves_the_address() {
    let yard = yard().synced();
    let (status, headers, _) = yard.get("/?token=s3cret", &[]).await;
    assert_eq!((status, &headers["location"]), (StatusCode::SEE_OTHER, &"/".parse().unwrap()));
    assert_eq!(headers["set-cookie"], "vipyard-8080=s3cret; Path=/; HttpOnly; SameSite=Strict");
    // A browser would not send the cookie along a redirect that began on another site.
    let (status, headers, _) = yard.get("/?token=s3cret", &[("sec-fetch-site", "cross-site")]).await;
    assert_eq!((status, &headers["refresh"]), (StatusCode::OK, &"0; url=/".parse().unwrap()));
    assert_eq!(headers["set-cookie"], "vipyard-8080=s3cret; Path=/; HttpOnly; SameSite=Strict");
}

#[tokio::test]
async fn other_sites_and_rebound_names_get_nothing() {
    let yard = yard().synced();
    let headers = [("cookie", COOKIE), ("origin", "http://evil.example")];
    let (status, _, body) = yard.get("/ui/v1/map", &headers).await;
    assert_eq!((status, body.as_str()), (StatusCode::FORBIDDEN, "requests from other sites are not answered\n"));
    let request = Request::get("/ui/v1/map").header("host", "evil.example:8080").header("cookie", COOKIE);
    let response = yard.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let request = Request::post("/ui/v1/map").header("host", HOST).header("cookie", COOKIE);
    let response = yard.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_answer_carries_the_safety_headers() {
    let yard = yard().synced();
    for (path, cookie) in [("/", ""), ("/", COOKIE), ("/ui/v1/map", COOKIE), ("/none", COOKIE), ("/?token=s3cret", "")]
    {
        let (_, headers, _) = yard.get(path, &[("cookie", cookie)]).await;
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(headers["referrer-policy"], "no-referrer", "{path}");
        assert_eq!(headers["cross-origin-resource-policy"], "same-origin", "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}");
        let scripts = policy.split(';').find(|part| part.trim().starts_with("script-src"));
        assert!(scripts.is_none_or(|scripts| scripts.trim() == "script-src 'self'"), "{path}: {policy}");
    }
}

#[tokio::test]
async fn page_is_asked_for_anew_and_its_hashed_files_never_again() {
    let yard = yard().synced();
    let (status, headers, body) = yard.get("/", &[("cookie", COOKIE)]).await;
    if status == StatusCode::SERVICE_UNAVAILABLE {
        assert!(body.contains("npm --prefix web ci\nnpm --prefix web run build\n"), "{body}");
    } else {
        assert_eq!((status, &headers["cache-control"]), (StatusCode::OK, &"no-cache".parse().unwrap()));
        let script = body.split('"').find(|part| part.starts_with("/assets/") && part.ends_with(".js")).unwrap();
        let (status, headers, _) = yard.get(script, &[("cookie", COOKIE)]).await;
        assert_eq!(
            (status, &headers["content-type"]),
            (StatusCode::OK, &"text/javascript; charset=utf-8".parse().unwrap())
        );
        assert_eq!(headers["cache-control"], "private, max-age=31536000, immutable");
    }
    for path in ["/.gitignore", "/assets/../../Cargo.toml", "/ui/v1/none", "/index.htm"] {
        assert_eq!(yard.get(path, &[("cookie", COOKIE)]).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

/// `web/src/model/cluster-map.test.ts` reads the same file: what we send is what the page understands.
#[tokio::test]
async fn snapshot_has_the_shape_that_the_page_reads() {
    let yard = yard();
    yard.writers.nodes.apply(object(json!({
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "status": {
            "addresses": [{"type": "InternalIP", "address": "10.245.0.11"}, {"type": "Hostname", "address": "n1"}],
            "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
        },
    })));
    yard.writers.services.apply(service("web"));
    yard.writers.services.apply(object(json!({
        "metadata": {"namespace": "default", "name": "peers"},
        "spec": {"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]},
    })));
    yard.writers.services.apply(object(json!({
        "metadata": {"namespace": "shop", "name": "mail"},
        "spec": {"type": "ExternalName", "externalName": "mail.example.com"},
    })));
    yard.writers.services.apply(object(json!({
        "metadata": {"namespace": "shop", "name": "front"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.8", "externalIPs": ["192.0.2.1"],
                 "ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.1"}]}},
    })));
    let mut crashing_endpoint = endpoint("web-2", "10.244.1.3");
    crashing_endpoint["conditions"] = json!({"ready": false, "serving": false, "terminating": false});
    let endpoints = json!([endpoint("web-1", "10.244.1.2"), crashing_endpoint, {"addresses": ["192.0.2.7"]}]);
    yard.writers.slices.apply(slice("web-x", "web", endpoints));
    yard.writers.pods.apply(pod("web-1", running()));
    yard.writers.pods.apply(pod("web-2", crashing()));
    yard.writers.pods.apply(object(json!({
        "metadata": {"namespace": "shop", "name": "waiting", "uid": "uid-waiting"},
        "spec": {"containers": []},
        "status": {"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node matches"},
        ]},
    })));
    let expected: Value = serde_json::from_str(include_str!("../../web/src/model/fixture.json")).unwrap();
    let map = yard.synced().map().await;
    assert_eq!(map, expected, "{}", serde_json::to_string_pretty(&map).unwrap());
}

#[tokio::test]
async fn stream_begins_with_a_snapshot_and_goes_on_with_what_changed() {
    let yard = yard();
    yard.writers.services.apply(service("web"));
    yard.writers.services.apply(service("other"));
    let yard = yard.synced();
    let mut events = yard.watch().await;
    let (name, snapshot) = events.next().await.unwrap();
    assert_eq!((name.as_str(), snapshot["revision"].as_u64()), ("snapshot", Some(1)));
    assert_eq!(snapshot["services"].as_array().unwrap().len(), 2);

    yard.writers.slices.apply(slice("web-x", "web", json!([endpoint("web-1", "10.244.1.2")])));
    let (name, patch) = events.next().await.unwrap();
    let endpoints = json!([{"pod": "default/web-1", "ip": "10.244.1.2", "node": "n1"}]);
    assert_eq!(name, "patch");
    assert_eq!((&patch["revision"], &patch["pods"], &patch["nodes"]), (&json!(2), &Value::Null, &Value::Null));
    assert_eq!(patch["services"]["changed"].as_array().unwrap().len(), 1);
    assert_eq!(patch["services"]["changed"][0]["endpoints"], endpoints);
    let targets = json!([{"name": "http", "protocol": "TCP", "port": 8080}]);
    assert_eq!(patch["services"]["changed"][0]["targets"], targets);

    let mut going = endpoint("web-1", "10.244.1.2");
    going["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    yard.writers.slices.apply(slice("web-x", "web", json!([going, endpoint("web-2", "10.244.1.3")])));
    let (_, patch) = events.next().await.unwrap();
    let expected = json!({"revision": 3, "endpoints": [{"service": "default/web", "changed": [
        {"pod": "default/web-1", "ip": "10.244.1.2", "node": "n1", "notReady": true, "terminating": true},
        {"pod": "default/web-2", "ip": "10.244.1.3", "node": "n1"},
    ]}]});
    assert_eq!(patch, expected, "of a Service that stays as it is, what differs");
    yard.writers.slices.apply(slice("web-x", "web", json!([endpoint("web-2", "10.244.1.3")])));
    let (_, patch) = events.next().await.unwrap();
    let removed = json!([{"service": "default/web", "removed": [{"pod": "default/web-1", "ip": "10.244.1.2"}]}]);
    assert_eq!((&patch["endpoints"], &patch["services"]), (&removed, &Value::Null));

    yard.writers.pods.apply(pod("web-1", running()));
    let (_, patch) = events.next().await.unwrap();
    assert_eq!((&patch["pods"]["changed"][0]["status"], &patch["services"]), (&json!("Running"), &Value::Null));

    yard.writers.services.delete(&ObjectKey::new("default", "web"));
    yard.writers.pods.delete(&ObjectKey::new("default", "web-1"));
    let (_, patch) = events.next().await.unwrap();
    let expected = json!({
        "revision": 6, "services": {"removed": ["default/web"]}, "pods": {"removed": ["default/web-1"]},
    });
    assert_eq!(patch, expected);
}

#[tokio::test]
async fn bursts_travel_together_and_no_faster_than_thirty_a_second() {
    let yard = yard().synced();
    let mut events = yard.watch().await;
    events.next().await.unwrap();
    let started = Instant::now();
    yard.writers.pods.apply(pod("first", running()));
    assert_eq!(events.next().await.unwrap().1["pods"]["changed"].as_array().unwrap().len(), 1);
    for n in 0..100 {
        yard.writers.pods.apply(pod(&format!("web-{n}"), running()));
        tokio::task::yield_now().await;
    }
    assert_eq!(events.next().await.unwrap().1["pods"]["changed"].as_array().unwrap().len(), 100);
    assert!(started.elapsed() >= Duration::from_millis(33));
}

#[tokio::test]
async fn changes_that_the_map_does_not_show_are_not_sent() {
    let yard = yard().synced();
    yard.writers.pods.apply(pod("web", running()));
    let mut events = yard.watch().await;
    events.next().await.unwrap();
    let mut same = running();
    same["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:00:00Z");
    yard.writers.pods.apply(pod("web", same));
    tokio::task::yield_now().await;
    yard.writers.pods.apply(pod("web", crashing()));
    let (_, patch) = events.next().await.unwrap();
    assert_eq!((&patch["revision"], &patch["pods"]["changed"][0]["status"]), (&json!(2), &json!("CrashLoopBackOff")));
}

#[tokio::test]
async fn shutdown_ends_the_streams() {
    let yard = yard().synced();
    let mut events = yard.watch().await;
    events.next().await.unwrap();
    yard.shutdown.cancel();
    assert!(events.next().await.is_none());
}

#[test]
fn tokens_are_long_and_pass_through_urls_and_cookies() {
    let token = new_token();
    assert_eq!(token.len(), 43);
    assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'));
    assert_ne!(token, new_token());
}

#[test]
fn slices_of_a_service_merge_by_address() {
    let mut going = endpoint("web-1", "10.244.1.2");
    going["conditions"] = json!({"ready": false, "serving": true, "terminating": true});
    let first = slice("a", "web", json!([going]));
    let mut second = slice("b", "web", json!([endpoint("web-1", "10.244.1.2")]));
    second.ports.as_mut().unwrap()[0].name = Some("admin".into());
    second.ports.as_mut().unwrap()[0].port = Some(9000);
    let view = view::service(&service("web"), [&first, &second]);
    assert_eq!(view.endpoints.len(), 1);
    let merged = &view.endpoints[0];
    assert_eq!((merged.not_ready, merged.not_serving, merged.terminating), (false, false, false), "S9, S11");
    assert_eq!(merged.ports, None);
    let ports: Vec<_> = view.head.targets.iter().map(|port| (port.name.as_str(), port.port)).collect();
    assert_eq!(ports, [("admin", 9000), ("http", 8080)], "S10");
    assert_eq!(view, view::service(&service("web"), [&second, &first]), "in whatever order");
}

#[test]
fn endpoint_with_ports_of_its_own_says_so() {
    let usual = slice("a", "web", json!([endpoint("web-1", "10.244.1.2"), endpoint("web-2", "10.244.1.3")]));
    let mut other = slice("b", "web", json!([endpoint("web-3", "10.244.1.4")]));
    other.ports.as_mut().unwrap()[0].port = Some(9000);
    let view = view::service(&service("web"), [&usual, &other]);
    let numbers = |ports: &[view::EndpointPortView]| ports.iter().map(|port| port.port).collect::<Vec<_>>();
    assert_eq!(numbers(&view.head.targets), [8080]);
    let own: Vec<_> = view.endpoints.iter().map(|e| e.ports.as_deref().map(numbers)).collect();
    assert_eq!(own, [None, None, Some(vec![9000])]);
}

#[tokio::test]
async fn api_is_passed_on_with_what_is_asked_and_not_who_asks() {
    let yard = yard().synced();
    let headers = [
        ("cookie", COOKIE),
        ("accept", "application/yaml"),
        ("authorization", "Bearer x"),
        ("impersonate-user", "somebody"),
    ];
    let (status, headers, body) = yard.get("/ui/v1/api/api/v1/pods?limit=1", &headers).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "GET /api/v1/pods?limit=1 accept "));
    assert!(!headers.contains_key("set-cookie"));
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; sandbox;"), "whatever the answer says of itself: {policy}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
}

#[tokio::test]
async fn nothing_is_changed_for_a_request_that_a_form_could_send() {
    let yard = yard().synced();
    let send = async |method: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri("/ui/v1/api/api/v1/namespaces").header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = yard.router.clone().oneshot(request.body(Body::from("{}")).unwrap()).await.unwrap();
        let status = response.status();
        (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
    };
    let (cookie, mark) = (("cookie", COOKIE), ("x-vipyard-ui", "1"));
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        assert_eq!(send(method, &[cookie]).await.0, StatusCode::FORBIDDEN, "{method} without the mark");
        assert_eq!(send(method, &[mark]).await.0, StatusCode::UNAUTHORIZED, "{method} without the cookie");
        let foreign = [cookie, mark, ("origin", "http://127.0.0.1:3000")];
        assert_eq!(send(method, &foreign).await.0, StatusCode::FORBIDDEN, "{method} of another port's page");
        let foreign = [cookie, mark, ("sec-fetch-site", "same-site")];
        assert_eq!(send(method, &foreign).await.0, StatusCode::FORBIDDEN, "{method} of another port's page");
        let (status, body) = send(method, &[cookie, mark, ("origin", "http://127.0.0.1:8080")]).await;
        assert_eq!((status, body), (StatusCode::OK, format!("{method} /api/v1/namespaces  {{}}")));
    }
    let (status, ..) = yard.get("/ui/v1/api/api/v1/namespaces/a/pods/b/proxy/", &[cookie]).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
}

#[test]
fn slices_that_the_proxy_ignores_give_no_endpoints() {
    let endpoints = || json!([endpoint("web-1", "10.244.1.2")]);
    let mut fqdn = slice("a", "web", endpoints());
    fqdn.address_type = "FQDN".into();
    let mut withdrawn = slice("b", "web", endpoints());
    withdrawn.metadata.labels.as_mut().unwrap().insert("service.kubernetes.io/headless".into(), String::new());
    assert_eq!(view::service(&service("web"), [&fqdn, &withdrawn]).endpoints, [], "S3, S5");
    let mut headless = service("web");
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    assert_eq!(view::service(&headless, [&withdrawn]).endpoints.len(), 1);
    let mut portless = slice("c", "web", endpoints());
    portless.ports.as_mut().unwrap()[0].port = None;
    assert_eq!(view::service(&service("web"), [&portless]).head.targets, [], "S7");
    assert_eq!(view::owner_of(&slice("d", "", endpoints())), None, "S4");
}

#[test]
fn slice_that_changes_its_label_moves_to_the_other_service() {
    let mut model = Model::new("1.2.3");
    for name in ["web", "api"] {
        model.apply(Input::Service(Change::Applied { old: None, new: service(name).into() }));
    }
    let before = std::sync::Arc::new(slice("s", "web", json!([endpoint("web-1", "10.244.1.2")])));
    let after = std::sync::Arc::new(slice("s", "api", json!([endpoint("web-1", "10.244.1.2")])));
    model.apply(Input::Slice(Change::Applied { old: None, new: before.clone() }));
    model.flush();
    model.apply(Input::Slice(Change::Applied { old: Some(before), new: after }));
    let patch: Value = serde_json::from_str(&model.flush().unwrap()).unwrap();
    let changed = patch["services"]["changed"].as_array().unwrap();
    let counts: Vec<_> = changed.iter().map(|s| (s["name"].as_str().unwrap(), s["endpoints"].is_array())).collect();
    assert_eq!(counts, [("api", true), ("web", false)]);
    assert!(model.flush().is_none());
}

#[test]
fn pod_status_reads_like_kubectl() {
    let status = |status: Value| view::pod(&pod("p", status)).status;
    assert_eq!(status(running()), "Running");
    assert_eq!(status(crashing()), "CrashLoopBackOff");
    assert_eq!(status(json!({"phase": "Failed", "reason": "Evicted"})), "Evicted");
    assert_eq!(status(json!({})), "Pending");
    let ended = json!({"phase": "Failed", "containerStatuses": [{
        "name": "a", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 3}},
    }]});
    let ended = view::pod(&pod("p", ended));
    assert_eq!((ended.status.as_str(), ended.message.as_deref()), ("Error", Some("exit code 3")));
    let mut leaving = pod("p", running());
    leaving.metadata.deletion_timestamp = object(json!("2026-01-01T00:00:00Z"));
    let leaving = view::pod(&leaving);
    assert_eq!((leaving.status.as_str(), leaving.terminating, leaving.ready), ("Terminating", true, true));
}
