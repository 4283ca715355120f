//! The real kubectl against the real binary.

mod applying;
mod asking;
mod changing;
mod custom;
mod printing;
mod typed;

pub use applying::{
    apply_prunes_and_diff_tells_what_would_change, server_side_apply_owns_fields_and_refuses_to_take_others,
};
pub use asking::{kinds_are_listed_and_explained, who_asks_is_told_who_it_is_and_what_it_may};
pub use changing::{deletes_cascade_as_asked, deployments_are_scaled_exposed_and_get_new_images};
pub use custom::kinds_of_a_definition_are_used_like_others;
pub use printing::{editor_changes_the_object, objects_are_created_by_command_and_printed_in_every_form};
pub use typed::typed_commands_create_every_kind_that_is_served;

use std::fs::File;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::cluster::{Cluster, LIMIT, PODS, SERVICES, run};

const WEB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/web.yaml");
const TIMEOUT: &str = "--timeout=40s";

impl Cluster {
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        // Caches stay in the cluster's folder.
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).env("HOME", self.home.path("home"));
        command
    }

    /// Exit code, standard output, standard error.
    pub async fn kubectl_with_code(&self, arguments: &[&str]) -> (i32, String, String) {
        run(self.kubectl_command(arguments)).await
    }

    /// The output of a command that must succeed without a warning.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        let (code, out, err) = self.kubectl_with_code(arguments).await;
        assert_eq!((code, err.as_str()), (0, ""), "kubectl {arguments:?}\n{out}");
        out
    }

    /// The output of a command that reads its standard input and must succeed without a warning.
    async fn kubectl_fed(&self, arguments: &[&str], input: &Value) -> String {
        let file = File::open(self.manifest("input", input)).expect("a file");
        let mut command = self.kubectl_command(arguments);
        command.stdin(file);
        let output = command.kill_on_drop(true).output();
        let output = tokio::time::timeout(LIMIT, output).await.expect("kubectl ends").expect("kubectl starts");
        assert!(output.status.success() && output.stderr.is_empty(), "kubectl {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    /// A file for `-f`.
    fn manifest(&self, name: &str, object: &Value) -> String {
        self.file(name, &object.to_string())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.home.path(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path of text").to_owned()
    }
}

/// Columns of kubectl's output, line by line.
fn table(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

pub async fn objects_are_applied_shown_and_described() {
    let cluster = Cluster::start().await;
    let created = cluster.kubectl(&["apply", "-f", WEB]).await;
    assert_eq!(
        created,
        "service/web created\npod/web-1 created\npod/web-2 created\npod/web-3 created\npod/client created\n"
    );
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod", "--all", TIMEOUT]).await;
    let again = cluster.kubectl(&["apply", "-f", WEB]).await;
    assert_eq!(again, created.replace("created", "unchanged"));
    cluster.endpoints("web", &["web-1", "web-2", "web-3"]).await;

    let wide = cluster.kubectl(&["get", "service,pods,endpointslices", "-o", "wide", "--no-headers"]).await;
    let wide = table(&wide);
    let row =
        |name: &str| wide.iter().find(|row| row.first().is_some_and(|cell| cell.starts_with(name))).expect("a row");
    assert_eq!(row("service/web")[1..2], ["ClusterIP"]);
    assert_eq!(row("service/web")[6], "app=web");
    assert_eq!(row("pod/web-1")[1..4], ["1/1", "Running", "0"]);
    assert_eq!(row("pod/web-1")[6], cluster.node_of("web-1").await);
    let slice = row("endpointslice.discovery.k8s.io/web-");
    assert_eq!(slice[1..3], ["IPv4", "80"]);
    assert_eq!(slice[3].split(',').count(), 3);
    let nodes = cluster.kubectl(&["get", "nodes", "--no-headers"]).await;
    assert_eq!(
        table(&nodes).iter().map(|row| row[..2].to_vec()).collect::<Vec<_>>(),
        [["n1", "Ready"], ["n2", "Ready"], ["n3", "Ready"]]
    );

    let vip = cluster.get(&format!("{SERVICES}/web")).await["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert_eq!(cluster.kubectl(&["get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"]).await, vip);
    assert_eq!(
        cluster.kubectl(&["get", "po", "-l", "app=web", "-o", "name"]).await,
        "pod/web-1\npod/web-2\npod/web-3\n"
    );
    let json: Value = serde_json::from_str(&cluster.kubectl(&["get", "pod", "web-1", "-o", "json"]).await).unwrap();
    assert_eq!((&json["kind"], &json["metadata"]["name"]), (&json!("Pod"), &json!("web-1")));
    let yaml: Value = serde_saphyr::from_str(&cluster.kubectl(&["get", "svc", "web", "-o", "yaml"]).await).unwrap();
    assert_eq!((&yaml["kind"], &yaml["spec"]["clusterIP"]), (&json!("Service"), &json!(vip)));
    let sorted = cluster.kubectl(&["get", "pods", "-A", "--sort-by=.metadata.name", "-o", "name"]).await;
    assert_eq!(sorted.lines().next(), Some("pod/client"));
    let columns = cluster
        .kubectl(&["get", "svc", "web", "--no-headers", "-o", "custom-columns=N:.metadata.name,P:.spec.ports[0].port"])
        .await;
    assert_eq!(table(&columns), [["web", "80"]]);
    let (code, _, err) = cluster.kubectl_with_code(&["get", "pod", "none"]).await;
    assert_eq!((code, err.as_str()), (1, "Error from server (NotFound): pods \"none\" not found\n"));
    let (code, _, err) = cluster.kubectl_with_code(&["get", "gadgets"]).await;
    assert_eq!((code, err.as_str()), (1, "error: the server doesn't have a resource type \"gadgets\"\n"));

    let description = cluster.kubectl(&["describe", "pod", "web-1"]).await;
    for part in
        ["Node:", "Ready", "Readiness:", "http-get http://:80/healthz", "Successfully assigned default/web-1 to n"]
    {
        assert!(description.contains(part), "no {part} in\n{description}");
    }
    let description = cluster.kubectl(&["describe", "service", "web"]).await;
    assert!(description.contains(&vip), "{description}");
    let endpoints = description.lines().find(|line| line.starts_with("Endpoints:")).expect("endpoints");
    assert_eq!(endpoints.matches(":80").count(), 3, "{description}");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}});
    cluster.kubectl(&["apply", "-f", &cluster.manifest("lease.json", &lease)]).await;
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "value"}});
    cluster.kubectl(&["apply", "-f", &cluster.manifest("secret.json", &secret)]).await;
    for kind in [
        "namespaces",
        "nodes",
        "pods",
        "services",
        "endpoints",
        "configmaps",
        "secrets",
        "serviceaccounts",
        "events",
        "endpointslices",
        "leases",
    ] {
        let (code, out, err) = cluster.kubectl_with_code(&["describe", kind, "-A"]).await;
        // Whoever reads Endpoints is told that they are deprecated.
        assert!(code == 0 && (err.is_empty() || kind == "endpoints"), "{kind}: {code} {err}");
        assert!(out.contains("Name:"), "{kind}:\n{out}");
        let (code, out, _) = cluster.kubectl_with_code(&["get", kind, "-A"]).await;
        assert!(code == 0 && out.lines().count() > 1, "{kind}:\n{out}");
    }
    // What the example is about: its client is answered by all Pods.
    if crate::needs::program("curl").is_some() {
        let all = async || {
            let log = cluster.kubectl(&["logs", "client"]).await;
            ["web-1", "web-2", "web-3"].iter().all(|pod| log.contains(&format!("pod: {pod}\n"))).then_some(())
        };
        crate::cluster::eventually("the example's client is answered by all Pods", all).await;
    }
    let tail = cluster.kubectl(&["logs", "web-1", "--tail=1"]).await;
    assert_eq!(tail, "whoami: HTTP on 80, TCP on 9000, UDP on 9001\n");
    let mut follow = Following::start(cluster.kubectl_command(&["logs", "-f", "web-1"]));
    follow.until(&["whoami:"]).await;
    cluster.kubectl(&["delete", "-f", WEB, "--grace-period=1"]).await;
    follow.end().await;
    assert_eq!(cluster.kubectl(&["get", "pods", "-o", "name"]).await, "");
    cluster.stop().await;
}

