//! The router's side of the flow log: what is told at once, and what is counted first.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::{Ended, FlowLog, LINES, Opened, Outcome, Record, Refused, ServiceName, What};
use crate::plan::ServicePort;
use crate::router::PortId;
use crate::router::flow::{Direction, Ending, Flow, Millis};
use crate::router::ports::PortInfo;
use crate::router::stats::{AnswerReason, DropReason};
use crate::router::wire::Tuple;

/// Kinds of refusals that are counted at a time. A flood of many kinds has only the reasons told.
const KINDS: usize = 256;
const SECOND: Millis = 1000;

/// Writes the log; part of the pipeline and used under its lock.
pub struct Recorder {
    log: Arc<FlowLog>,
    number: u64,
    kinds: Box<[Option<Kind>]>,
    hasher: RandomState,
    /// How many of `kinds` have something to tell.
    owing: usize,
    window: Window,
}

/// Refusals that are alike.
struct Kind {
    from: Arc<PortInfo>,
    tuple: Option<Tuple>,
    service: Option<ServiceName>,
    outcome: Outcome,
    told: Millis,
    /// Since then.
    count: u64,
}

/// A second, and what it could not hold.
struct Window {
    since: Millis,
    lines: u32,
    dropped: [u64; DropReason::ALL.len()],
    answered: [u64; AnswerReason::ALL.len()],
    suppressed: u64,
}

impl Window {
    fn at(since: Millis) -> Self {
        Self {
            since,
            lines: 0,
            dropped: [0; DropReason::ALL.len()],
            answered: [0; AnswerReason::ALL.len()],
            suppressed: 0,
        }
    }

    fn suppress(&mut self, outcome: Outcome, count: u64) {
        self.suppressed += count;
        match outcome {
            Outcome::Dropped(reason) => self.dropped[reason as usize] += count,
            Outcome::Answered(reason) => self.answered[reason as usize] += count,
        }
    }
}

impl Recorder {
    pub(super) fn new(log: Arc<FlowLog>) -> Self {
        Self {
            log,
            number: 0,
            kinds: (0..KINDS).map(|_| None).collect(),
            hasher: RandomState::new(),
            owing: 0,
            window: Window::at(0),
        }
    }

    fn write(&mut self, at: Millis, what: What) {
        self.number += 1;
        self.log.write(Record { number: self.number, at, what });
    }

    pub(in crate::router) fn opened(&mut self, opened: Arc<Opened>, tuples: [Tuple; 2], now: Millis) {
        self.write(now, What::Opened { opened, tuples });
    }

    pub(in crate::router) fn ended(&mut self, opened: Arc<Opened>, flow: &Flow, ending: Option<Ending>, now: Millis) {
        let ended = Ended {
            opened,
            tuples: flow.tuples,
            ending: ending.unwrap_or(Ending::Closed),
            answered: flow.packets[Direction::Reply as usize] > 0,
            packets: flow.packets,
            bytes: flow.bytes,
            // Idleness is no part of its life.
            lasted: flow.last_hit.saturating_sub(flow.created),
        };
        self.write(now, What::Ended(Box::new(ended)));
    }

    /// A packet went nowhere. `service` finds the Service that it was for, if any; it is asked for what is told only.
    pub(crate) fn refused<'a>(
        &mut self,
        from: &Arc<PortInfo>,
        tuple: Option<Tuple>,
        outcome: Outcome,
        now: Millis,
        service: impl FnOnce(&Tuple) -> Option<&'a Arc<ServicePort>>,
    ) {
        let chatter =
            outcome == Outcome::Dropped(DropReason::NotUnicast) && tuple.is_some_and(|tuple| tuple.dst.is_multicast());
        if chatter {
            // A kernel asks for routers and names its groups. It is counted, and nobody's fault.
            return;
        }
        if now >= self.window.since + SECOND {
            self.settle(now);
        }
        let at = self.place(from.id, tuple.as_ref(), outcome);
        if let Some(kind) = &mut self.kinds[at]
            && (kind.from.id, kind.tuple, kind.outcome) == (from.id, tuple, outcome)
        {
            self.owing += usize::from(kind.count == 0);
            kind.count += 1;
            return;
        }
        if self.window.lines >= LINES {
            self.window.suppress(outcome, 1);
            return;
        }
        if let Some(before) = self.kinds[at].take()
            && before.count > 0
        {
            self.owing -= 1;
            self.tell(before, now);
        }
        let service = tuple.as_ref().and_then(service).map(|service| ServiceName::of(service));
        let mut kind = Kind { from: Arc::clone(from), tuple, service, outcome, told: now, count: 1 };
        self.tell_of(&mut kind, now);
        self.kinds[at] = Some(kind);
    }

    fn place(&self, from: PortId, tuple: Option<&Tuple>, outcome: Outcome) -> usize {
        let hash = self.hasher.hash_one((from, tuple, outcome));
        usize::try_from(hash % KINDS as u64).unwrap_or(0)
    }

    fn tell(&mut self, mut kind: Kind, now: Millis) {
        self.tell_of(&mut kind, now);
    }

    fn tell_of(&mut self, kind: &mut Kind, now: Millis) {
        self.window.lines += 1;
        kind.told = now;
        let refused = Refused {
            from: Arc::clone(&kind.from),
            tuple: kind.tuple,
            service: kind.service.clone(),
            outcome: kind.outcome,
            count: std::mem::take(&mut kind.count),
        };
        self.write(now, What::Refused(Box::new(refused)));
    }

    /// Tells what was counted until now, when its second is over, and forgets kinds that have stopped.
    pub(in crate::router) fn settle(&mut self, now: Millis) {
        if now < self.window.since + SECOND {
            return;
        }
        let over = std::mem::replace(&mut self.window, Window::at(now));
        if over.suppressed > 0 {
            let dropped = DropReason::ALL.into_iter().map(Outcome::Dropped).zip(over.dropped);
            let answered = AnswerReason::ALL.into_iter().map(Outcome::Answered).zip(over.answered);
            for (outcome, count) in dropped.chain(answered).filter(|(_, count)| *count > 0) {
                self.write(now, What::Suppressed { outcome, count });
            }
        }
        for at in 0..self.kinds.len() {
            match self.kinds[at].take() {
                Some(mut kind) if kind.count > 0 => {
                    self.tell_of(&mut kind, now);
                    self.kinds[at] = Some(kind);
                }
                Some(kind) if kind.told + SECOND > now => self.kinds[at] = Some(kind),
                _ => {}
            }
        }
        self.owing = 0;
    }

    /// When [`Recorder::settle`] has something to tell.
    pub(in crate::router) fn next(&self) -> Option<Millis> {
        (self.owing > 0 || self.window.suppressed > 0).then_some(self.window.since + SECOND)
    }
}
