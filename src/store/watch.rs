//! One watcher: a place in the sequence of events, and a scope.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::watch;

use super::feed::{Feed, Read};
use super::statements::Statement;
use super::{Event, ReadError, Scope, Shared};
use crate::metrics::{Alive, STORE_WATCHERS};

/// Events taken from a ring at a time.
const TAKE: usize = 32;

/// Every event of a scope after a revision, in order, each once. See [`Store::watch`](super::Store::watch).
///
/// It pulls, so it may be slow or never asked again at no cost to anybody. The events it holds in advance are
/// few; what comes after them waits in the ring of the resource, then in the log, until compaction takes it.
pub struct Watch {
    shared: Arc<Shared>,
    feed: Arc<Feed>,
    scope: Scope,
    changed: watch::Receiver<()>,
    /// Read, not yet returned.
    pub(super) ahead: VecDeque<Arc<Event>>,
    /// Every event up to here has been read.
    read: u64,
    _counted: Alive,
}

/// What filling [`Watch::ahead`] from the ring has shown.
enum Fill {
    Done,
    /// Events up to this revision have to come from the log.
    Behind(u64),
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>, scope: Scope, after: u64) -> Self {
        let feed = shared.feeds.get(&scope.resource);
        let changed = feed.subscribe();
        Self {
            shared,
            feed,
            scope,
            changed,
            ahead: VecDeque::new(),
            read: after,
            _counted: Alive::count(&STORE_WATCHERS),
        }
    }

    /// Lets those who do not yield be told first of what happens.
    pub fn yielding(mut self) -> Self {
        self.changed = self.feed.subscribe_last();
        self
    }

    /// Waits for the next event. Cancel-safe: an event is either returned or still to come.
    ///
    /// `Compacted`: this watcher was so slow that compaction took events it had not seen; list and watch again.
    /// `Closed`: the store was closed, and everything before that has been returned.
    pub async fn next(&mut self) -> Result<Arc<Event>, ReadError> {
        loop {
            // What happens from here on wakes `changed` below, so nothing falls between looking and waiting.
            self.changed.mark_unchanged();
            let closed = self.shared.is_closed();
            if let Some(event) = self.ahead.pop_front() {
                return Ok(event);
            }
            match self.fill() {
                Fill::Behind(until) => self.read_back(until).await?,
                Fill::Done if !self.ahead.is_empty() => {}
                Fill::Done if closed => return Err(ReadError::Closed),
                Fill::Done => {
                    if self.changed.changed().await.is_err() {
                        return Err(ReadError::Closed);
                    }
                }
            }
        }
    }

    /// The next event if it is in memory. `None` also when it has to be read from the log, which [`Self::next`] does.
    pub fn try_next(&mut self) -> Result<Option<Arc<Event>>, ReadError> {
        if let Some(event) = self.ahead.pop_front() {
            return Ok(Some(event));
        }
        let closed = self.shared.is_closed();
        match self.fill() {
            Fill::Done => match self.ahead.pop_front() {
                None if closed => Err(ReadError::Closed),
                event => Ok(event),
            },
            Fill::Behind(_) if self.shared.history.is_none() || self.read < self.shared.compacted() => {
                Err(ReadError::Compacted)
            }
            Fill::Behind(_) => Ok(None),
        }
    }

    /// Every event of the scope up to this revision has been returned: the right number for a bookmark. It advances
    /// with every commit, also of other resources, unless events wait to be returned.
    pub fn revision(&self) -> u64 {
        match self.ahead.front() {
            Some(next) => next.entry.revision - 1,
            // In this order: what is committed is in the ring.
            None => self.feed.quiet_until(&self.scope, self.read, self.shared.revision()),
        }
    }

    fn fill(&mut self) -> Fill {
        // Not further than the state: who has seen an event can list what it made.
        let committed = self.shared.revision();
        if self.read >= committed {
            return Fill::Done;
        }
        match self.feed.read(&self.scope, self.read, committed, TAKE, &mut self.ahead) {
            Read::Through(revision) => {
                self.read = revision;
                Fill::Done
            }
            Read::Lost(revision) => Fill::Behind(revision.min(committed)),
        }
    }

    async fn read_back(&mut self, until: u64) -> Result<(), ReadError> {
        let history = self.shared.history.as_ref().ok_or(ReadError::Compacted)?;
        let replay = history.replay(&self.scope, self.read, until);
        let page = match self.shared.statements.run(Statement::Replay, replay).await {
            Err(ReadError::Unavailable(_)) if self.shared.is_closed() => return Err(ReadError::Closed),
            page => page?,
        };
        self.ahead = page.events;
        self.read = page.through;
        Ok(())
    }
}
