//! Which resolvers are asked for what: given by flags, or read from the host's `resolv.conf`.

use std::net::{SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use crate::dns::zone::Zone;
use crate::sys::netns::NetNs;

pub const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Where to send what.
#[derive(Clone, Debug, Default)]
pub struct ForwardConfig {
    /// Resolvers for everything, best first.
    pub upstreams: Vec<SocketAddr>,
    /// Resolvers for a domain and what is below it; the longest domain that fits is taken.
    pub stubs: Vec<(String, Vec<SocketAddr>)>,
    pub timing: Timing,
    /// Where the upstreams were read from. Read again when a question finds nobody to answer it: a laptop that was
    /// offline at the start, or has gone to another network.
    pub host: Option<HostResolvers>,
    /// How resolvers inside the cluster are reached: all others are from where this process was started.
    pub within: Option<Within>,
}

/// The way to resolvers that are Services or Pods.
#[derive(Clone, Debug)]
pub struct Within {
    pub zone: Zone,
    /// A namespace that is connected to the cluster.
    pub namespace: Arc<NetNs>,
}

/// The host's own list of resolvers.
#[derive(Clone, Debug)]
pub struct HostResolvers {
    path: PathBuf,
    zone: Zone,
    own: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// An upstream that has said nothing for so long gets the question again, and the next one gets it too.
    pub patience: Duration,
    /// After this a question has failed. Shorter than the 5 s that clients wait before they ask again.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { patience: Duration::from_millis(700), deadline: Duration::from_secs(3) }
    }
}

impl ForwardConfig {
    /// The resolvers given (`--dns-upstream`), or else those of the host's `resolv.conf`, and those of stub domains
    /// (`--dns-stub`), less those that are this very server, which listens at `own` on the host. A missing or unreadable
    /// file means that there are none; what it names inside the cluster's ranges is left out.
    pub fn new(
        given: &[SocketAddr],
        stubs: &[(String, SocketAddr)],
        resolv_conf: &Path,
        zone: &Zone,
        own: &[SocketAddr],
    ) -> Self {
        let host = HostResolvers { path: resolv_conf.to_owned(), zone: zone.clone(), own: own.to_vec() };
        let mut by_domain: Vec<(String, Vec<SocketAddr>)> = Vec::new();
        for (domain, address) in stubs {
            match by_domain.iter_mut().find(|(known, _)| known == domain) {
                Some((_, addresses)) => addresses.push(*address),
                None => by_domain.push((domain.clone(), vec![*address])),
            }
        }
        let others = |addresses| less(addresses, |address| host.is_own(address));
        let stubs = by_domain.into_iter().map(|(domain, addresses)| (domain, others(addresses))).collect();
        let upstreams = if given.is_empty() { host.read() } else { others(given.to_vec()) };
        Self { upstreams, stubs, host: given.is_empty().then_some(host), ..Self::default() }
    }
}

impl HostResolvers {
    pub(super) fn read(&self) -> Vec<SocketAddr> {
        match std::fs::read(&self.path) {
            Ok(text) => less(nameservers(&text), |address| self.is_own(address) || self.zone.contains(address.ip())),
            Err(e) => {
                warn!(path = %self.path.display(), error = %e, "no resolvers for names outside the cluster");
                Vec::new()
            }
        }
    }

    /// Whether a question sent there would come back.
    fn is_own(&self, address: &SocketAddr) -> bool {
        self.zone.is_own(address.ip()) || self.own.iter().any(|own| same(*own, *address))
    }
}

/// The resolvers without those that are `unfit`.
fn less(found: Vec<SocketAddr>, unfit: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let (unfit, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(unfit);
    if !unfit.is_empty() {
        warn!(?unfit, "resolvers that are this very DNS, or inside the cluster's own ranges, are left out");
    }
    rest
}

/// Whether a question sent to `address` comes to a socket bound to `own`.
fn same(own: SocketAddr, address: SocketAddr) -> bool {
    let here = own.ip() == address.ip() || own.ip().is_unspecified() && address.ip().is_loopback();
    here && own.port() == address.port()
}

/// The resolvers of a `resolv.conf`.
pub fn nameservers(text: &[u8]) -> Vec<SocketAddr> {
    let (config, _) = resolv_conf::Config::parse_with_errors(text);
    config.nameservers.iter().filter_map(with_scope).collect()
}

fn with_scope(server: &resolv_conf::ScopedIp) -> Option<SocketAddr> {
    match server {
        resolv_conf::ScopedIp::V4(v4) => Some((*v4, 53).into()),
        resolv_conf::ScopedIp::V6(v6, None) => Some((*v6, 53).into()),
        resolv_conf::ScopedIp::V6(v6, Some(scope)) => {
            let index = scope.parse().ok().or_else(|| interface_index(scope))?;
            Some(SocketAddrV6::new(*v6, 53, 0, index).into())
        }
    }
}

/// The number of an interface by its name.
fn interface_index(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}
