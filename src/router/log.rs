//! The flow log: a record when a flow begins, when it ends, and when a packet is refused.
//!
//! The router writes ([`Recorder`]) while it decides, into a bounded queue without locks; when it is full, the oldest
//! record goes and is counted. Whoever reads ([`FlowLog::read`]) moves the queue into a history as long again, which all
//! readers share, each with its own place in it. So the router never waits for a reader, and a log that nobody reads costs
//! a push per record. A record holds what was true when it was written: names, uids and revisions, not objects.
//!
//! A reader that has seen everything waits for a wake-up. The router looks at one flag per record to see whether anybody
//! waits, so following a silent router costs nothing, and following a busy one a wake-up per [`BATCH`].
//!
//! Refusals come per packet, and one sender can make millions. The first of a kind (port, addresses, reason) is recorded
//! at once; what follows is counted and told once a second. Beyond [`LINES`] refusals in a second, or when another kind
//! needs the place, only the reason is counted.

mod recorder;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::time::{Duration, SystemTime};

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::flow::{Ending, Grounds, Masquerade, Millis};
use super::ports::PortInfo;
use super::route::Route;
use super::stats::{AnswerReason, DropReason};
use super::wire::Tuple;
use crate::plan::{ListKind, Protocol, ServicePort, SliceRef, Via};

pub use recorder::Recorder;

/// How long a reader that follows lets records gather after a wake-up.
const BATCH: Duration = Duration::from_millis(20);
/// Refusals told in a second.
const LINES: u32 = 200;

/// What happened, and when.
#[derive(Debug)]
pub struct Record {
    /// Grows by one with each record; what is missing between two was lost.
    pub number: u64,
    pub at: Millis,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    Opened {
        opened: Arc<Opened>,
        tuples: [Tuple; 2],
    },
    Ended(Box<Ended>),
    Refused(Box<Refused>),
    /// Refusals that are not told one by one.
    Suppressed {
        outcome: Outcome,
        count: u64,
    },
}

/// The end of a flow. Counters are by direction.
#[derive(Debug)]
pub struct Ended {
    pub opened: Arc<Opened>,
    pub tuples: [Tuple; 2],
    pub ending: Ending,
    /// Whether the backend has ever answered.
    pub answered: bool,
    pub packets: [u64; 2],
    pub bytes: [u64; 2],
    pub lasted: Millis,
}

/// One or more packets of one kind that went nowhere.
#[derive(Debug)]
pub struct Refused {
    pub from: Arc<PortInfo>,
    /// None for what is no packet.
    pub tuple: Option<Tuple>,
    pub service: Option<ServiceName>,
    pub outcome: Outcome,
    /// How many, since they were last told of.
    pub count: u64,
}

/// What became of a packet that was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Dropped(DropReason),
    /// Its sender was told.
    Answered(AnswerReason),
}

impl Outcome {
    pub fn reason(self) -> &'static str {
        match self {
            Self::Dropped(reason) => reason.as_str(),
            Self::Answered(reason) => reason.as_str(),
        }
    }
}

/// What was known of a flow at its beginning. Its end is told with the same.
#[derive(Debug)]
pub struct Opened {
    pub client: Arc<PortInfo>,
    pub server: Arc<PortInfo>,
    /// The node that the packet entered at, and those between it and the server's.
    pub entry: Arc<str>,
    pub through: Box<[Arc<str>]>,
    pub hops: u8,
    pub service: Option<Box<ServiceGrounds>>,
}

/// Which Service led to which backend, and why.
#[derive(Debug)]
pub struct ServiceGrounds {
    pub service: ServiceName,
    pub slices: Arc<[SliceRef]>,
    pub via: Via,
    pub list: ListKind,
    pub sticky: bool,
    pub masquerade: Option<Masquerade>,
    /// Name of the Pod in the Service's namespace, when its slice names one.
    pub pod: Option<Arc<str>>,
}

/// A Service port as it was.
#[derive(Clone, Debug)]
pub struct ServiceName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub port_name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    pub uid: Arc<str>,
    pub revision: u64,
}

