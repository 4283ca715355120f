//! Source ports for masqueraded flows.
//!
//! A masqueraded flow answers to the node's address, which the node's own processes use too. Its ports come from
//! outside of the range that a kernel takes for itself (32768-60999) and of the node ports (30000-32767), so the two
//! never meet. Whether a port is taken is a question about the exact answer tuple, and the flow table knows it: one
//! port serves as many flows as there are backends, and it is free again the moment its flow ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;

use super::flow::{FlowTable, Millis};
use super::wire::Tuple;

/// Who a node's packets seem to come from when a Service sends them back to that very node. The node's own address
/// would not do: a kernel takes no packet from outside that claims to be from itself.
pub const NODE_HAIRPIN_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 96, 1);
pub const NODE_HAIRPIN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x245, 0xffff, 0, 0, 0, 1);

const LOW: std::ops::Range<u16> = 1024..30_000;
const HIGH: std::ops::RangeInclusive<u16> = 61_000..=65_535;
const COUNT: u16 = (LOW.end - LOW.start) + (*HIGH.end() - *HIGH.start()) + 1;
/// Tries before giving up, each at random: probing neighbours would pile up behind full stretches. A range that is
/// 95 % full still yields a port in 998 of 1000 cases, and one that is full costs no more than this.
const ATTEMPTS: u16 = 128;

/// The stand-in for a node that is sent to itself.
pub fn node_hairpin(v6: bool) -> IpAddr {
    if v6 { NODE_HAIRPIN_V6.into() } else { NODE_HAIRPIN_V4.into() }
}

/// Finds a port at which `answer`, with it as destination port, belongs to no flow. `None` when there is none left.
pub fn allocate(mut answer: Tuple, flows: &mut FlowTable, rng: &mut impl Rng, now: Millis) -> Option<u16> {
    (0..ATTEMPTS).find_map(|_| {
        answer.dport = nth(rng.random_range(0..COUNT));
        flows.is_free(&answer, now).then_some(answer.dport)
    })
}

fn nth(index: u16) -> u16 {
    let low = LOW.end - LOW.start;
    if index < low { LOW.start + index } else { *HIGH.start() + (index - low) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::PortId;
    use crate::router::flow::{Class, Ending, NewFlow};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    fn answer() -> Tuple {
        let (src, dst) = (IpAddr::from([10, 244, 1, 2]), IpAddr::from([10, 245, 0, 11]));
        Tuple { src, dst, sport: 80, dport: 0, protocol: 6 }
    }

    #[test]
    fn ports_stay_clear_of_ephemeral_and_node_ports() {
        let all: Vec<u16> = (0..COUNT).map(nth).collect();
        assert_eq!((all.first(), all.last(), all.len()), (Some(&1024), Some(&65_535), 33_512));
        assert!(all.iter().all(|port| !(30_000..61_000).contains(port)));
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn a_port_is_free_again_when_its_flow_ends_and_shared_between_backends() {
        let (mut flows, mut rng) = (FlowTable::new(100_000), SmallRng::seed_from_u64(7));
        let mut taken = Vec::new();
        while let Some(port) = allocate(answer(), &mut flows, &mut rng, 0) {
            let reply = Tuple { dport: port, ..answer() };
            let original = Tuple { sport: port, dport: 9999, ..answer().reversed() };
            let new = NewFlow {
                tuples: [original, reply],
                ports: [PortId(1), PortId(2)],
                hops: 1,
                class: Class::SynSent,
                epoch: 1,
                grounds: None,
            };
            taken.push((flows.insert(new, 0), port));
        }
        assert!(taken.len() > usize::from(COUNT) * 9 / 10, "only {} of {COUNT}", taken.len());
        let other = Tuple { sport: 81, ..answer() };
        assert!(allocate(other, &mut flows, &mut rng, 0).is_some());
        for (id, _) in &taken {
            flows.remove(*id, Ending::Replaced);
        }
        assert!(flows.is_empty());
        assert!(allocate(answer(), &mut flows, &mut rng, 0).is_some());
    }
}
