//! Sound, broken and hostile messages for the responder, while the records change: what comes back is a reply to what was
//! sent, small enough, readable, and the same whether it was prepared or not.
//!
//! `VIPYARD_FUZZ_INPUTS=10000000` says how many messages, `VIPYARD_FUZZ_SEED` repeats a run. A seed that failed is kept in
//! [`FAILED_ONCE`].

use futures::FutureExt;
use hickory_proto::op::{Message, MessageType};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;
use crate::config::Network;
use crate::dns::fixtures::{records, service, slice};
use crate::dns::forward::{ForwardConfig, reply_to};
use crate::dns::records::Records;

/// Seeds whose first hundred thousand messages once broke a promise.
const FAILED_ONCE: [u64; 0] = [];
const FEW: u64 = 40_000;
/// Messages between two changes of the records.
const QUIET: u64 = 500;
const LABELS: [&[u8]; 28] = [
    b"web",
    b"db",
    b"alias",
    b"away",
    b"loop-a",
    b"lonely",
    b"crowd",
    b"9lives",
    b"default",
    b"svc",
    b"pod",
    b"cluster",
    b"local",
    b"_http",
    b"_tcp",
    b"_udp",
    b"db-0",
    b"10-244-1-5",
    b"dns-version",
    b"ns",
    b"dns",
    b"in-addr",
    b"arpa",
    b"ip6",
    b"10",
    b"96",
    b"1",
    b"example",
];
const NAMES: [&str; 14] = [
    "web.default.svc.cluster.local",
    "WEB.Default.svc.cluster.LOCAL",
    "crowd.default.svc.cluster.local",
    "db.default.svc.cluster.local",
    "alias.default.svc.cluster.local",
    "away.default.svc.cluster.local",
    "loop-a.default.svc.cluster.local",
    "_sql._tcp.db.default.svc.cluster.local",
    "none.default.svc.cluster.local",
    "10-244-1-5.default.pod.cluster.local",
    "cluster.local",
    "1.1.96.10.in-addr.arpa",
    "5.1.244.10.in-addr.arpa",
    "www.example.com",
];
const TYPES: [u16; 16] = [1, 1, 28, 28, 33, 12, 5, 16, 6, 2, 255, 252, 41, 65, 15, 0];

