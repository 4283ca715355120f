//! A small synchronous rtnetlink client for the namespace of the calling thread.
//!
//! Sandboxes are made by short-lived threads inside the namespace, so a blocking socket is the simplest thing
//! that works: five requests per Pod, no task and no reactor.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, LinkAttribute, LinkFlags, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// The kernel's table of its own addresses.
const RT_TABLE_LOCAL: u8 = 255;
/// Where the rule for that table is moved to, so that there is room before it: the kernel puts it first.
const LOCAL_RULE: u32 = 100;
const BEFORE_LOCAL_RULE: u32 = 10;

/// A connection to the kernel's routing tables of one network namespace: the one that the thread was in at `open`.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sets an interface up.
    ///
    /// # Errors
    /// The kernel's.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Sets the largest packet, in bytes, and the length of the send queue, in packets.
    ///
    /// # Errors
    /// The kernel's, `EINVAL` for an MTU that the device can't have.
    pub fn set_mtu(&mut self, index: u32, mtu: u32, queue: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::Mtu(mtu), LinkAttribute::TxQueueLen(queue)];
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Keeps the kernel from giving the interface a link-local IPv6 address, and with it from sending router
    /// solicitations and multicast reports that nothing on a TUN would answer.
    ///
    /// # Errors
    /// The kernel's, `EAFNOSUPPORT` without IPv6.
    pub fn no_link_local(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes =
            vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
                In6AddrGenMode::None,
            )])])];
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Lets the interface take IPv4 packets whose source is an address of this very namespace. IPv6 always does.
    ///
    /// # Errors
    /// The kernel's.
    pub fn accept_own_sources(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let mut config = InetDevConf::default();
        config.accept_local = 1;
        message.attributes =
            vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(config)])])];
        self.request(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Sends what is made here for these TCP and UDP ports of `address`, one of the namespace's own, by the default
    /// route and not to itself.
    ///
    /// # Errors
    /// The kernel's, `EOPNOTSUPP` for one that has no policy routing.
    pub fn send_out(&mut self, address: IpAddr, ports: &RangeInclusive<u16>) -> io::Result<()> {
        for protocol in [IpProtocol::Tcp, IpProtocol::Udp] {
            let mut rule = rule(address, BEFORE_LOCAL_RULE, RouteHeader::RT_TABLE_MAIN);
            rule.header.dst_len = full_length(address);
            rule.attributes.extend([
                RuleAttribute::Destination(address),
                // What is made here, and not what has come in.
                RuleAttribute::Iifname("lo".to_owned()),
                RuleAttribute::IpProtocol(protocol),
                RuleAttribute::DestinationPortRange(RulePortRange { start: *ports.start(), end: *ports.end() }),
            ]);
            self.create(RouteNetlinkMessage::NewRule(rule))?;
        }
        self.create(RouteNetlinkMessage::NewRule(rule(address, LOCAL_RULE, RT_TABLE_LOCAL)))?;
        let first = RouteNetlinkMessage::DelRule(rule(address, 0, RT_TABLE_LOCAL));
        self.request(first, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// Gives the interface an address with a full-length prefix, usable at once (no duplicate detection).
    ///
    /// # Errors
    /// The kernel's, `EEXIST` when it has the address already.
    pub fn add_address(&mut self, index: u32, address: IpAddr) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = full_length(address);
        message.header.scope = AddressScope::Universe;
        message.header.index = index;
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Local(address)];
        self.create(RouteNetlinkMessage::NewAddress(message))
    }

    /// Routes everything of `source`'s family to the interface, sent from `source` by default.
    ///
    /// # Errors
    /// The kernel's; `ENETDOWN` while the interface is down.
    pub fn add_default_route(&mut self, index: u32, source: IpAddr) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(source),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if source.is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Oif(index), RouteAttribute::PrefSource(source.into())];
        self.create(RouteNetlinkMessage::NewRoute(message))
    }

    /// Routes `destination` to the interface, replacing an equal route.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add_route(&mut self, index: u32, destination: IpNet) -> io::Result<()> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        self.request(RouteNetlinkMessage::NewRoute(route(index, destination)), flags).map(drop)
    }

    /// Takes away what [`Self::add_route`] has added.
    ///
    /// # Errors
    /// The kernel's, `ESRCH` when there is no such route.
    pub fn remove_route(&mut self, index: u32, destination: IpNet) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(route(index, destination));
        self.request(message, NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }

    /// The destinations of all routes in the main table, default routes and those to the interface `own` left out.
    fn routes(&mut self, own: Option<u32>) -> io::Result<Vec<IpNet>> {
        let mut networks = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for answer in self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_REQUEST | NLM_F_DUMP)? {
                if let RouteNetlinkMessage::NewRoute(route) = answer
                    && route.header.table == RouteHeader::RT_TABLE_MAIN
                    && !own.is_some_and(|own| route.attributes.contains(&RouteAttribute::Oif(own)))
                {
                    networks.extend(destination(&route));
                }
            }
        }
        Ok(networks)
    }

    /// The networks of all addresses of all interfaces but `own`.
    fn addresses(&mut self, own: Option<u32>) -> io::Result<Vec<IpNet>> {
        let answers =
            self.request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_REQUEST | NLM_F_DUMP)?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) if Some(message.header.index) != own => {
                    interface_network(&message)
                }
                _ => None,
            })
            .collect())
    }

    fn create(&mut self, message: RouteNetlinkMessage) -> io::Result<()> {
        self.request(message, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL).map(drop)
    }

    /// Sends a request and collects what the kernel answers up to its acknowledgement or the end of its dump.
    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let part = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (part.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(16)..).unwrap_or_default();
                if part.header.sequence_number != self.sequence {
                    continue;
                }
                match part.payload {
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    _ => {}
                }
            }
        }
    }
}

