//! Which names are the cluster's own: its domain, and the reverse zones of its address ranges.
//!
//! Text, no messages: names are lower case, without the final dot, and a label that holds anything but
//! printable characters is written with escapes (see [`super::wire`]), so that it can never equal a name of ours.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::IpNet;

use crate::config::Network;

/// Seconds that an answer about the cluster may be kept: the default of CoreDNS' kubernetes plugin.
pub const TTL: u32 = 5;

/// The names for which this server has the last word. Clones learn of further ranges together.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Arc<str>,
    /// The name of this server in the domain, target of NS and of the SOA's first field.
    server: Arc<str>,
    /// The mailbox field of the SOA.
    contact: Arc<str>,
    ranges: Vec<IpNet>,
    /// Those of the ServiceCIDRs that there are now.
    further: Arc<ArcSwap<Vec<IpNet>>>,
    addresses: Vec<IpAddr>,
    /// Where the server listens, behind them.
    listening: Vec<IpAddr>,
    /// Seconds for each record, and for "there is no such thing" (the SOA's minimum field).
    pub ttl: u32,
}

/// Where a name lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In the cluster domain. The text is what stands before it: `web.default.svc`, or nothing for the domain itself.
    Domain(&'a str),
    /// In the reverse zone `apex`, which covers a part of the cluster's ranges.
    Reverse { apex: Arc<str>, what: Reverse },
    /// Anybody else's.
    Outside,
}

/// What a name in a reverse zone stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reverse {
    /// The zone's first name.
    Apex,
    /// Some of an address' labels, not all: there are names below it.
    Part,
    Address(IpAddr),
    /// Labels that are no address.
    Nothing,
}

impl Zone {
    pub fn new(network: &Network) -> Self {
        let ranges = network.ranges().into_iter().map(|(_, range)| range).collect();
        let zone = Self::with_ranges(&network.domain, ranges, network.dns_vip().both().to_vec());
        Self { listening: network.control_plane().both().to_vec(), ..zone }
    }

    /// A zone with a domain, the ranges whose reverse names it owns, and the addresses at which Pods ask it.
    pub fn with_ranges(domain: &str, ranges: Vec<IpNet>, addresses: Vec<IpAddr>) -> Self {
        let domain = domain.trim_matches('.').to_ascii_lowercase();
        Self {
            server: format!("ns.dns.{domain}").into(),
            contact: format!("hostmaster.{domain}").into(),
            domain: domain.into(),
            ranges,
            further: Arc::default(),
            addresses,
            listening: Vec::new(),
            ttl: TTL,
        }
    }

    pub fn domain(&self) -> &Arc<str> {
        &self.domain
    }

    pub fn server(&self) -> &Arc<str> {
        &self.server
    }

    pub fn contact(&self) -> &Arc<str> {
        &self.contact
    }

    /// The addresses at which Pods ask this server.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Whether this is an address of the server itself: no question may be forwarded there, it would come back.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.listening.contains(&address)
    }

    /// Replaces the ranges that Services have beside those of the start.
    pub fn set_further_ranges(&self, ranges: Vec<IpNet>) {
        self.further.store(Arc::new(ranges));
    }

    /// True for an address inside the cluster.
    pub fn contains(&self, address: IpAddr) -> bool {
        let further = self.further.load();
        self.ranges.iter().chain(further.iter()).any(|range| range.contains(&address))
    }

    /// Whether a name, in small letters, is answered by the cluster alone.
    pub fn owns(&self, name: &str) -> bool {
        self.place(name) != Place::Outside
    }

    pub fn place<'a>(&self, name: &'a str) -> Place<'a> {
        if let Some(rest) = below(name, &self.domain) {
            return Place::Domain(rest);
        }
        let Some(reverse) = Arpa::parse(name) else { return Place::Outside };
        let Some(cut) = self.cut(&reverse) else { return Place::Outside };
        let what = if reverse.more {
            Reverse::Nothing
        } else if reverse.labels == reverse.most() {
            Reverse::Address(reverse.address())
        } else if reverse.labels == cut {
            Reverse::Apex
        } else {
            Reverse::Part
        };
        Place::Reverse { apex: reverse.apex(cut), what }
    }

    /// The number of address labels of the reverse zone's first name, if the name lies in one of ours. A range whose
    /// length is no multiple of a label (a /12) has a zone for each label value it covers.
    fn cut(&self, reverse: &Arpa) -> Option<usize> {
        let (bits, further) = (reverse.bits(), self.further.load());
        let ranges = self.ranges.iter().chain(further.iter());
        ranges.filter(|range| range.contains(&reverse.address())).find_map(|range| {
            let cut = usize::from(range.prefix_len()).div_ceil(bits);
            (reverse.labels >= cut).then_some(cut)
        })
    }
}

/// What stands before `domain` in `name`, if anything below it or the domain itself is named.
pub fn below<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let rest = name.strip_suffix(domain)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_suffix('.') }
}

/// The address part of a name below `in-addr.arpa` or `ip6.arpa`, most significant label first.
struct Arpa {
    v6: bool,
    parts: [u8; 32],
    labels: usize,
    /// Labels follow that are no part of an address.
    more: bool,
}

impl Arpa {
    fn parse(name: &str) -> Option<Self> {
        let (rest, v6) = match below(name, "in-addr.arpa") {
            Some(rest) => (rest, false),
            None => (below(name, "ip6.arpa")?, true),
        };
        let mut this = Self { v6, parts: [0; 32], labels: 0, more: false };
        for label in rest.rsplit('.').filter(|_| !rest.is_empty()) {
            let part = if v6 { nibble(label) } else { octet(label) };
            match part {
                Some(part) if this.labels < this.most() => {
                    this.parts[this.labels] = part;
                    this.labels += 1;
                }
                _ => {
                    this.more = true;
                    break;
                }
            }
        }
        Some(this)
    }

