//! `--detach`: the same command in the background. Its standard output is a pipe to the waiting parent until it is
//! ready; its log is `DATA_DIR/vipyard.log`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow};

use crate::cli::{EXIT_USAGE, Failure};
use crate::config::Config;

/// Set for the process in the background.
const DETACHED: &str = "VIPYARD_DETACHED";
const LOG_FILE: &str = "vipyard.log";

/// Whether this process is the one in the background.
pub(super) fn is_detached() -> bool {
    std::env::var_os(DETACHED).is_some()
}

/// Leaves the session of the terminal, so that closing it does not end the cluster.
pub(super) fn leave_terminal() {
    // Fails only for a process that already leads a session, which is what is wanted.
    let _ = rustix::process::setsid();
}

/// Lets the parent return: the end of standard output is the sign.
pub(super) fn announce() -> anyhow::Result<()> {
    std::io::stdout().flush()?;
    let null = OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(null)?;
    Ok(())
}

/// Starts the cluster in the background and returns when it is ready or has failed.
pub(super) fn run(config: &Config) -> Result<(), Failure> {
    let dir = &config.data_dir;
    let new = !dir.exists();
    // For its owner alone, like everything that will be in it.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}: choose another with --data-dir", dir.display()))?;
    let log_path = dir.join(LOG_FILE);
    let log = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&log_path);
    let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
    let mut child = Command::new(std::env::current_exe().context("cannot find the vipyard binary")?)
        .args(std::env::args_os().skip(1))
        .env(DETACHED, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("cannot start the cluster in the background")?;
    let mut output = String::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_string(&mut output).context("cannot read from the cluster in the background")?;
    }
    if !output.is_empty() {
        print!("{output}");
        println!("stop: vipyard down --data-dir {}", dir.display());
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the cluster in the background")?;
    let text = fs::read_to_string(&log_path).unwrap_or_default();
    let reason = text.lines().last().unwrap_or("it ended without a word").trim_start_matches("vipyard: ").to_owned();
    if new && let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("vipyard: {} of the failed start is left behind: {error}", dir.display());
    }
    let error = anyhow!(reason);
    Err(if status.code() == Some(EXIT_USAGE.into()) { Failure::Usage(error) } else { Failure::Failed(error) })
}
