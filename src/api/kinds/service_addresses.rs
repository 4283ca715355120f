//! A Service's IP families and addresses (CF1-CF15) and its node ports (B4-B8).

use std::net::IpAddr;

use k8s_openapi::api::core::v1::ServiceSpec;

use super::Context;
use super::checks::IP_HELP;
use super::service_validation::{is_headless, needs_health_check};
use crate::api::alloc::{AllocError, Item, Reservation};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv6() { "IPv6" } else { "IPv4" }
}

fn other(family: &str) -> &'static str {
    if family == "IPv4" { "IPv6" } else { "IPv4" }
}

/// Fills in `ipFamilies`, `ipFamilyPolicy` and the agreement of `clusterIP` with `clusterIPs`, and checks them.
pub(super) fn settle_families(_: &Context, spec: &mut ServiceSpec, old: Option<&ServiceSpec>, causes: &mut Causes) {
    if spec.type_.as_deref() == Some("ExternalName") {
        // Rules CF1 and CF12: clearing clusterIP clears all.
        if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        } else if spec.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            // Rules CF6 and SV5: it is an address, which is refused later on.
            spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
        }
        return;
    }
    let old = old.filter(|old| old.type_.as_deref() != Some("ExternalName"));
    keep_or_follow(spec, old);
    agree(spec, causes);
    let ips = spec.cluster_ips.clone().unwrap_or_default();
    let headless = is_headless(spec);
    check_ips(&ips, headless, causes);
    let no_selector = spec.selector.as_ref().is_none_or(|selector| selector.is_empty());

    let mut families = spec.ip_families.clone().unwrap_or_default();
    for (i, family) in families.iter().enumerate() {
        if family != "IPv4" && family != "IPv6" {
            causes.unsupported(format!("spec.ipFamilies[{i}]"), family.as_str(), &["IPv4", "IPv6"]);
        } else if families[..i].contains(family) {
            causes.duplicate(format!("spec.ipFamilies[{i}]"), family.as_str());
        }
    }
    let policies = &["SingleStack", "PreferDualStack", "RequireDualStack"];
    causes.one_of("spec.ipFamilyPolicy", spec.ip_family_policy.as_ref(), policies);
    if !causes.is_empty() {
        return;
    }
    if !headless {
        for (i, ip) in ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()).enumerate() {
            match families.get(i) {
                None => families.push(family_of(ip).into()),
                Some(family) if family != family_of(ip) => {
                    let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                    causes.invalid(format!("spec.clusterIPs[{i}]"), ip.to_string(), detail);
                }
                Some(_) => {}
            }
        }
    }
    let policy = spec.ip_family_policy.clone().unwrap_or_else(|| {
        // Rule CF2.
        if families.len() > 1 && (ips.len() > 1 || spec.ip_families.as_ref().is_some_and(|f| f.len() > 1)) {
            String::new()
        } else if headless && no_selector {
            "RequireDualStack".into()
        } else {
            "SingleStack".into()
        }
    });
    // Rule CF8.
    if (policy.is_empty() || policy == "SingleStack") && families.len() > 1 {
        release_second_or_refuse(spec, old, &mut families, policy.is_empty(), causes);
        if !causes.is_empty() {
            return;
        }
    }
    if families.is_empty() {
        families.push("IPv4".into());
    }
    if policy != "SingleStack" && families.len() == 1 {
        let second = other(&families[0]);
        families.push(second.into());
    }
    if let Some(old) = old {
        check_primary(spec, old, &families, headless, causes);
    }
    spec.ip_families = Some(families);
    spec.ip_family_policy = Some(if policy.is_empty() { "SingleStack".into() } else { policy });
}

/// Rule CF12: an update that leaves addresses and families empty keeps the old ones.
fn keep_or_follow(spec: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let Some(old) = old else { return };
    let empty = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if spec.cluster_ip.as_deref().unwrap_or_default().is_empty() && empty(&spec.cluster_ips) {
        spec.cluster_ip = old.cluster_ip.clone();
        spec.cluster_ips = old.cluster_ips.clone();
    } else if spec.cluster_ip != old.cluster_ip && spec.cluster_ips == old.cluster_ips {
        // A client that knows only clusterIP changed it: clusterIPs follows.
        spec.cluster_ips = None;
    }
    if empty(&spec.ip_families) {
        spec.ip_families = old.ip_families.clone();
    }
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy = old.ip_family_policy.clone();
    }
}

