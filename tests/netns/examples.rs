//! The manifests of `examples/applications`, with servers of Debian's packages in place of containers.

use std::path::PathBuf;

use tokio::process::Command;

use crate::cluster::{Cluster, Home, PODS, VIPYARD, eventually, is_ready};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/applications")
}

async fn start(manifest: &str) -> Cluster {
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data()).arg("--images").arg(folder().join("images.yaml"));
    let cluster = Cluster::start_with(home, command).await;
    cluster.create(&std::fs::read_to_string(folder().join(manifest)).expect("the manifest")).await;
    cluster
}

/// Waits until as many Pods with the label are ready, and returns their names.
async fn ready(cluster: &Cluster, app: &str, count: usize) -> Vec<String> {
    let path = format!("{PODS}?labelSelector=app={app}");
    eventually(&format!("{count} Pods of {app} are ready"), async || {
        let pods = cluster.get(&path).await;
        let items = pods["items"].as_array()?.iter().filter(|pod| is_ready(pod));
        let names: Vec<String> = items.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned())).collect();
        (names.len() == count).then_some(names)
    })
    .await
}

pub async fn redis_members_find_their_primary_and_replicate() {
    let cluster = start("redis.yaml").await;
    let names = ready(&cluster, "redis", 3).await;
    assert_eq!(names, ["redis-0", "redis-1", "redis-2"]);
    let client = cluster.client_pod("client", "n1").await;
    let (code, said) = client.sh("redis-cli -h redis-0.redis set greeting hello").await;
    assert_eq!((code, said.trim()), (0, "OK"));
    for member in ["redis-1", "redis-2"] {
        eventually(&format!("{member} has what was written"), async || {
            let (_, said) = client.sh(&format!("redis-cli -h {member}.redis get greeting")).await;
            (said.trim() == "hello").then_some(())
        })
        .await;
    }
    // A member that is deleted comes back under its name and with its files.
    cluster.delete(&format!("{PODS}/redis-2")).await;
    eventually("redis-2 comes back", async || {
        let (_, said) = client.sh("redis-cli -h redis-0.redis info replication").await;
        said.contains("connected_slaves:2").then_some(())
    })
    .await;
    ready(&cluster, "redis", 3).await;
    cluster.stop().await;
}

pub async fn web_server_serves_its_config_map() {
    let cluster = start("web.yaml").await;
    ready(&cluster, "site", 2).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    let (code, said) = client.sh("curl -sS --max-time 5 http://site/").await;
    assert_eq!((code, said.trim()), (0, "<h1>hello from a ConfigMap</h1>"));
    cluster.stop().await;
}
