//! exec, attach, port-forward, proxies and logs by the real kubectl and by kube-rs.

use std::process::Stdio;

use http::Method;
use kube::api::{AttachParams, TerminalSize};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::cluster::{Cluster, LIMIT, PODS, SERVICES, eventually, run};
use crate::processes;

/// What makes kubectl speak SPDY at once.
const SPDY: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];

impl Cluster {
    /// A Pod that runs a command of the host's.
    async fn shell_pod(&self, name: &str, script: &str, more: Value) {
        let mut container = json!({"name": "c", "image": "vipyard/host", "command": ["sh", "-c", script]});
        json_patch::merge(&mut container, &more);
        let spec = json!({"terminationGracePeriodSeconds": 0, "restartPolicy": "Never", "containers": [container]});
        self.pod(name, spec).await;
        self.ready(name).await;
    }

    fn kubectl_over(&self, spdy: bool, arguments: &[&str]) -> Command {
        let mut command = self.kubectl_command(arguments);
        command.envs(if spdy { &SPDY[..] } else { &[] }.iter().copied());
        command
    }

    /// Runs kubectl with this input: exit code, output, errors.
    async fn fed(&self, mut command: Command, input: &[u8]) -> (i32, Vec<u8>, String) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its input");
        let written = async {
            let _ = stdin.write_all(input).await;
            drop(stdin);
        };
        let both = async { tokio::join!(written, child.wait_with_output()).1 };
        let output = tokio::time::timeout(LIMIT, both).await.expect("kubectl ends").expect("its output");
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code().unwrap_or(-1), output.stdout, errors)
    }

    /// Processes of the cluster with this word in their command line.
    fn running(&self, word: &str) -> usize {
        let all = processes::below(self.pid());
        let has = |pid: u32| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(word))
        };
        all.iter().filter(|process| has(process.pid)).count()
    }
}

pub async fn exec_gives_output_input_and_exact_exit_codes() {
    let cluster = Cluster::start().await;
    cluster.shell_pod("p", "exec sleep infinity", json!({})).await;
    for spdy in [false, true] {
        let exec = async |command: &[&str]| {
            let arguments = [&["exec", "p", "--"], command].concat();
            run(cluster.kubectl_over(spdy, &arguments)).await
        };
        let (code, out, err) = exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]).await;
        assert_eq!((code, out.as_str()), (7, "out\n"), "{err}");
        assert_eq!(err, "err\ncommand terminated with exit code 7\n");
        assert_eq!(exec(&["true"]).await, (0, String::new(), String::new()));
        assert_eq!(exec(&["sh", "-c", "kill -9 $$"]).await.0, 137);
        assert_eq!(exec(&["sh", "-c", "kill -TERM $$"]).await.0, 143);
        let (code, _, err) = exec(&["no-such-program"]).await;
        assert_eq!(code, 1, "{err}");
        for part in [
            "Internal error occurred: error executing command in container: failed to exec in container: failed to start exec",
            r#"OCI runtime exec failed: exec failed: unable to start container process: exec: "no-such-program": executable file not found in $PATH: unknown"#,
        ] {
            assert!(err.contains(part), "{err}");
        }
        // More than all buffers on the way hold, in both directions, and every byte of it.
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let (code, out, err) = cluster.fed(cluster.kubectl_over(spdy, &["exec", "-i", "p", "--", "cat"]), &bytes).await;
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out == bytes, "{} bytes come back, other ones", out.len());
    }
    let (code, _, err) = cluster.kubectl_with_code(&["exec", "p", "-c", "none", "--", "true"]).await;
    assert_eq!((code, err.contains("container none is not valid for pod p")), (1, true), "{err}");
    let (code, answer) =
        cluster.request(Method::POST, &format!("{PODS}/p/exec?command=true&stdout=true"), None).await.unwrap();
    assert_eq!((code, &answer["message"]), (400, &json!("Upgrade request required")));
    let (code, answer) = cluster.request(Method::GET, &format!("{PODS}/p/exec?command=true"), None).await.unwrap();
    assert_eq!((code, &answer["message"]), (400, &json!("you must specify at least 1 of stdin, stdout, stderr")));
    assert_eq!(
        cluster.request(Method::GET, &format!("{PODS}/none/exec?command=true&stdout=true"), None).await.unwrap().0,
        404
    );
    cluster.stop().await;
}

