//! Where resolvers are picky: forms of messages, transports, and what second implementations make of the replies.

use hickory_proto::op::{Edns, OpCode};
use hickory_proto::rr::RecordType;
use hickory_proto::rr::rdata::opt::EdnsOption;
use serde_json::json;
use tokio::net::TcpStream;

use super::tests::{World, crowd, data, dig, over_tcp, question};
use super::*;
use crate::dns::fixtures::{FakeUpstream, records, reply_with, service, slice};

const WEB: &str = "web.default.svc.cluster.local.";

#[tokio::test]
async fn prepared_replies_follow_the_records_and_the_letters_of_each_question() {
    let world = World::start(records(), &[]);
    for letters in ["web.default.svc.cluster.local.", "WEB.default.svc.Cluster.local."] {
        let reply = world.ask(letters, RecordType::A).await;
        assert_eq!(
            (data(&reply), reply.answers[0].name.to_ascii()),
            (vec!["10.96.1.1".to_owned()], letters.to_owned())
        );
    }
    let mut changed = records();
    changed.set_service(&service("web", json!({"clusterIP": "10.96.7.7"})));
    world.index.publish(changed);
    assert_eq!(data(&world.ask(WEB, RecordType::A).await), ["10.96.7.7"]);
    assert_eq!(world.metrics.responses("A", "NOERROR"), 3);
}

#[tokio::test]
async fn prepared_addresses_come_in_any_order_and_all_of_them() {
    let mut few = records();
    let endpoints: Vec<_> = (1..=20).map(|i| json!({"addresses": [format!("10.244.1.{i}")]})).collect();
    few.set_slice(&slice("lonely-x", "lonely", json!([]), json!(endpoints)));
    let world = World::start(few, &[]);
    let mut firsts = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let reply = world.ask("lonely.default.svc.cluster.local.", RecordType::A).await;
        let all: std::collections::BTreeSet<_> = data(&reply).into_iter().collect();
        assert_eq!((reply.answers.len(), all.len()), (20, 20));
        firsts.insert(reply.answers[0].data.to_string());
    }
    assert!(firsts.len() > 3, "{firsts:?}");
}

#[tokio::test]
async fn edns_of_any_size_gets_what_fits_and_its_own_opt_record() {
    let world = World::start(crowd(), &[]);
    for (payload, most) in [(0u16, 512), (100, 512), (512, 512), (900, 900), (1232, 1232), (65535, 1232)] {
        let mut message = question("lonely.default.svc.cluster.local.", RecordType::A);
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(true);
        // An option that nobody knows is no error.
        edns.options_mut().insert(EdnsOption::Unknown(65_001, b"x".to_vec()));
        message.set_edns(edns);
        let reply = world.udp(&message.to_vec().unwrap()).await.unwrap();
        let size = reply.to_vec().unwrap().len();
        assert!(size <= most && size + 16 > most - 16 && reply.metadata.truncation, "{payload}: {size}");
        let edns = reply.edns.expect("an OPT record");
        assert!(edns.max_payload() == 1232 && edns.flags().dnssec_ok && edns.version() == 0);
    }
}

#[tokio::test]
async fn several_questions_in_one_message_and_none_are_formerr() {
    let world = World::start(records(), &[]);
    let mut two = question(WEB, RecordType::A);
    two.add_query(two.queries[0].clone());
    let mut none = question(WEB, RecordType::A);
    none.queries.clear();
    // 65535 promised, one there.
    let mut promised = question(WEB, RecordType::A).to_vec().unwrap();
    promised[4..6].copy_from_slice(&[0xff, 0xff]);
    for message in [two.to_vec().unwrap(), none.to_vec().unwrap(), promised] {
        let reply = world.udp(&message).await.unwrap();
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::FormErr, 0));
    }
}

#[tokio::test]
async fn names_that_point_in_circles_are_formerr() {
    let world = World::start(records(), &[]);
    let good = question(WEB, RecordType::A).to_vec().unwrap();
    // To itself, forwards, and to a pointer that points here.
    for pointer in [[0xc0, 12], [0xc0, 40], [0xff, 0xff]] {
        let mut message = good[..12].to_vec();
        message.extend(pointer);
        message.extend([0, 1, 0, 1]);
        assert_eq!(world.udp(&message).await.unwrap().metadata.response_code, ResponseCode::FormErr, "{pointer:?}");
    }
}

