use std::net::IpAddr;

use super::*;
use crate::router::wire::{ACK, FIN, RST, SYN};

fn tuple(n: u32, port: u16) -> Tuple {
    let src = IpAddr::from((0x0af4_0000 + n).to_be_bytes());
    Tuple { src, dst: IpAddr::from([10, 96, 0, 1]), sport: port, dport: 80, protocol: 6 }
}

fn new_flow(n: u32, class: Class) -> NewFlow {
    let original = tuple(n, 1000);
    let reply = Tuple { src: IpAddr::from([10, 244, 9, 9]), ..original.reversed() };
    NewFlow { tuples: [original, reply], ports: [PortId(1), PortId(2)], hops: 2, class, epoch: 1, grounds: None }
}

#[test]
fn flow_is_found_from_both_sides_until_removed() {
    let mut flows = FlowTable::new(10);
    let id = flows.insert(new_flow(1, Class::SynSent), 0);
    let [original, reply] = new_flow(1, Class::SynSent).tuples;
    assert_eq!(flows.find(&original), Some((id, Direction::Original)));
    assert_eq!(flows.find(&reply), Some((id, Direction::Reply)));
    assert_eq!(flows.find(&original.reversed()), None);
    assert_eq!(flows.get(id).map(|flow| flow.outgoing(Direction::Original)), Some(reply.reversed()));
    flows.remove(id, Ending::Replaced);
    assert_eq!((flows.find(&original), flows.find(&reply), flows.len()), (None, None, 0));
    // The slot is used again, under another name.
    let second = flows.insert(new_flow(2, Class::SynSent), 0);
    assert_ne!(second, id);
    assert!(flows.get(id).is_none());
    flows.remove(id, Ending::Replaced);
    assert_eq!(flows.len(), 1);
}

#[test]
fn tcp_walks_through_its_classes() {
    let mut flows = FlowTable::new(10);
    let id = flows.insert(new_flow(1, Class::of_first(Kind::Tcp { flags: SYN })), 0);
    let steps = [
        (Direction::Original, SYN, Class::SynSent),
        (Direction::Reply, SYN | ACK, Class::SynReceived),
        (Direction::Reply, SYN | ACK, Class::SynReceived),
        (Direction::Original, ACK, Class::Established),
        (Direction::Reply, ACK, Class::Established),
        (Direction::Original, FIN | ACK, Class::HalfClosed),
        (Direction::Reply, ACK, Class::HalfClosed),
        (Direction::Reply, FIN | ACK, Class::Closed),
        (Direction::Original, ACK, Class::Closed),
    ];
    for (direction, flags, class) in steps {
        flows.hit(id, direction, Kind::Tcp { flags }, 100, 5);
        assert_eq!(flows.get(id).map(|flow| flow.class), Some(class));
    }
    let flow = flows.get(id).expect("the flow");
    assert_eq!((flow.packets, flow.bytes, flow.last_hit), ([4, 5], [400, 500], 5));
    let reset = flows.insert(new_flow(2, Class::Established), 0);
    flows.hit(reset, Direction::Reply, Kind::Tcp { flags: RST }, 40, 0);
    assert_eq!(flows.get(reset).map(|flow| flow.class), Some(Class::Closed));
}

#[test]
fn eviction_takes_the_oldest_idle_of_the_cheapest_class() {
    let mut flows = FlowTable::new(4);
    let established = flows.insert(new_flow(1, Class::Established), 0);
    let old = flows.insert(new_flow(2, Class::UdpNew), 1);
    let young = flows.insert(new_flow(3, Class::UdpNew), 2);
    let closed = flows.insert(new_flow(4, Class::Closed), 3);
    flows.hit(old, Direction::Original, Kind::Udp, 1, 4);
    flows.insert(new_flow(5, Class::Established), 5);
    assert!(flows.get(closed).is_none());
    flows.insert(new_flow(6, Class::Established), 6);
    assert!(flows.get(young).is_none(), "the older one was in use later");
    assert!(flows.get(old).is_some() && flows.get(established).is_some());
    assert_eq!((flows.len(), flows.counters().evicted), (4, 2));
}

#[test]
fn expiry_is_bounded_per_call_and_knows_when_to_come_back() {
    let mut flows = FlowTable::new(10_000);
    for n in 0..1000 {
        flows.insert(new_flow(n, Class::UdpNew), u64::from(n));
    }
    assert_eq!(flows.next_expiry(), Some(30_000));
    flows.expire(31_000, 100);
    assert_eq!((flows.len(), flows.next_expiry()), (900, Some(30_100)));
    flows.expire(31_000, 10_000);
    assert_eq!((flows.len(), flows.next_expiry(), flows.counters().expired), (0, None, 1000));
}

#[test]
fn table_survives_random_traffic() {
    let mut flows = FlowTable::new(500);
    let mut seed = 12_345u32;
    let mut random = |below: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) % below
    };
    for now in 0..50_000u64 {
        let n = random(2000);
        match flows.find(&tuple(n, 1000)) {
            Some((id, _)) if random(4) == 0 => flows.remove(id, Ending::Replaced),
            Some((id, direction)) => {
                flows.hit(id, direction, Kind::Tcp { flags: ACK }, 1, now * 10);
            }
            None => {
                let class = Class::ALL[random(9) as usize];
                flows.insert(new_flow(n, class), now * 10);
            }
        }
        flows.expire(now * 10, 4);
        assert!(flows.len() <= 500);
    }
    assert_eq!(flows.iter().count(), flows.len());
    let queued: usize = Class::ALL.iter().map(|class| queue_len(&flows, *class)).sum();
    assert_eq!(queued, flows.len());
}

fn queue_len(flows: &FlowTable, class: Class) -> usize {
    let mut slot = flows.queues[class as usize].head;
    let mut len = 0;
    while let Some(flow) = flows.flow_at(slot) {
        assert_eq!(flow.class, class);
        len += 1;
        slot = flow.next;
    }
    len
}

#[test]
fn a_million_flows_fit_into_300_megabytes() {
    let slot = std::mem::size_of::<Slot>();
    // Two index entries of four bytes and their control bytes, at the index's lowest load.
    let index = 2 * 5 * 16 / 7;
    assert!((slot + index) * 1_000_000 < 300_000_000, "a slot is {slot} bytes");
}
