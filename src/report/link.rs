//! Links: how they are, what is expected of them, what went over them and lies here of them.

use serde::{Deserialize, Serialize};

use super::Histogram;

/// One link to a peer, both directions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Its local number.
    pub link: u16,
    /// The peer's name.
    pub peer: String,
    /// The peer's number.
    pub node: u16,
    /// The peer's underlay endpoint.
    pub endpoint: String,
    /// Liveness.
    pub state: LinkState,
    /// Lanes that both ends have.
    #[serde(default)]
    pub lanes: u8,
    /// Whether a path in force starts with it.
    pub in_use: bool,
    /// Least round trip in the window.
    pub rtt_least_ms: Option<f64>,
    /// Median round trip in the window.
    pub rtt_median_ms: Option<f64>,
    /// 95th percentile of the round trip in the window.
    pub rtt_p95_ms: Option<f64>,
    /// The newest slot of the forecast: the least round trip within 15 to 60 s.
    #[serde(default)]
    pub rtt_slot_ms: Option<f64>,
    /// Slots so far; it grows with each.
    #[serde(default)]
    pub rtt_slots: u64,
    /// From here to the peer.
    pub outbound: DirectionRow,
    /// From the peer to here.
    pub inbound: DirectionRow,
    /// The next minutes of the outbound direction.
    pub forecast: Option<ForecastRow>,
    /// Price of a gigabyte sent on it, in the operator's currency unit.
    pub price_per_gb: f64,
    /// Probes sent.
    pub probes_sent: Option<u64>,
    /// Probes whose reply did not come in time.
    pub probes_lost: Option<u64>,
    /// How often the peer was followed to another endpoint.
    pub moves: Option<u64>,
    /// Bytes sent on it, by kind, UDP payload.
    pub sent: Option<Bytes>,
    /// Bytes received on it, by kind, UDP payload.
    pub received: Option<Bytes>,
    /// Frames retransmitted.
    pub retransmits: Option<u64>,
    /// Repair symbols sent.
    pub symbols: Option<u64>,
    /// Frames that were lost and recovered from repair symbols.
    pub recovered: Option<u64>,
    /// Repair symbols received that fit nothing that came.
    pub symbols_refused: Option<u64>,
    /// Frames that could not be repaired in time.
    pub repair_late: Option<u64>,
    /// What its rate control does and did.
    pub pace: Option<PaceRow>,
    /// Frames sent without being kept for repair, for want of memory.
    pub unprotected: Option<u64>,
    /// Lost frames not sent again, and symbols not sent, because a class's bound on repair was reached.
    pub over_budget: Option<u64>,
    /// Frames without the symbols they were to have, for the same reason.
    #[serde(default)]
    pub uncovered: Option<u64>,
    /// Symbols not sent because all repair had its share, or paused.
    #[serde(default)]
    pub over_share: Option<u64>,
    /// Feedback received that contradicts what was sent.
    pub false_feedback: Option<u64>,
    /// Frames lost in this machine or the peer's, not on the link.
    pub local_drops: Option<u64>,
    /// Datagrams longer than the way to the peer takes.
    pub too_big: Option<u64>,
    /// Longest IP packet that the underlay carries to the peer, bytes; `None` until it is known.
    #[serde(default)]
    pub mtu: Option<u16>,
    /// Pieces sent of frames that are longer than that.
    #[serde(default)]
    pub pieces: Option<u64>,
    /// What lies here of it.
    pub held: Option<LinkHeld>,
    /// Share of data frames lost after repair, outbound, in the last interval with data.
    pub residual_loss_ratio: Option<f64>,
    /// Outbound, as data frames find it; `None` where none went of late.
    #[serde(default)]
    pub hop: Option<HopRow>,
    /// Round trips of all probes since the start.
    pub rtt_s: Histogram,
}

/// Liveness of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// It answers.
    Up,
    /// Silent for longer than usual.
    Suspect,
    /// Silent for longer than its own losses explain, or never heard.
    #[default]
    Down,
}