pub async fn objects_are_labelled_patched_and_replaced() {
    let cluster = Cluster::start().await;
    let service = |port: u16| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": port}]}})
    };
    let file = cluster.manifest("service.json", &service(80));
    assert_eq!(cluster.kubectl(&["apply", "-f", &file]).await, "service/web created\n");
    let now = async || cluster.get(&format!("{SERVICES}/web")).await;

    assert_eq!(cluster.kubectl(&["label", "service", "web", "tier=front"]).await, "service/web labeled\n");
    let (code, _, err) = cluster.kubectl_with_code(&["label", "service", "web", "tier=back"]).await;
    assert!(code == 1 && err.contains("--overwrite is false"), "{err}");
    cluster.kubectl(&["label", "service", "web", "tier=back", "--overwrite"]).await;
    cluster.kubectl(&["annotate", "service", "web", "example.com/note=a b"]).await;
    let metadata = now().await["metadata"].clone();
    assert_eq!(
        (&metadata["labels"]["tier"], &metadata["annotations"]["example.com/note"]),
        (&json!("back"), &json!("a b"))
    );
    cluster.kubectl(&["label", "service", "web", "tier-"]).await;
    assert_eq!(now().await["metadata"].get("labels"), None);

    let merge = r#"{"spec": {"sessionAffinity": "ClientIP"}}"#;
    cluster.kubectl(&["patch", "service", "web", "--type=merge", "-p", merge]).await;
    assert_eq!(now().await["spec"]["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"], 10800);
    let operations = r#"[{"op": "replace", "path": "/spec/sessionAffinity", "value": "None"}]"#;
    cluster.kubectl(&["patch", "service", "web", "--type=json", "-p", operations]).await;
    assert_eq!(now().await["spec"]["sessionAffinity"], "None");
    let strategic = r#"{"spec": {"ports": [{"name": "admin", "port": 81}]}}"#;
    cluster.kubectl(&["patch", "service", "web", "-p", strategic]).await;
    assert_eq!(now().await["spec"]["ports"].as_array().unwrap().len(), 2);
    let nothing = cluster.kubectl(&["patch", "service", "web", "--type=merge", "-p", "{}"]).await;
    assert_eq!(nothing, "service/web patched (no change)\n");

    // An apply takes back what it had set, and leaves alone what others have.
    let before = now().await;
    let file = cluster.manifest("service.json", &service(8080));
    assert_eq!(cluster.kubectl(&["apply", "-f", &file]).await, "service/web configured\n");
    let after = now().await;
    assert_eq!(after["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    let mut ports: Vec<i64> =
        after["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].as_i64().unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, [81, 8080]);
    assert_eq!(after["metadata"]["annotations"]["example.com/note"], "a b");

    let file = cluster.manifest("replacement.json", &service(9090));
    assert_eq!(cluster.kubectl(&["replace", "-f", &file]).await, "service/web replaced\n");
    assert_eq!(now().await["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(now().await["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    let mut stale = before.clone();
    stale["spec"]["sessionAffinity"] = "ClientIP".into();
    let (code, _, err) = cluster.kubectl_with_code(&["replace", "-f", &cluster.manifest("stale.json", &stale)]).await;
    assert!(code == 1 && err.contains("(Conflict)") && err.contains("the object has been modified"), "{err}");

    // The server says what is wrong with a field.
    let mut typo = service(80);
    typo["metadata"]["name"] = "typo".into();
    typo["spec"]["selektor"] = json!({});
    let (code, _, err) = cluster.kubectl_with_code(&["apply", "-f", &cluster.manifest("typo.json", &typo)]).await;
    assert!(code == 1 && err.contains("strict decoding error: unknown field \"spec.selektor\""), "{err}");
    let mut invalid = service(80);
    invalid["spec"]["ports"][0] = json!({"port": 70000, "targetPort": 80});
    invalid["metadata"]["name"] = "invalid".into();
    let (code, _, err) =
        cluster.kubectl_with_code(&["create", "-f", &cluster.manifest("invalid.json", &invalid)]).await;
    let text = "The Service \"invalid\" is invalid: spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive";
    assert!(code == 1 && err.starts_with(text), "{err}");
    let dry =
        cluster.manifest("dry.json", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "dry"}}));
    assert_eq!(
        cluster.kubectl(&["apply", "--dry-run=server", "-f", &dry]).await,
        "configmap/dry created (server dry run)\n"
    );
    assert_eq!(cluster.find("/api/v1/namespaces/default/configmaps/dry").await, None);
    let generated = cluster
        .manifest("gen.json", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "gen-"}}));
    assert!(cluster.kubectl(&["create", "-f", &generated]).await.starts_with("configmap/gen-"));
    cluster.stop().await;
}

