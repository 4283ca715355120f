//! Names, as programs in Pods look them up.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::process::Command;

use crate::cluster::{Cluster, Home, VIPYARD, eventually, refused_up, run, vipyard};
use crate::inside::Inside;
use crate::services::vips;

/// A program that prints what `getaddrinfo` says.
const GETADDRINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/getaddrinfo.c");

/// The addresses that the C library finds for a name; empty when there is none.
pub async fn addresses(client: &Inside, database: &str, name: &str) -> BTreeSet<String> {
    let (code, out) = client.sh(&format!("getent {database} {name}")).await;
    // 2: not found.
    assert!([0, 2].contains(&code), "getent {database} {name}: {code} {out}");
    out.lines().filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

pub async fn names_of_services_and_pods_resolve() {
    let cluster = Cluster::start().await;
    let vips = vips(&cluster.service("web", json!({})).await);
    let peers = json!({"selector": {"app": "peers"}, "clusterIP": "None", "ipFamilyPolicy": "SingleStack"});
    cluster.service("peers", peers).await;
    let spec =
        json!({"hostname": "peer", "subdomain": "peers", "containers": [{"name": "c", "image": "vipyard/whoami"}]});
    cluster.pod("peer-1", spec).await;
    cluster.patch("/api/v1/namespaces/default/pods/peer-1", json!({"metadata": {"labels": {"app": "peers"}}})).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    for name in
        ["web", "web.default", "web.default.svc", "web.default.svc.cluster.local", "web.default.svc.cluster.local."]
    {
        let expected = |index: usize| BTreeSet::from([vips[index].to_string()]);
        assert_eq!(addresses(&client, "ahostsv4", name).await, expected(0), "{name}");
        assert_eq!(addresses(&client, "ahostsv6", name).await, expected(1), "{name}");
    }
    // D8: the system's own.
    assert_eq!(addresses(&client, "ahostsv4", "kubernetes.default.svc").await, ["10.96.0.1".to_owned()].into());
    assert_eq!(addresses(&client, "ahostsv4", "kube-dns.kube-system").await, ["10.96.0.10".to_owned()].into());
    // D3: a Pod by its host name, from outside and to itself.
    cluster.endpoints("peers", &["peer-1"]).await;
    cluster.settled().await;
    let own: BTreeSet<String> = [cluster.pod_ip("peer-1").await].into();
    assert_eq!(addresses(&client, "ahostsv4", "peer.peers").await, own);
    assert_eq!(client.sh("hostname").await, (0, "client\n".into()));
    let peer = cluster.inside("peer-1").await;
    assert_eq!(peer.sh("hostname -f").await, (0, "peer.peers.default.svc.cluster.local\n".into()));
    // Unknown names are unknown at once, also through the whole search path.
    for name in ["none", "none.default.svc.cluster.local", "web.other"] {
        assert_eq!(addresses(&client, "ahosts", name).await, BTreeSet::new(), "{name}");
    }
    cluster.stop().await;
}

pub async fn headless_service_resolves_to_its_ready_pods() {
    let cluster = Cluster::start().await;
    cluster.service("web", json!({"clusterIP": "None", "ipFamilyPolicy": "SingleStack"})).await;
    cluster.whoami("web", &["web-1", "web-2", "web-3"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let mut all = BTreeSet::new();
    for pod in ["web-1", "web-2", "web-3"] {
        all.insert(cluster.pod_ip(pod).await);
    }
    let look = async || addresses(&client, "ahostsv4", "web").await;
    cluster.settled().await;
    assert_eq!(look().await, all);

    let gone = cluster.pod_ip("web-2").await;
    cluster.delete("/api/v1/namespaces/default/pods/web-2").await;
    all.remove(&gone);
    cluster.settled().await;
    assert_eq!(look().await, all, "the Pod's address goes with it");

    // What a resolver sees, over UDP and TCP (D6), and the difference between no such name and no such record (D7).
    for transport in ["+notcp", "+tcp"] {
        let (_, out) = client.sh(&format!("dig {transport} +short web.default.svc.cluster.local")).await;
        assert_eq!(out.lines().map(str::to_owned).collect::<BTreeSet<_>>(), all, "{transport}");
    }
    let (_, out) = client.sh("dig none.default.svc.cluster.local").await;
    assert!(out.contains("status: NXDOMAIN") && out.contains("SOA"), "{out}");
    let (_, out) = client.sh("dig AAAA kubernetes.default.svc.cluster.local").await;
    assert!(out.contains("status: NOERROR") && out.contains("ANSWER: 0"), "{out}");
    let (_, out) = client.sh("dig +short SRV _http._tcp.web.default.svc.cluster.local").await;
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(out.lines().all(|line| line.contains(" 80 ")), "{out}");
    cluster.stop().await;
}

/// Everything that a C library's look-up meets: search path, both families, aliases, absent families, absent names.
async fn library_looks_up(cluster: &Cluster, look_up: impl AsyncFn(&str) -> BTreeSet<String>) {
    let both = |service: &Value| vips(service).iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let web = both(&cluster.service("web", json!({})).await);
    let old = both(&cluster.service("old", json!({"ipFamilyPolicy": "SingleStack"})).await);
    let external =
        |target: &str| json!({"type": "ExternalName", "externalName": target, "ipFamilyPolicy": null, "ports": null});
    cluster.service("alias", external("web.default.svc.cluster.local")).await;
    cluster.service("lost", external("none.default.svc.cluster.local")).await;
    cluster.settled().await;
    for name in ["web", "web.default", "web.default.svc.cluster.local", "web.default.svc.cluster.local.", "alias"] {
        assert_eq!(look_up(name).await, web, "{name}");
    }
    // D7: that there is no IPv6 address is no reason not to find the other.
    assert_eq!((old.len(), look_up("old").await), (1, old.clone()));
    // D8.
    let kubernetes = BTreeSet::from(["10.96.0.1".to_owned()]);
    assert!(look_up("kubernetes.default.svc").await.is_superset(&kubernetes));
    for name in ["none", "none.default.svc.cluster.local", "lost", "web.nowhere"] {
        assert_eq!(look_up(name).await, BTreeSet::new(), "{name}");
    }
}

async fn compiled_with(cluster: &Cluster, compiler: &str) -> PathBuf {
    let program = cluster.home.path("getaddrinfo");
    let mut command = Command::new(compiler);
    command.args(["-O1", "-o"]).arg(&program).arg(GETADDRINFO);
    if compiler.starts_with("musl") {
        command.arg("-static");
    }
    let (code, out, err) = run(command).await;
    assert_eq!(code, 0, "{out}{err}");
    program
}

async fn getaddrinfo_agrees(compiler: &str) {
    // Without an answer from outside, musl waits 5 seconds before it gives a name up.
    let (upstream, upstream_task) = resolver_of(None).await;
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data()).args(["--dns-upstream", &upstream.to_string()]);
    let cluster = Cluster::start_with(home, command).await;
    let program = compiled_with(&cluster, compiler).await;
    let client = cluster.client_pod("client", "n1").await;
    let look_up = async |name: &str| {
        let (code, out) = client.sh(&format!("{} {name}", program.display())).await;
        assert!([0, 1].contains(&code), "{name}: {code} {out}");
        if code == 0 { out.lines().map(str::to_owned).collect() } else { BTreeSet::new() }
    };
    library_looks_up(&cluster, look_up).await;
    upstream_task.abort();
    cluster.stop().await;
}

pub async fn getaddrinfo_of_musl_agrees() {
    getaddrinfo_agrees("musl-gcc").await;
}

pub async fn getaddrinfo_of_glibc_agrees() {
    getaddrinfo_agrees("cc").await;
}

/// busybox's nslookup asks for A and AAAA by itself and fails when either is NXDOMAIN (D7).
pub async fn nslookup_of_busybox_agrees() {
    let cluster = Cluster::start().await;
    cluster.service("web", json!({"ipFamilyPolicy": "SingleStack"})).await;
    let alias =
        json!({"type": "ExternalName", "externalName": "web.default.svc.cluster.local", "ipFamilyPolicy": null});
    cluster.service("alias", alias).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    for name in ["web.default.svc.cluster.local", "alias.default.svc.cluster.local"] {
        let (code, out) = client.sh(&format!("busybox nslookup {name}")).await;
        assert!(code == 0 && out.contains("Address: 10.96."), "{name}: {code} {out}");
    }
    // It asks for every name of the search path, whatever it has found, and counts those that are missing.
    let (_, out) = client.sh("busybox nslookup web").await;
    assert!(out.contains("Name:\tweb.default.svc.cluster.local\nAddress: 10.96."), "{out}");
    let (code, out) = client.sh("busybox nslookup none.default.svc.cluster.local").await;
    assert!(code != 0 && out.contains("NXDOMAIN"), "{code} {out}");
    cluster.stop().await;
}

/// The answer of a resolver of another make to the host, by the loopback port.
fn resolver(server: SocketAddr) -> TokioResolver {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    connections.iter_mut().for_each(|connection| connection.port = server.port());
    let server = NameServerConfig::new(server.ip(), true, connections);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().expect("a resolver")
}

/// Where `up` said that the host asks.
fn door(cluster: &Cluster) -> SocketAddr {
    let text = std::fs::read_to_string(cluster.home.data().join("dns-address")).expect("the address");
    text.trim().parse().expect("an address")
}

pub async fn host_asks_cluster_dns_at_its_loopback() {
    let cluster = Cluster::start().await;
    let service = cluster.service("web", json!({})).await;
    cluster.settled().await;
    let server = door(&cluster);
    assert!(server.ip().is_loopback());
    let found = resolver(server).lookup_ip("web.default.svc.cluster.local.").await.expect("addresses");
    assert_eq!(found.iter().collect::<BTreeSet<IpAddr>>(), vips(&service).into_iter().collect());

    let data = cluster.home.data();
    let (code, out, err) = vipyard(&["reach", "svc/web", "--data-dir", data.to_str().unwrap()]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let line = format!("dig @127.0.0.1 -p {} web.default.svc.cluster.local", server.port());
    assert!(out.contains(&line), "{out}");
    let home = cluster.stop().await;
    assert!(!home.data().join("dns-address").exists());

    // A port of one's choice, which may be taken.
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let (code, err) = refused_up(&home.data(), &["--dns-listen", &listen]).await;
    assert!(code == 1 && err.contains(&listen) && err.contains("--dns-listen"), "{code} {err}");
}

/// A resolver that gives every name this address, or knows no name at all.
async fn resolver_of(address: Option<[u8; 4]>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    resolver_at(UdpSocket::bind("127.0.0.1:0").await.expect("a free port"), address)
}

fn resolver_at(socket: UdpSocket, address: Option<[u8; 4]>) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let at = socket.local_addr().expect("its address");
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            // Header and question as they came, without the OPT record; the answer points to the question.
            let name = buffer[12..length].iter().position(|byte| *byte == 0).expect("the name's end");
            let mut reply = buffer[..12 + name + 5].to_vec();
            let code = if address.is_some() { 0x80 } else { 0x83 };
            reply[2..12].copy_from_slice(&[0x81, code, 0, 1, 0, u8::from(address.is_some()), 0, 0, 0, 0]);
            if let Some(address) = address {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
                reply.extend(address);
            }
            let _ = socket.send_to(&reply, client).await;
        }
    });
    (at, task)
}

