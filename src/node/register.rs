//! A node's object in the API, as a kubelet would write it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tracing::info;

use super::machine;
use super::status::seconds;
use crate::answers::unless_gone;
use crate::config::{NODE_LEASES, Network, node_name, node_zone};

/// The Kubernetes release whose kubelet the agent behaves as.
const KUBELET_VERSION: &str = "v1.36.0";
const REGION: &str = "local";
/// As many as there are addresses.
const MAX_PODS: u16 = 253;

/// The object of node `index`, complete with its status. `storage` is in bytes.
pub fn node_object(index: u16, network: &Network, storage: u64, now: Timestamp) -> Node {
    let name = node_name(index);
    let address = network.node_addr(index);
    let (v4, v6) = network.node_pod_cidrs(index);
    let arch = machine::architecture();
    let labels = [
        ("kubernetes.io/hostname", name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
        ("topology.kubernetes.io/zone", node_zone(index)),
        ("topology.kubernetes.io/region", REGION),
    ];
    let node_address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let (machine_id, boot_id) = machine::ids();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let resources = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus.to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", machine::memory_bytes() / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", storage / 1024))),
        ("pods".to_owned(), Quantity(MAX_PODS.to_string())),
    ]);
    Node {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(v4.to_string()),
            pod_cidrs: Some(vec![v4.to_string(), v6.to_string()]),
            provider_id: Some(provider_id(&name)),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            addresses: Some(vec![
                node_address("InternalIP", address.v4.to_string()),
                node_address("InternalIP", address.v6.to_string()),
                node_address("Hostname", name),
            ]),
            allocatable: Some(resources.clone()),
            capacity: Some(resources),
            conditions: Some(conditions(now)),
            images: Some(
                ["vipyard/whoami", "vipyard/pause", "vipyard/host"]
                    .map(|image| ContainerImage { names: Some(vec![format!("{image}:latest")]), size_bytes: Some(0) })
                    .to_vec(),
            ),
            node_info: Some(NodeSystemInfo {
                architecture: arch.to_owned(),
                boot_id,
                container_runtime_version: format!("vipyard://{}", env!("CARGO_PKG_VERSION")),
                kernel_version: machine::kernel_version(),
                kube_proxy_version: String::new(),
                kubelet_version: KUBELET_VERSION.to_owned(),
                machine_id: machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: machine::os_image(),
                system_uuid: machine_id,
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }),
    }
}

fn conditions(now: Timestamp) -> Vec<NodeCondition> {
    [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
    .map(|(type_, status, reason, message)| NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_heartbeat_time: Some(Time(seconds(now))),
        last_transition_time: Some(Time(seconds(now))),
    })
    .to_vec()
}

/// Creates the node's object, or brings the one of an earlier run up to date. What users added to it stays.
///
/// # Errors
/// The API's.
pub async fn register(client: &Client, mut node: Node) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let name = node.metadata.name.clone().unwrap_or_default();
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let known = api.get(&name).await?;
            keep_transition_times(&mut node, &known);
            let patch = json!({"metadata": {"labels": node.metadata.labels}});
            api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Err(e) => return Err(e),
    }
    // Before the status, which the node controller would undo as that of a node that is lost.
    renew_lease(client, &name, None).await?;
    // Creation may drop the status, as it does for most kinds.
    let patch = json!({"status": node.status});
    api.patch_status(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Writes the heartbeat of a node: one that holds as long as vipyard runs, or a last one that fades after `duration`.
///
/// # Errors
/// The API's.
pub async fn renew_lease(client: &Client, node: &str, duration: Option<Duration>) -> Result<(), kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    let owner = Api::<Node>::all(client.clone()).get(node).await?;
    let seconds = duration.map(|duration| i32::try_from(duration.as_secs()).unwrap_or(i32::MAX).max(1));
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node.to_owned(),
        uid: owner.metadata.uid.unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(NODE_LEASES.to_owned()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        }),
    };
    match leases.create(&PostParams::default(), &lease).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let owners = &lease.metadata.owner_references;
            let spec = json!({"holderIdentity": node, "renewTime": lease.spec.as_ref().map(|spec| &spec.renew_time),
                "leaseDurationSeconds": seconds});
            let patch = json!({"metadata": {"ownerReferences": owners}, "spec": spec});
            leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
        }
        other => other.map(drop),
    }
}

