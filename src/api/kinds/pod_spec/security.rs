//! Security contexts of Pods and containers.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{AppArmorProfile, Container, PodSpec, SeccompProfile};

use super::super::checks::{check_descending_path, text, to_value};
use crate::api::causes::Causes;

const ID: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL: &str = "must have at most 253 characters and match regex \
                      ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn check_id(id: Option<i64>, field: &str, causes: &mut Causes) {
    if let Some(id) = id.filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
        causes.invalid(field, id, ID);
    }
}

pub(super) fn check_pod(spec: &PodSpec, at: &str, causes: &mut Causes) {
    let at = format!("{at}.securityContext");
    let Some(context) = &spec.security_context else { return };
    check_id(context.fs_group, &format!("{at}.fsGroup"), causes);
    check_id(context.run_as_user, &format!("{at}.runAsUser"), causes);
    check_id(context.run_as_group, &format!("{at}.runAsGroup"), causes);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        check_id(Some(*group), &format!("{at}.supplementalGroups[{i}]"), causes);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        causes.invalid(format!("{at}.shareProcessNamespace"), true, detail);
    }
    let mut names = HashSet::new();
    for (i, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let field = format!("{at}.sysctls[{i}].name");
        let name = sysctl.name.as_str();
        if name.is_empty() {
            causes.required(field, "");
        } else if !is_sysctl(name) {
            causes.invalid(field, name, SYSCTL);
        } else if !names.insert(name) {
            causes.duplicate(field, name);
        } else if spec.host_network == Some(true) && name.starts_with("net.") {
            causes.invalid(field, name, "may not be specified when 'hostNetwork' is true");
        }
    }
    let policies = &["Always", "OnRootMismatch"];
    causes.one_of(&format!("{at}.fsGroupChangePolicy"), context.fs_group_change_policy.as_ref(), policies);
    check_seccomp(context.seccomp_profile.as_ref(), &format!("{at}.seccompProfile"), causes);
    check_app_armor(context.app_armor_profile.as_ref(), &format!("{at}.appArmorProfile"), causes);
    let policy = context.supplemental_groups_policy.as_ref();
    causes.one_of(&format!("{at}.supplementalGroupsPolicy"), policy, &["Merge", "Strict"]);
    let policies = &["MountOption", "Recursive"];
    causes.one_of(&format!("{at}.seLinuxChangePolicy"), context.se_linux_change_policy.as_ref(), policies);
}

fn is_sysctl(name: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let segment = |segment: &str| {
        let bytes = segment.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inner)
    };
    name.len() <= 253 && name.split(['.', '/']).all(segment)
}

fn check_seccomp(profile: Option<&SeccompProfile>, at: &str, causes: &mut Causes) {
    let Some(profile) = profile else { return };
    let types = &["Localhost", "RuntimeDefault", "Unconfined"];
    match profile.type_.as_str() {
        "" => causes.required(format!("{at}.type"), "type is required when seccompProfile is set"),
        _ => causes.one_of(&format!("{at}.type"), Some(&profile.type_), types),
    }
    let field = format!("{at}.localhostProfile");
    match (&profile.localhost_profile, profile.type_ == "Localhost") {
        (None, true) => causes.required(field, "must be set when seccomp type is Localhost"),
        (Some(path), true) => check_descending_path(causes, &field, path),
        (Some(_), false) => {
            causes.invalid(field, to_value(profile), "can only be set when seccomp type is Localhost");
        }
        (None, false) => {}
    }
}

fn check_app_armor(profile: Option<&AppArmorProfile>, at: &str, causes: &mut Causes) {
    let Some(profile) = profile else { return };
    let field = format!("{at}.localhostProfile");
    let named = text(&profile.localhost_profile);
    match profile.type_.as_str() {
        "Localhost" if named.trim() != named => causes.invalid(field, named, "must not be padded with whitespace"),
        "Localhost" if named.is_empty() => causes.required(field, "must be set when AppArmor type is Localhost"),
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" if profile.localhost_profile.is_some() => {
            causes.invalid(field, named, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        "" => causes.required(format!("{at}.type"), "type is required when appArmorProfile is set"),
        other => causes.unsupported(format!("{at}.type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

pub(super) fn check_container(container: &Container, at: &str, causes: &mut Causes) {
    let Some(context) = &container.security_context else { return };
    check_id(context.run_as_user, &format!("{at}.runAsUser"), causes);
    check_id(context.run_as_group, &format!("{at}.runAsGroup"), causes);
    causes.one_of(&format!("{at}.procMount"), context.proc_mount.as_ref(), &["Default", "Unmasked"]);
    check_seccomp(context.seccomp_profile.as_ref(), &format!("{at}.seccompProfile"), causes);
    if context.allow_privilege_escalation == Some(false) {
        let privileged = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        if context.privileged == Some(true) {
            causes.invalid(at, to_value(context), privileged);
        }
        let added = context.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
        for _ in added.filter(|capability| *capability == "CAP_SYS_ADMIN") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            causes.invalid(at, to_value(context), detail);
        }
    }
    check_app_armor(context.app_armor_profile.as_ref(), &format!("{at}.appArmorProfile"), causes);
}

/// A user namespace of its own does not go with the host's other namespaces.
pub(super) fn check_host_users(spec: &PodSpec, at: &str, causes: &mut Causes) {
    if spec.host_users != Some(false) {
        return;
    }
    let shared = [("hostNetwork", spec.host_network), ("HostPID", spec.host_pid), ("HostIPC", spec.host_ipc)];
    for (field, _) in shared.into_iter().filter(|(_, shared)| *shared == Some(true)) {
        causes.forbidden(format!("{at}.{field}"), "when `pod.Spec.HostUsers` is false");
    }
}
