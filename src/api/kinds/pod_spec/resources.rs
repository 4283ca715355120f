//! What containers ask for and may use at most.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::checks::NEGATIVE;
use super::super::quantity;
use crate::api::causes::Causes;
use crate::api::names::qualified_name_errors;

type Amounts = BTreeMap<String, Quantity>;

const STANDARD: &[&str] = &["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";

fn nano(quantity: &Quantity) -> i128 {
    quantity::parse(&quantity.0).map_or(0, |amount| amount.nano)
}

/// Whether requests may add up to more than there is: not of huge pages and of what vendors define.
fn may_overcommit(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    native && !name.starts_with(HUGE_PAGES)
}

pub(super) fn check(requirements: &ResourceRequirements, at: &str, causes: &mut Causes) {
    let none = Amounts::new();
    let limits = requirements.limits.as_ref().unwrap_or(&none);
    let requests = requirements.requests.as_ref().unwrap_or(&none);
    check_amounts(limits, &format!("{at}.limits"), causes);
    let field = format!("{at}.requests");
    for (name, request) in requests {
        check_amount(name, request, &format!("{field}[{name}]"), causes);
        match limits.get(name) {
            Some(limit) if nano(request) != nano(limit) && !may_overcommit(name) => {
                let detail = format!("must be equal to {name} limit of {}", limit.0);
                causes.invalid(&field, request.0.as_str(), detail);
            }
            Some(limit) if nano(request) > nano(limit) => {
                let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
                causes.invalid(&field, request.0.as_str(), detail);
            }
            None if !may_overcommit(name) => {
                causes.required(format!("{at}.limits"), "Limit must be set for non overcommitable resources");
            }
            _ => {}
        }
    }
    let has = |test: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|name| test(name));
    if has(|name| name.starts_with(HUGE_PAGES)) && !has(|name| name == "cpu" || name == "memory") {
        causes.forbidden(at, "HugePages require cpu or memory");
    }
}

pub(super) fn check_amounts(amounts: &Amounts, at: &str, causes: &mut Causes) {
    for (name, amount) in amounts {
        check_amount(name, amount, &format!("{at}[{name}]"), causes);
    }
}

fn check_amount(name: &str, amount: &Quantity, field: &str, causes: &mut Causes) {
    causes.all(field, name, qualified_name_errors(name));
    let standard = STANDARD.contains(&name) || name.starts_with(HUGE_PAGES);
    if !name.contains('/') && !standard {
        causes.invalid(field, name, "must be a standard resource type or fully qualified");
        causes.invalid(field, name, "must be a standard resource for containers");
    }
    let Some(parsed) = quantity::parse(&amount.0) else {
        causes.invalid(field, amount.0.as_str(), quantity::SYNTAX);
        return;
    };
    if parsed.nano < 0 {
        causes.invalid(field, amount.0.as_str(), NEGATIVE);
    }
    // What vendors define is counted in whole pieces.
    if !may_overcommit(name) && !name.starts_with(HUGE_PAGES) && parsed.nano % 1_000_000_000 != 0 {
        causes.invalid(field, amount.0.as_str(), "must be an integer");
    }
}

/// The Pod's own requests cover those of its containers, and no container's limit exceeds the Pod's.
pub(super) fn check_pod_level(spec: &PodSpec, at: &str, causes: &mut Causes) {
    let Some(resources) = &spec.resources else { return };
    let at = format!("{at}.resources");
    if resources.claims.is_some() {
        causes.forbidden(format!("{at}.claims"), "claims cannot be set for Resources at pod-level");
    }
    check(resources, &at, causes);
    let none = Amounts::new();
    let (requests, limits) = (resources.requests.as_ref().unwrap_or(&none), resources.limits.as_ref().unwrap_or(&none));
    let mut sums: BTreeMap<&str, i128> = BTreeMap::new();
    for container in &spec.containers {
        for (name, amount) in container.resources.iter().flat_map(|r| r.requests.iter().flatten()) {
            *sums.entry(name).or_default() += nano(amount);
        }
    }
    for (name, sum) in sums {
        let own = requests.get(name);
        if sum > own.map_or(0, nano) {
            let total = quantity::format(sum);
            let detail = format!("must be greater than or equal to aggregate container requests of {total}");
            causes.invalid(format!("{at}.requests[{name}]"), own.map_or("0", |own| own.0.as_str()), detail);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (name, amount) in container.resources.iter().flat_map(|r| r.limits.iter().flatten()) {
            if let Some(limit) = limits.get(name).filter(|limit| nano(amount) > nano(limit)) {
                let detail = format!("must be less than or equal to pod limits of {}", limit.0);
                causes.invalid(format!("{at}.containers[{i}][{name}].limits"), amount.0.as_str(), detail);
            }
        }
    }
}

pub(super) fn check_resize_policy(container: &Container, pod_restart_policy: &str, at: &str, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (i, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !names.insert(policy.resource_name.as_str()) {
            causes.duplicate(format!("{at}[{i}]"), policy.resource_name.as_str());
        }
        causes.one_of(at, Some(&policy.resource_name), &["cpu", "memory"]);
        causes.one_of(at, Some(&policy.restart_policy), &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            causes.invalid(at, policy.restart_policy.as_str(), detail);
        }
    }
}
