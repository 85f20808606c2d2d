//! Step 1: from the TUN device into the queue of the first hop.

use std::net::SocketAddr;

use bytes::BytesMut;

use crate::buf::{Offload, Segmentation, TunPacket};
use crate::id::{LinkId, NodeId};
use crate::route::policy::{Delivery, Marking};
use crate::time::Instant;
use crate::wire::header::{Flags, RouteHeader, ticks};

use super::classify::{Classified, Head, UDP};
use super::event::ForwardEvent;
use super::frame::{Load, Own, Packets};
use super::paths::{Taken, Way};
use super::segment::{self, Layout, Outgoing, Splitter};
use super::{DropReason, Forwarder, mss, too_big};

/// Where the packets of one super-segment go.
struct Course {
    destination: NodeId,
    way: Way,
    classified: Classified,
    route: RouteHeader,
}

impl Forwarder {
    /// Takes one packet or super-segment and queues it. It is sealed when its turn comes: what
    /// overload drops has cost nothing but this.
    pub(super) fn ingress(&mut self, now: Instant, packet: TunPacket) -> Result<(), DropReason> {
        let TunPacket { bytes, offload } = packet;
        let mut bytes = bytes;
        let mut course = self.course(now, &bytes)?;
        if mss::opens(&course.classified.head, &bytes) {
            let partial = offload != Offload::None;
            self.clamp(&course.classified.head, &mut bytes, partial, course.way.most);
        }
        let packets = self.load(now, &mut course, bytes, offload)?;
        let Course { destination, way, classified, route } = course;
        let dscp = self.marking(&classified);
        let stream = classified.stream;
        let beyond = self.beyond(way.link, &route, Some(way.delay));
        let own =
            Own { destination, stream, route, arrived: now, packets, beyond, dscp, marked: false };
        self.push_to_link(now, way.link, classified.flow, Load::Own(Box::new(own)))
    }

    /// The packet as it will be cut, or not.
    fn load(
        &mut self,
        now: Instant,
        course: &mut Course,
        mut packet: BytesMut,
        offload: Offload,
    ) -> Result<Packets, DropReason> {
        let head = course.classified.head;
        let layout = Layout::of(&head, &packet);
        let most = self.config.mtu.min(usize::from(course.way.most));
        if let Offload::Segments { kind, size, .. } = offload {
            course.route.flags.checksum_partial = true;
            // TCP's are cut to fit.
            if let (Segmentation::Udp, Some(layout)) = (kind, layout) {
                self.fits(now, &head, &packet, layout.longest(packet.len(), size), most)?;
            }
            let splitter = Splitter::new(packet, layout, kind, size, most)
                .map_err(|_| DropReason::BadPacket)?;
            return Ok(Packets::Many(splitter));
        }
        if let Offload::Checksum { start, offset } = offload {
            // What the egress can find again travels undone; anything else is summed here.
            if layout.is_some_and(|layout| layout.partial() == offload) {
                course.route.flags.checksum_partial = true;
            } else if !segment::complete(&mut packet, start, offset) {
                return Err(DropReason::BadPacket);
            }
        }
        self.fits(now, &head, &packet, packet.len(), most)?;
        Ok(Packets::One(packet))
    }

    /// Whether packets of this length may go over a path that carries `most` whole. What may not be told
    /// goes all the same, in pieces; the sender of anything else is told.
    fn fits(
        &mut self,
        now: Instant,
        head: &Head,
        packet: &[u8],
        length: usize,
        most: usize,
    ) -> Result<(), DropReason> {
        if length <= most {
            return Ok(());
        }
        let told = too_big::may_be_told(packet, length);
        if !told && length <= self.config.mtu {
            return Ok(());
        }
        let answer = if told && self.answers.admits(now) {
            too_big::answer(head, packet, length, most)
        } else {
            None
        };
        match answer {
            Some(bytes) => {
                self.stats.too_big_told += 1;
                let packet = TunPacket { bytes, offload: Offload::None };
                self.outgoing.push(Outgoing { packet, layout: None });
            }
            None => self.stats.too_big_untold += 1,
        }
        Err(DropReason::TooBig)
    }

