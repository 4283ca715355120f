//! `/metrics`: what every part has counted, in one text; and the listener of `--metrics-listen`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router as Routes;
use axum::http::header;
use axum::routing::get;

use crate::api::insight::{Insight, METRICS_TYPE};
use crate::cluster::Cluster;
use crate::dns::Dns;
use crate::dns::metrics::{self as dns, Reading};
use crate::metrics::{self, Exposition, Type};
use crate::router::Router;
use crate::router::stats::{AnswerReason, DropReason};
use crate::store::Store;

/// What cluster DNS counts. Some have no sample before they have counted.
const DNS: [(&str, Type); 11] = [
    (dns::RESPONSES, Type::Counter),
    (dns::DURATION, Type::Histogram),
    (dns::TRUNCATED, Type::Counter),
    (dns::IGNORED, Type::Counter),
    (dns::FORWARDED, Type::Counter),
    (dns::FORWARD_FAILURES, Type::Counter),
    (dns::CACHE_HITS, Type::Counter),
    (dns::CACHE_MISSES, Type::Counter),
    (dns::UPSTREAM_UP, Type::Gauge),
    (dns::UPSTREAM_QUESTIONS, Type::Counter),
    (dns::UPSTREAM_FAILURES, Type::Counter),
];

/// Where the numbers come from.
pub(super) struct Sources {
    pub router: Arc<Router>,
    pub store: Store,
    pub dns: Arc<Dns>,
    pub cluster: Cluster,
}

impl Sources {
    pub(super) fn text(&self) -> String {
        let mut out = Exposition::default();
        self.router(&mut out);
        self.store(&mut out);
        self.dns(&mut out);
        self.pods(&mut out);
        metrics::statics(&mut out);
        metrics::process(&mut out);
        out.into_text()
    }

    fn router(&self, out: &mut Exposition) {
        let stats = self.router.stats();
        out.counter("router_received_packets_total", stats.received_packets);
        out.counter("router_received_bytes_total", stats.received_bytes);
        out.counter("router_forwarded_packets_total", stats.forwarded_packets);
        out.counter("router_forwarded_bytes_total", stats.forwarded_bytes);
        out.counter("router_joined_packets_total", stats.joined_packets);
        out.counter("router_held_packets_total", stats.held_packets);
        out.family("router_dropped_packets_total", Type::Counter);
        for reason in DropReason::ALL {
            out.sample(&[("reason", reason.as_str())], stats.dropped(reason));
        }
        out.family("router_answered_packets_total", Type::Counter);
        for reason in AnswerReason::ALL {
            out.sample(&[("reason", reason.as_str())], stats.answered(reason));
        }
        out.gauge("router_flows", stats.flows);
        out.counter("router_flows_created_total", stats.flow_changes.created);
        out.family("router_flows_ended_total", Type::Counter)
            .sample(&[("how", "expired")], stats.flow_changes.expired)
            .sample(&[("how", "evicted")], stats.flow_changes.evicted)
            .sample(&[("how", "replaced")], stats.flow_changes.replaced);
        out.gauge("router_ports", stats.ports);
        out.gauge("plan_epoch", stats.epoch);
        let log = self.router.flow_log();
        out.counter("flow_log_records_total", log.map_or(0, |log| log.written()));
        out.counter("flow_log_overwritten_total", log.map_or(0, |log| log.overwritten()));
    }

    fn store(&self, out: &mut Exposition) {
        out.gauge("store_revision", self.store.revision());
        out.gauge("store_compacted_revision", self.store.compacted());
        let statements = self.store.statements();
        out.family("store_statements_total", Type::Counter);
        for statement in &statements {
            out.sample(&[("statement", statement.name)], statement.runs);
        }
        out.family("store_statement_failures_total", Type::Counter);
        for statement in &statements {
            out.sample(&[("statement", statement.name)], statement.failed);
        }
        out.family("store_statement_seconds_total", Type::Counter);
        for statement in &statements {
            out.sample(&[("statement", statement.name)], statement.total.as_secs_f64());
        }
    }

