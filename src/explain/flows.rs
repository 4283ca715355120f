//! The flow log in words: a line per record, as JSON and as text, and which of them are asked for.

use std::collections::VecDeque;
use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::Stream;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::lists::list_name;
use super::report::Ref;
use crate::router::PortKind;
use crate::router::flow::{Ending, Masquerade};
use crate::router::log::{FlowLog, Opened, Outcome, Record, ServiceName, What};
use crate::router::ports::PortInfo;
use crate::router::wire::Tuple;

/// A line of `GET /vipyard/v1/flows`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Line {
    /// Grows by one with each record of the log; 0 where records were lost.
    pub number: u64,
    /// RFC 3339, in UTC.
    pub time: String,
    pub event: Event,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<Side>,
    /// What the client dialed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceSide>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<Side>,
    /// The client's address as the server sees it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The nodes that it passes, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// Of an end: from the client, and to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<[u64; 2]>,
    /// Of an end: from the first packet to the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Of an end: `closed`, `reset`, `refused`, `timedOut`, `idle`, `unanswered`, `evicted`, `replaced`, `backendGone` or
    /// `portGone`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub result: String,
    /// Of a drop or a rejection: the label of the router's counter.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// How many packets or records the line stands for.
    pub count: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    Start,
    End,
    /// Packets that went nowhere, and nobody was told.
    #[default]
    Drop,
    /// Packets whose sender was told by ICMP.
    Reject,
    /// Drops and rejections that were too many to be told one by one.
    Suppressed,
    /// Records that were overwritten before they were read.
    Lost,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
            Self::Drop => "drop",
            Self::Reject => "reject",
            Self::Suppressed => "suppressed",
            Self::Lost => "lost",
        }
    }
}

/// One side of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Side {
    /// `Pod`, `Node`, `ControlPlane`, `Outside` or `World`.
    pub kind: String,
    /// `NAMESPACE/NAME` of a Pod.
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    pub node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
}

/// The Service that led from one to the other, as it was then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSide {
    #[serde(flatten)]
    pub object: Ref,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    pub port: u16,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `externalIP`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub via: String,
    /// Which endpoints it was chosen from, as in an explanation.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list: String,
    /// Session affinity remembered it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub remembered: bool,
    /// `External`, `FromNode`, `OffCluster` or `Hairpin`, where the source became the node's.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub masquerade: String,
    /// `NAME@RESOURCEVERSION` of the slices that it rested on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
}

impl Line {
    fn of(log: &FlowLog, record: &Record) -> Self {
        let time = Timestamp::try_from(log.time(record.at)).map(|time| format!("{time:.3}")).unwrap_or_default();
        let line = Self { number: record.number, time, count: 1, ..Self::default() };
        match &record.what {
            What::Opened { opened, tuples } => Self { event: Event::Start, ..line.flow(opened, tuples) },
            What::Ended(ended) => Self {
                event: Event::End,
                packets: Some(ended.packets),
                bytes: Some(ended.bytes),
                duration_ms: Some(ended.lasted),
                result: result(ended.ending, &ended.tuples[0], ended.answered).to_owned(),
                ..line.flow(&ended.opened, &ended.tuples)
            },
            What::Refused(refused) => {
                let tuple = refused.tuple.as_ref();
                let source = tuple.map(|tuple| end(tuple.src, tuple.sport, tuple.protocol)).unwrap_or_default();
                Self {
                    protocol: tuple.map(|tuple| protocol(tuple.protocol)).unwrap_or_default(),
                    client: Some(side(&refused.from, source)),
                    destination: tuple.map(|tuple| end(tuple.dst, tuple.dport, tuple.protocol)).unwrap_or_default(),
                    service: refused.service.as_ref().map(service),
                    nodes: vec![refused.from.node.to_string()],
                    count: refused.count,
                    ..line.refusal(refused.outcome)
                }
            }
            What::Suppressed { outcome, count } => Self { count: *count, ..line.refusal(*outcome) }.suppressed(),
        }
    }

    fn suppressed(self) -> Self {
        Self { event: Event::Suppressed, ..self }
    }

    fn refusal(self, outcome: Outcome) -> Self {
        let event = match outcome {
            Outcome::Dropped(_) => Event::Drop,
            Outcome::Answered(_) => Event::Reject,
        };
        Self { event, reason: outcome.reason().to_owned(), ..self }
    }