/// The networks that the calling thread's namespace already reaches by routes or owns by addresses, the default
/// routes and the loopback aside. The cluster's ranges must not overlap them when a route is to be added here.
///
/// # Errors
/// When netlink is not available.
pub fn host_networks() -> io::Result<Vec<IpNet>> {
    networks_beside(None)
}

/// As [`host_networks`], without the routes and addresses of the interface `own`.
///
/// # Errors
/// When netlink is not available.
pub fn networks_beside(own: Option<u32>) -> io::Result<Vec<IpNet>> {
    let mut netlink = Netlink::open()?;
    let mut networks = netlink.routes(own)?;
    networks.extend(netlink.addresses(own)?);
    networks.retain(|network| !network.addr().is_loopback());
    networks.sort();
    networks.dedup();
    Ok(networks)
}

/// The index of the interface `name` in the calling thread's namespace.
///
/// # Errors
/// The kernel's, `ENODEV` for an unknown name.
pub fn interface_index(name: &str) -> io::Result<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// Writes /proc/sys/KEY (with slashes) for the calling thread's namespace.
///
/// # Errors
/// `NotFound` for a key that this kernel lacks, `PermissionDenied` or `ReadOnlyFilesystem` where /proc/sys is
/// protected, as in some containers.
pub fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{key}"), value)
}

/// The route of everything for `destination` to the interface.
fn route(index: u32, destination: IpNet) -> RouteMessage {
    let address = destination.network();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(address),
        destination_prefix_length: destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(address.into()), RouteAttribute::Oif(index)];
    message
}

/// A rule of `address`'s family: look into the table.
fn rule(address: IpAddr, priority: u32, table: u8) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(address);
    rule.header.table = table;
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![RuleAttribute::Priority(priority)];
    rule
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let length = route.header.destination_prefix_length;
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })?;
    let unicast = !address.is_multicast() && !is_link_local(address);
    (length > 0 && unicast).then(|| IpNet::new(address, length).ok()).flatten().map(|network| network.trunc())
}

fn interface_network(message: &AddressMessage) -> Option<IpNet> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) | AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })?;
    if is_link_local(address) {
        return None;
    }
    IpNet::new(address, message.header.prefix_len).ok().map(|network| network.trunc())
}

/// Link-local networks exist on every interface and clash with nothing.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => Ipv4Addr::is_link_local(&address),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_networks_leave_out_loopback_and_link_local() {
        let networks = host_networks().expect("netlink answers");
        assert!(networks.iter().all(|n| !n.addr().is_loopback() && !is_link_local(n.addr())), "{networks:?}");
    }
}
