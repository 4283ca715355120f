//! Names of others: the resolvers of the flags, and those inside the cluster.

use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::process::Command;

use super::{addresses, resolver_at, resolver_of};
use crate::cluster::{Cluster, Home, VIPYARD, eventually, refused_up};

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
