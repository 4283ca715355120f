//! What a Service may say, what becomes of fields that its type has not, and what its writer is warned of.

use serde_json::{Value, json};

use crate::world::*;

const PATH: &str = "/api/v1/namespaces/default/services/web";

/// Creates the Service `web` with one port; `spec` is merged into its spec.
async fn create(world: &World, spec: Value) -> Answer {
    let mut all = json!({"ports": [{"port": 80}]});
    json_patch::merge(&mut all, &spec);
    world.post(SERVICES, service("web", all)).await
}

async fn change(world: &World, spec: Value) -> Answer {
    world.merge(PATH, json!({"spec": spec})).await
}

/// The world refuses each spec for its fields.
async fn refuses(world: &World, cases: &[(Value, &[&str])]) {
    for (spec, fields) in cases {
        create(world, spec.clone()).await.invalid(fields);
    }
}

#[tokio::test]
async fn load_balancer_without_node_ports_keeps_those_that_it_has_b7() {
    let world = World::start().await;
    let spec = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    let without = create(&world, spec).await.created();
    assert_eq!(without["spec"]["ports"][0].get("nodePort"), None);
    let with = change(&world, json!({"allocateLoadBalancerNodePorts": true})).await.ok();
    let port = with["spec"]["ports"][0]["nodePort"].clone();
    assert!(port.is_u64(), "{with}");
    let kept = change(&world, json!({"allocateLoadBalancerNodePorts": false})).await.ok();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
}

#[tokio::test]
async fn health_check_port_is_for_load_balancers_with_policy_local_b8() {
    let world = World::start().await;
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let port = create(&world, local).await.created()["spec"]["healthCheckNodePort"].clone();
    assert!((30000..=32767).contains(&port.as_u64().unwrap()), "{port}");
    change(&world, json!({"healthCheckNodePort": 31999})).await.invalid(&["spec.healthCheckNodePort"]);
    // A port that is taken is an error of the server, in the reference too.
    let same = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": port,
        "ports": [{"port": 80}]});
    world.post(SERVICES, service("other", same.clone())).await.refused(500, "InternalError");
    let mut cluster = same;
    cluster["externalTrafficPolicy"] = "Cluster".into();
    let status = world.post(SERVICES, service("other", cluster)).await.invalid(&["spec.healthCheckNodePort"]);
    assert!(message(&status).contains("may only be set when"), "{status}");
    // W1: with the policy the port goes, and another may have it.
    let wiped = change(&world, json!({"externalTrafficPolicy": "Cluster"})).await.ok();
    assert_eq!(wiped["spec"].get("healthCheckNodePort"), None);
    let heir = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]});
    world.post(SERVICES, service("heir", heir)).await.created();
}

#[tokio::test]
async fn type_change_clears_the_balancers_status_and_keeps_what_any_type_may_have_w2_w3_w4() {
    let world = World::start().await;
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb", "selector": {"app": "web"},
        "externalIPs": ["192.0.2.1"]});
    let before = create(&world, spec).await.created();
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}});
    world.merge(&format!("{PATH}/status"), status).await.ok();
    let plain = change(&world, json!({"type": "ClusterIP"})).await.ok();
    assert_eq!(plain["status"]["loadBalancer"], json!({}));
    for wiped in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
        assert_eq!(plain["spec"].get(wiped), None, "{wiped}");
    }
    for kept in ["selector", "externalIPs"] {
        assert_eq!(plain["spec"][kept], before["spec"][kept], "{kept}");
    }
    let name = change(&world, json!({"type": "ExternalName", "externalName": "example.com"})).await.ok();
    assert_eq!(name["spec"]["ports"][0]["port"], 80);
    assert_eq!(name["spec"]["selector"], before["spec"]["selector"]);
}

