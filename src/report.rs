//! What an operator may ask of a running node, and what it answers: plain values, no behaviour.
//!
//! The node fills them, the driver adds what the data path counted, the admin socket and `/metrics` show them, the command line prints them.
//! Two rules hold for every number. It was measured: what has not been is `None`, shown as `n/a`,
//! never a zero. It carries its unit last in its name. The JSON these types make is an interface:
//! a change that could break a reader raises [`SCHEMA_VERSION`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Version of the JSON made from this file. Added fields do not raise it; changed or removed ones do.
pub const SCHEMA_VERSION: u32 = 1;

/// A question to a running node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// One screen about this node.
    Status,
    /// Every node it knows.
    Peers,
    /// Every link it has.
    Links,
    /// Paths in force.
    Paths {
        /// Only to this destination: a node's name or number, or an address.
        #[serde(default)]
        destination: Option<String>,
    },
    /// Why packets to a destination go where they go.
    Explain {
        /// A node's name or number, or an address.
        destination: String,
        /// Which class, by name. Where it is not given, the one that takes packets like those below.
        #[serde(default)]
        class: Option<String>,
        /// Packets with this DSCP; 0 where none is given.
        #[serde(default)]
        dscp: Option<u8>,
        /// Packets of this transport protocol; one that no class asks for where none is given.
        #[serde(default)]
        protocol: Option<u8>,
        /// TCP or UDP packets with this port at one end; one that no class asks for where none is given.
        #[serde(default)]
        port: Option<u16>,
    },
    /// Every link of the mesh, as this node knows it.
    Matrix,
    /// The path of packets to a destination, hop by hop.
    Trace {
        /// As in [`Command::Explain`].
        destination: String,
        /// As there.
        #[serde(default)]
        class: Option<String>,
        /// As there.
        #[serde(default)]
        dscp: Option<u8>,
        /// As there.
        #[serde(default)]
        protocol: Option<u8>,
        /// As there.
        #[serde(default)]
        port: Option<u16>,
    },
    /// One echo to a destination, as an application would send it.
    Ping {
        /// As in [`Command::Explain`].
        destination: String,
        /// The DSCP it bears; 0 where none is given.
        #[serde(default)]
        dscp: Option<u8>,
    },
    /// Every counter of what came to nothing.
    Drops,
    /// What happened lately.
    Events {
        /// Whether to go on telling what happens, one answer a line, until the asker leaves.
        #[serde(default)]
        follow: bool,
    },
    /// Everything at once, for a scrape.
    Report,
    /// Read the configuration file again and take over what can be while packets flow.
    Reload,
}

/// The node's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Status`].
    Status(Box<Status>),
    /// To [`Command::Peers`].
    Peers(Vec<PeerRow>),
    /// To [`Command::Links`].
    Links(Vec<LinkRow>),
    /// To [`Command::Paths`].
    Paths(Vec<PathRow>),
    /// To [`Command::Explain`].
    Explain(Box<Explanation>),
    /// To [`Command::Report`].
    Report(Box<Report>),
    /// To [`Command::Matrix`].
    Matrix(Matrix),
    /// To [`Command::Trace`].
    Trace(Box<Trace>),
    /// To [`Command::Ping`].
    Ping(Box<Echo>),
    /// To [`Command::Drops`].
    Drops(Vec<DropRow>),
    /// To [`Command::Events`].
    Events(Events),
    /// To [`Command::Reload`], where the file was good.
    Reload(Reloaded),
    /// To [`Command::Reload`], where it was not: every problem. Nothing was taken over. The command
    /// line ends with exit code 2.
    Refused(Vec<String>),
    /// What was asked for does not exist here, for instance no path or no such node. The command
    /// line ends with exit code 1.
    NotFound(String),
}

/// Every link of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Matrix {
    /// The nodes known, in order of number, this one among them.
    pub nodes: Vec<MatrixNode>,
    /// Each way of each link that works and has a fresh reading. A pair that is not here has none.
    pub links: Vec<Stretch>,
}

/// One node of the matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatrixNode {
    /// Its name.
    pub name: String,
    /// Its number.
    pub node: u16,
    /// Whether it carries others' packets now.
    #[serde(default)]
    pub relay: bool,
}