/// Rule CF6.
fn agree(spec: &mut ServiceSpec, causes: &mut Causes) {
    let single = spec.cluster_ip.clone().unwrap_or_default();
    let list = spec.cluster_ips.clone().unwrap_or_default();
    match (single.as_str(), list.first()) {
        ("", None) => {
            spec.cluster_ip = None;
            spec.cluster_ips = None;
        }
        ("", Some(_)) => causes.invalid("spec.clusterIPs", list, "must be empty when `clusterIP` is not specified"),
        (ip, None) => spec.cluster_ips = Some(vec![ip.to_owned()]),
        (ip, Some(first)) if ip != first => {
            causes.invalid("spec.clusterIP", ip, "must match `clusterIPs[0]` when both are specified");
        }
        _ => {}
    }
}

/// Rule CF7.
fn check_ips(ips: &[String], headless: bool, causes: &mut Causes) {
    if ips.len() > 2 {
        causes.invalid("spec.clusterIPs", ips.to_vec(), "may only hold up to 2 values");
    }
    let mut families = Vec::new();
    for (i, text) in ips.iter().enumerate() {
        let field = format!("spec.clusterIPs[{i}]");
        match text.parse::<IpAddr>() {
            _ if text == "None" && i == 0 && ips.len() == 1 => {}
            _ if headless || text == "None" => {
                causes.invalid("spec.clusterIPs", ips.to_vec(), "'None' must be the first and only value");
                return;
            }
            Err(_) => causes.invalid(field, text.as_str(), IP_HELP),
            Ok(ip) if families.contains(&family_of(ip)) => {
                let detail = "may specify no more than one IP for each IP family";
                causes.invalid("spec.clusterIPs", ips.to_vec(), detail);
            }
            Ok(ip) => families.push(family_of(ip)),
        }
    }
}

/// Rules CF8 and CF10: SingleStack with two of everything drops the second when the lists are as they were,
/// and is refused otherwise.
fn release_second_or_refuse(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    families: &mut Vec<String>,
    no_policy: bool,
    causes: &mut Causes,
) {
    let unchanged = old.is_some_and(|old| old.ip_families == spec.ip_families && old.cluster_ips == spec.cluster_ips);
    if unchanged && !no_policy {
        families.truncate(1);
        if let Some(ips) = &mut spec.cluster_ips {
            ips.truncate(1);
        }
        return;
    }
    let policy = spec.ip_family_policy.clone().unwrap_or_default();
    let field = if spec.cluster_ips.as_ref().is_some_and(|ips| ips.len() > 1) { "clusterIPs" } else { "ipFamilies" };
    let detail = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple '{field}' are specified");
    causes.invalid("spec.ipFamilyPolicy", policy, detail);
}

/// Rules CF10 and CF11: the primary address and family stay; the secondary goes only with SingleStack.
fn check_primary(spec: &mut ServiceSpec, old: &ServiceSpec, families: &[String], headless: bool, causes: &mut Causes) {
    let first = |list: &Option<Vec<String>>| list.as_ref().and_then(|list| list.first().cloned());
    let new_ips = spec.cluster_ips.clone().unwrap_or_default();
    let old_ips = old.cluster_ips.clone().unwrap_or_default();
    if first(&spec.cluster_ips) != first(&old.cluster_ips) {
        causes.invalid("spec.clusterIPs[0]", new_ips, "may not change once set");
        return;
    }
    if headless {
        return;
    }
    if families.first() != first(&old.ip_families).as_ref() {
        causes.invalid("spec.ipFamilies[0]", families.to_vec(), "may not change once set");
    }
    let single = spec.ip_family_policy.as_deref() == Some("SingleStack");
    if old_ips.len() > 1 && !single {
        match new_ips.get(1) {
            // Only the primary was sent: the secondary stays.
            None if families.len() > 1 => spec.cluster_ips = Some(old_ips),
            None => {
                let detail = "must be 'SingleStack' to release the secondary cluster IP";
                causes.invalid("spec.ipFamilyPolicy", spec.ip_family_policy.clone().unwrap_or_default(), detail);
            }
            Some(second) if *second != old_ips[1] => {
                causes.invalid("spec.clusterIPs[1]", new_ips, "may not change once set");
            }
            Some(_) => {}
        }
    }
}

/// Everything that a stored Service holds.
pub(crate) fn held(spec: &ServiceSpec) -> Vec<Item> {
    let addresses = spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).map(Item::Address);
    let ports = spec.ports.iter().flatten().filter_map(|port| port.node_port).chain(spec.health_check_node_port);
    let ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port != 0).map(Item::NodePort);
    addresses.chain(ports).collect()
}

