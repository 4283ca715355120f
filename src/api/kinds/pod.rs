//! Pod: defaults (PD1-PD4), admission of its ServiceAccount (PD7), rules, and what may change (PD5).

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, Pod,
    PodCondition, PodSecurityContext, PodSpec, PodStatus, Probe, ProjectedVolumeSource, ResourceRequirements,
    ServiceAccount, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::pod_columns::{COLUMNS, cells};
use super::{Context, Info, Part};
use crate::api::causes::Causes;
use crate::api::names::{self, label_errors};
use crate::api::status::{About, ApiError};
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
        columns: COLUMNS,
        ..Info::DEFAULT
    };

    fn default(object: &mut Pod) {
        let spec = object.spec.get_or_insert_default();
        spec.restart_policy.get_or_insert_with(|| "Always".into());
        spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
        spec.termination_grace_period_seconds.get_or_insert(30);
        spec.security_context.get_or_insert_with(PodSecurityContext::default);
        spec.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
        spec.enable_service_links.get_or_insert(true);
        let host_network = spec.host_network == Some(true);
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            default_container(container, host_network);
        }
        for volume in spec.volumes.iter_mut().flatten() {
            default_volume(volume);
        }
    }

    fn create(ctx: &Context, object: &mut Pod, causes: &mut Causes) -> Result<(), ApiError> {
        let namespace = object.metadata.namespace.clone().unwrap_or_default();
        let name = object.metadata.name.clone().unwrap_or_default();
        let spec = object.spec.get_or_insert_default();
        admit_service_account(ctx, &namespace, &name, spec)?;
        admit_tolerations(spec);
        spec.priority.get_or_insert(0);
        spec.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".into());
        check(spec, causes);
        object.status = Some(initial_status(spec));
        Ok(())
    }

    fn update(_: &Context, new: &mut Pod, old: &Pod, part: Part, causes: &mut Causes) {
        if part == Part::Main {
            check_update(new.spec.as_ref(), old.spec.as_ref(), causes);
        }
    }

    fn cells(object: &Pod, now: Timestamp) -> Vec<Value> {
        cells(object, now)
    }
}

/// Rules PD2 and PD3.
fn default_container(container: &mut Container, host_network: bool) {
    container.termination_message_path.get_or_insert_with(|| "/dev/termination-log".into());
    container.termination_message_policy.get_or_insert_with(|| "File".into());
    let image = container.image.clone().unwrap_or_default();
    container.image_pull_policy.get_or_insert_with(|| if is_latest(&image) { "Always" } else { "IfNotPresent" }.into());
    for port in container.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".into());
        if host_network {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
    if let Some(limits) = resources.limits.clone() {
        let requests = resources.requests.get_or_insert_default();
        for (name, limit) in limits {
            requests.entry(name).or_insert(limit);
        }
    }
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(default_probe);
    for env in container.env.iter_mut().flatten() {
        if let Some(field) = env.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
            field.api_version.get_or_insert_with(|| "v1".into());
        }
    }
}

