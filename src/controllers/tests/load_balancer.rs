//! Addresses for Services of type LoadBalancer, through the API.

use super::*;

const SERVICES: &str = "/api/v1/namespaces/default/services";
const EVENTS: &str = "/api/v1/namespaces/default/events";

impl World {
    async fn ingress(&self, service: &str) -> Vec<String> {
        let object = self.get(&format!("{SERVICES}/{service}")).await.unwrap_or_default();
        let entries = object["status"]["loadBalancer"]["ingress"].as_array().cloned().unwrap_or_default();
        assert!(entries.iter().all(|entry| entry["ipMode"] == "VIP"), "{entries:?}");
        entries.iter().map(|entry| entry["ip"].as_str().unwrap().to_owned()).collect()
    }

    async fn until_ingress(&self, service: &str, ips: &[&str]) {
        let what = format!("addresses {ips:?} of {service}");
        self.until_async(&what, async || (self.ingress(service).await == ips).then_some(())).await;
    }

    /// Waits for an Event on a Service and returns its message.
    async fn event(&self, service: &str, reason: &str) -> String {
        let find = async || {
            let events = self.list(EVENTS).await;
            let found = events.iter().find(|e| e["reason"] == reason && e["involvedObject"]["name"] == service);
            found.map(|event| event["message"].as_str().unwrap().to_owned())
        };
        self.until_async(&format!("event {reason} of {service}"), find).await
    }

    async fn finalizers(&self, service: &str) -> Value {
        self.get(&format!("{SERVICES}/{service}")).await.unwrap()["metadata"]["finalizers"].clone()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_balancer_gets_an_address_per_family_and_loses_it_with_its_type_w2() {
    let world = World::start().await;
    let dual = json!({"type": "LoadBalancer", "ipFamilyPolicy": "RequireDualStack"});
    world.add_service("web", dual).await;
    world.until_ingress("web", &["10.246.0.1", "fd00:10:246::1"]).await;
    assert_eq!(world.event("web", "EnsuringLoadBalancer").await, "Ensuring load balancer");
    assert_eq!(world.event("web", "EnsuredLoadBalancer").await, "Ensured load balancer");
    assert_eq!(world.finalizers("web").await, json!(["service.kubernetes.io/load-balancer-cleanup"]));

    // Somebody else's status does not last.
    let forged = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}});
    world.patch(&format!("{SERVICES}/web/status"), forged).await;
    world.until_ingress("web", &["10.246.0.1", "fd00:10:246::1"]).await;

    world.patch(&format!("{SERVICES}/web"), json!({"spec": {"type": "ClusterIP"}})).await;
    world.event("web", "DeletedLoadBalancer").await;
    world.until_ingress("web", &[]).await;
    assert_eq!(world.finalizers("web").await, Value::Null);
    // Free for the next one.
    world.add_service("api", json!({"type": "LoadBalancer", "loadBalancerClass": LOAD_BALANCER_CLASS})).await;
    world.until_ingress("api", &["10.246.0.1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn address_that_is_taken_is_given_when_its_service_is_deleted() {
    let world = World::start().await;
    let asking = json!({"type": "LoadBalancer", "loadBalancerIP": "10.246.0.50"});
    world.add_service("first", asking.clone()).await;
    world.until_ingress("first", &["10.246.0.50"]).await;
    world.add_service("second", asking).await;
    let message = world.event("second", "SyncLoadBalancerFailed").await;
    assert!(message.contains("belongs to Service default/first: choose another"), "{message}");
    assert_eq!(world.ingress("second").await, [""; 0]);

    world.delete(&format!("{SERVICES}/first"), json!({})).await;
    world.until_ingress("second", &["10.246.0.50"]).await;
    world
        .until_async("first goes", async || world.get(&format!("{SERVICES}/first")).await.is_none().then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_of_another_class_is_left_alone() {
    let world = World::start().await;
    world.add_service("theirs", json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/lb"})).await;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}});
    world.patch(&format!("{SERVICES}/theirs/status"), status).await;
    // A later one has been served: so was this one, if it was ever going to be.
    world.add_service("ours", json!({"type": "LoadBalancer"})).await;
    world.until_ingress("ours", &["10.246.0.1"]).await;
    assert_eq!(world.ingress("theirs").await, ["203.0.113.9"]);
    assert_eq!(world.finalizers("theirs").await, Value::Null);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_stay_over_a_restart_of_the_controllers() {
    let world = World::start().await;
    for name in ["one", "two"] {
        world.add_service(name, json!({"type": "LoadBalancer"})).await;
        world.until_async(name, async || (!world.ingress(name).await.is_empty()).then_some(())).await;
    }
    world.delete(&format!("{SERVICES}/one"), json!({})).await;
    world.until_async("one goes", async || world.get(&format!("{SERVICES}/one")).await.is_none().then_some(())).await;
    let World { api, client, _tasks: tasks, .. } = world;
    drop(tasks);
    let (cluster, tasks) = run_controllers(&api, &client, Selection::default());
    let world = World { api, client, cluster, _tasks: tasks };
    world.add_service("three", json!({"type": "LoadBalancer"})).await;
    world.until_ingress("three", &["10.246.0.1"]).await;
    assert_eq!(world.ingress("two").await, ["10.246.0.2"]);
}
