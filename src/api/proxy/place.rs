//! What a proxied request is for: `[SCHEME:]NAME[:PORT]` of a Pod, a Service or a node, and the address behind it.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use crate::api::Api;
use crate::api::status::{About, ApiError};
use crate::store::Key;

/// The port of a kubelet, which nobody listens on here.
const KUBELET: u16 = 10250;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub tls: bool,
    pub address: SocketAddr,
}

/// A name in a path, in its parts.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(id: &'a str) -> Option<Self> {
        let parts: Vec<&str> = id.split(':').collect();
        let (scheme, name, port) = match parts[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme @ ("" | "http" | "https"), name, port] => (scheme, name, port),
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { tls: scheme == "https", name, port })
    }

    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }
}

impl Api {
    pub(super) fn place(&self, resource: &str, namespace: &str, id: &str) -> Result<Place, ApiError> {
        let kind = resource.trim_end_matches('s');
        let parsed = Id::parse(id).ok_or_else(|| ApiError::bad_request(format!("invalid {kind} request {id:?}")))?;
        match resource {
            "pods" => self.pod_place(namespace, &parsed),
            "services" => self.service_place(namespace, id, &parsed),
            _ => self.node_place(&parsed),
        }
    }

    fn pod_place(&self, namespace: &str, id: &Id<'_>) -> Result<Place, ApiError> {
        let pod = self.pod(namespace, id.name)?;
        let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
        let mut ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
        let number = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = match id.port {
            "" => ports.next().and_then(number).unwrap_or_else(|| id.default_port()),
            text => match text.parse() {
                Ok(port) => port,
                Err(_) => ports.find(|port| port["name"] == text).and_then(number).ok_or_else(|| unknown_port(text))?,
            },
        };
        let address: Option<IpAddr> = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
        let address = address.filter(is_global_unicast);
        let address = address.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        Ok(Place { tls: id.tls, address: SocketAddr::new(address, port) })
    }

    fn service_place(&self, namespace: &str, whole: &str, id: &Id<'_>) -> Result<Place, ApiError> {
        let unavailable =
            |name: &str| ApiError::service_unavailable(format!("no endpoints available for service {name:?}"));
        let mut port_name = id.port.to_owned();
        if let Ok(number) = id.port.parse::<u64>() {
            let service = self.stored("services", namespace, id.name)?;
            let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
            let port = ports.find(|port| port["port"] == number).ok_or_else(|| {
                let name = id.name;
                ApiError::service_unavailable(format!("no service port {number} found for service {name:?}"))
            })?;
            port_name = port["name"].as_str().unwrap_or_default().to_owned();
        }
        let endpoints = self.stored("endpoints", namespace, id.name)?;
        let subsets = endpoints["subsets"].as_array().filter(|subsets| !subsets.is_empty());
        let subsets = subsets.ok_or_else(|| unavailable(id.name))?;
        for subset in from_anywhere(subsets) {
            let mut ports = subset["ports"].as_array().into_iter().flatten();
            let port = ports.find(|port| port["name"].as_str().unwrap_or_default() == port_name);
            let port = port.and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
            let addresses = subset["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
            let mut valid = from_anywhere(addresses).filter_map(|address| self.address_of_pod(namespace, address));
            if let (Some(port), Some(address)) = (port, port.and_then(|_| valid.next())) {
                return Ok(Place { tls: id.tls, address: SocketAddr::new(address, port) });
            }
        }
        Err(unavailable(whole))
    }

    /// An endpoint's address, if it is that of the Pod that it says it is.
    fn address_of_pod(&self, namespace: &str, endpoint: &Value) -> Option<IpAddr> {
        let target = &endpoint["targetRef"];
        if target["kind"] != "Pod" || target["namespace"].as_str().is_some_and(|of| of != namespace) {
            return None;
        }
        let ip = endpoint["ip"].as_str()?;
        let pod = self.pod(namespace, target["name"].as_str()?).ok()?;
        let mut ips = pod["status"]["podIPs"].as_array().into_iter().flatten();
        ips.any(|known| known["ip"] == ip).then(|| ip.parse().ok())?
    }

    fn node_place(&self, id: &Id<'_>) -> Result<Place, ApiError> {
        let entry = self.store().get(&Key::new("nodes", "", id.name));
        let about = About { group: "", resource: "nodes", name: id.name };
        let entry = entry.ok_or_else(|| ApiError::not_found(about))?;
        let node: Value = serde_json::from_slice(&entry.value).map_err(ApiError::internal)?;
        let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
        let address = addresses.find(|address| address["type"] == "InternalIP");
        let address = address.and_then(|address| address["address"].as_str()?.parse().ok());
        let address = address.ok_or_else(|| ApiError::bad_request("address not allowed"))?;
        let (tls, port) = match id.port {
            "" => (true, KUBELET),
            text => (id.tls, text.parse().map_err(|_| unknown_port(text))?),
        };
        Ok(Place { tls, address: SocketAddr::new(address, port) })
    }
}

fn unknown_port(name: &str) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: dial tcp: lookup tcp/{name}: unknown port"))
}

/// Neither loopback nor link-local, multicast or nothing at all: where a proxy must not lead.
fn is_global_unicast(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !link_local && !address.is_loopback() && !address.is_multicast() && !address.is_unspecified()
}

/// All of a list, from a random one on.
fn from_anywhere<T>(list: &[T]) -> impl Iterator<Item = &T> {
    let first = if list.is_empty() { 0 } else { rand::random_range(0..list.len()) };
    list[first..].iter().chain(&list[..first])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_up_to_three_parts() {
        let id = |tls, name, port| Some(Id { tls, name, port });
        for (text, expected) in [
            ("web", id(false, "web", "")),
            ("web:80", id(false, "web", "80")),
            ("web:http", id(false, "web", "http")),
            ("https:web:443", id(true, "web", "443")),
            ("https:web:", id(true, "web", "")),
            ("http:web:80", id(false, "web", "80")),
            (":web:80", id(false, "web", "80")),
            ("ftp:web:80", None),
            (":80", None),
            ("", None),
            ("a:b:c:d", None),
        ] {
            assert_eq!(Id::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn proxies_lead_to_global_addresses_alone() {
        let global = |text: &str| is_global_unicast(&text.parse().unwrap());
        assert!(["10.244.1.2", "fd00::1", "8.8.8.8"].into_iter().all(global));
        assert!(
            !["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "0.0.0.0", "224.0.0.1", "255.255.255.255"]
                .into_iter()
                .any(global)
        );
    }
}
