//! QUIC datagrams over the overlay, for pairs without a direct path (`docs/wire.md`, *Carrier*).
//!
//! Source-routed like data, but sealed whole at each hop and not repaired: QUIC does that. A node takes
//! carriers from its neighbours only, passes them on if it relays, and of each source only so many: they
//! are for handshakes and control messages. Lane 0 alone sends and takes them.

use std::collections::{BTreeMap, VecDeque};

use crate::id::{Class, LinkId, NodeId};
use crate::route::policy::Delivery;
use crate::time::{Instant, micros};
use crate::wire::Kind;
use crate::wire::carrier::{self, DATAGRAM_MAX};
use crate::wire::header::{Flags, RouteHeader};

use super::{DropReason, Forwarder};

/// Datagrams of one source at once: two whole control messages of the greatest length.
const BURST: u64 = 512;
/// Datagrams of one source each second in the long run: 1 Mbit/s, a mesh's link state ten times over.
const PER_SECOND: u64 = 100;
/// Sources counted apart; with more of them the longest silent make room.
const SOURCES: usize = 256;
/// Datagrams for this node that the driver has not taken.
const ARRIVED: usize = 512;

/// What arrived by carriers, and how many each source may still send.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    arrived: VecDeque<(NodeId, Vec<u8>)>,
    /// By source: millionths of datagrams that it may send, and as of when.
    sources: BTreeMap<NodeId, (u64, Instant)>,
}

impl Carriers {
    /// Whether one more of this source is carried.
    fn admits(&mut self, now: Instant, source: NodeId) -> bool {
        let full = BURST * 1_000_000;
        if self.sources.len() >= SOURCES && !self.sources.contains_key(&source) {
            let oldest = self.sources.iter().min_by_key(|(_, (_, at))| *at).map(|(&node, _)| node);
            oldest.map(|node| self.sources.remove(&node));
        }
        let (level, at) = self.sources.entry(source).or_insert((full, now));
        let gained = micros(now.since(*at)).saturating_mul(PER_SECOND);
        (*level, *at) = (level.saturating_add(gained).min(full), now);
        let admitted = *level >= 1_000_000;
        *level -= if admitted { 1_000_000 } else { 0 };
        admitted
    }
}

impl Forwarder {
    /// The driver has a QUIC datagram for a node that it reaches over the overlay alone.
    pub fn push_carrier(&mut self, now: Instant, to: NodeId, datagram: &[u8]) {
        self.now = now;
        if let Err(reason) = self.send_carrier(to, datagram) {
            self.stats.drop(reason);
        }
    }

    /// A QUIC datagram that came over the overlay, and from whom.
    pub fn poll_carried(&mut self) -> Option<(NodeId, Vec<u8>)> {
        self.carriers.arrived.pop_front()
    }

    fn send_carrier(&mut self, to: NodeId, datagram: &[u8]) -> Result<(), DropReason> {
        if datagram.is_empty() || datagram.len() > DATAGRAM_MAX {
            return Err(DropReason::TooBig);
        }
        // Whichever class has a way: there may be limits that leave some without.
        let classes = (0..Class::LIMIT as u8).map(Class);
        let way = classes.take(self.config.classes.len().max(1));
        let way = way.filter_map(|class| self.paths.pick(to, class)).next().copied();
        let way = way.or_else(|| self.paths.carrier(to)).ok_or(DropReason::NoRoute)?;
        let route = RouteHeader {
            hop_seq: 0,
            class: Class(0),
            flags: Flags::default(),
            ecn: 0,
            segments_left: (way.segments.count() - 1) as u8,
            residual: Delivery::NONE.residual,
            budget: 0,
            age: 0,
            source: self.config.node,
            segments: way.segments,
        };
        self.pass_carrier(way.link, &route, datagram)
    }

    /// A carrier came over a link: it is for us, or goes on.
    pub(super) fn on_carrier(
        &mut self,
        now: Instant,
        peer: NodeId,
        body: &[u8],
    ) -> Result<(), DropReason> {
        let (route, datagram) = carrier::parse(body).map_err(|_| DropReason::Malformed)?;
        let own = self.config.node;
        if route.receiver() != Some(own) || route.sender() != Some(peer) || route.source == own {
            return Err(DropReason::WrongRoute);
        }
        if !self.carriers.admits(now, route.source) {
            return Err(DropReason::CarrierQuota);
        }
        let Some(next) = route.next() else {
            if self.carriers.arrived.len() >= ARRIVED {
                return Err(DropReason::CarrierQuota);
            }
            self.carriers.arrived.push_back((route.source, datagram.to_vec()));
            return Ok(());
        };
        if !self.config.relay {
            return Err(DropReason::RelayRefused);
        }
        let link = self.link_to(next).ok_or(DropReason::NextHopDown)?;
        let onward = RouteHeader { segments_left: route.segments_left - 1, ..route };
        self.pass_carrier(link, &onward, datagram)
    }

    fn pass_carrier(
        &mut self,
        id: LinkId,
        route: &RouteHeader,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let mut body = Vec::with_capacity(RouteHeader::LEN + datagram.len());
        carrier::write(&mut body, route, datagram);
        let link = self.link_mut(id).ok_or(DropReason::NextHopDown)?;
        if !link.push_bare(Kind::Carrier, &body) {
            return Err(DropReason::QueueFull);
        }
        self.list(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_source_has_its_own_quota_and_the_memory_of_them_is_bounded() {
        let node = |n: u16| NodeId::new(n).unwrap();
        let mut carriers = Carriers::default();
        let at = |s: u64| Instant::from_micros(s * 1_000_000);
        let admitted =
            |c: &mut Carriers, now, n| (0..2000).filter(|_| c.admits(now, node(n))).count();
        assert_eq!(admitted(&mut carriers, at(0), 1), BURST as usize);
        assert_eq!(admitted(&mut carriers, at(0), 2), BURST as usize, "not the first one's fault");
        assert_eq!(admitted(&mut carriers, at(1), 1), PER_SECOND as usize);
        for n in 3..3000 {
            carriers.admits(at(2), node(n));
        }
        assert!(carriers.sources.len() <= SOURCES);
    }
}
