use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use hickory_proto::rr::RecordType;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::config::Network;
use crate::dns::fixtures::{FakeUpstream, pod, records, reply_with, slice};
use crate::dns::forward::{ForwardConfig, Timing};
use crate::dns::records::Records;

/// A server on loopback, UDP and TCP on one port.
pub(super) struct World {
    pub address: SocketAddr,
    pub index: Arc<Index>,
    pub metrics: Arc<Metrics>,
    responder: Arc<Responder>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

impl World {
    pub fn start(records: Records, upstreams: &[SocketAddr]) -> Self {
        Self::start_with(records, upstreams, ServerConfig::default())
    }

    pub fn start_with(records: Records, upstreams: &[SocketAddr], config: ServerConfig) -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            // Another test may have taken the TCP port.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (index, metrics) = (Arc::new(Index::new(records)), Arc::<Metrics>::default());
        let timing = Timing { patience: Duration::from_millis(50), deadline: Duration::from_millis(300) };
        let forward = ForwardConfig { upstreams: upstreams.to_vec(), timing, ..ForwardConfig::default() };
        let forwarder = Arc::new(Forwarder::new(forward, Arc::clone(&metrics)));
        let zone = Arc::new(Zone::new(&Network::default()));
        let responder = Responder::new(zone, Arc::clone(&index), forwarder, Arc::clone(&metrics));
        let responder = Arc::new(responder);
        let server = Server::new(config, Arc::clone(&responder), vec![udp], vec![tcp]);
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.serve(async move {
            let _ = stopped.await;
        }));
        Self { address, index, metrics, responder, stop: Some(stop), task }
    }

    pub async fn udp(&self, message: &[u8]) -> Option<Message> {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(message).await.unwrap();
        let mut buffer = [0; 65535];
        let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.ok()?.ok()?;
        Some(Message::from_vec(&buffer[..length]).expect("a good reply"))
    }

    pub async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.udp(&question(name, record_type).to_vec().unwrap()).await.expect("a reply")
    }

    fn resolver(&self, tcp: bool) -> TokioResolver {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        if tcp {
            connections.remove(0);
        }
        for connection in &mut connections {
            connection.port = self.address.port();
        }
        let server = NameServerConfig::new(self.address.ip(), true, connections);
        let config = ResolverConfig::from_parts(
            None,
            ["default.svc.cluster.local.", "svc.cluster.local.", "cluster.local."]
                .map(|name| Name::from_ascii(name).unwrap())
                .to_vec(),
            vec![server],
        );
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().ndots = 5;
        builder.options_mut().edns0 = true;
        builder.build().unwrap()
    }
}

pub(super) fn question(name: &str, record_type: RecordType) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message
}

/// Record data as text, sorted.
pub(super) fn data(message: &Message) -> Vec<String> {
    let mut data: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}

/// Sends messages over one TCP connection and reads a reply to each; fewer if the server closes.
pub(super) async fn over_tcp(address: SocketAddr, messages: &[Vec<u8>]) -> Vec<Message> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend_from_slice(&u16::try_from(message.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(message);
    }
    stream.write_all(&bytes).await.unwrap();
    let mut replies = Vec::new();
    while replies.len() < messages.len()
        && let Ok(length) = stream.read_u16().await
    {
        let mut reply = vec![0; length.into()];
        stream.read_exact(&mut reply).await.unwrap();
        replies.push(Message::from_vec(&reply).expect("a good reply"));
    }
    replies
}

/// A headless Service with 500 ready endpoints in five slices.
pub(super) fn crowd() -> Records {
    let mut records = records();
    for part in 0..5u8 {
        let endpoints: Vec<_> = (0..100).map(|i| json!({"addresses": [format!("10.244.{part}.{i}")]})).collect();
        records.set_slice(&slice(&format!("lonely-{part}"), "lonely", json!([]), json!(endpoints)));
    }
    records
}

#[tokio::test]
async fn both_transports_answer_d6() {
    let world = World::start(records(), &[]);
    let name = "web.default.svc.cluster.local.";
    let reply = world.ask(name, RecordType::A).await;
    assert_eq!((data(&reply), reply.metadata.authoritative), (vec!["10.96.1.1".to_owned()], true));
    let messages = [RecordType::A, RecordType::AAAA, RecordType::MX].map(|t| question(name, t).to_vec().unwrap());
    let replies = over_tcp(world.address, &messages).await;
    assert_eq!(
        replies.iter().map(data).collect::<Vec<_>>(),
        [vec!["10.96.1.1".to_owned()], vec!["fd00:10:96::101".to_owned()], vec![]]
    );
    assert_eq!(world.metrics.responses("A", "NOERROR"), 2);
}

