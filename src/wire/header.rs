//! The three headers: clear, route (sealed per hop), end (clear, bound end to end).
//!
//! ```text
//! clear  |  0: kind  |  1: reserved 4 bits, epoch 4 bits  |  2: index 4  |  6: counter 6  |  12
//!
//! route  |  0: hop_seq 4  |  4: class 6 bits, flags 8 bits, ecn 2 bits  |  6: segments_left
//!        |  7: residual  |  8: budget, 100 µs  |  10: age, 100 µs  |  12: source
//!        |  14: segments, 4 × 2  |  22
//!
//! end    |  0: epoch  |  1: lane  |  2: stream 2  |  4: counter 8  |  12
//! ```
//!
//! The route is written once, by the source; on its way only `hop_seq`, `age`, `segments_left`
//! and the hop's own flags change, all of constant size, so that a relay moves no byte.

use std::time::Duration;

use super::{Kind, Reader, VERSION, WireError};
use crate::id::{Class, NodeId, StreamId};
use crate::time::{Instant, micros};
use crate::unit::Residual;

/// Microseconds in one tick of [`RouteHeader::budget`] and [`RouteHeader::age`].
pub const TICK_US: u64 = 100;

/// A span in ticks of 100 µs, rounded up and capped at 6.5535 s.
pub fn ticks(span: Duration) -> u16 {
    ticks_of(micros(span))
}

/// The same of the time from one instant to a later one.
pub fn ticks_since(now: Instant, earlier: Instant) -> u16 {
    ticks_of(now.micros_since(earlier))
}

fn ticks_of(us: u64) -> u16 {
    u16::try_from(us.div_ceil(TICK_US)).unwrap_or(u16::MAX)
}

/// The instant so many ticks after another.
pub const fn ticks_after(earlier: Instant, ticks: u16) -> Instant {
    Instant::from_micros(earlier.as_micros().saturating_add(ticks as u64 * TICK_US))
}

/// The span of so many ticks.
pub const fn span(ticks: u16) -> Duration {
    Duration::from_micros(ticks as u64 * TICK_US)
}

/// The clear header: it opens every frame and is all that a stranger can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clear {
    /// What follows.
    pub kind: Kind,
    /// Low four bits of the hop key's epoch.
    pub epoch: u8,
    /// Names (session, link, lane) at the receiver, which allotted it; the last byte is the lane.
    pub index: u32,
    /// The hop nonce's counter, 48 bits, never used twice for an index.
    pub counter: u64,
}

impl Clear {
    /// Its size.
    pub const LEN: usize = 12;
    /// Where the lane stands in a frame: the last byte of the index.
    pub const LANE_AT: usize = 5;
    /// The first counter that does not fit.
    pub const COUNTER_END: u64 = 1 << 48;

    /// Reads the header at the front of a frame and gives what follows it.
    ///
    /// # Errors
    /// Too short, an unknown kind, or reserved bits set.
    pub fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), WireError> {
        let mut r = Reader::new(bytes);
        let kind = Kind::parse(r.u8("kind")?)?;
        let epoch = r.u8("epoch")?;
        if epoch & 0xf0 != 0 {
            return Err(WireError::Reserved("epoch"));
        }
        let index = r.u32("index")?;
        let [a, b, c, d, e, f] = r.array("counter")?;
        let counter = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        Ok((Self { kind, epoch, index, counter }, r.rest()))
    }

    /// The header as bytes: also the associated data of what is sealed under the hop key.
    ///
    /// The caller keeps `counter` below [`Clear::COUNTER_END`]; of `epoch` the low bits are taken.
    pub const fn to_bytes(&self) -> [u8; Self::LEN] {
        debug_assert!(self.counter < Self::COUNTER_END);
        let [i0, i1, i2, i3] = self.index.to_be_bytes();
        let [_, _, a, b, c, d, e, f] = self.counter.to_be_bytes();
        [self.kind as u8, self.epoch & 0x0f, i0, i1, i2, i3, a, b, c, d, e, f]
    }

    /// The lane that an index belongs to.
    pub const fn lane(&self) -> u8 {
        (self.index & 0xff) as u8
    }
}