/// A terminal in the container's own /dev/pts, by kube-rs: its size follows the client's, and it is hung up with it.
pub async fn terminals_have_a_size_and_are_hung_up() {
    let cluster = Cluster::start().await;
    cluster.shell_pod("p", "exec sleep infinity", json!({})).await;
    let client = crate::kube_rs::client(&cluster, None).await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(client);
    let terminal = || AttachParams::interactive_tty();
    let mut process = pods.exec("p", ["sh"], &terminal()).await.unwrap();
    let mut sizes = process.terminal_size().expect("a resize channel");
    futures::SinkExt::send(&mut sizes, TerminalSize { width: 97, height: 31 }).await.unwrap();
    let (mut stdin, mut stdout) = (process.stdin().unwrap(), process.stdout().unwrap());
    // The size is set before the shell reads its next line.
    stdin
        .write_all(b"until [ \"$(stty size)\" = '31 97' ]; do :; done; tty; ps -o tty= -p $$; exit 5\n")
        .await
        .unwrap();
    let mut text = String::new();
    tokio::time::timeout(LIMIT, stdout.read_to_string(&mut text)).await.expect("the shell ends").unwrap();
    assert!(text.contains("/dev/pts/0\r\n"), "{text}");
    assert!(text.contains("\r\npts/0"), "{text}");
    let status = process.take_status().unwrap().await.expect("a status");
    assert_eq!(status.details.unwrap().causes.unwrap()[0].message.as_deref(), Some("5"));

    let process = pods.exec("p", ["sh", "-c", "echo up; exec sleep 4711"], &terminal()).await.unwrap();
    eventually("the process runs", async || (cluster.running("4711") == 1).then_some(())).await;
    process.abort();
    eventually("the terminal's process gets its hang-up", async || (cluster.running("4711") == 0).then_some(())).await;
    cluster.stop().await;
}

