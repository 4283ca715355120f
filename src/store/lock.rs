//! One process per data directory: a lock on `DIR/lock` that the kernel releases when its holder dies.
//!
//! The file says who holds it. It stays when the lock is released, emptied: removing a file that others lock would let
//! two of them hold a lock on different files of the same name.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The lock's file name inside the data directory.
pub const LOCK_FILE: &str = "lock";

#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error(
        "{} is in use by {}: end it with `vipyard down --data-dir {0}`, or choose another directory with --data-dir",
        dir.display(), holder(*pid)
    )]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error("cannot lock {}: {source}: make the directory writable, or choose another with --data-dir", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// A data directory that belongs to this process until the value is dropped or the process ends.
#[derive(Debug)]
pub struct DirLock {
    file: File,
}

impl DirLock {
    /// Takes the lock of a directory that exists, or says who has it. Never waits.
    pub fn acquire(dir: &Path) -> Result<Self, LockError> {
        let path = dir.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Whoever holds the lock may not have written its number yet.
                let _ = file.read_to_string(&mut text);
                return Err(LockError::InUse { dir: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(failed)?;
        Ok(Self { file })
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // A stale number would mislead; a failure leaves nothing that the next holder does not overwrite.
        let _ = self.file.set_len(0);
    }
}
