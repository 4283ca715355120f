//! Explains a Service: objects and the router's plan in, a report out.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Node, Pod, Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::lists::{filter_name, filter_text, list_name, list_text};
use super::pods::{self, Miss, node_of, phase, pod_ref};
use super::report::{Address, Choice, EndpointReport, Finding, LeftOut, NearMiss, PortReport, Ref, ServiceReport};
use crate::cluster::SERVICE_NAME_LABEL;
use crate::controllers::LOAD_BALANCER_CLASS;
use crate::controllers::endpoint_model::{headless, pod_ready, protocol_of, resolve_port, terminating};
use crate::controllers::service_pods::selects;
use crate::events::newest;
use crate::plan::{PROXY_NAME_LABEL, Plan, Protocol, Scope, ServicePort, load_balancer_ips};

/// Near misses that are told.
const MOST: usize = 50;

/// What an explanation rests on.
pub struct Facts<'a> {
    pub service: &'a Service,
    /// Of the Service's namespace and name.
    pub slices: &'a [Arc<EndpointSlice>],
    /// Of the whole cluster.
    pub pods: &'a [Arc<Pod>],
    pub nodes: &'a [Arc<Node>],
    /// Of the Service and of Pods in its namespace, as far as they tell of failures.
    pub events: &'a [Event],
    pub plan: &'a Plan,
    pub domain: &'a str,
}

pub fn explain(facts: &Facts<'_>) -> ServiceReport {
    let service = facts.service;
    let mut report = ServiceReport {
        service: Ref::of("Service", &service.metadata),
        dns_name: format!("{}.{}.svc.{}", service.name_any(), service.namespace().unwrap_or_default(), facts.domain),
        slices: facts.slices.iter().map(|slice| Ref::of("EndpointSlice", &slice.metadata)).collect(),
        plan_epoch: facts.plan.epoch,
        ..ServiceReport::default()
    };
    let Some(spec) = &service.spec else { return report };
    report.type_ = spec.type_.clone().unwrap_or_else(|| "ClusterIP".to_owned());
    if let Some(target) = spec.external_name.as_deref().filter(|_| report.type_ == "ExternalName") {
        report.serving = true;
        report.summary = format!("an alias: DNS answers with {target}, and nothing of it passes a Service address");
        if !target.contains('.') {
            let finding = Finding::new(
                "ExternalNameShort",
                format!("externalName {target:?} is looked up as it is, without a search path"),
            );
            report.problems.push(finding.fix("name it in full"));
        }
        return report;
    }
    report.selector = spec.selector.clone().unwrap_or_default();
    report.addresses = addresses(service, spec);
    let view = View { facts, spec, in_plan: in_plan(facts), pods: pods_by_name(facts) };
    report.ports = view.ports();
    view.near_misses(&mut report);
    report.serving = view.serving();
    report.problems = view.problems(&report);
    report.summary = view.summary(&report);
    report
}

fn addresses(service: &Service, spec: &ServiceSpec) -> Vec<Address> {
    let address = |kind: &str, address: String| Address { kind: kind.to_owned(), address };
    let cluster =
        spec.cluster_ips.iter().flatten().filter(|ip| *ip != "None").map(|ip| address("ClusterIP", ip.clone()));
    let balancers = load_balancer_ips(service).into_iter().map(|ip| address("LoadBalancer", ip.to_string()));
    let external = spec.external_ips.iter().flatten().map(|ip| address("externalIP", ip.clone()));
    cluster.chain(balancers).chain(external).collect()
}

