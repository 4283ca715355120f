use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::cluster::{Cluster, ObjectKey};
use crate::cluster::{Mark, Progress};

fn service(name: &str, spec: Value) -> Service {
    let metadata = json!({"namespace": "default", "name": name, "uid": format!("uid-{name}"), "resourceVersion": "7"});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a Service")
}

/// A Service with port 80 at 10.96.0.1x.
fn web(extra: Value) -> Service {
    let mut spec = json!({
        "clusterIP": "10.96.0.11", "clusterIPs": ["10.96.0.11"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    });
    merge(&mut spec, extra);
    service("web", spec)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

fn slice(name: &str, of: &str, endpoints: Value) -> EndpointSlice {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": name, "resourceVersion": "9",
            "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
    .expect("an EndpointSlice")
}

fn node(name: &str, zone: Option<&str>) -> Node {
    let labels = zone.map_or(json!({}), |zone| json!({"topology.kubernetes.io/zone": zone}));
    serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels, "resourceVersion": "3"},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
        "status": {"addresses": [{"type": "Hostname", "address": name}, {"type": "InternalIP", "address": "10.245.0.11"}]},
    }))
    .expect("a Node")
}

fn compiler() -> Compiler {
    Compiler::new(&Network::default())
}

fn lookup<'a>(plan: &'a Plan, addr: &str, port: u16) -> Option<&'a Vip> {
    plan.vip(addr.parse().expect("an address"), Protocol::Tcp, port)
}

fn web_port(plan: &Plan) -> &ServicePort {
    &lookup(plan, "10.96.0.11", 80).expect("the VIP").service
}

/// The addresses that a policy allows at a node, with the kind of their list.
fn chosen(port: &ServicePort, scope: Scope, node: &str, zone: Option<&str>) -> (ListKind, Vec<String>) {
    let candidates = port.candidates(scope, node, zone);
    let addresses = candidates.indices.iter().map(|&i| port.endpoints()[i as usize].addr.ip().to_string());
    (candidates.kind, addresses.collect())
}

/// The plan of one Service and one slice with these endpoints.
fn plan_of(extra: Value, endpoints: Value) -> Arc<Plan> {
    let mut compiler = compiler();
    compiler.service_applied(&web(extra));
    compiler.slice_applied(&slice("web-1", "web", endpoints));
    compiler.plan()
}

#[test]
fn own_address_goes_before_an_external_ip_of_an_earlier_name() {
    let thief = service(
        "a",
        json!({"clusterIP": "10.96.0.12", "clusterIPs": ["10.96.0.12"], "externalIPs": ["10.96.0.11"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
    );
    for thief_first in [true, false] {
        let mut compiler = compiler();
        if thief_first {
            compiler.service_applied(&thief);
        }
        compiler.service_applied(&web(json!({})));
        if !thief_first {
            compiler.service_applied(&thief);
        }
        let plan = compiler.plan();
        assert_eq!(lookup(&plan, "10.96.0.11", 80).map(|vip| vip.via), Some(Via::ClusterIp));
        compiler.service_deleted(&ObjectKey::new("default", "web"));
        let plan = compiler.plan();
        assert_eq!(lookup(&plan, "10.96.0.11", 80).map(|vip| vip.via), Some(Via::ExternalIp));
    }
}

#[test]
fn vip_leads_to_endpoints_with_the_revisions_it_rests_on() {
    let plan = plan_of(
        json!({}),
        json!([{"addresses": ["10.244.1.2"], "nodeName": "n1", "zone": "a",
        "targetRef": {"kind": "Pod", "name": "web-0"}}]),
    );
    let port = web_port(&plan);
    assert_eq!((&*port.namespace, &*port.name, &*port.port_name, port.port), ("default", "web", "http", 80));
    assert_eq!((&*port.uid, port.revision), ("uid-web", 7));
    assert_eq!(port.slices[..], [SliceRef { name: "web-1".into(), revision: 9 }]);
    let endpoint = Endpoint {
        addr: "10.244.1.2:8080".parse().expect("an address"),
        node: Some("n1".into()),
        zone: Some("a".into()),
        pod: Some("web-0".into()),
        ready: true,
        serving: true,
        terminating: false,
    };
    assert_eq!(port.endpoints(), [endpoint]);
    assert_eq!(plan.epoch, 1);
    assert!(lookup(&plan, "10.96.0.11", 81).is_none());
    assert_eq!(plan.cluster_ip_owner("10.96.0.11".parse().expect("an address")).map(|s| &**s), Some("default/web"));
}

#[test]
fn s1_headless_and_external_name_services_are_not_proxied() {
    for spec in [
        json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"port": 80}]}),
        json!({"clusterIP": "", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "clusterIP": "10.96.0.11", "ports": [{"port": 80}]}),
    ] {
        let mut compiler = compiler();
        compiler.service_applied(&service("web", spec));
        assert_eq!(compiler.plan().vips().count(), 0);
    }
}

