//! What a container's process does before it becomes the container's program.
//!
//! The agent starts its own binary again with the hidden subcommand `container-init`. That process is single-threaded
//! and alone in new mount and process-id namespaces, so it can do with ordinary code what a forked child of a threaded
//! program must not: enter the Pod's namespaces, mount, resolve paths. Then it executes the container's program in its
//! own place. What goes wrong is written to a pipe that closes by itself when the program takes over.

mod identity;
mod mounts;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::thread::{ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces};
use serde::{Deserialize, Serialize};

use super::streams::terminal;
use crate::sys::errors::plain;
use crate::sys::mount::unshare_mounts;
use crate::sys::process::{hide_descriptors, reader_gone, reset_signals, take_inherited};

pub use identity::Identity;
pub use mounts::{Bind, Mounts, Root};

/// The name of the hidden subcommand.
pub const SUBCOMMAND: &str = "container-init";

/// The exit code of a container whose program could not be started, as container runtimes report it.
pub const START_ERROR: i32 = 128;

/// What the process is to become.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Spec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// The program is this binary itself; `argv` are its arguments.
    pub builtin: bool,
    pub env: BTreeMap<String, String>,
    pub cwd: PathBuf,
    pub identity: Identity,
    /// The control group with the container's limits.
    pub cgroup: Option<PathBuf>,
    /// Standard input is a socket, and the process gets a terminal in place of its standard streams.
    pub terminal: bool,
    /// A new container, or, if absent, one more process in a running one.
    pub mounts: Option<Mounts>,
}

/// The way of the hidden subcommand: `container-init SPEC REPORT NAMESPACE[,NAMESPACE..]`, all numbers of inherited
/// descriptors. SPEC holds a [`Spec`] as JSON; REPORT takes one line on failure. The namespaces of a new container are
/// network, UTS, IPC and, where the Pod has one, mounts; one more process gets the pidfd of its neighbour instead.
///
/// Returns only on failure. Must be called before any thread starts.
pub fn container_init(args: &[String]) -> ExitCode {
    let (spec, report, namespaces) = match inherited(args) {
        Ok(all) => all,
        Err(e) => {
            eprintln!("{SUBCOMMAND} is started by vipyard itself: {e}");
            return ExitCode::from(64);
        }
    };
    hide_descriptors();
    reset_signals();
    // Between the clone and its request for a death signal the agent may have died unnoticed.
    if !reader_gone(report.as_fd()) {
        let failure = become_program(spec, &namespaces);
        let _ = fs::File::from(report).write_all(failure.as_bytes());
    }
    ExitCode::from(START_ERROR as u8)
}

fn inherited(args: &[String]) -> io::Result<(fs::File, OwnedFd, Vec<OwnedFd>)> {
    let [spec, report, namespaces] = args else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "three arguments are needed"));
    };
    let take = |number: &str| {
        let number: RawFd = number.parse().map_err(io::Error::other)?;
        if number < 3 { Err(io::ErrorKind::InvalidInput.into()) } else { take_inherited(number) }
    };
    let namespaces = namespaces.split(',').map(take).collect::<io::Result<_>>()?;
    Ok((take(spec)?.into(), take(report)?, namespaces))
}

/// Does everything up to the `exec`, and says what failed.
fn become_program(mut spec: fs::File, namespaces: &[OwnedFd]) -> String {
    let mut json = Vec::new();
    let read = spec.read_to_end(&mut json).map_err(|e| e.to_string());
    match read.and_then(|_| serde_json::from_slice(&json).map_err(|e| e.to_string())) {
        Ok(spec) => match prepare(&spec, namespaces) {
            Ok(home) => execute(&spec, home),
            Err(e) => e,
        },
        Err(e) => format!("container specification: {e}"),
    }
}

