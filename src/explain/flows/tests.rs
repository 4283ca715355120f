use std::net::IpAddr;

use futures::StreamExt;

use super::*;
use crate::router::PortId;
use crate::router::stats::DropReason;

fn line(event: Event) -> Line {
    let side = |kind: &str, name: &str, address: &str| {
        Some(Side {
            kind: kind.into(),
            name: name.into(),
            node: "n1".into(),
            address: address.into(),
            ..Side::default()
        })
    };
    Line {
        number: 3,
        time: "2024-01-01T12:00:00.250Z".into(),
        event,
        protocol: "TCP".into(),
        client: side("Pod", "default/client", "10.244.1.2:40000"),
        destination: "10.96.0.20:80".into(),
        service: Some(ServiceSide {
            object: Ref { kind: "Service".into(), namespace: "default".into(), name: "web".into(), ..Ref::default() },
            port_name: "http".into(),
            port: 80,
            ..ServiceSide::default()
        }),
        server: side("Pod", "default/web-1", "10.244.2.2:8080"),
        source: "10.245.0.11:1024".into(),
        nodes: vec!["n1".into(), "n2".into()],
        count: 1,
        ..Line::default()
    }
}

#[test]
fn line_reads_as_the_way_of_the_packet() {
    let start = "12:00:00.250 start  TCP default/client 10.244.1.2:40000 > 10.96.0.20:80 (default/web:http) \
        > default/web-1 10.244.2.2:8080 from 10.245.0.11:1024 [n1 > n2]";
    assert_eq!(line(Event::Start).text(), start);
    let end = Line {
        packets: Some([5, 4]),
        bytes: Some([500, 4000]),
        duration_ms: Some(12),
        result: "closed".into(),
        ..line(Event::End)
    };
    assert!(end.text().ends_with("[n1 > n2] closed after 12 ms, 5/4 packets, 500/4000 bytes"), "{}", end.text());
    assert!(Line::lost(7).text().ends_with("lost   7 records were overwritten before they were read"));
    let back: Line = serde_json::from_str(&serde_json::to_string(&end).expect("JSON")).expect("a line");
    assert_eq!(back, end);
}

#[test]
fn lines_are_chosen_by_service_pod_and_fate() {
    let name = |name: &str| Some(("default".to_owned(), name.to_owned()));
    let holds = |wanted: &Wanted| [Event::Start, Event::Drop, Event::Lost].map(|event| wanted.holds(&line(event)));
    assert_eq!(holds(&Wanted::default()), [true, true, true]);
    assert_eq!(holds(&Wanted { dropped: true, ..Wanted::default() }), [false, true, true]);
    for (wanted, held) in [
        (Wanted { service: name("web"), ..Wanted::default() }, true),
        (Wanted { service: name("other"), ..Wanted::default() }, false),
        (Wanted { pod: name("client"), ..Wanted::default() }, true),
        (Wanted { pod: name("web-1"), ..Wanted::default() }, true),
        (Wanted { pod: name("web-2"), ..Wanted::default() }, false),
    ] {
        assert_eq!(wanted.holds(&line(Event::Start)), held, "{wanted:?}");
    }
}

fn port(id: u32, name: &str) -> Arc<PortInfo> {
    Arc::new(PortInfo {
        id: PortId(id),
        name: name.into(),
        uid: "u".into(),
        kind: PortKind::Pod,
        node: "n1".into(),
        addresses: Box::new([IpAddr::from([10, 244, 1, 2])]),
    })
}

#[tokio::test]
async fn tail_is_the_newest_of_what_is_asked_for_and_a_long_log_comes_in_pieces() {
    let (log, mut recorder) = FlowLog::new(10_000);
    for i in 0..2000 {
        let name = if i % 2 == 0 { "default/a" } else { "default/b" };
        // Seconds apart, so that each is told.
        let at = u64::from(i) * 2000;
        recorder.refused(&port(i, name), None, Outcome::Dropped(DropReason::Malformed), at, |_| None);
    }
    let read = async |wanted: &Wanted, tail: usize| -> Vec<Vec<u64>> {
        let pieces = lines(Arc::clone(&log), wanted.clone(), tail, false);
        pieces.map(|lines| lines.iter().map(|line| line.number).collect()).collect().await
    };
    let all = read(&Wanted::default(), usize::MAX).await;
    assert!(all.iter().all(|piece| piece.len() <= CHUNK));
    assert_eq!(all.concat(), (1..=2000).collect::<Vec<_>>());
    assert_eq!(read(&Wanted::default(), 2).await.concat(), [1999, 2000]);
    let a = Wanted { pod: Some(("default".into(), "a".into())), ..Wanted::default() };
    assert_eq!(read(&a, 2).await.concat(), [1997, 1999]);
    assert_eq!(read(&a, usize::MAX).await.concat().len(), 1000);
}

#[test]
fn refusal_of_bytes_that_are_no_packet_has_a_sender_and_a_reason() {
    let (log, mut recorder) = FlowLog::new(10);
    recorder.refused(&port(1, "default/a"), None, Outcome::Dropped(DropReason::Malformed), 5, |_| None);
    let mut records = Vec::new();
    assert_eq!(log.read(0, &mut records), 0);
    let line = Line::of(&log, &records[0]);
    let client = line.client.as_ref().expect("a sender");
    assert_eq!((line.event, line.reason.as_str(), client.uid.as_str()), (Event::Drop, "malformed", "u"));
    assert!(line.time.ends_with('Z'), "{}", line.time);
}
