//! /etc/resolv.conf of Pods (rules NM4 to NM6).

use std::fmt::Write;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{PodDNSConfig, PodSpec};

use crate::config::Network;

const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// A resolver's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

/// What the cluster's DNS is, for Pods that use it.
#[derive(Clone, Debug)]
pub struct ClusterDns {
    pub servers: Vec<IpAddr>,
    pub domain: String,
}

impl ClusterDns {
    /// The server's address of the first family is enough: every Pod has both.
    pub fn of(network: &Network) -> Self {
        Self { servers: vec![network.dns_vip().v4.into()], domain: network.domain.clone() }
    }
}

impl ResolvConf {
    /// Reads the host's file; what it doesn't know it leaves out.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => conf.nameservers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => conf.searches = words.map(str::to_owned).collect(),
                Some("options") => conf.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        conf
    }

    /// The file's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            let _ = writeln!(text, "search {}", self.searches.join(" "));
        }
        for server in &self.nameservers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }

    /// Rule NM6: cuts what is over the limits, and says so in the words of the event DNSConfigForming.
    pub fn fit(&mut self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.nameservers.len() > MAX_NAMESERVERS {
            self.nameservers.truncate(MAX_NAMESERVERS);
            notes.push(format!(
                "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
                self.nameservers.join(" ")
            ));
        }
        let before = self.searches.len();
        self.searches.truncate(MAX_SEARCHES);
        while self.searches.join(" ").len() > MAX_SEARCH_CHARS {
            self.searches.pop();
        }
        if self.searches.len() < before {
            notes.push(format!(
                "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
                self.searches.join(" ")
            ));
        }
        notes
    }
}

/// Rules NM4 and NM5: the configuration of a Pod, before [`ResolvConf::fit`].
pub fn pod_resolv_conf(spec: &PodSpec, namespace: &str, node: &ResolvConf, cluster: &ClusterDns) -> ResolvConf {
    let host_network = spec.host_network == Some(true);
    let mut conf = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => ResolvConf::default(),
        "Default" => node.clone(),
        "ClusterFirst" if host_network => node.clone(),
        _ => cluster_first(namespace, node, cluster),
    };
    if let Some(extra) = &spec.dns_config {
        append(&mut conf, extra);
    }
    conf
}

fn cluster_first(namespace: &str, node: &ResolvConf, cluster: &ClusterDns) -> ResolvConf {
    let domain = &cluster.domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    add_new(&mut searches, &node.searches);
    ResolvConf {
        nameservers: cluster.servers.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn append(conf: &mut ResolvConf, extra: &PodDNSConfig) {
    add_new(&mut conf.nameservers, extra.nameservers.as_deref().unwrap_or_default());
    add_new(&mut conf.searches, extra.searches.as_deref().unwrap_or_default());
    for option in extra.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        conf.options.retain(|present| present.split(':').next() != Some(name));
        conf.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
}

fn add_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodDNSConfigOption;

    fn node() -> ResolvConf {
        ResolvConf::parse("# host\nnameserver 192.0.2.1\nsearch corp.example cluster.local\noptions edns0 trust-ad\n")
    }

    fn cluster() -> ClusterDns {
        ClusterDns { servers: vec!["10.96.0.10".parse().unwrap()], domain: "cluster.local".into() }
    }

    fn spec(policy: &str, host_network: bool) -> PodSpec {
        PodSpec { dns_policy: Some(policy.into()), host_network: Some(host_network), ..PodSpec::default() }
    }

    #[test]
    fn cluster_first_has_the_search_path_and_ndots_nm4() {
        let conf = pod_resolv_conf(&spec("ClusterFirst", false), "shop", &node(), &cluster());
        assert_eq!(
            conf.render(),
            "search shop.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn host_network_falls_back_to_the_nodes_file_unless_asked_nm4() {
        assert_eq!(pod_resolv_conf(&spec("ClusterFirst", true), "shop", &node(), &cluster()), node());
        assert_eq!(pod_resolv_conf(&spec("Default", false), "shop", &node(), &cluster()), node());
        let conf = pod_resolv_conf(&spec("ClusterFirstWithHostNet", true), "shop", &node(), &cluster());
        assert_eq!(conf.nameservers, ["10.96.0.10"]);
    }

    #[test]
    fn dns_config_is_appended_and_options_override_by_name_nm5() {
        let mut spec = spec("ClusterFirst", false);
        spec.dns_config = Some(PodDNSConfig {
            nameservers: Some(vec!["10.96.0.10".into(), "192.0.2.9".into()]),
            searches: Some(vec!["_x.example".into(), ".".into()]),
            options: Some(vec![
                PodDNSConfigOption { name: Some("ndots".into()), value: Some("2".into()) },
                PodDNSConfigOption { name: Some("edns0".into()), value: None },
            ]),
        });
        let conf = pod_resolv_conf(&spec, "d", &ResolvConf::default(), &cluster());
        assert_eq!(conf.nameservers, ["10.96.0.10", "192.0.2.9"]);
        assert_eq!(conf.searches[3..], ["_x.example", "."]);
        assert_eq!(conf.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn over_the_limits_is_cut_with_a_note_nm6() {
        let mut conf = ResolvConf {
            nameservers: (1..=4).map(|n| format!("192.0.2.{n}")).collect(),
            searches: (0..40).map(|n| format!("s{n}")).collect(),
            options: vec![],
        };
        let notes = conf.fit();
        assert_eq!((conf.nameservers.len(), conf.searches.len(), notes.len()), (3, 32, 2));
        assert!(notes[0].ends_with("the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3"));
    }
}
