//! What the data path tells the node, over a bounded queue.
//!
//! Everything here has already been acted on where it was urgent; the node draws conclusions.

use std::net::SocketAddr;
use std::time::Duration;

use crate::forward::arq::Longest;
use crate::id::{Class, LinkId, NodeId};
use crate::time::Instant;
use crate::unit::Ratio;

/// News from the forwarder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardEvent {
    /// The link carried an authenticated exchange in both directions: it works.
    LinkUp {
        /// Which.
        link: LinkId,
    },
    /// The link fell silent for longer than its own losses explain. Routes have already been
    /// flipped; the session stays.
    LinkDown {
        /// Which.
        link: LinkId,
        /// From the first unanswered frame to this verdict.
        silence: Duration,
    },
    /// The peer has moved: it sent from another endpoint and answered a challenge there. Data goes there
    /// already.
    LinkMoved {
        /// Which link.
        link: LinkId,
        /// Where the peer is now.
        endpoint: SocketAddr,
    },
    /// A reply to one of our probes.
    ProbeReply {
        /// Which link it crossed.
        link: LinkId,
        /// The probe's number.
        seq: u32,
        /// When we sent the probe, our clock.
        sent_at: Instant,
        /// When the reply came, our clock.
        received_at: Instant,
        /// How long the peer held it.
        dwell: Duration,
        /// Highest number among the probes that reached the peer on this link.
        peer_highest: u32,
        /// How many of our probes reached the peer on this link since its count began.
        peer_heard: u32,
    },
    /// A probe of the peer reached us (it has been answered).
    ProbeHeard {
        /// Which link it crossed.
        link: LinkId,
        /// Its number: gaps are losses of the direction towards us.
        seq: u32,
        /// When the peer sent it, the peer's clock in µs: only differences mean something.
        sent_at_peer_us: u64,
        /// When it came, our clock.
        received_at: Instant,
    },
    /// A datagram of this size reached the peer, which said so.
    SizeAnswered {
        /// Which link it crossed.
        link: LinkId,
        /// The question's number.
        seq: u32,
        /// The datagram's length.
        size: u16,
    },
    /// This machine did not send a datagram because it is longer than the way to the peer begins with.
    TooLong {
        /// On which link.
        link: LinkId,
        /// The datagram's length.
        size: u16,
    },
    /// What the data itself showed of a link since the last report.
    HopReport {
        /// Which link.
        link: LinkId,
        /// The interval it covers.
        span: Duration,
        /// Frames sent for the first time, data only.
        sent: u64,
        /// Of those whose fate is known: how many there were.
        judged: u64,
        /// Of the judged: how many the link lost on first sending (local drops not counted).
        lost: u64,
        /// Of the judged: how many stayed lost after repair.
        residual: u64,
        /// The longest of the judged, by their fate.
        longest: Longest,
        /// Bytes of data frames sent for the first time.
        bytes: u64,
        /// Bytes of retransmissions.
        repair_bytes: u64,
        /// Least round trip seen through feedback, if any came.
        rtt: Option<Duration>,
        /// What the hop holds of its line now, for people to see.
        line: LineFigures,
    },
    /// A route was flipped to its backup, or back after the primary's recovery.
    Flipped {
        /// The destination.
        destination: NodeId,
        /// The class.
        class: Class,
        /// Whether the backup is now in force.
        to_backup: bool,
        /// Why.
        why: FlipReason,
    },
    /// Packets take the path of this destination and class. Said with the first of them, and again
    /// while they go on.
    InUse {
        /// The destination.
        destination: NodeId,
        /// The class.
        class: Class,
    },
    /// A relay told us that it cannot reach the next hop of a route of ours.
    RelayLostHop {
        /// The relay.
        relay: NodeId,
        /// The node it cannot reach.
        next: NodeId,
    },
}

/// What a hop holds of its line, outbound. `None`: not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineFigures {
    /// Share of first sendings that the line loses.
    pub loss: Option<Ratio>,
    /// One standard error of that.
    pub loss_error: Option<Ratio>,
    /// Mean time for which the line loses once it does; zero where losses are independent.
    pub burst: Option<Duration>,
    /// Smoothed round trip through feedback, its own delay included.
    pub rtt: Option<Duration>,
    /// Mean deviation of that.
    pub rtt_spread: Option<Duration>,
}

/// Why the forwarder moved a route by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FlipReason {
    /// The first link of the path is down.
    LinkDown,
    /// A relay on the path lost its next hop.
    RelayLostHop,
    /// What was down is up again.
    Recovered,
}

impl FlipReason {
    /// The label in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinkDown => "link_down",
            Self::RelayLostHop => "relay_lost_hop",
            Self::Recovered => "recovered",
        }
    }
}

/// What the node asks the forwarder to send outside every queue: it must feel the link as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeRequest {
    /// On which link.
    pub link: LinkId,
    /// The number to put on it.
    pub seq: u32,
    /// For a size probe, the length of its datagram; its numbers are a row of their own.
    pub size: Option<u16>,
}
