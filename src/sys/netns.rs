//! Network namespaces that live by file descriptor alone.
//!
//! Nothing is bound under /run/netns and nothing has a name: a namespace ends with its last descriptor, device and
//! process, so a vipyard that was killed leaves none behind. Work inside a namespace is done by a short-lived
//! thread, because the namespace belongs to the thread; the sockets that it makes stay in there for ever and can be
//! used by any thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::thread;

use rustix::thread::{
    LinkNameSpaceType, ThreadNameSpaceType, UnshareFlags, move_into_link_name_space, move_into_thread_name_spaces,
};

/// An owned network namespace.
#[derive(Debug)]
pub struct NetNs {
    fd: OwnedFd,
}

/// The namespaces that the containers of one Pod share: network, host name and System V IPC.
#[derive(Debug)]
pub struct SandboxNs {
    pub net: NetNs,
    pub uts: OwnedFd,
    pub ipc: OwnedFd,
}

impl NetNs {
    /// A new, empty namespace with `lo` up.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_SYS_ADMIN in the caller's user namespace, `StorageFull` when the limit
    /// user.max_net_namespaces is reached.
    pub fn create() -> io::Result<Self> {
        in_thread(|| {
            unshare(UnshareFlags::NEWNET)?;
            loopback_up()?;
            Ok(Self { fd: own("net")? })
        })?
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> io::Result<Self> {
        Ok(Self { fd: own("net")? })
    }

    /// Runs `f` on a thread inside this namespace and waits for it.
    ///
    /// # Errors
    /// When the thread can't be started or can't enter the namespace. A panic of `f` is passed on.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(f())
        })?
    }

    /// A second handle on the same namespace.
    ///
    /// # Errors
    /// When the process is out of file descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }
}

/// Runs `f` on a thread in the network namespace of the process with this pidfd, and waits for it.
///
/// # Errors
/// As [`NetNs::run`]; when the process has ended, too.
pub fn run_beside<T: Send>(pidfd: impl AsFd + Sync, f: impl FnOnce() -> T + Send) -> io::Result<T> {
    in_thread(|| {
        move_into_thread_name_spaces(pidfd.as_fd(), ThreadNameSpaceType::NETWORK)?;
        Ok(f())
    })?
}

impl SandboxNs {
    /// New namespaces for one Pod, with `lo` up.
    ///
    /// # Errors
    /// As [`NetNs::create`]; `InvalidInput` for a host name of more than 64 bytes.
    pub fn create(hostname: &str) -> io::Result<Self> {
        in_thread(|| {
            unshare(UnshareFlags::NEWNET | UnshareFlags::NEWUTS | UnshareFlags::NEWIPC)?;
            rustix::system::sethostname(hostname.as_bytes())?;
            loopback_up()?;
            Ok(Self { net: NetNs { fd: own("net")? }, uts: own("uts")?, ipc: own("ipc")? })
        })?
    }

    /// Runs `f` on a thread that sees this Pod's System V IPC, and waits for it.
    ///
    /// # Errors
    /// As [`NetNs::run`].
    pub fn run_with_ipc<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            move_into_link_name_space(self.ipc.as_fd(), Some(LinkNameSpaceType::InterProcessCommunication))?;
            Ok(f())
        })?
    }

    /// A host name and IPC of its own around an existing network namespace, for hostNetwork Pods.
    ///
    /// # Errors
    /// As [`SandboxNs::create`].
    pub fn create_in(net: NetNs, hostname: &str) -> io::Result<Self> {
        in_thread(|| {
            unshare(UnshareFlags::NEWUTS | UnshareFlags::NEWIPC)?;
            rustix::system::sethostname(hostname.as_bytes())?;
            Ok(Self { net, uts: own("uts")?, ipc: own("ipc")? })
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the descriptor table is not unshared (no FILES flag), so no descriptor that another thread
    // counts on changes its meaning here.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}

/// Sets `lo` up in the calling thread's namespace.
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn own(kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/thread-self/ns/{kind}"))?.into())
}

/// The thread's namespaces change for good, so it is never one that anything else runs on.
pub(super) fn in_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("netns".to_owned()).stack_size(256 * 1024).spawn_scoped(scope, f)?;
        worker.join().map_err(|panic| std::panic::resume_unwind(panic))
    })
}
