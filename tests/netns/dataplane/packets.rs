//! What becomes of a client's packets: an answer, a refusal, or silence.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use crate::inside::Reply;

/// A hundred times what an answer takes here. TCP does not repeat itself within this time.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long an exchange may take that has begun.
const LIMIT: Duration = Duration::from_secs(5);
/// The API server's address in every cluster: whoever waits in vain asks it whether packets pass at all.
const REFERENCE: &str = "10.96.0.1:443";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    Answered(Reply),
    /// ICMP port unreachable or a reset, at once.
    Refused,
    /// Nobody in the cluster captured it, and the scenario's machine has no way to the world.
    Unreachable,
    /// Nothing came back, and nothing came later when a known server had answered.
    Silent,
}

/// Asks whoami over HTTP on a new connection, in the calling thread's network namespace.
pub fn tcp(to: SocketAddr) -> Fate {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).expect("a socket");
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => return refused(to, &e.into()),
    }
    if !comes(&socket, PollFlags::OUT) {
        return Fate::Silent;
    }
    if let Err(e) = sockopt::socket_error(&socket).expect("it can be asked") {
        return refused(to, &e.into());
    }
    answer(socket, to).map_or_else(|e| refused(to, &e), Fate::Answered)
}

fn answer(socket: OwnedFd, to: SocketAddr) -> io::Result<Reply> {
    let mut stream = TcpStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET /json HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map(|value| Reply::of_json(&value)).map_err(io::Error::other)
}

/// Asks whoami over UDP from a port that was not used before: a kernel's choice may be the port of a flow that stands.
pub fn udp(to: SocketAddr) -> Fate {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Below a kernel's own choices and the node ports, above what whoami listens on.
    let ports = || (0..).map(|_| 13_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 17_000);
    let socket = ports().find_map(|port| UdpSocket::bind((any, port)).ok()).expect("a free port");
    udp_from(&socket, to)
}

/// Asks whoami over UDP from a socket that may have a history; connected, it takes answers from `to` alone (C9).
pub fn udp_from(socket: &UdpSocket, to: SocketAddr) -> Fate {
    socket.connect(to).expect("a route");
    // What an earlier datagram brought about is not this one's fate.
    while poll_once(socket, PollFlags::IN, Duration::ZERO) && socket.recv(&mut [0; 2048]).is_ok() {}
    let _ = socket.take_error();
    if let Err(e) = socket.send(b"who") {
        return refused(to, &e);
    }
    if !comes(socket, PollFlags::IN) {
        return Fate::Silent;
    }
    let mut buffer = [0; 2048];
    match socket.recv(&mut buffer) {
        Ok(length) => Fate::Answered(Reply::of_text(&String::from_utf8_lossy(&buffer[..length]))),
        Err(e) => refused(to, &e),
    }
}

fn refused(to: SocketAddr, e: &io::Error) -> Fate {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => Fate::Refused,
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Fate::Unreachable,
        _ => panic!("{to}: {e}"),
    }
}

/// Whether anything comes. On a busy machine an answer may be late: then the reference is late, too.
pub fn comes(socket: impl AsFd, what: PollFlags) -> bool {
    if poll_once(&socket, what, PATIENCE) {
        return true;
    }
    let begin = Instant::now();
    TcpStream::connect_timeout(&REFERENCE.parse().expect("an address"), LIMIT).expect("the API server is reached");
    poll_once(socket, what, begin.elapsed() * 10)
}

fn poll_once(socket: impl AsFd, what: PollFlags, time: Duration) -> bool {
    let time = Timespec::try_from(time).expect("a short time");
    poll(&mut [PollFd::new(&socket, what)], Some(&time)).expect("it can be waited for") > 0
}