impl ServiceName {
    fn of(service: &ServicePort) -> Self {
        Self {
            namespace: Arc::clone(&service.namespace),
            name: Arc::clone(&service.name),
            port_name: Arc::clone(&service.port_name),
            protocol: service.protocol,
            port: service.port,
            uid: Arc::clone(&service.uid),
            revision: service.revision,
        }
    }
}

impl Opened {
    pub(super) fn new(client: &Arc<PortInfo>, route: &Route, grounds: Option<&Grounds>) -> Arc<Self> {
        let service = grounds.map(|grounds| {
            Box::new(ServiceGrounds {
                service: ServiceName::of(&grounds.service),
                slices: Arc::clone(&grounds.service.slices),
                via: grounds.via,
                list: grounds.list,
                sticky: grounds.sticky,
                masquerade: grounds.masquerade,
                pod: grounds.service.endpoints()[grounds.endpoint as usize].pod.clone(),
            })
        });
        Arc::new(Self {
            client: Arc::clone(client),
            server: Arc::clone(&route.out),
            entry: Arc::clone(&route.entry),
            through: route.through.as_slice().into(),
            hops: route.hops,
            service,
        })
    }
}

/// The readers' side.
pub struct FlowLog {
    queue: ArrayQueue<Box<Record>>,
    /// Records that the queue had to give up before anybody read them.
    overwritten: AtomicU64,
    written: AtomicU64,
    /// Somebody waits.
    awaited: AtomicBool,
    changed: Notify,
    history: Mutex<VecDeque<Arc<Record>>>,
    started: SystemTime,
}

impl FlowLog {
    /// A log that keeps `length` records, and what writes it. The router's time begins now.
    pub fn new(length: usize) -> (Arc<Self>, Recorder) {
        let log = Arc::new(Self {
            queue: ArrayQueue::new(length.max(1)),
            overwritten: AtomicU64::new(0),
            written: AtomicU64::new(0),
            awaited: AtomicBool::new(false),
            changed: Notify::new(),
            history: Mutex::default(),
            started: SystemTime::now(),
        });
        (Arc::clone(&log), Recorder::new(log))
    }

    fn write(&self, record: Record) {
        let number = record.number;
        if self.queue.force_push(Box::new(record)).is_some() {
            self.overwritten.fetch_add(1, Ordering::Relaxed);
        }
        self.written.store(number, Ordering::Relaxed);
        // Pairs with the one in `changed`: either this sees that somebody waits, or they see the record.
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) && self.awaited.swap(false, Ordering::Relaxed) {
            self.changed.notify_waiters();
        }
    }

    /// Appends the records after number `after` and returns how many of them were lost.
    pub fn read(&self, after: u64, records: &mut Vec<Arc<Record>>) -> u64 {
        let mut history = self.history.lock();
        // What comes meanwhile is for the next time, so that this ends under any load.
        for _ in 0..self.queue.len() {
            let Some(record) = self.queue.pop() else { break };
            if history.len() == self.queue.capacity() {
                history.pop_front();
            }
            history.push_back(Arc::from(record));
        }
        let from = history.partition_point(|record| record.number <= after);
        let (before, newest) = (records.len() as u64, history.back().map_or(after, |record| record.number.max(after)));
        records.extend(history.range(from..).cloned());
        newest - after - (records.len() as u64 - before)
    }

    /// Waits until there are records after number `after`, and a moment for more to come.
    pub async fn changed(&self, after: u64) {
        let mut changed = std::pin::pin!(self.changed.notified());
        changed.as_mut().enable();
        self.awaited.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if self.written() <= after {
            changed.await;
        }
        tokio::time::sleep(BATCH).await;
    }

    /// The number of the newest record.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Records that went before anybody read them.
    pub fn overwritten(&self) -> u64 {
        self.overwritten.load(Ordering::Relaxed)
    }

    /// The time of day of a moment of the router's.
    pub fn time(&self, at: Millis) -> SystemTime {
        self.started + Duration::from_millis(at)
    }
}

#[cfg(test)]
mod tests;
