use serde_json::json;

use super::*;
use crate::cluster::ObjectKey;
use crate::config::Network;
use crate::dns::fixtures::{object, pod, records, service, slice};

fn zone() -> Zone {
    Zone::new(&Network::default())
}

fn ask(records: &Records, name: &str, kind: Kind) -> Answer {
    records.answer(&zone(), name, kind, &mut rand::rng()).expect("a name of the cluster's")
}

/// One line for each record, sorted: `[NAME] TYPE DATA`, without the domain.
fn lines(records: &[Record]) -> Vec<String> {
    let mut lines: Vec<String> = records.iter().map(line).collect();
    lines.sort();
    lines
}

fn line(record: &Record) -> String {
    assert_eq!(record.ttl, 5);
    let data = match &record.data {
        Data::A(v4) => format!("A {v4}"),
        Data::Aaaa(v6) => format!("AAAA {v6}"),
        Data::Cname(target) => format!("CNAME {target}"),
        Data::Ptr(target) => format!("PTR {target}"),
        Data::Ns(target) => format!("NS {target}"),
        Data::Srv { priority, weight, port, target } => format!("SRV {priority} {weight} {port} {target}"),
        Data::Txt(text) => format!("TXT {text}"),
        Data::Soa { server, contact, serial, minimum } => format!("SOA {server} {contact} {serial} {minimum}"),
    };
    let owner = match &record.owner {
        Owner::Asked => data,
        Owner::Name(name) => format!("{name} {data}"),
    };
    owner.replace(".cluster.local", "")
}

const SOA: &str = "cluster.local SOA ns.dns hostmaster 42 5";

