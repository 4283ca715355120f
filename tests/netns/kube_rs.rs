//! kube-rs as others use it: from a kubeconfig, over TLS, with its watchers and reflectors.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Service};
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::discovery::{Discovery, Scope};
use kube::runtime::reflector::{self, Store};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, Error, ResourceExt};
use serde_json::json;
use tokio::process::Command;

use crate::cluster::{Cluster, Home, LIMIT, VIPYARD, eventually};
use crate::partition::Partition;

/// So few that a scenario can write more than are kept.
const KEPT: usize = 200;

/// A client of the kubeconfig; `through` leads it through a proxy.
pub async fn client(cluster: &Cluster, through: Option<&Partition>) -> Client {
    let mut kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).expect("kube-rs reads the kubeconfig");
    if let Some(proxy) = through {
        let server = kubeconfig.clusters[0].cluster.as_mut().expect("a cluster");
        server.server = Some(format!("https://{}", proxy.address));
    }
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let mut map = ConfigMap { data: Some([("v".to_owned(), value.to_owned())].into()), ..ConfigMap::default() };
    map.metadata.name = Some(name.to_owned());
    map
}

/// The reason and code of a refusal.
fn refused<T: std::fmt::Debug>(answer: kube::Result<T>) -> (String, u16) {
    match answer {
        Err(Error::Api(status)) => (status.reason.clone(), status.code),
        other => panic!("not refused by the API: {other:?}"),
    }
}

