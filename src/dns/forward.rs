//! Names that are not the cluster's: asked of the host's resolvers, or of those given for their domain.
//!
//! This is a forwarder, not a resolver: it passes one question on and hands back what was said, code and unknown record
//! types included. hickory-resolver turns answers into look-up results of its own (it follows aliases, retries and
//! caches by its own lights), so the exchange is made here from hickory-proto's messages over plain sockets, which
//! belong to the namespace of the process: a resolver at 127.0.0.53 is reached as from the host. Those that are Services or
//! Pods of the cluster are asked from inside of it.
//!
//! * Several upstreams: in order, the next one as soon as one refuses or fails, or has been silent for a moment; the
//!   first good word wins. A cut reply is asked for again over TCP.
//! * A question never takes longer than [`Timing::deadline`], and an upstream known to be silent costs no time
//!   ([`super::health`]): offline, the answer is a prompt failure with its reason.
//! * A bounded cache ([`super::cache`]), and a bounded number of questions on their way.
//! * Equal questions at one time are one question to the upstreams.
//! * Nothing of the cluster's gets here: the server asks [`super::zone::Zone`] first. No question may come back: upstream
//!   addresses that are this server's own are left out, and a question with a name of chance that is sent along with an
//!   upstream's first one finds those that lead back here in the end ([`Forwarder::is_own_probe`]).
//! * Replies are believed from the address that was asked, to a port of chance, with the number and the question that was
//!   sent.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, info, warn};

use super::cache::{CAPACITY, Cache, Key, Said};
use super::health::Health;
use super::metrics::{Metrics, UpstreamState, count};
use super::wire::UDP_PAYLOAD;
use super::zone::{Zone, below};
use crate::sys::netns::NetNs;

pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Questions on their way at once; more wait for their turn, half of the deadline at most. Each holds a socket.
const IN_FLIGHT: usize = 256;
/// Clients that wait for them; more are refused at once.
const WAITING: usize = 4096;

/// Where to send what.
#[derive(Clone, Debug, Default)]
pub struct ForwardConfig {
    /// Resolvers for everything, best first.
    pub upstreams: Vec<SocketAddr>,
    /// Resolvers for a domain and what is below it; the longest domain that fits is taken.
    pub stubs: Vec<(String, Vec<SocketAddr>)>,
    pub timing: Timing,
    /// Where the upstreams were read from. Read again when a question finds nobody to answer it: a laptop that was
    /// offline at the start, or has gone to another network.
    pub host: Option<HostResolvers>,
    /// How resolvers inside the cluster are reached: all others are from where this process was started.
    pub within: Option<Within>,
}

/// The way to resolvers that are Services or Pods.
#[derive(Clone, Debug)]
pub struct Within {
    pub zone: Zone,
    /// A namespace that is connected to the cluster.
    pub namespace: Arc<NetNs>,
}

/// The host's own list of resolvers.
#[derive(Clone, Debug)]
pub struct HostResolvers {
    path: PathBuf,
    zone: Zone,
    own: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// An upstream that has said nothing for so long gets the question again, and the next one gets it too.
    pub patience: Duration,
    /// After this a question has failed. Shorter than the 5 s that clients wait before they ask again.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { patience: Duration::from_millis(700), deadline: Duration::from_secs(3) }
    }
}