/// What a packet asks of the nodes it meets. Eight bits in the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The egress restores the stream's order.
    pub ordered: bool,
    /// The transport checksum holds only the pseudo header's sum: the egress completes it.
    pub checksum_partial: bool,
    /// A relay has rewritten the rest of the route; no other may.
    pub rewritten: bool,
    /// The sender of this hop asks for feedback at once. A hop's own: cleared by a relay.
    pub ack_wanted: bool,
    /// The frame is a source symbol of this hop's code: the receiver keeps it for repair symbols to
    /// come. A hop's own: cleared by a relay.
    pub coded: bool,
}

impl Flags {
    /// Nothing asked.
    const NONE: Self = Self {
        ordered: false,
        checksum_partial: false,
        rewritten: false,
        ack_wanted: false,
        coded: false,
    };
    const ORDERED: u8 = 0x01;
    const CHECKSUM_PARTIAL: u8 = 0x02;
    const REWRITTEN: u8 = 0x04;
    const ACK_WANTED: u8 = 0x08;
    const CODED: u8 = 0x10;
    /// The flags of one hop, written anew with every sending.
    const HOP: u8 = Self::ACK_WANTED | Self::CODED;

    /// The flags of these bits.
    ///
    /// # Errors
    /// [`WireError::Reserved`] where a bit without meaning is set.
    pub const fn from_bits(bits: u8) -> Result<Self, WireError> {
        let known = Self::ORDERED | Self::CHECKSUM_PARTIAL | Self::REWRITTEN | Self::HOP;
        if bits & !known != 0 {
            return Err(WireError::Reserved("flags"));
        }
        Ok(Self {
            ordered: bits & Self::ORDERED != 0,
            checksum_partial: bits & Self::CHECKSUM_PARTIAL != 0,
            rewritten: bits & Self::REWRITTEN != 0,
            ack_wanted: bits & Self::ACK_WANTED != 0,
            coded: bits & Self::CODED != 0,
        })
    }

    /// The bits of these flags.
    pub const fn bits(self) -> u8 {
        let mut bits = 0;
        if self.ordered {
            bits |= Self::ORDERED;
        }
        if self.checksum_partial {
            bits |= Self::CHECKSUM_PARTIAL;
        }
        if self.rewritten {
            bits |= Self::REWRITTEN;
        }
        if self.ack_wanted {
            bits |= Self::ACK_WANTED;
        }
        if self.coded {
            bits |= Self::CODED;
        }
        bits
    }

    /// The bits that the source sets for the egress, and which no relay may change: they are bound
    /// into the end-to-end seal.
    pub const fn end_bits(self) -> u8 {
        self.bits() & (Self::ORDERED | Self::CHECKSUM_PARTIAL)
    }
}

/// Where a packet goes: the nodes after the source, in order. One to four; zero ends the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments([u16; Segments::LIMIT]);

impl Segments {
    /// Places for nodes in the header. Computed paths use three; the fourth is for a relay that
    /// rewrites.
    pub const LIMIT: usize = 4;
    /// Numbers from here on name one link of the node before. A capability bit gives them meaning;
    /// this version writes none and refuses them.
    pub const LINKS_FROM: u16 = 0xff00;

    /// The list of these nodes, or `None` where there are none or too many.
    pub fn new(nodes: &[NodeId]) -> Option<Self> {
        if nodes.is_empty() || nodes.len() > Self::LIMIT {
            return None;
        }
        let mut raw = [0; Self::LIMIT];
        for (place, node) in raw.iter_mut().zip(nodes) {
            *place = node.get();
        }
        Some(Self(raw))
    }

