//! The revision log on SQLite: what is durable, and how it stays so.
//!
//! # Goals
//!
//! * An acknowledged write survives kill -9 and power loss. A revision names one write for ever and never goes
//!   back.
//! * The state at every revision from the compaction floor on can be told exactly, and every event after it.
//! * A disk that is full or fails costs the writes made meanwhile and nothing else.
//!
//! # The table
//!
//! One row of `revisions` is one write: `rev` is its revision, `prev_rev` the row of the same key that it
//! supersedes. The rows of a key are a chain from its first row on, deletes (tombstones) and later re-creations
//! included, so the unique index on (`key`, `prev_rev`) lets each row be superseded once. That is the last line of
//! defence: the one writer has compared revisions in memory before. As `prev_rev` grows along a chain, the newest
//! row of each key up to a revision R is the one with the greatest `prev_rev` among those with `rev` <= R. The
//! index alone finds it, for a start (R is the newest) and for lists in the past alike.
//!
//! # Who does what
//!
//! [`Log`] is the writing end. The writer task (`writer.rs`) owns it, so nobody else writes. [`History`] is the
//! reading end, a few connections that are opened when somebody asks for the past; in WAL mode they read a snapshot
//! of their own and neither wait for the writer nor hold it up. The present is never read from here: it is in
//! memory (`state.rs`).
//!
//! # Way of a write
//!
//! 1. The writer takes what is queued, judges each write against the state in memory (earlier writes of the same
//!    batch included), gives it the next revision and has it encoded.
//! 2. [`Log::append`] puts the batch into the table with one multi-row INSERT. The statement is a transaction of
//!    its own, so there is one round trip to sqlx's worker thread and one fsync (`journal_mode=WAL`,
//!    `synchronous=FULL`), and no open transaction that an error could leave behind. Statements exist for 1, 2, 4,
//!    .. rows; unused rows are NULL and left out, so that few statements are prepared, once.
//! 3. Only then the state, the rings and the callers learn of it, in this order: rings, state, watchers, callers. A
//!    watcher reads no further than the state's revision, so what it has been told can be listed.
//!
//! # When the disk fails
//!
//! A failed batch is answered with an error and its revisions are never used again. Whether it is on the disk is
//! not known: a failed fsync says nothing about what was written. So the connection is thrown away, and the next
//! write opens a new one: its WAL is copied into the database and truncated (`wal_checkpoint(TRUNCATE)`), which
//! syncs the database file itself and does not trust pages of the WAL whose fsync has failed once; then rows that
//! are newer than the state in memory are published as the writes that they are. While any of this fails, writes
//! fail and reads go on. There is no timer: the next write is the next try. The same checkpoint at the start makes
//! sure that nothing is served that a crash left in the page cache only.
//!
//! # Compaction
//!
//! The floor F follows the newest revision at a distance of `keep_revisions`. Only the number counts, not the age:
//! it bounds the disk (a limit by age does not), it needs no timer, and a quiet cluster keeps its whole past for
//! time travel. Raising the floor from F to G looks at the rows in (F, G] alone: each makes the row that it
//! supersedes unneeded, and a tombstone makes itself unneeded. So a slice costs what it covers, whatever the size
//! of the table. What remains is the current row of each key at G and everything after: lists at G, events after G,
//! and the previous state of each of these events. The floor moves in the same transaction. The newest row is
//! always above the floor, hence never deleted, and the revision goes on from it after a restart. (AUTOINCREMENT
//! would say the same and cost each commit another page.)
//!
//! # Start
//!
//! Lock the directory, see that the file is ours (`application_id`), checkpoint, look for damage for a bounded
//! time, migrate, load the newest row of each key. A file that is not ours is not
//! touched; one of a newer schema keeps its content.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustc_hash::FxHashSet;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Row as _};

use super::history::History;
use super::lock::DirLock;
use super::{Entry, Key, OpenError};

static MIGRATOR: Migrator = sqlx::migrate!();

