//! Step 2: a datagram from the underlay, up to where it is known what it is and whose.
//!
//! Authenticate before decoding: index, counter, key, seal; only then the body. Data frames go on
//! to `relay` or `egress`; everything else is answered or believed here.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;

use crate::id::{LinkId, NodeId};
use crate::time::{Deadline, Instant};
use crate::wire::ack::Ack;
use crate::wire::data::{DataMut, HOP_TAG, OVERHEAD, ROUTE};
use crate::wire::fragment::{self, Fragment};
use crate::wire::header::{Clear, RouteHeader, ticks};
use crate::wire::hello::{Hello, Role};
use crate::wire::notice::Notice;
use crate::wire::probe::Probe;
use crate::wire::repair::Repair;
use crate::wire::size::SizeProbe;
use crate::wire::{Kind, Owner, TAG, WireError, owner};

use super::arq::Arrival;
use super::coding::Uncoder;
use super::egress::combine_ecn;
use super::event::{ForwardEvent, ProbeRequest};
use super::greet::Greeter;
use super::health::HealthEvent;
use super::pieces::{Joined, Joiner};
use super::stats::count_frame;
use super::{DropReason, Forwarder};

impl Forwarder {
    /// Takes one datagram; gives the link it came over, once that is certain.
    pub(super) fn hop(
        &mut self,
        now: Instant,
        mut datagram: BytesMut,
        from: SocketAddr,
        tos: u8,
    ) -> Result<LinkId, DropReason> {
        if owner(&datagram) != Owner::Frame {
            return Err(DropReason::NotAFrame);
        }
        let (clear, _) = Clear::parse(&datagram).map_err(|error| match error {
            WireError::Kind(_) => DropReason::Unsupported,
            _ => DropReason::Malformed,
        })?;
        if clear.kind == Kind::Bundle {
            return Err(DropReason::Unsupported);
        }
        let id = *self.table.find(clear.index).ok_or(DropReason::UnknownIndex)?;
        let link = self
            .links
            .get_mut(usize::from(id.0))
            .and_then(Option::as_mut)
            .ok_or(DropReason::UnknownIndex)?;
        if link.forgeries.refuses(now, from, link.endpoint) {
            return Err(DropReason::ForgeryFlood);
        }
        // Only a packet, a sum or a piece of packets, or what asks for room may be long; another long
        // frame is not worth its opening.
        let may_be_long = matches!(
            clear.kind,
            Kind::Data | Kind::Repair | Kind::Carrier | Kind::Fragment | Kind::Probe
        );
        if !may_be_long && datagram.len() > Clear::LEN + Ack::MAX + TAG {
            return Err(DropReason::Malformed);
        }
        let asks = match link.open(now, &clear, &mut datagram, &mut self.spare) {
            Ok(()) => {
                link.forgeries.on_authentic(from);
                // Where the peer is is the first lane's to find; the node tells the others.
                let places = (from, link.endpoint);
                let asks = self.config.lane.is_first()
                    && link.roaming.on_authentic(now, places, clear.counter, datagram.len());
                if asks {
                    link.call(now, self.config.boot, &mut self.dice);
                }
                asks
            }
            Err(reason) => {
                if reason == DropReason::BadTag {
                    link.forgeries.on_bad_tag(now);
                }
                return Err(reason);
            }
        };
        let peer = link.peer;
        if asks {
            self.list(id);
        }
        let inner = match clear.kind {
            Kind::Data => datagram.len() - OVERHEAD,
            Kind::Fragment => datagram.len().saturating_sub(fragment::OVERHEAD),
            _ => 0,
        };
        let counted = self.stats.link_mut(id);
        counted.frames_received += 1;
        count_frame(&mut counted.received, clear.kind, datagram.len(), inner);
        if clear.kind == Kind::Data {
            self.on_data(now, id, peer, datagram, tos)?;
        } else if clear.kind == Kind::Fragment {
            let body = &datagram[Clear::LEN..datagram.len() - TAG];
            if let Some((whole, tos)) = self.on_piece(now, id, body, tos)? {
                // It cannot be a piece again: that ends here.
                return self.hop(now, whole, from, tos);
            }
        } else {
            let body = &datagram[Clear::LEN..datagram.len() - TAG];
            self.on_bare(now, id, peer, (clear.kind, tos, from), body)?;
        }
        Ok(id)
    }

