//! Names for things that are counted: nodes, links, lanes, classes, streams.

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

/// One of this node's lanes: a data thread with its share of every link, of how many.
///
/// Lane *i* of one node speaks to lane *i* of another; a pair uses as many as the one with fewer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    number: u8,
    count: u8,
}

impl Lane {
    /// More lanes than this no node may have: the wire gives the number beyond the first four bits.
    pub const LIMIT: u8 = 16;
    /// The lane of a node that has one.
    pub const ONLY: Self = Self { number: 0, count: 1 };

    /// The lanes of a node that has so many: at least one, at most [`Lane::LIMIT`].
    pub fn all(count: u8) -> impl Iterator<Item = Self> {
        let count = count.clamp(1, Self::LIMIT);
        (0..count).map(move |number| Self { number, count })
    }

    /// Its number, from zero.
    pub const fn number(self) -> u8 {
        self.number
    }

    /// How many lanes the node has.
    pub const fn count(self) -> u8 {
        self.count
    }

    /// Whether it is the first: it asks links whether they work, and decides.
    pub const fn is_first(self) -> bool {
        self.number == 0
    }

    /// Which of this node's lanes carries this lane's packets on a link that has `lanes`.
    pub fn on_link(self, lanes: u8) -> u8 {
        self.number % lanes.clamp(1, self.count)
    }

    /// Which of this node's lanes opens what a source sealed on its lane `end`: always the same, so
    /// that one window sees every number, whichever way the packet came.
    pub const fn home(self, end: u8) -> u8 {
        end % self.count
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
