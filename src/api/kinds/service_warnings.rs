//! What the writer of a Service should know (rule SV14).

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::service_validation::{TOPOLOGY_AWARE_HINTS, TOPOLOGY_MODE};

/// The warnings about a Service as it was sent.
pub(super) fn of(service: &Value) -> Vec<String> {
    let spec = &service["spec"];
    let text = |field: &str| spec[field].as_str().unwrap_or_default();
    let all = |field: &'static str| spec[field].as_array().into_iter().flatten().filter_map(Value::as_str).enumerate();
    let external_ips = all("externalIPs").next().is_some();
    let external_name = text("type") == "ExternalName";
    let mut warnings = Vec::new();
    let mut warn = |condition: bool, text: String| warnings.extend(condition.then_some(text));

    let former = service["metadata"]["annotations"].get(TOPOLOGY_AWARE_HINTS).is_some();
    warn(former, format!("annotation {TOPOLOGY_AWARE_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"));
    if text("clusterIP") == "None" {
        warn(!text("loadBalancerIP").is_empty(), "spec.loadBalancerIP is ignored for headless services".to_owned());
        warn(external_ips, "spec.externalIPs is ignored for headless services".to_owned());
        let affinity = !["", "None"].contains(&text("sessionAffinity"));
        warn(affinity, "spec.SessionAffinity is ignored for headless services".to_owned());
    }
    for field in ["clusterIPs", "externalIPs"] {
        for (i, ip) in all(field) {
            not_canonical(&format!("spec.{field}[{i}]"), ip).into_iter().for_each(|text| warn(true, text));
        }
    }
    not_canonical("spec.loadBalancerIP", text("loadBalancerIP")).into_iter().for_each(|text| warn(true, text));
    for (i, range) in all("loadBalancerSourceRanges") {
        let canonical = range.trim().parse::<IpNet>().map(|net| net.to_string()).unwrap_or_default();
        let odd = canonical.contains(':') && canonical != range.trim();
        let field = format!("spec.loadBalancerSourceRanges[{i}]");
        let format = format!("should be in RFC 5952 canonical format ({canonical:?})");
        warn(odd, format!("{field}: IPv6 CIDR value {range:?} {format}"));
    }
    warn(external_ips, "spec.externalIPs is deprecated".to_owned());
    let ignored = external_ips && external_name;
    warn(ignored, r#"spec.externalIPs is ignored when spec.type is "ExternalName""#.to_owned());
    let ignored = !text("externalName").is_empty() && !external_name;
    warn(ignored, r#"spec.externalName is ignored when spec.type is not "ExternalName""#.to_owned());
    let close = text("trafficDistribution") == "PreferClose";
    warn(close, r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#.to_owned());
    warnings
}

fn not_canonical(field: &str, text: &str) -> Option<String> {
    let IpAddr::V6(ip) = text.parse().ok()? else { return None };
    let canonical = ip.to_string();
    (canonical != text)
        .then(|| format!("{field}: IPv6 address {text:?} should be in RFC 5952 canonical format ({canonical:?})"))
}
