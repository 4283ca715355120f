//! The server: bound sockets in, replies out.
//!
//! The sockets come from outside and may have been bound in any network namespace; the server never opens one. The loops
//! are ours, on hickory-proto's messages, and not hickory-server's, for reasons found by measuring and reading version
//! 0.26:
//!
//! * It starts a task and passes two channels for each datagram. Answers about the cluster are ready at once: answered
//!   from the receive loop they cost 11.5 µs of processor time instead of 18.9 and have a mean latency of 94 µs instead
//!   of 147 (40,000 queries/s over loopback with dnsperf, a fixed answer, both on the same 2 cores).
//! * Its queue to a socket holds 32 replies, and those that don't fit are lost; its tasks are not bounded.
//! * Room for questions is reserved as promised by the header, up to 65535 of them for a message of 12 bytes.
//! * A truncated reply loses its OPT record, which RFC 6891 requires.
//! * Stopping it drops the questions that are on their way to an upstream; here they are finished.
//!
//! One task reads each UDP socket, many datagrams with one system call, and answers what is about the cluster on the spot,
//! mostly with a reply that is ready ([`super::prepared`]); the replies go out together. Questions that need an upstream go on
//! in tasks of their own, bounded by the forwarder. TCP connections have a task each, bounded in number and idle time; what
//! waits for an upstream does not hold up the questions behind it (RFC 7766, section 6.2.1.1).

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::WriteHalf;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, trace, warn};

use super::answer::Cause;
use super::cache::{Key, Said};
use super::events::{Events, Facts, Seen, Source};
use super::forward::{ForwardError, Forwarder};
use super::metrics::{Metrics, count};
use super::prepared::{self, Prepared};
use super::records::Index;
use super::wire::{self, Rejection, Reply, Request, Transport};
use super::zone::Zone;
use crate::sys::datagrams::{self, Inbox};

/// Questions larger than this are no questions.
const DATAGRAM: usize = 2048;
/// Datagrams read with one system call.
const BURST: usize = 32;
/// Questions of one TCP connection that wait for an upstream at once; those behind them wait to be read.
const PIPELINE: usize = 64;
/// Codes of RFC 8914.
const NOT_READY: u16 = 14;
const NO_REACHABLE_AUTHORITY: u16 = 22;
const OTHER_ERROR: u16 = 0;

#[derive(Clone, Copy, Debug)]
pub struct ServerConfig {
    /// A TCP connection without a question for so long is closed.
    pub tcp_idle: Duration,
    /// TCP connections held at once over all listeners; more wait in the kernel's queue.
    pub tcp_connections: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { tcp_idle: Duration::from_secs(10), tcp_connections: 256 }
    }
}

/// Finds the reply to a message, wherever it came from.
pub struct Responder {
    zone: Arc<Zone>,
    index: Arc<Index>,
    forwarder: Arc<Forwarder>,
    metrics: Arc<Metrics>,
    prepared: Prepared,
    events: Events,
}

/// What a message leads to.
enum Step {
    /// No reply.
    Ignore,
    /// The reply, in the buffer that was given.
    Reply(Arc<Facts>),
    /// The same, to a message without a question that can be read.
    Reject(ResponseCode),
    /// An upstream has to be asked first.
    Ask(Box<Pending>),
}

struct Pending {
    request: Request,
    question: Query,
    key: Key,
    /// The name of the key.
    name: Name,
    /// The aliases inside the cluster that led to the name outside, and what they rest on.
    aliases: Option<(Reply, Vec<Cause>)>,
    transport: Transport,
}

impl Responder {
    pub fn new(zone: Arc<Zone>, index: Arc<Index>, forwarder: Arc<Forwarder>, metrics: Arc<Metrics>) -> Self {
        Self { zone, index, forwarder, metrics, prepared: Prepared::default(), events: Events::default() }
    }

    /// The newest questions, for those who look on.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// The reply to a question that no client has sent, and what it rests on. Nobody is told of it.
    pub(super) async fn look_up(&self, message: &[u8]) -> Option<(Vec<u8>, Arc<Facts>)> {
        let mut out = Vec::new();
        let facts = match self.step(message, Transport::Tcp, &mut out) {
            Step::Ignore | Step::Reject(_) => return None,
            Step::Reply(facts) => facts,
            Step::Ask(pending) => self.finish(*pending, &mut out).await,
        };
        Some((out, facts))
    }

