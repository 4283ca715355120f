//! `vipyard down`: asks the process of a data directory to drain, and waits until it has ended.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal};

use super::{DataDir, Failure};
use crate::store::{DirLock, LockError};

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
    /// How long to wait for the cluster to end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

fn none(dir: &Path) -> Result<(), Failure> {
    println!("no cluster is running in {}", dir.display());
    Ok(())
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let dir = args.data_dir.data_dir;
    let pid = match DirLock::acquire(&dir) {
        Err(LockError::InUse { pid: Some(pid), .. }) => pid,
        Err(LockError::InUse { pid: None, .. }) => {
            return Err(anyhow!("the cluster is just starting: try again").into());
        }
        Err(LockError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return none(&dir),
        // Whether one is running is not known.
        Err(error @ LockError::Io { .. }) => return Err(anyhow::Error::new(error).into()),
        Ok(_) => return none(&dir),
    };
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| anyhow!("the lock names no process"))?;
    // Opened before the signal, so that the wait is for this very process.
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .with_context(|| format!("cannot watch process {}", pid.as_raw_nonzero()))?;
    rustix::process::pidfd_send_signal(&process, Signal::TERM)
        .with_context(|| format!("cannot stop process {}: it belongs to another user", pid.as_raw_nonzero()))?;
    let mut fds = [rustix::event::PollFd::new(&process, rustix::event::PollFlags::IN)];
    let timeout = rustix::event::Timespec::try_from(Duration::from_secs(args.timeout)).ok();
    let ended = rustix::event::poll(&mut fds, timeout.as_ref()).context("cannot wait for the process")?;
    if ended == 0 {
        let pid = pid.as_raw_nonzero();
        return Err(
            anyhow!("process {pid} is still draining after {} s: wait, or `kill -9 {pid}`", args.timeout).into()
        );
    }
    println!("stopped");
    Ok(())
}