    fn on_data(
        &mut self,
        now: Instant,
        id: LinkId,
        peer: NodeId,
        mut datagram: BytesMut,
        tos: u8,
    ) -> Result<(), DropReason> {
        let parts = DataMut::split(&mut datagram[ROUTE..]).map_err(|_| DropReason::Malformed)?;
        let open = *parts.route;
        let mut route = RouteHeader::parse(&open).map_err(|_| DropReason::Malformed)?;
        let whole = datagram.len();
        let (asks, ce) = (route.flags.ack_wanted, tos & 3 == 3);
        let Some(link) = self.link_mut(id) else { return Err(DropReason::UnknownIndex) };
        let arrival = link.receiver.on_frame(now, route.hop_seq, whole, ce, asks);
        let transit = link.transit();
        let source = route.flags.coded && arrival == Arrival::New;
        if source {
            let uncoder = link.uncoder.get_or_insert_with(|| Box::new(Uncoder::new()));
            uncoder.on_source(now, route.hop_seq, &open, &datagram);
        }
        self.list(id);
        let done = self.carry(now, id, peer, (arrival, transit), &mut route, datagram, tos);
        // One that comes late may complete what symbols said of others.
        if source {
            self.on_recovered(now, id, peer, tos);
        }
        done
    }

    /// A data frame has come, by itself or out of repair symbols: to where it goes.
    #[allow(clippy::too_many_arguments)]
    fn carry(
        &mut self,
        now: Instant,
        id: LinkId,
        peer: NodeId,
        (arrival, transit): (Arrival, Duration),
        route: &mut RouteHeader,
        datagram: BytesMut,
        tos: u8,
    ) -> Result<(), DropReason> {
        if arrival != Arrival::New {
            return Err(DropReason::Duplicate);
        }
        if route.receiver() != Some(self.config.node) || route.sender() != Some(peer) {
            return Err(DropReason::WrongRoute);
        }
        route.age = route.age.saturating_add(ticks(transit));
        (route.flags.ack_wanted, route.flags.coded) = (false, false);
        route.ecn = combine_ecn(route.ecn, tos).ok_or(DropReason::Congested)?;
        match route.next() {
            // The outside keeps its marking from end to end (RFC 2983, uniform among us).
            Some(next) => self.relay(now, id, route, next, datagram, tos >> 2),
            None => self.arrive(now, route, datagram),
        }
    }

    /// What repair symbols have given back goes on like any other frame, older by as much as it was
    /// missed.
    fn on_recovered(&mut self, now: Instant, id: LinkId, peer: NodeId, tos: u8) {
        loop {
            let Some(link) = self.link_mut(id) else { return };
            let transit = link.transit();
            let Some(uncoder) = link.uncoder.as_mut() else { return };
            let Some((recovered, open, missed)) = uncoder.poll_recovered(now) else { break };
            let arrival = link.receiver.on_recovered(now, recovered.seq);
            self.stats.link_mut(id).recovered += u64::from(arrival == Arrival::New);
            let mut bytes = recovered.bytes;
            let done = match RouteHeader::parse(&open) {
                Ok(mut route) if bytes.len() >= OVERHEAD => {
                    bytes[ROUTE..HOP_TAG].copy_from_slice(&open);
                    let so_far = (arrival, transit + missed);
                    // The marks of its own datagram are lost with that.
                    self.carry(now, id, peer, so_far, &mut route, bytes, tos & !3)
                }
                _ => Err(DropReason::Malformed),
            };
            if let Err(reason) = done {
                self.stats.drop(reason);
            }
        }
        self.list(id);
    }

    /// A piece came; the frame, once that is whole, and the TOS it came with.
    fn on_piece(
        &mut self,
        now: Instant,
        id: LinkId,
        body: &[u8],
        tos: u8,
    ) -> Result<Option<(BytesMut, u8)>, DropReason> {
        let (fragment, piece) = Fragment::parse(body).map_err(|_| DropReason::Malformed)?;
        let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
        let joiner = link.joiner.get_or_insert_with(|| Box::new(Joiner::default()));
        let joined = joiner.on_piece(now, fragment, piece, tos);
        let given_up = joiner.take_given_up();
        self.stats.drop_many(DropReason::PieceMissing, given_up);
        match joined {
            // Nobody's frame is cut twice.
            Joined::Whole(whole, _) if whole.first() == Some(&(Kind::Fragment as u8)) => {
                Err(DropReason::Malformed)
            }
            Joined::Whole(whole, tos) => Ok(Some((whole, tos))),
            Joined::Waiting => Ok(None),
            Joined::Refused => Err(DropReason::Malformed),
        }
    }

