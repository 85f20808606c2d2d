//! Super-segments: split on the way in, joined on the way out.
//!
//! The kernel hands over TCP and UDP data many packets at a time under one header (TSO, USO), and
//! takes them back the same way, which is worth a factor of six to eight. [`Splitter`] writes the
//! single packets of a super-segment with the lengths, identifications, sequence numbers, flags and
//! checksums they would have had; [`Coalescer`] joins packets that follow each other in one flow so
//! that a split yields exactly the same bytes again.
//!
//! Rules as in Linux (`tcp_gso_segment`, `tcp_gro_receive`, `udp_gro_receive`) and wireguard-go's
//! `tun/offload_linux.go`: only complete, checksummed packets with equal headers are joined; a
//! push or a short packet ends a super-segment; any other flag stands alone.

use std::collections::BTreeMap;

use super::checksum;
use super::classify::{Head, TCP, UDP};
use crate::buf::{Offload, Segmentation, TunBatch};

/// The longest IP packet.
const IP_MAX: usize = 65_535;
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

/// What is done with the transport checksum of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// It is summed here.
    Complete,
    /// The field holds the pseudo header's sum and the packet is handed on as
    /// [`Offload::Checksum`]: whoever writes it to a device lets that add the rest.
    Partial,
}

/// How a packet is laid out, for those two protocols that are split and joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    v4: bool,
    tcp: bool,
    /// Offset of the transport header.
    transport: usize,
    /// Offset of the payload.
    payload: usize,
}

