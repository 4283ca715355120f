//! The beginning and the end of a cluster's process, the good one and the bad ones.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::client::Client;
use crate::cluster::{CONFIG_MAPS, Cluster, Home, PODS, SERVICES, VIPYARD, eventually, is_ready, vipyard};
use crate::processes::{self, Process};
use crate::services::vips;

/// A cluster with Pods on every node, one of which is deaf to SIGTERM, and a Service.
async fn populate(cluster: &Cluster) -> SocketAddr {
    let vip = vips(&cluster.service("web", json!({})).await)[0];
    cluster.whoami("web", &["web-1", "web-2", "web-3"]).await;
    cluster.endpoints("web", &["web-1", "web-2", "web-3"]).await;
    SocketAddr::new(vip, 80)
}

/// Waits until none of the processes lives and nobody uses their namespaces.
async fn nothing_left(processes: &[Process], namespaces: &processes::Namespaces) {
    let gone = async || processes::alive(processes).is_empty().then_some(());
    crate::cluster::within(Duration::from_secs(5), &format!("none of {processes:?} lives"), gone).await;
    let unused = async || processes::still_used(namespaces).is_empty().then_some(());
    crate::cluster::within(Duration::from_secs(5), "no namespace is left", unused).await;
}

pub async fn terminated_cluster_exits_0_and_leaves_nothing() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mounts, devices) = (processes::mounts(), processes::devices());
        let mut cluster = Cluster::start().await;
        populate(&cluster).await;
        let deaf = "trap '' TERM; while :; do sleep 1; done";
        let spec = json!({"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", deaf]}]});
        cluster.pod("deaf", spec).await;
        cluster.ready("deaf").await;
        let family = processes::below(cluster.pid());
        let namespaces = processes::namespaces(&family);
        assert!(family.len() > 4, "{family:?}");
        for (kind, at_least) in [("net", 7), ("mnt", 4), ("pid", 4)] {
            let count = namespaces.keys().filter(|(found, _)| found == kind).count();
            assert!(count >= at_least, "{count} {kind} namespaces in {namespaces:?}");
        }
        // An open watch does not hold the end up.
        let mut watch = cluster.watch(&format!("{PODS}?watch=true")).await;
        cluster.signal(signal);
        let status = cluster.wait().await;
        assert_eq!(status.code(), Some(0), "{signal:?}: {status}\n{}", cluster.home.log());
        while watch.recv().await.is_some() {}
        nothing_left(&family, &namespaces).await;
        assert_eq!((processes::mounts(), processes::devices()), (mounts, devices));
        let data = cluster.home.data();
        let left: BTreeSet<String> = std::fs::read_dir(&data)
            .expect("the data directory stays")
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        for gone in ["pods", "dashboard.url"] {
            assert!(!left.contains(gone), "{left:?}");
        }
        // These are good for the next start.
        for kept in ["vipyard.db", "pki", "kubeconfig"] {
            assert!(left.contains(kept), "{left:?}");
        }
    }
}

/// A person who asks twice does not want to wait: neither for Pods nor for anything else.
pub async fn second_signal_ends_at_once_and_leaves_nothing() {
    let mut cluster = Cluster::start().await;
    let deaf = "trap 'echo asked' TERM; echo set; while :; do sleep 0.1; done";
    let spec = json!({"terminationGracePeriodSeconds": 600,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", deaf]}]});
    cluster.pod("deaf", spec).await;
    cluster.ready("deaf").await;
    let log = async |text: &str| cluster.logs("deaf", "").await.contains(text).then_some(());
    eventually("the trap is set", async || log("set").await).await;
    let family = processes::below(cluster.pid());
    let namespaces = processes::namespaces(&family);
    cluster.signal(Signal::TERM);
    eventually("the Pod is asked to end", async || log("asked").await).await;
    let begin = Instant::now();
    cluster.signal(Signal::TERM);
    cluster.wait().await;
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    nothing_left(&family, &namespaces).await;
}

pub async fn cluster_in_memory_is_forgotten() {
    let home = Home::new();
    let start = async |home: Arc<Home>| {
        let mut command = Command::new(VIPYARD);
        command.args(["up", "--in-memory", "--nodes", "1", "--data-dir"]).arg(home.data());
        Cluster::start_with(home, command).await
    };
    let cluster = start(home).await;
    populate(&cluster).await;
    assert_eq!(cluster.get("/api/v1/nodes").await["items"].as_array().unwrap().len(), 1);
    let cluster = start(cluster.stop().await).await;
    assert_eq!(cluster.find(&format!("{SERVICES}/web")).await, None);
    let home = cluster.stop().await;
    for gone in ["vipyard.db", "pki", "kubeconfig", "dashboard.url", "pods"] {
        assert!(!home.data().join(gone).exists(), "{gone}");
    }
}

pub async fn killed_cluster_comes_back_with_every_acknowledged_object() {
    let cluster = Cluster::start().await;
    let vip = populate(&cluster).await;
    let before = cluster.get(&format!("{SERVICES}/web")).await;
    let pods: Vec<Value> = cluster.get(PODS).await["items"].as_array().unwrap().clone();
    let family = processes::below(cluster.pid());
    let namespaces = processes::namespaces(&family);

    // Four writers, each of which counts what was acknowledged, until the process is gone.
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (0..4).map(|writer| tokio::spawn(write_until(cluster.client.clone(), writer, Arc::clone(&stop)))).collect();
    let busy = async || (cluster.get(CONFIG_MAPS).await["items"].as_array()?.len() > 40).then_some(());
    eventually("forty objects are written", busy).await;
    let home = cluster.kill().await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("the writer ends"));
    }
    assert!(acknowledged.len() > 30, "{}", acknowledged.len());
    // Nobody cleans up after a killed process: the kernel does.
    nothing_left(&family, &namespaces).await;

    let cluster = Cluster::start_in(home).await;
    let list = cluster.get(CONFIG_MAPS).await;
    let found: BTreeSet<&str> =
        list["items"].as_array().unwrap().iter().map(|c| c["metadata"]["name"].as_str().unwrap()).collect();
    let lost: Vec<&String> = acknowledged.iter().filter(|name| !found.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "of {} acknowledged objects these are lost: {lost:?}", acknowledged.len());
    let after = cluster.get(&format!("{SERVICES}/web")).await;
    assert_eq!(after, before, "the Service is as it was");

    // The same Pods run anew, and are reached by the same address.
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let container = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
        // Ready means that nothing of the dead process's containers is told any more.
        let first = cluster.get(&format!("{PODS}/{name}")).await;
        assert_ne!(container(&first), container(pod), "{name}");
        let now = cluster
            .until_pod(name, "ready in a container of the new process", |now| is_ready(now).then(|| now.clone()))
            .await;
        assert_eq!(now["metadata"]["uid"], pod["metadata"]["uid"], "{name}");
        assert_eq!(now["spec"]["nodeName"], pod["spec"]["nodeName"], "{name}");
    }
    cluster.endpoints("web", &["web-1", "web-2", "web-3"]).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    let answered: BTreeSet<String> = (0..40).map(|_| client.http(vip).unwrap().pod).collect();
    assert_eq!(answered.len(), 3, "all Pods answer through the same VIP: {answered:?}");
    cluster.stop().await;
}