    fn dns(&self, out: &mut Exposition) {
        type Sample = (Vec<(&'static str, String)>, Reading);
        // Told as they are found; a family has to stand together.
        let mut families: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
        self.dns.visit_metrics(|name, labels, reading| {
            let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
            families.entry(name).or_default().push((labels, reading));
        });
        for (name, type_) in DNS {
            out.family(name, type_);
            for (labels, reading) in families.remove(name).unwrap_or_default() {
                let labels: Vec<(&str, &str)> = labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
                match reading {
                    Reading::Counter(value) | Reading::Gauge(value) => {
                        out.sample(&labels, value);
                    }
                    Reading::Histogram(histogram) => out.buckets(&labels, &histogram.buckets, histogram.sum),
                }
            }
        }
    }

    /// By node; there are no more nodes than the cluster was started with.
    fn pods(&self, out: &mut Exposition) {
        let mut pods: BTreeMap<String, BTreeMap<&str, u64>> = BTreeMap::new();
        for node in self.cluster.nodes.list() {
            pods.insert(node.metadata.name.clone().unwrap_or_default(), BTreeMap::new());
        }
        for pod in self.cluster.pods.list() {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
            let phase = match pod.status.as_ref().and_then(|status| status.phase.as_deref()) {
                Some("Running") => "Running",
                Some("Succeeded") => "Succeeded",
                Some("Failed") => "Failed",
                _ => "Pending",
            };
            if let Some(phases) = pods.get_mut(&node) {
                *phases.entry(phase).or_default() += 1;
            }
        }
        out.family("node_pods", Type::Gauge);
        for (node, phases) in &pods {
            for phase in ["Pending", "Running", "Succeeded", "Failed"] {
                out.sample(&[("node", node), ("phase", phase)], phases.get(phase).copied().unwrap_or(0));
            }
        }
    }
}

/// What `--metrics-listen` serves, to everybody who reaches it: numbers, and names of nodes and kinds.
pub(super) fn routes(insight: Arc<dyn Insight>) -> Routes {
    let serve = move || {
        let insight = Arc::clone(&insight);
        async move { ([(header::CONTENT_TYPE, METRICS_TYPE)], insight.metrics().await) }
    };
    Routes::new().route("/metrics", get(serve))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::{Network, StoreConfig};
    use crate::dns::{ForwardConfig, Zone};
    use crate::router::RouterConfig;

    /// Name and type of everything that is served.
    async fn served() -> BTreeSet<(String, String)> {
        let network = Network::default();
        let sources = Sources {
            router: Router::start(RouterConfig::new(network.clone())).expect("a router"),
            store: Store::open(&StoreConfig::in_memory()).await.expect("a store"),
            dns: Arc::new(Dns::new(
                Zone::new(&network),
                ForwardConfig::new(&[], &[], Path::new("/nonexistent"), &Zone::new(&network), &[]),
            )),
            cluster: Cluster::new().0,
        };
        let text = sources.text();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let found: Vec<(String, String)> = types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
        let all: BTreeSet<(String, String)> = found.iter().cloned().collect();
        assert_eq!(all.len(), found.len(), "a family is told once:\n{text}");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let known = |suffix: &str| name.strip_suffix(suffix).is_some_and(|name| all.iter().any(|(n, _)| n == name));
            assert!(["", "_bucket", "_sum", "_count"].into_iter().any(known), "{line} has no type");
        }
        all
    }

    #[tokio::test]
    async fn every_metric_is_documented_and_every_documented_one_is_served() {
        let text = include_str!("../../docs/metrics.md");
        let rows = text.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|');
            Some((cells.next()?.trim().trim_end_matches('`').to_owned(), cells.next()?.trim().to_owned()))
        });
        let documented: BTreeSet<(String, String)> = rows.collect();
        assert_eq!(served().await, documented);
    }

    #[tokio::test]
    async fn example_dashboard_asks_for_metrics_that_there_are() {
        let dashboard: serde_json::Value =
            serde_json::from_str(include_str!("../../examples/grafana.json")).expect("JSON");
        let all = served().await;
        let mut asked = 0;
        for panel in dashboard["panels"].as_array().expect("panels") {
            for target in panel["targets"].as_array().expect("targets") {
                let expression = target["expr"].as_str().expect("an expression");
                let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                // Names of metrics are the words that begin with a part's name.
                let parts = ["router_", "plan_", "flow_", "api_", "store_", "controller_", "dns_", "node_", "process_"];
                for word in words.filter(|word| parts.iter().any(|part| word.starts_with(part))) {
                    asked += 1;
                    let base = word.trim_end_matches("_bucket");
                    assert!(all.iter().any(|(name, _)| name == base), "{word} in {expression}");
                }
            }
        }
        assert!(asked >= 18, "{asked} metrics");
    }
}