/// One way of one link, as the mesh knows it: measured by its ends, told by link state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// Where it begins, by name.
    pub from: String,
    /// Where it ends, by name.
    pub to: String,
    /// One-way delay as measured.
    pub delay_ms: Option<f64>,
    /// Mean deviation of the delay.
    pub jitter_ms: Option<f64>,
    /// Share of frames lost before repair.
    pub loss_ratio: Option<f64>,
    /// Share of data frames lost after repair, where data crossed lately.
    pub residual_ratio: Option<f64>,
    /// Expected one-way delay, where there is a forecast.
    pub forecast_ms: Option<f64>,
    /// How sure the forecast is, 0 to 1.
    pub confidence_ratio: Option<f64>,
    /// Price of a gigabyte sent this way.
    pub price_per_gb: Option<f64>,
}

/// The path of packets, hop by hop.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// The destination's name.
    pub destination: String,
    /// Its number.
    pub node: u16,
    /// The class's name.
    pub class: String,
    /// Whether the backup carries the traffic now.
    pub on_backup: bool,
    /// The hops of the path in force, in order.
    pub hops: Vec<Stretch>,
    /// What is expected of the whole.
    pub path: PathView,
}

/// One echo over the overlay.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Echo {
    /// The destination's name.
    pub destination: String,
    /// Its number.
    pub node: u16,
    /// The address that was asked.
    pub address: Option<IpAddr>,
    /// The class its packets fall into.
    pub class: String,
    /// The path in force when it was sent.
    pub path: Option<PathView>,
    /// From sending to the answer; `None` where none came in time.
    pub rtt_ms: Option<f64>,
    /// Why there is none, where it is known.
    pub why: Option<String>,
}

/// One counter of what came to nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// The label in metrics.
    pub reason: String,
    /// How many since the start.
    pub packets: u64,
    /// What it means.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
}

/// What happened lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// Events that came before these and are not held any more.
    pub lost: u64,
    /// The events, oldest first.
    pub events: Vec<EventRow>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Its number since the start, from 1, without gaps.
    pub number: u64,
    /// When, seconds of Unix time.
    pub at_unix_s: f64,
    /// Its kind, one word of a closed set.
    pub kind: String,
    /// The other node it is about, by name.
    pub node: Option<String>,
    /// In words.
    pub text: String,
}

/// What a reload did. Keys are named as `[table] key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// The file that was read.
    pub file: String,
    /// Keys whose new values are in force.
    pub applied: Vec<String>,
    /// Keys that differ from what is in force and wait for the next start.
    pub restart: Vec<String>,
    /// What is allowed, and worth knowing.
    pub remarks: Vec<String>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configured {
    /// The file.
    pub file: String,
    /// When the one in force was read, seconds of Unix time.
    pub read_unix_s: u64,
    /// Whether the last attempt to read it was successful.
    pub last_successful: bool,
    /// The first problem of the last attempt, where it was not.
    pub problem: Option<String>,
    /// Keys that wait for the next start.
    pub restart: Vec<String>,
}

/// Everything a scrape reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The node itself.
    pub status: Status,
    /// The nodes it knows.
    pub peers: Vec<PeerRow>,
    /// Its links.
    pub links: Vec<LinkRow>,
    /// Its paths.
    pub paths: Vec<PathRow>,
}

