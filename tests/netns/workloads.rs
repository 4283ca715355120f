//! Workloads whose Pods run: Deployments, StatefulSets, DaemonSets, Jobs, and what happens to them when nodes go.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::{Cluster, Home, PODS, VIPYARD, eventually, is_ready, vipyard};
use crate::dns::addresses;

pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub const STATEFUL_SETS: &str = "/apis/apps/v1/namespaces/default/statefulsets";
const DAEMON_SETS: &str = "/apis/apps/v1/namespaces/default/daemonsets";
const JOBS: &str = "/apis/batch/v1/namespaces/default/jobs";
const TIMEOUT: &str = "--timeout=40s";

impl Cluster {
    /// Makes a workload of whoami Pods with the label `app: NAME`; `spec` is merged into its spec.
    async fn workload(&self, path: &str, kind: &str, name: &str, spec: Value) {
        let labels = json!({"app": name});
        let probe = json!({"periodSeconds": 1, "failureThreshold": 1, "httpGet": {"path": "/ready", "port": 80}});
        let container = json!({"name": "c", "image": "vipyard/whoami", "readinessProbe": probe});
        let template = json!({"metadata": {"labels": labels},
            "spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}});
        let mut all = json!({"selector": {"matchLabels": labels}, "template": template});
        json_patch::merge(&mut all, &spec);
        let object = json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": all});
        self.post(path, object).await;
    }

    pub async fn deployment(&self, name: &str, spec: Value) {
        self.workload(DEPLOYMENTS, "Deployment", name, spec).await;
    }

    /// Waits until the workload says that all its replicas are up to date and available, and no other is left.
    pub async fn rolled_out(&self, path: &str, replicas: i32) {
        eventually(&format!("{path} is rolled out"), async || {
            let found = self.get(path).await;
            let status = &found["status"];
            let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
            let all = counts.iter().all(|count| status[count].as_i64().unwrap_or(0) == i64::from(replicas));
            let now = status["observedGeneration"] == found["metadata"]["generation"];
            (all && now).then_some(())
        })
        .await;
    }

    pub async fn pods_of(&self, app: &str) -> Vec<Value> {
        let list = self.get(&format!("{PODS}?labelSelector=app%3D{app}")).await;
        list["items"].as_array().expect("Pods").clone()
    }

    pub async fn names_of(&self, app: &str) -> BTreeSet<String> {
        let name = |pod: &Value| pod["metadata"]["name"].as_str().expect("a name").to_owned();
        self.pods_of(app).await.iter().map(name).collect()
    }

    /// The nodes of the Pods that are ready.
    async fn nodes_of(&self, app: &str) -> Vec<String> {
        let pods = self.pods_of(app).await;
        let ready = pods.iter().filter(|pod| is_ready(pod));
        let mut nodes: Vec<_> = ready.map(|pod| pod["spec"]["nodeName"].as_str().expect("a node").to_owned()).collect();
        nodes.sort();
        nodes
    }
}

pub async fn deployment_is_rolled_out_undone_restarted_and_paused() {
    let cluster = Cluster::start().await;
    let kubectl = async |arguments: &[&str]| cluster.kubectl(arguments).await;
    cluster.kubectl(&["create", "deployment", "web", "--image=vipyard/whoami", "--replicas=3"]).await;
    let status = ["rollout", "status", "deployment/web", TIMEOUT];
    let done = "deployment \"web\" successfully rolled out\n";
    let rolled_out = async || {
        let out = kubectl(&status).await;
        assert!(out.ends_with(done), "{out}");
    };
    rolled_out().await;
    kubectl(&["set", "image", "deployment/web", "whoami=vipyard/pause"]).await;
    rolled_out().await;
    let image = async || {
        let pods = cluster.pods_of("web").await;
        let images = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let images: BTreeSet<String> = images.map(|pod| pod["spec"]["containers"][0]["image"].to_string()).collect();
        images.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(image().await, "\"vipyard/pause\"");
    let history = kubectl(&["rollout", "history", "deployment/web"]).await;
    let lines: Vec<&str> = history.lines().filter(|line| line.starts_with(char::is_numeric)).collect();
    assert_eq!(lines.len(), 2, "{history}");
    let first = kubectl(&["rollout", "history", "deployment/web", "--revision=1"]).await;
    assert!(first.contains("vipyard/whoami"), "{first}");
    assert!(kubectl(&["rollout", "undo", "deployment/web"]).await.contains("rolled back"));
    rolled_out().await;
    assert_eq!(image().await, "\"vipyard/whoami\"");

    let before = cluster.names_of("web").await;
    kubectl(&["rollout", "restart", "deployment/web"]).await;
    rolled_out().await;
    eventually("all Pods are new", async || cluster.names_of("web").await.is_disjoint(&before).then_some(())).await;

    kubectl(&["rollout", "pause", "deployment/web"]).await;
    kubectl(&["set", "image", "deployment/web", "whoami=vipyard/pause"]).await;
    kubectl(&["scale", "deployment/web", "--replicas=20"]).await;
    eventually("20 Pods of the old image", async || (cluster.nodes_of("web").await.len() == 20).then_some(())).await;
    assert_eq!(image().await, "\"vipyard/whoami\"");
    kubectl(&["scale", "deployment/web", "--replicas=1"]).await;
    eventually("one Pod", async || (cluster.names_of("web").await.len() == 1).then_some(())).await;
    kubectl(&["rollout", "resume", "deployment/web"]).await;
    rolled_out().await;
    assert_eq!(image().await, "\"vipyard/pause\"");
    let described = kubectl(&["describe", "deployment", "web"]).await;
    for word in ["NewReplicaSetAvailable", "MinimumReplicasAvailable", "ScalingReplicaSet", "Scaled up replica set"] {
        assert!(described.contains(word), "{word}: {described}");
    }
    kubectl(&["delete", "deployment", "web", TIMEOUT]).await;
    eventually("no Pod is left", async || cluster.names_of("web").await.is_empty().then_some(())).await;
    cluster.stop().await;
}

pub async fn stateful_set_has_names_and_an_order() {
    let cluster = Cluster::start().await;
    cluster.service("db", json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"})).await;
    cluster.workload(STATEFUL_SETS, "StatefulSet", "db", json!({"replicas": 3, "serviceName": "db"})).await;
    let path = format!("{STATEFUL_SETS}/db");
    cluster.rolled_out(&path, 3).await;
    // Pods are listed by their names, which is the order in which they came.
    let pods = cluster.pods_of("db").await;
    let at = |pod: &Value, kind: &str| {
        let conditions = pod["status"]["conditions"].as_array().expect("conditions").clone();
        let found = conditions.into_iter().find(|condition| condition["type"] == kind).expect("a condition");
        found["lastTransitionTime"].as_str().expect("a time").to_owned()
    };
    let order = pods
        .iter()
        .flat_map(|pod| [pod["metadata"]["creationTimestamp"].as_str().expect("a time").to_owned(), at(pod, "Ready")]);
    let order: Vec<String> = order.collect();
    assert!(order.is_sorted(), "each comes when the one before is ready: {order:?}");
    // Each finds the others by name.
    cluster.settled().await;
    let client = cluster.client_pod("client", "n1").await;
    for ordinal in 0..3 {
        let ip = cluster.pod_ip(&format!("db-{ordinal}")).await;
        assert_eq!(addresses(&client, "ahostsv4", &format!("db-{ordinal}.db")).await, [ip].into());
    }
    // One that is deleted comes back under its name.
    let uid = async || cluster.find(&format!("{PODS}/db-1")).await.map(|pod| pod["metadata"]["uid"].clone());
    let before = uid().await;
    cluster.delete(&format!("{PODS}/db-1")).await;
    eventually("another db-1", async || uid().await.filter(|now| Some(now) != before.as_ref())).await;
    cluster.rolled_out(&path, 3).await;
    // A change goes down from the highest to the partition.
    let change = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 2}},
        "template": {"metadata": {"annotations": {"round": "2"}}}}});
    cluster.patch(&path, change).await;
    let round = async |name: &str| {
        let pod = cluster.find(&format!("{PODS}/{name}")).await?;
        is_ready(&pod).then(|| pod["metadata"]["annotations"]["round"].as_str().unwrap_or("1").to_owned())
    };
    eventually("db-2 is new", async || (round("db-2").await? == "2").then_some(())).await;
    assert_eq!((round("db-0").await.as_deref(), round("db-1").await.as_deref()), (Some("1"), Some("1")));
    cluster.patch(&path, json!({"spec": {"replicas": 1, "updateStrategy": {"rollingUpdate": {"partition": 0}}}})).await;
    cluster.rolled_out(&path, 1).await;
    assert_eq!(round("db-0").await.as_deref(), Some("2"));
    cluster.stop().await;
}

