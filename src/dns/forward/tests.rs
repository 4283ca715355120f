use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;

use super::*;
use crate::config::Network;
use crate::dns::fixtures::{FakeUpstream, reply_with};
use crate::dns::wire::Transport;
use crate::dns::zone::Zone;

const FAST: Timing = Timing { patience: Duration::from_millis(60), deadline: Duration::from_millis(300) };

fn forwarder(upstreams: &[SocketAddr]) -> Arc<Forwarder> {
    let config = ForwardConfig { upstreams: upstreams.to_vec(), timing: FAST, ..ForwardConfig::default() };
    Arc::new(Forwarder::new(config, Arc::default()))
}

/// The upstreams, with whether each is up.
fn up(forwarder: &Forwarder) -> Vec<(SocketAddr, bool)> {
    forwarder.upstreams().into_iter().map(|upstream| (upstream.address, upstream.up)).collect()
}

fn key(name: &str) -> Key {
    Key { name: name.into(), record_type: RecordType::A, dnssec_ok: false, checking_disabled: false }
}

async fn ask(forwarder: &Arc<Forwarder>, name: &str) -> Result<Said, ForwardError> {
    forwarder.ask(key(name), Name::from_ascii(format!("{name}.")).unwrap()).await
}

fn v4(said: &Said) -> Vec<String> {
    said.answers.iter().map(|record| record.data.to_string()).collect()
}

/// A resolver that gives every name this address.
async fn giving(address: [u8; 4]) -> FakeUpstream {
    FakeUpstream::start(move |asked, _| Some(reply_with(asked, &[address]))).await
}

async fn failing(code: ResponseCode) -> FakeUpstream {
    FakeUpstream::start(move |asked, _| {
        let mut reply = reply_with(asked, &[]);
        reply.metadata.response_code = code;
        Some(reply)
    })
    .await
}

async fn silent() -> FakeUpstream {
    FakeUpstream::start(|_, _| None).await
}

/// An address where nobody listens.
async fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn answer_comes_through_and_is_kept() {
    let upstream = giving([192, 0, 2, 7]).await;
    let forwarder = forwarder(&[upstream.address]);
    assert!(forwarder.cached(&key("example.com")).is_none());
    assert_eq!(v4(&ask(&forwarder, "example.com").await.unwrap()), ["192.0.2.7"]);
    assert_eq!(v4(&forwarder.cached(&key("example.com")).unwrap()), ["192.0.2.7"]);
    assert!(forwarder.cached(&key("example.org")).is_none());
    let metrics = &forwarder.metrics;
    let counts = [&metrics.forwarded, &metrics.cache_hits, &metrics.cache_misses].map(|c| c.load(Relaxed));
    assert_eq!((counts, upstream.asked()), ([1, 1, 2], 1));
}

