//! `GET /vipyard/v1/explain/service`, `/vipyard/v1/explain/flow`, `/vipyard/v1/flows` and `/metrics`: what the cluster says
//! about itself. The shapes are in docs/explain.md, the metrics in docs/metrics.md.
//!
//! The API reads the question and knows nothing of the answer: that is for [`Insight`].

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use http::{HeaderValue, header};
use serde_json::Value;

use super::Api;
use super::request::Params;
use super::status::ApiError;

pub(super) const SERVICE: &str = "/vipyard/v1/explain/service";
pub(super) const FLOW: &str = "/vipyard/v1/explain/flow";
pub(super) const FLOWS: &str = "/vipyard/v1/flows";
pub(super) const METRICS: &str = "/metrics";

/// The type of Prometheus' text format.
pub const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A question about a packet, in the words of the query; what is not said is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuestion {
    pub from: String,
    pub to: String,
    pub namespace: String,
    pub protocol: String,
    pub family: String,
    pub node: String,
}

/// Which lines of the flow log are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogQuestion {
    pub follow: bool,
    /// `NAMESPACE/NAME`, or a name in `namespace`, also with its kind before it: `svc/NAME`.
    pub service: String,
    pub pod: String,
    pub namespace: String,
    pub dropped: bool,
    /// Of the lines that are there already, at most.
    pub tail: Option<usize>,
}

/// The part of the cluster that knows why.
pub trait Insight: Send + Sync {
    /// # Errors
    /// 404 when there is no such Service.
    fn service(&self, namespace: String, name: String) -> BoxFuture<'_, Result<Value, ApiError>>;

    /// # Errors
    /// 400 for a question that makes no sense, 404 when it names what is not there.
    fn flow(&self, question: FlowQuestion) -> BoxFuture<'_, Result<Value, ApiError>>;

    /// Lines of JSON.
    ///
    /// # Errors
    /// 404 when the log is switched off, 400 for names that are none.
    fn flows(&self, question: LogQuestion) -> Result<BoxStream<'static, Bytes>, ApiError>;

    /// Everything that is counted, in Prometheus' text format.
    fn metrics(&self) -> BoxFuture<'_, String>;
}

fn insight(api: &Api) -> Result<&dyn Insight, ApiError> {
    let insight = api.inner.insight.get();
    insight
        .map(|insight| &**insight)
        .ok_or_else(|| ApiError::service_unavailable("the data plane is starting: try again"))
}

pub(super) async fn service(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let name = params.get("name");
    if name.is_empty() {
        return Err(ApiError::bad_request("name: the name of a Service is wanted"));
    }
    let namespace = Some(params.get("namespace")).filter(|namespace| !namespace.is_empty()).unwrap_or("default");
    insight(&api)?.service(namespace.to_owned(), name.to_owned()).await.map(Json)
}

pub(super) async fn flow(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let text = |name: &str| params.get(name).to_owned();
    let question = FlowQuestion {
        from: text("from"),
        to: text("to"),
        namespace: text("namespace"),
        protocol: text("protocol"),
        family: text("family"),
        node: text("node"),
    };
    insight(&api)?.flow(question).await.map(Json)
}

pub(super) async fn flows(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let text = |name: &str| params.get(name).to_owned();
    let question = LogQuestion {
        follow: params.flag("follow"),
        service: text("service"),
        pod: text("pod"),
        namespace: text("namespace"),
        dropped: params.flag("dropped"),
        tail: params.number("tail")?,
    };
    let lines = insight(&api)?.flows(question)?;
    let stopping = api.inner.stopping.clone().cancelled_owned().boxed();
    let lines = lines.map(Ok::<_, std::convert::Infallible>).take_until(stopping);
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    Ok(response)
}

pub(super) async fn metrics(State(api): State<Api>) -> Result<Response, ApiError> {
    let text = insight(&api)?.metrics().await;
    Ok(([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response())
}
