//! The one writer: judges writes against the state in memory, commits them in batches, publishes them.
//!
//! A write may build on an earlier one of the same batch, so every answer of a batch, refusals included, waits for the
//! commit: nobody learns of a state that is not durable.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::feed::{self, Feed, Limits};
use super::log::{Log, MAX_ROWS, Opened, Row};
use super::state::State;
use super::statements::Statement;
use super::{CommitError, Encode, Entry, Event, Key, Op, Shared, Unavailable};
use crate::metrics::{STORE_BATCH, STORE_COMMIT};

/// A batch ends with the write that brings its values to this size.
pub(super) const BATCH_BYTES: usize = 4 << 20;
/// Writes that may go along with another.
pub(super) const MAX_ALONG: usize = 8;
/// Revisions by which one slice raises the floor.
const SLICE: u64 = 256;

pub(super) enum Request {
    /// `along` are writes that go with it, at most [`MAX_ALONG`].
    Write {
        along: Vec<(Key, Op)>,
        key: Key,
        op: Op,
        reply: Reply,
    },
    Close,
}

type Reply = oneshot::Sender<Result<Arc<Entry>, CommitError>>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Request>,
    /// Taken from the queue, at most [`MAX_ROWS`].
    pending: VecDeque<Request>,
    /// `None` in memory.
    log: Option<Log>,
    /// The newest revision that was given to a write, committed or not.
    given: u64,
    graves: Graves,
    keep: u64,
    /// A slice has failed: the next one waits until a write has shown that the disk is well.
    compaction_stuck: bool,
    _end: End,
}

/// Ends watches and wakes who waits for the store to be closed, in whatever way the writer goes.
/// The last field of the [`Writer`]: the lock of the directory is released before.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Release);
        self.0.feeds.wake_all();
        self.0.finished.cancel();
    }
}

/// Tombstones that are still in the log: what creates the key again supersedes them.
#[derive(Default)]
struct Graves {
    by_key: FxHashMap<Key, u64>,
    by_revision: BTreeMap<u64, Key>,
}

impl Graves {
    fn apply(&mut self, row: &Row) {
        if row.deleted {
            self.by_key.insert(row.entry.key.clone(), row.entry.revision);
            self.by_revision.insert(row.entry.revision, row.entry.key.clone());
        } else if let Some(revision) = self.by_key.remove(&row.entry.key) {
            self.by_revision.remove(&revision);
        }
    }

    fn compact(&mut self, floor: u64) {
        while let Some(oldest) = self.by_revision.first_entry()
            && *oldest.key() <= floor
        {
            self.by_key.remove(&oldest.remove());
        }
    }
}

/// Writes that were judged and wait for their commit.
struct Batch {
    /// What will be current.
    state: State,
    rows: Vec<Row>,
    events: Vec<(Arc<Feed>, Arc<Event>)>,
    answers: Vec<(Reply, Result<Arc<Entry>, CommitError>)>,
    /// Tombstones among the rows.
    graves: FxHashMap<Key, u64>,
    bytes: usize,
}

impl Batch {
    fn new(state: State) -> Self {
        Self { state, rows: vec![], events: vec![], answers: vec![], graves: FxHashMap::default(), bytes: 0 }
    }

    fn is_full(&self) -> bool {
        self.rows.len() + MAX_ALONG >= MAX_ROWS || self.bytes >= BATCH_BYTES
    }
}

/// A write whose condition holds.
struct Write {
    key: Key,
    current: Option<Arc<Entry>>,
    deleted: bool,
    encode: Encode,
}

/// A write with its value.
struct Encoded {
    key: Key,
    current: Option<Arc<Entry>>,
    deleted: bool,
    value: Bytes,
}

impl Write {
    /// Looks whether the condition of a write holds.
    fn judge(state: &State, key: Key, op: Op) -> Result<Self, CommitError> {
        let current = state.get(&key).cloned();
        let absent = || current.clone().map_or(Ok(()), |current| Err(CommitError::Exists(current)));
        let at = |expect: u64| match &current {
            None => Err(CommitError::NotFound),
            Some(current) if current.revision != expect => Err(CommitError::Conflict(Arc::clone(current))),
            Some(_) => Ok(()),
        };
        let (holds, encode, deleted) = match op {
            Op::Create { encode } => (absent(), encode, false),
            Op::Put { encode } => (Ok(()), encode, false),
            Op::Update { expect, encode } => (at(expect), encode, false),
            Op::Delete { expect, encode } => (at(expect), encode, true),
        };
        holds.map(|()| Self { key, current, deleted, encode })
    }

