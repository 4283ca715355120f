//! `GET pods/NAME/log`: the API server hands the question to the node agents.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use k8s_openapi::jiff::Timestamp;

use super::status::ApiError;

/// What of a log is wanted (`PodLogOptions`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    pub follow: bool,
    /// The log of the container's previous run.
    pub previous: bool,
    pub timestamps: bool,
    pub tail_lines: Option<u64>,
    pub since: Option<Timestamp>,
    pub limit_bytes: Option<u64>,
    /// One output alone.
    pub stream: Option<LogStream>,
}

/// One of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Gives the log of a container that runs, or ran, in a Pod.
pub trait LogSource: Send + Sync {
    /// # Errors
    /// 400 when the container has not started, 404 when its log is gone.
    fn logs(
        &self,
        namespace: String,
        pod: String,
        container: String,
        options: LogOptions,
    ) -> BoxFuture<'_, Result<BoxStream<'static, Bytes>, ApiError>>;
}