    fn lost(count: u64) -> Self {
        let time = format!("{:.3}", Timestamp::now());
        Self { event: Event::Lost, time, count, ..Self::default() }
    }

    fn flow(self, opened: &Opened, [original, reply]: &[Tuple; 2]) -> Self {
        let mut nodes = vec![opened.entry.to_string()];
        nodes.extend(opened.through.iter().map(ToString::to_string));
        // A flow that stays on its node names it once, and so does one that ends with a part of the control plane.
        if nodes.last().map(String::as_str) != Some(&*opened.server.node) {
            nodes.push(opened.server.node.to_string());
        }
        let service = opened.service.as_ref().map(|grounds| ServiceSide {
            via: grounds.via.as_str().to_owned(),
            list: list_name(grounds.list).to_owned(),
            remembered: grounds.sticky,
            masquerade: grounds.masquerade.map(masquerade).unwrap_or_default().to_owned(),
            slices: grounds.slices.iter().map(|slice| format!("{}@{}", slice.name, slice.revision)).collect(),
            ..service(&grounds.service)
        });
        Self {
            protocol: protocol(original.protocol),
            client: Some(side(&opened.client, end(original.src, original.sport, original.protocol))),
            destination: end(original.dst, original.dport, original.protocol),
            service,
            server: Some(side(&opened.server, end(reply.src, reply.sport, reply.protocol))),
            source: end(reply.dst, reply.dport, reply.protocol),
            nodes,
            ..self
        }
    }

    /// The line for people.
    pub fn text(&self) -> String {
        let clock = self.time.split('T').nth(1).unwrap_or(&self.time).trim_end_matches('Z');
        let mut text = format!("{clock} {:<6} ", self.event.as_str());
        if self.event == Event::Lost {
            let _ = write!(text, "{} records were overwritten before they were read", self.count);
            return text;
        }
        if let Some(client) = &self.client {
            let _ = write!(text, "{} {} {}", self.protocol, client.name, client.address);
        }
        if !self.destination.is_empty() {
            let _ = write!(text, " > {}", self.destination);
        }
        if let Some(service) = &self.service {
            let name = if service.port_name.is_empty() { service.port.to_string() } else { service.port_name.clone() };
            let _ = write!(text, " ({}/{}:{name})", service.object.namespace, service.object.name);
        }
        if let Some(server) = &self.server {
            let _ = write!(text, " > {} {}", server.name, server.address);
            if self.client.as_ref().is_some_and(|client| client.address != self.source) {
                let _ = write!(text, " from {}", self.source);
            }
        }
        if !self.nodes.is_empty() {
            let _ = write!(text, " [{}]", self.nodes.join(" > "));
        }
        if let (Some(packets), Some(bytes), Some(duration)) = (self.packets, self.bytes, self.duration_ms) {
            let _ = write!(
                text,
                " {} after {duration} ms, {}/{} packets, {}/{} bytes",
                self.result, packets[0], packets[1], bytes[0], bytes[1]
            );
        }
        if !self.reason.is_empty() {
            let _ = write!(text, " {}", self.reason);
        }
        if self.count > 1 {
            let _ = write!(text, " ({} packets)", self.count);
        }
        text
    }
}

fn end(addr: std::net::IpAddr, port: u16, protocol: u8) -> String {
    // Nothing else has ports: an echo request has its identifier there.
    if matches!(protocol, 6 | 17) { SocketAddr::new(addr, port).to_string() } else { addr.to_string() }
}

fn protocol(number: u8) -> String {
    match number {
        6 => "TCP".to_owned(),
        17 => "UDP".to_owned(),
        132 => "SCTP".to_owned(),
        1 => "ICMP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => other.to_string(),
    }
}

fn side(port: &PortInfo, address: String) -> Side {
    let kind = match port.kind {
        PortKind::Pod => "Pod",
        PortKind::Node => "Node",
        PortKind::ControlPlane => "ControlPlane",
        PortKind::Outside => "Outside",
        PortKind::Gate => "World",
    };
    Side {
        kind: kind.to_owned(),
        name: port.name.to_string(),
        uid: port.uid.to_string(),
        node: port.node.to_string(),
        address,
    }
}

