//! Pods are replaced while clients go on asking: nobody notices.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, eventually};
use crate::services::vips;

/// Clients that keep their connection, and as many that open one for each request.
const CLIENTS: usize = 50;
/// Between two requests of a client: a hundred that never rest would leave nothing of two cores to the cluster.
const PAUSE: Duration = Duration::from_millis(20);
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

/// Three Pods are replaced one after the other, as a Deployment does: the new one is ready before an old one goes. They
/// have no preStop hook; the server closes gracefully.
pub async fn replaced_pods_cost_no_request() {
    let cluster = Cluster::start().await;
    let vip = SocketAddr::new(vips(&cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await)[0], 80);
    cluster.whoami("web", &["old-1", "old-2", "old-3"]).await;
    cluster.endpoints("web", &["old-1", "old-2", "old-3"]).await;
    cluster.settled().await;
    let pod = cluster.client_pod("client", "n1").await;
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let more = async |requests: usize| {
        let until = asked.load(Ordering::Relaxed) + requests;
        let enough = async || (asked.load(Ordering::Relaxed) >= until).then_some(());
        eventually("the clients go on asking", enough).await;
    };
    let ask = |keep: bool| {
        let mut client = Client { vip, keep, connection: None };
        let (mut answered, mut failed) = (BTreeSet::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            match client.ask() {
                Ok(pod) => drop(answered.insert(pod)),
                Err(e) => failed.push((keep, e.to_string())),
            }
            asked.fetch_add(1, Ordering::Relaxed);
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
                for index in 1..=3 {
                    more(10 * CLIENTS).await;
                    cluster.whoami("web", &[&format!("new-{index}")]).await;
                    cluster.delete(&format!("{PODS}/old-{index}")).await;
                    cluster.gone(&format!("{PODS}/old-{index}")).await;
                }
                more(10 * CLIENTS).await;
            });
        });
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    let failed: Vec<_> = results.iter().flat_map(|(_, failed)| failed).collect();
    assert!(failed.is_empty(), "{} of {} requests failed: {failed:?}", failed.len(), asked.into_inner());
    let answered: BTreeSet<&str> = results.iter().flat_map(|(answered, _)| answered).map(String::as_str).collect();
    assert_eq!(answered, BTreeSet::from(["new-1", "new-2", "new-3", "old-1", "old-2", "old-3"]));
    cluster.stop().await;
}