    /// Checks numbers as they lie in the header.
    ///
    /// # Errors
    /// [`WireError::Value`]: no node, a hole, or a number that names no node.
    pub fn from_raw(raw: [u16; Self::LIMIT]) -> Result<Self, WireError> {
        let count = raw.iter().take_while(|&&n| n != 0).count();
        let holes = raw[count..].iter().any(|&n| n != 0);
        if count == 0 || holes || raw.iter().any(|&n| n > NodeId::MAX) {
            return Err(WireError::Value("segments"));
        }
        Ok(Self(raw))
    }

    /// The numbers as they lie in the header, unused places zero.
    pub const fn raw(&self) -> [u16; Self::LIMIT] {
        self.0
    }

    /// How many nodes there are, at least one.
    pub fn count(&self) -> usize {
        self.0.iter().take_while(|&&n| n != 0).count()
    }

    /// The node at this place.
    pub fn at(&self, place: usize) -> Option<NodeId> {
        self.0.get(place).copied().and_then(NodeId::new)
    }

    /// The nodes in order.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().copied().map_while(NodeId::new)
    }

    /// The last node: where the packet leaves the overlay.
    pub fn destination(&self) -> NodeId {
        self.iter().last().expect("a segment list holds at least one node")
    }
}

/// The route header: what a hop seals, and a relay reads and carries on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteHeader {
    /// Number among the data frames of this hop and lane. A retransmission keeps it. Zero in
    /// carrier frames, which are not repaired.
    pub hop_seq: u32,
    /// The source's class.
    pub class: Class,
    /// What is asked of the nodes on the way.
    pub flags: Flags,
    /// ECN bits of the packet on this hop.
    pub ecn: u8,
    /// How many segments come after the receiver of this hop.
    pub segments_left: u8,
    /// The share of such packets that may be lost or late over the whole path, as the source's class
    /// asks. Carried unchanged by relays.
    pub residual: Residual,
    /// Age, in ticks of 100 µs, from which on the packet is worth no repair. Counted from the
    /// source.
    pub budget: u16,
    /// Time on the way so far, in ticks of 100 µs, as far as the nodes behind could know.
    pub age: u16,
    /// The node that sealed the packet.
    pub source: NodeId,
    /// The nodes after the source.
    pub segments: Segments,
}

impl RouteHeader {
    /// Its size.
    pub const LEN: usize = 22;

    const HOP_SEQ: usize = 0;
    const BITS: usize = 4;
    const SEGMENTS_LEFT: usize = 6;
    const RESIDUAL: usize = 7;
    const BUDGET: usize = 8;
    const AGE: usize = 10;
    const SOURCE: usize = 12;

