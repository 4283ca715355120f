use std::net::Ipv4Addr;

use hickory_proto::op::Header;

use super::*;

/// A question as a client sends it.
fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

fn request(message: &Message) -> Request {
    parse(&message.to_vec().unwrap()).expect("a good question").0
}

fn rejection(bytes: &[u8]) -> ResponseCode {
    match parse(bytes) {
        Err(Rejection::Reply(request, code)) => {
            // Whatever it was, the reply to it can be written and read.
            let mut out = Vec::new();
            encode(&request, &Reply::of_code(code), Transport::Udp, &mut out).unwrap();
            let reply = Message::from_vec(&out).unwrap();
            assert_eq!(reply.metadata.message_type, MessageType::Response);
            assert_eq!(u16::from(reply.metadata.response_code), u16::from(code));
            assert_eq!(reply.metadata.id, u16::from_be_bytes([bytes[0], bytes[1]]));
            code
        }
        other => panic!("not rejected with a reply: {other:?}"),
    }
}

fn addresses(count: u8) -> Reply {
    let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
    let record = |i| Record::from_rdata(name.clone(), 5, RData::A(Ipv4Addr::new(10, 244, 0, i).into()));
    Reply { answers: (0..count).map(record).collect(), ..Reply::of_code(ResponseCode::NoError) }
}

fn encoded(request: &Request, reply: &Reply, transport: Transport) -> (Message, usize, bool) {
    let mut out = b"what was there before".to_vec();
    let truncated = encode(request, reply, transport, &mut out).unwrap();
    (Message::from_vec(&out).unwrap(), out.len(), truncated)
}

#[test]
fn messages_that_deserve_silence() {
    let mut reply = question("web.default.svc.cluster.local.", RecordType::A);
    reply.metadata.message_type = MessageType::Response;
    for bytes in [&[][..], &[0; 11], &reply.to_vec().unwrap()] {
        assert!(matches!(parse(bytes), Err(Rejection::Silent)), "{bytes:?}");
    }
}

#[test]
fn messages_that_are_turned_down() {
    let good = question("web.default.svc.cluster.local.", RecordType::A);
    let bytes = good.to_vec().unwrap();
    assert!(parse(&bytes).is_ok());

    for cut in 12..bytes.len() {
        assert_eq!(rejection(&bytes[..cut]), ResponseCode::FormErr, "cut at {cut}");
    }
    for questions in [0u16, 2, 0xffff] {
        let mut many = bytes.clone();
        many[4..6].copy_from_slice(&questions.to_be_bytes());
        assert_eq!(rejection(&many), ResponseCode::FormErr, "{questions} questions");
    }
    // Promised records that are not there, in each section.
    for section in [6, 8, 10] {
        let mut empty = bytes.clone();
        empty[section + 1] = 1;
        assert_eq!(rejection(&empty), ResponseCode::FormErr);
    }
    // A name that points at itself, and one that points ahead.
    for pointer in [12u8, 40] {
        let mut loops = bytes[..12].to_vec();
        loops.extend_from_slice(&[0xc0, pointer, 0, 1, 0, 1]);
        assert_eq!(rejection(&loops), ResponseCode::FormErr);
    }
    for opcode in [1u8, 2, 4, 5, 6, 15] {
        let mut other = bytes.clone();
        other[2] = opcode << 3;
        assert_eq!(rejection(&other), ResponseCode::NotImp, "opcode {opcode}");
    }
    for (record_type, code) in [(252, ResponseCode::Refused), (251, ResponseCode::Refused), (41, ResponseCode::FormErr)]
    {
        let other = question("cluster.local.", RecordType::from(record_type)).to_vec().unwrap();
        assert_eq!(rejection(&other), code, "type {record_type}");
    }
    for class in [0u16, 2, 3, 4, 254, 255, 4242] {
        let mut other = bytes.clone();
        let at = other.len() - 2;
        other[at..].copy_from_slice(&class.to_be_bytes());
        assert_eq!(rejection(&other), ResponseCode::Refused, "class {class}");
    }
}

#[test]
fn edns_of_a_version_to_come_and_two_opt_records() {
    let mut next = question("cluster.local.", RecordType::SOA);
    let mut edns = Edns::new();
    edns.set_version(1);
    next.set_edns(edns);
    assert_eq!(rejection(&next.to_vec().unwrap()), ResponseCode::BADVERS);

    let mut twice = with_edns(question("cluster.local.", RecordType::SOA), 1232).to_vec().unwrap();
    let opt = twice[twice.len() - 11..].to_vec();
    twice.extend(opt);
    twice[11] = 2;
    assert_eq!(rejection(&twice), ResponseCode::FormErr);
}

