//! Backup of a database while it is written to, and a new database from a backup.
//!
//! A backup is one SQLite file: a copy of the database at one revision (`VACUUM INTO`, which reads a snapshot and
//! holds up nobody), with a table more for small files that belong to the cluster beside its objects, its keys above
//! all. It is secret as a whole.
//!
//! A restored cluster begins a history of its own. Its clients may have seen revisions that the backup does not know,
//! and the numbers of the lost writes must not be given to others. So revisions go on far above all that the old
//! cluster can have given, and everything below counts as compacted: watches and lists from before the loss end with
//! 410 Gone, and clients list again (`etcdutl snapshot restore --bump-revision --mark-compacted` does the same).

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row};

use super::OpenError;
use super::log::{Identity, from_db, identify, migrate, open_error, to_db};

/// How far above the backup's revisions those of the restored cluster begin: more than any cluster writes meanwhile.
pub const REVISION_BUMP: u64 = 1_000_000_000;

/// A file that a backup holds beside the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    pub name: String,
    pub content: Vec<u8>,
}

/// Why there is no backup, or nothing was restored. Each message is one line and ends with the way out.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("no database at {}: name the --data-dir of a cluster that keeps one", .0.display())]
    NoDatabase(PathBuf),
    #[error("{} exists: name another file, or remove it", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a backup made by `vipyard backup`: name one", .0.display())]
    NotABackup(PathBuf),
    #[error("{} is damaged ({detail}): use another backup", path.display())]
    Damaged { path: PathBuf, detail: String },
    #[error("{} is not empty: restore into a new directory, and name it with --data-dir", .0.display())]
    NotEmpty(PathBuf),
    #[error("cannot read or write {}: {source}: check its permissions and the disk's free space", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("cannot copy {}: {source}: check the disk's free space and health", path.display())]
    Database { path: PathBuf, source: sqlx::Error },
    #[error(transparent)]
    Open(#[from] OpenError),
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { path, source }
}

fn sql_error(path: &Path) -> impl FnOnce(sqlx::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Database { path, source }
}

/// Copies the database, which may be in use, and `files` into the new file `to`. Returns the revision of the copy.
///
/// # Errors
/// A [`BackupError`]; then there is no file `to`.
pub async fn backup(database: &Path, files: &[SideFile], to: &Path) -> Result<u64, BackupError> {
    if !database.exists() {
        return Err(BackupError::NoDatabase(database.to_owned()));
    }
    if to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let part = beside(to, "part");
    let _held = take_over(&part, to)?;
    let result = async {
        let revision = copy(database, files, &part).await?;
        sync(&part).map_err(io_error(&part))?;
        rename_new(&part, to)?;
        sync(parent(to)).map_err(io_error(to))?;
        Ok(revision)
    };
    let result = result.await;
    if result.is_err() {
        let _ = fs::remove_file(&part);
    }
    result
}

/// The empty file in which a backup is made, which may be the rest of one that was interrupted. It is this backup's until
/// the value is dropped: two at once would make one file of both.
fn take_over(part: &Path, to: &Path) -> Result<fs::File, BackupError> {
    let failed = || io_error(part);
    // Secret from its first byte on; SQLite takes an empty file for a missing one.
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(part).map_err(failed())?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(BackupError::Exists(part.to_owned())),
        Err(fs::TryLockError::Error(source)) => return Err(failed()(source)),
    }
    // Whoever had it may have finished meanwhile, and then it is the backup.
    let here = file.metadata().map_err(failed())?;
    if !fs::metadata(part).is_ok_and(|now| now.ino() == here.ino()) {
        return Err(BackupError::Exists(to.to_owned()));
    }
    file.set_len(0).map_err(failed())?;
    Ok(file)
}

async fn copy(database: &Path, files: &[SideFile], part: &Path) -> Result<u64, BackupError> {
    let failed = || sql_error(database);
    let mut source = connect(database).await.map_err(failed())?;
    if identify(&mut source).await.map_err(failed())? != Identity::Ours {
        return Err(OpenError::NotOurs { path: database.to_owned() }.into());
    }
    sqlx::query("VACUUM INTO ?").bind(part.to_string_lossy()).execute(&mut source).await.map_err(failed())?;
    source.close().await.map_err(failed())?;

    let failed = || sql_error(part);
    let mut copy = connect(part).await.map_err(failed())?;
    sqlx::query("CREATE TABLE backup_files (name TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT")
        .execute(&mut copy)
        .await
        .map_err(failed())?;
    for file in files {
        sqlx::query("INSERT INTO backup_files (name, content) VALUES (?, ?)")
            .bind(&file.name)
            .bind(&file.content)
            .execute(&mut copy)
            .await
            .map_err(failed())?;
    }
    let revision = newest(&mut copy).await.map_err(failed())?;
    copy.close().await.map_err(failed())?;
    Ok(revision)
}

