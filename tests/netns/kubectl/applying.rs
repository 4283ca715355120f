//! `apply` with ownership, `--prune`, and `diff`.

use serde_json::{Value, json};

use crate::cluster::{CONFIG_MAPS, Cluster};

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "a"}}, "data": data})
}

pub async fn server_side_apply_owns_fields_and_refuses_to_take_others() {
    let cluster = Cluster::start().await;
    let apply = async |manager: &str, data: Value, more: &[&str]| {
        let file = cluster.manifest("map.json", &config_map("m", data));
        let manager = format!("--field-manager={manager}");
        cluster.kubectl_with_code(&[&["apply", "--server-side", &manager, "-f", &file], more].concat()).await
    };
    let data = async || cluster.get(&format!("{CONFIG_MAPS}/m")).await["data"].clone();
    let (code, out, err) = apply("one", json!({"a": "1", "b": "1"}), &[]).await;
    assert_eq!((code, out.as_str(), err.as_str()), (0, "configmap/m serverside-applied\n", ""));
    let (code, _, err) = apply("two", json!({"a": "2"}), &[]).await;
    let conflict = "error: Apply failed with 1 conflict: conflict with \"one\": .data.a\n";
    assert!(code == 1 && err.starts_with(conflict) && err.contains("--force-conflicts"), "{code} {err}");
    assert_eq!(data().await, json!({"a": "1", "b": "1"}));
    // The same value is no conflict: the field has two owners then.
    assert_eq!(apply("three", json!({"b": "1"}), &[]).await.0, 0);
    let (code, _, err) = apply("two", json!({"a": "2"}), &["--force-conflicts"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(data().await, json!({"a": "2", "b": "1"}));
    // What its last owner no longer applies goes; what another one owns, too, stays.
    assert_eq!(apply("two", json!({"c": "1"}), &[]).await.0, 0);
    assert_eq!(apply("one", json!({"d": "1"}), &[]).await.0, 0);
    assert_eq!(data().await, json!({"b": "1", "c": "1", "d": "1"}));

    let shown = cluster.kubectl(&["get", "configmap", "m", "-o", "json", "--show-managed-fields"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let mut managers: Vec<&str> = shown["metadata"]["managedFields"]
        .as_array()
        .expect("managers")
        .iter()
        .map(|e| e["manager"].as_str().unwrap())
        .collect();
    managers.sort_unstable();
    assert_eq!(managers, ["one", "three", "two"]);
    let (code, out, _) = apply("one", json!({"d": "2"}), &["--dry-run=server"]).await;
    assert_eq!((code, out.as_str()), (0, "configmap/m serverside-applied (server dry run)\n"));
    assert_eq!(data().await["d"], "1");
    // An apply by annotation that turns into an apply by ownership loses nothing.
    let file = cluster.manifest("old.json", &config_map("old", json!({"a": "1", "b": "1"})));
    cluster.kubectl(&["apply", "-f", &file]).await;
    let file = cluster.manifest("old.json", &config_map("old", json!({"a": "1"})));
    cluster.kubectl(&["apply", "--server-side", "-f", &file]).await;
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/old")).await["data"], json!({"a": "1"}));
    cluster.stop().await;
}

pub async fn apply_prunes_and_diff_tells_what_would_change() {
    let cluster = Cluster::start().await;
    let both = json!({"apiVersion": "v1", "kind": "List", "items": [
        config_map("stays", json!({"a": "1"})), config_map("goes", json!({"a": "1"}))]});
    let file = cluster.manifest("both.json", &both);
    let (code, out, err) = cluster.kubectl_with_code(&["diff", "-f", &file]).await;
    assert!(code == 1 && out.contains("+  name: goes") && out.contains("+  name: stays"), "{code} {out} {err}");
    assert_eq!(cluster.find(&format!("{CONFIG_MAPS}/stays")).await, None, "diff writes nothing");
    cluster.kubectl(&["apply", "-f", &file]).await;
    assert_eq!(cluster.kubectl_with_code(&["diff", "-f", &file]).await, (0, String::new(), String::new()));

    let changed = cluster.manifest("one.json", &config_map("stays", json!({"a": "2"})));
    let (code, out, _) = cluster.kubectl_with_code(&["diff", "-f", &changed]).await;
    assert!(code == 1 && out.contains("-  a: \"1\"") && out.contains("+  a: \"2\""), "{code} {out}");
    let (code, out, _) =
        cluster.kubectl_with_code(&["diff", "--server-side", "--force-conflicts", "-f", &changed]).await;
    assert!(code == 1 && out.contains("+  a: \"2\""), "{code} {out}");

    cluster.kubectl(&["create", "configmap", "alien"]).await;
    cluster.kubectl(&["label", "configmap", "alien", "set=a"]).await;
    // Every kind that kubectl prunes is listed: no allowlist.
    let (code, out, err) = cluster.kubectl_with_code(&["apply", "--prune", "-l", "set=a", "-f", &changed]).await;
    assert_eq!((code, out.as_str()), (0, "configmap/stays configured\nconfigmap/goes pruned\n"), "{err}");
    assert_eq!(cluster.find(&format!("{CONFIG_MAPS}/goes")).await, None);
    assert!(cluster.find(&format!("{CONFIG_MAPS}/alien")).await.is_some(), "what was not applied is not pruned");
    let last = cluster.kubectl(&["apply", "view-last-applied", "configmap", "stays", "-o", "json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["data"], json!({"a": "2"}));
    cluster.stop().await;
}
