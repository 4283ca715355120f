//! Each question as an event, for those who look on: the dashboard, a log, `GET /vipyard/v1/dns/queries`.
//!
//! The newest [`KEPT`] events are kept in a ring, which costs a question one short lock and no allocation of its own: what
//! an answer rests on is shared with the prepared reply ([`super::prepared`]). Who reads keeps the number of the last event
//! it has seen; numbers that are missing after it have made room.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Record, RecordType};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::answer::Cause;
use super::records::Object;
use super::server::Responder;
use super::wire::Transport;

/// Events kept at most.
pub const KEPT: usize = 4096;
/// Records of an answer that are kept; the number tells of the rest.
const SHOWN: usize = 16;

/// A question that has been replied to.
#[derive(Clone, Debug)]
pub struct Event {
    /// Counts from 1 without gaps.
    pub number: u64,
    pub at: SystemTime,
    /// Whose address it came from.
    pub client: SocketAddr,
    /// The Pod that has this address.
    pub pod: Option<Arc<Object>>,
    pub transport: Transport,
    pub facts: Arc<Facts>,
    pub took: Duration,
}

/// What was asked and answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Lower case, no final dot.
    pub name: String,
    pub record_type: RecordType,
    pub code: ResponseCode,
    /// The first answers, aliases included.
    pub answers: Vec<Record>,
    /// The number of all answers.
    pub count: usize,
    pub source: Source,
    /// The objects that the answer rests on; none for others' names.
    pub causes: Vec<Cause>,
    /// Why it failed, where the code says too little.
    pub why: Option<String>,
}

impl Facts {
    /// Keeps what is shown of an answer's records.
    pub(super) fn keep(answers: &[Record]) -> Vec<Record> {
        answers.iter().take(SHOWN).cloned().collect()
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cluster,
    /// What an upstream resolver had said before.
    Cache(SocketAddr),
    Upstream(SocketAddr),
    /// Nobody: the question was refused, or no upstream answered.
    Nobody,
}

impl Source {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Cache(_) => "Cache",
            Self::Upstream(_) => "Upstream",
            Self::Nobody => "Nobody",
        }
    }

    pub(super) fn upstream(self) -> Option<SocketAddr> {
        match self {
            Self::Cache(upstream) | Self::Upstream(upstream) => Some(upstream),
            Self::Cluster | Self::Nobody => None,
        }
    }
}

impl Event {
    pub fn to_json(&self) -> Value {
        let facts = &*self.facts;
        let mut event = json!({
            "number": self.number,
            "time": Timestamp::try_from(self.at).unwrap_or_default().to_string(),
            "client": self.client.to_string(),
            "transport": self.transport.name(),
            "name": format!("{}.", facts.name),
            "type": facts.record_type.to_string(),
            "code": code_name(facts.code),
            "answers": facts.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>(),
            "answerCount": facts.count,
            "source": facts.source.name(),
            "objects": facts.causes.iter().filter_map(Cause::reference).collect::<Vec<_>>(),
            "seconds": self.took.as_secs_f64(),
        });
        if let Some(pod) = &self.pod {
            event["pod"] = json!({"namespace": pod.key.namespace, "name": pod.key.name, "uid": pod.uid.to_string()});
        }
        if let Some(upstream) = facts.source.upstream() {
            event["upstream"] = json!(upstream.to_string());
        }
        if let Some(why) = &facts.why {
            event["message"] = json!(why);
        }
        event
    }
}

/// The code as tools print it.
pub(super) fn code_name(code: ResponseCode) -> String {
    super::metrics::code_name(code).map_or_else(|| format!("RCODE{}", u16::from(code)), str::to_owned)
}

/// What is known of a question while its answer is sought.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub client: SocketAddr,
    pub transport: Transport,
    pub since: Instant,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Event>,
    last: u64,
}

#[derive(Default)]
pub struct Events {
    ring: Mutex<Ring>,
    waiting: AtomicUsize,
    news: Notify,
}

impl Events {
    pub(super) fn emit(&self, seen: &Seen, pod: Option<Arc<Object>>, took: Duration, facts: Arc<Facts>) {
        let mut ring = self.ring.lock();
        ring.last += 1;
        if ring.events.len() == KEPT {
            ring.events.pop_front();
        }
        let number = ring.last;
        let Seen { client, transport, .. } = *seen;
        ring.events.push_back(Event { number, at: SystemTime::now(), client, pod, transport, facts, took });
        drop(ring);
        if self.waiting.load(Relaxed) > 0 {
            self.news.notify_waiters();
        }
    }