pub async fn names_outside_go_to_the_resolvers_of_the_flags() {
    let (general, general_task) = resolver_of(Some([192, 0, 2, 1])).await;
    let (corp, corp_task) = resolver_of(Some([192, 0, 2, 2])).await;
    let (deep, deep_task) = resolver_of(Some([192, 0, 2, 3])).await;
    let home = Home::new();
    let log = home.path("questions");
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data());
    command.args(["--dns-upstream", &general.to_string(), "--dns-log"]).arg(&log);
    command.args(["--dns-stub", &format!("corp.example={corp}"), "--dns-stub", &format!("deep.corp.example={deep}")]);
    let cluster = Cluster::start_with(home, command).await;
    let external = json!({"type": "ExternalName", "externalName": "api.corp.example", "ipFamilyPolicy": null});
    cluster.service("api", external).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    for (name, address) in [
        ("www.example.com", "192.0.2.1"),
        ("www.corp.example", "192.0.2.2"),
        ("www.deep.corp.example", "192.0.2.3"),
        // D5: the alias' target has a resolver of its own, too.
        ("api", "192.0.2.2"),
    ] {
        assert_eq!(addresses(&client, "ahostsv4", name).await, [address.to_owned()].into(), "{name}");
    }
    // A line for each question, with the Pod that asked.
    let line = eventually("the question is in the log", async || {
        let text = std::fs::read_to_string(&log).ok()?;
        text.lines().find(|line| line.contains("\"www.deep.corp.example.\"")).map(str::to_owned)
    });
    let line: Value = serde_json::from_str(&line.await).expect("JSON");
    assert_eq!((&line["pod"]["name"], &line["source"]), (&json!("client"), &json!("Upstream")));
    assert_eq!((&line["answers"], &line["upstream"]), (&json!(["192.0.2.3"]), &json!(deep.to_string())));
    [general_task, corp_task, deep_task].iter().for_each(tokio::task::JoinHandle::abort);
    let home = cluster.stop().await;

    for (flags, said) in [
        (["--dns-upstream", "dns.example"], "write an address"),
        (["--dns-upstream", "10.96.0.10"], "cluster DNS itself"),
        (["--dns-stub", "corp.example"], "write DOMAIN=ADDRESS"),
        (["--dns-stub", "svc.cluster.local=192.0.2.1"], "answered by the cluster"),
    ] {
        let (code, err) = refused_up(&home.data(), &flags).await;
        assert!([2, 64].contains(&code) && err.contains(said), "{flags:?}: {code} {err}");
    }
}

