//! Explains a Service: objects and the router's plan in, a report out.

mod lack;
mod ports;
mod problems;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Node, Pod, Service, ServicePort as ApiPort, ServiceSpec};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

pub use self::lack::{Lack, Lacking, causes};
use super::report::{Address, EndpointReport, Finding, Ref, ServiceReport};
use crate::controllers::endpoint_model::headless;
use crate::controllers::service_pods::selects;
use crate::plan::{Plan, Protocol, ServicePort, load_balancer_ips};

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
        (report.serving, report.complete) = (true, true);
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
    report.complete = report.serving && view.refused(Whose::NeededOnly).is_empty();
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
        self.in_plan.values().any(|port| is_served(port))
    }

    /// The ports that lead nowhere, each with whether it is IPv6's.
    fn refused(&self, whose: Whose) -> Vec<(bool, &Arc<ServicePort>)> {
        let prefers = self.spec.ip_family_policy.as_deref() == Some("PreferDualStack");
        let lacks_all = |v6: bool| {
            let mut of_family = self.in_plan.iter().filter(|((family, ..), _)| *family == v6);
            of_family.all(|(_, port)| port.endpoints().is_empty())
        };
        let optional = [false, true].map(|v6| whose == Whose::NeededOnly && prefers && lacks_all(v6));
        let ports = self.in_plan.iter().map(|((v6, ..), port)| (*v6, *port));
        ports.filter(|(v6, port)| !is_served(port) && !optional[usize::from(*v6)]).collect()
    }

    fn summary(&self, report: &ServiceReport) -> String {
        let most = |counts: &dyn Fn(&EndpointReport) -> bool| {
            report.ports.iter().map(|port| port.endpoints.iter().filter(|e| counts(e)).count()).max().unwrap_or(0)
        };
        let count = match (most(&|e| e.ready), most(&|e| e.serving && e.terminating)) {
            (0, 1) => "one endpoint that still serves while it terminates".to_owned(),
            (0, n) if n > 1 => format!("{n} endpoints that still serve while they terminate"),
            (1, _) => "one ready endpoint".to_owned(),
            (n, _) => format!("{n} ready endpoints"),
        };
        match (report.serving, headless(self.spec), report.problems.is_empty()) {
            (true, true, _) => format!("headless: its name leads to {count}"),
            (true, false, true) => format!("it serves, with {count}"),
            (true, false, false) if !self.refused(Whose::All).is_empty() => format!("it serves in part, with {count}"),
            (true, false, false) => format!("it serves, with {count}, and something is likely to go wrong"),
            (false, true, _) => "headless, and no endpoint is ready: its name has no address".to_owned(),
            (false, false, _) if self.in_plan.is_empty() => "the router does not have it".to_owned(),
            (false, false, _) if self.in_plan.values().all(|port| port.protocol == Protocol::Sctp) => {
                "SCTP is not carried through Services: nothing of it arrives".to_owned()
            }
            (false, false, _) => "no endpoint may be used: connections are refused".to_owned(),
        }
    }
}

/// Which of the ports that lead nowhere are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    All,
    /// Without those of a family that a PreferDualStack Service has and no endpoint has: nobody counts on it.
    NeededOnly,
}

/// Whether what is sent to the port arrives. SCTP is not carried through Services (F1).
fn is_served(port: &ServicePort) -> bool {
    port.protocol != Protocol::Sctp && port.has_usable_endpoint()
}

#[cfg(test)]
mod tests;
