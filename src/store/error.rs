//! What can go wrong when a store is opened, written and read.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::Entry;
use super::lock::LockError;

/// Why a store did not open. Each message is one line and ends with the way out.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error("{} is not a vipyard database: move it away, or choose another directory with --data-dir", path.display())]
    NotOurs { path: PathBuf },
    #[error(
        "{} was written by a newer vipyard (schema {found}, this one knows {known}): \
         use that version, or choose another directory with --data-dir", path.display()
    )]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error(
        "{} is damaged ({detail}): move its directory away and make it anew with `vipyard restore BACKUP`, or start empty",
        path.display()
    )]
    Damaged { path: PathBuf, detail: String },
    #[error(
        "cannot open {}: {source}: make it readable and writable, or choose another directory with --data-dir",
        path.display()
    )]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot open the database {}: {source}: check the disk's free space and health", path.display())]
    Database { path: PathBuf, source: sqlx::Error },
    #[error("cannot bring the database {} to the current schema: {source}", path.display())]
    Migrate { path: PathBuf, source: Box<sqlx::migrate::MigrateError> },
}

/// The store cannot do what was asked at this time.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the store is closed")]
    Closed,
    /// A write that ends with this was not acknowledged; it is either not there or, should the disk have taken it
    /// before it failed, appears as a revision of its own when the disk is well again.
    #[error("the database does not work: {0}: check the disk's free space and health")]
    Database(#[source] Arc<sqlx::Error>),
    /// The caller's encoder panicked. Nothing was written.
    #[error("the object could not be encoded")]
    Encode,
}

impl From<sqlx::Error> for Unavailable {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

/// Why a write was not made.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A create of something that is there; with its current state.
    #[error("{} exists", _0.key)]
    Exists(Arc<Entry>),
    /// An update or a delete of something that is not there.
    #[error("the object does not exist")]
    NotFound,
    /// An update or a delete that expected another revision; with the current state.
    #[error("{} has changed and is now at revision {}", _0.key, _0.revision)]
    Conflict(Arc<Entry>),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a past state or the next event cannot be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The revision is below the compaction floor: list again and start from there (HTTP 410).
    #[error("the revision has been compacted")]
    Compacted,
    /// The revision has not been written yet.
    #[error("the revision is in the future")]
    Future,
    #[error("the store is closed")]
    Closed,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl From<sqlx::Error> for ReadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Unavailable(error.into())
    }
}
