//! Explains a flow: a packet that pretends to be its first goes through a copy of the router's pipeline, and each step is
//! told as it is taken. Nothing here decides anything.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use rand::Rng;

use super::lookup::{self, Lookup, Resolved};
use super::packet;
use super::pods;
use super::report::{Addresses, Finding, FlowReport, Ref, Step, StepKind, Verdict as Said, VerdictResult};
use super::request::{BadRequest, Family, FlowRequest, From, Port, To};
use super::resolvers::Resolvers;
use super::service::{Lack, Lacking};
use super::steps::{Teller, title};
use crate::cluster::Cluster;
use crate::controllers::endpoint_model::pod_addresses;
use crate::dns::Zone;
use crate::dns::records::Records;
use crate::plan::{Protocol, ServicePort};
use crate::router::flow::Millis;
use crate::router::pipeline::{Pipeline, Verdict};
use crate::router::ports::PortInfo;
use crate::router::stats::{AnswerReason, DropReason};
use crate::router::trace::{Recording, Step as Traced};
use crate::router::wire::{Headers, PacketBuf, Tuple};
use crate::router::{PortId, PortKind};

/// Ports that a client's kernel takes (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: std::ops::Range<u16> = 32_768..61_000;

/// What an explanation rests on.
pub struct Facts<'a> {
    pub cluster: &'a Cluster,
    pub records: &'a Records,
    pub zone: &'a Zone,
    pub resolvers: &'a Resolvers,
}

/// An explanation, and what the Service lacks that turned the packet away, whose problems are behind that.
pub struct Explained {
    pub report: FlowReport,
    pub lack: Option<Lack>,
}

/// Sends the packet. `make` gives a copy of the pipeline for a client with these addresses, and the time in it.
///
/// # Errors
/// When the question names what is not there.
pub fn explain<R: Rng>(
    facts: &Facts<'_>,
    request: &FlowRequest,
    make: impl FnOnce(&[IpAddr]) -> (Pipeline<R>, Millis),
) -> Result<Explained, BadRequest> {
    let mut report = FlowReport {
        from: request.from.to_string(),
        to: request.to_text.clone(),
        protocol: request.protocol.as_str().to_owned(),
        ..FlowReport::default()
    };
    let sender = Sender::find(facts, &request.from)?;
    let (mut pipeline, now) = make(&sender.addresses());
    report.plan_epoch = pipeline.plan().epoch;
    let Some(port) = sender.port(&pipeline) else {
        report.verdict = Said { message: sender.absence(), ..Said::default() };
        report.problems = sender.reasons();
        return Ok(Explained { report, lack: None });
    };
    if let Some(node) = &request.node
        && !pipeline.ports().nodes().any(|port| *port.node == **node)
    {
        return Err(BadRequest::NotFound(format!("there is no node {node}: see `kubectl get nodes`")));
    }
    let Some(destination) = destination(facts, request, &sender, &port, &mut pipeline, &mut report)? else {
        finish(&mut report);
        return Ok(Explained { report, lack: None });
    };
    report.family = Family::of(destination.ip()).as_str().to_owned();
    let Some(address) = port.address(destination.is_ipv6()) else {
        let message = format!("{} has no {} address to send from", request.from, report.family);
        report.verdict = Said { message, ..Said::default() };
        return Ok(Explained { report, lack: None });
    };
    let source = SocketAddr::new(address, rand::rng().random_range(EPHEMERAL));
    let lack = if destination.ip().is_loopback() || destination.ip().is_unspecified() {
        report.verdict = stays_inside(&request.from, destination);
        None
    } else {
        send(facts, request, &mut pipeline, now, &port, (source, destination), &mut report)
    };
    finish(&mut report);
    Ok(Explained { report, lack })
}

fn finish(report: &mut FlowReport) {
    use VerdictResult::{Delivered, LeavesCluster, StaysInside};
    report.reachable = matches!(report.verdict.result, Delivered | LeavesCluster | StaysInside);
    report.steps.push(Step { step: StepKind::Verdict, text: report.verdict.message.clone(), ..Step::default() });
}

/// What no device sees.
fn stays_inside(from: &From, destination: SocketAddr) -> Said {
    let who = match from {
        From::Pod { .. } => "Pod",
        From::Node(_) => "node",
        From::Host => "host",
    };
    let message = format!("stays in the {who}: {destination} is its own, and what listens there answers");
    Said { result: VerdictResult::StaysInside, message, ..Said::default() }
}

