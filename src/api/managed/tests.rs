use super::*;
use crate::api::schema::builtin;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use schemars::JsonSchema;

const NOW: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "2026-01-01T00:00:09Z";

fn writer<'a>(manager: &'a str, now: &'a str) -> Writer<'a> {
    Writer { manager, api_version: "v1", subresource: "", now, has_status: true }
}

/// One object and its history of writes.
struct History {
    schema: Schema,
    object: Value,
}

impl History {
    fn of<T: JsonSchema>() -> Self {
        Self { schema: builtin::schema::<T>(), object: Value::Null }
    }

    fn update(&mut self, manager: &str, mut new: Value) {
        let sent = meta(&new, "managedFields").cloned();
        let writer = writer(manager, NOW);
        Managers::after_update(&self.schema, &self.object, &new, sent.as_ref(), &writer).write_to(&mut new);
        self.object = new;
    }

    fn try_apply(&mut self, manager: &str, config: Value, force: bool) -> Result<(), ApiError> {
        let Applied { mut object, managers } =
            apply(&self.schema, &self.object, &config, &writer(manager, LATER), force)?;
        managers.write_to(&mut object);
        self.object = object;
        Ok(())
    }

    fn apply(&mut self, manager: &str, config: Value) {
        self.try_apply(manager, config, false).unwrap();
    }

    fn owned_by(&self, manager: &str) -> Value {
        let entries = self.object["metadata"]["managedFields"].as_array().unwrap();
        entries.iter().find(|entry| entry["manager"] == manager).map_or(Value::Null, |entry| entry["fieldsV1"].clone())
    }
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data})
}

#[test]
fn creator_owns_what_it_sent_and_nobody_the_identity() {
    let mut history = History::of::<ConfigMap>();
    let mut object = config_map(json!({"x": "1"}));
    object["metadata"]["labels"] = json!({"app": "a"});
    object["metadata"]["uid"] = "u".into();
    history.update("kubectl-create", object);
    assert_eq!(
        history.owned_by("kubectl-create"),
        json!({"f:data": {".": {}, "f:x": {}}, "f:metadata": {"f:labels": {".": {}, "f:app": {}}}})
    );
}

#[test]
fn applying_what_another_applier_owns_conflicts_unless_forced() {
    let mut history = History::of::<ConfigMap>();
    history.apply("one", config_map(json!({"x": "1", "y": "1"})));
    let refused = history.try_apply("two", config_map(json!({"x": "2"})), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    history.try_apply("two", config_map(json!({"x": "2"})), true).unwrap();
    assert_eq!(history.object["data"], json!({"x": "2", "y": "1"}));
    assert_eq!(history.owned_by("one"), json!({"f:data": {"f:y": {}}}));
    assert_eq!(history.owned_by("two"), json!({"f:data": {"f:x": {}}}));
}

#[test]
fn fields_that_an_applier_drops_go_unless_somebody_else_owns_them() {
    let mut history = History::of::<ConfigMap>();
    history.apply("one", config_map(json!({"x": "1", "y": "1"})));
    history.apply("two", config_map(json!({"x": "1"})));
    history.apply("one", config_map(json!({})));
    assert_eq!(history.object["data"], json!({"x": "1"}));
    assert_eq!(history.owned_by("one"), json!({"f:data": {}}));
}

#[test]
fn the_same_value_is_shared_without_conflict() {
    let mut history = History::of::<ConfigMap>();
    history.apply("one", config_map(json!({"x": "1"})));
    history.apply("two", config_map(json!({"x": "1"})));
    assert_eq!(history.owned_by("one"), history.owned_by("two"));
}

#[test]
fn an_update_takes_what_it_changes_and_leaves_the_rest() {
    let mut history = History::of::<ConfigMap>();
    history.apply("one", config_map(json!({"x": "1", "y": "1"})));
    let mut edited = history.object.clone();
    edited["data"]["x"] = "2".into();
    history.update("kubectl-edit", edited);
    assert_eq!(history.owned_by("one"), json!({"f:data": {"f:y": {}}}));
    assert_eq!(history.owned_by("kubectl-edit"), json!({"f:data": {"f:x": {}}}));
    let refused = history.try_apply("one", config_map(json!({"x": "1", "y": "1"})), false).unwrap_err();
    assert_eq!(refused.message, "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.x");
}

#[test]
fn a_write_without_effect_changes_no_entry() {
    let mut history = History::of::<ConfigMap>();
    history.apply("one", config_map(json!({"x": "1"})));
    let before = history.object.clone();
    history.update("other", before.clone());
    history.apply("one", config_map(json!({"x": "1"})));
    assert_eq!(history.object, before);
}

fn service(ports: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": ports}})
}

#[test]
fn list_elements_are_owned_by_their_keys_with_defaults() {
    let mut history = History::of::<Service>();
    history.apply("one", service(json!([{"name": "http", "port": 80}])));
    history.apply("two", service(json!([{"name": "https", "port": 443, "protocol": "TCP"}])));
    let ports: Vec<i64> =
        history.object["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].as_i64().unwrap()).collect();
    assert_eq!(ports, [80, 443]);
    let both = json!([{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
    history.apply("one", service(both));
    history.apply("one", service(json!([{"name": "dns", "port": 53, "protocol": "UDP"}])));
    let ports: Vec<i64> =
        history.object["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].as_i64().unwrap()).collect();
    assert_eq!(ports.len(), 2, "{ports:?}");
    assert!(ports.contains(&443) && ports.contains(&53));
}

#[test]
fn merged_lists_keep_the_order_of_the_applied_one() {
    let mut history = History::of::<Service>();
    let port = |n: i64| json!({"name": format!("p{n}"), "port": n, "protocol": "TCP"});
    history.update("creator", service(json!([port(1), port(2), port(3)])));
    history.apply("one", service(json!([port(3), port(9), port(1)])));
    let ports: Vec<i64> =
        history.object["spec"]["ports"].as_array().unwrap().iter().map(|p| p["port"].as_i64().unwrap()).collect();
    assert_eq!(ports, [2, 3, 9, 1]);
}

#[test]
fn an_atomic_map_is_one_field() {
    let mut history = History::of::<Service>();
    let with = |selector: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"selector": selector}});
    history.apply("one", with(json!({"app": "a"})));
    assert_eq!(history.owned_by("one"), json!({"f:spec": {"f:selector": {}}}));
    let refused = history.try_apply("two", with(json!({"tier": "x"})), false).unwrap_err();
    assert!(refused.message.ends_with(".spec.selector"), "{}", refused.message);
    history.try_apply("two", with(json!({"tier": "x"})), true).unwrap();
    assert_eq!(history.object["spec"]["selector"], json!({"tier": "x"}));
}

#[test]
fn removing_a_containers_field_leaves_the_rest_of_the_template() {
    let mut history = History::of::<Deployment>();
    let with = |container: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
               "spec": {"template": {"spec": {"containers": [container]}}}})
    };
    history.apply("one", with(json!({"name": "c", "image": "x", "env": [{"name": "A", "value": "1"}]})));
    let mut defaulted = history.object.clone();
    defaulted["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
    history.object = defaulted;
    history.apply("one", with(json!({"name": "c", "image": "x"})));
    assert_eq!(
        history.object["spec"]["template"]["spec"],
        json!({"containers": [{"name": "c", "image": "x"}], "restartPolicy": "Always"})
    );
}

#[test]
fn fields_that_are_not_of_the_type_are_refused_by_their_path() {
    let mut history = History::of::<Service>();
    let config = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "n"},
        "spec": {"prots": [], "ports": [{"port": "http"}, {"name": "x"}]}});
    let refused = history.try_apply("one", config, false).unwrap_err();
    assert_eq!(
        refused.message,
        "failed to create typed patch object (n/a; v1, Kind=Service): errors:\n  \
         .spec.ports[port=\"http\",protocol=\"TCP\"].port: expected numeric (int or float), got string\n  \
         .spec.ports: element 1: associative list with keys has an element that omits key field \"port\" (and doesn't have default value)\n  \
         .spec.ports.name: field not declared in schema\n  .spec.prots: field not declared in schema"
            .replace("\n  .spec.ports.name: field not declared in schema", "")
    );
}

