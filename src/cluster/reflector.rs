//! Fills a kind's cache from the API's watch of it.
//!
//! kube's own `watcher` keeps the versions of bookmarks to itself. Here they count: they tell how far the cache has
//! come when the last change of a kind was a deletion, or when there was none.

use std::fmt::Debug;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{WatchEvent, WatchParams};
use kube::core::Status;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::DefaultBackoff;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::warn;

use super::{ObjectKey, Writer};

/// The bookmark that ends the initial events carries it (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// A watch that ends sooner is not followed by the next one at once.
const SHORT: Duration = Duration::from_secs(1);

/// Why a watch ended before its time.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Failed(#[from] kube::Error),
    #[error("{}", .0.message)]
    Refused(Box<Status>),
}

impl Lost {
    /// The version that the watch was to go on from is compacted: only a new list helps.
    fn is_expired(&self) -> bool {
        match self {
            Self::Failed(kube::Error::Api(status)) | Self::Refused(status) => status.code == 410,
            Self::Failed(_) => false,
        }
    }
}

impl<K> Writer<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default,
{
    /// Follows the API's watch of this kind for ever. A watch that is lost goes on from where it was, or starts over
    /// when the API does not reach back that far.
    pub async fn run(self, api: Api<K>) {
        let mut backoff = DefaultBackoff::default();
        let mut version = None;
        loop {
            let began = Instant::now();
            match self.follow(&api, &mut version).await {
                Ok(()) if began.elapsed() >= SHORT => {
                    backoff.reset();
                    continue;
                }
                // An API that is about to stop ends every watch at once.
                Ok(()) => {}
                Err(lost) => {
                    warn!(kind = std::any::type_name::<K>(), error = %lost, "watch lost, trying again");
                    if lost.is_expired() {
                        version = None;
                    }
                }
            }
            tokio::time::sleep(backoff.next().unwrap_or_default()).await;
        }
    }

    /// One watch, to its end. `version` is what the cache has come to; without one, it begins with everything.
    async fn follow(&self, api: &Api<K>, version: &mut Option<String>) -> Result<(), Lost> {
        let mut initial = version.is_none().then(Vec::new);
        let mut params = WatchParams { bookmarks: true, ..WatchParams::default() };
        if initial.is_some() {
            params = params.initial_events();
        }
        let mut events = api.watch(&params, version.as_deref().unwrap_or("0")).await?.boxed();
        while let Some(event) = events.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let object = lean(object);
                    match &mut initial {
                        Some(initial) => initial.push(object),
                        None => {
                            let now = object.resource_version();
                            self.apply(object);
                            self.came_to(version, now);
                        }
                    }
                }
                WatchEvent::Deleted(object) => {
                    self.delete(&ObjectKey::of(&object));
                    self.came_to(version, object.resource_version());
                }
                WatchEvent::Bookmark(bookmark) => {
                    if bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END)
                        && let Some(initial) = initial.take()
                    {
                        self.replace(initial);
                    }
                    if initial.is_none() {
                        self.came_to(version, Some(bookmark.metadata.resource_version));
                    }
                }
                WatchEvent::Error(status) => return Err(Lost::Refused(status)),
            }
        }
        Ok(())
    }

    fn came_to(&self, version: &mut Option<String>, now: Option<String>) {
        // A resourceVersion is a number in this API, and in every one from v1.35 on (KEP-5504).
        if let Some(revision) = now.as_ref().and_then(|now| now.parse().ok()) {
            self.reach(revision);
        }
        *version = now;
    }
}

/// The object as it is kept. Our own API leaves the owners of fields out already; another one does not, and nobody here
/// asks for them. A vector that was read has room for four, where one that was cloned has what it needs: for a Service
/// and its slice that is a kilobyte.
fn lean<K: Resource + Clone>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object.clone()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::super::{Informer, Progress};
    use super::*;

    fn event(type_: &str, name: &str, version: &str) -> Value {
        json!({"type": type_, "object": {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default", "resourceVersion": version}}})
    }

    fn bookmark(version: &str, end: bool) -> Value {
        let annotations = if end { json!({INITIAL_EVENTS_END: "true"}) } else { json!({}) };
        json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"resourceVersion": version, "annotations": annotations}}})
    }

    /// Follows an API that answers one watch after the other with these events, and the last for ever with nothing.
    /// The queries are sent out.
    fn follow(watches: Vec<Vec<Value>>) -> (Informer<ConfigMap>, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let (informer, writer) = Informer::new();
        let (asked, queries) = tokio::sync::mpsc::unbounded_channel();
        let (turn, watches) = (AtomicUsize::new(0), Arc::new(watches));
        let service = tower::service_fn(move |request: Request<Body>| {
            let _ = asked.send(request.uri().query().unwrap_or_default().to_owned());
            let body = match watches.get(turn.fetch_add(1, Ordering::Relaxed)) {
                Some(events) => events.iter().map(|event| format!("{event}\n")).collect::<String>(),
                None => return futures::future::Either::Left(std::future::pending()),
            };
            let answer: Result<Response<Body>, std::convert::Infallible> =
                Ok(Response::new(Body::from(body.into_bytes())));
            futures::future::Either::Right(std::future::ready(answer))
        });
        let client = kube::Client::new(service, "default");
        tokio::spawn(writer.run(Api::all(client)));
        (informer, queries)
    }

    fn names(informer: &Informer<ConfigMap>) -> Vec<String> {
        informer.list().iter().map(|object| object.name_any()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn deletion_that_came_last_counts_as_reached() {
        let initial = vec![event("ADDED", "a", "3"), bookmark("7", true), event("DELETED", "a", "9")];
        let (informer, _queries) = follow(vec![initial]);
        informer.wait_reached(9).await;
        assert!(names(&informer).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_complete_at_the_bookmark_and_reached_to_its_version() {
        let (informer, _queries) = follow(vec![vec![event("ADDED", "a", "3"), bookmark("7", true)]]);
        informer.wait_reached(7).await;
        assert_eq!(names(&informer), ["a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn ended_watch_goes_on_from_where_it_was() {
        let watches = vec![
            vec![event("ADDED", "a", "3"), bookmark("7", true), bookmark("8", false)],
            vec![event("ADDED", "b", "9")],
        ];
        let (informer, mut queries) = follow(watches);
        informer.wait_reached(9).await;
        assert_eq!(names(&informer), ["a", "b"]);
        assert!(queries.recv().await.unwrap().contains("sendInitialEvents=true"));
        let second = queries.recv().await.unwrap();
        assert!(second.contains("resourceVersion=8") && !second.contains("sendInitialEvents"), "{second}");
    }

    #[tokio::test(start_paused = true)]
    async fn compacted_version_means_to_begin_anew() {
        let gone = json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Failure", "message": "too old", "reason": "Expired", "code": 410}});
        let watches = vec![
            vec![event("ADDED", "a", "3"), bookmark("7", true)],
            vec![gone],
            vec![event("ADDED", "b", "20"), bookmark("21", true)],
        ];
        let (informer, mut queries) = follow(watches);
        informer.wait_reached(21).await;
        assert_eq!(names(&informer), ["b"]);
        for begins in [true, false, true] {
            assert_eq!(queries.recv().await.unwrap().contains("sendInitialEvents=true"), begins);
        }
    }
}
