//! Which address of the pool a Service of type LoadBalancer has. Pure: the book of who has what, and no I/O.
//!
//! A Service keeps what it has for as long as that fits what it asks for; a new one gets the lowest free address of
//! each of its families, so people who choose with `spec.loadBalancerIP` have the upper end to themselves.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};

use crate::cluster::ObjectKey;
use crate::config::Network;

/// The `spec.loadBalancerClass` that names this controller; Services without a class are its own as well.
pub const LOAD_BALANCER_CLASS: &str = "vipyard.io/lb";
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// Why a Service gets no address. The text is for its owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "no address is left in the load-balancer pool {0}: delete a Service of type LoadBalancer, or start vipyard with a larger --lb-cidr"
    )]
    Exhausted(IpNet),
    #[error(
        "spec.loadBalancerIP {address} is no address of the load-balancer pool ({pool}): choose one of it, or start vipyard with another --lb-cidr"
    )]
    NotInPool { address: String, pool: String },
    #[error("spec.loadBalancerIP {address} belongs to Service {owner}: choose another, or delete that Service")]
    Taken { address: IpAddr, owner: ObjectKey },
    #[error("spec.loadBalancerIP {0} is of a family that the Service does not have in spec.ipFamilies")]
    OtherFamily(IpAddr),
}

/// Whether the Service is to have addresses of this controller.
pub(super) fn is_wanted(service: &Service) -> bool {
    is_balancer(service) && is_ours(service) && service.metadata.deletion_timestamp.is_none()
}

/// Whether the Service has our finalizer and no more use for addresses. The finalizer of a Service of another class is
/// that class's affair; the class of what is no LoadBalancer any more is wiped (W1).
pub(super) fn needs_cleanup(service: &Service) -> bool {
    has_finalizer(service)
        && (!is_balancer(service) || (is_ours(service) && service.metadata.deletion_timestamp.is_some()))
}

pub(super) fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER)
}

fn is_balancer(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer")
}

fn is_ours(service: &Service) -> bool {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    class.is_none_or(|class| class == LOAD_BALANCER_CLASS)
}

/// The entries of `status.loadBalancer.ingress`.
pub(super) fn shown(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

/// What the status is to show for these addresses (V2: VIPs, captured inside of the cluster as well).
pub(super) fn ingress(addresses: &[IpAddr]) -> Vec<LoadBalancerIngress> {
    let entry = |ip: &IpAddr| LoadBalancerIngress {
        ip: Some(ip.to_string()),
        ip_mode: Some("VIP".into()),
        ..LoadBalancerIngress::default()
    };
    addresses.iter().map(entry).collect()
}

/// One family's half of the pool.
struct Half {
    range: IpNet,
    /// Everything below is taken.
    lowest: u128,
}

impl Half {
    /// The first and the last address that may be given away.
    fn bounds(&self) -> (u128, u128) {
        let (first, last) = (number(self.range.network()), number(self.range.broadcast()));
        // IPv4 has a broadcast address at the end; both have one for the network itself at the beginning.
        (first + 1, if self.range.addr().is_ipv4() { last - 1 } else { last })
    }

    fn has(&self, address: IpAddr) -> bool {
        let (first, last) = self.bounds();
        self.range.contains(&address) && (first..=last).contains(&number(address))
    }
}

/// The addresses of the pool and who has them.
pub(super) struct Pool {
    halves: [Half; 2],
    owners: HashMap<IpAddr, ObjectKey>,
    held: HashMap<ObjectKey, Vec<IpAddr>>,
}

impl Pool {
    pub(super) fn new(network: &Network) -> Self {
        let half = |range| Half { range, lowest: 0 };
        Self {
            halves: [half(network.lb_v4.into()), half(network.lb_v6.into())],
            owners: HashMap::new(),
            held: HashMap::new(),
        }
    }

    pub(super) fn held(&self, key: &ObjectKey) -> &[IpAddr] {
        self.held.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Takes over what the status of a Service of an earlier run shows, as far as it is the pool's and nobody else's.
    pub(super) fn adopt(&mut self, key: &ObjectKey, service: &Service) {
        let shown = shown(service).iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok());
        let kept: Vec<IpAddr> =
            shown.filter(|ip| self.halves.iter().any(|half| half.has(*ip)) && !self.owners.contains_key(ip)).collect();
        self.hold(key, kept);
    }

    /// Gives the Service one address of each of its families; what it had and does not need any more is free again,
    /// and then the second value is true. When it is refused it keeps what it has.
    pub(super) fn assign(&mut self, key: &ObjectKey, service: &Service) -> Result<(Vec<IpAddr>, bool), Refused> {
        let families = families(service);
        let asked = self.asked(key, service, &families)?;
        let mut chosen = Vec::new();
        for v6 in families {
            let own = || self.held(key).iter().copied().find(|ip| ip.is_ipv6() == v6);
            let address = asked.filter(|ip| ip.is_ipv6() == v6).or_else(own);
            chosen.push(match address {
                Some(address) => address,
                None => self.lowest(v6)?,
            });
        }
        let freed = self.held(key).iter().any(|ip| !chosen.contains(ip));
        self.hold(key, chosen.clone());
        Ok((chosen, freed))
    }

    /// Frees what the Service has; says whether there was anything.
    pub(super) fn release(&mut self, key: &ObjectKey) -> bool {
        let held = self.held.remove(key).unwrap_or_default();
        for ip in &held {
            self.owners.remove(ip);
            let half = &mut self.halves[usize::from(ip.is_ipv6())];
            half.lowest = half.lowest.min(number(*ip));
        }
        !held.is_empty()
    }

    fn hold(&mut self, key: &ObjectKey, addresses: Vec<IpAddr>) {
        self.release(key);
        for ip in &addresses {
            self.owners.insert(*ip, key.clone());
        }
        if !addresses.is_empty() {
            self.held.insert(key.clone(), addresses);
        }
    }

    /// The address that the Service asks for, checked.
    fn asked(&self, key: &ObjectKey, service: &Service, families: &[bool]) -> Result<Option<IpAddr>, Refused> {
        let text = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref()).unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(None);
        }
        let address = text.parse().ok().filter(|ip| self.halves.iter().any(|half| half.has(*ip)));
        let Some(address) = address else {
            let pool = self.halves.each_ref().map(|half| half.range.to_string()).join(", ");
            return Err(Refused::NotInPool { address: text.to_owned(), pool });
        };
        if !families.contains(&address.is_ipv6()) {
            return Err(Refused::OtherFamily(address));
        }
        match self.owners.get(&address).filter(|owner| *owner != key) {
            Some(owner) => Err(Refused::Taken { address, owner: owner.clone() }),
            None => Ok(Some(address)),
        }
    }

    fn lowest(&mut self, v6: bool) -> Result<IpAddr, Refused> {
        let half = &mut self.halves[usize::from(v6)];
        let (first, last) = half.bounds();
        let mut at = half.lowest.max(first);
        while at <= last && self.owners.contains_key(&address(at, v6)) {
            at += 1;
        }
        half.lowest = at;
        if at > last { Err(Refused::Exhausted(half.range)) } else { Ok(address(at, v6)) }
    }
}

/// `true` for each IPv6 among the Service's families, in their order.
fn families(service: &Service) -> Vec<bool> {
    let families = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    families.iter().map(|family| family == "IPv6").collect()
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

fn address(number: u128, v6: bool) -> IpAddr {
    if v6 { IpAddr::V6(number.into()) } else { IpAddr::V4(u32::try_from(number).unwrap_or_default().into()) }
}

#[cfg(test)]
mod tests;