fn service(service: &ServiceName) -> ServiceSide {
    ServiceSide {
        object: Ref {
            kind: "Service".to_owned(),
            namespace: service.namespace.to_string(),
            name: service.name.to_string(),
            uid: service.uid.to_string(),
            resource_version: service.revision.to_string(),
        },
        port_name: service.port_name.to_string(),
        port: service.port,
        ..ServiceSide::default()
    }
}

fn masquerade(why: Masquerade) -> &'static str {
    match why {
        Masquerade::External => "External",
        Masquerade::FromNode => "FromNode",
        Masquerade::OffCluster => "OffCluster",
        Masquerade::Hairpin => "Hairpin",
    }
}

fn result(ending: Ending, tuple: &Tuple, answered: bool) -> &'static str {
    match ending {
        Ending::Closed => "closed",
        Ending::Reset => "reset",
        Ending::Refused => "refused",
        Ending::Idle if answered => "idle",
        Ending::Idle if tuple.protocol == 6 => "timedOut",
        Ending::Idle => "unanswered",
        Ending::Evicted => "evicted",
        Ending::Replaced => "replaced",
        Ending::BackendGone => "backendGone",
        Ending::PortGone => "portGone",
    }
}

/// Which lines are asked for. What is empty does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Namespace and name.
    pub service: Option<(String, String)>,
    pub pod: Option<(String, String)>,
    /// Only what went nowhere.
    pub dropped: bool,
}

impl Wanted {
    pub fn holds(&self, line: &Line) -> bool {
        if line.event == Event::Lost {
            return true;
        }
        if self.dropped && !matches!(line.event, Event::Drop | Event::Reject | Event::Suppressed) {
            return false;
        }
        if let Some((namespace, name)) = &self.service
            && !line.service.as_ref().is_some_and(|s| s.object.namespace == *namespace && s.object.name == *name)
        {
            return false;
        }
        if let Some((namespace, name)) = &self.pod {
            let name = format!("{namespace}/{name}");
            let is = |side: &Option<Side>| side.as_ref().is_some_and(|side| side.kind == "Pod" && side.name == name);
            return is(&line.client) || is(&line.server);
        }
        true
    }
}

/// Records put into words at once, so that a long log does not keep others waiting.
const CHUNK: usize = 512;

/// The lines that are there, and those that come, for who follows. `tail` is how many of the former at most.
pub fn lines(log: Arc<FlowLog>, wanted: Wanted, tail: usize, follow: bool) -> impl Stream<Item = Vec<Line>> + Send {
    struct Reader {
        log: Arc<FlowLog>,
        wanted: Wanted,
        after: u64,
        first: Option<usize>,
        /// Read, and not in words yet.
        pending: VecDeque<Arc<Record>>,
        over: bool,
    }
    impl Reader {
        fn line(&self, record: &Record) -> Option<Line> {
            Some(Line::of(&self.log, record)).filter(|line| self.wanted.holds(line))
        }
    }
    let reader = Reader { log, wanted, after: 0, first: Some(tail), pending: VecDeque::new(), over: false };
    futures::stream::unfold(reader, move |mut reader| async move {
        if !reader.pending.is_empty() {
            let chunk = reader.pending.len().min(CHUNK);
            let records: Vec<_> = reader.pending.drain(..chunk).collect();
            let lines = records.iter().filter_map(|record| reader.line(record)).collect();
            tokio::task::yield_now().await;
            return Some((lines, reader));
        }
        if reader.over {
            return None;
        }
        let first = reader.first.take();
        if first.is_none() {
            reader.log.changed(reader.after).await;
        }
        let mut records = Vec::new();
        let lost = reader.log.read(reader.after, &mut records);
        reader.after = records.last().map_or(reader.after, |record| record.number);
        let mut lines = Vec::new();
        // What went before somebody came is no loss of theirs.
        if lost > 0 && first.is_none() {
            lines.push(Line::lost(lost));
        }
        match first {
            // From the newest back, so that nothing is put into words for nothing.
            Some(tail) if tail < records.len() => {
                lines.extend(records.iter().rev().filter_map(|record| reader.line(record)).take(tail));
                lines.reverse();
            }
            _ => reader.pending = records.into(),
        }
        reader.over = !follow;
        Some((lines, reader))
    })
}

#[cfg(test)]
mod tests;
