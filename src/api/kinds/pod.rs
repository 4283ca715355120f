//! Pod: defaults (PD1-PD4), admission of its ServiceAccount (PD7), rules, and what may change (PD5).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodCondition, PodSpec, PodStatus, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Toleration,
    Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_ip, text};
use super::pod_columns::{COLUMNS, cells};
use super::pod_spec::{self, Place};
use super::{Context, Info, Part, priority_class};
use crate::api::causes::Causes;
use crate::api::names;
use crate::api::status::{About, ApiError};
use crate::config::NodeTimes;
use crate::store::Key;

const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const TOKEN_SECONDS: i64 = 3607;
const NOT_READY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

pub struct Kind;

impl super::Kind for Kind {
    type Object = Pod;
    const INFO: Info = Info {
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        status: true,
        generation: true,
        returns_deleted: true,
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        condition_times: &["lastProbeTime", "lastTransitionTime"],
        columns: COLUMNS,
        ..Info::DEFAULT
    };

    fn default(object: &mut Pod) {
        let spec = object.spec.get_or_insert_default();
        pod_spec::default_spec(spec);
        pod_spec::default_pod(spec);
    }

    fn create(ctx: &Context, object: &mut Pod, causes: &mut Causes) -> Result<(), ApiError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let spec = object.spec.get_or_insert_default();
        pod_spec::add_own_labels(spec, &labels);
        admit_service_account(ctx, &namespace, &name, spec)?;
        admit_tolerations(&ctx.node_times, spec);
        priority_class::admit(ctx, &name, spec)?;
        check(spec, causes);
        if spec.ephemeral_containers.as_ref().is_some_and(|containers| !containers.is_empty()) {
            causes.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        if gated && !text(&spec.node_name).is_empty() {
            causes.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared");
        }
        object.status = Some(initial_status(spec));
        Ok(())
    }

    fn update(_: &Context, new: &mut Pod, old: &Pod, part: Part, causes: &mut Causes) {
        let old_spec = old.spec.clone().unwrap_or_default();
        match part {
            Part::Status => {
                // As old kubelets spoil them.
                new.metadata.owner_references = old.metadata.owner_references.clone();
                keep_what_agents_drop(new, old);
                check_status(new, old, causes);
            }
            Part::Main | Part::Finalize => {
                let spec = new.spec.get_or_insert_default();
                check(spec, causes);
                pod_spec::check_update(spec, &old_spec, causes);
            }
            Part::EphemeralContainers => {
                keep_metadata(new, old);
                let spec = new.spec.get_or_insert_default();
                let added = spec.ephemeral_containers.take();
                *spec = PodSpec { ephemeral_containers: added, ..old_spec.clone() };
                check(spec, causes);
                pod_spec::check_ephemeral_update(spec, &old_spec, causes);
            }
            Part::Resize => {
                keep_metadata(new, old);
                let spec = new.spec.get_or_insert_default();
                check(spec, causes);
                pod_spec::check_resize(spec, &old_spec, causes);
                if qos_class(spec) != qos_class(&old_spec) {
                    let class = qos_class(spec);
                    causes.invalid("spec", class, "Pod QOS Class may not change as a result of resizing");
                }
            }
        }
    }

    fn cells(object: &Pod, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

/// Rules PD4 and PD7: the Pod runs as a ServiceAccount that exists, pulls images with its secrets unless it has some of
/// its own, and has its token mounted.
fn admit_service_account(ctx: &Context, namespace: &str, pod: &str, spec: &mut PodSpec) -> Result<(), ApiError> {
    let named = spec.service_account_name.clone().or(spec.service_account.clone()).filter(|name| !name.is_empty());
    let account = named.unwrap_or_else(|| "default".into());
    spec.service_account_name = Some(account.clone());
    spec.service_account = Some(account.clone());
    let Some(entry) = ctx.store.get(&Key::new("serviceaccounts", namespace, account.as_str())) else {
        let about = About { group: "", resource: "pods", name: pod };
        let why =
            format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        return Err(ApiError::forbidden(about, why));
    };
    let stored: ServiceAccount = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = stored.image_pull_secrets;
    }
    let automount = spec.automount_service_account_token.or(stored.automount_service_account_token).unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    Ok(())
}

fn mount_token(spec: &mut PodSpec) {
    let mounted =
        |container: &Container| container.volume_mounts.iter().flatten().any(|mount| mount.mount_path == TOKEN_MOUNT);
    let init = spec.init_containers.iter_mut().flatten();
    let mut missing: Vec<&mut Container> = spec.containers.iter_mut().chain(init).filter(|c| !mounted(c)).collect();
    if missing.is_empty() {
        return;
    }
    let name = names::generate("kube-api-access-", |_| true);
    for container in &mut missing {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: name.clone(),
            read_only: Some(true),
            mount_path: TOKEN_MOUNT.into(),
            ..VolumeMount::default()
        });
    }
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            expiration_seconds: Some(TOKEN_SECONDS),
            path: "token".into(),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".into(),
            items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".into(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".into()),
            field_path: "metadata.namespace".into(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
        ..VolumeProjection::default()
    };
    spec.volumes.get_or_insert_default().push(Volume {
        name,
        projected: Some(ProjectedVolumeSource { sources: Some(vec![token, ca, namespace]), default_mode: Some(0o644) }),
        ..Volume::default()
    });
}

