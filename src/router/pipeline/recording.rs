//! What the pipeline tells the flow log.

use rand::Rng;

use super::Pipeline;
use crate::router::PortId;
use crate::router::flow::{FlowId, Millis};
use crate::router::log::Outcome;
use crate::router::route::captured_by;
use crate::router::wire::{Headers, PacketBuf};

impl<R: Rng> Pipeline<R> {
    /// Writes down a connection that its peers have ended.
    #[cold]
    pub(super) fn record_closed(&mut self, id: FlowId, now: Millis) {
        if let (Some(recorder), Some(flow)) = (&mut self.recorder, self.flows.get_mut(id))
            && let Some(opened) = flow.opened.take()
        {
            recorder.ended(opened, flow, flow.result, now);
        }
    }

    /// Writes down flows that have ended in other ways since this was called last.
    pub(super) fn record_ended(&mut self, now: Millis) {
        for (mut flow, ending) in self.flows.ended() {
            if let (Some(recorder), Some(opened)) = (&mut self.recorder, flow.opened.take()) {
                recorder.ended(opened, &flow, Some(ending), now);
            }
        }
    }

    /// Writes down a packet that goes nowhere. The buffer has it as it came.
    #[cold]
    pub(super) fn record_refused(&mut self, buf: &PacketBuf, from: PortId, outcome: Outcome, now: Millis) {
        self.record_ended(now);
        let (Some(recorder), Some(port)) = (&mut self.recorder, self.ports.get(from)) else { return };
        let tuple = Headers::parse(buf.packet()).ok().map(|headers| headers.tuple);
        recorder.refused(port, tuple, outcome, now, |tuple| captured_by(&self.plan, &self.ports, tuple));
    }
}
