//! Addresses and node ports of Services, as the API gives them out.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use vipyard::config::{Network, StoreConfig};

use crate::world::*;

fn ports() -> Value {
    json!([{"port": 80}])
}

async fn create(world: &World, name: &str, spec: Value) -> Answer {
    let mut all = json!({"ports": ports()});
    json_patch::merge(&mut all, &spec);
    world.post(SERVICES, service(name, all)).await
}

#[tokio::test]
async fn service_gets_an_address_and_defaults_at_write_time() {
    let world = World::start().await;
    let spec = create(&world, "web", json!({"selector": {"app": "web"}})).await.created()["spec"].clone();
    let ip: std::net::Ipv4Addr = spec["clusterIP"].as_str().unwrap().parse().unwrap();
    assert!(Network::default().service_v4.contains(&ip), "{ip}");
    // B2: the lower band is for addresses that people choose.
    assert!(u32::from(ip) - u32::from(Network::default().service_v4.network()) >= 256, "{ip}");
    assert_eq!(
        spec,
        json!({"clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
}

#[tokio::test]
async fn chosen_address_is_refused_when_taken_or_outside_cf15() {
    let world = World::start().await;
    create(&world, "web", json!({"clusterIP": "10.96.0.50"})).await.created();
    let taken = create(&world, "other", json!({"clusterIP": "10.96.0.50"})).await.invalid(&["spec.clusterIPs"]);
    assert!(message(&taken).contains("failed to allocate IP 10.96.0.50: provided IP is already allocated"), "{taken}");
    let dns = create(&world, "other", json!({"clusterIP": "10.96.0.10"})).await.invalid(&["spec.clusterIPs"]);
    assert!(message(&dns).contains("already allocated"), "{dns}");
    for outside in ["192.168.1.1", "10.96.0.0", "10.96.255.255"] {
        create(&world, "other", json!({"clusterIP": outside})).await.invalid(&["spec.clusterIPs"]);
    }
}

#[tokio::test]
async fn address_of_a_deleted_service_can_be_had_again_w6() {
    let world = World::start().await;
    create(
        &world,
        "web",
        json!({"clusterIP": "10.96.0.50", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30050}]}),
    )
    .await
    .created();
    world.delete(&format!("{SERVICES}/web"), json!({})).await.ok();
    let again = json!({"clusterIP": "10.96.0.50", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30050}]});
    create(&world, "again", again).await.created();
}

#[tokio::test]
async fn refused_and_dry_writes_keep_no_address_cf14() {
    let world = World::start().await;
    let spec = json!({"clusterIP": "10.96.0.50", "type": "NodePort", "ports": [{"port": 80, "nodePort": 29999}]});
    create(&world, "web", spec).await.invalid(&["spec.ports[0].nodePort"]);
    let spec = json!({"clusterIP": "10.96.0.50", "ports": ports()});
    world.post(&format!("{SERVICES}?dryRun=All"), service("web", spec.clone())).await.created();
    create(&world, "web", spec).await.created();
    create(&world, "web", json!({"clusterIP": "10.96.0.51"})).await.refused(409, "AlreadyExists");
    create(&world, "other", json!({"clusterIP": "10.96.0.51"})).await.created();
}

#[tokio::test]
async fn full_range_says_what_to_do_and_goes_on_after_a_delete() {
    let network = Network { service_v4: "10.96.0.0/28".parse().unwrap(), ..Network::default() };
    let world = World::on(&StoreConfig::in_memory(), network).await;
    // 16 addresses less network and broadcast address, API and DNS.
    for number in 0..12 {
        create(&world, &format!("s{number}"), json!({})).await.created();
    }
    let status = create(&world, "more", json!({})).await.refused(500, "InternalError");
    assert!(message(&status).contains("range is full"), "{status}");
    world.delete(&format!("{SERVICES}/s3"), json!({})).await.ok();
    create(&world, "more", json!({})).await.created();
}

