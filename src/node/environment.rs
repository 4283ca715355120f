//! The environment of containers (rules EV1 to EV5).

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

/// What a container's environment refers to besides its own specification.
pub struct Sources<'a> {
    pub pod: &'a Pod,
    /// Values of the status that may not have reached the API yet.
    pub pod_ips: &'a [String],
    pub host_ips: &'a [String],
    /// Bytes of the node's ephemeral storage.
    pub storage: u64,
    pub config_map: &'a dyn Fn(&str) -> Option<Arc<ConfigMap>>,
    pub secret: &'a dyn Fn(&str) -> Option<Arc<Secret>>,
}

/// A reference that can't be resolved; the container waits with the reason `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("field path {0:?} is not supported")]
    Field(String),
}

/// The Services that a container is told of (rule EV1): those of its namespace and, unless one of them has that name,
/// the cluster's own.
pub fn told_services(mut own: Vec<Arc<Service>>, kubernetes: Option<Arc<Service>>) -> Vec<Arc<Service>> {
    let taken = |name: &str| own.iter().any(|service| service.name_any() == name && told_address(service).is_some());
    let kubernetes = kubernetes.filter(|service| !taken(&service.name_any()));
    own.extend(kubernetes);
    own
}

/// The address that variables tell of; none of a headless Service or of one outside.
fn told_address(service: &Service) -> Option<&str> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    spec.cluster_ip.as_deref().filter(|ip| !matches!(*ip, "" | "None"))
}

/// Rules EV1 to EV3: what the Services of a namespace, and default/kubernetes, contribute.
pub fn service_variables<'a>(services: impl IntoIterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let Some(ip) = told_address(service) else { continue };
        let ports = spec.ports.as_deref().unwrap_or_default();
        let Some(first) = ports.first() else { continue };
        let name = variable_name(&service.name_any());
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for port in ports.iter().filter(|p| p.name.as_deref().is_some_and(|n| !n.is_empty())) {
            let port_name = variable_name(port.name.as_deref().unwrap_or_default());
            env.insert(format!("{name}_SERVICE_PORT_{port_name}"), port.port.to_string());
        }
        for (index, port) in ports.iter().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", port.port);
            if index == 0 {
                env.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            env.insert(format!("{prefix}_PROTO"), lower);
            env.insert(format!("{prefix}_PORT"), port.port.to_string());
            env.insert(format!("{prefix}_ADDR"), ip.to_owned());
            env.insert(prefix, url);
        }
    }
    env
}

