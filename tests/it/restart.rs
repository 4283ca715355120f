//! What a store on disk brings back.

use serde_json::json;
use vipyard::config::{Network, StoreConfig};

use crate::world::*;

#[tokio::test]
async fn objects_revisions_and_taken_addresses_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = StoreConfig::at(dir.path().join("vipyard.db"));
    let world = World::on(&store, Network::default()).await;
    let config = world.config_map("a", "1").await;
    let spec = json!({"clusterIP": "10.96.0.50", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let web = world.post(SERVICES, service("web", spec.clone())).await.created();
    world.config_map("gone", "1").await;
    world.delete(&format!("{CONFIG_MAPS}/gone"), json!({})).await.ok();
    let last = world.api.store().revision();
    world.end().await;

    let world = World::on(&store, Network::default()).await;
    assert_eq!(world.get(&format!("{CONFIG_MAPS}/a")).await.ok(), config);
    assert_eq!(world.get(&format!("{SERVICES}/web")).await.ok(), web);
    world.get(&format!("{CONFIG_MAPS}/gone")).await.refused(404, "NotFound");
    world.post(SERVICES, service("other", spec)).await.refused(422, "Invalid");
    let next: u64 = revision(&world.config_map("b", "1").await).parse().unwrap();
    assert!(next > last, "{next} after {last}");

    // A watcher of the former process goes on where it was.
    let mut watch = world.watch(CONFIG_MAPS, &format!("resourceVersion={}", revision(&config))).await;
    watch.expect("ADDED", "gone").await;
    watch.expect("DELETED", "gone").await;
    watch.expect("ADDED", "b").await;
    world.end().await;
}
