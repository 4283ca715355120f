//! Pods are replaced while clients go on asking: nobody notices.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, eventually};
use crate::services::vips;
use crate::workloads::DEPLOYMENTS;

/// Clients that keep their connection, and as many that open one for each request.
const CLIENTS: usize = 50;
/// Between two requests of a client: a hundred that never rest would leave nothing of two cores to the cluster.
const PAUSE: Duration = Duration::from_millis(20);
/// So many requests say that all goes well.
const BETWEEN: usize = 10 * CLIENTS;
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of HTTP/1.1 that asks on one connection until the server ends it.
struct Client {
    vip: SocketAddr,
    keep: bool,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// Which Pod answers.
    fn ask(&mut self) -> io::Result<String> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect_timeout(&self.vip, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_nodelay(true)?;
                BufReader::new(stream)
            }
        };
        write!(connection.get_mut(), "GET /json HTTP/1.1\r\nHost: web\r\n\r\n")?;
        let (mut length, mut close, mut line) = (0, false, String::new());
        connection.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(io::Error::new(ErrorKind::InvalidData, line));
        }
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line)?;
            match line.trim_end().to_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
                Some(("connection", "close")) => close = true,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        connection.read_exact(&mut body)?;
        self.connection = Some(connection).filter(|_| self.keep && !close);
        let body: Value = serde_json::from_slice(&body)?;
        Ok(body["pod"].as_str().unwrap_or_default().to_owned())
    }
}

/// How many requests there were.
pub struct Asked(AtomicUsize);

impl Asked {
    /// Waits until so many more have been answered, or have failed.
    pub async fn more(&self, requests: usize) {
        let until = self.0.load(Ordering::Relaxed) + requests;
        let enough = async || (self.0.load(Ordering::Relaxed) >= until).then_some(());
        eventually("the clients go on asking", enough).await;
    }
}

/// Lets clients in a Pod ask `vip` while `change` goes on, none of them in vain. Returns the Pods that answered.
pub async fn under_load(cluster: &Cluster, vip: SocketAddr, change: impl AsyncFnOnce(&Asked)) -> BTreeSet<String> {
    let pod = cluster.client_pod("client", "n1").await;
    let (stop, asked) = (AtomicBool::new(false), Asked(AtomicUsize::new(0)));
    let ask = |keep: bool| {
        let mut client = Client { vip, keep, connection: None };
        let (mut answered, mut failed) = (BTreeSet::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            match client.ask() {
                Ok(pod) => drop(answered.insert(pod)),
                Err(e) => failed.push((keep, e.to_string())),
            }
            asked.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(PAUSE);
        }
        (answered, failed)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let (pod, ask) = (&pod, &ask);
        let clients: Vec<_> =
            (0..2 * CLIENTS).map(|index| scope.spawn(move || pod.run_here(|| ask(index % 2 == 0)))).collect();
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                asked.more(BETWEEN).await;
                change(&asked).await;
                asked.more(BETWEEN).await;
            });
        });
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let failed: Vec<_> = results.iter().flat_map(|(_, failed)| failed).collect();
    let asked = asked.0.into_inner();
    assert!(failed.is_empty(), "{} of {asked} requests failed: {failed:?}", failed.len());
    results.into_iter().flat_map(|(answered, _)| answered).collect()
}

/// Three Pods are replaced one after the other, as a Deployment does: the new one is ready before an old one goes. They
/// have no preStop hook; the server closes gracefully.
pub async fn replaced_pods_cost_no_request() {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await)[0], 80);
    cluster.whoami("web", &["old-1", "old-2", "old-3"]).await;
    cluster.endpoints("web", &["old-1", "old-2", "old-3"]).await;
    cluster.settled().await;
    let answered = under_load(&cluster, vip, async |asked| {
        for index in 1..=3 {
            cluster.whoami("web", &[&format!("new-{index}")]).await;
            cluster.delete(&format!("{PODS}/old-{index}")).await;
            cluster.gone(&format!("{PODS}/old-{index}")).await;
            asked.more(BETWEEN).await;
        }
    })
    .await;
    let all = ["new-1", "new-2", "new-3", "old-1", "old-2", "old-3"].map(str::to_owned);
    assert_eq!(answered, BTreeSet::from(all));
    cluster.stop().await;
}

/// The real controller replaces them, in surges of one.
pub async fn restarted_deployment_costs_no_request() {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await)[0], 80);
    let strategy = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    // The usual time to end, so that a busy machine kills no server that is still answering.
    let template = json!({"spec": {"terminationGracePeriodSeconds": 30}});
    cluster.deployment("web", json!({"replicas": 3, "strategy": strategy, "template": template})).await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster.rolled_out(&path, 3).await;
    let before = cluster.names_of("web").await;
    cluster.settled().await;
    let answered = under_load(&cluster, vip, async |asked| {
        // What `kubectl rollout restart` writes.
        let annotations = json!({"kubectl.kubernetes.io/restartedAt": "2024-01-01T00:00:00Z"});
        cluster.patch(&path, json!({"spec": {"template": {"metadata": {"annotations": annotations}}}})).await;
        cluster.rolled_out(&path, 3).await;
        let gone = async || (cluster.names_of("web").await.len() == 3).then_some(());
        eventually("the old Pods to go", gone).await;
        asked.more(10 * BETWEEN).await;
    })
    .await;
    let after = cluster.names_of("web").await;
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    assert_eq!(answered, before.union(&after).cloned().collect());
    cluster.stop().await;
}