pub async fn daemon_set_runs_on_each_node() {
    let cluster = Cluster::start().await;
    cluster.workload(DAEMON_SETS, "DaemonSet", "agent", json!({})).await;
    let path = format!("{DAEMON_SETS}/agent");
    let ready = async |count: i32| {
        eventually(&format!("{count} daemons"), async || {
            let status = cluster.get(&path).await["status"].clone();
            let all = ["desiredNumberScheduled", "numberAvailable", "updatedNumberScheduled"];
            all.iter().all(|field| status[field] == count).then_some(())
        })
        .await;
    };
    ready(3).await;
    assert_eq!(cluster.nodes_of("agent").await, ["n1", "n2", "n3"]);
    let before = cluster.names_of("agent").await;
    cluster.patch(&path, json!({"spec": {"template": {"metadata": {"annotations": {"round": "2"}}}}})).await;
    eventually("all daemons are new", async || cluster.names_of("agent").await.is_disjoint(&before).then_some(()))
        .await;
    ready(3).await;
    // A cordon keeps others away and not daemons; a taint of the owner's does.
    cluster.patch("/api/v1/nodes/n2", json!({"spec": {"unschedulable": true}})).await;
    let taint = json!({"spec": {"taints": [{"key": "team", "value": "x", "effect": "NoExecute"}]}});
    cluster.patch("/api/v1/nodes/n3", taint).await;
    ready(2).await;
    eventually("n3 has none", async || (cluster.nodes_of("agent").await == ["n1", "n2"]).then_some(())).await;
    let taints = cluster.get("/api/v1/nodes/n2").await["spec"]["taints"].clone();
    assert_eq!(taints[0]["key"], "node.kubernetes.io/unschedulable");
    cluster.stop().await;
}

