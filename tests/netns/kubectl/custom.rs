//! Kinds that a definition brings.

use serde_json::{Value, json};

use super::{TIMEOUT, table};
use crate::cluster::Cluster;

const GADGETS: &str = "/apis/example.com/v1/namespaces/default/gadgets";

fn definition() -> Value {
    let part = json!({"type": "object", "required": ["name"], "properties": {
        "name": {"type": "string"}, "count": {"type": "integer"}}});
    let spec = json!({"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1, "description": "How large it is."},
        "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
        "parts": {"type": "array", "items": part,
            "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}}});
    let columns = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Color", "type": "string", "jsonPath": ".spec.color", "priority": 1}]);
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "gadgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gadgets", "kind": "Gadget", "shortNames": ["gd"], "categories": ["all"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "additionalPrinterColumns": columns,
                "schema": {"openAPIV3Schema": {"type": "object", "description": "A gadget is a thing.",
                    "properties": {"spec": spec}}}}]}})
}

fn gadget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": name}, "spec": spec})
}

pub async fn kinds_of_a_definition_are_used_like_others() {
    let cluster = Cluster::start().await;
    let definition = cluster.manifest("definition.json", &definition());
    let created = cluster.kubectl(&["apply", "-f", &definition]).await;
    assert_eq!(created, "customresourcedefinition.apiextensions.k8s.io/gadgets.example.com created\n");
    cluster.kubectl(&["wait", "--for", "condition=established", "crd/gadgets.example.com", TIMEOUT]).await;
    let listed = table(&cluster.kubectl(&["api-resources", "--api-group=example.com", "--no-headers"]).await);
    assert_eq!(listed, [["gadgets", "gd", "example.com/v1", "true", "Gadget"]]);

    let spec = async || cluster.get(&format!("{GADGETS}/g")).await["spec"].clone();
    let first = cluster.manifest("g.json", &gadget("g", json!({"size": 1, "parts": [{"name": "a", "count": 1}]})));
    assert_eq!(cluster.kubectl(&["apply", "-f", &first]).await, "gadget.example.com/g created\n");
    // kubectl knows no type of it, and takes its ways of patching from the server's documents.
    let next = cluster.manifest("g.json", &gadget("g", json!({"size": 2, "parts": [{"name": "b", "count": 1}]})));
    let (code, out, err) = cluster.kubectl_with_code(&["diff", "-f", &next]).await;
    assert!(code == 1 && out.contains("-  size: 1") && out.contains("+  size: 2"), "{code} {out} {err}");
    assert_eq!(cluster.kubectl(&["apply", "-f", &next]).await, "gadget.example.com/g configured\n");
    assert_eq!(spec().await, json!({"size": 2, "color": "red", "parts": [{"name": "b", "count": 1}]}));
    assert_eq!(cluster.kubectl(&["apply", "-f", &next]).await, "gadget.example.com/g unchanged\n");
    cluster.kubectl(&["patch", "gadget", "g", "--type=merge", "-p", r#"{"spec":{"color":"blue"}}"#]).await;
    let (code, _, err) = cluster.kubectl_with_code(&["patch", "gadget", "g", "-p", "{}"]).await;
    assert!(code == 1 && err.contains("strategic-merge-patch+json is not supported by example.com/v1"), "{code} {err}");

    // A list with keys has an owner for each item.
    let apply = async |manager: &str, spec: Value, more: &[&str]| {
        let file = cluster.manifest("owned.json", &gadget("owned", spec));
        let manager = format!("--field-manager={manager}");
        cluster.kubectl_with_code(&[&["apply", "--server-side", &manager, "-f", &file], more].concat()).await
    };
    let applied = (0, "gadget.example.com/owned serverside-applied\n".to_owned(), String::new());
    let part = |name: &str| json!({"size": 2, "parts": [{"name": name, "count": 1}]});
    assert_eq!(apply("one", part("a"), &[]).await, applied);
    assert_eq!(apply("two", part("b"), &[]).await, applied);
    let owned = async || cluster.get(&format!("{GADGETS}/owned")).await["spec"].clone();
    assert_eq!(owned().await["parts"], json!([{"name": "a", "count": 1}, {"name": "b", "count": 1}]));
    let (code, _, err) = apply("three", json!({"size": 3}), &[]).await;
    assert!(code == 1 && err.contains("conflicts with \"one\"") && err.contains(".spec.size"), "{code} {err}");
    assert_eq!(apply("three", json!({"size": 3}), &["--force-conflicts"]).await, applied);
    assert_eq!(owned().await["size"], 3);
    cluster.kubectl(&["delete", "gadget", "owned"]).await;

    let rows = table(&cluster.kubectl(&["get", "gadgets"]).await);
    assert_eq!(rows, [["NAME", "SIZE"], ["g", "2"]]);
    let rows = table(&cluster.kubectl(&["get", "gd", "-o", "wide"]).await);
    assert_eq!(rows, [["NAME", "SIZE", "COLOR"], ["g", "2", "blue"]]);
    assert!(cluster.kubectl(&["get", "all", "-o", "name"]).await.contains("gadget.example.com/g\n"));
    assert!(cluster.kubectl(&["describe", "gadget", "g"]).await.contains("Color:  blue"));
    let (code, _, err) = cluster
        .kubectl_with_code(&["create", "-f", &cluster.manifest("bad.json", &gadget("bad", json!({"size": 0})))])
        .await;
    let small = "The Gadget \"bad\" is invalid: spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1\n";
    assert_eq!((code, err.as_str()), (1, small));
    let (code, _, err) = cluster
        .kubectl_with_code(&["create", "-f", &cluster.manifest("typo.json", &gadget("typo", json!({"sise": 1})))])
        .await;
    assert!(code == 1 && err.contains("unknown field \"spec.sise\""), "{code} {err}");
    let explained = cluster.kubectl(&["explain", "gadget"]).await;
    assert!(explained.contains("GROUP:      example.com") && explained.contains("A gadget is a thing."), "{explained}");
    for text in ["APIVersion defines the versioned schema", "Kind is a string value", "Standard object's metadata."] {
        assert!(explained.contains(text), "{text}:\n{explained}");
    }
    let explained = cluster.kubectl(&["explain", "gadget.spec"]).await;
    assert!(explained.contains("size\t<integer> -required-") && explained.contains("How large it is."), "{explained}");

    cluster.kubectl(&["delete", "-f", &definition, TIMEOUT]).await;
    assert_eq!(cluster.find(GADGETS).await, None, "the kind goes with its definition");
    let fresh = ["get", "gadgets", &format!("--cache-dir={}", cluster.home.path("fresh").display())];
    let (code, _, err) = cluster.kubectl_with_code(&fresh).await;
    assert_eq!((code, err.as_str()), (1, "error: the server doesn't have a resource type \"gadgets\"\n"));
    cluster.stop().await;
}
