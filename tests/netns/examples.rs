//! The manifests of `examples/applications`, with servers of Debian's packages in place of containers.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{Cluster, Home, PODS, SERVICES, VIPYARD, eventually, is_ready};
use crate::inside::Inside;
use crate::workloads::DEPLOYMENTS;

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

/// Asks a frontend of the guestbook until the answer is the one that is wanted.
async fn guestbook(client: &Inside, host: &str, query: &str, wanted: Value) {
    eventually(&format!("{host} answers {query} with {wanted}"), async || {
        let (_, said) = client.sh(&format!("curl -sS --max-time 5 'http://{host}/guestbook.php?{query}'")).await;
        let answer: Value = serde_json::from_str(&said).ok()?;
        (answer == wanted).then_some(())
    })
    .await;
}

async fn scale(cluster: &Cluster, deployment: &str, replicas: i32) {
    let path = format!("{DEPLOYMENTS}/{deployment}");
    cluster.patch(&path, json!({"spec": {"replicas": replicas}})).await;
    cluster.rolled_out(&path, replicas).await;
}

pub async fn guestbook_writes_to_its_leader_and_reads_from_followers() {
    const GET: &str = "cmd=get&key=messages";
    let cluster = start("guestbook.yaml").await;
    // Both Deployments of redis select the label that all their Pods have; each counts its own.
    for (deployment, replicas) in [("redis-leader", 1), ("redis-follower", 2), ("frontend", 3)] {
        cluster.rolled_out(&format!("{DEPLOYMENTS}/{deployment}"), replicas).await;
    }
    let client = cluster.client_pod("client", "n1").await;

    guestbook(&client, "frontend", "cmd=set&key=messages&value=hello", json!({"message": "Updated"})).await;
    let redis = cluster.pods_of("redis").await;
    let with_role =
        |role: &str| redis.iter().filter(|pod| pod["metadata"]["labels"]["role"] == role).collect::<Vec<_>>();
    let followers = with_role("follower");
    assert_eq!(followers.len(), 2);
    for follower in followers {
        let ip = follower["status"]["podIP"].as_str().expect("an address");
        eventually(&format!("{ip} has what was written"), async || {
            let (_, said) = client.sh(&format!("redis-cli -h {ip} get messages")).await;
            (said.trim() == "hello").then_some(())
        })
        .await;
        let (_, said) = client.sh(&format!("redis-cli -h {ip} role")).await;
        assert!(said.starts_with("slave\nredis-leader\n6379\nconnected\n"), "{said}");
        let (_, said) = client.sh(&format!("redis-cli -h {ip} set messages other")).await;
        assert!(said.starts_with("READONLY"), "{said}");
    }

    // Every frontend has it, and every address of their Service leads to them.
    cluster.settled().await;
    let service = cluster.get(&format!("{SERVICES}/frontend")).await;
    let load_balancer = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().expect("an address");
    let node = cluster.get("/api/v1/nodes/n2").await;
    let node = node["status"]["addresses"][0]["address"].as_str().expect("an address");
    let mut hosts = vec!["frontend".to_owned(), load_balancer.to_owned()];
    hosts.push(format!("{node}:{}", service["spec"]["ports"][0]["nodePort"]));
    for frontend in cluster.pods_of("guestbook").await {
        hosts.push(frontend["status"]["podIP"].as_str().expect("an address").to_owned());
    }
    assert_eq!(hosts.len(), 6);
    for host in &hosts {
        guestbook(&client, host, GET, json!({"data": "hello"})).await;
    }
    let (code, page) = client.sh("curl -sS --max-time 5 http://frontend/").await;
    assert!(code == 0 && page.contains("<h1>Guestbook</h1>"), "{code} {page}");

    // Without followers nothing is read, while the leader takes what is written.
    scale(&cluster, "redis-follower", 0).await;
    guestbook(&client, "frontend", GET, json!({"error": "[Errno 111] Connection refused"})).await;
    guestbook(&client, "frontend", "cmd=set&key=messages&value=hello,again", json!({"message": "Updated"})).await;
    scale(&cluster, "redis-follower", 2).await;
    guestbook(&client, "frontend", GET, json!({"data": "hello,again"})).await;

    // A leader has no volume: with its Pod goes what it held, and the followers go on with the next.
    let leader = format!("{PODS}/{}", with_role("leader")[0]["metadata"]["name"].as_str().expect("a name"));
    cluster.delete(&leader).await;
    cluster.gone(&leader).await;
    guestbook(&client, "frontend", GET, json!({"data": ""})).await;
    guestbook(&client, "frontend", "cmd=set&key=messages&value=anew", json!({"message": "Updated"})).await;
    guestbook(&client, "frontend", GET, json!({"data": "anew"})).await;

    scale(&cluster, "frontend", 5).await;
    eventually("five frontends serve", async || (cluster.ready_endpoints("frontend").await.len() == 5).then_some(()))
        .await;
    cluster.stop().await;
}