#[test]
fn question_comes_back_letter_by_letter() {
    let request = request(&question("wEb.DEFAULT.svc.Cluster.LOCAL.", RecordType::A));
    let asked = request.question.as_ref().unwrap().name().clone();
    let answer = answer::Answer {
        answers: vec![answer::Record { owner: Owner::Asked, ttl: 5, data: Data::A(Ipv4Addr::new(10, 96, 0, 1)) }],
        ..answer::Answer::default()
    };
    let mut out = Vec::new();
    encode(&request, &Reply::of_answer(&answer, &asked).unwrap(), Transport::Udp, &mut out).unwrap();
    let reply = Message::from_vec(&out).unwrap();
    assert_eq!(reply.queries[0].name().to_ascii(), "wEb.DEFAULT.svc.Cluster.LOCAL.");
    assert_eq!(reply.answers[0].name.to_ascii(), "wEb.DEFAULT.svc.Cluster.LOCAL.");
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available && reply.metadata.recursion_desired);
    // The owner is a pointer to the question, so a usual answer costs 16 bytes.
    assert_eq!(out.len(), 12 + 31 + 4 + 16);
    assert!(reply.edns.is_none());
}

#[test]
fn truncated_replies_fit_and_keep_their_opt_record() {
    let plain = question("web.default.svc.cluster.local.", RecordType::A);
    for (message, limit) in [
        (plain.clone(), 512),
        (with_edns(plain.clone(), 0), 512),
        (with_edns(plain.clone(), 900), 900),
        (with_edns(plain.clone(), 1232), 1232),
        (with_edns(plain.clone(), 65535), 1232),
    ] {
        let request = request(&message);
        let (reply, size, truncated) = encoded(&request, &addresses(200), Transport::Udp);
        assert!(truncated && reply.metadata.truncation);
        assert!(size <= limit && size > limit - 16, "{size} bytes of {limit}");
        assert_eq!(reply.edns.is_some(), message.edns.is_some());
        assert_eq!(reply.edns.map_or(1232, |edns| edns.max_payload()), 1232);

        let (reply, _, truncated) = encoded(&request, &addresses(200), Transport::Tcp);
        assert!(!truncated && !reply.metadata.truncation);
        assert_eq!(reply.answers.len(), 200);
    }
}

#[test]
fn additional_records_that_do_not_fit_are_no_truncation() {
    let request = request(&question("web.default.svc.cluster.local.", RecordType::A));
    let mut reply = addresses(20);
    reply.additional = addresses(50).answers;
    let (message, _, truncated) = encoded(&request, &reply, Transport::Udp);
    assert!(!truncated && !message.metadata.truncation);
    assert_eq!(message.answers.len(), 20);
    assert!(!message.additionals.is_empty() && message.additionals.len() < 50);
}

#[test]
fn over_tcp_a_message_holds_what_it_holds() {
    let request = request(&with_edns(question("web.default.svc.cluster.local.", RecordType::A), 1232));
    let mut reply = addresses(250);
    reply.answers = reply.answers.iter().cycle().take(5000).cloned().collect();
    let (message, size, truncated) = encoded(&request, &reply, Transport::Tcp);
    assert!(!truncated && !message.metadata.truncation && message.edns.is_some());
    assert!(size > 65500, "{size}");
    assert_eq!(message.answers.len(), (65535 - 12 - 35 - 11) / 16);
}

#[test]
fn failure_tells_its_reason_to_those_who_can_read_it() {
    let plain = question("example.com.", RecordType::A);
    let failure = Reply::failure(22, "nobody there");
    let (reply, ..) = encoded(&request(&with_edns(plain.clone(), 1232)), &failure, Transport::Udp);
    let edns = reply.edns.expect("an OPT record");
    let option = edns.option(EXTENDED_ERROR.into()).expect("an extended error");
    assert_eq!(*option, EdnsOption::Unknown(15, b"\0\x16nobody there".to_vec()));
    let (reply, ..) = encoded(&request(&plain), &failure, Transport::Udp);
    assert_eq!((reply.metadata.response_code, reply.edns), (ResponseCode::ServFail, None));
}

#[test]
fn names_become_text_that_can_not_be_mistaken() {
    let labels: [&[u8]; 3] = [b"We.b", b"d\\x\0", b"\xffa b"];
    let name = Name::from_labels(labels).unwrap();
    assert_eq!(to_text(&name), "we\\046b.d\\092x\\000.\\255a\\032b");
    assert_eq!(to_text(&Name::root()), "");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2000))]

    /// No input makes the server stumble, and every reply to it can be read.
    #[test]
    fn any_bytes_are_read_without_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
        check_any(&bytes);
    }

    /// The same, near a good question.
    #[test]
    fn damaged_questions_are_read_without_harm(
        changes in proptest::collection::vec((0usize..70, proptest::prelude::any::<u8>()), 1..6),
    ) {
        let mut bytes = with_edns(question("_http._tcp.web.default.svc.cluster.local.", RecordType::SRV), 1232).to_vec().unwrap();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        check_any(&bytes);
    }
}

fn check_any(bytes: &[u8]) {
    let (request, reply) = match parse(bytes) {
        Err(Rejection::Silent) => return,
        Err(Rejection::Reply(request, code)) => (request, Reply::of_code(code)),
        Ok((request, question)) => {
            assert_eq!(to_text(question.name()), to_text(question.name()).to_ascii_lowercase());
            (request, Reply::failure(22, "x"))
        }
    };
    let mut out = Vec::new();
    encode(&request, &reply, Transport::Udp, &mut out).expect("a reply that can be written");
    let header = Header::read(&mut BinDecoder::new(&out)).expect("a header");
    assert_eq!(header.message_type, MessageType::Response);
    assert!(out.len() <= 1232);
}