#[tokio::test]
async fn names_in_other_letters_are_the_same_names() {
    let world = World::start(records(), &[]);
    let reply = world.ask("wEB.DefaulT.SVC.cluster.LOCAL.", RecordType::A).await;
    assert_eq!(data(&reply), ["10.96.1.1"]);
    assert_eq!(reply.queries[0].name().to_ascii(), "wEB.DefaulT.SVC.cluster.LOCAL.");
    assert_eq!(reply.answers[0].name.to_ascii(), "wEB.DefaulT.SVC.cluster.LOCAL.");
}

#[tokio::test]
async fn large_headless_service_is_cut_over_udp_and_whole_over_tcp_d1() {
    let world = World::start(crowd(), &[]);
    let mut message = question("lonely.default.svc.cluster.local.", RecordType::A);
    let plain = world.udp(&message.to_vec().unwrap()).await.unwrap();
    assert!(plain.metadata.truncation && (20..40).contains(&plain.answers.len()));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    message.set_edns(edns);
    let cut = world.udp(&message.to_vec().unwrap()).await.unwrap();
    assert!(cut.metadata.truncation && cut.edns.is_some() && (60..80).contains(&cut.answers.len()));
    let whole = over_tcp(world.address, &[message.to_vec().unwrap()]).await.remove(0);
    assert!(!whole.metadata.truncation);
    let addresses: std::collections::BTreeSet<_> = data(&whole).into_iter().collect();
    assert_eq!((whole.answers.len(), addresses.len()), (500, 500));
    assert_eq!(world.metrics.truncated.load(Relaxed), 2);
}

#[tokio::test]
async fn another_implementation_agrees() {
    let world = World::start(crowd(), &[]);
    for tcp in [false, true] {
        let resolver = world.resolver(tcp);
        let mut web: Vec<IpAddr> = resolver.lookup_ip("web").await.unwrap().iter().collect();
        web.sort();
        assert_eq!(web, ["10.96.1.1".parse::<IpAddr>().unwrap(), "fd00:10:96::101".parse().unwrap()]);
        // Truncated over UDP, so this takes the client to TCP.
        assert_eq!(resolver.lookup_ip("lonely").await.unwrap().iter().count(), 500);
        let srv = resolver.srv_lookup("_sql._tcp.db").await.unwrap();
        assert_eq!(srv.answers().iter().filter(|r| r.record_type() == RecordType::SRV).count(), 3);
        let names = resolver.reverse_lookup(IpAddr::from([10, 96, 1, 1])).await.unwrap();
        assert_eq!(names.answers()[0].data.to_string(), "web.default.svc.cluster.local.");
        assert_eq!(resolver.txt_lookup("dns-version").await.unwrap().answers()[0].data.to_string(), "1.1.0");
        assert_eq!(resolver.ipv4_lookup("alias").await.unwrap().answers().len(), 2);
        let error = resolver.lookup_ip("none.default.svc.cluster.local.").await.unwrap_err();
        assert!(error.is_no_records_found(), "{error}");
    }
}

