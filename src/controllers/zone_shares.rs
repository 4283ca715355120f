//! Topology mode Auto (ES22): each zone gets hints for a share of a Service's endpoints that is its share of the
//! cluster's CPUs, whatever zones the endpoints are in.
//!
//! Pure, and without memory: the hints follow from Nodes and endpoints alone, so a second turn changes nothing. Endpoints
//! stay with their own zone as far as its share goes; those beyond it are lent to zones that have too few. Where no zone
//! can be kept from carrying a fifth more than its share, there are no hints, and every node uses all endpoints.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};
use kube::ResourceExt;

use super::placement::is_ready;
use super::service_pods::ZONE_LABEL;

const MODE_ANNOTATION: &str = "service.kubernetes.io/topology-mode";
/// Its former name, which comes first where both are there.
const FORMER_ANNOTATION: &str = "service.kubernetes.io/topology-aware-hints";
/// Nodes with one of these labels take no part.
const EXCLUDED_LABELS: [&str; 2] = ["node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"];

/// Whether the Service asks for it.
pub(super) fn is_asked_by(service: &Service) -> bool {
    let annotations = service.annotations();
    let mode = annotations.get(FORMER_ANNOTATION).or_else(|| annotations.get(MODE_ANNOTATION));
    matches!(mode.map(String::as_str), Some("Auto" | "auto"))
}

/// What a Node adds to its zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Capacity {
    Excluded,
    Unknown,
    /// Thousandths of a CPU.
    Of {
        zone: String,
        cpu: u64,
    },
}

impl Capacity {
    pub(super) fn of(node: &Node) -> Self {
        if !is_ready(node) || EXCLUDED_LABELS.iter().any(|label| node.labels().contains_key(*label)) {
            return Self::Excluded;
        }
        let zone = node.labels().get(ZONE_LABEL).filter(|zone| !zone.is_empty());
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let cpu = allocatable.and_then(|all| millis(&all.get("cpu")?.0)).filter(|cpu| *cpu > 0);
        match (zone, cpu) {
            (Some(zone), Some(cpu)) => Self::Of { zone: zone.clone(), cpu },
            _ => Self::Unknown,
        }
    }
}

/// CPUs are written as `4`, `1.5` or `3920m`, which is how the API gives them back.
fn millis(text: &str) -> Option<u64> {
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().ok();
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let thousandths = format!("{fraction:0<3}").get(..3)?.parse::<u64>().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(thousandths)
}

/// Why there are no hints, in the words of the reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoHints {
    Nodes,
    TooFew { endpoints: usize, zones: usize },
    Overload { endpoints: usize, zones: usize },
    EndpointWithoutZone,
}

impl fmt::Display for NoHints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => {
                f.write_str("Insufficient Node information: allocatable CPU or zone not specified on one or more nodes")
            }
            Self::TooFew { endpoints, zones } => {
                write!(f, "Insufficient number of endpoints ({endpoints} endpoints, {zones} zones)")
            }
            Self::Overload { endpoints, zones } => write!(
                f,
                "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold \
                 ({endpoints} endpoints, {zones} zones)"
            ),
            Self::EndpointWithoutZone => f.write_str("One or more endpoints do not have a zone specified"),
        }
    }
}

/// Gives the ready endpoints of one family their hints, or takes all of them away.
pub(super) fn assign(
    capacities: impl Iterator<Item = Capacity>,
    endpoints: &mut [&mut Endpoint],
) -> Result<(), NoHints> {
    let shares = shares(capacities).and_then(|cpus| divide(&cpus, endpoints));
    let mut left = match shares {
        Ok(shares) => shares,
        Err(reason) => {
            endpoints.iter_mut().for_each(|endpoint| endpoint.hints = None);
            return Err(reason);
        }
    };
    let mut lent = Vec::new();
    for endpoint in endpoints.iter_mut().filter(|endpoint| is_ready_endpoint(endpoint)) {
        match endpoint.zone.as_ref().and_then(|zone| left.get_mut(zone)).filter(|left| **left > 0) {
            Some(left) => {
                *left -= 1;
                endpoint.hints = hint(endpoint.zone.clone().unwrap_or_default());
            }
            None => lent.push(endpoint),
        }
    }
    let borrowers = left.into_iter().flat_map(|(zone, left)| std::iter::repeat_n(zone, left));
    for (endpoint, zone) in lent.into_iter().zip(borrowers) {
        endpoint.hints = hint(zone);
    }
    Ok(())
}