/// Who sends, as an object.
enum Sender {
    Pod(Arc<Pod>),
    Node(String),
    Host,
}

impl Sender {
    fn find(facts: &Facts<'_>, from: &From) -> Result<Self, BadRequest> {
        match from {
            From::Pod { namespace, name } => facts.cluster.pods.get(namespace, name).map(Self::Pod).ok_or_else(|| {
                BadRequest::NotFound(format!(
                    "there is no Pod {namespace}/{name}: see `kubectl get pods -n {namespace}`"
                ))
            }),
            From::Node(name) => match facts.cluster.nodes.get("", name) {
                Some(_) => Ok(Self::Node(name.clone())),
                None => Err(BadRequest::NotFound(format!("there is no node {name}: see `kubectl get nodes`"))),
            },
            From::Host => Ok(Self::Host),
        }
    }

    /// Those of nodes and the host are known to the router.
    fn addresses(&self) -> Vec<IpAddr> {
        match self {
            Self::Pod(pod) => pod_addresses(pod).collect(),
            Self::Node(_) | Self::Host => Vec::new(),
        }
    }

    /// The device that it sends by: a Pod in its node's network has the node's.
    fn port<R: Rng>(&self, pipeline: &Pipeline<R>) -> Option<Arc<PortInfo>> {
        let ports = pipeline.ports();
        let port = match self {
            Self::Pod(pod) if is_host_network(pod) => ports.named(PortKind::Node, pods::node_of(pod)),
            Self::Pod(pod) => {
                let name = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
                // One of the same name may be on its way out.
                ports.named(PortKind::Pod, &name).filter(|port| Some(&*port.uid) == pod.metadata.uid.as_deref())
            }
            Self::Node(name) => ports.named(PortKind::Node, name),
            Self::Host => ports.of_kind(PortKind::Outside),
        };
        port.cloned()
    }

    fn absence(&self) -> String {
        match self {
            Self::Pod(pod) => format!("Pod {} cannot send: its phase is {}, and it has no device", pod.name_any(), pods::phase(pod)),
            Self::Node(name) => format!("node {name} has no device: it is not one of this process"),
            Self::Host => "this host is not connected to the cluster, which takes root: it has the loopback alone, see `vipyard reach`".to_owned(),
        }
    }

    fn reasons(&self) -> Vec<Finding> {
        match self {
            Self::Pod(pod) => pods::reasons(pod, &[], &[], &[]),
            Self::Node(_) | Self::Host => Vec::new(),
        }
    }
}

fn is_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true))
}

