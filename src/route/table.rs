//! The table the data path reads: for each destination and class a primary path and its backup.
//!
//! Immutable once built; a new one replaces it whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::id::{Class, LinkId, NodeId};
use crate::route::prefix::PrefixMap;

/// A path from this node: the link its first hop crosses, and the nodes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The link to the first node of `nodes`.
    pub link: LinkId,
    /// Relays in order, then the destination. One to three.
    pub nodes: Vec<NodeId>,
    /// Expected one-way delay, before queueing and repair. A packet's time budget starts from it.
    pub delay: Duration,
}

impl Path {
    /// Most nodes after the source on a computed path: two relays and the destination.
    pub const LIMIT: usize = 3;

    /// Whether the path goes straight to its destination.
    pub fn is_direct(&self) -> bool {
        self.nodes.len() == 1
    }
}

/// The decision for one destination and class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The path in force.
    pub primary: Path,
    /// The path the forwarder flips to by itself when the primary's first link dies or a relay says
    /// that it lost its next hop. Shares no relay and no first link with the primary.
    pub backup: Option<Path>,
    /// Whether packets are dropped instead: no path keeps the limits, and their class wants it so. The paths
    /// are those that are watched for one that does.
    pub withheld: bool,
}

impl Route {
    /// Packets take this path, and have no backup.
    pub const fn alone(primary: Path) -> Self {
        Self { primary, backup: None, withheld: false }
    }
}

/// Every decision of this node.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Grows with every table, so that events can name the one they speak of.
    pub generation: u64,
    /// Which node answers for an address.
    pub prefixes: PrefixMap<NodeId>,
    /// The paths.
    pub routes: BTreeMap<(NodeId, Class), Route>,
    /// First links of paths that no traffic takes now: they are not asked whether they still work
    /// merely because a path names them.
    pub resting: BTreeSet<LinkId>,
    /// Paths over others to nodes that this one shares no keys with yet: for carriers alone.
    pub carriers: BTreeMap<NodeId, Path>,
}

impl RouteTable {
    /// The node that answers for this address: longest prefix wins.
    pub fn owner(&self, address: IpAddr) -> Option<NodeId> {
        self.prefixes.longest(address).copied()
    }

    /// The decision for a destination and class.
    pub fn lookup(&self, node: NodeId, class: Class) -> Option<&Route> {
        self.routes.get(&(node, class))
    }

    /// An empty table.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// All prefixes with their owners.
    pub fn owners(&self) -> impl Iterator<Item = (IpNet, NodeId)> {
        self.prefixes.iter().map(|(net, node)| (net, *node))
    }
}
