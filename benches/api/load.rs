//! The loads.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::Options;
use crate::client::{Connection, Endpoint};
use crate::report::{Aim, Figure, Row};
use crate::server::Server;

const CONNECTIONS: usize = 32;
const WATCHERS: usize = 50;
/// As many Services as the figure of memory names.
const SERVICES: usize = 10_000;
const LISTED: usize = 2_000;
const SELECTED: usize = 2_000;
const CONFIG_MAPS: usize = 15_000;
const LISTS: usize = 40;
const POSTS: usize = 300;
/// Of a ConfigMap's value: about 1 KB of JSON in all.
const VALUE: usize = 850;
/// The memory counts when the controllers have done what they do about the writes.
const SETTLED: Duration = Duration::from_millis(500);
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

const SERVICE_CREATES: Row =
    Row { label: "Service creates", unit: "1/s", aim: Some(Aim::AtLeast(3_000.0)), reference: Some(250.0) };
const SELECTED_CREATES: Row =
    Row { label: "the same with a selector, until their slices are there", unit: "1/s", aim: None, reference: None };
const CONFIG_MAP_CREATES: Row =
    Row { label: "ConfigMap creates, 1 KB", unit: "1/s", aim: Some(Aim::AtLeast(5_000.0)), reference: Some(1_800.0) };
const GETS: Row =
    Row { label: "gets of a Service", unit: "1/s", aim: Some(Aim::AtLeast(15_000.0)), reference: Some(3_000.0) };
const LIST: Row =
    Row { label: "list of 2,000 Services, median", unit: "ms", aim: Some(Aim::Below(15.0)), reference: Some(60.0) };
const SERVICE_EVENTS: Row = Row {
    label: "POST of a Service to 50 watchers' events, median",
    unit: "ms",
    aim: Some(Aim::Below(1.0)),
    reference: Some(12.0),
};
const CONFIG_MAP_EVENTS: Row = Row {
    label: "POST of a ConfigMap to 50 watchers' events, median",
    unit: "ms",
    aim: Some(Aim::Below(1.0)),
    reference: Some(3.0),
};
const MEMORY: Row =
    Row { label: "resident with 10,000 Services", unit: "MB", aim: Some(Aim::Below(120.0)), reference: Some(400.0) };
/// kube-proxy's nftables mode, with half as many Services.
const PROGRAMMED: Row = Row {
    label: "slice write to packets, 10,000 Services of 10, p99",
    unit: "ms",
    aim: Some(Aim::Below(2.0)),
    reference: Some(2_200.0),
};
const PROGRAMMED_MEDIAN: Row = Row { label: "the same, median", unit: "ms", aim: None, reference: None };

fn collection(resource: &str, namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{resource}")
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"app": "load"}},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}})
}

fn selected(name: &str) -> Value {
    let mut service = service(name);
    service["spec"]["selector"] = json!({"app": name});
    service
}

fn slice(name: &str, last: u8) -> Value {
    let endpoints = (1..=9).chain([last]).map(|n| json!({"addresses": [format!("10.244.1.{n}")], "nodeName": "n1"}));
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints.collect::<Vec<_>>()})
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "x".repeat(VALUE)}})
}

/// Runs the chosen loads, one after another, on a fresh cluster. The figure of memory comes last, when all the Services
/// are there.
pub async fn measure(server: &Server, options: &Options) -> Result<Vec<Figure>> {
    let endpoint = Endpoint::new(&server.kubeconfig(), options.http1);
    let mut connections = try_join_all((0..CONNECTIONS).map(|_| endpoint.connect())).await?;
    for namespace in ["listed", "bulk", "maps", "selected", "events"] {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string();
        connections[0].expect(StatusCode::CREATED, Method::POST, "/api/v1/namespaces", body.into()).await?;
    }
    let mut figures = Vec::new();
    let chosen = |row: &Row| row.label.contains(&options.only);

    // What the later loads read.
    create(&mut connections, &collection("services", "listed"), "s", LISTED, service).await?;
    if chosen(&SERVICE_CREATES) || chosen(&MEMORY) || chosen(&PROGRAMMED) {
        let rest = SERVICES - LISTED;
        let value = timed(
            server,
            &SERVICE_CREATES,
            create(&mut connections, &collection("services", "bulk"), "s", rest, service),
        )
        .await?;
        figures.push(Figure { row: &SERVICE_CREATES, value });
    }
    if chosen(&MEMORY) {
        settle(server).await?;
        figures.push(Figure { row: &MEMORY, value: server.resident()? });
    }
    if chosen(&PROGRAMMED) {
        let (median, p99) = programmed(&mut connections).await?;
        figures.push(Figure { row: &PROGRAMMED, value: p99 });
        figures.push(Figure { row: &PROGRAMMED_MEDIAN, value: median });
    }
    if chosen(&CONFIG_MAP_CREATES) {
        let path = collection("configmaps", "maps");
        let value =
            timed(server, &CONFIG_MAP_CREATES, create(&mut connections, &path, "c", CONFIG_MAPS, config_map)).await?;
        figures.push(Figure { row: &CONFIG_MAP_CREATES, value });
    }
    if chosen(&GETS) {
        let value = timed(server, &GETS, gets(&mut connections, Duration::from_secs_f64(options.seconds))).await?;
        figures.push(Figure { row: &GETS, value });
    }
    if chosen(&LIST) {
        figures.push(Figure { row: &LIST, value: lists(&mut connections[0]).await? });
    }
    for (row, resource, body) in
        [(&SERVICE_EVENTS, "services", service as fn(&str) -> Value), (&CONFIG_MAP_EVENTS, "configmaps", config_map)]
    {
        if chosen(row) {
            figures.push(Figure { row, value: events(&endpoint, resource, body).await? });
        }
    }
    if chosen(&SELECTED_CREATES) {
        let value = timed(server, &SELECTED_CREATES, with_slices(&endpoint, &mut connections)).await?;
        figures.push(Figure { row: &SELECTED_CREATES, value });
    }
    Ok(figures)
}

