//! The flow log, written by the pipeline and read as readers do.

use std::time::Instant;

use serde_json::json;

use super::*;
use crate::router::pipeline::Limits;
use crate::router::tests::world::{Seen, World, tcp, udp};

const CLIENT: &str = "10.244.1.2:40000";
const VIP: &str = "10.96.0.11:80";

struct Logged {
    world: World,
    log: Arc<FlowLog>,
    after: u64,
}

impl Logged {
    fn new(length: usize, limits: Limits) -> Self {
        let mut world = World::with(limits);
        let (log, recorder) = FlowLog::new(length);
        world.pipeline.record(recorder);
        world.web(json!({"type": "NodePort"}), &["b1"]);
        Self { world, log, after: 0 }
    }

    fn read(&mut self) -> (Vec<Arc<Record>>, u64) {
        let mut records = Vec::new();
        let lost = self.log.read(self.after, &mut records);
        self.after = records.last().map_or(self.after, |record| record.number);
        (records, lost)
    }

    /// Sends packets of one connection: `>` for the client's.
    fn talk(&mut self, port: u16, flags: &[&str]) {
        let client = format!("10.244.1.2:{port}");
        for flag in flags {
            match flag.strip_prefix('>') {
                Some(flag) => self.world.send("a1", &tcp(&client, VIP, flag)),
                None => self.world.send("b1", &tcp("10.244.2.2:8080", &client, flag)),
            };
        }
    }

    fn ends(&mut self) -> Vec<(Ending, bool)> {
        let (records, _) = self.read();
        let ends = records.iter().filter_map(|record| match &record.what {
            What::Ended(ended) => Some((ended.ending, ended.answered)),
            _ => None,
        });
        ends.collect()
    }
}

fn refusals(records: &[Arc<Record>]) -> Vec<(&'static str, u64)> {
    let refusals = records.iter().filter_map(|record| match &record.what {
        What::Refused(refused) => Some((refused.outcome.reason(), refused.count)),
        What::Suppressed { outcome, count } => Some((outcome.reason(), *count)),
        _ => None,
    });
    refusals.collect()
}

#[test]
fn flow_is_told_when_it_begins_and_when_it_ends_with_what_was_true_then() {
    let mut logged = Logged::new(100, Limits::default());
    logged.talk(40000, &[">S", "SA", ">A"]);
    let (records, _) = logged.read();
    let [record] = &records[..] else { panic!("one beginning: {records:?}") };
    let What::Opened { opened, tuples } = &record.what else { panic!("a beginning: {record:?}") };
    assert_eq!((&*opened.client.name, &*opened.server.name, &*opened.entry), ("a1", "b1", "n1"));
    assert_eq!((tuples[0].dport, tuples[1].sport), (80, 8080));
    let grounds = opened.service.as_ref().expect("a Service");
    assert_eq!((&*grounds.service.name, &*grounds.service.uid, grounds.service.revision), ("web", "u", 1));
    assert_eq!((grounds.via, grounds.slices.len()), (Via::ClusterIp, 1));
    // Today's state is another: the end still tells of the flow's own.
    logged.world.delete_service("web");
    logged.world.now += 250;
    logged.talk(40000, &["FA", ">FA"]);
    let (records, _) = logged.read();
    let What::Ended(ended) = &records[0].what else { panic!("an end: {records:?}") };
    assert_eq!((ended.ending, ended.packets, ended.lasted), (Ending::Closed, [3, 2], 250));
    assert_eq!(&*ended.opened.service.as_ref().expect("a Service").service.name, "web");
    // It is told once.
    logged.talk(40000, &[">A"]);
    logged.world.now += 100_000;
    logged.world.pipeline.maintain(logged.world.now);
    assert!(logged.read().0.is_empty());
}

#[test]
fn every_ending_has_its_name() {
    let mut logged = Logged::new(100, Limits { flows: 2, ..Limits::default() });
    logged.talk(1, &[">S", "RA"]);
    logged.talk(2, &[">S", "SA", ">A", "R"]);
    assert_eq!(logged.ends(), [(Ending::Refused, false), (Ending::Reset, true)].map(|(e, _)| (e, true)));
    logged.talk(3, &[">S"]);
    logged.world.now += 70_000;
    logged.world.pipeline.maintain(logged.world.now);
    assert_eq!(logged.ends(), [(Ending::Idle, false)]);
    for port in [4, 5, 6] {
        logged.talk(port, &[">S", "SA", ">A"]);
    }
    assert_eq!(logged.ends(), [(Ending::Evicted, true)]);
    logged.world.detach("b1");
    logged.world.pipeline.maintain(logged.world.now);
    assert_eq!(logged.ends(), [(Ending::PortGone, true), (Ending::PortGone, true)]);
}