#[tokio::test]
async fn external_name_is_a_name_and_has_no_addresses_sv5() {
    let world = World::start().await;
    let named = |more: Value| {
        let mut spec = json!({"type": "ExternalName", "externalName": "example.com"});
        json_patch::merge(&mut spec, &more);
        spec
    };
    refuses(
        &world,
        &[
            (named(json!({"externalName": null})), &["spec.externalName"]),
            (named(json!({"externalName": "no_name.example"})), &["spec.externalName"]),
            (named(json!({"clusterIP": "10.96.0.9"})), &["spec.clusterIPs"]),
            (named(json!({"ipFamilies": ["IPv4"]})), &["spec.ipFamilies"]),
            (named(json!({"ipFamilyPolicy": "SingleStack"})), &["spec.ipFamilyPolicy"]),
        ],
    )
    .await;
    create(&world, named(json!({"externalName": "example.com.", "ports": null}))).await.created();
}

/// SV6, SV7, SV8: addresses, ranges and what is for load balancers alone.
#[tokio::test]
async fn external_addresses_and_ranges_are_checked() {
    let world = World::start().await;
    let balancer = |ranges: Value| json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges});
    let ip: &[&str] = &["spec.externalIPs[0]"];
    let range: &[&str] = &["spec.LoadBalancerSourceRanges[0]"];
    refuses(
        &world,
        &[
            (json!({"externalIPs": ["web.example"]}), ip),
            (json!({"externalIPs": ["0.0.0.0"]}), ip),
            (json!({"externalIPs": ["127.0.0.1"]}), ip),
            (json!({"externalIPs": ["fe80::1"]}), ip),
            (json!({"externalIPs": ["192.0.2.010"]}), ip),
            (json!({"externalIPs": ["::ffff:192.0.2.1"]}), ip),
            (balancer(json!(["192.0.2.0"])), range),
            (balancer(json!(["192.0.2.1/24"])), range),
            (balancer(json!(["::ffff:192.0.2.0/120"])), range),
            (json!({"loadBalancerSourceRanges": ["192.0.2.0/24"]}), &["spec.LoadBalancerSourceRanges"]),
            (json!({"allocateLoadBalancerNodePorts": true}), &["spec.allocateLoadBalancerNodePorts"]),
            (json!({"loadBalancerClass": "example.com/lb"}), &["spec.loadBalancerClass"]),
        ],
    )
    .await;
    let spec = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb",
        "loadBalancerSourceRanges": [" 192.0.2.0/24 ", "2001:db8::/32"]});
    create(&world, spec).await.created();
    change(&world, json!({"loadBalancerClass": "example.com/other"})).await.invalid(&["spec.loadBalancerClass"]);
}

/// SV9, SV10, SV11: choices of one of a few.
#[tokio::test]
async fn affinity_policies_and_distribution_are_one_of_a_few() {
    let world = World::start().await;
    let sticky = |seconds: i64| {
        let config = json!({"clientIP": {"timeoutSeconds": seconds}});
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config})
    };
    let timeout: &[&str] = &["spec.sessionAffinityConfig.clientIP.timeoutSeconds"];
    refuses(
        &world,
        &[
            (json!({"sessionAffinity": "Cookie"}), &["spec.sessionAffinity"]),
            (sticky(0), timeout),
            (sticky(86_401), timeout),
            (json!({"internalTrafficPolicy": "Node"}), &["spec.internalTrafficPolicy"]),
            (json!({"type": "NodePort", "externalTrafficPolicy": "Node"}), &["spec.externalTrafficPolicy"]),
            (json!({"externalTrafficPolicy": "Local"}), &["spec.externalTrafficPolicy"]),
            (json!({"trafficDistribution": "PreferMe"}), &["spec.trafficDistribution"]),
        ],
    )
    .await;
    let mut spec = sticky(86_400);
    let more = json!({"externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local",
        "internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameNode"});
    json_patch::merge(&mut spec, &more);
    create(&world, spec).await.created();
}

#[tokio::test]
async fn topology_annotations_must_agree_sv12() {
    let world = World::start().await;
    let annotated = |mode: &str, hints: &str| {
        let mut object = service("web", json!({"ports": [{"port": 80}]}));
        object["metadata"]["annotations"] =
            json!({"service.kubernetes.io/topology-mode": mode, "service.kubernetes.io/topology-aware-hints": hints});
        object
    };
    let field = ["metadata.annotations[service.kubernetes.io/topology-mode]"];
    world.post(SERVICES, annotated("Auto", "Disabled")).await.invalid(&field);
    world.post(SERVICES, annotated("Auto", "Auto")).await.created();
    world.put(PATH, annotated("Disabled", "Auto")).await.invalid(&field);
}

