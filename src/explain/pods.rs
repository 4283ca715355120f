//! Why a Pod that a Service selects, or nearly selects, is no endpoint in use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Event, Pod, PodCondition, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::report::{Finding, Ref};
use crate::controllers::endpoint_model::{pod_addresses, pod_ready, protocol_of, resolve_port, terminal, terminating};
use crate::events::newest;

type Labels = BTreeMap<String, String>;

pub(super) fn pod_ref(pod: &Pod) -> Ref {
    Ref::of("Pod", &pod.metadata)
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

/// What keeps a Pod that is selected from being an endpoint in use. `families` are the Service's.
pub(super) fn reasons(pod: &Pod, ports: &[ServicePort], families: &[&str], events: &[Event]) -> Vec<Finding> {
    let mut reasons = Vec::new();
    let name = pod.name_any();
    if terminal(pod) {
        reasons.push(Finding::new("PodEnded", format!("{name} has ended: its phase is {}", phase(pod))));
        return reasons;
    }
    if terminating(pod) {
        reasons.push(Finding::new("Terminating", format!("{name} is being deleted")));
    }
    if pod_addresses(pod).next().is_none() {
        reasons.push(no_address(pod));
        reasons.extend(containers(pod));
        return reasons;
    }
    for family in families {
        if !pod_addresses(pod).any(|ip| crate::controllers::slice_plan::family_of(ip) == *family) {
            reasons.push(Finding::new("WrongFamily", format!("{name} has no {family} address")));
        }
    }
    for port in ports {
        if resolve_port(port, pod).is_none() {
            reasons.push(missing_name(pod, port));
        }
    }
    if !pod_ready(pod) {
        reasons.extend(not_ready(pod, events));
    }
    reasons
}

fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

fn no_address(pod: &Pod) -> Finding {
    let name = pod.name_any();
    if node_of(pod).is_empty() {
        let said = condition(pod, "PodScheduled").and_then(|condition| condition.message.as_deref());
        let message = match said {
            Some(said) => format!("{name} is Pending and has no node: {said}"),
            None => format!("{name} is Pending and has no node yet"),
        };
        return Finding::new("Unscheduled", message);
    }
    Finding::new("NoAddress", format!("{name} is {} on {} and has no address yet", phase(pod), node_of(pod)))
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    let main = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(main)
}

/// Containers that do not run, in their own words.
fn containers(pod: &Pod) -> Vec<Finding> {
    let name = pod.name_any();
    let waiting = statuses(pod).filter_map(|container| {
        let state = container.state.as_ref()?;
        let (reason, message) = match (&state.waiting, &state.terminated) {
            (Some(waiting), _) => (waiting.reason.clone()?, waiting.message.clone()),
            (_, Some(ended)) if !container.ready => {
                let reason = ended.reason.clone().unwrap_or_else(|| format!("exit code {}", ended.exit_code));
                (reason, ended.message.clone())
            }
            _ => return None,
        };
        let said = message.map(|message| format!(": {message}")).unwrap_or_default();
        let restarts = match container.restart_count {
            0 => String::new(),
            n => format!(", restarted {n} times"),
        };
        let text = format!("container {} of {name} does not run ({reason}{restarts}){said}", container.name);
        let fix =
            format!("kubectl logs {name} -n {} -c {} --previous", pod.namespace().unwrap_or_default(), container.name);
        let finding = Finding::new("ContainerNotRunning", text);
        Some(if container.restart_count > 0 { finding.fix(fix) } else { finding })
    });
    waiting.collect()
}

fn not_ready(pod: &Pod, events: &[Event]) -> Vec<Finding> {
    let name = pod.name_any();
    let mut reasons = containers(pod);
    let unready = statuses(pod).filter(|c| !c.ready && c.state.as_ref().is_some_and(|state| state.running.is_some()));
    for container in unready {
        let said = last_unhealthy(pod, events);
        let probe = match pod.spec.as_ref().and_then(|spec| spec.containers.iter().find(|c| c.name == container.name)) {
            Some(spec) if container.started == Some(false) && spec.startup_probe.is_some() => "startup",
            _ => "readiness",
        };
        let message = match &said {
            Some((message, count)) => format!(
                "container {} of {name} runs and is not ready: {message}{}",
                container.name,
                if *count > 1 { format!(" ({count} times)") } else { String::new() }
            ),
            None => format!("container {} of {name} runs, and its {probe} probe has not succeeded yet", container.name),
        };
        reasons.push(Finding::new("ProbeFailing", message));
    }
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    for gate in gates {
        if condition(pod, &gate.condition_type).is_none_or(|condition| condition.status != "True") {
            let message = format!("{name} waits for its readiness gate {}", gate.condition_type);
            reasons.push(Finding::new("ReadinessGate", message));
        }
    }
    if reasons.is_empty() {
        let said = condition(pod, "Ready").and_then(|condition| condition.message.as_deref());
        let said = said.map(|said| format!(": {said}")).unwrap_or_default();
        reasons.push(Finding::new("NotReady", format!("{name} is not ready{said}")));
    }
    reasons
}

/// What the last failed readiness or startup probe said, and how often it was said.
fn last_unhealthy(pod: &Pod, events: &[Event]) -> Option<(String, i32)> {
    let keeps_out = |event: &&Event| event.message.as_deref().is_some_and(|message| !message.starts_with("Liveness"));
    let last = newest(events.iter().filter(keeps_out), &pod.metadata, "Unhealthy")?;
    Some((last.message.clone()?, last.count.unwrap_or(1)))
}

fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let sidecars = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default().iter();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    main.iter().chain(sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always")))
}

/// The ports that the Pod's containers say they listen at: name, number, protocol.
pub(super) fn declared(pod: &Pod) -> Vec<(String, i32, String)> {
    let ports = all_containers(pod).flat_map(|container| container.ports.iter().flatten());
    let ports = ports.map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        (port.name.clone().unwrap_or_default(), port.container_port, protocol)
    });
    ports.collect()
}

