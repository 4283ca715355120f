//! Explanations beside real packets, the flow log beside real connections, and the tutorial, word for word.

use std::io::{BufRead, BufReader as Lines, ErrorKind};
use std::net::SocketAddr;
use std::process::Stdio;

use http::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{Cluster, PODS, VIPYARD, run, vipyard};
use crate::services::{at, vips};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

impl Cluster {
    /// Runs a command on this cluster: exit code, standard output, standard error.
    async fn command(&self, arguments: &[&str]) -> (i32, String, String) {
        let data = self.home.data();
        let mut all = arguments.to_vec();
        all.extend(["--data-dir", data.to_str().expect("a path of text")]);
        vipyard(&all).await
    }

    /// Exit code and report.
    async fn explain_flow(&self, from: &str, to: &str, more: &[&str]) -> (i32, Value) {
        let mut arguments = vec!["explain", "flow", "--from", from, "--to", to, "-o", "json"];
        arguments.extend(more);
        let (code, out, err) = self.command(&arguments).await;
        assert_eq!(err, "", "{from} to {to}");
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{from} to {to}: {e}: {out}")))
    }
}

/// Every kind of verdict, by the command and by a packet of the same sender.
pub async fn explanations_and_real_packets_agree() {
    let cluster = Cluster::start().await;
    let web = vips(&cluster.service("web", json!({"type": "NodePort"})).await);
    let near =
        vips(&cluster.service("near", json!({"selector": {"app": "web"}, "internalTrafficPolicy": "Local"})).await);
    let none = vips(&cluster.service("none", json!({})).await);
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let server = cluster.node_of("web-1").await;
    let other = if server == "n3" { "n2" } else { "n3" };
    let client = cluster.client_pod("client", other).await;
    cluster.settled().await;
    let unowned: SocketAddr = "10.96.77.77:80".parse().expect("an address");
    let pod: SocketAddr = at(cluster.pod_ip("web-1").await.parse().expect("an address"), 80);
    // Where to; the verdict; what a program sees.
    let cases = [
        (at(web[0], 80), "delivered", None),
        (at(web[1], 80), "delivered", None),
        (pod, "delivered", None),
        (at(none[0], 80), "rejected", Some(ErrorKind::ConnectionRefused)),
        (at(web[0], 4321), "rejected", Some(ErrorKind::ConnectionRefused)),
        (at(near[0], 80), "dropped", Some(ErrorKind::TimedOut)),
        (unowned, "dropped", Some(ErrorKind::TimedOut)),
    ];
    for (to, result, error) in cases {
        let (code, report) = cluster.explain_flow("pod/client", &to.to_string(), &[]).await;
        assert_eq!(report["verdict"]["result"], result, "{to}: {report:#}");
        assert_eq!(
            (code, report["reachable"].as_bool()),
            (i32::from(result != "delivered"), Some(result == "delivered"))
        );
        match (client.http(to), error) {
            (Ok(reply), None) => assert_eq!(reply.pod, "web-1"),
            (Err(e), Some(kind)) => assert_eq!(e.kind(), kind, "{to}: {e}"),
            (found, wanted) => panic!("{to}: {found:?}, not {wanted:?}"),
        }
    }
    // The steps name the objects as the API has them.
    let (_, report) = cluster.explain_flow("pod/client", "web:http", &[]).await;
    let service = cluster.get("/api/v1/namespaces/default/services/web").await;
    let steps = report["steps"].as_array().expect("steps");
    let step =
        |name: &str| steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("{name}: {report:#}"));
    assert_eq!(step("match")["restsOn"][0]["uid"], service["metadata"]["uid"]);
    assert_eq!(step("match")["restsOn"][0]["resourceVersion"], service["metadata"]["resourceVersion"]);
    let object = cluster.get(&format!("{PODS}/web-1")).await;
    assert_eq!(step("pick")["restsOn"][0]["uid"], object["metadata"]["uid"]);
    // A bad question is neither of the two.
    for (from, to) in [("pod/nobody", "web:80"), ("pod/client", "10.0.0.1"), ("client", "web:80")] {
        let (code, out, err) = cluster.command(&["explain", "flow", "--from", from, "--to", to]).await;
        assert_eq!((code, out.as_str()), (64, ""), "{err}");
        assert!(err.starts_with("vipyard: "), "{err}");
    }
    assert_eq!(cluster.command(&["explain", "service", "nothing"]).await.0, 64);
    assert_eq!(cluster.command(&["explain", "service", "web"]).await.0, 0);
    assert_eq!(cluster.command(&["explain", "service", "default/none"]).await.0, 1);
    cluster.stop().await;
}

