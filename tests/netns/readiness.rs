//! What decides whether a Pod gets packets, and when it stops to.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use http::Method;
use serde_json::json;

use crate::cluster::{Cluster, PODS, eventually};
use crate::inside::http;
use crate::services::vips;

const ALL: [&str; 3] = ["web-1", "web-2", "web-3"];

pub async fn unready_pod_gets_no_new_connection_and_comes_back() {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("web", json!({})).await)[0], 80);
    cluster.whoami("web", &["web-1", "web-2"]).await;
    cluster.endpoints("web", &["web-1", "web-2"]).await;
    let client = cluster.client_pod("client", "n3").await;
    let itself = SocketAddr::new(cluster.pod_ip("web-1").await.parse().unwrap(), 80);

    client.post(itself, "/ready?state=false").expect("whoami takes it");
    cluster.endpoints("web", &["web-2"]).await;
    cluster.settled().await;
    for _ in 0..30 {
        assert_eq!(client.http(vip).unwrap().pod, "web-2");
    }
    // It runs on, and by its own address it answers.
    assert_eq!(client.http(itself).unwrap().pod, "web-1");
    let pod = cluster.get(&format!("{PODS}/web-1")).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);

    client.post(itself, "/ready?state=true").expect("whoami takes it");
    cluster.endpoints("web", &["web-1", "web-2"]).await;
    cluster.settled().await;
    assert!((0..30).any(|_| client.http(vip).unwrap().pod == "web-1"), "it gets connections again");
    cluster.stop().await;
}

pub async fn exec_probe_decides() {
    let cluster = Cluster::start().await;
    // The image is the host's file system.
    let mark = cluster.home.path("ready").display().to_string();
    let probe = json!({"periodSeconds": 1, "failureThreshold": 1, "exec": {"command": ["test", "-f", mark]}});
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "vipyard/host",
        "command": ["sleep", "infinity"], "readinessProbe": probe}]});
    cluster.pod("probed", spec).await;
    cluster.until_pod("probed", "running", |pod| (pod["status"]["phase"] == "Running").then_some(())).await;
    let unready = |pod: &serde_json::Value| (pod["status"]["containerStatuses"][0]["ready"] == false).then_some(());
    cluster.until_pod("probed", "not ready at first (PS7)", unready).await;
    let inside = crate::inside::Inside::of(cluster.pid(), &cluster.pod_ip("probed").await);
    assert_eq!(inside.sh(&format!("touch {mark}")).await, (0, String::new()));
    cluster.ready("probed").await;
    assert_eq!(inside.sh(&format!("rm {mark}")).await, (0, String::new()));
    cluster.until_pod("probed", "not ready any more", unready).await;
    cluster.stop().await;
}

/// A request: when it was begun, and who answered.
type Request = (Instant, Result<String, String>);

/// Asks a VIP again and again from a client on every node, while `remove` makes `web-2` go. Returns when the change was
/// in the packets, and the requests. None that was begun afterwards may have reached the Pod, and each was answered.
async fn requests_while(remove: impl AsyncFnOnce(&Cluster)) -> Vec<Request> {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await)[0], 80);
    cluster.whoami("web", &ALL).await;
    cluster.endpoints("web", &ALL).await;
    let clients = [cluster.client_pod("client-1", "n1").await, cluster.client_pod("client-2", "n2").await];
    cluster.settled().await;
    let stop = AtomicBool::new(false);
    let asked = AtomicUsize::new(0);
    let ask_on = async |times: usize| {
        let until = asked.load(Ordering::Relaxed) + times;
        let enough = async || (asked.load(Ordering::Relaxed) >= until).then_some(());
        eventually("the clients go on asking", enough).await;
    };
    let ask = || {
        let mut requests: Vec<Request> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let answer = http(vip, "GET", "/json").map_err(|e| e.to_string());
            let pod = |text: String| {
                let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                value["pod"].as_str().expect("a name").to_owned()
            };
            requests.push((begun, answer.map(pod)));
            asked.fetch_add(1, Ordering::Relaxed);
        }
        requests
    };
    let (left, requests) = std::thread::scope(|scope| {
        let loops: Vec<_> = clients.iter().map(|client| scope.spawn(|| client.run_here(ask))).collect();
        let left = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                ask_on(60).await;
                remove(&cluster).await;
                cluster.settled().await;
                let left = Instant::now();
                assert_eq!(cluster.ready_endpoints("web").await, ["web-1", "web-3"]);
                cluster.gone(&format!("{PODS}/web-2")).await;
                ask_on(60).await;
                left
            })
        });
        stop.store(true, Ordering::Relaxed);
        let requests: Vec<Request> = loops.into_iter().flat_map(|worker| worker.join().expect("the loop")).collect();
        (left, requests)
    });
    let before = requests.iter().filter(|(_, pod)| pod.as_deref() == Ok("web-2")).count();
    assert!(before > 0, "the Pod was asked while it was there");
    let after: Vec<&Request> = requests.iter().filter(|(begun, _)| *begun > left).collect();
    assert!(after.len() > 20, "only {} requests", after.len());
    for (begun, answer) in after {
        let since = begun.duration_since(left);
        let pod = answer.as_ref().unwrap_or_else(|e| panic!("a request failed {since:?} after the change: {e}"));
        assert_ne!(pod, "web-2", "asked {since:?} after it had left the slice");
    }
    cluster.stop().await;
    requests
}

/// The processes are asked to end only when new connections go elsewhere: not one request fails.
pub async fn no_request_reaches_a_pod_that_left_the_slice() {
    let requests = requests_while(async |cluster: &Cluster| drop(cluster.delete(&format!("{PODS}/web-2")).await)).await;
    let failed: Vec<_> = requests.iter().filter_map(|(_, answer)| answer.as_ref().err()).collect();
    assert!(failed.is_empty(), "of {} requests these failed: {failed:?}", requests.len());
}

/// PX2: with no grace period the object goes first and the processes after it.
pub async fn pod_that_vanishes_at_once_gets_no_request_after_it_left_the_slice() {
    requests_while(async |cluster: &Cluster| {
        let path = format!("{PODS}/web-2");
        let (code, answer) =
            cluster.request(Method::DELETE, &path, Some(json!({"gracePeriodSeconds": 0}))).await.expect("an answer");
        assert_eq!(code, 200, "{answer}");
    })
    .await;
}
