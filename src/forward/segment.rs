//! Super-segments: split on the way in, joined on the way out.
//!
//! The kernel hands over TCP and UDP data many packets at a time under one header (TSO, USO), and
//! takes them back the same way, which is worth a factor of six to eight. [`Splitter`] makes the
//! single packets of a super-segment with the lengths, identifications, sequence numbers and flags
//! they would have had; [`Coalescer`] joins packets that follow each other in one flow so that a
//! split yields exactly the same bytes again. Neither copies payload.
//!
//! Rules as in Linux (`tcp_gso_segment`, `tcp_gro_receive`, `udp_gro_receive`) and wireguard-go's
//! `tun/offload_linux.go`: only complete, checksummed packets with equal headers are joined; a
//! push or a short packet ends a super-segment; any other flag stands alone.

use std::collections::BTreeMap;

use bytes::{Buf as _, BytesMut};

use super::checksum;
use super::classify::{Head, TCP, UDP};
use crate::buf::{Offload, Segmentation, TunPacket, TunWrites};

/// The longest IP packet.
const IP_MAX: usize = 65_535;
/// Packets joined at most: one write takes 1,024 pieces (`IOV_MAX`), and more gained nothing.
const CARS: usize = 512;
/// Offsets of the checksum in the transport headers.
const TCP_SUM: u16 = 16;
const UDP_SUM: u16 = 6;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const CWR: u8 = 0x80;

/// Why a super-segment cannot be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentError {
    /// The packet is not what the offload claims, or its lengths contradict each other.
    Malformed,
    /// The segment size is zero.
    NoSize,
}

/// How a packet is laid out, for those two protocols that are split and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    v4: bool,
    tcp: bool,
    /// Offset of the transport header.
    transport: usize,
    /// Offset of the payload.
    payload: usize,
}

