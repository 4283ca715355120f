//! From a name to an address, as the sender's resolver and the cluster's DNS find it, and the ports of Services.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;

use super::flow::Facts;
use super::pods::nearest;
use super::report::{Finding, Ref, Step, StepKind};
use super::request::{BadRequest, Family, Port};
use crate::cluster::{Cluster, ObjectKey, SERVICE_NAME_LABEL};
use crate::controllers::endpoint_model::{headless, protocol_of};
use crate::dns::answer::{Answer, Cause, Code, Data, Kind};
use crate::dns::lookup::Path;
use crate::plan::Protocol;

pub(super) struct Lookup<'a> {
    pub facts: &'a Facts<'a>,
    pub families: &'a [Family],
    /// The sender's; empty where it has none.
    pub namespace: String,
    pub steps: &'a mut Vec<Step>,
}

pub(super) enum Resolved {
    /// The address, and the Service whose name it was.
    At {
        address: IpAddr,
        service: Option<ObjectKey>,
    },
    /// The name is for others to answer.
    Outside {
        name: String,
    },
    Nowhere {
        message: String,
        problems: Vec<Finding>,
    },
}

impl Lookup<'_> {
    /// Asks for the name and what the search path makes of it, in the order of the C library's resolver.
    pub(super) fn resolve(&mut self, name: &str, path: &Path) -> Resolved {
        if !path.asks(self.facts.zone) {
            return self.asks_others(name, path);
        }
        let (mut exists, mut outside, mut failed) = (None, false, None);
        for (asked, _) in path.names(name) {
            let asked = asked.trim_end_matches('.').to_ascii_lowercase();
            for family in self.families {
                let kind = if *family == Family::V6 { Kind::Aaaa } else { Kind::A };
                let Some(answer) = self.facts.records.answer(self.facts.zone, &asked, kind, &mut rand::rng()) else {
                    self.note(
                        format!("{asked} is not the cluster's name: the host's resolvers are asked"),
                        Vec::new(),
                        Vec::new(),
                    );
                    outside |= asked == name.trim_end_matches('.');
                    break;
                };
                if let Some(address) = self.take(&asked, *family, &answer) {
                    return Resolved::At { address, service: service_of(&answer) };
                }
                if let Some(outside) = &answer.outside {
                    return Resolved::Outside { name: outside.to_string() };
                }
                // A name that is not there or leads in circles does so for every type: once is enough.
                match answer.code {
                    Code::NxDomain => break,
                    Code::ServFail => {
                        failed.get_or_insert_with(|| asked.clone());
                        break;
                    }
                    Code::NoError => {
                        exists.get_or_insert_with(|| (asked.clone(), service_of(&answer)));
                    }
                }
            }
        }
        if let Some(asked) = failed {
            let message = format!("{asked} is an alias that leads in circles: the cluster's DNS gives up (SERVFAIL)");
            return Resolved::Nowhere { message, problems: Vec::new() };
        }
        match exists {
            Some((asked, service)) => {
                let families: Vec<&str> = self.families.iter().map(|family| family.as_str()).collect();
                let message = format!("{asked} has no {} address", families.join(" or "));
                let problems = service.map(|service| {
                    let text = format!(
                        "its name has an address when an endpoint is ready: `vipyard explain service {service}`"
                    );
                    Finding::new("NoReadyEndpoint", text)
                });
                Resolved::Nowhere { message, problems: problems.into_iter().collect() }
            }
            None => {
                let problems = self.meant(name);
                if outside && name.contains('.') && problems.is_empty() {
                    return Resolved::Outside { name: name.trim_end_matches('.').to_owned() };
                }
                let message =
                    format!("the cluster's DNS knows no name {name}, with or without the search path (NXDOMAIN)");
                Resolved::Nowhere { message, problems }
            }
        }
    }

    fn asks_others(&self, name: &str, path: &Path) -> Resolved {
        let servers = if path.nameservers.is_empty() { "nobody".to_owned() } else { path.nameservers.join(", ") };
        let domain = format!(".{}", self.facts.zone.domain());
        let ours =
            name.ends_with(&domain) || !name.contains('.') || !self.meant(name).is_empty() || self.is_service(name);
        if !ours {
            return Resolved::Outside { name: name.to_owned() };
        }
        let finding =
            Finding::new("OtherResolver", format!("the sender asks {servers}, which is not the cluster's DNS"));
        let finding = finding
            .fix("for a Pod of the node's network, dnsPolicy: ClusterFirstWithHostNet; from elsewhere, an address");
        Resolved::Nowhere { message: format!("{name} is not looked up in the cluster's DNS"), problems: vec![finding] }
    }

    fn is_service(&self, name: &str) -> bool {
        let mut labels = name.split('.');
        let (Some(service), Some(namespace)) = (labels.next(), labels.next()) else { return false };
        self.facts.cluster.services.get(namespace, service).is_some()
    }

    fn note(&mut self, text: String, answers: Vec<String>, rests_on: Vec<Ref>) {
        self.steps.push(Step { step: StepKind::Dns, text, answers, rests_on, ..Step::default() });
    }

    /// Tells of an answer, and takes the first address of it.
    fn take(&mut self, asked: &str, family: Family, answer: &Answer) -> Option<IpAddr> {
        let addresses: Vec<IpAddr> = answer
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                Data::A(v4) => Some(IpAddr::from(*v4)),
                Data::Aaaa(v6) => Some(IpAddr::from(*v6)),
                _ => None,
            })
            .collect();
        let aliases = answer.answers.iter().filter_map(|record| match &record.data {
            Data::Cname(target) => Some(format!("CNAME {target}")),
            _ => None,
        });
        let answers: Vec<String> = aliases.chain(addresses.iter().map(ToString::to_string)).collect();
        let kind = if family == Family::V6 { "AAAA" } else { "A" };
        let said = match (answer.code, addresses.as_slice()) {
            (Code::NoError, []) if answer.outside.is_some() => "an alias for a name outside of the cluster".to_owned(),
            (Code::NoError, []) => "the name exists, and has no such address".to_owned(),
            (Code::NoError, [only]) => only.to_string(),
            (Code::NoError, [first, ..]) => format!("{first}, the first of {}", addresses.len()),
            (Code::NxDomain, _) => "no such name (NXDOMAIN)".to_owned(),
            (Code::ServFail, _) => "an alias that leads in circles (SERVFAIL)".to_owned(),
        };
        let rests_on = answer.causes.iter().filter_map(Cause::reference).map(Ref::from).collect();
        self.note(format!("DNS {asked} {kind}: {said}"), answers, rests_on);
        addresses.first().copied()
    }

    /// Names that are near one that nobody has.
    fn meant(&self, name: &str) -> Vec<Finding> {
        let domain = format!(".{}", self.facts.zone.domain());
        let short = name.trim_end_matches('.');
        let short = short.strip_suffix(&domain).unwrap_or(short);
        let short = short.strip_suffix(".svc").unwrap_or(short);
        let (wanted, namespace) = match short.split_once('.') {
            Some((service, namespace)) => (service, namespace),
            None => (short, self.namespace.as_str()),
        };
        let services = self.facts.cluster.services.list();
        let found = |service: &Arc<Service>, message: String, fix: String| {
            Finding::new("NameTypo", message).fix(fix).on(Ref::of("Service", &service.metadata))
        };
        let dial = |service: &Arc<Service>| {
            let there = service.namespace().unwrap_or_default();
            if there == self.namespace { service.name_any() } else { format!("{}.{there}", service.name_any()) }
        };
        let mut findings = Vec::new();
        let here: Vec<&Arc<Service>> =
            services.iter().filter(|s| s.metadata.namespace.as_deref() == Some(namespace)).collect();
        let names: Vec<String> = here.iter().map(|service| service.name_any()).collect();
        if !names.iter().any(|name| name == wanted)
            && let Some(near) = nearest(wanted, names.iter().map(String::as_str))
            && let Some(service) = here.iter().find(|service| service.name_any() == near)
        {
            let message = format!("there is no Service {wanted} in namespace {namespace}; there is {near}");
            findings.push(found(service, message, dial(service)));
        }
        for service in services.iter().filter(|service| service.name_any() == wanted).take(5) {
            let there = service.namespace().unwrap_or_default();
            if there != namespace {
                let message = format!("Service {wanted} is in namespace {there}, not in {namespace}");
                findings
                    .push(Finding { code: "NameInOtherNamespace".into(), ..found(service, message, dial(service)) });
            }
        }
        findings
    }
}

