//! The world outside of the cluster: the host dials in.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::process::Command;
use vipyard::netlink::{Netlink, host_networks, interface_index};

use crate::cluster::{Cluster, Home, SERVICE_CIDRS, SERVICES, VIPYARD, eventually, run, vipyard};
use crate::inside::{Inside, Reply};
use crate::processes;
use crate::services::{answered, at, node_ips, pod_ips, vips};

const HOST: [&str; 2] = ["10.245.0.2", "fd00:10:245::2"];
/// Enough for each of three Pods to be chosen by chance (E8).
const TRIES: usize = 39;

/// Waits for the load-balancer addresses of a Service, IPv4 first.
async fn balancer(cluster: &Cluster, service: &str, count: usize) -> Vec<IpAddr> {
    eventually("load-balancer addresses", async || {
        let object = cluster.get(&format!("{SERVICES}/{service}")).await;
        let entries = object["status"]["loadBalancer"]["ingress"].as_array()?.clone();
        let ips: Vec<IpAddr> = entries.iter().map(|entry| entry["ip"].as_str().unwrap().parse().unwrap()).collect();
        (ips.len() == count).then_some(ips)
    })
    .await
}

fn node_port(service: &Value, name: &str) -> u16 {
    let ports = service["spec"]["ports"].as_array().expect("ports");
    let port = ports.iter().find(|port| port["name"] == name).expect("the port");
    port["nodePort"].as_u64().and_then(|port| port.try_into().ok()).expect("a node port")
}

/// A request to a health check port: status, headers, body.
fn ask(client: &Inside, to: SocketAddr, path: &str) -> std::io::Result<(u16, String, Value)> {
    let answer = client.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    Ok((status, head.to_lowercase(), serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.to_owned()))))
}

pub async fn host_dials_services_nodes_pods_and_dns_x1_x8() {
    let cluster = Cluster::start().await;
    let host = Inside::host(HOST[0]);
    let service = cluster.service("web", json!({"type": "LoadBalancer"})).await;
    cluster.whoami("web", &["web-1", "web-2", "web-3"]).await;
    cluster.endpoints("web", &["web-1", "web-2", "web-3"]).await;
    let (cluster_ips, balancers) = (vips(&service), balancer(&cluster, "web", 2).await);
    let mut nodes = Vec::new();
    for node in ["n1", "n2", "n3"] {
        nodes.extend(node_ips(&cluster, node).await);
    }
    for vip in cluster_ips.iter().chain(&balancers) {
        answered(&cluster, &host, at(*vip, 80)).await;
        let http: Vec<Reply> = (0..TRIES).map(|_| host.http(at(*vip, 80)).expect("an answer")).collect();
        let udp: Vec<Reply> = (0..TRIES).map(|_| host.udp(at(*vip, 9001)).expect("an answer")).collect();
        for replies in [http, udp] {
            let pods: BTreeSet<&str> = replies.iter().map(|reply| reply.pod.as_str()).collect();
            assert_eq!(pods, ["web-1", "web-2", "web-3"].into(), "{vip}");
            // X1, X8: a client outside of the cluster is seen as the node that it came in by.
            assert!(replies.iter().all(|reply| nodes.contains(&reply.client)), "{vip}: {replies:?}");
        }
    }
    for node in &nodes {
        let reply = host.http(at(*node, node_port(&service, "http"))).expect("the node port answers");
        assert_eq!(reply.client, *node);
        assert!(host.udp(at(*node, node_port(&service, "udp"))).is_ok());
    }
    for (ip, own) in pod_ips(&cluster, "web-1").await.into_iter().zip(HOST) {
        let reply = host.http(at(ip, 80)).expect("the Pod answers");
        assert_eq!((reply.pod.as_str(), reply.client), ("web-1", own.parse().unwrap()));
    }
    for server in ["10.96.0.10", "fd00:10:96::a"] {
        assert_eq!(resolve(&host, server, "web.default.svc.cluster.local."), [cluster_ips[0]]);
    }
    // 3.7: a Service without endpoints refuses the host, too.
    cluster.service("nobody", json!({"clusterIP": "10.96.0.99", "ipFamilyPolicy": "SingleStack"})).await;
    let refused = async || {
        let result = host.connect(at("10.96.0.99".parse().unwrap(), 80));
        result.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused).then_some(())
    };
    eventually("a Service without endpoints refuses", refused).await;
    let _ = cluster.stop().await;
    assert_eq!(processes::devices(), ["lo"], "the device goes with the process");
}

