//! As whom containers run and what they may do, and what of that can't be given here.
//!
//! Nothing that is asked for is dropped in silence: what a process without a container runtime, or without root, can't
//! have is a note, which becomes an event.

use k8s_openapi::api::core::v1::{Capabilities, Container, Pod, PodSecurityContext, SecurityContext};
use kube::ResourceExt;
use rustix::thread::CapabilitySet as Caps;

use super::init::Identity;
use super::machine::Ids;
use crate::images::Image;

/// What container runtimes leave to root in a container.
const DEFAULT: [Caps; 14] = [
    Caps::CHOWN,
    Caps::DAC_OVERRIDE,
    Caps::FSETID,
    Caps::FOWNER,
    Caps::MKNOD,
    Caps::NET_RAW,
    Caps::SETGID,
    Caps::SETUID,
    Caps::SETFCAP,
    Caps::SETPCAP,
    Caps::NET_BIND_SERVICE,
    Caps::SYS_CHROOT,
    Caps::KILL,
    Caps::AUDIT_WRITE,
];

/// How a container's program is started.
#[derive(Debug, Default, PartialEq)]
pub struct Security {
    pub identity: Identity,
    pub read_only_root: bool,
    /// What is asked for and not given.
    pub notes: Vec<String>,
}

/// # Errors
/// The kubelet's words, for the waiting reason `CreateContainerConfigError`.
pub fn of_container(pod: &Pod, container: &Container, image: &Image, ids: &Ids) -> Result<Security, String> {
    let none = (PodSecurityContext::default(), SecurityContext::default());
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).unwrap_or(&none.0);
    let own = container.security_context.as_ref().unwrap_or(&none.1);
    let number = |value: Option<i64>| value.and_then(|id| u32::try_from(id).ok());
    let user = image.mapped().and_then(|image| image.user.clone()).filter(|user| !user.is_empty());
    let uid = number(own.run_as_user.or(of_pod.run_as_user));
    let gid = number(own.run_as_group.or(of_pod.run_as_group));
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        verify_non_root(pod, container, uid, user.as_deref())?;
    }

    let mut notes = Vec::new();
    let (mut identity, name) = (Identity { set_groups: ids.groups, ..Identity::default() }, &container.name);
    let mut mapped = |what: &str, id: Option<u32>, known: bool| {
        if let Some(id) = id.filter(|_| !known) {
            notes.push(format!(
                "{what} {id} of container {name} is not honored: vipyard was started by a user who has no other ids, and \
                 the container runs as that user; start vipyard as root for more"
            ));
        }
        id.filter(|_| known)
    };
    identity.uid = mapped("runAsUser", uid, uid.is_none_or(|uid| ids.uid(uid)));
    identity.gid = mapped("runAsGroup", gid, gid.is_none_or(|gid| ids.gid(gid)));
    let groups = of_pod.supplemental_groups.iter().flatten().copied().chain(of_pod.fs_group);
    for group in groups.filter_map(|group| number(Some(group))) {
        identity.groups.extend(mapped("group", Some(group), ids.groups && ids.gid(group)));
    }
    if uid.is_none() {
        let root = |user: &str| matches!(user.split(':').next(), Some("0" | "root"));
        match user {
            // Which number a name has is known inside of the image alone.
            Some(user) if !ids.is_whole() && !root(&user) => notes.push(format!(
                "user {user} of image {} is not honored: vipyard was started by a user who has no other ids",
                container.image.as_deref().unwrap_or_default()
            )),
            user => identity.user = user,
        }
    }

    let privileged = own.privileged == Some(true);
    if !privileged {
        let bits = capabilities(own.capabilities.as_ref(), |unknown| {
            notes.push(format!("capability {unknown} of container {name} is not known to this kernel"));
        });
        identity.capabilities = Some(bits.bits());
        identity.no_new_privileges = own.allow_privilege_escalation == Some(false);
    } else if !ids.is_whole() {
        notes
            .push(format!("container {name} is privileged towards its own Pod alone: vipyard was not started by root"));
    }
    let profile = own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref());
    if profile.is_some_and(|profile| profile.type_ == "Localhost") {
        notes.push(format!("seccompProfile of container {name} is not honored: no filter is loaded"));
    }
    let profile = own.app_armor_profile.as_ref().or(of_pod.app_armor_profile.as_ref());
    if profile.is_some_and(|profile| profile.type_ == "Localhost") {
        notes.push(format!("appArmorProfile of container {name} is not honored: no profile is loaded"));
    }
    if own.se_linux_options.is_some() || of_pod.se_linux_options.is_some() {
        notes.push(format!("seLinuxOptions of container {name} are not honored"));
    }
    for mount in container.volume_mounts.iter().flatten() {
        if mount.mount_propagation.as_deref().is_some_and(|mode| mode != "None") {
            notes.push(format!(
                "mountPropagation of {} in container {name} is not honored: it is None",
                mount.mount_path
            ));
        }
    }
    Ok(Security { identity, read_only_root: own.read_only_root_filesystem == Some(true), notes })
}