/// As Consul's DNS is reached from a cluster: its domain is sent to a Service.
pub async fn stub_domain_is_asked_of_a_service() {
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data()).args(["--dns-stub", "corp.example=10.96.0.53"]);
    let cluster = Cluster::start_with(home, command).await;
    let ports = json!([{"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353}]);
    let selector = json!({"name": "corp", "app": null});
    let spec =
        json!({"clusterIP": "10.96.0.53", "ipFamilyPolicy": "SingleStack", "ports": ports, "selector": selector});
    cluster.service("corp", spec).await;
    let corp = cluster.client_pod("corp", "n2").await;
    cluster.endpoints("corp", &["corp"]).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    let socket = corp.run(|| std::net::UdpSocket::bind("0.0.0.0:5353")).expect("a free port");
    socket.set_nonblocking(true).expect("a socket of ours");
    let (_, task) = resolver_at(UdpSocket::from_std(socket).expect("a socket of ours"), Some([192, 0, 2, 9]));
    assert_eq!(addresses(&client, "ahostsv4", "www.corp.example").await, ["192.0.2.9".to_owned()].into());
    task.abort();
    cluster.stop().await;
}

pub async fn command_shows_the_walk_and_the_objects_behind_the_answer() {
    let cluster = Cluster::start().await;
    let service = cluster.service("web", json!({})).await;
    let client = cluster.client_pod("client", "n1").await;
    let none = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]},
        "containers": [{"name": "c", "image": "vipyard/pause"}]});
    cluster.pod("apart", none).await;
    cluster.ready("apart").await;
    cluster.settled().await;
    let data = cluster.home.data();
    let dns = async |arguments: &[&str]| {
        let mut all = vec!["dns", "--data-dir", data.to_str().expect("text")];
        all.extend(arguments);
        vipyard(&all).await
    };
    let (code, out, err) = dns(&["web.default", "--from", "default/client", "--type", "A", "-o", "json"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lookup: Value = serde_json::from_str(&out).expect("JSON");
    let names: Vec<_> = lookup["steps"].as_array().unwrap().iter().map(|step| step["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["web.default.default.svc.cluster.local.", "web.default.svc.cluster.local."]);
    let object = &lookup["steps"][1]["answers"][0]["objects"][0];
    for field in ["uid", "resourceVersion", "name"] {
        assert_eq!(object[field], service["metadata"][field]);
    }
    // As the Pod itself has it.
    let (_, resolv) = client.sh("cat /etc/resolv.conf").await;
    let searches: Vec<_> = lookup["path"]["searches"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(resolv.contains(&format!("search {}\n", searches.join(" "))), "{resolv}");

    let (code, out, _) = dns(&["10.96.0.1"]).await;
    assert!(code == 0 && out.contains("kubernetes.default.svc.cluster.local."), "{code} {out}");
    let (code, out, err) = dns(&["web", "--from", "kube-system/"]).await;
    assert!(code == 1 && out.contains("there is no Service web in Namespace kube-system"), "{out}");
    assert!(err.contains("web has no answer"), "{err}");
    let (code, out, _) = dns(&["web", "--from", "default/apart"]).await;
    assert!(code == 1 && out.contains("cluster DNS is not asked: the nameservers are 192.0.2.1"), "{out}");
    for (arguments, wanted, said) in [
        (&["web", "--from", "default/none"][..], 1, "pods \"none\" not found"),
        (&["web", "--from", "default"], 64, "write NAMESPACE/POD"),
        (&["web", "--type", "B"], 64, "no type"),
        (&["a..b"], 64, "no name"),
    ] {
        let (code, _, err) = dns(arguments).await;
        assert!(code == wanted && err.contains(said), "{arguments:?}: {code} {err}");
    }
    cluster.stop().await;
}

pub async fn questions_are_followed_with_their_pods_and_objects() {
    let cluster = Cluster::start().await;
    cluster.service("web", json!({})).await;
    let client = cluster.client_pod("client", "n1").await;
    cluster.settled().await;
    let path = "/vipyard/v1/dns/queries?follow=1&tail=0";
    let answer =
        cluster.client.send(http::Method::GET, path, "application/json", String::new()).await.expect("a stream");
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    assert!(!addresses(&client, "ahostsv4", "web").await.is_empty());
    let (mut body, mut lines) = (answer.into_body(), Vec::new());
    let wanted = |event: &Value| event["name"] == "web.default.svc.cluster.local." && event["type"] == "A";
    let event = loop {
        let frame = body.frame().await.expect("the stream goes on").expect("bytes");
        lines.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        let whole = lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let events = whole.map(|line| serde_json::from_slice::<Value>(line).expect("a line of JSON"));
        if let Some(event) = events.into_iter().find(wanted) {
            break event;
        }
    };
    assert_eq!((&event["pod"]["name"], &event["code"]), (&json!("client"), &json!("NOERROR")));
    assert!(event["client"].as_str().unwrap().starts_with(&client.ip.to_string()), "{event}");
    assert_eq!((&event["objects"][0]["kind"], &event["objects"][0]["name"]), (&json!("Service"), &json!("web")));
    // What is kept, without a wait.
    let kept = cluster.get("/vipyard/v1/dns/queries?tail=1").await;
    assert!(kept["number"].as_u64() >= event["number"].as_u64(), "{kept}");
    cluster.stop().await;
}

/// What `dig +short` prints, sorted.
async fn dig(client: &Inside, arguments: &str) -> Vec<String> {
    let (code, out) = client.sh(&format!("dig +short {arguments}")).await;
    assert_eq!(code, 0, "{arguments}: {out}");
    let mut lines: Vec<String> = out.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

pub async fn records_of_every_form_are_seen_by_dig_d1_d2_d3_d4_d5_d9() {
    let cluster = Cluster::start().await;
    let single = |more: Value| {
        let mut spec = json!({"ipFamilyPolicy": "SingleStack"});
        json_patch::merge(&mut spec, &more);
        spec
    };
    cluster.service("9lives", single(json!({}))).await;
    let vip = cluster.get("/api/v1/namespaces/default/services/9lives").await["spec"]["clusterIP"].clone();
    let vip = vip.as_str().expect("a ClusterIP");
    cluster.service("ready", single(json!({"clusterIP": "None", "selector": {"app": "web"}}))).await;
    let published = json!({"clusterIP": "None", "selector": {"app": "web"}, "publishNotReadyAddresses": true});
    cluster.service("all", single(published)).await;
    cluster.whoami("web", &["web-1", "web-2"]).await;
    let client = cluster.client_pod("client", "n1").await;
    let (one, two) = (cluster.pod_ip("web-1").await, cluster.pod_ip("web-2").await);
    cluster.endpoints("ready", &["web-1", "web-2"]).await;
    let inside = cluster.inside("web-2").await;
    inside.post(SocketAddr::new(inside.ip, 80), "/ready?state=false").expect("it takes the word");
    let domain = "default.svc.cluster.local";
    let dashed = |ip: &str| ip.replace('.', "-");
    cluster.endpoints("ready", &["web-1"]).await;
    cluster.settled().await;
    // D1: an endpoint that is not ready has a name where it is published, and none where it is not.
    assert_eq!(dig(&client, &format!("ready.{domain}")).await, [one.as_str()]);
    let mut both = vec![one.clone(), two.clone()];
    both.sort();
    assert_eq!(dig(&client, &format!("all.{domain}")).await, both);
    // D2, D3.
    let endpoint = format!("{}.ready.{domain}.", dashed(&one));
    assert_eq!(dig(&client, &format!("_http._tcp.ready.{domain} SRV")).await, [format!("0 100 80 {endpoint}")]);
    assert_eq!(dig(&client, &endpoint).await, [one.as_str()]);
    assert_eq!(dig(&client, &format!("_http._tcp.9lives.{domain} SRV")).await, [format!("0 100 80 9lives.{domain}.")]);
    assert_eq!(dig(&client, &format!("_udp._udp.9lives.{domain} SRV")).await, [format!("0 100 9001 9lives.{domain}.")]);
    // D4, D9, and Pods by address.
    assert_eq!(dig(&client, &format!("-x {vip}")).await, [format!("9lives.{domain}.")]);
    let names = dig(&client, &format!("-x {one}")).await;
    assert!(names.contains(&endpoint), "{names:?}");
    assert_eq!(dig(&client, &format!("9lives.{domain}")).await, [vip]);
    assert_eq!(dig(&client, &format!("{}.default.pod.cluster.local", dashed(&two))).await, [two.as_str()]);
    assert_eq!(dig(&client, "-x 10.96.250.250").await, Vec::<String>::new());
    // D5: the change is in the next answer.
    let alias = json!({"type": "ExternalName", "externalName": "one.example", "ipFamilyPolicy": null});
    cluster.service("alias", alias).await;
    for target in ["one.example", "two.example"] {
        cluster.patch("/api/v1/namespaces/default/services/alias", json!({"spec": {"externalName": target}})).await;
        cluster.settled().await;
        assert_eq!(dig(&client, &format!("alias.{domain} CNAME")).await, [format!("{target}.")]);
    }
    // Gone is gone, by every name. Until then a Pod that ends is an endpoint like others where it is published.
    cluster.delete("/api/v1/namespaces/default/pods/web-2?gracePeriodSeconds=0").await;
    cluster.gone("/api/v1/namespaces/default/pods/web-2").await;
    cluster.settled().await;
    assert_eq!(dig(&client, &format!("all.{domain}")).await, [one]);
    assert_eq!(dig(&client, &format!("{}.default.pod.cluster.local", dashed(&two))).await, Vec::<String>::new());
    cluster.stop().await;
}

pub async fn resolv_conf_follows_policy_and_config_nm4_nm5_nm6() {
    let cluster = Cluster::start().await;
    let container = json!([{"name": "c", "image": "vipyard/host", "command": ["sleep", "infinity"]}]);
    let config = json!({"nameservers": ["192.0.2.1"], "searches": ["_a.example", "."],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    let many = json!({"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]});
    for (name, spec) in [
        ("first", json!({})),
        ("default", json!({"dnsPolicy": "Default"})),
        ("none", json!({"dnsPolicy": "None", "dnsConfig": config})),
        ("added", json!({"dnsConfig": config})),
        ("many", json!({"dnsConfig": many})),
    ] {
        let mut all = json!({"terminationGracePeriodSeconds": 0, "containers": container});
        json_patch::merge(&mut all, &spec);
        cluster.pod(name, all).await;
    }
    let resolv = async |name: &str| cluster.inside(name).await.sh("cat /etc/resolv.conf").await.1;
    let first = resolv("first").await;
    assert!(first.starts_with("search default.svc.cluster.local svc.cluster.local cluster.local"), "{first}");
    assert!(first.ends_with("nameserver 10.96.0.10\noptions ndots:5\n"), "{first}");
    let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers = |text: &str| text.lines().filter(|line| line.starts_with("nameserver")).count();
    let default = resolv("default").await;
    assert!(!default.contains("svc.cluster.local") && servers(&default) == servers(&host).min(3), "{default}");
    let none = resolv("none").await;
    assert_eq!(none, "search _a.example .\nnameserver 192.0.2.1\noptions ndots:2 edns0\n");
    let added = resolv("added").await;
    assert!(added.contains("\nnameserver 10.96.0.10\nnameserver 192.0.2.1\noptions ndots:2 edns0\n"), "{added}");
    // Over the limit: cut, and told.
    let many = resolv("many").await;
    assert!(servers(&many) == 3 && !many.contains("192.0.2.3"), "{many}");
    let said = eventually("an Event", async || {
        let events = cluster.get("/api/v1/namespaces/default/events").await;
        let events = events["items"].as_array().cloned().unwrap_or_default();
        let event = events.into_iter().find(|event| event["reason"] == "DNSConfigForming")?;
        (event["involvedObject"]["name"] == "many").then(|| event["message"].as_str().unwrap_or_default().to_owned())
    });
    assert!(said.await.starts_with("Nameserver limits were exceeded"));
    cluster.stop().await;
}