#[tokio::test]
async fn operations_classes_and_transfers_are_refused_by_their_codes() {
    let world = World::start(records(), &[]);
    let asked = question(WEB, RecordType::A).to_vec().unwrap();
    for code in [1, 2, 3, 4, 5, 6, 15] {
        let mut message = asked.clone();
        message[2] = message[2] & 0x87 | code << 3;
        let reply = world.udp(&message).await.unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NotImp, "{code}");
        assert_eq!(reply.metadata.op_code, OpCode::from_u8(code));
    }
    let class_at = asked.len() - 2;
    for class in [[0, 3], [0, 4], [0, 254], [0, 255]] {
        let mut message = asked.clone();
        message[class_at..].copy_from_slice(&class);
        let reply = world.udp(&message).await.unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused, "{class:?}");
    }
    for record_type in [RecordType::AXFR, RecordType::IXFR, RecordType::TSIG] {
        let message = question("cluster.local.", record_type).to_vec().unwrap();
        assert_eq!(world.udp(&message).await.unwrap().metadata.response_code, ResponseCode::Refused);
        let reply = over_tcp(world.address, &[message]).await.remove(0);
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
    }
}

#[tokio::test]
async fn no_reply_over_udp_is_larger_than_a_packet_whatever_is_asked() {
    let world = World::start(crowd(), &[]);
    for name in ["lonely.default.svc.cluster.local.", "cluster.local.", "db.default.svc.cluster.local."] {
        for record_type in [RecordType::ANY, RecordType::A, RecordType::SRV, RecordType::NS] {
            let mut message = question(name, record_type);
            let mut edns = Edns::new();
            edns.set_max_payload(65535);
            message.set_edns(edns);
            let reply = world.udp(&message.to_vec().unwrap()).await.unwrap();
            assert!(reply.to_vec().unwrap().len() <= 1232);
        }
    }
    // RFC 8482: of all types, one.
    let any = world.ask("web.default.svc.cluster.local.", RecordType::ANY).await;
    assert_eq!(data(&any), ["10.96.1.1"]);
}

