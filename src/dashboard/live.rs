//! One model for all viewers, alive while somebody watches.
//!
//! The first viewer starts the keeper, a task that reads the informer subscriptions into the model and broadcasts
//! patches; with the last viewer it ends, so that an unwatched dashboard costs nothing. A viewer takes a snapshot and
//! its place in the broadcast under one lock, hence sees each change exactly once. One that falls too far behind to be
//! told every patch gets a new snapshot instead. Beside it a meter is read once a second, and told of when something
//! has passed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Meter;
use super::model::{Input, Model, json};
use crate::cluster::{Cluster, Subscription};

/// The least time between two patches: changes in between travel together.
const PATCH_INTERVAL: Duration = Duration::from_millis(33);
/// The time between two readings of the meter.
const METER_INTERVAL: Duration = Duration::from_secs(1);
/// Patches kept for a viewer that is slow to read, about two seconds' worth.
const BACKLOG: usize = 64;
/// How long one who asks for a snapshot waits for the cluster's first lists.
const START_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the cluster is still starting, try again in a moment")]
    Starting,
}

/// What a viewer is told, as JSON.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Snapshot(Arc<str>),
    Patch(Arc<str>),
    Traffic(Arc<str>),
}

/// Makes a meter that starts at nothing.
pub type NewMeter = Box<dyn Fn() -> Box<dyn Meter> + Send + Sync>;

/// Where viewers come and go.
pub(super) struct Hub {
    cluster: Cluster,
    meter: NewMeter,
    version: &'static str,
    shutdown: CancellationToken,
    live: Mutex<Weak<Live>>,
}

/// The model and its tasks, owned by those who watch.
struct Live {
    shared: Arc<Shared>,
    _keeper: AbortOnDropHandle<()>,
    _reader: AbortOnDropHandle<()>,
}

struct Shared {
    model: Mutex<Model>,
    news: broadcast::Sender<Message>,
    complete: watch::Sender<bool>,
}

impl Hub {
    pub(super) fn new(cluster: Cluster, meter: NewMeter, version: &'static str, shutdown: CancellationToken) -> Self {
        Self { cluster, meter, version, shutdown, live: Mutex::new(Weak::new()) }
    }

    /// The map as it is now.
    pub(super) async fn snapshot(&self) -> Result<Arc<str>, Error> {
        let live = self.join();
        tokio::time::timeout(START_LIMIT, live.complete()).await.map_err(|_| Error::Starting)?;
        Ok(live.follow().0)
    }

    /// A snapshot, then patches until the viewer leaves or the program ends.
    pub(super) fn messages(&self) -> impl Stream<Item = Message> + Send + use<> {
        let live = self.join();
        let start = async move {
            live.complete().await;
            let (snapshot, news) = live.follow();
            let rest = futures::stream::unfold((live, news), |(live, mut news)| async move {
                match news.recv().await {
                    Ok(message) => Some((message, (live, news))),
                    Err(RecvError::Lagged(_)) => {
                        let (snapshot, news) = live.follow();
                        Some((Message::Snapshot(snapshot), (live, news)))
                    }
                    Err(RecvError::Closed) => None,
                }
            });
            futures::stream::iter([Message::Snapshot(snapshot)]).chain(rest)
        };
        futures::stream::once(start).flatten().take_until(self.shutdown.clone().cancelled_owned())
    }

    fn join(&self) -> Arc<Live> {
        let mut current = self.live.lock();
        if let Some(live) = current.upgrade() {
            return live;
        }
        let shared = Arc::new(Shared {
            model: Mutex::new(Model::new(self.version)),
            news: broadcast::Sender::new(BACKLOG),
            complete: watch::Sender::new(false),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared), Feed::of(&self.cluster)));
        let reader = tokio::spawn(read(shared.news.clone(), (self.meter)()));
        let live =
            Arc::new(Live { shared, _keeper: AbortOnDropHandle::new(keeper), _reader: AbortOnDropHandle::new(reader) });
        *current = Arc::downgrade(&live);
        live
    }

    #[cfg(test)]
    pub(super) fn is_watched(&self) -> bool {
        self.live.lock().strong_count() > 0
    }
}