/// The address that the sender dials, by DNS where it is given a name. `None` with a verdict when it finds none.
fn destination<R: Rng>(
    facts: &Facts<'_>,
    request: &FlowRequest,
    sender: &Sender,
    device: &PortInfo,
    pipeline: &mut Pipeline<R>,
    report: &mut FlowReport,
) -> Result<Option<SocketAddr>, BadRequest> {
    let families: Vec<Family> = match request.family {
        Some(family) => vec![family],
        None => {
            vec![Family::V4, Family::V6].into_iter().filter(|f| device.address(*f == Family::V6).is_some()).collect()
        }
    };
    let of_family =
        |addresses: &[IpAddr]| families.iter().find_map(|f| addresses.iter().copied().find(|a| f.holds(*a)));
    let no_family = |report: &mut FlowReport, what: &str| {
        let names: Vec<&str> = families.iter().map(|family| family.as_str()).collect();
        let message = format!("{what} has no {} address", names.join(" or "));
        report.verdict = Said { result: VerdictResult::Unresolved, message, ..Said::default() };
    };
    match &request.to {
        To::Address(addr) => Ok(Some(*addr)),
        To::Pod { namespace, name, port } => {
            let pod = facts.cluster.pods.get(namespace, name);
            let pod = pod.ok_or_else(|| {
                BadRequest::NotFound(format!(
                    "there is no Pod {namespace}/{name}: see `kubectl get pods -n {namespace}`"
                ))
            })?;
            let declared = pods::declared(&pod);
            let number = match port {
                Some(Port::Number(number)) => *number,
                Some(Port::Name(name)) => {
                    let found = declared
                        .iter()
                        .find(|(known, _, protocol)| known == name && protocol == request.protocol.as_str());
                    let number = found.and_then(|(_, number, _)| u16::try_from(*number).ok());
                    number.ok_or_else(|| {
                        BadRequest::invalid(format!(
                            "Pod {namespace}/{} has no {} port named {name}",
                            pod.name_any(),
                            request.protocol.as_str()
                        ))
                    })?
                }
                None => return Err(BadRequest::invalid(format!("a port is wanted: pod/{name}:PORT"))),
            };
            let addresses: Vec<IpAddr> = pod_addresses(&pod).collect();
            let found = of_family(&addresses);
            if found.is_none() {
                no_family(report, &format!("Pod {namespace}/{name}"));
                report.problems = pods::reasons(&pod, &[], &[], &[]);
            }
            Ok(found.map(|ip| SocketAddr::new(ip, number)))
        }
        To::Service { namespace, name, port } => {
            let service = lookup::service(facts.cluster, namespace, name)?;
            let number = lookup::port_of(&service, port.as_ref(), request.protocol)?;
            let spec = service.spec.as_ref();
            let ips = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
            let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            let found = of_family(&ips);
            if found.is_none() {
                no_family(report, &format!("Service {namespace}/{name}"));
                if ips.is_empty() {
                    report.verdict.message += ": dial it by its DNS name";
                }
            }
            Ok(found.map(|ip| SocketAddr::new(ip, number)))
        }
        To::Name { name, port } => {
            let mut lookup = Lookup {
                facts,
                families: &families,
                namespace: match sender {
                    Sender::Pod(pod) => pod.namespace().unwrap_or_default(),
                    Sender::Node(_) | Sender::Host => String::new(),
                },
                steps: &mut report.steps,
            };
            let path = match sender {
                Sender::Pod(pod) => facts.resolvers.of_pod(&lookup.namespace, pod.spec.as_ref()),
                Sender::Node(_) | Sender::Host => facts.resolvers.of_host(),
            };
            match lookup.resolve(name, &path) {
                Resolved::At { address, service } => {
                    let number = match (port, service) {
                        (Some(Port::Number(number)), _) => *number,
                        (port, Some(service)) => {
                            let service = lookup::service(facts.cluster, &service.namespace, &service.name)?;
                            lookup::port_of_endpoint(facts.cluster, &service, port.as_ref(), request.protocol)?
                        }
                        (Some(Port::Name(port)), None) => {
                            return Err(BadRequest::invalid(format!(
                                "{name} is no Service, so {port} is no port of it: give a number"
                            )));
                        }
                        (None, None) => return Err(BadRequest::invalid(format!("a port is wanted: {name}:PORT"))),
                    };
                    check_dns(facts, device, pipeline, report);
                    Ok((report.verdict.result != VerdictResult::Unresolved).then_some(SocketAddr::new(address, number)))
                }
                Resolved::Outside { name } => {
                    let message =
                        format!("{name} is not the cluster's: the host's resolvers know, and they are not asked here");
                    report.verdict = Said { result: VerdictResult::LeavesCluster, message, ..Said::default() };
                    Ok(None)
                }
                Resolved::Nowhere { message, problems } => {
                    report.verdict = Said { result: VerdictResult::Unresolved, message, ..Said::default() };
                    report.problems = problems;
                    Ok(None)
                }
            }
        }
    }
}

/// Whether a question to the cluster's DNS would arrive there.
fn check_dns<R: Rng>(facts: &Facts<'_>, port: &PortInfo, pipeline: &mut Pipeline<R>, report: &mut FlowReport) {
    let servers = facts.zone.addresses();
    let pair = servers.iter().find_map(|server| Some((port.address(server.is_ipv6())?, *server)));
    let Some((own, server)) = pair else { return };
    let (source, server) = (SocketAddr::new(own, EPHEMERAL.start), SocketAddr::new(server, crate::config::DNS_PORT));
    let mut buf = packet::first(Protocol::Udp, source, server);
    let verdict = pipeline.process(&mut buf, port.id, 0);
    if !matches!(verdict, Verdict::Forward(_)) {
        let reason = match verdict {
            Verdict::Drop(reason) => reason.as_str(),
            Verdict::Reply(reason) => reason.as_str(),
            Verdict::Forward(_) | Verdict::Hold(_) => "no_route",
        };
        let message = format!("the cluster's DNS at {server} does not get the question ({reason})");
        report.verdict = Said { result: VerdictResult::Unresolved, reason: reason.to_owned(), message };
    }
}

