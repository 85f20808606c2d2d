//! The lanes of one node among each other: what one hands to another, and how all of them come to
//! the same view of a link.
//!
//! A lane is a forwarder with a thread, a socket and a TUN queue of its own; a flow stays in one. It
//! seals end to end what it reads, under its own number. Only two things make a packet change lanes,
//! and where it goes depends on nothing but where it was, so that a flow's order is kept:
//!
//! ```text
//! the next link has fewer lanes    own lane mod the link's lanes        Handed::Onward
//! the source's lane lives here     source's lane mod own lanes          Handed::Arrived
//! ```
//!
//! The second is why replay windows and order hold although paths differ: whatever way a packet
//! came, one lane sees all numbers of its stream. Between two neighbours neither ever happens twice,
//! and with equally many lanes neither happens at all.
//!
//! Whether a link works is one verdict for all lanes, the first lane's, since they share an underlay
//! path. Another that finds a link overdue has the first ask; if it finds it silent, it is believed
//! unless the first has heard of it since. A lane whose own share of a working link does not answer
//! (the peer has not installed it yet) sends by the first.

use bytes::BytesMut;

use crate::id::{LinkId, NodeId};
use crate::time::Instant;
use crate::wire::data::{DataMut, ROUTE};
use crate::wire::header::{EndHeader, RouteHeader};
use crate::wire::notice::Notice;

use super::event::ForwardEvent;
use super::frame::{Frame, Load};
use super::health::HealthEvent;
use super::link::seal_own;
use super::{DropReason, Forwarder};

use std::collections::VecDeque;

/// Packets on their way to other lanes at most; more than one batch of either door can hold.
const HANDED_LIMIT: usize = 4096;
/// Words to other lanes at most: a few a link and lane.
const WORDS_LIMIT: usize = 65_536;

/// A packet for another lane of this node.
#[derive(Debug)]
pub enum Handed {
    /// A data frame, its route header open, for the queue of a link.
    Onward {
        /// Which link.
        link: LinkId,
        /// Its flow, for the queue.
        flow: u64,
        /// The frame.
        frame: Frame,
    },
    /// A data frame whose route ends here, its hop seal opened.
    Arrived {
        /// Its header as of its arrival.
        route: RouteHeader,
        /// The frame.
        bytes: BytesMut,
    },
    /// A notice to be sent on a link.
    Notice {
        /// Which link.
        link: LinkId,
        /// The notice.
        notice: Notice,
    },
}

/// What lanes tell each other. Must not be lost: a driver that cannot deliver one keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// To the first lane: something sent on this link is overdue.
    Overdue {
        /// Which link.
        link: LinkId,
        /// The session's generation.
        generation: u64,
    },
    /// To the first lane: nothing sent on this link since then was confirmed.
    Silent {
        /// Which link.
        link: LinkId,
        /// The session's generation.
        generation: u64,
        /// The first sending that was not.
        since: Instant,
    },
    /// From the first lane: whether the link works.
    Standing {
        /// Which link.
        link: LinkId,
        /// Whether it does.
        up: bool,
    },
    /// A relay told us that it lost its next hop.
    Lost {
        /// The relay.
        relay: NodeId,
        /// The node it cannot reach.
        next: NodeId,
    },
    /// A relay told us what its link to the next hop carries.
    Narrow {
        /// The relay.
        relay: NodeId,
        /// The node after it.
        next: NodeId,
        /// The longest datagram.
        size: u16,
    },
}

/// What a forwarder keeps for the lanes beside it.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Lanes of each link, by its number.
    spread: Vec<u8>,
    handed: VecDeque<(u8, Handed)>,
    words: VecDeque<(u8, Word)>,
}

impl Lanes {
    /// A link has so many lanes from now on.
    pub(super) fn spread(&mut self, link: LinkId, lanes: u8) {
        let at = usize::from(link.0);
        if self.spread.len() <= at {
            self.spread.resize(at + 1, 1);
        }
        self.spread[at] = lanes.max(1);
    }
}

impl Forwarder {
    /// Other lanes of this node handed these over.
    pub fn handle_handed(&mut self, now: Instant, handed: impl IntoIterator<Item = Handed>) {
        self.now = now;
        for handed in handed {
            match handed {
                Handed::Onward { link, flow, frame } => {
                    if let Err(reason) = self.push_to_link(now, link, flow, Load::Relayed(frame)) {
                        self.stats.drop(reason);
                    }
                }
                Handed::Notice { link, notice } => self.send_notice(link, &notice),
                Handed::Arrived { route, bytes } => {
                    if let Err(reason) = self.egress(now, &route, bytes) {
                        self.stats.drop(reason);
                    }
                }
            }
        }
        self.tell();
    }