/// What `flows -f` prints while a request is made, a packet dropped and a connection refused.
pub async fn flow_log_is_followed_from_the_first_packet_to_the_last() {
    let cluster = Cluster::start().await;
    let web = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    let mut command = std::process::Command::new(VIPYARD);
    command
        .args(["flows", "-f", "--tail", "0", "--pod", "client", "-o", "json", "--data-dir"])
        .arg(cluster.home.data());
    let mut follower = command.stdout(Stdio::piped()).spawn().expect("the command starts");
    let mut lines = Lines::new(follower.stdout.take().expect("its output")).lines();
    // It follows from some moment on: datagrams to nobody are dropped until the first is told of.
    let (told, begun) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut seen: Vec<Value> = Vec::new();
        while let Some(Ok(line)) = lines.next() {
            seen.push(serde_json::from_str(&line).expect("JSON"));
            let _ = told.send(());
            if seen.last().is_some_and(|line| line["event"] == "end" && line["result"] == "closed") {
                break;
            }
        }
        seen
    });
    let mut unowned = 1u16;
    while begun.try_recv().is_err() {
        client.run(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            let _ = socket.send_to(b"x", ("10.96.77.77", unowned));
        });
        unowned += 1;
        assert!(unowned < 2000, "nothing is told of");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let refused = client.http(at(web[0], 4321)).expect_err("nobody listens");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(client.http(at(web[0], 80)).expect("an answer").pod, "web-1");
    let seen = tokio::task::block_in_place(|| reader.join().expect("lines"));
    // Whoever read has gone: the command ends with its next line, or here.
    let _ = follower.kill();
    let _ = follower.wait();
    let find =
        |event: &str| seen.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("{event}: {seen:#?}"));
    assert_eq!(find("drop")["reason"], "unallocated_vip");
    assert_eq!(find("reject")["reason"], "unknown_service_port");
    let (start, end) = (find("start"), seen.last().expect("an end"));
    let pod = cluster.get(&format!("{PODS}/client")).await;
    assert_eq!(
        (&start["client"]["name"], &start["client"]["uid"]),
        (&json!("default/client"), &pod["metadata"]["uid"])
    );
    assert_eq!(start["destination"], format!("{}:80", web[0]));
    for line in [start, end] {
        assert_eq!(
            (&line["service"]["name"], &line["server"]["name"]),
            (&json!("web"), &json!("default/web-1")),
            "{line}"
        );
        assert_eq!(line["nodes"][0], "n1");
    }
    let numbers = |field: &str| {
        end[field].as_array().expect("two").iter().map(|n| n.as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert!(numbers("packets").iter().all(|n| *n >= 3) && numbers("bytes").iter().all(|n| *n > 100), "{end}");
    // The same as text, and what is there only.
    let (code, out, _) = cluster.command(&["flows", "--pod", "client", "--dropped"]).await;
    assert!(code == 0 && out.contains("unallocated_vip") && !out.contains(" start "), "{out}");
    let (_, text) = cluster.request(Method::GET, "/metrics", None).await.expect("metrics");
    let text = text.as_str().expect("text");
    assert!(text.contains("router_dropped_packets_total{reason=\"unallocated_vip\"}"), "{text}");
    cluster.stop().await;
}

/// The commands of docs/tutorial.md print what stands under them.
pub async fn tutorial_finds_five_faults() {
    let cluster = Cluster::start().await;
    let text = std::fs::read_to_string(format!("{ROOT}/docs/tutorial.md")).expect("the tutorial");
    let blocks: Vec<&str> = text.split("```").skip(1).step_by(2).collect();
    assert!(blocks.len() >= 14, "the tutorial has commands and outputs");
    let path = std::path::Path::new(VIPYARD).parent().expect("its folder").display().to_string();
    let path = format!("{path}:{}", std::env::var("PATH").unwrap_or_default());
    let mut said = String::new();
    for block in blocks {
        let (kind, body) = block.split_once('\n').expect("a block");
        match kind {
            "sh" => {
                let mut shell = Command::new("bash");
                shell.arg("-c").arg(body).current_dir(ROOT).env("PATH", &path);
                shell.env("KUBECONFIG", cluster.kubeconfig()).env("VIPYARD_DATA_DIR", cluster.home.data());
                shell.env("HOME", cluster.home.path("home"));
                let (_, out, err) = run(shell).await;
                said = out + &err;
            }
            "text" => {
                let mut rest = said.as_str();
                for line in body.lines() {
                    let Some(at) = rest.find(line) else { panic!("{line:?} is not said here, in this order:\n{said}") };
                    rest = &rest[at + line.len()..];
                }
            }
            other => panic!("a block of {other:?}"),
        }
    }
    cluster.stop().await;
}