/// A client that takes nothing stops the process and costs a few buffers; one that goes away ends it.
pub async fn stalled_client_stops_the_process_and_a_gone_one_ends_it() {
    let cluster = Cluster::start().await;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    for (spdy, pod) in [(false, "p0"), (true, "p1")] {
        cluster.shell_pod(pod, "exec sleep infinity", json!({})).await;
        let before = resident();
        let mut command = cluster.kubectl_over(spdy, &["exec", pod, "--", "yes", "stalled-client"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut kubectl = command.spawn().expect("kubectl starts");
        eventually("yes runs", async || (cluster.running("stalled-client") == 1).then_some(())).await;
        // Blocked in its write: all buffers up to kubectl's own output are full.
        let blocked = async || {
            let yes = processes::below(cluster.pid()).into_iter().find(|process| {
                std::fs::read(format!("/proc/{}/cmdline", process.pid)).is_ok_and(|line| line.starts_with(b"yes\0"))
            })?;
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", yes.pid)).ok()?;
            stat.rsplit_once(')')?.1.trim_start().starts_with('S').then_some(())
        };
        eventually("yes waits for its reader", blocked).await;
        let grown = resident().saturating_sub(before);
        assert!(grown < 32 * 1024, "{grown} KiB for one stream");
        kubectl.kill().await.unwrap();
        eventually("yes ends with its client", async || (cluster.running("stalled-client") == 0).then_some(())).await;
        // Input that nobody reads stands still, too.
        let mut command = cluster.kubectl_over(spdy, &["exec", "-i", pod, "--", "sh", "-c", "exec sleep 4712"]);
        let zero = std::fs::File::open("/dev/zero").unwrap();
        command.stdin(zero).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        let mut kubectl = command.spawn().expect("kubectl starts");
        eventually("the process runs", async || (cluster.running("4712") == 1).then_some(())).await;
        kubectl.kill().await.unwrap();
        // It neither reads nor writes, so it runs on until its container ends, as on a real node.
        assert_eq!(cluster.running("4712"), 1);
        cluster.delete(&format!("{PODS}/{pod}")).await;
        cluster.gone(&format!("{PODS}/{pod}")).await;
        eventually("it ends with its container", async || (cluster.running("4712") == 0).then_some(())).await;
    }
    cluster.stop().await;
}

pub async fn attach_shares_a_containers_streams() {
    let cluster = Cluster::start().await;
    // Its input ends with the first client's, its output is logged all the same.
    let (code, out, err) = cluster
        .fed(
            cluster.kubectl_command(&[
                "run",
                "r",
                "-i",
                "--rm",
                "--restart=Never",
                "--quiet",
                "--image=vipyard/host",
                "--command",
                "--",
                "sh",
                "-c",
                "while read line; do echo got $line; done; exit 3",
            ]),
            b"one\ntwo\n",
        )
        .await;
    assert_eq!((code, String::from_utf8_lossy(&out).as_ref()), (3, "got one\ngot two\n"), "{err}");
    cluster.gone(&format!("{PODS}/r")).await;

    let more = json!({"stdin": true, "stdinOnce": false});
    cluster.shell_pod("p", "while read line; do echo got $line; echo error >&2; done", more).await;
    let first = cluster.fed(cluster.kubectl_command(&["attach", "-i", "p"]), b"first\n").await;
    assert_eq!(first.0, 0, "{}", first.2);
    let second = cluster.fed(cluster.kubectl_over(true, &["attach", "-i", "p"]), b"second\n").await;
    assert_eq!(second.0, 0, "{}", second.2);
    let logged = async || (cluster.logs("p", "stream=Stdout").await == "got first\ngot second\n").then_some(());
    eventually("what both have typed is answered and logged", logged).await;
    assert_eq!(cluster.logs("p", "stream=Stderr").await, "error\nerror\n");
    assert!(crate::cluster::is_ready(&cluster.get(&format!("{PODS}/p")).await), "it lives on");
    cluster.stop().await;
}

/// kubectl's port-forward, once it listens, with the local port that it chose.
async fn forwarding(cluster: &Cluster, spdy: bool, what: &str, port: &str) -> (Child, u16) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut command = cluster.kubectl_over(spdy, &["port-forward", "--address=127.0.0.1", what, &format!(":{port}")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("kubectl starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await.expect("it listens").unwrap().expect("a line");
    let local = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).expect("a port");
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, local.parse().expect("a number"))
}

async fn http(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("kubectl listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it takes the request");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("it ends");
    String::from_utf8_lossy(&answer).into_owned()
}

pub async fn ports_of_pods_and_services_are_forwarded() {
    let cluster = Cluster::start().await;
    cluster.whoami("web", &["web"]).await;
    cluster.service("web", json!({})).await;
    cluster.endpoints("web", &["web"]).await;
    for spdy in [false, true] {
        for (what, port) in [("pod/web", "80"), ("service/web", "http")] {
            let (_kubectl, local) = forwarding(&cluster, spdy, what, port).await;
            // Several at a time on one connection to the API.
            let all = futures::future::join_all((0..8).map(|_| http(local, "/"))).await;
            assert!(all.iter().all(|answer| answer.contains("pod: web\n")), "{all:?}");
        }
        let (mut kubectl, local) = forwarding(&cluster, spdy, "pod/web", "81").await;
        http(local, "/").await;
        let mut errors = String::new();
        let read = async |child: &mut Child, errors: &mut String| {
            let stderr = child.stderr.as_mut().expect("its errors");
            let mut piece = [0; 4096];
            while !errors.contains("[::1]:81: connect: connection refused") {
                let n = stderr.read(&mut piece).await.expect("readable");
                assert!(n > 0, "{errors}");
                errors.push_str(&String::from_utf8_lossy(&piece[..n]));
            }
        };
        tokio::time::timeout(LIMIT, read(&mut kubectl, &mut errors)).await.expect("it says why");
        for part in
            ["error forwarding port 81 to pod web, uid ", "IPv4: dial tcp4 127.0.0.1:81: connect: connection refused"]
        {
            assert!(errors.contains(part), "{errors}");
        }
    }
    let client = crate::kube_rs::client(&cluster, None).await;
    let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(client);
    let mut forwarder = pods.portforward("web", &[80]).await.unwrap();
    let mut stream = forwarder.take_stream(80).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("it ends").unwrap();
    assert!(answer.contains("pod: web\n"), "{answer}");
    // Streams that nobody closes end with the cluster.
    let (mut kubectl, _) = forwarding(&cluster, false, "pod/web", "80").await;
    cluster.stop().await;
    tokio::time::timeout(LIMIT, kubectl.wait()).await.expect("kubectl sees the end").unwrap();
}

pub async fn proxies_lead_to_pods_services_and_nodes() {
    let cluster = Cluster::start().await;
    cluster.whoami("web", &["web"]).await;
    cluster.service("web", json!({})).await;
    cluster.service("none", json!({})).await;
    cluster.endpoints("web", &["web"]).await;
    let text = async |path: &str| {
        let (code, answer) = cluster.request(Method::GET, path, None).await.expect("an answer");
        (code, answer.as_str().map_or_else(|| answer["message"].as_str().unwrap_or_default().to_owned(), str::to_owned))
    };
    for path in [
        format!("{PODS}/web:80/proxy/"),
        format!("{PODS}/http:web:80/proxy/"),
        format!("{PODS}/web/proxy/"),
        format!("{SERVICES}/web:http/proxy/"),
        format!("{SERVICES}/web:80/proxy/some/where?a=b"),
    ] {
        let (code, answer) = cluster.request(Method::GET, &path, None).await.expect("an answer");
        let pod = answer["pod"] == "web" || answer.as_str().is_some_and(|text| text.contains("pod: web\n"));
        assert!(code == 200 && pod, "{path}: {code} {answer}");
    }
    for (path, code, message) in [
        (format!("{PODS}/web:81/proxy/"), 503, "error trying to reach service: dial tcp "),
        (format!("{SERVICES}/none:http/proxy/"), 503, r#"no endpoints available for service "none""#),
        (format!("{SERVICES}/web/proxy/"), 503, r#"no endpoints available for service "web""#),
        (format!("{SERVICES}/web:81/proxy/"), 503, r#"no service port 81 found for service "web""#),
        (format!("{SERVICES}/ftp:web:80/proxy/"), 400, r#"invalid service request "ftp:web:80""#),
        (format!("{PODS}/nobody/proxy/"), 404, r#"pods "nobody" not found"#),
        ("/api/v1/nodes/n1/proxy/".to_owned(), 503, "error trying to reach service: dial tcp "),
    ] {
        let (found, body) = text(&path).await;
        assert!(found == code && body.starts_with(message), "{path}: {found} {body}");
    }
    assert_eq!(text("/api/v1/nodes/n1:10256/proxy/healthz").await.0, 200);
    let answer =
        cluster.client.send(Method::GET, &format!("{PODS}/web/proxy?a=b"), "text/plain", String::new()).await.unwrap();
    let expected = format!("{PODS}/web/proxy/?a=b");
    assert_eq!((answer.status().as_u16(), answer.headers()["location"].to_str().unwrap()), (301, expected.as_str()));
    cluster.stop().await;
}

pub async fn files_are_copied_both_ways() {
    let cluster = Cluster::start().await;
    cluster.shell_pod("p", "exec sleep infinity", json!({})).await;
    let from = cluster.home.path("from");
    let bytes: Vec<u8> = (0..500_000_u32).map(|n| (n % 251) as u8).collect();
    std::fs::write(&from, &bytes).unwrap();
    let (there, back) = (cluster.home.path("there"), cluster.home.path("back"));
    let text = |path: &std::path::Path| path.to_str().expect("a path of text").to_owned();
    cluster.kubectl(&["cp", &text(&from), &format!("p:{}", text(&there))]).await;
    assert!(std::fs::read(&there).unwrap() == bytes);
    cluster.kubectl_with_code(&["cp", &format!("p:{}", text(&there)), &text(&back)]).await;
    assert!(std::fs::read(&back).unwrap() == bytes);
    cluster.stop().await;
}