/// One screen about this node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Program version.
    pub version: String,
    /// Its name.
    pub name: String,
    /// Its number.
    pub node: u16,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// The site prefixes it announces.
    pub prefixes: Vec<IpNet>,
    /// Whether it relays for others.
    pub relay: bool,
    /// Whether its own traffic may cross relays.
    pub use_relays: bool,
    /// Time since it started.
    pub uptime_s: f64,
    /// End of its certificate's validity, seconds of Unix time.
    pub certificate_not_after_unix_s: u64,
    /// Nodes it knows of, itself not counted.
    pub nodes_known: u32,
    /// Nodes it has a session with.
    pub peers_connected: u32,
    /// Links in all.
    pub links: u32,
    /// Links that are up.
    pub links_up: u32,
    /// Destinations with a path, of `nodes_known`.
    pub destinations_reachable: u32,
    /// Number of the route table in force.
    pub table_generation: u64,
    /// Time since the last full recomputation, if there was one.
    pub recomputed_ago_s: Option<f64>,
    /// Time until the next full recomputation.
    pub recompute_in_s: Option<f64>,
    /// Packets and bytes through this node.
    pub traffic: Option<Traffic>,
    /// Each lane of the data path, in order; empty where nothing was counted.
    #[serde(default)]
    pub lanes: Vec<LaneRow>,
    /// Packets that came to nothing, by reason. Only reasons that occurred.
    pub dropped_packets: Option<BTreeMap<String, u64>>,
    /// Control messages and records refused, by reason. Only reasons that occurred.
    pub refused: BTreeMap<String, u64>,
    /// Moves of a path, by class name, then by reason.
    pub path_switches: BTreeMap<String, BTreeMap<String, u64>>,
    /// From the first unanswered frame to the move onto the backup, for each such move.
    pub failover_s: Histogram,
    /// What lies in the data path now.
    pub memory: Option<Memory>,
    /// What happened at the doors to the underlay and to the applications.
    pub doors: Option<Doors>,
    /// The configuration in force, where it came from a file.
    #[serde(default)]
    pub configured: Option<Configured>,
    /// What sending costs, and has cost.
    #[serde(default)]
    pub spend: Option<Spend>,
}

/// Money spent on sending this month, in the operator's currency.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spend {
    /// Which month, as `2026-11`.
    pub month: String,
    /// What was spent.
    pub spent: f64,
    /// Bytes that were sent, headers of IP and UDP included.
    pub bytes: u64,
    /// What may be spent, where the operator says so.
    pub budget: Option<f64>,
    /// Price of a gigabyte at this hour.
    pub price_per_gb: f64,
    /// Whether the budget is spent: others are not relayed for until the month ends.
    pub over_budget: bool,
}

/// What lies in the data path at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident memory of the whole process.
    pub resident_bytes: Option<u64>,
    /// Packets in the data path: queued, kept for repair, held for order, about to be delivered.
    pub frames: u64,
    /// Bytes queued, kept for repair or held for order.
    pub waiting_bytes: u64,
    /// What `waiting_bytes` cannot exceed with the links there are.
    pub waiting_bound_bytes: u64,
    /// Bytes of the blocks that packets lie in, in use or spare.
    pub block_bytes: u64,
    /// Bytes of datagrams that wait for room in a send buffer.
    pub send_pending_bytes: u64,
    /// Bits of all windows against replays.
    pub window_bits: u64,
}

/// What happened at the doors since the node started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doors {
    /// Times a send buffer was found full.
    pub send_buffer_full: u64,
    /// Datagrams that then waited for room.
    pub sends_held: u64,
    /// Times a destination was found not to take segmentation offload.
    pub offload_refused: u64,
    /// Errors received in place of datagrams.
    pub receive_errors: u64,
    /// Times the TUN device was made anew.
    pub tun_reopened: u64,
    /// Senders told that a packet is longer than its path carries whole.
    #[serde(default)]
    pub too_big_told: u64,
    /// The same that were not told: too many were, or they may not be.
    #[serde(default)]
    pub too_big_untold: u64,
    /// TCP connections held to segments that their path carries whole.
    #[serde(default)]
    pub tcp_clamped: u64,
    /// Prefixes of others with no route into the overlay: they lead elsewhere, or a peer's underlay
    /// address lies in them.
    #[serde(default)]
    pub routes_refused: u64,
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

/// What lies here of one source of packets at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerHeld {
    /// Packets held for order.
    pub order_packets: u64,
    /// Bytes of them.
    pub order_bytes: u64,
    /// Bits of the windows against replays.
    pub window_bits: u64,
}

/// What crossed this node since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// From local applications and the site into the overlay.
    pub ingress: Volume,
    /// Of `ingress`: sent over at least one relay.
    pub ingress_relayed: Volume,
    /// From the overlay to local applications and the site.
    pub egress: Volume,
    /// Passed on for others.
    pub relay: Volume,
}