/// Sends the packet through the pipeline, and the answer back.
fn send<R: Rng>(
    facts: &Facts<'_>,
    request: &FlowRequest,
    pipeline: &mut Pipeline<R>,
    now: Millis,
    port: &Arc<PortInfo>,
    (source, destination): (SocketAddr, SocketAddr),
    report: &mut FlowReport,
) -> Option<Lack> {
    let what = match request.protocol {
        Protocol::Tcp => "a SYN",
        Protocol::Udp => "a datagram",
        Protocol::Sctp => "an SCTP packet",
    };
    report.steps.push(Step {
        step: StepKind::Send,
        node: port.node.to_string(),
        text: format!("{} sends {what} from {source} to {destination}", request.from),
        ..Step::default()
    });
    let mut buf = packet::first(request.protocol, source, destination);
    let mut recording = Recording { steps: Vec::new(), entry: request.node.clone() };
    let verdict = pipeline.process_traced(&mut buf, port.id, now, &mut recording);
    let teller = Teller { cluster: facts.cluster };
    report.steps.extend(recording.steps.iter().map(|step| teller.tell(step)));
    let captured = recording.steps.iter().find_map(|step| match step {
        Traced::Captured { service, via, .. } => Some((Arc::clone(service), *via)),
        _ => None,
    });
    let mut lacking = None;
    report.verdict = match verdict {
        Verdict::Drop(reason) => {
            lacking = (reason == DropReason::NoLocalEndpoint).then(|| Lacking::LocalEndpoint {
                external: captured.as_ref().is_some_and(|(_, via)| via.is_external()),
            });
            Said {
                result: VerdictResult::Dropped,
                reason: reason.as_str().to_owned(),
                message: format!("dropped, so the sender waits in vain: {}", teller.dropped(reason)),
            }
        }
        Verdict::Reply(reason) => {
            lacking = (reason == AnswerReason::NoEndpoint).then_some(Lacking::Endpoint);
            Said {
                result: VerdictResult::Rejected,
                reason: reason.as_str().to_owned(),
                message: format!(
                    "refused at once, by {}: {}",
                    teller.answer(reason, destination.is_ipv6()),
                    teller.answered(reason)
                ),
            }
        }
        Verdict::Hold(to) => Said {
            result: VerdictResult::LeavesCluster,
            message: format!(
                "leaves the cluster: a socket of the host's dials {to}, and what that says is said to the sender"
            ),
            ..Said::default()
        },
        Verdict::Forward(out) => {
            let to = pipeline.ports().get(out).cloned();
            let name = to.as_ref().map(|port| port.name.to_string()).unwrap_or_default();
            report.problems.extend(behind(
                facts,
                request.protocol,
                to.as_deref(),
                &buf,
                destination,
                captured.is_some(),
            ));
            match reply(request, pipeline, now, (out, port), &buf, (source, destination), &mut report.steps) {
                Ok(()) => Said {
                    result: VerdictResult::Delivered,
                    message: format!("{name} gets it, and its answer finds its way back"),
                    ..Said::default()
                },
                Err(verdict) => Said {
                    result: VerdictResult::Dropped,
                    reason: verdict.to_owned(),
                    message: format!("{name} gets it, and its answer is lost ({verdict})"),
                },
            }
        }
    };
    if let Some(service) = uncarried(request.protocol, pipeline, destination) {
        report.verdict = without_sctp(&service, std::mem::take(&mut report.verdict));
        return None;
    }
    let (service, _) = captured.filter(|(service, _)| !service.of_pod)?;
    Some(Lack { port: service, v6: destination.is_ipv6(), lacking: lacking? })
}

/// The Service port that an SCTP packet is for, which it does not come to: SCTP is not carried through Services (F1).
fn uncarried<R: Rng>(protocol: Protocol, pipeline: &Pipeline<R>, destination: SocketAddr) -> Option<Arc<ServicePort>> {
    if protocol != Protocol::Sctp {
        return None;
    }
    let (ip, number, plan) = (destination.ip(), destination.port(), pipeline.plan());
    let at_node = || pipeline.ports().owner(ip).is_some_and(|port| port.kind == PortKind::Node);
    let vip = plan.vip(ip, protocol, number).map(|vip| &vip.service);
    vip.or_else(|| plan.node_port(ip.is_ipv6(), protocol, number).filter(|_| at_node())).cloned()
}

