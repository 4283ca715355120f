//! How fast the store is on this machine: `cargo run --release --example store_bench [DIR]`.
//!
//! Values of 1 KB, durable, in a new directory below DIR (default: the current directory, so that it is a real disk).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use vipyard::config::StoreConfig;
use vipyard::store::{Encode, Key, Op, Scope, Store};

const VALUE: usize = 1024;

fn encode() -> Encode {
    Box::new(|revision| {
        let mut value = format!("{{\"resourceVersion\":\"{revision}\",\"padding\":\"").into_bytes();
        value.resize(VALUE - 2, b'x');
        value.extend_from_slice(b"\"}");
        Bytes::from(value)
    })
}

/// Each writer creates its objects, then updates them in turn. Returns writes per second.
async fn writes(store: &Store, resource: &'static str, writers: usize, each: usize) -> f64 {
    let start = Instant::now();
    let tasks = (0..writers).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let resource: Arc<str> = resource.into();
            let mut revisions = vec![0; (each / 4).max(1)];
            for i in 0..each {
                let slot = i % revisions.len();
                let key = Key::new(resource.clone(), "default", format!("object-{writer}-{slot}"));
                let op = match revisions[slot] {
                    0 => Op::Create { encode: encode() },
                    expect => Op::Update { expect, encode: encode() },
                };
                revisions[slot] = store.commit(key, op).await.expect("a write of one's own object").revision;
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.expect("a writer");
    }
    (writers * each) as f64 / start.elapsed().as_secs_f64()
}

fn rss_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<f64>().ok());
    kilobytes.unwrap_or(0.0) / 1024.0
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let below = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("."), PathBuf::from);
    let dir = below.join(format!("store-bench-{}", std::process::id()));
    let config = StoreConfig::at(dir.join("store.db"));

    let start = Instant::now();
    let store = Store::open(&config).await?;
    println!("open, new                       {:>10.1?}", start.elapsed());
    println!("1 writer                        {:>10.0} writes/s", writes(&store, "configmaps", 1, 8_000).await);
    println!("32 writers                      {:>10.0} writes/s", writes(&store, "services", 32, 4_000).await);
    println!("32 writers, while compacting    {:>10.0} writes/s", writes(&store, "pods", 32, 4_000).await);

    let mut watches =
        (0..50).map(|_| store.watch(Scope::all("leases"), store.revision())).collect::<Result<Vec<_>, _>>()?;
    let mut latency = Vec::new();
    for i in 0..1000 {
        let all = watches.iter_mut().map(|watch| watch.next());
        let start = Instant::now();
        let write =
            store.commit(Key::new("leases", "kube-node-lease", format!("n{i}")), Op::Create { encode: encode() });
        let (write, events) = futures::join!(write, futures::future::join_all(all));
        write?;
        assert!(events.iter().all(|event| event.is_ok()));
        latency.push(start.elapsed());
    }
    latency.sort();
    println!("write to 50 watchers' events    {:>10.1?} median, {:.1?} p99", latency[500], latency[990]);

    let scope = Scope::all("services");
    let start = Instant::now();
    let listing = store.list(&scope);
    println!("list of {:>6}                  {:>10.1?}", listing.items.len(), start.elapsed());
    let revision = store.compacted();
    let start = Instant::now();
    let listing = store.list_at(&scope, revision).await?;
    println!("list of {:>6} at the floor     {:>10.1?}", listing.items.len(), start.elapsed());
    let start = Instant::now();
    let mut watch = store.watch(Scope::all("pods"), revision)?;
    let mut events = 0;
    while watch.revision() < store.revision() {
        watch.next().await?;
        events += 1;
    }
    let took = start.elapsed();
    println!(
        "replay from the floor           {:>10.0} events/s ({events} in {took:.1?})",
        events as f64 / took.as_secs_f64()
    );
    println!("resident                        {:>10.1} MB", rss_megabytes());
    for statement in store.statements() {
        let mean = statement.total.checked_div(u32::try_from(statement.runs)?).unwrap_or(Duration::ZERO);
        println!("statement {:<10}            {:>10} runs, {mean:.1?} each", statement.name, statement.runs);
    }
    drop(listing);
    drop(watch);
    drop(watches);

    let start = Instant::now();
    store.close().await;
    println!("close                           {:>10.1?}", start.elapsed());
    println!(
        "file                            {:>10.1} MB",
        std::fs::metadata(dir.join("store.db"))?.len() as f64 / 1e6
    );
    let start = Instant::now();
    let store = Store::open(&config).await?;
    println!(
        "open, {:>6} objects            {:>10.1?}",
        store.list(&Scope::all("services")).items.len(),
        start.elapsed()
    );
    store.close().await;
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