#[test]
fn s2_proxy_name_label_removes_rules_and_its_removal_restores_them() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    assert!(lookup(&compiler.plan(), "10.96.0.11", 80).is_some());
    let mut labelled = web(json!({}));
    labelled.metadata.labels = Some([("service.kubernetes.io/service-proxy-name".into(), String::new())].into());
    compiler.service_applied(&labelled);
    let plan = compiler.plan();
    assert!(lookup(&plan, "10.96.0.11", 80).is_none());
    assert!(plan.cluster_ip_owner("10.96.0.11".parse().expect("an address")).is_none());
    compiler.service_applied(&web(json!({})));
    assert!(lookup(&compiler.plan(), "10.96.0.11", 80).is_some());
}

#[test]
fn s3_headless_label_withdraws_a_slice() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    let mut of_web = slice("web-1", "web", json!([{"addresses": ["10.244.1.2"]}]));
    compiler.slice_applied(&of_web);
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 1);
    of_web.metadata.labels.get_or_insert_default().insert("service.kubernetes.io/headless".into(), String::new());
    compiler.slice_applied(&of_web);
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 0);
}

#[test]
fn s4_slice_follows_its_service_name_label() {
    let mut compiler = compiler();
    compiler.slice_applied(&slice("s", "web", json!([{"addresses": ["10.244.1.2"]}])));
    compiler.service_applied(&web(json!({})));
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 1);
    compiler.slice_applied(&slice("s", "other", json!([{"addresses": ["10.244.1.2"]}])));
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 0);
    compiler.slice_applied(&slice("s", "web", json!([{"addresses": ["10.244.1.2"]}])));
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 1);
    compiler.slice_applied(&slice("s", "", json!([{"addresses": ["10.244.1.2"]}])));
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 0);
}

#[test]
fn s5_f2_each_family_has_its_own_endpoints() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({"clusterIPs": ["10.96.0.11", "fd00:10:96::11"]})));
    compiler.slice_applied(&slice("four", "web", json!([{"addresses": ["10.244.1.2"]}])));
    let mut six = slice("six", "web", json!([{"addresses": ["fd00:10:244:1::2"]}]));
    six.address_type = "IPv6".into();
    compiler.slice_applied(&six);
    let mut names = slice("names", "web", json!([{"addresses": ["example.com"]}]));
    names.address_type = "FQDN".into();
    compiler.slice_applied(&names);
    let plan = compiler.plan();
    let only = |addr| lookup(&plan, addr, 80).expect("the VIP").service.endpoints()[0].addr.to_string();
    assert_eq!(only("10.96.0.11"), "10.244.1.2:8080");
    assert_eq!(only("fd00:10:96::11"), "[fd00:10:244:1::2]:8080");
    assert_eq!(web_port(&plan).endpoints().len(), 1);
}