#[tokio::test]
async fn addresses_are_never_given_twice_under_concurrent_creates() {
    let world = World::start().await;
    let all = (0..64).map(async |number| {
        let spec = create(&world, &format!("s{number}"), json!({"type": "NodePort"})).await.created()["spec"].take();
        (spec["clusterIP"].to_string(), spec["ports"][0]["nodePort"].to_string())
    });
    let given = futures::future::join_all(all).await;
    assert_eq!(given.iter().map(|(ip, _)| ip).collect::<BTreeSet<_>>().len(), 64);
    assert_eq!(given.iter().map(|(_, port)| port).collect::<BTreeSet<_>>().len(), 64);
}

#[tokio::test]
async fn node_ports_are_allocated_chosen_and_refused_b4() {
    let world = World::start().await;
    let spec = create(&world, "any", json!({"type": "NodePort"})).await.created()["spec"].clone();
    assert!((30086..=32767).contains(&spec["ports"][0]["nodePort"].as_u64().unwrap()), "{spec}");
    assert_eq!(spec["externalTrafficPolicy"], "Cluster");
    let chosen = |port: u32| json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    create(&world, "chosen", chosen(30080)).await.created();
    let taken = create(&world, "other", chosen(30080)).await.invalid(&["spec.ports[0].nodePort"]);
    assert!(message(&taken).contains("Invalid value: 30080: provided port is already allocated"), "{taken}");
    let outside = create(&world, "other", chosen(80)).await.invalid(&["spec.ports[0].nodePort"]);
    let text = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert!(message(&outside).contains(text), "{outside}");
    // SV4.
    let forbidden = json!({"ports": [{"port": 80, "nodePort": 30081}]});
    create(&world, "other", forbidden).await.invalid(&["spec.ports[0].nodePort"]);
}

#[tokio::test]
async fn tcp_and_udp_of_one_port_share_their_node_port_b5() {
    let world = World::start().await;
    let ports = json!([{"name": "t", "port": 53, "protocol": "TCP"}, {"name": "u", "port": 53, "protocol": "UDP"}]);
    let spec = create(&world, "dns", json!({"type": "NodePort", "ports": ports})).await.created()["spec"].clone();
    assert_eq!(spec["ports"][0]["nodePort"], spec["ports"][1]["nodePort"]);
}

#[tokio::test]
async fn update_keeps_addresses_and_node_ports_b6_cf12() {
    let world = World::start().await;
    let before = create(&world, "web", json!({"type": "NodePort"})).await.created();
    let replaced = service("web", json!({"type": "NodePort", "ports": [{"port": 81}]}));
    let after = world.put(&format!("{SERVICES}/web"), replaced).await.ok();
    assert_eq!(after["spec"]["clusterIP"], before["spec"]["clusterIP"]);
    assert_eq!(after["spec"]["ports"][0]["nodePort"], before["spec"]["ports"][0]["nodePort"]);
    let moved = json!({"spec": {"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]}});
    let status = world.merge(&format!("{SERVICES}/web"), moved).await.refused(422, "Invalid");
    assert!(message(&status).contains("may not change once set"), "{status}");
}

#[tokio::test]
async fn change_of_type_wipes_what_the_new_type_has_not_w1() {
    let world = World::start().await;
    let before = create(&world, "web", json!({"type": "NodePort"})).await.created();
    let path = format!("{SERVICES}/web");
    let plain = world.merge(&path, json!({"spec": {"type": "ClusterIP"}})).await.ok();
    assert_eq!(plain["spec"]["ports"][0].get("nodePort"), None);
    assert_eq!(plain["spec"].get("externalTrafficPolicy"), None);
    // The released port can be had by another.
    let port = &before["spec"]["ports"][0]["nodePort"];
    create(&world, "next", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]})).await.created();
    let name = world.merge(&path, json!({"spec": {"type": "ExternalName", "externalName": "example.com"}})).await.ok();
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(name["spec"].get(field), None, "{field}");
    }
    create(&world, "heir", json!({"clusterIP": before["spec"]["clusterIP"]})).await.created();
}

