//! Containers of every kind: names, images, ports, mounts.

use std::collections::{BTreeMap, HashSet};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, PodSpec, VolumeMount};

use super::super::checks::{check_descending_path, check_no_backsteps, text};
use super::super::service_validation::check_port_number;
use super::volumes::Volumes;
use super::{Place, env, ephemeral, probes, resources, security};
use crate::api::causes::Causes;
use crate::api::names::{label_errors, port_name_errors};

const NO_SIDECAR: &str = "may not be set for init containers without restartPolicy=Always";

/// An ephemeral container has the fields of a container.
pub(super) fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    }
}

pub(super) fn check(spec: &PodSpec, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    check_main(spec, volumes, &format!("{at}.containers"), causes);
    check_init(spec, volumes, &format!("{at}.initContainers"), causes);
    ephemeral::check(spec, volumes, &format!("{at}.ephemeralContainers"), causes);
}

fn check_main(spec: &PodSpec, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    if spec.containers.is_empty() {
        causes.required(at, "");
    }
    let grace = spec.termination_grace_period_seconds;
    let mut names = HashSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let at = format!("{at}[{i}]");
        check_common(container, volumes, text(&spec.restart_policy), &at, causes);
        if !names.insert(container.name.as_str()) {
            causes.duplicate(format!("{at}.name"), container.name.as_str());
        }
        probes::check_all(container, grace, &at, causes);
        let policies = &["Always", "OnFailure", "Never"];
        causes.one_of(&format!("{at}.restartPolicy"), container.restart_policy.as_ref(), policies);
    }
    let mut ports = HashSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        check_unique_ports(container, &mut ports, &format!("{at}[{i}].ports"), causes);
    }
}

fn check_init(spec: &PodSpec, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    let grace = spec.termination_grace_period_seconds;
    let mut names: HashSet<&str> = spec.containers.iter().map(|container| container.name.as_str()).collect();
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let list = at;
        let at = format!("{at}[{i}]");
        check_common(container, volumes, text(&spec.restart_policy), &at, causes);
        let policies = &["Always", "OnFailure", "Never"];
        causes.one_of(&format!("{at}.restartPolicy"), container.restart_policy.as_ref(), policies);
        if !container.name.is_empty() && !names.insert(container.name.as_str()) {
            causes.duplicate(format!("{at}.name"), container.name.as_str());
        }
        // Init containers run one after another, so each is alone with its ports.
        check_unique_ports(container, &mut HashSet::new(), &format!("{list}[0].ports"), causes);
        if container.restart_policy.as_deref() == Some("Always") {
            probes::check_all(container, grace, &at, causes);
            continue;
        }
        let forbidden = [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ];
        for (field, _) in forbidden.into_iter().filter(|(_, set)| *set) {
            causes.forbidden(format!("{at}.{field}"), NO_SIDECAR);
        }
        if container.resize_policy.as_ref().is_some_and(|policies| !policies.is_empty()) {
            let value = super::super::checks::to_value(&container.resize_policy);
            causes.invalid(format!("{at}.resizePolicy"), value, "must not be set for init containers");
        }
    }
}

/// What holds for containers of every kind.
pub(super) fn check_common(
    container: &Container,
    volumes: &Volumes<'_>,
    pod_restart_policy: &str,
    at: &str,
    causes: &mut Causes,
) {
    if container.name.is_empty() {
        causes.required(format!("{at}.name"), "");
    } else {
        causes.all(&format!("{at}.name"), &container.name, label_errors(&container.name));
    }
    if text(&container.image).is_empty() {
        causes.required(format!("{at}.image"), "");
    }
    let policies = &["File", "FallbackToLogsOnError"];
    let policy = container.termination_message_policy.as_ref();
    causes.one_of(&format!("{at}.terminationMessagePolicy"), policy, policies);
    check_ports(container, &format!("{at}.ports"), causes);
    env::check(container, at, causes);
    check_mounts(container, volumes, &format!("{at}.volumeMounts"), causes);
    check_devices(container, volumes, &format!("{at}.volumeDevices"), causes);
    let pull = &["Always", "IfNotPresent", "Never"];
    causes.one_of(&format!("{at}.imagePullPolicy"), container.image_pull_policy.as_ref(), pull);
    if let Some(requirements) = &container.resources {
        resources::check(requirements, &format!("{at}.resources"), causes);
    }
    resources::check_resize_policy(container, pod_restart_policy, &format!("{at}.resizePolicy"), causes);
    security::check_container(container, &format!("{at}.securityContext"), causes);
}