#[test]
fn s6_s13_ports_match_by_name_and_protocol_and_go_alone() {
    let ports = json!({"ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]});
    let mut of_web = slice("web-1", "web", json!([{"addresses": ["10.244.1.2"]}]));
    of_web.ports = serde_json::from_value(json!([
        {"name": "dns", "port": 1053, "protocol": "UDP"},
        {"name": "dns", "port": 9, "protocol": "TCP"},
        {"name": "dns-tcp", "port": 2053, "protocol": "TCP"},
    ]))
    .expect("ports");
    let mut compiler = compiler();
    compiler.service_applied(&web(ports));
    compiler.slice_applied(&of_web);
    let plan = compiler.plan();
    let vip = "10.96.0.11".parse().expect("an address");
    let target = |plan: &Plan, protocol| {
        plan.vip(vip, protocol, 53).map(|found| found.service.endpoints().iter().map(|e| e.addr.port()).collect())
    };
    assert_eq!(target(&plan, Protocol::Udp), Some(vec![1053]));
    assert_eq!(target(&plan, Protocol::Tcp), Some(vec![2053]));
    compiler.service_applied(&web(json!({"ports": [{"name": "dns-tcp", "port": 53, "protocol": "TCP"}]})));
    let plan = compiler.plan();
    assert_eq!(target(&plan, Protocol::Udp), None);
    assert_eq!(target(&plan, Protocol::Tcp), Some(vec![2053]));
}

#[test]
fn s7_s8_nameless_ports_and_further_addresses_are_ignored() {
    let mut of_web = slice("web-1", "web", json!([{"addresses": ["10.244.1.2", "10.244.1.3"]}]));
    of_web.ports =
        serde_json::from_value(json!([{"port": 8080}, {"name": "http"}, {"name": "http", "port": 0}])).expect("ports");
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    compiler.slice_applied(&of_web);
    assert_eq!(web_port(&compiler.plan()).endpoints().len(), 0);
    of_web.ports = serde_json::from_value(json!([{"name": "http", "port": 8080}])).expect("ports");
    compiler.slice_applied(&of_web);
    let plan = compiler.plan();
    let found: Vec<SocketAddr> = web_port(&plan).endpoints().iter().map(|e| e.addr).collect();
    assert_eq!(found, ["10.244.1.2:8080".parse().expect("an address")]);
}

#[test]
fn s9_of_two_entries_the_one_that_is_not_terminating_wins() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    let leaving =
        json!([{"addresses": ["10.244.1.2"], "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    compiler.slice_applied(&slice("a", "web", leaving));
    compiler.slice_applied(&slice("b", "web", json!([{"addresses": ["10.244.1.2"]}])));
    let plan = compiler.plan();
    assert_eq!(web_port(&plan).endpoints().len(), 1);
    assert!(web_port(&plan).endpoints()[0].ready);
}

#[test]
fn s14_deleted_service_leaves_nothing_behind() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({"type": "NodePort", "externalIPs": ["192.0.2.1"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080}]})));
    let plan = compiler.plan();
    assert_eq!((plan.vips().count(), plan.node_ports().count()), (2, 1));
    compiler.service_deleted(&ObjectKey::new("default", "web"));
    let plan = compiler.plan();
    assert_eq!((plan.vips().count(), plan.node_ports().count()), (0, 0));
    assert!(plan.cluster_ip_owner("10.96.0.11".parse().expect("an address")).is_none());
}

