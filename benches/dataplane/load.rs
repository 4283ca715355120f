//! Servers and clients: plain sockets and epoll, the same for every path.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use crate::world::{Path, REQUEST_PORT, REQUEST_TARGETS, STREAM_PORT, STREAM_TARGET, inside};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Asks the server to close after its answer, as a connection per request does.
const LAST_REQUEST: &[u8] = b"GET /close HTTP/1.1\r\nHost: bench\r\n\r\n";
const RESPONSE: [u8; 200] = [b'x'; 200];
const CONNECTIONS: usize = 64;
const CONNECTING: usize = 32;

/// Samples of every figure of a path.
#[derive(Default)]
pub struct Figures {
    rows: [Vec<f64>; Self::ROWS.len()],
}

impl Figures {
    /// Names, and whether more is better.
    pub const ROWS: [(&'static str, bool); 5] = [
        ("one TCP stream, Gbit/s", true),
        ("new connections/s", true),
        ("keep-alive requests/s, 64", true),
        ("request latency p50, us", false),
        ("request latency p99, us", false),
    ];

    pub fn samples(&self, row: usize) -> &[f64] {
        &self.rows[row]
    }

    pub fn median(&self, row: usize) -> f64 {
        let mut sorted = self.rows[row].clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Runs the loads whose figure's name contains `only` over a path once.
pub fn measure(path: &dyn Path, time: Duration, only: &str, figures: &mut Figures) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let listeners = inside(path.server(), listeners)?.join().expect("no panic")??;
    let (requests, sink) = listeners;
    let servers = [
        inside(path.server(), {
            let stop = Arc::clone(&stop);
            move || serve_requests(requests, &stop)
        })?,
        inside(path.server(), {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || swallow(&sink, &received, &stop)
        })?,
    ];
    let (request, stream) = (path.address(REQUEST_PORT), path.address(STREAM_PORT));
    let wanted = Figures::ROWS.map(|(label, _)| label.contains(only));
    let client = inside(path.client(), move || -> Result<[Option<f64>; 5]> {
        let mut values = [None; 5];
        if wanted[0] {
            values[0] = Some(send_stream(stream, time, &received).context("stream")?);
        }
        if wanted[1] {
            values[1] = Some(open_connections(request, time).context("new connections")?);
        }
        if wanted[2] {
            values[2] = Some(keep_alive(request, time).context("keep-alive")?);
        }
        if wanted[3] || wanted[4] {
            let (p50, p99) = latency(request, time / 2).context("latency")?;
            (values[3], values[4]) = (Some(p50), Some(p99));
        }
        Ok(values)
    })?;
    let result = client.join().expect("no panic")?;
    stop.store(true, Ordering::Relaxed);
    for server in servers {
        server.join().expect("no panic")??;
    }
    for (row, value) in figures.rows.iter_mut().zip(result?) {
        row.extend(value);
    }
    Ok(())
}

fn listeners() -> io::Result<(Vec<TcpListener>, TcpListener)> {
    let requests = REQUEST_TARGETS.map(listen);
    Ok((requests.collect::<io::Result<_>>()?, listen(STREAM_TARGET)?))
}

/// A listener with a backlog that no load here fills.
fn listen(port: u16) -> io::Result<TcpListener> {
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&fd, true)?;
    rustix::net::bind(&fd, &SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    rustix::net::listen(&fd, 4096)?;
    Ok(fd.into())
}

/// A little epoll loop over things that are keyed by their descriptor.
struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    fn new() -> io::Result<Self> {
        Ok(Self { epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?, events: Vec::with_capacity(256) })
    }

    fn add(&self, fd: impl AsFd, flags: epoll::EventFlags) -> io::Result<()> {
        let key = u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(0);
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(key), flags)?)
    }

    fn wait(&mut self) -> io::Result<Vec<RawFd>> {
        self.events.clear();
        let timeout = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout))?;
        Ok(self.events.iter().map(|event| RawFd::try_from(event.data.u64()).unwrap_or(-1)).collect())
    }
}

fn serve_requests(listeners: Vec<TcpListener>, stop: &AtomicBool) -> io::Result<()> {
    let mut poll = Poll::new()?;
    let listeners: HashMap<RawFd, TcpListener> = listeners.into_iter().map(|l| (l.as_raw_fd(), l)).collect();
    for listener in listeners.values() {
        poll.add(listener, epoll::EventFlags::IN)?;
    }
    let mut streams: HashMap<RawFd, TcpStream> = HashMap::new();
    let mut buf = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        for fd in poll.wait()? {
            if let Some(listener) = listeners.get(&fd) {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    poll.add(&stream, epoll::EventFlags::IN)?;
                    streams.insert(stream.as_raw_fd(), stream);
                }
                continue;
            }
            let Some(stream) = streams.get_mut(&fd) else { continue };
            let done = match stream.read(&mut buf) {
                Ok(0) => true,
                Ok(len) => {
                    let last = &buf[..len] == LAST_REQUEST;
                    stream.write_all(&RESPONSE).is_err() || last
                }
                Err(e) => e.kind() != ErrorKind::WouldBlock,
            };
            if done {
                streams.remove(&fd);
            }
        }
    }
    Ok(())
}