    fn encode(self, revision: u64) -> Result<Encoded, Unavailable> {
        let Self { key, current, deleted, encode } = self;
        // A panic for one object must not end the writer for all.
        let value = catch_unwind(AssertUnwindSafe(|| encode(revision))).map_err(|_| Unavailable::Encode)?;
        Ok(Encoded { key, current, deleted, value })
    }
}

impl Writer {
    pub(super) fn new(
        opened: Option<Opened>,
        keep: u64,
        limits: Limits,
        queue: mpsc::Receiver<Request>,
    ) -> (Arc<Shared>, Self) {
        let mut state = State::default();
        let mut graves = Graves::default();
        let (mut log, mut history, mut floor) = (None, None, 0);
        if let Some(opened) = opened {
            state.revision = opened.revision;
            for row in opened.rows {
                graves.apply(&row);
                if !row.deleted {
                    state.put(row.entry);
                }
            }
            (log, history, floor) = (Some(opened.log), Some(opened.history), opened.floor);
        }
        let given = state.revision;
        let shared = Arc::new(Shared::new(state, limits, floor, history));
        let end = End(Arc::clone(&shared));
        let writer = Self {
            shared: Arc::clone(&shared),
            queue,
            pending: VecDeque::new(),
            log,
            given,
            graves,
            keep,
            compaction_stuck: false,
            _end: end,
        };
        (shared, writer)
    }

    pub(super) async fn run(mut self) {
        let mut taken = Vec::with_capacity(MAX_ROWS);
        let mut open = true;
        while open {
            if self.pending.is_empty() {
                let idle = self.slice().is_none();
                tokio::select! {
                    biased;
                    count = self.queue.recv_many(&mut taken, MAX_ROWS) => open = count > 0,
                    () = std::future::ready(()), if !idle => {}
                }
                // Who was answered just now may have the next write ready: one fsync is for as many as possible.
                tokio::task::yield_now().await;
                while taken.len() < MAX_ROWS
                    && let Ok(request) = self.queue.try_recv()
                {
                    taken.push(request);
                }
                self.pending.extend(taken.drain(..));
            }
            self.write().await;
            // One slice per batch keeps up with any load: a batch is not larger.
            if let Some(to) = self.slice() {
                self.compact(to).await;
            }
        }
        self.finish().await;
    }

    /// Commits what was taken from the queue, as much of it as fits into one batch.
    async fn write(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        if let Err(unavailable) = self.revive().await {
            for request in self.pending.drain(..) {
                match request {
                    Request::Write { reply, .. } => {
                        let _ = reply.send(Err(unavailable.clone().into()));
                    }
                    Request::Close => self.queue.close(),
                }
            }
            return;
        }
        let mut batch = Batch::new(State::clone(&self.shared.state.load()));
        while !batch.is_full()
            && let Some(request) = self.pending.pop_front()
        {
            match request {
                Request::Write { along, key, op, reply } => {
                    let answer = self.judge_all(&mut batch, along, key, op);
                    batch.answers.push((reply, answer));
                }
                // What is queued is still committed; nothing is added.
                Request::Close => self.queue.close(),
            }
        }
        self.commit(batch).await;
    }

    /// Makes a write and those that go with it part of the batch, or says why not.
    fn judge_all(
        &mut self,
        batch: &mut Batch,
        along: Vec<(Key, Op)>,
        key: Key,
        op: Op,
    ) -> Result<Arc<Entry>, CommitError> {
        let write = Write::judge(&batch.state, key, op)?;
        let along = along.into_iter().filter_map(|(key, op)| Write::judge(&batch.state, key, op).ok());
        // Encoded before the first of them is taken in: one that cannot be encoded takes all with it.
        let mut revision = self.given;
        let mut encode = |write: Write| {
            revision += 1;
            write.encode(revision)
        };
        let along = along.map(&mut encode).collect::<Result<Vec<_>, _>>()?;
        let write = encode(write)?;
        for write in along {
            self.take_in(batch, write);
        }
        Ok(self.take_in(batch, write))
    }

    /// Gives a write the next revision.
    fn take_in(&mut self, batch: &mut Batch, write: Encoded) -> Arc<Entry> {
        let Encoded { key, current, deleted, value } = write;
        self.given += 1;
        let revision = self.given;
        let feed = self.shared.feeds.get(&key.resource);
        let (key, created, prev) = match &current {
            Some(current) => (current.key.clone(), current.created, current.revision),
            None => {
                let grave = batch.graves.get(&key).or_else(|| self.graves.by_key.get(&key));
                let prev = grave.copied().unwrap_or(0);
                (Key { resource: Arc::clone(&feed.resource), ..key }, revision, prev)
            }
        };
        batch.bytes += value.len();
        let event = Event::new(Entry { key, revision, created, value }, deleted, current);
        let entry = Arc::clone(&event.entry);
        batch.state.revision = revision;
        if deleted {
            batch.state.remove(&entry.key);
            batch.graves.insert(entry.key.clone(), revision);
        } else {
            batch.state.put(Arc::clone(&entry));
        }
        batch.events.push((feed, Arc::new(event)));
        batch.rows.push(Row { entry: Arc::clone(&entry), prev, deleted });
        entry
    }

