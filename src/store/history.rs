//! The reading end of the revision log: past states and past events.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::TryStreamExt;
use rustc_hash::FxHashMap;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqlitePoolOptions};

use super::log::{Names, from_db, to_db};
use super::state::State;
use super::{Entry, Event, ReadError, Scope};

/// Readers of the past at a time; more wait.
const CONNECTIONS: u32 = 2;
/// A page of events ends with the event that reaches one of these.
const PAGE_EVENTS: usize = 256;
const PAGE_BYTES: usize = 1 << 20;

/// Opens its connections when they are first needed. Each holds about a megabyte.
pub(super) struct History {
    pool: SqlitePool,
}

/// Consecutive events of a scope.
pub(super) struct Page {
    pub(super) events: VecDeque<Arc<Event>>,
    /// All events of the scope up to here are in the page.
    pub(super) through: u64,
}

impl History {
    pub(super) fn new(options: SqliteConnectOptions) -> Self {
        let options = options.pragma("cache_size", "-1000").pragma("query_only", "ON");
        // No limits on idleness or age: each would be a timer that ticks for ever.
        let pool = SqlitePoolOptions::new()
            .min_connections(0)
            .max_connections(CONNECTIONS)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(options);
        Self { pool }
    }

    /// The objects of a scope at a past revision, in order. Entries that `state` still has are shared with it.
    pub(super) async fn list_at(
        &self,
        scope: &Scope,
        revision: u64,
        state: &State,
    ) -> Result<Vec<Arc<Entry>>, ReadError> {
        let mut snapshot = self.pool.begin().await?;
        if revision < floor(&mut snapshot).await? {
            return Err(ReadError::Compacted);
        }
        let (from, to) = scope.text_range();
        let mut names = Names::default();
        let mut items = Vec::new();
        let mut rows = sqlx::query(
            "SELECT rev, key, created, value FROM revisions \
             WHERE rev IN (SELECT rev FROM revisions WHERE key >= ? AND key < ? AND rev <= ? \
                           GROUP BY key HAVING MAX(prev_rev) >= 0) AND NOT deleted",
        )
        .bind(from)
        .bind(to)
        .bind(to_db(revision))
        .fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await? {
            let entry = names.entry(&row, [0, 1, 2, 3])?;
            if scope.contains(&entry.key) {
                items.push(match state.get(&entry.key) {
                    Some(current) if current.revision == entry.revision => Arc::clone(current),
                    _ => Arc::new(entry),
                });
            }
        }
        // The text's order is another: "a-b/x" comes before "a/x".
        items.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(items)
    }

    /// The first events of a scope with `after` < revision <= `until`.
    pub(super) async fn replay(&self, scope: &Scope, after: u64, until: u64) -> Result<Page, ReadError> {
        let mut snapshot = self.pool.begin().await?;
        if after < floor(&mut snapshot).await? {
            return Err(ReadError::Compacted);
        }
        let (from, to) = scope.text_range();
        let mut names = Names::default();
        // Entries of this page by revision: one's entry is a later one's previous state.
        let mut seen: FxHashMap<u64, Arc<Entry>> = FxHashMap::default();
        let mut events = VecDeque::new();
        let mut bytes = 0;
        let mut rows = sqlx::query(
            "SELECT r.rev, r.key, r.created, r.value, r.deleted, p.rev, p.created, p.value, p.deleted \
             FROM revisions AS r LEFT JOIN revisions AS p ON p.rev = r.prev_rev \
             WHERE r.rev > ? AND r.rev <= ? AND r.key >= ? AND r.key < ? ORDER BY r.rev",
        )
        .bind(to_db(after))
        .bind(to_db(until))
        .bind(from)
        .bind(to)
        .fetch(&mut *snapshot);
        while let Some(row) = rows.try_next().await? {
            let entry = names.entry(&row, [0, 1, 2, 3])?;
            if !scope.contains(&entry.key) {
                continue;
            }
            let previous = match row.try_get::<Option<i64>, _>(5)? {
                Some(revision) if !row.try_get::<bool, _>(8)? => Some(match seen.remove(&from_db(revision)) {
                    Some(entry) => entry,
                    None => Arc::new(names.entry(&row, [5, 1, 6, 7])?),
                }),
                _ => None,
            };
            let deleted: bool = row.try_get(4)?;
            bytes += entry.value.len() + previous.as_ref().map_or(0, |previous| previous.value.len());
            let through = entry.revision;
            let event = Event::new(entry, deleted, previous);
            if !deleted {
                seen.insert(through, Arc::clone(&event.entry));
            }
            events.push_back(Arc::new(event));
            if events.len() >= PAGE_EVENTS || bytes >= PAGE_BYTES {
                return Ok(Page { events, through });
            }
        }
        Ok(Page { events, through: until })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

async fn floor(snapshot: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    Ok(from_db(sqlx::query_scalar("SELECT floor FROM log").fetch_one(snapshot).await?))
}
