//! What the operator wants of each kind of traffic.
//!
//! A [`ClassSpec`] says which packets belong to a class, how its paths are chosen and how its
//! packets are delivered. The list is ordered: the first class that matches a packet takes it, and
//! the last one matches everything.

use std::time::Duration;

use ipnet::IpNet;

use crate::unit::{Price, Ratio, Residual};

/// What a class's paths are best at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objective {
    /// Least delay, with loss and jitter priced in milliseconds.
    #[default]
    Latency,
    /// Least loss after repair; delay decides among equals.
    Reliability,
    /// Least money; delay decides among equals.
    Cost,
}

impl Objective {
    /// Every objective, in the order they are shown.
    pub const ALL: [Self; 3] = [Self::Latency, Self::Reliability, Self::Cost];

    /// The name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Reliability => "reliability",
            Self::Cost => "cost",
        }
    }
}

/// Bounds a path must keep. `None` is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Limits {
    /// Greatest one-way delay of the whole path.
    pub max_latency: Option<Duration>,
    /// Greatest mean deviation of the whole path's delay.
    pub max_jitter: Option<Duration>,
    /// Greatest loss of the whole path, after repair where it was measured.
    pub max_loss: Option<Ratio>,
    /// Greatest price of a gigabyte over the whole path.
    pub max_price: Option<Price>,
}

/// What becomes of a class's packets where no path keeps its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fallback {
    /// The last path stays for as long as it works; another takes its place only as it always would.
    /// Where there was none, the least evil is taken.
    #[default]
    Hold,
    /// The link to the destination, whatever its quality; where there is none, as [`Fallback::Hold`].
    Direct,
    /// They are dropped and counted.
    Drop,
}

impl Fallback {
    /// Every one, in the order they are shown.
    pub const ALL: [Self; 3] = [Self::Hold, Self::Direct, Self::Drop];

    /// The name in configuration and output.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Direct => "direct",
            Self::Drop => "drop",
        }
    }
}

/// How paths are chosen. Classes of equal policies share their paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// What is made best.
    pub objective: Objective,
    /// What must be kept.
    pub limits: Limits,
    /// Nodes, by name and in order, that carry these packets only where nothing else leads to their
    /// destination; such a path keeps no limits.
    pub avoid: Vec<String>,
    /// Nodes, by name and in order, that are favoured as relays.
    pub prefer: Vec<String>,
    /// What becomes of packets where no path keeps the limits.
    pub fallback: Fallback,
}

/// How packets are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Time a packet may spend beyond the path's own delay, for queueing and repair. A packet whose
    /// budget is spent is not repaired any more. Zero: no repair.
    pub budget: Duration,
    /// Longest the egress holds a packet to restore order. Zero: order is not restored.
    pub reorder: Duration,
    /// The share of packets that may be lost or late over the whole path. Written into every packet;
    /// each hop repairs as much as it takes and no more.
    pub residual: Residual,
    /// Most bytes of repair as a share of the bytes sent for the first time. `None`: the hop's own
    /// bound alone. Like `repair_bps` it holds on the first hop, the one that knows the class.
    pub repair_share: Option<Ratio>,
    /// Most bytes of repair, in bit/s. `None`: no such bound.
    pub repair_bps: Option<u64>,
}

impl Delivery {
    /// No repair and no order: what is lost stays lost, what comes goes out.
    pub const NONE: Self = Self {
        budget: Duration::ZERO,
        reorder: Duration::ZERO,
        residual: Residual::DEFAULT,
        repair_share: None,
        repair_bps: None,
    };
}

/// The DSCP on the outside of a class's packets, all the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Marking {
    /// That of the packet inside.
    #[default]
    Copy,
    /// This one, below 64.
    As(u8),
}

/// Which packets a class takes: all conditions that are given must hold; none given takes all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// The destination lies in one of these.
    pub prefixes: Vec<IpNet>,
    /// The DSCP is one of these.
    pub dscp: Vec<u8>,
    /// The transport protocol is one of these.
    pub protocols: Vec<u8>,
    /// The port at either end, of TCP or UDP, lies in one of these ranges, both ends of a range counted.
    /// Fragments of a packet have none.
    pub ports: Vec<(u16, u16)>,
}

/// One class of traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSpec {
    /// Its name in configuration, metrics and output.
    pub name: String,
    /// The packets it takes.
    pub matches: Match,
    /// How its paths are chosen.
    pub policy: Policy,
    /// How its packets are delivered.
    pub delivery: Delivery,
    /// How its packets are marked on the outside.
    pub marking: Marking,
}
