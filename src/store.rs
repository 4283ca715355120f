//! The store: every object of the cluster, every change of it, in one sequence of revisions.
//!
//! * **Present**: an immutable snapshot in memory (`state.rs`). Reading takes no lock.
//! * **Changes**: one writer task (`writer.rs`) commits what is queued in batches, each with one fsync, to the
//!   revision log on SQLite (`log.rs`, which tells the theory of operation).
//! * **Watching**: one bounded ring of recent events per resource (`feed.rs`), from which each [`Watch`] pulls.
//!   What a ring has dropped, and states of the past, are read back from the log (`history.rs`).
//!
//! Each object is encoded once per revision; readers, watchers and the log share the bytes.
//!
//! Without a path the store keeps everything in memory and there is no SQLite at all: rings and snapshots are all
//! that the present needs, a database in memory would hold each value a second time, and it could not be read by a
//! second connection beside the writer. History then reaches back as far as the rings do (see [`MEMORY_EVENTS`]).

pub mod backup;
mod error;
mod feed;
mod history;
mod key;
mod lock;
mod log;
mod state;
mod statements;
mod watch;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch as watch_channel};
use tokio_util::sync::CancellationToken;

pub use error::{CommitError, OpenError, ReadError, Unavailable};
pub use key::{Key, KeyError, Scope};
pub use lock::{DirLock, LOCK_FILE, LockError};
pub use statements::StatementStats;
pub use watch::Watch;

use crate::config::StoreConfig;
use feed::{Feeds, Limits};
use history::History;
use log::Log;
use state::State;
use statements::{Statement, Statements};
use writer::{Request, Writer};

/// Events that a ring keeps beside a log on disk; older ones are read from there.
const RING: Limits = Limits { events: 2048, bytes: 4 << 20 };
/// Events per resource that a store in memory keeps at most, whatever `keep_revisions` says.
pub const MEMORY_EVENTS: usize = 10_000;
/// Bytes of values per resource that a store in memory keeps for the past.
const MEMORY_BYTES: usize = 16 << 20;
/// Writes that wait for the writer before callers do.
const QUEUE: usize = 1024;

/// An object at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: Key,
    /// The write that made this state: the object's `resourceVersion`.
    pub revision: u64,
    /// The write that created the object.
    pub created: u64,
    /// The object as JSON, encoded once and shared by every reader and watcher.
    pub value: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    fn of(entry: &Entry, deleted: bool) -> Self {
        match deleted {
            true => Self::Deleted,
            false if entry.revision == entry.created => Self::Added,
            false => Self::Modified,
        }
    }

    /// The `type` of the event in a watch.
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One write, as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// The new state. Of a deleted object: its last state, encoded with the revision of the delete.
    pub entry: Arc<Entry>,
    /// The state before; `None` for a new object.
    pub previous: Option<Arc<Entry>>,
    /// The event as a line of a watch. Made once and shared by every watcher, as `entry.value` is a part of it.
    pub line: Bytes,
}

impl Event {
    fn new(mut entry: Entry, deleted: bool, previous: Option<Arc<Entry>>) -> Self {
        let kind = EventKind::of(&entry, deleted);
        let (head, tail) = (format!("{{\"type\":\"{}\",\"object\":", kind.name()), b"}\n");
        let line = Bytes::from([head.as_bytes(), &entry.value, tail].concat());
        entry.value = line.slice(head.len()..line.len() - tail.len());
        Self { kind, entry: Arc::new(entry), previous, line }
    }
}

/// Encodes the object that a write makes. Called once, by the writer, with the revision that the write gets, so that
/// `metadata.resourceVersion` is inside the one encoding. It runs while other writes wait: no I/O, no locks.
pub type Encode = Box<dyn FnOnce(u64) -> Bytes + Send>;

/// A write of one object.
pub enum Op {
    /// Fails when the object exists.
    Create { encode: Encode },
    /// Creates the object, or replaces it whatever it is.
    Put { encode: Encode },
    /// Fails when the object is not at the revision `expect`.
    Update { expect: u64, encode: Encode },
    /// Fails when the object is not at the revision `expect`. `encode` gives the last state with the delete's revision.
    Delete { expect: u64, encode: Encode },
}

/// The objects of a scope at one revision, ordered by namespace and name.
#[derive(Clone, Debug)]
pub struct Listing {
    pub revision: u64,
    pub items: Vec<Arc<Entry>>,
}

/// The store. Clones are handles on the same one; when the last is dropped, the writer finishes what is queued and
/// ends.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What the writer publishes and everybody reads.
struct Shared {
    state: ArcSwap<State>,
    feeds: Feeds,
    /// Changed by every commit.
    commits: watch_channel::Sender<()>,
    floor: AtomicU64,
    closed: AtomicBool,
    /// Cancelled when the writer is gone and the files are released.
    finished: CancellationToken,
    /// `None` in memory.
    history: Option<History>,
    statements: Statements,
}

impl Shared {
    fn new(state: State, limits: Limits, floor: u64, history: Option<History>) -> Self {
        Self {
            feeds: Feeds::new(limits, state.revision),
            state: ArcSwap::from_pointee(state),
            commits: watch_channel::Sender::new(()),
            floor: AtomicU64::new(floor),
            closed: AtomicBool::new(false),
            finished: CancellationToken::new(),
            history,
            statements: Statements::default(),
        }
    }

    fn revision(&self) -> u64 {
        self.state.load().revision
    }

