//! Counters of the DNS server: plain atomics, named in one place.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use super::events::Source;

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
/// From the receipt of a question to its reply, by where the answer came from.
pub const DURATION: &str = "dns_response_duration_seconds";
/// 1 while an upstream resolver answers, 0 while it is silent and left alone, by its address.
pub const UPSTREAM_UP: &str = "dns_upstream_up";
/// Questions sent to an upstream resolver, by its address.
pub const UPSTREAM_QUESTIONS: &str = "dns_upstream_questions_total";
/// Those of them that it did not answer in time or at all.
pub const UPSTREAM_FAILURES: &str = "dns_upstream_failures_total";

const TYPES: [&str; 12] = ["A", "AAAA", "SRV", "PTR", "CNAME", "TXT", "SOA", "NS", "ANY", "HTTPS", "other", "none"];
const CODES: [&str; 8] = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "BADVERS", "other"];
const SOURCES: [&str; 4] = ["Cluster", "Cache", "Upstream", "Nobody"];

/// Upper bounds of the buckets of [`DURATION`], in microseconds: from an answer at hand to the forwarder's deadline.
pub const BUCKETS: [u32; 15] =
    [5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 50_000, 250_000, 1_000_000, 2_500_000, 5_000_000];

/// A histogram of durations.
#[derive(Default)]
pub struct Durations {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    /// Nanoseconds.
    sum: AtomicU64,
}

impl Durations {
    fn observe(&self, took: Duration) {
        let micros = took.as_nanos().div_ceil(1000);
        let bucket = BUCKETS.partition_point(|bound| u128::from(*bound) < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }
}

/// The state of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds in seconds, each with the number of observations up to it; the last bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// Seconds.
    pub sum: f64,
}

impl Histogram {
    pub fn count(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }

    fn of(durations: &Durations) -> Self {
        let bounds = BUCKETS.iter().map(|micros| f64::from(*micros) / 1e6).chain([f64::INFINITY]);
        let counts = durations.buckets.iter().scan(0, |sum, bucket| {
            *sum += bucket.load(Relaxed);
            Some(*sum)
        });
        Self {
            buckets: bounds.zip(counts).collect(),
            sum: Duration::from_nanos(durations.sum.load(Relaxed)).as_secs_f64(),
        }
    }
}

/// What a metric says.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Counter(u64),
    Gauge(u64),
    Histogram(Histogram),
}

#[derive(Default)]
pub struct Metrics {
    responses: [[AtomicU64; CODES.len()]; TYPES.len()],
    durations: [Durations; SOURCES.len()],
    pub truncated: AtomicU64,
    pub ignored: AtomicU64,
    pub forwarded: AtomicU64,
    pub forward_failures: AtomicU64,
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
}

/// What is known of an upstream resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamState {
    pub address: SocketAddr,
    pub up: bool,
    pub questions: u64,
    pub failures: u64,
}

impl Metrics {
    pub(super) fn response(&self, record_type: Option<RecordType>, code: ResponseCode) {
        self.responses[type_index(record_type)][code_index(code)].fetch_add(1, Relaxed);
    }

    pub(super) fn took(&self, source: Source, took: Duration) {
        let index = match source {
            Source::Cluster => 0,
            Source::Cache(_) => 1,
            Source::Upstream(_) => 2,
            Source::Nobody => 3,
        };
        self.durations[index].observe(took);
    }

    /// The replies sent for a type and code, by their names in [`RESPONSES`].
    pub fn responses(&self, record_type: &str, code: &str) -> u64 {
        let found = TYPES.iter().position(|t| *t == record_type).zip(CODES.iter().position(|c| *c == code));
        found.map_or(0, |(t, c)| self.responses[t][c].load(Relaxed))
    }

    /// Every metric that has counted or has no labels: its name, its labels and what it says.
    pub fn visit(
        &self,
        upstreams: &[UpstreamState],
        mut see: impl FnMut(&'static str, &[(&'static str, &str)], Reading),
    ) {
        for (by_code, record_type) in self.responses.iter().zip(TYPES) {
            for (count, code) in by_code.iter().zip(CODES) {
                let count = count.load(Relaxed);
                if count > 0 {
                    see(RESPONSES, &[("type", record_type), ("code", code)], Reading::Counter(count));
                }
            }
        }
        for (durations, source) in self.durations.iter().zip(SOURCES) {
            see(DURATION, &[("source", source)], Reading::Histogram(Histogram::of(durations)));
        }
        for (name, counter) in [
            (TRUNCATED, &self.truncated),
            (IGNORED, &self.ignored),
            (FORWARDED, &self.forwarded),
            (FORWARD_FAILURES, &self.forward_failures),
            (CACHE_HITS, &self.cache_hits),
            (CACHE_MISSES, &self.cache_misses),
        ] {
            see(name, &[], Reading::Counter(counter.load(Relaxed)));
        }
        for upstream in upstreams {
            let address = upstream.address.to_string();
            let labels = [("upstream", address.as_str())];
            see(UPSTREAM_UP, &labels, Reading::Gauge(upstream.up.into()));
            see(UPSTREAM_QUESTIONS, &labels, Reading::Counter(upstream.questions));
            see(UPSTREAM_FAILURES, &labels, Reading::Counter(upstream.failures));
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

/// The code's name, unless it is one of the `other`.
pub(super) fn code_name(code: ResponseCode) -> Option<&'static str> {
    Some(CODES[code_index(code)]).filter(|name| *name != "other")
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
        metrics.visit(&[], |name, labels, reading| {
            if let (RESPONSES, Reading::Counter(count)) = (name, reading) {
                seen.push((labels[0].1.to_owned(), labels[1].1.to_owned(), count));
            }
        });
        let expected = [("AAAA", "NXDOMAIN", 1), ("other", "NOERROR", 1), ("none", "FORMERR", 1)];
        assert_eq!(seen, expected.map(|(t, c, count)| (t.to_owned(), c.to_owned(), count)));
        assert_eq!(metrics.responses("AAAA", "NXDOMAIN"), 1);
    }

    #[test]
    fn durations_are_counted_up_to_each_bound() {
        let metrics = Metrics::default();
        for micros in [3, 5, 6, 10_000_000] {
            metrics.took(Source::Cluster, Duration::from_micros(micros));
        }
        metrics.visit(&[], |name, labels, reading| {
            if let (DURATION, "Cluster", Reading::Histogram(histogram)) =
                (name, labels.first().map_or("", |l| l.1), reading)
            {
                assert_eq!((histogram.buckets[0], histogram.buckets[1]), ((5e-6, 2), (1e-5, 3)));
                assert_eq!((histogram.buckets[BUCKETS.len() - 1].1, histogram.count()), (3, 4));
                assert!((histogram.sum - 10.000014).abs() < 1e-9, "{}", histogram.sum);
            }
        });
    }

    #[test]
    fn upstreams_are_told_by_address() {
        let state = UpstreamState { address: "192.0.2.1:53".parse().unwrap(), up: false, questions: 3, failures: 2 };
        let mut seen = Vec::new();
        Metrics::default().visit(&[state], |name, labels, reading| {
            if labels.contains(&("upstream", "192.0.2.1:53")) {
                seen.push((name, reading));
            }
        });
        let expected = [
            (UPSTREAM_UP, Reading::Gauge(0)),
            (UPSTREAM_QUESTIONS, Reading::Counter(3)),
            (UPSTREAM_FAILURES, Reading::Counter(2)),
        ];
        assert_eq!(seen, expected);
    }
}