    fn most(&self) -> usize {
        if self.v6 { 32 } else { 4 }
    }

    fn bits(&self) -> usize {
        if self.v6 { 4 } else { 8 }
    }

    /// The address, with zeros for the labels that are missing.
    fn address(&self) -> IpAddr {
        if self.v6 {
            Ipv6Addr::from(self.parts.iter().fold(0u128, |sum, part| (sum << 4) | u128::from(*part))).into()
        } else {
            Ipv4Addr::new(self.parts[0], self.parts[1], self.parts[2], self.parts[3]).into()
        }
    }

    fn apex(&self, cut: usize) -> Arc<str> {
        let mut name = String::with_capacity(80);
        for part in self.parts[..cut].iter().rev() {
            // Writing to a string can't fail.
            let _ = if self.v6 { write!(name, "{part:x}.") } else { write!(name, "{part}.") };
        }
        name.push_str(if self.v6 { "ip6.arpa" } else { "in-addr.arpa" });
        name.into()
    }
}

fn octet(label: &str) -> Option<u8> {
    let plain = label.bytes().all(|b| b.is_ascii_digit()) && (label.len() == 1 || !label.starts_with('0'));
    if plain { label.parse().ok() } else { None }
}

fn nibble(label: &str) -> Option<u8> {
    match label.as_bytes() {
        [digit @ (b'0'..=b'9')] => Some(digit - b'0'),
        [digit @ (b'a'..=b'f')] => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        Zone::new(&Network::default())
    }

    fn reverse(name: &str) -> (String, Reverse) {
        match zone().place(name) {
            Place::Reverse { apex, what } => (apex.to_string(), what),
            other => panic!("{name} is {other:?}"),
        }
    }

    #[test]
    fn only_whole_labels_make_a_name_of_the_domain() {
        let zone = zone();
        assert_eq!(zone.place("web.default.svc.cluster.local"), Place::Domain("web.default.svc"));
        assert_eq!(zone.place("cluster.local"), Place::Domain(""));
        assert_eq!(zone.place("xcluster.local"), Place::Outside);
        assert_eq!(zone.place("local"), Place::Outside);
        assert_eq!(zone.place(""), Place::Outside);
    }

    #[test]
    fn reverse_zones_cover_exactly_the_ranges() {
        assert_eq!(
            reverse("10.0.96.10.in-addr.arpa"),
            ("96.10.in-addr.arpa".into(), Reverse::Address("10.96.0.10".parse().unwrap()))
        );
        assert_eq!(reverse("96.10.in-addr.arpa"), ("96.10.in-addr.arpa".into(), Reverse::Apex));
        assert_eq!(reverse("0.96.10.in-addr.arpa"), ("96.10.in-addr.arpa".into(), Reverse::Part));
        for no_address in ["x.0.96.10.in-addr.arpa", "1.10.0.96.10.in-addr.arpa", "010.0.96.10.in-addr.arpa"] {
            assert_eq!(reverse(no_address), ("96.10.in-addr.arpa".into(), Reverse::Nothing));
        }
        // The node range is a /24: what lies beside it belongs to others.
        assert_eq!(reverse("0.245.10.in-addr.arpa").1, Reverse::Apex);
        for outside in ["10.in-addr.arpa", "245.10.in-addr.arpa", "1.1.245.10.in-addr.arpa", "in-addr.arpa"] {
            assert_eq!(zone().place(outside), Place::Outside, "{outside}");
        }
    }

    #[test]
    fn reverse_zones_of_ipv6_are_cut_at_nibbles() {
        let name = "a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa";
        let (apex, what) = reverse(name);
        assert_eq!(apex, "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa");
        assert_eq!(what, Reverse::Address("fd00:10:96::a".parse().unwrap()));
        assert_eq!(zone().place("8.b.d.0.1.0.0.2.ip6.arpa"), Place::Outside);
    }

    #[test]
    fn ranges_come_and_go_in_every_clone() {
        let zone = zone();
        let clone = zone.clone();
        let (name, address) = ("4.3.200.10.in-addr.arpa", "10.200.3.4".parse().unwrap());
        zone.set_further_ranges(vec!["10.200.3.0/24".parse().unwrap(), "10.96.0.0/24".parse().unwrap()]);
        let place = Place::Reverse { apex: "3.200.10.in-addr.arpa".into(), what: Reverse::Address(address) };
        assert_eq!((clone.place(name), clone.contains(address)), (place, true));
        assert_eq!(zone.place("200.10.in-addr.arpa"), Place::Outside);
        // A range within one of the start adds no zone.
        assert_eq!(reverse("1.0.96.10.in-addr.arpa").0, "96.10.in-addr.arpa");
        zone.set_further_ranges(Vec::new());
        assert_eq!((clone.place(name), clone.contains(address)), (Place::Outside, false));
    }

    #[test]
    fn a_range_between_labels_has_a_zone_for_each_label_value() {
        let zone = Zone::with_ranges("cluster.local", vec!["10.96.0.0/12".parse().unwrap()], Vec::new());
        for own in ["96.10.in-addr.arpa", "111.10.in-addr.arpa"] {
            assert_eq!(zone.place(own), Place::Reverse { apex: own.into(), what: Reverse::Apex });
        }
        assert_eq!(zone.place("112.10.in-addr.arpa"), Place::Outside);
    }
}
