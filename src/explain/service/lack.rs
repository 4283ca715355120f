//! Why a Service turned a packet away: of its problems, those that are behind that.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{Facts, explain};
use crate::controllers::endpoint_model::protocol_of;
use crate::explain::report::Finding;
use crate::plan::ServicePort;

/// A Service port that had nobody for a packet.
#[derive(Clone, Debug)]
pub struct Lack {
    pub port: Arc<ServicePort>,
    pub v6: bool,
    pub lacking: Lacking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// No endpoint may be used.
    Endpoint,
    /// A Local policy left none, for what comes to the ClusterIP or from outside.
    LocalEndpoint { external: bool },
}

impl Lacking {
    /// Whether a problem with this code is behind it.
    fn is_told_by(self, code: &str) -> bool {
        match self {
            Self::Endpoint => matches!(
                code,
                "SelectorTypo"
                    | "SelectorMatchesNothing"
                    | "PodsInOtherNamespace"
                    | "TargetPortNameMissing"
                    | "NoPodReady"
                    | "NoSelectorNoSlices"
                    | "SliceHeadless"
                    | "SliceFamily"
                    | "SlicePortMissing"
            ),
            Self::LocalEndpoint { external: false } => code == "LocalPolicyNoPod",
            Self::LocalEndpoint { external: true } => code == "ExternalLocalPolicyNoPod",
        }
    }
}

/// The problems of the port, protocol and family that the packet came to, most important first; where the Service has
/// none, what keeps the nearest Pod from being an endpoint.
pub fn causes(facts: &Facts<'_>, lack: &Lack) -> Vec<Finding> {
    let family = if lack.v6 { "IPv6" } else { "IPv4" };
    let service = narrowed(facts.service, lack, family);
    let spec = facts.service.spec.as_ref();
    let families: Vec<&str> = spec.iter().flat_map(|spec| spec.ip_families.iter().flatten()).map(|f| &**f).collect();
    // Slices of the Service's other family are right as they are.
    let slices: Vec<Arc<EndpointSlice>> = facts
        .slices
        .iter()
        .filter(|slice| slice.address_type == family || !families.contains(&&*slice.address_type))
        .cloned()
        .collect();
    let report = explain(&Facts { service: &service, slices: &slices, ..*facts });
    let mut findings = report.problems;
    findings.retain(|finding| lack.lacking.is_told_by(&finding.code));
    if findings.is_empty() && lack.lacking == Lacking::Endpoint {
        let nearest = report.near_misses.into_iter().next();
        findings.extend(nearest.and_then(|miss| Some(miss.reasons.into_iter().next()?.on(miss.pod))));
    }
    findings
}

/// The Service as if it had this port alone, of this family alone.
fn narrowed(service: &Service, lack: &Lack, family: &str) -> Service {
    let mut service = service.clone();
    if let Some(spec) = &mut service.spec {
        let own = |protocol: &str, name: &str| protocol == lack.port.protocol.as_str() && *name == *lack.port.port_name;
        spec.ports
            .iter_mut()
            .for_each(|ports| ports.retain(|port| own(protocol_of(port), port.name.as_deref().unwrap_or_default())));
        spec.ip_families.iter_mut().for_each(|families| families.retain(|of| of == family));
        spec.cluster_ips.iter_mut().for_each(|ips| ips.retain(|ip| ip.contains(':') == lack.v6));
    }
    service
}