/// The Service's ports as the router has them, by family, name and protocol.
fn in_plan<'a>(facts: &Facts<'a>) -> BTreeMap<(bool, String, Protocol), &'a Arc<ServicePort>> {
    let own = |port: &&Arc<ServicePort>| {
        Some(&*port.name) == facts.service.metadata.name.as_deref()
            && Some(&*port.namespace) == facts.service.metadata.namespace.as_deref()
    };
    let spec = facts.service.spec.as_ref();
    let ips = spec.and_then(|spec| spec.cluster_ips.as_deref()).unwrap_or_default();
    let ports = spec.and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let mut found = BTreeMap::new();
    for ip in ips.iter().filter_map(|ip| ip.parse::<std::net::IpAddr>().ok()) {
        for port in ports {
            let (Some(protocol), Ok(number)) = (Protocol::parse(port.protocol.as_deref()), u16::try_from(port.port))
            else {
                continue;
            };
            let service = facts.plan.vip(ip, protocol, number).map(|vip| &vip.service);
            if let Some(service) = service.filter(own) {
                found.insert((ip.is_ipv6(), service.port_name.to_string(), protocol), service);
            }
        }
    }
    found
}

struct View<'a> {
    facts: &'a Facts<'a>,
    spec: &'a ServiceSpec,
    in_plan: BTreeMap<(bool, String, Protocol), &'a Arc<ServicePort>>,
    /// Those of the Service's namespace: each endpoint is looked up here.
    pods: BTreeMap<&'a str, &'a Arc<Pod>>,
}

fn pods_by_name<'a>(facts: &Facts<'a>) -> BTreeMap<&'a str, &'a Arc<Pod>> {
    let own = facts.pods.iter().filter(|pod| pod.metadata.namespace == facts.service.metadata.namespace);
    own.filter_map(|pod| Some((pod.metadata.name.as_deref()?, pod))).collect()
}

fn target_text(port: &ApiPort) -> String {
    match &port.target_port {
        Some(IntOrString::String(name)) if !name.is_empty() => name.clone(),
        Some(IntOrString::Int(number)) if *number > 0 => number.to_string(),
        _ => port.port.to_string(),
    }
}

