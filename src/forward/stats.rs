//! What the data path counts: plain numbers, read by whoever shows them.

use crate::id::{Class, LinkId};
use crate::report::Bytes;
use crate::wire::Kind;

use super::classify::Refusal;
use super::pace::PaceStats;

/// Why the data path let a packet or datagram go. A closed set: one counter label per variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum DropReason {
    /// From the TUN device: shorter than the header it claims.
    TooShort,
    /// From the TUN device: neither IPv4 nor IPv6.
    NotIp,
    /// From the TUN device: lengths or headers that contradict each other.
    BadPacket,
    /// From the TUN device: to a multicast group.
    Multicast,
    /// From the TUN device: to a broadcast address.
    Broadcast,
    /// From the TUN device: an address that means nothing beyond one wire.
    LocalAddress,
    /// From the TUN device: its source is none of this site's addresses.
    ForeignSource,
    /// From the TUN device: to this site itself.
    Hairpin,
    /// From the TUN device: a datagram to a peer's endpoint, which would be carried in itself.
    UnderlayLoop,
    /// No node answers for its destination.
    NoOwner,
    /// No path to its destination's node, or none that works.
    NoRoute,
    /// No path keeps its class's limits, and the class wants its packets dropped then.
    OutsideLimits,
    /// No keys with its destination's node.
    NoSession,
    /// Larger than the path carries.
    TooBig,
    /// No room for another packet.
    NoRoom,
    /// The queue was full and its flow held most of it.
    QueueFull,
    /// Waited too long in a queue.
    QueueLate,
    /// Its flow stood in a queue, and was told so by this drop (CoDel).
    QueueSignal,
    /// A datagram that is none of our frames.
    NotAFrame,
    /// A frame that breaks the rules of the wire.
    Malformed,
    /// A frame of a kind this version only drafts.
    Unsupported,
    /// A frame for an index we have not given out.
    UnknownIndex,
    /// A frame of an epoch whose key is not to be had.
    UnknownEpoch,
    /// A frame whose seal does not fit.
    BadTag,
    /// A frame not even opened: from a stranger, while many seals on its index do not fit.
    ForgeryFlood,
    /// A frame with a counter seen before.
    Replayed,
    /// A frame with a counter too old to tell.
    TooOld,
    /// A data frame that came before: a repair that was not needed.
    Duplicate,
    /// A route that does not lead from its sender to us.
    WrongRoute,
    /// We do not relay.
    RelayRefused,
    /// No link to the next node of the route works.
    NextHopDown,
    /// At the egress: no session with the packet's source.
    EndNoSession,
    /// At the egress: an epoch whose key is not to be had.
    EndUnknownEpoch,
    /// At the egress: the end-to-end seal does not fit.
    EndBadTag,
    /// At the egress: a counter seen before.
    EndReplayed,
    /// At the egress: a counter too old to tell, or a stream out of range.
    EndTooOld,
    /// At the egress: what was sealed is no packet we carry.
    EndBadPacket,
    /// At the egress: the packet's source lies outside its sender's certified networks.
    SpoofedSource,
    /// At the egress: the packet's destination is not ours.
    ForeignDestination,
    /// At the egress: marked as congested on the way, and its transport cannot be told.
    Congested,
    /// A notice that fits no route of ours, or came from where it cannot.
    StrayNotice,
    /// A hello that answers no question of ours.
    StrayHello,
    /// To be handed to another lane, which is too far behind.
    LaneFull,
    /// A carrier beyond what its source may send, or what waits for this node.
    CarrierQuota,
    /// A frame that came in pieces of which some did not, or not in time.
    PieceMissing,
    /// To be passed on, beyond what its source may send through here.
    RelayQuota,
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = 46;

    /// Every reason, in the order of its counters.
    pub const ALL: [Self; Self::COUNT] = [
        Self::TooShort,
        Self::NotIp,
        Self::BadPacket,
        Self::Multicast,
        Self::Broadcast,
        Self::LocalAddress,
        Self::ForeignSource,
        Self::Hairpin,
        Self::UnderlayLoop,
        Self::NoOwner,
        Self::NoRoute,
        Self::OutsideLimits,
        Self::NoSession,
        Self::TooBig,
        Self::NoRoom,
        Self::QueueFull,
        Self::QueueLate,
        Self::QueueSignal,
        Self::NotAFrame,
        Self::Malformed,
        Self::Unsupported,
        Self::UnknownIndex,
        Self::UnknownEpoch,
        Self::BadTag,
        Self::ForgeryFlood,
        Self::Replayed,
        Self::TooOld,
        Self::Duplicate,
        Self::WrongRoute,
        Self::RelayRefused,
        Self::NextHopDown,
        Self::EndNoSession,
        Self::EndUnknownEpoch,
        Self::EndBadTag,
        Self::EndReplayed,
        Self::EndTooOld,
        Self::EndBadPacket,
        Self::SpoofedSource,
        Self::ForeignDestination,
        Self::Congested,
        Self::StrayNotice,
        Self::StrayHello,
        Self::LaneFull,
        Self::CarrierQuota,
        Self::PieceMissing,
        Self::RelayQuota,
    ];

    /// The label in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::NotIp => "not_ip",
            Self::BadPacket => "bad_packet",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::LocalAddress => "local_address",
            Self::ForeignSource => "foreign_source",
            Self::Hairpin => "hairpin",
            Self::UnderlayLoop => "underlay_loop",
            Self::NoOwner => "no_owner",
            Self::NoRoute => "no_route",
            Self::OutsideLimits => "outside_limits",
            Self::NoSession => "no_session",
            Self::TooBig => "too_big",
            Self::NoRoom => "no_room",
            Self::QueueFull => "queue_full",
            Self::QueueLate => "queue_late",
            Self::QueueSignal => "queue_signal",
            Self::NotAFrame => "not_a_frame",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
            Self::UnknownIndex => "unknown_index",
            Self::UnknownEpoch => "unknown_epoch",
            Self::BadTag => "bad_tag",
            Self::ForgeryFlood => "forgery_flood",
            Self::Replayed => "replayed",
            Self::TooOld => "too_old",
            Self::Duplicate => "duplicate",
            Self::WrongRoute => "wrong_route",
            Self::RelayRefused => "relay_refused",
            Self::NextHopDown => "next_hop_down",
            Self::EndNoSession => "end_no_session",
            Self::EndUnknownEpoch => "end_unknown_epoch",
            Self::EndBadTag => "end_bad_tag",
            Self::EndReplayed => "end_replayed",
            Self::EndTooOld => "end_too_old",
            Self::EndBadPacket => "end_bad_packet",
            Self::SpoofedSource => "spoofed_source",
            Self::ForeignDestination => "foreign_destination",
            Self::Congested => "congested",
            Self::StrayNotice => "stray_notice",
            Self::StrayHello => "stray_hello",
            Self::LaneFull => "lane_full",
            Self::CarrierQuota => "carrier_quota",
            Self::PieceMissing => "piece_missing",
            Self::RelayQuota => "relay_quota",
        }
    }
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::TooShort => Self::TooShort,
            Refusal::NotIp => Self::NotIp,
            Refusal::Malformed => Self::BadPacket,
            Refusal::Multicast => Self::Multicast,
            Refusal::Broadcast => Self::Broadcast,
            Refusal::Local => Self::LocalAddress,
        }
    }
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Packets; a super-segment counts as the packets it becomes.
    pub packets: u64,
    /// Bytes of them, inner headers included.
    pub bytes: u64,
}

