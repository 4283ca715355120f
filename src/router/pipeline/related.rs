//! Packets that belong to a flow without saying so by their own ports: later fragments, and ICMP errors.

use rand::Rng;

use super::{Pipeline, Stop, check_destination, datagram};
use crate::router::PortId;
use crate::router::flow::Millis;
use crate::router::icmp;
use crate::router::stats::DropReason;
use crate::router::wire::{self, Headers, PacketBuf, Quoted, Tuple};

impl<R: Rng> Pipeline<R> {
    pub(super) fn later_fragment(
        &mut self,
        buf: &mut PacketBuf,
        headers: &Headers,
        from: PortId,
        now: Millis,
    ) -> Result<PortId, Stop> {
        self.check_source(headers, from)?;
        let id = headers.fragment.map_or(0, |fragment| fragment.id);
        let found = self.fragments.find(&datagram(headers, id), now);
        let found = found.and_then(|(id, direction)| Some((id, direction, self.flows.get(id)?)));
        let Some((id, direction, flow)) = found else { return Err(DropReason::FragmentWithoutFirst.into()) };
        let (rewrite, out) = (flow.rewrites[direction as usize], flow.out_port(direction));
        let new = flow.outgoing(direction);
        if !self.ports.contains(out) {
            return Err(DropReason::PortGone.into());
        }
        if headers.ttl <= rewrite.hops {
            return Err(DropReason::Unanswerable.into());
        }
        // A fragment has no flags, so it ends nothing.
        self.flows.hit(id, direction, headers.kind, headers.len, now);
        let vnet = buf.vnet();
        wire::rewrite(buf.packet_mut(), vnet, headers, &rewrite, &new);
        Ok(out)
    }

    /// Sends an ICMP error back along the flow of the packet that it is about (rule C10).
    pub(super) fn icmp_error(
        &mut self,
        buf: &mut PacketBuf,
        headers: &Headers,
        from: PortId,
        now: Millis,
    ) -> Result<PortId, Stop> {
        self.check_source(headers, from)?;
        check_destination(headers.tuple.dst)?;
        let quotation = buf.packet().get(headers.l4 + 8..).unwrap_or_default();
        let quoted = Quoted::parse(quotation).ok_or(DropReason::IcmpErrorWithoutFlow)?;
        // The quoted packet is as its receiver saw it, so its reverse is what that receiver's side sends.
        let (id, back) = self.flows.find(&quoted.tuple.reversed()).ok_or(DropReason::IcmpErrorWithoutFlow)?;
        let flow = self.flows.get(id).filter(|flow| !flow.is_expired(now));
        let flow = flow.ok_or(DropReason::IcmpErrorWithoutFlow)?;
        if quoted.tuple.src != headers.tuple.dst {
            return Err(DropReason::IcmpErrorWithoutFlow.into());
        }
        let sent = flow.tuples[back.other() as usize];
        let out = flow.out_port(back);
        let hops = flow.rewrites[back as usize].hops;
        let mut outer = Tuple { dst: sent.src, ..headers.tuple };
        if headers.tuple.src == quoted.tuple.dst {
            outer.src = sent.dst;
        }
        if headers.ttl <= hops {
            return Err(DropReason::Unanswerable.into());
        }
        if !self.ports.contains(out) {
            return Err(DropReason::PortGone.into());
        }
        if !icmp::is_intact(&buf.packet()[..headers.len], headers.l4) {
            return Err(DropReason::IcmpChecksum.into());
        }
        icmp::translate(buf, headers, &quoted, &sent, &outer, hops);
        Ok(out)
    }
}
