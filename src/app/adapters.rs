//! Where two parts meet that know nothing of one another.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::api::ApiError;
use crate::api::logs::{LogOptions, LogSource};
use crate::api::node_power::{NodePower, SwitchError};
use crate::events::{EventType, Recorder};
use crate::node::{Agents, EventSink, LogError, PowerError};

/// What the node agents have to say about Pods becomes Events.
pub(super) struct NodeEvents(pub Recorder);

impl EventSink for NodeEvents {
    fn event(&self, pod: &Pod, type_: &str, reason: &str, message: &str) {
        let type_ = if type_ == "Warning" { EventType::Warning } else { EventType::Normal };
        self.0.event(pod.object_ref(&()), type_, reason, message);
    }
}

/// The API's power switch is the agents'.
pub(super) struct Power(pub Agents);

impl NodePower for Power {
    fn switch(&self, node: String, on: bool) -> BoxFuture<'_, Result<(), SwitchError>> {
        Box::pin(async move {
            let switched = if on { self.0.start_node(&node).await } else { self.0.stop_node(&node).await };
            switched.map_err(|e| match e {
                PowerError::NoSuchNode => SwitchError::NoSuchNode,
                e => SwitchError::Failed(e.to_string()),
            })
        })
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