fn hint(zone: String) -> Option<EndpointHints> {
    Some(EndpointHints { for_zones: Some(vec![ForZone { name: zone }]), for_nodes: None })
}

fn is_ready_endpoint(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

/// CPU by zone.
fn shares(capacities: impl Iterator<Item = Capacity>) -> Result<BTreeMap<String, u64>, NoHints> {
    let mut cpus: BTreeMap<String, u64> = BTreeMap::new();
    for capacity in capacities {
        match capacity {
            Capacity::Excluded => {}
            Capacity::Unknown => return Err(NoHints::Nodes),
            Capacity::Of { zone, cpu } => *cpus.entry(zone).or_default() += cpu,
        }
    }
    if cpus.len() < 2 { Err(NoHints::Nodes) } else { Ok(cpus) }
}

/// How many endpoints each zone gets: at least so many that it carries no more than a fifth beyond its share, and the
/// rest one by one to the zone that lacks most.
fn divide(cpus: &BTreeMap<String, u64>, endpoints: &[&mut Endpoint]) -> Result<BTreeMap<String, usize>, NoHints> {
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    let mut count = 0usize;
    for endpoint in endpoints.iter().filter(|endpoint| is_ready_endpoint(endpoint)) {
        count += 1;
        *own.entry(endpoint.zone.as_deref().unwrap_or_default()).or_default() += 1;
    }
    let zones = cpus.len();
    if count < zones {
        return Err(NoHints::TooFew { endpoints: count, zones });
    }
    let (all, total) = (cpus.values().sum::<u64>(), count as u64);
    // desired = total * cpu / all; the least is that by 1.2, rounded up: ratios of whole numbers all the way.
    let mut given: BTreeMap<&str, u64> =
        cpus.iter().map(|(zone, cpu)| (zone.as_str(), (total * cpu * 5).div_ceil(all * 6))).collect();
    let least: u64 = given.values().sum();
    if least > total {
        return Err(NoHints::Overload { endpoints: count, zones });
    }
    if own.contains_key("") {
        return Err(NoHints::EndpointWithoutZone);
    }
    for _ in least..total {
        let lacks = |zone: &str, given: u64| i128::from(total * cpus[zone]) - i128::from(given * all);
        let neediest = given.iter_mut().max_by_key(|(zone, given)| {
            // Among equals the one whose own endpoints would have to be lent.
            (lacks(zone, **given), own.get(**zone).copied().unwrap_or(0))
        });
        if let Some((_, given)) = neediest {
            *given += 1;
        }
    }
    Ok(given.into_iter().map(|(zone, given)| (zone.to_owned(), usize::try_from(given).unwrap_or(count))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node(zone: &str, cpu: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "n", "labels": {ZONE_LABEL: zone}},
            "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    /// Endpoints with a letter for each: its zone; `-` for one without.
    fn endpoints(zones: &str) -> Vec<Endpoint> {
        let endpoint = |zone: char| {
            let zone = if zone == '-' { Value::Null } else { zone.to_string().into() };
            serde_json::from_value(json!({"addresses": ["10.244.1.2"], "zone": zone, "conditions": {"ready": true}}))
                .unwrap()
        };
        zones.chars().map(endpoint).collect()
    }

    /// The zones that the endpoints are hinted for, as one letter each.
    fn hinted(nodes: &[Node], zones: &str) -> Result<String, NoHints> {
        let mut all = endpoints(zones);
        assign(nodes.iter().map(Capacity::of), &mut all.iter_mut().collect::<Vec<_>>())?;
        Ok(all.iter().map(|e| e.hints.as_ref().unwrap().for_zones.as_ref().unwrap()[0].name.clone()).collect())
    }

    #[test]
    fn endpoints_are_lent_to_zones_that_have_too_few_es22() {
        let equal = [node("a", "4"), node("b", "4"), node("c", "4")];
        for (zones, expected) in [
            ("abc", "abc"),
            ("aaabbc", "aacbbc"),
            ("aaaaaa", "aabbcc"),
            // One more than can be divided: it stays where it is.
            ("aaabbcc", "aaabbcc"),
            // Zones without a node have no share.
            ("abxbca", "abcbca"),
        ] {
            assert_eq!(hinted(&equal, zones), Ok(expected.to_owned()), "{zones}");
        }
        // Shares follow CPUs and not nodes: a has three quarters.
        let unequal = [node("a", "2"), node("a", "3920m"), node("b", "0.5"), node("b", "1500m")];
        assert_eq!(hinted(&unequal, "aabbbbbb"), Ok("aabbaaaa".to_owned()));
    }

    #[test]
    fn reasons_for_no_hints_es22() {
        let (a, b) = (node("a", "4"), node("b", "4"));
        for (nodes, zones, reason) in [
            (vec![], "ab", NoHints::Nodes),
            (vec![a.clone()], "ab", NoHints::Nodes),
            (vec![a.clone(), b.clone(), node("", "4")], "ab", NoHints::Nodes),
            (vec![a.clone(), b.clone(), node("b", "0")], "ab", NoHints::Nodes),
            (vec![a.clone(), b.clone()], "a", NoHints::TooFew { endpoints: 1, zones: 2 }),
            (vec![a.clone(), b.clone()], "ab--", NoHints::EndpointWithoutZone),
            // One of three for half of the CPUs: half more than its share.
            (vec![a.clone(), b.clone()], "aab", NoHints::Overload { endpoints: 3, zones: 2 }),
        ] {
            let mut all = endpoints(zones);
            all.iter_mut().for_each(|endpoint| endpoint.hints = hint("a".to_owned()));
            let result = assign(nodes.iter().map(Capacity::of), &mut all.iter_mut().collect::<Vec<_>>());
            assert_eq!(result, Err(reason), "{zones}");
            assert!(all.iter().all(|endpoint| endpoint.hints.is_none()), "{zones}");
        }
    }

    #[test]
    fn nodes_of_the_control_plane_and_those_not_ready_have_no_share_es22() {
        let mut control_plane = node("a", "4");
        control_plane.metadata.labels.as_mut().unwrap().insert(EXCLUDED_LABELS[0].to_owned(), String::new());
        let mut down = node("a", "4");
        down.status.as_mut().unwrap().conditions = None;
        assert_eq!((Capacity::of(&control_plane), Capacity::of(&down)), (Capacity::Excluded, Capacity::Excluded));
        assert_eq!(Capacity::of(&node("a", "1.25")), Capacity::Of { zone: "a".to_owned(), cpu: 1250 });
        assert_eq!(Capacity::of(&node("a", "many")), Capacity::Unknown);
    }

    #[test]
    fn former_annotation_comes_first_es22() {
        let asks = |annotations: Value| {
            let service = json!({"metadata": {"name": "web", "annotations": annotations}});
            is_asked_by(&serde_json::from_value(service).unwrap())
        };
        assert!(asks(json!({MODE_ANNOTATION: "Auto"})) && asks(json!({FORMER_ANNOTATION: "auto"})));
        assert!(!asks(json!({})) && !asks(json!({MODE_ANNOTATION: "Disabled"})));
        assert!(!asks(json!({MODE_ANNOTATION: "Auto", FORMER_ANNOTATION: "Disabled"})));
    }
}