    fn step(&self, message: &[u8], transport: Transport, out: &mut Vec<u8>) -> Step {
        let records = self.index.load();
        let plain = prepared::Question::of(message).filter(|_| transport == Transport::Udp);
        if let Some(facts) =
            plain.as_ref().and_then(|plain| self.prepared.reply(plain, message, records.generation, out))
        {
            return Step::Reply(facts);
        }
        let (request, question) = match wire::parse(message) {
            Ok(parsed) => parsed,
            Err(Rejection::Silent) => return Step::Ignore,
            Err(Rejection::Reply(request, code)) => {
                self.encode(&request, &Reply::of_code(code), transport, out);
                let facts = |question| Facts { code, ..Facts::of(question, Source::Nobody, Vec::new()) };
                return match &request.question {
                    Some(question) => Step::Reply(Arc::new(facts(question))),
                    None => Step::Reject(code),
                };
            }
        };
        let mut key = Key {
            name: wire::to_text(question.name()),
            record_type: question.query_type(),
            dnssec_ok: request.edns.is_some_and(|edns| edns.dnssec_ok),
            checking_disabled: request.metadata.checking_disabled,
        };
        let found = records.answer(&self.zone, &key.name, wire::kind(question.query_type()), &mut rand::rng());
        let (mut name, mut aliases) = (None, None);
        if let Some(answer) = found {
            let reply = if records.complete {
                trace!(name = %key.name, kind = %key.record_type, code = ?answer.code, causes = ?answer.causes, "answered");
                Reply::of_answer(&answer, question.name())
                    .unwrap_or_else(|e| Reply::failure(OTHER_ERROR, format!("a record can't be sent: {e}")))
            } else {
                Reply::failure(NOT_READY, "the cluster's objects are still being read")
            };
            let Some(outside) = answer.outside.filter(|_| reply.code == ResponseCode::NoError) else {
                let (code, truncated) = self.encode(&request, &reply, transport, out);
                let facts = Arc::new(Facts::of(&question, Source::Cluster, answer.causes).with(&reply, code));
                if let Some(plain) = plain.filter(|_| !truncated && records.complete && code == reply.code) {
                    self.prepared.keep(&plain, records.generation, &reply, out, &facts);
                }
                return Step::Reply(facts);
            };
            // The alias' target has just been written into a record, so it is a name.
            name = wire::to_name(&outside).ok();
            key.name = outside.as_ref().to_owned();
            aliases = Some((reply, answer.causes));
        }
        let name = name.unwrap_or_else(|| question.name().to_lowercase());
        let pending = Pending { request, question, key, name, aliases, transport };
        if self.forwarder.is_own_probe(&pending.key.name) {
            return Step::Reply(self.complete(pending, Err(ForwardError::Loop), out));
        }
        match self.forwarder.cached(&pending.key) {
            Some(said) => {
                let by = said.by;
                Step::Reply(self.complete(pending, Ok((said, Source::Cache(by))), out))
            }
            None => Step::Ask(Box::new(pending)),
        }
    }

    async fn finish(&self, pending: Pending, out: &mut Vec<u8>) -> Arc<Facts> {
        let said = self.forwarder.ask(pending.key.clone(), pending.name.clone()).await;
        let said = said.map(|said| {
            let by = said.by;
            (said, Source::Upstream(by))
        });
        self.complete(pending, said, out)
    }

    /// Replies with what an upstream said.
    fn complete(&self, pending: Pending, said: Result<(Said, Source), ForwardError>, out: &mut Vec<u8>) -> Arc<Facts> {
        let (mut reply, source) = match said {
            Ok((said, source)) => {
                let reply = Reply {
                    authentic: said.authentic,
                    answers: said.answers,
                    authority: said.authority,
                    ..Reply::of_code(said.code)
                };
                (reply, source)
            }
            Err(e) => (Reply::failure(NO_REACHABLE_AUTHORITY, e.to_string()), Source::Nobody),
        };
        let mut causes = Vec::new();
        let asked = pending.question.name();
        if let Some((aliases, objects)) = pending.aliases {
            causes = objects;
            reply.authoritative = true;
            reply.authentic = false;
            reply.answers.splice(..0, aliases.answers);
        } else {
            // The upstream was asked in small letters; the client sees its own.
            for record in reply.answers.iter_mut().filter(|record| record.name == *asked) {
                record.name = asked.clone();
            }
        }
        let (code, _) = self.encode(&pending.request, &reply, pending.transport, out);
        Arc::new(Facts::of(&pending.question, source, causes).with(&reply, code))
    }

    /// Writes a reply, or the failure to. Says its code and whether it was truncated.
    fn encode(
        &self,
        request: &Request,
        reply: &Reply,
        transport: Transport,
        out: &mut Vec<u8>,
    ) -> (ResponseCode, bool) {
        match wire::encode(request, reply, transport, out) {
            Ok(truncated) => {
                if truncated {
                    count(&self.metrics.truncated);
                }
                (reply.code, truncated)
            }
            Err(e) => {
                warn!(question = ?request.question, error = %e, "a reply can't be written");
                // An empty failure holds nothing that could not be written.
                let _ = wire::encode(request, &Reply::of_code(ResponseCode::ServFail), transport, out);
                (ResponseCode::ServFail, false)
            }
        }
    }