#[tokio::test]
async fn malformed_questions_get_formerr_or_nothing_and_hurt_nobody() {
    let world = World::start(records(), &[]);
    let good = question("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    let mut reply_to_nobody = good.clone();
    reply_to_nobody[2] |= 0x80;
    for silent in [&[][..], &good[..5], &reply_to_nobody] {
        socket.send(silent).await.unwrap();
    }
    socket.send(&good[..20]).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
    let reply = Message::from_vec(&buffer[..length]).unwrap();
    // The first reply is to the fourth message: the three before it got none.
    assert_eq!((reply.metadata.response_code, length), (ResponseCode::FormErr, 12));
    assert_eq!(world.metrics.ignored.load(Relaxed), 3);
    assert_eq!(world.metrics.responses("none", "FORMERR"), 1);
    // Over TCP nonsense ends the connection.
    assert!(over_tcp(world.address, &[good[..5].to_vec(), good.clone()]).await.is_empty());
    assert_eq!(data(&world.ask("web.default.svc.cluster.local.", RecordType::A).await), ["10.96.1.1"]);
}

#[tokio::test]
async fn names_of_others_are_asked_of_the_upstream_and_kept() {
    let upstream = FakeUpstream::start(|asked, _| {
        assert!(asked.queries[0].name().to_ascii().bytes().all(|byte| !byte.is_ascii_uppercase()));
        Some(reply_with(asked, &[[192, 0, 2, 7]]))
    })
    .await;
    let world = World::start(records(), &[upstream.address]);
    for _ in 0..2 {
        let reply = world.ask("wWw.Example.COM.", RecordType::A).await;
        assert_eq!((data(&reply), reply.metadata.authoritative), (vec!["192.0.2.7".to_owned()], false));
        assert_eq!(reply.answers[0].name.to_ascii(), "wWw.Example.COM.");
    }
    assert_eq!((upstream.asked(), world.metrics.cache_hits.load(Relaxed)), (1, 1));
    let reply = over_tcp(world.address, &[question("other.example.", RecordType::A).to_vec().unwrap()]).await.remove(0);
    assert_eq!(data(&reply), ["192.0.2.7"]);
}

#[tokio::test]
async fn search_path_costs_the_upstream_one_question() {
    let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[[192, 0, 2, 7]]))).await;
    let world = World::start(records(), &[upstream.address]);
    for name in [
        "www.example.com.default.svc.cluster.local.",
        "www.example.com.svc.cluster.local.",
        "www.example.com.cluster.local.",
    ] {
        let reply = world.ask(name, RecordType::A).await;
        assert_eq!((reply.metadata.response_code, reply.authorities.len()), (ResponseCode::NXDomain, 1));
    }
    for name in ["7.7.96.10.in-addr.arpa.", "7.7.244.10.in-addr.arpa."] {
        assert_eq!(world.ask(name, RecordType::PTR).await.metadata.response_code, ResponseCode::NXDomain);
    }
    assert_eq!(data(&world.ask("www.example.com.", RecordType::A).await), ["192.0.2.7"]);
    assert_eq!(upstream.asked(), 1);
}