    /// Lowers the segment size that a TCP connection opens with to what a path carries whole.
    pub(super) fn clamp(&mut self, head: &Head, packet: &mut [u8], partial: bool, most: u16) {
        let most = self.config.mtu.min(usize::from(most));
        self.stats.clamped += u64::from(mss::clamp(head, packet, partial, most));
    }

    /// Reads a packet and decides where it goes.
    fn course(&mut self, now: Instant, packet: &[u8]) -> Result<Course, DropReason> {
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
        let class = classified.class;
        let taken = self.paths.take(now, destination, class);
        let Taken { way, news, withheld } = taken.ok_or(DropReason::NoRoute)?;
        if !self.peers.contains_key(&destination) {
            return Err(DropReason::NoSession);
        }
        if news {
            // Also where nothing is let through: its links are measured for a path that may be.
            self.told.push(ForwardEvent::InUse { destination, class });
        }
        if withheld {
            return Err(DropReason::OutsideLimits);
        }
        let route = self.route_header(&way, &classified);
        Ok(Course { destination, way, classified, route })
    }

    /// What a packet's datagrams are marked with.
    fn marking(&self, classified: &Classified) -> u8 {
        match self.config.classes.get(usize::from(classified.class.0)).map(|spec| spec.marking) {
            Some(Marking::As(dscp)) => dscp & 63,
            Some(Marking::Copy) | None => classified.head.dscp,
        }
    }

    fn route_header(&self, way: &Way, classified: &Classified) -> RouteHeader {
        let &Classified { head, class, wants_order, .. } = classified;
        let delivery = self.config.classes.get(usize::from(class.0)).map(|spec| spec.delivery);
        let delivery = delivery.unwrap_or(Delivery::NONE);
        let (repair, restored) = (ticks(delivery.budget), !delivery.reorder.is_zero());
        let ordered = restored && wants_order;
        // No budget beyond the path's own delay: nobody waits for a repair.
        let budget = if repair == 0 { 0 } else { way.delay.saturating_add(repair) };
        RouteHeader {
            hop_seq: 0,
            class,
            flags: Flags { ordered, ..Flags::default() },
            ecn: head.ecn,
            segments_left: (way.segments.count() - 1) as u8,
            residual: delivery.residual,
            budget,
            age: 0,
            source: self.config.node,
            segments: way.segments,
        }
    }

    /// What a packet's way takes beyond the next node, in ticks: of the whole way `all` where that is
    /// known, else as if every hop were like the next.
    pub(super) fn beyond(&self, link: LinkId, route: &RouteHeader, all: Option<u16>) -> u16 {
        if route.segments_left == 0 {
            return 0;
        }
        let link = self.links.get(usize::from(link.0)).and_then(Option::as_ref);
        let next = link.map_or(0, |link| ticks(link.transit()));
        match all {
            Some(all) => all.saturating_sub(next),
            None => next.saturating_mul(u16::from(route.segments_left)),
        }
    }

    /// Queues packets on a link and counts what gave way for them.
    pub(super) fn push_to_link(
        &mut self,
        now: Instant,
        id: LinkId,
        flow: u64,
        load: Load,
    ) -> Result<(), DropReason> {
        let (bytes, packets) = (load.frame_bytes(), load.packets());
        if !self.has_room(now, bytes) {
            // The caller counts one.
            self.stats.drop_many(DropReason::NoRoom, packets as u64 - 1);
            return Err(DropReason::NoRoom);
        }
        if let Some(lane) = self.elsewhere(id) {
            self.hand_on(now, lane, id, flow, load);
            return Ok(());
        }
        let Some(link) = self.link_mut(id) else { return Err(DropReason::NoRoute) };
        let dropped = link.queue.push(now, flow, bytes, packets, load);
        self.stats.drop_many(DropReason::QueueFull, dropped as u64);
        self.list(id);
        Ok(())
    }
}
