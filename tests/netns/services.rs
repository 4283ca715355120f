//! Packets to Services.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};

use crate::cluster::{Cluster, PODS, SERVICES};
use crate::inside::{Inside, Reply};

/// Enough for each of three Pods to be chosen by chance (E8: n² + 30).
const TRIES: usize = 39;
/// What "at once" means on a busy machine: far below a first retransmission's share of a time-out.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The virtual addresses of a Service, IPv4 first.
pub fn vips(service: &Value) -> Vec<IpAddr> {
    serde_json::from_value(service["spec"]["clusterIPs"].clone()).expect("addresses")
}

pub fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

/// The addresses of a Pod, IPv4 first.
pub async fn pod_ips(cluster: &Cluster, pod: &str) -> Vec<IpAddr> {
    let object = cluster.get(&format!("{PODS}/{pod}")).await;
    let ips = object["status"]["podIPs"].as_array().expect("addresses").iter();
    ips.map(|ip| ip["ip"].as_str().expect("an address").parse().expect("an address")).collect()
}

pub async fn node_ips(cluster: &Cluster, node: &str) -> Vec<IpAddr> {
    let object = cluster.get(&format!("/api/v1/nodes/{node}")).await;
    let all = object["status"]["addresses"].as_array().expect("addresses").iter();
    let internal = all.filter(|address| address["type"] == "InternalIP");
    internal.map(|ip| ip["address"].as_str().expect("an address").parse().expect("an address")).collect()
}

/// Waits until packets follow what the API says; then the first of `client` is answered.
pub async fn answered(cluster: &Cluster, client: &Inside, to: SocketAddr) {
    cluster.settled().await;
    client.http(to).unwrap_or_else(|e| panic!("{to}: {e}"));
}

fn pods(replies: &[Reply]) -> BTreeSet<&str> {
    replies.iter().map(|reply| reply.pod.as_str()).collect()
}

pub async fn cluster_ip_spreads_tcp_and_udp_over_all_ready_pods_of_both_families() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1", "web-2", "web-3"]).await;
    cluster.endpoints("web", &["web-1", "web-2", "web-3"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let own = pod_ips(&cluster, "client").await;
    assert_eq!(vips.len(), 2);
    for (vip, own) in vips.into_iter().zip(own) {
        answered(&cluster, &client, at(vip, 80)).await;
        let http: Vec<Reply> = (0..TRIES).map(|_| client.http(at(vip, 80)).expect("an answer")).collect();
        let udp: Vec<Reply> = (0..TRIES).map(|_| client.udp(at(vip, 9001)).expect("an answer")).collect();
        for replies in [&http, &udp] {
            assert_eq!(pods(replies), ["web-1", "web-2", "web-3"].into(), "{vip}");
            let nodes: BTreeSet<&str> = replies.iter().map(|reply| reply.node.as_str()).collect();
            assert_eq!(nodes, ["n1", "n2", "n3"].into(), "{vip}");
            // X8: Pods see who asks.
            assert!(replies.iter().all(|reply| reply.client == own), "{replies:?}");
        }
        assert!(http.iter().all(|reply| reply.server != vip), "the packet's destination is the Pod");
    }
    cluster.stop().await;
}

pub async fn pods_reach_one_another_by_address_with_their_own_source_x10() {
    let cluster = Cluster::start().await;
    cluster.whoami("web", &["web-1", "web-2", "web-3"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let own = pod_ips(&cluster, "client").await;
    for name in ["web-1", "web-2", "web-3"] {
        for (ip, own) in pod_ips(&cluster, name).await.into_iter().zip(&own) {
            let reply = client.http(at(ip, 80)).unwrap_or_else(|e| panic!("{name} at {ip}: {e}"));
            assert_eq!((reply.pod.as_str(), reply.server, reply.client), (name, ip, *own));
            let reply = client.udp(at(ip, 9001)).unwrap_or_else(|e| panic!("{name} at {ip}: {e}"));
            assert_eq!((reply.pod.as_str(), reply.client), (name, *own));
        }
    }
    cluster.stop().await;
}

pub async fn pod_reaches_itself_through_its_service_x9() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let itself = cluster.inside("web-1").await;
    let node = node_ips(&cluster, &cluster.node_of("web-1").await).await;
    assert_eq!(vips.len(), 2);
    for vip in vips {
        answered(&cluster, &itself, at(vip, 80)).await;
        for reply in [itself.http(at(vip, 80)), itself.udp(at(vip, 9001))] {
            let reply = reply.expect("an answer");
            assert_eq!(reply.pod, "web-1");
            // Else the reply would take the short cut inside the Pod and never be translated back.
            assert_ne!(reply.client, reply.server);
            if reply.client.is_ipv4() {
                assert_eq!(reply.client, node[0]);
            }
        }
    }
    cluster.stop().await;
}

pub async fn service_without_endpoint_refuses_at_once_n1_n2() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("nobody", json!({})).await);
    let client = cluster.client_pod("client", "n1").await;
    cluster.endpoints("nobody", &[]).await;
    let refused = |result: Result<usize, std::io::Error>, begin: Instant, what: &str| {
        assert_eq!(result.expect_err(what).kind(), ErrorKind::ConnectionRefused, "{what}");
        assert!(begin.elapsed() < AT_ONCE, "{what} took {:?}", begin.elapsed());
    };
    assert_eq!(vips.len(), 2);
    cluster.settled().await;
    for vip in vips {
        let begin = Instant::now();
        refused(client.connect(at(vip, 80)).map(|_| 0), begin, "TCP");
        let begin = Instant::now();
        refused(client.udp_connected(at(vip, 9001)), begin, "UDP");
        // R6: a port that the Service does not have.
        let begin = Instant::now();
        refused(client.connect(at(vip, 81)).map(|_| 0), begin, "a port that the Service has not");
    }
    // R7: an address of the range that no Service has is silent.
    let silent = client.run(|| std::net::TcpStream::connect_timeout(&"10.96.77.77:80".parse().unwrap(), AT_ONCE / 2));
    assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut);
    cluster.stop().await;
}

