//! Pods as processes: what they find, how they end, and what their status says.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS};

fn state(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]
}

fn last(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["lastState"]["terminated"]
}

/// A Pod of one container that runs a shell script from the host's file system.
fn script(text: &str, restart: &str) -> Value {
    json!({"restartPolicy": restart, "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", text]}]})
}

pub async fn services_are_in_the_environment_ev1_ev3() {
    let cluster = Cluster::start().await;
    let spec = json!({"clusterIP": "10.96.0.61", "ipFamilyPolicy": "SingleStack",
        "ports": [{"name": "db", "port": 6379}, {"name": "udp", "port": 53, "protocol": "UDP"}]});
    cluster.service("redis-primary", spec).await;
    cluster.service("headless", json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"})).await;
    let mut pod = script("env", "Never");
    pod["containers"][0]["env"] = json!([{"name": "REDIS_PRIMARY_SERVICE_PORT", "value": "mine"},
        {"name": "URL", "value": "http://$(REDIS_PRIMARY_SERVICE_HOST)/$$(x)"},
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]);
    pod["nodeName"] = "n2".into();
    cluster.pod("env", pod).await;
    cluster.until_pod("env", "done", |pod| (pod["status"]["phase"] == "Succeeded").then_some(())).await;
    let log = cluster.logs("env", "").await;
    for line in [
        "REDIS_PRIMARY_SERVICE_HOST=10.96.0.61",
        "REDIS_PRIMARY_SERVICE_PORT_DB=6379",
        "REDIS_PRIMARY_SERVICE_PORT_UDP=53",
        "REDIS_PRIMARY_PORT=tcp://10.96.0.61:6379",
        "REDIS_PRIMARY_PORT_6379_TCP=tcp://10.96.0.61:6379",
        "REDIS_PRIMARY_PORT_6379_TCP_ADDR=10.96.0.61",
        "REDIS_PRIMARY_PORT_53_UDP_PROTO=udp",
        "KUBERNETES_SERVICE_HOST=10.96.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        "KUBERNETES_SERVICE_PORT_HTTPS=443",
        // What the Pod itself says wins (EV1), with references replaced (EV4) and fields read (EV5).
        "REDIS_PRIMARY_SERVICE_PORT=mine",
        "URL=http://10.96.0.61/$(x)",
        "NODE=n2",
        "HOSTNAME=env",
    ] {
        assert!(log.lines().any(|found| found == line), "no {line} in\n{log}");
    }
    assert!(!log.contains("HEADLESS"), "{log}");
    cluster.stop().await;
}

pub async fn api_answers_inside_the_cluster() {
    let cluster = Cluster::start().await;
    let client = cluster.client_pod("client", "n2").await;
    for ip in ["10.96.0.1:443", "10.245.0.1:6443"] {
        client.connect(ip.parse().unwrap()).unwrap_or_else(|e| panic!("{ip}: {e}"));
    }
    if crate::needs::program("curl").is_some() {
        let (code, out) = client.sh("curl -sk --max-time 5 https://kubernetes.default.svc/healthz").await;
        assert_eq!((code, out.as_str()), (0, "ok"));
        // Nobody gets in without a name.
        let (_, out) = client.sh("curl -sk --max-time 5 https://kubernetes.default.svc/api/v1/secrets").await;
        assert!(out.contains("\"code\":401"), "{out}");
    }
    cluster.stop().await;
}

pub async fn failing_container_backs_off_and_keeps_its_last_log() {
    let cluster = Cluster::start().await;
    cluster.pod("crash", script("echo out of luck; exit 3", "Always")).await;
    let waiting = |pod: &Value| {
        let backing_off = state(pod)["waiting"]["reason"] == "CrashLoopBackOff";
        let count = pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0);
        (backing_off && count >= 1).then(|| pod.clone())
    };
    let pod = cluster.until_pod("crash", "in back-off after a restart", waiting).await;
    assert_eq!((&last(&pod)["exitCode"], &last(&pod)["reason"]), (&json!(3), &json!("Error")));
    let message = state(&pod)["waiting"]["message"].as_str().expect("a message");
    assert!(
        message.starts_with("back-off ") && message.contains("restarting failed container=c pod=crash_default"),
        "{message}"
    );
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(cluster.logs("crash", "previous=true").await, "out of luck\n");
    assert_eq!(cluster.logs("crash", "tailLines=1").await, "out of luck\n");
    cluster.delete(&format!("{PODS}/crash")).await;
    cluster.gone(&format!("{PODS}/crash")).await;
    cluster.stop().await;
}

