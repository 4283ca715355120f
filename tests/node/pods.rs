//! Pods from creation to the end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use vipyard::node::{LogOptions, Wanted};

use super::world::{World, condition, is_ready};

pub fn whoami() -> Value {
    json!({"containers": [{"name": "c", "image": "vipyard/whoami"}]})
}

pub fn shell(script: &str) -> Value {
    json!({"containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", script]}]})
}

pub fn with(mut spec: Value, more: Value) -> Value {
    json_patch::merge(&mut spec, &more);
    spec
}

pub async fn log(world: &World, pod: &str, options: LogOptions) -> String {
    let stream = world.agents.logs("default", pod, "c", options).expect("there is a log");
    let pieces: Vec<Bytes> = stream.collect().await;
    String::from_utf8(pieces.concat()).unwrap()
}

pub async fn whole_log(world: &World, pod: &str) -> String {
    log(world, pod, LogOptions { follow: true, ..LogOptions::default() }).await
}

pub async fn nodes_are_registered_ready() {
    let world = World::start().await;
    let node = world.api.node("n2").unwrap();
    assert_eq!(node["status"]["addresses"][0]["address"], "10.245.0.12");
    assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "b");
    assert_eq!(world.hub.names(), ["n1", "n2"]);
    world.end().await;
}

pub async fn nodes_of_an_earlier_run_that_had_more_are_removed() {
    let world = World::with(|api| {
        api.put_node("n1", json!({"providerID": "vipyard://n1"}));
        api.put_node("n3", json!({"providerID": "vipyard://n3"}));
        api.put_node("n4", json!({"providerID": "kind://n4"}));
    });
    let world = world.await;
    assert!(world.api.node("n1").is_some() && world.api.node("n3").is_none() && world.api.node("n4").is_some());
    world.end().await;
}

/// PS5: the addresses, and what else a running Pod tells.
pub async fn pod_runs_and_answers_over_its_address() {
    let world = World::start().await;
    let begin = Instant::now();
    let status = world.run("web", whoami(), is_ready).await;
    println!("    ready after {:?}", begin.elapsed());
    assert_eq!(status["phase"], "Running");
    assert_eq!(status["podIPs"], json!([{"ip": "10.244.1.2"}, {"ip": "fd00:10:244:1::2"}]));
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("10.244.1.2"), &json!("10.245.0.11")));
    let container = &status["containerStatuses"][0];
    assert_eq!(
        (&container["ready"], &container["started"], &container["restartCount"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(container["containerID"].as_str().unwrap().starts_with("vipyard://"));
    for type_ in ["PodScheduled", "PodReadyToStartContainers", "Initialized", "ContainersReady"] {
        assert_eq!(condition(&status, type_), "True", "{type_}");
    }
    let reasons: Vec<String> = world.api.events.lock().iter().map(|(reason, _)| reason.clone()).collect();
    assert_eq!(reasons, ["Pulled", "Created", "Started"]);
    for address in ["10.244.1.2:80", "[fd00:10:244:1::2]:80"] {
        let answer = get(&world, address, "/").await;
        assert!(answer.contains("pod: web\nnamespace: default\nnode: n1\nprotocol: http\n"), "{answer}");
        let client = if address.starts_with('[') { "client: [fd00:10:245::b]:" } else { "client: 10.245.0.11:" };
        assert!(answer.contains(client), "{answer}");
    }
    world.end().await;
}

/// HTTP from node n1, by hand; waits until the program listens.
pub async fn get(world: &World, address: &str, path: &str) -> String {
    use std::io::{Read, Write};
    let (address, path) = (address.to_owned(), path.to_owned());
    let ns = world.agents.node_ns("n1").unwrap().try_clone().unwrap();
    let answer = tokio::task::spawn_blocking(move || {
        ns.run(|| {
            let begin = Instant::now();
            let mut stream = loop {
                match std::net::TcpStream::connect(&address) {
                    Ok(stream) => break stream,
                    Err(e) if begin.elapsed() > Duration::from_secs(5) => panic!("{address}: {e}"),
                    Err(_) => std::thread::yield_now(),
                }
            };
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    });
    answer.await.unwrap().unwrap()
}

pub async fn container_has_names_files_and_environment() {
    let world = World::start().await;
    world.api.service(json!({"metadata": {"name": "redis-primary", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 6379}]}}));
    let script = "hostname; cat /etc/hostname; grep $IP /etc/hosts; head -1 /etc/resolv.conf; echo $REDIS_PRIMARY_SERVICE_HOST; \
        echo $$$$; echo 'last words' > /dev/termination-log; ls /dev/shm | wc -l; cat /proc/1/comm; $(ECHO) $$(echo done)";
    let spec = with(
        shell(script),
        json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/host",
            "command": ["/bin/sh", "-c"], "args": [script], "env": [
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "ECHO", "value": "echo"}]}]}),
    );
    let status = world.run("names", spec, |s| s["phase"] == "Succeeded").await;
    assert_eq!(
        whole_log(&world, "names").await,
        "names\nnames\n10.244.1.2\tnames\nsearch default.svc.cluster.local svc.cluster.local cluster.local\n\
         10.96.0.7\n1\n0\nsh\ndone\n"
            .replace("cluster.local\n", &format!("cluster.local{}\n", host_searches()))
    );
    let ended = &status["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &ended["message"]),
        (&json!(0), &json!("Completed"), &json!("last words\n"))
    );
    assert_eq!(
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == "Ready").unwrap()["reason"],
        "PodCompleted"
    );
    world.only_nodes_attached().await;
    world.end().await;
}

