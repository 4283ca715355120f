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
//!   ([`super::health`]): offline, the answer is a prompt failure with its reason. Where all have fallen silent, the one
//!   that answered last is still asked for a minute, since it may be the domains that are silent.
//! * A bounded cache ([`super::cache`]), and a bounded number of questions on their way.
//! * Equal questions at one time are one question to the upstreams.
//! * Nothing of the cluster's gets here: the server asks [`super::zone::Zone`] first. No question may come back: upstream
//!   addresses that are this server's own are left out, and a question with a name of chance that is sent along with an
//!   upstream's first one finds those that lead back here in the end ([`Forwarder::is_own_probe`]).
//! * Replies are believed from the address that was asked, to a port of chance, with the number and the question that was
//!   sent.

mod config;
mod upstream;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use arc_swap::ArcSwap;
use futures::future::{BoxFuture, Shared, WeakShared};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{sleep_until, timeout_at};
use tracing::{debug, info, warn};

pub use self::config::{ForwardConfig, HostResolvers, RESOLV_CONF, Timing, Within, nameservers};
#[cfg(test)]
pub(super) use self::upstream::reply_to;
use self::upstream::{Asked, Upstream};
use super::cache::{CAPACITY, Cache, Key, Said};
use super::metrics::{Metrics, UpstreamState, count};
use super::zone::below;

/// Questions on their way at once; more wait for their turn, half of the deadline at most. Each holds a socket.
const IN_FLIGHT: usize = 256;
/// Clients that wait for them; more are refused at once.
const WAITING: usize = 4096;

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
        let mut usable: Vec<_> = sound.iter().copied().filter(|upstream| upstream.health.lock().try_ask(now)).collect();
        if usable.is_empty() {
            // It may be the domains asked for that are silent; this one is the likeliest to have an answer.
            let heard = sound.into_iter().filter_map(|u| u.health.lock().recent_answer(now).map(|last| (last, u)));
            usable.extend(heard.max_by_key(|(last, _)| *last).map(|(_, upstream)| upstream));
        }
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

#[cfg(test)]
mod tests;
