//! The words for which endpoints were candidates, and what kept the others out.

use crate::plan::{Endpoint, Filter, ListKind, ServicePort};

pub(super) fn list_name(list: ListKind) -> &'static str {
    match list {
        ListKind::Cluster => "Cluster",
        ListKind::HintedNode => "HintedNode",
        ListKind::HintedZone => "HintedZone",
        ListKind::ClusterTerminating => "ClusterTerminating",
        ListKind::Local => "Local",
        ListKind::LocalTerminating => "LocalTerminating",
    }
}

pub(super) fn list_text(list: ListKind) -> &'static str {
    match list {
        ListKind::Cluster => "all ready endpoints of the cluster",
        ListKind::HintedNode => "ready endpoints whose hints name this node",
        ListKind::HintedZone => "ready endpoints whose hints name this node's zone",
        ListKind::ClusterTerminating => "no endpoint is ready, so those that still serve while they terminate",
        ListKind::Local => "ready endpoints on this node",
        ListKind::LocalTerminating => "none on this node is ready, so those here that still serve while they terminate",
    }
}

pub(super) fn filter_name(filter: Filter) -> &'static str {
    match filter {
        Filter::NotReady => "NotReady",
        Filter::Terminating => "Terminating",
        Filter::NotServing => "NotServing",
        Filter::OtherNode => "OtherNode",
        Filter::Hint => "Hint",
    }
}

/// Why the endpoint with this index was kept out.
pub(super) fn filter_text(service: &ServicePort, index: u32, filter: Filter) -> String {
    let endpoint: &Endpoint = &service.endpoints()[index as usize];
    match filter {
        Filter::NotReady => "is not ready".to_owned(),
        Filter::Terminating => "is terminating, and others are ready".to_owned(),
        Filter::NotServing => "is terminating and does not serve any more".to_owned(),
        Filter::OtherNode => match &endpoint.node {
            Some(node) => format!("is on {node}, and the policy is Local"),
            None => "is on no node, and the policy is Local".to_owned(),
        },
        Filter::Hint => {
            let (nodes, zones) = service.hinted_for(index);
            let names = |names: Vec<&std::sync::Arc<str>>| names.iter().map(|n| &***n).collect::<Vec<_>>().join(", ");
            match (nodes.is_empty(), zones.is_empty()) {
                (false, true) => format!("is hinted for node {}", names(nodes)),
                (true, _) => format!("is hinted for zone {}", names(zones)),
                (false, false) => format!("is hinted for node {} and zone {}", names(nodes), names(zones)),
            }
        }
    }
}