#[tokio::test]
async fn many_questions_share_a_connection_and_the_slow_do_not_hold_up_the_quick() {
    let upstream = FakeUpstream::start(|_, _| None).await;
    let world = World::start(records(), &[upstream.address]);
    let slow = question("example.com.", RecordType::A);
    let mut messages = vec![slow.clone()];
    messages.extend((0..200).map(|_| question(WEB, RecordType::A)));
    let bytes: Vec<_> = messages.iter().map(|message| message.to_vec().unwrap()).collect();
    let replies = over_tcp(world.address, &bytes).await;
    let ids: Vec<u16> = replies.iter().map(|reply| reply.metadata.id).collect();
    let mut expected: Vec<u16> = messages[1..].iter().map(|message| message.metadata.id).collect();
    expected.push(slow.metadata.id);
    assert_eq!(ids, expected);
    assert_eq!(replies[200].metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn lengths_that_lie_end_the_connection_and_nothing_else() {
    let config = ServerConfig { tcp_idle: Duration::from_millis(100), ..ServerConfig::default() };
    let world = World::start_with(records(), &[], config);
    let good = question(WEB, RecordType::A).to_vec().unwrap();
    // No length at all, a message of nothing, more promised than comes, and a byte at a time that never ends.
    for bytes in [&[0][..], &[0, 0], &[0xff, 0xff, 1, 2, 3], &[0, 40, 0]] {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        assert_eq!(timeout(Duration::from_secs(10), stream.read(&mut [0; 64])).await.unwrap().unwrap_or(0), 0);
    }
    // A question in pieces is a question.
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let framed = [&u16::try_from(good.len()).unwrap().to_be_bytes(), good.as_slice()].concat();
    for piece in framed.chunks(7) {
        stream.write_all(piece).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    assert!(timeout(Duration::from_secs(10), stream.read_u16()).await.unwrap().unwrap() > 12);
}

#[tokio::test]
async fn half_closed_connection_gets_its_replies() {
    let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[[192, 0, 2, 7]]))).await;
    let world = World::start(records(), &[upstream.address]);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    for name in ["example.com.", WEB] {
        let message = question(name, RecordType::A).to_vec().unwrap();
        let length = u16::try_from(message.len()).unwrap();
        stream.write_all(&[&length.to_be_bytes(), message.as_slice()].concat()).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(Duration::from_secs(10), stream.read_to_end(&mut all)).await.unwrap().unwrap();
    let first = usize::from(u16::from_be_bytes([all[0], all[1]]));
    assert!(all.len() > first + 4, "both replies: {} bytes", all.len());
}

#[tokio::test]
async fn resolver_that_asks_back_is_found_and_left_out() {
    // A resolver that sends everything on to the cluster's DNS, which asks this resolver.
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay_at = relay.local_addr().unwrap();
    let world = World::start(records(), &[relay_at]);
    let cluster = world.address;
    let relaying = tokio::spawn(async move {
        let relay = Arc::new(relay);
        let mut buffer = [0; 1500];
        while let Ok((length, client)) = relay.recv_from(&mut buffer).await {
            let (relay, message) = (Arc::clone(&relay), buffer[..length].to_vec());
            tokio::spawn(async move {
                let own = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                own.send_to(&message, cluster).await.unwrap();
                let mut reply = [0; 1500];
                if let Ok(Ok(length)) = timeout(Duration::from_secs(5), own.recv(&mut reply)).await {
                    let _ = relay.send_to(&reply[..length], client).await;
                }
            });
        }
    });
    let mut message = question("example.com.", RecordType::A);
    message.set_edns(Edns::new());
    let start = Instant::now();
    let mut failures = 0;
    loop {
        let reply = world.udp(&message.to_vec().unwrap()).await.unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
        let edns = reply.edns.expect("an OPT record");
        let Some(EdnsOption::Unknown(_, why)) = edns.option(15.into()) else { panic!("no reason: {edns:?}") };
        if String::from_utf8_lossy(&why[2..]).starts_with("the question has come back") {
            break;
        }
        failures += 1;
        assert!(failures < 50 && start.elapsed() < Duration::from_secs(20), "the loop is not found");
    }
    relaying.abort();
}

#[tokio::test]
async fn equal_questions_at_one_time_are_one_to_the_upstream() {
    let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[[192, 0, 2, 7]]))).await;
    let world = World::start(records(), &[upstream.address]);
    let replies = futures::future::join_all((0..20).map(|_| world.ask("example.com.", RecordType::A))).await;
    assert!(replies.iter().all(|reply| data(reply) == ["192.0.2.7"]));
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn dig_sees_every_form_and_every_refusal() {
    let world = World::start(crowd(), &[]);
    if dig(&world, "-v").await.is_none() {
        eprintln!("ignored: dig is not installed (Debian: bind9-dnsutils)");
        return;
    }
    let domain = "default.svc.cluster.local";
    let reverse6 = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa";
    let mut wrong = Vec::new();
    for (arguments, expected, unwanted) in [
        // D1-D5 and the domain's own names.
        (
            format!("db.{domain} A"),
            vec!["ANSWER: 2", "A 10.244.1.5", "A 10.244.2.6", "flags: qr aa rd ra"],
            vec!["10.244.3.7"],
        ),
        (format!("db.{domain} AAAA"), vec!["ANSWER: 2", "fd00:10:244:1::5"], vec![]),
        (format!("db-0.db.{domain} A"), vec!["ANSWER: 1", "A 10.244.1.5"], vec![]),
        (format!("10-244-2-6.db.{domain} A"), vec!["ANSWER: 1", "A 10.244.2.6"], vec![]),
        (format!("_sql._tcp.db.{domain} SRV"), vec!["ANSWER: 3", "5433 db-0.db.default", "ADDITIONAL: 5"], vec![]),
        (
            format!("broken.{domain} A"),
            vec!["status: NXDOMAIN", "CNAME none.default.svc.cluster.local.", "IN SOA"],
            vec![],
        ),
        (format!("loop-a.{domain} A"), vec!["status: SERVFAIL", "ANSWER: 2"], vec![]),
        ("10-244-1-5.default.pod.cluster.local A".to_owned(), vec!["status: NOERROR", "A 10.244.1.5"], vec![]),
        ("10-244-9-9.default.pod.cluster.local A".to_owned(), vec!["status: NXDOMAIN", "IN SOA"], vec![]),
        (format!("9lives.{domain} A"), vec!["A 10.96.1.2"], vec![]),
        ("-x 10.244.2.6".to_owned(), vec!["PTR 10-244-2-6.db.default.svc.cluster.local."], vec![]),
        ("-x 10.96.9.9".to_owned(), vec!["status: NXDOMAIN", "96.10.in-addr.arpa. 5 IN SOA"], vec![]),
        ("-x 10.244.9.9".to_owned(), vec!["status: NXDOMAIN", "244.10.in-addr.arpa. 5 IN SOA"], vec![]),
        ("-x fd00:10:96::9".to_owned(), vec!["status: NXDOMAIN", "ip6.arpa. 5 IN SOA"], vec![]),
        (format!("{reverse6} PTR"), vec!["status: NOERROR", "PTR db-0.db"], vec![]),
        (
            "cluster.local SOA".to_owned(),
            vec!["IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 42 7200 1800 86400 5"],
            vec![],
        ),
        ("ns.dns.cluster.local AAAA".to_owned(), vec!["AAAA fd00:10:96::a"], vec![]),
        // Names with names below them.
        ("svc.cluster.local A".to_owned(), vec!["status: NOERROR", "ANSWER: 0", "IN SOA"], vec![]),
        ("_tcp.web.default.svc.cluster.local SRV".to_owned(), vec!["status: NOERROR", "ANSWER: 0", "IN SOA"], vec![]),
        ("1.96.10.in-addr.arpa PTR".to_owned(), vec!["status: NOERROR", "ANSWER: 0", "IN SOA"], vec![]),
        // D6, D7: the search path of another Namespace leads to the same Service and to no error.
        (format!("+search +domain={domain} web AAAA"), vec!["AAAA fd00:10:96::101"], vec![]),
        (format!("alias-v4.{domain} AAAA"), vec!["status: NOERROR", "CNAME 9lives.", "IN SOA"], vec![]),
        // EDNS.
        (format!("+dnssec web.{domain} A"), vec!["flags: do;", "ANSWER: 1"], vec![]),
        (format!("+bufsize=512 +ignore lonely.{domain} A"), vec!["flags: qr aa tc"], vec![]),
        (format!("+edns=100 +noednsnegotiation web.{domain} A"), vec!["status: BADVERS"], vec!["10.96.1.1"]),
        (format!("+ednsopt=65001:abcd web.{domain} A"), vec!["status: NOERROR", "10.96.1.1"], vec![]),
        (format!("+nocookie +subnet=192.0.2.0/24 web.{domain} A"), vec!["status: NOERROR", "10.96.1.1"], vec![]),
        // Several questions on one connection.
        (format!("+tcp +keepopen web.{domain} A db.{domain} A"), vec!["10.96.1.1", "10.244.2.6"], vec![]),
        // Everything that is none of its business.
        (format!("web.{domain} ANY"), vec!["status: NOERROR", "ANSWER: 1"], vec![]),
        ("version.bind CH TXT".to_owned(), vec!["status: REFUSED"], vec![]),
        (format!("-c HS web.{domain} A"), vec!["status: REFUSED"], vec![]),
        (format!("+noedns +opcode=update web.{domain} A"), vec!["opcode: UPDATE, status: NOTIMP"], vec![]),
        (format!("+noedns +header-only web.{domain} A"), vec!["status: FORMERR"], vec![]),
        ("cluster.local IXFR=1".to_owned(), vec!["; Transfer failed."], vec![]),
        (". NS".to_owned(), vec!["status: SERVFAIL"], vec![]),
    ] {
        let (_, output) = dig(&world, &arguments).await.expect("dig is installed");
        let plain = output.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = expected.into_iter().filter(|part| !plain.contains(part)).collect();
        let found: Vec<_> = unwanted.into_iter().filter(|part| plain.contains(part)).collect();
        if !missing.is_empty() || !found.is_empty() {
            wrong.push(format!("dig {arguments} lacks {missing:?}, has {found:?}:\n{output}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
