//! Recent events, one bounded ring per resource, shared by all watchers of the resource.
//!
//! Watchers pull: each knows how far it has read and nothing is queued for it, so a slow or dead watcher costs what it
//! cost at its start. What a ring has dropped is read back from the log while it is above the compaction floor.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::{Event, Scope};

/// How much a ring keeps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    /// Of encoded values. The newest event stays whatever its size.
    pub(super) bytes: usize,
}

/// The rings of all resources.
pub(super) struct Feeds {
    feeds: RwLock<FxHashMap<Arc<str>, Arc<Feed>>>,
    limits: Limits,
    /// The revision at which the store was opened: no ring knows events up to it.
    base: u64,
}

impl Feeds {
    pub(super) fn new(limits: Limits, base: u64) -> Self {
        Self { feeds: RwLock::default(), limits, base }
    }

    pub(super) fn find(&self, resource: &str) -> Option<Arc<Feed>> {
        self.feeds.read().get(resource).cloned()
    }

    pub(super) fn get(&self, resource: &Arc<str>) -> Arc<Feed> {
        if let Some(feed) = self.find(resource) {
            return feed;
        }
        let mut feeds = self.feeds.write();
        let feed = feeds
            .entry(resource.clone())
            .or_insert_with(|| Arc::new(Feed::new(resource.clone(), self.limits, self.base)));
        Arc::clone(feed)
    }

    pub(super) fn base(&self) -> u64 {
        self.base
    }

    pub(super) fn wake_all(&self) {
        wake(self.feeds.read().values());
    }
}

/// Wakes everybody who watches these: first those who wait for answers, of any of them, then those who yield.
pub(super) fn wake<'a>(feeds: impl Iterator<Item = &'a Arc<Feed>> + Clone) {
    feeds.clone().for_each(|feed| feed.changed.send_replace(()));
    feeds.for_each(|feed| feed.changed_last.send_replace(()));
}

/// The recent events of one resource.
pub(super) struct Feed {
    pub(super) resource: Arc<str>,
    ring: RwLock<Ring>,
    limits: Limits,
    changed: watch::Sender<()>,
    changed_last: watch::Sender<()>,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The newest revision that is no longer here: every event of the resource after it is.
    lost: u64,
    /// The revision of the newest event; before the first, the revision at which the store was opened.
    newest: u64,
}

impl Ring {
    /// Where the events after a revision begin. Nearly every watcher asks for the last few, which are looked at first:
    /// a search touches events all over the memory.
    fn after(&self, revision: u64) -> usize {
        const NEAR: usize = 8;
        let is_before = |event: &Arc<Event>| event.entry.revision <= revision;
        let near = self.events.iter().rev().take(NEAR + 1).position(is_before);
        near.map_or_else(|| self.events.partition_point(is_before), |distance| self.events.len() - distance)
    }
}

/// What [`Feed::read`] found.
pub(super) enum Read {
    /// Events of the scope, in order, were appended; all up to the revision are there now.
    Through(u64),
    /// The ring no longer reaches back that far: what follows up to this revision is in the log only.
    Lost(u64),
}

impl Feed {
    fn new(resource: Arc<str>, limits: Limits, lost: u64) -> Self {
        let ring = RwLock::new(Ring { events: VecDeque::new(), bytes: 0, lost, newest: lost });
        Self { resource, ring, limits, changed: watch::Sender::new(()), changed_last: watch::Sender::new(()) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// For those who yield to others.
    pub(super) fn subscribe_last(&self) -> watch::Receiver<()> {
        self.changed_last.subscribe()
    }

    /// Appends an event and drops what is beyond the limits. Returns the newest revision that was dropped, ever.
    pub(super) fn push(&self, event: Arc<Event>) -> u64 {
        let mut ring = self.ring.write();
        ring.bytes += event.entry.value.len();
        ring.newest = event.entry.revision;
        ring.events.push_back(event);
        while ring.events.len() > 1 && (ring.events.len() > self.limits.events || ring.bytes > self.limits.bytes) {
            if let Some(oldest) = ring.events.pop_front() {
                ring.bytes -= oldest.entry.value.len();
                ring.lost = oldest.entry.revision;
            }
        }
        ring.lost
    }

    pub(super) fn newest(&self) -> u64 {
        self.ring.read().newest
    }

    /// Up to where there is no event of `scope` after `after`; at most `until`, and `after` when the ring cannot tell.
    pub(super) fn quiet_until(&self, scope: &Scope, after: u64, until: u64) -> u64 {
        let ring = self.ring.read();
        if after < ring.lost {
            return after;
        }
        let start = ring.after(after);
        let next = ring.events.range(start..).find(|event| scope.contains(&event.entry.key));
        next.map_or(until, |event| until.min(event.entry.revision - 1)).max(after)
    }

    /// Appends to `into` up to `most` events of `scope` with `after` < revision <= `until`.
    pub(super) fn read(
        &self,
        scope: &Scope,
        after: u64,
        until: u64,
        most: usize,
        into: &mut VecDeque<Arc<Event>>,
    ) -> Read {
        let ring = self.ring.read();
        if after < ring.lost {
            return Read::Lost(ring.lost);
        }
        let start = ring.after(after);
        let mut found = 0;
        for event in ring.events.range(start..) {
            if event.entry.revision > until {
                break;
            }
            if scope.contains(&event.entry.key) {
                into.push_back(Arc::clone(event));
                found += 1;
                if found == most {
                    return Read::Through(event.entry.revision);
                }
            }
        }
        Read::Through(until.max(after))
    }

    /// The events with `after` < revision <= `until`, oldest first, when all of them are here.
    pub(super) fn between(&self, after: u64, until: u64) -> Option<Vec<Arc<Event>>> {
        let ring = self.ring.read();
        if after < ring.lost {
            return None;
        }
        let (start, end) = (ring.after(after), ring.after(until));
        Some(ring.events.range(start..end.max(start)).cloned().collect())
    }
}

#[cfg(test)]
impl Feed {
    /// Events and bytes in the ring.
    pub(super) fn size(&self) -> (usize, usize) {
        let ring = self.ring.read();
        (ring.events.len(), ring.bytes)
    }
}
