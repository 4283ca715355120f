//! The steps of the pipeline in words, with the objects that they rest on.

use std::net::SocketAddr;

use super::flow::object_of;
use super::lists::{filter_name, filter_text, list_text};
use super::report::{Addresses, Candidate, Ref, Step, StepKind};
use crate::cluster::Cluster;
use crate::plan::{Scope, ServicePort, Via};
use crate::router::flow::Masquerade;
use crate::router::stats::{AnswerReason, DropReason};
use crate::router::trace::{Origin, Pick, PortReason, ScopeReason, Step as Traced};
use crate::router::wire::Tuple;

pub(super) struct Teller<'a> {
    pub cluster: &'a Cluster,
}

impl Teller<'_> {
    pub(super) fn tell(&self, step: &Traced) -> Step {
        match step {
            Traced::Enters { node, origin, source } => {
                let text = match origin {
                    Origin::Pod => format!("it comes to {node}, the Pod's node"),
                    Origin::Host if source.node == *node => format!("it starts at {node} itself"),
                    Origin::Host | Origin::Elsewhere => format!("it comes to {node} from outside"),
                };
                Step {
                    rests_on: object_of(self.cluster, source).into_iter().collect(),
                    ..at(StepKind::Enter, node, text)
                }
            }
            Traced::Captured { node, service, via, destination } => {
                let text = format!("{destination} is {} of {} {}", door(*via), kind(service), title(service));
                Step { rests_on: vec![service_ref(service)], ..at(StepKind::Match, node, text) }
            }
            Traced::Uncaptured { node, destination } => {
                at(StepKind::NoMatch, node, format!("{destination} with this port is no Service's"))
            }
            Traced::SourceRanges { node, service, source, admitted } => {
                let ranges = service.source_ranges.iter().flat_map(|ranges| ranges.iter()).map(ToString::to_string);
                let verb = if *admitted { "let in" } else { "keep out" };
                let text =
                    format!("loadBalancerSourceRanges {} {verb} {source}", ranges.collect::<Vec<_>>().join(", "));
                Step { rests_on: vec![service_ref(service)], ..at(StepKind::SourceRanges, node, text) }
            }
            Traced::Candidates { node, service, scope, reason, list, left, removed } => {
                let why = match reason {
                    ScopeReason::InternalLocal => "internalTrafficPolicy is Local: ",
                    ScopeReason::ExternalLocal => "externalTrafficPolicy is Local: ",
                    ScopeReason::StartsHere => {
                        "externalTrafficPolicy is Local, but it starts here, so all nodes count: "
                    }
                    ScopeReason::Cluster => "",
                };
                let found = match (left.len(), scope) {
                    (0, Scope::Local) => "no endpoint on this node".to_owned(),
                    (0, Scope::Cluster) => "no endpoint".to_owned(),
                    (n, _) => format!("{n} of {} endpoints: {}", n + removed.len(), list_text(*list)),
                };
                let mut candidates: Vec<Candidate> = left.iter().map(|index| candidate(service, *index)).collect();
                candidates.extend(removed.iter().map(|(index, filter)| Candidate {
                    left: false,
                    filter: filter_name(*filter).to_owned(),
                    why: filter_text(service, *index, *filter),
                    ..candidate(service, *index)
                }));
                let rests_on = std::iter::once(service_ref(service)).chain(self.slices(service)).collect();
                Step { candidates, rests_on, ..at(StepKind::Candidates, node, format!("{why}{found}")) }
            }
            Traced::Chosen { node, service, endpoint, of, how } => {
                let chosen = candidate(service, *endpoint);
                let who = if chosen.pod.is_empty() { String::new() } else { format!(", Pod {}", chosen.pod) };
                let seconds = service.affinity.map(|timeout| timeout.as_secs()).unwrap_or_default();
                let how = match (how, of) {
                    (Pick::Random, 1) => "the only one".to_owned(),
                    (Pick::Random, n) => format!("by chance, one of {n}"),
                    (Pick::Remembered, _) => format!("session affinity remembers it for this client ({seconds} s)"),
                    (Pick::RandomFirst, n) => {
                        format!("by chance, one of {n}; session affinity will remember it for {seconds} s")
                    }
                    (Pick::Dialed, _) => "it has answered".to_owned(),
                };
                let pod = service.endpoints()[*endpoint as usize].pod.as_deref();
                let pod = pod.and_then(|name| self.cluster.pods.get(&service.namespace, name));
                let rests_on = pod.iter().map(|pod| super::pods::pod_ref(pod)).collect();
                Step { rests_on, ..at(StepKind::Pick, node, format!("{}{who}: {how}", chosen.address)) }
            }
            Traced::Translated { node, from, to, masquerade } => {
                let masquerade = match masquerade {
                    None => "the source stays".to_owned(),
                    Some(why) => format!("the source becomes {}, as {}", to.src, masqueraded(*why)),
                };
                let text = format!(
                    "destination {} becomes {}; {masquerade}",
                    SocketAddr::new(from.dst, from.dport),
                    SocketAddr::new(to.dst, to.dport)
                );
                Step { before: Some(addresses(from)), after: Some(addresses(to)), ..at(StepKind::Rewrite, node, text) }
            }
            Traced::SourcePort { from, to, reason } => {
                let why = match reason {
                    PortReason::Masqueraded => "the node's kernel has the others",
                    PortReason::Taken => "another flow has that one",
                };
                Step {
                    step: StepKind::SourcePort,
                    text: format!("the source port {from} becomes {to}: {why}"),
                    ..Step::default()
                }
            }
            Traced::Forwarded { node, to } => at(StepKind::Hop, node, format!("{node} sends it to {to}")),
            Traced::Leaves { node, destination } => at(
                StepKind::Leave,
                node,
                format!("{destination} is nobody's in the cluster: it leaves {node} for the world"),
            ),
            Traced::Delivered { node, to, hops } => {
                let aged = match hops {
                    0 => "no node has forwarded it".to_owned(),
                    1 => "one node has forwarded it".to_owned(),
                    n => format!("{n} nodes have forwarded it"),
                };
                let text = format!("{node} hands it to {}; {aged}", to.name);
                Step {
                    rests_on: object_of(self.cluster, to).into_iter().collect(),
                    ..at(StepKind::Deliver, node, text)
                }
            }
        }
    }

    fn slices(&self, service: &ServicePort) -> Vec<Ref> {
        let slices = service.slices.iter().map(|slice| Ref {
            kind: "EndpointSlice".to_owned(),
            namespace: service.namespace.to_string(),
            name: slice.name.to_string(),
            uid: self
                .cluster
                .slices
                .get(&service.namespace, &slice.name)
                .and_then(|slice| slice.metadata.uid.clone())
                .unwrap_or_default(),
            resource_version: slice.revision.to_string(),
        });
        slices.collect()
    }

    pub(super) fn dropped(&self, reason: DropReason) -> &'static str {
        match reason {
            DropReason::NoLocalEndpoint => "the policy is Local, and the endpoints are on other nodes",
            DropReason::SourceRange => "loadBalancerSourceRanges keep the sender out",
            DropReason::UnallocatedVip => "the address is of the Service range, and no Service has it",
            DropReason::NoRoute => "nobody in the cluster has the address, and it is not one of the world's",
            DropReason::NotUnicast => "the address is not one host's",
            DropReason::NoNodeAddress => "the node has no address of this family to send from",
            DropReason::NatPortsExhausted => "no source port is left for this endpoint",
            DropReason::RoutingLoop => "it goes from node to node without end",
            DropReason::Spoofed => "the source address is not the sender's",
            DropReason::PortGone => "the device is gone",
            DropReason::FlowClash => "another flow has the same addresses",
            DropReason::TcpWithoutFlow
            | DropReason::Truncated
            | DropReason::Malformed
            | DropReason::HeaderChecksum
            | DropReason::IcmpChecksum
            | DropReason::TtlZero
            | DropReason::FragmentWithoutFirst
            | DropReason::IcmpUnsupported
            | DropReason::IcmpErrorWithoutFlow
            | DropReason::Unanswerable
            | DropReason::BackendGone
            | DropReason::DeviceWrite
            | DropReason::OutsideBusy => "the router cannot forward it",
        }
    }

    pub(super) fn answered(&self, reason: AnswerReason) -> &'static str {
        match reason {
            AnswerReason::NoEndpoint => "the Service has no endpoint that may be used",
            AnswerReason::UnknownServicePort => "the ClusterIP is a Service's, and the port is none of it",
            AnswerReason::HostUnreachable => "no Pod and no node has the address",
            AnswerReason::TimeExceeded => "its time to live has ended",
            AnswerReason::TooBig => "it is larger than the MTU",
            AnswerReason::OutsideRefused
            | AnswerReason::OutsideNetwork
            | AnswerReason::OutsideHost
            | AnswerReason::OutsideForbidden => "the world refuses it",
        }
    }

    /// What the sender gets.
    pub(super) fn answer(&self, reason: AnswerReason, v6: bool) -> String {
        let what = match reason {
            AnswerReason::NoEndpoint | AnswerReason::UnknownServicePort | AnswerReason::OutsideRefused => {
                "port unreachable"
            }
            AnswerReason::HostUnreachable | AnswerReason::OutsideHost => "host unreachable",
            AnswerReason::OutsideNetwork => "network unreachable",
            AnswerReason::OutsideForbidden => "administratively prohibited",
            AnswerReason::TimeExceeded => "time exceeded",
            AnswerReason::TooBig => "packet too big",
        };
        format!("{} {what}", if v6 { "ICMPv6" } else { "ICMP" })
    }
}