impl Live {
    async fn complete(&self) {
        // The sender lives as long as `self`, so this can't fail.
        let _ = self.shared.complete.subscribe().wait_for(|complete| *complete).await;
    }

    /// The map and the patches that follow it without gap or overlap.
    fn follow(&self) -> (Arc<str>, broadcast::Receiver<Message>) {
        let mut model = self.shared.model.lock();
        (model.snapshot(), self.shared.news.subscribe())
    }
}

/// The subscriptions that the map is made from.
struct Feed {
    services: Subscription<k8s_openapi::api::core::v1::Service>,
    slices: Subscription<k8s_openapi::api::discovery::v1::EndpointSlice>,
    pods: Subscription<k8s_openapi::api::core::v1::Pod>,
    nodes: Subscription<k8s_openapi::api::core::v1::Node>,
}

impl Feed {
    fn of(cluster: &Cluster) -> Self {
        Self {
            services: cluster.services.look_on(),
            slices: cluster.slices.look_on(),
            pods: cluster.pods.look_on(),
            nodes: cluster.nodes.look_on(),
        }
    }

    /// The next change of any kind; `None` when the cache is gone.
    async fn next(&mut self) -> Option<Input> {
        tokio::select! {
            Some(change) = self.services.recv() => Some(Input::Service(change)),
            Some(change) = self.slices.recv() => Some(Input::Slice(change)),
            Some(change) = self.pods.recv() => Some(Input::Pod(change)),
            Some(change) = self.nodes.recv() => Some(Input::Node(change)),
            else => None,
        }
    }

    /// Hands over what waits now, and not what arrives meanwhile, so that it ends under any load.
    fn drain(&mut self, model: &mut Model) {
        fn each<K>(changes: &mut Subscription<K>, mut take: impl FnMut(crate::cluster::Change<K>)) {
            for _ in 0..changes.len() {
                if let Ok(change) = changes.try_recv() {
                    take(change);
                }
            }
        }
        each(&mut self.nodes, |change| model.apply(Input::Node(change)));
        each(&mut self.services, |change| model.apply(Input::Service(change)));
        each(&mut self.pods, |change| model.apply(Input::Pod(change)));
        each(&mut self.slices, |change| model.apply(Input::Slice(change)));
    }
}

/// Reads changes into the model. The first change after a quiet time goes out at once, later ones with the next patch.
async fn keep(shared: Arc<Shared>, mut feed: Feed) {
    while let Some(first) = feed.next().await {
        let told = {
            let mut model = shared.model.lock();
            model.apply(first);
            feed.drain(&mut model);
            if !model.is_complete() {
                continue;
            }
            let patch = model.flush();
            shared.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
            // Sent under the lock: whoever holds it sees the model and the broadcast in step. No receiver is fine.
            patch.map(|patch| shared.news.send(Message::Patch(patch))).is_some()
        };
        if told {
            tokio::time::sleep(PATCH_INTERVAL).await;
        }
    }
}

