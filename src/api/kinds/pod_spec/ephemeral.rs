//! Ephemeral containers: added to a Pod that runs, never changed or removed.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::super::checks::text;
use super::containers::{as_container, check_common};
use super::volumes::Volumes;
use crate::api::causes::Causes;

const NOT_HERE: &str = "cannot be set for an Ephemeral Container";

pub(super) fn check(spec: &PodSpec, volumes: &Volumes<'_>, at: &str, causes: &mut Causes) {
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: HashSet<&str> = others.map(|container| container.name.as_str()).collect();
    let mut names = others.clone();
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = format!("{at}[{i}]");
        let container = as_container(ephemeral);
        check_common(&container, volumes, text(&spec.restart_policy), &at, causes);
        if !names.insert(ephemeral.name.as_str()) {
            causes.duplicate(format!("{at}.name"), ephemeral.name.as_str());
        }
        let target = text(&ephemeral.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            causes.not_found(format!("{at}.targetContainerName"), target);
        }
        check_allowed(&container, &at, causes);
    }
}

/// A guest in the Pod: nothing that the Pod's work depends on.
fn check_allowed(container: &Container, at: &str, causes: &mut Causes) {
    let resources = container.resources.as_ref();
    let forbidden = [
        ("ports", container.ports.as_ref().is_some_and(|ports| !ports.is_empty())),
        ("resources", resources.is_some_and(|r| r.limits.is_some() || r.requests.is_some() || r.claims.is_some())),
        ("resizePolicy", container.resize_policy.as_ref().is_some_and(|policies| !policies.is_empty())),
        ("restartPolicy", container.restart_policy.is_some()),
        ("livenessProbe", container.liveness_probe.is_some()),
        ("readinessProbe", container.readiness_probe.is_some()),
        ("startupProbe", container.startup_probe.is_some()),
        ("lifecycle", container.lifecycle.is_some()),
    ];
    for (field, _) in forbidden.into_iter().filter(|(_, set)| *set) {
        causes.forbidden(format!("{at}.{field}"), NOT_HERE);
    }
    for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
        for (field, path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if !text(path).is_empty() {
                causes.forbidden(format!("{at}.volumeMounts[{i}].{field}"), NOT_HERE);
            }
        }
    }
}

/// What a write to `pods/ephemeralcontainers` may change: containers may come, none may go or change.
pub(in super::super) fn check_ephemeral_update(new: &PodSpec, old: &PodSpec, causes: &mut Causes) {
    for was in old.ephemeral_containers.iter().flatten() {
        let now = new.ephemeral_containers.iter().flatten().find(|container| container.name == was.name);
        let what = match now {
            None => "removed",
            Some(now) if now != was => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {:?} may not be {what}\n", was.name);
        causes.forbidden("spec.ephemeralContainers", detail);
    }
}
