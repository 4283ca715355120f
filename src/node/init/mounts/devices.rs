//! A /dev of the container's own: the host's harmless device nodes, an own /dev/shm, message queues and terminals.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::mount::{MountFlags, OpenTreeFlags};

/// Device nodes of the host that every container has; a missing one is left out.
const DEVICES: [&str; 9] = ["null", "zero", "full", "random", "urandom", "tty", "net/tun", "fuse", "kvm"];

pub(super) struct Devices(Vec<(&'static str, OwnedFd)>);

/// Takes hold of the host's nodes, before anything covers them.
pub(super) fn open() -> Devices {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let node = |name: &&'static str| {
        Some((*name, rustix::mount::open_tree(rustix::fs::CWD, format!("/dev/{name}"), flags).ok()?))
    };
    Devices(DEVICES.iter().filter_map(node).collect())
}

pub(super) fn set_up(devices: &Devices) -> io::Result<()> {
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    fs::create_dir_all("/dev")?;
    rustix::mount::mount("tmpfs", "/dev", "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=65536k"))?;
    for (name, node) in &devices.0 {
        let path = Path::new("/dev").join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, "")?;
        super::attach(node, &path)?;
    }
    for (link, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        symlink(target, Path::new("/dev").join(link))?;
    }
    fs::create_dir("/dev/shm")?;
    rustix::mount::mount("shm", "/dev/shm", "tmpfs", quiet | MountFlags::NODEV, Some(c"mode=1777,size=65536k"))?;
    fs::create_dir("/dev/pts")?;
    // Terminals and queues are for programs that open one; a kernel without them takes nothing else away.
    let _ = rustix::mount::mount("devpts", "/dev/pts", "devpts", quiet, Some(c"newinstance,ptmxmode=0666,mode=0620"));
    fs::create_dir("/dev/mqueue")?;
    let _ = rustix::mount::mount("mqueue", "/dev/mqueue", "mqueue", quiet | MountFlags::NODEV, None);
    Ok(())
}