/// Makes the data directory `dir`, which is new or empty, from a backup: the database under the name `database`, and
/// what else the backup holds, where `place` says. Returns the revision that the restored cluster begins with.
///
/// # Errors
/// A [`BackupError`]; then `dir` is as it was.
pub async fn restore(
    from: &Path,
    dir: &Path,
    database: &str,
    place: impl Fn(&str) -> Option<PathBuf>,
) -> Result<u64, BackupError> {
    if !is_free(dir).map_err(io_error(dir))? {
        return Err(BackupError::NotEmpty(dir.to_owned()));
    }
    // Made beside the directory and renamed: it is there as a whole or not at all.
    let made = beside(dir, "restoring");
    let _ = fs::remove_dir_all(&made);
    make_folder(&made)?;
    let result = async {
        let path = made.join(database);
        fs::copy(from, &path).map_err(io_error(from))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(io_error(&path))?;
        let (files, revision) = unpack(from, &path).await?;
        sync(&path).map_err(io_error(&path))?;
        for file in files {
            let Some(place) = place(&file.name) else { continue };
            write_side_file(&made.join(place), &file.content)?;
        }
        sync(&made).map_err(io_error(&made))?;
        fs::rename(&made, dir).map_err(io_error(dir))?;
        sync(parent(dir)).map_err(io_error(dir))?;
        Ok(revision)
    };
    let result = result.await;
    if result.is_err() {
        let _ = fs::remove_dir_all(&made);
    }
    result
}

/// Whether a directory is empty or not there.
fn is_free(dir: &Path) -> io::Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

/// Turns the copy of a backup at `path` into a database that can be opened.
async fn unpack(from: &Path, path: &Path) -> Result<(Vec<SideFile>, u64), BackupError> {
    let failed = |error| match open_error(from, error) {
        OpenError::NotOurs { path } => BackupError::NotABackup(path),
        OpenError::Damaged { path, detail } => BackupError::Damaged { path, detail },
        other => other.into(),
    };
    let mut connection = connect(path).await.map_err(failed)?;
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema WHERE name = 'backup_files'")
        .fetch_one(&mut connection)
        .await
        .map_err(failed)?;
    if identify(&mut connection).await.map_err(failed)? != Identity::Ours || tables == 0 {
        return Err(BackupError::NotABackup(from.to_owned()));
    }
    let found: String =
        sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(&mut connection).await.map_err(failed)?;
    if found != "ok" {
        return Err(BackupError::Damaged { path: from.to_owned(), detail: found });
    }
    let rows =
        sqlx::query("SELECT name, content FROM backup_files").fetch_all(&mut connection).await.map_err(failed)?;
    let files = rows.iter().map(side_file).collect::<Result<_, _>>().map_err(failed)?;
    migrate(&mut connection, from).await?;
    let revision = begin_anew(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok((files, revision))
}

fn side_file(row: &SqliteRow) -> Result<SideFile, sqlx::Error> {
    Ok(SideFile { name: row.try_get(0)?, content: row.try_get(1)? })
}

/// Leaves only the newest state, and puts the compaction floor above all revisions that were ever given.
async fn begin_anew(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let revision = newest(connection).await?.saturating_add(REVISION_BUMP);
    sqlx::raw_sql(
        "DROP TABLE backup_files; \
         DELETE FROM revisions WHERE deleted OR rev NOT IN \
           (SELECT rev FROM revisions GROUP BY key HAVING MAX(prev_rev) >= 0);",
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("UPDATE log SET floor = ?").bind(to_db(revision)).execute(&mut *connection).await?;
    sqlx::query("VACUUM").execute(connection).await?;
    Ok(revision)
}

/// The newest revision that was given.
async fn newest(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let newest: i64 = sqlx::query_scalar("SELECT max(floor, (SELECT ifnull(max(rev), 0) FROM revisions)) FROM log")
        .fetch_one(connection)
        .await?;
    Ok(from_db(newest))
}

async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await
}

fn write_side_file(path: &Path, content: &[u8]) -> Result<(), BackupError> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).and_then(|mut file| {
        io::Write::write_all(&mut file, content)?;
        file.sync_all()
    });
    written.map_err(io_error(path))
}

fn make_folder(path: &Path) -> Result<(), BackupError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error(path))
}

/// `path` with something appended to its name.
fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))
}

fn sync(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Renames, but never over something that appeared meanwhile.
fn rename_new(from: &Path, to: &Path) -> Result<(), BackupError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => Err(BackupError::Exists(to.to_owned())),
        renamed => renamed.map_err(|e| io_error(to)(e.into())),
    }
}

#[cfg(test)]
mod tests;