    /// The events after that with this number which are still kept, oldest first.
    pub fn after(&self, number: u64) -> Vec<Event> {
        let ring = self.ring.lock();
        let new = usize::try_from(ring.last.saturating_sub(number)).unwrap_or(usize::MAX).min(ring.events.len());
        ring.events.range(ring.events.len() - new..).cloned().collect()
    }

    /// The number of the newest event; 0 before the first.
    pub fn last(&self) -> u64 {
        self.ring.lock().last
    }

    /// The same as [`Self::after`], but waits until there is one.
    pub async fn wait_after(&self, number: u64) -> Vec<Event> {
        let _waiting = Waiting::new(&self.waiting);
        loop {
            let mut news = pin!(self.news.notified());
            // Listens from here on, so that nothing is missed between the look and the wait.
            news.as_mut().enable();
            let events = self.after(number);
            if !events.is_empty() {
                return events;
            }
            news.await;
        }
    }
}

/// Reads events as lines of JSON.
pub struct Reader {
    responder: Arc<Responder>,
    /// The number of the last event read.
    last: u64,
}

impl Reader {
    /// Begins with the newest `tail` events, or with all that are kept.
    pub fn new(responder: Arc<Responder>, tail: Option<usize>) -> Self {
        let tail = tail.unwrap_or(KEPT).min(KEPT);
        let newest = responder.events().last();
        // The ring has room for all events or is full.
        let last = newest.saturating_sub(u64::try_from(tail).unwrap_or(u64::MAX));
        Self { responder, last }
    }

    /// What is there.
    pub fn read(&mut self) -> String {
        let events = self.responder.events().after(self.last);
        self.lines(&events)
    }

    /// Waits for more.
    pub async fn next(&mut self) -> String {
        let responder = Arc::clone(&self.responder);
        let events = responder.events().wait_after(self.last).await;
        self.lines(&events)
    }

    fn lines(&mut self, events: &[Event]) -> String {
        let mut lines = String::new();
        for event in events {
            let lost = event.number - self.last - 1;
            if lost > 0 {
                lines += &json!({"lost": lost}).to_string();
                lines.push('\n');
            }
            lines += &event.to_json().to_string();
            lines.push('\n');
            self.last = event.number;
        }
        lines
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn emit(events: &Events, name: &str) {
        let seen =
            Seen { client: "10.244.1.2:5353".parse().unwrap(), transport: Transport::Udp, since: Instant::now() };
        let facts = Facts {
            name: name.into(),
            record_type: RecordType::A,
            code: ResponseCode::NoError,
            answers: Vec::new(),
            count: 0,
            source: Source::Cluster,
            causes: Vec::new(),
            why: None,
        };
        events.emit(&seen, None, Duration::ZERO, Arc::new(facts));
    }

    fn names(events: &[Event]) -> Vec<(u64, &str)> {
        events.iter().map(|event| (event.number, event.facts.name.as_str())).collect()
    }

    #[test]
    fn newest_events_are_kept_and_numbers_tell_what_is_lost() {
        let events = Events::default();
        assert_eq!((names(&events.after(0)), events.last()), (vec![], 0));
        emit(&events, "a");
        emit(&events, "b");
        assert_eq!(names(&events.after(0)), [(1, "a"), (2, "b")]);
        assert_eq!(names(&events.after(1)), [(2, "b")]);
        assert_eq!(names(&events.after(2)), []);
        for _ in 0..KEPT {
            emit(&events, "c");
        }
        let kept = events.after(0);
        assert_eq!((kept.len(), kept[0].number), (KEPT, 3));
        assert_eq!(names(&events.after(events.last() - 1)).len(), 1);
    }

    #[tokio::test]
    async fn who_waits_hears_of_the_next_event() {
        let events = Events::default();
        emit(&events, "a");
        assert_eq!(names(&events.wait_after(0).await), [(1, "a")]);
        let (heard, ()) = tokio::join!(events.wait_after(1), async {
            tokio::task::yield_now().await;
            emit(&events, "b");
        });
        assert_eq!(names(&heard), [(2, "b")]);
        assert_eq!(events.waiting.load(Relaxed), 0);
    }
}