/// Names below the domain with their type, code and answers; without answers there must be the SOA.
#[test]
fn names_of_the_specification() {
    use Code::{NoError, NxDomain};
    use Kind::{A, Aaaa, Any, Cname, Ns, Other, Srv, Txt};
    let table: &[(&str, Kind, Code, &[&str])] = &[
        // D1: Services with VIPs, both families; D7: no data is no error.
        ("web.default.svc", A, NoError, &["A 10.96.1.1"]),
        ("web.default.svc", Aaaa, NoError, &["AAAA fd00:10:96::101"]),
        ("web.default.svc", Any, NoError, &["A 10.96.1.1"]),
        ("web.default.svc", Txt, NoError, &[]),
        ("web.default.svc", Other, NoError, &[]),
        ("9lives.default.svc", Aaaa, NoError, &[]),
        // D9: a digit may begin a name.
        ("9lives.default.svc", A, NoError, &["A 10.96.1.2"]),
        // D1: headless, ready ones only, both families.
        ("db.default.svc", A, NoError, &["A 10.244.1.5", "A 10.244.2.6"]),
        ("db.default.svc", Aaaa, NoError, &["AAAA fd00:10:244:1::5", "AAAA fd00:10:244:2::6"]),
        ("lonely.default.svc", A, NoError, &[]),
        // D3: endpoints by hostname, or by address.
        ("db-0.db.default.svc", A, NoError, &["A 10.244.1.5"]),
        ("db-0.db.default.svc", Aaaa, NoError, &["AAAA fd00:10:244:1::5"]),
        ("10-244-2-6.db.default.svc", A, NoError, &["A 10.244.2.6"]),
        ("10-244-2-6.db.default.svc", Aaaa, NoError, &[]),
        ("fd00-10-244-2--6.db.default.svc", Aaaa, NoError, &["AAAA fd00:10:244:2::6"]),
        ("10-244-1-5.web.default.svc", A, NoError, &["A 10.244.1.5"]),
        ("10-244-1-5.db.default.svc", A, NxDomain, &[]),
        ("db-2.db.default.svc", A, NxDomain, &[]),
        ("10-244-3-7.db.default.svc", A, NxDomain, &[]),
        // D2: named ports.
        ("_http._tcp.web.default.svc", Srv, NoError, &["SRV 0 100 80 web.default.svc"]),
        ("_dns._udp.web.default.svc", Srv, NoError, &["SRV 0 100 53 web.default.svc"]),
        ("_http._udp.web.default.svc", Srv, NxDomain, &[]),
        ("_https._tcp.web.default.svc", Srv, NxDomain, &[]),
        ("_http._tcp.web.default.svc", A, NoError, &[]),
        ("_http._tcp.web.default.svc", Any, NoError, &["SRV 0 100 80 web.default.svc"]),
        ("_tcp.web.default.svc", Srv, NoError, &[]),
        ("_sctp.web.default.svc", Srv, NxDomain, &[]),
        ("_._tcp.9lives.default.svc", Srv, NxDomain, &[]),
        ("_tcp.9lives.default.svc", Srv, NxDomain, &[]),
        ("9lives.default.svc", Srv, NoError, &["SRV 0 100 80 9lives.default.svc"]),
        ("web.default.svc", Srv, NoError, &["SRV 0 50 53 web.default.svc", "SRV 0 50 80 web.default.svc"]),
        (
            "_sql._tcp.db.default.svc",
            Srv,
            NoError,
            &[
                "SRV 0 33 5433 10-244-2-6.db.default.svc",
                "SRV 0 33 5433 db-0.db.default.svc",
                "SRV 0 33 5433 fd00-10-244-2--6.db.default.svc",
            ],
        ),
        ("_http._tcp.lonely.default.svc", Srv, NoError, &[]),
        ("x.http._tcp.web.default.svc", Srv, NxDomain, &[]),
        ("_a._b._tcp.web.default.svc", Srv, NxDomain, &[]),
        // D5, D7: aliases.
        ("alias.default.svc", Cname, NoError, &["CNAME web.default.svc"]),
        ("alias.default.svc", Any, NoError, &["CNAME web.default.svc"]),
        ("alias.default.svc", A, NoError, &["CNAME web.default.svc", "web.default.svc A 10.96.1.1"]),
        ("alias-v4.default.svc", Aaaa, NoError, &["CNAME 9lives.default.svc"]),
        ("broken.default.svc", A, NxDomain, &["CNAME none.default.svc"]),
        ("away.default.svc", Cname, NoError, &["CNAME api.example.com"]),
        ("x.away.default.svc", A, NxDomain, &[]),
        // Pods.
        ("10-244-1-5.default.pod", A, NoError, &["A 10.244.1.5"]),
        ("10-244-1-5.default.pod", Aaaa, NoError, &[]),
        ("fd00-10-244-1--5.default.pod", Aaaa, NoError, &["AAAA fd00:10:244:1::5"]),
        ("10-244-1-6.default.pod", A, NxDomain, &[]),
        ("10-244-1-5.empty.pod", A, NxDomain, &[]),
        ("web-1.default.pod", A, NxDomain, &[]),
        // The domain's own.
        ("dns-version", Txt, NoError, &["TXT 1.1.0"]),
        ("dns-version", A, NoError, &[]),
        ("ns.dns", A, NoError, &["A 10.96.0.10"]),
        ("ns.dns", Aaaa, NoError, &["AAAA fd00:10:96::a"]),
        ("", Ns, NoError, &["NS ns.dns"]),
        ("", A, NoError, &[]),
        // Names with names below them exist, others don't (D6).
        ("svc", A, NoError, &[]),
        ("pod", A, NoError, &[]),
        ("dns", A, NoError, &[]),
        ("default.svc", A, NoError, &[]),
        ("empty.svc", A, NoError, &[]),
        ("empty.pod", A, NoError, &[]),
        ("none.svc", A, NxDomain, &[]),
        ("none.pod", A, NxDomain, &[]),
        ("none.default.svc", A, NxDomain, &[]),
        ("web.empty.svc", A, NxDomain, &[]),
        ("web", A, NxDomain, &[]),
        ("web.default", A, NxDomain, &[]),
        ("a.b.c.web.default.svc", A, NxDomain, &[]),
        ("*.default.svc", A, NxDomain, &[]),
        ("example.com.default.svc", A, NxDomain, &[]),
    ];
    let records = records();
    for (name, kind, code, expected) in table {
        let full = if name.is_empty() { "cluster.local".to_owned() } else { format!("{name}.cluster.local") };
        let answer = ask(&records, &full, *kind);
        assert_eq!(
            (answer.code, lines(&answer.answers)),
            (*code, expected.iter().map(|l| (*l).to_owned()).collect()),
            "{name} {kind:?}"
        );
        let data = answer.answers.iter().any(|record| !matches!(record.data, Data::Cname(_)));
        let done = data || matches!(kind, Cname | Any) && !answer.answers.is_empty();
        let soa: &[&str] = if done { &[] } else { &[SOA] };
        assert_eq!(lines(&answer.authority), *soa, "{name} {kind:?}");
    }
}