    /// Makes a batch durable, then public, then answers.
    async fn commit(&mut self, batch: Batch) {
        let Batch { state, rows, events, answers, .. } = batch;
        if !rows.is_empty() {
            STORE_BATCH.add(f64::from(u32::try_from(rows.len()).unwrap_or(u32::MAX)));
            if let Err(unavailable) = self.append(&rows).await {
                for (reply, _) in answers {
                    let _ = reply.send(Err(unavailable.clone().into()));
                }
                return;
            }
            self.publish(state, events);
        }
        for (reply, answer) in answers {
            // Who does not wait any more does not need it.
            let _ = reply.send(answer);
        }
    }

    async fn append(&mut self, rows: &[Row]) -> Result<(), Unavailable> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let begin = Instant::now();
        if let Err(error) = self.shared.statements.run(Statement::Append, log.append(rows, now())).await {
            error!(%error, writes = rows.len(), "cannot write to the database: nothing was acknowledged");
            return Err(error.into());
        }
        STORE_COMMIT.observe(begin.elapsed());
        self.compaction_stuck = false;
        for row in rows {
            self.graves.apply(row);
        }
        Ok(())
    }

    /// Shows everybody a state and the events that led to it.
    fn publish(&mut self, state: State, events: Vec<(Arc<Feed>, Arc<Event>)>) {
        let revision = state.revision;
        let mut touched: Vec<Arc<Feed>> = Vec::new();
        let mut lost = 0;
        for (feed, event) in events {
            lost = lost.max(feed.push(event));
            if !touched.iter().any(|known| Arc::ptr_eq(known, &feed)) {
                touched.push(feed);
            }
        }
        if self.log.is_none() {
            // In memory the rings are all the history there is.
            self.shared.floor.fetch_max(lost.max(revision.saturating_sub(self.keep)), Ordering::AcqRel);
        }
        // Who waits is woken before the old state is dropped.
        let _old = self.shared.state.swap(Arc::new(state));
        feed::wake(touched.iter());
        self.shared.commits.send_replace(());
    }

    /// After a failure: opens the database again and publishes what it has taken without our knowledge.
    async fn revive(&mut self) -> Result<(), Unavailable> {
        let Some(log) = self.log.as_mut().filter(|log| !log.works()) else { return Ok(()) };
        let mut state = State::clone(&self.shared.state.load());
        let rows = log.reopen(state.revision).await?;
        info!(unacknowledged = rows.len(), "the database works again");
        let mut events = Vec::with_capacity(rows.len());
        for row in rows {
            self.graves.apply(&row);
            let previous = state.get(&row.entry.key).cloned();
            state.revision = row.entry.revision;
            self.given = self.given.max(row.entry.revision);
            let event = Event::new(Arc::unwrap_or_clone(row.entry), row.deleted, previous);
            if row.deleted {
                state.remove(&event.entry.key);
            } else {
                state.put(Arc::clone(&event.entry));
            }
            let feed = self.shared.feeds.get(&event.entry.key.resource);
            events.push((feed, Arc::new(event)));
        }
        if !events.is_empty() {
            self.publish(state, events);
        }
        Ok(())
    }

    /// Up to where the next slice of compaction should go, if one is due. It waits for a tenth of what is kept (at
    /// most a full slice) to gather, as each costs an fsync.
    fn slice(&self) -> Option<u64> {
        if !self.log.as_ref().is_some_and(Log::works) || self.compaction_stuck {
            return None;
        }
        let floor = self.shared.compacted();
        let target = self.shared.revision().saturating_sub(self.keep);
        let slack = SLICE.min(self.keep / 10);
        (target > floor + slack).then(|| target.min(floor + SLICE))
    }

    async fn compact(&mut self, to: u64) {
        let Some(log) = &mut self.log else { return };
        let from = self.shared.compacted();
        match self.shared.statements.run(Statement::Compact, log.compact(from, to)).await {
            Ok(()) => {
                self.shared.floor.store(to, Ordering::Release);
                self.graves.compact(to);
            }
            Err(error) => {
                self.compaction_stuck = true;
                warn!(%error, "cannot compact the database: trying again after the next write");
            }
        }
    }

    async fn finish(mut self) {
        if let Some(history) = &self.shared.history {
            history.close().await;
        }
        if let Some(log) = self.log.take()
            && let Err(error) = log.close().await
        {
            warn!(%error, "the database was not closed well: the next start repairs that");
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