impl ForwardConfig {
    /// The resolvers given (`--dns-upstream`), or else those of the host's `resolv.conf`, and those of stub domains
    /// (`--dns-stub`), less those that are this very server, which listens at `own` on the host. A missing or unreadable
    /// file means that there are none; what it names inside the cluster's ranges is left out.
    pub fn new(
        given: &[SocketAddr],
        stubs: &[(String, SocketAddr)],
        resolv_conf: &Path,
        zone: &Zone,
        own: &[SocketAddr],
    ) -> Self {
        let host = HostResolvers { path: resolv_conf.to_owned(), zone: zone.clone(), own: own.to_vec() };
        let mut by_domain: Vec<(String, Vec<SocketAddr>)> = Vec::new();
        for (domain, address) in stubs {
            match by_domain.iter_mut().find(|(known, _)| known == domain) {
                Some((_, addresses)) => addresses.push(*address),
                None => by_domain.push((domain.clone(), vec![*address])),
            }
        }
        let others = |addresses| less(addresses, |address| host.is_own(address));
        let stubs = by_domain.into_iter().map(|(domain, addresses)| (domain, others(addresses))).collect();
        let upstreams = if given.is_empty() { host.read() } else { others(given.to_vec()) };
        Self { upstreams, stubs, host: given.is_empty().then_some(host), ..Self::default() }
    }
}

impl HostResolvers {
    fn read(&self) -> Vec<SocketAddr> {
        match std::fs::read(&self.path) {
            Ok(text) => less(nameservers(&text), |address| self.is_own(address) || self.zone.contains(address.ip())),
            Err(e) => {
                warn!(path = %self.path.display(), error = %e, "no resolvers for names outside the cluster");
                Vec::new()
            }
        }
    }

    /// Whether a question sent there would come back.
    fn is_own(&self, address: &SocketAddr) -> bool {
        self.zone.is_own(address.ip()) || self.own.iter().any(|own| same(*own, *address))
    }
}

/// The resolvers without those that are `unfit`.
fn less(found: Vec<SocketAddr>, unfit: impl Fn(&SocketAddr) -> bool) -> Vec<SocketAddr> {
    let (unfit, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(unfit);
    if !unfit.is_empty() {
        warn!(?unfit, "resolvers that are this very DNS, or inside the cluster's own ranges, are left out");
    }
    rest
}

/// Whether a question sent to `address` comes to a socket bound to `own`.
fn same(own: SocketAddr, address: SocketAddr) -> bool {
    let here = own.ip() == address.ip() || own.ip().is_unspecified() && address.ip().is_loopback();
    here && own.port() == address.port()
}

/// The resolvers of a `resolv.conf`.
pub fn nameservers(text: &[u8]) -> Vec<SocketAddr> {
    let (config, _) = resolv_conf::Config::parse_with_errors(text);
    config.nameservers.iter().filter_map(with_scope).collect()
}

fn with_scope(server: &resolv_conf::ScopedIp) -> Option<SocketAddr> {
    match server {
        resolv_conf::ScopedIp::V4(v4) => Some((*v4, 53).into()),
        resolv_conf::ScopedIp::V6(v6, None) => Some((*v6, 53).into()),
        resolv_conf::ScopedIp::V6(v6, Some(scope)) => {
            let index = scope.parse().ok().or_else(|| interface_index(scope))?;
            Some(SocketAddrV6::new(*v6, 53, 0, index).into())
        }
    }
}

/// The number of an interface by its name.
fn interface_index(name: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()
}

/// Why a name outside the cluster could not be looked up.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ForwardError {
    #[error("no resolver for names outside the cluster: /etc/resolv.conf names none, give one with --dns-upstream")]
    NoUpstream,
    #[error("no resolver outside the cluster answers: {0}")]
    Silent(String),
    #[error("too many questions about names outside the cluster at once")]
    Busy,
    #[error("the question has come back: a resolver that this DNS asks, asks this DNS")]
    Loop,
}

struct Upstream {
    address: SocketAddr,
    /// Where its sockets are made, if not here.
    namespace: Option<Arc<NetNs>>,
    health: Mutex<Health>,
    /// Whether the question that finds loops has been sent.
    probed: AtomicBool,
    /// It leads back here: left alone from then on.
    looping: AtomicBool,
    questions: AtomicU64,
    failures: AtomicU64,
}

type Upstreams = Vec<Arc<Upstream>>;

/// Resolvers for a domain of their own.
struct Stub {
    domain: String,
    upstreams: Upstreams,
}

