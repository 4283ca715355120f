//! What health checks are told. Pure: plan and objects in, answers out.

use std::collections::BTreeSet;
use std::net::IpAddr;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use crate::cluster::ObjectKey;
use crate::plan::{PROXY_NAME_LABEL, Plan, Protocol};

pub(super) type Answer = Response<Full<Bytes>>;

/// The cluster autoscaler sets it before it takes a node away.
const TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";
/// The load balancer's weight for this node: its number of endpoints.
const WEIGHT: &str = "x-load-balancing-endpoint-weight";

/// A Service whose health check port is open (H1, S2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    pub key: ObjectKey,
    pub port: u16,
    pub cluster_ips: Vec<IpAddr>,
    pub ports: Vec<(Protocol, u16)>,
}

impl Checked {
    /// `None` for Services that have no health check port, or no use for it any more (H4).
    pub(super) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let local = spec.external_traffic_policy.as_deref() == Some("Local");
        let elsewhere = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME_LABEL));
        if spec.type_.as_deref() != Some("LoadBalancer") || !local || elsewhere {
            return None;
        }
        let port = spec.health_check_node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)?;
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|port| Some((Protocol::parse(port.protocol.as_deref())?, u16::try_from(port.port).ok()?)));
        Some(Self {
            key: ObjectKey::of(service),
            port,
            cluster_ips: spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect(),
            ports: ports.collect(),
        })
    }

    /// Whether the Service has this family: each has a proxy of its own (F2).
    pub(super) fn has_family(&self, v6: bool) -> bool {
        self.cluster_ips.iter().any(|ip| ip.is_ipv6() == v6)
    }

    /// H2, H3: how many ready endpoints the node has, by address.
    pub(super) fn local_endpoints(&self, plan: &Plan, node: &str, v6: bool) -> usize {
        let ips = self.cluster_ips.iter().filter(|ip| ip.is_ipv6() == v6);
        let keys = ips.flat_map(|ip| self.ports.iter().map(|(protocol, port)| (*ip, *protocol, *port)));
        let services = keys.filter_map(|(ip, protocol, port)| plan.vip(ip, protocol, port));
        let services: Vec<_> = services.map(|vip| &vip.service).collect();
        services.iter().flat_map(|service| service.local_ready(node)).collect::<BTreeSet<IpAddr>>().len()
    }

    /// H2, H3: the same for every path.
    pub(super) fn answer(&self, local_endpoints: usize, healthy: bool) -> Answer {
        let body = json!({
            "service": {"namespace": self.key.namespace, "name": self.key.name},
            "localEndpoints": local_endpoints,
            "serviceProxyHealthy": healthy,
        });
        let mut answer = answer(local_endpoints > 0 && healthy, body.to_string());
        answer.headers_mut().insert(WEIGHT, local_endpoints.into());
        answer
    }
}

/// H5: whether load balancers should send anything to the node.
pub(super) fn is_eligible(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    node.metadata.deletion_timestamp.is_none() && !taints.map(|taint| &taint.key).any(|key| key == TO_BE_DELETED)
}

/// H5: `/healthz` looks at the node as well, `/livez` at the proxy alone.
pub(super) fn proxy_answer(path: &str, healthy: bool, eligible: bool, updated: Timestamp, now: Timestamp) -> Answer {
    let time = |at: Timestamp| at.strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC").to_string();
    let mut body = json!({"lastUpdated": time(updated), "currentTime": time(now)});
    match path {
        "/healthz" => {
            body["nodeEligible"] = eligible.into();
            answer(healthy && eligible, body.to_string())
        }
        "/livez" => answer(healthy, body.to_string()),
        _ => not_found(),
    }
}

/// H5.
pub(super) fn mode_answer(path: &str) -> Answer {
    if path == "/proxyMode" { text(StatusCode::OK, "nftables") } else { not_found() }
}

fn answer(good: bool, body: String) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    response
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let mime = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, mime);
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::Network;
    use crate::plan::Compiler;

    fn service(spec: Value) -> Service {
        let mut all = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32100,
            "clusterIPs": ["10.96.0.11"], "ports": [{"name": "a", "port": 80}, {"name": "b", "port": 81}]});
        json_patch::merge(&mut all, &spec);
        serde_json::from_value(json!({"metadata": {"namespace": "default", "name": "web"}, "spec": all})).unwrap()
    }

    #[test]
    fn h1_h4_only_load_balancers_with_policy_local_have_a_health_check_port() {
        let checked = Checked::of(&service(json!({}))).expect("a port");
        assert_eq!((checked.port, checked.has_family(false), checked.has_family(true)), (32100, true, false));
        assert_eq!(Checked::of(&service(json!({"externalTrafficPolicy": "Cluster"}))), None);
        assert_eq!(Checked::of(&service(json!({"type": "NodePort"}))), None);
        assert_eq!(Checked::of(&service(json!({"healthCheckNodePort": null}))), None);
        let mut foreign = service(json!({}));
        foreign.metadata.labels = Some([(PROXY_NAME_LABEL.to_owned(), "other".to_owned())].into());
        assert_eq!(Checked::of(&foreign), None);
    }

    #[test]
    fn h2_h3_ready_endpoints_of_the_node_are_counted_by_address() {
        let service = service(json!({}));
        let mut compiler = Compiler::new(&Network::default());
        compiler.service_applied(&service);
        let endpoint = |ip: &str, node: &str, ready: bool| {
            json!({"addresses": [ip], "nodeName": node,
                "conditions": {"ready": ready, "serving": true, "terminating": !ready}})
        };
        let slice = json!({
            "metadata": {"namespace": "default", "name": "s", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "a", "port": 8080}, {"name": "b", "port": 8081}],
            "endpoints": [endpoint("10.244.1.2", "n1", true), endpoint("10.244.1.3", "n1", false),
                endpoint("10.244.2.2", "n2", false)],
        });
        compiler.slice_applied(&serde_json::from_value(slice).unwrap());
        let (plan, checked) = (compiler.plan(), Checked::of(&service).unwrap());
        assert_eq!(["n1", "n2", "n3"].map(|node| checked.local_endpoints(&plan, node, false)), [1, 0, 0]);

        let answer = checked.answer(1, true);
        assert_eq!((answer.status(), &answer.headers()[WEIGHT]), (StatusCode::OK, &"1".parse().unwrap()));
        assert_eq!(checked.answer(1, false).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(checked.answer(0, true).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn h5_healthz_looks_at_the_node_and_livez_does_not() {
        let node = |object: Value| is_eligible(&serde_json::from_value(object).unwrap());
        assert!(node(json!({"metadata": {"name": "n1"}})));
        assert!(!node(json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}})));
        assert!(!node(json!({"metadata": {}, "spec": {"taints": [{"key": TO_BE_DELETED, "effect": "NoSchedule"}]}})));
        let status = |path: &str, healthy, eligible| {
            proxy_answer(path, healthy, eligible, Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH).status().as_u16()
        };
        assert_eq!([status("/healthz", true, true), status("/healthz", true, false)], [200, 503]);
        assert_eq!([status("/livez", true, false), status("/livez", false, true)], [200, 503]);
        assert_eq!(status("/", true, true), 404);
    }
}
