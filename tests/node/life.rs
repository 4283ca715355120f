//! The life of containers and Pods: hooks, order, deadlines.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::pods::{get, shell, whoami, whole_log, with};
use super::world::{World, condition, is_ready};

fn host(name: &str, script: &str) -> Value {
    json!({"name": name, "image": "vipyard/host", "command": ["/bin/sh", "-c", script]})
}

fn state(status: &Value, container: usize) -> &Value {
    &status["containerStatuses"][container]["state"]
}

pub async fn post_start_hook_holds_the_container_back() {
    let world = World::start().await;
    let mut spec = with(shell("echo up; exec sleep 100"), json!({"volumes": [{"name": "v", "emptyDir": {}}]}));
    let mount = json!([{"name": "v", "mountPath": "/data"}]);
    spec["containers"][0]["volumeMounts"] = mount.clone();
    let hook = "until test -e /data/go; do sleep 0.02; done";
    spec["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", hook]}}});
    spec["containers"].as_array_mut().unwrap().push(host("later", "exec sleep 100"));
    world.api.create_pod("held", spec);
    world.logged("held", "up").await;
    let status = world.status("held", |s| s["containerStatuses"].is_array()).await;
    assert_eq!(state(&status, 0)["waiting"]["reason"], "ContainerCreating");
    assert_eq!(
        (&status["phase"], &state(&status, 1)["waiting"]["reason"]),
        (&json!("Pending"), &json!("ContainerCreating"))
    );
    let folder = world.dir.path().join("pods/uid-held");
    assert!(!folder.join("later").exists(), "the next container waits for the hook");
    std::fs::write(folder.join("volumes/kubernetes.io~empty-dir/v/go"), "").unwrap();
    world.status("held", is_ready).await;
    world.end().await;
}

pub async fn failed_post_start_hook_ends_the_container() {
    let world = World::start().await;
    let mut spec =
        with(shell("trap 'exit 7' TERM; while :; do sleep 0.02; done"), json!({"terminationGracePeriodSeconds": 2}));
    spec["containers"][0]["lifecycle"] =
        json!({"postStart": {"exec": {"command": ["/bin/sh", "-c", "echo no; exit 1"]}}});
    let status = world.run("fails", spec, |s| s["containerStatuses"][0]["restartCount"].as_i64() >= Some(1)).await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 7);
    let message = world.event("FailedPostStartHook").await;
    assert!(message.contains("no\n"), "{message}");
    world.end().await;
}

pub async fn pre_stop_hook_runs_before_the_end_and_counts() {
    let world = World::start().await;
    let script = "trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.02; done";
    let mut spec = with(shell(script), json!({"restartPolicy": "Never"}));
    // Its output is nobody's; what it does is seen in the container.
    spec["containers"][0]["lifecycle"] =
        json!({"preStop": {"exec": {"command": ["/bin/sh", "-c", "echo hook >/proc/1/fd/1; sleep 0.2"]}}});
    world.api.create_pod("stops", spec.clone());
    world.logged("stops", "up").await;
    let follow = vipyard::node::LogOptions { follow: true, ..Default::default() };
    let stream = world.agents.logs("default", "stops", "c", follow).unwrap();
    world.api.delete_gracefully("stops", 5);
    let pieces: Vec<bytes::Bytes> = futures::StreamExt::collect(stream).await;
    assert_eq!(String::from_utf8(pieces.concat()).unwrap(), "up\nhook\nterm\n");
    world.gone("stops").await;

    // The hook's time is the grace period's; a little is left for SIGTERM.
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 100}}});
    world.api.create_pod("slow", spec);
    world.logged("slow", "up").await;
    let begin = Instant::now();
    world.api.delete_gracefully("slow", 1);
    world.gone("slow").await;
    let took = begin.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    world.end().await;
}

pub async fn ending_pod_keeps_its_network_px4() {
    let world = World::start().await;
    let mut spec = whoami();
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 2}}});
    let status = world.run("ends", spec, is_ready).await;
    let address = format!("{}:80", status["podIP"].as_str().unwrap());
    world.api.delete_gracefully("ends", 5);
    world.event("Killing").await;
    let answer = get(&world, &address, "/").await;
    assert!(answer.contains("pod: ends"), "{answer}");
    world.gone("ends").await;
    world.end().await;
}

