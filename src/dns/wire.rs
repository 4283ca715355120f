//! Messages: questions read exactly, replies written to fit.
//!
//! Parsing and writing of names and records is hickory-proto's; this module decides what a message deserves:
//!
//! * no reply at all: less than a header, or itself a reply (answering those lets two servers shout at each other);
//! * NOTIMP for any operation but a query, FORMERR for anything but exactly one question (RFC 9619) or what can't be
//!   read, BADVERS for EDNS versions to come, REFUSED for classes but IN and for zone transfers;
//! * the question comes back letter by letter (0x20), and so do the owners of the records that answer it;
//! * a UDP reply fits what the client can take, but at most [`UDP_PAYLOAD`]: the OPT record always goes along, answers
//!   that don't fit set TC, additional records that don't fit are left out silently (RFC 2181, section 9).

use std::fmt::Write;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::{CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder};

use super::answer::{self, Data, Kind, Owner};

/// The largest UDP message sent and advertised: the size that DNS flag day 2020 found to pass everywhere.
pub const UDP_PAYLOAD: u16 = 1232;
/// The largest without EDNS (RFC 1035).
const UDP_PLAIN: u16 = 512;
const TCP_LIMIT: u16 = u16::MAX;
/// Room for the OPT record, its fixed part.
const OPT_LEN: u16 = 11;
/// The question's name stands right after the header.
const POINTER_TO_QUESTION: u16 = 0xc00c;
/// The option that tells people why (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// What a reply needs to know of the message it replies to.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub metadata: Metadata,
    pub question: Option<Query>,
    /// The client's EDNS, if it speaks it.
    pub edns: Option<ClientEdns>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ClientEdns {
    pub payload: u16,
    pub dnssec_ok: bool,
}

/// Why a message is not looked at further.
#[derive(Debug)]
pub(super) enum Rejection {
    Silent,
    Reply(Request, ResponseCode),
}

/// Reads a message that asks one question of class IN.
pub(super) fn parse(bytes: &[u8]) -> Result<(Request, Query), Rejection> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).map_err(|_| Rejection::Silent)?;
    if header.message_type == MessageType::Response {
        return Err(Rejection::Silent);
    }
    let mut request = Request { metadata: header.metadata, question: None, edns: None };
    if header.op_code != OpCode::Query {
        return Err(Rejection::Reply(request, ResponseCode::NotImp));
    }
    // Before anything is read: a header can promise 65535 questions.
    if header.counts.queries != 1 {
        return Err(Rejection::Reply(request, ResponseCode::FormErr));
    }
    let Ok(question) = Query::read(&mut decoder) else {
        return Err(Rejection::Reply(request, ResponseCode::FormErr));
    };
    request.question = Some(question.clone());
    let Ok(edns) = read_edns(&mut decoder, &header) else {
        return Err(Rejection::Reply(request, ResponseCode::FormErr));
    };
    if let Some(edns) = edns {
        request.edns = Some(ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
        if edns.version() > 0 {
            return Err(Rejection::Reply(request, ResponseCode::BADVERS));
        }
    }
    match (question.query_class(), u16::from(question.query_type())) {
        (DNSClass::IN, OPT) => Err(Rejection::Reply(request, ResponseCode::FormErr)),
        (DNSClass::IN, FIRST_META..=LAST_META) => Err(Rejection::Reply(request, ResponseCode::Refused)),
        (DNSClass::IN, _) => Ok((request, question)),
        _ => Err(Rejection::Reply(request, ResponseCode::Refused)),
    }
}

const OPT: u16 = 41;
/// TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: operations, not data.
const FIRST_META: u16 = 249;
const LAST_META: u16 = 254;

fn read_edns(decoder: &mut BinDecoder<'_>, header: &Header) -> Result<Option<Edns>, ()> {
    let counts = header.counts;
    for count in [counts.answers, counts.authorities] {
        Message::read_records(decoder, count.into(), false, OpCode::Query).map_err(|_| ())?;
    }
    let (_, edns, _) =
        Message::read_records(decoder, counts.additionals.into(), true, OpCode::Query).map_err(|_| ())?;
    Ok(edns)
}