    fn compacted(&self) -> u64 {
        self.floor.load(Ordering::Acquire)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Store {
    /// Opens the store, creates what is missing (the directory, too) and starts the writer on the current runtime.
    /// It holds the lock of the directory until it is closed.
    pub async fn open(config: &StoreConfig) -> Result<Self, OpenError> {
        // The newest revision is never compacted: the numbering goes on from it.
        let keep = config.keep_revisions.max(1);
        match &config.path {
            Some(path) => Self::open_with(Some(Log::open(path).await?), keep, RING),
            None => {
                let events = usize::try_from(keep).map_or(MEMORY_EVENTS, |keep| keep.min(MEMORY_EVENTS));
                Self::open_with(None, keep, Limits { events, bytes: MEMORY_BYTES })
            }
        }
    }

    fn open_with(opened: Option<log::Opened>, keep: u64, limits: Limits) -> Result<Self, OpenError> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let (shared, writer) = Writer::new(opened, keep, limits, queue);
        tokio::spawn(writer.run());
        Ok(Self { shared, requests })
    }

    /// The newest committed revision; 0 in a new store.
    pub fn revision(&self) -> u64 {
        self.shared.revision()
    }

    /// No later revision changed an object of this resource. At least the revision at which the store was opened.
    pub fn newest_of(&self, resource: &str) -> u64 {
        self.shared.feeds.find(resource).map_or(self.shared.feeds.base(), |feed| feed.newest())
    }

    /// The compaction floor: lists at it and watches after it are possible, below it they are [`ReadError::Compacted`].
    pub fn compacted(&self) -> u64 {
        self.shared.compacted()
    }

    /// The current state of an object.
    pub fn get(&self, key: &Key) -> Option<Arc<Entry>> {
        self.shared.state.load().get(key).cloned()
    }

    /// The current state of a scope. Never waits for a write, nor a write for it.
    pub fn list(&self, scope: &Scope) -> Listing {
        let state = self.shared.state.load_full();
        Listing { revision: state.revision, items: state.list(scope) }
    }

    /// The state of a scope at exactly this revision: `Compacted` below the floor, `Future` above [`Self::revision`].
    pub async fn list_at(&self, scope: &Scope, revision: u64) -> Result<Listing, ReadError> {
        let state = self.shared.state.load_full();
        if revision > state.revision {
            return Err(ReadError::Future);
        }
        if revision < self.shared.compacted() {
            return Err(ReadError::Compacted);
        }
        if let Some(items) = self.undo(&state, scope, revision) {
            return Ok(Listing { revision, items });
        }
        let Some(history) = &self.shared.history else { return Err(ReadError::Compacted) };
        let read = history.list_at(scope, revision, &state);
        let items = self.shared.statements.run(Statement::ListAt, read).await?;
        Ok(Listing { revision, items })
    }

    /// A past state from the present one and the events since, when the ring still has them all.
    fn undo(&self, state: &State, scope: &Scope, revision: u64) -> Option<Vec<Arc<Entry>>> {
        let events = match self.shared.feeds.find(&scope.resource) {
            Some(feed) => feed.between(revision, state.revision)?,
            None if revision < self.shared.feeds.base() => return None,
            None => Vec::new(),
        };
        let mut table = state.table(&scope.resource).cloned().unwrap_or_default();
        for event in events.iter().rev() {
            match &event.previous {
                Some(previous) => state::put(&mut table, Arc::clone(previous)),
                None => state::remove(&mut table, &event.entry.key),
            }
        }
        Some(state::list(&table, scope))
    }

    /// Makes a write. When it returns `Ok` the write is durable and every reader sees it. A caller that stops
    /// waiting does not know whether the write was made.
    ///
    /// The entry of a delete is the last state with the revision of the delete.
    pub async fn commit(&self, key: Key, op: Op) -> Result<Arc<Entry>, CommitError> {
        self.commit_with(Vec::new(), key, op).await
    }

    /// Makes a write and, with revisions just below its own and in the same transaction, those that go with it. One of
    /// these whose condition does not hold is left out; none is made without the write itself. They are few, and of
    /// different objects.
    pub async fn commit_with(&self, along: Vec<(Key, Op)>, key: Key, op: Op) -> Result<Arc<Entry>, CommitError> {
        let (reply, answer) = oneshot::channel();
        debug_assert!(along.len() <= writer::MAX_ALONG, "{} writes along with {key}", along.len());
        let request = Request::Write { along, key, op, reply };
        self.requests.send(request).await.map_err(|_| Unavailable::Closed)?;
        answer.await.map_err(|_| Unavailable::Closed)?
    }

    /// Is changed by every commit, after its events can be read.
    pub fn commits(&self) -> watch_channel::Receiver<()> {
        self.shared.commits.subscribe()
    }

    /// Every event of a scope with a revision greater than `after`. `Compacted` when `after` is below the floor.
    /// A revision in the future is fine: the watch begins after it.
    pub fn watch(&self, scope: Scope, after: u64) -> Result<Watch, ReadError> {
        if self.shared.is_closed() {
            return Err(ReadError::Closed);
        }
        if after < self.shared.compacted() {
            return Err(ReadError::Compacted);
        }
        Ok(Watch::new(Arc::clone(&self.shared), scope, after))
    }

    /// Commits what is queued, copies the log into the database, releases the directory and ends every watch.
    /// Later writes on other handles fail; reads of the present go on.
    pub async fn close(self) {
        // An error means that somebody else is closing the store, or has.
        let _ = self.requests.send(Request::Close).await;
        self.shared.finished.cancelled().await;
    }

    /// What the statements on the database have done since the store was opened.
    pub fn statements(&self) -> Vec<StatementStats> {
        self.shared.statements.stats()
    }
}
