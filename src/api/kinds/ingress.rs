//! Ingress (networking.k8s.io/v1): rules IG1-IG3. No controller of ours serves it.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::TypedLocalObjectReference;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressClass, IngressLoadBalancerStatus, IngressSpec, IngressStatus,
};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_ip, text};
use super::ingress_class;
use super::service_validation::check_port_number;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::names::{NameRule, label_errors, port_name_errors, subdomain_errors, wildcard_errors};
use crate::api::status::ApiError;
use crate::store::Scope;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const ABSOLUTE: &str = "must be an absolute path";
const NO_IP: &str = "must be a DNS name, not an IP address";
/// How wide the Address column is without `-o wide`.
const ADDRESS_WIDTH: usize = 16;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Ingress;
    const INFO: Info = Info {
        group: "networking.k8s.io",
        kind: "Ingress",
        plural: "ingresses",
        singular: "ingress",
        short_names: &["ing"],
        status: true,
        generation: true,
        create_on_update: true,
        columns: &[
            NAME,
            column("Class", "The name of the IngressClass resource that should be used for additional configuration"),
            column("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
            column("Address", "Address is a list containing ingress points for the load-balancer"),
            column("Ports", "Ports of TLS configurations that open"),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut Ingress) {
        let status = object.status.get_or_insert_with(IngressStatus::default);
        status.load_balancer.get_or_insert_with(IngressLoadBalancerStatus::default);
    }

    fn create(ctx: &Context, object: &mut Ingress, causes: &mut Causes) -> Result<(), ApiError> {
        let status = IngressStatus { load_balancer: Some(IngressLoadBalancerStatus::default()) };
        object.status = Some(status);
        admit_class(ctx, object)?;
        let spec = object.spec.get_or_insert_default();
        check(spec, causes);
        let annotated = object.metadata.annotations.as_ref().and_then(|all| all.get(CLASS_ANNOTATION));
        if let (Some(annotated), Some(class)) = (annotated, &spec.ingress_class_name)
            && annotated != class
        {
            let detail = "must match `ingressClassName` when both are specified";
            causes.invalid(format!("annotations.{CLASS_ANNOTATION}"), annotated.as_str(), detail);
        }
        Ok(())
    }

    fn update(_: &Context, new: &mut Ingress, _: &Ingress, part: Part, causes: &mut Causes) {
        if part == Part::Status {
            check_status(new.status.as_ref(), causes);
        } else {
            check(new.spec.get_or_insert_default(), causes);
        }
    }

    fn cells(object: &Ingress, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let ports = if spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()) { "80, 443" } else { "80" };
        vec![
            name_cell(object),
            spec.ingress_class_name.clone().unwrap_or_else(|| "<none>".into()).into(),
            hosts(&spec).into(),
            addresses(object).into(),
            ports.into(),
            age_cell(object, now),
        ]
    }
}

/// Rule IG1: an Ingress without a class gets the default one, the newest of several, then the first by name.
fn admit_class(ctx: &Context, object: &mut Ingress) -> Result<(), ApiError> {
    let annotated = object.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(CLASS_ANNOTATION));
    let spec = object.spec.get_or_insert_default();
    if spec.ingress_class_name.is_some() || annotated {
        return Ok(());
    }
    let entries = ctx.store.list(&Scope::all("ingressclasses.networking.k8s.io")).items;
    let classes = entries.iter().map(|entry| serde_json::from_slice::<IngressClass>(&entry.value));
    let classes = classes.collect::<Result<Vec<_>, _>>().map_err(ApiError::internal)?;
    // Entries come in the order of their names, and the first of equals is kept.
    let created = |class: &IngressClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let newest =
        classes.iter().filter(|class| ingress_class::is_default(class)).rev().max_by_key(|class| created(class));
    spec.ingress_class_name = newest.and_then(|class| class.metadata.name.clone());
    Ok(())
}

fn hosts(spec: &IngressSpec) -> String {
    let hosts: Vec<&str> = spec.rules.iter().flatten().map(|rule| text(&rule.host)).filter(|h| !h.is_empty()).collect();
    match hosts.as_slice() {
        [] => "*".into(),
        [a, b, c, rest @ ..] if !rest.is_empty() => format!("{a},{b},{c} + {} more...", rest.len()),
        hosts => hosts.join(","),
    }
}

fn addresses(object: &Ingress) -> String {
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let entries = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let name = |ip: &Option<String>, host: &Option<String>| {
        if text(ip).is_empty() { text(host).to_owned() } else { text(ip).to_owned() }
    };
    let mut all: Vec<String> =
        entries.iter().map(|entry| name(&entry.ip, &entry.hostname)).filter(|n| !n.is_empty()).collect();
    all.sort();
    all.dedup();
    let joined = all.join(",");
    if joined.chars().count() <= ADDRESS_WIDTH {
        return joined;
    }
    let kept: String = joined.chars().take(ADDRESS_WIDTH - 3).collect();
    format!("{kept}...")
}

