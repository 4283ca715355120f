//! Servers and clients: plain sockets and epoll, the same for every path.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, ipproto, socket_with};

use crate::world::{Path, REQUEST_PORT, REQUEST_TARGETS, STREAM_PORT, STREAM_TARGET, UDP_PORT, UDP_TARGET, inside};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
/// Asks the server to close after its answer, as a connection per request does.
const LAST_REQUEST: &[u8] = b"GET /close HTTP/1.1\r\nHost: bench\r\n\r\n";
const RESPONSE: [u8; 200] = [b'x'; 200];
const CONNECTIONS: usize = 64;
const CONNECTING: usize = 32;
/// What a question to DNS or a voice sample weighs.
const DATAGRAM: [u8; 64] = [b'x'; 64];

/// Samples of every figure of a path.
#[derive(Default)]
pub struct Figures {
    rows: [Vec<f64>; Self::ROWS.len()],
}

impl Figures {
    /// Names, and whether more is better.
    pub const ROWS: [(&'static str, bool); 8] = [
        ("one TCP stream, Gbit/s", true),
        ("CPU seconds per GB of it", false),
        ("four TCP streams, Gbit/s", true),
        ("UDP packets/s, 64 bytes", true),
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
    let (requests, sink, datagrams) = listeners;
    let counted = Arc::new(AtomicU64::new(0));
    let servers = [
        inside(path.server(), {
            let stop = Arc::clone(&stop);
            move || serve_requests(requests, &stop)
        })?,
        inside(path.server(), {
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || swallow(&sink, &received, &stop)
        })?,
        inside(path.server(), {
            let (stop, counted) = (Arc::clone(&stop), Arc::clone(&counted));
            move || count(&datagrams, &counted, &stop)
        })?,
    ];
    let (request, stream, datagram) = (path.address(REQUEST_PORT), path.address(STREAM_PORT), path.address(UDP_PORT));
    let wanted = Figures::ROWS.map(|(label, _)| label.contains(only));
    let client = inside(path.client(), move || -> Result<[Option<f64>; 8]> {
        let mut values = [None; 8];
        if wanted[0] || wanted[1] {
            let (rate, cost) = send_streams(1, stream, time, &received).context("stream")?;
            (values[0], values[1]) = (Some(rate), Some(cost));
        }
        if wanted[2] {
            values[2] = Some(send_streams(4, stream, time, &received).context("four streams")?.0);
        }
        if wanted[3] {
            values[3] = Some(send_datagrams(datagram, time, &counted).context("datagrams")?);
        }
        if wanted[4] {
            values[4] = Some(open_connections(request, time).context("new connections")?);
        }
        if wanted[5] {
            values[5] = Some(keep_alive(request, time).context("keep-alive")?);
        }
        if wanted[6] || wanted[7] {
            let (p50, p99) = latency(request, time / 2).context("latency")?;
            (values[6], values[7]) = (Some(p50), Some(p99));
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

fn listeners() -> io::Result<(Vec<TcpListener>, TcpListener, UdpSocket)> {
    let requests = REQUEST_TARGETS.map(listen);
    let datagrams = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, UDP_TARGET))?;
    datagrams.set_read_timeout(Some(Duration::from_millis(100)))?;
    Ok((requests.collect::<io::Result<_>>()?, listen(STREAM_TARGET)?, datagrams))
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
    std::thread::scope(|scope| {
        while !stop.load(Ordering::Relaxed) {
            if poll.wait()?.is_empty() {
                continue;
            }
            let (mut stream, _) = listener.accept()?;
            stream.set_nonblocking(false)?;
            scope.spawn(move || {
                let mut buf = vec![0; 512 * 1024];
                while let Ok(len @ 1..) = stream.read(&mut buf) {
                    received.fetch_add(len as u64, Ordering::Relaxed);
                }
            });
        }
        Ok(())
    })
}

fn count(socket: &UdpSocket, counted: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    let mut buf = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buf) {
            Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Gigabits per second that arrive over so many connections, and the CPU seconds of the whole machine per gigabyte.
fn send_streams(count: usize, to: SocketAddr, time: Duration, received: &AtomicU64) -> Result<(f64, f64)> {
    let buf = vec![0; 256 * 1024];
    let warm_up = Duration::from_millis(200);
    let send = || -> io::Result<()> {
        let mut stream = TcpStream::connect(to)?;
        let start = Instant::now();
        while start.elapsed() < warm_up + time {
            stream.write_all(&buf)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..count).map(|_| scope.spawn(send)).collect();
        // The windows open first.
        std::thread::sleep(warm_up);
        let (before, busy, start) = (received.load(Ordering::Relaxed), busy_seconds()?, Instant::now());
        std::thread::sleep(time);
        let bytes = (received.load(Ordering::Relaxed) - before) as f64;
        let (busy, took) = (busy_seconds()? - busy, start.elapsed().as_secs_f64());
        for sender in senders {
            sender.join().expect("no panic")?;
        }
        Ok((bytes * 8.0 / 1e9 / took, busy * 1e9 / bytes))
    })
}

/// What all CPUs have worked since the start of the machine, in the kernel and outside of it.
fn busy_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).map(|n| n.parse().unwrap_or(0.0)).collect();
    // user, nice, system, idle, iowait, irq, softirq; a tick is a hundredth (USER_HZ).
    Ok((ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / 100.0)
}

/// Datagrams per second that arrive, of as many as one socket can send.
fn send_datagrams(to: SocketAddr, time: Duration, counted: &AtomicU64) -> Result<f64> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    let (before, start) = (counted.load(Ordering::Relaxed), Instant::now());
    while start.elapsed() < time {
        for _ in 0..64 {
            match socket.send(&DATAGRAM) {
                Ok(_) => {}
                // The queue is full: what is lost is what counts.
                Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    let arrived = counted.load(Ordering::Relaxed) - before;
    Ok(arrived as f64 / start.elapsed().as_secs_f64())
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
