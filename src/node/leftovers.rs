//! Processes that a container leaves behind. Where it has process ids of its own the kernel ends them with its first
//! process; where a Pod's containers share theirs, they are known by the container's mount namespace.

use std::fs::{self, File, Metadata};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::sys::process::signal;

/// Looks for processes: one may start another while it is looked for.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(5);

/// A container's mount namespace, which each run has for itself. It is held open: the next run's would be given the
/// number of one that is gone.
#[derive(Debug)]
pub struct MountNs {
    id: Id,
    _open: File,
}

/// Device and inode.
type Id = (u64, u64);

impl MountNs {
    /// That of a process; `None` if it has ended or is in this program's own.
    pub fn of(pidfd: BorrowedFd<'_>) -> Option<Self> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
        let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
        let open = File::open(link(&Path::new("/proc").join(pid))).ok()?;
        let id = id(&open.metadata().ok()?);
        let own = Self::at(Path::new("/proc/self"));
        (Some(id) != own).then_some(Self { id, _open: open })
    }

    fn at(process: &Path) -> Option<Id> {
        fs::metadata(link(process)).ok().map(|found| id(&found))
    }

    /// Kills every process in it. Blocks for a while if they start new ones.
    pub fn kill_all(&self) {
        for _ in 0..LOOKS {
            let found = fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| self.kill(&entry.path()));
            if found.count() == 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether the process was one of these.
    fn kill(&self, process: &Path) -> bool {
        let is_here = || Self::at(process) == Some(self.id);
        let number = process.file_name().and_then(|name| name.to_str()?.parse().ok());
        let Some(pid) = number.and_then(Pid::from_raw).filter(|_| is_here()) else { return false };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return false };
        // Its number may have become another's before the descriptor was there.
        is_here() && signal(pidfd, Signal::KILL).is_ok()
    }
}

fn link(process: &Path) -> PathBuf {
    process.join("ns/mnt")
}

fn id(of: &Metadata) -> Id {
    (of.dev(), of.ino())
}
