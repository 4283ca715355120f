//! A pseudo-terminal: the container's side is made by its init, in its own /dev/pts, and the master comes to us.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::pty::OpenptFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::readiness;

/// The master of a terminal. The last handle's end hangs up: the terminal's session gets SIGHUP.
#[derive(Debug)]
pub struct Terminal {
    master: AsyncFd<OwnedFd>,
}

/// A pair of sockets: the init sends the master through the second, which is its standard input until then.
pub fn handover() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

impl Terminal {
    /// Takes the master that an init has sent.
    ///
    /// # Errors
    /// When none was sent.
    pub fn receive(socket: OwnedFd) -> io::Result<Arc<Self>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        rustix::net::recvmsg(&socket, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
        let master = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        let master = master.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no terminal was sent"))?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let master = readiness::watch(master, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Arc::new(Self { master }))
    }

    /// Waits until there is something to read.
    pub async fn readable(&self) -> io::Result<()> {
        self.master.readable().await.map(|mut ready| ready.retain_ready())
    }

    /// Adds what the terminal's programs have written, up to the room in `buffer`; 0 after the last of them has ended.
    pub async fn read(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.master.async_io(Interest::READABLE, |master| {
            Ok(rustix::io::read(master, rustix::buffer::spare_capacity(buffer))?)
        });
        match read.await {
            // How the kernel says that nobody has the other side open any more.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(0),
            result => result,
        }
    }

    /// Types into the terminal.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |master: &OwnedFd| Ok(rustix::io::write(master, bytes)?);
            let written = self.master.async_io(Interest::WRITABLE, write).await?;
            bytes = &bytes[written..];
        }
        Ok(())
    }

    /// Sets the size; programs in the foreground get SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal whose programs have ended needs no size.
        let _ = rustix::termios::tcsetwinsize(&self.master, size);
    }
}

/// In the container's init: makes a terminal in the container's own /dev/pts, sends its master through standard input,
/// and makes it the controlling terminal and the standard streams of this process, which leads a session already.
pub fn take() -> io::Result<()> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open("/dev/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    rustix::net::sendmsg(rustix::stdio::stdin(), &[IoSlice::new(&[0])], &mut control, SendFlags::empty())?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    Ok(rustix::stdio::dup2_stderr(&slave)?)
}
