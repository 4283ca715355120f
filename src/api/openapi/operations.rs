//! What can be done at which path, with which parameters.

use serde_json::{Map, Value, json};

use super::{Common, reference};
use crate::api::discovery::subresources;
use crate::api::kinds::Info;
use crate::api::patch;

const PATCHES: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", STRATEGIC_MERGE_PATCH, patch::APPLY];
const STRATEGIC_MERGE_PATCH: &str = "application/strategic-merge-patch+json";

/// Adds the paths of one kind.
pub(super) fn add(info: &Info, name: &str, list_name: &str, common: &Common, paths: &mut Map<String, Value>) {
    let base = format!("/{}", super::path_of(info.group, info.version));
    let collection = if info.namespaced {
        paths.insert(format!("{base}/{}", info.plural), json!({"get": list(info, list_name, "ForAllNamespaces")}));
        format!("{base}/namespaces/{{namespace}}/{}", info.plural)
    } else {
        format!("{base}/{}", info.plural)
    };
    let mut at_collection = json!({
        "get": list(info, list_name, ""),
        "post": write(info, "create", "post", name, name, &["200", "201", "202"]),
        "delete": delete(info, "deletecollection", common, &common.status),
    });
    let mut at_object = json!({
        "get": read(info, "get", name),
        "put": write(info, "replace", "put", name, name, &["200", "201"]),
        "patch": patch(info, name, common),
        "delete": delete(info, "delete", common, if info.returns_deleted { name } else { &common.status }),
    });
    at_collection["parameters"] = path_parameters(info, false);
    at_object["parameters"] = path_parameters(info, true);
    paths.insert(collection.clone(), at_collection);
    for (subresource, _, verbs) in subresources(info) {
        // Only `status` has the type of the object itself; the others say what they are in their own documentation.
        if subresource != "status" {
            continue;
        }
        let mut at = json!({"parameters": path_parameters(info, true)});
        for verb in verbs {
            match *verb {
                "get" => at["get"] = read(info, "get", name),
                "update" => at["put"] = write(info, "replace", "put", name, name, &["200", "201"]),
                "patch" => at["patch"] = patch(info, name, common),
                _ => {}
            }
        }
        paths.insert(format!("{collection}/{{name}}/{subresource}"), at);
    }
    paths.insert(format!("{collection}/{{name}}"), at_object);
}

fn operation(info: &Info, verb: &str, action: &str, scope: &str, parameters: Vec<Value>) -> Value {
    let namespaced = if info.namespaced && scope.is_empty() { "Namespaced" } else { "" };
    json!({
        "operationId": format!("{verb}{}{namespaced}{}{scope}", camel(info), info.kind),
        "tags": [camel(info)],
        "parameters": parameters,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": info.group, "version": info.version, "kind": info.kind},
    })
}

fn read(info: &Info, action: &str, name: &str) -> Value {
    let mut operation = operation(info, "read", action, "", Vec::new());
    operation["responses"] = responses(&["200"], name);
    operation
}

fn list(info: &Info, list: &str, scope: &str) -> Value {
    let mut operation = operation(info, "list", "list", scope, list_parameters());
    operation["responses"] = responses(&["200"], list);
    operation
}

fn write(info: &Info, verb: &str, action: &str, body: &str, answer: &str, codes: &[&str]) -> Value {
    let mut operation = operation(info, verb, action, "", write_parameters(false));
    operation["requestBody"] = json!({"required": true, "content": {
        "application/json": {"schema": reference(body)},
        "application/yaml": {"schema": reference(body)},
    }});
    operation["responses"] = responses(codes, answer);
    operation
}

fn patch(info: &Info, name: &str, common: &Common) -> Value {
    let mut operation = operation(info, "patch", "patch", "", write_parameters(true));
    // `kubectl apply` reads here whether it can send a strategic merge patch.
    let taken = PATCHES.iter().filter(|media| !(info.custom && **media == STRATEGIC_MERGE_PATCH));
    let content: Map<String, Value> =
        taken.map(|media| ((*media).to_owned(), json!({"schema": reference(&common.patch)}))).collect();
    operation["requestBody"] = json!({"required": true, "content": content});
    operation["responses"] = responses(&["200", "201"], name);
    operation
}

fn delete(info: &Info, action: &str, common: &Common, answer: &str) -> Value {
    let collection = action == "deletecollection";
    let verb = if collection { "deleteCollection" } else { "delete" };
    let mut parameters = if collection { list_parameters() } else { Vec::new() };
    parameters.extend([
        parameter("dryRun", "string"),
        parameter("gracePeriodSeconds", "integer"),
        parameter("orphanDependents", "boolean"),
        parameter("propagationPolicy", "string"),
    ]);
    let mut operation = operation(info, verb, action, "", parameters);
    operation["requestBody"] = json!({"content": {"application/json": {"schema": reference(&common.delete_options)}}});
    operation["responses"] = responses(if collection { &["200"] } else { &["200", "202"] }, answer);
    operation
}

/// `CoreV1`, `AppsV1`, `NetworkingV1`: how generated clients call the group.
fn camel(info: &Info) -> String {
    let group = info.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    let upper = |text: &str| {
        let mut letters = text.chars();
        letters.next().map(|first| first.to_uppercase().collect::<String>() + letters.as_str()).unwrap_or_default()
    };
    format!("{}{}", upper(group), upper(info.version))
}

fn responses(codes: &[&str], name: &str) -> Value {
    let text = |code: &str| match code {
        "201" => "Created",
        "202" => "Accepted",
        _ => "OK",
    };
    let mut all: Map<String, Value> = codes
        .iter()
        .map(|code| {
            let content = json!({"application/json": {"schema": reference(name)}});
            ((*code).to_owned(), json!({"description": text(code), "content": content}))
        })
        .collect();
    all.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(all)
}

fn parameter(name: &str, kind: &str) -> Value {
    json!({"name": name, "in": "query", "schema": {"type": kind, "uniqueItems": true}})
}

fn write_parameters(patch: bool) -> Vec<Value> {
    let mut all = vec![
        parameter("dryRun", "string"),
        parameter("fieldManager", "string"),
        parameter("fieldValidation", "string"),
    ];
    if patch {
        all.push(parameter("force", "boolean"));
    }
    all
}

fn list_parameters() -> Vec<Value> {
    vec![
        parameter("allowWatchBookmarks", "boolean"),
        parameter("continue", "string"),
        parameter("fieldSelector", "string"),
        parameter("labelSelector", "string"),
        parameter("limit", "integer"),
        parameter("resourceVersion", "string"),
        parameter("resourceVersionMatch", "string"),
        parameter("sendInitialEvents", "boolean"),
        parameter("timeoutSeconds", "integer"),
        parameter("watch", "boolean"),
    ]
}

fn path_parameters(info: &Info, name: bool) -> Value {
    let parameter = |name: &str, text: &str| {
        json!({"name": name, "in": "path", "required": true, "description": text,
               "schema": {"type": "string", "uniqueItems": true}})
    };
    let mut all = Vec::new();
    if info.namespaced {
        all.push(parameter("namespace", "object name and auth scope, such as for teams and projects"));
    }
    if name {
        all.push(parameter("name", &format!("name of the {}", info.kind)));
    }
    all.into()
}