    /// Reads and checks a header.
    ///
    /// # Errors
    /// Short, reserved bits set, or a number that cannot be: source, segments, `segments_left`.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let hop_seq = r.u32("hop_seq")?;
        let bits = r.u16("class")?;
        let segments_left = r.u8("segments_left")?;
        let residual = Residual(r.u8("residual")?);
        let budget = r.u16("budget")?;
        let age = r.u16("age")?;
        let source = NodeId::new(r.u16("source")?).ok_or(WireError::Value("source"))?;
        let mut raw = [0; Segments::LIMIT];
        for place in &mut raw {
            *place = r.u16("segments")?;
        }
        let segments = Segments::from_raw(raw)?;
        r.end()?;
        if usize::from(segments_left) >= segments.count() {
            return Err(WireError::Value("segments_left"));
        }
        let class = Class((bits >> 10) as u8);
        let flags = Flags::from_bits((bits >> 2) as u8)?;
        let ecn = (bits & 3) as u8;
        Ok(Self {
            hop_seq,
            class,
            flags,
            ecn,
            segments_left,
            residual,
            budget,
            age,
            source,
            segments,
        })
    }

    /// The header as bytes. Of the class six bits are taken, of ECN two.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[Self::HOP_SEQ..][..4].copy_from_slice(&self.hop_seq.to_be_bytes());
        out[Self::BITS..][..2].copy_from_slice(&self.bits().to_be_bytes());
        out[Self::SEGMENTS_LEFT] = self.segments_left;
        out[Self::RESIDUAL] = self.residual.0;
        out[Self::BUDGET..][..2].copy_from_slice(&self.budget.to_be_bytes());
        out[Self::AGE..][..2].copy_from_slice(&self.age.to_be_bytes());
        out[12..14].copy_from_slice(&self.source.get().to_be_bytes());
        for (place, number) in out[14..].chunks_exact_mut(2).zip(self.segments.raw()) {
            place.copy_from_slice(&number.to_be_bytes());
        }
        out
    }

    fn bits(&self) -> u16 {
        let class = u16::from(self.class.0 & 0x3f) << 10;
        class | u16::from(self.flags.bits()) << 2 | u16::from(self.ecn & 3)
    }

    /// The node this hop's receiver must be.
    pub fn receiver(&self) -> Option<NodeId> {
        let after = usize::from(self.segments_left) + 1;
        self.segments.count().checked_sub(after).and_then(|place| self.segments.at(place))
    }

    /// The node after this hop's receiver, if the packet goes on.
    pub fn next(&self) -> Option<NodeId> {
        let left = usize::from(self.segments_left);
        if left == 0 {
            return None;
        }
        self.segments.count().checked_sub(left).and_then(|place| self.segments.at(place))
    }

    /// The node that sent the frame to this hop's receiver: the segment before it, or the source.
    pub fn sender(&self) -> Option<NodeId> {
        let place = self.segments.count().checked_sub(usize::from(self.segments_left) + 1)?;
        if place == 0 { Some(self.source) } else { self.segments.at(place - 1) }
    }

    /// Where the packet leaves the overlay.
    pub fn destination(&self) -> NodeId {
        self.segments.destination()
    }

    /// Time left before repair is pointless: none once the age has reached the budget.
    pub const fn time_left(&self) -> Duration {
        span(self.budget.saturating_sub(self.age))
    }

    /// The budget, in ticks, of a header that lies as bytes.
    pub const fn budget_of(bytes: &[u8; Self::LEN]) -> u16 {
        u16::from_be_bytes([bytes[Self::BUDGET], bytes[Self::BUDGET + 1]])
    }

    /// What the source's class asks for, of a header that lies as bytes.
    pub const fn residual_of(bytes: &[u8; Self::LEN]) -> Residual {
        Residual(bytes[Self::RESIDUAL])
    }

    /// The source's number, of a header that lies as bytes.
    pub const fn source_of(bytes: &[u8; Self::LEN]) -> u16 {
        u16::from_be_bytes([bytes[Self::SOURCE], bytes[Self::SOURCE + 1]])
    }

    /// How many hops the whole route has, and how many follow this one, of a header that lies as bytes.
    pub fn hops_of(bytes: &[u8; Self::LEN]) -> (u32, u32) {
        let hops = bytes[14..].chunks_exact(2).take_while(|n| *n != [0, 0]).count();
        (hops as u32, u32::from(bytes[Self::SEGMENTS_LEFT]))
    }

    /// The ECN bits of a header that lies as bytes.
    pub const fn ecn_of(bytes: &[u8; Self::LEN]) -> u8 {
        bytes[Self::BITS + 1] & 3
    }

    /// Whether the egress restores the stream's order, of a header that lies as bytes.
    pub const fn ordered_of(bytes: &[u8; Self::LEN]) -> bool {
        // The flags are bits 9..2 of the two bytes at BITS.
        bytes[Self::BITS + 1] & Flags::ORDERED << 2 != 0
    }

    /// Writes a new hop sequence and the hop's own flags into a header that lies as bytes: whether
    /// feedback is wanted at once, and whether the frame is a source symbol of the hop's code.
    pub fn patch_hop(bytes: &mut [u8; Self::LEN], hop_seq: u32, ack_wanted: bool, coded: bool) {
        bytes[Self::HOP_SEQ..][..4].copy_from_slice(&hop_seq.to_be_bytes());
        // The flags are bits 9..2 of the two bytes at BITS.
        let [high, low] = [bytes[Self::BITS], bytes[Self::BITS + 1]];
        let hop = Flags { ack_wanted, coded, ..Flags::NONE }.bits();
        let kept = u16::from_be_bytes([high, low]) & !(u16::from(Flags::HOP) << 2);
        bytes[Self::BITS..][..2].copy_from_slice(&(kept | u16::from(hop) << 2).to_be_bytes());
    }

    /// Writes a new age, in ticks, into a header that lies as bytes.
    pub fn patch_age(bytes: &mut [u8; Self::LEN], age: u16) {
        bytes[Self::AGE..][..2].copy_from_slice(&age.to_be_bytes());
    }

    /// Writes how many segments are left into a header that lies as bytes.
    pub fn patch_segments_left(bytes: &mut [u8; Self::LEN], left: u8) {
        bytes[Self::SEGMENTS_LEFT] = left;
    }
}

