//! Step 1: from the TUN device into the queue of the first hop.

use std::net::SocketAddr;

use crate::buf::Offload;
use crate::id::{Class, NodeId};
use crate::time::Instant;
use crate::wire::TAG;
use crate::wire::data::{END, PAYLOAD, ROUTE};
use crate::wire::header::{EndHeader, Flags, RouteHeader, ticks};

use super::classify::{Classified, Head, TCP, UDP};
use super::lanes::Handed;
use super::paths::Way;
use super::peer::Plain;
use super::segment::{self, Splitter, Sums};
use super::{DropReason, Forwarder};

/// What all packets of one super-segment share.
#[derive(Clone, Copy)]
struct Course {
    destination: NodeId,
    way: Way,
    classified: Classified,
    route: RouteHeader,
}

impl Forwarder {
    /// Takes one packet or super-segment.
    pub(super) fn ingress(
        &mut self,
        now: Instant,
        packet: &mut [u8],
        offload: Offload,
    ) -> Result<(), DropReason> {
        let mut course = self.course(packet)?;
        match offload {
            Offload::None => self.pack(now, &course, packet),
            Offload::Checksum { start, offset } => {
                // What the egress can find again travels undone; anything else is summed here.
                if segment::partial(packet) == Some(offload) {
                    course.route.flags.checksum_partial = true;
                } else if !segment::complete(packet, start, offset) {
                    return Err(DropReason::BadPacket);
                }
                self.pack(now, &course, packet)
            }
            Offload::Segments { kind, size, .. } => {
                course.route.flags.checksum_partial = true;
                let most = self.most_payload(&course.classified, packet);
                let mut splitter = Splitter::new(packet, kind, size, most, Sums::Partial)
                    .map_err(|_| DropReason::BadPacket)?;
                if splitter.longest() > self.config.mtu {
                    return Err(DropReason::TooBig);
                }
                while self.pack_next(now, &course, &mut splitter)? {}
                Ok(())
            }
        }
    }

    /// Reads a packet and decides where it goes.
    fn course(&self, packet: &[u8]) -> Result<Course, DropReason> {
        let classified = self.classifier.classify(packet)?;
        let head = &classified.head;
        if self.own.longest(head.source).is_none() {
            return Err(DropReason::ForeignSource);
        }
        if self.own.longest(head.destination).is_some() {
            return Err(DropReason::Hairpin);
        }
        let endpoint = SocketAddr::new(head.destination, head.ports.1);
        if head.protocol == UDP && self.endpoints.contains(&endpoint) {
            return Err(DropReason::UnderlayLoop);
        }
        let destination = self.paths.owner(head.destination).ok_or(DropReason::NoOwner)?;
        if destination == self.config.node {
            return Err(DropReason::Hairpin);
        }
        let way = *self.paths.pick(destination, classified.class).ok_or(DropReason::NoRoute)?;
        if !self.peers.contains_key(&destination) {
            return Err(DropReason::NoSession);
        }
        let route = self.route_header(&way, classified.class, head);
        Ok(Course { destination, way, classified, route })
    }

    fn route_header(&self, way: &Way, class: Class, head: &Head) -> RouteHeader {
        let delivery = self.config.classes.get(usize::from(class.0)).map(|spec| spec.delivery);
        let (repair, restored) =
            delivery.map_or((0, false), |d| (ticks(d.budget), !d.reorder.is_zero()));
        // Only TCP takes a gap for congestion. To others order is worth no delay: a call or a game
        // would wait for each loss, and after a failover for packets that never come.
        let ordered = restored && head.protocol == TCP;
        // No budget beyond the path's own delay: nobody waits for a repair.
        let budget = if repair == 0 { 0 } else { way.delay.saturating_add(repair) };
        RouteHeader {
            hop_seq: 0,
            class,
            flags: Flags { ordered, ..Flags::default() },
            ecn: head.ecn,
            segments_left: (way.segments.count() - 1) as u8,
            budget,
            age: 0,
            source: self.config.node,
            segments: way.segments,
        }
    }