pub async fn indexed_job_runs_each_index_to_its_end() {
    let cluster = Cluster::start().await;
    let script = "echo index $JOB_COMPLETION_INDEX of $(hostname)";
    let container = json!({"name": "c", "image": "vipyard/host", "command": ["sh", "-c", script]});
    let template = json!({"metadata": {"labels": {"app": "work"}},
        "spec": {"restartPolicy": "Never", "containers": [container]}});
    let spec = json!({"completions": 5, "parallelism": 2, "completionMode": "Indexed", "template": template});
    cluster
        .post(JOBS, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": spec}))
        .await;
    let path = format!("{JOBS}/work");
    let status = eventually("the Job is complete", async || {
        let status = cluster.get(&path).await["status"].clone();
        (!status["completionTime"].is_null()).then_some(status)
    })
    .await;
    assert_eq!((&status["succeeded"], &status["completedIndexes"]), (&json!(5), &json!("0-4")));
    let mut logs = BTreeMap::new();
    for pod in cluster.pods_of("work").await {
        let index = pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"].to_string();
        logs.insert(index, cluster.logs(pod["metadata"]["name"].as_str().expect("a name"), "").await);
    }
    let expected: Vec<String> = (0..5).map(|index| format!("index {index} of work-{index}\n")).collect();
    assert_eq!(logs.into_values().collect::<Vec<_>>(), expected);
    let failing = json!({"backoffLimit": 0, "template": {"metadata": {"labels": {"app": "bad"}},
        "spec": {"restartPolicy": "Never", "containers": [
            {"name": "c", "image": "vipyard/host", "command": ["sh", "-c", "exit 3"]}]}}});
    cluster
        .post(JOBS, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "bad"}, "spec": failing}))
        .await;
    eventually("the Job has failed", async || {
        let status = cluster.get(&format!("{JOBS}/bad")).await["status"].clone();
        let conditions = status["conditions"].as_array()?;
        conditions.iter().find(|c| c["type"] == "Failed" && c["reason"] == "BackoffLimitExceeded").map(drop)
    })
    .await;
    cluster.stop().await;
}