/// What a Pod asks for as a whole and can't have.
pub fn pod_notes(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut notes = Vec::new();
    let mut note = |asked: bool, text: &str| notes.extend(asked.then(|| text.to_owned()));
    note(
        spec.host_pid == Some(true),
        "hostPID is not honored: containers have process ids of their own, and end with them",
    );
    note(spec.host_ipc == Some(true), "hostIPC is not honored: the Pod has System V IPC of its own");
    note(spec.host_users == Some(false), "hostUsers: false is not honored: the Pod has the users of vipyard");
    note(spec.runtime_class_name.is_some(), "runtimeClassName is not honored: containers are processes");
    for volume in spec.volumes.iter().flatten() {
        let limited = volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref() != Some("Memory"));
        let asked = limited.is_some_and(|dir| dir.size_limit.is_some());
        note(asked, &format!("sizeLimit of volume {} is not honored: only medium Memory has one", volume.name));
    }
    notes
}

/// Rule of the kubelet (`pkg/kubelet/kuberuntime/security_context.go`): who must not be root is known not to be.
fn verify_non_root(pod: &Pod, container: &Container, uid: Option<u32>, user: Option<&str>) -> Result<(), String> {
    let of = || {
        let (name, namespace) = (pod.name_any(), pod.namespace().unwrap_or_default());
        format!("(pod: \"{name}_{namespace}({})\", container: {})", pod.uid().unwrap_or_default(), container.name)
    };
    let user = user.map(|user| user.split(':').next().unwrap_or_default());
    match (uid, user.map(|user| (user, user.parse::<u32>()))) {
        (Some(0), _) => Err(format!("container's runAsUser breaks non-root policy {}", of())),
        (Some(_), _) => Ok(()),
        (None, Some((_, Ok(uid)))) if uid != 0 => Ok(()),
        (None, None | Some((_, Ok(_)))) => {
            Err(format!("container has runAsNonRoot and image will run as root {}", of()))
        }
        (None, Some((user, Err(_)))) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {}",
            of()
        )),
    }
}

