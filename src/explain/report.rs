//! What explanations look like: the JSON of the API, and what the command line prints from.
//!
//! docs/explain.md shows each shape with an example. Fields that say nothing (no value, an empty list) are left out.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

/// An object in the version that a statement rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ref {
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
}

impl Ref {
    pub fn of(kind: &str, metadata: &ObjectMeta) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
        }
    }
}

impl From<ObjectReference> for Ref {
    fn from(object: ObjectReference) -> Self {
        Self {
            kind: object.kind.unwrap_or_default(),
            namespace: object.namespace.unwrap_or_default(),
            name: object.name.unwrap_or_default(),
            uid: object.uid.unwrap_or_default(),
            resource_version: object.resource_version.unwrap_or_default(),
        }
    }
}

/// A statement about what is wrong or worth knowing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Finding {
    /// For programs: one of the codes of docs/explain.md.
    pub code: String,
    pub message: String,
    /// What mends it, where that can be said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rests_on: Vec<Ref>,
}

impl Finding {
    pub(super) fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), ..Self::default() }
    }

    #[must_use]
    pub(super) fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }

    #[must_use]
    pub(super) fn on(mut self, object: Ref) -> Self {
        self.rests_on.push(object);
        self
    }
}

/// `GET /vipyard/v1/explain/service`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceReport {
    pub service: Ref,
    #[serde(rename = "type")]
    pub type_: String,
    /// Whether some of the traffic that it gets reaches somebody.
    pub serving: bool,
    /// Whether every port does, by every family; one that a PreferDualStack Service has and no endpoint has does not count.
    pub complete: bool,
    /// One sentence.
    pub summary: String,
    /// What keeps it from working or is likely to, most important first.
    pub problems: Vec<Finding>,
    pub dns_name: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub selector: BTreeMap<String, String>,
    pub addresses: Vec<Address>,
    /// One entry per port and family.
    pub ports: Vec<PortReport>,
    /// Pods that would be endpoints in use but for what is said of them, the nearest first.
    pub near_misses: Vec<NearMiss>,
    /// Near misses that are left out.
    pub more_near_misses: usize,
    pub slices: Vec<Ref>,
    /// Of the router's plan that this was read from.
    pub plan_epoch: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Address {
    /// `ClusterIP`, `LoadBalancer` or `externalIP`.
    pub kind: String,
    pub address: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortReport {
    pub name: String,
    pub protocol: String,
    pub port: u16,
    pub target_port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
    /// `IPv4` or `IPv6`.
    pub family: String,
    pub endpoints: Vec<EndpointReport>,
    /// Which endpoints nodes use, and why: nodes that choose alike are together.
    pub choices: Vec<Choice>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointReport {
    pub address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hinted_nodes: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hinted_zones: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Choice {
    pub nodes: Vec<String>,
    /// `internal` is traffic to the ClusterIP, `external` what comes from elsewhere to node ports, load-balancer addresses
    /// and externalIPs, `all` both.
    pub traffic: String,
    /// `Cluster`, `HintedNode`, `HintedZone`, `ClusterTerminating`, `Local` or `LocalTerminating`.
    pub list: String,
    pub why: String,
    /// Addresses of endpoints.
    pub uses: Vec<String>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeftOut {
    pub address: String,
    /// `NotReady`, `Terminating`, `NotServing`, `OtherNode` or `Hint`.
    pub filter: String,
    pub why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NearMiss {
    pub pod: Ref,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    pub phase: String,
    pub reasons: Vec<Finding>,
}

/// `GET /vipyard/v1/explain/flow`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FlowReport {
    /// Who sends: `pod/NAMESPACE/NAME`, `node/NAME` or `host`.
    pub from: String,
    /// As it was asked for.
    pub to: String,
    pub protocol: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub family: String,
    pub reachable: bool,
    pub verdict: Verdict,
    pub steps: Vec<Step>,
    /// What is behind a verdict, and what is likely to go wrong behind the router; most important first.
    pub problems: Vec<Finding>,
    pub plan_epoch: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Verdict {
    pub result: VerdictResult,
    /// The label of the router's counter: `no_endpoint`, `no_local_endpoint` and so on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    pub message: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VerdictResult {
    /// The packet arrives, and so does the answer.
    Delivered,
    /// It is for an address in the world: a socket of the host's carries it on.
    LeavesCluster,
    /// The router tells the sender at once.
    Rejected,
    /// It is for the sender itself, whose kernel keeps it.
    StaysInside,
    /// The sender waits in vain.
    Dropped,
    /// The name has no address.
    Unresolved,
    /// The sender has no connected device.
    #[default]
    NoSender,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StepKind {
    #[default]
    Send,
    Dns,
    Enter,
    Match,
    NoMatch,
    SourceRanges,
    Candidates,
    Pick,
    Rewrite,
    SourcePort,
    Hop,
    Leave,
    Deliver,
    Reply,
    Verdict,
}

/// A step of a packet's way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Step {
    pub step: StepKind,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// One sentence.
    pub text: String,
    /// Of a DNS answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
    /// Of a choice: every endpoint of the Service port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// Of a rewrite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Addresses>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Addresses>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rests_on: Vec<Ref>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Addresses {
    pub source: String,
    pub destination: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Candidate {
    pub address: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Whether it may be chosen.
    pub left: bool,
    /// What took it away, as in [`LeftOut`].
    #[serde(skip_serializing_if = "String::is_empty")]
    pub filter: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}