#[tokio::test]
async fn alias_to_the_outside_is_completed_by_the_upstream_d5() {
    let upstream = FakeUpstream::start(|asked, _| {
        assert_eq!(asked.queries[0].name().to_ascii(), "api.example.com.");
        Some(reply_with(asked, &[[192, 0, 2, 7]]))
    })
    .await;
    let world = World::start(records(), &[upstream.address]);
    let reply = world.ask("away.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(data(&reply), ["192.0.2.7", "api.example.com."]);
    assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
    assert!(reply.metadata.authoritative);
    // Asked for the alias itself, nobody else is needed.
    let world = World::start(records(), &[]);
    assert_eq!(data(&world.ask("away.default.svc.cluster.local.", RecordType::CNAME).await), ["api.example.com."]);
    let offline = world.ask("away.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(
        (offline.metadata.response_code, data(&offline)),
        (ResponseCode::ServFail, vec!["api.example.com.".to_owned()])
    );
}

#[tokio::test]
async fn offline_means_a_prompt_failure_with_its_reason() {
    let world = World::start(records(), &[]);
    let mut message = question("example.com.", RecordType::A);
    message.set_edns(Edns::new());
    let reply = world.udp(&message.to_vec().unwrap()).await.unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let edns = format!("{:?}", reply.edns.unwrap());
    assert!(edns.contains("Unknown(15, [0, 22, "), "{edns}");
}

#[tokio::test]
async fn slow_upstream_does_not_hold_up_the_cluster() {
    let upstream = FakeUpstream::start(|_, _| None).await;
    let world = World::start(records(), &[upstream.address]);
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(world.address).await.unwrap();
    let slow = question("example.com.", RecordType::A);
    let quick = question("web.default.svc.cluster.local.", RecordType::A);
    let mut ids = Vec::new();
    for message in [&slow, &quick] {
        socket.send(&message.to_vec().unwrap()).await.unwrap();
    }
    for _ in 0..2 {
        let mut buffer = [0; 512];
        let length = timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await.unwrap().unwrap();
        ids.push(Message::from_vec(&buffer[..length]).unwrap().metadata.id);
    }
    assert_eq!(ids, [quick.metadata.id, slow.metadata.id]);
}

#[tokio::test]
async fn before_the_cluster_is_known_there_is_no_denial() {
    let world = World::start(Records::default(), &[]);
    let reply = world.ask("web.default.svc.cluster.local.", RecordType::A).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    world.index.publish(records());
    assert_eq!(data(&world.ask("web.default.svc.cluster.local.", RecordType::A).await), ["10.96.1.1"]);
}

#[tokio::test]
async fn idle_connections_are_closed_and_full_house_waits() {
    let config = ServerConfig { tcp_idle: Duration::from_millis(100), tcp_connections: 1 };
    let world = World::start_with(records(), &[], config);
    let mut idle = TcpStream::connect(world.address).await.unwrap();
    // Waits for its turn until the idle connection is closed.
    let message = question("web.default.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let replies = timeout(Duration::from_secs(10), over_tcp(world.address, &[message])).await.unwrap();
    assert_eq!(data(&replies[0]), ["10.96.1.1"]);
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn draining_finishes_questions_on_their_way_and_frees_the_sockets() {
    let (asked_tx, asked_rx) = std::sync::mpsc::channel();
    let (go_tx, go_rx) = std::sync::mpsc::channel::<()>();
    let go_rx = parking_lot::Mutex::new(go_rx);
    let upstream = FakeUpstream::start(move |asked, _| {
        asked_tx.send(()).unwrap();
        // The first packet waits unanswered for the drain; the repetition brings the answer.
        go_rx.lock().try_recv().ok().map(|()| reply_with(asked, &[[192, 0, 2, 7]]))
    })
    .await;
    let mut world = World::start(records(), &[upstream.address]);
    let message = question("example.com.", RecordType::A).to_vec().unwrap();
    let stop = world.stop.take().unwrap();
    let reply = tokio::join!(world.udp(&message), async {
        while asked_rx.try_recv().is_err() {
            tokio::task::yield_now().await;
        }
        stop.send(()).unwrap();
        go_tx.send(()).unwrap();
    })
    .0;
    assert_eq!(data(&reply.expect("a reply")), ["192.0.2.7"]);
    world.task.await.unwrap().unwrap();
    UdpSocket::bind(world.address).unwrap();
}

#[tokio::test]
async fn dropping_the_server_frees_the_sockets() {
    let world = World::start(records(), &[]);
    world.ask("web.default.svc.cluster.local.", RecordType::A).await;
    world.task.abort();
    assert!(world.task.await.unwrap_err().is_cancelled());
    let free = async {
        while UdpSocket::bind(world.address).is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), free).await.unwrap();
}

#[tokio::test]
async fn onlookers_see_each_question_with_its_client_and_objects() {
    let upstream = FakeUpstream::start(|asked, _| Some(reply_with(asked, &[[192, 0, 2, 7]]))).await;
    let mut cluster = records();
    cluster.change_pod(None, Some(&pod("asker", &["127.0.0.1"])));
    let world = World::start(cluster, &[upstream.address]);
    // The second is answered with the reply of the first, the last from the cache.
    for name in ["WEB", "web", "away", "away"] {
        world.ask(&format!("{name}.default.svc.cluster.local."), RecordType::A).await;
    }
    let events = world.responder.events().wait_after(3).await;
    assert_eq!(events.last().expect("the last").number, 4);
    let by = upstream.address;
    let expected = [
        ("web", &["10.96.1.1"][..], Source::Cluster),
        ("web", &["10.96.1.1"], Source::Cluster),
        ("away", &["api.example.com.", "192.0.2.7"], Source::Upstream(by)),
        ("away", &["api.example.com.", "192.0.2.7"], Source::Cache(by)),
    ];
    for (event, (name, answers, source)) in world.responder.events().after(0).iter().zip(expected) {
        let facts = &event.facts;
        assert_eq!((facts.name.clone(), facts.source), (format!("{name}.default.svc.cluster.local"), source));
        assert_eq!((facts.record_type, facts.code), (RecordType::A, ResponseCode::NoError));
        let json = event.to_json();
        assert_eq!((&json["answers"], &json["answerCount"]), (&json!(answers), &json!(answers.len())));
        assert_eq!(json["pod"]["name"], "asker");
        assert_eq!(json["client"], event.client.to_string());
        let object = &json["objects"][0];
        assert_eq!(
            (&object["kind"], &object["name"], &object["resourceVersion"]),
            (&json!("Service"), &json!(name), &json!("7"))
        );
    }
}

/// What `dig` makes of it, its exit code and output; `None` where it is not installed (Debian: bind9-dnsutils).
pub(super) async fn dig(world: &World, arguments: &str) -> Option<(i32, String)> {
    let mut command = tokio::process::Command::new("dig");
    command.arg("@127.0.0.1").arg("-p").arg(world.address.port().to_string());
    command.args(["+tries=1", "+time=10"]).args(arguments.split(' ')).kill_on_drop(true);
    match command.output().await {
        Ok(output) => Some((output.status.code()?, String::from_utf8_lossy(&output.stdout).into_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => panic!("dig does not start: {e}"),
    }
}

#[tokio::test]
async fn dig_agrees() {
    let world = World::start(crowd(), &[]);
    if dig(&world, "-v").await.is_none() {
        eprintln!("ignored: dig is not installed (Debian: bind9-dnsutils)");
        return;
    }
    let domain = "default.svc.cluster.local";
    let mut wrong = Vec::new();
    // Question, and what stands in the output.
    for (arguments, expected) in [
        (format!("web.{domain} A"), vec!["status: NOERROR", "flags: qr aa rd ra;", "udp: 1232", "10.96.1.1"]),
        (format!("+noedns web.{domain} AAAA"), vec!["status: NOERROR", "ADDITIONAL: 0", "fd00:10:96::101"]),
        (
            format!("9lives.{domain} AAAA"),
            vec!["status: NOERROR", "ANSWER: 0", "AUTHORITY: 1", "IN SOA ns.dns.cluster.local."],
        ),
        (format!("none.{domain} A"), vec!["status: NXDOMAIN", "cluster.local. 5 IN SOA"]),
        (
            format!("_http._tcp.web.{domain} SRV"),
            vec!["IN SRV 0 100 80 web.default.svc.cluster.local.", "IN AAAA fd00:10:96::101"],
        ),
        (format!("alias.{domain} A"), vec!["IN CNAME web.default.svc.cluster.local.", "IN A 10.96.1.1"]),
        (format!("away.{domain} CNAME"), vec!["IN CNAME api.example.com."]),
        ("-x 10.96.1.1".to_owned(), vec!["IN PTR web.default.svc.cluster.local."]),
        ("-x fd00:10:244:1::5".to_owned(), vec!["IN PTR db-0.db.default.svc.cluster.local."]),
        ("dns-version.cluster.local TXT".to_owned(), vec!["IN TXT \"1.1.0\""]),
        ("cluster.local NS".to_owned(), vec!["IN NS ns.dns.cluster.local.", "ns.dns.cluster.local. 5 IN A 10.96.0.10"]),
        (format!("lonely.{domain} A"), vec!["Truncated, retrying in TCP mode", "ANSWER: 500"]),
        (format!("+ignore lonely.{domain} A"), vec!["flags: qr aa tc rd ra;", "udp: 1232"]),
        (format!("+tcp lonely.{domain} A"), vec!["ANSWER: 500", "(TCP)"]),
        (
            "example.com A".to_owned(),
            vec!["status: SERVFAIL", "EDE: 22 (No Reachable Authority): (no resolver for names outside"],
        ),
        (format!("+noedns +opcode=notify web.{domain} A"), vec!["opcode: NOTIFY, status: NOTIMP"]),
        ("version.bind CH TXT".to_owned(), vec!["status: REFUSED"]),
        ("cluster.local AXFR".to_owned(), vec!["; Transfer failed."]),
        (format!("+edns=1 +noednsnegotiation web.{domain} A"), vec!["status: BADVERS", "EDNS: version: 0"]),
        (format!("+domain={domain} +search web A"), vec!["status: NOERROR", "10.96.1.1"]),
    ] {
        let (_, output) = dig(&world, &arguments).await.expect("dig is installed");
        let plain = output.split_whitespace().collect::<Vec<_>>().join(" ");
        let missing: Vec<_> = expected.into_iter().filter(|part| !plain.contains(part)).collect();
        // Dig knows .local from mDNS alone, and says so.
        let complaint = output.replace("WARNING: .local is reserved", "").contains("WARNING");
        if !missing.is_empty() || complaint {
            wrong.push(format!("dig {arguments} lacks {missing:?} or complains:\n{output}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
