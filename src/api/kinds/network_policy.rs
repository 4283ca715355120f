//! NetworkPolicy (networking.k8s.io/v1).

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::checks::{check_cidr, check_port, check_selector, format_selector};
use super::service_validation::check_port_number;
use super::{AGE, Context, Info, NAME, Part, age_cell, column, name_cell};
use crate::api::causes::Causes;
use crate::api::status::ApiError;

pub struct Kind;

impl super::Kind for Kind {
    type Object = NetworkPolicy;
    const INFO: Info = Info {
        group: "networking.k8s.io",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        generation: true,
        columns: &[
            NAME,
            column(
                "Pod-Selector",
                "podSelector selects the pods to which this NetworkPolicy object applies. The array of rules is applied to any pods selected by this field. An empty selector matches all pods in the policy's namespace. Multiple network policies can select the same set of pods. In this case, the ingress rules for each are combined additively. This field is optional. If it is not specified, it defaults to an empty selector.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut NetworkPolicy) {
        let spec = object.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ports = spec.ingress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten());
        let ports = ports.chain(spec.egress.iter_mut().flatten().flat_map(|rule| rule.ports.iter_mut().flatten()));
        ports.for_each(|port| {
            port.protocol.get_or_insert_with(|| "TCP".into());
        });
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()) {
                types.push("Egress".into());
            }
            spec.policy_types = Some(types);
        }
    }

    fn create(_: &Context, object: &mut NetworkPolicy, causes: &mut Causes) -> Result<(), ApiError> {
        check(object.spec.get_or_insert_default(), causes);
        Ok(())
    }

    fn update(_: &Context, new: &mut NetworkPolicy, _: &NetworkPolicy, _: Part, causes: &mut Causes) {
        check(new.spec.get_or_insert_default(), causes);
    }

    fn cells(object: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = object.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        vec![name_cell(object), format_selector(selector).into(), age_cell(object, now)]
    }
}

fn check(spec: &NetworkPolicySpec, causes: &mut Causes) {
    if let Some(selector) = &spec.pod_selector {
        check_selector(causes, "spec.podSelector", selector);
    }
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = format!("spec.ingress[{i}]");
        check_rule(rule.ports.as_deref(), ("from", rule.from.as_deref()), &at, causes);
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let at = format!("spec.egress[{i}]");
        check_rule(rule.ports.as_deref(), ("to", rule.to.as_deref()), &at, causes);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    if types.len() > 2 {
        causes.invalid("spec.policyTypes", types.to_vec(), "may not specify more than two policyTypes");
        return;
    }
    for (i, kind) in types.iter().enumerate() {
        causes.one_of(&format!("spec.policyTypes[{i}]"), Some(kind), &["Ingress", "Egress"]);
    }
}

fn check_rule(
    ports: Option<&[NetworkPolicyPort]>,
    (field, peers): (&str, Option<&[NetworkPolicyPeer]>),
    at: &str,
    causes: &mut Causes,
) {
    for (i, port) in ports.unwrap_or_default().iter().enumerate() {
        check_policy_port(port, &format!("{at}.ports[{i}]"), causes);
    }
    for (i, peer) in peers.unwrap_or_default().iter().enumerate() {
        check_peer(peer, &format!("{at}.{field}[{i}]"), causes);
    }
}

fn check_policy_port(port: &NetworkPolicyPort, at: &str, causes: &mut Causes) {
    causes.one_of(&format!("{at}.protocol"), port.protocol.as_ref(), &["TCP", "UDP", "SCTP"]);
    let end = format!("{at}.endPort");
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(first)), last) => {
            check_port_number(causes, &format!("{at}.port"), *first);
            if let Some(last) = last {
                if last < *first {
                    causes.invalid(&end, last, "must be greater than or equal to `port`");
                }
                check_port_number(causes, &end, last);
            }
        }
        (Some(name), last) => {
            if let Some(last) = last {
                causes.invalid(end, last, "may not be specified when `port` is non-numeric");
            }
            check_port(causes, &format!("{at}.port"), name);
        }
        (None, Some(last)) => causes.invalid(end, last, "may not be specified when `port` is not specified"),
        (None, None) => {}
    }
}

fn check_peer(peer: &NetworkPolicyPeer, at: &str, causes: &mut Causes) {
    let selectors = [("podSelector", &peer.pod_selector), ("namespaceSelector", &peer.namespace_selector)];
    let mut peers = 0;
    for (field, selector) in selectors {
        let Some(selector) = selector else { continue };
        peers += 1;
        check_selector(causes, &format!("{at}.{field}"), selector);
    }
    if let Some(block) = &peer.ip_block {
        check_block(block, &format!("{at}.ipBlock"), causes);
        if peers > 0 {
            causes.forbidden(at, "may not specify both ipBlock and another peer");
        }
    } else if peers == 0 {
        causes.required(at, "must specify a peer");
    }
}

fn check_block(block: &IPBlock, at: &str, causes: &mut Causes) {
    if block.cidr.is_empty() {
        causes.required(format!("{at}.cidr"), "");
        return;
    }
    let Some(net) = check_cidr(causes, &format!("{at}.cidr"), &block.cidr, false) else { return };
    for (i, text) in block.except.iter().flatten().enumerate() {
        let field = format!("{at}.except[{i}]");
        let Some(except) = check_cidr(causes, &field, text, false) else { continue };
        if !net.contains(&except.addr()) || net.prefix_len() >= except.prefix_len() {
            causes.invalid(field, text.as_str(), "must be a strict subset of `cidr`");
        }
    }
}
