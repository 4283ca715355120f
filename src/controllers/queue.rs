//! The work queue of a controller: keys instead of events.
//!
//! Rules (client-go's work queue has the same):
//! * A key is waiting at most once, so a burst of changes of one object is one reconcile.
//! * A key is never handed out while it is being worked on; if it is added meanwhile, it waits again afterwards.
//! * A [`Mark`] waits for the turns of the keys that are waiting or being worked on; it follows a key that lost a race or
//!   is behind, and leaves one that failed: what cannot be done is not waited for.
//! * A failed key comes back after 5 ms, then twice as long each time up to 1000 s, spread by up to a fifth so that
//!   keys that failed together do not return together. Success forgets the failures.
//!
//! Nothing here ticks: the queue sleeps until a key is added or the earliest postponed key is due.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use rand::Rng;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::Mark;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);
/// What an object asks for may be more than clocks can add to the present.
const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// See the module documentation. One task takes keys, any number of tasks add them.
pub(super) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    queued: FxHashSet<K>,
    running: FxHashMap<K, Turn>,
    /// What waits for the next turn of a key to succeed. A key whose turn has to be repeated is here, marked or not.
    owed: FxHashMap<K, Vec<Mark>>,
    postponed: BTreeSet<(Instant, K)>,
    due: FxHashMap<K, Instant>,
    failures: FxHashMap<K, u32>,
}

/// A key that is being worked on.
#[derive(Default)]
struct Turn {
    /// The key was added again meanwhile.
    again: bool,
    marks: Vec<Mark>,
}

