use serde_json::{Value, json};

use super::*;

fn facts(service: Value, endpoints: &[(&str, &str)], host: HostReach) -> Facts {
    let mut object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
        "clusterIPs": ["10.96.0.11"], "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}});
    json_patch::merge(&mut object, &service);
    let all: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    let slice =
        json!({"metadata": {}, "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": all});
    let node = |name: &str, ip: &str| {
        let addresses = json!([{"type": "InternalIP", "address": ip}, {"type": "InternalIP", "address": "fd00::1"},
            {"type": "Hostname", "address": name}]);
        serde_json::from_value(json!({"metadata": {"name": name}, "status": {"addresses": addresses}})).unwrap()
    };
    Facts {
        service: serde_json::from_value(object).unwrap(),
        slices: vec![serde_json::from_value(slice).unwrap()],
        nodes: vec![node("n1", "10.245.0.11"), node("n2", "10.245.0.12")],
        events: Vec::new(),
        host,
        shut: Vec::new(),
    }
}

fn balancer(spec: Value) -> Value {
    let mut all = json!({"type": "LoadBalancer", "ports": [{"name": "http", "port": 80, "nodePort": 30080}]});
    json_patch::merge(&mut all, &spec);
    json!({"spec": all, "status": {"loadBalancer": {"ingress": [{"ip": "10.246.0.1", "ipMode": "VIP"}]}}})
}

fn addresses(ways: &[Way]) -> Vec<&str> {
    ways.iter().map(|way| way.address.as_str()).collect()
}

const READY: &[(&str, &str)] = &[("10.244.2.2", "n2")];

#[test]
fn connected_host_dials_what_pods_dial() {
    let ways = of(&facts(balancer(json!({})), READY, HostReach::Device));
    let all = ["10.96.0.11:80", "10.246.0.1:80", "10.245.0.11:30080", "10.245.0.12:30080"];
    assert_eq!(addresses(&ways.host), all);
    assert_eq!(addresses(&ways.pod), [&["web.default.svc.cluster.local:80"], &all[..]].concat());
    assert_eq!(addresses(&ways.browser), ["http://10.246.0.1:80/"]);
    assert_eq!(ways.notes, [""; 0]);
}

#[test]
fn ordinary_users_host_has_the_loopback_as_far_as_ports_could_be_had() {
    let mut facts = facts(balancer(json!({})), READY, HostReach::Loopback);
    let ways = of(&facts);
    assert_eq!(addresses(&ways.host), ["127.0.0.1:80", "127.0.0.1:30080"]);
    assert_eq!(addresses(&ways.browser), ["http://127.0.0.1:80/"]);
    let message = "Port 80/TCP of 127.0.0.1 does not lead to this Service, it takes privilege";
    facts.shut.push(ShutDoor { port: 80, protocol: "TCP".into(), message: message.into() });
    let ways = of(&facts);
    assert_eq!(addresses(&ways.host), ["127.0.0.1:30080"]);
    assert_eq!(addresses(&ways.browser), ["http://127.0.0.1:30080/"]);
    assert!(ways.notes[0].contains("takes root") && ways.notes.iter().any(|note| note == message), "{:?}", ways.notes);

    let plain = of(&self::facts(json!({}), READY, HostReach::Loopback));
    assert!(plain.host.is_empty() && plain.browser.is_empty());
    assert!(plain.notes[0].contains("NodePort or LoadBalancer"), "{:?}", plain.notes);
}

#[test]
fn notes_say_what_does_not_work_and_what_to_do() {
    let nobody = of(&facts(json!({}), &[], HostReach::Device));
    assert_eq!(
        nobody.notes,
        ["it has no ready endpoint, so connections are refused: see `kubectl get pods -n default -l app=web`"]
    );
    let local = of(&facts(balancer(json!({"externalTrafficPolicy": "Local"})), READY, HostReach::Device));
    assert_eq!(addresses(&local.host), ["10.96.0.11:80", "10.246.0.1:80", "10.245.0.12:30080"]);
    assert_eq!(local.notes, ["externalTrafficPolicy Local: only node ports of n2 answer"]);
    let ranges = of(&facts(balancer(json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]})), READY, HostReach::Device));
    assert!(ranges.notes[0].contains("192.0.2.0/24 alone"), "{:?}", ranges.notes);

    let mut pending = facts(json!({"spec": {"type": "LoadBalancer"}}), READY, HostReach::Device);
    assert_eq!(of(&pending).notes, ["it has no load-balancer address yet"]);
    let event = json!({"metadata": {}, "involvedObject": {}, "reason": "SyncLoadBalancerFailed", "message": "why"});
    pending.events.push(serde_json::from_value(event).unwrap());
    assert_eq!(of(&pending).notes, ["why"]);
}

