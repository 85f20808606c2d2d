//! Names for things that are counted: nodes, links, classes, streams.

use std::fmt;

/// A node's number, allotted beside the CA's key and written in its certificate.
///
/// Zero is no node (an unused segment); numbers from 0xff00 name one link of the node before
/// (`docs/wire.md`), so a node's number lies in `1..=0xfeff`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u16);

impl NodeId {
    /// The greatest number a node may have.
    pub const MAX: u16 = 0xfeff;

    /// The node with this number, or `None` where the number cannot name a node.
    pub const fn new(number: u16) -> Option<Self> {
        if number == 0 || number > Self::MAX { None } else { Some(Self(number)) }
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// One of this node's links: a (local address, remote address) pair to one peer.
///
/// Local to the process, dense from zero, never reused for another peer while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u16);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "l{}", self.0)
    }
}

/// A kind of traffic, by its place in this node's list of classes.
///
/// Local to the source: what others must know of a class (deadline, order) travels in the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub u8);

impl Class {
    /// More classes than this cannot be configured: the header gives them six bits.
    pub const LIMIT: usize = 64;
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// One end-to-end numbering between two nodes: a bucket of flows of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u16);