#[test]
fn e1_terminating_endpoints_only_when_nothing_is_ready() {
    let leaving = json!({"addresses": ["10.244.1.2"], "nodeName": "n1",
        "conditions": {"ready": false, "serving": true, "terminating": true}});
    let gone =
        json!({"addresses": ["10.244.1.3"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let unready = json!({"addresses": ["10.244.1.4"], "conditions": {"ready": false, "serving": false}});
    let ready = json!({"addresses": ["10.244.1.5"]});
    let plan = plan_of(json!({}), json!([leaving, gone, unready, ready]));
    assert_eq!(chosen(web_port(&plan), Scope::Cluster, "n1", None), (ListKind::Cluster, vec!["10.244.1.5".into()]));
    let plan = plan_of(json!({}), json!([leaving, gone, unready]));
    let expected = (ListKind::ClusterTerminating, vec!["10.244.1.2".into()]);
    assert_eq!(chosen(web_port(&plan), Scope::Cluster, "n1", None), expected);
    // E3, E4: never the others, not even alone.
    let plan = plan_of(json!({}), json!([gone, unready]));
    assert!(!web_port(&plan).has_usable_endpoint());
}

#[test]
fn e2_local_list_falls_back_by_itself() {
    let plan = plan_of(
        json!({"internalTrafficPolicy": "Local"}),
        json!([
            {"addresses": ["10.244.1.2"], "nodeName": "n1", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.2.2"], "nodeName": "n2"},
            {"addresses": ["10.244.2.3"], "nodeName": "n2", "conditions": {"ready": false, "serving": true, "terminating": true}},
            {"addresses": ["10.244.9.9"]},
        ]),
    );
    let port = web_port(&plan);
    assert!(port.internal_local);
    assert_eq!(chosen(port, Scope::Local, "n1", None), (ListKind::LocalTerminating, vec!["10.244.1.2".into()]));
    assert_eq!(chosen(port, Scope::Local, "n2", None), (ListKind::Local, vec!["10.244.2.2".into()]));
    // S12: without node name an endpoint is local nowhere. E7: but it exists.
    assert_eq!(chosen(port, Scope::Local, "n3", None), (ListKind::Local, vec![]));
    assert!(port.has_usable_endpoint());
}

#[test]
fn t2_t3_t5_hints_choose_by_node_before_zone() {
    let hinted = |addr: &str, node: &str, zone: &str| json!({"addresses": [addr], "hints": {"forNodes": [{"name": node}], "forZones": [{"name": zone}]}});
    let plan = plan_of(json!({}), json!([hinted("10.244.1.2", "n1", "a"), hinted("10.244.2.2", "n2", "b")]));
    let port = web_port(&plan);
    assert_eq!(chosen(port, Scope::Cluster, "n1", Some("b")), (ListKind::HintedNode, vec!["10.244.1.2".into()]));
    assert_eq!(chosen(port, Scope::Cluster, "n3", Some("b")), (ListKind::HintedZone, vec!["10.244.2.2".into()]));
    let all = (ListKind::Cluster, vec!["10.244.1.2".to_owned(), "10.244.2.2".to_owned()]);
    assert_eq!(chosen(port, Scope::Cluster, "n3", Some("c")), all);
    // T6: a node without zone.
    assert_eq!(chosen(port, Scope::Cluster, "n3", None), all);
}

#[test]
fn t4_t7_one_ready_endpoint_without_hint_turns_the_mode_off() {
    let hinted = json!({"addresses": ["10.244.1.2"], "hints": {"forZones": [{"name": "a"}]}});
    let unready = json!({"addresses": ["10.244.1.3"], "conditions": {"ready": false}});
    let plan = plan_of(json!({}), json!([hinted, unready]));
    assert_eq!(chosen(web_port(&plan), Scope::Cluster, "n1", Some("a")).0, ListKind::HintedZone);
    let plan = plan_of(json!({}), json!([hinted, {"addresses": ["10.244.1.3"]}]));
    assert_eq!(chosen(web_port(&plan), Scope::Cluster, "n1", Some("a")).0, ListKind::Cluster);
}

#[test]
fn x11_external_policy_counts_only_with_external_exposure() {
    let local = |extra: Value| {
        let mut spec = json!({"externalTrafficPolicy": "Local"});
        merge(&mut spec, extra);
        web_port(&plan_of(spec, json!([]))).external_local
    };
    assert!(!local(json!({})));
    assert!(local(json!({"externalIPs": ["192.0.2.1"]})));
    assert!(local(json!({"ports": [{"name": "http", "port": 80, "nodePort": 30080}]})));
    // V6, F3: exposure in the other family is none.
    assert!(!local(json!({"externalIPs": ["2001:db8::1"]})));
}

#[test]
fn v2_load_balancer_entries_of_mode_proxy_and_hostnames_are_not_captured() {
    let mut balancer = web(json!({"type": "LoadBalancer"}));
    balancer.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "10.246.0.1"}, {"ip": "10.246.0.2", "ipMode": "VIP"}, {"ip": "10.246.0.3", "ipMode": "Proxy"},
        {"hostname": "lb.example"}]}}))
    .expect("a status");
    let mut compiler = compiler();
    compiler.service_applied(&balancer);
    let plan = compiler.plan();
    let via = |addr| lookup(&plan, addr, 80).map(|vip| vip.via);
    assert_eq!(via("10.96.0.11"), Some(Via::ClusterIp));
    assert_eq!(via("10.246.0.1"), Some(Via::LoadBalancer));
    assert_eq!(via("10.246.0.2"), Some(Via::LoadBalancer));
    assert_eq!(via("10.246.0.3"), None);
}

