//! Node.

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Info, NAME, age_cell, column, name_cell, wide};

/// Labels `node-role.kubernetes.io/ROLE` make up the Roles column.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";

pub struct Kind;

impl super::Kind for Kind {
    type Object = Node;
    const INFO: Info = Info {
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        namespaced: false,
        status: true,
        condition_times: &["lastHeartbeatTime", "lastTransitionTime"],
        fields: &["spec.unschedulable"],
        columns: &[
            NAME,
            column("Status", "The status of the node"),
            column("Roles", "The roles of the node"),
            AGE,
            column("Version", "Kubelet Version reported by the node."),
            wide(
                "Internal-IP",
                "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
            ),
            wide(
                "External-IP",
                "List of addresses reachable to the node. Queried from cloud provider, if available. More info: https://kubernetes.io/docs/reference/node/node-status/#addresses Note: This field is declared as mergeable, but the merge key is not sufficiently unique, which can cause data corruption when it is merged. Callers should instead use a full-replacement patch. See https://pr.k8s.io/79391 for an example. Consumers should assume that addresses can change during the lifetime of a Node. However, there are some exceptions where this may not be possible, such as Pods that inherit a Node's address in its own status or consumers of the downward API (status.hostIP).",
            ),
            wide("OS-Image", "OS Image reported by the node from /etc/os-release (e.g. Debian GNU/Linux 7 (wheezy))."),
            wide("Kernel-Version", "Kernel Version reported by the node from 'uname -r' (e.g. 3.16.0-0.bpo.4-amd64)."),
            wide(
                "Container-Runtime",
                "ContainerRuntime Version reported by the node through runtime remote API (e.g. containerd://1.4.2).",
            ),
        ],
        ..Info::DEFAULT
    };

    fn cells(object: &Node, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
        let mut state = match ready.map(|condition| condition.status.as_str()) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }
        .to_owned();
        if object.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
            state.push_str(",SchedulingDisabled");
        }
        let labels = object.metadata.labels.clone().unwrap_or_default();
        let roles: Vec<&str> =
            labels.keys().filter_map(|key| key.strip_prefix(ROLE_PREFIX)).filter(|r| !r.is_empty()).collect();
        let roles = if roles.is_empty() { "<none>".into() } else { roles.join(",") };
        let address = |kind: &str| {
            let found = status.addresses.iter().flatten().find(|address| address.type_ == kind);
            found.map_or("<none>".to_owned(), |address| address.address.clone())
        };
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: String| if text.is_empty() { "<unknown>".to_owned() } else { text };
        vec![
            name_cell(object),
            state.into(),
            roles.into(),
            age_cell(object, now),
            info.kubelet_version.into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            known(info.os_image).into(),
            known(info.kernel_version).into(),
            known(info.container_runtime_version).into(),
        ]
    }
}
