//! The specification of a Pod, alone or as a workload's template: defaults (PD1-PD3) and rules.
//!
//! The order of the checks is that of `ValidatePodSpec` in `k8s.io/kubernetes/pkg/apis/core/validation`, because the
//! message of a refusal lists the causes in that order.

mod containers;
mod defaults;
pub(super) mod diff;
mod env;
mod ephemeral;
mod probes;
mod resources;
mod scheduling;
mod security;
#[cfg(test)]
mod tests;
mod update;
mod volumes;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use super::checks::{check_ip, text};
use crate::api::causes::Causes;
use crate::api::names::{NameRule, check_labels, label_errors, qualified_name_errors, subdomain_errors};

pub(super) use defaults::{default_pod, default_spec};
pub(super) use ephemeral::check_ephemeral_update;
pub(super) use scheduling::{add_own_labels, check_tolerations};
pub(super) use update::{check_resize, check_update};

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// Where a specification stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Pod,
    Template,
}

/// Checks `spec`, which stands at the path `at`.
pub(super) fn check(spec: &PodSpec, at: &str, place: Place, causes: &mut Causes) {
    let volumes = volumes::check(spec.volumes.as_deref().unwrap_or_default(), &format!("{at}.volumes"), causes);
    containers::check(spec, &volumes, at, causes);
    resources::check_pod_level(spec, at, causes);
    containers::check_host_ports(spec, at, place, causes);
    causes.one_of(&format!("{at}.restartPolicy"), spec.restart_policy.as_ref(), &["Always", "OnFailure", "Never"]);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    causes.one_of(&format!("{at}.dnsPolicy"), spec.dns_policy.as_ref(), policies);
    if let Some(labels) = &spec.node_selector {
        check_labels(causes, &format!("{at}.nodeSelector"), labels);
    }
    security::check_pod(spec, at, causes);
    scheduling::check_affinity(spec.affinity.as_ref(), &format!("{at}.affinity"), causes);
    check_dns_config(spec.dns_config.as_ref(), text(&spec.dns_policy), &format!("{at}.dnsConfig"), causes);
    for (i, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let kind = gate.condition_type.as_str();
        causes.all(&format!("{at}.readinessGates[{i}].conditionType"), kind, qualified_name_errors(kind));
    }
    scheduling::check_gates(spec, at, causes);
    scheduling::check_spread(spec, at, causes);
    security::check_host_users(spec, at, causes);
    check_names(spec, at, causes);
    if let Some(seconds) = spec.active_deadline_seconds
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        causes.invalid(format!("{at}.activeDeadlineSeconds"), seconds, detail);
    }
    for (field, name) in [("hostname", &spec.hostname), ("subdomain", &spec.subdomain)] {
        if !text(name).is_empty() {
            causes.all(&format!("{at}.{field}"), text(name), label_errors(text(name)));
        }
    }
    check_tolerations(spec.tolerations.as_deref().unwrap_or_default(), &format!("{at}.tolerations"), causes);
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        check_ip(causes, &format!("{at}.hostAliases[{i}].ip"), &alias.ip);
        for (j, name) in alias.hostnames.iter().flatten().enumerate() {
            causes.all(&format!("{at}.hostAliases[{i}].hostnames[{j}]"), name, subdomain_errors(name));
        }
    }
    check_classes(spec, at, causes);
}

fn check_names(spec: &PodSpec, at: &str, causes: &mut Causes) {
    for (field, name) in [("serviceAccountName", &spec.service_account_name), ("nodeName", &spec.node_name)] {
        if !text(name).is_empty() {
            causes.all(&format!("{at}.{field}"), text(name), NameRule::Subdomain.errors(text(name)));
        }
    }
}

fn check_classes(spec: &PodSpec, at: &str, causes: &mut Causes) {
    let classes = [("priorityClassName", &spec.priority_class_name), ("runtimeClassName", &spec.runtime_class_name)];
    for (field, name) in classes {
        if !text(name).is_empty() {
            causes.all(&format!("{at}.{field}"), text(name), subdomain_errors(text(name)));
        }
    }
    let preemption = &["PreemptLowerPriority", "Never"];
    causes.one_of(&format!("{at}.preemptionPolicy"), spec.preemption_policy.as_ref(), preemption);
    if let Some(overhead) = &spec.overhead {
        resources::check_amounts(overhead, &format!("{at}.overhead.limits"), causes);
    }
    if let Some(os) = &spec.os {
        match os.name.as_str() {
            "" => causes.required(format!("{at}.os.name"), "cannot be empty"),
            name => causes.one_of(&format!("{at}.os"), Some(&name.to_owned()), &["linux", "windows"]),
        }
    }
}

fn check_dns_config(config: Option<&PodDNSConfig>, policy: &str, at: &str, causes: &mut Causes) {
    let Some(config) = config else {
        if policy == "None" {
            causes.required(at, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        return;
    };
    let servers = config.nameservers.as_deref().unwrap_or_default();
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.required(format!("{at}.nameservers"), detail);
        return;
    }
    if servers.len() > MAX_NAMESERVERS {
        let detail = format!("must not have more than {MAX_NAMESERVERS} nameservers");
        causes.invalid(format!("{at}.nameservers"), servers.to_vec(), detail);
    }
    for (i, server) in servers.iter().enumerate() {
        check_ip(causes, &format!("{at}.nameservers[{i}]"), server);
    }
    let searches = config.searches.as_deref().unwrap_or_default();
    let field = format!("{at}.searches");
    if searches.len() > MAX_SEARCHES {
        causes.invalid(&field, searches.to_vec(), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if searches.join(" ").len() > MAX_SEARCH_CHARACTERS {
        let detail =
            format!("must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list");
        causes.invalid(&field, searches.to_vec(), detail);
    }
    for (i, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        let name = search.strip_suffix('.').unwrap_or(search);
        // Underscores are fine here: names of SRV records have them.
        if !subdomain_errors(&name.replace('_', "x")).is_empty() {
            causes.all(&format!("{field}[{i}]"), name, subdomain_errors(name));
        }
    }
    for (i, option) in config.options.iter().flatten().enumerate() {
        if text(&option.name).is_empty() {
            causes.required(format!("{at}.options[{i}]"), "must not be empty");
        }
    }
}
