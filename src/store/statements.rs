//! The statements that the store runs, by name: how often, how long, and a line in the log for a slow one.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::warn;

/// A statement that takes longer is logged.
const SLOW: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// A batch of new revisions, its fsync included.
    Append,
    /// One slice of compaction.
    Compact,
    /// One page of past events.
    Replay,
    /// The state at a past revision.
    ListAt,
}

impl Statement {
    const ALL: [Self; 4] = [Self::Append, Self::Compact, Self::Replay, Self::ListAt];

    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Compact => "compact",
            Self::Replay => "replay",
            Self::ListAt => "list_at",
        }
    }
}

/// What one statement has done since the store was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementStats {
    pub name: &'static str,
    /// Runs, failed ones included.
    pub runs: u64,
    pub failed: u64,
    pub total: Duration,
}

#[derive(Default)]
struct Counter {
    runs: AtomicU64,
    failed: AtomicU64,
    nanos: AtomicU64,
}

#[derive(Default)]
pub(super) struct Statements {
    counters: [Counter; Statement::ALL.len()],
}

impl Statements {
    pub(super) async fn run<T, E>(
        &self,
        statement: Statement,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let start = Instant::now();
        let result = work.await;
        let took = start.elapsed();
        let counter = &self.counters[statement as usize];
        counter.runs.fetch_add(1, Ordering::Relaxed);
        counter.failed.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
        counter.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        if took > SLOW {
            warn!(statement = statement.name(), ?took, "slow statement");
        }
        result
    }

    pub(super) fn stats(&self) -> Vec<StatementStats> {
        let stats = Statement::ALL.map(|statement| {
            let counter = &self.counters[statement as usize];
            StatementStats {
                name: statement.name(),
                runs: counter.runs.load(Ordering::Relaxed),
                failed: counter.failed.load(Ordering::Relaxed),
                total: Duration::from_nanos(counter.nanos.load(Ordering::Relaxed)),
            }
        });
        stats.to_vec()
    }
}