/// The content of a reply.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub code: ResponseCode,
    pub authoritative: bool,
    /// The upstream says that it has checked the signatures.
    pub authentic: bool,
    pub answers: Vec<Record>,
    pub authority: Vec<Record>,
    pub additional: Vec<Record>,
    /// Why it failed, as code and text of RFC 8914; told to clients that speak EDNS.
    pub why: Option<(u16, String)>,
}

impl Reply {
    pub fn of_code(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            authentic: false,
            answers: Vec::new(),
            authority: Vec::new(),
            additional: Vec::new(),
            why: None,
        }
    }

    /// A failure with its reason.
    pub fn failure(code: u16, text: impl Into<String>) -> Self {
        Self { why: Some((code, text.into())), ..Self::of_code(ResponseCode::ServFail) }
    }

    /// The records of an answer about the cluster, whose asked name was `asked`.
    pub fn of_answer(answer: &answer::Answer, asked: &Name) -> Result<Self, ProtoError> {
        let code = match answer.code {
            answer::Code::NoError => ResponseCode::NoError,
            answer::Code::NxDomain => ResponseCode::NXDomain,
            answer::Code::ServFail => ResponseCode::ServFail,
        };
        let section = |records: &[answer::Record]| {
            records.iter().map(|record| to_record(record, asked)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            authoritative: true,
            answers: section(&answer.answers)?,
            authority: section(&answer.authority)?,
            additional: section(&answer.additional)?,
            ..Self::of_code(code)
        })
    }
}

fn to_record(record: &answer::Record, asked: &Name) -> Result<Record, ProtoError> {
    let owner = match &record.owner {
        Owner::Asked => asked.clone(),
        Owner::Name(name) => to_name(name)?,
    };
    let data = match &record.data {
        Data::A(v4) => RData::A((*v4).into()),
        Data::Aaaa(v6) => RData::AAAA((*v6).into()),
        Data::Cname(target) => RData::CNAME(CNAME(to_name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(to_name(target)?)),
        Data::Ns(target) => RData::NS(NS(to_name(target)?)),
        Data::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, to_name(target)?))
        }
        Data::Txt(text) => RData::TXT(TXT::new(vec![(*text).to_owned()])),
        Data::Soa { server, contact, serial, minimum } => {
            // Refresh, retry and expire concern secondaries, of which there are none; the usual values.
            RData::SOA(SOA::new(to_name(server)?, to_name(contact)?, *serial, 7200, 1800, 86400, *minimum))
        }
    };
    Ok(Record::from_rdata(owner, record.ttl, data))
}

/// A full name from its text.
pub(super) fn to_name(text: &str) -> Result<Name, ProtoError> {
    let mut name = Name::from_ascii(text)?;
    name.set_fqdn(true);
    Ok(name)
}

/// A domain as [`to_text`] writes it; `None` for the root and for what is no name.
pub fn domain(text: &str) -> Option<String> {
    full_name(text).map(|name| to_text(&name))
}

/// The name that a person wrote, with or without its final dot; `None` for the root and for what is no name.
pub(super) fn full_name(text: &str) -> Option<Name> {
    let name = to_name(text.strip_suffix('.').unwrap_or(text)).ok()?;
    (!name.is_root() && name.iter().all(|label| !label.is_empty())).then_some(name)
}