fn check(spec: &IngressSpec, causes: &mut Causes) {
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        causes.invalid("spec", Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = &spec.default_backend {
        check_backend(backend, "spec.defaultBackend", causes);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = format!("spec.rules[{i}]");
        let host = text(&rule.host);
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                causes.invalid(format!("{at}.host"), host, NO_IP);
            }
            causes.all(&format!("{at}.host"), host, host_errors(host));
        }
        let Some(http) = &rule.http else { continue };
        if http.paths.is_empty() {
            causes.required(format!("{at}.http.paths"), "");
        }
        for (j, path) in http.paths.iter().enumerate() {
            check_path(path, &format!("{at}.http.paths[{j}]"), causes);
        }
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            causes.all(&format!("spec.tls[{i}].hosts[{j}]"), host, host_errors(host));
        }
        let secret = text(&tls.secret_name);
        if !secret.is_empty() {
            causes.all(&format!("spec.tls[{i}].secretName"), secret, subdomain_errors(secret));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        causes.all("spec.ingressClassName", class, subdomain_errors(class));
    }
}

fn host_errors(host: &str) -> Vec<String> {
    if host.contains('*') { wildcard_errors(host) } else { subdomain_errors(host) }
}

/// Rule IG3.
fn check_path(path: &HTTPIngressPath, at: &str, causes: &mut Causes) {
    let field = format!("{at}.path");
    let value = text(&path.path);
    match path.path_type.as_str() {
        "" => {
            causes.required(format!("{at}.pathType"), "pathType must be specified");
            return;
        }
        "Exact" | "Prefix" => {
            if !value.starts_with('/') {
                causes.invalid(&field, value, ABSOLUTE);
            }
            for sequence in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| value.contains(part)) {
                causes.invalid(&field, value, format!("must not contain '{sequence}'"));
            }
            for suffix in ["/..", "/."].into_iter().filter(|suffix| value.ends_with(suffix)) {
                causes.invalid(&field, value, format!("cannot end with '{suffix}'"));
            }
        }
        "ImplementationSpecific" if !value.is_empty() && !value.starts_with('/') => {
            causes.invalid(&field, value, ABSOLUTE);
        }
        "ImplementationSpecific" => {}
        other => {
            let types = &["Exact", "ImplementationSpecific", "Prefix"];
            causes.unsupported(format!("{at}.pathType"), other, types);
        }
    }
    check_backend(&path.backend, &format!("{at}.backend"), causes);
}

fn check_backend(backend: &IngressBackend, at: &str, causes: &mut Causes) {
    match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => causes.invalid(at, "", "cannot set both resource and service backends"),
        (Some(resource), None) => check_reference(resource, &format!("{at}.resource"), causes),
        (None, None) => causes.invalid(at, "", "resource or service backend is required"),
        (None, Some(service)) => {
            let field = format!("{at}.service");
            if service.name.is_empty() {
                causes.required(format!("{field}.name"), "");
            } else {
                causes.all(&format!("{field}.name"), &service.name, label_errors(&service.name));
            }
            let port = service.port.clone().unwrap_or_default();
            match (text(&port.name), port.number.unwrap_or(0)) {
                ("", 0) => causes.required(at, "port name or number is required"),
                ("", number) => check_port_number(causes, &format!("{field}.port.number"), number),
                (name, 0) => causes.all(&format!("{field}.port.name"), name, port_name_errors(name)),
                _ => causes.invalid(at, "", "cannot set both port name & port number"),
            }
        }
    }
}

fn check_reference(reference: &TypedLocalObjectReference, at: &str, causes: &mut Causes) {
    if let Some(group) = &reference.api_group {
        causes.all(&format!("{at}.apiGroup"), group, subdomain_errors(group));
    }
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        if value.is_empty() {
            causes.required(format!("{at}.{field}"), "");
        } else {
            causes.all(&format!("{at}.{field}"), value, NameRule::PathSegment.errors(value));
        }
    }
}

fn check_status(status: Option<&IngressStatus>, causes: &mut Causes) {
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    for (i, entry) in balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten()).enumerate() {
        let at = format!("status.loadBalancer.ingress[{i}]");
        if !text(&entry.ip).is_empty() {
            check_ip(causes, &format!("{at}.ip"), text(&entry.ip));
        }
        let host = text(&entry.hostname);
        if !host.is_empty() {
            causes.all(&format!("{at}.hostname"), host, subdomain_errors(host));
            if host.parse::<IpAddr>().is_ok() {
                causes.invalid(format!("{at}.hostname"), host, NO_IP);
            }
        }
    }
}
