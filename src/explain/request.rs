//! What is asked for: who sends, and whom to.

use std::net::{IpAddr, SocketAddr};

use crate::plan::Protocol;

/// A question that makes no sense as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    NotFound(String),
}

impl BadRequest {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

/// What a Service and a Pod may be called before their names.
pub const SERVICE_KINDS: &[&str] = &["svc", "service", "services"];
pub const POD_KINDS: &[&str] = &["po", "pod", "pods"];

/// Namespace and name of an object that is given as `NAME`, `NAMESPACE/NAME`, `KIND/NAME` or `KIND/NAMESPACE/NAME`.
///
/// # Errors
/// For everything else, and for empty names.
pub fn object(text: &str, namespace: &str, kinds: &[&str]) -> Result<(String, String), BadRequest> {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, name) = match parts.as_slice() {
        [name] => (namespace, *name),
        [kind, name] if kinds.contains(kind) => (namespace, *name),
        [namespace, name] => (*namespace, *name),
        [kind, namespace, name] if kinds.contains(kind) => (*namespace, *name),
        _ => ("", ""),
    };
    if namespace.is_empty() || name.is_empty() {
        let kind = kinds.first().copied().unwrap_or_default();
        return Err(BadRequest::invalid(format!(
            "{text:?}: NAME, NAMESPACE/NAME, {kind}/NAME or {kind}/NAMESPACE/NAME is wanted"
        )));
    }
    Ok((namespace.to_owned(), name.to_owned()))
}

/// Who sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    Pod {
        namespace: String,
        name: String,
    },
    Node(String),
    /// The host that runs the cluster, a client outside of it.
    Host,
}

impl From {
    /// `pod/NAME`, `pod/NAMESPACE/NAME`, `node/NAME` or `host`.
    ///
    /// # Errors
    /// For everything else.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, BadRequest> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["host"] => Ok(Self::Host),
            ["node" | "nodes" | "no", name] if !name.is_empty() => Ok(Self::Node((*name).to_owned())),
            ["pod" | "pods" | "po", name] if !name.is_empty() => {
                Ok(Self::Pod { namespace: namespace.to_owned(), name: (*name).to_owned() })
            }
            ["pod" | "pods" | "po", namespace, name] if !name.is_empty() && !namespace.is_empty() => {
                Ok(Self::Pod { namespace: (*namespace).to_owned(), name: (*name).to_owned() })
            }
            _ => Err(BadRequest::invalid(format!(
                "from {text:?}: pod/NAME, pod/NAMESPACE/NAME, node/NAME or host is wanted"
            ))),
        }
    }
}

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pod { namespace, name } => write!(f, "pod/{namespace}/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Host => f.write_str("host"),
        }
    }
}

/// Whom to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    Address(SocketAddr),
    /// By its ClusterIP, without DNS.
    Service {
        namespace: String,
        name: String,
        port: Option<Port>,
    },
    /// By its address, without DNS.
    Pod {
        namespace: String,
        name: String,
        port: Option<Port>,
    },
    Name {
        name: String,
        port: Option<Port>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    Number(u16),
    Name(String),
}

impl Port {
    fn parse(text: &str) -> Result<Self, BadRequest> {
        match text.parse::<u16>() {
            Ok(0) => Err(BadRequest::invalid("port 0 is no port")),
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.chars().all(|c| c.is_ascii_digit()) || text.is_empty() => {
                Err(BadRequest::invalid(format!("port {text:?}: a number from 1 to 65535 or a port's name is wanted")))
            }
            Err(_) => Ok(Self::Name(text.to_owned())),
        }
    }
}

