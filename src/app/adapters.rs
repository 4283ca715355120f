//! Where two parts meet that know nothing of one another.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::api::ApiError;
use crate::api::logs::{LogOptions, LogSource};
use crate::dashboard::{self, view::Traffic};
use crate::events::{EventType, Recorder};
use crate::node::{Agents, EventSink, LogError};
use crate::router::{Router, meter};

/// What the node agents have to say about Pods becomes Events.
pub(super) struct NodeEvents(pub Recorder);

impl EventSink for NodeEvents {
    fn event(&self, pod: &Pod, type_: &str, reason: &str, message: &str) {
        let type_ = if type_ == "Warning" { EventType::Warning } else { EventType::Normal };
        self.0.event(pod.object_ref(&()), type_, reason, message);
    }
}

/// The API's question for a log goes to the node agents.
pub(super) struct NodeLogs(pub Agents);

impl LogSource for NodeLogs {
    fn logs(
        &self,
        namespace: String,
        pod: String,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, ApiError>> {
        let options = crate::node::LogOptions {
            follow: options.follow,
            previous: options.previous,
            tail_lines: options.tail_lines,
            since_seconds: None,
            since_time: options.since,
            timestamps: options.timestamps,
            limit_bytes: options.limit_bytes,
        };
        let log = self.0.logs(&namespace, &pod, &container, options).map(StreamExt::boxed).map_err(|e| match e {
            LogError::NoPod(_)
            | LogError::NoContainer { .. }
            | LogError::Waiting { .. }
            | LogError::NoPrevious { .. } => ApiError::bad_request(e.to_string()),
        });
        Box::pin(std::future::ready(log))
    }
}

/// The router's counters, in the page's words.
struct PageMeter(meter::Meter);

/// What makes the page's meters.
pub(super) fn meters(router: &Arc<Router>) -> dashboard::NewMeter {
    let router = Arc::clone(router);
    Box::new(move || Box::new(PageMeter(meter::Meter::new(Arc::clone(&router)))))
}

impl dashboard::Meter for PageMeter {
    fn read(&mut self) -> Traffic {
        let reading = self.0.read();
        let passed = reading.passed.into_iter().map(|(line, bytes)| {
            let end = match line.pod {
                Some(pod) => format!("{}/{pod}", line.namespace),
                None => format!("ip:{}", line.address),
            };
            (format!("{}/{}", line.namespace, line.service), end, bytes)
        });
        let refused =
            reading.refused.into_iter().map(|((namespace, name), count)| (format!("{namespace}/{name}"), count));
        Traffic { passed: passed.collect(), refused: refused.collect(), ..Traffic::default() }
    }
}
