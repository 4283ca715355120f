//! Pod addresses of one node.

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::DualAddr;

/// Hands out the addresses of a node's Pod ranges: one host number, used in both families, so that a person sees at
/// once that 10.244.1.7 and fd00:10:244:1::7 are the same Pod.
///
/// Numbers go round: an address is used again as late as possible, so that a packet on its way to an ended Pod meets
/// nobody rather than a stranger.
#[derive(Debug)]
pub struct Ipam {
    v4: Ipv4Net,
    v6: Ipv6Net,
    used: [bool; 256],
    next: u8,
}

/// The first host number for Pods; 1 stays free, as it is where people expect a gateway.
const FIRST: u8 = 2;
const LAST: u8 = 254;

impl Ipam {
    pub fn new(v4: Ipv4Net, v6: Ipv6Net) -> Self {
        Self { v4, v6, used: [false; 256], next: FIRST }
    }

    /// The next free address, or `None` when all 253 are in use.
    pub fn allocate(&mut self) -> Option<DualAddr> {
        let free = (self.next..=LAST).chain(FIRST..self.next).find(|n| !self.used[usize::from(*n)])?;
        self.used[usize::from(free)] = true;
        self.next = if free == LAST { FIRST } else { free + 1 };
        Some(DualAddr {
            v4: (u32::from(self.v4.network()) + u32::from(free)).into(),
            v6: (u128::from(self.v6.network()) + u128::from(free)).into(),
        })
    }

    /// Takes the address that a Pod had before a restart, if it is of this node's range and free.
    pub fn claim(&mut self, address: IpAddr) -> Option<DualAddr> {
        let IpAddr::V4(address) = address else { return None };
        let number = address.octets()[3];
        if !self.v4.contains(&address) || !(FIRST..=LAST).contains(&number) || self.used[usize::from(number)] {
            return None;
        }
        let before = self.next;
        self.next = number;
        let claimed = self.allocate();
        self.next = self.next.max(before);
        claimed
    }

    /// Gives an address back.
    pub fn release(&mut self, address: DualAddr) {
        self.used[usize::from(address.v4.octets()[3])] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam() -> Ipam {
        Ipam::new("10.244.1.0/24".parse().unwrap(), "fd00:10:244:1::/64".parse().unwrap())
    }

    #[test]
    fn both_families_have_the_same_host_number() {
        let address = ipam().allocate().unwrap();
        assert_eq!(address.both().map(|a| a.to_string()), ["10.244.1.2", "fd00:10:244:1::2"]);
    }

    #[test]
    fn freed_address_is_used_again_last() {
        let mut ipam = ipam();
        let first = ipam.allocate().unwrap();
        ipam.release(first);
        let others: Vec<_> = (0..252).map(|_| ipam.allocate().unwrap()).collect();
        assert!(!others.contains(&first));
        assert_eq!(ipam.allocate(), Some(first));
        assert_eq!(ipam.allocate(), None);
    }

    #[test]
    fn claimed_address_is_given_to_nobody_else() {
        let mut ipam = ipam();
        let claimed = ipam.claim("10.244.1.2".parse().unwrap()).unwrap();
        assert_eq!(ipam.claim("10.244.1.2".parse().unwrap()), None);
        assert_eq!(ipam.claim("10.244.2.2".parse().unwrap()), None);
        assert_ne!(ipam.allocate().unwrap(), claimed);
    }
}