#[tokio::test]
async fn absence_comes_through_with_its_soa_and_is_kept() {
    let upstream = FakeUpstream::start(|asked, _| {
        let mut reply = reply_with(asked, &[]);
        reply.metadata.response_code = ResponseCode::NXDomain;
        let root = Name::root();
        let soa = SOA::new(root.clone(), root.clone(), 1, 1, 1, 1, 60);
        reply.add_authority(Record::from_rdata(root, 60, RData::SOA(soa)));
        Some(reply)
    })
    .await;
    let forwarder = forwarder(&[upstream.address]);
    let said = ask(&forwarder, "none.example.com").await.unwrap();
    assert_eq!((said.code, said.authority.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(forwarder.cached(&key("none.example.com")).unwrap().code, ResponseCode::NXDomain);
}

#[tokio::test]
async fn silent_upstream_costs_a_head_start_once_and_then_nothing() {
    let (silent, good) = (silent().await, giving([192, 0, 2, 7]).await);
    let forwarder = forwarder(&[silent.address, good.address]);
    let start = Instant::now();
    assert_eq!(v4(&ask(&forwarder, "a.example.com").await.unwrap()), ["192.0.2.7"]);
    assert!(start.elapsed() >= FAST.patience);
    assert_eq!(up(&forwarder), [(silent.address, false), (good.address, true)]);
    let failures: Vec<_> =
        forwarder.upstreams().iter().map(|upstream| (upstream.questions, upstream.failures)).collect();
    assert_eq!(failures, [(1, 1), (1, 0)]);
    let before = silent.asked();
    assert!(ask(&forwarder, "b.example.com").await.is_ok());
    assert_eq!(silent.asked(), before);
}

#[tokio::test]
async fn without_any_answer_it_fails_by_the_deadline_and_then_at_once() {
    let silent = silent().await;
    let forwarder = forwarder(&[silent.address]);
    let start = Instant::now();
    let error = ask(&forwarder, "a.example.com").await.unwrap_err();
    assert_eq!(error, ForwardError::Silent(format!("{}: no answer", silent.address)));
    assert!(start.elapsed() >= FAST.deadline);
    // The question was repeated, in case it had been lost.
    assert!(silent.asked() > 1);
    let before = silent.asked();
    let error = ask(&forwarder, "b.example.com").await.unwrap_err();
    assert_eq!(error, ForwardError::Silent(format!("{} did not a moment ago", silent.address)));
    assert_eq!(silent.asked(), before);
    assert_eq!(forwarder.metrics.forward_failures.load(Relaxed), 2);
}

/// Says nothing about names below `dead.example`, and has an address for all others.
async fn silent_about_the_dead() -> FakeUpstream {
    FakeUpstream::start(|asked, _| {
        let dead = Name::from_ascii("dead.example.").unwrap();
        (!dead.zone_of(asked.queries[0].name())).then(|| reply_with(asked, &[[192, 0, 2, 7]]))
    })
    .await
}

#[tokio::test]
async fn dead_domain_takes_no_other_name_away() {
    let upstream = silent_about_the_dead().await;
    let forwarder = forwarder(&[upstream.address]);
    assert!(ask(&forwarder, "a.example.com").await.is_ok());
    // As getaddrinfo asks: both families at once.
    let v6 = Key { record_type: RecordType::AAAA, ..key("dead.example") };
    let both =
        tokio::join!(ask(&forwarder, "dead.example"), forwarder.ask(v6, Name::from_ascii("dead.example.").unwrap()));
    assert!(both.0.is_err() && both.1.is_err());
    assert_eq!(up(&forwarder), [(upstream.address, true)]);
    assert!(ask(&forwarder, "b.example.com").await.is_ok());
    // Several dead names look like a dead resolver, which is asked all the same while there is no other.
    let both = tokio::join!(ask(&forwarder, "a.dead.example"), ask(&forwarder, "b.dead.example"));
    assert!(both.0.is_err() && both.1.is_err());
    assert_eq!(up(&forwarder), [(upstream.address, false)]);
    assert!(ask(&forwarder, "c.example.com").await.is_ok());
    assert_eq!(up(&forwarder), [(upstream.address, true)]);
}

#[tokio::test]
async fn of_resolvers_that_are_all_down_the_last_that_answered_is_asked() {
    let (first, last) = (silent_about_the_dead().await, silent_about_the_dead().await);
    let forwarder = forwarder(&[first.address, last.address]);
    assert!(ask(&forwarder, "a.example.com").await.is_ok());
    let general = forwarder.general.load_full();
    let now = Instant::now();
    general[1].health.lock().answered(now);
    for name in ["a.dead.example", "b.dead.example"] {
        general.iter().for_each(|upstream| upstream.health.lock().silent(name, Instant::now(), Instant::now()));
    }
    assert_eq!(up(&forwarder), [(first.address, false), (last.address, false)]);
    let before = first.asked();
    assert!(ask(&forwarder, "b.example.com").await.is_ok());
    assert_eq!(up(&forwarder), [(first.address, false), (last.address, true)]);
    assert_eq!(first.asked(), before);
}

#[tokio::test]
async fn lost_question_is_asked_again() {
    let seen = std::sync::atomic::AtomicU32::new(0);
    let upstream = FakeUpstream::start(move |asked, _| {
        (seen.fetch_add(1, Relaxed) > 0).then(|| reply_with(asked, &[[192, 0, 2, 7]]))
    })
    .await;
    assert!(ask(&forwarder(&[upstream.address]), "example.com").await.is_ok());
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn closed_port_is_passed_over_without_waiting() {
    let good = giving([192, 0, 2, 7]).await;
    let timing = Timing { patience: Duration::from_secs(60), deadline: Duration::from_secs(120) };
    let config = ForwardConfig { upstreams: vec![closed().await, good.address], timing, ..ForwardConfig::default() };
    let start = Instant::now();
    assert_eq!(
        v4(&ask(&Arc::new(Forwarder::new(config, Arc::default())), "example.com").await.unwrap()),
        ["192.0.2.7"]
    );
    assert!(start.elapsed() < timing.patience);
}

#[tokio::test]
async fn refusals_lead_to_the_next_and_stand_if_there_is_no_better() {
    let (refusing, failing) = (failing(ResponseCode::Refused).await, failing(ResponseCode::ServFail).await);
    let good = giving([192, 0, 2, 7]).await;
    let said = ask(&forwarder(&[refusing.address, failing.address, good.address]), "example.com").await.unwrap();
    assert_eq!(v4(&said), ["192.0.2.7"]);
    let alone = forwarder(&[refusing.address, failing.address]);
    assert_eq!(ask(&alone, "example.com").await.unwrap().code, ResponseCode::Refused);
    assert!(alone.cached(&key("example.com")).is_none());
}

#[tokio::test]
async fn cut_reply_is_fetched_over_tcp() {
    let upstream = FakeUpstream::start(|asked, transport| {
        let mut reply = reply_with(asked, &[[192, 0, 2, 1], [192, 0, 2, 2]]);
        if transport == Transport::Udp {
            reply.answers.pop();
            reply.metadata.truncation = true;
        }
        Some(reply)
    })
    .await;
    let said = ask(&forwarder(&[upstream.address]), "example.com").await.unwrap();
    assert_eq!(v4(&said), ["192.0.2.1", "192.0.2.2"]);
}

#[tokio::test]
async fn resolver_from_before_edns_is_asked_without() {
    let upstream = FakeUpstream::start(|asked, _| {
        let mut reply = reply_with(asked, &[[192, 0, 2, 7]]);
        if asked.edns.is_some() {
            reply.answers.clear();
            reply.metadata.response_code = ResponseCode::FormErr;
        }
        Some(reply)
    })
    .await;
    assert_eq!(v4(&ask(&forwarder(&[upstream.address]), "example.com").await.unwrap()), ["192.0.2.7"]);
}

#[tokio::test]
async fn replies_to_other_questions_are_not_believed() {
    for spoil in [
        (|reply: &mut Message| reply.metadata.id ^= 1) as fn(&mut Message),
        |reply| reply.queries[0] = Query::query(Name::from_ascii("evil.example.").unwrap(), RecordType::A),
        |reply| reply.queries.clear(),
        |reply| reply.metadata.message_type = MessageType::Query,
    ] {
        let upstream = FakeUpstream::start(move |asked, _| {
            let mut reply = reply_with(asked, &[[192, 0, 2, 66]]);
            spoil(&mut reply);
            Some(reply)
        })
        .await;
        assert!(matches!(ask(&forwarder(&[upstream.address]), "example.com").await, Err(ForwardError::Silent(_))));
    }
}

#[tokio::test]
async fn stub_domains_have_resolvers_of_their_own() {
    let (general, corp, deep) =
        (giving([192, 0, 2, 1]).await, giving([192, 0, 2, 2]).await, giving([192, 0, 2, 3]).await);
    let config = ForwardConfig {
        upstreams: vec![general.address],
        stubs: vec![("Corp.example.".into(), vec![corp.address]), ("deep.corp.example".into(), vec![deep.address])],
        timing: FAST,
        ..ForwardConfig::default()
    };
    let forwarder = Arc::new(Forwarder::new(config, Arc::default()));
    for (name, address) in [
        ("example.com", "192.0.2.1"),
        ("corp.example", "192.0.2.2"),
        ("a.corp.example", "192.0.2.2"),
        ("xcorp.example", "192.0.2.1"),
        ("a.deep.corp.example", "192.0.2.3"),
    ] {
        assert_eq!(v4(&ask(&forwarder, name).await.unwrap()), [address], "{name}");
    }
}

#[tokio::test]
async fn without_upstreams_it_fails_at_once_and_says_what_to_do() {
    let error = ask(&forwarder(&[]), "example.com").await.unwrap_err();
    assert!(error.to_string().contains("--dns-upstream"));
}

#[test]
fn resolvers_of_the_host_are_read_and_those_inside_the_cluster_left_out() {
    let text = b"# a comment\nsearch corp.example\nnameserver 127.0.0.53\nnameserver 10.96.0.10\nnameserver fd00:10:96::a\nnameserver 2001:db8::53\noptions edns0 trust-ad\nnonsense here\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, text).unwrap();
    let zone = Zone::new(&Network::default());
    let upstreams = |given: &[SocketAddr]| ForwardConfig::new(given, &[], &path, &zone, &[]).upstreams;
    assert_eq!(upstreams(&[]), ["127.0.0.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()]);
    let given = "127.0.0.1:5353".parse().unwrap();
    assert_eq!(upstreams(&[given]), [given]);
    std::fs::remove_file(&path).unwrap();
    assert!(upstreams(&[]).is_empty());
}

#[test]
fn a_scoped_resolver_keeps_its_interface() {
    let servers = nameservers(b"nameserver fe80::1%lo\nnameserver fe80::2%7\nnameserver fe80::3%no-such-interface\n");
    assert_eq!(servers, ["[fe80::1%1]:53".parse().unwrap(), "[fe80::2%7]:53".parse::<SocketAddr>().unwrap()]);
}

#[tokio::test]
async fn a_failure_makes_it_read_the_hosts_resolvers_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    let zone = Zone::new(&Network::default());
    let forwarder = Arc::new(Forwarder::new(ForwardConfig::new(&[], &[], &path, &zone, &[]), Arc::default()));
    assert_eq!(ask(&forwarder, "example.com").await.unwrap_err(), ForwardError::NoUpstream);
    std::fs::write(&path, "nameserver 127.0.0.53\n").unwrap();
    assert_eq!(ask(&forwarder, "example.com").await.unwrap_err(), ForwardError::NoUpstream);
    assert_eq!(up(&forwarder), [("127.0.0.53:53".parse().unwrap(), true)]);
}

#[test]
fn resolvers_that_are_this_very_server_are_left_out() {
    let zone = Zone::new(&Network::default());
    let path = Path::new("/nonexistent");
    let given = ["127.0.0.1:53", "127.0.0.1:54", "192.0.2.1:53"].map(|text| text.parse().unwrap());
    for (own, left) in [("127.0.0.1:53", &given[1..]), ("0.0.0.0:54", &[given[0], given[2]]), ("[::1]:53", &given)] {
        let config = ForwardConfig::new(&given, &[], path, &zone, &[own.parse().unwrap()]);
        assert_eq!(config.upstreams, left, "{own}");
    }
}

#[test]
fn resolvers_of_one_stub_domain_are_taken_together_in_order() {
    let zone = Zone::new(&Network::default());
    let stub = |domain: &str, address: &str| (domain.to_owned(), address.parse::<SocketAddr>().unwrap());
    let given =
        [stub("a.example", "192.0.2.1:53"), stub("b.example", "192.0.2.2:53"), stub("a.example", "192.0.2.3:53")];
    let config = ForwardConfig::new(&[], &given, Path::new("/nonexistent"), &zone, &[]);
    let a = ["192.0.2.1:53", "192.0.2.3:53"].map(|text| text.parse().unwrap()).to_vec();
    let b = vec!["192.0.2.2:53".parse().unwrap()];
    assert_eq!(config.stubs, [("a.example".to_owned(), a), ("b.example".to_owned(), b)]);
}

#[tokio::test]
async fn too_many_who_wait_are_refused_at_once() {
    let silent = silent().await;
    let forwarder = forwarder(&[silent.address]);
    let all = (0..=WAITING).map(|_| ask(&forwarder, "example.com"));
    let results = futures::future::join_all(all).await;
    let busy = results.iter().filter(|result| matches!(result, Err(ForwardError::Busy))).count();
    assert_eq!((busy, results.len()), (1, WAITING + 1));
}

#[tokio::test]
async fn burst_of_questions_waits_for_its_turn() {
    let upstream = giving([192, 0, 2, 7]).await;
    let config = ForwardConfig { upstreams: vec![upstream.address], ..ForwardConfig::default() };
    let forwarder = Arc::new(Forwarder::new(config, Arc::default()));
    let names: Vec<String> = (0..IN_FLIGHT + 50).map(|i| format!("n{i}.example.com")).collect();
    let results = futures::future::join_all(names.iter().map(|name| ask(&forwarder, name))).await;
    assert!(results.iter().all(Result::is_ok), "{:?}", results.iter().find(|result| result.is_err()));
}

#[tokio::test]
async fn question_behind_silence_fails_when_its_turn_does_not_come() {
    let silent = silent().await;
    let forwarder = forwarder(&[silent.address]);
    let _taken = forwarder.slots.acquire_many(IN_FLIGHT as u32).await.unwrap();
    let start = Instant::now();
    assert_eq!(ask(&forwarder, "example.com").await.unwrap_err(), ForwardError::Busy);
    assert!(start.elapsed() >= FAST.deadline / 2);
    assert_eq!(up(&forwarder), [(silent.address, true)]);
}

#[tokio::test]
async fn nothing_is_kept_of_those_who_went_away() {
    let silent = silent().await;
    let forwarder = forwarder(&[silent.address]);
    let mut first = Box::pin(ask(&forwarder, "example.com"));
    let mut second = Box::pin(ask(&forwarder, "example.com"));
    assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
    drop(first);
    assert_eq!(forwarder.asked.lock().len(), 1, "the second waits for it");
    drop(second);
    assert_eq!(forwarder.asked.lock().len(), 0);
    assert!(ask(&forwarder, "example.com").await.is_err());
    assert_eq!(forwarder.asked.lock().len(), 0);
}