    /// Payload that fits a packet of this flow: the MTU less the headers.
    fn most_payload(&self, classified: &Classified, packet: &[u8]) -> usize {
        let transport = usize::from(classified.head.transport);
        let header = match packet.get(transport + 12) {
            Some(byte) if classified.head.protocol == TCP => usize::from(byte >> 4) * 4,
            _ => 8,
        };
        self.config.mtu.saturating_sub(transport + header)
    }

    /// Seals a single packet into a frame and queues it.
    fn pack(&mut self, now: Instant, course: &Course, packet: &[u8]) -> Result<(), DropReason> {
        if packet.len() > self.config.mtu {
            return Err(DropReason::TooBig);
        }
        let peer = self.peers.get_mut(&course.destination).ok_or(DropReason::NoSession)?;
        let mut frame = self.pool.lend(now, 0).ok_or(DropReason::NoRoom)?;
        frame.bytes.resize(PAYLOAD + packet.len() + TAG, 0);
        let room = &mut frame.bytes[PAYLOAD..][..packet.len()];
        let plain = Plain::Elsewhere(packet, room);
        let (end, tag) = peer.seal(now, &course.route, course.classified.stream, plain);
        frame.bytes[PAYLOAD + packet.len()..].copy_from_slice(&tag);
        self.enqueue(now, course, &end, frame, packet.len());
        Ok(())
    }

    /// Seals the next packet of a super-segment and queues it; `false` after the last.
    fn pack_next(
        &mut self,
        now: Instant,
        course: &Course,
        splitter: &mut Splitter<'_>,
    ) -> Result<bool, DropReason> {
        let peer = self.peers.get_mut(&course.destination).ok_or(DropReason::NoSession)?;
        let mut frame = self.pool.lend(now, 0).ok_or(DropReason::NoRoom)?;
        frame.bytes.resize(PAYLOAD, 0);
        if splitter.next_into(&mut frame.bytes).is_none() {
            return Ok(false);
        }
        let plain = Plain::InPlace(&mut frame.bytes[PAYLOAD..]);
        let (end, tag) = peer.seal(now, &course.route, course.classified.stream, plain);
        let inner = frame.bytes.len() - PAYLOAD;
        frame.bytes.extend_from_slice(&tag);
        self.enqueue(now, course, &end, frame, inner);
        Ok(true)
    }

    fn enqueue(
        &mut self,
        now: Instant,
        course: &Course,
        end: &EndHeader,
        mut frame: super::Frame,
        inner: usize,
    ) {
        frame.bytes[ROUTE..][..RouteHeader::LEN].copy_from_slice(&course.route.to_bytes());
        frame.bytes[END..][..EndHeader::LEN].copy_from_slice(&end.to_bytes());
        self.stats.ingress.add(inner);
        if course.way.segments.count() > 1 {
            self.stats.ingress_relayed.add(inner);
        }
        if let Some(class) = self.stats.class_sent.get_mut(usize::from(course.route.class.0)) {
            class.add(inner);
        }
        self.push_to_link(now, course.way.link, course.classified.flow, frame);
    }

    /// Queues a data frame on a link and counts what gave way for it.
    pub(super) fn push_to_link(
        &mut self,
        now: Instant,
        id: crate::id::LinkId,
        flow: u64,
        frame: super::Frame,
    ) {
        if let Some(lane) = self.elsewhere(id) {
            return self.hand_over(lane, Handed::Onward { link: id, flow, frame });
        }
        let Some(link) = self.link_mut(id) else { return };
        let bytes = frame.bytes.len();
        let dropped = link.queue.push(now, flow, bytes, frame);
        self.stats.drop_many(DropReason::QueueFull, dropped as u64);
        self.list(id);
    }
}
