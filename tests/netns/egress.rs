//! Pods dial out: to addresses of the namespace that the cluster was started in, which is the world to them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with, sockopt};
use serde_json::json;
use tokio::process::Command;
use vipyard::netlink::{Netlink, interface_index, set_sysctl};
use vipyard::node::netif;
use vipyard::sys::netns::NetNs;

use crate::cluster::{Cluster, Home, SLICES, VIPYARD, eventually};
use crate::inside::Inside;
use crate::services::{at, vips};

/// Addresses that are nobody's in the cluster.
const WORLD: [&str; 2] = ["192.0.2.9", "2001:db8::9"];
/// One that the scenario's namespace has no route to.
const NOWHERE: [&str; 2] = ["198.51.100.1:80", "[2001:db8:1::1]:80"];
/// Far below the first repetition of a SYN.
const AT_ONCE: Duration = Duration::from_millis(900);

/// Gives the scenario's namespace the addresses of the world.
fn world() -> [std::net::IpAddr; 2] {
    let mut netlink = Netlink::open().expect("netlink");
    let lo = interface_index("lo").expect("lo");
    WORLD.map(|address| {
        let address = address.parse().expect("an address");
        netlink.add_address(lo, address).expect("an address for lo");
        address
    })
}

/// Sends back what it gets, until the client has ended; then ends.
fn echo(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut reader = stream.try_clone().expect("a second handle");
                std::io::copy(&mut reader, &mut stream)
            });
        }
    });
}

pub async fn pods_reach_the_world_by_tcp_and_udp() {
    let world = world();
    let cluster = Cluster::start().await;
    let client = cluster.client_pod("client", "n2").await;
    for ip in world {
        let listener = TcpListener::bind(at(ip, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        echo(listener);
        // More than any buffer on the way holds, in segments as large as the device takes.
        let mut stream = client.connect(server).expect("the world answers");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let sent: Vec<u8> = (0..16usize << 20).map(|i| u8::try_from((i * 31 + i / 4096) % 251).unwrap()).collect();
        let (mut writer, bytes) = (stream.try_clone().unwrap(), sent.clone());
        let writing = std::thread::spawn(move || {
            writer.write_all(&bytes)?;
            // The end of one direction is passed on alone.
            writer.shutdown(std::net::Shutdown::Write)
        });
        let mut back = Vec::new();
        stream.read_to_end(&mut back).expect("all of it");
        writing.join().unwrap().expect("all is written");
        assert!(back == sent, "{} of {} bytes from {ip}", back.len(), sent.len());

        let server = UdpSocket::bind(at(ip, 0)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let to = server.local_addr().unwrap();
        let socket = client.run(|| UdpSocket::bind(if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Two at once, as a resolver asks for both families: the second must not be lost while the first one waits.
        socket.send_to(b"a", to).unwrap();
        socket.send_to(&[b'b'; 9000], to).unwrap();
        let mut buffer = vec![0; 1 << 16];
        for expected in [1, 9000] {
            let (length, from) = server.recv_from(&mut buffer).expect("the datagram arrives");
            assert_eq!((length, from.ip()), (expected, ip), "the sender is this host");
            server.send_to(&buffer[..length], from).unwrap();
            let (length, from) = socket.recv_from(&mut buffer).expect("its answer arrives");
            assert_eq!((length, from), (expected, to));
        }
    }
    cluster.stop().await;
}

pub async fn what_the_world_refuses_looks_refused_to_the_pod() {
    let world = world();
    let cluster = Cluster::start().await;
    let client = cluster.client_pod("client", "n1").await;
    let host_network = json!({"hostNetwork": true, "nodeName": "n3", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]});
    cluster.pod("on-host", host_network).await;
    let on_host = cluster.inside("on-host").await;
    for (ip, nowhere) in world.into_iter().zip(NOWHERE) {
        // Nobody listens at a port that was free a moment ago.
        let closed = TcpListener::bind(at(ip, 0)).unwrap().local_addr().unwrap();
        let nowhere: SocketAddr = nowhere.parse().unwrap();
        for client in [&client, &on_host] {
            let begin = Instant::now();
            let tcp = client.connect(closed).expect_err("nobody listens").kind();
            let udp = client.udp_connected(closed).expect_err("nobody listens").kind();
            assert_eq!((tcp, udp), (ErrorKind::ConnectionRefused, ErrorKind::ConnectionRefused), "{closed}");
            // A datagram gets the same answer, but a kernel keeps it from sockets that did not ask for it.
            let tcp = client.connect(nowhere).expect_err("no route").kind();
            assert_eq!(tcp, ErrorKind::NetworkUnreachable, "{nowhere}");
            assert!(begin.elapsed() < AT_ONCE, "{:?}", begin.elapsed());
        }
        // A connection that the world breaks is broken.
        let listener = TcpListener::bind(at(ip, 0)).unwrap();
        let mut stream = client.connect(listener.local_addr().unwrap()).expect("it listens");
        let (server, _) = listener.accept().unwrap();
        sockopt::set_socket_linger(&server, Some(Duration::ZERO)).unwrap();
        drop(server);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        assert_eq!(stream.read(&mut [0]).expect_err("a reset").kind(), ErrorKind::ConnectionReset);
    }
    // The host's own loopback is not the world's: what listens there is for this host alone.
    let api = cluster.client.address();
    assert!(api.ip().is_loopback());
    assert_eq!(client.connect(api).expect_err("the Pod's own loopback").kind(), ErrorKind::ConnectionRefused);
    cluster.stop().await;
}

pub async fn service_of_an_endpoint_outside_leads_there() {
    let world = world();
    let cluster = Cluster::start().await;
    let listener = TcpListener::bind(at(world[0], 0)).unwrap();
    let server = listener.local_addr().unwrap();
    echo(listener);
    let spec = json!({"selector": null, "ipFamilyPolicy": "SingleStack", "ports": [{"name": "db", "port": 5432}]});
    let vip = vips(&cluster.service("db", spec).await)[0];
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "db", "labels": {"kubernetes.io/service-name": "db"}},
        "ports": [{"name": "db", "port": server.port()}], "endpoints": [{"addresses": [server.ip()]}]});
    cluster.post(SLICES, slice).await;
    let client = cluster.client_pod("client", "n1").await;
    let mut stream = eventually("the database answers", async || client.connect(at(vip, 5432)).ok()).await;
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(b"select").unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"select");
    cluster.stop().await;
}

