//! IPAddresses, ServiceCIDRs and the default IngressClass.

use serde_json::{Value, json};

use crate::world::*;

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const CIDRS: &str = "/apis/networking.k8s.io/v1/servicecidrs";
const CLASSES: &str = "/apis/networking.k8s.io/v1/ingressclasses";
const INGRESSES: &str = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";

fn at(ip: &str) -> Value {
    json!({"clusterIP": ip, "ports": [{"port": 80}]})
}

#[tokio::test]
async fn each_service_address_has_an_object_that_comes_back_sc6() {
    let world = World::with_controllers(0).await;
    let path = format!("{ADDRESSES}/10.96.0.77");
    world.post(SERVICES, service("web", at("10.96.0.77"))).await.created();
    let object = world.until(async || world.get(&path).await.found()).await;
    let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(object["spec"]["parentRef"], parent);
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(object["metadata"]["labels"], labels);
    world.delete(&path, json!({})).await.ok();
    let again = world.until(async || world.get(&path).await.found()).await;
    assert_ne!(again["metadata"]["uid"], object["metadata"]["uid"]);
    world.delete(&format!("{SERVICES}/web"), json!({})).await.ok();
    world.until(async || world.get(&path).await.found().is_none().then_some(())).await;
}

#[tokio::test]
async fn address_with_an_object_of_somebody_else_is_not_given_to_a_service() {
    let world = World::start().await;
    let parent = json!({"parentRef": {"resource": "things", "group": "example.com", "name": "x"}});
    let object = |name: &str, spec: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": name}, "spec": spec});
    world.post(ADDRESSES, object("010.96.0.78", parent.clone())).await.invalid(&["metadata.name"]);
    world.post(ADDRESSES, object("10.96.0.78", json!({}))).await.invalid(&["spec.parentRef"]);
    world.post(ADDRESSES, object("10.96.0.78", parent)).await.created();
    let refused = world.post(SERVICES, service("web", at("10.96.0.78"))).await.invalid(&["spec.clusterIPs"]);
    assert!(message(&refused).contains("provided IP is already allocated"), "{refused}");
    world.delete(&format!("{ADDRESSES}/10.96.0.78"), json!({})).await.ok();
    world.post(SERVICES, service("web", at("10.96.0.78"))).await.created();
}

#[tokio::test]
async fn further_service_cidr_widens_what_can_be_allocated_and_stays_while_needed_sc3_sc4() {
    let world = World::with_controllers(0).await;
    let own = world.until(async || world.get(&format!("{CIDRS}/kubernetes")).await.found()).await;
    assert_eq!(own["spec"]["cidrs"], json!(["10.96.0.0/16", "fd00:10:96::/112"]));
    world.post(SERVICES, service("web", at("10.200.0.5"))).await.invalid(&["spec.clusterIPs"]);

    let path = format!("{CIDRS}/more");
    let cidr = |cidrs: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
    world.post(CIDRS, cidr(json!(["10.200.0.1/24"]))).await.invalid(&["spec.cidrs[0]"]);
    world.post(CIDRS, cidr(json!(["10.200.0.0/24", "10.201.0.0/24"]))).await.invalid(&["spec.cidrs"]);
    world.post(CIDRS, cidr(json!(["10.200.0.0/24"]))).await.created();
    let ready = async |wanted: &str| {
        let object = world.get(&path).await.ok();
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == wanted).then_some(object)
    };
    let object = world.until(async || ready("True").await).await;
    assert_eq!(object["metadata"]["finalizers"], json!(["networking.k8s.io/service-cidr-finalizer"]));
    world.merge(&path, json!({"spec": {"cidrs": ["10.202.0.0/24"]}})).await.invalid(&["spec.cidrs[0]"]);
    world.post(SERVICES, service("web", at("10.200.0.5"))).await.created();

    world.delete(&path, json!({})).await.ok();
    world.until(async || ready("False").await).await;
    world.post(SERVICES, service("late", at("10.200.0.6"))).await.invalid(&["spec.clusterIPs"]);
}

