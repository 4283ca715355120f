//! Events whose time is over.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_goes_when_its_time_is_over() {
    let world = World::start().await;
    let path = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "reason": "Tested", "message": "m",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "type": "Normal"})
    };
    world.post(path, event("before")).await;
    let mut tasks = JoinSet::new();
    event_expiry::EventExpiry::start(&world.client, Duration::from_secs(1), &mut tasks);
    world.post(path, event("after")).await;
    for name in ["before", "after"] {
        let path = format!("{path}/{name}");
        world.until_async("the end of the Event", async || world.get(&path).await.is_none().then_some(())).await;
    }
}
