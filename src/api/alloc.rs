//! Service addresses and node ports, given out at write time.
//!
//! Rules B1-B5: dynamic picks come from the upper part of a range at random and fall back to its lower, static band
//! when that is full; users may pick any address. What a write took goes back by itself when the write fails.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use rand::Rng;

use crate::config::{NODE_PORT_RANGE, Network};

/// Label of the IPAddress objects that this allocator answers for, and its value (SC5).
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
pub const MANAGER: &str = "ipallocator.k8s.io";
/// Their label for the family, `IPv4` or `IPv6`.
pub const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// A thing that is given to one Service at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    Address(IpAddr),
    NodePort(u16),
}

/// Why an address or port cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocError {
    #[error("provided IP is already allocated")]
    AddressTaken,
    #[error("the provided network does not match the current range")]
    OutOfRange,
    #[error("range is full")]
    Full,
    #[error("provided port is already allocated")]
    PortTaken,
    #[error(
        "provided port is not in the valid range. The range of valid ports is {}-{}",
        NODE_PORT_RANGE.start(),
        NODE_PORT_RANGE.end()
    )]
    PortOutOfRange,
}

/// The allocators of one cluster.
#[derive(Debug)]
pub struct Allocators {
    v4: Range,
    v6: Range,
    ports: Range,
    used: Mutex<HashSet<Item>>,
}

/// Numbers `first..=last`, of which the lowest `band` are kept for users' own picks as long as possible.
#[derive(Clone, Copy, Debug)]
struct Range {
    first: u128,
    last: u128,
    band: u128,
}

impl Range {
    /// Rule B2: the static band of an address range is clamp(size/16, 16, 256), none for 16 addresses or fewer.
    fn addresses(network: u128, size: u128, broadcast: bool) -> Self {
        let band = if size <= 16 { 0 } else { (size / 16).clamp(16, 256) };
        Self { first: network + 1, last: network + size - 1 - u128::from(broadcast), band }
    }

    /// The addresses of a CIDR: never the network's own, nor IPv4's broadcast; no more than 2^64 of IPv6 (B1).
    fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self::addresses(u32::from(v4.network()).into(), 1u128 << (32 - v4.prefix_len()), true),
            IpNet::V6(v6) => {
                let size = 1u128 << (128 - u32::from(v6.prefix_len())).min(64);
                Self::addresses(u128::from(v6.network()), size, false)
            }
        }
    }

    /// Tries the upper part from a random place, then the lower band from a random place.
    fn pick(&self, take: impl Fn(u128) -> Option<Item>, used: &mut HashSet<Item>) -> Option<Item> {
        let seam = self.first + self.band.saturating_sub(1).min(self.last - self.first);
        for (low, high) in [(seam, self.last), (self.first, seam)] {
            let span = high - low + 1;
            let start = rand::rng().random_range(0..span);
            // More items than this are never in use, so a free one is found within as many steps.
            for step in 0..span.min(used.len() as u128 + 1) {
                if let Some(item) = take(low + (start + step) % span).filter(|item| !used.contains(item)) {
                    used.insert(item);
                    return Some(item);
                }
            }
        }
        None
    }
}

impl Allocators {
    pub fn new(network: &Network) -> Self {
        let ports = NODE_PORT_RANGE.len() as u128;
        Self {
            v4: Range::of(&network.service_v4.into()),
            v6: Range::of(&network.service_v6.into()),
            // Rule B3.
            ports: Range {
                first: u128::from(*NODE_PORT_RANGE.start()),
                last: u128::from(*NODE_PORT_RANGE.end()),
                band: (ports / 32).clamp(16, 128),
            },
            used: Mutex::new(HashSet::new()),
        }
    }

    /// Marks what a stored object holds, at start.
    pub fn restore(&self, items: impl IntoIterator<Item = Item>) {
        self.used.lock().extend(items);
    }

    pub fn release(&self, items: impl IntoIterator<Item = Item>) {
        let mut used = self.used.lock();
        for item in items {
            used.remove(&item);
        }
    }

    /// An address of the cluster's own range, then of the `further` ones (SC3).
    fn address(&self, ipv6: bool, further: &[IpNet]) -> Result<Item, AllocError> {
        let take = |n: u128| {
            Some(Item::Address(if ipv6 { IpAddr::V6(n.into()) } else { IpAddr::V4(u32::try_from(n).ok()?.into()) }))
        };
        let own = if ipv6 { self.v6 } else { self.v4 };
        let further = further.iter().filter(|net| net.addr().is_ipv6() == ipv6).map(Range::of);
        let mut used = self.used.lock();
        std::iter::once(own).chain(further).find_map(|range| range.pick(take, &mut used)).ok_or(AllocError::Full)
    }

    fn exact_address(&self, address: IpAddr, further: &[IpNet]) -> Result<Item, AllocError> {
        let (range, n) = match address {
            IpAddr::V4(v4) => (self.v4, u128::from(u32::from(v4))),
            IpAddr::V6(v6) => (self.v6, u128::from(v6)),
        };
        let further = further.iter().filter(|net| net.contains(&address)).map(Range::of);
        if !std::iter::once(range).chain(further).any(|range| (range.first..=range.last).contains(&n)) {
            return Err(AllocError::OutOfRange);
        }
        let item = Item::Address(address);
        if self.used.lock().insert(item) { Ok(item) } else { Err(AllocError::AddressTaken) }
    }

    fn port(&self) -> Result<Item, AllocError> {
        let take = |n: u128| Some(Item::NodePort(u16::try_from(n).ok()?));
        self.ports.pick(take, &mut self.used.lock()).ok_or(AllocError::Full)
    }

