//! One resolver: a question to it over UDP, over TCP where the reply is cut, and what is known of its health.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout_at;

use super::Within;
use crate::dns::cache::{Key, Said};
use crate::dns::health::Health;
use crate::dns::metrics::{UpstreamState, count};
use crate::dns::wire::UDP_PAYLOAD;

/// A question on its way out.
pub(super) struct Asked<'a> {
    pub name: Name,
    pub key: &'a Key,
}

impl Asked<'_> {
    fn message(&self, edns: bool) -> Message {
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.key.checking_disabled;
        message.add_query(Query::query(self.name.clone(), self.key.record_type));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD).set_dnssec_ok(self.key.dnssec_ok);
            message.set_edns(edns);
        }
        message
    }
}

/// The reply to a message, if that is what the bytes are.
pub(in crate::dns) fn reply_to(message: &Message, bytes: &[u8]) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let fits = reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == message.metadata.id
        // Some resolvers leave the question out of an error.
        && (reply.queries == message.queries
            || (reply.queries.is_empty() && reply.metadata.response_code != ResponseCode::NoError));
    fits.then_some(reply)
}

/// A resolver, and what is known of it.
pub(super) struct Upstream {
    pub address: SocketAddr,
    /// Where its sockets are made while it is inside the cluster.
    within: Option<Within>,
    pub health: Mutex<Health>,
    /// Whether the question that finds loops has been sent.
    pub probed: AtomicBool,
    /// It leads back here: left alone from then on.
    pub looping: AtomicBool,
    questions: AtomicU64,
    failures: AtomicU64,
}

/// A wait for an upstream. Its end without an answer is remembered, be it the deadline or that another one was faster.
struct Wait<'a> {
    upstream: &'a Upstream,
    name: &'a str,
    start: Instant,
    patience: Duration,
    over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if !self.over && now >= self.start + self.patience {
            count(&self.upstream.failures);
            self.upstream.health.lock().silent(self.name, self.start, now);
        }
    }
}

impl Upstream {
    pub(super) fn new(address: SocketAddr, within: Option<&Within>) -> Arc<Self> {
        Arc::new(Self {
            address,
            within: within.cloned(),
            health: Mutex::default(),
            probed: AtomicBool::default(),
            looping: AtomicBool::default(),
            questions: AtomicU64::default(),
            failures: AtomicU64::default(),
        })
    }

    pub(super) fn state(&self) -> UpstreamState {
        UpstreamState {
            address: self.address,
            up: !self.health.lock().is_down() && !self.looping.load(Relaxed),
            questions: self.questions.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    /// Opens a socket where the resolver is reached.
    fn open<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match self.within.as_ref().filter(|within| within.zone.contains(self.address.ip())) {
            Some(within) => within.namespace.run(open)?,
            None => open(),
        }
    }

    /// A socket of its own for each question: its port is as hard to guess as the message's number.
    async fn udp(&self) -> io::Result<UdpSocket> {
        let any = match self.address.ip() {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let socket = self.open(|| std::net::UdpSocket::bind((any, 0)))?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(self.address).await?;
        Ok(socket)
    }

    async fn tcp(&self) -> io::Result<TcpStream> {
        let v4 = self.address.is_ipv4();
        let socket = self.open(|| if v4 { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
        socket.connect(self.address).await
    }

    /// The address as a label.
    pub(super) fn label(&self) -> String {
        format!("at-{}", self.address.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    /// Sends the question that finds a loop. Nobody waits for the reply; a failure is of no interest, since questions that
    /// matter follow.
    pub(super) async fn probe(&self, domain: &str) {
        let Ok(name) = Name::from_ascii(format!("{}.{domain}.", self.label())) else { return };
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, RecordType::HINFO));
        if let (Ok(bytes), Ok(socket)) = (message.to_vec(), self.udp().await) {
            let _ = socket.send(&bytes).await;
        }
    }

    /// Asks until `end`. The error says what happened, with the address.
    pub(super) async fn exchange(&self, asked: &Asked<'_>, patience: Duration, end: Instant) -> Result<Said, String> {
        count(&self.questions);
        let mut wait = Wait { upstream: self, name: &asked.key.name, start: Instant::now(), patience, over: false };
        let mut result = self.over_udp(&asked.message(true), patience, end).await;
        if let Ok(reply) = &result
            && reply.metadata.response_code == ResponseCode::FormErr
        {
            // A resolver from before EDNS.
            result = self.over_udp(&asked.message(false), patience, end).await;
        }
        // A refusal or a missing route is known at once, each time anew; only silence costs time.
        wait.over = result.as_ref().err().is_none_or(|e| e.kind() != io::ErrorKind::TimedOut);
        match result {
            Ok(reply) => {
                self.health.lock().answered(Instant::now());
                Ok(Said {
                    by: self.address,
                    code: reply.metadata.response_code,
                    authentic: reply.metadata.authentic_data,
                    answers: reply.answers,
                    authority: reply.authorities,
                })
            }
            Err(e) => {
                if wait.over {
                    count(&self.failures);
                }
                Err(format!("{}: {e}", self.address))
            }
        }
    }

    async fn over_udp(&self, message: &Message, patience: Duration, end: Instant) -> io::Result<Message> {
        let bytes = message.to_vec().map_err(io::Error::other)?;
        let socket = self.udp().await?;
        let mut buffer = vec![0; usize::from(UDP_PAYLOAD)];
        loop {
            socket.send(&bytes).await?;
            let again = (Instant::now() + patience).min(end);
            while let Ok(received) = timeout_at(again.into(), socket.recv(&mut buffer)).await {
                match reply_to(message, &buffer[..received?]) {
                    Some(reply) if reply.metadata.truncation => {
                        return timeout_at(end.into(), self.over_tcp(message, &bytes)).await?;
                    }
                    Some(reply) => return Ok(reply),
                    None => {}
                }
            }
            if Instant::now() >= end {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
            }
        }
    }

    async fn over_tcp(&self, message: &Message, bytes: &[u8]) -> io::Result<Message> {
        let mut stream = self.tcp().await?;
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
        let mut reply = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut reply).await?;
        reply_to(message, &reply).ok_or_else(|| io::Error::other("the reply fits no question"))
    }
}