fn default_probe(probe: &mut Probe) {
    probe.timeout_seconds.get_or_insert(1);
    probe.period_seconds.get_or_insert(10);
    probe.success_threshold.get_or_insert(1);
    probe.failure_threshold.get_or_insert(3);
    if let Some(http) = &mut probe.http_get {
        http.path.get_or_insert_with(|| "/".into());
        http.scheme.get_or_insert_with(|| "HTTP".into());
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_volume(volume: &mut Volume) {
    const MODE: i32 = 0o644;
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(MODE);
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(MODE);
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
}

/// Whether an image has the tag `latest` or none (a digest counts as a tag).
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

/// Rules PD4 and PD7: the Pod runs as a ServiceAccount that exists, and has its token mounted.
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
    let name = names::generate("kube-api-access-");
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

/// Rule PD1: a Pod stays 300 s on a node that is lost, unless it says otherwise.
fn admit_tolerations(spec: &mut PodSpec) {
    let tolerations = spec.tolerations.get_or_insert_default();
    for key in NOT_READY {
        let covered = tolerations.iter().any(|t| {
            t.key.as_deref().is_none_or(|k| k.is_empty() || k == key)
                && t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoExecute")
        });
        if !covered {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(300),
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
    if spec.containers.is_empty() {
        causes.required("spec.containers", "");
    }
    let mut seen = HashSet::new();
    let init = spec.init_containers.iter().flatten().enumerate().map(|(i, c)| (format!("spec.initContainers[{i}]"), c));
    let main = spec.containers.iter().enumerate().map(|(i, c)| (format!("spec.containers[{i}]"), c));
    for (field, container) in init.chain(main) {
        if container.name.is_empty() {
            causes.required(format!("{field}.name"), "");
        } else {
            let name = container.name.as_str();
            label_errors(name).into_iter().for_each(|e| causes.invalid(format!("{field}.name"), name, e));
            if !seen.insert(name) {
                causes.duplicate(format!("{field}.name"), name);
            }
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            causes.required(format!("{field}.image"), "");
        }
        check_container(container, &field, spec, causes);
    }
    causes.one_of("spec.restartPolicy", spec.restart_policy.as_ref(), &["Always", "OnFailure", "Never"]);
    let policies = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
    causes.one_of("spec.dnsPolicy", spec.dns_policy.as_ref(), policies);
    let servers = spec.dns_config.as_ref().and_then(|config| config.nameservers.as_ref());
    if spec.dns_policy.as_deref() == Some("None") && servers.is_none_or(Vec::is_empty) {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        causes.required("spec.dnsConfig.nameservers", detail);
    }
    for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            label_errors(name).into_iter().for_each(|e| causes.invalid(field, name, e));
        }
    }
    let mut volumes = HashSet::new();
    for (i, volume) in spec.volumes.iter().flatten().enumerate() {
        let field = format!("spec.volumes[{i}].name");
        if volume.name.is_empty() {
            causes.required(field, "");
        } else if !volumes.insert(volume.name.as_str()) {
            causes.duplicate(field, volume.name.as_str());
        } else {
            label_errors(&volume.name).into_iter().for_each(|e| causes.invalid(&field, volume.name.as_str(), e));
        }
    }
}

fn check_container(container: &Container, field: &str, spec: &PodSpec, causes: &mut Causes) {
    causes.one_of(
        &format!("{field}.imagePullPolicy"),
        container.image_pull_policy.as_ref(),
        &["Always", "IfNotPresent", "Never"],
    );
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let field = format!("{field}.ports[{i}]");
        super::service_validation::check_port_number(causes, &format!("{field}.containerPort"), port.container_port);
        causes.one_of(&format!("{field}.protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let field = format!("{field}.name");
            names::port_name_errors(name).into_iter().for_each(|e| causes.invalid(&field, name, e));
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            super::service_validation::check_port_number(causes, &format!("{field}.hostPort"), host_port);
            if spec.host_network == Some(true) && host_port != port.container_port {
                causes.invalid(
                    format!("{field}.hostPort"),
                    host_port,
                    "must match `containerPort` when `hostNetwork` is true",
                );
            }
        }
    }
    for (i, env) in container.env.iter().flatten().enumerate() {
        if env.name.is_empty() {
            causes.required(format!("{field}.env[{i}].name"), "");
        }
    }
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = format!("{field}.volumeMounts[{i}]");
        if !spec.volumes.iter().flatten().any(|volume| volume.name == mount.name) {
            causes.0.push(crate::api::status::Cause {
                field: format!("{field}.name"),
                reason: "FieldValueNotFound",
                message: format!("Not found: {:?}", mount.name),
            });
        }
        if mount.mount_path.is_empty() {
            causes.required(format!("{field}.mountPath"), "");
        }
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    for (name, probe) in probes.into_iter().filter_map(|(name, probe)| probe.as_ref().map(|probe| (name, probe))) {
        check_probe(probe, &format!("{field}.{name}"), name == "readinessProbe", causes);
    }
}

fn check_probe(probe: &Probe, field: &str, readiness: bool, causes: &mut Causes) {
    let handlers = [probe.exec.is_some(), probe.http_get.is_some(), probe.tcp_socket.is_some(), probe.grpc.is_some()];
    match handlers.iter().filter(|set| **set).count() {
        0 => causes.required(field, "must specify a handler type"),
        1 => {}
        _ => causes.forbidden(field, "may not specify more than 1 handler type"),
    }
    if !readiness && probe.success_threshold.is_some_and(|n| n != 1) {
        causes.invalid(format!("{field}.successThreshold"), probe.success_threshold.unwrap_or(0), "must be 1");
    }
    let times = [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("failureThreshold", probe.failure_threshold),
    ];
    for (name, value) in times.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))) {
        if value < 0 {
            causes.invalid(format!("{field}.{name}"), value, "must be greater than or equal to 0");
        }
    }
}

/// Rule PD5.
fn check_update(new: Option<&PodSpec>, old: Option<&PodSpec>, causes: &mut Causes) {
    let (Some(new), Some(old)) = (new, old) else { return };
    let mut allowed = new.clone();
    let images = |to: &mut [Container], from: &[Container]| {
        for (to, from) in to.iter_mut().zip(from) {
            to.image = from.image.clone();
        }
    };
    images(&mut allowed.containers, &old.containers);
    images(
        allowed.init_containers.as_deref_mut().unwrap_or_default(),
        old.init_containers.as_deref().unwrap_or_default(),
    );
    let keeps = old.tolerations.iter().flatten().all(|t| new.tolerations.iter().flatten().any(|n| n.key == t.key));
    if keeps {
        allowed.tolerations = old.tolerations.clone();
    }
    allowed.active_deadline_seconds = old.active_deadline_seconds;
    if old.termination_grace_period_seconds.is_some_and(|grace| grace < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        allowed.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    let gates = |spec: &PodSpec| spec.scheduling_gates.clone().unwrap_or_default();
    if gates(new).iter().all(|gate| gates(old).contains(gate)) {
        allowed.scheduling_gates = old.scheduling_gates.clone();
        if !gates(old).is_empty() {
            allowed.node_selector = old.node_selector.clone();
            allowed.affinity = old.affinity.clone();
        }
    }
    if allowed != *old {
        causes.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}
