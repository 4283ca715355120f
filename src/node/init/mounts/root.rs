//! An image's root file system: a folder of the host under an overlay, so that containers don't write into it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};
use serde::{Deserialize, Serialize};

use super::set_read_only;

/// The folders of an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The image's folder.
    pub lower: PathBuf,
    /// Takes what the container writes.
    pub upper: PathBuf,
    /// The kernel's own, beside `upper`.
    pub work: PathBuf,
    /// The overlay's marks are those that an ordinary user may make.
    pub user: bool,
}

/// Makes the image's file system the container's root, with /proc and /sys.
pub(super) fn enter(root: &Root, place: &Path) -> Result<(), String> {
    mount(root, place)?;
    let step = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
    let (proc, sys) = (place.join("proc"), place.join("sys"));
    for folder in [&proc, &sys] {
        fs::create_dir_all(folder).map_err(step("make a folder in the image's file system"))?;
    }
    // Both while the host's are in sight: without them a user namespace gets none.
    if mount_proc(&proc).is_err() {
        rustix::mount::mount_bind_recursive("/proc", &proc).map_err(|e| format!("mount /proc: {e}"))?;
    }
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    if rustix::mount::mount("sysfs", &sys, "sysfs", quiet, None).is_err()
        && rustix::mount::mount_bind_recursive("/sys", &sys).is_ok()
    {
        set_read_only(&sys).map_err(step("mount /sys"))?;
    }
    pivot(place).map_err(step("pivot_root"))
}

fn mount(root: &Root, place: &Path) -> Result<(), String> {
    let text = |path: &Path| path.display().to_string().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,");
    let marks = if root.user { ",userxattr" } else { "" };
    let options =
        format!("lowerdir={},upperdir={},workdir={}{marks}", text(&root.lower), text(&root.upper), text(&root.work));
    let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
    rustix::mount::mount("overlay", place, "overlay", MountFlags::empty(), Some(&*options)).map_err(|e| {
        format!(
            "overlay of {}: {}; an image with a rootfs takes overlayfs{}, and a --data-dir that is no overlay itself",
            root.lower.display(),
            crate::node::init::plain(&e.into()),
            if root.user { " in user namespaces (Linux 5.11)" } else { "" },
        )
    })
}

pub(super) fn mount_proc(place: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", place, "proc", flags, None)?)
}

/// Makes the mount at `place` the root, and lets go of the old one.
pub(super) fn pivot(place: &Path) -> io::Result<()> {
    std::env::set_current_dir(place)?;
    // The old root comes to lie over the new one, and is taken off.
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    std::env::set_current_dir("/")
}