/// The end header: which key and nonce the payload is sealed with. Readable, but bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndHeader {
    /// Low eight bits of the end key's epoch.
    pub epoch: u8,
    /// The source's lane.
    pub lane: u8,
    /// The bucket of flows.
    pub stream: StreamId,
    /// Number in the stream: the nonce's counter, the replay window's number, and the order.
    pub counter: u64,
}

impl EndHeader {
    /// Its size.
    pub const LEN: usize = 12;

    /// Reads a header. Every value is possible.
    ///
    /// # Errors
    /// None that its fixed size does not exclude; the type keeps the door open.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let epoch = r.u8("epoch")?;
        let lane = r.u8("lane")?;
        let stream = StreamId(r.u16("stream")?);
        let counter = r.u64("counter")?;
        r.end()?;
        Ok(Self { epoch, lane, stream, counter })
    }

    /// The header as bytes.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let [s0, s1] = self.stream.0.to_be_bytes();
        let mut out = [self.epoch, self.lane, s0, s1, 0, 0, 0, 0, 0, 0, 0, 0];
        out[4..].copy_from_slice(&self.counter.to_be_bytes());
        out
    }
}

/// Bytes of the end-to-end seal's associated data.
pub const END_AAD: usize = 7 + EndHeader::LEN;

/// What the end-to-end seal binds beside the payload, so that no relay can change it unseen:
/// version, source, destination, class, the flags meant for the egress, and the end header.
pub fn end_aad(route: &RouteHeader, end: &EndHeader) -> [u8; END_AAD] {
    let [s0, s1] = route.source.get().to_be_bytes();
    let [d0, d1] = route.destination().get().to_be_bytes();
    let mut out = [0; END_AAD];
    out[..7].copy_from_slice(&[
        VERSION,
        s0,
        s1,
        d0,
        d1,
        route.class.0 & 0x3f,
        route.flags.end_bits(),
    ]);
    out[7..].copy_from_slice(&end.to_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn header(nodes: &[u16], left: u8) -> RouteHeader {
        let nodes: Vec<_> = nodes.iter().map(|&n| node(n)).collect();
        RouteHeader {
            hop_seq: 0x0102_0304,
            class: Class(5),
            flags: Flags { ordered: true, ..Flags::default() },
            ecn: 2,
            segments_left: left,
            residual: Residual(64),
            budget: 900,
            age: 100,
            source: node(1),
            segments: Segments::new(&nodes).unwrap(),
        }
    }

    #[test]
    fn the_route_names_sender_receiver_and_next_at_every_hop() {
        let at = |left| {
            let h = header(&[2, 3, 4], left);
            (h.sender(), h.receiver(), h.next())
        };
        assert_eq!(at(2), (Some(node(1)), Some(node(2)), Some(node(3))));
        assert_eq!(at(1), (Some(node(2)), Some(node(3)), Some(node(4))));
        assert_eq!(at(0), (Some(node(3)), Some(node(4)), None));
        assert_eq!(header(&[2, 3, 4], 0).destination(), node(4));
    }

    #[test]
    fn impossible_headers_are_refused_by_name() {
        let good = header(&[2, 3], 1).to_bytes();
        assert!(RouteHeader::parse(&good).is_ok());
        let broken = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            RouteHeader::parse(&bytes).unwrap_err()
        };
        assert_eq!(broken(6, 2), WireError::Value("segments_left"));
        assert_eq!(broken(13, 0), WireError::Value("source"));
        assert_eq!(broken(15, 0), WireError::Value("segments"), "a hole");
        assert_eq!(broken(14, 0xff), WireError::Value("segments"), "a link's number");
        assert_eq!(broken(5, 0xf0), WireError::Reserved("flags"));
    }

    #[test]
    fn a_patched_header_equals_one_written_anew() {
        let mut want = header(&[2, 3], 1);
        let mut bytes = want.to_bytes();
        RouteHeader::patch_hop(&mut bytes, 77, true, true);
        RouteHeader::patch_age(&mut bytes, 1234);
        RouteHeader::patch_segments_left(&mut bytes, 0);
        (want.hop_seq, want.age, want.segments_left) = (77, 1234, 0);
        (want.flags.ack_wanted, want.flags.coded) = (true, true);
        assert_eq!(bytes, want.to_bytes());
        assert_eq!(RouteHeader::residual_of(&bytes), Residual(64));
        assert_eq!((RouteHeader::budget_of(&bytes), RouteHeader::ecn_of(&bytes)), (900, 2));
        RouteHeader::patch_hop(&mut bytes, 77, false, true);
        want.flags.ack_wanted = false;
        assert_eq!(bytes, want.to_bytes());
        RouteHeader::patch_hop(&mut bytes, 77, false, false);
        want.flags.coded = false;
        assert_eq!(bytes, want.to_bytes());
    }

    #[test]
    fn what_is_read_from_bytes_is_what_parsing_gives() {
        // All flags and ECN bits, and classes that leave their neighbours' bits clear or set.
        for bits in (0..1 << 7).flat_map(|low| [0, 1, 62, 63].map(|class| class << 7 | low)) {
            let (class, flags, ecn) = ((bits >> 7) as u8, (bits >> 2) as u8 & 31, bits as u8 & 3);
            let flags = Flags::from_bits(flags).unwrap();
            let bytes =
                RouteHeader { flags, class: Class(class), ecn, ..header(&[2, 3], 1) }.to_bytes();
            let parsed = RouteHeader::parse(&bytes).unwrap();
            assert_eq!(parsed.flags, flags);
            assert_eq!(RouteHeader::ordered_of(&bytes), flags.ordered, "{flags:?}");
            assert_eq!(RouteHeader::ecn_of(&bytes), ecn);
            assert_eq!(RouteHeader::source_of(&bytes), parsed.source.get());
        }
    }

    #[test]
    fn ticks_round_up_and_saturate() {
        assert_eq!(ticks(Duration::from_micros(1)), 1);
        assert_eq!(ticks(Duration::from_millis(20)), 200);
        assert_eq!(ticks(Duration::from_secs(60)), u16::MAX);
        assert_eq!(span(200), Duration::from_millis(20));
        assert_eq!(header(&[2], 0).time_left(), Duration::from_millis(80));
    }

    #[test]
    fn what_the_egress_relies_on_is_bound_and_what_relays_change_is_not() {
        let end = EndHeader { epoch: 0, lane: 0, stream: StreamId(3), counter: 9 };
        let base = header(&[2, 3], 1);
        let mut moved = base;
        (moved.hop_seq, moved.age, moved.segments_left, moved.ecn) = (9, 9, 0, 3);
        (moved.flags.ack_wanted, moved.flags.coded) = (true, true);
        assert_eq!(end_aad(&base, &end), end_aad(&moved, &end));
        let mut forged = base;
        forged.flags.checksum_partial = true;
        assert_ne!(end_aad(&base, &end), end_aad(&forged, &end));
        assert_ne!(end_aad(&base, &end), end_aad(&header(&[2, 4], 1), &end));
    }
}