/// `application_id` of our databases: "Vipy".
const APPLICATION_ID: i64 = 0x5669_7079;
/// The most rows of one INSERT. A power of two; times seven it stays below SQLite's limit of parameters.
pub(super) const MAX_ROWS: usize = 256;
/// Pages of WAL after which a commit copies them into the database.
const CHECKPOINT_PAGES: u32 = 2000;
/// The WAL file is cut back to this after a burst.
const WAL_BYTES: u32 = 32 << 20;
/// The writer's page cache, in KiB: holds the index of the keys, where each write lands somewhere else.
const CACHE_KIB: u32 = 2000;
/// Rows that SQLite's thread reads before it waits for us to take them.
const ROWS_AHEAD: usize = 512;
/// The search for damage at the start ends after this time. Loading reads every current row in any case.
const CHECK_TIME: Duration = Duration::from_millis(150);

/// One row to append, or one that was read back.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) entry: Arc<Entry>,
    pub(super) prev: u64,
    pub(super) deleted: bool,
}

/// The writing end. See the module's documentation.
pub(super) struct Log {
    options: SqliteConnectOptions,
    /// `None` after a failure, until [`Log::reopen`].
    connection: Option<SqliteConnection>,
    /// INSERTs for 1, 2, 4, .. [`MAX_ROWS`] rows.
    inserts: Vec<Arc<str>>,
    _lock: DirLock,
}

/// An opened log and what was in it.
pub(super) struct Opened {
    pub(super) log: Log,
    pub(super) history: History,
    /// The newest row of each key, tombstones included; the values of tombstones are left out.
    pub(super) rows: Vec<Row>,
    pub(super) revision: u64,
    pub(super) floor: u64,
}

impl Log {
    pub(super) async fn open(path: &Path) -> Result<Opened, OpenError> {
        let dir = match path.parent() {
            Some(dir) if dir != Path::new("") => dir,
            _ => Path::new("."),
        };
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io(dir))?;
        let lock = DirLock::acquire(dir)?;
        // Secrets are in it: nobody else may read it. SQLite gives its other files the same mode.
        OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(io(path))?;

        let options = SqliteConnectOptions::new()
            .filename(path)
            .statement_cache_capacity(32)
            .row_buffer_size(ROWS_AHEAD)
            .disable_statement_logging();
        let failed = |error| open_error(path, error);
        let mut connection = options.connect().await.map_err(failed)?;
        let identity = identify(&mut connection).await.map_err(failed)?;
        if identity == Identity::Foreign {
            return Err(OpenError::NotOurs { path: path.to_owned() });
        }
        configure(&mut connection).await.map_err(failed)?;
        if identity == Identity::Ours
            && let Some(detail) = find_damage(&mut connection).await.map_err(failed)?
        {
            return Err(OpenError::Damaged { path: path.to_owned(), detail });
        }
        migrate(&mut connection, path).await?;
        // The directory entries of a new database have to survive power loss, too.
        std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(io(dir))?;
        let (rows, floor) = load(&mut connection).await.map_err(failed)?;
        let revision = rows.iter().map(|row| row.entry.revision).max().unwrap_or(0).max(floor);
        let history = History::new(options.clone());
        let inserts = (0..=MAX_ROWS.ilog2()).map(|power| insert(1 << power)).collect();
        let log = Self { options, connection: Some(connection), inserts, _lock: lock };
        Ok(Opened { log, history, rows, revision, floor })
    }

    /// False after a failure: call [`Self::reopen`] before anything else.
    pub(super) fn works(&self) -> bool {
        self.connection.is_some()
    }

    /// Opens the database again after a failure. Returns the rows newer than `revision`, oldest first: those that the
    /// disk has taken although the write was reported as failed.
    pub(super) async fn reopen(&mut self, revision: u64) -> Result<Vec<Row>, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        configure(&mut connection).await?;
        let rows =
            sqlx::query("SELECT rev, key, created, prev_rev, deleted, value FROM revisions WHERE rev > ? ORDER BY rev")
                .bind(to_db(revision))
                .fetch_all(&mut connection)
                .await?;
        let mut names = Names::default();
        let rows = rows.iter().map(|row| names.row(row)).collect::<Result<_, _>>()?;
        self.connection = Some(connection);
        Ok(rows)
    }

    /// Writes at most [`MAX_ROWS`] rows and syncs them: all or none. `at` is milliseconds since 1970.
    pub(super) async fn append(&mut self, rows: &[Row], at: i64) -> Result<(), sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        let arguments = arguments(rows, at).map_err(sqlx::Error::Encode)?;
        let sql = Arc::clone(&self.inserts[rows.len().next_power_of_two().ilog2() as usize]);
        let result = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(connection).await;
        self.settle(result.map(|_| ())).await
    }

    /// Raises the floor from `from` to `to` and deletes what nobody can ask for any more.
    pub(super) async fn compact(&mut self, from: u64, to: u64) -> Result<(), sqlx::Error> {
        let connection = self.connection.as_mut().ok_or(sqlx::Error::WorkerCrashed)?;
        let result = compact(connection, from, to).await;
        self.settle(result).await
    }

    /// Throws the connection away when something has failed on it.
    async fn settle(&mut self, result: Result<(), sqlx::Error>) -> Result<(), sqlx::Error> {
        if result.is_err()
            && let Some(connection) = self.connection.take()
        {
            // Nothing that this could say is more than what has gone wrong already.
            let _ = connection.close().await;
        }
        result
    }

    /// Copies the WAL into the database and closes it. The lock on the directory goes last.
    pub(super) async fn close(mut self) -> Result<(), sqlx::Error> {
        match self.connection.take() {
            Some(mut connection) => {
                checkpoint(&mut connection).await?;
                connection.close().await
            }
            None => Ok(()),
        }
    }
}

