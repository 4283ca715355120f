//! Many datagrams in one system call: `recvmmsg` and `sendmmsg`.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams that have come, at most `COUNT` at a time; a longer one than `LENGTH` is cut.
pub struct Inbox<const COUNT: usize, const LENGTH: usize> {
    buffers: Box<[[u8; LENGTH]]>,
    senders: [SocketAddr; COUNT],
    lengths: [usize; COUNT],
}

impl<const COUNT: usize, const LENGTH: usize> Default for Inbox<COUNT, LENGTH> {
    fn default() -> Self {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Self { buffers: vec![[0; LENGTH]; COUNT].into(), senders: [nobody; COUNT], lengths: [0; COUNT] }
    }
}

impl<const COUNT: usize, const LENGTH: usize> Inbox<COUNT, LENGTH> {
    /// Takes what is there, without waiting, and says how many there are.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing, or what is wrong with the socket.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::zeroed() }; COUNT];
        let mut parts: [libc::iovec; COUNT] =
            std::array::from_fn(|at| libc::iovec { iov_base: self.buffers[at].as_mut_ptr().cast(), iov_len: LENGTH });
        let room = length_of::<libc::sockaddr_storage>();
        let mut headers: [libc::mmsghdr; COUNT] =
            std::array::from_fn(|at| header(&mut names[at], room, &mut parts[at]));
        let count = libc::c_uint::try_from(COUNT).map_err(io::Error::other)?;
        // SAFETY: each header points to a name and a part of its own, which live across the call, and each part to a
        // buffer of `self` with the length that it says.
        let received = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT, ptr::null_mut())
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (at, header) in headers.iter().enumerate().take(received) {
            self.lengths[at] = usize::try_from(header.msg_len).map_err(io::Error::other)?.min(LENGTH);
            // SAFETY: zeroed at first and written by the kernel since: a valid value of a plain C struct either way.
            let name = unsafe { names[at].assume_init_ref() };
            self.senders[at] = to_address(name).unwrap_or_else(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        }
        Ok(received)
    }

    /// One of those that were received last.
    pub fn get(&self, at: usize) -> (&[u8], SocketAddr) {
        (&self.buffers[at][..self.lengths[at]], self.senders[at])
    }
}

/// Sends what the socket takes at once, and says how many that were.
///
/// # Errors
/// When the first could not be sent; `WouldBlock` when there is no room.
pub fn send<const COUNT: usize>(
    socket: BorrowedFd<'_>,
    datagrams: &[(impl AsRef<[u8]>, SocketAddr)],
) -> io::Result<usize> {
    let datagrams = &datagrams[..datagrams.len().min(COUNT)];
    let mut names = [const { MaybeUninit::<libc::sockaddr_storage>::zeroed() }; COUNT];
    let mut parts = [const { libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 } }; COUNT];
    let mut lengths = [0; COUNT];
    for (at, (datagram, receiver)) in datagrams.iter().enumerate() {
        let datagram = datagram.as_ref();
        parts[at] = libc::iovec { iov_base: datagram.as_ptr().cast_mut().cast(), iov_len: datagram.len() };
        lengths[at] = write_address(*receiver, &mut names[at]);
    }
    let mut headers: [libc::mmsghdr; COUNT] =
        std::array::from_fn(|at| header(&mut names[at], lengths[at], &mut parts[at]));
    let count = libc::c_uint::try_from(datagrams.len()).map_err(io::Error::other)?;
    // SAFETY: the first `count` headers point to names and parts that live across the call and say their lengths; the
    // kernel only reads the datagrams.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

fn header(
    name: &mut MaybeUninit<libc::sockaddr_storage>,
    length: libc::socklen_t,
    part: &mut libc::iovec,
) -> libc::mmsghdr {
    // SAFETY: an all-zero mmsghdr is a valid value of this plain C struct.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = name.as_mut_ptr().cast();
    header.msg_hdr.msg_namelen = length;
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header
}

#[allow(clippy::cast_possible_truncation)] // structs of some bytes
const fn length_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

fn to_address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name = ptr::from_ref(name);
    // SAFETY: every address family's struct fits into a sockaddr_storage and is aligned as it, and any bytes make a
    // valid value of one.
    unsafe {
        match libc::c_int::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

/// Returns the length of what was written.
fn write_address(address: SocketAddr, name: &mut MaybeUninit<libc::sockaddr_storage>) -> libc::socklen_t {
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: every address family's struct fits into a sockaddr_storage and is aligned as it.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in>().write(raw) };
            length_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { name.as_mut_ptr().cast::<libc::sockaddr_in6>().write(raw) };
            length_of::<libc::sockaddr_in6>()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn exchange(any: &str) {
        let (client, server) = (UdpSocket::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
        let (client_at, server_at) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        let mut inbox = Inbox::<4, 16>::default();
        assert_eq!(inbox.receive(server.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);

        let questions: Vec<(Vec<u8>, SocketAddr)> = [&b"one"[..], b"", b"longer than sixteen bytes", b"four", b"five"]
            .map(|text| (text.to_vec(), server_at))
            .into();
        assert_eq!(send::<4>(client.as_fd(), &questions).unwrap(), 4);
        assert_eq!(send::<4>(client.as_fd(), &questions[4..]).unwrap(), 1);
        assert_eq!(inbox.receive(server.as_fd()).unwrap(), 4);
        let seen: Vec<(&[u8], SocketAddr)> = (0..4).map(|at| inbox.get(at)).collect();
        let expected = [&b"one"[..], b"", b"longer than sixt", b"four"].map(|text| (text, client_at));
        assert_eq!(seen, expected);
        assert_eq!(inbox.receive(server.as_fd()).unwrap(), 1);
        assert_eq!(inbox.get(0), (&b"five"[..], client_at));
    }

    #[test]
    fn datagrams_of_both_families_come_with_their_senders() {
        exchange("127.0.0.1:0");
        exchange("[::1]:0");
    }

    #[test]
    fn first_that_cannot_be_sent_is_an_error() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let too_long = vec![0; 70_000];
        let receiver = socket.local_addr().unwrap();
        assert!(send::<2>(socket.as_fd(), &[(too_long, receiver)]).is_err());
    }
}
