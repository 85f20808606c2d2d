//! Step 2, for packets that go on: to the next node of their route, untouched but for its header.

use std::time::Duration;

use bytes::BytesMut;

use crate::id::{Class, LinkId, NodeId};
use crate::time::Instant;
use crate::wire::Kind;
use crate::wire::data::{DataMut, OVERHEAD, ROUTE};
use crate::wire::header::{EndHeader, RouteHeader};
use crate::wire::notice::{Notice, NoticeReason};

use super::frame::{Frame, Load};
use super::lanes::{Handed, Word};
use super::{DropReason, Forwarder};

/// Least time between two notices to a source about one next hop. Shorter than the source's memory
/// of it, longer than a round trip on most paths.
const NOTICE_SPACE: Duration = Duration::from_millis(50);
/// The same where the next link carries less than the packet: it went on in pieces, so that there is no
/// hurry.
const NARROW_SPACE: Duration = Duration::from_secs(1);
/// Sources and next hops remembered for that.
const NOTICED_LIMIT: usize = 1024;

impl Forwarder {
    /// Carries an opened packet on. `bytes` is the whole frame; `route` is its header, its age
    /// and marks already those of its arrival here. `dscp`: what its datagram bore.
    pub(super) fn relay(
        &mut self,
        now: Instant,
        from: LinkId,
        route: &RouteHeader,
        next: NodeId,
        mut bytes: BytesMut,
        dscp: u8,
    ) -> Result<(), DropReason> {
        if !self.config.relay {
            self.notice(now, from, route, NoticeReason::Refused);
            return Err(DropReason::RelayRefused);
        }
        if !self.quota.admits(now, route.source, bytes.len()) {
            return Err(DropReason::RelayQuota);
        }
        let Some(link) = self.link_to(next) else {
            self.notice(now, from, route, NoticeReason::NextHopDown);
            return Err(DropReason::NextHopDown);
        };
        let narrow = self.links.get(usize::from(link.0)).and_then(Option::as_ref);
        if let Some(size) = narrow.and_then(|link| link.too_narrow(bytes.len())) {
            self.notice(now, from, route, NoticeReason::TooLong { size });
        }
        let onward = RouteHeader { segments_left: route.segments_left - 1, ..*route };
        let flow = {
            let parts = DataMut::split(&mut bytes[ROUTE..]).map_err(|_| DropReason::Malformed)?;
            *parts.route = onward.to_bytes();
            let end = EndHeader::parse(parts.end).map_err(|_| DropReason::Malformed)?;
            // Bucketed by multiplication (Fibonacci hashing): sources and streams are small numbers.
            let stream = u64::from(route.source.get()) << 16 | u64::from(end.stream.0);
            stream.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
        };
        let whole = bytes.len();
        let way = self.paths.pick(route.destination(), route.class).map(|way| way.delay);
        let beyond = self.beyond(link, &onward, way);
        let frame = Frame { bytes, arrived: now, age: route.age, beyond, dscp, class: None };
        self.push_to_link(now, link, flow, Load::Relayed(frame))?;
        self.stats.relay.add(whole - OVERHEAD);
        Ok(())
    }

    /// Tells a source that its route cannot be followed: straight where a link to it works, else
    /// back the way the packet came.
    fn notice(&mut self, now: Instant, from: LinkId, route: &RouteHeader, reason: NoticeReason) {
        let Some(next) = route.next() else { return };
        let narrow = matches!(reason, NoticeReason::TooLong { .. });
        let space = |narrow| if narrow { NARROW_SPACE } else { NOTICE_SPACE };
        let key = (route.source, next, narrow);
        if self.noticed.get(&key).is_some_and(|&last| now.since(last) < space(narrow)) {
            return;
        }
        if self.noticed.len() >= NOTICED_LIMIT {
            self.noticed.retain(|(.., narrow), last| now.since(*last) < space(*narrow));
            if self.noticed.len() >= NOTICED_LIMIT {
                return;
            }
        }
        self.noticed.insert(key, now);
        let notice = Notice {
            reason,
            hops_left: Notice::HOPS,
            class: if narrow { Class(0) } else { route.class },
            source: route.source,
            relay: self.config.node,
            segments: route.segments,
        };
        let link = self.link_to(route.source).unwrap_or(from);
        self.send_notice(link, &notice);
    }

    pub(super) fn send_notice(&mut self, id: LinkId, notice: &Notice) {
        if let Some(lane) = self.elsewhere(id) {
            return self.hand_over(lane, Handed::Notice { link: id, notice: *notice });
        }
        let sent = self.link_mut(id).is_some_and(|l| l.push_bare(Kind::Notice, &notice.to_bytes()));
        self.stats.notices_sent += u64::from(sent);
        self.list(id);
    }

    /// A notice came: for us, or to be passed back towards its source.
    pub(super) fn on_notice(
        &mut self,
        now: Instant,
        from: NodeId,
        notice: &Notice,
    ) -> Result<(), DropReason> {
        let own = self.config.node;
        let next = notice.next().ok_or(DropReason::Malformed)?;
        if notice.source == own {
            // It may come from the relay itself or from our neighbour on the route, nobody else.
            let credible = notice.relay == from || notice.segments.at(0) == Some(from);
            if let NoticeReason::TooLong { size } = notice.reason {
                let relay = notice.relay;
                if !credible || !self.paths.on_narrow(now, relay, next, size) {
                    return Err(DropReason::StrayNotice);
                }
                self.say_to_others(Word::Narrow { relay, next, size });
                return Ok(());
            }
            if !credible || !self.paths.on_lost(now, notice.relay, next, &mut self.told) {
                return Err(DropReason::StrayNotice);
            }
            let relay = notice.relay;
            self.told.push(super::ForwardEvent::RelayLostHop { relay, next });
            self.say_to_others(Word::Lost { relay, next });
            return Ok(());
        }
        // Only from further down the route, only while hops are left, and only as a relay of it.
        let place = |node| notice.segments.iter().position(|n| n == node);
        let (Some(here), Some(there)) = (place(own), place(from)) else {
            return Err(DropReason::StrayNotice);
        };
        let back = notice.before(own).ok_or(DropReason::StrayNotice)?;
        let link = self.link_to(notice.source).or_else(|| self.link_to(back));
        let (Some(link), Some(hops_left)) = (link, notice.hops_left.checked_sub(1)) else {
            return Err(DropReason::StrayNotice);
        };
        if there < here || !self.config.relay {
            return Err(DropReason::StrayNotice);
        }
        self.send_notice(link, &Notice { hops_left, ..*notice });
        Ok(())
    }
}