/// Asks upstream resolvers.
pub struct Forwarder {
    /// For everything but the stub domains.
    general: ArcSwap<Upstreams>,
    /// Longest domain first.
    stubs: Vec<Stub>,
    host: Option<HostResolvers>,
    timing: Timing,
    cache: Mutex<Cache>,
    slots: Semaphore,
    waiting: Semaphore,
    /// Questions on their way.
    asked: Mutex<OnTheirWay>,
    exchanges: AtomicU64,
    /// The domain of the questions that find loops: nobody else can know it.
    probe: String,
    metrics: Arc<Metrics>,
}

type Exchange = BoxFuture<'static, Result<Said, ForwardError>>;

/// Exchanges with their numbers, which tell one from the next about the same question.
type OnTheirWay = HashMap<Key, (u64, WeakShared<Exchange>)>;

/// One who waits for an exchange, or has gone away.
struct Asker<'a> {
    asked: &'a Mutex<OnTheirWay>,
    key: &'a Key,
    number: u64,
    answered: bool,
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let mut asked = self.asked.lock();
        // Whoever comes after an answer asks anew, or finds it in the cache. Without one, others may wait for it still.
        let over = asked.get(self.key).is_some_and(|(number, exchange)| {
            *number == self.number && (self.answered || exchange.upgrade().is_none())
        });
        if over {
            asked.remove(self.key);
        }
    }
}

impl Forwarder {
    pub fn new(config: ForwardConfig, metrics: Arc<Metrics>) -> Self {
        let stub = |(domain, addresses): &(String, Vec<SocketAddr>)| Stub {
            domain: domain.trim_matches('.').to_ascii_lowercase(),
            upstreams: addresses.iter().map(|address| Upstream::new(*address, config.within.as_ref())).collect(),
        };
        let mut stubs: Vec<Stub> = config.stubs.iter().map(stub).collect();
        stubs.sort_by_key(|stub| std::cmp::Reverse(stub.domain.len()));
        Self {
            general: ArcSwap::from_pointee(
                config.upstreams.iter().map(|address| Upstream::new(*address, config.within.as_ref())).collect(),
            ),
            stubs,
            host: config.host,
            timing: config.timing,
            cache: Mutex::new(Cache::new(CAPACITY)),
            slots: Semaphore::new(IN_FLIGHT),
            waiting: Semaphore::new(WAITING),
            asked: Mutex::default(),
            exchanges: AtomicU64::new(0),
            probe: format!("{:016x}.{:016x}", rand::random::<u64>(), rand::random::<u64>()),
            metrics,
        }
    }

    /// What is known of each upstream.
    pub fn upstreams(&self) -> Vec<UpstreamState> {
        let (mut states, general) = (Vec::<UpstreamState>::new(), self.general.load());
        for upstream in self.stubs.iter().flat_map(|stub| &stub.upstreams).chain(general.iter()) {
            let state = upstream.state();
            // One may serve several domains.
            match states.iter_mut().find(|known| known.address == state.address) {
                Some(known) => {
                    known.up |= state.up;
                    known.questions += state.questions;
                    known.failures += state.failures;
                }
                None => states.push(state),
            }
        }
        states
    }

    /// Whether this is a question of this forwarder's own, which has come back from an upstream by whatever way: then
    /// that upstream is not asked again.
    pub fn is_own_probe(&self, name: &str) -> bool {
        let Some(rest) = below(name, &self.probe) else { return false };
        let general = self.general.load();
        let all = self.stubs.iter().flat_map(|stub| &stub.upstreams).chain(general.iter());
        for upstream in all.filter(|upstream| upstream.label() == rest) {
            if !upstream.looping.swap(true, Relaxed) {
                warn!(upstream = %upstream.address, "this resolver asks the cluster's DNS what it is asked by it, and is left out: give others with --dns-upstream");
            }
        }
        true
    }

