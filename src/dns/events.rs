//! Each question as an event, for those who look on: the dashboard, a log. Costs next to nothing while nobody does.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use tokio::sync::broadcast;

use super::answer::Cause;
use super::wire::{Reply, Transport};

/// Events kept for a receiver that is slow; older ones are lost to it, and it is told how many.
const BACKLOG: usize = 1024;
/// Records of an answer that are written out; the number tells of the rest.
const SHOWN: usize = 16;

/// A question that has been replied to.
#[derive(Clone, Debug)]
pub struct Event {
    /// Whose address it came from: a Pod's, with one of its ports.
    pub client: SocketAddr,
    pub transport: Transport,
    /// Lower case, no final dot.
    pub name: String,
    pub record_type: RecordType,
    pub code: ResponseCode,
    /// The data of the first answers, as text, aliases included.
    pub answers: Vec<String>,
    /// The number of all answers.
    pub count: usize,
    pub source: Source,
    /// The objects that the answer rests on; none for others' names.
    pub causes: Vec<Cause>,
    pub took: Duration,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Cluster,
    Cache,
    Upstream,
}

/// What is known of a question while its answer is sought.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub client: SocketAddr,
    pub transport: Transport,
    pub since: Instant,
}

pub struct Events {
    sender: broadcast::Sender<Arc<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(BACKLOG) }
    }
}

impl Events {
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.sender.subscribe()
    }

    pub(super) fn emit(
        &self,
        seen: &Seen,
        question: (&str, RecordType),
        reply: &Reply,
        source: Source,
        causes: &[Cause],
    ) {
        if self.sender.receiver_count() == 0 {
            return;
        }
        // An error means that the last receiver has just left.
        let _ = self.sender.send(Arc::new(Event {
            client: seen.client,
            transport: seen.transport,
            name: question.0.to_owned(),
            record_type: question.1,
            code: reply.code,
            answers: reply.answers.iter().take(SHOWN).map(|record| record.data.to_string()).collect(),
            count: reply.answers.len(),
            source,
            causes: causes.to_vec(),
            took: seen.since.elapsed(),
        }));
    }
}