/// The IPv4 addresses of a name, asked of a server over UDP.
fn resolve(client: &Inside, server: &str, name: &str) -> Vec<IpAddr> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let query = query.to_vec().unwrap();
    let server = at(server.parse().unwrap(), 53);
    let answer = client.run(|| {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.connect(server).unwrap();
        socket.send(&query).unwrap();
        let mut buffer = vec![0; 1500];
        let length = socket.recv(&mut buffer).expect("the server answers");
        buffer.truncate(length);
        buffer
    });
    let answer = Message::from_vec(&answer).expect("a message of DNS");
    let records = answer.answers.iter();
    records.filter_map(|record| if let RData::A(a) = &record.data { Some(IpAddr::V4(a.0)) } else { None }).collect()
}

pub async fn policy_local_keeps_the_hosts_address_and_health_ports_tell_where_to_send_x2_h1_h4() {
    let cluster = Cluster::start().await;
    let host = Inside::host(HOST[0]);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let service = cluster.service("web", spec).await;
    let check: u16 = service["spec"]["healthCheckNodePort"].as_u64().expect("a port").try_into().unwrap();
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let home = cluster.node_of("web-1").await;
    let vips = balancer(&cluster, "web", 2).await;
    for (vip, own) in vips.iter().zip(HOST) {
        answered(&cluster, &host, at(*vip, 80)).await;
        for _ in 0..20 {
            assert_eq!(host.http(at(*vip, 80)).expect("an answer").client, own.parse::<IpAddr>().unwrap());
        }
    }
    for node in ["n1", "n2", "n3"] {
        let local = usize::from(node == home);
        for ip in node_ips(&cluster, node).await {
            // H2, H3: any path.
            for path in ["/", "/healthz"] {
                let (status, head, body) = ask(&host, at(ip, check), path).expect("the port answers");
                assert_eq!(status, if local == 1 { 200 } else { 503 }, "{node}: {body}");
                assert!(head.contains(&format!("x-load-balancing-endpoint-weight: {local}")), "{head}");
                assert!(head.contains("content-type: application/json"), "{head}");
                let service = json!({"namespace": "default", "name": "web"});
                let expected = json!({"service": service, "localEndpoints": local, "serviceProxyHealthy": true});
                assert_eq!(body, expected);
            }
            // X5: and a node without endpoint is silent.
            let result = host
                .run(|| TcpStream::connect_timeout(&at(ip, node_port(&service, "http")), Duration::from_millis(700)));
            assert_eq!(result.err().map(|e| e.kind()), (local == 0).then_some(ErrorKind::TimedOut), "{node}");
        }
    }
    // H2: the count follows the Pods.
    let ip = node_ips(&cluster, &home).await[0];
    cluster.delete(&format!("{}/web-1", crate::cluster::PODS)).await;
    let gone = async || (ask(&host, at(ip, check), "/").ok()?.0 == 503).then_some(());
    eventually("503 without endpoints", gone).await;
    // H4: no use, no port.
    cluster.patch(&format!("{SERVICES}/web"), json!({"spec": {"externalTrafficPolicy": "Cluster"}})).await;
    let closed = async || {
        let result = host.connect(at(ip, check));
        result.is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused).then_some(())
    };
    eventually("the health check port closes", closed).await;
    cluster.stop().await;
}