#[test]
fn v3_source_ranges_by_family() {
    let ranges = |ranges: Value| {
        let plan = plan_of(json!({"loadBalancerSourceRanges": ranges}), json!([]));
        web_port(&plan).source_ranges.as_ref().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert_eq!(ranges(json!([" 192.0.2.0/24 ", "2001:db8::/32"])), Some(vec!["192.0.2.0/24".to_owned()]));
    assert_eq!(ranges(json!(["2001:db8::/32"])), None);
    assert_eq!(ranges(json!(["192.0.2.0/24", "0.0.0.0/0"])), None);
    assert_eq!(ranges(json!([])), None);
}

#[test]
fn a3_affinity_timeout_and_its_default() {
    let affinity = |extra: Value| web_port(&plan_of(extra, json!([]))).affinity;
    assert_eq!(affinity(json!({"sessionAffinity": "None"})), None);
    assert_eq!(affinity(json!({"sessionAffinity": "ClientIP"})), Some(Duration::from_secs(10_800)));
    let config = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 5}}});
    assert_eq!(affinity(config), Some(Duration::from_secs(5)));
}

#[test]
fn two_services_with_one_external_ip_the_first_by_name_has_it() {
    let mut compiler = compiler();
    let spec =
        |ip: &str| json!({"clusterIP": ip, "clusterIPs": [ip], "externalIPs": ["192.0.2.1"], "ports": [{"port": 80}]});
    compiler.service_applied(&service("b", spec("10.96.0.12")));
    compiler.service_applied(&service("a", spec("10.96.0.13")));
    let owner =
        |compiler: &mut Compiler| lookup(&compiler.plan(), "192.0.2.1", 80).map(|vip| vip.service.name.to_string());
    assert_eq!(owner(&mut compiler), Some("a".into()));
    compiler.service_applied(&service("b", spec("10.96.0.12")));
    assert_eq!(owner(&mut compiler), Some("a".into()));
    compiler.service_deleted(&ObjectKey::new("default", "a"));
    assert_eq!(owner(&mut compiler), Some("b".into()));
    compiler.service_deleted(&ObjectKey::new("default", "b"));
    assert_eq!(owner(&mut compiler), None);
}

#[test]
fn plan_stays_the_same_when_nothing_changed_and_keeps_ids_when_something_did() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    compiler.node_applied(&node("n1", Some("a")));
    let first = compiler.plan();
    compiler.node_applied(&node("n1", Some("a")));
    assert!(Arc::ptr_eq(&first, &compiler.plan()));
    compiler.slice_applied(&slice("web-1", "web", json!([{"addresses": ["10.244.1.2"]}])));
    let second = compiler.plan();
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert_eq!(web_port(&first).id, web_port(&second).id);
    assert_eq!((web_port(&first).endpoints().len(), web_port(&second).endpoints().len()), (0, 1));
    // A Service of the same name later is another one.
    compiler.service_deleted(&ObjectKey::new("default", "web"));
    compiler.plan();
    compiler.service_applied(&web(json!({})));
    assert_ne!(web_port(&compiler.plan()).id, web_port(&first).id);
}