impl Layout {
    fn read(packet: &[u8]) -> Option<Self> {
        let head = Head::read(packet).ok()?;
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

    /// Offset of the checksum within the transport header.
    fn sum_offset(&self) -> usize {
        if self.tcp { 16 } else { 6 }
    }

    fn protocol(&self) -> u8 {
        if self.tcp { TCP } else { UDP }
    }

    fn pseudo(&self, packet: &[u8]) -> u64 {
        let addresses = if self.v4 { &packet[12..20] } else { &packet[8..40] };
        checksum::pseudo(addresses, self.protocol(), packet.len() - self.transport)
    }

    /// Writes the network header's lengths and sum to fit the slice.
    fn write_lengths(&self, packet: &mut [u8]) {
        let total = packet.len();
        if self.v4 {
            put16(packet, 2, total as u16);
            put16(packet, 10, 0);
            let sum = !checksum::fold(checksum::sum(&packet[..self.transport], 0));
            put16(packet, 10, sum);
        } else {
            put16(packet, 4, (total - 40) as u16);
        }
        if !self.tcp {
            put16(packet, self.transport + 4, (total - self.transport) as u16);
        }
    }

    /// Writes the transport checksum, or what a device needs to write it.
    fn write_sum(&self, packet: &mut [u8], sums: Sums) -> Offload {
        let at = self.transport + self.sum_offset();
        let pseudo = self.pseudo(packet);
        match sums {
            Sums::Partial => {
                put16(packet, at, checksum::fold(pseudo));
                Offload::Checksum { start: self.transport as u16, offset: self.sum_offset() as u16 }
            }
            Sums::Complete => {
                put16(packet, at, 0);
                let sum = !checksum::fold(checksum::sum(&packet[self.transport..], pseudo));
                // UDP has no checksum zero: that would say "none" (RFC 768).
                put16(packet, at, if sum == 0 && !self.tcp { 0xffff } else { sum });
                Offload::None
            }
        }
    }

    /// Whether the transport checksum is right; none at all (UDP's zero) is not.
    fn sum_holds(&self, packet: &[u8]) -> bool {
        let at = self.transport + self.sum_offset();
        let none = !self.tcp && packet[at..at + 2] == [0, 0];
        let sum = checksum::sum(&packet[self.transport..], self.pseudo(packet));
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

/// What a device needs to finish the checksum of a packet that carries only the pseudo header's
/// sum; `None` where the packet is neither TCP nor UDP.
pub fn partial(packet: &[u8]) -> Option<Offload> {
    let layout = Layout::read(packet)?;
    let offset = layout.sum_offset() as u16;
    Some(Offload::Checksum { start: layout.transport as u16, offset })
}

/// Sums what [`Offload::Checksum`] left undone, in place. What it points at may be any protocol;
/// `false`, and nothing changed, where it points outside the packet.
pub fn complete(packet: &mut [u8], start: u16, offset: u16) -> bool {
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > packet.len() {
        return false;
    }
    let sum = !checksum::fold(checksum::sum(&packet[start..], 0));
    put16(packet, at, if sum == 0 { 0xffff } else { sum });
    true
}

/// Writes the packets of one super-segment, one at a time.
#[derive(Clone, Debug)]
pub struct Splitter<'a> {
    packet: &'a [u8],
    layout: Layout,
    size: usize,
    sums: Sums,
    /// Payload bytes already written.
    done: usize,
    index: usize,
}

impl<'a> Splitter<'a> {
    /// A splitter of `packet`, which the device called [`Offload::Segments`] of `kind` and `size`.
    /// The header's length is read from the packet: devices are known to misstate it. A TCP segment
    /// never carries more than `most` payload bytes, so that it fits a path narrower than the
    /// device; datagrams keep their size, it is part of what they say.
    ///
    /// # Errors
    /// Where the packet is not what the offload claims.
    pub fn new(
        packet: &'a [u8],
        kind: Segmentation,
        size: u16,
        most: usize,
        sums: Sums,
    ) -> Result<Self, SegmentError> {
        let layout = Layout::read(packet).ok_or(SegmentError::Malformed)?;
        let claimed = match kind {
            Segmentation::Tcp4 => layout.tcp && layout.v4,
            Segmentation::Tcp6 => layout.tcp && !layout.v4,
            Segmentation::Udp => !layout.tcp,
        };
        if !claimed {
            return Err(SegmentError::Malformed);
        }
        let size = if layout.tcp { usize::from(size).min(most) } else { usize::from(size) };
        if size == 0 {
            return Err(SegmentError::NoSize);
        }
        Ok(Self { packet, layout, size, sums, done: 0, index: 0 })
    }

    /// How many packets there are in all.
    pub fn count(&self) -> usize {
        (self.packet.len() - self.layout.payload).div_ceil(self.size).max(1)
    }

    /// Length of the longest packet.
    pub fn longest(&self) -> usize {
        self.layout.payload + self.size.min(self.packet.len() - self.layout.payload)
    }

    /// Appends the next packet to `out`; `None` after the last.
    pub fn next_into(&mut self, out: &mut Vec<u8>) -> Option<Offload> {
        let payload = &self.packet[self.layout.payload..];
        if self.done >= payload.len() && self.index > 0 {
            return None;
        }
        let take = self.size.min(payload.len() - self.done);
        let last = self.done + take == payload.len();
        let start = out.len();
        out.extend_from_slice(&self.packet[..self.layout.payload]);
        out.extend_from_slice(&payload[self.done..self.done + take]);
        let packet = &mut out[start..];
        if self.layout.v4 {
            let id = get16(packet, 4).wrapping_add(self.index as u16);
            put16(packet, 4, id);
        }
        if self.layout.tcp {
            let at = self.layout.transport;
            let seq = get32(packet, at + 4).wrapping_add(self.done as u32);
            packet[at + 4..at + 8].copy_from_slice(&seq.to_be_bytes());
            if !last {
                packet[at + 13] &= !(FIN | PSH);
            }
            if self.index > 0 {
                packet[at + 13] &= !CWR;
            }
        }
        self.layout.write_lengths(packet);
        let offload = self.layout.write_sum(packet, self.sums);
        self.done += take;
        self.index += 1;
        Some(offload)
    }
}

/// A packet of the input that may have followers: the first of a super-segment.
#[derive(Clone, Debug)]
struct Train {
    layout: Layout,
    /// Places in the input batch, in order.
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
    spare: Vec<Vec<usize>>,
}

impl Coalescer {
    /// A coalescer without memory of earlier batches: nothing is ever held back.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends the packets of `input` to `out`, joined where a split would give the same packets
    /// again. Order within each flow is kept. `udp`: whether the device takes UDP super-segments.
    pub fn join(&mut self, input: &TunBatch, udp: bool, out: &mut TunBatch) {
        self.open.clear();
        for (place, (packet, offload)) in input.iter().enumerate() {
            self.place(input, place, packet, offload, udp);
        }
        for train in self.trains.drain(..) {
            write(input, &train, out);
            let mut cars = train.cars;
            cars.clear();
            if self.spare.len() < 256 {
                self.spare.push(cars);
            }
        }
    }

    fn place(&mut self, input: &TunBatch, at: usize, packet: &[u8], offload: Offload, udp: bool) {
        let layout = Layout::read(packet);
        let key = layout.map(|layout| flow_key(packet, &layout));
        if let (Some(layout), Some(key)) = (layout, key) {
            let joinable = joinable(packet, &layout, offload, udp);
            if let Some(&open) = self.open.get(&key) {
                let train = &mut self.trains[open];
                if joinable && train.takes(input, packet, &layout) {
                    train.couple(at, packet, &layout);
                    return;
                }
                // Whatever comes now must not be overtaken by a later packet of its flow.
                self.open.remove(&key);
            }
            if joinable {
                self.open.insert(key, self.trains.len());
            }
        }
        let layout = layout.unwrap_or(Layout { v4: true, tcp: false, transport: 0, payload: 0 });
        let mut cars = self.spare.pop().unwrap_or_default();
        cars.push(at);
        let size = packet.len() - layout.payload;
        let mut train = Train {
            layout,
            cars,
            size,
            length: packet.len(),
            next_seq: 0,
            next_id: 0,
            closed: false,
        };
        if key.is_some() {
            train.follow(packet, &layout);
        }
        self.trains.push(train);
    }
}

impl Train {
    /// Whether `packet` continues this train.
    fn takes(&self, input: &TunBatch, packet: &[u8], layout: &Layout) -> bool {
        let size = packet.len() - layout.payload;
        if self.closed
            || *layout != self.layout
            || size > self.size
            || self.length + size > IP_MAX
            || (layout.tcp && get32(packet, layout.transport + 4) != self.next_seq)
        {
            return false;
        }
        let first = &input.slab[input.packets[self.cars[0]].range.clone()];
        // Identifications either count on, as a split will write them.
        if layout.v4 && get16(packet, 4) != self.next_id {
            return false;
        }
        let t = layout.transport;
        let network = if layout.v4 {
            // Version and TOS; flags and offset, TTL, protocol; options. Not length, id, sum.
            first[..2] == packet[..2]
                && first[6..10] == packet[6..10]
                && first[20..t] == packet[20..t]
        } else {
            first[..4] == packet[..4]
                && first[6..8] == packet[6..8]
                && first[40..t] == packet[40..t]
        };
        // Acknowledgement, window, urgent pointer and options must agree; ports do already.
        let transport = !layout.tcp
            || (first[t + 8..t + 13] == packet[t + 8..t + 13]
                && first[t + 14..t + 16] == packet[t + 14..t + 16]
                && first[t + 18..layout.payload] == packet[t + 18..layout.payload]);
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
    let sum_holds = match offload {
        Offload::None => layout.sum_holds(packet),
        Offload::Checksum { .. } => true,
        Offload::Segments { .. } => false,
    };
    packet.len() > layout.payload
        // Without options, without extension headers: what the kernel itself would join.
        && layout.transport == if layout.v4 { 20 } else { 40 }
        && flags_allow
        && sum_holds
}

fn write(input: &TunBatch, train: &Train, out: &mut TunBatch) {
    let bytes = |place: usize| &input.slab[input.packets[place].range.clone()];
    if let [single] = train.cars[..] {
        out.push(bytes(single), input.packets[single].offload);
        return;
    }
    let layout = &train.layout;
    let start = out.slab.len();
    for (index, &place) in train.cars.iter().enumerate() {
        let from = if index == 0 { 0 } else { layout.payload };
        out.slab.extend_from_slice(&bytes(place)[from..]);
    }
    let packet = &mut out.slab[start..];
    if layout.tcp
        && let Some(&last) = train.cars.last()
    {
        packet[layout.transport + 13] |= bytes(last)[layout.transport + 13] & PSH;
    }
    layout.write_lengths(packet);
    layout.write_sum(packet, Sums::Partial);
    let kind = match (layout.tcp, layout.v4) {
        (true, true) => Segmentation::Tcp4,
        (true, false) => Segmentation::Tcp6,
        (false, _) => Segmentation::Udp,
    };
    let offload =
        Offload::Segments { kind, header: layout.payload as u16, size: train.size as u16 };
    out.packets.push(crate::buf::TunPacket { range: start..out.slab.len(), offload });
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    /// A TCP packet as etherparse builds it: an oracle for checksums that shares no code with ours.
    fn tcp(v4: bool, seq: u32, id: u16, psh: bool, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = if v4 {
            let mut ip = etherparse::Ipv4Header::new(
                0,
                64,
                etherparse::IpNumber::TCP,
                [10, 0, 0, 1],
                [10, 0, 0, 2],
            )
            .unwrap();
            ip.identification = id;
            ip.dont_fragment = true;
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        } else {
            PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
        };
        let mut builder = builder.tcp(1000, 2000, seq, 500).ack(77);
        builder = builder.options(&[etherparse::TcpOptionElement::Timestamp(5, 6)]).unwrap();
        if psh {
            builder = builder.psh();
        }
        builder.write(&mut packet, payload).unwrap();
        packet
    }

    fn udp(v4: bool, id: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        let builder = if v4 {
            let mut ip = etherparse::Ipv4Header::new(
                0,
                64,
                etherparse::IpNumber::UDP,
                [10, 0, 0, 1],
                [10, 0, 0, 2],
            )
            .unwrap();
            ip.identification = id;
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
        } else {
            PacketBuilder::ipv6([0x20; 16], [0x21; 16], 64)
        };
        builder.udp(9, 10).write(&mut packet, payload).unwrap();
        packet
    }

    fn join(packets: &[Vec<u8>]) -> TunBatch {
        let (mut input, mut out) = (TunBatch::default(), TunBatch::default());
        for packet in packets {
            input.push(packet, Offload::None);
        }
        Coalescer::new().join(&input, true, &mut out);
        out
    }

    fn split_all(batch: &TunBatch) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        for (packet, offload) in batch.iter() {
            let Offload::Segments { kind, size, .. } = offload else {
                packets.push(packet.to_vec());
                continue;
            };
            let mut s = Splitter::new(packet, kind, size, 65_535, Sums::Complete).unwrap();
            let (count, longest) = (s.count(), s.longest());
            let before = packets.len();
            let mut out = Vec::new();
            while s.next_into(&mut out).is_some() {
                assert!(out.len() <= longest);
                packets.push(std::mem::take(&mut out));
            }
            assert_eq!(packets.len() - before, count);
        }
        packets
    }

    #[test]
    fn a_stream_becomes_one_super_segment_and_a_push_ends_it() {
        let packets = [
            tcp(true, 0, 1, false, &[1; 100]),
            tcp(true, 100, 2, false, &[2; 100]),
            tcp(true, 200, 3, true, &[3; 50]),
            tcp(true, 250, 4, false, &[4; 100]),
        ];
        let out = join(&packets);
        let shape: Vec<_> = out.iter().map(|(p, o)| (p.len(), o)).collect();
        let head = 52;
        let first = Offload::Segments { kind: Segmentation::Tcp4, header: head, size: 100 };
        assert_eq!(shape, [(52 + 250, first), (152, Offload::None)]);
        assert_eq!(split_all(&out), packets);
    }

    #[test]
    fn gaps_other_flags_and_wrong_checksums_stand_alone() {
        let mut broken = tcp(true, 100, 2, false, &[2; 100]);
        broken[60] ^= 1;
        let out = join(&[tcp(true, 0, 1, false, &[1; 100]), broken.clone()]);
        assert_eq!(out.packets.len(), 2, "a broken packet stays broken and alone");
        assert_eq!(out.iter().nth(1).unwrap().0, broken);
        let gap = join(&[tcp(false, 0, 0, false, &[1; 9]), tcp(false, 10, 0, false, &[1; 9])]);
        assert_eq!(gap.packets.len(), 2);
        let grows = join(&[tcp(false, 0, 0, false, &[1; 9]), tcp(false, 9, 0, false, &[1; 10])]);
        assert_eq!(grows.packets.len(), 2, "only the last packet may differ, and be shorter");
        let pure_acks = join(&[tcp(true, 0, 1, false, &[]), tcp(true, 0, 2, false, &[])]);
        assert_eq!(pure_acks.packets.len(), 2);
    }

    #[test]
    fn a_packet_that_stands_alone_is_not_overtaken_by_its_flow() {
        let mut fin = tcp(true, 100, 2, false, &[2; 100]);
        fin[33] |= FIN;
        let packets = [tcp(true, 0, 1, false, &[1; 100]), fin, tcp(true, 200, 3, false, &[3; 100])];
        let out = join(&packets);
        let seqs: Vec<_> = out.iter().map(|(p, _)| get32(p, 24)).collect();
        assert_eq!(seqs, [0, 100, 200]);
    }

    #[test]
    fn a_super_segment_is_split_to_a_narrower_path() {
        let packet = tcp(false, 1000, 0, true, &[7; 3000]);
        let mut s = Splitter::new(&packet, Segmentation::Tcp6, 1400, 1000, Sums::Complete).unwrap();
        let mut out = Vec::new();
        let mut seen = Vec::new();
        while s.next_into(&mut out).is_some() {
            seen.push((out.len(), get32(&out, 44), out[40 + 13] & PSH != 0));
            out.clear();
        }
        assert_eq!(seen, [(1072, 1000, false), (1072, 2000, false), (1072, 3000, true)]);
    }

    #[test]
    fn a_partial_checksum_is_what_a_device_completes() {
        let whole = udp(true, 1, &[9; 33]);
        let packet = udp(true, 1, &[9; 33]);
        let mut s = Splitter::new(&packet, Segmentation::Udp, 33, 0, Sums::Partial).unwrap();
        let mut out = Vec::new();
        let offload = s.next_into(&mut out).unwrap();
        assert_eq!(partial(&out), Some(offload));
        let Offload::Checksum { start, offset } = offload else { panic!("{offload:?}") };
        assert!(complete(&mut out, start, offset));
        assert_eq!(out, whole);
        assert!(!complete(&mut out, 60, 6), "outside of the packet");
    }

    #[test]
    fn a_false_claim_is_refused() {
        let packet = tcp(true, 0, 1, false, &[1; 100]);
        let new = |p: &[u8], kind, size| Splitter::new(p, kind, size, 1400, Sums::Complete).err();
        assert_eq!(new(&packet, Segmentation::Tcp6, 50), Some(SegmentError::Malformed));
        assert_eq!(new(&packet, Segmentation::Udp, 50), Some(SegmentError::Malformed));
        assert_eq!(new(&packet, Segmentation::Tcp4, 0), Some(SegmentError::NoSize));
        assert_eq!(new(&packet[..30], Segmentation::Tcp4, 50), Some(SegmentError::Malformed));
    }

    proptest! {
        /// Two flows and a stranger, interleaved: joined and split again, each flow is byte for
        /// byte what it was, in order.
        #[test]
        fn a_split_undoes_a_join(
            steps in proptest::collection::vec((0u8..4, 1usize..300, any::<bool>(), any::<bool>()), 1..80),
            v4: bool,
            size in 1usize..300,
        ) {
            let (mut seq, mut id, mut udp_id) = (u32::MAX - 500, u16::MAX - 3, 7u16);
            let mut packets = Vec::new();
            for &(kind, short, psh, full) in &steps {
                let length = if full { size } else { short };
                let payload = vec![packets.len() as u8; length];
                match kind {
                    0 | 1 => {
                        packets.push(tcp(v4, seq, id, psh, &payload));
                        seq = seq.wrapping_add(length as u32);
                        id = id.wrapping_add(1);
                    }
                    2 => {
                        packets.push(udp(v4, udp_id, &payload));
                        udp_id = udp_id.wrapping_add(1);
                    }
                    _ => packets.push(udp(!v4, 0, &payload)),
                }
            }
            let out = join(&packets);
            for (packet, _) in out.iter() {
                prop_assert!(Head::read(packet).is_ok());
            }
            let again = split_all(&out);
            let flow = |all: &[Vec<u8>], p: usize, four: bool| -> Vec<Vec<u8>> {
                all.iter()
                    .filter(|x| (x[0] >> 4 == 4) == four && x[if four { 9 } else { 6 }] == p as u8)
                    .cloned().collect()
            };
            for (p, four) in [(6, v4), (17, v4), (17, !v4)] {
                prop_assert_eq!(flow(&again, p, four), flow(&packets, p, four));
            }
        }

        #[test]
        fn no_packet_panics_the_splitter(
            mut bytes in proptest::collection::vec(any::<u8>(), 20..200), size: u16, udp: bool,
        ) {
            let len = bytes.len() as u16;
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
            bytes[6..8].copy_from_slice(&[0, 0]);
            bytes[9] = if udp { UDP } else { TCP };
            let kind = if udp { Segmentation::Udp } else { Segmentation::Tcp4 };
            if let Ok(mut s) = Splitter::new(&bytes, kind, size, 1400, Sums::Complete) {
                let mut out = Vec::new();
                while s.next_into(&mut out).is_some() {}
            }
            let mut batch = TunBatch::default();
            batch.push(&bytes, Offload::None);
            Coalescer::new().join(&batch, true, &mut TunBatch::default());
        }
    }
}