#[test]
fn backend_of_datagrams_that_goes_ends_their_flow() {
    let mut logged = Logged::new(100, Limits::default());
    logged.world.send("a1", &udp(CLIENT, VIP, b"x"));
    logged.world.endpoints("web", &["c1"]);
    logged.world.send("a1", &udp(CLIENT, VIP, b"x"));
    assert_eq!(logged.ends(), [(Ending::BackendGone, false)]);
}

#[test]
fn refusals_are_told_at_once_and_counted_by_the_second() {
    let mut logged = Logged::new(100, Limits::default());
    logged.world.endpoints("web", &[]);
    for _ in 0..50 {
        assert!(matches!(logged.world.send("a1", &tcp(CLIENT, VIP, "S")), Seen::Answered(..)));
    }
    let (records, _) = logged.read();
    assert_eq!(refusals(&records), [("no_endpoint", 1)]);
    let What::Refused(refused) = &records[0].what else { panic!("a refusal") };
    assert_eq!((&*refused.from.name, refused.tuple.expect("addresses").dport), ("a1", 80));
    assert_eq!(&*refused.service.as_ref().expect("the Service that it was for").name, "web");
    // Nothing comes any more: the rest is told when its second is over, and nothing is due then.
    assert!(logged.world.pipeline.next_maintenance().is_some());
    logged.world.now += 1000;
    logged.world.pipeline.maintain(logged.world.now);
    assert_eq!(refusals(&logged.read().0), [("no_endpoint", 49)]);
    assert_eq!(logged.world.pipeline.next_maintenance(), None);
    logged.world.now += 5000;
    logged.world.send("a1", &tcp(CLIENT, VIP, "S"));
    assert_eq!(refusals(&logged.read().0), [("no_endpoint", 1)]);
}

#[test]
fn flood_of_refusals_pushes_out_little() {
    let mut logged = Logged::new(10_000, Limits::default());
    logged.talk(40000, &[">S"]);
    for n in 0..5000u32 {
        let dst = format!("10.96.{}.{}:80", 1 + n / 250, 1 + n % 250);
        assert!(matches!(logged.world.send("a1", &tcp(CLIENT, &dst, "S")), Seen::Dropped(_)));
    }
    logged.world.now += 1000;
    logged.world.pipeline.maintain(logged.world.now);
    let (records, lost) = logged.read();
    assert!(records.len() <= 2 * LINES as usize && lost == 0, "{} records", records.len());
    assert_eq!(refusals(&records).iter().map(|(_, count)| count).sum::<u64>(), 5000);
    assert!(matches!(records[0].what, What::Opened { .. }));
}

#[test]
fn kernels_that_look_for_routers_are_no_refusals() {
    let mut logged = Logged::new(100, Limits::default());
    logged.world.send("a1", &udp("[fd00:10:244:1::2]:5353", "[ff02::fb]:5353", b"x"));
    assert_eq!(logged.world.stats().dropped(DropReason::NotUnicast), 1);
    assert!(logged.read().0.is_empty());
}

#[test]
fn what_is_overwritten_is_counted_and_readers_share_the_rest() {
    let mut logged = Logged::new(10, Limits::default());
    for port in 1..=25 {
        logged.talk(port, &[">S"]);
    }
    assert_eq!((logged.log.written(), logged.log.overwritten()), (25, 15));
    let (records, lost) = logged.read();
    assert_eq!((records.len(), lost, records[0].number), (10, 15, 16));
    let mut second = Vec::new();
    assert_eq!((logged.log.read(20, &mut second), second.len()), (0, 5), "another reader has its own place");
    assert_eq!(logged.read().0.len(), 0);
}

#[tokio::test]
async fn reader_sleeps_until_there_is_something() {
    let mut logged = Logged::new(10, Limits::default());
    let log = Arc::clone(&logged.log);
    let mut waiting = std::pin::pin!(log.changed(0));
    assert!(futures::poll!(&mut waiting).is_pending());
    logged.talk(1, &[">S"]);
    let begin = Instant::now();
    waiting.await;
    assert!(begin.elapsed() >= BATCH / 2, "records gather for a moment");
    assert_eq!(logged.read().0.len(), 1);
    // What is there already is not waited for.
    log.changed(0).await;
}