impl Volume {
    /// Adds one packet.
    pub const fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// One link's counters since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Bytes sent, by kind: UDP payload.
    pub sent: Bytes,
    /// Bytes received and authenticated, by kind: UDP payload.
    pub received: Bytes,
    /// Frames sent.
    pub frames_sent: u64,
    /// Frames received and authenticated.
    pub frames_received: u64,
    /// Data frames sent again.
    pub retransmits: u64,
    /// Repair symbols sent.
    pub symbols: u64,
    /// Data frames that were lost and recovered from repair symbols.
    pub recovered: u64,
    /// Repair symbols received that fit nothing that came: malformed, too late or too far ahead.
    pub symbols_refused: u64,
    /// Lost data frames that were not sent again: their time was over.
    pub repair_late: u64,
    /// Packets that got the congestion mark in the queue before it.
    pub marked: u64,
    /// Pieces sent of frames that are longer than the link carries.
    pub pieces_sent: u64,
    /// What its rate control did.
    pub pace: PaceStats,
}

impl LinkStats {
    fn absorb(&mut self, other: &Self) {
        self.sent = self.sent.plus(&other.sent);
        self.received = self.received.plus(&other.received);
        self.frames_sent += other.frames_sent;
        self.frames_received += other.frames_received;
        self.retransmits += other.retransmits;
        self.symbols += other.symbols;
        self.recovered += other.recovered;
        self.symbols_refused += other.symbols_refused;
        self.repair_late += other.repair_late;
        self.marked += other.marked;
        self.pieces_sent += other.pieces_sent;
        self.pace.absorb(&other.pace);
    }
}

/// Adds one whole frame to the bytes of its kind. `inner`: bytes of the user's packet in it, or of the
/// frame that a piece is of, which is counted by itself.
pub(super) fn count_frame(bytes: &mut Bytes, kind: Kind, frame: usize, inner: usize) {
    let whole = frame as u64;
    match kind {
        Kind::Data => {
            bytes.data += inner as u64;
            bytes.framing += whole - inner as u64;
        }
        Kind::Ack => bytes.feedback += whole,
        Kind::Probe | Kind::Hello => bytes.probes += whole,
        Kind::Repair => bytes.repair += whole,
        Kind::Fragment => bytes.framing += whole - inner as u64,
        Kind::Carrier | Kind::Notice | Kind::Bundle => bytes.control += whole,
    }
}

