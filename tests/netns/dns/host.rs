//! Cluster DNS from the host: its loopback port, the command and the questions as they come.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::UdpSocket;

use super::addresses;
use crate::cluster::{Cluster, refused_up, vipyard};
use crate::services::vips;

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
