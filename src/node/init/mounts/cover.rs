//! Places for mounts where the host has none: writable folders over the host's, seen by one container alone.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, OpenTreeFlags};

use super::{attach, root, set_read_only};

/// The folders that were put over the host's.
pub(super) struct Covers<'a> {
    scratch: &'a Path,
    /// Become read-only at the end, where that is asked for.
    made: Vec<PathBuf>,
    /// The file systems that this container alone writes to.
    own: Vec<u64>,
    /// The volumes that it may write to.
    writable: Vec<PathBuf>,
}

impl<'a> Covers<'a> {
    /// `scratch` is an empty folder of the host, for mounts on their way.
    pub(super) fn new(scratch: &'a Path) -> Self {
        Self { scratch, made: Vec::new(), own: Vec::new(), writable: Vec::new() }
    }

    /// Learns of a file system that nobody else sees.
    pub(super) fn know(&mut self, place: &Path) -> io::Result<()> {
        self.own.push(fs::metadata(place)?.dev());
        Ok(())
    }

    /// Counts it among those that [`Covers::close`] makes read-only, too.
    pub(super) fn add(&mut self, place: &Path) -> io::Result<()> {
        self.made.push(place.to_owned());
        self.know(place)
    }

    /// Learns of a volume: places inside it are made in it.
    pub(super) fn know_volume(&mut self, place: &Path) {
        self.writable.push(place.to_owned());
    }

    /// Puts a writable folder over one of the host with everything in it that is in the host's, unless it is the
    /// container's own already. What the host adds later is not seen.
    ///
    /// An overlay would be one mount instead of one for each entry. But it hides mounts below the folder, and for a
    /// folder that has some, as /run usually does, the kernel refuses it in user namespaces.
    pub(super) fn make_writable(&mut self, folder: &Path) -> io::Result<()> {
        let in_volume = self.writable.iter().any(|volume| folder.starts_with(volume));
        if in_volume || self.own.contains(&fs::metadata(folder)?.dev()) {
            return Ok(());
        }
        rustix::mount::mount("tmpfs", self.scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)?;
        fs::set_permissions(self.scratch, fs::metadata(folder)?.permissions())?;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            match show(&entry, &self.scratch.join(entry.file_name())) {
                // The host is at work meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                shown => shown?,
            }
        }
        rustix::mount::mount_move(self.scratch, folder)?;
        self.add(folder)
    }

    /// The same for `/` itself, which can't be covered: a new one takes its place.
    pub(super) fn renew_root(&mut self) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let mut trees = Vec::new();
        for entry in fs::read_dir("/")? {
            let entry = entry?;
            // Before the new root is mounted, or it would be in the tree that it lies in.
            let tree = if entry.file_type()?.is_symlink() {
                None
            } else {
                Some(rustix::mount::open_tree(rustix::fs::CWD, entry.path(), flags)?)
            };
            trees.push((entry, tree));
        }
        rustix::mount::mount(
            "tmpfs",
            self.scratch,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            Some(c"mode=755"),
        )?;
        for (entry, tree) in trees {
            let place = self.scratch.join(entry.file_name());
            match tree {
                None => symlink(fs::read_link(entry.path())?, place)?,
                Some(tree) => {
                    make_empty(&entry, &place)?;
                    attach(&tree, &place)?;
                }
            }
        }
        root::pivot(self.scratch)?;
        self.add(Path::new("/"))
    }

    /// Makes what was put over the host's folders read-only, as they are.
    pub(super) fn close(self) -> io::Result<()> {
        self.made.iter().rev().try_for_each(|place| set_read_only(place))
    }
}

/// Shows one entry of a folder at another place.
fn show(entry: &fs::DirEntry, place: &Path) -> io::Result<()> {
    if entry.file_type()?.is_symlink() {
        return symlink(fs::read_link(entry.path())?, place);
    }
    make_empty(entry, place)?;
    Ok(rustix::mount::mount_bind_recursive(entry.path(), place)?)
}

fn make_empty(entry: &fs::DirEntry, place: &Path) -> io::Result<()> {
    if entry.file_type()?.is_dir() { fs::create_dir(place) } else { fs::write(place, "") }
}
