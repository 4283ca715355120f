//! What a container sees of the file system: the host's or an image's, with volumes and files of the Pod over it.

mod cover;
mod devices;
mod root;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags};
use serde::{Deserialize, Serialize};

use crate::sys::mount::set_read_only_recursive;
use cover::Covers;
pub use root::Root;

/// The mounts of a new container.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Mounts {
    /// An image's file system; without one it is the host's.
    pub root: Option<Root>,
    /// Nothing can be written but volumes and what the container has of its own below /dev.
    pub read_only_root: bool,
    /// In the order in which they are made: one may lie inside an earlier one.
    pub binds: Vec<Bind>,
    /// An empty folder of the host, for mounts on their way to another place.
    pub scratch: PathBuf,
    /// The Pod has mounts that all its containers see, in a namespace that comes last among the descriptors.
    pub pod_mounts: bool,
}

/// A file or folder of the host and the place where the container sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// Without symlinks.
    pub source: PathBuf,
    pub target: PathBuf,
    pub read_only: bool,
    /// With the mounts below it.
    pub recursive: bool,
}

/// `cwd` is the folder in which the program is to start.
pub(super) fn set_up(mounts: &Mounts, cwd: &Path) -> Result<(), String> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|e| format!("make mounts private: {e}"))?;
    // What is brought in is taken hold of first: the way to it may be covered, or gone with the host's root.
    let sources = mounts.binds.iter().map(|bind| Ok((bind, open_source(bind)?))).collect::<Result<Vec<_>, String>>()?;
    let devices = devices::open();
    let mut covers = Covers::new(&mounts.scratch);
    match &mounts.root {
        Some(root) => {
            root::enter(root, &mounts.scratch)?;
            covers.add(Path::new("/")).map_err(|e| format!("look at the root: {e}"))?;
        }
        None => {
            if mounts.read_only_root {
                set_read_only_recursive(Path::new("/")).map_err(|e| format!("make the root read-only: {e}"))?;
            }
            if mounts.binds.iter().any(|bind| nearest_folder(&bind.target) == Path::new("/")) {
                covers.renew_root().map_err(|e| format!("make places in /: {e}"))?;
            }
            // Inside some containers the kernel forbids a new /proc. The old one shows the processes of the outside,
            // under their outside numbers: confusing for `ps`, harmless for everything else.
            let _ = root::mount_proc(Path::new("/proc"));
        }
    }
    devices::set_up(&devices).and_then(|()| covers.know(Path::new("/dev"))).map_err(|e| format!("set up /dev: {e}"))?;
    for (bind, source) in sources {
        make(bind, &source, &mut covers).map_err(|e| format!("mount {}: {e}", bind.target.display()))?;
    }
    if mounts.root.is_some() {
        // As container runtimes do: an image names a working folder that its files may not have.
        let _ = fs::create_dir_all(cwd);
    }
    if mounts.read_only_root {
        covers.close().map_err(|e| format!("make the root read-only: {e}"))?;
    }
    Ok(())
}

/// A mount of the source, in no place yet. No symlink is followed, as a container may have made one in a volume.
fn open_source(bind: &Bind) -> Result<OwnedFd, String> {
    let open = || {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found =
            rustix::fs::openat2(rustix::fs::CWD, &bind.source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let all = if bind.recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        rustix::mount::open_tree(&found, c"", flags | all)
    };
    open().map_err(|e| format!("mount {} at {}: {e}", bind.source.display(), bind.target.display()))
}

/// Shows the source at the target. A symlink is followed: what it names is covered. A missing target is made where the
/// container alone sees it, never on the host.
fn make(bind: &Bind, source: &OwnedFd, covers: &mut Covers<'_>) -> io::Result<()> {
    let place = match fs::canonicalize(&bind.target) {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => make_place(bind, source, covers)?,
        Err(e) => return Err(e),
    };
    attach(source, &place)?;
    if bind.read_only {
        return set_read_only(&place);
    }
    covers.know_volume(&place);
    Ok(())
}

fn attach(mount: &OwnedFd, place: &Path) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, c"", rustix::fs::CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes one mount read-only.
fn set_read_only(place: &Path) -> io::Result<()> {
    // What the file system is mounted with stays: a user namespace may not take it away.
    let flags = inherited_flags(rustix::fs::statvfs(place)?.f_flag);
    Ok(rustix::mount::mount_remount(place, MountFlags::BIND | MountFlags::RDONLY | flags, "")?)
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
fn make_place(bind: &Bind, source: &OwnedFd, covers: &mut Covers<'_>) -> io::Result<PathBuf> {
    let target = follow_dangling(&bind.target);
    covers.make_writable(&fs::canonicalize(nearest_folder(&target))?)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(source)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        fs::create_dir_all(&target)?;
        return Ok(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&target, "")?;
    Ok(target)
}

/// The folder that exists and is nearest to a path, or the path itself where that is one.
fn nearest_folder(path: &Path) -> PathBuf {
    let target = follow_dangling(path);
    if target.exists() {
        return target;
    }
    target.ancestors().skip(1).find(|path| path.is_dir()).unwrap_or(Path::new("/")).to_owned()
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn dangling_links_are_followed_to_where_the_file_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        symlink("../run/resolve.conf", folder.path().join("link")).unwrap();
        assert_eq!(follow_dangling(&folder.path().join("link")), folder.path().join("../run/resolve.conf"));
        assert_eq!(nearest_folder(&folder.path().join("no/such/file")), folder.path());
        assert_eq!(nearest_folder(Path::new("/no-such-folder/x")), Path::new("/"));
    }
}
