//! What a container sees in place of parts of the host's file system.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

/// Device nodes of the host that every container has; a missing one is left out.
const DEVICES: [&str; 9] = ["null", "zero", "full", "random", "urandom", "tty", "net/tun", "fuse", "kvm"];

/// The mounts of a new container.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Mounts {
    /// In the order in which they are made: one may lie inside an earlier one.
    pub binds: Vec<Bind>,
    /// An empty folder of the host, for mounts on their way to another place.
    pub scratch: PathBuf,
}

/// A file or folder of the host and the place where the container sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
}

pub(super) fn set_up(mounts: &Mounts) -> Result<(), String> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| format!("make mounts private: {e}"))?;
    set_up_dev().map_err(|e| format!("set up /dev: {e}"))?;
    // Inside some containers the kernel forbids a new /proc. The old one shows the processes of the outside, under
    // their outside numbers: confusing for `ps`, harmless for everything else.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let _ = rustix::mount::mount("proc", "/proc", "proc", flags, None);
    for bind in &mounts.binds {
        make(bind, &mounts.scratch).map_err(|e| format!("mount {}: {e}", bind.target.display()))?;
    }
    Ok(())
}

/// A /dev of the container's own: the host's harmless device nodes, an own /dev/shm and terminals.
fn set_up_dev() -> io::Result<()> {
    let nodes: Vec<(&str, OwnedFd)> = DEVICES
        .iter()
        .filter_map(|name| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            Some((*name, rustix::mount::open_tree(rustix::fs::CWD, format!("/dev/{name}"), flags).ok()?))
        })
        .collect();
    let quiet = MountFlags::NOSUID | MountFlags::NOEXEC;
    rustix::mount::mount("tmpfs", "/dev", "tmpfs", MountFlags::NOSUID, Some(c"mode=755,size=65536k"))?;
    for (name, node) in &nodes {
        let path = Path::new("/dev").join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, "")?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(node, c"", rustix::fs::CWD, &path, flags)?;
    }
    for (link, target) in
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")]
    {
        symlink(target, Path::new("/dev").join(link))?;
    }
    fs::create_dir("/dev/shm")?;
    rustix::mount::mount("shm", "/dev/shm", "tmpfs", quiet | MountFlags::NODEV, Some(c"mode=1777,size=65536k"))?;
    fs::create_dir("/dev/pts")?;
    // Terminals are for programs that open one; a kernel without devpts in user namespaces takes nothing else away.
    let _ = rustix::mount::mount("devpts", "/dev/pts", "devpts", quiet, Some(c"newinstance,ptmxmode=0666,mode=0620"));
    Ok(())
}

/// Shows the source at the target. A symlink is followed: what it names is covered. A missing target is made where the
/// container alone sees it, never on the host.
fn make(bind: &Bind, scratch: &Path) -> io::Result<()> {
    let place = match fs::canonicalize(&bind.target) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_place(bind, scratch)?,
        Err(e) => return Err(e),
    };
    rustix::mount::mount_bind(&bind.source, &place)?;
    if bind.read_only {
        // What the file system is mounted with stays: a user namespace may not take it away.
        let flags = inherited_flags(rustix::fs::statvfs(&place)?.f_flag);
        rustix::mount::mount_remount(&place, MountFlags::BIND | MountFlags::RDONLY | flags, "")?;
    }
    Ok(())
}

fn inherited_flags(found: StatVfsMountFlags) -> MountFlags {
    [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(flag, _)| found.contains(*flag))
    .fold(MountFlags::empty(), |all, (_, flag)| all | flag)
}

/// Makes an empty file or folder where a path leads to that does not exist.
fn make_place(bind: &Bind, scratch: &Path) -> io::Result<PathBuf> {
    let target = follow_dangling(&bind.target);
    let existing = target.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let existing = fs::canonicalize(existing)?;
    if !existing.starts_with("/dev") {
        cover(&existing, scratch)?;
    }
    if bind.source.is_dir() {
        fs::create_dir_all(&target)?;
        return Ok(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&target, "")?;
    Ok(target)
}

/// Where a symlink to nowhere points to, through as many links as the kernel would follow.
fn follow_dangling(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("/")).join(next),
            Err(_) => break,
        }
    }
    path
}

/// Puts a writable folder over one of the host, seen by this container alone, with everything in it that is in the
/// host's. What the host adds later is not seen.
///
/// An overlay would be one mount instead of one for each entry. But it hides mounts below the folder, and for a folder
/// that has some, as /run usually does, the kernel refuses it in user namespaces.
fn cover(folder: &Path, scratch: &Path) -> io::Result<()> {
    if folder == Path::new("/") {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no such folder on the host, and / can't get one"));
    }
    rustix::mount::mount("tmpfs", scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
    fs::set_permissions(scratch, fs::metadata(folder)?.permissions())?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match show(&entry, &scratch.join(entry.file_name())) {
            // The host is at work meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            shown => shown?,
        }
    }
    Ok(rustix::mount::mount_move(scratch, folder)?)
}

/// Shows one entry of a folder at another place.
fn show(entry: &fs::DirEntry, place: &Path) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return symlink(fs::read_link(entry.path())?, place);
    }
    if kind.is_dir() {
        fs::create_dir(place)?;
    } else {
        fs::write(place, "")?;
    }
    Ok(rustix::mount::mount_bind_recursive(entry.path(), place)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangling_links_are_followed_to_where_the_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        symlink("../run/resolve.conf", folder.path().join("link")).unwrap();
        assert_eq!(follow_dangling(&folder.path().join("link")), folder.path().join("../run/resolve.conf"));
    }
}