#[test]
fn headless_services_are_their_pods_and_external_names_their_target() {
    let headless = of(&facts(json!({"spec": {"clusterIPs": ["None"]}}), READY, HostReach::Device));
    assert_eq!(addresses(&headless.pod), ["web.default.svc.cluster.local:8080", "10.244.2.2:8080"]);
    assert_eq!(addresses(&headless.host), ["10.244.2.2:8080"]);
    let name = json!({"spec": {"type": "ExternalName", "externalName": "db.example.com", "clusterIPs": null}});
    let name = of(&facts(name, &[], HostReach::Device));
    assert_eq!(addresses(&name.pod), ["web.default.svc.cluster.local"]);
    assert!(name.host.is_empty() && name.notes[0].contains("db.example.com"));
}

#[test]
fn headless_service_has_the_ports_of_its_slices_alone_es4_s6_s7() {
    let headless = json!({"spec": {"clusterIPs": ["None"], "ports": [{"name": "http", "port": 80},
        {"name": "https", "port": 443}, {"name": "dns", "port": 53}]}});
    let mut facts = facts(headless, READY, HostReach::Device);
    // One protocol off, and one without a number.
    let ports =
        json!([{"name": "https"}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "http", "port": 81}]);
    let other = json!({"metadata": {}, "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": ["10.244.1.3"], "nodeName": "n1"}]});
    facts.slices.push(serde_json::from_value(other).unwrap());
    let ways = of(&facts);
    let name = "web.default.svc.cluster.local";
    let pods = ["10.244.2.2:8080", "10.244.1.3:81"];
    assert_eq!(addresses(&ways.pod), [&format!("{name}:81"), &format!("{name}:8080"), pods[0], pods[1]]);
    assert_eq!(addresses(&ways.host), pods);
    facts.slices.clear();
    assert_eq!(addresses(&of(&facts).pod), [name], "no port is known without a Pod");
}

#[test]
fn sctp_is_left_out_with_a_note_f1() {
    let ports = json!([{"name": "http", "port": 80}, {"name": "sctp", "port": 9, "protocol": "SCTP"}]);
    let ways = of(&facts(json!({"spec": {"ports": ports}}), READY, HostReach::Device));
    assert_eq!(addresses(&ways.pod), ["web.default.svc.cluster.local:80", "10.96.0.11:80"]);
    assert_eq!(ways.notes, ["SCTP is not carried to Services, so port 9 is left out"]);
}

#[test]
fn family_without_endpoints_is_told_and_not_offered_to_the_browser() {
    let both = json!({"spec": {"clusterIPs": ["fd00:10:96::b", "10.96.0.11"]}});
    let ways = of(&facts(both, READY, HostReach::Device));
    assert_eq!(addresses(&ways.host), ["[fd00:10:96::b]:80", "10.96.0.11:80"]);
    assert_eq!(addresses(&ways.browser), ["http://10.96.0.11:80/"]);
    let [note] = &ways.notes[..] else { panic!("{:?}", ways.notes) };
    assert!(note.starts_with("it has no ready endpoint of IPv6, so connections to fd00:10:96::b and"), "{note}");
}

#[test]
fn browser_is_offered_tcp_alone_and_https_where_the_port_says_so() {
    let ports =
        json!({"spec": {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "https", "port": 8443}]}});
    let ways = of(&facts(ports, READY, HostReach::Device));
    assert_eq!(addresses(&ways.browser), ["https://10.96.0.11:8443/"]);
}
