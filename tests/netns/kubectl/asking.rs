//! What the server says of itself, and of who asks.

use serde_json::{Value, json};

use super::table;
use crate::cluster::Cluster;

pub async fn kinds_are_listed_and_explained() {
    let cluster = Cluster::start().await;
    let versions = cluster.kubectl(&["api-versions"]).await;
    for version in
        ["apps/v1", "batch/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1", "networking.k8s.io/v1", "v1"]
    {
        assert!(versions.lines().any(|line| line == version), "no {version} in\n{versions}");
    }
    let resources = table(&cluster.kubectl(&["api-resources", "--no-headers"]).await);
    let row = |plural: &str| resources.iter().find(|row| row[0] == plural).unwrap_or_else(|| panic!("no {plural}"));
    assert_eq!(row("services")[1..], ["svc", "v1", "true", "Service"]);
    assert_eq!(row("namespaces")[1..], ["ns", "v1", "false", "Namespace"]);
    assert_eq!(row("deployments")[1..], ["deploy", "apps/v1", "true", "Deployment"]);
    assert_eq!(row("networkpolicies")[1..], ["netpol", "networking.k8s.io/v1", "true", "NetworkPolicy"]);
    let wide = table(&cluster.kubectl(&["api-resources", "-o", "wide", "--no-headers", "--api-group=apps"]).await);
    let deployments = wide.iter().find(|row| row[0] == "deployments").expect("deployments");
    assert_eq!(deployments[5], "create,delete,deletecollection,get,list,patch,update,watch");
    let cluster_wide = cluster.kubectl(&["api-resources", "--namespaced=false", "-o", "name"]).await;
    assert!(cluster_wide.lines().any(|line| line == "nodes") && !cluster_wide.contains("pods"), "{cluster_wide}");
    let (_, listable, _) = cluster.kubectl_with_code(&["api-resources", "--verbs=list", "-o", "name"]).await;
    for resource in listable.lines() {
        let (code, _, err) = cluster.kubectl_with_code(&["get", resource, "-A", "-o", "name"]).await;
        assert!(code == 0, "get {resource}: {err}");
    }

    let explain = async |path: &str| cluster.kubectl(&["explain", path]).await;
    let ports = explain("service.spec.ports").await;
    for part in ["KIND:       Service", "VERSION:    v1", "FIELD: ports <[]ServicePort>", "port\t<integer> -required-"]
    {
        assert!(ports.contains(part), "no {part:?} in\n{ports}");
    }
    let strategy = explain("deployment.spec.strategy").await;
    assert!(
        strategy.contains("GROUP:      apps") && strategy.contains("rollingUpdate\t<RollingUpdateDeployment>"),
        "{strategy}"
    );
    let recursive = cluster.kubectl(&["explain", "pod.spec.containers", "--recursive"]).await;
    assert!(recursive.contains("        port\t<IntOrString> -required-"), "{recursive}");
    let (code, _, err) = cluster.kubectl_with_code(&["explain", "pod.spec.none"]).await;
    assert_eq!((code, err.as_str()), (1, "error: field \"none\" does not exist\n"));
    // kubectl takes the group of `events.events.k8s.io` for fields of the core group's Event.
    for resource in listable.lines().filter(|resource| *resource != "events.events.k8s.io") {
        let (code, out, err) = cluster.kubectl_with_code(&["explain", resource]).await;
        assert!(code == 0 && out.contains("FIELDS:"), "explain {resource}: {out} {err}");
    }
    let events = cluster.kubectl(&["explain", "events", "--api-version=events.k8s.io/v1"]).await;
    assert!(
        events.contains("GROUP:      events.k8s.io") && events.contains("reportingController\t<string>"),
        "{events}"
    );
    let old = cluster.kubectl(&["explain", "pod.spec", "--output=plaintext-openapiv2"]).await;
    assert!(old.contains("RESOURCE: spec <Object>") && old.contains("containers\t<[]Object> -required-"), "{old}");
    // kubectl checks a manifest against the server's schema before it sends anything.
    let typo = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "prots": []}});
    let file = cluster.manifest("typo.json", &typo);
    let (code, _, err) = cluster.kubectl_with_code(&["apply", "--validate=strict", "-f", &file]).await;
    assert!(code == 1 && err.contains("unknown field \"spec.prots\""), "{err}");
    let (code, _, err) = cluster.kubectl_with_code(&["create", "--validate=warn", "-f", &file]).await;
    assert_eq!((code, err.as_str()), (0, "Warning: unknown field \"spec.prots\"\n"));
    cluster.stop().await;
}

pub async fn who_asks_is_told_who_it_is_and_what_it_may() {
    let cluster = Cluster::start().await;
    let me: Value = serde_json::from_str(&cluster.kubectl(&["auth", "whoami", "-o", "json"]).await).unwrap();
    let groups = &me["status"]["userInfo"]["groups"];
    assert!(me["status"]["userInfo"]["username"].as_str().is_some_and(|name| !name.is_empty()), "{me}");
    assert!(groups.as_array().is_some_and(|groups| groups.contains(&json!("system:authenticated"))), "{me}");
    let rows = table(&cluster.kubectl(&["auth", "whoami"]).await);
    assert_eq!((&rows[0][..], &*rows[1][0]), (&["ATTRIBUTE".to_owned(), "VALUE".to_owned()][..], "Username"));
    assert_eq!(cluster.kubectl(&["auth", "can-i", "create", "pods"]).await, "yes\n");
    assert_eq!(cluster.kubectl(&["auth", "can-i", "get", "pods", "--subresource=log"]).await, "yes\n");
    let (code, out, err) =
        cluster.kubectl_with_code(&["auth", "can-i", "delete", "deployments.apps/web", "-n", "x"]).await;
    assert_eq!((code, out.as_str()), (0, "yes\n"), "{err}");
    let rules = table(&cluster.kubectl(&["auth", "can-i", "--list", "--no-headers"]).await);
    assert_eq!(rules, [vec!["*.*", "[]", "[]", "[*]"], vec!["[*]", "[]", "[*]"]]);

    cluster.kubectl(&["create", "serviceaccount", "robot"]).await;
    let token = cluster.kubectl(&["create", "token", "robot", "--duration=1h"]).await;
    let (token, server) = (
        format!("--token={}", token.trim()),
        cluster.kubectl(&["config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]).await,
    );
    // Nothing of the kubeconfig but its server: the token alone says who asks.
    let bare = ["--kubeconfig=/dev/null", "--insecure-skip-tls-verify", &*format!("--server={server}"), &*token];
    let name = ["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"];
    assert_eq!(cluster.kubectl(&[&bare[..], &name].concat()).await, "system:serviceaccount:default:robot");
    let forged = [&bare[..3], &["--token=forged"], &["get", "pods"]].concat();
    let (code, _, err) = cluster.kubectl_with_code(&forged).await;
    assert!(code == 1 && err.contains("You must be logged in to the server"), "{err}");
    cluster.stop().await;
}
