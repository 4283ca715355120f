//! The rules of a Service's spec (SV1-SV13) and of endpoint addresses (EA3, EP12).

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec, ServiceStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::checks::{IP_HELP, MAPPED, check_cidr, is_mapped};
use crate::api::causes::Causes;
use crate::api::names::{check_labels, label_errors, port_name_errors, subdomain_errors};

pub(super) const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// Its former name.
pub(super) const TOPOLOGY_AWARE_HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const PORT_HELP: &str = "must be between 1 and 65535, inclusive";

pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
        || spec.cluster_ips.as_deref().is_some_and(|ips| ips.first().is_some_and(|ip| ip == "None"))
}

/// Whether packets reach the Service by an address that is not its ClusterIP (rule X11).
pub(super) fn externally_accessible(spec: &ServiceSpec) -> bool {
    match spec.type_.as_deref() {
        Some("NodePort" | "LoadBalancer") => true,
        Some("ClusterIP") => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

/// Rule B8: only these Services have a health check port.
pub(super) fn needs_health_check(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local")
}

pub(super) fn check_port_number(causes: &mut Causes, field: &str, port: i32) {
    if !(1..=65535).contains(&port) {
        causes.invalid(field, port, PORT_HELP);
    }
}

/// Rules EA3 and EP12: an endpoint is a plain unicast address.
pub(super) fn check_endpoint_ip(causes: &mut Causes, field: &str, text: &str) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        causes.invalid(field, text, IP_HELP);
        return;
    };
    check_not_special(causes, field, text, ip);
}