fn insert(rows: usize) -> Arc<str> {
    let rows = vec!["(?,?,?,?,?,?)"; rows].join(",");
    format!(
        "INSERT INTO revisions (at, rev, key, created, prev_rev, deleted, value) \
         SELECT ?, column1, column2, column3, column4, column5, column6 FROM (VALUES {rows}) WHERE column1 IS NOT NULL"
    )
    .into()
}

fn arguments(rows: &[Row], at: i64) -> Result<SqliteArguments, sqlx::error::BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(1 + rows.len() * 6, 0);
    arguments.add(at)?;
    for row in rows {
        arguments.add(to_db(row.entry.revision))?;
        arguments.add(row.entry.key.to_string())?;
        arguments.add(to_db(row.entry.created))?;
        arguments.add(to_db(row.prev))?;
        arguments.add(row.deleted)?;
        arguments.add(&*row.entry.value)?;
    }
    Ok(arguments)
}

async fn compact(connection: &mut SqliteConnection, from: u64, to: u64) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    sqlx::query(
        "DELETE FROM revisions WHERE rev IN (\
           SELECT prev_rev FROM revisions WHERE rev > ?1 AND rev <= ?2 \
           UNION ALL \
           SELECT rev FROM revisions WHERE rev > ?1 AND rev <= ?2 AND deleted)",
    )
    .bind(to_db(from))
    .bind(to_db(to))
    .execute(&mut *transaction)
    .await?;
    sqlx::query("UPDATE log SET floor = ?").bind(to_db(to)).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Was empty and is marked as ours now.
    New,
    Ours,
    Foreign,
}

pub(super) async fn identify(connection: &mut SqliteConnection) -> Result<Identity, sqlx::Error> {
    let id: i64 = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    if id == APPLICATION_ID {
        return Ok(Identity::Ours);
    }
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    if id != 0 || tables != 0 {
        return Ok(Identity::Foreign);
    }
    // Before anything else, so that a start that is cut short leaves a file that the next start knows.
    sqlx::query(AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"))).execute(connection).await?;
    Ok(Identity::New)
}

/// The first damage that `quick_check` finds in [`CHECK_TIME`].
async fn find_damage(connection: &mut SqliteConnection) -> Result<Option<String>, sqlx::Error> {
    let end = Instant::now() + CHECK_TIME;
    connection.lock_handle().await?.set_progress_handler(1000, move || Instant::now() < end);
    let result = sqlx::query_scalar::<_, String>("PRAGMA quick_check(1)").fetch_all(&mut *connection).await;
    connection.lock_handle().await?.remove_progress_handler();
    match result {
        Ok(lines) => Ok(lines.into_iter().find(|line| line != "ok")),
        Err(error) if primary_code(&error) == Some(SQLITE_INTERRUPT) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    MIGRATOR.run(connection).await.map_err(|error| match error {
        MigrateError::VersionMissing(found) => {
            let known = MIGRATOR.iter().map(|migration| migration.version).max().unwrap_or(0);
            OpenError::Newer { path: path.to_owned(), found, known }
        }
        source => OpenError::Migrate { path: path.to_owned(), source: Box::new(source) },
    })
}

/// Sets a connection up for writing, and makes durable what an earlier one may have left in the WAL.
async fn configure(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let pragmas = format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -{CACHE_KIB}; \
         PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}; PRAGMA journal_size_limit = {WAL_BYTES};"
    );
    sqlx::raw_sql(AssertSqlSafe(pragmas)).execute(&mut *connection).await?;
    checkpoint(connection).await
}