pub async fn restart_policy_decides_the_phase() {
    let cluster = Cluster::start().await;
    cluster.pod("done", script("exit 0", "Never")).await;
    cluster.pod("failed", script("exit 1", "Never")).await;
    cluster.pod("killed", script("exec sleep infinity", "Never")).await;
    // From outside: a container's first process is immune to signals from within.
    let pid = i32::try_from(cluster.inside("killed").await.pid).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    // The image is the host's file system, so the second run finds what the first one left.
    let mark = cluster.home.path("tried").display().to_string();
    cluster.pod("tried", script(&format!("test -f {mark} && exit 0; touch {mark}; exit 1"), "OnFailure")).await;
    for (name, phase, code, reason) in
        [("done", "Succeeded", 0, "Completed"), ("failed", "Failed", 1, "Error"), ("killed", "Failed", 137, "Error")]
    {
        let ended = |pod: &Value| (pod["status"]["phase"] == phase).then(|| state(pod)["terminated"].clone());
        let state = cluster.until_pod(name, phase, ended).await;
        assert_eq!((&state["exitCode"], &state["reason"]), (&json!(code), &json!(reason)), "{name}");
    }
    let ended = |pod: &Value| (pod["status"]["phase"] == "Succeeded").then(|| pod.clone());
    let pod = cluster.until_pod("tried", "Succeeded", ended).await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
    cluster.stop().await;
}

pub async fn unknown_image_says_what_to_do_and_breaks_nothing_else() {
    let cluster = Cluster::start().await;
    let spec = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "nginx:1.27"}]});
    cluster.pod("nginx", spec).await;
    let waiting = |pod: &Value| {
        let waiting = &state(pod)["waiting"];
        (waiting["reason"] == "ErrImagePull").then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
    };
    let message = cluster.until_pod("nginx", "ErrImagePull", waiting).await;
    for part in ["nginx:1.27", "vipyard/host"] {
        assert!(message.contains(part), "{message}");
    }
    cluster.whoami("web", &["web-1"]).await;
    assert_eq!(cluster.get(&format!("{PODS}/nginx")).await["status"]["phase"], "Pending");
    cluster.delete(&format!("{PODS}/nginx")).await;
    cluster.gone(&format!("{PODS}/nginx")).await;
    cluster.stop().await;
}

pub async fn missing_program_is_a_start_error() {
    let cluster = Cluster::start().await;
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/host", "command": ["/no/such/program"]}]});
    cluster.pod("typo", spec).await;
    let ended = |pod: &Value| {
        let ended = &state(pod)["terminated"];
        (ended["reason"] == "StartError").then(|| ended.clone())
    };
    let ended = cluster.until_pod("typo", "StartError", ended).await;
    assert_eq!(ended["exitCode"], 128);
    let message = ended["message"].as_str().expect("a message");
    assert!(message.contains("/no/such/program") && message.contains("no such file or directory"), "{message}");
    cluster.stop().await;
}

pub async fn host_network_pod_has_the_nodes_address() {
    let cluster = Cluster::start().await;
    let spec = json!({"hostNetwork": true, "nodeName": "n2", "containers": [{"name": "c", "image": "vipyard/whoami"}]});
    cluster.pod("on-node", spec).await;
    cluster.ready("on-node").await;
    assert_eq!(cluster.pod_ip("on-node").await, "10.245.0.12");
    cluster.whoami("web", &["web-1"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let reply = client.http("10.245.0.12:80".parse().unwrap()).expect("an answer");
    assert_eq!((reply.pod.as_str(), reply.client), ("on-node", client.ip));

    // X10: it asks with the node's address.
    let node = cluster.inside("on-node").await;
    let pod: IpAddr = cluster.pod_ip("web-1").await.parse().unwrap();
    let reply = node.http((pod, 80).into()).expect("an answer");
    assert_eq!((reply.pod.as_str(), reply.client), ("web-1", node.ip));
    // X8: and through a Service, too.
    let service = cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await;
    let vip = (crate::services::vips(&service)[0], 80).into();
    cluster.settled().await;
    let reply = node.http(vip).expect("an answer");
    assert_eq!((reply.pod.as_str(), reply.client), ("web-1", node.ip));
    cluster.stop().await;
}

/// Sends one ICMP echo request and waits for its answer.
fn ping(to: IpAddr) -> std::io::Result<usize> {
    use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sockopt};
    let (family, protocol, kind) = match to {
        IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8),
        IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128),
    };
    let socket = rustix::net::socket(family, SocketType::DGRAM, Some(protocol))?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(std::time::Duration::from_secs(5)))?;
    rustix::net::connect(&socket, &std::net::SocketAddr::new(to, 0))?;
    // Type, code, checksum (the kernel's work), identifier (the kernel's choice), sequence number, 32 bytes.
    let mut request = vec![kind, 0, 0, 0, 0, 0, 0, 1];
    request.extend([0x5a; 32]);
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let mut answer = [0; 256];
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::empty())?;
    assert_eq!(&answer[8..length], &request[8..], "the same data comes back");
    Ok(length)
}

pub async fn echo_requests_are_answered_between_pods() {
    let cluster = Cluster::start().await;
    cluster.whoami("web", &["web-1", "web-2"]).await;
    let client = cluster.client_pod("client", "n1").await;
    for name in ["web-1", "web-2"] {
        let pod = cluster.get(&format!("{PODS}/{name}")).await;
        for ip in pod["status"]["podIPs"].as_array().expect("addresses") {
            let ip: IpAddr = ip["ip"].as_str().unwrap().parse().unwrap();
            client.run(|| ping(ip)).unwrap_or_else(|e| panic!("{name} at {ip}: {e}"));
        }
    }
    client.run(|| ping("10.245.0.12".parse().unwrap())).expect("a node answers");
    cluster.stop().await;
}