#[test]
fn sc3_addresses_of_every_service_cidr_are_service_space() {
    let mut compiler = compiler();
    let (own, further): (IpAddr, IpAddr) = ("10.96.7.7".parse().unwrap(), "10.50.0.9".parse().unwrap());
    let cidr = |name: &str, cidrs: Value| -> ServiceCIDR {
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}})).expect("a ServiceCIDR")
    };
    let first = compiler.plan();
    assert!(first.ranges().is_service(own) && !first.ranges().is_service(further));
    compiler.service_cidr_applied(&cidr("kubernetes", json!(["10.96.0.0/16"])));
    compiler.service_cidr_applied(&cidr("more", json!(["10.50.0.0/24", "fd00:50::/112"])));
    let plan = compiler.plan();
    assert!(plan.ranges().is_service(further) && plan.ranges().is_service("fd00:50::1".parse().unwrap()));
    assert_eq!(plan.epoch, first.epoch + 1);
    compiler.service_cidr_applied(&cidr("more", json!(["10.50.0.0/24", "fd00:50::/112"])));
    assert!(Arc::ptr_eq(&plan, &compiler.plan()));
    compiler.service_cidr_deleted("more");
    let last = compiler.plan();
    assert!(last.ranges().is_service(own) && !last.ranges().is_service(further));
}

#[test]
fn t8_nodes_have_addresses_ranges_and_zone() {
    let mut compiler = compiler();
    compiler.node_applied(&node("n1", None));
    assert_eq!(compiler.plan().node("n1").expect("the node").zone, None);
    compiler.node_applied(&node("n1", Some("a")));
    let plan = compiler.plan();
    let info = plan.node("n1").expect("the node");
    assert_eq!(info.zone.as_deref(), Some("a"));
    assert_eq!(info.addresses[..], ["10.245.0.11".parse::<IpAddr>().expect("an address")]);
    assert_eq!(info.pod_cidrs.len(), 2);
    compiler.node_deleted("n1");
    assert!(compiler.plan().node("n1").is_none());
}

#[test]
fn h2_h3_local_ready_endpoints_are_counted_by_address() {
    let mut compiler = compiler();
    compiler.service_applied(&web(json!({})));
    let mut of_web = slice(
        "web-1",
        "web",
        json!([
        {"addresses": ["10.244.1.2"], "nodeName": "n1"},
        {"addresses": ["10.244.1.3"], "nodeName": "n1", "conditions": {"ready": false, "terminating": true}},
        {"addresses": ["10.244.2.2"], "nodeName": "n2"}]),
    );
    of_web.ports =
        serde_json::from_value(json!([{"name": "http", "port": 1}, {"name": "http", "port": 2}])).expect("ports");
    compiler.slice_applied(&of_web);
    assert_eq!(web_port(&compiler.plan()).local_ready("n1").collect::<BTreeSet<_>>().len(), 1);
}

#[test]
fn a_change_costs_the_same_with_many_services() {
    let mut compiler = compiler();
    for n in 0..2000u32 {
        let ip = std::net::Ipv4Addr::from(0x0a60_0100 + n);
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]});
        compiler.service_applied(&service(&format!("s{n}"), spec));
    }
    compiler.service_applied(&web(json!({})));
    let before = compiler.plan();
    compiler.slice_applied(&slice("web-1", "web", json!([{"addresses": ["10.244.1.2"]}])));
    let after = compiler.plan();
    let same = before.vips().filter(|(key, vip)| {
        after.vip(key.addr, key.protocol, key.port).is_some_and(|other| Arc::ptr_eq(&other.service, &vip.service))
    });
    assert_eq!(same.count(), 2000);
}

