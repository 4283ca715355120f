//! What happens to conversations when the cluster changes (C rules).

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etherparse::TcpHeader;
use rustix::event::PollFlags;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, connect, ipproto, send, socket_with};
use serde_json::json;

use super::packets::{Fate, comes, udp_from};
use super::stage::{REFUSED, Service, Stage};
use crate::cluster::SERVICES;
use crate::inside::Inside;

/// A client that keeps its source port for good.
struct Fixed<'a> {
    inside: &'a Inside,
    socket: UdpSocket,
}

impl<'a> Fixed<'a> {
    fn new(stage: &'a Stage, client: &str) -> Self {
        let inside = stage.inside(client);
        Self { inside, socket: inside.run(|| UdpSocket::bind("0.0.0.0:12345").expect("a free port")) }
    }

    fn ask(&self, to: SocketAddr) -> String {
        match self.inside.run(|| udp_from(&self.socket, to)) {
            Fate::Answered(reply) => reply.pod,
            Fate::Refused => "refused".to_owned(),
            Fate::Unreachable => "unreachable".to_owned(),
            Fate::Silent => "silent".to_owned(),
        }
    }
}

/// Answers what it gets, in a Pod, until the scenario's cluster ends.
fn echo(inside: &Inside, port: u16) {
    let socket = inside.run(|| UdpSocket::bind(SocketAddr::new([0u16; 8].into(), port)).expect("a free port"));
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
}

/// A Service in both families whose only endpoint, b1, answers what it gets.
async fn echoing(stage: &Stage) -> [SocketAddr; 2] {
    let web = stage.service("web", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    let ports = json!([{"name": "udp", "port": 7777, "protocol": "UDP"}]);
    stage.slice_with("web", &web, json!({"ports": ports, "endpoints": stage.endpoints_at(&["b1"])})).await;
    let six = stage.endpoint("b1", json!({"addresses": [stage.ip6("b1")]}));
    stage.slice_with("web-6", &web, json!({"ports": ports, "endpoints": [six], "addressType": "IPv6"})).await;
    echo(stage.inside("b1"), 7777);
    [web.vip, web.vip6.expect("both families")]
}

async fn all_doors(stage: &Stage) -> (Service, Vec<SocketAddr>) {
    let spec = json!({"externalIPs": ["192.0.2.1"]});
    let web = stage.balancer("web", spec, json!([{"ip": "198.51.100.7"}])).await;
    let external = ["192.0.2.1", "198.51.100.7"].map(|ip| SocketAddr::new(ip.parse().expect("an address"), 80));
    let mut doors = vec![web.vip, stage.node_port("n1", &web), stage.node_port("n3", &web)];
    doors.extend(external);
    (web, doors)
}

/// C2, C8: at every door; a Pod that terminates and serves keeps its flows, one that serves no more loses them.
pub async fn datagrams_follow_when_their_pod_serves_no_more_c2_c8() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let (web, doors) = all_doors(&stage).await;
    let client = Fixed::new(&stage, "a1");
    for door in doors {
        for (endpoints, expected) in [
            (&["b1"][..], "b1"),
            (&["b1!", "c1"], "b1"),
            (&["b1", "c1"], "b1"),
            // Not ready counts as not serving here.
            (&["b1?", "c1"], "c1"),
            (&["b1"], "b1"),
        ] {
            stage.endpoints(&web, endpoints).await;
            assert_eq!(client.ask(door), expected, "{door}: {endpoints:?}");
        }
    }
    // Policies and hints do not end a flow.
    stage.endpoints(&web, &["b1", "a1"]).await;
    stage.change(&web, json!({"internalTrafficPolicy": "Local"})).await;
    assert_eq!(client.ask(web.vip), "b1");
    assert_eq!(stage.udp_pods("a1", web.vip), ["a1"]);
    stage.end().await;
}