impl Layout {
    /// The layout of a packet whose head was read; `None` where it is neither TCP nor UDP, or a
    /// fragment, or shorter than its headers.
    pub fn of(head: &Head, packet: &[u8]) -> Option<Self> {
        if head.fragment {
            return None;
        }
        let transport = usize::from(head.transport);
        let length = match head.protocol {
            TCP => usize::from(packet.get(transport + 12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        let tcp = head.protocol == TCP;
        let payload = transport + length;
        if (tcp && length < 20) || payload > packet.len() {
            return None;
        }
        Some(Self { v4: packet[0] >> 4 == 4, tcp, transport, payload })
    }

    /// Length of the longest packet that a super-segment of `total` bytes is cut into.
    pub fn longest(&self, total: usize, size: u16) -> usize {
        self.payload + usize::from(size).min(total.saturating_sub(self.payload))
    }

    /// What a device needs to finish a checksum that holds only the pseudo header's sum.
    pub fn partial(&self) -> Offload {
        Offload::Checksum { start: self.transport as u16, offset: self.sum_offset() as u16 }
    }

    /// Offset of the checksum within the transport header.
    fn sum_offset(&self) -> usize {
        usize::from(if self.tcp { TCP_SUM } else { UDP_SUM })
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    /// The pseudo header's sum for a packet of `total` bytes with this head.
    fn pseudo(&self, head: &[u8], total: usize) -> u64 {
        let addresses = if self.v4 { &head[12..20] } else { &head[8..40] };
        checksum::pseudo(addresses, self.protocol(), total - self.transport)
    }

    /// Writes lengths and sums into a head for a packet of `total` bytes, of which the transport
    /// checksum holds the pseudo header's sum only.
    fn write_head(&self, head: &mut [u8], total: usize) {
        if self.v4 {
            put16(head, 2, total as u16);
            put16(head, 10, 0);
            let sum = !checksum::fold(checksum::sum(&head[..self.transport], 0));
            put16(head, 10, sum);
        } else {
            put16(head, 4, (total - 40) as u16);
        }
        if !self.tcp {
            put16(head, self.transport + 4, (total - self.transport) as u16);
        }
        let pseudo = checksum::fold(self.pseudo(head, total));
        put16(head, self.transport + self.sum_offset(), pseudo);
    }

    /// Whether the transport checksum is right; none at all (UDP's zero) is not.
    fn sum_holds(&self, packet: &[u8]) -> bool {
        let at = self.transport + self.sum_offset();
        let none = !self.tcp && packet[at..at + 2] == [0, 0];
        let pseudo = self.pseudo(packet, packet.len());
        let sum = checksum::sum(&packet[self.transport..], pseudo);
        !none && checksum::fold(sum) == 0xffff
    }
}

fn put16(packet: &mut [u8], at: usize, value: u16) {
    packet[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get16(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn get32(packet: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

/// Sums what [`Offload::Checksum`] left undone, in place. What it points at may be any protocol;
/// `false`, and nothing changed, where it points outside the packet.
///
/// A sum that comes out as zero is written as it is, as TCP's is computed (RFC 9293 section 3.1) and as
/// Linux writes it into the packets of a super-segment; but at UDP's place as 0xffff, since zero means
/// none there (RFC 768). Linux' `skb_checksum_help` writes 0xffff for all protocols: whoever checks takes
/// either, they are one number in ones' complement (RFC 1624 section 3).
pub fn complete(packet: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > packet.len() {
        return false;
    }
    let sum = !checksum::fold(checksum::sum(&packet[start..], 0));
    put16(packet, at, if sum == 0 && offset == UDP_SUM { 0xffff } else { sum });
    true
}

/// Makes the packets of one super-segment, one at a time, where they lie.
///
/// A packet's head is written right before its payload, over the end of the payload before: by then
/// that packet is done with. Transport checksums hold the pseudo header's sum alone; whoever writes
/// the packet to a device lets that add the rest ([`Layout::partial`]).
#[derive(Debug)]
pub struct Splitter {
    packet: BytesMut,
    layout: Layout,
    /// The headers, with what every packet but the last has in common.
    head: Vec<u8>,
    /// The IPv4 header's sum without length, identification and checksum.
    head_sum: u64,
    /// The pseudo header's sum without the length.
    pseudo: u64,
    /// Flags of the last packet.
    flags: u8,
    size: usize,
    /// Payload bytes already done.
    done: usize,
    index: usize,
}

impl Splitter {
    /// A splitter of `packet`, which the device called [`Offload::Segments`] of `kind` and `size`.
    /// The header's length is that of its `layout`: devices are known to misstate it. A TCP segment
    /// never makes a packet longer than `most`, so that it fits a path narrower than the device;
    /// datagrams keep their size, it is part of what they say.
    ///
    /// # Errors
    /// Where the packet is not what the offload claims.
    pub fn new(
        packet: BytesMut,
        layout: Option<Layout>,
        kind: Segmentation,
        size: u16,
        most: usize,
    ) -> Result<Self, SegmentError> {
        let layout = layout.ok_or(SegmentError::Malformed)?;
        let claimed = match kind {
            Segmentation::Tcp4 => layout.tcp && layout.v4,
            Segmentation::Tcp6 => layout.tcp && !layout.v4,
            Segmentation::Udp => !layout.tcp,
        };
        if !claimed {
            return Err(SegmentError::Malformed);
        }
        let most = most.saturating_sub(layout.payload);
        let size = if layout.tcp { usize::from(size).min(most) } else { usize::from(size) };
        if size == 0 {
            return Err(SegmentError::NoSize);
        }
        let head = packet[..layout.payload].to_vec();
        let mut still = head.clone();
        if layout.v4 {
            put16(&mut still, 2, 0);
            put16(&mut still, 4, 0);
            put16(&mut still, 10, 0);
        }
        let head_sum = checksum::sum(&still[..layout.transport], 0);
        let pseudo = layout.pseudo(&head, layout.transport);
        let flags = if layout.tcp { head[layout.transport + 13] } else { 0 };
        Ok(Self { packet, layout, head, head_sum, pseudo, flags, size, done: 0, index: 0 })
    }

    /// How many packets are left.
    pub fn left(&self) -> usize {
        let rest = self.packet.len() - self.layout.payload - self.done;
        rest.div_ceil(self.size).max(usize::from(self.index == 0))
    }

    /// Bytes of all packets that are left.
    pub fn bytes_left(&self) -> usize {
        let rest = self.packet.len() - self.layout.payload - self.done;
        rest + self.left() * self.layout.payload
    }

    /// Length of the longest packet.
    pub fn longest(&self) -> usize {
        self.layout.payload + self.size.min(self.packet.len() - self.layout.payload)
    }

    /// Length of the next packet; `None` after the last.
    pub fn next_len(&self) -> Option<usize> {
        let rest = self.packet.len() - self.layout.payload - self.done;
        (rest > 0 || self.index == 0).then(|| self.layout.payload + rest.min(self.size))
    }

    /// The next packet; `None` after the last.
    pub fn next_packet(&mut self) -> Option<&mut [u8]> {
        let total = self.next_len()?;
        let Layout { v4, tcp, transport, payload } = self.layout;
        let last = payload + self.done + (total - payload) == self.packet.len();
        let packet = &mut self.packet[self.done..self.done + total];
        let head = &mut packet[..payload];
        head.copy_from_slice(&self.head);
        if v4 {
            let id = get16(head, 4).wrapping_add(self.index as u16);
            let sum = self.head_sum + u64::from(id) + total as u64;
            put16(head, 2, total as u16);
            put16(head, 4, id);
            put16(head, 10, !checksum::fold(sum));
        } else {
            put16(head, 4, (total - 40) as u16);
        }
        if tcp {
            let seq = get32(head, transport + 4).wrapping_add(self.done as u32);
            head[transport + 4..transport + 8].copy_from_slice(&seq.to_be_bytes());
            let first = if self.index == 0 { 0 } else { CWR };
            head[transport + 13] = self.flags & !(first | if last { 0 } else { FIN | PSH });
        } else {
            put16(head, transport + 4, (total - transport) as u16);
        }
        let pseudo = checksum::fold(self.pseudo + (total - transport) as u64);
        put16(head, transport + self.layout.sum_offset(), pseudo);
        self.done += total - payload;
        self.index += 1;
        Some(packet)
    }
}

/// A packet on its way out, with what was read of it.
#[derive(Debug)]
pub struct Outgoing {
    /// The packet.
    pub packet: TunPacket,
    /// How it is laid out, where it may have company.
    pub layout: Option<Layout>,
}

/// A packet of the input that may have followers: the first of a super-segment.
#[derive(Debug)]
struct Train {
    layout: Option<Layout>,
    /// Places in the input, in order.
    cars: Vec<usize>,
    /// Payload bytes of each packet but the last.
    size: usize,
    /// Length of the super-segment so far.
    length: usize,
    next_seq: u32,
    next_id: u16,
    closed: bool,
}

/// Joins packets of a batch into super-segments.
#[derive(Debug, Default)]
pub struct Coalescer {
    trains: Vec<Train>,
    /// The open train of each flow, by the bytes that name the flow.
    open: BTreeMap<[u8; 37], usize>,
    /// The train that grew last, and its flow: the next packet is most likely its too.
    last: Option<usize>,
    spare: Vec<Vec<usize>>,
}

impl Coalescer {
    /// A coalescer without memory of earlier batches: nothing is ever held back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the packets of `input` to `out`, joined where a split would give the same packets
    /// again. Order within each flow is kept. `udp`: whether the device takes UDP super-segments.
    pub fn join(&mut self, input: &mut Vec<Outgoing>, udp: bool, out: &mut TunWrites) {
        self.open.clear();
        self.last = None;
        for place in 0..input.len() {
            self.place(input, place, udp);
        }
        for train in self.trains.drain(..) {
            write(input, &train, out);
            let mut cars = train.cars;
            cars.clear();
            if self.spare.len() < 256 {
                self.spare.push(cars);
            }
        }
        input.clear();
    }

    fn place(&mut self, input: &[Outgoing], at: usize, udp: bool) {
        let Outgoing { packet: TunPacket { bytes: packet, offload }, layout } = &input[at];
        if let Some(layout) = layout {
            let joinable = joinable(packet, layout, *offload, udp);
            if joinable
                && let Some(train) = self.last.and_then(|last| self.trains.get_mut(last))
                && train.takes(input, packet, layout)
            {
                train.couple(at, packet, layout);
                return;
            }
            let key = flow_key(packet, layout);
            if let Some(&open) = self.open.get(&key) {
                let train = &mut self.trains[open];
                if joinable && train.takes(input, packet, layout) {
                    train.couple(at, packet, layout);
                    self.last = Some(open);
                    return;
                }
                // Whatever comes now must not be overtaken by a later packet of its flow.
                train.closed = true;
                self.open.remove(&key);
            }
            if joinable {
                self.last = Some(self.trains.len());
                self.open.insert(key, self.trains.len());
            }
        }
        let mut cars = self.spare.pop().unwrap_or_default();
        cars.push(at);
        let mut train = Train {
            layout: *layout,
            cars,
            size: packet.len() - layout.map_or(0, |layout| layout.payload),
            length: packet.len(),
            next_seq: 0,
            next_id: 0,
            closed: layout.is_none(),
        };
        if let Some(layout) = layout {
            train.follow(packet, layout);
        }
        self.trains.push(train);
    }
}

impl Train {
    /// Whether `packet` continues this train.
    fn takes(&self, input: &[Outgoing], packet: &[u8], layout: &Layout) -> bool {
        let size = packet.len() - layout.payload;
        if self.closed
            || Some(*layout) != self.layout
            || size > self.size
            || self.length + size > IP_MAX
            || self.cars.len() >= CARS
            || (layout.tcp && get32(packet, layout.transport + 4) != self.next_seq)
        {
            return false;
        }
        let first = &input[self.cars[0]].packet.bytes;
        // Identifications either count on, as a split will write them.
        if layout.v4 && get16(packet, 4) != self.next_id {
            return false;
        }
        let t = layout.transport;
        let network = if layout.v4 {
            // Version and TOS; flags and offset, TTL, protocol; addresses and options. Not length,
            // id, sum.
            first[..2] == packet[..2]
                && first[6..10] == packet[6..10]
                && first[12..t] == packet[12..t]
        } else {
            first[..4] == packet[..4] && first[6..t] == packet[6..t]
        };
        // Ports; then acknowledgement, window, urgent pointer and options.
        let transport = first[t..t + 4] == packet[t..t + 4]
            && (!layout.tcp
                || (first[t + 8..t + 13] == packet[t + 8..t + 13]
                    && first[t + 14..t + 16] == packet[t + 14..t + 16]
                    && first[t + 18..layout.payload] == packet[t + 18..layout.payload]));
        network && transport
    }

    fn couple(&mut self, at: usize, packet: &[u8], layout: &Layout) {
        self.cars.push(at);
        self.length += packet.len() - layout.payload;
        self.follow(packet, layout);
    }

    /// Notes what must follow `packet`.
    fn follow(&mut self, packet: &[u8], layout: &Layout) {
        let size = packet.len() - layout.payload;
        if layout.tcp {
            self.next_seq = get32(packet, layout.transport + 4).wrapping_add(size as u32);
            self.closed |= packet[layout.transport + 13] & PSH != 0;
        }
        if layout.v4 {
            self.next_id = get16(packet, 4).wrapping_add(1);
        }
        self.closed |= size < self.size;
    }
}

/// Addresses, ports and protocol.
fn flow_key(packet: &[u8], layout: &Layout) -> [u8; 37] {
    let mut key = [0; 37];
    let addresses = if layout.v4 { &packet[12..20] } else { &packet[8..40] };
    key[..addresses.len()].copy_from_slice(addresses);
    key[32..36].copy_from_slice(&packet[layout.transport..layout.transport + 4]);
    key[36] = u8::from(layout.tcp) | u8::from(layout.v4) << 1;
    key
}

/// Whether a packet may be part of a super-segment at all.
fn joinable(packet: &[u8], layout: &Layout, offload: Offload, udp: bool) -> bool {
    let flags_allow = if layout.tcp {
        packet[layout.transport + 13] & !PSH == ACK && packet[layout.transport + 12] & 0x0f == 0
    } else {
        udp && usize::from(get16(packet, layout.transport + 4)) == packet.len() - layout.transport
    };
    packet.len() > layout.payload
        // Without options, without extension headers: what the kernel itself would join.
        && layout.transport == if layout.v4 { 20 } else { 40 }
        && flags_allow
        && match offload {
            Offload::None => layout.sum_holds(packet),
            Offload::Checksum { .. } => true,
            Offload::Segments { .. } => false,
        }
}

/// Moves a train's packets to `out`: the first with the head of them all, of the others the payload.
fn write(input: &mut [Outgoing], train: &Train, out: &mut TunWrites) {
    let start = out.pieces.len();
    for (index, &place) in train.cars.iter().enumerate() {
        let mut piece = std::mem::take(&mut input[place].packet.bytes);
        if let (Some(layout), true) = (train.layout, index > 0) {
            if layout.tcp {
                // A push ends a train, so it is on the last packet alone.
                let push = piece[layout.transport + 13] & PSH;
                out.pieces[start][layout.transport + 13] |= push;
            }
            piece.advance(layout.payload);
        }
        out.pieces.push(piece);
    }
    let offload = match train.layout {
        Some(layout) if train.cars.len() > 1 => {
            layout.write_head(&mut out.pieces[start][..layout.payload], train.length);
            let kind = match (layout.tcp, layout.v4) {
                (true, true) => Segmentation::Tcp4,
                (true, false) => Segmentation::Tcp6,
                (false, _) => Segmentation::Udp,
            };
            Offload::Segments { kind, header: layout.payload as u16, size: train.size as u16 }
        }
        _ => input[train.cars[0]].packet.offload,
    };
    out.packets.push((start..out.pieces.len(), offload));
}

#[cfg(test)]
mod tests;
