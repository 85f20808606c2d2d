//! The mesh: its nodes, and every link of it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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
