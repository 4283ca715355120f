//! `vipyard doctor`: what this machine allows, what is wrong, and the one command that mends it.

use anyhow::anyhow;

use super::Failure;
use crate::config::Network;
use crate::{netlink, node, sys};

/// Linux 5.11 let an ordinary user mount what Pods need; 6.2 brought UDP segmentation to TUN devices.
const OLDEST_KERNEL: (u32, u32) = (5, 11);
const BEST_KERNEL: (u32, u32) = (6, 2);

/// What one check found.
enum Finding {
    Fine(String),
    /// Works, but not as well as it could.
    Less(String),
    /// Keeps `vipyard up` from working; the text says what mends it.
    Wrong(String),
}

pub(super) fn run() -> Result<(), Failure> {
    let mut wrong = 0;
    let findings = [
        ("kernel", kernel()),
        ("TUN device", tun()),
        ("this host", host()),
        ("user namespaces", user_namespaces()),
        ("address ranges", ranges()),
        ("limits of containers", limits()),
    ];
    let checks = findings.len();
    for (name, finding) in findings {
        match finding {
            Finding::Fine(text) => println!("ok     {name}: {text}"),
            Finding::Less(text) => println!("less   {name}: {text}"),
            Finding::Wrong(text) => {
                wrong += 1;
                println!("wrong  {name}: {text}");
            }
        }
    }
    if wrong == 0 { Ok(()) } else { Err(anyhow!("{wrong} of {checks} checks failed").into()) }
}

fn kernel() -> Finding {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match version {
        version if version < OLDEST_KERNEL => Finding::Wrong(format!("Linux {release} is too old: boot 5.11 or newer")),
        version if version < BEST_KERNEL => Finding::Less(format!("Linux {release}: UDP segmentation comes with 6.2")),
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

/// What `vipyard up --host-access auto` comes to.
fn host() -> Finding {
    if rustix::process::geteuid().is_root() {
        return Finding::Fine("reaches Pods, Services and nodes by a device of its own".into());
    }
    Finding::Less(
        "reaches node ports and load-balancer ports at 127.0.0.1; started by root, it reaches everything".into(),
    )
}

/// As `up` would have it, that is after the user namespace was entered.
fn limits() -> Finding {
    match node::limits_refusal() {
        None => Finding::Fine("kept by control groups".into()),
        Some(why) => Finding::Less(format!("not kept, there are no control groups for them: {why}")),
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
