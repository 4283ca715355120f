//! Where each port of a Service leads: its endpoints, and which of them each node uses.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort as ApiPort;

use super::{View, target_text};
use crate::controllers::endpoint_model::{headless, protocol_of};
use crate::explain::lists::{filter_name, filter_text, list_name, list_text};
use crate::explain::pods::pod_ref;
use crate::explain::report::{Choice, EndpointReport, LeftOut, PortReport};
use crate::plan::{Protocol, Scope, ServicePort, load_balancer_ips};

impl View<'_> {
    pub(super) fn ports(&self) -> Vec<PortReport> {
        let mut reports = Vec::new();
        for port in self.api_ports() {
            let families: Vec<&str> = if headless(self.spec) { self.families() } else { vec!["IPv4", "IPv6"] };
            for family in families {
                let mut report = PortReport {
                    name: port.name.clone().unwrap_or_default(),
                    protocol: protocol_of(port).to_owned(),
                    port: u16::try_from(port.port).unwrap_or_default(),
                    target_port: target_text(port),
                    node_port: port.node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
                    family: family.to_owned(),
                    ..PortReport::default()
                };
                if headless(self.spec) {
                    report.endpoints = self.endpoints_of(port, family);
                    reports.push(report);
                    continue;
                }
                let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
                let key = (family == "IPv6", report.name.clone(), protocol);
                let Some(planned) = self.in_plan.get(&key) else { continue };
                report.endpoints = self.endpoints(planned);
                if protocol != Protocol::Sctp {
                    report.choices = self.choices(planned);
                }
                reports.push(report);
            }
        }
        reports
    }

    /// The endpoints of a headless Service, which the router knows nothing of.
    fn endpoints_of(&self, port: &ApiPort, family: &str) -> Vec<EndpointReport> {
        let mut all = Vec::new();
        for slice in self.facts.slices.iter().filter(|slice| slice.address_type == family) {
            let name = port.name.as_deref().unwrap_or_default();
            let ports = slice.ports.iter().flatten();
            let number = ports.into_iter().find(|p| p.name.as_deref().unwrap_or_default() == name).and_then(|p| p.port);
            for endpoint in slice.endpoints.iter().flatten() {
                let conditions = endpoint.conditions.as_ref();
                let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
                let pod = pod.and_then(|target| self.pod(target.name.as_deref()?)).map(|pod| pod_ref(pod));
                let ip = endpoint.addresses.first().map(String::as_str).unwrap_or_default();
                let number = number.unwrap_or(port.port);
                all.push(EndpointReport {
                    address: if family == "IPv6" { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") },
                    pod,
                    node: endpoint.node_name.clone().unwrap_or_default(),
                    zone: endpoint.zone.clone().unwrap_or_default(),
                    ready: conditions.and_then(|c| c.ready).unwrap_or(true),
                    serving: conditions.and_then(|c| c.serving).unwrap_or(true),
                    terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
                    ..EndpointReport::default()
                });
            }
        }
        all
    }

    fn endpoints(&self, port: &ServicePort) -> Vec<EndpointReport> {
        let texts = |names: Vec<&Arc<str>>| names.iter().map(ToString::to_string).collect();
        let endpoints = (0u32..).zip(port.endpoints()).map(|(index, endpoint)| {
            let (nodes, zones) = port.hinted_for(index);
            EndpointReport {
                address: endpoint.addr.to_string(),
                pod: endpoint.pod.as_deref().and_then(|name| self.pod(name)).map(|pod| pod_ref(pod)),
                node: endpoint.node.as_deref().unwrap_or_default().to_owned(),
                zone: endpoint.zone.as_deref().unwrap_or_default().to_owned(),
                ready: endpoint.ready,
                serving: endpoint.serving,
                terminating: endpoint.terminating,
                hinted_nodes: texts(nodes),
                hinted_zones: texts(zones),
            }
        });
        endpoints.collect()
    }

    fn choices(&self, port: &ServicePort) -> Vec<Choice> {
        let exposed = port.node_port.is_some()
            || self.spec.external_ips.is_some()
            || !load_balancer_ips(self.facts.service).is_empty();
        let internal = if port.internal_local { Scope::Local } else { Scope::Cluster };
        let external = if port.external_local { Scope::Local } else { Scope::Cluster };
        let traffic = match (exposed, internal == external) {
            (false, _) => vec![("internal", internal)],
            (true, true) => vec![("all", internal)],
            (true, false) => vec![("internal", internal), ("external", external)],
        };
        traffic.into_iter().flat_map(|(traffic, scope)| self.choices_of(port, traffic, scope)).collect()
    }

    fn choices_of(&self, port: &ServicePort, traffic: &str, scope: Scope) -> Vec<Choice> {
        let mut choices: Vec<Choice> = Vec::new();
        let mut nodes: Vec<&str> = self.facts.nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        nodes.sort_unstable();
        for node in nodes {
            let zone = self.facts.plan.node(node).and_then(|info| info.zone.as_deref());
            let candidates = port.candidates(scope, node, zone);
            let address = |index: u32| port.endpoints()[index as usize].addr.to_string();
            let uses: Vec<String> = candidates.indices.iter().map(|index| address(*index)).collect();
            let list = list_name(candidates.kind);
            let alike = choices.iter_mut().find(|choice| {
                choice.list == list && choice.uses == uses && (!uses.is_empty() || scope == Scope::Cluster)
            });
            if let Some(alike) = alike {
                alike.nodes.push(node.to_owned());
                continue;
            }
            let left_out = port.left_out(candidates, node).map(|(index, filter)| LeftOut {
                address: address(index),
                filter: filter_name(filter).to_owned(),
                why: filter_text(port, index, filter),
            });
            choices.push(Choice {
                nodes: vec![node.to_owned()],
                traffic: traffic.to_owned(),
                list: list.to_owned(),
                why: if uses.is_empty() { "there is none that may be used" } else { list_text(candidates.kind) }
                    .to_owned(),
                uses,
                left_out: left_out.collect(),
            });
        }
        choices
    }
}