#[test]
fn soa_and_ns_of_the_domain() {
    let records = records();
    let soa = ask(&records, "cluster.local", Kind::Soa);
    assert_eq!((lines(&soa.answers), lines(&soa.authority)), (vec!["SOA ns.dns hostmaster 42 5".to_owned()], vec![]));
    let ns = ask(&records, "cluster.local", Kind::Ns);
    assert_eq!(lines(&ns.additional), ["ns.dns A 10.96.0.10", "ns.dns AAAA fd00:10:96::a"]);
}

#[test]
fn service_records_bring_the_addresses_of_their_targets_d2() {
    let records = records();
    let vip = ask(&records, "_http._tcp.web.default.svc.cluster.local", Kind::Srv);
    assert_eq!(lines(&vip.additional), ["web.default.svc A 10.96.1.1", "web.default.svc AAAA fd00:10:96::101"]);
    let headless = ask(&records, "_sql._tcp.db.default.svc.cluster.local", Kind::Srv);
    assert_eq!(
        lines(&headless.additional),
        [
            "10-244-2-6.db.default.svc A 10.244.2.6",
            "db-0.db.default.svc A 10.244.1.5",
            "db-0.db.default.svc AAAA fd00:10:244:1::5",
            "fd00-10-244-2--6.db.default.svc AAAA fd00:10:244:2::6",
        ]
    );
}

#[test]
fn a_number_of_two_protocols_is_one_service_record() {
    let mut records = records();
    let port = |name: &str, number: u16, protocol: &str| json!({"name": name, "port": number, "protocol": protocol});
    let ports = json!([port("dns", 53, "UDP"), port("dns-tcp", 53, "TCP"), port("metrics", 9153, "TCP")]);
    records.set_service(&service("kube-dns", json!({"clusterIP": "10.96.1.10", "ports": ports})));
    let answer = ask(&records, "kube-dns.default.svc.cluster.local", Kind::Srv);
    assert_eq!(lines(&answer.answers), ["SRV 0 50 53 kube-dns.default.svc", "SRV 0 50 9153 kube-dns.default.svc"]);
}

#[test]
fn reverse_names_d4() {
    let records = records();
    let table: &[(&str, Code, &[&str])] = &[
        ("1.1.96.10.in-addr.arpa", Code::NoError, &["PTR web.default.svc"]),
        // In web's and in db's slice: the headless Service's name wins.
        ("5.1.244.10.in-addr.arpa", Code::NoError, &["PTR db-0.db.default.svc"]),
        ("6.2.244.10.in-addr.arpa", Code::NoError, &["PTR 10-244-2-6.db.default.svc"]),
        ("7.3.244.10.in-addr.arpa", Code::NxDomain, &[]),
        ("9.9.96.10.in-addr.arpa", Code::NxDomain, &[]),
        ("1.96.10.in-addr.arpa", Code::NoError, &[]),
        ("x.96.10.in-addr.arpa", Code::NxDomain, &[]),
    ];
    for (name, code, expected) in table {
        let answer = ask(&records, name, Kind::Ptr);
        assert_eq!(
            (answer.code, lines(&answer.answers)),
            (*code, expected.iter().map(|l| (*l).to_owned()).collect()),
            "{name}"
        );
        assert_eq!(answer.authority.is_empty(), !expected.is_empty(), "{name}");
    }
    let apex = ask(&records, "96.10.in-addr.arpa", Kind::Soa);
    assert_eq!(lines(&apex.answers), ["SOA ns.dns hostmaster 42 5"]);
    let v6 = format!("1.0.1.0{}.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa", ".0".repeat(16));
    assert_eq!(lines(&ask(&records, &v6, Kind::Ptr).answers), ["PTR web.default.svc"]);
    assert_eq!(ask(&records, &v6, Kind::A).code, Code::NoError);
}

#[test]
fn alias_that_leads_outside_is_left_to_the_caller_d5() {
    let answer = ask(&records(), "away.default.svc.cluster.local", Kind::A);
    assert_eq!(answer.outside.as_deref(), Some("api.example.com"));
    assert_eq!((answer.code, lines(&answer.answers)), (Code::NoError, vec!["CNAME api.example.com".to_owned()]));
    assert!(answer.authority.is_empty());
}