#[tokio::test]
async fn driver_publishes_once_all_kinds_are_complete_and_then_each_change() {
    let (cluster, writers) = Cluster::new();
    let (plans, mut published) = mpsc::unbounded_channel();
    let (applied_tx, mut applied) = watch::channel(0);
    let informer = cluster.nodes.clone();
    let driver = tokio::spawn(run(cluster, Network::default(), move |plan| drop(plans.send(plan)), applied_tx));
    writers.services.replace(vec![web(json!({}))]);
    writers.nodes.replace(vec![node("n1", None)]);
    writers.service_cidrs.replace(Vec::new());
    writers.pods.replace(Vec::new());
    tokio::task::yield_now().await;
    assert!(published.try_recv().is_err());
    writers.slices.replace(vec![slice("web-1", "web", json!([{"addresses": ["10.244.1.2"]}]))]);
    let first = published.recv().await.expect("a plan");
    assert_eq!((first.epoch, web_port(&first).endpoints().len()), (1, 1));
    writers.slices.apply(slice("web-1", "web", json!([])));
    let second = published.recv().await.expect("a plan");
    assert_eq!((second.epoch, web_port(&second).endpoints().len()), (2, 0));
    applied.wait_for(|epoch| *epoch == 2).await.expect("the driver runs");
    // A change that does not matter to packets is no new plan, and who waits for it is told.
    writers.nodes.apply(node("n1", None));
    let (mark, gone) = Mark::new();
    informer.mark(&mark);
    drop(mark);
    gone.wait().await;
    assert!(published.try_recv().is_err());
    drop((writers, informer));
    driver.await.expect("the driver ends with its writers");
}

fn pod(ports: Value, status: Value) -> k8s_openapi::api::core::v1::Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": "default", "name": "p", "uid": "u", "resourceVersion": "5"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": ports}]},
        "status": status,
    }))
    .expect("a Pod")
}

#[test]
fn host_ports_are_captured_while_the_pod_has_an_address_p6() {
    let mut compiler = compiler();
    let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP"},
        {"containerPort": 81, "hostPort": 8081, "hostIP": "10.245.0.99"}, {"containerPort": 82}]);
    let running = json!({"phase": "Running", "podIPs": [{"ip": "10.244.1.2"}]});
    compiler.pod_applied(&pod(ports.clone(), running.clone()));
    assert_eq!(compiler.plan().vips().count(), 0, "its node is not known yet");
    compiler.node_applied(&node("n1", None));
    let plan = compiler.plan();
    let found = |port, protocol| plan.vip("10.245.0.11".parse().unwrap(), protocol, port);
    let vip = found(8080, Protocol::Tcp).expect("the port");
    assert_eq!((vip.via, vip.service.endpoints()[0].addr), (Via::HostPort, "10.244.1.2:80".parse().unwrap()));
    assert!(found(53, Protocol::Udp).is_some() && found(53, Protocol::Tcp).is_none());
    assert!(found(8081, Protocol::Tcp).is_none(), "the port of another address");
    assert_eq!(plan.vips().count(), 2);

    let epoch = plan.epoch;
    compiler.pod_applied(&pod(
        ports.clone(),
        json!({"phase": "Running", "message": "x", "podIPs": [{"ip": "10.244.1.2"}]}),
    ));
    assert_eq!(compiler.plan().epoch, epoch, "what does not matter makes no plan");
    compiler.pod_applied(&pod(ports.clone(), json!({"phase": "Succeeded", "podIPs": [{"ip": "10.244.1.2"}]})));
    assert_eq!(compiler.plan().vips().count(), 0);
    compiler.pod_applied(&pod(ports, running));
    assert_eq!(compiler.plan().vips().count(), 2);
    compiler.pod_deleted(&ObjectKey::new("default", "p"));
    assert_eq!(compiler.plan().vips().count(), 0);
}
