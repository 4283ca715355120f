//! What a client left out, and what Go's JSON leaves out (`k8s.io/kubernetes/pkg/apis/core/v1/defaults.go`).

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EphemeralContainer, HTTPGetAction, Lifecycle, PodSecurityContext, PodSpec, Probe,
    ResourceRequirements, Volume, VolumeMount,
};

use super::super::checks::{fill, forget_zero, text};
use super::containers::as_container;

const FILE_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;

/// Defaults of every specification, also of a template.
pub(in super::super) fn default_spec(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_with(PodSecurityContext::default);
    // The old name of the field follows the new one.
    forget_zero(&mut spec.service_account_name);
    if let Some(name) = spec.service_account_name.clone().or(spec.service_account.clone()).filter(|n| !n.is_empty()) {
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name);
    }
    [&mut spec.host_network, &mut spec.host_pid, &mut spec.host_ipc].into_iter().for_each(forget_zero);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        default_container(container);
    }
    spec.ephemeral_containers.iter_mut().flatten().for_each(default_ephemeral);
    spec.volumes.iter_mut().flatten().for_each(default_volume);
}

/// Defaults that a Pod has and a template has not.
pub(in super::super) fn default_pod(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let resources = container.resources.get_or_insert_with(ResourceRequirements::default);
        for (name, limit) in resources.limits.clone().into_iter().flatten() {
            resources.requests.get_or_insert_default().entry(name).or_insert(limit);
        }
        for port in container.ports.iter_mut().flatten().filter(|_| host_network) {
            port.host_port.get_or_insert(port.container_port);
        }
    }
    if let Some(resources) = &mut spec.resources {
        for (name, limit) in resources.limits.clone().into_iter().flatten() {
            resources.requests.get_or_insert_default().entry(name).or_insert(limit);
        }
    }
    spec.enable_service_links.get_or_insert(true);
}

fn default_container(container: &mut Container) {
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    let always = is_latest(text(&container.image));
    fill(&mut container.image_pull_policy, if always { "Always" } else { "IfNotPresent" });
    [&mut container.stdin, &mut container.stdin_once, &mut container.tty].into_iter().for_each(forget_zero);
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
        forget_zero(&mut port.host_port);
    }
    container.resources.get_or_insert_with(ResourceRequirements::default);
    container.volume_mounts.iter_mut().flatten().for_each(|mount: &mut VolumeMount| forget_zero(&mut mount.read_only));
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(default_probe);
    container.lifecycle.iter_mut().for_each(default_lifecycle);
    for env in container.env.iter_mut().flatten() {
        if let Some(from) = &mut env.value_from {
            if let Some(field) = &mut from.field_ref {
                fill(&mut field.api_version, "v1");
            }
            if let Some(resource) = &mut from.resource_field_ref {
                resource.divisor.get_or_insert_with(super::super::quantity::zero);
            }
        }
    }
}

fn default_ephemeral(container: &mut EphemeralContainer) {
    let mut common = as_container(container);
    default_container(&mut common);
    container.termination_message_path = common.termination_message_path;
    container.termination_message_policy = common.termination_message_policy;
    container.image_pull_policy = common.image_pull_policy;
    container.resources = common.resources;
    container.env = common.env;
    container.volume_mounts = common.volume_mounts;
    (container.stdin, container.stdin_once, container.tty) = (common.stdin, common.stdin_once, common.tty);
}

fn default_http(http: &mut HTTPGetAction) {
    fill(&mut http.path, "/");
    fill(&mut http.scheme, "HTTP");
}

/// Rule PD3.
fn default_probe(probe: &mut Probe) {
    forget_zero(&mut probe.initial_delay_seconds);
    fill(&mut probe.timeout_seconds, 1);
    fill(&mut probe.period_seconds, 10);
    fill(&mut probe.success_threshold, 1);
    fill(&mut probe.failure_threshold, 3);
    probe.http_get.iter_mut().for_each(default_http);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_lifecycle(lifecycle: &mut Lifecycle) {
    let hooks = [&mut lifecycle.post_start, &mut lifecycle.pre_stop];
    hooks.into_iter().flatten().filter_map(|hook| hook.http_get.as_mut()).for_each(default_http);
}

fn default_volume(volume: &mut Volume) {
    if *volume == (Volume { name: volume.name.clone(), ..Volume::default() }) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        for file in downward.items.iter_mut().flatten() {
            file.field_ref.iter_mut().for_each(|field| fill(&mut field.api_version, "v1"));
        }
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            let files = source.downward_api.iter_mut().flat_map(|downward| downward.items.iter_mut().flatten());
            files.flat_map(|file| file.field_ref.iter_mut()).for_each(|field| fill(&mut field.api_version, "v1"));
        }
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(claim) = &mut volume.persistent_volume_claim {
        forget_zero(&mut claim.read_only);
    }
    if let Some(image) = &mut volume.image {
        let always = is_latest(text(&image.reference));
        fill(&mut image.pull_policy, if always { "Always" } else { "IfNotPresent" });
    }
    if let Some(template) = volume.ephemeral.as_mut().and_then(|ephemeral| ephemeral.volume_claim_template.as_mut()) {
        template.spec.volume_mode.get_or_insert_with(|| "Filesystem".into());
    }
}

/// Rule PD2: whether an image has the tag `latest` or none; one that is named by digest alone has neither.
fn is_latest(image: &str) -> bool {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split_once(':').map_or(!digest, |(_, tag)| tag == "latest")
}
