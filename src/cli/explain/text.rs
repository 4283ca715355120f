//! Explanations for people.

use std::fmt::Write;

use crate::explain::report::{Choice, Finding, FlowReport, PortReport, ServiceReport, Step, StepKind};

pub(super) fn service(report: &ServiceReport) -> String {
    let mut out = String::new();
    let service = &report.service;
    let _ = writeln!(out, "Service {}/{} ({}): {}", service.namespace, service.name, report.type_, report.summary);
    findings(&mut out, "problems", &report.problems);
    let _ = writeln!(out, "\nname      {}", report.dns_name);
    for address in &report.addresses {
        let _ = writeln!(out, "{:<9} {}", address.kind, address.address);
    }
    if !report.selector.is_empty() {
        let pairs: Vec<String> = report.selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let _ = writeln!(out, "selector  {}", pairs.join(","));
    }
    for port in &report.ports {
        out += &port_text(port);
    }
    if !report.near_misses.is_empty() {
        let _ = writeln!(out, "\nPods that are no endpoints in use:");
        for miss in &report.near_misses {
            let name = if miss.pod.namespace == service.namespace {
                miss.pod.name.clone()
            } else {
                format!("{}/{}", miss.pod.namespace, miss.pod.name)
            };
            let _ = writeln!(out, "  {name} ({}{})", miss.phase, on(&miss.node));
            for reason in &miss.reasons {
                let _ = writeln!(out, "    {}", reason.message);
            }
        }
        if report.more_near_misses > 0 {
            let _ = writeln!(out, "  and {} more", report.more_near_misses);
        }
    }
    out
}

fn on(node: &str) -> String {
    if node.is_empty() { String::new() } else { format!(" on {node}") }
}

fn port_text(port: &PortReport) -> String {
    let mut out = String::new();
    let name = if port.name.is_empty() { String::new() } else { format!(" {}", port.name) };
    let node_port = port.node_port.map(|port| format!(", node port {port}")).unwrap_or_default();
    let _ = writeln!(
        out,
        "\nport {}/{}{name} {}, target port {}{node_port}",
        port.port, port.protocol, port.family, port.target_port
    );
    if port.endpoints.is_empty() {
        out += "  no endpoints\n";
    }
    for endpoint in &port.endpoints {
        let state = match (endpoint.ready, endpoint.serving, endpoint.terminating) {
            (true, _, false) => "ready",
            (true, _, true) => "ready, terminating",
            (false, true, true) => "terminating, still serving",
            (false, false, true) => "terminating",
            (false, ..) => "not ready",
        };
        let pod = endpoint.pod.as_ref().map(|pod| format!(" {}", pod.name)).unwrap_or_default();
        let zone = if endpoint.zone.is_empty() { String::new() } else { format!(", zone {}", endpoint.zone) };
        let _ = writeln!(out, "  {}{pod}{}{zone}: {state}", endpoint.address, on(&endpoint.node));
    }
    for choice in &port.choices {
        out += &choice_text(choice, port.endpoints.len());
    }
    out
}

fn choice_text(choice: &Choice, all: usize) -> String {
    let mut out = String::new();
    let nodes = choice.nodes.join(", ");
    let traffic = match choice.traffic.as_str() {
        "internal" => " for the ClusterIP",
        "external" => " for what comes from outside",
        _ => "",
    };
    let uses = match choice.uses.len() {
        0 => "nothing".to_owned(),
        n if n == all && n > 1 => format!("all {n}"),
        _ => choice.uses.join(", "),
    };
    let verb = if choice.nodes.len() == 1 { "uses" } else { "use" };
    let _ = writeln!(out, "  {nodes} {verb}{traffic} {uses}: {}", choice.why);
    for left in &choice.left_out {
        let _ = writeln!(out, "    not {}: it {}", left.address, left.why);
    }
    out
}

fn findings(out: &mut String, title: &str, findings: &[Finding]) {
    if findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{title}:");
    for finding in findings {
        let _ = writeln!(out, "  {}", finding.message);
        if !finding.fix.is_empty() {
            let _ = writeln!(out, "    try: {}", finding.fix);
        }
    }
}

pub(super) fn flow(report: &FlowReport) -> String {
    let mut out = String::new();
    let family = if report.family.is_empty() { String::new() } else { format!(", {}", report.family) };
    let _ = writeln!(out, "{} to {} ({}{family})\n", report.from, report.to, report.protocol);
    for (at, step) in report.steps.iter().filter(|step| step.step != StepKind::Verdict).enumerate() {
        out += &step_text(at + 1, step);
    }
    let word = if report.reachable { "reachable" } else { "unreachable" };
    if !report.steps.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "{word}: {}", report.verdict.message);
    findings(&mut out, if report.reachable { "but" } else { "because" }, &report.problems);
    out
}

fn step_text(number: usize, step: &Step) -> String {
    let mut out = String::new();
    let node = if step.node.is_empty() { String::new() } else { format!("[{}] ", step.node) };
    let _ = writeln!(out, "{number:>3}. {node}{}", step.text);
    for candidate in &step.candidates {
        let pod = if candidate.pod.is_empty() { String::new() } else { format!(" {}", candidate.pod) };
        let (mark, why) = if candidate.left { ("+", String::new()) } else { ("-", format!(": {}", candidate.why)) };
        let _ = writeln!(out, "       {mark} {}{pod}{}{why}", candidate.address, on(&candidate.node));
    }
    let objects = step.rests_on.iter().map(|object| {
        let name = if object.namespace.is_empty() {
            object.name.clone()
        } else {
            format!("{}/{}", object.namespace, object.name)
        };
        format!("{} {name} uid {} resourceVersion {}", object.kind, object.uid, object.resource_version)
    });
    for object in objects {
        let _ = writeln!(out, "       by {object}");
    }
    out
}