/// kubectl that goes on: its lines as they come.
struct Following {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Following {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("kubectl starts");
        let lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        Self { _child: child, lines }
    }

    /// Reads on to a line that begins with these cells.
    async fn until(&mut self, cells: &[&str]) {
        let read = async {
            while let Some(line) = self.lines.next_line().await.expect("text") {
                if line.split_whitespace().take(cells.len()).eq(cells.iter().copied()) {
                    return;
                }
            }
            panic!("kubectl ended before {cells:?}");
        };
        tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| panic!("never came: {cells:?}"));
    }

    /// Reads on to the end, which must come by itself.
    async fn end(&mut self) {
        let read = async { while self.lines.next_line().await.expect("text").is_some() {} };
        tokio::time::timeout(LIMIT, read).await.expect("kubectl ends");
    }
}

pub async fn waits_and_watches_end_with_what_they_wait_for() {
    let cluster = Cluster::start().await;
    let mut watch = Following::start(cluster.kubectl_command(&["get", "pods", "-w", "--no-headers"]));
    let waiting = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec":
        {"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "vipyard/pause"}]}})
    };
    cluster.kubectl(&["apply", "-f", &cluster.manifest("pod.json", &waiting("p"))]).await;
    let out = cluster.kubectl(&["wait", "--for=condition=Ready", "pod/p", TIMEOUT]).await;
    assert_eq!(out, "pod/p condition met\n");
    cluster.kubectl(&["wait", "--for=jsonpath={.status.phase}=Running", "pod/p", TIMEOUT]).await;
    watch.until(&["p", "0/1", "Pending"]).await;
    watch.until(&["p", "1/1", "Running"]).await;

    let wait = cluster.kubectl_command(&["wait", "--for=delete", "pod/p", TIMEOUT]);
    let wait = tokio::spawn(run(wait));
    // Newer versions add the namespace.
    assert!(cluster.kubectl(&["delete", "pod", "p"]).await.starts_with("pod \"p\" deleted"));
    assert_eq!(cluster.find(&format!("{PODS}/p")).await, None, "delete waits until it is gone");
    let (code, _, err) = wait.await.expect("kubectl ends");
    // It may have been started when the Pod was gone already.
    assert!(code == 0 || err.contains("NotFound"), "{code} {err}");
    watch.until(&["p", "1/1", "Terminating"]).await;

    let (code, _, err) =
        cluster.kubectl_with_code(&["wait", "--for=condition=Ready", "pod/none", "--timeout=1s"]).await;
    assert!(code == 1 && err.contains("pods \"none\" not found"), "{err}");

    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}});
    cluster.kubectl(&["apply", "-f", &cluster.manifest("ns.json", &namespace)]).await;
    cluster.kubectl(&["-n", "team", "apply", "-f", &cluster.manifest("pod.json", &waiting("q"))]).await;
    cluster.kubectl(&["-n", "team", "wait", "--for=condition=Ready", "pod/q", TIMEOUT]).await;
    cluster.kubectl(&["delete", "namespace", "team", TIMEOUT]).await;
    assert_eq!(cluster.find("/api/v1/namespaces/team/pods/q").await, None);
    assert_eq!(cluster.find("/api/v1/namespaces/team").await, None);
    cluster.stop().await;
}