#[tokio::test]
async fn balancers_status_is_checked_and_conditions_are_kept_sv13_sv15_sv16() {
    let world = World::start().await;
    let status = format!("{PATH}/status");
    world.get(&status).await.refused(404, "NotFound");
    let ingress = |entry: Value| json!({"status": {"loadBalancer": {"ingress": [entry]}}});
    create(&world, json!({})).await.created();
    world.merge(&status, ingress(json!({"ip": "198.51.100.7"}))).await.invalid(&["status.loadBalancer.ingress"]);
    change(&world, json!({"type": "LoadBalancer"})).await.ok();
    for (entry, field) in [
        (json!({"ip": "balancer"}), "ip"),
        (json!({"ip": "198.51.100.7", "ipMode": "Other"}), "ipMode"),
        (json!({"hostname": "lb.example.com", "ipMode": "VIP"}), "ipMode"),
        (json!({"hostname": "198.51.100.7"}), "hostname"),
    ] {
        let field = format!("status.loadBalancer.ingress[0].{field}");
        world.merge(&status, ingress(entry)).await.invalid(&[&field]);
    }
    world.merge(&status, ingress(json!({"ip": "198.51.100.7", "ipMode": "Proxy"}))).await.ok();
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "reason": "E2E", "message": "set by a test",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    for kind in ["StatusUpdate", "Other"] {
        world.strategic(&status, json!({"status": {"conditions": [condition(kind)]}})).await.ok();
    }
    let mut conditions = world.get(&status).await.ok()["status"]["conditions"].as_array().unwrap().clone();
    conditions.sort_by_key(|condition| condition["type"].as_str().map(str::to_owned));
    assert_eq!(conditions, [condition("Other"), condition("StatusUpdate")]);
}

#[tokio::test]
async fn deprecated_and_ignored_fields_are_warned_of_sv14() {
    let world = World::start().await;
    let said = |answer: Answer| -> Vec<String> {
        let all = answer.headers.get_all("warning").iter().map(|value| value.to_str().unwrap());
        let bare = |text: &str| text.strip_prefix("299 - \"").unwrap().trim_end_matches('"').replace('\\', "");
        all.map(bare).collect()
    };
    let cases = [
        (json!({"trafficDistribution": "PreferSameZone"}), vec![]),
        (
            json!({"trafficDistribution": "PreferClose"}),
            vec![r#"spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone""#],
        ),
        (
            json!({"externalIPs": ["2001:DB8::1"]}),
            vec![
                r#"spec.externalIPs[0]: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#,
                "spec.externalIPs is deprecated",
            ],
        ),
        (
            json!({"externalName": "example.com"}),
            vec![r#"spec.externalName is ignored when spec.type is not "ExternalName"#],
        ),
        (
            json!({"clusterIP": "None", "loadBalancerIP": "192.0.2.1", "sessionAffinity": "ClientIP"}),
            vec![
                "spec.loadBalancerIP is ignored for headless services",
                "spec.SessionAffinity is ignored for headless services",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let answer = create(&world, spec.clone()).await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        assert_eq!(said(answer), expected.iter().map(|text| text.trim_end_matches('"')).collect::<Vec<_>>(), "{spec}");
        world.delete(PATH, json!({})).await.ok();
    }
    let range = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["2001:DB8::/32"]});
    let text = r#"spec.loadBalancerSourceRanges[0]: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952"#;
    assert!(said(create(&world, range).await)[0].starts_with(text));
    let mut object = service("web", json!({"type": "ExternalName", "externalName": "example.com"}));
    object["metadata"]["annotations"] = json!({"service.kubernetes.io/topology-aware-hints": "Auto"});
    object["spec"]["externalIPs"] = json!(["192.0.2.1"]);
    assert_eq!(
        said(world.put(PATH, object).await),
        [
            "annotation service.kubernetes.io/topology-aware-hints is deprecated, please use service.kubernetes.io/topology-mode instead",
            "spec.externalIPs is deprecated",
            r#"spec.externalIPs is ignored when spec.type is "ExternalName"#,
        ]
    );
}