    fn exact_port(&self, port: i32) -> Result<Item, AllocError> {
        let port = u16::try_from(port).map_err(|_| AllocError::PortOutOfRange)?;
        if !NODE_PORT_RANGE.contains(&port) {
            return Err(AllocError::PortOutOfRange);
        }
        let item = Item::NodePort(port);
        if self.used.lock().insert(item) { Ok(item) } else { Err(AllocError::PortTaken) }
    }
}

/// What one write took, and what it will give back when it is committed. Dropped uncommitted, all is as before.
#[derive(Debug)]
pub struct Reservation {
    allocators: Option<Arc<Allocators>>,
    taken: Vec<Item>,
    released: Vec<Item>,
}

impl Reservation {
    /// For writes that need nothing.
    pub fn none() -> Self {
        Self { allocators: None, taken: Vec::new(), released: Vec::new() }
    }

    pub fn new(allocators: &Arc<Allocators>) -> Self {
        Self { allocators: Some(Arc::clone(allocators)), taken: Vec::new(), released: Vec::new() }
    }

    fn take(&mut self, item: Result<Item, AllocError>) -> Result<Item, AllocError> {
        if let Ok(item) = item {
            self.taken.push(item);
        }
        item
    }

    fn source(&self) -> Result<Arc<Allocators>, AllocError> {
        self.allocators.clone().ok_or(AllocError::Full)
    }

    pub fn address(&mut self, ipv6: bool, further: &[IpNet]) -> Result<IpAddr, AllocError> {
        let item = self.source()?.address(ipv6, further);
        match self.take(item)? {
            Item::Address(address) => Ok(address),
            Item::NodePort(_) => Err(AllocError::Full),
        }
    }

    pub fn exact_address(&mut self, address: IpAddr, further: &[IpNet]) -> Result<(), AllocError> {
        let item = self.source()?.exact_address(address, further);
        self.take(item).map(drop)
    }

    pub fn port(&mut self) -> Result<u16, AllocError> {
        let item = self.source()?.port();
        match self.take(item)? {
            Item::NodePort(port) => Ok(port),
            Item::Address(_) => Err(AllocError::Full),
        }
    }

    pub fn exact_port(&mut self, port: i32) -> Result<(), AllocError> {
        let item = self.source()?.exact_port(port);
        self.take(item).map(drop)
    }

    /// Whether this write itself has already taken the port.
    pub fn has_port(&self, port: u16) -> bool {
        self.taken.contains(&Item::NodePort(port))
    }

    /// Gives `item` back once the write is committed.
    pub fn release(&mut self, item: Item) {
        self.released.push(item);
    }

    pub fn commit(mut self) {
        self.taken.clear();
        if let Some(allocators) = &self.allocators {
            allocators.release(self.released.drain(..));
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(allocators) = &self.allocators {
            allocators.release(self.taken.drain(..));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Arc<Allocators> {
        let network = Network { service_v4: "10.96.0.0/27".parse().unwrap(), ..Network::default() };
        Arc::new(Allocators::new(&network))
    }

    #[test]
    fn dynamic_addresses_leave_the_static_band_until_the_rest_is_full_b2() {
        let mut reservation = Reservation::new(&small());
        let mut picked: Vec<IpAddr> = (0..30).map(|_| reservation.address(false, &[]).unwrap()).collect();
        assert_eq!(reservation.address(false, &[]), Err(AllocError::Full));
        let upper: Vec<IpAddr> = picked.drain(..15).collect();
        assert!(upper.iter().all(|ip| *ip >= "10.96.0.16".parse::<IpAddr>().unwrap()), "{upper:?}");
        picked.extend(upper);
        picked.sort();
        picked.dedup();
        assert_eq!(picked.len(), 30, "network and broadcast address are never given out (B1)");
    }

    #[test]
    fn a_failed_write_gives_back_what_it_took() {
        let allocators = small();
        let ip = "10.96.0.5".parse().unwrap();
        let mut reservation = Reservation::new(&allocators);
        reservation.exact_address(ip, &[]).unwrap();
        assert_eq!(Reservation::new(&allocators).exact_address(ip, &[]), Err(AllocError::AddressTaken));
        drop(reservation);
        let mut reservation = Reservation::new(&allocators);
        reservation.exact_address(ip, &[]).unwrap();
        reservation.commit();
        assert_eq!(Reservation::new(&allocators).exact_address(ip, &[]), Err(AllocError::AddressTaken));
        assert_eq!(
            Reservation::new(&allocators).exact_address("10.97.0.1".parse().unwrap(), &[]),
            Err(AllocError::OutOfRange)
        );
    }

    #[test]
    fn dynamic_node_ports_avoid_the_static_band_b3() {
        let mut reservation = Reservation::new(&small());
        assert!((0..200).all(|_| reservation.port().unwrap() >= 30085));
        assert_eq!(reservation.exact_port(29999), Err(AllocError::PortOutOfRange));
        reservation.exact_port(30000).unwrap();
        assert_eq!(reservation.exact_port(30000), Err(AllocError::PortTaken));
    }

    #[test]
    fn further_ranges_are_used_when_the_own_is_full_sc3() {
        let further: Vec<IpNet> = vec!["10.200.0.0/28".parse().unwrap(), "fd00:99::/64".parse().unwrap()];
        let mut reservation = Reservation::new(&small());
        reservation.exact_address("10.200.0.3".parse().unwrap(), &further).unwrap();
        let picked: Vec<IpAddr> = (0..31).map(|_| reservation.address(false, &further).unwrap()).collect();
        assert!(further[0].contains(&picked[30]), "{}", picked[30]);
        assert!(picked[..30].iter().all(|ip| !further[0].contains(ip)));
    }
}