fn variable_name(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The whole environment: `base` (the image's and the Services'), overridden by envFrom, overridden by env.
///
/// # Errors
/// An [`EnvError`] for the first reference that is neither there nor optional.
pub fn container_env(
    base: BTreeMap<String, String>,
    container: &Container,
    sources: &Sources<'_>,
) -> Result<BTreeMap<String, String>, EnvError> {
    let mut env = base;
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &from.config_map_ref {
            let found = (sources.config_map)(&reference.name);
            let map = required(found, "configmap", &reference.name, reference.optional)?;
            let data = map.iter().flat_map(|map| map.data.iter().flatten());
            env.extend(data.map(|(key, value)| (format!("{prefix}{key}"), value.clone())));
        }
        if let Some(reference) = &from.secret_ref {
            let found = (sources.secret)(&reference.name);
            let secret = required(found, "secret", &reference.name, reference.optional)?;
            let data = secret.iter().flat_map(|secret| secret.data.iter().flatten());
            env.extend(data.map(|(key, value)| (format!("{prefix}{key}"), text(value))));
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value_from {
            Some(source) => value_from(source, container, sources)?,
            None => Some(expand(variable.value.as_deref().unwrap_or_default(), &env)),
        };
        if let Some(value) = value {
            env.insert(variable.name.clone(), value);
        }
    }
    Ok(env)
}

/// As [`expand`], for a text that must not name what there is not.
///
/// # Errors
/// The first name without a value.
pub fn expand_known(text: &str, env: &BTreeMap<String, String>) -> Result<String, String> {
    let mut rest = text.replace("$$", "");
    while let Some((name, after)) = rest.split_once("$(").and_then(|(_, inner)| inner.split_once(')')) {
        if !env.contains_key(name) {
            return Err(name.to_owned());
        }
        rest = after.to_owned();
    }
    Ok(expand(text, env))
}

/// Rule EV4: replaces `$(NAME)` by its value; `$$` stands for `$`, and an unknown name stays as it is written.
pub fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        match rest.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            Some((name, after)) => {
                match env.get(name) {
                    Some(value) => out.push_str(value),
                    None => out.extend(["$(", name, ")"]),
                }
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out + rest
}

fn value_from(source: &EnvVarSource, container: &Container, sources: &Sources<'_>) -> Result<Option<String>, EnvError> {
    let namespace = sources.pod.namespace().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_value(&field.field_path, sources).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return Ok(Some(resource_value(
            &resource.resource,
            resource.divisor.as_ref().map(|d| d.0.as_str()),
            container,
            sources.storage,
        )));
    }
    if let Some(key) = &source.config_map_key_ref {
        let map = required((sources.config_map)(&key.name), "configmap", &key.name, key.optional)?;
        let value = map.and_then(|map| map.data.as_ref()?.get(&key.key).cloned());
        return present(value, key.optional, "ConfigMap", &namespace, &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        let secret = required((sources.secret)(&key.name), "secret", &key.name, key.optional)?;
        let value = secret.and_then(|secret| secret.data.as_ref()?.get(&key.key).map(text));
        return present(value, key.optional, "Secret", &namespace, &key.name, &key.key);
    }
    Ok(None)
}

fn required<T>(
    found: Option<T>,
    kind: &'static str,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<T>, EnvError> {
    match found {
        None if optional != Some(true) => Err(EnvError::NoObject { kind, name: name.to_owned() }),
        found => Ok(found),
    }
}

fn present(
    value: Option<String>,
    optional: Option<bool>,
    kind: &'static str,
    namespace: &str,
    name: &str,
    key: &str,
) -> Result<Option<String>, EnvError> {
    match value {
        None if optional != Some(true) => {
            Err(EnvError::NoKey { kind, namespace: namespace.into(), name: name.into(), key: key.into() })
        }
        value => Ok(value),
    }
}

fn text(bytes: &ByteString) -> String {
    String::from_utf8_lossy(&bytes.0).into_owned()
}

/// Rule EV5.
pub fn field_value(path: &str, sources: &Sources<'_>) -> Result<String, EnvError> {
    let pod = sources.pod;
    let spec = pod.spec.as_ref();
    let of_map = |map: &BTreeMap<String, String>, key: &str| map.get(key).cloned().unwrap_or_default();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.labels" => Ok(of_map(pod.labels(), key)),
            "metadata.annotations" => Ok(of_map(pod.annotations(), key)),
            _ => Err(EnvError::Field(path.to_owned())),
        };
    }
    Ok(match path {
        "metadata.name" => pod.name_any(),
        "metadata.namespace" => pod.namespace().unwrap_or_default(),
        "metadata.uid" => pod.uid().unwrap_or_default(),
        "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
        "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" => sources.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => sources.pod_ips.join(","),
        "status.hostIP" => sources.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => sources.host_ips.join(","),
        _ => return Err(EnvError::Field(path.to_owned())),
    })
}

/// The container's own request or limit, in units of `divisor`, rounded up. Without one the limit is
/// the whole machine's, or the `storage` of the node in bytes.
pub fn resource_value(resource: &str, divisor: Option<&str>, container: &Container, storage: u64) -> String {
    let (list, name) = resource.split_once('.').unwrap_or(("limits", resource));
    let resources = container.resources.as_ref();
    let quantities = resources.and_then(|r| if list == "requests" { r.requests.as_ref() } else { r.limits.as_ref() });
    let fallback = || match (list, name) {
        ("limits", "cpu") => std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64),
        ("limits", "memory") => super::machine::memory_bytes() as f64,
        ("limits", "ephemeral-storage") => storage as f64,
        _ => 0.0,
    };
    let value = quantities.and_then(|q| q.get(name)).and_then(|q| parse_quantity(&q.0)).unwrap_or_else(fallback);
    let divisor = divisor.and_then(parse_quantity).filter(|d| *d > 0.0).unwrap_or(1.0);
    format!("{}", (value / divisor).ceil())
}

/// A Kubernetes quantity as a number.
pub fn parse_quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 14] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
    ];
    let (number, factor) =
        SUFFIXES.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor))).unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|n| n * factor)
}

/// A port by number or by the name that a container gave it.
pub fn resolve_port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let found = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name))?;
                u16::try_from(found.container_port).ok()
            }
        },
    }
}

#[cfg(test)]
#[path = "environment/tests.rs"]
mod tests;
