//! The process that is measured.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// From linux/magic.h: file systems in memory.
const TMPFS: i64 = 0x0102_1994;
const RAMFS: i64 = 0x8584_58f6;
/// The unit of processor times in /proc, the same on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const START_LIMIT: Duration = Duration::from_secs(20);

/// A durable write to a file system in memory costs nothing: the figures would say nothing.
pub fn must_be_a_disk(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    let kind = rustix::fs::statfs(dir)?.f_type;
    ensure!(![TMPFS, RAMFS].contains(&kind), "{} is in memory: name a folder on a disk with --dir", dir.display());
    Ok(())
}

/// A cluster that has just been made.
pub struct Server {
    data: TempDir,
    child: Child,
}

impl Server {
    /// Starts the binary on an empty data directory below `dir` and waits until it says that it is ready.
    pub async fn start(binary: &Path, dir: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("api-bench-").tempdir_in(dir)?;
        let mut child = Command::new(binary)
            .args(["up", "--data-dir"])
            .arg(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let mut lines = BufReader::new(child.stdout.take().context("its output")?).lines();
        let said = tokio::time::timeout(START_LIMIT, async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("cluster is ready") {
                    return Ok(());
                }
            }
            bail!("the cluster ended before it was ready")
        });
        said.await.context("the cluster does not get ready")??;
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { data, child })
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("kubeconfig")
    }

    fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Resident memory in MB.
    pub fn resident(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kibibytes: f64 = line.split_whitespace().next().context("a number")?.parse()?;
        Ok(kibibytes * 1024.0 / 1e6)
    }

    /// Processor time that the process has used, in seconds.
    pub fn processor_time(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        let (_, fields) = stat.rsplit_once(')').context("a name")?;
        let ticks: f64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0.0)).sum();
        Ok(ticks / TICKS_PER_SECOND)
    }

    pub async fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.pid()?).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        let status = self.child.wait().await?;
        ensure!(status.success(), "the cluster ended with {status}");
        Ok(())
    }
}
