//! What EndpointSlices and Endpoints have in common: which Pods count, their ports, names and trigger times.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodCondition, Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::cluster::ObjectKey;

pub(super) use crate::cluster::SERVICE_NAME_LABEL;
pub(super) const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
pub(super) const TRIGGER_TIME_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
pub(super) const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
pub(super) const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";

/// The selector of a Service whose endpoints are ours to make; none for ExternalName and for a missing selector
/// (ES1, EP2). A selector that is there but empty matches every Pod.
pub(super) fn selector_of(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") { None } else { spec.selector.as_ref() }
}

/// True if the Service has no virtual address (ES11).
pub(crate) fn headless(spec: &ServiceSpec) -> bool {
    matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
}

/// True if the Pod has ended and its addresses may belong to another already (ES2, EP3).
pub(crate) fn terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

pub(crate) fn terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

pub(super) fn ready_condition(pod: &Pod) -> Option<&PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == "Ready")
}

pub(crate) fn pod_ready(pod: &Pod) -> bool {
    ready_condition(pod).is_some_and(|condition| condition.status == "True")
}

/// The Pod's addresses, the primary one first. Entries that are no IP addresses are passed over.
pub(crate) fn pod_addresses(pod: &Pod) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.status.as_ref();
    let all = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
    let only = status.and_then(|status| status.pod_ip.as_deref()).filter(|_| all.is_empty());
    all.iter().map(|entry| &*entry.ip).chain(only).filter_map(|ip| ip.parse().ok())
}

/// The number behind a Service port on this Pod, or `None` if the Pod has no port of that name and protocol (ES4).
pub(crate) fn resolve_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => Some(port.port),
        Some(IntOrString::String(name)) => named_port(pod, name, protocol_of(port)),
    }
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| restartable(container));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|port| port.container_port)
}

