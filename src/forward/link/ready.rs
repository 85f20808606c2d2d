//! Frames that come out of the queue: one relayed, or one of this site's, sealed end to end.

use std::collections::BTreeMap;

use bytes::BytesMut;

use crate::buf::Blocks;
use crate::forward::egress::mark_congested;
use crate::forward::frame::{Frame, Own, Packets};
use crate::forward::peer::Peer;
use crate::forward::stats::{DropReason, Stats};
use crate::id::{Class, NodeId};
use crate::time::Instant;
use crate::wire::data::{END, HOP_TAG, OVERHEAD, PAYLOAD, ROUTE};
use crate::wire::header::{EndHeader, RouteHeader};

/// A data frame that wants only its hop seal.
pub(in crate::forward) struct Ready {
    pub(super) bytes: BytesMut,
    /// Its route header, open.
    pub(super) route: [u8; RouteHeader::LEN],
    /// Its class, where it enters the overlay here.
    pub(super) class: Option<Class>,
    pub(super) arrived: Instant,
    pub(super) age: u16,
    pub(super) beyond: u16,
    pub(super) dscp: u8,
}

impl Ready {
    /// As it waits in another lane's queue.
    pub(in crate::forward) fn into_frame(mut self) -> Frame {
        self.bytes[ROUTE..HOP_TAG].copy_from_slice(&self.route);
        let Self { bytes, class, arrived, age, beyond, dscp, .. } = self;
        Frame { bytes, arrived, age, beyond, dscp, class }
    }
}

/// A relayed frame: sealed anew where it lies.
pub(super) fn open_frame(frame: &mut Frame) -> Ready {
    let bytes = std::mem::take(&mut frame.bytes);
    let mut route = [0; RouteHeader::LEN];
    route.copy_from_slice(&bytes[ROUTE..HOP_TAG]);
    let Frame { arrived, age, beyond, dscp, class, .. } = *frame;
    Ready { bytes, route, class, arrived, age, beyond, dscp }
}

/// Seals the next packet of this site end to end, from where it was read to where it is sent from.
///
/// # Errors
/// Why the load cannot go, and how many packets that is.
pub(in crate::forward) fn seal_own(
    own: &mut Own,
    now: Instant,
    peers: &mut BTreeMap<NodeId, Peer>,
    blocks: &mut Blocks,
    stats: &mut Stats,
) -> Result<Ready, (DropReason, usize)> {
    let left = own.packets.left();
    let peer = peers.get_mut(&own.destination).ok_or((DropReason::NoSession, left))?;
    let mut one;
    let plain: &mut [u8] = match &mut own.packets {
        Packets::One(packet) => {
            one = std::mem::take(packet);
            &mut one
        }
        Packets::Many(splitter) => splitter.next_packet().ok_or((DropReason::BadPacket, left))?,
    };
    let mut route = own.route;
    if std::mem::take(&mut own.marked) {
        mark_congested(plain);
        route.ecn = 3;
    }
    let inner = plain.len();
    let mut bytes = blocks.room(inner + OVERHEAD).ok_or((DropReason::NoRoom, left))?;
    let (head, rest) = bytes.split_at_mut(PAYLOAD);
    let (payload, end_tag) = rest.split_at_mut(inner);
    let (end, tag) = peer.seal(now, &route, own.stream, plain, payload);
    head[END..][..EndHeader::LEN].copy_from_slice(&end.to_bytes());
    end_tag.copy_from_slice(&tag);
    stats.ingress.add(inner);
    if own.route.segments_left > 0 {
        stats.ingress_relayed.add(inner);
    }
    if let Some(class) = stats.class_sent.get_mut(usize::from(own.route.class.0)) {
        class.add(inner);
    }
    let class = Some(route.class);
    let route = route.to_bytes();
    let Own { arrived, beyond, dscp, .. } = *own;
    Ok(Ready { bytes, route, class, arrived, age: 0, beyond, dscp })
}
