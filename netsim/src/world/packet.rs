//! The packets of the virtual floor's flows: made at one site, known again at another, searched for between.

use thalweg::forward::checksum;
use thalweg::time::Instant;

use super::site::overlay_address;
use super::{Carried, OUTER};
use crate::netns::traffic::SharedLedger;
use crate::scenario::Flow;

/// Bytes of the flow header: magic, flow, number.
const FLOW_HEADER: usize = 16;
const FLOW_MAGIC: u32 = 0x7457_6c67;
const FLOW_PORT: u16 = 9000;

/// A flow's packet: IPv4, UDP, flow header, payload.
pub(super) fn packet(flow: &Flow, index: usize, number: u64) -> Vec<u8> {
    let size = flow.size.max(FLOW_HEADER);
    let (source, destination) = (overlay_address(flow.from), overlay_address(flow.to));
    let mut packet = vec![0; 28];
    packet[0] = 0x45;
    packet[1] = flow.dscp << 2;
    packet[2..4].copy_from_slice(&((28 + size) as u16).to_be_bytes());
    packet[6] = if flow.may_be_cut { 0 } else { 0x40 };
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&destination.octets());
    let sum = !checksum::fold(checksum::sum(&packet[..20], 0));
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet[20..22].copy_from_slice(&(40_000 + index as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&FLOW_PORT.to_be_bytes());
    packet[24..26].copy_from_slice(&((8 + size) as u16).to_be_bytes());
    packet.extend_from_slice(&FLOW_MAGIC.to_be_bytes());
    packet.extend_from_slice(&(index as u32).to_be_bytes());
    packet.extend_from_slice(&number.to_be_bytes());
    let filling = flow.payload.as_bytes().iter().copied().cycle();
    packet.extend(filling.chain(std::iter::repeat(0)).take(size - FLOW_HEADER));
    let pseudo = checksum::pseudo(&packet[12..20], 17, 8 + size);
    let sum = !checksum::fold(checksum::sum(&packet[20..], pseudo));
    packet[26..28].copy_from_slice(&sum.max(1).to_be_bytes());
    packet
}

/// A packet left the overlay at a site: its flow's ledger learns of it.
pub(super) fn arrive(
    flows: &[Flow],
    ledgers: &[SharedLedger],
    site: usize,
    now: Instant,
    packet: &[u8],
) {
    let word =
        |at: usize| packet.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let (Some(FLOW_MAGIC), Some(flow)) = (word(28), word(32)) else { return };
    let (Some(high), Some(low)) = (word(36), word(40)) else { return };
    let flow = flow as usize;
    if flows.get(flow).is_some_and(|spec| spec.to == site) {
        let number = u64::from(high) << 32 | u64::from(low);
        ledgers[flow].with(|ledger| ledger.note_arrival(number, now.as_micros() * 1000));
    }
}

/// Counts a datagram, and looks in it for what flows carry.
pub(super) fn search(flows: &[Flow], carried: &mut Carried, bytes: &[u8]) {
    carried.datagrams += 1;
    carried.bytes += (bytes.len() + OUTER) as u64;
    let mut payloads = flows.iter().map(|f| f.payload.as_bytes()).filter(|p| !p.is_empty());
    if let Some(first) = payloads.next() {
        carried.searched += 1;
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
        carried.found += u64::from(holds(first) || payloads.any(holds));
    }
}
