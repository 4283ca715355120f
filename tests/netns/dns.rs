//! Names, as programs in Pods look them up.

use std::collections::BTreeSet;

use serde_json::json;

use crate::cluster::Cluster;
use crate::inside::Inside;
use crate::services::vips;

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
