//! What the cluster says about itself: the API's questions, put to who knows.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::Serialize;
use serde_json::Value;

use super::metrics::Sources;
use crate::api::ApiError;
use crate::api::insight::{FlowQuestion, Insight, LogQuestion};
use crate::explain::Explainer;
use crate::explain::flows::{self, Wanted};
use crate::explain::request::{self, BadRequest, FlowRequest};

pub(super) struct Answers {
    pub explainer: Explainer,
    pub sources: Sources,
}

fn refused(error: BadRequest) -> ApiError {
    match error {
        BadRequest::Invalid(message) => ApiError::bad_request(message),
        BadRequest::NotFound(message) => ApiError::missing(message),
    }
}

fn value(report: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(report).map_err(ApiError::internal)
}

/// The object that lines are asked for of; none without a text.
fn object(text: &str, namespace: &str, kinds: &[&str]) -> Result<Option<(String, String)>, ApiError> {
    if text.is_empty() { Ok(None) } else { request::object(text, namespace, kinds).map(Some).map_err(refused) }
}

impl Insight for Answers {
    fn service(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move { value(&self.explainer.service(&namespace, &name).await.map_err(refused)?) })
    }

    fn flow(&self, question: FlowQuestion) -> BoxFuture<'_, Result<Value, ApiError>> {
        Box::pin(async move {
            let FlowQuestion { from, to, namespace, protocol, family, node } = question;
            let request = FlowRequest::parse(&from, &to, &namespace, &protocol, &family, &node).map_err(refused)?;
            value(&self.explainer.flow(&request).await.map_err(refused)?)
        })
    }

    fn flows(&self, question: LogQuestion) -> Result<BoxStream<'static, Bytes>, ApiError> {
        let Some(log) = self.explainer.router.flow_log() else {
            return Err(ApiError::missing("the flow log is switched off: start the cluster without --flow-log 0"));
        };
        let wanted = Wanted {
            service: object(&question.service, &question.namespace, request::SERVICE_KINDS)?,
            pod: object(&question.pod, &question.namespace, request::POD_KINDS)?,
            dropped: question.dropped,
        };
        let tail = question.tail.unwrap_or(usize::MAX);
        let lines = flows::lines(Arc::clone(log), wanted, tail, question.follow).map(|lines| {
            let mut text = Vec::new();
            for line in lines {
                // Strings and numbers: there is nothing in a line that JSON cannot hold.
                if serde_json::to_writer(&mut text, &line).is_ok() {
                    text.push(b'\n');
                }
            }
            Bytes::from(text)
        });
        Ok(lines.filter(|text| std::future::ready(!text.is_empty())).boxed())
    }

    fn metrics(&self) -> BoxFuture<'_, String> {
        Box::pin(async move { self.sources.text() })
    }
}
