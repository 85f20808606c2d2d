//! What the data path needs to know, as the node hands it over: immutable, replaced whole.

use std::net::SocketAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::id::{LinkId, NodeId};
use crate::quality::LinkMtu;
use crate::route::policy::ClassSpec;
use crate::route::table::RouteTable;
use crate::session::keys::Secret;

/// One link to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkEntry {
    /// Its local name.
    pub link: LinkId,
    /// The peer's underlay endpoint.
    pub endpoint: SocketAddr,
    /// The index the peer writes on frames to us; its last byte is the lane's. Allotted by us.
    pub receive_index: u32,
    /// The index we write on frames to the peer. Allotted by it.
    pub transmit_index: u32,
    /// Lanes that both ends have, at least one. Both indices are those of lane zero.
    pub lanes: u8,
    /// The longest datagram it carries; `None` where that is not known, and nothing is limited.
    pub mtu: Option<LinkMtu>,
}

/// One node we share keys with. It may have no link (traffic to it then crosses relays).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerEntry {
    /// The node.
    pub node: NodeId,
    /// Local generation of the session: a new number means new keys, counters and windows; the same
    /// number means that all of those go on.
    pub generation: u64,
    /// The pair's secret of epoch zero.
    pub secret: Secret,
    /// What its certificate allows as inner source: own addresses and site prefixes.
    pub networks: Vec<IpNet>,
    /// The links to it.
    pub links: Vec<LinkEntry>,
}

/// What the operator decided anew while the data path runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Kinds of traffic; the last takes everything. The routes beside it are numbered by them.
    pub classes: Vec<ClassSpec>,
    /// Whether this node carries others' packets.
    pub relay: bool,
    /// As [`super::ForwardConfig::max_rate_bps`].
    pub max_rate_bps: Option<u64>,
}

/// Everything the forwarder reads.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The peers, by node number.
    pub peers: Arc<Vec<PeerEntry>>,
    /// The routes.
    pub routes: Arc<RouteTable>,
    /// What was decided since the start; `None` where nothing was.
    pub tuning: Option<Arc<Tuning>>,
}