/// True for an init container that keeps running beside the main ones.
pub(super) fn restartable(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub(crate) fn protocol_of(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// The endpoint's own DNS name, which a Pod gets only through the Service that its `subdomain` names (ES8).
pub(super) fn endpoint_hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_ref().filter(|hostname| !hostname.is_empty())?;
    (spec.subdomain.is_some()
        && spec.subdomain == service.metadata.name
        && pod.metadata.namespace == service.metadata.namespace)
        .then(|| hostname.clone())
}

/// What an endpoint points at (ES7, EP5): the Pod by uid, without a version.
pub(super) fn target_ref(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// What it takes to tell how long ago the change began that a write carries out (ES12, EP8): what was known of each
/// Service and its Pods at the last write.
#[derive(Default)]
pub(super) struct TriggerTimes {
    known: Mutex<FxHashMap<ObjectKey, Triggers>>,
}

/// When a Service and each of its Pods last changed in a way that its endpoints show.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Triggers {
    service: Option<Timestamp>,
    /// Pod uid (as a hash) and the time of its last readiness change, ordered by uid.
    pods: Vec<(u64, Timestamp)>,
}

impl Triggers {
    pub(super) fn of<'a>(service: &Service, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let mut pods: Vec<_> = pods
            .into_iter()
            .filter_map(|pod| {
                Some((hash(pod.metadata.uid.as_deref()?), ready_condition(pod)?.last_transition_time.as_ref()?.0))
            })
            .collect();
        pods.sort_unstable();
        Self { service: service.creation_timestamp().map(|time| time.0), pods }
    }

    /// The earliest of the changes since `before`.
    fn first_since(&self, before: &Self) -> Option<Timestamp> {
        let seen = |uid: u64| {
            before
                .pods
                .binary_search_by_key(&uid, |(uid, _)| *uid)
                .ok()
                .and_then(|at| before.pods.get(at))
                .map(|(_, t)| *t)
        };
        let of_pods =
            self.pods.iter().filter(|(uid, time)| seen(*uid).is_none_or(|seen| *time > seen)).map(|(_, t)| *t);
        let of_service = self.service.filter(|time| before.service.is_none_or(|seen| *time > seen));
        of_pods.chain(of_service).min()
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::Hasher;
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(text.as_bytes());
    hasher.finish()
}

impl TriggerTimes {
    /// When the change began that leads from the last recorded state to this one; `None` if none of them tells.
    pub(super) fn since_last_write(&self, service: &ObjectKey, now: &Triggers) -> Option<Timestamp> {
        let known = self.known.lock();
        now.first_since(known.get(service).unwrap_or(&Triggers::default()))
    }

    /// Notes that everything up to `triggers` has been written.
    pub(super) fn written(&self, service: &ObjectKey, triggers: Triggers) {
        self.known.lock().insert(service.clone(), triggers);
    }

    pub(super) fn forget(&self, service: &ObjectKey) {
        self.known.lock().remove(service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn port(value: serde_json::Value) -> ServicePort {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn named_port_is_found_by_name_and_protocol_in_containers_then_sidecars_es4() {
        let pod = pod(json!({"spec": {
            "containers": [{"name": "a", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]}],
            "initContainers": [
                {"name": "once", "ports": [{"name": "side", "containerPort": 1}]},
                {"name": "sidecar", "restartPolicy": "Always", "ports": [
                    {"name": "side", "containerPort": 2}, {"name": "dns", "containerPort": 54, "protocol": "TCP"}]},
            ],
        }}));
        let cases = [
            (json!({"port": 80}), Some(80)),
            (json!({"port": 80, "targetPort": 8080}), Some(8080)),
            (json!({"port": 80, "targetPort": 0}), Some(80)),
            (json!({"port": 80, "targetPort": "dns", "protocol": "UDP"}), Some(53)),
            (json!({"port": 80, "targetPort": "dns", "protocol": "TCP"}), Some(54)),
            (json!({"port": 80, "targetPort": "side"}), Some(2)),
            (json!({"port": 80, "targetPort": "absent"}), None),
        ];
        for (service_port, expected) in cases {
            assert_eq!(resolve_port(&port(service_port.clone()), &pod), expected, "{service_port}");
        }
    }

    #[test]
    fn hostname_needs_the_subdomain_of_this_service_es8() {
        let service: Service = serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "x"}})).unwrap();
        let cases = [
            (json!({"hostname": "h", "subdomain": "db", "containers": []}), Some("h".to_owned())),
            (json!({"hostname": "h", "subdomain": "other", "containers": []}), None),
            (json!({"hostname": "", "subdomain": "db", "containers": []}), None),
            (json!({"hostname": "h", "containers": []}), None),
        ];
        for (spec, expected) in cases {
            let pod = pod(json!({"metadata": {"name": "p", "namespace": "x"}, "spec": spec.clone()}));
            assert_eq!(endpoint_hostname(&pod, &service), expected, "{spec}");
        }
    }

    #[test]
    fn trigger_is_the_earliest_change_since_the_last_write_es12() {
        let service: Service =
            serde_json::from_value(json!({"metadata": {"name": "web", "creationTimestamp": "2024-01-01T00:00:00Z"}}))
                .unwrap();
        let pod = |uid: &str, at: &str| {
            pod(json!({"metadata": {"uid": uid}, "status": {"conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": at}]}}))
        };
        let (a, b) = (pod("a", "2024-01-01T00:00:05Z"), pod("b", "2024-01-01T00:00:05Z"));
        let key = ObjectKey::new("default", "web");
        let times = TriggerTimes::default();
        let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());

        let first = Triggers::of(&service, [&a]);
        assert_eq!(times.since_last_write(&key, &first), at("2024-01-01T00:00:00Z"));
        times.written(&key, first.clone());
        assert_eq!(times.since_last_write(&key, &first), None);
        // A second Pod that turned ready in the same second is a change nevertheless.
        let second = Triggers::of(&service, [&a, &b]);
        assert_eq!(times.since_last_write(&key, &second), at("2024-01-01T00:00:05Z"));
        times.written(&key, second);
        // A Pod that left has no trigger time.
        assert_eq!(times.since_last_write(&key, &Triggers::of(&service, [&b])), None);
    }
}