fn host_searches() -> String {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("search")).unwrap_or_default();
    line.split_whitespace().map(|word| format!(" {word}")).collect()
}

pub async fn missing_program_is_a_start_error_and_crash_loops() {
    let world = World::start().await;
    let spec = json!({"containers": [{"name": "c", "image": "vipyard/host", "command": ["no-such-program"]}]});
    let crash_loop = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let status = world.run("bad", spec, crash_loop).await;
    let last = &status["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&json!("StartError"), &json!(128)));
    let message = last["message"].as_str().unwrap();
    assert!(message.ends_with(r#"exec: "no-such-program": executable file not found in $PATH"#), "{message}");
    world.status("bad", |s| s["containerStatuses"][0]["restartCount"].as_i64() > Some(2)).await;
    world.end().await;
}

/// PS9: the count, the last state and the waiting reason.
pub async fn failing_container_restarts_with_back_off() {
    let world = World::start().await;
    let status = world.run("crash", shell("echo run; exit 3"), |s| {
        let c = &s["containerStatuses"][0];
        c["restartCount"].as_i64() >= Some(2) && c["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    let status = status.await;
    let container = &status["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(container["lastState"]["terminated"]["reason"], "Error");
    assert_eq!(status["phase"], "Running");
    assert!(!is_ready(&status));
    let previous = log(&world, "crash", LogOptions { previous: true, ..LogOptions::default() }).await;
    assert_eq!(previous, "run\n");
    assert!(world.api.events.lock().iter().any(|(reason, _)| reason == "BackOff"));
    world.end().await;
}

pub async fn unknown_image_says_what_to_do() {
    let world = World::start().await;
    let reason = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"].clone();
    let spec = json!({"containers": [{"name": "c", "image": "nginx:1"}]});
    let status = world.run("pull", spec, |s| reason(s) == "ErrImagePull").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("use vipyard/whoami"), "{message}");
    assert_eq!(status["phase"], "Pending");
    world.status("pull", |s| reason(s) == "ImagePullBackOff").await;
    world.api.edit("pull", json!({"spec": whoami()}));
    world.status("pull", is_ready).await;
    world.end().await;
}

pub async fn graceful_delete_terminates_then_removes_the_object() {
    let world = World::start().await;
    world.run("bye", shell("trap 'echo term; exit 0' TERM; echo up; while :; do sleep 0.05; done"), is_ready).await;
    let follow =
        world.agents.logs("default", "bye", "c", LogOptions { follow: true, ..LogOptions::default() }).unwrap();
    let mut follow = Box::pin(follow);
    assert_eq!(follow.next().await.unwrap(), "up\n");
    world.api.delete_gracefully("bye", 5);
    assert_eq!(follow.next().await.unwrap(), "term\n");
    world.gone("bye").await;
    let requests = world.api.requests();
    let last: Vec<&String> = requests.iter().rev().take(2).collect();
    assert_eq!(
        last,
        ["DELETE /api/v1/namespaces/default/pods/bye", "PATCH /api/v1/namespaces/default/pods/bye/status"]
    );
    world.only_nodes_attached().await;
    world.end().await;
}

pub async fn containers_are_asked_to_end_when_new_connections_go_elsewhere() {
    let world = World::start().await;
    world.run("bye", shell("trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"), is_ready).await;
    world.logged("bye", "up").await;
    let mut asked = world.data_plane.hold();
    world.api.delete_gracefully("bye", 30);
    asked.wait_for(|asked| *asked == 1).await.expect("the agent waits for the data plane");
    assert!(!world.api.reported("Killing"));
    world.data_plane.release();
    world.gone("bye").await;
    assert!(world.api.reported("Killing"));
    world.end().await;
}

pub async fn deaf_container_is_killed_after_the_grace_period() {
    let world = World::start().await;
    world.run("deaf", shell("trap '' TERM; while :; do sleep 0.05; done"), is_ready).await;
    let begin = Instant::now();
    world.api.delete_gracefully("deaf", 1);
    world.gone("deaf").await;
    let took = begin.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&took), "{took:?}");
    world.end().await;
}

/// PX1: a container that is being stopped for another reason has no longer than the Pod.
pub async fn shorter_grace_reaches_a_container_that_is_being_stopped() {
    let world = World::start().await;
    let spec = with(
        shell("trap 'echo term' TERM; echo up; while :; do sleep 0.05; done"),
        json!({"terminationGracePeriodSeconds": i64::MAX}),
    );
    world.run("stubborn", spec.clone(), is_ready).await;
    world.logged("stubborn", "up").await;
    world.api.edit(
        "stubborn",
        json!({"spec": with(spec, json!({"containers": [{"name": "c", "image": "vipyard/other",
        "command": ["/bin/sh"]}]}))}),
    );
    world.logged("stubborn", "term").await;
    world.api.delete_gracefully("stubborn", i64::MAX);
    world.api.delete_gracefully("stubborn", 1);
    world.gone("stubborn").await;
    world.end().await;
}

pub async fn vanished_object_kills_at_once_and_frees_the_address() {
    let world = World::start().await;
    world.run("force", shell("trap '' TERM; while :; do sleep 0.05; done"), is_ready).await;
    world.api.delete_now("force");
    world.only_nodes_attached().await;
    assert!(!world.api.requests().iter().any(|r| r.starts_with("DELETE")));
    world.end().await;
}

/// PS2 and PS6: gates and foreign conditions.
pub async fn readiness_probe_decides_and_third_party_conditions_stay() {
    let world = World::start().await;
    let probe = json!({"httpGet": {"path": "/ready", "port": "web"}, "periodSeconds": 1, "failureThreshold": 1});
    let spec = json!({
        "readinessGates": [{"conditionType": "example.com/gate"}],
        "containers": [{"name": "c", "image": "vipyard/whoami", "args": ["--port", "8080"],
            "ports": [{"name": "web", "containerPort": 8080}], "readinessProbe": probe}]
    });
    let begin = Instant::now();
    let status = world.run("probed", spec, |s| condition(s, "ContainersReady") == "True").await;
    println!("    probed ready after {:?}", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(1), "a closed port is looked at again soon");
    assert!(!is_ready(&status));
    let mut conditions = status["conditions"].clone();
    conditions.as_array_mut().unwrap().push(json!({"type": "example.com/gate", "status": "True"}));
    world.api.edit("probed", json!({"status": {"conditions": conditions}}));
    world.status("probed", is_ready).await;
    world
        .agents
        .exec_ok(
            "probed",
            "wget -qO- --post-data= 'http://127.0.0.1:8080/ready?state=false' || \
        curl -sX POST 'http://127.0.0.1:8080/ready?state=false'",
        )
        .await;
    let status = world.status("probed", |s| !is_ready(s)).await;
    assert_eq!(condition(&status, "example.com/gate"), "True");
    assert!(
        world
            .api
            .events
            .lock()
            .iter()
            .any(|(_, m)| m == "Readiness probe failed: HTTP probe failed with statuscode: 503")
    );
    world.end().await;
}

pub async fn exec_and_liveness_probes_run_in_the_container() {
    let world = World::start().await;
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "vipyard/host",
        "command": ["/bin/sh", "-c", "touch /dev/shm/ok; echo up; sleep 0.5; rm /dev/shm/ok; sleep 100"],
        "readinessProbe": {"exec": {"command": ["cat", "/dev/shm/ok"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["cat", "/dev/shm/ok"]}, "periodSeconds": 1, "failureThreshold": 1}}]});
    world.run("live", spec, |s| s["containerStatuses"][0]["restartCount"] == 1).await;
    let events = world.api.events.lock().clone();
    assert!(events.iter().any(|(_, m)| m == "Container c failed liveness probe, will be restarted"), "{events:?}");
    assert!(events.iter().any(|(_, m)| m.contains("cat: /dev/shm/ok: No such file")), "{events:?}");
    world.end().await;
}

pub async fn init_containers_run_in_order_before_the_others() {
    let world = World::start().await;
    let host =
        |name: &str, script: &str| json!({"name": name, "image": "vipyard/host", "command": ["/bin/sh", "-c", script]});
    let mut spec = whoami();
    spec["initContainers"] = json!([host("one", "sleep 0.2"), host("two", "exit 0")]);
    let first = world.run("init", spec, |s| s["initContainerStatuses"][0]["state"]["running"].is_object()).await;
    assert_eq!(first["phase"], "Pending");
    assert_eq!(condition(&first, "Initialized"), "False");
    assert_eq!(first["initContainerStatuses"][1]["state"]["waiting"]["reason"], "PodInitializing");
    let status = world.status("init", is_ready).await;
    assert_eq!(condition(&status, "Initialized"), "True");
    assert_eq!(status["initContainerStatuses"][1]["state"]["terminated"]["exitCode"], 0);

    let mut spec = whoami();
    spec["restartPolicy"] = json!("Never");
    spec["initContainers"] = json!([host("bad", "exit 7")]);
    let status = world.run("init-fails", spec, |s| s["phase"] == "Failed").await;
    assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["exitCode"], 7);
    assert!(status["containerStatuses"][0]["state"]["waiting"].is_object());
    world.end().await;
}