    fn on_bare(
        &mut self,
        now: Instant,
        id: LinkId,
        peer: NodeId,
        (kind, tos, from): (Kind, u8, SocketAddr),
        body: &[u8],
    ) -> Result<(), DropReason> {
        match kind {
            Kind::Probe if SizeProbe::is_one(body) => {
                let probe = SizeProbe::parse(body).map_err(|_| DropReason::Malformed)?;
                self.on_size_probe(id, probe)
            }
            Kind::Probe => {
                let probe = Probe::parse(body).map_err(|_| DropReason::Malformed)?;
                self.on_probe(now, id, probe)
            }
            Kind::Hello => {
                let hello = Hello::parse(body).map_err(|_| DropReason::Malformed)?;
                self.on_hello(now, id, &hello, from)
            }
            Kind::Ack => {
                let ack = Ack::parse(body).map_err(|_| DropReason::Malformed)?;
                self.on_ack(now, id, &ack)
            }
            Kind::Repair => {
                let (repair, symbol) = Repair::parse(body).map_err(|_| DropReason::Malformed)?;
                let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
                let uncoder = link.uncoder.get_or_insert_with(|| Box::new(Uncoder::new()));
                let refused = uncoder.on_repair(&repair, symbol);
                self.stats.link_mut(id).symbols_refused += refused;
                self.on_recovered(now, id, peer, tos);
                Ok(())
            }
            Kind::Carrier => self.on_carrier(now, peer, body),
            Kind::Notice => {
                let notice = Notice::parse(body).map_err(|_| DropReason::Malformed)?;
                self.on_notice(now, peer, &notice)
            }
            _ => Err(DropReason::Unsupported),
        }
    }

    /// Answers a probe at once, or hands its answer to the node.
    fn on_probe(&mut self, now: Instant, id: LinkId, probe: Probe) -> Result<(), DropReason> {
        let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
        match probe {
            Probe::Request { seq, sent_at } => {
                let (highest, heard) = &mut link.probes_heard;
                *highest = if *heard == 0 { seq } else { (*highest).max(seq) };
                *heard = heard.wrapping_add(1);
                // Answered in the turn it came in; the driver sends what a turn makes at its end.
                let dwell = Duration::ZERO;
                let reply = Probe::Reply { seq, sent_at, dwell, highest: *highest, heard: *heard };
                link.push_bare(Kind::Probe, &reply.to_bytes());
                self.list(id);
                self.told.push(ForwardEvent::ProbeHeard {
                    link: id,
                    seq,
                    sent_at_peer_us: sent_at.as_micros(),
                    received_at: now,
                });
            }
            Probe::Reply { seq, sent_at, dwell, highest, heard } => {
                if sent_at > now {
                    return Err(DropReason::Malformed);
                }
                link.on_round_trip(now, now.since(sent_at).saturating_sub(dwell));
                link.confirm(now, sent_at);
                self.heed_health(now, id);
                self.told.push(ForwardEvent::ProbeReply {
                    link: id,
                    seq,
                    sent_at,
                    received_at: now,
                    dwell,
                    peer_highest: highest,
                    peer_heard: heard,
                });
            }
        }
        Ok(())
    }

    /// Answers a size probe, or hands its answer to the node.
    fn on_size_probe(&mut self, id: LinkId, probe: SizeProbe) -> Result<(), DropReason> {
        let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
        match probe {
            SizeProbe::Request { seq, size } => {
                link.push_bare(Kind::Probe, &SizeProbe::Reply { seq, size }.to_bytes());
                self.list(id);
            }
            SizeProbe::Reply { seq, size } => {
                self.told.push(ForwardEvent::SizeAnswered { link: id, seq, size });
            }
        }
        Ok(())
    }