pub async fn proxy_tells_its_health_on_every_node_h5() {
    let cluster = Cluster::start().await;
    let host = Inside::host(HOST[0]);
    for node in ["n1", "n2", "n3"] {
        for ip in node_ips(&cluster, node).await {
            let (status, _, body) = ask(&host, at(ip, 10256), "/healthz").expect("the proxy answers");
            assert_eq!((status, &body["nodeEligible"]), (200, &json!(true)));
            assert!(body["lastUpdated"].as_str().is_some_and(|time| time.ends_with(" UTC")), "{body}");
            // The mode is told to the node alone.
            assert!(ask(&host, at(ip, 10249), "/proxyMode").is_err());
        }
    }
    let spec = json!({"hostNetwork": true, "nodeName": "n1", "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]});
    cluster.pod("on-host", spec).await;
    let node = cluster.inside("on-host").await;
    let (status, _, body) = ask(&node, "127.0.0.1:10249".parse().unwrap(), "/proxyMode").expect("it answers");
    assert_eq!((status, body), (200, json!("nftables")));

    let ip = node_ips(&cluster, "n2").await[0];
    let taint = json!({"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"});
    cluster.patch("/api/v1/nodes/n2", json!({"spec": {"taints": [taint]}})).await;
    let told = async || (ask(&host, at(ip, 10256), "/healthz").ok()?.0 == 503).then_some(());
    eventually("a node that is to be deleted is not eligible", told).await;
    assert_eq!(ask(&host, at(ip, 10256), "/livez").unwrap().0, 200, "the node does not matter to /livez");
    cluster.stop().await;
}

pub async fn host_has_routes_to_service_cidrs_while_they_exist() {
    let cluster = Cluster::start().await;
    let host = Inside::host(HOST[0]);
    let ranges = ["10.200.0.0/24", "fd00:200::/112"];
    let routes = || {
        let networks = host.run(host_networks).expect("the routes");
        ranges.map(|range| networks.contains(&range.parse::<IpNet>().unwrap()))
    };
    // What the host uses otherwise stays as it is.
    host.run(|| Netlink::open()?.add_address(interface_index("lo")?, "10.201.0.1".parse().unwrap())).unwrap();
    cluster.service_cidr("taken", ["10.201.0.0/24", "fd00:201::/112"]).await;
    cluster.service_cidr("more", ranges).await;
    let ips = ["10.200.0.7", "fd00:200::7"];
    cluster.service("web", json!({"clusterIP": ips[0], "clusterIPs": ips})).await;
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    cluster.settled().await;
    assert_eq!(routes(), [true; 2]);
    for ip in ips {
        assert_eq!(host.http(at(ip.parse().unwrap(), 80)).expect("an answer").pod, "web-1");
    }
    let networks = host.run(host_networks).unwrap();
    let has = |range: &str| networks.contains(&range.parse::<IpNet>().unwrap());
    assert_eq!((has("10.201.0.0/24"), has("10.201.0.1/32"), has("fd00:201::/112")), (false, true, true));
    assert!(cluster.home.log().contains("this host uses the range of a ServiceCIDR otherwise"));

    cluster.delete(&format!("{SERVICES}/web")).await;
    cluster.delete(&format!("{SERVICE_CIDRS}/more")).await;
    eventually("the routes go", async || (routes() == [false; 2]).then_some(())).await;
    cluster.stop().await;
}

pub async fn host_access_is_refused_where_it_is_not_allowed() {
    let home = Home::new();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--", VIPYARD, "up", "--host-access", "yes"]);
    command.arg("--data-dir").arg(home.data());
    let (code, out, err) = run(command).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with("vipyard: --host-access yes needs root"), "{err}");
    assert_eq!(processes::devices(), ["lo"]);
}

pub async fn host_access_no_touches_nothing() {
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.args(["up", "--host-access", "no", "--data-dir"]).arg(home.data());
    let cluster = Cluster::start_with(home, command).await;
    assert_eq!(processes::devices(), ["lo"]);
    let pod = Inside::host(HOST[0]).connect("10.96.0.1:443".parse().unwrap());
    assert!(pod.is_err(), "no way into the cluster");
    cluster.stop().await;
}

/// Without privilege over its network the host has its own loopback.
pub async fn services_are_at_the_loopback_of_an_ordinary_user() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:8181").unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-user=1000", "--map-group=1000", "--", VIPYARD, "up", "--data-dir"]).arg(home.data());
    let cluster = Cluster::start_with(home, command).await;
    assert_eq!(processes::devices(), ["lo"]);
    let host = Inside::host("127.0.0.1");
    let ports = json!([{"name": "http", "port": 8180, "targetPort": 80}, {"name": "taken", "port": 8181, "targetPort": 80},
        {"name": "low", "port": 80}, {"name": "udp", "port": 9001, "protocol": "UDP"}]);
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports});
    let service = cluster.service("web", spec).await;
    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let loopback = |port: u16| at("127.0.0.1".parse().unwrap(), port);
    for port in [8180, node_port(&service, "http")] {
        answered(&cluster, &host, loopback(port)).await;
        let reply = host.http(loopback(port)).expect("an answer");
        // The source is lost, and stands for a client outside of the cluster (X2).
        assert_eq!((reply.pod.as_str(), reply.client), ("web-1", HOST[0].parse().unwrap()));
    }
    for port in [9001, node_port(&service, "udp")] {
        assert_eq!(host.udp(loopback(port)).expect("an answer").pod, "web-1");
    }
    // What cannot be had is told, and breaks nothing else: its node port is there.
    for (port, word) in [("8181/TCP", "in use"), ("80/TCP", "privilege")] {
        let what = format!("an event about port {port}");
        let told = async || {
            let events = cluster.get("/api/v1/namespaces/default/events").await;
            let events = events["items"].as_array().unwrap().clone();
            let about = |e: &&Value| e["reason"] == "LoopbackPortNotOpen" && e["type"] == "Warning";
            let mut messages = events.iter().filter(about).map(|e| e["message"].as_str().unwrap());
            messages.any(|message| message.contains(&format!("Port {port}")) && message.contains(word)).then_some(())
        };
        eventually(&what, told).await;
    }
    assert!(host.http(loopback(node_port(&service, "taken"))).is_ok());
    // `reach` believes what is true now: the Event about a port stays when the port is had.
    let data = cluster.home.data();
    let told = async || vipyard(&["reach", "svc/web", "--data-dir", data.to_str().unwrap()]).await.1;
    let text = told().await;
    assert!(text.contains("note: Port 8181/TCP") && !text.contains("127.0.0.1:8181 "), "{text}");
    drop(taken);
    let blocker = json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 8182, "targetPort": 80}]});
    cluster.service("blocker", blocker).await;
    let blocked = async || host.connect(loopback(8182)).is_ok().then_some(());
    eventually("a door that is closed again", blocked).await;
    cluster.delete(&format!("{SERVICES}/blocker")).await;
    answered(&cluster, &host, loopback(8181)).await;
    let opened = async || {
        let text = told().await;
        (text.contains("127.0.0.1:8181 ") && !text.contains("Port 8181/TCP")).then_some(())
    };
    eventually("reach names the port that was had in the end", opened).await;
    // Two Services want one port: the second has it when the first is gone, and what is established stays (C1).
    let port = json!([{"name": "http", "port": 8180, "targetPort": 80}]);
    cluster.service("other", json!({"type": "LoadBalancer", "ports": port})).await;
    cluster.whoami("other", &["other-1"]).await;
    cluster.endpoints("other", &["other-1"]).await;
    assert_eq!(host.http(loopback(8180)).unwrap().pod, "web-1");
    let mut kept = host.connect(loopback(8180)).expect("a connection");
    kept.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    cluster.delete(&format!("{SERVICES}/web")).await;
    let moved = async || host.http(loopback(8180)).is_ok_and(|reply| reply.pod == "other-1").then_some(());
    eventually("the port leads to the other Service", moved).await;
    write!(kept, "GET /json HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    kept.read_to_string(&mut answer).expect("the connection is still there");
    assert!(answer.contains("web-1"), "{answer}");
    // The doors go with the last Service.
    cluster.delete(&format!("{SERVICES}/other")).await;
    let closed = async || host.connect(loopback(8180)).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
    eventually("the door is closed", async || closed().await.then_some(())).await;
    cluster.stop().await;
}