pub async fn host_network_pod_has_the_nodes_addresses() {
    let world = World::start().await;
    let spec = with(shell("hostname; exec sleep 100"), json!({"hostNetwork": true, "nodeName": "n2"}));
    let status = world.run("hostnet", spec, is_ready).await;
    assert_eq!((&status["podIP"], &status["hostIP"]), (&json!("10.245.0.12"), &json!("10.245.0.12")));
    assert_eq!(world.hub.names(), ["n1", "n2"]);
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    let mut lines = Box::pin(world.agents.logs("default", "hostnet", "c", follow).unwrap());
    assert_eq!(lines.next().await.unwrap(), "n2\n");
    world.end().await;
}

pub async fn pod_of_an_earlier_run_starts_anew_and_finished_ones_stay() {
    let pod = |name: &str, status: Value, more: Value| {
        let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "generation": 1},
            "spec": with(whoami(), json!({"nodeName": "n1", "restartPolicy": "Always"})), "status": status});
        json_patch::merge(&mut pod, &more);
        pod
    };
    let ran = json!({"phase": "Running", "podIP": "10.244.1.9", "containerStatuses": [{"name": "c", "image": "i", "imageID": "",
        "ready": true, "restartCount": 0, "containerID": "vipyard://old", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]});
    let world = World::with(|api| {
        api.put("again", pod("again", ran.clone(), json!({})));
        api.put("over", pod("over", json!({"phase": "Succeeded"}), json!({})));
        let dying =
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}});
        api.put("dying", pod("dying", ran, dying));
    });
    let world = world.await;
    let status = world.status("again", |s| is_ready(s) && s["containerStatuses"][0]["restartCount"] == 1).await;
    assert_eq!(status["podIP"], "10.244.1.9");
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    world.gone("dying").await;
    // Its end is told before it goes: a finalizer may hold it, and somebody wait for that.
    let requests = world.api.requests();
    let about: Vec<&String> = requests.iter().filter(|request| request.contains("/pods/dying")).collect();
    let path = "/api/v1/namespaces/default/pods/dying";
    assert_eq!(about, [&format!("PATCH {path}/status"), &format!("DELETE {path}")]);
    assert_eq!(world.api.pod("over").unwrap()["status"], json!({"phase": "Succeeded"}));
    assert_eq!(world.hub.names(), ["default/again", "n1", "n2"]);
    world.end().await;
}