/// What is to say of such a packet, from what became of it.
fn without_sctp(service: &ServicePort, said: Said) -> Said {
    let what = format!("it is for {}, and SCTP is not carried through Services", title(service));
    match said.result {
        // A node's own kernel has its address, and nobody listens there.
        VerdictResult::Delivered => Said {
            result: VerdictResult::Rejected,
            message: format!("the node keeps it and refuses it: {what}"),
            ..Said::default()
        },
        VerdictResult::Rejected => Said { message: format!("refused at once: {what}"), ..said },
        _ => Said { message: format!("the sender waits in vain: {what}"), ..said },
    }
}

/// The addresses of a packet. The router knows no ports of SCTP and changes none: they are those that were sent.
fn ends(tuple: &Tuple, (from, to): (u16, u16)) -> (SocketAddr, SocketAddr) {
    let known = |port: u16, sent: u16| if tuple.protocol == Protocol::Sctp as u8 { sent } else { port };
    (SocketAddr::new(tuple.src, known(tuple.sport, from)), SocketAddr::new(tuple.dst, known(tuple.dport, to)))
}

/// Sends the answer back through the same pipeline.
fn reply<R: Rng>(
    request: &FlowRequest,
    pipeline: &mut Pipeline<R>,
    now: Millis,
    (out, client): (PortId, &PortInfo),
    delivered: &PacketBuf,
    (source, destination): (SocketAddr, SocketAddr),
    steps: &mut Vec<Step>,
) -> Result<(), &'static str> {
    let arrived = Headers::parse(delivered.packet()).map_err(|_| "malformed")?.tuple;
    let (to, server) = ends(&arrived, (source.port(), destination.port()));
    let mut buf = packet::answer(request.protocol, server, to);
    let verdict = pipeline.process(&mut buf, out, now);
    let node = pipeline.ports().get(out).map(|port| port.node.to_string()).unwrap_or_default();
    match verdict {
        Verdict::Forward(back) if back == client.id => {
            let seen = Headers::parse(buf.packet()).map_err(|_| "malformed")?.tuple;
            let before = Addresses { source: server.to_string(), destination: to.to_string() };
            let (answering, asking) = ends(&seen, (destination.port(), source.port()));
            let after = Addresses { source: answering.to_string(), destination: asking.to_string() };
            let text = if before == after {
                format!("the answer goes back from {} to {} as it is", before.source, before.destination)
            } else {
                format!(
                    "the answer from {} to {} arrives as from {} to {}",
                    before.source, before.destination, after.source, after.destination
                )
            };
            steps.push(Step {
                step: StepKind::Reply,
                node,
                text,
                before: Some(before),
                after: Some(after),
                ..Step::default()
            });
            Ok(())
        }
        Verdict::Drop(reason) => Err(reason.as_str()),
        Verdict::Reply(reason) => Err(reason.as_str()),
        Verdict::Forward(_) | Verdict::Hold(_) => Err("astray"),
    }
}

/// What is likely to go wrong behind the router: the kernel of the receiver refuses a port that nobody listens at.
fn behind(
    facts: &Facts<'_>,
    protocol: Protocol,
    to: Option<&PortInfo>,
    delivered: &PacketBuf,
    destination: SocketAddr,
    by_service: bool,
) -> Option<Finding> {
    let to = to.filter(|port| port.kind == PortKind::Pod)?;
    let (namespace, name) = to.name.split_once('/')?;
    let pod = facts.cluster.pods.get(namespace, name)?;
    let arrived = Headers::parse(delivered.packet()).ok()?.tuple;
    let (_, arrived) = ends(&arrived, (0, destination.port()));
    // Who dials the Pod itself, by the name of a headless Service too, chooses its port.
    let mend = if by_service { "targetPort:" } else { "dial port" };
    pods::undeclared(&pod, i32::from(arrived.port()), protocol.as_str(), mend)
}

/// The object behind a device.
pub(super) fn object_of(cluster: &Cluster, port: &PortInfo) -> Option<Ref> {
    match port.kind {
        PortKind::Pod => {
            let (namespace, name) = port.name.split_once('/')?;
            cluster.pods.get(namespace, name).map(|pod| pods::pod_ref(&pod))
        }
        PortKind::Node => cluster.nodes.get("", &port.node).map(|node| Ref::of("Node", &node.metadata)),
        PortKind::ControlPlane | PortKind::Outside | PortKind::Gate => None,
    }
}

#[cfg(test)]
mod tests;
