//! Host names and /etc/hosts of Pods (rules NM1 to NM3).

use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

/// The longest host name that the kernel takes and, by one less, that Kubernetes gives.
const MAX_HOSTNAME: usize = 63;

/// The name of a Pod towards itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// What the kernel says: the short name, or the full one with setHostnameAsFQDN.
    pub kernel: String,
    pub short: String,
    /// `subdomain.namespace.svc.DOMAIN`, only with a subdomain.
    pub domain: Option<String>,
}

/// Rule NM1.
pub fn names(pod_name: &str, namespace: &str, spec: &PodSpec, node: &str, cluster_domain: &str) -> Names {
    if spec.host_network == Some(true) && spec.hostname_override.is_none() {
        return Names { kernel: node.to_owned(), short: node.to_owned(), domain: None };
    }
    if let Some(name) = &spec.hostname_override {
        return Names { kernel: name.clone(), short: name.clone(), domain: None };
    }
    let mut short: String =
        spec.hostname.as_deref().filter(|h| !h.is_empty()).unwrap_or(pod_name).chars().take(MAX_HOSTNAME).collect();
    short.truncate(short.trim_end_matches(['-', '.']).len());
    let domain = spec
        .subdomain
        .as_deref()
        .filter(|s| !s.is_empty())
        .map(|subdomain| format!("{subdomain}.{namespace}.svc.{cluster_domain}"));
    let kernel = match (&domain, spec.set_hostname_as_fqdn) {
        (Some(domain), Some(true)) => format!("{short}.{domain}"),
        _ => short.clone(),
    };
    Names { kernel, short, domain }
}

/// Rule NM2: the file of a Pod with a network of its own.
pub fn pod_hosts(addresses: &[IpAddr], names: &Names, aliases: &[HostAlias]) -> String {
    let mut file = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    for address in addresses {
        let _ = match &names.domain {
            Some(domain) => writeln!(file, "{address}\t{}.{domain}\t{}", names.short, names.short),
            None => writeln!(file, "{address}\t{}", names.short),
        };
    }
    file + &alias_block(aliases)
}

/// Rule NM3: the file of a hostNetwork Pod, made from the node's.
pub fn host_network_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_block(aliases))
}

fn alias_block(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut block = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let _ = writeln!(
            block,
            "{}\t{}",
            alias.ip,
            alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t")
        );
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(edit: impl FnOnce(&mut PodSpec)) -> PodSpec {
        let mut spec = PodSpec::default();
        edit(&mut spec);
        spec
    }

    #[test]
    fn long_pod_name_is_cut_and_trimmed_nm1() {
        let name = format!("{}-.-tail", "a".repeat(60));
        let names = names(&name, "default", &spec(|_| ()), "n1", "cluster.local");
        assert_eq!(names.short, "a".repeat(60));
    }

    #[test]
    fn subdomain_gives_a_domain_and_fqdn_hostname_on_request_nm1() {
        let spec = spec(|s| {
            s.hostname = Some("web-0".into());
            s.subdomain = Some("web".into());
            s.set_hostname_as_fqdn = Some(true);
        });
        let names = names("pod", "shop", &spec, "n1", "cluster.local");
        assert_eq!(names.kernel, "web-0.web.shop.svc.cluster.local");
        assert_eq!((names.short.as_str(), names.domain.as_deref()), ("web-0", Some("web.shop.svc.cluster.local")));
    }

    #[test]
    fn host_network_pod_has_the_nodes_name_nm1() {
        let names = names("pod", "default", &spec(|s| s.host_network = Some(true)), "n2", "cluster.local");
        assert_eq!(names.kernel, "n2");
    }

    #[test]
    fn hosts_file_lists_both_addresses_and_aliases_nm2() {
        let names = Names { kernel: "web-0".into(), short: "web-0".into(), domain: Some("web.d.svc.c".into()) };
        let aliases = [HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["foo".into(), "bar".into()]) }];
        let addresses = ["10.244.1.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let file = pod_hosts(&addresses, &names, &aliases);
        assert!(file.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost "));
        assert!(file.ends_with(
            "10.244.1.2\tweb-0.web.d.svc.c\tweb-0\nfd00::2\tweb-0.web.d.svc.c\tweb-0\n\
             \n# Entries added by HostAliases.\n1.2.3.4\tfoo\tbar\n"
        ));
    }

    #[test]
    fn host_network_file_keeps_the_nodes_entries_nm3() {
        assert_eq!(
            host_network_hosts("127.0.0.1 localhost\n", &[]),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n"
        );
    }
}