/// A task may begin with what was true a moment ago.
pub async fn pod_that_the_api_does_not_have_is_ended() {
    let world = World::start().await;
    world.api.rumour("ghost", shell("exec sleep 100"));
    world.requested("PATCH /api/v1/namespaces/default/pods/ghost/status").await;
    world.only_nodes_attached().await;
    world.vanished(&world.dir.path().join("pods/uid-ghost")).await;
    world.end().await;
}

trait ExecOk {
    async fn exec_ok(&self, pod: &str, script: &str);
}

impl ExecOk for vipyard::node::Agents {
    async fn exec_ok(&self, pod: &str, script: &str) {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let session = self.exec("default", pod, "c", argv, Wanted::default()).await.unwrap();
        assert_eq!(session.ended.await, 0);
    }
}

/// The other half of the next scenario: a vipyard that runs one Pod until it is killed.
pub async fn hold() {
    let world = World::start().await;
    world.run("held", shell("sleep 1000 & echo up; exec sleep 1000"), is_ready).await;
    let lines = world.agents.logs("default", "held", "c", LogOptions { follow: true, ..LogOptions::default() });
    assert_eq!(Box::pin(lines.unwrap()).next().await.unwrap(), "up\n");
    println!("held");
    std::future::pending::<()>().await;
}

pub async fn killed_vipyard_leaves_no_process() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use std::io::BufRead;

    let program = std::env::current_exe().unwrap();
    let mut vipyard = std::process::Command::new(program);
    let mut vipyard = KillOnDrop(vipyard.arg("hold").stdout(std::process::Stdio::piped()).spawn().unwrap());
    let lines = std::io::BufReader::new(vipyard.0.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line == "held"));
    let children = descendants(vipyard.0.id());
    let pidfds: Vec<_> =
        children.iter().map(|pid| pidfd_open(Pid::from_raw(*pid).unwrap(), PidfdFlags::empty()).unwrap()).collect();
    assert_eq!(pidfds.len(), 2, "the container's first process and its child: {children:?}");
    drop(vipyard);
    let limit = Timespec { tv_sec: 5, tv_nsec: 0 };
    for pidfd in &pidfds {
        assert_eq!(poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&limit)), Ok(1), "{children:?}");
    }
}

struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn descendants(pid: u32) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children: Vec<i32> = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|text| text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<i32>>())
        .collect();
    let deeper: Vec<i32> = children.iter().flat_map(|child| descendants(u32::try_from(*child).unwrap())).collect();
    [children, deeper].concat()
}
