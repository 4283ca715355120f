//! Routes of the host's device to the ranges of ServiceCIDRs that come and go. A range that the host uses otherwise is
//! left to it, as the ranges of the flags are at the start.

use std::collections::BTreeSet;
use std::future::Future;
use std::io;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use tracing::{debug, info, warn};

use crate::cluster::{Change, Informer, service_ranges};
use crate::config::{Network, overlap};
use crate::netlink::{Netlink, networks_beside};

/// What is to change, and what cannot be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    remove: Vec<IpNet>,
    add: Vec<IpNet>,
    /// Ranges without a route, with what the host has there.
    refused: Vec<(IpNet, IpNet)>,
}

/// The step from the routes that are `set` to those for the ranges that are `wanted`; `own` have theirs from the start.
/// A route stays while it is wanted. The default route is never ours.
fn step(own: &[IpNet], wanted: &BTreeSet<IpNet>, set: &BTreeSet<IpNet>, taken: &[IpNet]) -> Step {
    let mut step = Step { remove: set.difference(wanted).copied().collect(), ..Step::default() };
    let more = wanted.difference(set).filter(|range| !own.iter().any(|own| own.contains(*range)));
    for range in more {
        let clash = taken.iter().find(|taken| overlap(taken, range));
        match clash.or(Some(range).filter(|range| range.prefix_len() == 0)) {
            Some(clash) => step.refused.push((*range, *clash)),
            None => step.add.push(*range),
        }
    }
    step
}

/// Keeps the routes of the device with this index in step until the cluster's writers are gone. The subscription begins
/// with the call, so that a mark set after it waits.
pub(super) fn follow(
    device: u32,
    network: &Network,
    cidrs: &Informer<ServiceCIDR>,
) -> impl Future<Output = ()> + use<> {
    let (mut changes, cidrs) = (cidrs.subscribe(), cidrs.clone());
    let own = network.ranges().map(|(_, range)| range);
    async move {
        let (mut set, mut told) = (BTreeSet::new(), BTreeSet::new());
        while let Some(change) = changes.recv().await {
            // Whatever came before a mark has its routes by then.
            if matches!(change, Change::Marked(_)) {
                continue;
            }
            let wanted = cidrs.list().iter().flat_map(|cidr| service_ranges(cidr)).collect();
            told.retain(|range| BTreeSet::contains(&wanted, range));
            if let Err(e) = take_step(device, &own, &wanted, &mut set, &mut told) {
                warn!(error = %e, "the host's routes to ServiceCIDRs cannot be read");
            }
        }
    }
}

/// Changes what there is to change. `told` are the ranges whose refusal has been logged.
fn take_step(
    device: u32,
    own: &[IpNet],
    wanted: &BTreeSet<IpNet>,
    set: &mut BTreeSet<IpNet>,
    told: &mut BTreeSet<IpNet>,
) -> io::Result<()> {
    let step = step(own, wanted, set, &networks_beside(Some(device))?);
    let mut netlink = Netlink::open()?;
    for range in step.remove {
        // Gone it may be already, by a hand of the host's.
        if let Err(e) = netlink.remove_route(device, range) {
            debug!(%range, error = %e, "route not removed");
        }
        set.remove(&range);
        info!(%range, "this host has no route to the range of a ServiceCIDR any longer");
    }
    for range in step.add {
        match netlink.add_route(device, range) {
            Ok(()) => {
                set.insert(range);
                info!(%range, "this host reaches the range of a ServiceCIDR");
            }
            Err(e) if told.insert(range) => warn!(%range, error = %e, "this host does not reach a ServiceCIDR"),
            Err(_) => {}
        }
    }
    for (range, taken) in step.refused {
        if told.insert(range) {
            warn!(%range, %taken, "this host uses the range of a ServiceCIDR otherwise, and does not reach it");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn planned(wanted: &[&str], set: &[&str], taken: &[&str]) -> Step {
        let own = Network::default().ranges().map(|(_, range)| range);
        let set_of = |texts| nets(texts).into_iter().collect();
        step(&own, &set_of(wanted), &set_of(set), &nets(taken))
    }

    #[test]
    fn routes_follow_the_service_cidrs() {
        // The cluster's own ServiceCIDR has its routes from the start.
        let own = ["10.96.0.0/16", "fd00:10:96::/112"];
        assert_eq!(planned(&own, &[], &[]), Step::default());
        let more = ["10.96.0.0/16", "10.200.0.0/24", "fd00:200::/112"];
        let all = planned(&more, &[], &["192.168.1.0/24"]);
        assert_eq!(all, Step { add: nets(&more[1..]), ..Step::default() });
        let one = planned(&["10.200.0.0/24"], &more[1..], &[]);
        assert_eq!(one, Step { remove: nets(&["fd00:200::/112"]), ..Step::default() });
        // A network that the host gets later takes nothing away.
        assert_eq!(planned(&["10.200.0.0/24"], &["10.200.0.0/24"], &["10.200.0.0/16"]), Step::default());
    }

    #[test]
    fn ranges_that_the_host_uses_are_left_to_it() {
        for (wanted, taken) in
            [("10.200.0.0/24", "10.200.0.0/16"), ("10.200.0.0/16", "10.200.7.0/24"), ("fd00:2::/112", "fd00:2::/112")]
        {
            let refused = vec![(wanted.parse().unwrap(), taken.parse().unwrap())];
            assert_eq!(planned(&[wanted], &[], &[taken]), Step { refused, ..Step::default() }, "{wanted}");
        }
        let everything = "0.0.0.0/0".parse().unwrap();
        assert_eq!(planned(&["0.0.0.0/0"], &[], &[]).refused, [(everything, everything)]);
    }
}