#[test]
fn aliases_in_a_circle_end_with_a_failure() {
    let mut records = records();
    for (name, target) in [("loop", "loop"), ("to-loop", "loop-a")] {
        let target = format!("{target}.default.svc.cluster.local");
        records.set_service(&service(name, json!({"type": "ExternalName", "externalName": target})));
    }
    let a_and_b = ["loop-a.default.svc CNAME loop-b.default.svc", "loop-b.default.svc CNAME loop-a.default.svc"];
    for (name, expected) in [
        ("loop-a", &["CNAME loop-b.default.svc", a_and_b[1]][..]),
        ("loop", &["CNAME loop.default.svc"]),
        ("to-loop", &["CNAME loop-a.default.svc", a_and_b[0], a_and_b[1]]),
    ] {
        let answer = ask(&records, &format!("{name}.default.svc.cluster.local"), Kind::A);
        assert_eq!(answer.code, Code::ServFail);
        // In order, and each once.
        assert_eq!(answer.answers.iter().map(line).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn chains_of_aliases_have_an_end() {
    let mut records = records();
    for number in 0..2 * MAX_ALIASES {
        let target = format!("chain-{}.default.svc.cluster.local", number + 1);
        let spec = json!({"type": "ExternalName", "externalName": target});
        records.set_service(&service(&format!("chain-{number}"), spec));
    }
    let answer = ask(&records, "chain-0.default.svc.cluster.local", Kind::A);
    assert_eq!((answer.code, answer.answers.len()), (Code::ServFail, MAX_ALIASES));
}

#[test]
fn names_of_others_are_not_answered() {
    let records = records();
    for name in ["example.com", "", "local", "1.0.168.192.in-addr.arpa"] {
        assert_eq!(records.answer(&zone(), name, Kind::A, &mut rand::rng()), None, "{name}");
    }
}

#[test]
fn answer_names_its_objects() {
    let records = records();
    // As the fixtures have them.
    let object = |name: &str, revision| {
        Arc::new(Object { key: ObjectKey::new("default", name), uid: uuid::Uuid::nil(), revision })
    };
    let key = |name: &str| object(name, 7);
    let causes = |name: &str, kind| ask(&records, name, kind).causes;
    assert_eq!(
        causes("alias.default.svc.cluster.local", Kind::A),
        [Cause::Service(key("alias")), Cause::Service(key("web"))]
    );
    assert_eq!(
        causes("db.default.svc.cluster.local", Kind::A),
        [Cause::Service(key("db")), Cause::Slice(object("db-4", 0)), Cause::Slice(object("db-6", 0))]
    );
    assert_eq!(causes("10-244-1-5.default.pod.cluster.local", Kind::A), [Cause::Pod(object("web-1", 0))]);
    assert_eq!(causes("5.1.244.10.in-addr.arpa", Kind::Ptr), [Cause::Service(key("db"))]);

    let reference = |cause: Cause| serde_json::to_value(cause.reference()).unwrap();
    assert_eq!(reference(Cause::Domain), json!(null));
    let uid = "6f1c0a52-0c0f-4d7e-8a4f-0d5c7f0f9a11";
    let slice = Object { uid: uid.parse().unwrap(), ..(*object("db-4", 3)).clone() };
    assert_eq!(
        reference(Cause::Slice(Arc::new(slice))),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "namespace": "default", "name": "db-4",
            "uid": uid, "resourceVersion": "3"})
    );
    assert_eq!(reference(Cause::Pod(key("web-1"))).get("uid"), None, "there is none");
}

#[test]
fn addresses_come_in_any_order() {
    let mut records = records();
    let endpoints: Vec<_> = (1..=20).map(|i| json!({"addresses": [format!("10.244.1.{i}")]})).collect();
    records.set_slice(&slice("lonely-x", "lonely", json!([]), json!(endpoints)));
    let first = |_| ask(&records, "lonely.default.svc.cluster.local", Kind::A).answers[0].data.clone();
    let firsts: Vec<Data> = (0..200).map(first).collect();
    assert!(firsts.iter().any(|other| *other != firsts[0]));
}

#[test]
fn changes_of_a_service_show_at_once_and_leave_nothing_behind() {
    let mut records = records();
    let name = "web.default.svc.cluster.local";
    records.set_service(&service("web", json!({"clusterIP": "10.96.7.7"})));
    assert_eq!(lines(&ask(&records, name, Kind::A).answers), ["A 10.96.7.7"]);
    assert!(ask(&records, name, Kind::Aaaa).answers.is_empty());
    assert_eq!(ask(&records, "1.1.96.10.in-addr.arpa", Kind::Ptr).code, Code::NxDomain);
    assert_eq!(lines(&ask(&records, "7.7.96.10.in-addr.arpa", Kind::Ptr).answers), ["PTR web.default.svc"]);

    // D5: the change to an alias is in the next answer.
    records.set_service(&service("web", json!({"type": "ExternalName", "externalName": "example.org"})));
    assert_eq!(lines(&ask(&records, name, Kind::Cname).answers), ["CNAME example.org"]);

    records.remove_service(&ObjectKey::new("default", "web"));
    assert_eq!(ask(&records, name, Kind::A).code, Code::NxDomain);
    assert_eq!(ask(&records, "7.7.96.10.in-addr.arpa", Kind::Ptr).code, Code::NxDomain);
    assert_eq!(ask(&records, "10-244-1-5.web.default.svc.cluster.local", Kind::A).code, Code::NxDomain);
}

#[test]
fn an_endpoint_that_is_gone_is_never_answered() {
    let mut records = records();
    records.set_slice(&slice("db-4", "db", json!([]), json!([{"addresses": ["10.244.2.6"]}])));
    assert_eq!(lines(&ask(&records, "db.default.svc.cluster.local", Kind::A).answers), ["A 10.244.2.6"]);
    assert_eq!(lines(&ask(&records, "5.1.244.10.in-addr.arpa", Kind::Ptr).answers), ["PTR 10-244-1-5.web.default.svc"]);
    records.remove_slice(&ObjectKey::new("default", "db-4"));
    assert!(ask(&records, "db.default.svc.cluster.local", Kind::A).answers.is_empty());
    assert_eq!(ask(&records, "6.2.244.10.in-addr.arpa", Kind::Ptr).code, Code::NxDomain);
}

#[test]
fn a_slice_that_moves_to_another_service_takes_its_names_along() {
    let mut records = records();
    records.set_slice(&slice("db-4", "lonely", json!([]), json!([{"addresses": ["10.244.1.5"], "hostname": "db-0"}])));
    assert!(ask(&records, "db.default.svc.cluster.local", Kind::A).answers.is_empty());
    assert_eq!(lines(&ask(&records, "lonely.default.svc.cluster.local", Kind::A).answers), ["A 10.244.1.5"]);
    assert_eq!(lines(&ask(&records, "5.1.244.10.in-addr.arpa", Kind::Ptr).answers), ["PTR db-0.lonely.default.svc"]);
    records.set_slice(&object(json!({
        "metadata": {"name": "db-4", "namespace": "default"}, "addressType": "IPv4", "endpoints": [{"addresses": ["10.244.1.5"]}],
    })));
    assert!(ask(&records, "lonely.default.svc.cluster.local", Kind::A).answers.is_empty());
}

#[test]
fn an_endpoint_in_two_slices_is_answered_once_and_stays_when_one_goes() {
    let mut records = records();
    records.set_slice(&slice("db-new", "db", json!([]), json!([{"addresses": ["10.244.2.6"]}])));
    let addresses = ["A 10.244.1.5", "A 10.244.2.6"];
    assert_eq!(lines(&ask(&records, "db.default.svc.cluster.local", Kind::A).answers), addresses);
    records.remove_slice(&ObjectKey::new("default", "db-new"));
    assert_eq!(lines(&ask(&records, "db.default.svc.cluster.local", Kind::A).answers), addresses);
    assert_eq!(ask(&records, "6.2.244.10.in-addr.arpa", Kind::Ptr).answers.len(), 1);
}

#[test]
fn a_pod_that_ends_loses_its_name() {
    let mut records = records();
    let name = "10-244-1-5.default.pod.cluster.local";
    let running = pod("web-1", &["10.244.1.5", "fd00:10:244:1::5"]);
    let mut stopping = running.clone();
    stopping.metadata.deletion_timestamp = object(json!("2026-01-01T00:00:00Z"));
    let mut done = running.clone();
    done.status.as_mut().unwrap().phase = Some("Succeeded".into());
    for ended in [Some(&stopping), Some(&done), None] {
        assert_eq!(ask(&records, name, Kind::A).code, Code::NoError);
        records.change_pod(Some(&running), ended);
        assert_eq!(ask(&records, name, Kind::A).code, Code::NxDomain);
        records.change_pod(ended, Some(&running));
    }
}

#[test]
fn published_records_do_not_change_under_a_reader() {
    use crate::dns::records::Index;
    let mut working = records();
    let index = Index::new(working.clone());
    let held = index.load();
    working.remove_service(&ObjectKey::new("default", "web"));
    index.publish(working);
    assert_eq!(ask(&held, "web.default.svc.cluster.local", Kind::A).code, Code::NoError);
    assert_eq!(ask(&index.load(), "web.default.svc.cluster.local", Kind::A).code, Code::NxDomain);
}
