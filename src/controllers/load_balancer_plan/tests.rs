use serde_json::{Value, json};

use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

fn service(spec: Value) -> Service {
    let mut all = json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"]});
    json_patch::merge(&mut all, &spec);
    serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": all})).expect("a Service")
}

fn showing(spec: Value, ips: &[&str]) -> Service {
    let mut service = service(spec);
    let ips: Vec<IpAddr> = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    service.status = serde_json::from_value(json!({"loadBalancer": {"ingress": ingress(&ips)}})).unwrap();
    service
}

fn pool(v4: &str) -> Pool {
    Pool::new(&Network { lb_v4: v4.parse().unwrap(), ..Network::default() })
}

fn texts(result: Result<(Vec<IpAddr>, bool), Refused>) -> Vec<String> {
    result.expect("addresses").0.iter().map(ToString::to_string).collect()
}

#[test]
fn each_family_gets_its_lowest_free_address_and_keeps_it() {
    let mut pool = pool("10.246.0.0/24");
    let dual = service(json!({"ipFamilies": ["IPv6", "IPv4"]}));
    assert_eq!(texts(pool.assign(&key("a"), &dual)), ["fd00:10:246::1", "10.246.0.1"]);
    assert_eq!(texts(pool.assign(&key("b"), &service(json!({})))), ["10.246.0.2"]);
    assert_eq!(texts(pool.assign(&key("a"), &dual)), ["fd00:10:246::1", "10.246.0.1"]);
    // The second family goes: its address is free for others.
    let (left, freed) = pool.assign(&key("a"), &service(json!({}))).unwrap();
    assert_eq!((left, freed), (vec!["10.246.0.1".parse().unwrap()], true));
    assert!(pool.release(&key("a")));
    assert!(!pool.release(&key("a")));
    assert_eq!(texts(pool.assign(&key("c"), &dual)), ["fd00:10:246::1", "10.246.0.1"]);
}

#[test]
fn network_and_broadcast_addresses_are_nobodys_and_a_full_pool_says_what_to_do() {
    let mut pool = pool("10.246.0.0/30");
    let plain = service(json!({}));
    assert_eq!(texts(pool.assign(&key("a"), &plain)), ["10.246.0.1"]);
    assert_eq!(texts(pool.assign(&key("b"), &plain)), ["10.246.0.2"]);
    let refused = pool.assign(&key("c"), &plain).unwrap_err();
    assert_eq!(refused, Refused::Exhausted("10.246.0.0/30".parse().unwrap()));
    assert!(refused.to_string().contains("--lb-cidr"), "{refused}");
    pool.release(&key("a"));
    assert_eq!(texts(pool.assign(&key("c"), &plain)), ["10.246.0.1"]);
}

#[test]
fn asked_address_is_given_when_it_is_free_and_in_the_pool() {
    let mut pool = pool("10.246.0.0/24");
    let asking = |ip: &str| service(json!({"loadBalancerIP": ip}));
    assert_eq!(texts(pool.assign(&key("a"), &asking("10.246.0.7"))), ["10.246.0.7"]);
    let taken = Refused::Taken { address: "10.246.0.7".parse().unwrap(), owner: key("a") };
    assert_eq!(pool.assign(&key("b"), &asking("10.246.0.7")).unwrap_err(), taken);
    for bad in ["10.246.0.0", "10.246.0.255", "192.0.2.1", "nonsense"] {
        let refused = pool.assign(&key("b"), &asking(bad)).unwrap_err();
        assert!(matches!(refused, Refused::NotInPool { .. }), "{bad}: {refused}");
    }
    let refused = pool.assign(&key("b"), &asking("fd00:10:246::7")).unwrap_err();
    assert_eq!(refused, Refused::OtherFamily("fd00:10:246::7".parse().unwrap()));
    // It moves when it asks for another, and stays where it is when that is not to be had.
    assert_eq!(texts(pool.assign(&key("a"), &asking("10.246.0.8"))), ["10.246.0.8"]);
    assert!(pool.assign(&key("a"), &asking("192.0.2.1")).is_err());
    assert_eq!(pool.held(&key("a")), ["10.246.0.8".parse::<IpAddr>().unwrap()]);
    assert_eq!(texts(pool.assign(&key("b"), &asking("10.246.0.7"))), ["10.246.0.7"]);
}

#[test]
fn addresses_of_an_earlier_run_stay_and_the_elder_of_two_has_a_shared_one() {
    let mut pool = pool("10.246.0.0/24");
    pool.adopt(&key("elder"), &showing(json!({}), &["10.246.0.9", "192.0.2.1"]));
    pool.adopt(&key("younger"), &showing(json!({}), &["10.246.0.9"]));
    assert_eq!(texts(pool.assign(&key("elder"), &service(json!({})))), ["10.246.0.9"]);
    assert_eq!(texts(pool.assign(&key("younger"), &service(json!({})))), ["10.246.0.1"]);
}

#[test]
fn class_type_and_finalizer_say_whose_a_service_is() {
    let with = |spec: Value, metadata: Value| {
        let mut service = service(spec);
        service.metadata = serde_json::from_value(metadata).unwrap();
        (is_wanted(&service), needs_cleanup(&service))
    };
    let deleted = json!({"finalizers": [FINALIZER], "deletionTimestamp": "2024-01-01T00:00:00Z"});
    assert_eq!(with(json!({}), json!({})), (true, false));
    assert_eq!(with(json!({"loadBalancerClass": LOAD_BALANCER_CLASS}), json!({})), (true, false));
    assert_eq!(with(json!({"loadBalancerClass": "example.com/lb"}), json!({})), (false, false));
    assert_eq!(with(json!({}), deleted.clone()), (false, true));
    assert_eq!(with(json!({"loadBalancerClass": "example.com/lb"}), deleted), (false, false));
    assert_eq!(with(json!({"type": "ClusterIP"}), json!({"finalizers": [FINALIZER]})), (false, true));
    assert_eq!(with(json!({"type": "ClusterIP"}), json!({})), (false, false));
}