fn swallow(listener: &TcpListener, received: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut poll = Poll::new()?;
    poll.add(listener, epoll::EventFlags::IN)?;
    let mut buf = vec![0; 512 * 1024];
    while !stop.load(Ordering::Relaxed) {
        if poll.wait()?.is_empty() {
            continue;
        }
        let (mut stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        loop {
            match stream.read(&mut buf)? {
                0 => break,
                len => received.fetch_add(len as u64, Ordering::Relaxed),
            };
        }
    }
    Ok(())
}

/// Gigabits per second that arrive.
fn send_stream(to: SocketAddr, time: Duration, received: &AtomicU64) -> Result<f64> {
    let mut stream = TcpStream::connect(to)?;
    let buf = vec![0; 256 * 1024];
    let send_for = |stream: &mut TcpStream, time: Duration| -> io::Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            stream.write_all(&buf)?;
        }
        Ok(())
    };
    // The window opens first.
    send_for(&mut stream, Duration::from_millis(200))?;
    let (before, start) = (received.load(Ordering::Relaxed), Instant::now());
    send_for(&mut stream, time)?;
    let bytes = received.load(Ordering::Relaxed) - before;
    Ok(bytes as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

fn start_connection(to: SocketAddr) -> io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    match connect(&fd, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(fd.into()),
        Err(e) => Err(e.into()),
    }
}

/// Connections per second, each with one request, one answer and an orderly end.
fn open_connections(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut poll = Poll::new()?;
    let mut streams: HashMap<RawFd, (TcpStream, bool)> = HashMap::new();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
    let open = |poll: &Poll, streams: &mut HashMap<RawFd, (TcpStream, bool)>| -> io::Result<()> {
        let stream = start_connection(to)?;
        poll.add(&stream, flags)?;
        streams.insert(stream.as_raw_fd(), (stream, false));
        Ok(())
    };
    for _ in 0..CONNECTING {
        open(&poll, &mut streams)?;
    }
    let mut done = 0u64;
    let start = Instant::now();
    let mut buf = [0; 4096];
    while start.elapsed() < time {
        let ready = poll.wait()?;
        if ready.is_empty() {
            bail!("{done} connections, then silence");
        }
        for fd in ready {
            let Some((stream, asked)) = streams.get_mut(&fd) else { continue };
            if !*asked {
                match stream.write(LAST_REQUEST) {
                    Ok(_) => *asked = true,
                    Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                    Err(e) => return Err(e.into()),
                }
            }
            let ended = loop {
                match stream.read(&mut buf) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::WouldBlock => break false,
                    Err(e) => return Err(e.into()),
                }
            };
            if ended {
                streams.remove(&fd);
                done += 1;
                open(&poll, &mut streams)?;
            }
        }
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// Requests per second over connections that stay.
fn keep_alive(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut poll = Poll::new()?;
    let mut streams: HashMap<RawFd, TcpStream> = HashMap::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        stream.write_all(REQUEST)?;
        stream.set_nonblocking(true)?;
        poll.add(&stream, epoll::EventFlags::IN)?;
        streams.insert(stream.as_raw_fd(), stream);
    }
    let mut done = 0u64;
    let start = Instant::now();
    let mut buf = [0; 4096];
    while start.elapsed() < time {
        let ready = poll.wait()?;
        if ready.is_empty() {
            bail!("{done} requests, then silence");
        }
        for fd in ready {
            let Some(stream) = streams.get_mut(&fd) else { continue };
            match stream.read(&mut buf) {
                Ok(RESPONSE_LEN) => {
                    done += 1;
                    stream.write_all(REQUEST)?;
                }
                Ok(len) => bail!("an answer of {len} bytes"),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

const RESPONSE_LEN: usize = RESPONSE.len();

/// Median and 99th percentile of one request after the other, in microseconds.
fn latency(to: SocketAddr, time: Duration) -> Result<(f64, f64)> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let mut samples = Vec::new();
    let mut buf = RESPONSE;
    let start = Instant::now();
    while start.elapsed() < time {
        let asked = Instant::now();
        stream.write_all(REQUEST)?;
        stream.read_exact(&mut buf)?;
        samples.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    samples.sort_by(f64::total_cmp);
    let at = |share: f64| samples[((samples.len() - 1) as f64 * share) as usize];
    Ok((at(0.5), at(0.99)))
}