/// Takes what the new spec needs and the old one did not have, and gives back the rest when the write is committed.
pub(super) fn reserve(
    ctx: &Context,
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    causes: &mut Causes,
) -> Result<Reservation, ApiError> {
    let mut reservation = Reservation::new(&ctx.allocators);
    let before: Vec<Item> = old.map(held).unwrap_or_default();
    reserve_addresses(ctx, spec, &before, &mut reservation, causes)?;
    reserve_ports(spec, old, &before, &mut reservation, causes)?;
    let after = held(spec);
    for item in before.into_iter().filter(|item| !after.contains(item)) {
        reservation.release(item);
    }
    Ok(reservation)
}

fn reserve_addresses(
    ctx: &Context,
    spec: &mut ServiceSpec,
    before: &[Item],
    reservation: &mut Reservation,
    causes: &mut Causes,
) -> Result<(), ApiError> {
    if spec.type_.as_deref() == Some("ExternalName") || is_headless(spec) {
        return Ok(());
    }
    let families = spec.ip_families.clone().unwrap_or_default();
    let further = super::service_cidr::further(&ctx.store)?;
    let mut ips = spec.cluster_ips.clone().unwrap_or_default();
    for (i, family) in families.iter().enumerate() {
        match ips.get(i).and_then(|ip| ip.parse::<IpAddr>().ok()) {
            Some(ip) if before.contains(&Item::Address(ip)) => {}
            Some(ip) => {
                if let Err(e) = reservation.exact_address(ip, &further) {
                    // Rule CF15.
                    let asked = spec.cluster_ips.clone().unwrap_or_default();
                    causes.invalid("spec.clusterIPs", asked, format!("failed to allocate IP {ip}: {e}"));
                }
            }
            None => {
                let ip = reservation.address(family == "IPv6", &further).map_err(|e| {
                    ApiError::internal(format!(
                        "failed to allocate a serviceIP: {e}; delete a Service or start with a larger --service-cidr"
                    ))
                })?;
                ips.push(ip.to_string());
            }
        }
    }
    spec.cluster_ip = ips.first().cloned();
    spec.cluster_ips = Some(ips);
    Ok(())
}

fn reserve_ports(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    before: &[Item],
    reservation: &mut Reservation,
    causes: &mut Causes,
) -> Result<(), ApiError> {
    let kind = spec.type_.clone().unwrap_or_default();
    if kind != "NodePort" && kind != "LoadBalancer" {
        return Ok(());
    }
    let wanted = kind == "NodePort" || spec.allocate_load_balancer_node_ports != Some(false);
    let health = needs_health_check(spec);
    let ports = spec.ports.get_or_insert_default();
    // Rule B6: a port that comes without its node port keeps the one it had, by name.
    for port in ports.iter_mut().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let same = old.into_iter().flat_map(|old| old.ports.iter().flatten()).find(|was| was.name == port.name);
        port.node_port = same.and_then(|was| was.node_port).filter(|n| *n != 0);
    }
    for (i, port) in ports.iter().enumerate() {
        let Some(node_port) = port.node_port else { continue };
        let known =
            u16::try_from(node_port).is_ok_and(|n| before.contains(&Item::NodePort(n)) || reservation.has_port(n));
        if !known && let Err(e) = reservation.exact_port(node_port) {
            causes.invalid(format!("spec.ports[{i}].nodePort"), node_port, e);
        }
    }
    if wanted {
        for i in 0..ports.len() {
            if ports[i].node_port.is_some() {
                continue;
            }
            // Rule B5: ports of one number (TCP and UDP) share their node port.
            let twin =
                ports.iter().find(|p| p.port == ports[i].port && p.node_port.is_some()).and_then(|p| p.node_port);
            ports[i].node_port = Some(match twin {
                Some(node_port) => node_port,
                None => reservation.port().map_err(full)?.into(),
            });
        }
    }
    if health {
        let kept = spec.health_check_node_port.or(old.and_then(|old| old.health_check_node_port)).filter(|n| *n != 0);
        let port = match kept {
            Some(port) => {
                let known = u16::try_from(port).is_ok_and(|n| before.contains(&Item::NodePort(n)));
                if !known && let Err(e) = reservation.exact_port(port) {
                    // Rule B8: a taken health check port is an internal error in the reference.
                    return Err(ApiError::internal(format!(
                        "failed to allocate requested HealthCheck NodePort {port}: {e}"
                    )));
                }
                port
            }
            None => reservation.port().map_err(full)?.into(),
        };
        spec.health_check_node_port = Some(port);
    }
    Ok(())
}

fn full(e: AllocError) -> ApiError {
    ApiError::internal(format!("failed to allocate a nodePort: {e}; delete a Service of type NodePort or LoadBalancer"))
}