fn service_of(answer: &Answer) -> Option<ObjectKey> {
    answer.causes.iter().rev().find_map(|cause| match cause {
        Cause::Service(object) => Some(object.key.clone()),
        _ => None,
    })
}

pub(super) fn service(cluster: &Cluster, namespace: &str, name: &str) -> Result<Arc<Service>, BadRequest> {
    cluster.services.get(namespace, name).ok_or_else(|| {
        let services = cluster.services.list_in(namespace);
        let names: Vec<String> = services.iter().map(|service| service.name_any()).collect();
        let meant = nearest(name, names.iter().map(String::as_str));
        let meant = meant.map(|near| format!("; there is {near}")).unwrap_or_default();
        BadRequest::NotFound(format!(
            "there is no Service {namespace}/{name}{meant}: see `kubectl get services -n {namespace}`"
        ))
    })
}

/// The number of a Service's port by number, by name, or as the only one of its protocol.
pub(super) fn port_of(service: &Service, port: Option<&Port>, protocol: Protocol) -> Result<u16, BadRequest> {
    let name = match port {
        Some(Port::Number(number)) => return Ok(*number),
        Some(Port::Name(name)) => Some(name),
        None => None,
    };
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let alike: Vec<_> = ports.iter().filter(|port| protocol_of(port) == protocol.as_str()).collect();
    let found = match name {
        Some(name) => alike.iter().find(|port| port.name.as_deref() == Some(name)),
        None if alike.len() == 1 => alike.first(),
        None => None,
    };
    found.and_then(|port| u16::try_from(port.port).ok()).ok_or_else(|| {
        let own = service.name_any();
        let texts = ports.iter().map(|port| match port.name.as_deref().unwrap_or_default() {
            "" => format!("{}/{}", port.port, protocol_of(port)),
            name => format!("{name} ({}/{})", port.port, protocol_of(port)),
        });
        let there = texts.collect::<Vec<_>>().join(", ");
        let there = if there.is_empty() { "no port".to_owned() } else { there };
        BadRequest::Invalid(match name {
            Some(name) => format!("Service {own} has no {} port named {name}: it has {there}", protocol.as_str()),
            None => format!("say which port of {own} with protocol {}: it has {there}", protocol.as_str()),
        })
    })
}