/// Tells what the meter says; that nothing passes any more is told once.
async fn read(news: broadcast::Sender<Message>, mut meter: Box<dyn Meter>) {
    let mut quiet = true;
    loop {
        let started = tokio::time::Instant::now();
        tokio::time::sleep(METER_INTERVAL).await;
        let mut traffic = meter.read();
        if !(quiet && traffic.is_empty()) {
            quiet = traffic.is_empty();
            traffic.milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            // No receiver is fine: the last one is just leaving.
            let _ = news.send(Message::Traffic(json(&traffic)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Mark, Progress};
    use crate::dashboard::view::Traffic;

    /// Gives what it holds, then nothing.
    struct Readings(std::vec::IntoIter<Traffic>);

    impl Meter for Readings {
        fn read(&mut self) -> Traffic {
            self.0.next().unwrap_or_default()
        }
    }

    fn still() -> NewMeter {
        Box::new(|| Box::new(Readings(Vec::new().into_iter())))
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_is_told_once_a_second_and_its_end_once() {
        let (cluster, writers) = Cluster::new();
        writers.nodes.mark_synced();
        writers.pods.mark_synced();
        writers.services.mark_synced();
        writers.slices.mark_synced();
        let passed = |bytes| Traffic {
            passed: vec![("default/web".into(), "default/web-1".into(), bytes)],
            ..Traffic::default()
        };
        let meter: NewMeter =
            Box::new(move || Box::new(Readings(vec![Traffic::default(), passed(5), passed(7)].into_iter())));
        let hub = Hub::new(cluster, meter, "1.2.3", CancellationToken::new());
        let started = tokio::time::Instant::now();
        let mut viewer = std::pin::pin!(hub.messages());
        assert!(matches!(viewer.next().await, Some(Message::Snapshot(_))));
        let mut told = Vec::new();
        for _ in 0..3 {
            let Some(Message::Traffic(text)) = viewer.next().await else { panic!("traffic is told") };
            told.push((started.elapsed().as_secs(), text.to_string()));
        }
        let line =
            |bytes| format!("{{\"milliseconds\":1000,\"passed\":[[\"default/web\",\"default/web-1\",{bytes}]]}}");
        assert_eq!(told, [(2, line(5)), (3, line(7)), (4, "{\"milliseconds\":1000}".to_owned())]);
        let more = tokio::time::timeout(Duration::from_secs(60), viewer.next()).await;
        assert!(more.is_err(), "silence is not told again");
    }

    fn hub() -> (Hub, crate::cluster::Writers) {
        let (cluster, writers) = Cluster::new();
        writers.nodes.mark_synced();
        writers.pods.mark_synced();
        writers.services.mark_synced();
        writers.slices.mark_synced();
        (Hub::new(cluster, still(), "1.2.3", CancellationToken::new()), writers)
    }

    #[tokio::test]
    async fn viewer_that_falls_behind_gets_a_new_snapshot() {
        let (hub, writers) = hub();
        let mut viewer = std::pin::pin!(hub.messages());
        assert!(matches!(viewer.next().await, Some(Message::Snapshot(_))));
        let shared = Arc::clone(&hub.join().shared);
        for _ in 0..=BACKLOG {
            let _ = shared.news.send(Message::Patch("{}".into()));
        }
        assert!(matches!(viewer.next().await, Some(Message::Snapshot(_))));
        writers.pods.apply(k8s_openapi::api::core::v1::Pod::default());
        assert!(matches!(viewer.next().await, Some(Message::Patch(patch)) if patch.contains("\"revision\":1,")));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_the_page() {
        let (hub, writers) = hub();
        let mut viewer = std::pin::pin!(hub.messages());
        assert!(matches!(viewer.next().await, Some(Message::Snapshot(_))));
        writers.pods.apply(k8s_openapi::api::core::v1::Pod::default());
        assert!(matches!(viewer.next().await, Some(Message::Patch(_))));
        // The keeper sleeps now, and reads nothing.
        let (mark, gone) = Mark::new();
        hub.cluster.pods.mark(&mark);
        drop(mark);
        let asked = tokio::time::Instant::now();
        gone.wait().await;
        assert_eq!(asked.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn viewers_share_one_model_which_goes_with_the_last_of_them() {
        let (hub, _writers) = hub();
        assert!(!hub.is_watched());
        let mut one = Box::pin(hub.messages());
        let mut two = Box::pin(hub.messages());
        let (first, second) = (one.next().await, two.next().await);
        let (Some(Message::Snapshot(first)), Some(Message::Snapshot(second))) = (first, second) else {
            panic!("a stream begins with a snapshot")
        };
        assert!(Arc::ptr_eq(&first, &second), "made once for both");
        drop(one);
        assert!(hub.is_watched());
        drop(two);
        assert!(!hub.is_watched());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn map_waits_for_the_first_lists() {
        let (cluster, writers) = Cluster::new();
        let hub = Hub::new(cluster, still(), "1.2.3", CancellationToken::new());
        let mut asked = std::pin::pin!(hub.snapshot());
        writers.pods.apply(k8s_openapi::api::core::v1::Pod::default());
        for _ in 0..10 {
            assert!(futures::poll!(&mut asked).is_pending());
            tokio::task::yield_now().await;
        }
        writers.nodes.mark_synced();
        writers.pods.mark_synced();
        writers.services.mark_synced();
        writers.slices.mark_synced();
        let snapshot = asked.await.expect("complete");
        assert!(snapshot.contains("\"phase\":\"Pending\""), "{snapshot}");
    }
}