pub async fn drained_node_gives_its_pods_to_others() {
    let cluster = Cluster::start().await;
    cluster.deployment("web", json!({"replicas": 3})).await;
    cluster.workload(DAEMON_SETS, "DaemonSet", "agent", json!({})).await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster.rolled_out(&path, 3).await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    cluster.post(budgets, budget).await;
    eventually("the budget knows its Pods", async || {
        let status = cluster.get(&format!("{budgets}/web")).await["status"].clone();
        (status["expectedPods"] == 3 && status["disruptionsAllowed"] == 1).then_some(())
    })
    .await;
    cluster.kubectl(&["cordon", "n2"]).await;
    let (code, out, err) = cluster.kubectl_with_code(&["drain", "n1", "--ignore-daemonsets", TIMEOUT]).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("node/n1 drained"), "{out}");
    eventually("all Pods are on n3", async || {
        (cluster.nodes_of("web").await.iter().filter(|node| *node != "n2").all(|node| node == "n3")).then_some(())
    })
    .await;
    cluster.rolled_out(&path, 3).await;
    assert!(!cluster.nodes_of("web").await.contains(&"n1".to_owned()));
    eventually("daemons stay", async || (cluster.nodes_of("agent").await == ["n1", "n2", "n3"]).then_some(())).await;
    cluster.kubectl(&["uncordon", "n1"]).await;
    cluster.deployment("late", json!({"replicas": 3})).await;
    cluster.rolled_out(&format!("{DEPLOYMENTS}/late"), 3).await;
    assert!(cluster.nodes_of("late").await.contains(&"n1".to_owned()));
    cluster.stop().await;
}

pub async fn stopped_node_loses_its_pods_and_comes_back() {
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data());
    command.args(["--node-monitor-grace-period", "1", "--default-unreachable-toleration-seconds", "1"]);
    let cluster = Cluster::start_with(home, command).await;
    cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await;
    cluster.deployment("web", json!({"replicas": 3})).await;
    cluster.workload(DAEMON_SETS, "DaemonSet", "agent", json!({})).await;
    let path = format!("{DEPLOYMENTS}/web");
    cluster.rolled_out(&path, 3).await;
    eventually("three daemons", async || (cluster.nodes_of("agent").await.len() == 3).then_some(())).await;
    assert_eq!(cluster.nodes_of("web").await, ["n1", "n2", "n3"]);
    let client = cluster.client_pod("client", "n1").await;
    let data = cluster.home.data();
    let data = data.to_str().expect("a path of text");
    let lost = cluster.pods_of("web").await.into_iter().find(|pod| pod["spec"]["nodeName"] == "n2").expect("one");
    let ip: std::net::IpAddr = lost["status"]["podIP"].as_str().expect("an address").parse().expect("an address");
    let dial = || {
        let limit = std::time::Duration::from_millis(500);
        client.run(|| std::net::TcpStream::connect_timeout(&(ip, 80).into(), limit).map(drop))
    };
    dial().expect("the Pod answers");

    let (code, out, err) = vipyard(&["node", "stop", "n2", "--data-dir", data]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    dial().expect_err("nothing is left of it");
    let ready = async |node: &str| {
        let node = cluster.get(&format!("/api/v1/nodes/{node}")).await;
        let conditions = node["status"]["conditions"].as_array().expect("conditions").clone();
        conditions.into_iter().find(|c| c["type"] == "Ready").expect("a condition")["status"].clone()
    };
    eventually("n2 is lost", async || (ready("n2").await == "Unknown").then_some(())).await;
    let name = lost["metadata"]["name"].as_str().expect("a name");
    eventually("its endpoint leaves", async || {
        (!cluster.ready_endpoints("web").await.contains(&name.to_owned())).then_some(())
    })
    .await;
    // The Pod is given up; its object stays until its node can say that it has ended.
    eventually("it is evicted and replaced", async || {
        let nodes = cluster.nodes_of("web").await;
        (nodes.len() == 3 && !nodes.contains(&"n2".to_owned())).then_some(())
    })
    .await;
    assert!(cluster.get(&format!("{PODS}/{name}")).await["metadata"]["deletionTimestamp"].is_string());
    let daemons = cluster.pods_of("agent").await;
    assert!(daemons.iter().all(|pod| pod["metadata"]["deletionTimestamp"].is_null()), "daemons wait for their node");

    let (code, _, err) = vipyard(&["node", "start", "n2", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    eventually("n2 is back", async || (ready("n2").await == "True").then_some(())).await;
    cluster.gone(&format!("{PODS}/{name}")).await;
    eventually("its daemon runs again", async || (cluster.nodes_of("agent").await.len() == 3).then_some(())).await;
    let taints = async || cluster.get("/api/v1/nodes/n2").await["spec"]["taints"].clone();
    eventually("its taints go", async || taints().await.is_null().then_some(())).await;
    let (code, _, err) = vipyard(&["node", "stop", "n9", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (1, "vipyard: nodes \"n9\" not found\n"));
    cluster.stop().await;
}