fn check_not_special(causes: &mut Causes, field: &str, text: &str, ip: IpAddr) {
    if ip.is_unspecified() {
        causes.invalid(field, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        causes.invalid(field, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    let (link_local, multicast_local) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.segments()[0] & 0xff0f == 0xff02),
    };
    if link_local {
        causes.invalid(field, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast_local {
        causes.invalid(field, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

/// Checks a spec that has been defaulted and whose families are settled. What `old` has may stay in forms that are
/// refused by now (rule SV6).
pub(super) fn check(spec: &ServiceSpec, old: Option<&ServiceSpec>, causes: &mut Causes) {
    let kind = spec.type_.as_deref().unwrap_or_default();
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        causes.required("spec.ports", "");
    }
    check_type(spec, kind, causes);
    check_ports(spec, kind, ports, causes);
    if let Some(selector) = &spec.selector {
        check_labels(causes, "spec.selector", selector);
    }
    causes.one_of("spec.sessionAffinity", spec.session_affinity.as_ref(), &["ClientIP", "None"]);
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    if let Some(timeout) = client_ip.and_then(|config| config.timeout_seconds)
        && !(1..=86400).contains(&timeout)
    {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        causes.invalid(field, timeout, "must be greater than 0 and less than 86400");
    }
    for (i, text) in spec.external_ips.iter().flatten().enumerate() {
        let field = format!("spec.externalIPs[{i}]");
        let kept = || old.is_some_and(|old| old.external_ips.iter().flatten().any(|was| was == text));
        match text.parse::<IpAddr>() {
            Err(_) => causes.invalid(&field, text.as_str(), IP_HELP),
            Ok(ip) if is_mapped(ip) && !kept() => causes.invalid(&field, text.as_str(), MAPPED),
            Ok(ip) => check_not_special(causes, &field, text, ip),
        }
    }
    check_policies(spec, kind, causes);
    check_balancer_fields(spec, kind, old, causes);
}

/// Rule SV12.
pub(super) fn check_annotations(annotations: &BTreeMap<String, String>, causes: &mut Causes) {
    if let (Some(mode), Some(hints)) = (annotations.get(TOPOLOGY_MODE), annotations.get(TOPOLOGY_AWARE_HINTS))
        && mode != hints
    {
        let detail = format!("must match annotations[{TOPOLOGY_AWARE_HINTS}] when both are specified");
        causes.invalid(format!("metadata.annotations[{TOPOLOGY_MODE}]"), mode.as_str(), detail);
    }
}

fn check_type(spec: &ServiceSpec, kind: &str, causes: &mut Causes) {
    match kind {
        "ExternalName" => {
            // Rule SV5.
            if spec.cluster_ips.as_ref().is_some_and(|ips| !ips.is_empty()) {
                causes.forbidden("spec.clusterIPs", "may not be set for ExternalName services");
            }
            if spec.ip_families.as_ref().is_some_and(|families| !families.is_empty()) {
                causes.forbidden("spec.ipFamilies", "may not be set for ExternalName services");
            }
            if spec.ip_family_policy.is_some() {
                causes.forbidden("spec.ipFamilyPolicy", "may not be set for ExternalName services");
            }
            // RFC 1035: a trailing dot says that the name is complete.
            let name = spec.external_name.as_deref().unwrap_or_default();
            match name.strip_suffix('.').unwrap_or(name) {
                "" => causes.required("spec.externalName", ""),
                bare => subdomain_errors(bare).into_iter().for_each(|e| causes.invalid("spec.externalName", bare, e)),
            }
        }
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            causes.invalid("spec.clusterIPs[0]", "None", detail);
        }
        "ClusterIP" | "LoadBalancer" | "NodePort" => {}
        other => causes.unsupported("spec.type", other, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]),
    }
}

fn check_ports(spec: &ServiceSpec, kind: &str, ports: &[ServicePort], causes: &mut Causes) {
    let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
    for (i, port) in ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        match port.name.as_deref().unwrap_or_default() {
            "" if ports.len() > 1 => causes.required(format!("{field}.name"), ""),
            "" => {}
            name => {
                label_errors(name).into_iter().for_each(|e| causes.invalid(format!("{field}.name"), name, e));
                if !names.insert(name) {
                    causes.duplicate(format!("{field}.name"), name);
                }
            }
        }
        check_port_number(causes, &format!("{field}.port"), port.port);
        causes.one_of(&format!("{field}.protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]);
        let target = format!("{field}.targetPort");
        match &port.target_port {
            Some(IntOrString::Int(number)) if !is_headless(spec) || *number != 0 => {
                check_port_number(causes, &target, *number);
            }
            Some(IntOrString::String(name)) => {
                port_name_errors(name).into_iter().for_each(|e| causes.invalid(&target, name.as_str(), e));
            }
            _ => {}
        }
        let protocol = port.protocol.as_deref().unwrap_or_default();
        if !numbers.insert((protocol, port.port)) {
            causes.duplicate(&field, serde_json::json!({"protocol": protocol, "port": port.port}));
        }
        if let Some(node_port) = port.node_port.filter(|n| *n != 0) {
            if kind == "ClusterIP" || kind == "ExternalName" {
                let detail = format!("may not be used when `type` is '{kind}'");
                causes.forbidden(format!("{field}.nodePort"), detail);
            } else if !node_ports.insert((protocol, node_port)) {
                causes.duplicate(format!("{field}.nodePort"), node_port);
            }
        }
    }
}

fn check_policies(spec: &ServiceSpec, kind: &str, causes: &mut Causes) {
    if let Some(policy) = &spec.external_traffic_policy {
        if !externally_accessible(spec) {
            let detail = "may only be set for externally-accessible services";
            causes.invalid("spec.externalTrafficPolicy", policy.as_str(), detail);
        } else {
            causes.one_of("spec.externalTrafficPolicy", Some(policy), &["Cluster", "Local"]);
        }
    }
    if kind != "ExternalName" {
        causes.one_of("spec.internalTrafficPolicy", spec.internal_traffic_policy.as_ref(), &["Cluster", "Local"]);
    }
    let distributions = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    causes.one_of("spec.trafficDistribution", spec.traffic_distribution.as_ref(), distributions);
    if let Some(port) = spec.health_check_node_port.filter(|port| *port != 0)
        && !needs_health_check(spec)
    {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        causes.invalid("spec.healthCheckNodePort", port, detail);
    }
}

fn check_balancer_fields(spec: &ServiceSpec, kind: &str, old: Option<&ServiceSpec>, causes: &mut Causes) {
    let balancer = kind == "LoadBalancer";
    for (i, range) in spec.load_balancer_source_ranges.iter().flatten().enumerate() {
        // Rule SV7: the path is spelled with a capital L.
        let field = format!("spec.LoadBalancerSourceRanges[{i}]");
        if !balancer {
            causes.forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'");
            break;
        }
        if !old.is_some_and(|old| old.load_balancer_source_ranges.iter().flatten().any(|was| was == range)) {
            check_cidr(causes, &field, range.trim(), false);
        }
    }
    if !balancer && spec.allocate_load_balancer_node_ports.is_some() {
        causes.forbidden("spec.allocateLoadBalancerNodePorts", "may only be used when `type` is 'LoadBalancer'");
    }
    if !balancer && spec.load_balancer_class.is_some() {
        causes.forbidden("spec.loadBalancerClass", "may only be used when `type` is 'LoadBalancer'");
    }
}

/// What may not change.
pub(super) fn check_update(new: &ServiceSpec, old: &ServiceSpec, causes: &mut Causes) {
    let balancer = |spec: &ServiceSpec| spec.type_.as_deref() == Some("LoadBalancer");
    if balancer(new) && balancer(old) && new.load_balancer_class != old.load_balancer_class {
        let value = new.load_balancer_class.clone().unwrap_or_default();
        causes.invalid("spec.loadBalancerClass", value, "may not change once set");
    }
    if needs_health_check(new) && needs_health_check(old) {
        let port = |spec: &ServiceSpec| spec.health_check_node_port.filter(|port| *port != 0);
        if let (Some(now), Some(was)) = (port(new), port(old))
            && now != was
        {
            causes.invalid("spec.healthCheckNodePort", now, "field is immutable");
        }
    }
}

/// Rule SV13.
pub(super) fn check_status(spec: &ServiceSpec, status: Option<&ServiceStatus>, causes: &mut Causes) {
    let ingress =
        status.and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_deref()).unwrap_or_default();
    if !ingress.is_empty() && spec.type_.as_deref() != Some("LoadBalancer") {
        causes.forbidden("status.loadBalancer.ingress", "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (i, entry) in ingress.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{i}]");
        if let Some(ip) = &entry.ip
            && ip.parse::<IpAddr>().is_err()
        {
            causes.invalid(format!("{field}.ip"), ip.as_str(), IP_HELP);
        }
        causes.one_of(&format!("{field}.ipMode"), entry.ip_mode.as_ref(), &["Proxy", "VIP"]);
        if entry.ip.is_none() && entry.ip_mode.is_some() {
            causes.forbidden(format!("{field}.ipMode"), "may not be set when `ip` is not set");
        }
        if let Some(name) = &entry.hostname {
            let field = format!("{field}.hostname");
            subdomain_errors(name).into_iter().for_each(|e| causes.invalid(&field, name.as_str(), e));
            if name.parse::<IpAddr>().is_ok() {
                causes.invalid(&field, name.as_str(), "must be a DNS name, not an IP address");
            }
        }
    }
}