struct Run {
    random: StdRng,
    responder: Responder,
    records: Records,
    /// Messages sent lately, to be sent again and to be spliced.
    sent: Vec<Vec<u8>>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let (metrics, index) = (Arc::<Metrics>::default(), Arc::<Index>::default());
        let forwarder = Arc::new(Forwarder::new(ForwardConfig::default(), Arc::clone(&metrics)));
        let responder = Responder::new(Arc::new(Zone::new(&Network::default())), index, forwarder, metrics);
        let mut run = Self { random: StdRng::seed_from_u64(seed), responder, records: records(), sent: Vec::new() };
        run.change();
        run
    }

    /// Other endpoints, another VIP.
    fn change(&mut self) {
        let count = *[0, 1, 2, 3, 20, 40, 100].choose(&mut self.random).expect("one");
        let first: u8 = self.random.random_range(0..100);
        let endpoints: Vec<_> = (0..count).map(|i| json!({"addresses": [format!("10.244.7.{}", first + i)]})).collect();
        self.records.set_service(&service("crowd", json!({"clusterIP": "None"})));
        self.records.set_slice(&slice("crowd-x", "crowd", json!([]), json!(endpoints)));
        let vip = format!("10.96.1.{}", self.random.random_range(100..120));
        self.records.set_service(&service("web", json!({"clusterIP": vip, "ports": [{"name": "http", "port": 80}]})));
        self.responder.index.publish(self.records.clone());
    }

    fn name(&mut self, message: &mut Vec<u8>) {
        match self.random.random_range(0..10) {
            0..6 => {
                let name = *NAMES.choose(&mut self.random).expect("one");
                name.split('.').for_each(|label| push_label(message, label.as_bytes()));
                message.push(0);
            }
            6..9 => {
                for _ in 0..self.random.random_range(0..9) {
                    let label = *LABELS.choose(&mut self.random).expect("one");
                    push_label(message, label);
                }
                message.push(0);
            }
            _ => {
                // Long and strange labels, and pointers: backwards, forwards, to themselves.
                for _ in 0..self.random.random_range(0..6) {
                    let length = self.random.random_range(1..64);
                    let label: Vec<u8> = (0..length).map(|_| self.random.random()).collect();
                    push_label(message, &label);
                }
                match self.random.random_range(0..3) {
                    0 => message.push(0),
                    1 => message.extend([0xc0, self.random.random()]),
                    _ => message.push(self.random.random_range(64..=255)),
                }
            }
        }
    }

    fn message(&mut self) -> Vec<u8> {
        if !self.sent.is_empty() && self.random.random_bool(0.3) {
            return self.sent.choose(&mut self.random).expect("one").clone();
        }
        if self.random.random_bool(0.03) {
            let length = self.random.random_range(0..600);
            return (0..length).map(|_| self.random.random()).collect();
        }
        let usual = self.random.random_bool(0.8);
        let mut message: Vec<u8> = vec![self.random.random(), self.random.random()];
        message.extend(if usual { [1, 0] } else { [self.random.random(), self.random.random()] });
        let edns = self.random.random_bool(0.5);
        let odd = |random: &mut StdRng| if random.random_bool(0.97) { 0 } else { random.random_range(0..4) };
        message.extend([0, if self.random.random_bool(0.97) { 1 } else { self.random.random_range(0..3) }]);
        message.extend([0, odd(&mut self.random), 0, odd(&mut self.random)]);
        message.extend([0, u8::from(edns) + odd(&mut self.random)]);
        self.name(&mut message);
        let record_type = *TYPES.choose(&mut self.random).expect("one");
        message.extend(record_type.to_be_bytes());
        message.extend(if self.random.random_bool(0.95) { [0, 1] } else { [0, self.random.random()] });
        if edns {
            let payload = *[0u16, 512, 600, 1232, 4096, 65535].choose(&mut self.random).expect("one");
            message.extend([0, 0, 41]);
            message.extend(payload.to_be_bytes());
            let version = u8::from(self.random.random_bool(0.05));
            message.extend([0, version, if self.random.random() { 0x80 } else { 0 }, 0]);
            let options: &[u8] = if self.random.random_bool(0.2) { &[0, 10, 0, 2, 7, 7] } else { &[] };
            message.extend([0, u8::try_from(options.len()).expect("a few")]);
            message.extend(options);
        }
        message
    }

    fn mutate(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.random.random_range(1..4) {
            if message.is_empty() {
                return;
            }
            let at = self.random.random_range(0..message.len());
            match self.random.random_range(0..6) {
                0 => message.truncate(at),
                1 => message.insert(at, self.random.random()),
                2 => message.extend_from_within(..at),
                // Where the header is.
                3 => {
                    let at = at.min(self.random.random_range(0..12));
                    message[at] = self.random.random();
                }
                _ => message[at] ^= 1 << self.random.random_range(0..8),
            }
        }
    }

    fn answer(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self.responder.step(message, transport, &mut out) {
            Step::Ignore => return None,
            Step::Reply(facts) => {
                let seen = Seen { client: ([10, 244, 1, 5], 4711).into(), transport, since: Instant::now() };
                self.responder.tell(&seen, facts);
            }
            Step::Reject(_) => {}
            Step::Ask(pending) => {
                // Without an upstream nobody is waited for.
                self.responder.finish(*pending, &mut out).now_or_never().expect("an answer at once");
            }
        }
        Some(out)
    }

    fn step(&mut self) {
        let mut message = self.message();
        if self.random.random_bool(0.3) {
            self.mutate(&mut message);
        }
        let first = self.answer(&message, Transport::Udp);
        check(&message, first.as_deref());
        if let Some(first) = first {
            let again = self.answer(&message, Transport::Udp).expect("a reply as before");
            check(&message, Some(&again));
            assert_eq!(plain(&first), plain(&again), "the same once more");
            let tcp = self.answer(&message, Transport::Tcp).expect("a reply as over UDP");
            let (udp, tcp) = (Message::from_vec(&again).expect("checked"), plain(&tcp));
            assert!(!tcp.metadata.truncation);
            if !udp.metadata.truncation {
                assert_eq!((&plain(&again).answers, udp.metadata), (&tcp.answers, tcp.metadata));
            }
            // What an upstream might say to us, and what becomes of it on the way.
            let asked = Message::from_vec(&message).unwrap_or_else(|_| Message::query());
            let mut said = first;
            self.mutate(&mut said);
            let _ = reply_to(&asked, &said);
        }
        if self.sent.len() < 64 {
            self.sent.push(message);
        } else {
            let at = self.random.random_range(0..64);
            self.sent[at] = message;
        }
    }
}