fn check_ports(container: &Container, at: &str, causes: &mut Causes) {
    let mut names = HashSet::new();
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let at = format!("{at}[{i}]");
        let name = text(&port.name);
        if !name.is_empty() {
            let errors = port_name_errors(name);
            if errors.is_empty() && !names.insert(name) {
                causes.duplicate(format!("{at}.name"), name);
            }
            causes.all(&format!("{at}.name"), name, errors);
        }
        if port.container_port == 0 {
            causes.required(format!("{at}.containerPort"), "");
        } else {
            check_port_number(causes, &format!("{at}.containerPort"), port.container_port);
        }
        if let Some(host_port) = port.host_port.filter(|port| *port != 0) {
            check_port_number(causes, &format!("{at}.hostPort"), host_port);
        }
        causes.one_of(&format!("{at}.protocol"), port.protocol.as_ref(), &["SCTP", "TCP", "UDP"]);
    }
}

fn check_unique_ports(container: &Container, seen: &mut HashSet<String>, at: &str, causes: &mut Causes) {
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let Some(number) = port.host_port.filter(|port| *port != 0) else { continue };
        let key = format!("{}/{}/{number}", text(&port.protocol), text(&port.host_ip));
        if !seen.insert(key.clone()) {
            causes.duplicate(format!("{at}[{i}].hostPort"), key);
        }
    }
}

/// In the node's network namespace a container's ports are the node's.
pub(super) fn check_host_ports(spec: &PodSpec, at: &str, place: Place, causes: &mut Causes) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, container) in spec.containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let host_port = port.host_port.unwrap_or(0);
            // A template may leave it out: it is filled in when the Pod is made.
            if (place == Place::Pod || host_port != 0) && host_port != port.container_port {
                let field = format!("{at}.containers[{i}].ports[{j}].hostPort");
                causes.invalid(field, host_port, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn check_mounts(container: &Container, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    let devices: BTreeMap<&str, &str> =
        container.volume_devices.iter().flatten().map(|d| (d.name.as_str(), d.device_path.as_str())).collect();
    let mut paths = HashSet::new();
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let list = at;
        let at = format!("{at}[{i}]");
        if mount.name.is_empty() {
            causes.required(format!("{at}.name"), "");
        }
        if !volumes.contains_key(mount.name.as_str()) {
            causes.not_found(format!("{at}.name"), mount.name.as_str());
        }
        let path = mount.mount_path.as_str();
        if path.is_empty() {
            causes.required(format!("{at}.mountPath"), "");
        }
        if !paths.insert(path) {
            causes.invalid(format!("{at}.mountPath"), path, "must be unique");
        }
        if devices.contains_key(mount.name.as_str()) {
            causes.invalid(format!("{at}.name"), mount.name.as_str(), "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == path) {
            let detail = "must not already exist as a path in volumeDevices";
            causes.invalid(format!("{at}.mountPath"), path, detail);
        }
        // The reference names the list here, not the item.
        let sub_path = text(&mount.sub_path);
        if !sub_path.is_empty() {
            check_descending_path(causes, &format!("{list}.subPath"), sub_path);
        }
        let expression = text(&mount.sub_path_expr);
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                causes.invalid(format!("{at}.subPathExpr"), expression, detail);
            }
            check_descending_path(causes, &format!("{list}.subPathExpr"), expression);
        }
        check_propagation(container, mount, list, causes);
    }
}

fn check_propagation(container: &Container, mount: &VolumeMount, at: &str, causes: &mut Causes) {
    if let Some(mode) = &mount.mount_propagation {
        let field = format!("{at}.mountPropagation");
        causes.one_of(&field, Some(mode), &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
        if mode == "Bidirectional" && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            causes.forbidden(field, detail);
        }
    }
    let field = format!("{at}.recursiveReadOnly");
    match mount.recursive_read_only.as_deref() {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if mount.read_only != Some(true) {
                causes.forbidden(&field, "may only be specified when readOnly is true");
            }
            if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
                causes.forbidden(field, "may only be specified when mountPropagation is None or not specified");
            }
        }
        Some(other) => causes.unsupported(field, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn check_devices(container: &Container, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    let (mut names, mut paths) = (HashSet::new(), HashSet::new());
    for (i, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = format!("{at}[{i}]");
        let (name, path) = (device.name.as_str(), device.device_path.as_str());
        if name.is_empty() {
            causes.required(format!("{at}.name"), "");
        } else if !names.insert(name) {
            causes.invalid(format!("{at}.name"), name, "must be unique");
        }
        match volumes.get(name) {
            None => causes.not_found(format!("{at}.name"), name),
            Some(volume) if volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none() => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                causes.invalid(format!("{at}.name"), name, detail);
            }
            Some(_) => {}
        }
        if path.is_empty() {
            causes.required(format!("{at}.devicePath"), "");
        }
        if !paths.insert(path) {
            causes.invalid(format!("{at}.devicePath"), path, "must be unique");
        }
        check_no_backsteps(causes, &format!("{at}.devicePath"), path);
        if mounted(name) {
            causes.invalid(format!("{at}.name"), name, "must not already exist in volumeMounts");
        }
    }
}
