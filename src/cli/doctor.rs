//! `vipyard doctor`: what this machine allows, what is wrong, and the one command that mends it.

use anyhow::anyhow;

use super::Failure;
use crate::config::Network;
use crate::{netlink, sys};

/// Linux 5.11 let an ordinary user mount what Pods need; 6.2 brought UDP segmentation to TUN devices.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
const BEST_KERNEL: (u32, u32) = (6, 2);

/// What one check found.
enum Finding {
    Fine(String),
    /// Works, but not as well as it could.
    Slow(String),
    /// Keeps `vipyard up` from working; the text says what mends it.
    Wrong(String),
}

pub(super) fn run() -> Result<(), Failure> {
    let mut wrong = 0;
    for (name, finding) in [
        ("kernel", kernel()),
        ("TUN device", tun()),
        ("user namespaces", user_namespaces()),
        ("address ranges", ranges()),
    ] {
        match finding {
            Finding::Fine(text) => println!("ok     {name}: {text}"),
            Finding::Slow(text) => println!("slow   {name}: {text}"),
            Finding::Wrong(text) => {
                wrong += 1;
                println!("wrong  {name}: {text}");
            }
        }
    }
    if wrong == 0 { Ok(()) } else { Err(anyhow!("{wrong} of 4 checks failed").into()) }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        version if version < OLDEST_KERNEL => Finding::Wrong(format!("Linux {release} is too old: boot 5.11 or newer")),
        version if version < BEST_KERNEL => Finding::Slow(format!("Linux {release}: UDP segmentation comes with 6.2")),
        _ => Finding::Fine(format!("Linux {release}")),
    }
}

fn tun() -> Finding {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    let path = "/dev/net/tun";
    match accessat(CWD, path, Access::READ_OK | Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => Finding::Fine(format!("{path} can be opened")),
        Err(rustix::io::Errno::NOENT) => Finding::Wrong(format!("{path} is missing: `sudo modprobe tun` mends it")),
        Err(_) => Finding::Wrong(format!(
            "{path} may not be opened by this user, though distributions ship it as 0666: `sudo chmod 0666 {path}` mends it"
        )),
    }
}

fn user_namespaces() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::Fine("not needed: this is root".into());
    }
    // Tried in this very process: it ends after the checks.
    match sys::userns::enter() {
        Ok(()) => Finding::Fine("may be made by this user".into()),
        Err(e) => Finding::Wrong(e.to_string()),
    }
}

fn ranges() -> Finding {
    match crate::app::check_ranges(&Network::default(), &netlink::host_networks().unwrap_or_default()) {
        Ok(()) => Finding::Fine("none of the cluster's ranges is used by the host".into()),
        Err(e) => Finding::Wrong(e.to_string()),
    }
}