fn push_label(message: &mut Vec<u8>, label: &[u8]) {
    message.push(u8::try_from(label.len()).expect("a short label"));
    message.extend(label);
}

/// A reply with its records in order.
fn plain(reply: &[u8]) -> Message {
    let mut message = Message::from_vec(reply).expect("a reply that can be read");
    message.answers.sort_by_cached_key(ToString::to_string);
    message.additionals.sort_by_cached_key(ToString::to_string);
    // What does not fit is left out by chance.
    if message.metadata.truncation {
        message.answers.clear();
    }
    message
}

/// What every reply over UDP must be.
fn check(message: &[u8], reply: Option<&[u8]>) {
    let Some(reply) = reply else {
        let is_reply = message.len() >= 12 && message[2] & 0x80 != 0;
        assert!(message.len() < 12 || is_reply, "a question without a reply: {message:?}");
        return;
    };
    assert_eq!(reply[..2], message[..2], "the number");
    let read = Message::from_vec(reply).unwrap_or_else(|e| panic!("{e}: {reply:?} to {message:?}"));
    assert_eq!(read.metadata.message_type, MessageType::Response);
    let edns = Message::from_vec(message).ok().and_then(|message| message.edns);
    let limit = edns.as_ref().map_or(512, |edns| edns.max_payload().clamp(512, 1232));
    // A message that is read only in parts may have had its EDNS in the part that was read.
    let limit = if Message::from_vec(message).is_ok() { limit } else { 1232 };
    assert!(reply.len() <= limit.into(), "{} bytes of {limit}", reply.len());
    if let Some(question) = read.queries.first() {
        let end = 12 + wire_length(&reply[12..]) + 4;
        if !message[12..].iter().take(end - 12).any(|byte| byte & 0xc0 == 0xc0) {
            assert_eq!(reply[12..end], message[12..end], "{question}");
        }
    }
}

/// The length of an uncompressed name.
fn wire_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    while bytes[at] != 0 {
        at += 1 + usize::from(bytes[at]);
    }
    at + 1
}

fn live(seed: u64, inputs: u64) {
    let mut run = Run::new(seed);
    for input in 0..inputs {
        if input % QUIET == 0 {
            run.change();
        }
        run.step();
    }
}

#[test]
fn any_message_gets_a_sound_reply_or_none() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    FAILED_ONCE.into_iter().for_each(|seed| live(seed, 100_000));
    let inputs = variable("VIPYARD_FUZZ_INPUTS").unwrap_or(FEW);
    let seed = variable("VIPYARD_FUZZ_SEED").unwrap_or_else(rand::random);
    println!("{inputs} messages, VIPYARD_FUZZ_SEED={seed}");
    live(seed, inputs);
}