pub async fn node_port_answers_on_every_node_and_nothing_listens_p1_p3_p5() {
    let cluster = Cluster::start().await;
    let service = cluster.service("web", json!({"type": "NodePort"})).await;
    let port = |index: usize| u16::try_from(service["spec"]["ports"][index]["nodePort"].as_u64().unwrap()).unwrap();
    let (http, udp) = (port(0), port(2));
    cluster.whoami("web", &["web-1", "web-2"]).await;
    cluster.endpoints("web", &["web-1", "web-2"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let mut masks = Vec::new();
    for node in ["n1", "n2", "n3"] {
        masks.extend(node_ips(&cluster, node).await);
    }
    // n3 has no Pod of the Service: the whole cluster's Pods answer (externalTrafficPolicy Cluster).
    for node in ["n1", "n2", "n3"] {
        let ip = node_ips(&cluster, node).await[0];
        answered(&cluster, &client, at(ip, http)).await;
        let mut replies: Vec<Reply> = (0..TRIES).map(|_| client.http(at(ip, http)).expect("an answer")).collect();
        replies.push(client.udp(at(ip, udp)).expect("an answer"));
        assert_eq!(pods(&replies), ["web-1", "web-2"].into(), "through {node}");
        // X1: the node stands in for the client.
        assert!(replies.iter().all(|reply| masks.contains(&reply.client)), "{replies:?}");
    }
    // A port next to it is nobody's, and a Pod's own address has no node ports.
    let refused = client.connect(at(node_ips(&cluster, "n2").await[0], 29_999)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let refused = client.connect(at(pod_ips(&cluster, "web-1").await[0], http)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    // P5: the node's own table of sockets is empty.
    let spec = json!({"hostNetwork": true, "nodeName": "n2", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]});
    cluster.pod("on-node", spec).await;
    let node = cluster.inside("on-node").await;
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", node.pid)).expect("a table of sockets");
        for port in [http, udp] {
            assert!(!text.contains(&format!(":{port:04X} ")), "{table} has {port}:\n{text}");
        }
    }
    cluster.stop().await;
}

pub async fn address_of_a_recreated_service_leads_to_its_new_pods() {
    let cluster = Cluster::start().await;
    cluster.whoami("old", &["old-1"]).await;
    cluster.whoami("new", &["new-1"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let spec = json!({"clusterIP": "10.96.0.77", "ipFamilyPolicy": "SingleStack"});
    cluster.service("old", spec.clone()).await;
    let vip = at("10.96.0.77".parse().unwrap(), 80);
    answered(&cluster, &client, vip).await;
    assert_eq!(client.http(vip).unwrap().pod, "old-1");
    cluster.delete(&format!("{SERVICES}/old")).await;
    cluster.service("new", spec).await;
    cluster.settled().await;
    assert!((0..TRIES).all(|_| client.http(vip).unwrap().pod == "new-1"));
    cluster.stop().await;
}

/// What a Pod's kernel sends when its processes end is forwarded before the Pod's network goes.
pub async fn ends_of_a_pods_connections_reach_its_peers() {
    let cluster = Cluster::start().await;
    cluster.whoami("web", &["web-1"]).await;
    let client = cluster.client_pod("client", "n2").await;
    let server = at(cluster.pod_ip("web-1").await.parse().unwrap(), 9000);
    let streams: Vec<_> = (0..100).map(|_| client.connect(server).expect("a connection")).collect();
    let path = format!("{PODS}/web-1");
    cluster.request(Method::DELETE, &path, Some(json!({"gracePeriodSeconds": 0}))).await.expect("an answer");
    for mut stream in streams {
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        match stream.read_to_end(&mut Vec::new()) {
            Ok(_) => {}
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
        }
    }
    cluster.stop().await;
}

pub async fn established_connection_stays_with_its_pod_c1() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let client = cluster.client_pod("client", "n2").await;
    answered(&cluster, &client, at(vips[0], 80)).await;

    let mut stream = client.connect(at(vips[0], 9000)).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut echo = |text: &str| {
        stream.write_all(text.as_bytes()).expect("it takes what is written");
        let mut answer = String::new();
        let mut buffer = [0; 4096];
        while !answer.ends_with(text) {
            let length = stream.read(&mut buffer).expect("an answer");
            assert!(length > 0, "the connection ended after {answer:?}");
            answer.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        answer
    };
    let first = echo("one\n");
    assert!(first.starts_with("pod: web-1\n"), "{first}");

    // The Pod leaves the Service, another comes: the connection does not notice.
    cluster.patch(&format!("{PODS}/web-1"), json!({"metadata": {"labels": {"app": "debug"}}})).await;
    cluster.whoami("web", &["web-2"]).await;
    cluster.endpoints("web", &["web-2"]).await;
    cluster.settled().await;
    assert_eq!(client.http(at(vips[0], 80)).unwrap().pod, "web-2", "new connections go to the other Pod");
    assert_eq!(echo("two\n"), "two\n");
    // And the Service itself.
    cluster.delete(&format!("{SERVICES}/web")).await;
    cluster.settled().await;
    let silent = client.run(|| std::net::TcpStream::connect_timeout(&at(vips[0], 80), AT_ONCE / 4));
    assert_eq!(silent.unwrap_err().kind(), ErrorKind::TimedOut, "the address is nobody's");
    assert_eq!(echo("three\n"), "three\n");
    cluster.stop().await;
}

/// More than any queue holds, in segments as large as the device takes: every byte must come back as it was.
pub async fn large_transfer_through_a_vip_arrives_whole() {
    const LINE: usize = 4099;
    const LINES: usize = 2000;
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1"]).await;
    let client = cluster.client_pod("client", "n3").await;
    assert_eq!(vips.len(), 2);
    for vip in vips {
        answered(&cluster, &client, at(vip, 80)).await;
        let stream = client.connect(at(vip, 9000)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let line = |number: usize| {
            let mut line: Vec<u8> =
                (0..LINE - 1).map(|i| b'a' + u8::try_from((i * 7 + number) % 26).unwrap()).collect();
            line.push(b'\n');
            line
        };
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || (0..LINES).try_for_each(|number| writer.write_all(&line(number))));
        let mut reader = std::io::BufReader::new(stream);
        let mut greeting = String::new();
        for _ in 0..6 {
            std::io::BufRead::read_line(&mut reader, &mut greeting).expect("the greeting");
        }
        assert!(greeting.starts_with("pod: web-1\n"), "{greeting}");
        let mut found = vec![0; LINE];
        for number in 0..LINES {
            reader.read_exact(&mut found).expect("it goes on");
            assert!(found == line(number), "line {number} over {vip}");
        }
        writing.join().unwrap().expect("all is written");
    }
    cluster.stop().await;
}

/// C2, C8: a client that keeps its port is not kept at a Pod that is gone.
pub async fn datagrams_from_one_port_go_on_to_another_pod_when_theirs_is_gone() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    cluster.whoami("web", &["web-1", "web-2"]).await;
    cluster.endpoints("web", &["web-1", "web-2"]).await;
    let client = cluster.client_pod("client", "n3").await;
    answered(&cluster, &client, at(vips[0], 80)).await;
    let socket = client.run(|| std::net::UdpSocket::bind("0.0.0.0:12345").unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let ask = || -> Option<String> {
        socket.send_to(b"who", at(vips[0], 9001)).ok()?;
        let mut buffer = [0; 2048];
        let (length, from) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!(from, at(vips[0], 9001));
        Some(Reply::of_text(&String::from_utf8_lossy(&buffer[..length])).pod)
    };
    let first = ask().expect("an answer");
    assert!((0..20).all(|_| ask().is_some_and(|pod| pod == first)), "a flow keeps its Pod (A8)");
    let path = format!("{PODS}/{first}");
    cluster.delete(&path).await;
    cluster.gone(&path).await;
    cluster.settled().await;
    let other = ask().expect("another answers");
    assert_ne!(other, first);
    cluster.stop().await;
}