fn capabilities(asked: Option<&Capabilities>, mut unknown: impl FnMut(&str)) -> Caps {
    let mut kept = DEFAULT.into_iter().collect::<Caps>();
    let mut parse = |name: &str| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        if short == "ALL" {
            return Caps::all();
        }
        Caps::from_name(short).unwrap_or_else(|| {
            unknown(name);
            Caps::empty()
        })
    };
    let list = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    let (add, drop) = (list(asked.and_then(|a| a.add.as_ref())), list(asked.and_then(|a| a.drop.as_ref())));
    // As container runtimes do: ALL first, so that one can drop all and add one.
    if drop.iter().any(|name| name == "ALL") {
        kept = Caps::empty();
    }
    for name in &add {
        kept |= parse(name);
    }
    for name in drop.iter().filter(|name| *name != "ALL") {
        kept -= parse(name);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::images::MappedImage;

    fn container(pod: Value, own: Value, user: Option<&str>, ids: &Ids) -> Result<Security, String> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "d", "uid": "u"},
            "spec": {"containers": [], "securityContext": pod}}))
        .unwrap();
        let own = serde_json::from_value(json!({"name": "c", "image": "i", "securityContext": own})).unwrap();
        let image = MappedImage { user: user.map(str::to_owned), ..MappedImage::default() };
        of_container(&pod, &own, &Image::Mapped(Arc::new(image)), ids)
    }

    fn root() -> Ids {
        Ids::whole()
    }

    fn ordinary() -> Ids {
        Ids::single()
    }

    #[test]
    fn container_overrides_pod_and_image() {
        let found = container(
            json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]}),
            json!({"runAsUser": 5, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true}),
            Some("www-data"),
            &root(),
        )
        .unwrap();
        let identity = &found.identity;
        assert_eq!((identity.uid, identity.gid, &identity.groups[..]), (Some(5), Some(2), &[4, 3][..]));
        assert_eq!((identity.user.as_deref(), identity.no_new_privileges, found.read_only_root), (None, true, true));
        assert!(found.notes.is_empty());
        let found = container(json!({}), json!({}), Some("www-data"), &root()).unwrap();
        assert_eq!(found.identity.user.as_deref(), Some("www-data"));
    }

    #[test]
    fn ids_that_an_ordinary_user_has_not_are_noted() {
        let found = container(
            json!({"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [0]}),
            json!({"privileged": true}),
            None,
            &ordinary(),
        );
        let found = found.unwrap();
        assert_eq!((found.identity.uid, found.identity.groups.len()), (None, 0));
        assert!(found.notes[0].starts_with("runAsUser 1000 of container c is not honored"), "{:?}", found.notes);
        assert_eq!(found.notes.len(), 4, "{:?}", found.notes);
        let found = container(json!({}), json!({}), Some("www-data"), &ordinary()).unwrap();
        assert!(found.notes[0].starts_with("user www-data of image i is not honored"), "{:?}", found.notes);
        assert!(container(json!({"runAsUser": 0}), json!({}), None, &ordinary()).unwrap().notes.is_empty());
    }

    #[test]
    fn non_root_is_verified_with_the_kubelets_words() {
        let non_root =
            |uid: Value, user| container(json!({"runAsNonRoot": true}), json!({"runAsUser": uid}), user, &root());
        let at = "(pod: \"p_d(u)\", container: c)";
        for (uid, user, error) in [
            (json!(0), None, format!("container's runAsUser breaks non-root policy {at}")),
            (Value::Null, None, format!("container has runAsNonRoot and image will run as root {at}")),
            (Value::Null, Some("0:1"), format!("container has runAsNonRoot and image will run as root {at}")),
            (
                Value::Null,
                Some("web"),
                format!(
                    "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root {at}"
                ),
            ),
        ] {
            assert_eq!(non_root(uid, user).unwrap_err(), error);
        }
        assert!(non_root(json!(7), None).is_ok() && non_root(Value::Null, Some("33")).is_ok());
        let own = json!({"runAsNonRoot": false});
        assert!(container(json!({"runAsNonRoot": true}), own, None, &root()).is_ok());
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let kept = |own: Value| {
            let found = container(json!({}), own, None, &root()).unwrap();
            (found.identity.capabilities.map(Caps::from_bits_retain), found.notes)
        };
        let (default, _) = kept(json!({}));
        assert!(default.unwrap().contains(Caps::NET_RAW) && !default.unwrap().contains(Caps::SYS_ADMIN));
        let (one, _) = kept(json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}));
        assert_eq!(one, Some(Caps::NET_BIND_SERVICE));
        let (more, notes) = kept(json!({"capabilities": {"drop": ["CAP_CHOWN"], "add": ["NET_ADMIN", "FLY"]}}));
        assert!(more.unwrap().contains(Caps::NET_ADMIN) && !more.unwrap().contains(Caps::CHOWN));
        assert_eq!(notes, ["capability FLY of container c is not known to this kernel"]);
        assert_eq!(kept(json!({"privileged": true})).0, None);
    }

    #[test]
    fn what_can_not_be_given_is_noted() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {}, "spec": {"hostPID": true, "hostIPC": true, "containers": [],
            "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "m", "emptyDir": {"medium": "Memory",
            "sizeLimit": "1Gi"}}]}}))
            .unwrap();
        let notes = pod_notes(&pod);
        assert_eq!(notes.len(), 3, "{notes:?}");
        assert!(notes[0].starts_with("hostPID ") && notes[2].starts_with("sizeLimit of volume v "), "{notes:?}");
        let found = container(
            json!({"seccompProfile": {"type": "RuntimeDefault"}}),
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "x"}, "seLinuxOptions": {}}),
            None,
            &root(),
        );
        assert_eq!(found.unwrap().notes.len(), 2);
    }
}