    fn on_hello(
        &mut self,
        now: Instant,
        id: LinkId,
        hello: &Hello,
        from: SocketAddr,
    ) -> Result<(), DropReason> {
        let boot = self.config.boot;
        let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
        match hello.role {
            Role::Request => {
                link.push_bare(Kind::Hello, &Greeter::answer(boot, hello).to_bytes());
                self.list(id);
            }
            Role::Response => {
                let moved = link.roaming.on_answer(from, hello.echo);
                let asked = moved.or_else(|| link.greeter.on_answer(hello.echo));
                let sent_at = asked.ok_or(DropReason::StrayHello)?;
                if moved.is_some() {
                    link.move_to(now, from);
                }
                link.on_round_trip(now, now.since(sent_at));
                link.confirm(now, sent_at);
                if moved.is_some() {
                    self.endpoints.insert(from);
                    self.told.push(ForwardEvent::LinkMoved { link: id, endpoint: from });
                }
                self.heed_health(now, id);
            }
        }
        Ok(())
    }

    fn on_ack(&mut self, now: Instant, id: LinkId, ack: &Ack) -> Result<(), DropReason> {
        let link = self.link_mut(id).ok_or(DropReason::UnknownIndex)?;
        link.on_feedback(now, ack);
        self.heed_health(now, id);
        self.list(id);
        Ok(())
    }

    /// Acts on what a link's health has to say: asks the link, or moves routes and tells.
    pub(super) fn heed_health(&mut self, now: Instant, id: LinkId) {
        let boot = self.config.boot;
        self.touch(id);
        let Some(link) = self.links.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        let (mut events, generation) = (Vec::new(), link.generation);
        while let Some(event) = link.health.poll_event() {
            events.push(event);
        }
        if link.health.poll_ping(now) {
            let hello = link.greeter.ask(now, boot, &mut self.dice);
            if link.push_bare(Kind::Hello, &hello.to_bytes()) {
                link.health.on_sent(now);
            }
            self.list(id);
        }
        for event in events {
            self.on_health(now, id, generation, event);
        }
    }

    fn on_health(&mut self, now: Instant, id: LinkId, generation: u64, event: HealthEvent) {
        if !self.config.lane.is_first() {
            return self.ask_first(now, id, generation, event);
        }
        match event {
            HealthEvent::Up => {
                self.told.push(ForwardEvent::LinkUp { link: id });
                self.stand(now, id, true);
            }
            HealthEvent::Down { silence } => {
                self.told.push(ForwardEvent::LinkDown { link: id, silence });
                self.stand(now, id, false);
            }
            HealthEvent::Suspect | HealthEvent::Cleared => {}
        }
    }

    /// Sends a probe. `false` where there is no such link or no room.
    pub(super) fn ask_probe(&mut self, now: Instant, request: ProbeRequest) -> bool {
        let Some(link) = self.link_mut(request.link) else { return false };
        if let Some(size) = request.size {
            // Whether it comes through says nothing of the link's health.
            let sent = link.push_bare_owned(
                Kind::Probe,
                SizeProbe::Request { seq: request.seq, size }.to_bytes(),
            );
            self.list(request.link);
            return sent;
        }
        let probe = Probe::Request { seq: request.seq, sent_at: now };
        let sent = link.push_bare(Kind::Probe, &probe.to_bytes());
        if sent {
            link.health.on_sent(now);
        }
        self.list(request.link);
        sent
    }

    /// What time asks of a link.
    pub(super) fn tick_link(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.link_mut(id) else { return };
        link.health.handle_timeout(now);
        self.heed_health(now, id);
        let Some(link) = self.link_mut(id) else { return };
        let due = |deadline: Option<Deadline>| deadline.is_some_and(|d| d.at <= now);
        let (repair, feedback) =
            (due(link.sender.poll_timeout()), due(link.receiver.poll_timeout()));
        if repair {
            link.sender.handle_timeout(now);
            link.heed_line(now);
        }
        let credit = due(link.pacer.poll_timeout());
        if credit {
            link.pacer.on_wake();
        }
        let symbols = link.has_symbols(now);
        let report = link.report(now);
        self.told.extend(report);
        if repair || feedback || credit || symbols {
            self.list(id);
        }
    }
}