/// A name as text for look-ups: lower case, no final dot, everything but printable characters escaped.
pub(super) fn to_text(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for byte in label {
            if byte.is_ascii_graphic() && !matches!(byte, b'.' | b'\\') {
                text.push(byte.to_ascii_lowercase().into());
            } else {
                // Writing to a string can't fail.
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
    text
}

pub(super) fn kind(record_type: RecordType) -> Kind {
    match record_type {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::SOA => Kind::Soa,
        RecordType::NS => Kind::Ns,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// Writes a reply over what `out` holds. Returns whether it had to be truncated.
pub(super) fn encode(
    request: &Request,
    reply: &Reply,
    transport: Transport,
    out: &mut Vec<u8>,
) -> Result<bool, ProtoError> {
    out.clear();
    let limit = match (transport, request.edns) {
        (Transport::Tcp, _) => TCP_LIMIT,
        (Transport::Udp, Some(edns)) => edns.payload.clamp(UDP_PLAIN, UDP_PAYLOAD),
        (Transport::Udp, None) => UDP_PLAIN,
    };
    let opt = request.edns.map(|edns| server_edns(edns, reply));
    let opt_len = opt.as_ref().map_or(0, |_| OPT_LEN + reply.why.as_ref().map_or(0, |(_, text)| why_len(text)));
    let mut encoder = BinEncoder::new(out);
    encoder.set_max_size(limit.saturating_sub(opt_len));
    let place = encoder.place::<Header>()?;
    let queries = encoder.emit_all(request.question.iter())?;
    let asked = request.question.as_ref().map(Query::name).filter(|name| !name.is_root());
    let (answers, cut) = emit(&mut encoder, &reply.answers, asked)?;
    let (authorities, cut_too) = if cut { (0, true) } else { emit(&mut encoder, &reply.authority, asked)? };
    let (mut additionals, _) = if cut_too { (0, true) } else { emit(&mut encoder, &reply.additional, asked)? };
    encoder.set_max_size(limit);
    if let Some(opt) = opt {
        opt.emit(&mut encoder)?;
        additionals += 1;
    }
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.response_code = reply.code;
    metadata.authoritative = reply.authoritative;
    metadata.authentic_data = reply.authentic;
    metadata.recursion_available = true;
    // Over TCP there is nothing better to try: a client gets as many answers as a message holds.
    metadata.truncation = transport == Transport::Udp && (cut || cut_too);
    let counts = HeaderCounts { queries: u16::from(queries > 0), answers, authorities, additionals };
    place.replace(&mut encoder, Header { metadata, counts })?;
    Ok(metadata.truncation)
}

/// Writes as many records as fit: their number, and whether some are missing.
fn emit(encoder: &mut BinEncoder<'_>, records: &[Record], asked: Option<&Name>) -> Result<(u16, bool), ProtoError> {
    for (count, record) in records.iter().enumerate() {
        let start = encoder.offset();
        match emit_record(encoder, record, asked) {
            Ok(()) => {}
            Err(ProtoError::MaxBufferSizeExceeded(_)) => {
                encoder.set_offset(start);
                encoder.trim();
                return Ok((counted(count), true));
            }
            Err(e) => return Err(e),
        }
    }
    Ok((counted(records.len()), false))
}

/// A record has 11 bytes or more, so that more than 65535 of them never fit.
fn counted(records: usize) -> u16 {
    u16::try_from(records).unwrap_or(u16::MAX)
}

/// Writes a record; its owner as a pointer to the question, if it is the same. The library finds that out as well, but
/// compares it with each name written before, and gives up compressing after some of them.
fn emit_record(encoder: &mut BinEncoder<'_>, record: &Record, asked: Option<&Name>) -> Result<(), ProtoError> {
    if asked.is_none_or(|asked| !asked.eq_case(&record.name)) {
        return record.emit(encoder);
    }
    encoder.emit_u16(POINTER_TO_QUESTION)?;
    record.record_type().emit(encoder)?;
    record.dns_class.emit(encoder)?;
    encoder.emit_u32(record.ttl)?;
    let place = encoder.place::<u16>()?;
    record.data.emit(encoder)?;
    let length =
        u16::try_from(encoder.len_since_place(&place)).map_err(|_| ProtoError::Message("a record is too long"))?;
    place.replace(encoder, length)
}

/// The bytes of an extended error as an option.
fn why_len(text: &str) -> u16 {
    u16::try_from(text.len()).unwrap_or(u16::MAX).saturating_add(6)
}

fn server_edns(client: ClientEdns, reply: &Reply) -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD).set_version(0).set_dnssec_ok(client.dnssec_ok);
    edns.set_rcode_high(reply.code.high());
    if let Some((code, text)) = &reply.why {
        let mut option = code.to_be_bytes().to_vec();
        option.extend_from_slice(text.as_bytes());
        edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, option));
    }
    edns
}

#[cfg(test)]
mod tests;