impl LinkState {
    /// The word shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
        }
    }
}

/// Measured quality of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DirectionRow {
    /// One-way delay: half the least explained round trip, since two clocks share no origin.
    pub delay_ms: Option<f64>,
    /// Mean deviation of the delay from its level.
    pub jitter_ms: Option<f64>,
    /// Share of frames lost before repair.
    pub loss_ratio: Option<f64>,
    /// Age of the newest reading.
    pub age_s: Option<f64>,
    /// Whether that reading is too old to be used.
    pub stale: bool,
}

/// What data frames find on a link, outbound, and what is spent to repair it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HopRow {
    /// Share of frames lost on first sending.
    pub loss_ratio: Option<f64>,
    /// One standard error of that: how sure it is.
    pub loss_error_ratio: Option<f64>,
    /// Mean time for which the line loses once it does; 0 where losses are independent.
    pub burst_ms: Option<f64>,
    /// Round trip through feedback, smoothed, the feedback's own delay included.
    pub rtt_ms: Option<f64>,
    /// Mean deviation of that.
    pub rtt_spread_ms: Option<f64>,
    /// Bytes of repair for each byte sent for the first time, headers included.
    pub repair_overhead_ratio: Option<f64>,
    /// Age of the newest report.
    pub age_s: f64,
}

/// What is expected of a link, and how good such expectations were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForecastRow {
    /// Expected one-way delay.
    pub level_ms: f64,
    /// Lower end of the band.
    pub low_ms: f64,
    /// Upper end of the band.
    pub high_ms: f64,
    /// How sure, 0 to 1.
    pub confidence_ratio: f64,
    /// Mean absolute error of past forecasts of this link, once some have come due.
    pub error_ms: Option<f64>,
    /// The same for "stays as it is", over the same time.
    pub error_persistence_ms: Option<f64>,
}

/// The rate control of one link.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PaceRow {
    /// What rules the rate: `free`, `steady` or `shared`.
    pub mode: String,
    /// The rate, bytes per second of UDP payload; `None` where nothing is held back.
    pub rate: Option<u64>,
    /// The queue on the line as feedback shows it, seconds.
    pub standing_s: f64,
    /// Packets that got the congestion mark in the queue before the link.
    pub marked: u64,
    /// Frames that the peer says bore it.
    pub ce: u64,
    /// Bytes lost while the line was full.
    pub congestion_lost: u64,
    /// Bytes lost at other times.
    pub random_lost: u64,
    /// Times the circuit breaker opened.
    pub trips: u64,
}

/// What lies here of one link at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkHeld {
    /// Packets waiting to be sent.
    pub queue_packets: u64,
    /// Bytes of them.
    pub queue_bytes: u64,
    /// Bytes kept for repair.
    pub repair_bytes: u64,
    /// Frames whose fate is remembered.
    pub records: u64,
    /// Bits of the window against replays.
    pub window_bits: u64,
}

/// Bytes by what they were for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    /// Inner packets, first sending.
    pub data: u64,
    /// Headers and tags around them.
    pub framing: u64,
    /// Acknowledgements and reports of the hop.
    pub feedback: u64,
    /// Probes and their replies.
    pub probes: u64,
    /// Retransmissions and repair symbols, whole.
    pub repair: u64,
    /// Sessions, link state, membership.
    pub control: u64,
}

impl Bytes {
    /// These and others together.
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            data: self.data + other.data,
            framing: self.framing + other.framing,
            feedback: self.feedback + other.feedback,
            probes: self.probes + other.probes,
            repair: self.repair + other.repair,
            control: self.control + other.control,
        }
    }

    /// Each kind's label and bytes, in the order they are shown.
    pub const fn kinds(&self) -> [(&'static str, u64); 6] {
        [
            ("data", self.data),
            ("framing", self.framing),
            ("feedback", self.feedback),
            ("probes", self.probes),
            ("repair", self.repair),
            ("control", self.control),
        ]
    }
}