impl View<'_> {
    fn api_ports(&self) -> &[ApiPort] {
        self.spec.ports.as_deref().unwrap_or_default()
    }

    fn families(&self) -> Vec<&str> {
        self.spec.ip_families.iter().flatten().map(String::as_str).collect()
    }

    /// The Service's Pods.
    fn selected(&self) -> Vec<&Arc<Pod>> {
        let Some(selector) = &self.spec.selector else { return Vec::new() };
        self.own_pods().filter(|pod| selects(selector, pod.labels())).collect()
    }

    fn own_pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.pods.values().copied()
    }

    fn pod(&self, name: &str) -> Option<&Arc<Pod>> {
        self.pods.get(name).copied()
    }

    fn serving(&self) -> bool {
        if headless(self.spec) {
            let endpoints = self.facts.slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
            let ready = |ready: Option<bool>| ready.unwrap_or(true);
            return endpoints.into_iter().any(|e| ready(e.conditions.as_ref().and_then(|c| c.ready)));
        }
        !self.in_plan.is_empty() && self.in_plan.values().all(|port| port.has_usable_endpoint())
    }

    fn ports(&self) -> Vec<PortReport> {
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
                report.choices = self.choices(planned);
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

    fn near_misses(&self, report: &mut ServiceReport) {
        let Some(selector) = self.spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return };
        let families = self.families();
        let mut misses: Vec<(usize, NearMiss)> = Vec::new();
        let near = |pod: &Pod, reasons| NearMiss {
            pod: pod_ref(pod),
            node: node_of(pod).to_owned(),
            phase: phase(pod).to_owned(),
            reasons,
        };
        let mut selected = 0;
        for pod in self.own_pods() {
            if selects(selector, pod.labels()) {
                selected += 1;
                let mut reasons = pods::reasons(pod, self.api_ports(), &families, self.facts.events);
                if self.spec.publish_not_ready_addresses == Some(true) {
                    reasons.retain(|reason| {
                        !["ProbeFailing", "NotReady", "ReadinessGate", "Terminating"].contains(&&*reason.code)
                    });
                }
                reasons.extend(self.unknown_node(pod));
                if !reasons.is_empty() {
                    misses.push((0, near(pod, reasons)));
                }
            } else if let Some(Miss { distance, reasons, .. }) = pods::miss(&pod.name_any(), selector, pod.labels()) {
                misses.push((distance, near(pod, reasons)));
            }
        }
        if selected == 0 {
            let elsewhere =
                self.facts.pods.iter().filter(|pod| pod.metadata.namespace != self.facts.service.metadata.namespace);
            for pod in elsewhere.filter(|pod| selects(selector, pod.labels())) {
                let message = format!(
                    "{} has the labels, but is in namespace {}: a Service selects in its own alone",
                    pod.name_any(),
                    pod.namespace().unwrap_or_default()
                );
                misses.push((1, near(pod, vec![Finding::new("OtherNamespace", message)])));
            }
        }
        misses.sort_by(|a, b| (a.0, &a.1.pod.namespace, &a.1.pod.name).cmp(&(b.0, &b.1.pod.namespace, &b.1.pod.name)));
        report.more_near_misses = misses.len().saturating_sub(MOST);
        report.near_misses = misses.into_iter().take(MOST).map(|(_, miss)| miss).collect();
    }

    /// ES9.
    fn unknown_node(&self, pod: &Pod) -> Option<Finding> {
        let node = node_of(pod);
        let known = self.facts.nodes.iter().any(|known| known.metadata.name.as_deref() == Some(node));
        (!node.is_empty() && !known)
            .then(|| Finding::new("NodeUnknown", format!("{} is on {node}, which is no Node", pod.name_any())))
    }

    fn problems(&self, report: &ServiceReport) -> Vec<Finding> {
        let mut problems = Vec::new();
        let own = &report.service;
        let labels = self.facts.service.labels();
        if labels.contains_key(PROXY_NAME_LABEL) {
            let finding = Finding::new(
                "OtherProxy",
                format!("the label {PROXY_NAME_LABEL} gives it to another proxy: the router passes it by"),
            );
            problems.push(
                finding
                    .fix(format!("kubectl label service {} -n {} {PROXY_NAME_LABEL}-", own.name, own.namespace))
                    .on(own.clone()),
            );
        }
        let selected = self.selected();
        match &self.spec.selector {
            Some(selector) if !selector.is_empty() && selected.is_empty() => {
                problems.push(self.nothing_selected(report));
            }
            Some(selector) if !selector.is_empty() => {}
            _ if self.facts.slices.is_empty() => {
                let message = "it has no selector, and no EndpointSlice names it: its endpoints are yours to write";
                problems.push(
                    Finding::new("NoSelectorNoSlices", message)
                        .fix(format!("an EndpointSlice with the label {SERVICE_NAME_LABEL}: {}", own.name))
                        .on(own.clone()),
                );
            }
            _ => {}
        }
        problems.extend(self.target_ports(&selected));
        problems.extend(self.slice_ports());
        let ready = selected.iter().filter(|pod| pod_ready(pod) && !terminating(pod)).count();
        if !selected.is_empty() && ready == 0 && self.spec.publish_not_ready_addresses != Some(true) {
            let who = match selected.len() {
                1 => "the one Pod that it selects is not ready".to_owned(),
                n => format!("none of the {n} Pods that it selects is ready"),
            };
            let mut finding = Finding::new("NoPodReady", who);
            let why = report
                .near_misses
                .iter()
                .flat_map(|miss| &miss.reasons)
                .find(|reason| !reason.code.starts_with("Label"));
            if let Some(why) = why {
                finding.message += &format!("; {}", why.message);
                finding.fix.clone_from(&why.fix);
            }
            finding.rests_on = selected.iter().take(5).map(|pod| pod_ref(pod)).collect();
            problems.push(finding);
        }
        problems.extend(self.local_policies());
        if report.type_ == "LoadBalancer" && load_balancer_ips(self.facts.service).is_empty() {
            let class = self.spec.load_balancer_class.as_deref().filter(|class| *class != LOAD_BALANCER_CLASS);
            problems.push(match class {
                Some(class) => Finding::new(
                    "LoadBalancerOfOthers",
                    format!("its addresses are for the controller of loadBalancerClass {class} to give"),
                ),
                None => {
                    let last = newest(self.facts.events, &self.facts.service.metadata, "SyncLoadBalancerFailed");
                    let said = last.and_then(|event| event.message.clone());
                    Finding::new(
                        "LoadBalancerPending",
                        said.unwrap_or_else(|| "it has no load-balancer address yet".to_owned()),
                    )
                }
            });
        }
        problems
    }

    fn nothing_selected(&self, report: &ServiceReport) -> Finding {
        let text = |selector: &BTreeMap<String, String>| {
            selector.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
        };
        let selector = &report.selector;
        let mut near: Vec<(Miss, &Arc<Pod>)> = self
            .own_pods()
            .filter_map(|pod| Some((pods::miss(&pod.name_any(), selector, pod.labels())?, pod)))
            .collect();
        near.sort_by_key(|(miss, _)| miss.distance);
        let namespace = &report.service.namespace;
        if let Some((miss, pod)) = near.first() {
            let alike = near.iter().filter(|(other, _)| other.meant == miss.meant).count();
            let (code, how) = if miss.reasons.iter().all(|reason| reason.code == "LabelTypo") {
                ("SelectorTypo", "probably a typing error")
            } else {
                ("SelectorMatchesNothing", "the nearest")
            };
            let reasons: Vec<&str> = miss.reasons.iter().map(|reason| reason.message.as_str()).collect();
            let others = if alike > 1 { format!(", as do {} more Pods", alike - 1) } else { String::new() };
            let message = format!(
                "its selector {} matches no Pod of {namespace}; {how}: {}{others}",
                text(selector),
                reasons.join("; ")
            );
            return Finding::new(code, message)
                .fix(format!("selector: {}", text(&miss.meant)))
                .on(report.service.clone())
                .on(pod_ref(pod));
        }
        let elsewhere = self.facts.pods.iter().find(|pod| selects(selector, pod.labels()));
        let finding = match elsewhere {
            Some(pod) => {
                let there = pod.namespace().unwrap_or_default();
                Finding::new(
                    "PodsInOtherNamespace",
                    format!("its selector {} matches no Pod of {namespace}, but {} in namespace {there}: a Service selects in its own alone", text(selector), pod.name_any()),
                )
                .fix(format!("a Service in namespace {there}, dialed as {}.{there}", report.service.name))
                .on(pod_ref(pod))
            }
            None => Finding::new(
                "SelectorMatchesNothing",
                format!("its selector {} matches no Pod of {namespace}, nor nearly", text(selector)),
            ),
        };
        finding.on(report.service.clone())
    }

    /// targetPorts that lead nowhere. A name that some Pods have is their near miss, not the Service's problem.
    fn target_ports(&self, selected: &[&Arc<Pod>]) -> Vec<Finding> {
        let mut findings = Vec::new();
        for port in self.api_ports() {
            let resolved: Vec<Option<i32>> = selected.iter().map(|pod| resolve_port(port, pod)).collect();
            if !resolved.is_empty() && resolved.iter().all(Option::is_none) {
                let reasons = pods::reasons(selected[0], std::slice::from_ref(port), &[], &[]);
                let first = reasons.into_iter().find(|reason| reason.code == "TargetPortNameMissing");
                findings.extend(first.map(|finding| finding.on(pod_ref(selected[0]))));
                continue;
            }
            let mut wrong = selected
                .iter()
                .zip(&resolved)
                .filter_map(|(pod, number)| pods::undeclared(pod, (*number)?, protocol_of(port)));
            if let Some(mut first) = wrong.next() {
                let others = wrong.count();
                let more = if others > 0 { format!(", nor of {others} other Pods") } else { String::new() };
                first.message =
                    format!("targetPort {} of port {}: {}{more}", target_text(port), port.port, first.message);
                findings.push(first);
            }
        }
        findings
    }

    /// Slices written by hand whose ports the Service does not have (S6, S7), or that the router passes by (S3, S5).
    fn slice_ports(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for slice in self.facts.slices {
            let by_hand =
                slice.labels().get("endpointslice.kubernetes.io/managed-by").is_none_or(|by| !by.ends_with(".k8s.io"));
            if !by_hand || headless(self.spec) {
                continue;
            }
            let own = Ref::of("EndpointSlice", &slice.metadata);
            if slice.labels().contains_key("service.kubernetes.io/headless") {
                let message = format!(
                    "EndpointSlice {} has the label service.kubernetes.io/headless, so the router passes it by",
                    own.name
                );
                findings.push(Finding::new("SliceHeadless", message).on(own));
                continue;
            }
            if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6")
                || !self.families().contains(&&*slice.address_type)
            {
                let message = format!(
                    "EndpointSlice {} is of address type {}, which the Service does not have",
                    own.name, slice.address_type
                );
                findings.push(Finding::new("SliceFamily", message).on(own));
                continue;
            }
            let ports = slice.ports.as_deref().unwrap_or_default();
            for port in self.api_ports() {
                let (name, protocol) = (port.name.as_deref().unwrap_or_default(), protocol_of(port));
                let found = ports.iter().any(|p| {
                    p.name.as_deref() == Some(name)
                        && p.protocol.as_deref().unwrap_or("TCP") == protocol
                        && p.port.unwrap_or(0) > 0
                });
                if !found {
                    let there: Vec<String> = ports
                        .iter()
                        .map(|p| {
                            format!(
                                "{:?}/{}",
                                p.name.as_deref().unwrap_or_default(),
                                p.protocol.as_deref().unwrap_or("TCP")
                            )
                        })
                        .collect();
                    let message = format!(
                        "EndpointSlice {} has no port named {name:?} with protocol {protocol} and a number: it has {}",
                        own.name,
                        if there.is_empty() { "none".to_owned() } else { there.join(", ") }
                    );
                    findings.push(Finding::new("SlicePortMissing", message).on(own.clone()));
                }
            }
        }
        findings
    }

    /// Nodes at which a Local policy leaves nothing.
    fn local_policies(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        for port in self.in_plan.values().filter(|port| port.has_usable_endpoint()) {
            let policies = [
                (port.internal_local, "internalTrafficPolicy", "LocalPolicyNoPod", "its ClusterIP"),
                (
                    port.external_local,
                    "externalTrafficPolicy",
                    "ExternalLocalPolicyNoPod",
                    "what comes from outside to it",
                ),
            ];
            for (_, field, code, what) in policies.into_iter().filter(|(local, ..)| *local) {
                let mut without: Vec<&str> = Vec::new();
                for node in self.facts.nodes.iter().filter_map(|node| node.metadata.name.as_deref()) {
                    if port.candidates(Scope::Local, node, None).indices.is_empty() {
                        without.push(node);
                    }
                }
                without.sort_unstable();
                if without.is_empty() || findings.iter().any(|finding| finding.code == code) {
                    continue;
                }
                let message =
                    format!("{field} is Local, and no endpoint is on {}: {what} is dropped there", without.join(", "));
                findings.push(
                    Finding::new(code, message)
                        .fix(format!("{field}: Cluster, or a Pod on each node that asks"))
                        .on(Ref::of("Service", &self.facts.service.metadata)),
                );
            }
        }
        findings
    }

    fn summary(&self, report: &ServiceReport) -> String {
        let endpoints =
            report.ports.iter().map(|port| port.endpoints.iter().filter(|e| e.ready).count()).max().unwrap_or(0);
        let count = match endpoints {
            1 => "one ready endpoint".to_owned(),
            n => format!("{n} ready endpoints"),
        };
        match (report.serving, headless(self.spec), report.problems.is_empty()) {
            (true, true, _) => format!("headless: its name leads to {count}"),
            (true, false, true) => format!("it serves, with {count}"),
            (true, false, false) => format!("it serves, with {count}, and something is likely to go wrong"),
            (false, true, _) => "headless, and no endpoint is ready: its name has no address".to_owned(),
            (false, false, _) if self.in_plan.is_empty() => "the router does not have it".to_owned(),
            (false, false, _) => "no endpoint may be used: connections are refused".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
