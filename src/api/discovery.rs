//! What is served, as clients discover it: plain and aggregated.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::kinds::{Info, Strategy};
use super::{Api, KUBERNETES_VERSION, reviews};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

const STREAM: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// `(name, kind, verbs)` of the subresources of a kind.
pub(super) fn subresources(info: &Info) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    let mut all: Vec<(&str, &str, &[&str])> = Vec::new();
    if info.status {
        all.push(("status", info.kind, &["get", "patch", "update"]));
    }
    if info.scale.is_some() {
        all.push(("scale", "Scale", &["get", "patch", "update"]));
    }
    match info.plural {
        "pods" => {
            all.push(("attach", "PodAttachOptions", STREAM));
            all.push(("binding", "Binding", &["create"]));
            all.push(("ephemeralcontainers", "Pod", &["get", "patch", "update"]));
            all.push(("eviction", "Eviction", &["create"]));
            all.push(("exec", "PodExecOptions", STREAM));
            all.push(("log", "Pod", &["get"]));
            all.push(("portforward", "PodPortForwardOptions", STREAM));
            all.push(("proxy", "PodProxyOptions", PROXY));
            all.push(("resize", "Pod", &["get", "patch", "update"]));
        }
        "services" => all.push(("proxy", "ServiceProxyOptions", PROXY)),
        "nodes" => all.push(("proxy", "NodeProxyOptions", PROXY)),
        "namespaces" => all.push(("finalize", "Namespace", &["update"])),
        "serviceaccounts" => all.push(("token", "TokenRequest", &["create"])),
        _ => {}
    }
    all
}

/// Group and version of what a subresource takes and gives: those of its kind, but for a few that many kinds share.
fn group_of(info: &Info, subresource_kind: &str) -> (&'static str, &'static str) {
    match subresource_kind {
        "TokenRequest" => ("authentication.k8s.io", "v1"),
        "Eviction" => ("policy", "v1"),
        "Scale" => ("autoscaling", "v1"),
        _ => (info.group, info.version),
    }
}

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "major": "1", "minor": "36", "gitVersion": format!("{KUBERNETES_VERSION}+vipyard-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": format!("linux/{}", arch()),
    }))
}

/// The machine's architecture as Go and Kubernetes name it.
pub fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| {
        first.contains("as=APIGroupDiscoveryList") && first.contains("v=v2") && !first.contains("v=v2beta1")
    })
}

/// A group with its versions, the one that clients should take first.
struct Group {
    name: &'static str,
    versions: Vec<&'static str>,
}

fn groups_of(api: &Api) -> Vec<Group> {
    let kinds = api.registry().kinds();
    let served = kinds.iter().map(|kind| kind.info()).filter(|info| !info.group.is_empty());
    let pairs = served
        .map(|info| (info.group, info.version))
        .chain(reviews::all().iter().map(|info| (info.group, info.version)));
    let mut groups: Vec<Group> = Vec::new();
    for (name, version) in pairs {
        match groups.iter_mut().find(|group| group.name == name) {
            Some(group) if group.versions.contains(&version) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name, versions: vec![version] }),
        }
    }
    for group in &mut groups {
        group.versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
    }
    groups
}

/// Kubernetes' order of versions: v10, v2, v1, v11beta2, v3beta1, v12alpha1; others after them.
fn priority(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = rest.split_at(digits);
        let major: u32 = major.parse().ok()?;
        let (stage, minor) = match stage {
            "" => return Some((3, major, 0)),
            stage if stage.starts_with("beta") => (2, &stage[4..]),
            stage if stage.starts_with("alpha") => (1, &stage[5..]),
            _ => return None,
        };
        Some((stage, major, minor.parse().ok()?))
    };
    parse().unwrap_or((0, 0, 0))
}

fn kinds_at(api: &Api, group: &str, version: &str) -> Vec<Arc<dyn Strategy>> {
    let mut kinds = api.registry().kinds();
    kinds.retain(|kind| kind.info().group == group && kind.info().version == version);
    kinds
}

fn aggregated(api: &Api, core: bool) -> Response {
    let groups = if core { vec![Group { name: "", versions: vec!["v1"] }] } else { groups_of(api) };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|Group { name, versions }| {
            let version = |version: &&str| {
                let kinds = kinds_at(api, name, version);
                let reviews = reviews::of(name, version).map(aggregated_review);
                let resources: Vec<Value> =
                    kinds.iter().map(|kind| aggregated_resource(kind.info())).chain(reviews).collect();
                json!({"version": version, "freshness": "Current", "resources": resources})
            };
            let mut metadata = json!({"creationTimestamp": null});
            if !name.is_empty() {
                metadata["name"] = name.into();
            }
            json!({"metadata": metadata, "versions": versions.iter().map(version).collect::<Vec<_>>()})
        })
        .collect();
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut response = Json(list).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(AGGREGATED));
    response
}