/// Two clients of one node with one source port, masqueraded as that node at most doors: each has its own answers.
pub async fn clients_of_one_node_with_one_source_port_keep_apart() {
    let stage = Stage::with(&["a1", "a2", "n1", "b1"]).await;
    let (web, doors) = all_doors(&stage).await;
    stage.endpoints(&web, &["b1"]).await;
    let clients = ["a1", "a2", "n1"].map(|client| Fixed::new(&stage, client));
    for round in 1..=3 {
        for door in &doors {
            for client in &clients {
                assert_eq!(client.ask(*door), "b1", "{door}, round {round}");
            }
        }
    }
    stage.end().await;
}

/// C3, C6: nothing better is known, so the flow goes on: without any serving endpoint, and without the Service.
pub async fn flows_stay_while_nothing_serves_and_when_the_service_is_gone_c3_c6() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let client = Fixed::new(&stage, "a1");
    assert_eq!(client.ask(web.vip), "b1");
    stage.endpoints(&web, &[]).await;
    assert_eq!(client.ask(web.vip), "b1");
    assert_eq!(stage.pods("a1", web.vip), REFUSED);
    stage.delete(&format!("{SERVICES}/web")).await;
    assert_eq!(client.ask(web.vip), "b1");
    stage.end().await;
}

/// C4: a client that was refused, or whose datagrams went to the node itself, is served with the first endpoint.
pub async fn first_endpoint_takes_over_datagrams_from_a_port_that_was_refused_c4() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    let client = Fixed::new(&stage, "a1");
    // Nobody captures it yet: the node's kernel refuses it, and a flow to the node stands.
    let node = SocketAddr::new(stage.ip("n1"), 30_099);
    assert_eq!(client.ask(node), "refused");
    let ports = json!([{"name": "tcp", "port": 80, "nodePort": 30_099},
        {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30_099}]);
    let web = stage.service("web", json!({"type": "NodePort", "ports": ports})).await;
    for door in [web.vip, node] {
        assert_eq!(client.ask(door), "refused");
    }
    stage.endpoints(&web, &["b1"]).await;
    for door in [web.vip, node] {
        assert_eq!(client.ask(door), "b1");
    }
    stage.end().await;
}

/// C5: the same Pod at another port is another backend.
pub async fn changed_target_port_is_another_backend_c5() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let client = Fixed::new(&stage, "a1");
    assert_eq!(client.ask(web.vip), "b1");
    // Nothing listens there, and the refusal is the Pod's own (C10).
    let ports = json!([{"name": "udp", "port": 9002, "protocol": "UDP"}]);
    stage.slice_with("web", &web, json!({"ports": ports, "endpoints": stage.endpoints_at(&["b1"])})).await;
    assert_eq!(client.ask(web.vip), "refused");
    stage.endpoints(&web, &["b1"]).await;
    assert_eq!(client.ask(web.vip), "b1");
    stage.end().await;
}