    /// Other lanes of this node say this.
    pub fn handle_words(&mut self, now: Instant, words: impl IntoIterator<Item = Word>) {
        self.now = now;
        for word in words {
            match word {
                Word::Overdue { link, generation } => {
                    if let Some(held) = self.link_mut(link).filter(|l| l.generation == generation) {
                        held.health.doubt(now);
                        self.heed_health(now, link);
                    }
                }
                Word::Silent { link, generation, since } => {
                    if let Some(held) = self.link_mut(link).filter(|l| l.generation == generation) {
                        held.health.condemn(now, now.since(since));
                        self.heed_health(now, link);
                    }
                }
                Word::Standing { link, up } => self.paths.on_link(now, link, up, &mut self.told),
                Word::Narrow { relay, next, size } => {
                    self.paths.on_narrow(now, relay, next, size);
                }
                Word::Lost { relay, next } => {
                    if self.paths.on_lost(now, relay, next, &mut self.told) {
                        self.told.push(ForwardEvent::RelayLostHop { relay, next });
                    }
                }
            }
        }
        self.tell();
    }

    /// A packet for another lane, and which.
    pub fn poll_handed(&mut self) -> Option<(u8, Handed)> {
        self.lanes.handed.pop_front()
    }

    /// A word for another lane, and which.
    pub fn poll_word(&mut self) -> Option<(u8, Word)> {
        self.lanes.words.pop_front()
    }

    /// So many of what [`Forwarder::poll_handed`] gave found no room on the way.
    pub fn on_not_handed(&mut self, count: u64) {
        self.stats.drop_many(DropReason::LaneFull, count);
        self.stats.handed = self.stats.handed.saturating_sub(count);
    }

    /// The lane that sends on this link what this one has for it; `None` where that is this one.
    pub(super) fn elsewhere(&self, id: LinkId) -> Option<u8> {
        let lane = self.config.lane;
        if lane.is_first() {
            return None;
        }
        let at = usize::from(id.0);
        let carrier = lane.on_link(self.lanes.spread.get(at).copied().unwrap_or(1));
        if carrier != lane.number() {
            return Some(carrier);
        }
        let works = self.links.get(at)?.as_ref().is_some_and(|link| link.health.is_up());
        (!works).then_some(0)
    }

    /// Gives a packet to another lane.
    pub(super) fn hand_over(&mut self, lane: u8, handed: Handed) {
        if self.lanes.handed.len() < HANDED_LIMIT {
            self.lanes.handed.push_back((lane, handed));
            self.stats.handed += 1;
        } else {
            self.stats.drop(DropReason::LaneFull);
        }
    }

    /// Gives what this lane has for a link to the lane that sends on it. Its own packets are sealed
    /// here: they carry this lane's number, and the other has enough to do.
    pub(super) fn hand_on(&mut self, now: Instant, lane: u8, link: LinkId, flow: u64, load: Load) {
        match load {
            Load::Relayed(frame) => self.hand_over(lane, Handed::Onward { link, flow, frame }),
            Load::Own(mut own) => {
                while own.packets.left() > 0 {
                    let (peers, blocks) = (&mut self.peers, &mut self.blocks);
                    match seal_own(&mut own, now, peers, blocks, &mut self.stats) {
                        Ok(ready) => {
                            let frame = ready.into_frame();
                            self.hand_over(lane, Handed::Onward { link, flow, frame });
                        }
                        Err((reason, packets)) => {
                            return self.stats.drop_many(reason, packets as u64);
                        }
                    }
                }
            }
        }
    }

    /// A packet whose route ends here: opened in the lane that sees all numbers of its stream.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        route: &RouteHeader,
        mut bytes: BytesMut,
    ) -> Result<(), DropReason> {
        let lane = self.config.lane;
        if lane.count() > 1 {
            let parts = DataMut::split(&mut bytes[ROUTE..]).map_err(|_| DropReason::Malformed)?;
            let end = EndHeader::parse(parts.end).map_err(|_| DropReason::Malformed)?;
            let home = lane.home(end.lane);
            if home != lane.number() {
                self.hand_over(home, Handed::Arrived { route: *route, bytes });
                return Ok(());
            }
        }
        self.egress(now, route, bytes)
    }

    /// The verdict on a link, for all lanes. Only the first has one.
    pub(super) fn stand(&mut self, now: Instant, link: LinkId, up: bool) {
        self.paths.on_link(now, link, up, &mut self.told);
        self.say_to_others(Word::Standing { link, up });
    }

    /// Another lane than the first heard this of its own share of a link.
    pub(super) fn ask_first(
        &mut self,
        now: Instant,
        link: LinkId,
        generation: u64,
        event: HealthEvent,
    ) {
        match event {
            HealthEvent::Suspect => self.say(0, Word::Overdue { link, generation }),
            HealthEvent::Down { silence } => {
                self.say(0, Word::Silent { link, generation, since: now.minus(silence) });
            }
            // From now on it sends by itself; whether the link works is not its to say.
            HealthEvent::Up | HealthEvent::Cleared => {}
        }
    }

    /// Says something to every other lane.
    pub(super) fn say_to_others(&mut self, word: Word) {
        let lane = self.config.lane;
        for other in (0..lane.count()).filter(|&other| other != lane.number()) {
            self.say(other, word);
        }
    }

    fn say(&mut self, lane: u8, word: Word) {
        if self.lanes.words.len() < WORDS_LIMIT {
            self.lanes.words.push_back((lane, word));
        } else {
            self.stats.events_lost += 1;
        }
    }
}
