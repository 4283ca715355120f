//! Random lives of Pods, which must leave nothing behind.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Home, PODS, eventually, within};

/// How many lives there are without `VIPYARD_SOAK_LIVES`.
const LIVES: u32 = 60;
/// How many Pods there may be at once.
const CROWD: usize = 12;
/// How often vipyard itself is killed: once in so many lives.
const DEATH: u32 = 25;
const CLEAN: Duration = Duration::from_secs(90);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a Pod may be: one that lives, one that ends well or badly, at once or again and again, one that never starts.
fn spec(random: &mut StdRng) -> Value {
    let shell = |script: &str| json!({"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", script]});
    let pause = json!({"name": "c", "image": "vipyard/pause"});
    let deaf = shell("trap '' TERM; sleep 1000 & sleep 1001");
    let containers = [
        pause.clone(),
        shell("exec sleep 1000"),
        shell("sleep 1000 & sleep 1001"),
        shell("exit 0"),
        shell("exit 3"),
        json!({"name": "c", "image": "vipyard/host", "command": ["/no/such/program"]}),
        json!({"name": "c", "image": "no/such/image"}),
        deaf,
    ];
    let policy = ["Always", "OnFailure", "Never"].choose(random).expect("a policy");
    let (grace, container) = (random.random_range(0..3), containers.choose(random).expect("a container"));
    let mut spec = json!({"restartPolicy": policy, "terminationGracePeriodSeconds": grace, "containers": [container]});
    if random.random_bool(0.3) {
        spec["volumes"] = json!([{"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "d", "emptyDir": {}}]);
        spec["containers"][0]["volumeMounts"] =
            json!([{"name": "m", "mountPath": "/memory"}, {"name": "d", "mountPath": "/data/deep"}]);
    }
    if random.random_bool(0.2) {
        let mut side = pause;
        (side["name"], side["restartPolicy"]) = (json!("side"), json!("Always"));
        let mut init = shell("exit 0");
        init["name"] = json!("init");
        spec["initContainers"] = json!([side, init]);
    }
    if random.random_bool(0.1) {
        spec["shareProcessNamespace"] = json!(true);
    }
    spec
}

/// Every process below this one.
fn descendants(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let children = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("children")).ok()?;
        Some(text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
    });
    let children: Vec<i32> = children.flatten().collect();
    let deeper: Vec<i32> = children.iter().filter_map(|pid| u32::try_from(*pid).ok()).flat_map(descendants).collect();
    [children, deeper].concat()
}

fn is_alive(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

fn entries(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

async fn kill_and_start_again(cluster: Cluster) -> Cluster {
    let processes = descendants(cluster.pid());
    let home = cluster.kill().await;
    let ends = async || (!processes.iter().any(|pid| is_alive(*pid))).then_some(());
    eventually("every process ends with vipyard", ends).await;
    Cluster::start_in(home).await
}

/// Runs what may fail, as the Pod may be gone by now.
async fn attempt(cluster: &Cluster, method: Method, path: &str, body: Option<Value>) {
    let (code, answer) = cluster.request(method, path, body).await.expect("the API answers");
    assert!((200..300).contains(&code) || code == 404 || code == 409, "{code} {answer}");
}

pub async fn random_lives_leave_nothing_behind() {
    let lives = number("VIPYARD_SOAK_LIVES").and_then(|n| u32::try_from(n).ok()).unwrap_or(LIVES);
    let seed = number("VIPYARD_SOAK_SEED").unwrap_or_else(|| rand::rng().random());
    println!("    {lives} lives, VIPYARD_SOAK_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let mut cluster = Cluster::start_in(Home::new()).await;
    let mut names: Vec<String> = Vec::new();
    for life in 0..lives {
        let name = format!("life-{life}");
        cluster.pod(&name, spec(&mut random)).await;
        names.push(name);
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        while names.len() > CROWD || (!names.is_empty() && random.random_bool(0.4)) {
            let name = names.swap_remove(random.random_range(0..names.len()));
            let grace = ["", "?gracePeriodSeconds=0", "?gracePeriodSeconds=1"].choose(&mut random).unwrap();
            attempt(&cluster, Method::DELETE, &format!("{PODS}/{name}{grace}"), None).await;
        }
        if random.random_bool(0.3)
            && let Some(pid) = descendants(cluster.pid()).choose(&mut random).and_then(|pid| Pid::from_raw(*pid))
        {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        if random.random_ratio(1, DEATH) || life == lives / 2 {
            cluster = kill_and_start_again(cluster).await;
        }
    }

    cluster.request(Method::DELETE, PODS, None).await.expect("the API answers");
    within(CLEAN, "all Pods go", async || {
        let left = cluster.get(PODS).await;
        left["items"].as_array().is_some_and(Vec::is_empty).then_some(())
    })
    .await;
    let data = cluster.home.data();
    within(CLEAN, "their processes and files go", async || {
        (descendants(cluster.pid()).is_empty() && entries(&data.join("pods")).is_empty()).then_some(())
    })
    .await;
    // A Pod that comes now finds everything free.
    cluster.whoami("after", &["after"]).await;
    let home = cluster.stop().await;
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts"), mounts);
    assert!(!home.data().join("pods").exists(), "{:?}", entries(&home.data()));
}
