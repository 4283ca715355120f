//! Environment variables and their sources.

use k8s_openapi::api::core::v1::{Container, EnvVar, ObjectFieldSelector, ResourceFieldSelector};

use super::super::checks::text;
use super::super::quantity;
use crate::api::causes::Causes;
use crate::api::names::{config_key_errors, qualified_name_errors, subdomain_errors};

const NAME: &str = "a valid environment variable name must consist only of printable ASCII characters other than '='";
const ONE_OF: &str =
    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
const TOO_MANY: &str = "may not have more than one field specified at a time";

/// Fields of a Pod that may be read into a variable.
pub(super) const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that can be named at all.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

pub(super) fn check(container: &Container, at: &str, causes: &mut Causes) {
    for (i, env) in container.env.iter().flatten().enumerate() {
        let at = format!("{at}.env[{i}]");
        if env.name.is_empty() {
            causes.required(format!("{at}.name"), "");
        } else {
            check_name(&env.name, &format!("{at}.name"), causes);
        }
        check_source(env, &format!("{at}.valueFrom"), causes);
    }
    let list = format!("{at}.envFrom");
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        let at = format!("{list}[{i}]");
        let prefix = text(&source.prefix);
        if !prefix.is_empty() {
            check_name(prefix, &format!("{at}.prefix"), causes);
        }
        let names = [
            ("configMapRef", source.config_map_ref.as_ref().map(|source| source.name.as_str())),
            ("secretRef", source.secret_ref.as_ref().map(|source| source.name.as_str())),
        ];
        for (field, name) in names {
            match name {
                Some("") => causes.required(format!("{at}.{field}.name"), ""),
                Some(name) => causes.all(&format!("{at}.{field}.name"), name, subdomain_errors(name)),
                None => {}
            }
        }
        match names.iter().filter(|(_, name)| name.is_some()).count() {
            0 => causes.invalid(&list, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => causes.invalid(&list, "", TOO_MANY),
        }
    }
}

fn check_name(name: &str, field: &str, causes: &mut Causes) {
    if !name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'=') {
        causes.invalid(field, name, NAME);
    }
}

fn check_source(env: &EnvVar, at: &str, causes: &mut Causes) {
    let Some(from) = &env.value_from else { return };
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        check_field(field, ENV_FIELDS, &format!("{at}.fieldRef"), causes);
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        check_resource(resource, false, &format!("{at}.resourceFieldRef"), causes);
    }
    let keys = [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|source| (&source.name, &source.key))),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|source| (&source.name, &source.key))),
    ];
    for (field, source) in keys {
        let Some((name, key)) = source else { continue };
        sources += 1;
        causes.all(&format!("{at}.{field}.name"), name, subdomain_errors(name));
        if key.is_empty() {
            causes.required(format!("{at}.{field}.key"), "");
        } else {
            causes.all(&format!("{at}.{field}.key"), key, config_key_errors(key));
        }
    }
    sources += i32::from(from.file_key_ref.is_some());
    match sources {
        0 => causes.invalid(at, "", ONE_OF),
        _ if !text(&env.value).is_empty() => causes.invalid(at, "", "may not be specified when `value` is not empty"),
        1 => {}
        _ => causes.invalid(at, "", TOO_MANY),
    }
}

/// A field of the Pod; `metadata.labels['key']` and `metadata.annotations['key']` name one entry.
pub(super) fn check_field(field: &ObjectFieldSelector, allowed: &[&str], at: &str, causes: &mut Causes) {
    let path = field.field_path.as_str();
    if path.is_empty() {
        causes.required(format!("{at}.fieldPath"), "");
        return;
    }
    let subscript = path.strip_suffix("']").and_then(|path| path.split_once("['"));
    let unknown = |causes: &mut Causes| {
        let detail = format!("error converting fieldPath: field label not supported: {path}");
        causes.invalid(format!("{at}.fieldPath"), path, detail);
    };
    match subscript {
        Some(("metadata.annotations", key)) => causes.all(at, key, qualified_name_errors(&key.to_lowercase())),
        Some(("metadata.labels", key)) => causes.all(at, key, qualified_name_errors(key)),
        Some(_) => unknown(causes),
        None if !KNOWN_FIELDS.contains(&path) => unknown(causes),
        None if !allowed.contains(&path) => causes.unsupported(format!("{at}.fieldPath"), path, allowed),
        None => {}
    }
}

pub(super) fn check_resource(resource: &ResourceFieldSelector, volume: bool, at: &str, causes: &mut Causes) {
    let name = resource.resource.as_str();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if volume && text(&resource.container_name).is_empty() {
        causes.required(format!("{at}.containerName"), "");
    } else if name.is_empty() {
        causes.required(format!("{at}.resource"), "");
    } else if !RESOURCES.contains(&name) && !huge {
        causes.unsupported(format!("{at}.resource"), name, RESOURCES);
    }
    let Some(divisor) =
        resource.divisor.as_ref().filter(|divisor| quantity::parse(&divisor.0).is_some_and(|d| d.nano != 0))
    else {
        return;
    };
    let (allowed, what): (&[&str], _) = match name.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" => (&["1m", "1"], "cpu"),
        "memory" => (BYTE_DIVISORS, "memory"),
        "ephemeral-storage" => (BYTE_DIVISORS, "local ephemeral storage"),
        _ if huge => (BYTE_DIVISORS, "hugepages"),
        _ => return,
    };
    if !allowed.contains(&divisor.0.as_str()) {
        let list = if what == "cpu" { "1m and 1".to_owned() } else { BYTE_DIVISORS.join(", ") };
        let detail = format!("only divisor's values {list} are supported with the {what} resource");
        causes.invalid(format!("{at}.divisor"), name, detail);
    }
}
