//! The node itself: one screen, what it did and does, what came to nothing, what happened.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
