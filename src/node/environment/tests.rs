use super::*;
use serde_json::json;

fn service(value: serde_json::Value) -> Service {
    serde_json::from_value(value).unwrap()
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn service_contributes_host_ports_and_urls_ev2_ev3() {
    let redis = service(json!({
        "metadata": {"name": "redis-primary"},
        "spec": {"clusterIP": "10.0.0.11", "ports": [
            {"name": "client-tls", "port": 6379, "protocol": "TCP"}, {"name": "gossip", "port": 7000, "protocol": "UDP"}]}
    }));
    assert_eq!(
        service_variables([&redis]),
        map(&[
            ("REDIS_PRIMARY_SERVICE_HOST", "10.0.0.11"),
            ("REDIS_PRIMARY_SERVICE_PORT", "6379"),
            ("REDIS_PRIMARY_SERVICE_PORT_CLIENT_TLS", "6379"),
            ("REDIS_PRIMARY_SERVICE_PORT_GOSSIP", "7000"),
            ("REDIS_PRIMARY_PORT", "tcp://10.0.0.11:6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP", "tcp://10.0.0.11:6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP_PROTO", "tcp"),
            ("REDIS_PRIMARY_PORT_6379_TCP_PORT", "6379"),
            ("REDIS_PRIMARY_PORT_6379_TCP_ADDR", "10.0.0.11"),
            ("REDIS_PRIMARY_PORT_7000_UDP", "udp://10.0.0.11:7000"),
            ("REDIS_PRIMARY_PORT_7000_UDP_PROTO", "udp"),
            ("REDIS_PRIMARY_PORT_7000_UDP_PORT", "7000"),
            ("REDIS_PRIMARY_PORT_7000_UDP_ADDR", "10.0.0.11"),
        ])
    );
}

#[test]
fn ipv6_urls_have_brackets_and_headless_gives_nothing_ev3() {
    let v6 = service(json!({"metadata": {"name": "a"}, "spec": {"clusterIP": "fd00::1", "ports": [{"port": 80}]}}));
    let headless = service(json!({"metadata": {"name": "b"}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}}));
    let external =
        service(json!({"metadata": {"name": "c"}, "spec": {"type": "ExternalName", "ports": [{"port": 80}]}}));
    let env = service_variables([&v6, &headless, &external]);
    assert_eq!(env["A_PORT"], "tcp://[fd00::1]:80");
    assert_eq!(env["A_SERVICE_HOST"], "fd00::1");
    assert!(env.keys().all(|name| name.starts_with("A_")), "{env:?}");
}

#[test]
fn expansion_knows_names_escapes_and_leaves_the_rest_ev4() {
    let env = map(&[("IP", "10.1.2.3")]);
    assert_eq!(expand("http://$(IP):80", &env), "http://10.1.2.3:80");
    assert_eq!(expand("$$(dig +short x)", &env), "$(dig +short x)");
    assert_eq!(expand("$(NO) $IP $", &env), "$(NO) $IP $");
    assert_eq!(expand("$$$(IP) $(unclosed", &env), "$10.1.2.3 $(unclosed");
}

#[test]
fn explicit_variables_win_and_see_earlier_ones_ev1_ev4_ev5() {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "shop", "uid": "u", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": []}
    }))
    .unwrap();
    let container: Container = serde_json::from_value(json!({
        "name": "c",
        "resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}},
        "envFrom": [{"prefix": "CFG_", "configMapRef": {"name": "conf"}}],
        "env": [
            {"name": "WEB_SERVICE_HOST", "value": "mine"},
            {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "URL", "value": "http://$(WEB_SERVICE_HOST)/$(IPS)"},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
            {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
            {"name": "DISK", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1Mi"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}}
        ]
    }))
    .unwrap();
    let conf: ConfigMap = serde_json::from_value(json!({"data": {"colour": "blue"}})).unwrap();
    let conf = Arc::new(conf);
    let sources = Sources {
        pod: &pod,
        pod_ips: &["10.244.1.2".to_owned(), "fd00::2".to_owned()],
        host_ips: &[],
        storage: 3 << 20,
        config_map: &|name| (name == "conf").then(|| Arc::clone(&conf)),
        secret: &|_| None,
    };
    let env = container_env(map(&[("WEB_SERVICE_HOST", "10.96.0.5")]), &container, &sources).unwrap();
    assert_eq!(
        env,
        map(&[
            ("WEB_SERVICE_HOST", "mine"),
            ("IPS", "10.244.1.2,fd00::2"),
            ("APP", "web"),
            ("URL", "http://mine/10.244.1.2,fd00::2"),
            ("CPU", "2"),
            ("MEM", "64"),
            ("DISK", "3"),
            ("CFG_colour", "blue"),
        ])
    );
    let missing = Sources { config_map: &|_| None, ..sources };
    let error = container_env(BTreeMap::new(), &container, &missing).unwrap_err();
    assert_eq!(error.to_string(), r#"configmap "conf" not found"#);
}

#[test]
fn service_of_the_namespace_stands_before_the_clusters_of_the_same_name_ev1() {
    let named =
        |name: &str, ip: &str| Arc::new(service(json!({"metadata": {"name": name}, "spec": {"clusterIP": ip}})));
    let told = |own| -> Vec<String> {
        let all: Vec<Arc<Service>> = told_services(own, Some(named("kubernetes", "10.96.0.1")));
        all.iter().filter_map(|service| service.spec.as_ref()?.cluster_ip.clone()).collect()
    };
    assert_eq!(told(vec![named("web", "10.96.0.7")]), ["10.96.0.7", "10.96.0.1"]);
    assert_eq!(told(vec![named("kubernetes", "10.96.0.8")]), ["10.96.0.8"]);
    assert_eq!(told(vec![named("kubernetes", "None")]), ["None", "10.96.0.1"]);
}