fn at(step: StepKind, node: &str, text: String) -> Step {
    Step { step, node: node.to_owned(), text, ..Step::default() }
}

pub(super) fn title(service: &ServicePort) -> String {
    let name = if service.port_name.is_empty() { String::new() } else { format!(" ({})", service.port_name) };
    format!("{}/{}, port {}{name}", service.namespace, service.name, service.port)
}

fn door(via: Via) -> &'static str {
    match via {
        Via::ClusterIp => "the ClusterIP",
        Via::ExternalIp => "an externalIP",
        Via::LoadBalancer => "a load-balancer address",
        Via::NodePort => "a node port",
        Via::HostPort => "a hostPort",
    }
}

fn kind(service: &ServicePort) -> &'static str {
    if service.of_pod { "Pod" } else { "Service" }
}

pub(super) fn service_ref(service: &ServicePort) -> Ref {
    Ref {
        kind: kind(service).to_owned(),
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        uid: service.uid.to_string(),
        resource_version: service.revision.to_string(),
    }
}

fn candidate(service: &ServicePort, index: u32) -> Candidate {
    let endpoint = &service.endpoints()[index as usize];
    Candidate {
        address: endpoint.addr.to_string(),
        pod: endpoint.pod.as_deref().unwrap_or_default().to_owned(),
        node: endpoint.node.as_deref().unwrap_or_default().to_owned(),
        left: true,
        ..Candidate::default()
    }
}

fn addresses(tuple: &Tuple) -> Addresses {
    Addresses {
        source: SocketAddr::new(tuple.src, tuple.sport).to_string(),
        destination: SocketAddr::new(tuple.dst, tuple.dport).to_string(),
    }
}

fn masqueraded(why: Masquerade) -> &'static str {
    match why {
        Masquerade::External => "it came by an external address, and the policy is Cluster",
        Masquerade::FromNode => "the node itself sends to an external address",
        Masquerade::OffCluster => "no Pod of this node sends to the ClusterIP",
        Masquerade::Hairpin => "the endpoint is the sender",
    }
}