#[tokio::test]
async fn dual_stack_service_has_an_address_of_each_family() {
    let world = World::start().await;
    let policy = json!({"ipFamilyPolicy": "RequireDualStack"});
    let spec = create(&world, "dual", policy).await.created()["spec"].clone();
    assert_eq!(spec["ipFamilies"], json!(["IPv4", "IPv6"]));
    let ips: Vec<std::net::IpAddr> = serde_json::from_value(spec["clusterIPs"].clone()).unwrap();
    assert!(ips[0].is_ipv4() && ips[1].is_ipv6(), "{ips:?}");
    assert_eq!(spec["clusterIP"], spec["clusterIPs"][0]);

    let six = create(&world, "six", json!({"ipFamilies": ["IPv6"]})).await.created()["spec"].clone();
    assert!(six["clusterIP"].as_str().unwrap().starts_with("fd00:10:96::"), "{six}");
    assert_eq!(six["ipFamilyPolicy"], "SingleStack");

    // CF9, CF10: a family comes and goes by the policy.
    let path = format!("{SERVICES}/dual");
    let single = world.merge(&path, json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await.ok();
    assert_eq!(single["spec"]["clusterIPs"], json!([spec["clusterIP"]]));
    let dual = world.merge(&path, json!({"spec": {"ipFamilyPolicy": "PreferDualStack"}})).await.ok();
    assert_eq!(dual["spec"]["clusterIPs"].as_array().unwrap().len(), 2);
    // CF8, CF6, CF7.
    let families = json!({"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]});
    create(&world, "bad", families).await.invalid(&["spec.ipFamilyPolicy"]);
    create(&world, "bad", json!({"clusterIPs": ["10.96.0.60"]})).await.invalid(&["spec.clusterIPs"]);
    create(&world, "bad", json!({"clusterIP": "nonsense"})).await.invalid(&["spec.clusterIPs[0]"]);
}

#[tokio::test]
async fn headless_service_has_no_address_and_keeps_none() {
    let world = World::start().await;
    let spec =
        create(&world, "peers", json!({"clusterIP": "None", "selector": {"a": "b"}})).await.created()["spec"].clone();
    assert_eq!((&spec["clusterIP"], &spec["clusterIPs"]), (&json!("None"), &json!(["None"])));
    // CF3: without a selector both families are prepared.
    let bare = create(&world, "bare", json!({"clusterIP": "None"})).await.created()["spec"].clone();
    assert_eq!(bare["ipFamilies"], json!(["IPv4", "IPv6"]));
    let headless_port = json!({"clusterIP": "None", "type": "NodePort"});
    create(&world, "bad", headless_port).await.invalid(&["spec.clusterIPs[0]"]);
}

#[tokio::test]
async fn ports_are_validated_with_their_paths_sv2_sv3() {
    let world = World::start().await;
    let refuse = async |ports: Value, fields: &[&str]| {
        world.post(SERVICES, service("bad", json!({"ports": ports}))).await.invalid(fields)
    };
    refuse(json!([]), &["spec.ports"]).await;
    refuse(json!([{"port": 0}]), &["spec.ports[0].port", "spec.ports[0].targetPort"]).await;
    refuse(json!([{"port": 80}, {"port": 81}]), &["spec.ports[0].name", "spec.ports[1].name"]).await;
    refuse(json!([{"port": 80, "protocol": "ICMP"}]), &["spec.ports[0].protocol"]).await;
    refuse(json!([{"port": 80, "targetPort": "not--good"}]), &["spec.ports[0].targetPort"]).await;
    let twice = json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]);
    let status = refuse(twice, &["spec.ports[1]"]).await;
    assert_eq!(status["details"]["causes"][0]["reason"], "FieldValueDuplicate");
}
