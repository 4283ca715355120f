//! Which resolvers a sender's programs ask, and for which names.

use k8s_openapi::api::core::v1::PodSpec;

use crate::config::Network;
use crate::dns::RESOLV_CONF;
use crate::dns::lookup::Path;
use crate::node::{ClusterDns, ResolvConf, pod_resolv_conf};

/// How resolvers are configured: the host's, which nodes share, and those of Pods.
#[derive(Clone, Debug)]
pub struct Resolvers {
    host: ResolvConf,
    cluster: ClusterDns,
}

impl Resolvers {
    /// With the host's configuration, which Pods fall back on.
    pub fn new(network: &Network, host: ResolvConf) -> Self {
        Self { host, cluster: ClusterDns::of(network) }
    }

    /// With what the host's file says now; without one, it asks nobody.
    pub fn read(network: &Network) -> Self {
        Self::new(network, ResolvConf::parse(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default()))
    }

    /// What the `resolv.conf` of a Pod says.
    pub fn of_pod(&self, namespace: &str, spec: Option<&PodSpec>) -> Path {
        let empty = PodSpec::default();
        let mut conf = pod_resolv_conf(spec.unwrap_or(&empty), namespace, &self.host, &self.cluster);
        conf.fit();
        path(conf)
    }

    /// What that of the host and of every node says.
    pub fn of_host(&self) -> Path {
        path(self.host.clone())
    }
}

fn path(conf: ResolvConf) -> Path {
    Path { nameservers: conf.nameservers, searches: conf.searches, options: conf.options }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_ask_the_clusters_dns_and_fall_back_on_the_hosts() {
        let network = Network::default();
        let host = ResolvConf::parse("nameserver 192.0.2.53\nsearch corp.example\n");
        let resolvers = Resolvers::new(&network, host);
        let pod = resolvers.of_pod("shop", None);
        assert_eq!(pod.nameservers, [network.dns_vip().v4.to_string()]);
        assert_eq!(pod.searches, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(pod.options, ["ndots:5"]);
        let spec: PodSpec = serde_json::from_value(json!({"containers": [], "dnsPolicy": "Default",
            "dnsConfig": {"nameservers": ["192.0.2.1", "192.0.2.2", "192.0.2.3"]}}))
        .unwrap();
        let pod = resolvers.of_pod("shop", Some(&spec));
        assert_eq!(pod.nameservers, ["192.0.2.53", "192.0.2.1", "192.0.2.2"], "as many as a resolver takes");
        assert_eq!(resolvers.of_host().nameservers, ["192.0.2.53"]);
    }
}
