//! Replies that are ready to be sent: what was answered to the same question a moment ago.
//!
//! A reply about the cluster depends on the question, the client's EDNS and the published records alone. So the bytes are
//! kept with the generation of the records that they were made of and sent again until that changes: no parsing, no search,
//! no encoding, no allocation. What differs from reply to reply is written over them: the message's number, the letters of
//! the asked name (0x20) and the order of the addresses. Whatever this does not understand is left to the long way.

use std::sync::Arc;

use hashbrown::HashMap;
use hickory_proto::rr::RecordType;
use parking_lot::Mutex;
use rand::seq::SliceRandom;

use super::events::Facts;
use super::wire::Reply;

/// Replies kept at most; 5,000 Services, asked for both families, have room.
const CAPACITY: usize = 16_384;
/// Larger ones are made anew: they are rare, and would cost memory.
const LARGEST: usize = 1232;
const HEADER: usize = 12;
/// Type and class behind the name.
const AFTER_NAME: usize = 4;
/// An OPT record without options: the root, type, payload, extended flags, no data.
const OPT: usize = 11;
/// The longest name, with its final zero.
const NAME: usize = 255;
const OPT_TYPE: [u8; 3] = [0, 0, 41];
/// Pointer, type, class, TTL and length before the data of a record that is owned by the asked name.
const BEFORE_DATA: usize = 12;

/// What a reply depends on: the message without its number, in small letters.
pub(super) struct Question {
    bytes: [u8; HEADER + NAME + AFTER_NAME + OPT],
    len: usize,
    name_end: usize,
}

impl Question {
    /// `None` for anything but a plain question without options.
    pub fn of(message: &[u8]) -> Option<Self> {
        // A query, one question, no answers, no authorities, and the high byte of the number of additional records.
        if message.len() < HEADER || message[2] & 0xf8 != 0 || message[4..11] != [0, 1, 0, 0, 0, 0, 0] {
            return None;
        }
        let name_end = name_end(message)?;
        let end = name_end + AFTER_NAME;
        match message[11] {
            0 if message.len() == end => {}
            1 if message.len() == end + OPT && message[end..end + 3] == OPT_TYPE && message.ends_with(&[0, 0]) => {}
            _ => return None,
        }
        let mut bytes = [0; HEADER + NAME + AFTER_NAME + OPT];
        let len = message.len() - 2;
        bytes[..len].copy_from_slice(&message[2..]);
        // The lengths of labels are below 64, so no letters.
        bytes[HEADER - 2..name_end - 2].make_ascii_lowercase();
        Some(Self { bytes, len, name_end })
    }

    fn key(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Where the name in the question ends, its final zero included.
fn name_end(message: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1 + length;
        if length > 63 || at - HEADER > NAME {
            return None;
        }
        if length == 0 {
            return (at + AFTER_NAME <= message.len()).then_some(at);
        }
    }
}

struct Entry {
    generation: u64,
    reply: Box<[u8]>,
    /// Bytes of each answer, where there are several that may change places.
    stride: Option<usize>,
    facts: Arc<Facts>,
}

#[derive(Default)]
pub(super) struct Prepared {
    replies: Mutex<HashMap<Box<[u8]>, Entry>>,
}

impl Prepared {
    /// Writes the reply to `message` over what `out` holds, if it is there.
    pub fn reply(&self, question: &Question, message: &[u8], generation: u64, out: &mut Vec<u8>) -> Option<Arc<Facts>> {
        let replies = self.replies.lock();
        let entry = replies.get(question.key()).filter(|entry| entry.generation == generation)?;
        out.clear();
        out.extend_from_slice(&entry.reply);
        let (facts, stride) = (Arc::clone(&entry.facts), entry.stride);
        drop(replies);
        out[..2].copy_from_slice(&message[..2]);
        out[HEADER..question.name_end].copy_from_slice(&message[HEADER..question.name_end]);
        if let Some(stride) = stride {
            let answers = &mut out[question.name_end + AFTER_NAME..][..stride * facts.count];
            shuffle(answers, stride);
        }
        Some(facts)
    }