/// C1: whatever happens to the endpoint; what happens to the Service is `services::established_connection_stays`.
pub async fn established_connection_stays_while_its_pod_terminates_c1() {
    let stage = Stage::with(&["a1", "b1", "c1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let mut open = stage.inside("a1").connect(web.vip).expect("a connection");
    open.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    for endpoints in [&["b1!", "c1"][..], &["b1?", "c1"], &["c1"], &[]] {
        stage.endpoints(&web, endpoints).await;
        open.write_all(b"GET /json HTTP/1.1\r\nHost: web\r\n\r\n").expect("it takes a request");
        let mut answer = String::new();
        while !answer.ends_with("}\n") {
            let mut buffer = [0; 1024];
            let length = open.read(&mut buffer).expect("an answer");
            assert!(length > 0, "ended with {endpoints:?} after {answer:?}");
            answer.push_str(std::str::from_utf8(&buffer[..length]).expect("text"));
        }
        assert!(answer.contains("\"pod\":\"b1\""), "{endpoints:?}: {answer}");
    }
    stage.end().await;
}

/// C7: segments that belong to no connection are not delivered; those out of a connection's window reach it translated,
/// so that the client's kernel knows whose they are and does not reset the connection.
pub async fn invalid_segments_neither_arrive_untranslated_nor_end_connections_c7() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let mut open = stage.inside("a1").connect(web.vip).expect("a connection");
    open.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    let client = open.local_addr().expect("its address");
    let (from_pod, at_client) = (raw(&stage, "b1", stage.ip("a1")), raw(&stage, "a1", stage.ip("b1")));
    let [IpAddr::V4(src), IpAddr::V4(dst)] = [stage.ip("b1"), stage.ip("a1")] else { panic!("IPv4") };
    let segment = |dport: u16, sequence: u32, syn: bool| {
        let mut header = TcpHeader::new(80, dport, sequence, 1000);
        (header.ack, header.syn, header.acknowledgment_number) = (true, syn, 1);
        header.checksum = header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &[]).expect("a short segment");
        stage.inside("b1").run(|| send(&from_pod, &header.to_bytes(), SendFlags::empty()).expect("it is sent"));
    };
    for sequence in [1, 1 << 30, 2 << 30, 3 << 30] {
        segment(client.port(), sequence, false);
        segment(client.port().wrapping_add(1), sequence, true);
    }
    let arrived = stage.inside("a1").run(|| comes(at_client.as_fd(), PollFlags::IN));
    assert!(!arrived, "a segment with the Pod's own address arrived");
    let answer = super::external_policy::ask_on(&mut open);
    assert!(answer.contains("\"pod\":\"b1\""), "{answer}");
    stage.end().await;
}

/// A socket that sends and receives bare TCP segments, of one peer alone.
fn raw(stage: &Stage, at: &str, peer: IpAddr) -> OwnedFd {
    stage.inside(at).run(|| {
        let flags = SocketFlags::CLOEXEC;
        let socket =
            socket_with(AddressFamily::INET, SocketType::RAW, flags, Some(ipproto::TCP)).expect("a raw socket");
        connect(&socket, &SocketAddr::new(peer, 0)).expect("a route");
        socket
    })
}

/// C9: a datagram larger than the MTU passes in fragments, both ways, and comes back from the VIP.
pub async fn fragments_pass_through_a_vip_both_ways_c9() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let vips = echoing(&stage).await;
    for pod in ["a1", "b1"] {
        assert_eq!(stage.inside(pod).sh("ip link set dev eth0 mtu 1500").await, (0, String::new()));
    }
    let sent: Vec<u8> = (0..2000u32).map(|i| u8::try_from(i % 251).expect("a byte")).collect();
    for vip in vips {
        let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let (length, from, received) = stage.inside("a1").run(|| {
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
            socket.send_to(&sent, vip).expect("it is sent");
            let mut buffer = vec![0; 4096];
            let (length, from) = socket.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{vip}: {e}"));
            (length, from, buffer)
        });
        assert_eq!((length, from), (2000, vip));
        assert!(received[..length] == sent, "the bytes of {vip}");
    }
    // Fragments they were: the kernels of both Pods put some together.
    for pod in ["a1", "b1"] {
        let pid = stage.inside(pod).pid;
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{file}")).expect("counters");
        let (four, six) = (read("snmp"), read("snmp6"));
        let mut lines = four.lines().filter(|line| line.starts_with("Ip:"));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let assembled =
            names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ReasmOKs").expect("a counter");
        assert_ne!(assembled.1, "0", "{pod}");
        let line = six.lines().find(|line| line.starts_with("Ip6ReasmOKs")).expect("a counter");
        assert_ne!(line.split_whitespace().last(), Some("0"), "{pod}");
    }
    stage.end().await;
}