fn aggregated_resource(info: &Info) -> Value {
    let kind = |kind: &str| json!({"group": info.group, "version": info.version, "kind": kind});
    let mut resource = json!({
        "resource": info.plural, "responseKind": kind(info.kind), "scope": if info.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": info.singular, "verbs": verbs(info),
    });
    if !info.short_names.is_empty() {
        resource["shortNames"] = json!(info.short_names);
    }
    if !info.categories.is_empty() {
        resource["categories"] = json!(info.categories);
    }
    let subresources: Vec<Value> = subresources(info)
        .into_iter()
        .map(|(name, response, verbs)| {
            let (group, version) = group_of(info, response);
            let response = json!({"group": group, "version": version, "kind": response});
            json!({"subresource": name, "responseKind": response, "verbs": verbs})
        })
        .collect();
    if !subresources.is_empty() {
        resource["subresources"] = subresources.into();
    }
    resource
}

fn aggregated_review(info: &reviews::Info) -> Value {
    json!({
        "resource": info.plural, "responseKind": {"group": info.group, "version": info.version, "kind": info.kind},
        "scope": if info.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": info.singular,
        "verbs": reviews::VERBS,
    })
}

pub(super) async fn core_versions(State(api): State<Api>, headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        return aggregated(&api, true);
    }
    Json(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})).into_response()
}

fn group_value(group: &Group) -> Value {
    let version = |version: &&str| json!({"groupVersion": format!("{}/{version}", group.name), "version": version});
    let versions: Vec<Value> = group.versions.iter().map(version).collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
}

pub(super) async fn groups(State(api): State<Api>, headers: HeaderMap) -> Response {
    if wants_aggregated(&headers) {
        return aggregated(&api, false);
    }
    let groups: Vec<Value> = groups_of(&api).iter().map(group_value).collect();
    Json(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})).into_response()
}

pub(super) async fn group(State(api): State<Api>, Path(name): Path<String>) -> Response {
    match groups_of(&api).iter().find(|group| group.name == name) {
        Some(group) => {
            let mut value = group_value(group);
            value["kind"] = "APIGroup".into();
            value["apiVersion"] = "v1".into();
            Json(value).into_response()
        }
        None => page_not_found(),
    }
}

pub(super) fn page_not_found() -> Response {
    (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
}

pub(super) async fn core_resources(State(api): State<Api>, Path(version): Path<String>) -> Response {
    resource_list(&api, "", &version)
}

pub(super) async fn resources(State(api): State<Api>, Path((group, version)): Path<(String, String)>) -> Response {
    resource_list(&api, &group, &version)
}

fn resource_list(api: &Api, group: &str, version: &str) -> Response {
    let kinds = kinds_at(api, group, version);
    if kinds.is_empty() && reviews::of(group, version).next().is_none() {
        return page_not_found();
    }
    let reviews = reviews::of(group, version).map(|info| {
        json!({"name": info.plural, "singularName": info.singular, "namespaced": info.namespaced, "kind": info.kind,
            "verbs": reviews::VERBS})
    });
    let mut resources: Vec<Value> = reviews.collect();
    for info in kinds.iter().map(|kind| kind.info()) {
        let mut resource = json!({"name": info.plural, "singularName": info.singular, "namespaced": info.namespaced,
            "kind": info.kind, "verbs": verbs(info)});
        if !info.short_names.is_empty() {
            resource["shortNames"] = json!(info.short_names);
        }
        if !info.categories.is_empty() {
            resource["categories"] = json!(info.categories);
        }
        resources.push(resource);
        for (name, kind, verbs) in subresources(info) {
            let mut resource = json!({"name": format!("{}/{name}", info.plural), "singularName": "",
                "namespaced": info.namespaced, "kind": kind, "verbs": verbs});
            let (group, version) = group_of(info, kind);
            if (group, version) != (info.group, info.version) {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resources.push(resource);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    Json(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
        .into_response()
}

fn verbs(info: &Info) -> Vec<&'static str> {
    VERBS.into_iter().filter(|verb| *verb != "deletecollection" || info.deletes_collections()).collect()
}

#[cfg(test)]
mod tests {
    use super::priority;

    #[test]
    fn stable_versions_come_first_and_higher_before_lower() {
        let mut versions =
            ["foo1", "v3beta1", "v12alpha1", "v1", "v11beta2", "v10", "v2", "v10beta3", "v12alpha2", "v3beta2"];
        versions.sort_by_key(|version| std::cmp::Reverse(priority(version)));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v10beta3", "v3beta2", "v3beta1", "v12alpha2", "v12alpha1", "foo1"]
        );
    }
}
