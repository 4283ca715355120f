//! Counters of the DNS server: plain atomics, named in one place.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

/// Replies sent, by type of the question and response code. `type="none"` is a message without a readable question.
pub const RESPONSES: &str = "dns_responses_total";
/// UDP replies that did not fit and said so.
pub const TRUNCATED: &str = "dns_truncated_total";
/// Messages that deserve no reply.
pub const IGNORED: &str = "dns_ignored_total";
/// Questions sent on to an upstream resolver (questions, not packets).
pub const FORWARDED: &str = "dns_forwarded_total";
/// Forwarded questions that no upstream answered.
pub const FORWARD_FAILURES: &str = "dns_forward_failures_total";
/// Questions about others' names that were answered from the cache.
pub const CACHE_HITS: &str = "dns_cache_hits_total";
/// Questions about others' names that were not in the cache.
pub const CACHE_MISSES: &str = "dns_cache_misses_total";

const TYPES: [&str; 12] = ["A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "SOA", "NS", "ANY", "HTTPS", "other", "none"];
const CODES: [&str; 8] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS", "other"];

#[derive(Default)]
pub struct Metrics {
    responses: [[AtomicU64; CODES.len()]; TYPES.len()],
    pub truncated: AtomicU64,
    pub ignored: AtomicU64,
    pub forwarded: AtomicU64,
    pub forward_failures: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
}

impl Metrics {
    pub(super) fn response(&self, record_type: Option<RecordType>, code: ResponseCode) {
        self.responses[type_index(record_type)][code_index(code)].fetch_add(1, Relaxed);
    }

    /// The replies sent for a type and code, by their names in [`RESPONSES`].
    pub fn responses(&self, record_type: &str, code: &str) -> u64 {
        let found = TYPES.iter().position(|t| *t == record_type).zip(CODES.iter().position(|c| *c == code));
        found.map_or(0, |(t, c)| self.responses[t][c].load(Relaxed))
    }

    /// Every counter that has counted or has no labels: its name, its labels and its value.
    pub fn visit(&self, mut see: impl FnMut(&'static str, &[(&'static str, &'static str)], u64)) {
        for (by_code, record_type) in self.responses.iter().zip(TYPES) {
            for (count, code) in by_code.iter().zip(CODES) {
                let count = count.load(Relaxed);
                if count > 0 {
                    see(RESPONSES, &[("type", record_type), ("code", code)], count);
                }
            }
        }
        for (name, counter) in [
            (TRUNCATED, &self.truncated),
            (IGNORED, &self.ignored),
            (FORWARDED, &self.forwarded),
            (FORWARD_FAILURES, &self.forward_failures),
            (CACHE_HITS, &self.cache_hits),
            (CACHE_MISSES, &self.cache_misses),
        ] {
            see(name, &[], counter.load(Relaxed));
        }
    }
}

fn type_index(record_type: Option<RecordType>) -> usize {
    match record_type {
        Some(RecordType::A) => 0,
        Some(RecordType::AAAA) => 1,
        Some(RecordType::SRV) => 2,
        Some(RecordType::PTR) => 3,
        Some(RecordType::CNAME) => 4,
        Some(RecordType::TXT) => 5,
        Some(RecordType::SOA) => 6,
        Some(RecordType::NS) => 7,
        Some(RecordType::ANY) => 8,
        Some(RecordType::HTTPS) => 9,
        Some(_) => 10,
        None => 11,
    }
}

fn code_index(code: ResponseCode) -> usize {
    match code {
        ResponseCode::NoError => 0,
        ResponseCode::FormErr => 1,
        ResponseCode::ServFail => 2,
        ResponseCode::NXDomain => 3,
        ResponseCode::NotImp => 4,
        ResponseCode::Refused => 5,
        ResponseCode::BADVERS => 6,
        _ => 7,
    }
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_counted_by_type_and_code() {
        let metrics = Metrics::default();
        metrics.response(Some(RecordType::AAAA), ResponseCode::NXDomain);
        metrics.response(Some(RecordType::MX), ResponseCode::NoError);
        metrics.response(None, ResponseCode::FormErr);
        let mut seen = Vec::new();
        metrics.visit(|name, labels, count| {
            if name == RESPONSES {
                seen.push((labels[0].1, labels[1].1, count));
            }
        });
        assert_eq!(seen, [("AAAA", "NXDOMAIN", 1), ("other", "NOERROR", 1), ("none", "FORMERR", 1)]);
        assert_eq!(metrics.responses("AAAA", "NXDOMAIN"), 1);
    }
}