    /// Counts a reply and tells those who look on.
    fn tell(&self, seen: &Seen, facts: Arc<Facts>) {
        let took = seen.since.elapsed();
        self.metrics.response(Some(facts.record_type), facts.code);
        self.metrics.took(facts.source, took);
        let pod = self.index.load().pods.get(&seen.client.ip()).and_then(|pods| pods.first()).cloned();
        self.events.emit(seen, pod, took, facts);
    }
}

impl Facts {
    fn of(question: &Query, source: Source, causes: Vec<Cause>) -> Self {
        Self {
            name: wire::to_text(question.name()),
            record_type: question.query_type(),
            code: ResponseCode::NoError,
            answers: Vec::new(),
            count: 0,
            source,
            causes,
            why: None,
        }
    }

    fn with(self, reply: &Reply, code: ResponseCode) -> Self {
        Self {
            code,
            answers: Self::keep(&reply.answers),
            count: reply.answers.len(),
            why: reply.why.as_ref().map(|(_, text)| text.clone()),
            ..self
        }
    }
}

/// Answers on bound sockets. Dropping it, or the future of [`Server::serve`], closes them.
pub struct Server {
    config: ServerConfig,
    responder: Arc<Responder>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Server {
    pub fn new(config: ServerConfig, responder: Arc<Responder>, udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> Self {
        Self { config, responder, udp, tcp }
    }

    /// Serves until `drain` is done; then finishes the questions that are on their way, which takes no longer than the
    /// forwarder's deadline, and returns. Fails only where a socket can't be used at all.
    pub async fn serve(self, drain: impl Future<Output = ()>) -> io::Result<()> {
        let mut tasks = JoinSet::new();
        let stop = CancellationToken::new();
        for socket in self.udp {
            socket.set_nonblocking(true)?;
            let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
            tasks.spawn(serve_udp(socket, Arc::clone(&self.responder), stop.clone()));
        }
        let room = Arc::new(Semaphore::new(self.config.tcp_connections));
        for listener in self.tcp {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let room = Arc::clone(&room);
            tasks.spawn(serve_tcp(listener, Arc::clone(&self.responder), room, self.config.tcp_idle, stop.clone()));
        }
        drain.await;
        stop.cancel();
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

async fn serve_udp(socket: Arc<tokio::net::UdpSocket>, responder: Arc<Responder>, stop: CancellationToken) {
    let mut pending = JoinSet::new();
    let mut inbox = Box::new(Inbox::<BURST, DATAGRAM>::default());
    let mut outbox = Outbox::default();
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    loop {
        let received = tokio::select! {
            biased;
            () = &mut stopped => break,
            Some(_) = pending.join_next() => continue,
            ready = socket.readable() => ready.and_then(|()| receive(&socket, &mut inbox)),
        };
        let received = match received {
            Ok(received) => received,
            Err(e) => {
                // Such as a network that is down; it would fail again at once.
                warn!(error = %e, "reading questions failed");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let since = Instant::now();
        for at in 0..received {
            let (message, client) = inbox.get(at);
            let seen = Seen { client, transport: Transport::Udp, since };
            match responder.step(message, Transport::Udp, outbox.next()) {
                Step::Ignore => count(&responder.metrics.ignored),
                Step::Reject(code) => {
                    outbox.push(client);
                    responder.metrics.response(None, code);
                }
                Step::Reply(facts) => {
                    outbox.push(client);
                    responder.tell(&seen, facts);
                }
                Step::Ask(question) => {
                    let (socket, responder) = (Arc::clone(&socket), Arc::clone(&responder));
                    pending.spawn(async move {
                        let mut out = Vec::new();
                        let facts = responder.finish(*question, &mut out).await;
                        responder.tell(&seen, facts);
                        if let Err(e) = socket.send_to(&out, client).await {
                            debug!(%client, error = %e, "a reply could not be sent");
                        }
                    });
                }
            }
        }
        outbox.send(&socket).await;
        tokio::task::consume_budget().await;
    }
    while pending.join_next().await.is_some() {}
}

/// Takes what has come. Less than a whole burst was all there is: saying so to the reactor saves the call that would find
/// nothing more.
fn receive(socket: &tokio::net::UdpSocket, inbox: &mut Inbox<BURST, DATAGRAM>) -> io::Result<usize> {
    let mut received = 0;
    let all = socket.try_io(Interest::READABLE, || {
        received = inbox.receive(socket.as_fd())?;
        if received < BURST { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match all {
        Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
        _ => Ok(received),
    }
}

/// Replies that go out together. Their buffers are used again.
#[derive(Default)]
struct Outbox {
    replies: Vec<(Vec<u8>, SocketAddr)>,
    filled: usize,
}

impl Outbox {
    /// The buffer for the next reply.
    fn next(&mut self) -> &mut Vec<u8> {
        if self.filled == self.replies.len() {
            self.replies.push((Vec::new(), SocketAddr::from(([0; 4], 0))));
        }
        &mut self.replies[self.filled].0
    }

    /// Takes what has been written into [`Self::next`].
    fn push(&mut self, client: SocketAddr) {
        self.replies[self.filled].1 = client;
        self.filled += 1;
    }

    async fn send(&mut self, socket: &tokio::net::UdpSocket) {
        let mut left = &self.replies[..std::mem::take(&mut self.filled)];
        while let Some((_, client)) = left.first() {
            match socket.try_io(Interest::WRITABLE, || datagrams::send::<BURST>(socket.as_fd(), left)) {
                Ok(sent) => left = &left[sent..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    // An error comes up again with the next try.
                    let _ = socket.writable().await;
                }
                Err(e) => {
                    debug!(%client, error = %e, "a reply could not be sent");
                    left = &left[1..];
                }
            }
        }
    }
}

async fn serve_tcp(
    listener: tokio::net::TcpListener,
    responder: Arc<Responder>,
    room: Arc<Semaphore>,
    idle: Duration,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                let (responder, stop) = (Arc::clone(&responder), stop.clone());
                connections.spawn(async move {
                    let _place = place;
                    if let Err(e) = serve_connection(stream, client, &responder, idle, &stop).await {
                        debug!(%client, error = %e, "connection ended");
                    }
                });
            }
            Err(e) => {
                // Such as too many open files; it would fail again at once.
                warn!(error = %e, "accepting a connection failed");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// Questions and replies, each with its length before it.
async fn serve_connection(
    mut stream: tokio::net::TcpStream,
    client: SocketAddr,
    responder: &Responder,
    idle: Duration,
    stop: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut reader, writer) = stream.split();
    let writer = Mutex::new(writer);
    let mut waiting = FuturesUnordered::new();
    let mut ended = None;
    while ended.is_none() {
        let read = async {
            let length = timeout(idle, reader.read_u16()).await??;
            let mut message = vec![0; length.into()];
            timeout(idle, reader.read_exact(&mut message)).await??;
            io::Result::Ok(message)
        };
        tokio::pin!(read);
        // A question that has been begun to be read is read on while others are answered.
        let message = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break None,
                Some(written) = waiting.next() => {
                    if let Err(e) = written {
                        break Some(Err(e));
                    }
                }
                message = &mut read, if waiting.len() < PIPELINE => break Some(message),
            }
        };
        match message {
            None => ended = Some(Ok(())),
            Some(Err(e)) if e.kind() == io::ErrorKind::UnexpectedEof => ended = Some(Ok(())),
            Some(Err(e)) => ended = Some(Err(e)),
            Some(Ok(message)) => {
                let seen = Seen { client, transport: Transport::Tcp, since: Instant::now() };
                let mut reply = Vec::new();
                match responder.step(&message, Transport::Tcp, &mut reply) {
                    // What is no question at all ends the connection: its next bytes are not to be trusted either.
                    Step::Ignore => {
                        count(&responder.metrics.ignored);
                        ended = Some(Ok(()));
                    }
                    Step::Reject(code) => {
                        responder.metrics.response(None, code);
                        write_framed(&writer, &reply, idle).await?;
                    }
                    Step::Reply(facts) => {
                        responder.tell(&seen, facts);
                        write_framed(&writer, &reply, idle).await?;
                    }
                    Step::Ask(question) => {
                        let writer = &writer;
                        waiting.push(async move {
                            let facts = responder.finish(*question, &mut reply).await;
                            responder.tell(&seen, facts);
                            write_framed(writer, &reply, idle).await
                        });
                    }
                }
            }
        }
    }
    // Replies that are still to come belong to a client that may only have closed its own side.
    while let Some(written) = waiting.next().await {
        written?;
    }
    ended.unwrap_or(Ok(()))
}

/// Length and reply in one write, so that they are one segment.
async fn write_framed(writer: &Mutex<WriteHalf<'_>>, reply: &[u8], idle: Duration) -> io::Result<()> {
    let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), reply].concat();
    timeout(idle, writer.lock().await.write_all(&framed)).await?
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod picky;
#[cfg(test)]
mod tests;