impl To {
    /// `IP:PORT`, `svc/NAME[.NAMESPACE]:PORT`, `pod/NAME[.NAMESPACE]:PORT` or `NAME:PORT`, where a port is a number or
    /// the name of a Service's port. A Service with one port needs none.
    ///
    /// # Errors
    /// For what is none of them.
    pub fn parse(text: &str, namespace: &str) -> Result<Self, BadRequest> {
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return if addr.port() > 0 {
                Ok(Self::Address(addr))
            } else {
                Err(BadRequest::invalid("port 0 is no port"))
            };
        }
        if text.parse::<IpAddr>().is_ok() {
            return Err(BadRequest::invalid(format!("to {text:?}: a port is missing")));
        }
        let (kind, rest) = match text.split_once('/') {
            None => (None, text),
            Some((kind, rest)) => (Some(kind), rest),
        };
        let (name, port) = match rest.rsplit_once(':') {
            None => (rest, None),
            Some((name, port)) => (name, Some(Port::parse(port)?)),
        };
        if name.is_empty() || name.contains(['/', ':', ' ']) {
            return Err(BadRequest::invalid(format!(
                "to {text:?}: NAME:PORT, IP:PORT, svc/NAME:PORT or pod/NAME:PORT is wanted"
            )));
        }
        let object = || match name.split_once('.') {
            Some((name, namespace)) => (namespace.to_owned(), name.to_owned()),
            None => (namespace.to_owned(), name.to_owned()),
        };
        match kind {
            None => Ok(Self::Name { name: name.to_ascii_lowercase(), port }),
            Some("svc" | "service" | "services") => {
                let (namespace, name) = object();
                Ok(Self::Service { namespace, name, port })
            }
            Some("pod" | "pods" | "po") => {
                let (namespace, name) = object();
                Ok(Self::Pod { namespace, name, port })
            }
            Some(kind) => Err(BadRequest::invalid(format!("to {text:?}: {kind} has no address to send to"))),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn holds(self, addr: IpAddr) -> bool {
        addr.is_ipv6() == (self == Self::V6)
    }

    pub(super) fn of(addr: IpAddr) -> Self {
        if addr.is_ipv6() { Self::V6 } else { Self::V4 }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// A whole question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRequest {
    pub from: From,
    pub to: To,
    /// As it was written.
    pub to_text: String,
    pub protocol: Protocol,
    /// IPv4 where both sides have it, unless it is said.
    pub family: Option<Family>,
    /// Where a packet from outside enters.
    pub node: Option<String>,
}

impl FlowRequest {
    /// Reads a question from the texts of a command line or a query; empty ones are absent.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(
        from: &str,
        to: &str,
        namespace: &str,
        protocol: &str,
        family: &str,
        node: &str,
    ) -> Result<Self, BadRequest> {
        if from.is_empty() || to.is_empty() {
            return Err(BadRequest::invalid("from and to are wanted"));
        }
        let namespace = if namespace.is_empty() { "default" } else { namespace };
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(BadRequest::invalid(format!("protocol {protocol:?}: tcp, udp or sctp is wanted"))),
        };
        let family = match family {
            "" => None,
            "4" | "IPv4" => Some(Family::V4),
            "6" | "IPv6" => Some(Family::V6),
            _ => return Err(BadRequest::invalid(format!("family {family:?}: 4 or 6 is wanted"))),
        };
        let from = From::parse(from, namespace)?;
        let node = Some(node.to_owned()).filter(|node| !node.is_empty());
        if node.is_some() && from != From::Host {
            return Err(BadRequest::invalid("node says where a packet from outside enters: it goes with from host"));
        }
        let (to_text, to) = (to.to_owned(), To::parse(to, namespace)?);
        if let (To::Address(addr), Some(family)) = (&to, family)
            && !family.holds(addr.ip())
        {
            return Err(BadRequest::invalid(format!("{} is no {} address", addr.ip(), family.as_str())));
        }
        Ok(Self { from, to, to_text, protocol, family, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(from: &str, to: &str) -> Result<FlowRequest, BadRequest> {
        FlowRequest::parse(from, to, "shop", "", "", "")
    }

    #[test]
    fn both_ends_are_read_in_every_form() {
        let pod = |namespace: &str, name: &str| From::Pod { namespace: namespace.into(), name: name.into() };
        for (text, from) in [
            ("pod/a", pod("shop", "a")),
            ("po/x/a", pod("x", "a")),
            ("node/n1", From::Node("n1".into())),
            ("host", From::Host),
        ] {
            assert_eq!(parse(text, "web:80").expect("a question").from, from);
        }
        let name = |name: &str, port| To::Name { name: name.into(), port };
        let http = || Some(Port::Name("http".into()));
        for (text, to) in [
            ("web:80", name("web", Some(Port::Number(80)))),
            ("Web.ns:http", name("web.ns", http())),
            ("web", name("web", None)),
            ("10.96.0.1:443", To::Address("10.96.0.1:443".parse().expect("an address"))),
            ("[fd00::1]:80", To::Address("[fd00::1]:80".parse().expect("an address"))),
            ("svc/web:http", To::Service { namespace: "shop".into(), name: "web".into(), port: http() }),
            ("svc/web.x", To::Service { namespace: "x".into(), name: "web".into(), port: None }),
            ("pod/a:1", To::Pod { namespace: "shop".into(), name: "a".into(), port: Some(Port::Number(1)) }),
        ] {
            assert_eq!(parse("host", text).expect(text).to, to);
        }
    }

    #[test]
    fn objects_are_named_with_and_without_kind_and_namespace() {
        for (text, namespace, name) in [
            ("web", "shop", "web"),
            ("front/web", "front", "web"),
            ("svc/web", "shop", "web"),
            ("svc/front/web", "front", "web"),
            ("service/front/web", "front", "web"),
        ] {
            let found = object(text, "shop", SERVICE_KINDS);
            assert_eq!(found, Ok((namespace.into(), name.into())), "{text}");
        }
        assert_eq!(object("pod/a", "", POD_KINDS), Ok(("default".into(), "a".into())));
        for text in ["", "/", "shop/", "/web", "svc/", "svc//web", "svc/shop/", "pod/shop/web", "a/b/c/d"] {
            assert!(object(text, "shop", SERVICE_KINDS).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (from, to) in [
            ("", "web:80"),
            ("client", "web:80"),
            ("pod/", "web:80"),
            ("host", ""),
            ("host", "web:0"),
            ("host", "web:99999"),
            ("host", "10.0.0.1"),
            ("host", "10.0.0.1:0"),
            ("host", "deploy/x:80"),
            ("host", ":80"),
            ("pod/a/b/c", "web:80"),
        ] {
            assert!(parse(from, to).is_err(), "{from} {to}");
        }
        let with = |protocol: &str, family: &str, node: &str| {
            FlowRequest::parse("pod/a", "10.0.0.1:80", "", protocol, family, node)
        };
        assert!(with("icmp", "", "").is_err() && with("", "5", "").is_err() && with("", "6", "").is_err());
        assert!(with("", "", "n2").is_err() && with("SCTP", "4", "").is_ok());
    }
}
