//! How much passes from each Service to each of its endpoints, from one reading to the next.
//!
//! A reading walks the flow table in small steps, between which packets pass. Flows that have ended stay in the table
//! for a while (a closed TCP connection for 20 s), so readings that are a second or so apart miss none. A table in which
//! no packet was counted since is not walked at all.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::dataplane::Router;
use super::flow::{Flow, FlowId};
use super::log::{Record, What};

/// Places of the table that are walked while packets wait: about 50 µs.
const STEP: usize = 1024;

/// One endpoint of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub namespace: Arc<str>,
    pub service: Arc<str>,
    /// Its name in the Service's namespace, where the endpoint is a Pod.
    pub pod: Option<Arc<str>>,
    pub address: IpAddr,
}

/// A Service by namespace and name.
pub type Service = (Arc<str>, Arc<str>);

/// What happened between two readings.
#[derive(Debug, Default)]
pub struct Reading {
    /// Bytes of both directions.
    pub passed: FxHashMap<Line, u64>,
    /// Packets to a Service that were dropped or rejected, as far as the flow log has them.
    pub refused: FxHashMap<Service, u64>,
}

/// Reads a router.
pub struct Meter {
    router: Arc<Router>,
    counted: Counted,
    received_packets: u64,
    /// The last record of the flow log that was read.
    record: u64,
}

impl Meter {
    /// A meter at nothing: what has passed before is not counted.
    pub fn new(router: Arc<Router>) -> Self {
        let record = router.flow_log().map_or(0, |log| log.written());
        let mut meter = Self { router, counted: Counted::default(), received_packets: 0, record };
        meter.read();
        meter
    }

    pub fn read(&mut self) -> Reading {
        let mut reading = Reading::default();
        let received = self.router.stats().received_packets;
        if received == self.received_packets {
            return reading;
        }
        self.received_packets = received;
        let mut start = Some(0);
        while let Some(from) = start {
            start = self.router.visit_flows(from, STEP, |id, flow| self.counted.count(id, flow, &mut reading));
        }
        self.refusals(&mut reading);
        reading
    }

    fn refusals(&mut self, reading: &mut Reading) {
        let Some(log) = self.router.flow_log() else { return };
        let mut records: Vec<Arc<Record>> = Vec::new();
        log.read(self.record, &mut records);
        self.record = records.last().map_or(self.record, |record| record.number);
        for record in records {
            let What::Refused(refused) = &record.what else { continue };
            let Some(service) = &refused.service else { continue };
            let key = (Arc::clone(&service.namespace), Arc::clone(&service.name));
            *reading.refused.entry(key).or_default() += refused.count;
        }
    }
}

/// The counters of each flow at the last reading, by its place in the table.
#[derive(Default)]
pub(super) struct Counted(Vec<Option<(FlowId, u64)>>);

impl Counted {
    fn count(&mut self, id: FlowId, flow: &Flow, reading: &mut Reading) {
        let Some(grounds) = &flow.grounds else { return };
        if self.0.len() <= id.slot() {
            self.0.resize(id.slot() + 1, None);
        }
        let bytes = flow.bytes[0] + flow.bytes[1];
        let before =
            self.0[id.slot()].replace((id, bytes)).filter(|(known, _)| *known == id).map_or(0, |(_, bytes)| bytes);
        if bytes <= before {
            return;
        }
        let endpoint = &grounds.service.endpoints()[grounds.endpoint as usize];
        let line = Line {
            namespace: Arc::clone(&grounds.service.namespace),
            service: Arc::clone(&grounds.service.name),
            pod: endpoint.pod.clone(),
            address: endpoint.addr.ip(),
        };
        *reading.passed.entry(line).or_default() += bytes - before;
    }

    /// Counts a whole table.
    #[cfg(test)]
    pub(super) fn table(&mut self, table: &super::flow::FlowTable) -> Reading {
        let mut reading = Reading::default();
        let mut start = Some(0);
        while let Some(from) = start {
            start = table.visit(from, STEP, |id, flow| self.count(id, flow, &mut reading));
        }
        reading
    }
}
