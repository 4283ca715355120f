//! Runs a controller's reconcile function over its queue, and the errors that such a function may return.
//!
//! A reconcile function is level-triggered: it looks at the object's present state, not at what happened, and running
//! it twice changes nothing. One task serves a controller; several keys may be in flight, as the API commits writes
//! that come together in one batch, but never one key twice.

use std::fmt::Display;
use std::future::Future;
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tracing::{debug, warn};

use super::queue::Queue;
pub(super) use crate::answers::{
    is_already_exists, is_conflict, is_invalid, is_namespace_terminating, is_not_found, unless_gone,
};
use crate::metrics;

/// What a successful reconcile asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing more to do until a change queues the key again.
    Done,
    /// Another turn after this time, should nothing queue the key before.
    After(Duration),
    /// Nothing could be done yet: the cache has not seen an own write. Another turn as with `After`.
    Behind(Duration),
}

impl Action {
    /// Another turn after this time, if any.
    pub(super) fn again(after: Option<Duration>) -> Self {
        after.map_or(Self::Done, Self::After)
    }
}

/// The earlier of two waits, of which none may be needed.
pub(super) fn sooner<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// Why a reconcile did not reach its goal; the runner tries again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused or could not be reached. `action` is what was tried: "create the EndpointSlice of default/web".
    #[error("cannot {action}: {}", describe(source))]
    Api { action: String, source: kube::Error },
    /// ES9: the Pods' Nodes are not in the cache (yet), so their endpoints were left out.
    #[error("left out Pods whose Nodes do not exist: {0}")]
    MissingNodes(String),
    /// An object that was to be written could not be brought into its kind's form.
    #[error("cannot build {what}: {source}")]
    Encode { what: String, source: serde_json::Error },
    /// A defect of ours.
    #[error("panicked")]
    Panicked,
    /// An object turned up in a namespace that is being emptied, after everything in it was deleted.
    #[error("namespace {0} received new objects while it was being emptied")]
    NamespaceRefilled(String),
    /// A write was refused, and the object's status and events tell of it.
    #[error("cannot create {what}: {reason}")]
    Refused { what: String, reason: String },
}

impl Error {
    /// Wraps an API error with what was tried.
    pub(super) fn api(action: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let action = action.into();
        move |source| Self::Api { action, source }
    }

    /// What was said against it, without what was tried.
    pub(super) fn cause(&self) -> String {
        match self {
            Self::Api { source, .. } => describe(source),
            other => other.to_string(),
        }
    }

    /// True if somebody else wrote first: normal, and gone with the next try.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_conflict(source) || is_already_exists(source))
    }
}

/// The server's own words without the debug form that `kube::Error` prints.
pub(super) fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// A controller's reconcile function with the state that it keeps.
pub(super) trait Reconcile: Send + Sync + 'static {
    type Key: Clone + Ord + Hash + Display + Send + Sync + 'static;

    fn reconcile(&self, key: &Self::Key) -> impl Future<Output = Result<Action, Error>> + Send;
}

/// Serves `queue` for ever with up to `workers` keys in flight. `name` appears in the log.
pub(super) async fn run<R: Reconcile>(
    name: &'static str,
    reconciler: Arc<R>,
    queue: Arc<Queue<R::Key>>,
    workers: usize,
) {
    let counted = metrics::CONTROLLERS.get(name, metrics::Controller::new);
    let mut in_flight = FuturesUnordered::new();
    loop {
        counted.depth.store(queue.depth() as u64, Relaxed);
        tokio::select! {
            Some((key, result, took)) = in_flight.next(), if !in_flight.is_empty() => {
                counted.took.observe(took);
                finish(name, &queue, &key, result, &counted);
            }
            key = queue.next(), if in_flight.len() < workers => {
                let reconciler = &reconciler;
                in_flight.push(async move {
                    let begin = Instant::now();
                    // A panic for one key must not end the controller for all; its hook has told of it.
                    let result = AssertUnwindSafe(reconciler.reconcile(&key)).catch_unwind().await;
                    let result = result.unwrap_or(Err(Error::Panicked));
                    (key, result, begin.elapsed())
                });
            }
        }
    }
}

fn finish<K: Clone + Ord + Hash + Display>(
    controller: &'static str,
    queue: &Queue<K>,
    key: &K,
    result: Result<Action, Error>,
    counted: &metrics::Controller,
) {
    match result {
        Ok(Action::Done) => queue.done(key, None),
        Ok(Action::After(delay)) => queue.done(key, Some(delay)),
        Ok(Action::Behind(delay)) => queue.behind(key, delay),
        Err(error) if error.is_conflict() => {
            let retry_in = queue.lost_race(key);
            debug!(controller, %key, %error, ?retry_in, "reconcile lost a race");
        }
        Err(error) => {
            counted.errors.fetch_add(1, Relaxed);
            let retry_in = queue.failed(key);
            warn!(controller, %key, %error, ?retry_in, "reconcile failed");
        }
    }
}
