//! Which ports of the host's loopback lead where. Pure.

use std::net::{IpAddr, SocketAddr};

use k8s_openapi::api::core::v1::Service;

use crate::plan::{Plan, Protocol, Scope, load_balancer_ips};

/// A port of 127.0.0.1 and what it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Door {
    pub protocol: Protocol,
    pub port: u16,
    pub to: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A load-balancer address.
    Vip(SocketAddr),
    /// A node port of a family, at whichever node serves it.
    NodePort { v6: bool, port: u16 },
}

/// The doors of a Service: its node ports, and with a load-balancer address its ports. One address is enough, since
/// who comes in by the loopback has lost its own.
pub(super) fn doors(service: &Service) -> Vec<Door> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let first: Option<IpAddr> = spec.cluster_ips.iter().flatten().find_map(|ip| ip.parse().ok());
    let Some(v6) = first.map(|ip| ip.is_ipv6()) else { return Vec::new() };
    let vip = load_balancer_ips(service).first().copied();
    let mut doors = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        if protocol == Protocol::Sctp {
            continue;
        }
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port > 0);
        if let Some(node_port) = port.node_port.and_then(number) {
            doors.push(Door { protocol, port: node_port, to: Target::NodePort { v6, port: node_port } });
        }
        if let (Some(vip), Some(port)) = (vip, number(port.port)) {
            doors.push(Door { protocol, port, to: Target::Vip(SocketAddr::new(vip, port)) });
        }
    }
    doors
}

impl Target {
    /// The address to dial now: of a node port, at a node that has an endpoint when the Service wants a local one.
    pub(super) fn address(self, protocol: Protocol, plan: &Plan) -> Option<SocketAddr> {
        let (v6, port) = match self {
            Self::Vip(address) => return Some(address),
            Self::NodePort { v6, port } => (v6, port),
        };
        let service = plan.node_port(v6, protocol, port);
        let local = service.filter(|service| service.external_local);
        let serves = |node: &str| local.is_some_and(|s| !s.candidates(Scope::Local, node, None).indices.is_empty());
        let mut nodes: Vec<_> = plan.nodes().collect();
        nodes.sort_by_key(|node| (!serves(&node.name), &node.name));
        let ip = nodes.first()?.addresses.iter().find(|ip| ip.is_ipv6() == v6)?;
        Some(SocketAddr::new(*ip, port))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Network;
    use crate::plan::Compiler;

    fn service(spec: Value, status: Value) -> Service {
        let mut all = json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.11"],
            "ports": [{"name": "a", "port": 80, "nodePort": 30080},
                {"name": "b", "port": 53, "nodePort": 30053, "protocol": "UDP"},
                {"name": "c", "port": 9, "nodePort": 30009, "protocol": "SCTP"}]});
        json_patch::merge(&mut all, &spec);
        let metadata = json!({"namespace": "default", "name": "web"});
        serde_json::from_value(json!({"metadata": metadata, "spec": all, "status": status})).unwrap()
    }

    fn lines(doors: &[Door]) -> Vec<String> {
        let line = |door: &Door| {
            let to = match door.to {
                Target::Vip(address) => address.to_string(),
                Target::NodePort { port, .. } => format!("node:{port}"),
            };
            format!("{}/{} > {to}", door.port, door.protocol.as_str())
        };
        doors.iter().map(line).collect()
    }

    #[test]
    fn node_ports_and_balancer_ports_have_doors() {
        let balanced = json!({"loadBalancer": {"ingress": [{"ip": "10.246.0.1"}]}});
        let all = doors(&service(json!({}), balanced));
        assert_eq!(
            lines(&all),
            ["30080/TCP > node:30080", "80/TCP > 10.246.0.1:80", "30053/UDP > node:30053", "53/UDP > 10.246.0.1:53"]
        );
        let proxied = json!({"loadBalancer": {"ingress": [{"ip": "10.246.0.1", "ipMode": "Proxy"}]}});
        assert_eq!(lines(&doors(&service(json!({}), proxied))), ["30080/TCP > node:30080", "30053/UDP > node:30053"]);
        assert!(doors(&service(json!({"clusterIPs": ["None"]}), json!({}))).is_empty());
        let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
        assert!(doors(&service(plain, json!({}))).is_empty());
    }

    #[test]
    fn node_port_of_a_local_policy_is_dialed_where_an_endpoint_is() {
        let mut compiler = Compiler::new(&Network::default());
        for (name, ip) in [("n1", "10.245.0.11"), ("n2", "10.245.0.12")] {
            let addresses = json!([{"type": "InternalIP", "address": ip}]);
            let node = json!({"metadata": {"name": name}, "status": {"addresses": addresses}});
            compiler.node_applied(&serde_json::from_value(node).unwrap());
        }
        let target = Target::NodePort { v6: false, port: 30080 };
        for (policy, expected) in [("Cluster", "10.245.0.11:30080"), ("Local", "10.245.0.12:30080")] {
            compiler.service_applied(&service(json!({"externalTrafficPolicy": policy}), json!({})));
            let slice = json!({
                "metadata": {"namespace": "default", "name": "s", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": "IPv4", "ports": [{"name": "a", "port": 8080}],
                "endpoints": [{"addresses": ["10.244.2.2"], "nodeName": "n2"}],
            });
            compiler.slice_applied(&serde_json::from_value(slice).unwrap());
            let address = target.address(Protocol::Tcp, &compiler.plan());
            assert_eq!(address.map(|a| a.to_string()).as_deref(), Some(expected), "{policy}");
        }
    }
}