    /// Keeps a reply that was made of the records of this generation, if it may be sent again.
    pub fn keep(&self, question: &Question, generation: u64, reply: &Reply, bytes: &[u8], facts: &Arc<Facts>) {
        let Some(stride) = stride(reply, facts.record_type) else { return };
        if bytes.len() > LARGEST {
            return;
        }
        let entry = Entry { generation, reply: bytes.into(), stride, facts: Arc::clone(facts) };
        let mut replies = self.replies.lock();
        if replies.len() >= CAPACITY {
            // Most are of earlier generations, or of a flood of names.
            replies.clear();
        }
        replies.insert(question.key().into(), entry);
    }
}

/// How answers may change places: not at all where there is one or none, as wholes where all are addresses of the asked
/// name. The outer `None` means that a new reply has to be made each time.
fn stride(reply: &Reply, record_type: RecordType) -> Option<Option<usize>> {
    if reply.answers.len() < 2 {
        return Some(None);
    }
    let data = match record_type {
        RecordType::A => 4,
        RecordType::AAAA => 16,
        _ => return None,
    };
    let plain = reply.answers.iter().all(|record| record.record_type() == record_type);
    plain.then_some(Some(BEFORE_DATA + data))
}

fn shuffle(answers: &mut [u8], stride: usize) {
    let count = answers.len() / stride;
    let mut places: Vec<usize> = (0..count).collect();
    places.shuffle(&mut rand::rng());
    let before = answers.to_vec();
    for (to, from) in places.into_iter().enumerate() {
        answers[to * stride..][..stride].copy_from_slice(&before[from * stride..][..stride]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A question for `name` with a header of these counts.
    fn message(name: &[&[u8]], counts: [u8; 4], rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0];
        counts.iter().for_each(|count| bytes.extend([0, *count]));
        for label in name {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(*label);
        }
        bytes.extend([0, 0, 1, 0, 1]);
        bytes.extend(rest);
        bytes
    }

    const EDNS: [u8; OPT] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn number_and_letters_make_no_difference() {
        let one = message(&[b"Web", b"defaulT"], [1, 0, 0, 0], &[]);
        let mut other = message(&[b"web", b"default"], [1, 0, 0, 0], &[]);
        other[0] = 7;
        let (one, other) = (Question::of(&one).unwrap(), Question::of(&other).unwrap());
        assert_eq!(one.key(), other.key());
    }

    #[test]
    fn flags_types_and_edns_make_a_difference() {
        let plain = message(&[b"web"], [1, 0, 0, 0], &[]);
        let key = |bytes: &[u8]| Question::of(bytes).unwrap().key().to_vec();
        let mut flags = plain.clone();
        flags[3] |= 0x10;
        let mut aaaa = plain.clone();
        *aaaa.iter_mut().rev().nth(2).unwrap() = 28;
        let edns = message(&[b"web"], [1, 0, 0, 1], &EDNS);
        let mut dnssec = edns.clone();
        *dnssec.iter_mut().rev().nth(3).unwrap() = 0x80;
        let all = [plain, flags, aaaa, edns, dnssec].map(|bytes| key(&bytes));
        for (at, one) in all.iter().enumerate() {
            assert!(all[at + 1..].iter().all(|other| other != one), "{at}");
        }
    }

    #[test]
    fn anything_unusual_takes_the_long_way() {
        let good = message(&[b"web"], [1, 0, 0, 0], &[]);
        assert!(Question::of(&good).is_some());
        let longest = vec![&[b'x'; 63][..]; 4];
        let mut reply = good.clone();
        reply[2] |= 0x80;
        let mut notify = good.clone();
        notify[2] |= 0x20;
        let mut pointer = good.clone();
        pointer[HEADER] = 0xc0;
        for bad in [
            &good[..11],
            &good[..good.len() - 1],
            &message(&[b"web"], [1, 0, 0, 0], &[0]),
            &message(&[b"web"], [2, 0, 0, 0], &[]),
            &message(&[b"web"], [1, 1, 0, 0], &[]),
            &message(&[b"web"], [1, 0, 0, 1], &[]),
            &message(&[b"web"], [1, 0, 0, 1], &[&EDNS[..9], &[0, 4, 0, 10, 0, 0]].concat()),
            &message(&longest, [1, 0, 0, 0], &[]),
            &reply,
            &notify,
            &pointer,
        ] {
            assert!(Question::of(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn answers_change_places_as_wholes() {
        let before: Vec<u8> = (0..40).map(|at| at / 4).collect();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..50 {
            let mut after = before.clone();
            shuffle(&mut after, 4);
            let mut chunks: Vec<&[u8]> = after.chunks(4).collect();
            chunks.sort_unstable();
            assert_eq!(chunks.concat(), before);
            seen.insert(after);
        }
        assert!(seen.len() > 1);
    }
}