pub async fn objects_are_written_in_every_way() {
    let cluster = Cluster::start().await;
    let client = client(&cluster, None).await;
    let services: Api<Service> = Api::default_namespaced(client.clone());
    let post = PostParams::default();
    let web: Service = serde_json::from_value(json!({"metadata": {"name": "web", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}}))
    .unwrap();
    let made = services.create(&post, &web).await.unwrap();
    assert!(made.spec.as_ref().unwrap().cluster_ip.is_some() && made.uid().is_some());
    assert_eq!(refused(services.create(&post, &web).await), ("AlreadyExists".into(), 409));

    let params = PatchParams::default();
    let ports = |service: &Service| -> Vec<i32> {
        service.spec.as_ref().unwrap().ports.iter().flatten().map(|port| port.port).collect()
    };
    let strategic = Patch::Strategic(json!({"spec": {"ports": [{"name": "admin", "port": 81}]}}));
    assert_eq!(ports(&services.patch("web", &params, &strategic).await.unwrap()), [81, 80]);
    let merge = Patch::Merge(json!({"metadata": {"labels": {"tier": null}}}));
    assert!(services.patch("web", &params, &merge).await.unwrap().labels().is_empty());
    let operations = serde_json::from_value(json!([{"op": "remove", "path": "/spec/ports/0"}])).unwrap();
    assert_eq!(ports(&services.patch("web", &params, &Patch::Json::<()>(operations)).await.unwrap()), [80]);
    let mut stale = made.clone();
    stale.labels_mut().insert("a".into(), "b".into());
    assert_eq!(refused(services.replace("web", &post, &stale).await), ("Conflict".into(), 409));
    let mut fresh = services.get("web").await.unwrap();
    fresh.labels_mut().insert("a".into(), "b".into());
    let replaced = services.replace("web", &post, &fresh).await.unwrap();
    assert_eq!(replaced.labels()["a"], "b");
    assert_eq!(services.get_metadata("web").await.unwrap().labels()["a"], "b");
    let status = json!({"status": {"conditions": [{"type": "Seen", "status": "True", "reason": "Test", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    let seen = services.patch_status("web", &params, &Patch::Merge(status)).await.unwrap();
    assert_eq!(seen.status.unwrap().conditions.unwrap()[0].type_, "Seen");
    assert_eq!(services.get_opt("none").await.unwrap(), None);
    let dry = PostParams { dry_run: true, ..post.clone() };
    let maps: Api<ConfigMap> = Api::default_namespaced(client.clone());
    maps.create(&dry, &config_map("dry", "1")).await.unwrap();
    assert_eq!(refused(maps.get("dry").await), ("NotFound".into(), 404));

    // get, change, write back when nobody else has.
    let entry = maps.entry("entry").await.unwrap().or_insert(|| config_map("entry", "1"));
    let mut entry = entry.and_modify(|map| drop(map.data.get_or_insert_default().insert("w".into(), "2".into())));
    entry.commit(&post).await.unwrap();
    assert_eq!(maps.get("entry").await.unwrap().data.unwrap().len(), 2);
    services.delete("web", &DeleteParams::background()).await.unwrap();
    let uid = made.uid().unwrap();
    let gone = await_condition(services, "web", conditions::is_deleted(&uid));
    tokio::time::timeout(LIMIT, gone).await.expect("in time").unwrap();
    for name in ["a", "b", "c"] {
        maps.create(&post, &config_map(name, name)).await.unwrap();
    }
    let paged: Vec<String> =
        maps.list(&ListParams::default().limit(2)).await.unwrap().items.iter().map(ResourceExt::name_any).collect();
    assert_eq!(paged, ["a", "b"]);
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().fields("metadata.name=b")).await.unwrap();
    assert_eq!(maps.get_opt("b").await.unwrap(), None);
    assert!(maps.get_opt("a").await.unwrap().is_some());
    cluster.stop().await;
}

pub async fn everything_that_discovery_names_can_be_listed() {
    let cluster = Cluster::start().await;
    let client = client(&cluster, None).await;
    for aggregated in [false, true] {
        let discovery = Discovery::new(client.clone());
        let discovery = if aggregated { discovery.run_aggregated().await } else { discovery.run().await }.unwrap();
        let mut kinds = Vec::new();
        for (resource, capabilities) in discovery.groups().flat_map(|group| group.recommended_resources()) {
            if capabilities.supports_operation("list") {
                let objects: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
                objects.list(&ListParams::default()).await.unwrap_or_else(|e| panic!("{resource:?}: {e}"));
                kinds.push((resource.kind, capabilities.scope));
            }
        }
        for wanted in [("Service", Scope::Namespaced), ("Node", Scope::Cluster), ("EndpointSlice", Scope::Namespaced)] {
            assert!(
                kinds.iter().any(|(kind, scope)| (&**kind, scope) == (wanted.0, &wanted.1)),
                "{wanted:?}: {kinds:?}"
            );
        }
    }
    let nodes: Api<Node> = Api::all(client);
    let names: Vec<String> =
        nodes.list_metadata(&ListParams::default()).await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, ["n1", "n2", "n3"]);
    cluster.stop().await;
}

pub async fn server_side_apply_owns_fields() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::default_namespaced(client(&cluster, None).await);
    let apply = async |manager: &str, force: bool, data: serde_json::Value| {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
        let params = PatchParams { force, ..PatchParams::apply(manager) };
        maps.patch("m", &params, &Patch::Apply(map)).await
    };
    let data = |map: &ConfigMap| map.data.clone().unwrap_or_default();
    let wanted = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let made = apply("one", false, json!({"a": "1", "b": "1"})).await.unwrap();
    let managers = made.managed_fields();
    assert_eq!((managers.len(), managers[0].manager.as_deref()), (1, Some("one")));
    assert_eq!(managers[0].fields_v1.as_ref().unwrap().0, json!({"f:data": {"f:a": {}, "f:b": {}}}));
    match apply("two", false, json!({"a": "2"})).await {
        Err(Error::Api(status)) => {
            assert_eq!((status.code, &*status.reason), (409, "Conflict"));
            assert_eq!(status.message, "Apply failed with 1 conflict: conflict with \"one\": .data.a");
        }
        other => panic!("not refused: {other:?}"),
    }
    let forced = apply("two", true, json!({"a": "2"})).await.unwrap();
    assert_eq!(data(&forced), wanted(&[("a", "2"), ("b", "1")]));
    assert_eq!(data(&apply("one", false, json!({})).await.unwrap()), wanted(&[("a", "2")]));
    cluster.stop().await;
}

/// A reflector that counts its lists, and the 410s it met.
struct Reflected {
    store: Store<ConfigMap>,
    lists: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
}

impl Reflected {
    fn start(maps: Api<ConfigMap>, config: watcher::Config) -> Self {
        let (store, writer) = reflector::store();
        let (lists, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let reflected = Self { store, lists: Arc::clone(&lists), gone: Arc::clone(&gone) };
        let events = watcher(maps, config).inspect(move |event| match event {
            Ok(watcher::Event::InitDone) => drop(lists.fetch_add(1, Ordering::Relaxed)),
            Err(watcher::Error::WatchError(status)) if status.code == 410 => drop(gone.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        });
        tokio::spawn(reflector::reflector(writer, events.default_backoff()).for_each(async |_| ()));
        reflected
    }

    /// Waits until the store has exactly these objects.
    async fn shows(&self, wanted: &[(&str, &str)]) {
        eventually(&format!("{wanted:?}"), async || {
            let mut found: Vec<(String, String)> = self
                .store
                .state()
                .iter()
                .map(|map| (map.name_any(), map.data.as_ref().map(|data| data["v"].clone()).unwrap_or_default()))
                .collect();
            found.sort();
            found.iter().map(|(name, value)| (&**name, &**value)).eq(wanted.iter().copied()).then_some(())
        })
        .await;
    }
}

pub async fn reflectors_list_again_after_410() {
    let home = Home::new();
    let mut command = Command::new(VIPYARD);
    command.arg("up").arg("--data-dir").arg(home.data()).args(["--keep-revisions", &KEPT.to_string()]);
    let cluster = Cluster::start_with(home, command).await;
    let partition = Partition::before(cluster.client.address()).await;
    let direct: Api<ConfigMap> = Api::default_namespaced(client(&cluster, None).await);
    let selected = |mut map: ConfigMap| {
        map.labels_mut().insert("seen".into(), "yes".into());
        map
    };
    let post = PostParams::default();
    for name in ["changes", "goes", "stays"] {
        direct.create(&post, &selected(config_map(name, "1"))).await.unwrap();
    }
    let old = direct.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let cut_off: Api<ConfigMap> = Api::default_namespaced(client(&cluster, Some(&partition)).await);
    let config = watcher::Config::default().labels("seen");
    let reflectors = [
        Reflected::start(cut_off.clone(), config.clone().page_size(2)),
        Reflected::start(cut_off, config.streaming_lists()),
    ];
    for reflected in &reflectors {
        reflected.shows(&[("changes", "1"), ("goes", "1"), ("stays", "1")]).await;
    }

    partition.cut();
    direct.delete("goes", &DeleteParams::default()).await.unwrap();
    direct.patch("changes", &PatchParams::default(), &Patch::Merge(json!({"data": {"v": "2"}}))).await.unwrap();
    direct.create(&post, &selected(config_map("comes", "1"))).await.unwrap();
    direct.create(&post, &config_map("counter", "0")).await.unwrap();
    for n in 0..3 * KEPT {
        let patch = Patch::Merge(json!({"data": {"v": n.to_string()}}));
        direct.patch("counter", &PatchParams::default(), &patch).await.unwrap();
    }
    // A watch from then is gone, as the reflectors will be told.
    let mut watch = Box::pin(direct.watch(&WatchParams::default(), &old).await.unwrap());
    let event = tokio::time::timeout(LIMIT, watch.try_next()).await.expect("in time").unwrap();
    assert!(
        matches!(&event, Some(WatchEvent::Error(status)) if (status.code, &*status.reason) == (410, "Expired")),
        "{event:?}"
    );
    partition.heal();
    for reflected in &reflectors {
        reflected.shows(&[("changes", "2"), ("comes", "1"), ("stays", "1")]).await;
        assert_eq!(reflected.gone.load(Ordering::Relaxed), 1);
        assert_eq!(reflected.lists.load(Ordering::Relaxed), 2);
    }
    // The new watches go on from the new lists.
    direct.delete("comes", &DeleteParams::default()).await.unwrap();
    for reflected in &reflectors {
        reflected.shows(&[("changes", "2"), ("stays", "1")]).await;
    }
    cluster.stop().await;
}
