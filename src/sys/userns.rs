//! Entering a user namespace, so that an ordinary user can own network namespaces and devices.
//!
//! Inside, the process is uid 0 with every capability over what the namespace owns, and still the ordinary user
//! towards everything else: files, and the host's network namespace, which it keeps for its own sockets.

use std::fs;
use std::io;

use rustix::thread::UnshareFlags;

/// Why no user namespace could be entered.
#[derive(Debug, thiserror::Error)]
pub enum UserNsError {
    /// The program began threads first; the kernel lets only a single-threaded process change its user namespace.
    #[error("user namespace entered too late: the process already has threads")]
    Threads,
    #[error("the kernel allows no user namespaces: `sudo sysctl user.max_user_namespaces=15000` mends it")]
    Disabled,
    #[error(
        "AppArmor forbids user namespaces to ordinary programs: \
         `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0` mends it"
    )]
    AppArmor,
    #[error(
        "this kernel forbids user namespaces to ordinary users: `sudo sysctl kernel.unprivileged_userns_clone=1` mends it"
    )]
    DebianSwitch,
    /// Usually a container's seccomp filter.
    #[error(
        "user namespaces are forbidden here; in a container, start it with \
         `--security-opt seccomp=unconfined --security-opt apparmor=unconfined`, or run vipyard as root"
    )]
    Forbidden,
    #[error("user namespace: {step}")]
    Other {
        step: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Makes the process uid 0 of a new user namespace with a mount namespace of its own.
///
/// # Errors
/// A [`UserNsError`] that names what forbids it. After an error in a later step than the first, the process is in a
/// namespace where it is nobody and should end.
pub fn enter() -> Result<(), UserNsError> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    // SAFETY: the descriptor table is not unshared (no FILES flag).
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }
        .map_err(|e| refusal(e.into()))?;
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    Ok(())
}

fn write(path: &'static str, content: &str) -> Result<(), UserNsError> {
    fs::write(path, content).map_err(|source| match source.raw_os_error() {
        // AppArmor on Ubuntu 24.04 lets the namespace be made and takes its capabilities away.
        Some(libc::EPERM | libc::EACCES) if sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1) => {
            UserNsError::AppArmor
        }
        _ => UserNsError::Other { step: path, source },
    })
}

/// Finds the reason behind the error number of unshare.
fn refusal(source: io::Error) -> UserNsError {
    match source.raw_os_error() {
        Some(libc::EINVAL) => UserNsError::Threads,
        Some(libc::ENOSPC | libc::EUSERS) => UserNsError::Disabled,
        Some(libc::EPERM | libc::EACCES) if sysctl("kernel/unprivileged_userns_clone") == Some(0) => {
            UserNsError::DebianSwitch
        }
        Some(libc::EPERM | libc::EACCES) if sysctl("kernel/apparmor_restrict_unprivileged_userns") == Some(1) => {
            UserNsError::AppArmor
        }
        Some(libc::EPERM | libc::EACCES) if sysctl("user/max_user_namespaces") == Some(0) => UserNsError::Disabled,
        Some(libc::EPERM | libc::EACCES) => UserNsError::Forbidden,
        _ => UserNsError::Other { step: "unshare", source },
    }
}

fn sysctl(key: &str) -> Option<i64> {
    fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}
