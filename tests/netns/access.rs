//! The ways to the API: a Pod with its ServiceAccount's token, kubectl's questions, and a restored cluster.

use http::Method;
use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster, Home, vipyard};

/// Where a Pod finds its token (rule PD4).
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn script(text: &str) -> Value {
    json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["/bin/sh", "-c", text]}]})
}

impl Cluster {
    /// What a Pod that ends by itself has to say.
    async fn said_by(&self, name: &str, text: &str) -> String {
        self.pod(name, script(text)).await;
        let ended = |pod: &Value| ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase);
        self.until_pod(name, "ends", |pod| ended(pod).then_some(())).await;
        self.logs(name, "").await
    }
}

/// PD4: what the volume of every Pod is for.
pub async fn pod_reaches_the_api_with_its_token_and_ca() {
    let cluster = Cluster::start().await;
    let ask = format!(
        "cd {MOUNT}; url=https://kubernetes.default.svc/api/v1/namespaces/$(cat namespace)/pods/asker; \
         curl -sS --cacert ca.crt -H \"Authorization: Bearer $(cat token)\" $url; \
         curl -sS --cacert ca.crt -o /dev/null -w '\\nwithout: %{{http_code}}\\n' $url; \
         curl -sS --cacert ca.crt -o /dev/null -w 'wrong: %{{http_code}}\\n' -H 'Authorization: Bearer x.y.z' $url"
    );
    let said = cluster.said_by("asker", &ask).await;
    let (pod, codes) = said.split_once('\n').expect("lines");
    let pod: Value = serde_json::from_str(pod).unwrap_or_else(|e| panic!("{e}: {said}"));
    assert_eq!(pod["metadata"]["name"], "asker");
    assert_eq!(codes, "without: 401\nwrong: 401\n");
}

pub async fn token_in_a_pod_is_read_only_and_for_this_pod() {
    let cluster = Cluster::start().await;
    let run = "ls /run | grep -v '^secrets$' | sort | md5sum";
    let outside = crate::cluster::run({
        let mut command = tokio::process::Command::new("/bin/sh");
        command.args(["-c", run]);
        command
    })
    .await
    .1;
    let look = format!(
        "cat {MOUNT}/token; echo; ls {MOUNT} | tr '\\n' ' '; readlink {MOUNT}/token; \
         touch {MOUNT}/x 2>/dev/null || echo read-only; {run}"
    );
    let said = cluster.said_by("holder", &look).await;
    let lines: Vec<&str> = said.lines().collect();
    let [token, names, read_only, entries] = lines[..] else { panic!("{said}") };
    assert_eq!(names, "ca.crt namespace token ..data/token");
    assert_eq!(read_only, "read-only");
    assert_eq!(format!("{entries}\n"), outside, "what else is in /run is still there");

    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = cluster.post(path, question.clone()).await["status"].clone();
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default", "{status}");
    let note = |name: &str| status["user"]["extra"][format!("authentication.kubernetes.io/{name}")][0].clone();
    assert_eq!(note("pod-name"), "holder");
    assert_eq!(note("node-name"), cluster.node_of("holder").await);
    cluster.delete(&format!("{}/holder", crate::cluster::PODS)).await;
    cluster.gone(&format!("{}/holder", crate::cluster::PODS)).await;
    let status = cluster.post(path, question).await["status"].clone();
    assert_ne!(status["authenticated"], true, "{status}");
}

pub async fn backup_of_a_running_cluster_becomes_the_same_cluster() {
    let cluster = Cluster::start().await;
    let object = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let kept = cluster.post(CONFIG_MAPS, object("kept")).await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = cluster.post(account, asked).await["status"]["token"].clone();
    let file = cluster.home.path("backup");
    let (file, data) = (file.to_str().unwrap(), cluster.home.data());
    let data = data.to_str().unwrap();
    let (code, out, err) = vipyard(&["backup", file, "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lost = cluster.post(CONFIG_MAPS, object("lost")).await;
    let (code, _, err) = vipyard(&["restore", file, "--data-dir", data]).await;
    assert_eq!(code, 1);
    assert!(err.contains("is not empty"), "{err}");

    let client = cluster.client.clone();
    let home = cluster.kill().await;
    let other = Home::new();
    let new = other.data();
    let (code, out, err) = vipyard(&["restore", file, "--data-dir", new.to_str().unwrap()]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let mut restored = Cluster::start_in(other).await;
    // The clients of the old cluster do not notice.
    restored.client = client;
    assert_eq!(restored.get(&format!("{CONFIG_MAPS}/kept")).await["metadata"], kept["metadata"]);
    assert!(restored.find(&format!("{CONFIG_MAPS}/lost")).await.is_none());
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let status = restored.post("/apis/authentication.k8s.io/v1/tokenreviews", question).await["status"].clone();
    assert_eq!(status["authenticated"], true, "{status}");
    let since = lost["metadata"]["resourceVersion"].as_str().unwrap();
    let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={since}");
    let (_, event) = restored.request(Method::GET, &path, None).await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    restored.stop().await;
    drop(home);
}

pub async fn kubectl_asks_who_it_is_and_makes_tokens() {
    let cluster = Cluster::start().await;
    let me = cluster.kubectl(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await;
    assert_eq!(me, "vipyard-admin");
    let table = cluster.kubectl(&["auth", "whoami"]).await;
    assert!(table.contains("system:masters system:authenticated"), "{table}");
    assert_eq!(cluster.kubectl(&["auth", "can-i", "delete", "services"]).await, "yes\n");
    let rules = cluster.kubectl(&["auth", "can-i", "--list"]).await;
    assert!(
        rules.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["*.*", "[]", "[]", "[*]"]),
        "{rules}"
    );
    let jane = ["--as", "jane", "--as-group", "devs", "auth", "whoami", "-o", "jsonpath={.status.userInfo.groups}"];
    assert_eq!(cluster.kubectl(&jane).await, r#"["devs","system:authenticated"]"#);

    let token = cluster.kubectl(&["create", "token", "default", "--duration=20m", "--audience=vault"]).await;
    assert_eq!(token.trim().split('.').count(), 3);
    let (code, _, err) = cluster.kubectl_with_code(&["create", "token", "default", "--duration=1s"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("may not specify a duration less than 10 minutes"), "{err}");
    let (code, _, err) = cluster.kubectl_with_code(&["create", "token", "none"]).await;
    assert_eq!((code, err.trim()), (1, "error: failed to create token: serviceaccounts \"none\" not found"));
    let bound = ["create", "token", "default", "--bound-object-kind=Pod", "--bound-object-name=none"];
    let (_, _, err) = cluster.kubectl_with_code(&bound).await;
    assert_eq!(err.trim(), "error: failed to create token: pods \"none\" not found");
}