    /// Takes up a change of the host's resolvers; those that stay keep what is known of their health.
    fn look_again(&self, host: &HostResolvers) {
        let (known, found) = (self.general.load(), host.read());
        if known.iter().map(|upstream| upstream.address).eq(found.iter().copied()) {
            return;
        }
        info!(?found, "the host's resolvers have changed");
        let keep = |address: &SocketAddr| {
            known
                .iter()
                .find(|upstream| upstream.address == *address)
                .cloned()
                .unwrap_or_else(|| Upstream::new(*address, None))
        };
        self.general.store(Arc::new(found.iter().map(keep).collect()));
    }

    /// What is known of a name outside the cluster without asking anybody.
    pub fn cached(&self, key: &Key) -> Option<Said> {
        let said = self.cache.lock().get(key, Instant::now());
        count(if said.is_some() { &self.metrics.cache_hits } else { &self.metrics.cache_misses });
        said
    }

    /// Asks the upstreams, and keeps what they say. `name` is that of the key.
    pub async fn ask(self: &Arc<Self>, key: Key, name: Name) -> Result<Said, ForwardError> {
        let _waiting = self.waiting.try_acquire().map_err(|_| ForwardError::Busy)?;
        let (number, exchange) = self.exchange(&key, name);
        let mut wait = Asker { asked: &self.asked, key: &key, number, answered: false };
        let said = exchange.await;
        wait.answered = true;
        said
    }

    /// The exchange that answers this question, the one that is on its way or a new one, and its number.
    fn exchange(self: &Arc<Self>, key: &Key, name: Name) -> (u64, Shared<Exchange>) {
        let mut asked = self.asked.lock();
        if let Some((number, known)) = asked.get(key)
            && let Some(exchange) = known.upgrade()
        {
            return (*number, exchange);
        }
        let number = self.exchanges.fetch_add(1, Relaxed);
        let (this, own) = (Arc::clone(self), key.clone());
        let exchange = async move { this.ask_and_keep(own, name).await }.boxed().shared();
        if let Some(weak) = exchange.downgrade() {
            asked.insert(key.clone(), (number, weak));
        }
        (number, exchange)
    }

    async fn ask_and_keep(&self, key: Key, name: Name) -> Result<Said, ForwardError> {
        let said = self.ask_upstreams(&key, name).await;
        match &said {
            Ok(said) => self.cache.lock().put(key, said.clone(), Instant::now()),
            Err(e) => {
                debug!(name = %key.name, error = %e, "question about a name outside the cluster failed");
                count(&self.metrics.forward_failures);
                if let Some(host) = self.host.as_ref().filter(|_| *e != ForwardError::Busy) {
                    self.look_again(host);
                }
            }
        }
        said
    }

    async fn ask_upstreams(&self, key: &Key, name: Name) -> Result<Said, ForwardError> {
        let general = self.general.load_full();
        let stub = self.stubs.iter().find(|stub| below(&key.name, &stub.domain).is_some());
        let upstreams = stub.map_or(&*general, |stub| &stub.upstreams);
        if upstreams.is_empty() {
            return Err(ForwardError::NoUpstream);
        }
        let end = Instant::now() + self.timing.deadline;
        // The other half is the upstreams': they are not to seem silent because we are busy.
        let turn = timeout_at((end - self.timing.deadline / 2).into(), self.slots.acquire()).await;
        let Ok(Ok(_slot)) = turn else { return Err(ForwardError::Busy) };
        let now = Instant::now();
        let sound: Vec<_> = upstreams.iter().filter(|upstream| !upstream.looping.load(Relaxed)).collect();
        if sound.is_empty() {
            return Err(ForwardError::Loop);
        }
        let usable: Vec<_> = sound.into_iter().filter(|upstream| upstream.health.lock().try_ask(now)).collect();
        if usable.is_empty() {
            let down: Vec<_> = upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
            return Err(ForwardError::Silent(format!("{} did not a moment ago", down.join(", "))));
        }
        count(&self.metrics.forwarded);
        self.race(&usable, &Asked { name, key }, end).await
    }