#[test]
fn kubectl_takes_over_what_client_side_apply_had_set() {
    let mut history = History::of::<ConfigMap>();
    let mut object = config_map(json!({"x": "1", "y": "1"}));
    let last = config_map(json!({"x": "1"})).to_string();
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": last});
    history.update("kubectl-client-side-apply", object);
    let refused = history.try_apply("kubectl", config_map(json!({"x": "2", "y": "2"})), false).unwrap_err();
    assert!(refused.message.ends_with("1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.y"));
    history.apply("kubectl", config_map(json!({"x": "2"})));
    assert_eq!(history.object["data"], json!({"x": "2", "y": "1"}));
    let annotation = &history.object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert!(annotation.as_str().unwrap().contains("\"x\":\"2\""));
}

#[test]
fn objects_without_owners_get_one_before_the_first_apply() {
    let mut history = History::of::<ConfigMap>();
    history.object = config_map(json!({"x": "1"}));
    let refused = history.try_apply("one", config_map(json!({"x": "2"})), false).unwrap_err();
    assert!(refused.message.contains("conflict with \"before-first-apply\" using v1: .data.x"), "{}", refused.message);
}

#[test]
fn a_client_can_reset_and_edit_the_entries() {
    let mut history = History::of::<ConfigMap>();
    history.update("one", config_map(json!({"x": "1"})));
    let mut edited = history.object.clone();
    edited["metadata"]["managedFields"][0]["manager"] = "renamed".into();
    history.update("kubectl-patch", edited);
    assert_ne!(history.owned_by("renamed"), Value::Null);
    let mut reset = history.object.clone();
    reset["metadata"]["managedFields"] = json!([{}]);
    history.update("kubectl-patch", reset);
    assert_eq!(history.object["metadata"].get("managedFields"), None);
}

#[test]
fn old_updaters_are_joined_when_there_are_many() {
    let mut history = History::of::<ConfigMap>();
    history.update("m0", config_map(json!({"k0": "1"})));
    for i in 1..15 {
        let mut next = history.object.clone();
        next["data"][format!("k{i}")] = "1".into();
        history.update(&format!("m{i}"), next);
    }
    let entries = history.object["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    assert_ne!(history.owned_by("ancient-changes"), Value::Null);
    assert_ne!(history.owned_by("m14"), Value::Null);
}

#[test]
fn a_status_write_owns_only_the_status() {
    let schema = builtin::schema::<Service>();
    let old = json!({"metadata": {"name": "a"}, "spec": {"type": "ClusterIP"}});
    let mut live = old.clone();
    Managers::after_update(&schema, &Value::Null, &old, None, &writer("one", NOW)).write_to(&mut live);
    let mut new = live.clone();
    new["status"] = json!({"conditions": [{"type": "A", "status": "True"}]});
    new["spec"]["type"] = "NodePort".into();
    let status = Writer { subresource: "status", ..writer("agent", LATER) };
    let managers = Managers::after_update(&schema, &live, &new, None, &status);
    let entry = managers.0.iter().find(|entry| entry.manager == "agent").unwrap();
    assert!(entry.set.paths().iter().all(|path| path.starts_with(".status")), "{:?}", entry.set.paths());
    assert_eq!(entry.to_value()["subresource"], "status");
}