async fn checkpoint(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let busy: bool = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(connection).await?.try_get(0)?;
    if busy {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "a reader holds up the checkpoint").into());
    }
    Ok(())
}

/// The newest row of each key, and the floor. Beside MAX, SQLite gives the columns of the row that has the maximum.
async fn load(connection: &mut SqliteConnection) -> Result<(Vec<Row>, u64), sqlx::Error> {
    let floor: i64 = sqlx::query_scalar("SELECT floor FROM log").fetch_one(&mut *connection).await?;
    let rows = sqlx::query(
        "SELECT rev, key, created, prev_rev, deleted, CASE deleted WHEN 0 THEN value ELSE x'' END FROM revisions \
         WHERE rev IN (SELECT rev FROM revisions GROUP BY key HAVING MAX(prev_rev) >= 0)",
    )
    .fetch_all(connection)
    .await?;
    let mut names = Names::default();
    let rows = rows.iter().map(|row| names.row(row)).collect::<Result<_, _>>()?;
    Ok((rows, from_db(floor)))
}

/// Makes entries of rows, with one copy of each resource's and namespace's name.
#[derive(Default)]
pub(super) struct Names {
    known: FxHashSet<Arc<str>>,
}

impl Names {
    /// A row with the columns rev, key, created, prev_rev, deleted, value.
    pub(super) fn row(&mut self, row: &SqliteRow) -> Result<Row, sqlx::Error> {
        let entry = self.entry(row, [0, 1, 2, 5])?;
        Ok(Row { entry: Arc::new(entry), prev: from_db(row.try_get(3)?), deleted: row.try_get(4)? })
    }

    /// The entry in the columns whose numbers are given: rev, key, created, value.
    pub(super) fn entry(&mut self, row: &SqliteRow, columns: [usize; 4]) -> Result<Entry, sqlx::Error> {
        let [revision, key, created, value] = columns;
        let mut key =
            row.try_get::<&str, _>(key)?.parse::<Key>().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        key.resource = self.intern(key.resource);
        key.namespace = self.intern(key.namespace);
        Ok(Entry {
            key,
            revision: from_db(row.try_get(revision)?),
            created: from_db(row.try_get(created)?),
            value: Bytes::copy_from_slice(row.try_get(value)?),
        })
    }

    fn intern(&mut self, name: Arc<str>) -> Arc<str> {
        if let Some(known) = self.known.get(&name) {
            return Arc::clone(known);
        }
        self.known.insert(Arc::clone(&name));
        name
    }
}

/// SQLite's integers are signed; no revision comes near the end.
pub(super) fn to_db(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(super) fn from_db(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

const SQLITE_INTERRUPT: u32 = 9;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_NOTADB: u32 = 26;

/// SQLite's result code without its extension.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}

pub(super) fn open_error(path: &Path, error: sqlx::Error) -> OpenError {
    let path = PathBuf::from(path);
    match (primary_code(&error), &error) {
        (Some(SQLITE_NOTADB), _) => OpenError::NotOurs { path },
        (Some(SQLITE_CORRUPT), _) | (_, sqlx::Error::Decode(_)) => {
            OpenError::Damaged { path, detail: error.to_string() }
        }
        _ => OpenError::Database { path, source: error },
    }
}