/// Everything the data path counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    drops: [u64; DropReason::COUNT],
    /// From local applications and the site into the overlay.
    pub ingress: Volume,
    /// Of `ingress`: sent over at least one relay.
    pub ingress_relayed: Volume,
    /// From the overlay to local applications and the site.
    pub egress: Volume,
    /// Passed on for others.
    pub relay: Volume,
    /// Sent, by class.
    pub class_sent: Vec<Volume>,
    /// Delivered, by the sender's class.
    pub class_delivered: Vec<Volume>,
    /// Flips to a backup.
    pub flips: u64,
    /// Flips back.
    pub flips_back: u64,
    /// Senders told that a packet is longer than its path carries.
    pub too_big_told: u64,
    /// Packets too long for their path whose sender was not told: too many were, or it may not be.
    pub too_big_untold: u64,
    /// TCP connections held to shorter segments than their ends would take.
    pub clamped: u64,
    /// Notices sent to sources.
    pub notices_sent: u64,
    /// Packets handed to another lane of this node.
    pub handed: u64,
    /// Events thrown away because nobody fetched them.
    pub events_lost: u64,
    /// Probes not sent because their link does not exist or their queue was full.
    pub probes_refused: u64,
    links: Vec<Option<LinkStats>>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            drops: [0; DropReason::COUNT],
            ingress: Volume::default(),
            ingress_relayed: Volume::default(),
            egress: Volume::default(),
            relay: Volume::default(),
            class_sent: vec![Volume::default(); Class::LIMIT],
            class_delivered: vec![Volume::default(); Class::LIMIT],
            flips: 0,
            flips_back: 0,
            too_big_told: 0,
            too_big_untold: 0,
            clamped: 0,
            notices_sent: 0,
            handed: 0,
            events_lost: 0,
            probes_refused: 0,
            links: Vec::new(),
        }
    }
}

impl Stats {
    /// How many were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Every reason with its count, also those that never occurred.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.drops[reason as usize]))
    }

    /// A link's counters.
    pub fn link(&self, link: LinkId) -> Option<&LinkStats> {
        self.links.get(usize::from(link.0))?.as_ref()
    }

    /// Every link that ever was, with its counters.
    pub fn links(&self) -> impl Iterator<Item = (LinkId, &LinkStats)> + '_ {
        let numbered = self.links.iter().enumerate();
        numbered.filter_map(|(n, stats)| Some((LinkId(n as u16), stats.as_ref()?)))
    }

    /// Adds what another lane of the same node counted.
    pub fn absorb(&mut self, other: &Self) {
        for (sum, count) in self.drops.iter_mut().zip(&other.drops) {
            *sum += count;
        }
        let volumes = [
            (&mut self.ingress, other.ingress),
            (&mut self.ingress_relayed, other.ingress_relayed),
            (&mut self.egress, other.egress),
            (&mut self.relay, other.relay),
        ];
        let sent = self.class_sent.iter_mut().zip(other.class_sent.iter().copied());
        let delivered = self.class_delivered.iter_mut().zip(other.class_delivered.iter().copied());
        for (sum, volume) in volumes.into_iter().chain(sent).chain(delivered) {
            sum.packets += volume.packets;
            sum.bytes += volume.bytes;
        }
        self.flips += other.flips;
        self.flips_back += other.flips_back;
        self.too_big_told += other.too_big_told;
        self.too_big_untold += other.too_big_untold;
        self.clamped += other.clamped;
        self.notices_sent += other.notices_sent;
        self.handed += other.handed;
        self.events_lost += other.events_lost;
        self.probes_refused += other.probes_refused;
        for (link, stats) in other.links() {
            self.link_mut(link).absorb(stats);
        }
    }

    pub(super) fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub(super) fn drop_many(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
    }

    pub(super) fn link_mut(&mut self, link: LinkId) -> &mut LinkStats {
        let at = usize::from(link.0);
        if self.links.len() <= at {
            self.links.resize(at + 1, None);
        }
        self.links[at].get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_label() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        for (place, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, place);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
    }

    #[test]
    fn every_byte_of_a_frame_is_counted_once() {
        let mut bytes = Bytes::default();
        count_frame(&mut bytes, Kind::Data, 178, 100);
        count_frame(&mut bytes, Kind::Ack, 60, 0);
        assert_eq!((bytes.data, bytes.framing, bytes.feedback), (100, 78, 60));
        assert_eq!(bytes.kinds().iter().map(|(_, n)| n).sum::<u64>(), 238);
    }
}
