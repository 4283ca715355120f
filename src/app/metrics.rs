//! `/metrics`: what every part has counted, in one text; and the listener of `--metrics-listen`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router as Routes;
use axum::http::header;
use axum::routing::get;

use crate::api::insight::{Insight, METRICS_TYPE};
use crate::cluster::Cluster;
use crate::dns;
use crate::metrics::{self, Exposition, Type};
use crate::router::Router;
use crate::router::stats::{AnswerReason, DropReason};
use crate::store::Store;

/// Where the numbers come from.
pub(super) struct Sources {
    pub router: Arc<Router>,
    pub store: Store,
    pub dns: Arc<dns::Metrics>,
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
        let mut family = "";
        self.dns.visit(|name, labels, value| {
            if name != family {
                family = name;
                out.family(name, Type::Counter);
            }
            out.sample(labels, value);
        });
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