/// What one lane of the data path did since the start: a data thread's share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// Its number.
    pub lane: u8,
    /// Packets it took from local applications and the site.
    pub ingress_packets: u64,
    /// Packets it gave to them.
    pub egress_packets: u64,
    /// Packets it passed on for others.
    pub relay_packets: u64,
    /// Frames it sent on all links.
    pub frames_sent: u64,
    /// Frames it received and found authentic on all links.
    pub frames_received: u64,
    /// Packets it handed to other lanes.
    pub handed_packets: u64,
    /// Frames of other lanes that came to its socket, and were given to them.
    pub stray_frames: u64,
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Packets; a super-segment counts as the packets it becomes.
    pub packets: u64,
    /// Bytes of them, inner headers included.
    pub bytes: u64,
}

/// One node of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PeerRow {
    /// Its name.
    pub name: String,
    /// Its number.
    pub node: u16,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its site prefixes.
    pub prefixes: Vec<IpNet>,
    /// Whether it relays for others.
    pub relay: bool,
    /// What we have with it.
    pub state: PeerState,
    /// Underlay endpoints it is known at, the one in use first.
    pub endpoints: Vec<String>,
    /// Age of the session's keys' origin, if there is a session.
    pub session_age_s: Option<f64>,
    /// Age of its newest link-state record here.
    pub record_age_s: Option<f64>,
    /// Links between us that are up.
    pub links_up: u32,
    /// Why the last attempt to reach it failed, until one succeeds.
    pub last_error: Option<String>,
    /// What lies here of its packets.
    pub held: Option<PeerHeld>,
}

/// What a node has with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PeerState {
    /// Heard of, no session.
    #[default]
    Known,
    /// Being dialled.
    Connecting,
    /// A session is there and the control stream is open.
    Connected,
    /// The session lives, the control stream is broken.
    Detached,
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

impl PeerState {
    /// The word shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Detached => "detached",
        }
    }
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
    /// Lost frames not sent again because their class's bound on repair was reached.
    pub over_budget: Option<u64>,
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

/// The decision in force for one destination and class.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathRow {
    /// The destination's name.
    pub destination: String,
    /// Its number.
    pub node: u16,
    /// The class's name.
    pub class: String,
    /// The path computed as best.
    pub primary: Option<PathView>,
    /// The path to flip to.
    pub backup: Option<PathView>,
    /// Whether the backup carries the traffic now.
    pub on_backup: bool,
    /// Whether packets are dropped, since no path keeps the limits of their class.
    #[serde(default)]
    pub withheld: bool,
    /// Why the path in force is in force, in a few words.
    pub reason: String,
    /// Time since it came into force.
    pub changed_ago_s: Option<f64>,
    /// How often the path of this destination and class has moved since the start.
    pub changes: u64,
}

/// One path as shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PathView {
    /// The first link's local number.
    pub link: u16,
    /// Names of the nodes after this one: relays, then the destination.
    pub nodes: Vec<String>,
    /// Expected one-way delay.
    pub delay_ms: Option<f64>,
    /// Expected jitter.
    pub jitter_ms: Option<f64>,
    /// Expected share of packets lost.
    pub loss_ratio: Option<f64>,
    /// Price of a gigabyte over the whole path.
    pub price_per_gb: f64,
}

/// Why packets of a class go to a destination the way they do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub asked: String,
    /// The destination's name.
    pub destination: String,
    /// Its number.
    pub node: u16,
    /// The prefix that named the destination, where an address was asked.
    pub prefix: Option<IpNet>,
    /// The class's name.
    pub class: String,
    /// The class's objective.
    pub objective: String,
    /// The rule by which packets fall into the class, in words.
    #[serde(default)]
    pub rule: String,
    /// Nodes that the class avoids as relays, by name.
    #[serde(default)]
    pub avoid: Vec<String>,
    /// Nodes that it prefers as relays, by name.
    #[serde(default)]
    pub prefer: Vec<String>,
    /// What becomes of its packets where no path keeps its limits: `hold`, `direct` or `drop`.
    #[serde(default)]
    pub fallback: String,
    /// Whether they are dropped now.
    #[serde(default)]
    pub withheld: bool,
    /// Every path weighed, best first by the class's cost.
    pub candidates: Vec<Candidate>,
    /// Place of the path in force among `candidates`, if it is still among them.
    pub in_force: Option<usize>,
    /// Place of the backup among `candidates`.
    pub backup: Option<usize>,
    /// Whether paths are only computed and shown.
    #[serde(default)]
    pub observe: bool,
    /// How much better than the path in force another must be to replace it.
    pub margin_ratio: f64,
    /// How much longer the path in force is held whatever happens to its rivals.
    pub hold_down_left_s: Option<f64>,
    /// Time until better paths are taken up again.
    pub recompute_in_s: Option<f64>,
    /// The decision in one sentence.
    pub why: String,
}