/// What `vipyard reach` prints leads there.
pub async fn reach_prints_addresses_that_answer() {
    let cluster = Cluster::start().await;
    let host = Inside::host(HOST[0]);
    cluster.service("web", json!({"type": "LoadBalancer"})).await;
    let data = cluster.home.data();
    let data = data.to_str().unwrap();
    let (code, out, err) = vipyard(&["reach", "svc/web", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("note: it has no ready endpoint, so connections are refused"), "{out}");

    cluster.whoami("web", &["web-1"]).await;
    cluster.endpoints("web", &["web-1"]).await;
    let vips = balancer(&cluster, "web", 2).await;
    answered(&cluster, &host, at(vips[0], 80)).await;
    let client = cluster.client_pod("client", "n1").await;
    let (code, out, err) = vipyard(&["reach", "svc/web", "-o", "json", "--data-dir", data]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let ways: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(ways["notes"], json!([]));
    assert_eq!(ways["browser"][0]["address"], format!("http://{}:80/", vips[0]));
    let mut asked = 0;
    for (from, list) in [(&host, &ways["host"]), (&client, &ways["pod"])] {
        for way in list.as_array().expect("ways") {
            let (address, by) = (way["address"].as_str().unwrap(), way["by"].as_str().unwrap());
            let Ok(address) = address.parse::<SocketAddr>() else { continue };
            match by {
                by if by.ends_with("port http") => drop(from.http(address).unwrap_or_else(|e| panic!("{by}: {e}"))),
                by if by.ends_with("port udp") => drop(from.udp(address).unwrap_or_else(|e| panic!("{by}: {e}"))),
                _ => drop(from.connect(address).unwrap_or_else(|e| panic!("{by}: {e}"))),
            }
            asked += 1;
        }
    }
    // Two ClusterIPs, two balancer addresses, six node addresses, for three ports, from two places.
    assert_eq!(asked, 10 * 3 * 2, "{out}");

    let (code, _, err) = vipyard(&["reach", "svc/none", "--data-dir", data]).await;
    assert!(code == 1 && err.contains("there is no Service default/none"), "{code} {err}");
    let (code, _, err) = vipyard(&["reach", "pod/web-1", "--data-dir", data]).await;
    assert!(code == 64 && err.contains("svc/NAME"), "{code} {err}");
    cluster.stop().await;
}
