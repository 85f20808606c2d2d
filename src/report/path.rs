//! Paths: those in force, and why they are.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Stretch;

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
    /// Whether the computed path does not keep the limits of its class: its packets are dropped, or go all
    /// the same, as the class's `fallback` says.
    #[serde(default)]
    pub outside_limits: bool,
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
    /// Those of both that no node of the mesh is called, as far as this one knows.
    #[serde(default)]
    pub unknown: Vec<String>,
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
