//! Step 2, for packets that have arrived: opened end to end, checked, put in order.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};

use crate::buf::{Offload, TunPacket};
use crate::id::StreamId;
use crate::time::Instant;
use crate::wire::TAG;
use crate::wire::data::{DataMut, PAYLOAD, ROUTE};
use crate::wire::header::{EndHeader, RouteHeader};

use super::classify::Head;
use super::peer::STREAMS;
use super::segment::{Layout, Outgoing};
use super::{Delivery, DropReason, Forwarder, checksum, mss};

/// Longest a packet waits for those before it, whatever its sender asks for: beyond it an inner TCP
/// has given up waiting too (RFC 6298 starts with a timeout of one second). Shorter than the round
/// trip of the longest hop and the repaired packet would find the order already given up.
const HOLD_MAX: Duration = Duration::from_secs(1);

impl Forwarder {
    /// Takes a packet whose route ends here. `bytes` is the whole frame, its hop seal opened; the
    /// packet is opened where it lies.
    pub(super) fn egress(
        &mut self,
        now: Instant,
        route: &RouteHeader,
        mut bytes: BytesMut,
    ) -> Result<(), DropReason> {
        let parts = DataMut::split(&mut bytes[ROUTE..]).map_err(|_| DropReason::Malformed)?;
        let end = EndHeader::parse(parts.end).map_err(|_| DropReason::Malformed)?;
        let peer = self.peers.get_mut(&route.source).ok_or(DropReason::EndNoSession)?;
        peer.open(now, route, &end, parts.payload, parts.end_tag, &mut self.spare)?;
        bytes.advance(PAYLOAD);
        bytes.truncate(bytes.len() - TAG);

        let head = Head::read(&bytes).map_err(|_| DropReason::EndBadPacket)?;
        if !peer.may_send_from(head.source) {
            return Err(DropReason::SpoofedSource);
        }
        if self.own.longest(head.destination).is_none() {
            return Err(DropReason::ForeignDestination);
        }
        let ecn = combine_ecn(head.ecn, route.ecn).ok_or(DropReason::Congested)?;
        if ecn != head.ecn {
            write_ecn(&mut bytes, ecn);
        }
        if mss::opens(&head, &bytes) {
            // What it states is how its sender is answered: over the way from here.
            let back = self.paths.pick(route.source, route.class).map_or(u16::MAX, |way| way.most);
            self.clamp(&head, &mut bytes, route.flags.checksum_partial, back);
        }
        let layout = Layout::of(&head, &bytes);
        let offload = if route.flags.checksum_partial {
            layout.ok_or(DropReason::EndBadPacket)?.partial()
        } else {
            Offload::None
        };
        let hold =
            if route.flags.ordered { route.time_left().min(HOLD_MAX) } else { Duration::ZERO };
        let whole = bytes.len();
        let packet = Outgoing { packet: TunPacket { bytes, offload }, layout };
        let delivery = Delivery { packet, class: route.class };
        self.order.push(
            now,
            route.source,
            numbering(&end),
            end.counter,
            hold,
            whole,
            delivery,
            &mut self.ready,
        );
        Ok(())
    }
}

/// A stream and the source's lane as one number: streams take twelve bits, lanes four.
fn numbering(end: &EndHeader) -> StreamId {
    StreamId((u16::from(end.lane) * STREAMS) | end.stream.0)
}

/// What a packet's ECN bits become that were carried under others: what met congestion on the way says
/// so to its transport, or is dropped (`None`) where that would not understand (RFC 6040, section 4.2).
pub(super) const fn combine_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 3, outer & 3) {
        (0, 3) => None,
        (1 | 2, 3) => Some(3),
        (2, 1) => Some(1),
        (inner, _) => Some(inner),
    }
}

/// Writes the mark "congestion experienced" into a packet's own header.
pub(super) fn mark_congested(packet: &mut [u8]) {
    write_ecn(packet, 3);
}

/// Writes ECN bits into a packet's own header.
fn write_ecn(packet: &mut [u8], ecn: u8) {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= 20 => {
            let old = u16::from_be_bytes([packet[0], packet[1]]);
            packet[1] = packet[1] & !3 | ecn;
            let new = u16::from_be_bytes([packet[0], packet[1]]);
            let sum = u16::from_be_bytes([packet[10], packet[11]]);
            let sum = checksum::replace(sum, old, new);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        Some(6) if packet.len() >= 40 => packet[1] = packet[1] & !0x30 | ecn << 4,
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_combined_as_the_table_says() {
        // RFC 6040, figure 4: a row for each inner, Not-ECT, ECT(1), ECT(0), CE outside.
        let table = [
            (0, [Some(0), Some(0), Some(0), None]),
            (1, [Some(1), Some(1), Some(1), Some(3)]),
            (2, [Some(2), Some(1), Some(2), Some(3)]),
            (3, [Some(3), Some(3), Some(3), Some(3)]),
        ];
        for (inner, row) in table {
            assert_eq!([0, 1, 2, 3].map(|outer| combine_ecn(inner, outer)), row, "{inner}");
        }
        let mut six = [0_u8; 40];
        (six[0], six[1]) = (0x60, 0x25);
        write_ecn(&mut six, 1);
        assert_eq!(six[1], 0x15);
    }

    #[test]
    fn the_mark_keeps_the_header_sum_right() {
        let mut packet = [0_u8; 20];
        (packet[0], packet[1], packet[8], packet[9]) = (0x45, 0x01, 64, 17);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = !checksum::fold(checksum::sum(&packet, 0));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        mark_congested(&mut packet);
        assert_eq!(packet[1] & 3, 3);
        assert_eq!(checksum::fold(checksum::sum(&packet, 0)), 0xffff);
        let mut six = [0_u8; 40];
        (six[0], six[1]) = (0x60, 0x20);
        mark_congested(&mut six);
        assert_eq!(six[1], 0x30);
    }
}
