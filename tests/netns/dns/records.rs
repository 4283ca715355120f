//! What is answered about Services and Pods, as `getent` and `dig` see it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{addresses, resolver_of};
use crate::cluster::{Cluster, Home, VIPYARD};
use crate::inside::Inside;
use crate::services::vips;

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

pub async fn reverse_names_of_a_further_service_cidr_are_the_clusters_d4_sc3() {
    // A resolver that would give an answer to everything.
    let (upstream, task) = resolver_of(Some([192, 0, 2, 1])).await;
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data()).args(["--dns-upstream", &upstream.to_string()]);
    let cluster = Cluster::start_with(home, command).await;
    let client = cluster.client_pod("client", "n1").await;
    let status = async |address: &str| {
        let (_, out) = client.sh(&format!("dig -x {address}")).await;
        out.split_once("status: ").map(|(_, rest)| rest[..7].to_owned())
    };
    assert_eq!(status("10.200.0.8").await.as_deref(), Some("NOERROR"), "the resolver's");
    cluster.service_cidr("more", ["10.200.0.0/24", "fd00:200::/112"]).await;
    let ips = ["10.200.0.7", "fd00:200::7"];
    cluster.service("web", json!({"clusterIP": ips[0], "clusterIPs": ips})).await;
    cluster.settled().await;
    for ip in ips {
        assert_eq!(dig(&client, &format!("-x {ip}")).await, ["web.default.svc.cluster.local."]);
    }
    for free in ["10.200.0.8", "fd00:200::8"] {
        assert_eq!(status(free).await.as_deref(), Some("NXDOMAI"), "{free}");
    }
    cluster.stop().await;
    task.abort();
}