/// Rule PD1: a Pod stays 300 s on a node that is lost, unless it or the cluster's owner says otherwise.
fn admit_tolerations(times: &NodeTimes, spec: &mut PodSpec) {
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, seconds) in NOT_READY.into_iter().zip([times.not_ready_toleration, times.unreachable_toleration]) {
        let covered = tolerations.iter().any(|t| {
            t.key.as_deref().is_none_or(|k| k.is_empty() || k == key)
                && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
        });
        if !covered {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(seconds),
                value: None,
            });
        }
    }
}

fn initial_status(spec: &PodSpec) -> PodStatus {
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    let condition = PodCondition {
        type_: "PodScheduled".into(),
        status: "False".into(),
        reason: Some("SchedulingGated".into()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".into()),
        last_transition_time: Some(Time(Timestamp::now())),
        ..PodCondition::default()
    };
    PodStatus {
        phase: Some("Pending".into()),
        qos_class: Some(qos_class(spec).into()),
        conditions: gated.then(|| vec![condition]),
        ..PodStatus::default()
    }
}

/// Guaranteed when every container's cpu and memory limits equal its requests, BestEffort when none has any.
fn qos_class(spec: &PodSpec) -> &'static str {
    type Amounts = BTreeMap<String, Quantity>;
    let counted = |amounts: &Option<Amounts>| -> Amounts {
        let all = amounts.clone().unwrap_or_default();
        all.into_iter().filter(|(name, _)| name == "cpu" || name == "memory").collect()
    };
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.clone().unwrap_or_default();
        let (requests, limits) = (counted(&resources.requests), counted(&resources.limits));
        any |= !requests.is_empty() || !limits.is_empty();
        guaranteed &= limits.len() == 2 && requests == limits;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

fn check(spec: &PodSpec, causes: &mut Causes) {
    pod_spec::check(spec, "spec", Place::Pod, causes);
    for (field, containers) in
        [("containers", Some(&spec.containers)), ("initContainers", spec.init_containers.as_ref())]
    {
        for (i, container) in containers.into_iter().flatten().enumerate() {
            let image = text(&container.image);
            if image.trim() != image {
                let detail = "must not have leading or trailing whitespace";
                causes.invalid(format!("spec.{field}[{i}].image"), image, detail);
            }
        }
    }
}

/// Subresources of the spec leave metadata alone.
fn keep_metadata(new: &mut Pod, old: &Pod) {
    let old = old.metadata.clone();
    let metadata = &mut new.metadata;
    metadata.labels = old.labels;
    metadata.annotations = old.annotations;
    metadata.finalizers = old.finalizers;
    metadata.owner_references = old.owner_references;
}

/// Agents that do not know the QoS class and the observed generations leave them out: they stay as they were.
fn keep_what_agents_drop(new: &mut Pod, old: &Pod) {
    let status = new.status.get_or_insert_default();
    let old = old.status.clone().unwrap_or_default();
    if text(&status.qos_class).is_empty() {
        status.qos_class = old.qos_class;
    }
    if status.observed_generation.unwrap_or(0) == 0 {
        status.observed_generation = old.observed_generation;
    }
    let mut before: Vec<PodCondition> = old.conditions.unwrap_or_default();
    for condition in status.conditions.iter_mut().flatten() {
        let at = before.iter().position(|old| old.type_ == condition.type_);
        let old = at.and_then(|at| before.remove(at).observed_generation);
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = old;
        }
    }
}

/// What the status may not say.
fn check_status(new: &Pod, old: &Pod, causes: &mut Causes) {
    let status = new.status.clone().unwrap_or_default();
    for (i, condition) in status.conditions.iter().flatten().enumerate() {
        let kind = condition.type_.as_str();
        causes.all(&format!("metadata.conditions[{i}].Type"), kind, names::qualified_name_errors(kind));
    }
    let class = old.status.as_ref().and_then(|status| status.qos_class.clone());
    causes.immutable("status.qosClass", &status.qos_class, &class);
    let ips: Vec<&str> = status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    check_ips(&ips, "status.podIPs", causes);
    let hosts: Vec<&str> = status.host_ips.iter().flatten().map(|ip| ip.ip.as_str()).collect();
    if hosts.first().is_some_and(|first| *first != text(&status.host_ip)) {
        causes.invalid("status.hostIPs[0].ip", hosts[0], "must be equal to `hostIP`");
    }
    check_ips(&hosts, "status.hostIPs", causes);
}

/// At most one address of each family.
fn check_ips(ips: &[&str], at: &str, causes: &mut Causes) {
    for (i, ip) in ips.iter().enumerate() {
        check_ip(causes, &format!("{at}[{i}]"), ip);
        if ips[..i].contains(ip) {
            causes.duplicate(format!("{at}[{i}]"), *ip);
        }
    }
    let count = |v6: bool| ips.iter().filter(|ip| ip.contains(':') == v6).count();
    if count(true) > 1 || count(false) > 1 {
        let value: Vec<String> = ips.iter().map(|ip| (*ip).to_owned()).collect();
        causes.invalid(at, value, "may specify no more than one IP for each IP family");
    }
}
