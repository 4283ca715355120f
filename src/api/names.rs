//! Rules for names, labels and keys, with the wordings of `k8s.io/apimachinery/pkg/util/validation`.

use std::collections::BTreeMap;

use rand::Rng;

use super::causes::Causes;

/// How the name of a kind's objects must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain, 253 characters.
    Subdomain,
    /// RFC 1123 label, 63 characters.
    Label,
    /// Anything that is one path segment (RBAC objects).
    PathSegment,
    /// An IP address in its canonical form.
    Address,
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} characters")
}

/// What is wrong with `name` as an RFC 1123 label; empty when it is one.
pub fn label_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 63 {
        errors.push(too_long(63));
    }
    if !is_label(name) {
        errors.push(LABEL.into());
    }
    errors
}

/// What is wrong with `name` as an RFC 1123 subdomain; empty when it is one.
pub fn subdomain_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 253 {
        errors.push(too_long(253));
    }
    if !name.split('.').all(is_label) {
        errors.push(SUBDOMAIN.into());
    }
    errors
}

/// What is wrong with `name` as a host name whose first label is `*`.
pub fn wildcard_errors(name: &str) -> Vec<String> {
    match name.strip_prefix("*.") {
        Some(rest) if subdomain_errors(rest).is_empty() => Vec::new(),
        _ => vec![WILDCARD.into()],
    }
}

fn is_label(name: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    match name.as_bytes() {
        [] => false,
        [first, .., last] if !alnum(*first) || !alnum(*last) => false,
        bytes => bytes.iter().all(|&b| alnum(b) || b == b'-') && alnum(bytes[0]),
    }
}

/// What is wrong with a port's name as an IANA service name (RFC 6335: 15 characters, one letter at least).
pub fn port_name_errors(name: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if name.len() > 15 {
        errors.push(too_long(15));
    }
    if !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        errors.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".into());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        errors.push("must contain at least one letter (a-z)".into());
    }
    if name.contains("--") {
        errors.push("must not contain consecutive hyphens".into());
    }
    if name.starts_with('-') || name.ends_with('-') {
        errors.push("must not begin or end with a hyphen".into());
    }
    errors
}

/// What is wrong with a label or annotation key (`[prefix/]name`).
pub fn qualified_name_errors(key: &str) -> Vec<String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    let mut errors = Vec::new();
    match prefix {
        Some("") => errors.push("prefix part must be non-empty".into()),
        Some(prefix) => errors.extend(subdomain_errors(prefix).into_iter().map(|e| format!("prefix part {e}"))),
        None => {}
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        errors.push(format!("name part {}", too_long(63)));
    }
    if !is_qualified(name) {
        errors.push(QUALIFIED.into());
    }
    errors
}

fn is_qualified(name: &str) -> bool {
    let bytes = name.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Finalizers are qualified names with a domain, but for those that Kubernetes itself knows.
pub fn finalizer_errors(name: &str) -> Vec<String> {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let errors = qualified_name_errors(name);
    if errors.is_empty() && !name.contains('/') && !STANDARD.contains(&name) {
        return vec!["name is neither a standard finalizer name nor is it fully qualified".to_owned()];
    }
    errors
}

pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > 63 {
        errors.push(too_long(63));
    }
    if !value.is_empty() && !is_qualified(value) {
        errors.push(LABEL_VALUE.into());
    }
    errors
}

/// What is wrong with a key of a ConfigMap or Secret.
pub fn config_key_errors(key: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if key.len() > 253 {
        errors.push(too_long(253));
    }
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        errors.push(CONFIG_KEY.into());
    } else if key == "." || key == ".." {
        errors.push(format!("must not be '{key}'"));
    } else if key.starts_with("..") {
        errors.push("must not start with '..'".into());
    }
    errors
}

/// Checks keys and values of a label map at `field`.
pub fn check_labels(causes: &mut Causes, field: &str, labels: &BTreeMap<String, String>) {
    for (key, value) in labels {
        for error in qualified_name_errors(key) {
            causes.invalid(field, key.as_str(), error);
        }
        for error in label_value_errors(value) {
            causes.invalid(field, value.as_str(), error);
        }
    }
}

impl NameRule {
    pub fn errors(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => subdomain_errors(name),
            Self::Label => label_errors(name),
            Self::PathSegment => match name {
                "." | ".." => vec![format!("may not be '{name}'")],
                name if name.contains('/') => vec!["may not contain '/'".into()],
                name if name.contains('%') => vec!["may not contain '%'".into()],
                _ => Vec::new(),
            },
            Self::Address => match name.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.to_string() == name => Vec::new(),
                Ok(ip) => vec![format!("must be in canonical form ({:?})", ip.to_string())],
                Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
            },
        }
    }
}

/// How often a name is made before a taken one is used and refused (KEP-4420).
const GENERATED: usize = 8;

/// `generateName` plus five characters from the alphabet that avoids vowels and look-alikes, a free one if possible.
pub fn generate(base: &str, is_free: impl Fn(&str) -> bool) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut rng = rand::rng();
    let base: String = base.chars().take(58).collect();
    let mut generated = || -> String {
        base.chars().chain((0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))).collect()
    };
    let mut name = generated();
    for _ in 1..GENERATED {
        if is_free(&name) {
            break;
        }
        name = generated();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_subdomains() {
        for good in ["a", "a-b", "0a", "a9"] {
            assert!(label_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "-", "a-", "-a", "A", "a.b", "ä"] {
            assert!(!label_errors(bad).is_empty(), "{bad}");
        }
        assert!(subdomain_errors("a.b-c.d").is_empty());
        assert!(!subdomain_errors("a..b").is_empty());
        assert_eq!(label_errors(&"x".repeat(64)), [too_long(63)]);
    }

    #[test]
    fn port_names_and_keys() {
        assert!(port_name_errors("http-2").is_empty());
        assert!(!port_name_errors("123").is_empty());
        assert!(!port_name_errors("a--b").is_empty());
        assert!(qualified_name_errors("example.com/Name_1.x").is_empty());
        assert!(!qualified_name_errors("/x").is_empty());
        assert!(!config_key_errors("bad key!").is_empty());
        assert!(!config_key_errors("..").is_empty());
    }

    #[test]
    fn generated_names_keep_their_base_and_stay_labels() {
        let name = generate("web-", |_| true);
        assert!(name.starts_with("web-") && name.len() == 9 && label_errors(&name).is_empty());
        let tried = std::cell::RefCell::new(Vec::new());
        let name = generate("web-", |name| {
            tried.borrow_mut().push(name.to_owned());
            tried.borrow().len() == 3
        });
        assert_eq!((tried.borrow().len(), tried.borrow().last()), (3, Some(&name)));
        assert_eq!(generate(&"x".repeat(80), |_| true).len(), 63);
    }
}