fn list_ports(declared: &[(String, i32, String)]) -> String {
    let texts = declared.iter().map(|(name, number, protocol)| match name.as_str() {
        "" => format!("{number}/{protocol}"),
        name => format!("{name} ({number}/{protocol})"),
    });
    texts.collect::<Vec<_>>().join(", ")
}

fn missing_name(pod: &Pod, port: &ServicePort) -> Finding {
    let wanted = match &port.target_port {
        Some(IntOrString::String(name)) => name.clone(),
        other => other.as_ref().map(|port| format!("{port:?}")).unwrap_or_default(),
    };
    let (name, declared) = (pod.name_any(), declared(pod));
    let there =
        if declared.is_empty() { "it declares none".to_owned() } else { format!("it has {}", list_ports(&declared)) };
    let message = format!(
        "{name} has no container port named {wanted:?} with protocol {} for port {} of the Service: {there}",
        protocol_of(port),
        port.port
    );
    let finding = Finding::new("TargetPortNameMissing", message);
    let names =
        declared.iter().filter(|(_, _, protocol)| protocol == protocol_of(port)).map(|(name, ..)| name.as_str());
    match nearest(&wanted, names) {
        Some(near) => finding.fix(format!("targetPort: {near}")),
        None => finding,
    }
}

/// A number that no container of the Pod declares, where containers declare others (a declaration is a promise, not
/// what opens a port). `mend` is what the one number that is declared is good for.
pub(super) fn undeclared(pod: &Pod, number: i32, protocol: &str, mend: &str) -> Option<Finding> {
    let declared = declared(pod);
    if declared.is_empty() || declared.iter().any(|(_, port, of)| *port == number && of == protocol) {
        return None;
    }
    let message = format!(
        "no container of {} declares port {number}/{protocol}: declared are {}",
        pod.name_any(),
        list_ports(&declared)
    );
    let mut alike = declared.iter().filter(|(_, _, of)| of == protocol);
    let finding = Finding::new("TargetPortUndeclared", message).on(pod_ref(pod));
    Some(match (alike.next(), alike.next()) {
        (Some((_, only, _)), None) => finding.fix(format!("{mend} {only}")),
        _ => finding,
    })
}

/// The text that is meant by one that nobody has, if one is near enough.
pub(super) fn nearest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = known.filter(|text| !text.is_empty()).map(|text| (distance(wanted, text), text));
    near.filter(|(distance, text)| is_near(*distance, wanted, text)).min().map(|(_, text)| text)
}

/// Typing errors between two words; a difference of case alone counts as one.
pub(super) fn distance(a: &str, b: &str) -> usize {
    if a != b && a.eq_ignore_ascii_case(b) { 1 } else { strsim::osa_distance(a, b) }
}

pub(super) fn is_near(distance: usize, a: &str, b: &str) -> bool {
    let length = a.chars().count().max(b.chars().count());
    // A word that the other begins with is near, too: `web` and `web-server`.
    distance <= (length / 3).max(1) || (a.len().min(b.len()) >= 3 && (a.starts_with(b) || b.starts_with(a)))
}

/// How a Pod's labels miss a selector.
pub(super) struct Miss {
    /// Typing errors, summed up: the order of near misses.
    pub distance: usize,
    pub reasons: Vec<Finding>,
    /// What the selector should say to match.
    pub meant: Labels,
}

/// How the labels nearly match the selector; `None` when they match, or are something else.
pub(super) fn miss(name: &str, selector: &Labels, labels: &Labels) -> Option<Miss> {
    let mut miss = Miss { distance: 0, reasons: Vec::new(), meant: Labels::new() };
    let mut matched = 0;
    for (key, value) in selector {
        match labels.get(key) {
            Some(found) if found == value => {
                matched += 1;
                miss.meant.insert(key.clone(), value.clone());
            }
            Some(found) => {
                let distance = distance(value, found);
                let near = is_near(distance, value, found);
                miss.distance += if near { distance } else { 10 };
                let message = format!("label {key} of {name} is {found:?}, and the selector wants {value:?}");
                miss.reasons.push(Finding::new(if near { "LabelTypo" } else { "LabelDiffers" }, message));
                miss.meant.insert(key.clone(), found.clone());
            }
            None => {
                let other = nearest(key, labels.keys().map(String::as_str));
                match other.and_then(|other| labels.get(other).filter(|found| *found == value).map(|_| other)) {
                    Some(other) => {
                        miss.distance += distance(key, other);
                        let message =
                            format!("{name} has the label {other}={value}, and the selector wants {key}={value}");
                        miss.reasons.push(Finding::new("LabelTypo", message));
                        miss.meant.insert(other.to_owned(), value.clone());
                    }
                    None => {
                        miss.distance += 10;
                        miss.reasons.push(Finding::new("LabelMissing", format!("{name} has no label {key}")));
                    }
                }
            }
        }
    }
    let typo = !miss.reasons.is_empty() && miss.reasons.iter().all(|reason| reason.code == "LabelTypo");
    (!miss.reasons.is_empty() && (typo || matched > 0)).then_some(miss)
}
