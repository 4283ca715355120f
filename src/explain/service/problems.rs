//! What keeps a Service from working or is likely to, and the Pods that nearly serve it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{View, Whose, is_served, target_text};
use crate::cluster::SERVICE_NAME_LABEL;
use crate::controllers::LOAD_BALANCER_CLASS;
use crate::controllers::endpoint_model::{headless, pod_ready, protocol_of, resolve_port, terminating};
use crate::controllers::service_pods::selects;
use crate::events::{SYNC_LOAD_BALANCER_FAILED, newest};
use crate::explain::pods::{self, Miss, node_of, phase, pod_ref};
use crate::explain::report::{Finding, NearMiss, Ref, ServiceReport};
use crate::plan::{PROXY_NAME_LABEL, Protocol, Scope, ServicePort, load_balancer_ips};

/// Near misses that are told.
pub(super) const MOST: usize = 50;

impl View<'_> {
    pub(super) fn near_misses(&self, report: &mut ServiceReport) {
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

    pub(super) fn problems(&self, report: &ServiceReport) -> Vec<Finding> {
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
        problems.extend(self.sctp());
        problems.extend(self.refusals());
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
                    let last = newest(self.facts.events, &self.facts.service.metadata, SYNC_LOAD_BALANCER_FAILED);
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

    /// F1.
    fn sctp(&self) -> Vec<Finding> {
        let own = || Ref::of("Service", &self.facts.service.metadata);
        let ports = self.api_ports().iter().filter(|port| protocol_of(port) == "SCTP" && !headless(self.spec));
        let findings = ports.map(|port| {
            let message = format!("port {}/SCTP: SCTP is not carried through Services, and is between Pods", port.port);
            Finding::new("SctpNotCarried", message)
                .fix("clusterIP: None, and clients that dial the Pods by the Service's name")
                .on(own())
        });
        findings.collect()
    }

    /// Ports and families that are refused while others serve.
    fn refusals(&self) -> Vec<Finding> {
        if headless(self.spec) || !self.serving() {
            return Vec::new();
        }
        let own = || Ref::of("Service", &self.facts.service.metadata);
        let mut refused = self.refused(Whose::All);
        refused.retain(|(_, port)| port.protocol != Protocol::Sctp);
        let mut findings = Vec::new();
        for (v6, family) in [(false, "IPv4"), (true, "IPv6")] {
            let of_family = |found: &&(bool, &Arc<ServicePort>)| found.0 == v6;
            let carried = self.in_plan.keys().filter(|(of, _, protocol)| *of == v6 && *protocol != Protocol::Sctp);
            let (count, all) = (refused.iter().filter(of_family).count(), carried.count());
            if count > 0 && count == all {
                refused.retain(|found| found.0 != v6);
                let message = format!("{family} has no endpoint that may be used: refused there");
                findings.push(Finding::new("FamilyNotServed", message).on(own()));
            }
        }
        for (at, (v6, port)) in refused.iter().enumerate() {
            let same = |other: &(bool, &Arc<ServicePort>)| {
                (&other.1.port_name, other.1.protocol) == (&port.port_name, port.protocol)
            };
            if refused[..at].iter().any(same) {
                continue;
            }
            let families =
                self.in_plan.keys().filter(|(_, name, of)| **name == *port.port_name && *of == port.protocol);
            let whole = refused.iter().filter(|other| same(other)).count() == families.count();
            let family = match (whole, v6) {
                (true, _) => "",
                (false, true) => "IPv6 ",
                (false, false) => "IPv4 ",
            };
            let (number, protocol) = (port.port, port.protocol.as_str());
            let message = format!("port {number}/{protocol} has no {family}endpoint that may be used: refused there");
            findings.push(Finding::new("PortNotServed", message).on(own()));
        }
        findings
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
            let others = match alike {
                0 | 1 => String::new(),
                2 => "; the same with 1 more Pod".to_owned(),
                more => format!("; the same with {} more Pods", more - 1),
            };
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
                .filter_map(|(pod, number)| pods::undeclared(pod, (*number)?, protocol_of(port), "targetPort:"));
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
        for port in self.in_plan.values().filter(|port| is_served(port)) {
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
}
