//! How resolvers of different makes fare, and a Pod's own configuration.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use super::resolver_of;
use crate::cluster::{Cluster, Home, VIPYARD, eventually, run};
use crate::services::vips;

/// A program that prints what `getaddrinfo` says.
const GETADDRINFO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/netns/getaddrinfo.c");

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
