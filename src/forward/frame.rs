//! The shapes a packet has between the doors. None of them is copied on its way: each is a piece of
//! a block of memory ([`Blocks`](crate::buf::Blocks)).

use bytes::{Bytes, BytesMut};

use crate::id::{Class, NodeId, StreamId};
use crate::time::Instant;
use crate::wire::data::{OVERHEAD, ROUTE};
use crate::wire::header::RouteHeader;

use super::queue::Item;
use super::segment::Splitter;

/// What waits in a link's queue.
#[derive(Debug)]
pub enum Load {
    /// Another node's packet, to be passed on.
    Relayed(Frame),
    /// Packets of this site, to be sealed when their turn comes. Much smaller than the other in
    /// number: a super-segment is one.
    Own(Box<Own>),
}

/// A data frame with its route header open.
#[derive(Debug)]
pub struct Frame {
    /// The whole frame.
    pub(super) bytes: BytesMut,
    /// When it came into this node.
    pub(super) arrived: Instant,
    /// Its age then, in ticks of 100 µs.
    pub(super) age: u16,
    /// What the way takes beyond the next node, in ticks, as far as is known here.
    pub(super) beyond: u16,
    /// The DSCP of its datagrams.
    pub(super) dscp: u8,
    /// Its class, where it entered the overlay here and another lane of this node sends it.
    pub(super) class: Option<Class>,
}

/// Packets from the TUN device with all that is needed to seal them.
#[derive(Debug)]
pub struct Own {
    pub(super) destination: NodeId,
    pub(super) stream: StreamId,
    pub(super) route: RouteHeader,
    pub(super) arrived: Instant,
    pub(super) packets: Packets,
    /// What the way takes beyond the next node, in ticks.
    pub(super) beyond: u16,
    /// The DSCP of their datagrams.
    pub(super) dscp: u8,
    /// Whether the next of them is to bear the congestion mark.
    pub(super) marked: bool,
}

/// One packet, empty once it was taken, or a super-segment.
#[derive(Debug)]
pub enum Packets {
    /// A packet.
    One(BytesMut),
    /// A super-segment and how far it is cut.
    Many(Splitter),
}

impl Load {
    /// How many packets there are.
    pub(super) fn packets(&self) -> usize {
        match self {
            Self::Relayed(_) => 1,
            Self::Own(own) => own.packets.left(),
        }
    }

    /// Bytes of the frames they are or become.
    pub(super) fn frame_bytes(&self) -> usize {
        match self {
            Self::Relayed(frame) => frame.bytes.len(),
            Self::Own(own) => own.packets.frame_bytes(),
        }
    }
}

impl Item for Load {
    fn mark(&mut self) -> bool {
        match self {
            Self::Relayed(frame) => {
                let Some(bytes) = frame.bytes[ROUTE..].first_chunk_mut() else { return false };
                match RouteHeader::parse(bytes) {
                    Ok(route) if route.ecn != 0 => {
                        *bytes = RouteHeader { ecn: 3, ..route }.to_bytes();
                        true
                    }
                    _ => false,
                }
            }
            Self::Own(own) => {
                own.marked |= own.route.ecn != 0;
                own.marked
            }
        }
    }

    fn shed(&mut self) -> Option<usize> {
        match self {
            Self::Own(own) if own.packets.left() > 1 => match &mut own.packets {
                Packets::Many(splitter) => Some(splitter.next_packet()?.len() + OVERHEAD),
                Packets::One(_) => None,
            },
            _ => None,
        }
    }
}

impl Packets {
    /// How many are left.
    pub(super) fn left(&self) -> usize {
        match self {
            Self::One(packet) => usize::from(!packet.is_empty()),
            Self::Many(splitter) => splitter.left(),
        }
    }

    /// Bytes of the frames they become.
    pub(super) fn frame_bytes(&self) -> usize {
        let packets = match self {
            Self::One(packet) => packet.len(),
            Self::Many(splitter) => splitter.bytes_left(),
        };
        packets + self.left() * OVERHEAD
    }
}

/// A frame that was sent, as it is kept for repair.
#[derive(Debug)]
pub struct Kept {
    /// The frame as it was sent.
    pub(super) bytes: Bytes,
    /// Its route header, open.
    pub(super) route: [u8; RouteHeader::LEN],
    /// Its class, where it entered the overlay here.
    pub(super) class: Option<Class>,
    /// When it came into this node.
    pub(super) arrived: Instant,
    /// Its age then, in ticks of 100 µs.
    pub(super) age: u16,
    /// The DSCP of its datagrams.
    pub(super) dscp: u8,
}
