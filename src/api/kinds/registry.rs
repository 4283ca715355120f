//! Which kinds are served.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::super::custom::definition::DefinitionKind;
use super::super::events::GROUP as EVENTS_GROUP;
use super::{
    Info, Strategy, Typed, config_map, controller_revision, cron_job, daemon_set, deployment, endpoint_slice,
    endpoints, event, events_event, ingress, ingress_class, ip_address, job, lease, namespace, network_policy, node,
    persistent_volume, persistent_volume_claim, pod, pod_disruption_budget, priority_class, rbac, replica_set,
    replication_controller, secret, service, service_account, service_cidr, stateful_set,
};

/// All served kinds, by group, version and plural name. Custom resources come and go.
pub struct Registry {
    served: ArcSwap<Served>,
    /// So many kinds are always served; those after them are custom.
    built_in: usize,
    resources: watch::Sender<Resources>,
}

/// Kinds as clients name them; `true` if their objects live in namespaces.
pub type Resources = Vec<(kube::core::ApiResource, bool)>;

fn resources_of(kinds: &[Arc<dyn Strategy>]) -> Resources {
    let resource = |info: &Info| {
        let gvk = kube::core::GroupVersionKind::gvk(info.group, info.version, info.kind);
        (kube::core::ApiResource::from_gvk_with_plural(&gvk, info.plural), info.namespaced)
    };
    let mut resources: Resources = kinds.iter().map(|kind| resource(kind.info())).collect();
    // Every version of a kind shows the same objects: one is enough.
    let mut seen = HashSet::new();
    resources.retain(|(resource, _)| {
        // The same objects as those of the core group.
        resource.group != EVENTS_GROUP && seen.insert((resource.group.clone(), resource.plural.clone()))
    });
    resources
}

/// The kinds at one time.
struct Served {
    /// Counts the changes, so that what is derived from the kinds knows when it is out of date.
    epoch: u64,
    kinds: Vec<Arc<dyn Strategy>>,
    by_path: HashMap<(&'static str, &'static str, &'static str), usize>,
}

impl Served {
    fn new(epoch: u64, kinds: Vec<Arc<dyn Strategy>>) -> Self {
        let by_path = kinds.iter().enumerate().map(|(i, kind)| (path_of(kind.info()), i)).collect();
        Self { epoch, kinds, by_path }
    }
}

impl Default for Registry {
    fn default() -> Self {
        let kinds = vec![
            Typed::<namespace::Kind>::boxed(),
            Typed::<node::Kind>::boxed(),
            Typed::<pod::Kind>::boxed(),
            Typed::<service::Kind>::boxed(),
            Typed::<endpoints::Kind>::boxed(),
            Typed::<config_map::Kind>::boxed(),
            Typed::<secret::Kind>::boxed(),
            Typed::<service_account::Kind>::boxed(),
            Typed::<replication_controller::Kind>::boxed(),
            Typed::<persistent_volume::Kind>::boxed(),
            Typed::<persistent_volume_claim::Kind>::boxed(),
            Typed::<event::Kind>::boxed(),
            Typed::<events_event::Kind>::boxed(),
            Typed::<endpoint_slice::Kind>::boxed(),
            Typed::<lease::Kind>::boxed(),
            Typed::<deployment::Kind>::boxed(),
            Typed::<replica_set::Kind>::boxed(),
            Typed::<stateful_set::Kind>::boxed(),
            Typed::<daemon_set::Kind>::boxed(),
            Typed::<controller_revision::Kind>::boxed(),
            Typed::<job::Kind>::boxed(),
            Typed::<cron_job::Kind>::boxed(),
            Typed::<network_policy::Kind>::boxed(),
            Typed::<ingress::Kind>::boxed(),
            Typed::<ingress_class::Kind>::boxed(),
            Typed::<service_cidr::Kind>::boxed(),
            Typed::<ip_address::Kind>::boxed(),
            Typed::<pod_disruption_budget::Kind>::boxed(),
            Typed::<rbac::RoleKind>::boxed(),
            Typed::<rbac::RoleBindingKind>::boxed(),
            Typed::<rbac::ClusterRoleKind>::boxed(),
            Typed::<rbac::ClusterRoleBindingKind>::boxed(),
            Typed::<priority_class::Kind>::boxed(),
            Arc::new(DefinitionKind::default()),
        ];
        let built_in = kinds.len();
        let (resources, _) = watch::channel(resources_of(&kinds));
        Self { served: ArcSwap::from_pointee(Served::new(0, kinds)), built_in, resources }
    }
}

fn path_of(info: &Info) -> (&'static str, &'static str, &'static str) {
    (info.group, info.version, info.plural)
}

impl Registry {
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Arc<dyn Strategy>> {
        let served = self.served.load();
        served.by_path.get(&(group, version, plural)).map(|&i| Arc::clone(&served.kinds[i]))
    }

    /// All kinds, in the order in which they are shown.
    pub fn kinds(&self) -> Vec<Arc<dyn Strategy>> {
        self.served.load().kinds.clone()
    }

    /// Grows with each change of the kinds.
    pub fn epoch(&self) -> u64 {
        self.served.load().epoch
    }

    /// Whether anything is served at this group and version.
    pub fn serves(&self, group: &str, version: &str) -> bool {
        self.served.load().kinds.iter().any(|kind| kind.info().group == group && kind.info().version == version)
    }

    /// Serves these custom kinds, and no others.
    pub(in crate::api) fn set_custom(&self, custom: Vec<Arc<dyn Strategy>>) {
        let served = self.served.load();
        let mut kinds = served.kinds[..self.built_in].to_vec();
        kinds.extend(custom);
        self.resources.send_replace(resources_of(&kinds));
        self.served.store(Arc::new(Served::new(served.epoch + 1, kinds)));
    }

    /// The kinds as clients name them, now and after each change.
    pub fn resources(&self) -> watch::Receiver<Resources> {
        self.resources.subscribe()
    }
}