/// Returns the home of the user that the program runs as.
fn prepare(spec: &Spec, namespaces: &[OwnedFd]) -> Result<Option<String>, String> {
    if let Some(group) = &spec.cgroup {
        fs::write(group.join("cgroup.procs"), "0").map_err(|e| format!("join the control group: {}", plain(&e)))?;
    }
    match &spec.mounts {
        Some(mounts) => {
            for namespace in namespaces {
                move_into_link_name_space(namespace.as_fd(), None).map_err(|e| format!("enter namespace: {e}"))?;
            }
            if mounts.pod_mounts {
                unshare_mounts().map_err(|e| format!("copy the pod's mounts: {e}"))?;
            }
            mounts::set_up(mounts, &spec.cwd)?;
        }
        None => {
            use ThreadNameSpaceType as T;
            for pidfd in namespaces {
                let all = T::MOUNT | T::NETWORK | T::HOST_NAME_AND_NIS_DOMAIN_NAME | T::INTER_PROCESS_COMMUNICATION;
                move_into_thread_name_spaces(pidfd.as_fd(), all).map_err(|e| format!("enter container: {e}"))?;
            }
        }
    }
    // Nobody here has anything to do with the terminal that vipyard itself was started from.
    rustix::process::setsid().map_err(|e| format!("begin a session: {e}"))?;
    if spec.terminal {
        terminal::take().map_err(|e| format!("terminal: {}", plain(&e)))?;
    }
    // A program that is root here must not turn the core files of a crash loop into the host's problem.
    let no_core = rustix::process::Rlimit { current: Some(0), maximum: None };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, no_core);
    std::env::set_current_dir(&spec.cwd)
        .map_err(|e| format!("chdir to cwd ({:?}) failed: {}", spec.cwd.display().to_string(), plain(&e)))?;
    spec.identity.take_on()
}

/// Becomes the program; what comes back is the error, worded as a container runtime does.
fn execute(spec: &Spec, home: Option<String>) -> String {
    let mut command = if spec.builtin {
        let mut command = Command::new("/proc/self/exe");
        command.arg0("vipyard").args(&spec.argv);
        command
    } else {
        let Some((name, arguments)) = spec.argv.split_first() else {
            return "no command specified".to_owned();
        };
        let path = match look_up(name, spec.env.get("PATH").map_or("", String::as_str)) {
            Ok(path) => path,
            Err(e) => return e,
        };
        let mut command = Command::new(path);
        command.arg0(name).args(arguments);
        command
    };
    command.env_clear().envs(&spec.env);
    if !spec.env.contains_key("HOME") {
        command.env("HOME", home.as_deref().unwrap_or("/"));
    }
    let error = command.exec();
    format!("exec {}: {}", spec.argv.first().map_or("", String::as_str), plain(&error))
}

/// Finds a program as container runtimes do, with their words for what is wrong.
fn look_up(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return match fs::metadata(name) {
            Err(e) => Err(format!("exec: {name:?}: stat {name}: {}", plain(&e))),
            Ok(found) if found.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            Ok(found) if found.permissions().mode() & 0o111 == 0 => Err(format!("exec: {name:?}: permission denied")),
            Ok(_) => Ok(PathBuf::from(name)),
        };
    }
    path.split(':')
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(name))
        .find(|candidate| fs::metadata(candidate).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_in_path_or_the_error_reads_as_the_runtimes() {
        assert_eq!(look_up("sh", "/nowhere:/bin"), Ok("/bin/sh".into()));
        assert_eq!(
            look_up("no-such-program", "/bin").unwrap_err(),
            r#"exec: "no-such-program": executable file not found in $PATH"#
        );
        assert_eq!(
            look_up("/no/such", "").unwrap_err(),
            r#"exec: "/no/such": stat /no/such: no such file or directory"#
        );
        assert_eq!(look_up("/etc/passwd", "").unwrap_err(), r#"exec: "/etc/passwd": permission denied"#);
        assert_eq!(look_up("/etc", "").unwrap_err(), r#"exec: "/etc": is a directory"#);
    }
}
