//! Namespaces and devices.

use std::net::{IpAddr, UdpSocket};

use vipyard::netlink::host_networks;
use vipyard::node::netif;
use vipyard::sys::netns::NetNs;

pub async fn device_has_addresses_and_routes() {
    let ns = NetNs::create().unwrap();
    let addresses: [IpAddr; 2] = ["10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()];
    let _tun = netif::create(&ns, "eth0", &addresses, 65520).unwrap();
    let networks = ns.run(|| host_networks().unwrap()).unwrap();
    let text: Vec<String> = networks.iter().map(ToString::to_string).collect();
    assert_eq!(text, ["10.244.1.2/32", "fd00:10:244:1::2/128"]);
    let mtu = ns.run(|| std::fs::read_to_string("/proc/net/dev").unwrap()).unwrap();
    assert!(mtu.contains("eth0:"), "{mtu}");
    for (source, target) in addresses.iter().zip(["10.96.0.1:9", "[fd00:10:96::1]:9"]) {
        let local = ns.run(|| {
            let socket = UdpSocket::bind(if source.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
            socket.connect(target).unwrap();
            socket.local_addr().unwrap().ip()
        });
        assert_eq!(local.unwrap(), *source);
    }
}