/// Says on standard error how much of the processors the server had of the load.
async fn timed(server: &Server, row: &Row, load: impl Future<Output = Result<f64>>) -> Result<f64> {
    let (begin, before) = (Instant::now(), server.processor_time()?);
    let value = load.await.with_context(|| row.label.to_owned())?;
    let (took, used) = (begin.elapsed().as_secs_f64(), server.processor_time()? - before);
    eprintln!("{}: {value:.0} in {took:.1} s, server {:.0} % of a core", row.label, 100.0 * used / took);
    Ok(value)
}

/// Creates `count` objects, each connection one after another. Returns objects per second.
async fn create(
    connections: &mut [Connection],
    path: &str,
    prefix: &str,
    count: usize,
    body: impl Fn(&str) -> Value,
) -> Result<f64> {
    let lanes = connections.len();
    // Made before the clock starts: the load generator shares the processors with the server.
    let bodies: Vec<Vec<Bytes>> = (0..lanes)
        .map(|lane| (lane..count).step_by(lanes).map(|i| body(&format!("{prefix}{i}")).to_string().into()).collect())
        .collect();
    let begin = Instant::now();
    try_join_all(connections.iter_mut().zip(bodies).map(async |(connection, bodies)| {
        for body in bodies {
            connection.expect(StatusCode::CREATED, Method::POST, path, body).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Gets Services by name, a different one each time, until the time is over. Returns gets per second.
async fn gets(connections: &mut [Connection], time: Duration) -> Result<f64> {
    let path = collection("services", "listed");
    let begin = Instant::now();
    let lanes = connections.iter_mut().enumerate().map(async |(lane, connection)| {
        let mut count = 0;
        while begin.elapsed() < time {
            let name = (lane * 61 + count * 7) % LISTED;
            let path = format!("{path}/s{name}");
            connection.expect(StatusCode::OK, Method::GET, &path, Bytes::new()).await?;
            count += 1;
        }
        anyhow::Ok(count)
    });
    let counts = try_join_all(lanes).await?;
    Ok(counts.iter().sum::<usize>() as f64 / begin.elapsed().as_secs_f64())
}

/// Lists the 2,000 Services of a namespace on one connection. Returns the median in milliseconds.
async fn lists(connection: &mut Connection) -> Result<f64> {
    let path = collection("services", "listed");
    let mut samples = Vec::with_capacity(LISTS);
    for _ in 0..LISTS {
        let begin = Instant::now();
        let body = connection.expect(StatusCode::OK, Method::GET, &path, Bytes::new()).await?;
        samples.push(begin.elapsed());
        if samples.len() == 1 {
            let list: Value = serde_json::from_slice(&body)?;
            let count = list["items"].as_array().map_or(0, Vec::len);
            ensure!(count == LISTED, "the list has {count} items");
        }
    }
    Ok(median(samples))
}

/// Creates objects one after another while 50 connections watch. Returns the median time from the begin of a POST to
/// an event of it at a watcher, over all events at all watchers, in milliseconds.
async fn events(endpoint: &Endpoint, resource: &str, body: fn(&str) -> Value) -> Result<f64> {
    let path = collection(resource, "events");
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut watchers = Vec::new();
    let mut poster = endpoint.connect().await?;
    // From now on, so that no event is there but those of the POSTs.
    let list = poster.expect(StatusCode::OK, Method::GET, &path, Bytes::new()).await?;
    let list: Value = serde_json::from_slice(&list)?;
    let now = list["metadata"]["resourceVersion"].as_str().context("a version")?.to_owned();
    for _ in 0..WATCHERS {
        let mut connection = endpoint.connect().await?;
        let watch = format!("{path}?watch=true&resourceVersion={now}");
        let mut response = connection.send(Method::GET, &watch, Bytes::new()).await?.into_body();
        let arrived = arrived.clone();
        watchers.push(tokio::spawn(async move {
            // Held so that the connection stays.
            let _connection = connection;
            while let Some(Ok(frame)) = response.frame().await {
                let at = Instant::now();
                let lines = frame.data_ref().map_or(0, |data| data.iter().filter(|byte| **byte == b'\n').count());
                for _ in 0..lines {
                    if arrived.send(at).is_err() {
                        return;
                    }
                }
            }
        }));
    }
    let mut samples = Vec::with_capacity(POSTS * WATCHERS);
    for i in 0..POSTS {
        let body: Bytes = body(&format!("e{i}")).to_string().into();
        let begin = Instant::now();
        let post = poster.expect(StatusCode::CREATED, Method::POST, &path, body);
        let all = async {
            for _ in 0..WATCHERS {
                let at = arrivals.recv().await.context("the watches ended")?;
                samples.push(at - begin);
            }
            anyhow::Ok(())
        };
        let both = async { futures::try_join!(post, all) };
        tokio::time::timeout(Duration::from_secs(5), both).await.context("an event never came")??;
    }
    ensure!(arrivals.is_empty(), "there were more events than POSTs");
    watchers.iter().for_each(|watcher| watcher.abort());
    Ok(median(samples))
}

/// Gives each Service ten endpoints, then changes one slice after the other. Returns median and 99th percentile of the
/// time, in milliseconds, from the begin of a write until the write barrier says that it is in the packets: two requests.
async fn programmed(connections: &mut [Connection]) -> Result<(f64, f64)> {
    let slices = |namespace: &str| format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices");
    for (namespace, count) in [("listed", LISTED), ("bulk", SERVICES - LISTED)] {
        create(connections, &slices(namespace), "s", count, |name| slice(name, 10)).await?;
    }
    let connection = &mut connections[0];
    connection.expect(StatusCode::OK, Method::GET, "/vipyard/v1/barrier", Bytes::new()).await?;
    let mut samples = Vec::with_capacity(POSTS);
    for i in 0..POSTS {
        let name = format!("s{}", i * 5);
        let body: Bytes = slice(&name, 11).to_string().into();
        let begin = Instant::now();
        connection.expect(StatusCode::OK, Method::PUT, &format!("{}/{name}", slices("bulk")), body).await?;
        connection.expect(StatusCode::OK, Method::GET, "/vipyard/v1/barrier", Bytes::new()).await?;
        samples.push(begin.elapsed());
    }
    samples.sort_unstable();
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Ok((at(0.5), at(0.99)))
}

/// Creates Services that select Pods and waits until each has its EndpointSlice. Returns Services per second.
async fn with_slices(endpoint: &Endpoint, connections: &mut [Connection]) -> Result<f64> {
    let begin = Instant::now();
    create(connections, &collection("services", "selected"), "s", SELECTED, selected).await?;
    let mut connection = endpoint.connect().await?;
    let slices = "/apis/discovery.k8s.io/v1/namespaces/selected/endpointslices?watch=true&resourceVersion=0\
        &sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=false";
    let mut body = connection.send(Method::GET, slices, Bytes::new()).await?.into_body();
    let mut seen = 0;
    while seen < SELECTED {
        let frame = tokio::time::timeout(SETTLE_LIMIT, body.frame()).await?.context("the watch ended")??;
        let text = String::from_utf8_lossy(frame.data_ref().map_or(&[][..], |data| data)).into_owned();
        seen += text.matches("{\"type\":\"ADDED\"").count();
    }
    Ok(SELECTED as f64 / begin.elapsed().as_secs_f64())
}

/// Waits until the server no longer works.
async fn settle(server: &Server) -> Result<()> {
    let begin = Instant::now();
    let mut before = server.processor_time()?;
    loop {
        tokio::time::sleep(SETTLED).await;
        let now = server.processor_time()?;
        if now - before < SETTLED.as_secs_f64() / 20.0 || begin.elapsed() > SETTLE_LIMIT {
            return Ok(());
        }
        before = now;
    }
}

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples.get(samples.len() / 2).map_or(f64::NAN, |middle| middle.as_secs_f64() * 1e3)
}