    /// Asks one after the other, each with a head start, until one has a good word.
    async fn race(&self, upstreams: &[&Arc<Upstream>], asked: &Asked<'_>, end: Instant) -> Result<Said, ForwardError> {
        let mut waiting = upstreams.iter();
        let mut running = FuturesUnordered::new();
        let mut second_best = None;
        let mut failures = Vec::new();
        loop {
            if let Some(upstream) = waiting.next() {
                if !upstream.probed.swap(true, Relaxed) {
                    upstream.probe(&self.probe).await;
                }
                running.push(upstream.exchange(asked, self.timing.patience, end));
            }
            let head_start = Instant::now() + self.timing.patience;
            let result = tokio::select! {
                result = running.next() => result,
                () = sleep_until(head_start.into()), if waiting.len() > 0 => continue,
            };
            match result {
                Some(Ok(said)) if matches!(said.code, ResponseCode::NoError | ResponseCode::NXDomain) => {
                    return Ok(said);
                }
                Some(Ok(said)) => second_best = second_best.or(Some(said)),
                Some(Err(failure)) => failures.push(failure),
                None if waiting.len() == 0 => break,
                None => {}
            }
        }
        second_best.ok_or_else(|| ForwardError::Silent(failures.join(", ")))
    }
}

/// A question on its way out.
struct Asked<'a> {
    name: Name,
    key: &'a Key,
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
pub(super) fn reply_to(message: &Message, bytes: &[u8]) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let fits = reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == message.metadata.id
        // Some resolvers leave the question out of an error.
        && (reply.queries == message.queries
            || (reply.queries.is_empty() && reply.metadata.response_code != ResponseCode::NoError));
    fits.then_some(reply)
}

/// A wait for an upstream. Its end without an answer is remembered, be it the deadline or that another one was faster.
struct Wait<'a> {
    upstream: &'a Upstream,
    start: Instant,
    patience: Duration,
    over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if !self.over && now >= self.start + self.patience {
            count(&self.upstream.failures);
            self.upstream.health.lock().silent(self.start, now);
        }
    }
}

impl Upstream {
    fn new(address: SocketAddr, within: Option<&Within>) -> Arc<Self> {
        let within = within.filter(|within| within.zone.contains(address.ip()));
        Arc::new(Self {
            address,
            namespace: within.map(|within| Arc::clone(&within.namespace)),
            health: Mutex::default(),
            probed: AtomicBool::default(),
            looping: AtomicBool::default(),
            questions: AtomicU64::default(),
            failures: AtomicU64::default(),
        })
    }

    fn state(&self) -> UpstreamState {
        UpstreamState {
            address: self.address,
            up: !self.health.lock().is_down() && !self.looping.load(Relaxed),
            questions: self.questions.load(Relaxed),
            failures: self.failures.load(Relaxed),
        }
    }

    /// Opens a socket where the resolver is reached.
    fn open<T: Send>(&self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match &self.namespace {
            Some(namespace) => namespace.run(open)?,
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
    fn label(&self) -> String {
        format!("at-{}", self.address.to_string().replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
    }

    /// Sends the question that finds a loop. Nobody waits for the reply; a failure is of no interest, since questions that
    /// matter follow.
    async fn probe(&self, domain: &str) {
        let Ok(name) = Name::from_ascii(format!("{}.{domain}.", self.label())) else { return };
        let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(name, RecordType::HINFO));
        if let (Ok(bytes), Ok(socket)) = (message.to_vec(), self.udp().await) {
            let _ = socket.send(&bytes).await;
        }
    }

    /// Asks until `end`. The error says what happened, with the address.
    async fn exchange(&self, asked: &Asked<'_>, patience: Duration, end: Instant) -> Result<Said, String> {
        count(&self.questions);
        let mut wait = Wait { upstream: self, start: Instant::now(), patience, over: false };
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

#[cfg(test)]
mod tests;