/// One path that was weighed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// The path and what is expected of it.
    pub path: PathView,
    /// What the expected delay rests on: `forecast` or `measured`.
    pub basis: String,
    /// Its hops with what is measured, expected and paid on each.
    #[serde(default)]
    pub hops: Vec<Stretch>,
    /// The parts of its cost.
    pub costs: Vec<CostPart>,
    /// Their sum, in milliseconds-worth.
    pub total_ms: f64,
    /// Each limit of the class against this path.
    pub limits: Vec<LimitVerdict>,
    /// Whether it keeps every limit.
    pub eligible: bool,
}

/// One part of a path's cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CostPart {
    /// `delay`, `jitter`, `repair`, `loss`, `hops`, or `preferred` for what is taken off.
    pub name: String,
    /// Its weight in the sum, in milliseconds-worth.
    pub value_ms: f64,
}

/// One limit against one path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitVerdict {
    /// The limit's name in the configuration: `avoid`, `max_latency`, `max_jitter`, `max_loss`, `max_price`,
    /// `monthly_budget`.
    pub limit: String,
    /// The bound, in words: `80 ms`, `1 %`; for `avoid` the nodes, and as value those that are crossed.
    pub bound: String,
    /// The path's value in the same unit.
    pub value: String,
    /// Whether the path keeps it.
    pub kept: bool,
}

/// A distribution of times in seconds, in the buckets every board can add up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Readings per bucket, not cumulative; the last is above every bound.
    pub counts: [u64; 15],
    /// Sum of all readings.
    pub sum_s: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; 15], sum_s: 0.0 }
    }
}

impl Histogram {
    /// Upper bounds of the buckets. From a LAN to a geostationary satellite and a slow failover, three
    /// per decade: finer ones would multiply the series of every link.
    pub const BOUNDS_S: [f64; 14] =
        [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0];

    /// Counts one reading.
    pub fn observe(&mut self, reading: std::time::Duration) {
        let seconds = reading.as_secs_f64();
        let place = Self::BOUNDS_S.partition_point(|&bound| bound < seconds);
        self.counts[place] = self.counts[place].saturating_add(1);
        self.sum_s += seconds;
    }

    /// How many readings there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_reading_on_a_bound_falls_under_it() {
        let mut h = Histogram::default();
        h.observe(Duration::from_millis(1));
        h.observe(Duration::from_micros(1001));
        h.observe(Duration::from_secs(60));
        assert_eq!((h.counts[1], h.counts[2], h.counts[14], h.count()), (1, 1, 1, 3));
    }

    #[test]
    fn a_question_is_one_line_and_comes_back() {
        let asked = Command::Explain {
            destination: "paris".into(),
            class: None,
            dscp: Some(46),
            protocol: Some(17),
            port: None,
        };
        let line = serde_json::to_string(&asked).unwrap();
        let written = r#"{"command":"explain","destination":"paris","class":null,"dscp":46,"protocol":17,"port":null}"#;
        assert_eq!(line, written);
        assert_eq!(serde_json::from_str::<Command>(&line).unwrap(), asked);
        let short: Command = serde_json::from_str(r#"{"command":"paths"}"#).unwrap();
        assert_eq!(short, Command::Paths { destination: None });
        assert!(serde_json::from_str::<Command>(r#"{"command":"reboot"}"#).is_err());
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let json = serde_json::to_value(LinkRow::default()).unwrap();
        assert!(json["rtt_median_ms"].is_null() && json["outbound"]["loss_ratio"].is_null());
        assert_eq!(json["state"], "down");
    }
}