/// The same for who dials the address behind a name: a headless Service's Pods are dialed at their own ports.
pub(super) fn port_of_endpoint(
    cluster: &Cluster,
    service: &Service,
    port: Option<&Port>,
    protocol: Protocol,
) -> Result<u16, BadRequest> {
    let number = port_of(service, port, protocol)?;
    if matches!(port, Some(Port::Number(_))) || !service.spec.as_ref().is_some_and(headless) {
        return Ok(number);
    }
    let namespace = service.namespace().unwrap_or_default();
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let name =
        ports.iter().find(|port| u16::try_from(port.port) == Ok(number) && protocol_of(port) == protocol.as_str());
    let name = name.and_then(|port| port.name.clone()).unwrap_or_default();
    let own = service.name_any();
    let slices = cluster.slices.list_in(&namespace);
    let slices = slices.iter().filter(|slice| slice.labels().get(SERVICE_NAME_LABEL) == Some(&own));
    let mut found = slices.flat_map(|slice| slice.ports.iter().flatten()).filter(|port| {
        port.name.as_deref().unwrap_or_default() == name
            && port.protocol.as_deref().unwrap_or("TCP") == protocol.as_str()
    });
    Ok(found.find_map(|port| u16::try_from(port.port?).ok()).unwrap_or(number))
}
