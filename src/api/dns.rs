//! Cluster DNS for people: what a look-up in a Pod does, and what Pods ask.
//!
//! * `GET /vipyard/v1/dns?name=NAME` walks the search path as a Pod in `default` does. `type=T[,T]` names the types, A and
//!   AAAA without it; `from=NAMESPACE/POD` takes the resolver's configuration of that Pod, `from=NAMESPACE/` that of any
//!   Pod there with the policy ClusterFirst.
//! * `GET /vipyard/v1/dns/queries` gives the newest questions and their answers as lines of JSON, oldest first;
//!   `tail=N` the last N of them; `follow=1` goes on with those to come. A line `{"lost":N}` stands for questions that came
//!   faster than they were read.

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::header;
use serde_json::Value;

use super::Api;
use super::request::Params;
use super::status::{About, ApiError};

pub(super) const PATH: &str = "/vipyard/v1/dns";
pub(super) const QUERIES_PATH: &str = "/vipyard/v1/dns/queries";

/// What is asked of a [`NameService`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameQuestion {
    pub name: String,
    pub types: Vec<String>,
    pub namespace: String,
    /// The Pod that asks; any of the namespace without it.
    pub pod: Option<String>,
}

/// Why a look-up cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLookup {
    BadQuestion(String),
    /// There is no such Pod.
    NoPod,
}

/// The part of the cluster that answers names.
pub trait NameService: Send + Sync {
    /// Every step of a look-up, as JSON.
    fn look_up(&self, question: NameQuestion) -> BoxFuture<'_, Result<Value, NoLookup>>;

    /// The newest `tail` questions as lines of JSON, all that are kept without it; with `follow`, those to come, too.
    fn queries(&self, tail: Option<usize>, follow: bool) -> BoxStream<'static, Bytes>;
}

fn names(api: &Api) -> Result<&dyn NameService, ApiError> {
    let names = api.inner.names.get().map(|names| &**names);
    names.ok_or_else(|| ApiError::service_unavailable("cluster DNS is starting: try again"))
}

/// # Errors
/// 400 for what is no name or no type, 404 for a Pod that does not exist, 503 while the cluster is starting.
pub(super) async fn look_up(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let (namespace, pod) = match params.get("from") {
        "" => ("default", ""),
        from => from
            .split_once('/')
            .filter(|(namespace, _)| !namespace.is_empty())
            .ok_or_else(|| ApiError::bad_request(format!("from: {from:?} names no Pod: write NAMESPACE/POD")))?,
    };
    let types = params.get("type").split(',').filter(|text| !text.is_empty());
    let question = NameQuestion {
        name: params.get("name").to_owned(),
        types: types.map(str::to_owned).collect(),
        namespace: namespace.to_owned(),
        pod: Some(pod.to_owned()).filter(|pod| !pod.is_empty()),
    };
    let lookup = names(&api)?.look_up(question).await;
    lookup.map(Json).map_err(|why| match why {
        NoLookup::BadQuestion(why) => ApiError::bad_request(why),
        NoLookup::NoPod => ApiError::not_found(About { group: "", resource: "pods", name: pod }),
    })
}

/// # Errors
/// 400 for a `tail` that is no number, 503 while the cluster is starting.
pub(super) async fn queries(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    let params = Params::parse(&query.unwrap_or_default());
    let lines = names(&api)?.queries(params.number("tail")?, params.flag("follow"));
    let lines = lines.take_until(api.inner.stopping.clone().cancelled_owned()).map(Ok::<_, std::convert::Infallible>);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}
