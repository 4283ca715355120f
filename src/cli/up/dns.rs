//! The flags about resolvers.

use std::net::{IpAddr, SocketAddr};

use anyhow::{anyhow, ensure};

use crate::config::{DNS_PORT, DnsConfig, Network};
use crate::dns::{Zone, domain};

/// An address with or without a port.
pub(super) fn resolver(text: &str) -> Result<SocketAddr, String> {
    let with_port = text.parse::<SocketAddr>().ok();
    let without = || text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, DNS_PORT));
    let found = with_port.or_else(without).filter(|address| address.port() > 0 && !address.ip().is_unspecified());
    found.ok_or_else(|| "write an address, such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:5353".to_owned())
}

/// A domain and the address of its resolver.
pub(super) fn stub(text: &str) -> Result<(String, SocketAddr), String> {
    let (name, address) = text.split_once('=').ok_or("write DOMAIN=ADDRESS, such as corp.example=192.0.2.53")?;
    let name = domain(name).ok_or_else(|| format!("{name:?} is no domain"))?;
    Ok((name, resolver(address)?))
}

/// Whether the flags fit the cluster.
pub(super) fn check(config: &DnsConfig, network: &Network) -> anyhow::Result<()> {
    let zone = Zone::new(network);
    let upstreams = config.upstreams.iter().map(|address| ("--dns-upstream", address));
    let stubs = config.stubs.iter().map(|(_, address)| ("--dns-stub", address));
    for (flag, address) in upstreams.chain(stubs) {
        ensure!(
            !zone.is_own(address.ip()),
            "{flag} {address}: that is cluster DNS itself, which would ask itself: name another resolver"
        );
        ensure!(*address != config.listen, "{flag} {address}: that is where cluster DNS itself listens (--dns-listen)");
    }
    match config.stubs.iter().find(|(name, _)| zone.owns(name)) {
        Some((name, _)) => Err(anyhow!("--dns-stub {name}: names of the cluster are answered by the cluster")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(upstreams: &[&str], stubs: &[&str]) -> DnsConfig {
        DnsConfig {
            listen: "127.0.0.1:5353".parse().unwrap(),
            upstreams: upstreams.iter().map(|text| resolver(text).unwrap()).collect(),
            stubs: stubs.iter().map(|text| stub(text).unwrap()).collect(),
            log: None,
        }
    }

    #[test]
    fn resolvers_have_a_port_or_the_usual_one() {
        for (text, address) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::53", "[2001:db8::53]:53"),
            ("[2001:db8::53]:5353", "[2001:db8::53]:5353"),
        ] {
            assert_eq!(resolver(text), Ok(address.parse().unwrap()));
        }
        for text in ["", "dns.example", "192.0.2.53:0", "0.0.0.0", "192.0.2.53:x"] {
            assert!(resolver(text).is_err(), "{text}");
        }
    }

    #[test]
    fn stub_domains_are_names() {
        assert_eq!(stub("Corp.Example.=192.0.2.1:54"), Ok(("corp.example".into(), "192.0.2.1:54".parse().unwrap())));
        for text in ["corp.example", "=192.0.2.1", "a..b=192.0.2.1", "corp.example=", ".=192.0.2.1"] {
            assert!(stub(text).is_err(), "{text}");
        }
    }

    #[test]
    fn flags_that_lead_back_to_the_cluster_are_refused() {
        let network = Network::default();
        assert!(
            check(&config(&["192.0.2.1"], &["corp.example=192.0.2.2", "svc.example=10.96.0.53"]), &network).is_ok()
        );
        for (upstreams, stubs, said) in [
            (&["10.96.0.10"][..], &[][..], "--dns-upstream 10.96.0.10:53: that is cluster DNS itself"),
            (&["127.0.0.1:5353"], &[], "--dns-listen"),
            (&[], &["corp.example=10.245.0.1"], "--dns-stub 10.245.0.1:53: that is cluster DNS itself"),
            (&[], &["svc.cluster.local=192.0.2.1"], "names of the cluster are answered by the cluster"),
            (&[], &["96.10.in-addr.arpa=192.0.2.1"], "names of the cluster are answered by the cluster"),
        ] {
            let error = check(&config(upstreams, stubs), &network).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
