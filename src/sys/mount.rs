//! Mounts: attributes of whole trees, and mount namespaces that live by file descriptor alone.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::netns::in_thread;

/// Makes a mount, and every mount below it, read-only. What a user namespace may not take away stays.
///
/// # Errors
/// `Unsupported` by kernels before 5.12, and the kernel's others.
pub fn set_read_only_recursive(path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path is a C string and the attributes are a plain struct whose size is passed along; both live across
    // the call, which only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_RECURSIVE,
            std::ptr::from_ref(&attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Gives the calling process, which must be single-threaded, a copy of the mount namespace that it is in.
///
/// # Errors
/// `PermissionDenied` without CAP_SYS_ADMIN.
pub fn unshare_mounts() -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared (no FILES flag).
    Ok(unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?)
}

/// A file system in memory, and the folder that it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tmpfs {
    pub folder: PathBuf,
    /// In bytes.
    pub size: Option<u64>,
    pub mode: u32,
}

/// A mount namespace: the present one's mounts, and file systems in memory that nobody outside of it sees. They end with
/// its last descriptor and process, so that a vipyard that was killed leaves none behind.
#[derive(Debug)]
pub struct MountNs {
    fd: OwnedFd,
}

impl MountNs {
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN in the caller's user namespace.
    pub fn create(all: &[Tmpfs]) -> io::Result<Self> {
        in_thread(|| {
            unshare_mounts()?;
            // Unmounts of the machine go on to arrive here, so that this keeps no device busy.
            rustix::mount::mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            for one in all {
                fs::create_dir_all(&one.folder)?;
                let size = one.size.map_or(String::new(), |size| format!(",size={size}"));
                let options = std::ffi::CString::new(format!("mode={:o}{size}", one.mode))?;
                let flags = MountFlags::NOSUID | MountFlags::NODEV;
                rustix::mount::mount("tmpfs", &one.folder, "tmpfs", flags, Some(&*options))?;
            }
            Ok(Self { fd: File::open("/proc/thread-self/ns/mnt")?.into() })
        })?
    }

    /// Runs `f` on a thread inside this namespace and waits for it.
    ///
    /// # Errors
    /// When the thread can't be started or can't enter the namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            // A thread shares its root and working folder with the others, and must not to enter.
            unshare_mounts()?;
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Mount))?;
            Ok(f())
        })?
    }
}

impl AsFd for MountNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