/// A Pod that opens ten thousands of connections and completes none takes neither their open connections nor new ones
/// from the others, not even from one on its own node.
pub async fn flood_of_syns_from_one_pod_leaves_the_others_their_connections() {
    let stage = Stage::with(&["a1", "a2", "b1"]).await;
    let web = stage.web("web", json!({}), &["b1"]).await;
    let mut open = stage.inside("a1").connect(web.vip).expect("a connection");
    open.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (stage.ip("a2"), web.vip.ip()) else { panic!("IPv4") };
    let flood = raw(&stage, "a2", web.vip.ip());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (0..u32::MAX).take_while(|_| !ended.load(Ordering::Relaxed)) {
                let sport = u16::try_from(number % 64_000).expect("a port") + 1024;
                let mut header = TcpHeader::new(sport, 80, number, 1000);
                header.syn = true;
                header.checksum = header.calc_checksum_ipv4_raw(src.octets(), dst.octets(), &[]).expect("a segment");
                // What the device has no room for is lost, as it should be.
                let _ = send(&flood, &header.to_bytes(), SendFlags::empty());
            }
        });
        let answers: Vec<_> = (0..50).map(|_| stage.inside("a1").http(web.vip)).collect();
        ended.store(true, Ordering::Relaxed);
        answers.into_iter().for_each(|answer| assert_eq!(answer.expect("an answer").pod, "b1"));
    });
    let answer = super::external_policy::ask_on(&mut open);
    assert!(answer.contains("\"pod\":\"b1\""), "{answer}");
    let created = stage.cluster.metric("router_flows_created_total").await;
    assert!(created > 5_000.0, "a flood it was: {created} flows");
    stage.end().await;
}

/// C9: a client that sends faster than the router reads has its datagrams joined to frames on the way, and those of the
/// answers too. Neither side sees that.
pub async fn datagrams_that_share_a_frame_arrive_each_whole_and_in_order_c9() {
    let stage = Stage::with(&["a1", "b1"]).await;
    let vips = echoing(&stage).await;
    // As a player's, a resolver's and a file's datagrams come: alike, of any length, alike and a rest.
    let lengths: [fn(usize) -> usize; 3] = [|_| 64, |i| 1 + i * 7919 % 1200, |i| if i % 9 == 8 { 333 } else { 1200 }];
    for vip in vips {
        stage.inside("a1").run(|| {
            let any = if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).expect("a socket");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a time");
            socket.connect(vip).expect("an address");
            let mut buffer = vec![0; 65_536];
            for lot in 0..60u8 {
                let datagram = |i: usize| {
                    let length = lengths[usize::from(lot) % 3](i);
                    (0..length).map(|at| lot ^ (i * 31 + at).to_le_bytes()[0]).collect::<Vec<u8>>()
                };
                let lot: Vec<Vec<u8>> = (0..40).map(datagram).collect();
                for datagram in &lot {
                    socket.send(datagram).expect("it is sent");
                }
                for sent in &lot {
                    let length = socket.recv(&mut buffer).unwrap_or_else(|e| panic!("{vip}: {e}"));
                    assert!(buffer[..length] == sent[..], "{vip}: {length} bytes for {}", sent.len());
                }
            }
        });
    }
    let joined = stage.cluster.metric("router_joined_packets_total").await;
    assert!(joined > 100.0, "joined: {joined}");
    stage.end().await;
}

/// C10: what a backend's kernel says about a datagram reaches the socket that sent it to the VIP, by every door.
pub async fn backends_icmp_errors_reach_the_client_c10() {
    let stage = Stage::with(&["a1", "b1", "n1"]).await;
    let (web, doors) = all_doors(&stage).await;
    let ports = json!([{"name": "udp", "port": 9002, "protocol": "UDP"}]);
    stage.slice_with("web", &web, json!({"ports": ports, "endpoints": stage.endpoints_at(&["b1"])})).await;
    // A kernel sends no more than six of them to one address at once, and n1 stands in for a1 at three of the doors.
    for (client, doors) in [("a1", &doors[..]), ("n1", &doors[..2])] {
        for door in doors {
            assert_eq!(stage.udp_pods(client, *door), REFUSED, "{client} to {door}");
        }
    }
    stage.end().await;
}