pub async fn sidecars_start_first_and_end_last_px3() {
    let world = World::start().await;
    let ends = |name: &str| {
        format!(
            "trap 'echo {name} ends >>/data/log; exit 0' TERM; echo {name} up >>/data/log; while :; do sleep 0.02; done"
        )
    };
    let mut first = host("first", &ends("first"));
    first["restartPolicy"] = json!("Always");
    // Main containers wait until its startup probe has passed.
    first["startupProbe"] =
        json!({"exec": {"command": ["test", "-e", "/data/started"]}, "periodSeconds": 1, "failureThreshold": 30});
    let mut second = host("second", &ends("second"));
    second["restartPolicy"] = json!("Always");
    let mut spec = json!({"volumes": [{"name": "v", "emptyDir": {}}], "initContainers": [first, second],
        "containers": [host("main", &ends("main"))]});
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().unwrap() {
            container["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"}]);
        }
    }
    let folder = world.dir.path().join("pods/uid-side/volumes/kubernetes.io~empty-dir/v");
    let status = world.run("side", spec, |s| s["initContainerStatuses"][0]["state"]["running"].is_object()).await;
    assert_eq!((&status["phase"], condition(&status, "Initialized").as_str()), (&json!("Pending"), "False"));
    assert_eq!(status["initContainerStatuses"][0]["started"], false);
    std::fs::write(folder.join("started"), "").unwrap();
    world.status("side", is_ready).await;
    let begin = Instant::now();
    while !std::fs::read_to_string(folder.join("log")).is_ok_and(|log| log.contains("main up")) {
        assert!(begin.elapsed() < Duration::from_secs(20), "main never came up");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = std::fs::File::open(folder.join("log")).unwrap();
    world.api.delete_gracefully("side", 10);
    world.gone("side").await;
    let log = std::io::read_to_string(log).unwrap();
    assert_eq!(log, "first up\nsecond up\nmain up\nmain ends\nsecond ends\nfirst ends\n");
    world.end().await;
}

pub async fn pod_past_its_deadline_fails() {
    let world = World::start().await;
    let spec = with(shell("exec sleep 100"), json!({"activeDeadlineSeconds": 1, "terminationGracePeriodSeconds": 1}));
    let status = world.run("late", spec, |s| s["phase"] == "Failed").await;
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("DeadlineExceeded"), &json!("Pod was active on the node longer than the specified deadline"))
    );
    // It was asked to end, which process 1 ignores without a handler.
    assert_eq!(state(&status, 0)["terminated"]["exitCode"], 137);
    assert!(world.api.reported("DeadlineExceeded"));
    world.only_nodes_attached().await;
    world.end().await;
}

pub async fn missing_reference_is_waited_for() {
    let world = World::start().await;
    let mut spec = with(shell("echo $A"), json!({"restartPolicy": "Never"}));
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "late"}}]);
    let waiting = |s: &Value| state(s, 0)["waiting"]["reason"] == "CreateContainerConfigError";
    let status = world.run("env", spec, waiting).await;
    assert_eq!(state(&status, 0)["waiting"]["message"], "configmap \"late\" not found");
    world.config_map("late", json!({"A": "came"}));
    world.status("env", |s| s["phase"] == "Succeeded").await;
    assert_eq!(whole_log(&world, "env").await, "came\n");
    world.end().await;
}

pub async fn readiness_probes_go_on_while_the_pod_ends_ps8() {
    let world = World::start().await;
    let mut spec = with(whoami(), json!({}));
    spec["containers"][0] = host("c", "trap 'rm /dev/shm/ok' TERM; touch /dev/shm/ok; while :; do sleep 0.02; done");
    let probe = json!({"exec": {"command": ["cat", "/dev/shm/ok"]}, "periodSeconds": 1, "failureThreshold": 1});
    spec["containers"][0]["readinessProbe"] = probe.clone();
    spec["containers"][0]["livenessProbe"] = probe;
    // The others would else look before the file is there, and one look is enough for them.
    let startup = json!({"exec": {"command": ["cat", "/dev/shm/ok"]}, "periodSeconds": 1, "failureThreshold": 20});
    spec["containers"][0]["startupProbe"] = startup;
    world.run("ends", spec, is_ready).await;
    world.api.delete_gracefully("ends", 4);
    // Unready by its probe while it still runs, and not killed by the other.
    let status = world.status("ends", |s| condition(s, "Ready") == "False").await;
    assert!(state(&status, 0)["running"].is_object(), "{status:#}");
    let events = world.api.events.lock().clone();
    assert!(!events.iter().any(|(_, message)| message.contains("liveness")), "{events:?}");
    world.gone("ends").await;
    world.end().await;
}
