//! `kubectl create KIND`: typed objects, which kubectl sends as protobuf.

use serde_json::{Value, json};

use crate::cluster::Cluster;

pub async fn typed_commands_create_every_kind_that_is_served() {
    let cluster = Cluster::start().await;
    let created = async |arguments: &[&str], wanted: &str| {
        let (code, out, err) = cluster.kubectl_with_code(&[&["create"], arguments].concat()).await;
        assert_eq!((code, out, err.as_str()), (0, format!("{wanted} created\n"), ""));
        let shown = cluster.kubectl(&["get", wanted, "-o", "json"]).await;
        serde_json::from_str::<Value>(&shown).expect("an object")
    };
    let deployment = ["deployment", "web", "--image=vipyard/pause", "--replicas=0", "--port=80"];
    let spec = created(&deployment, "deployment.apps/web").await["spec"].clone();
    assert_eq!(
        (&spec["replicas"], &spec["template"]["spec"]["containers"][0]["image"]),
        (&json!(0), &json!("vipyard/pause"))
    );
    let spec = created(&["service", "loadbalancer", "lb", "--tcp=80:8080"], "service/lb").await["spec"].clone();
    assert_eq!((&spec["type"], &spec["ports"][0]["targetPort"]), (&json!("LoadBalancer"), &json!(8080)));
    let headless = created(&["service", "clusterip", "headless", "--clusterip=None"], "service/headless").await;
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    created(&["serviceaccount", "robot"], "serviceaccount/robot").await;
    let map = created(&["configmap", "map", "--from-literal=a=1"], "configmap/map").await;
    assert_eq!(map["data"], json!({"a": "1"}));
    let secret = created(&["secret", "generic", "secret", "--from-literal=a=1"], "secret/secret").await;
    assert_eq!((&secret["type"], &secret["data"]), (&json!("Opaque"), &json!({"a": "MQ=="})));

    let role = ["role", "reader", "--verb=get,list", "--resource=pods,deployments.apps"];
    let rules = created(&role, "role.rbac.authorization.k8s.io/reader").await["rules"].clone();
    assert_eq!(rules[1], json!({"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list"]}));
    let binding =
        ["rolebinding", "readers", "--role=reader", "--user=u", "--group=g", "--serviceaccount=default:robot"];
    let binding = created(&binding, "rolebinding.rbac.authorization.k8s.io/readers").await;
    let kinds: Vec<&str> =
        binding["subjects"].as_array().expect("subjects").iter().map(|s| s["kind"].as_str().unwrap()).collect();
    assert_eq!((kinds, &binding["roleRef"]["name"]), (vec!["User", "Group", "ServiceAccount"], &json!("reader")));
    let health = ["clusterrole", "health", "--verb=get", "--non-resource-url=/healthz"];
    let health = created(&health, "clusterrole.rbac.authorization.k8s.io/health").await;
    assert_eq!(health["rules"][0]["nonResourceURLs"], json!(["/healthz"]));
    let binding = ["clusterrolebinding", "watchers", "--clusterrole=health", "--group=g"];
    let binding = created(&binding, "clusterrolebinding.rbac.authorization.k8s.io/watchers").await;
    assert_eq!(binding["roleRef"]["kind"], "ClusterRole");

    let ingress = ["ingress", "front", "--class=none", "--rule=example.com/shop*=web:80,tls=cert"];
    let spec = created(&ingress, "ingress.networking.k8s.io/front").await["spec"].clone();
    let path =
        json!({"path": "/shop", "pathType": "Prefix", "backend": {"service": {"name": "web", "port": {"number": 80}}}});
    assert_eq!((&spec["rules"][0]["http"]["paths"][0], &spec["tls"][0]["secretName"]), (&path, &json!("cert")));
    let budget = ["poddisruptionbudget", "budget", "--selector=app=web", "--min-available=50%"];
    let budget = created(&budget, "poddisruptionbudget.policy/budget").await;
    assert_eq!(budget["spec"], json!({"minAvailable": "50%", "selector": {"matchLabels": {"app": "web"}}}));
    let job = ["job", "once", "--image=vipyard/pause", "--", "a", "b"];
    let job = created(&job, "job.batch/once").await;
    assert_eq!(job["spec"]["template"]["spec"]["containers"][0]["command"], json!(["a", "b"]));
    let class = ["priorityclass", "high", "--value=10", "--description=first", "--preemption-policy=Never"];
    let class = created(&class, "priorityclass.scheduling.k8s.io/high").await;
    assert_eq!((&class["value"], &class["preemptionPolicy"]), (&json!(10), &json!("Never")));
    let token = cluster.kubectl(&["create", "token", "robot"]).await;
    assert_eq!(token.trim().split('.').count(), 3, "{token}");

    created(&["cronjob", "c", "--image=x", "--schedule=* * * * *"], "cronjob.batch/c").await;

    // What is not served is refused, and by its name.
    let (code, _, err) = cluster.kubectl_with_code(&["create", "quota", "q", "--hard=pods=3"]).await;
    assert_eq!(
        (code, err.as_str()),
        (1, "error: failed to create quota: the server could not find the requested resource\n")
    );
    // Where newer versions are not told of the CPU, they stumble over their own second try.
    let help = cluster.kubectl(&["autoscale", "--help"]).await;
    let cpu = if help.contains("--cpu=") { "--cpu=80%" } else { "--cpu-percent=80" };
    let (code, _, err) = cluster.kubectl_with_code(&["autoscale", "deployment", "web", "--max=5", cpu]).await;
    let refused = "Error from server (NotFound): the server could not find the requested resource (post horizontalpodautoscalers.autoscaling)\n";
    assert_eq!((code, err.as_str()), (1, refused));
    cluster.stop().await;
}