impl<K: Clone + Ord + Hash> Queue<K> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                queued: FxHashSet::default(),
                running: FxHashMap::default(),
                owed: FxHashMap::default(),
                postponed: BTreeSet::new(),
                due: FxHashMap::default(),
                failures: FxHashMap::default(),
            }),
            changed: Notify::new(),
        }
    }

    /// Makes `key` wait for its turn now. A postponed turn of the same key is dropped: this one comes first.
    pub(super) fn add(&self, key: K) {
        self.state.lock().add(key);
        self.changed.notify_one();
    }

    /// How many keys wait for their turn now.
    pub(super) fn depth(&self) -> usize {
        self.state.lock().ready.len()
    }

    /// Makes `key` wait for its turn after `delay`, unless an earlier turn is waiting.
    pub(super) fn add_after(&self, key: K, delay: Duration) {
        self.state.lock().postpone(key, Instant::now() + delay);
        self.changed.notify_one();
    }

    /// Waits for the next key. The caller works on it and then calls [`Self::done`] or [`Self::failed`].
    pub(super) async fn next(&self) -> K {
        loop {
            let due = {
                let mut state = self.state.lock();
                state.promote(Instant::now());
                if let Some(key) = state.take() {
                    return key;
                }
                state.postponed.first().map(|(due, _)| *due)
            };
            match due {
                Some(due) => tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = self.changed.notified() => {}
                },
                None => self.changed.notified().await,
            }
        }
    }

    /// Lets a mark wait until the work that is known now is done.
    pub(super) fn mark(&self, mark: &Mark) {
        self.state.lock().mark(mark);
    }

    /// The work on `key` succeeded; `again` asks for another turn after a while.
    pub(super) fn done(&self, key: &K, again: Option<Duration>) {
        let mut state = self.state.lock();
        state.failures.remove(key);
        // Its marks go: what they waited for is done.
        state.release(key);
        if let Some(delay) = again {
            state.postpone(key.clone(), Instant::now() + delay.min(LONGEST_WAIT));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The work on `key` could not be done yet: it comes back after `delay`, or when it is added.
    pub(super) fn behind(&self, key: &K, delay: Duration) {
        let mut state = self.state.lock();
        state.failures.remove(key);
        state.repeat(key);
        state.postpone(key.clone(), Instant::now() + delay);
        drop(state);
        self.changed.notify_one();
    }

    /// The work on `key` failed: it comes back after the returned delay.
    pub(super) fn failed(&self, key: &K) -> Duration {
        self.state.lock().release(key);
        self.postpone_failed(key)
    }

    /// Somebody else wrote first: the key comes back after the returned delay, and its marks wait on.
    pub(super) fn lost_race(&self, key: &K) -> Duration {
        self.state.lock().repeat(key);
        self.postpone_failed(key)
    }

    fn postpone_failed(&self, key: &K) -> Duration {
        let mut state = self.state.lock();
        let failures = state.failures.entry(key.clone()).or_insert(0);
        let delay = back_off(*failures).mul_f64(rand::rng().random_range(1.0..1.2));
        *failures = failures.saturating_add(1);
        state.postpone(key.clone(), Instant::now() + delay);
        drop(state);
        self.changed.notify_one();
        delay
    }
}

/// The delay after `failures` earlier failures in a row, before the jitter.
fn back_off(failures: u32) -> Duration {
    2u32.checked_pow(failures)
        .and_then(|factor| FIRST_RETRY.checked_mul(factor))
        .map_or(LAST_RETRY, |d| d.min(LAST_RETRY))
}

impl<K: Clone + Ord + Hash> State<K> {
    fn add(&mut self, key: K) {
        self.cancel_postponed(&key);
        if let Some(turn) = self.running.get_mut(&key) {
            turn.again = true;
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn postpone(&mut self, key: K, at: Instant) {
        let waits_already = self.queued.contains(&key)
            || self.running.get(&key).is_some_and(|turn| turn.again)
            || self.due.get(&key).is_some_and(|due| *due <= at);
        if !waits_already {
            self.cancel_postponed(&key);
            self.due.insert(key.clone(), at);
            self.postponed.insert((at, key));
        }
    }

    fn cancel_postponed(&mut self, key: &K) {
        if let Some(due) = self.due.remove(key) {
            self.postponed.remove(&(due, key.clone()));
        }
    }

    fn promote(&mut self, now: Instant) {
        while self.postponed.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.postponed.pop_first() {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }

    fn take(&mut self) -> Option<K> {
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        let marks = self.owed.remove(&key).unwrap_or_default();
        self.running.insert(key.clone(), Turn { again: false, marks });
        Some(key)
    }

    /// Ends a turn. Returns its marks.
    fn release(&mut self, key: &K) -> Vec<Mark> {
        let Some(turn) = self.running.remove(key) else { return Vec::new() };
        if turn.again {
            self.add(key.clone());
        }
        turn.marks
    }

    /// Ends a turn that has not done its work.
    fn repeat(&mut self, key: &K) {
        let marks = self.release(key);
        self.owed.entry(key.clone()).or_default().extend(marks);
    }

    fn mark(&mut self, mark: &Mark) {
        let again = self.running.iter().filter(|(_, turn)| turn.again).map(|(key, _)| key);
        let waiting: FxHashSet<K> = self.ready.iter().chain(self.owed.keys()).chain(again).cloned().collect();
        for key in waiting {
            self.owed.entry(key).or_default().push(mark.clone());
        }
        for turn in self.running.values_mut().filter(|turn| !turn.again) {
            turn.marks.push(mark.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn ready_now(queue: &Queue<&'static str>) -> Option<&'static str> {
        queue.next().now_or_never()
    }

    #[tokio::test(start_paused = true)]
    async fn burst_of_one_key_is_one_turn() {
        let queue = Queue::new();
        for key in ["a", "b", "a", "a"] {
            queue.add(key);
        }
        assert_eq!([ready_now(&queue), ready_now(&queue), ready_now(&queue)], [Some("a"), Some("b"), None]);
    }

    #[tokio::test(start_paused = true)]
    async fn key_added_during_its_work_waits_until_the_work_is_done() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(ready_now(&queue), Some("a"));
        queue.add("a");
        assert_eq!(ready_now(&queue), None);
        queue.done(&"a", None);
        assert_eq!(ready_now(&queue), Some("a"));
        queue.done(&"a", None);
        assert_eq!(ready_now(&queue), None);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_key_returns_after_a_doubling_delay_and_success_forgets_it() {
        let queue = Queue::new();
        queue.add("a");
        let mut delays = Vec::new();
        for _ in 0..4 {
            let key = queue.next().await;
            delays.push(queue.failed(&key));
        }
        for (delay, base) in delays.iter().zip([5, 10, 20, 40]) {
            let base = Duration::from_millis(base);
            assert!(*delay >= base && *delay < base.mul_f64(1.2), "{delay:?} for {base:?}");
        }
        let started = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(started.elapsed() >= Duration::from_millis(40));
        queue.done(&"a", None);
        queue.add("a");
        let key = queue.next().await;
        assert!(queue.failed(&key) < Duration::from_millis(6));
    }

    #[tokio::test(start_paused = true)]
    async fn immediate_turn_replaces_a_postponed_one() {
        let queue = Queue::new();
        queue.add_after("a", Duration::from_millis(30));
        assert_eq!(ready_now(&queue), None);
        queue.add("a");
        assert_eq!(ready_now(&queue), Some("a"));
        queue.done(&"a", None);
        queue.add_after("b", Duration::from_millis(60));
        assert_eq!(queue.next().await, "b", "the postponed turn of a is gone");
    }

    /// What a mark is waiting for is told by the tracker.
    #[tokio::test(start_paused = true)]
    async fn mark_waits_for_what_is_queued_and_running_and_for_nothing_later() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("b");
        assert_eq!(ready_now(&queue), Some("a"));
        let (mark, gone) = Mark::new();
        queue.mark(&mark);
        drop(mark);
        queue.add("c");
        queue.done(&"a", None);
        assert!(!gone.is_empty(), "b still waits");
        assert_eq!(ready_now(&queue), Some("b"));
        assert!(!gone.is_empty(), "b is being worked on");
        queue.done(&"b", None);
        assert!(gone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn mark_waits_for_the_second_turn_of_a_key_that_changed_during_its_first() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(ready_now(&queue), Some("a"));
        queue.add("a");
        let (mark, gone) = Mark::new();
        queue.mark(&mark);
        drop(mark);
        queue.done(&"a", None);
        assert!(!gone.is_empty(), "the first turn did not see the change");
        assert_eq!(ready_now(&queue), Some("a"));
        queue.done(&"a", None);
        assert!(gone.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn mark_follows_a_key_that_lost_a_race_and_leaves_one_that_failed() {
        let queue = Queue::new();
        queue.add("a");
        assert_eq!(ready_now(&queue), Some("a"));
        queue.lost_race(&"a");
        let (mark, gone) = Mark::new();
        queue.mark(&mark);
        drop(mark);
        assert_eq!(queue.next().await, "a");
        queue.behind(&"a", Duration::from_millis(3));
        assert!(!gone.is_empty(), "what the cache has not seen yet is still to be done");
        assert_eq!(queue.next().await, "a");
        queue.failed(&"a");
        assert!(gone.is_empty());
    }

    #[test]
    fn back_off_ends_at_a_thousand_seconds() {
        assert_eq!(back_off(0), Duration::from_millis(5));
        assert_eq!(back_off(17), Duration::from_millis(655_360));
        assert_eq!([18, 31, 32, u32::MAX].map(back_off), [LAST_RETRY; 4]);
    }
}
