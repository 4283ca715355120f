//! TUN devices with a virtio-net header in front of each packet, and offloads switched on.
//!
//! `tokio-tun` 0.16 has no way to set `IFF_VNET_HDR`, and without it a TUN carries one MTU-sized packet per
//! system call and every checksum is computed in software: an eighth of the throughput. The few ioctls are here.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Length of the virtio-net header that precedes every packet in both directions
/// (`struct virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; host byte order).
pub const VNET_HDR_LEN: usize = 10;

// From linux/if_tun.h; the libc crate does not have all of them.
const TUN_F_CSUM: libc::c_uint = 0x01;
const TUN_F_TSO4: libc::c_uint = 0x02;
const TUN_F_TSO6: libc::c_uint = 0x04;
const TUN_F_TSO_ECN: libc::c_uint = 0x08;
const TUN_F_USO4: libc::c_uint = 0x20;
const TUN_F_USO6: libc::c_uint = 0x40;

/// A TUN device's file descriptor, non-blocking. Closing it removes the device.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
    takes_datagrams: bool,
}

impl Tun {
    /// Makes the device `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// `NotFound` or `PermissionDenied` for /dev/net/tun itself, `PermissionDenied` without CAP_NET_ADMIN
    /// in the namespace, `InvalidInput` for a name that is empty or longer than 15 bytes.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("bad interface name {name:?}")));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        set_interface(&file, name)?;
        let takes_datagrams = set_offload(&file)?;
        Ok(Self { fd: file.into(), takes_datagrams })
    }

    /// Whether a frame may hold several datagrams.
    pub fn takes_datagrams(&self) -> bool {
        self.takes_datagrams
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn set_interface(file: &File, name: &str) -> io::Result<()> {
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })
}

/// Lets the kernel hand over segments of up to 64 KiB with partial checksums. UDP segmentation came with
/// Linux 6.2, so it is asked for first and left out where it is unknown. Returns whether it is there.
fn set_offload(file: &File) -> io::Result<bool> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    let set = |flags: libc::c_uint| {
        // SAFETY: TUNSETOFFLOAD takes its flags by value and no pointer.
        check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(flags)) })
    };
    if set(tcp | TUN_F_USO4 | TUN_F_USO6).is_ok() {
        return Ok(true);
    }
    set(tcp).map(|()| false)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