pub async fn echo_requests_leave_where_the_user_may_send_them() {
    let world = world();
    let cluster = Cluster::start().await;
    let client = cluster.client_pod("client", "n1").await;
    let ping = |client: &Inside, to: std::net::IpAddr| {
        client.run(|| {
            let v4 = to.is_ipv4();
            let (family, protocol, kind) = match v4 {
                true => (AddressFamily::INET, ipproto::ICMP, 8),
                false => (AddressFamily::INET6, ipproto::ICMPV6, 128),
            };
            let socket = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(protocol)).unwrap();
            let socket = UdpSocket::from(socket);
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket.connect(at(to, 0)).unwrap();
            socket.send(&[kind, 0, 0, 0, 0, 0, 0, 7, b'h', b'i'])?;
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer)?;
            std::io::Result::Ok((buffer[0], buffer[6..length].to_vec()))
        })
    };
    // A new network namespace allows nobody to.
    let refused = ping(&client, world[0]).expect_err("not allowed");
    assert!(refused.raw_os_error().is_some(), "{refused}");
    set_sysctl("net/ipv4/ping_group_range", "0 0").expect("the scenario's own namespace");
    for (ip, kind) in world.into_iter().zip([0, 129]) {
        let (reply, rest) = ping(&client, ip).expect("a reply");
        assert_eq!((reply, rest.as_slice()), (kind, &[0, 7, b'h', b'i'][..]));
    }
    cluster.stop().await;
}

/// What one Pod dials in vain takes no more than half of what there is.
pub async fn silent_addresses_of_one_pod_do_not_stop_another() {
    let world = world();
    let here = NetNs::current().expect("the scenario's namespace");
    // Nobody reads this device: what has no other route is never answered.
    let silent = netif::create(&here, "silent0", &["198.18.0.1".parse().unwrap()], 1500).expect("a device");
    let listener = TcpListener::bind(at(world[0], 0)).unwrap();
    let server = listener.local_addr().unwrap();
    let home = Home::new();
    let mut command = Command::new("/bin/sh");
    let script = format!("ulimit -n 1024 && exec {VIPYARD} up --data-dir {}", home.data().display());
    command.args(["-c", &script]);
    let cluster = Cluster::start_with(home, command).await;
    let greedy = cluster.client_pod("greedy", "n1").await;
    let other = cluster.client_pod("other", "n1").await;
    greedy.run(|| {
        // 1024 / 8 flows are allowed, 64 to each Pod.
        for last in 1..=200 {
            let to = SocketAddr::from(([203, 0, 113, last], 80));
            let result = TcpStream::connect_timeout(&to, Duration::from_millis(2));
            assert_eq!(result.expect_err("silence").kind(), ErrorKind::TimedOut);
        }
    });
    other.connect(server).expect("the other Pod's connection");
    // The greedy one has had its share.
    let result = greedy.run(|| TcpStream::connect_timeout(&server, AT_ONCE));
    assert_eq!(result.expect_err("no place").kind(), ErrorKind::TimedOut);
    cluster.stop().await;
    drop(silent);
}

/// The relay needs no privilege.
pub async fn pods_of_an_ordinary_user_reach_the_world() {
    let world = world();
    let listener = TcpListener::bind(at(world[0], 0)).unwrap();
    let server = listener.local_addr().unwrap();
    let serving = std::thread::spawn(move || {
        let (mut stream, from): (TcpStream, _) = listener.accept().expect("a client");
        stream.write_all(b"hello\n").expect("it takes it");
        from
    });
    let home = Home::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--", VIPYARD, "up", "--data-dir"]).arg(home.data());
    let cluster = Cluster::start_with(home, command).await;
    let fetch = format!("exec 3<>/dev/tcp/{}/{}; head -n 1 <&3", server.ip(), server.port());
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "vipyard/host",
        "command": ["/bin/bash", "-c", fetch]}]});
    cluster.pod("client", spec).await;
    let ended = |pod: &serde_json::Value| (pod["status"]["phase"] == "Succeeded").then_some(());
    cluster.until_pod("client", "done", ended).await;
    assert_eq!(cluster.logs("client", "").await, "hello\n");
    let from = serving.join().expect("the server saw a client");
    assert_eq!(from.ip(), Ipv4Addr::new(192, 0, 2, 9), "an ordinary socket of this host");
    cluster.stop().await;
}