/// Removes the nodes of an earlier run that had more of them, with their heartbeats.
///
/// # Errors
/// The API's.
pub async fn retire(client: &Client, count: u16) -> Result<(), kube::Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let leases: Api<Lease> = Api::namespaced(client.clone(), NODE_LEASES);
    for node in nodes.list(&ListParams::default()).await?.iter().filter(|node| is_left_over(node, count)) {
        let name = node.name_any();
        info!(node = name, "node removed, as this run has fewer");
        unless_gone(nodes.delete(&name, &DeleteParams::default()).await)?;
        unless_gone(leases.delete(&name, &DeleteParams::default()).await)?;
    }
    Ok(())
}

/// Whether a node was made by vipyard and is none of the first `count`. Those that others made stay.
fn is_left_over(node: &Node, count: u16) -> bool {
    let name = node.name_any();
    let ours = node.spec.as_ref().and_then(|spec| spec.provider_id.as_ref()) == Some(&provider_id(&name));
    ours && !(1..=count).any(|index| node_name(index) == name)
}

fn provider_id(name: &str) -> String {
    format!("vipyard://{name}")
}

fn keep_transition_times(node: &mut Node, known: &Node) {
    let old = known.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    for condition in node.status.iter_mut().flat_map(|s| s.conditions.iter_mut().flatten()) {
        if let Some(same) = old.iter().find(|c| c.type_ == condition.type_ && c.status == condition.status) {
            condition.last_transition_time.clone_from(&same.last_transition_time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_object_reads_as_a_kubelets() {
        let node = node_object(2, &Network::default(), 8 << 20, Timestamp::UNIX_EPOCH);
        let value = serde_json::to_value(&node).unwrap();
        assert_eq!(value["metadata"]["labels"]["topology.kubernetes.io/zone"], "b");
        assert_eq!(value["spec"]["podCIDRs"], json!(["10.244.2.0/24", "fd00:10:244:2::/64"]));
        assert_eq!(
            value["status"]["addresses"],
            json!([
                {"type": "InternalIP", "address": "10.245.0.12"},
                {"type": "InternalIP", "address": "fd00:10:245::c"},
                {"type": "Hostname", "address": "n2"},
            ])
        );
        assert_eq!(value["status"]["conditions"][3]["type"], "Ready");
        assert_eq!(value["status"]["allocatable"]["ephemeral-storage"], "8192Ki");
        assert_eq!(value["status"]["nodeInfo"]["kubeletVersion"], "v1.36.0");
    }

    #[test]
    fn nodes_beyond_the_number_are_left_over_unless_others_made_them() {
        let node = |index| node_object(index, &Network::default(), 0, Timestamp::UNIX_EPOCH);
        assert!(!is_left_over(&node(3), 3) && is_left_over(&node(4), 3));
        let mut others = node(4);
        others.spec.as_mut().unwrap().provider_id = None;
        assert!(!is_left_over(&others, 3));
    }

    #[test]
    fn transition_time_of_an_earlier_run_is_kept() {
        let known = node_object(1, &Network::default(), 0, Timestamp::UNIX_EPOCH);
        let mut node = node_object(1, &Network::default(), 0, Timestamp::from_second(99).unwrap());
        keep_transition_times(&mut node, &known);
        let ready = node.status.unwrap().conditions.unwrap().pop().unwrap();
        assert_eq!(ready.last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
        assert_eq!(ready.last_heartbeat_time, Some(Time(Timestamp::from_second(99).unwrap())));
    }
}
