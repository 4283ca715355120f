//! What upstream resolvers said, kept for as long as they allow but not longer than half a minute: on a machine where
//! things change under one's hands, a stale name costs more than a question. Pure: time is an argument.
//!
//! Bounded by number; the entry that has been in for longest makes room (not the least used one: with lives this short
//! it makes no difference worth a list to keep).

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{RData, Record, RecordType};

/// Entries kept at most.
pub const CAPACITY: usize = 4096;
/// Seconds that an answer, and that an absence is kept at most (as in the usual CoreDNS configuration).
const LONGEST: u32 = 30;

/// What distinguishes questions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// As `super::wire::to_text` writes it.
    pub name: String,
    pub record_type: RecordType,
    pub dnssec_ok: bool,
    pub checking_disabled: bool,
}

/// What an upstream said.
#[derive(Clone, Debug)]
pub struct Said {
    /// The upstream that said it.
    pub by: SocketAddr,
    pub code: ResponseCode,
    /// The upstream has checked the signatures.
    pub authentic: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
}

impl Said {
    /// For how many seconds it may be kept; 0 for failures and for absences without an SOA (RFC 2308).
    fn life(&self) -> u32 {
        let positive = self.code == ResponseCode::NoError && !self.answers.is_empty();
        let life = match self.code {
            ResponseCode::NoError if positive => self.answers.iter().chain(&self.authority).map(|r| r.ttl).min(),
            ResponseCode::NoError | ResponseCode::NXDomain => self
                .authority
                .iter()
                .find_map(|r| if let RData::SOA(soa) = &r.data { Some(r.ttl.min(soa.minimum)) } else { None }),
            _ => None,
        };
        life.unwrap_or(0).min(LONGEST)
    }

    /// The same, as old as it is.
    fn aged(&self, seconds: u32) -> Self {
        let mut aged = self.clone();
        for record in aged.answers.iter_mut().chain(&mut aged.authority) {
            record.decrement_ttl(seconds);
        }
        aged
    }
}

struct Entry {
    said: Arc<Said>,
    since: Instant,
    life: u32,
    /// Tells this entry's place in the queue from that of an earlier one with the same key.
    number: u64,
}

pub struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<(Key, u64)>,
    capacity: usize,
    next: u64,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), capacity, next: 0 }
    }

    pub fn get(&self, key: &Key, now: Instant) -> Option<Said> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.since);
        let seconds = u32::try_from(age.as_secs()).unwrap_or(u32::MAX);
        (age < Duration::from_secs(entry.life.into())).then(|| entry.said.aged(seconds))
    }

    pub fn put(&mut self, key: Key, said: Said, now: Instant) {
        let life = said.life();
        if life == 0 {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.order.push_back((key.clone(), number));
        self.entries.insert(key, Entry { said: Arc::new(said), since: now, life, number });
        while self.order.len() > self.capacity {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            if self.entries.get(&oldest).is_some_and(|entry| entry.number == number) {
                self.entries.remove(&oldest);
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::SOA;

    use super::*;

    fn key(name: &str) -> Key {
        Key { name: name.into(), record_type: RecordType::A, dnssec_ok: false, checking_disabled: false }
    }

    fn address(ttl: u32) -> Record {
        Record::from_rdata(
            Name::from_ascii("a.test.").unwrap(),
            ttl,
            RData::A(std::net::Ipv4Addr::new(192, 0, 2, 1).into()),
        )
    }

    fn said(code: ResponseCode, answers: Vec<Record>, authority: Vec<Record>) -> Said {
        Said { by: "192.0.2.53:53".parse().unwrap(), code, authentic: false, answers, authority }
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let root = Name::root();
        Record::from_rdata(root.clone(), ttl, RData::SOA(SOA::new(root.clone(), root, 1, 1, 1, 1, minimum)))
    }

    #[test]
    fn an_answer_ages_and_ends() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.put(key("a"), said(ResponseCode::NoError, vec![address(10)], vec![]), start);
        let later = cache.get(&key("a"), start + Duration::from_secs(4)).expect("still good");
        assert_eq!(later.answers[0].ttl, 6);
        assert!(cache.get(&key("a"), start + Duration::from_secs(10)).is_none());
        assert!(cache.get(&key("b"), start).is_none());
    }

    #[test]
    fn nothing_is_kept_longer_than_half_a_minute() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.put(key("a"), said(ResponseCode::NoError, vec![address(86400)], vec![]), start);
        assert!(cache.get(&key("a"), start + Duration::from_secs(29)).is_some());
        assert!(cache.get(&key("a"), start + Duration::from_secs(30)).is_none());
    }

    #[test]
    fn absence_lives_as_long_as_its_soa_says() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.put(key("gone"), said(ResponseCode::NXDomain, vec![], vec![soa(20, 7)]), start);
        assert!(cache.get(&key("gone"), start + Duration::from_secs(6)).is_some());
        assert!(cache.get(&key("gone"), start + Duration::from_secs(7)).is_none());
    }

    #[test]
    fn failures_and_absences_without_soa_are_not_kept() {
        let (mut cache, start) = (Cache::new(8), Instant::now());
        cache.put(key("a"), said(ResponseCode::ServFail, vec![], vec![soa(20, 20)]), start);
        cache.put(key("b"), said(ResponseCode::NXDomain, vec![], vec![]), start);
        cache.put(key("c"), said(ResponseCode::NoError, vec![address(0)], vec![]), start);
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn oldest_entries_make_room() {
        let (mut cache, start) = (Cache::new(3), Instant::now());
        for name in ["a", "b", "a", "c"] {
            cache.put(key(name), said(ResponseCode::NoError, vec![address(10)], vec![]), start);
        }
        let kept = ["a", "b", "c"].map(|name| cache.get(&key(name), start).is_some());
        assert_eq!(kept, [true, true, true]);
        cache.put(key("d"), said(ResponseCode::NoError, vec![address(10)], vec![]), start);
        let kept = ["a", "b", "c", "d"].map(|name| cache.get(&key(name), start).is_some());
        assert_eq!((kept, cache.len()), ([true, false, true, true], 3));
    }
}