/// SC4: an address that somebody else keeps holds the range, too.
#[tokio::test]
async fn service_cidr_stays_while_an_address_of_it_is_kept_sc4() {
    let world = World::with_controllers(0).await;
    let path = format!("{CIDRS}/more");
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": "more"},
        "spec": {"cidrs": ["10.200.0.0/24"]}});
    world.post(CIDRS, cidr).await.created();
    let condition = async || world.get(&path).await.ok()["status"]["conditions"][0].clone();
    world.until(async || (condition().await["status"] == "True").then_some(())).await;
    let address = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.200.0.9"},
        "spec": {"parentRef": {"resource": "things", "group": "example.com", "name": "x"}}});
    world.post(ADDRESSES, address).await.created();
    world.delete(&path, json!({})).await.ok();
    // What a condition always has is there even when it is empty.
    assert_eq!(condition().await["reason"], "");
    let held = world.until(async || Some(condition().await).filter(|found| found["status"] == "False")).await;
    assert_eq!(held["reason"], "Terminating");
    // The rest is the time that Services in the making have.
    world.delete(&format!("{ADDRESSES}/10.200.0.9"), json!({})).await.ok();
    world.until(async || world.get(&path).await.found().is_none().then_some(())).await;
}

#[tokio::test]
async fn ingress_without_a_class_gets_the_default_one_ig1() {
    let world = World::start().await;
    let ingress = |name: &str| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": name},
        "spec": {"defaultBackend": {"service": {"name": "web", "port": {"number": 80}}}}})
    };
    let plain = world.post(INGRESSES, ingress("plain")).await.created();
    assert_eq!(plain["spec"].get("ingressClassName"), None);
    for (name, default) in [("a", "false"), ("c", "true"), ("b", "true")] {
        let annotations = json!({"ingressclass.kubernetes.io/is-default-class": default});
        let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
            "metadata": {"name": name, "annotations": annotations}, "spec": {"controller": "example.com/x"}});
        world.post(CLASSES, class).await.created();
    }
    let classed = world.post(INGRESSES, ingress("classed")).await.created();
    // Of those made in the same second the first by name, else the newest: here both are one.
    assert_eq!(classed["spec"]["ingressClassName"], "b");
    let mut own = ingress("own");
    own["spec"]["ingressClassName"] = "mine".into();
    assert_eq!(world.post(INGRESSES, own).await.created()["spec"]["ingressClassName"], "mine");
}

/// SC6: whoever learns of the Service finds its address.
#[tokio::test]
async fn addresses_of_services_are_objects_from_the_first_moment_on() {
    let world = World::start().await;
    let made = world.post(SERVICES, service("web", json!({"ports": [{"port": 80}]}))).await.created();
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{address}");
    let object = world.get(&path).await.ok();
    assert_eq!(object["spec"]["parentRef"], json!({"resource": "services", "namespace": "default", "name": "web"}));
    assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], "IPv4");
    let number = |object: &Value| revision(object).parse::<u64>().unwrap();
    assert_eq!(number(&object) + 1, number(&made), "one commit");
    world.delete(&format!("{SERVICES}/web"), json!({})).await.ok();
    assert!(world.get(&path).await.found().is_none());
}

#[tokio::test]
async fn clients_of_endpoints_are_told_of_slices() {
    let world = World::start().await;
    let all = "/api/v1/namespaces/default/endpoints";
    let path = format!("{all}/web");
    let object = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}});
    let answers = [
        world.post(all, object.clone()).await,
        world.get(all).await,
        world.get(&path).await,
        world.put(&path, object).await,
        world.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await,
        world.delete(&path, json!({})).await,
        world.get(&path).await,
    ];
    for answer in answers {
        let warning = &answer.headers["warning"];
        assert_eq!(warning, "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"");
    }
    assert!(!world.get(SLICES).await.headers.contains_key("warning"));
}
