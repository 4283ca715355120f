//! `create` without files, and every form of `get`.

use serde_json::{Value, json};

use super::table;
use crate::cluster::{CONFIG_MAPS, Cluster};

pub async fn objects_are_created_by_command_and_printed_in_every_form() {
    let cluster = Cluster::start().await;
    let created = async |arguments: &[&str], wanted: &str| {
        assert_eq!(cluster.kubectl(&[&["create"], arguments].concat()).await, format!("{wanted} created\n"));
    };
    created(&["namespace", "team"], "namespace/team").await;
    created(&["configmap", "settings", "--from-literal=color=red", "--from-literal=size=1"], "configmap/settings")
        .await;
    created(&["secret", "generic", "login", "--from-literal=password=x"], "secret/login").await;
    let docker =
        ["secret", "docker-registry", "pull", "--docker-server=r", "--docker-username=u", "--docker-password=p"];
    created(&docker, "secret/pull").await;
    created(&["serviceaccount", "robot"], "serviceaccount/robot").await;
    created(&["service", "clusterip", "front", "--tcp=80:8080"], "service/front").await;
    created(&["service", "nodeport", "open", "--tcp=81:8081", "--node-port=30081"], "service/open").await;
    created(&["service", "externalname", "away", "--external-name=example.com"], "service/away").await;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two", "labels": {"tier": "back"}}}]});
    let out = cluster.kubectl_fed(&["create", "-f", "-"], &list).await;
    assert_eq!(out, "configmap/one created\nconfigmap/two created\n");
    let (code, _, err) = cluster.kubectl_with_code(&["create", "configmap", "one"]).await;
    assert_eq!((code, err.as_str()), (1, "error: failed to create configmap: configmaps \"one\" already exists\n"));
    let dry = ["create", "configmap", "dry", "--from-literal=a=1", "-o", "name", "--dry-run=server"];
    assert_eq!(cluster.kubectl(&dry).await, "configmap/dry\n");
    assert_eq!(cluster.find(&format!("{CONFIG_MAPS}/dry")).await, None);

    let get = async |arguments: &[&str]| cluster.kubectl(&[&["get"], arguments].concat()).await;
    let json: Value = serde_json::from_str(&get(&["configmap", "settings", "-o", "json"]).await).unwrap();
    assert_eq!(json["data"], json!({"color": "red", "size": "1"}));
    assert_eq!((&json["apiVersion"], &json["kind"]), (&json!("v1"), &json!("ConfigMap")));
    assert_eq!(json["metadata"].get("managedFields"), None, "kubectl hides them");
    let yaml: Value = serde_saphyr::from_str(&get(&["configmap", "settings", "-o", "yaml"]).await).unwrap();
    assert_eq!(yaml, json);
    let several: Value = serde_json::from_str(&get(&["cm/one", "svc/front", "-o", "json"]).await).unwrap();
    assert_eq!((&several["kind"], several["items"].as_array().map(Vec::len)), (&json!("List"), Some(2)));
    assert_eq!(get(&["cm/one", "svc/front", "-o", "name"]).await, "configmap/one\nservice/front\n");
    assert_eq!(get(&["svc", "front", "-o", "jsonpath={.spec.ports[0].targetPort}"]).await, "8080");
    assert_eq!(get(&["svc", "open", "-o", "jsonpath-as-json={.spec.ports[*].nodePort}"]).await, "[\n    30081\n]\n");
    let template = "{{range $k, $v := .data}}{{$k}}={{$v}};{{end}}";
    assert_eq!(get(&["cm", "settings", "-o", "go-template", "--template", template]).await, "color=red;size=1;");
    let file = cluster.file("template", template);
    assert_eq!(get(&["cm", "settings", "-o", &format!("go-template-file={file}")]).await, "color=red;size=1;");
    let file = cluster.file("path", "{.data.color}");
    assert_eq!(get(&["cm", "settings", "-o", &format!("jsonpath-file={file}")]).await, "red");
    let columns = "custom-columns=NAME:.metadata.name,TYPE:.spec.type";
    assert_eq!(table(&get(&["svc", "away", "-o", columns]).await), [["NAME", "TYPE"], ["away", "ExternalName"]]);
    let file = cluster.file("columns", "NAME          TO\n.metadata.name .spec.externalName\n");
    let away = get(&["svc", "away", "-o", &format!("custom-columns-file={file}")]).await;
    assert_eq!(table(&away), [["NAME", "TO"], ["away", "example.com"]]);
    let rows = table(&get(&["svc", "open", "-o", "wide"]).await);
    assert_eq!(rows[0], ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE", "SELECTOR"]);
    assert_eq!((&*rows[1][1], &*rows[1][4], &*rows[1][6]), ("NodePort", "81:30081/TCP", "app=open"));

    let names = async |arguments: &[&str]| get(&[arguments, &["-o", "name"]].concat()).await;
    assert_eq!(names(&["cm", "-l", "tier in (back)"]).await, "configmap/two\n");
    assert_eq!(names(&["svc", "--field-selector", "spec.type=NodePort"]).await, "service/open\n");
    assert_eq!(names(&["cm", "--field-selector", "metadata.name=one", "-A"]).await, "configmap/one\n");
    assert_eq!(names(&["cm", "--chunk-size=1", "-l", "!tier"]).await.lines().count(), 3, "all the pages");
    let labels = table(&get(&["cm", "two", "--no-headers", "--show-labels"]).await);
    assert_eq!(labels[0].last().unwrap(), "tier=back");
    assert_eq!(table(&get(&["cm", "two", "-L", "tier"]).await)[0].last().unwrap(), "TIER");
    assert_eq!(get(&["--raw", "/readyz"]).await, "ok");
    assert_eq!(names(&["-f", &cluster.manifest("list.json", &list)]).await, "configmap/one\nconfigmap/two\n");
    let (code, _, err) = cluster.kubectl_with_code(&["get", "cm", "-l", "a b c"]).await;
    assert!(code == 1 && err.contains("unable to parse requirement"), "{err}");
    cluster.stop().await;
}

pub async fn editor_changes_the_object() {
    let cluster = Cluster::start().await;
    cluster.kubectl(&["create", "configmap", "settings", "--from-literal=color=red"]).await;
    let edit = async |script: &str| {
        let editor = cluster.file("editor", &format!("#!/bin/sh\n{script}\n"));
        let mut command = cluster.kubectl_command(&["edit", "configmap", "settings"]);
        command.env("EDITOR", format!("sh {editor}"));
        crate::cluster::run(command).await
    };
    let color = async || cluster.get(&format!("{CONFIG_MAPS}/settings")).await["data"]["color"].clone();
    let (code, out, err) = edit("sed -i s/red/blue/ \"$1\"").await;
    assert_eq!((code, out.as_str()), (0, "configmap/settings edited\n"), "{err}");
    assert_eq!(color().await, "blue");
    let (code, _, err) = edit("true").await;
    assert_eq!((code, err.as_str()), (0, "Edit cancelled, no changes made.\n"));
    // What the server refuses comes back to the editor; unchanged, kubectl gives up.
    let (code, _, err) = edit("sed -i 's/^data:/immutable: 7\\ndata:/' \"$1\"").await;
    assert!(code == 1 && err.contains("configmaps \"settings\" is invalid"), "{code} {err}");
    assert_eq!(color().await, "blue");
    let (code, _, err) = edit("sed -i 's/name: settings/name: other/' \"$1\"").await;
    assert!(code == 1 && err.contains("name"), "{code} {err}");
    cluster.stop().await;
}