/// Creates ConfigMaps until nobody answers any more; returns the names of those that were acknowledged.
async fn write_until(client: Client, writer: usize, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        let name = format!("c-{writer}-{number}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
        match client.text(Method::POST, CONFIG_MAPS, "application/json", object.to_string()).await {
            Ok((201, _)) => acknowledged.push(name),
            Ok((code, text)) => panic!("{code} {text}"),
            Err(_) => break,
        }
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    acknowledged
}

pub async fn detached_cluster_is_ready_when_up_returns_and_ends_with_down() {
    let home = Home::new();
    let data = home.data();
    let data = data.to_str().unwrap();
    let (code, out, err) = vipyard(&["up", "--detach", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.starts_with("cluster is ready"), "{out}");
    assert!(out.contains("/?token="), "the dashboard's address: {out}");
    assert!(out.contains(&format!("vipyard down --data-dir {data}")), "{out}");

    let client = Client::of_kubeconfig(&home.data().join("kubeconfig"));
    let (code, text) = client.text(Method::GET, "/readyz", "", String::new()).await.expect("the API answers");
    assert_eq!((code, text.as_str()), (200, "ok"));
    let (code, printed, _) = vipyard(&["kubeconfig", "--data-dir", data]).await;
    assert_eq!((code, printed), (0, std::fs::read_to_string(home.data().join("kubeconfig")).unwrap()));
    let pid: u32 = std::fs::read_to_string(home.data().join("lock")).unwrap().trim().parse().unwrap();
    let family = processes::below(pid);
    let namespaces = processes::namespaces(&family);

    let (code, out, err) = vipyard(&["down", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    nothing_left(&family, &namespaces).await;
    let (code, out, _) = vipyard(&["down", "--data-dir", data]).await;
    assert_eq!(code, 0);
    assert!(out.starts_with("no cluster is running in"), "{out}");

    // A lock that cannot be asked says nothing.
    let other = Home::new();
    std::fs::create_dir_all(other.data().join("lock")).unwrap();
    let (code, out, err) = vipyard(&["down", "--data-dir", other.data().to_str().unwrap()]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("cannot lock"), "{err}");
}

/// Without any privilege, in a user namespace in which it is nobody special, a cluster does the same.
pub async fn ordinary_user_runs_a_cluster() {
    let home = Home::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--", VIPYARD, "up", "--data-dir"]).arg(home.data());
    let mut cluster = Cluster::start_with(home, command).await;
    let vip = populate(&cluster).await;
    // Seen from here the Pods belong to a user namespace of that user.
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/host",
        "command": ["/bin/bash", "-c", format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do {} ; done", fetch(vip))]}]});
    cluster.pod("client", spec).await;
    let ended = |pod: &Value| ["Succeeded", "Failed"].contains(&pod["status"]["phase"].as_str()?).then_some(());
    cluster.until_pod("client", "done", ended).await;
    let log = cluster.logs("client", "").await;
    let pods: BTreeSet<&str> = log.lines().filter_map(|line| line.strip_prefix("pod: ")).collect();
    assert!(pods.len() >= 2, "{log}");
    let family = processes::below(cluster.pid());
    let namespaces = processes::namespaces(&family);
    cluster.signal(Signal::TERM);
    let status = cluster.wait().await;
    assert!(status.success(), "{status}: {}", cluster.home.log());
    nothing_left(&family, &namespaces).await;
}

/// A command of bash that asks whoami over TCP.
fn fetch(vip: SocketAddr) -> String {
    format!("exec 3<>/dev/tcp/{}/9000; head -n 6 <&3; exec 3>&-", vip.ip())
}
